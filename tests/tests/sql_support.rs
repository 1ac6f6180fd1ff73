//! `docs/SQL_SUPPORT.md` is true: every row of its tables is created over the tables of the page, follows the same
//! history of changes in the mode its class promises, and has the class that `validate_query` reports. What is refused is
//! refused in every mode, with the SQLSTATE the page gives.

use pgt_tests::{Session, StreamTable, database, quote};
use std::path::Path;

/// The chapters of the page, a test for each line.
const CHAPTERS: [&[&str]; 6] = [
    &["FROM and joins", "Set operations"],
    &["Conditions and sub-queries"],
    &["Aggregates", "Grouping sets"],
    &["Windows", "ORDER BY, LIMIT, DISTINCT ON"],
    &["LATERAL and functions in FROM", "WITH and recursion"],
    &["Expressions, types and functions", "Sources", "Time"],
];

/// The weakest first.
const CLASSES: [&str; 9] = [
    "linear",
    "bilinear",
    "counted",
    "algebraic",
    "recompute",
    "semi-naive",
    "whole",
    "full",
    "refused",
];

/// Stands in the last column of what needs refresh mode FULL to be asked for.
const ONLY_FULL: &str = "only in mode `FULL`";

/// Stands in the last column of what reads no table.
const NEVER: &str = "nothing ever changes";

const ROWS: &str = "
    insert into dept select i, 'd' || i, case when i % 3 = 0 then null else i * 2 end, i * 1000.50 from generate_series(1, 8) i;
    insert into emp select i, case when i % 7 = 0 then null else i % 6 + 1 end, 'e' || i % 13, case when i % 5 = 0 then null else i * 37 % 50 * 10 end,
        case when i % 4 = 0 then null else i * 1.25 end, i % 9 * 0.25, date '2024-01-01' + i % 40, case when i % 3 = 0 then null else array['t' || i % 4, 't' || i % 5] end
        from generate_series(1, 40) i;
    insert into loose select i % 9, case when i % 4 = 0 then null else i % 5 end from generate_series(1, 25) i;
    insert into doc select i, jsonb_build_object('n', i, 'items', jsonb_build_array(i, i + 1), 'name', 'x' || i % 3), json_build_object('r', i % 4),
        xmlparse(content '<r><i>' || i || '</i><i>7</i></r>') from generate_series(1, 10) i;
    insert into kind select i, (enum_range(null::mood))[i % 3 + 1], row(i % 3, 'p' || i % 2)::pair, i * 7 % 100, int4range(i, i + 4), int4multirange(int4range(i, i + 2), int4range(i + 3, i + 5)),
        case when i % 2 = 0 then 'ab' else 'AB' end, 'k' || i, timestamptz '2024-03-01 12:00+00' + i * interval '7 hours', i * interval '1 hour', i * 2.50::money, point(i, -i),
        ('10.0.0.' || i)::inet, md5(i::text)::uuid, (i % 16)::bit(4), decode(md5(i::text), 'hex'), i * 10000000000, i / 4.0, to_tsvector('simple', chr(97 + i % 3) || ' ' || chr(98 + i % 2)), chr(96 + i) || '@x'
        from generate_series(1, 12) i;
    insert into sale select date '2024-12-20' + i, i, i * 5 from generate_series(1, 20) i;
    insert into quick select i, i * 2 from generate_series(1, 8) i;
    insert into animal select i, 'a' || i from generate_series(1, 5) i;
    insert into bird select i, 'b' || i, 2 from generate_series(1, 5) i;
    insert into secret select i, 'me' from generate_series(1, 5) i;
    refresh materialized view frozen;
";

/// Each is one transaction.
const CHANGES: [&str; 8] = [
    // Rows come, some with values nobody has had.
    "insert into emp values (101, 2, 'new', 500, 7.25, 0.5, '2024-02-10', '{a,t1}'), (102, null, 'none', null, null, null, '2024-01-03', null), (103, 99, 'lost', 10, 1, 0, '2024-01-03', '{}');
     insert into dept values (20, 'd20', 1, null); insert into loose values (null, 1), (2, null), (null, null), (5, 5), (5, 5), (3, 3);
     insert into doc values (50, '{}', '{}', '<r/>'), (51, null, null, null);
     insert into kind (id) values (50); insert into kind (id, feel, two, code, num, mail) values (51, 'high', '(7,new)', 'Ab', 2.50, 'me@home'), (52, 'low', null, null, null, 'A@x');
     insert into sale values ('2024-06-01', 100, 1), ('2026-01-01', 100, 2); insert into quick values (20, 20);
     insert into animal values (20, 'cat'); insert into bird values (21, 'owl', 2); insert into secret values (20, 'you')",
    // Values change, some only in how they look.
    "update emp set salary = salary + 5, bonus = bonus + 0.25, weight = weight + 0.75 where id % 6 = 0; update emp set name = upper(name), hired = hired + 3 where id % 8 = 1;
     update emp set tags = array_append(tags, 'z') where id % 5 = 1; update dept set name = 'x' || name, budget = budget - 600 where id < 3; update dept set boss = 3 where id = 6;
     update doc set body = jsonb_set(body, '{items}', '[1,2,3]'), raw = '{ \"r\": 1}', page = '<r><i>5</i></r>' where id < 4; update sale set amount = amount * 2 where id < 5;
     update quick set n = n + 1 where id < 3; update animal set name = name || '!' where id < 3; update bird set wings = 1 where id = 2; update secret set owner = 'she' where id = 1",
    "update kind set feel = 'low', two = row(9, 'q'), share = 99, span = int4range(2, 6), spans = '{[1,2],[3,9)}', label = 'changed', at = at + interval '1 day', pause = pause * 2, price = 9.99,
        place = point(0, 0), ip = '10.9.9.9', uid = md5('x')::uuid, flags = B'1111', data = 'abc', big = 1, num = 1.0, words = 'a b'::tsvector, code = 'aB' where id % 3 = 0;
     update loose set v = v + 1 where k in (2, 5)",
    // Rows go.
    "delete from emp where id in (3, 9, 27, 101); delete from dept where id = 3; delete from loose where v is null; delete from doc where id = 7; delete from kind where id in (5, 12);
     delete from sale where id in (3, 15); delete from quick where id = 4; delete from animal where id = 20; delete from secret where id = 20",
    // Everything that can be becomes NULL.
    "update emp set dept = null, salary = null, bonus = null, weight = null, tags = null where id in (11, 12); update dept set boss = null, budget = null where id = 5; update loose set k = null where k = 4;
     update doc set body = null, raw = null, page = null where id = 2;
     update kind set feel = null, two = null, share = null, span = null, spans = null, code = null, label = null, at = null, pause = null, price = null, place = null, ip = null, uid = null, flags = null,
        data = null, big = null, num = null, words = null where id = 2; update sale set amount = null where id = 6; update quick set n = null where id = 1",
    // Keys change, groups move, rows change their partition; upsert and merge.
    "update emp set dept = 3 where dept = 2; update emp set id = id + 1000 where id between 30 and 33; update dept set id = 99 where id = 4; update kind set id = id + 100 where id = 6;
     update sale set day = day + 400 where id = 2; update sale_later set day = day + 1 where id = 18; update sale set day = '2024-02-02' where id = 19; update doc set id = 70 where id = 1;
     insert into quick values (2, 5), (30, 1) on conflict (id) do update set n = excluded.n;
     merge into dept d using (values (1, 'one'), (42, 'merged')) as m(id, name) on m.id = d.id when matched then update set name = m.name when not matched then insert values (m.id, m.name, 1, 10)",
    // Whole tables empty and fill again.
    "delete from loose; delete from emp where dept = 1; insert into emp select i, i % 6, 'again', i, null, i * 0.5, '2024-03-01', '{z}' from generate_series(200, 210) i; delete from kind where id < 5",
    "delete from emp where id < 20; insert into loose select i % 4, i % 3 from generate_series(1, 9) i; update dept set boss = id - 1 where id > 1; delete from doc; insert into doc values (1, '{\"n\": 1}', '1', '<r><i>1</i></r>');
     insert into kind (id, feel, code, num) values (1, 'low', 'zz', 3)",
];

/// A row of the page.
#[derive(Clone, Debug)]
struct Row {
    construct: String,
    query: String,
    class: String,
    limits: String,
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SQL_SUPPORT.md");
    std::fs::read_to_string(path).expect("docs/SQL_SUPPORT.md")
}

/// The text under `## title`.
fn chapter<'a>(page: &'a str, title: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n## {title}\n"))
        .unwrap_or_else(|| panic!("there is no chapter \"{title}\""));
    rest.split("\n## ").next().unwrap_or(rest)
}

/// The cells of a line, where `\|` is a bar within one.
fn cells(line: &str) -> Vec<String> {
    let line = line.replace("\\|", "\u{1}");
    line.trim_matches('|')
        .split('|')
        .map(|cell| cell.trim().replace('\u{1}', "|"))
        .collect()
}

fn rows(chapter: &str) -> Vec<Row> {
    let lines = chapter.lines().filter(|line| line.starts_with("| "));
    // The first is the heading.
    lines
        .skip(1)
        .map(|line| {
            let Ok([construct, query, class, limits]) = <[String; 4]>::try_from(cells(line)) else {
                panic!("not four cells: {line}");
            };
            Row {
                construct,
                query: query.trim_matches('`').to_string(),
                class,
                limits,
            }
        })
        .collect()
}

fn schema(page: &str) -> &str {
    let (_, rest) = chapter(page, "The tables")
        .split_once("```sql\n")
        .expect("the schema");
    rest.split("```").next().unwrap_or(rest)
}

/// A row that exists as a stream table.
struct Live {
    row: Row,
    stream: StreamTable,
    /// What its refreshes should say.
    action: &'static str,
    /// Some change has reached it.
    moved: bool,
}

fn create(s: &mut Session, name: &str, query: &str, mode: &str) -> Result<(), String> {
    s.try_exec(&format!(
        "select pgtrickle.create_stream_table({}, {}, schedule => '1d', refresh_mode => {})",
        quote(name),
        quote(query),
        quote(mode)
    ))
    .map_err(|e| e.to_string())
}

/// The strongest class of a query's parts as the page calls it, and the reason where there is one.
fn validated(s: &mut Session, query: &str) -> Result<(String, String), String> {
    let sql = format!(
        "select node, class, reason from pgtrickle.validate_query({})",
        quote(query)
    );
    let mut strongest = 0;
    let mut reason = String::new();
    for finding in s.try_rows(&sql).map_err(|e| e.to_string())? {
        let [Some(node), Some(class), why] = finding.as_slice() else {
            return Err(format!("unexpected {finding:?}"));
        };
        let class = match (class.as_str(), node.as_str()) {
            ("keyed", "whole query") => "whole",
            ("keyed", _) => "recompute",
            ("constant", _) => "linear",
            (class, _) => class,
        };
        let rank = CLASSES
            .iter()
            .position(|known| *known == class)
            .ok_or_else(|| format!("unknown class {class}"))?;
        strongest = strongest.max(rank);
        if class == "full" {
            reason = why.clone().unwrap_or_default();
        }
    }
    Ok((CLASSES[strongest].to_string(), reason))
}

/// Creates the row's example, if it is to exist.
fn begin(s: &mut Session, name: &str, row: &Row) -> Result<Option<Live>, String> {
    if row.class == "refused" {
        for mode in ["DIFFERENTIAL", "AUTO", "FULL"] {
            let Err(e) = create(s, name, &row.query, mode) else {
                return Err(format!("is not refused in mode {mode}"));
            };
            let code = e.split(':').next().unwrap_or_default();
            if code.starts_with("XX") || !row.limits.contains(code) {
                return Err(format!("is refused in mode {mode} with {e}"));
            }
        }
        return Ok(None);
    }
    let (class, reason) = validated(s, &row.query)?;
    if class != row.class {
        return Err(format!("validate_query says {class} {reason}"));
    }
    let full = class == "full";
    let differential = create(s, name, &row.query, "DIFFERENTIAL");
    match (&differential, full) {
        (Ok(()), true) => return Err("is not refused in mode DIFFERENTIAL".into()),
        (Ok(()), false) => {}
        (Err(e), false) => return Err(format!("is not created: {e}")),
        (Err(e), true) if !e.starts_with("0A000") => return Err(format!("is refused with {e}")),
        (Err(_), true) if !row.limits.contains(&reason) => {
            return Err(format!("the reason is: {reason}"));
        }
        (Err(_), true) => {
            let asked = row.limits.contains(ONLY_FULL);
            match (create(s, name, &row.query, "AUTO"), asked) {
                (Ok(()), false) => {}
                (Ok(()), true) => return Err("is not refused in mode AUTO".into()),
                (Err(e), true) if e.starts_with("0A000") => {
                    create(s, name, &row.query, "FULL")?;
                }
                (Err(e), _) => return Err(format!("is refused in mode AUTO: {e}")),
            }
        }
    }
    let action = if full { "FULL" } else { "DIFFERENTIAL" };
    let effective = s.value(&format!(
        "select effective_mode from pgtrickle.explain_refresh_mode({})",
        quote(name)
    ));
    if effective != action {
        return Err(format!("its mode is {effective}"));
    }
    Ok(Some(Live {
        row: row.clone(),
        stream: StreamTable::new(name, &row.query),
        action,
        moved: false,
    }))
}

impl Live {
    /// Refreshes; the contents are right, and the mode is the one of the class.
    fn step(&mut self, s: &mut Session) -> Result<(), String> {
        s.try_exec(&format!(
            "select pgtrickle.refresh_stream_table({})",
            quote(self.stream.name())
        ))
        .map_err(|e| e.to_string())?;
        let difference = self
            .stream
            .try_difference(s, false)
            .map_err(|e| e.to_string())?
            .join("\n    ");
        if !difference.is_empty() {
            return Err(format!("differs:\n    {difference}"));
        }
        match self.stream.last_refresh(s) {
            (_, Some(reason)) if reason == "initial" => {}
            (action, _) if action == "NO_DATA" => {}
            (action, _) if action == self.action => self.moved = true,
            (action, reason) => return Err(format!("was refreshed by {action} ({reason:?})")),
        }
        Ok(())
    }

    /// The verifier agrees, and mode AUTO does what the class says.
    fn end(&self, s: &mut Session) -> Result<(), String> {
        let name = quote(self.stream.name());
        let verified = s
            .lines(&format!(
                "select ok, missing, surplus from pgtrickle.verify_stream_table({name})"
            ))
            .join("");
        if verified != "t|0|0" {
            return Err(format!("verified as {verified}"));
        }
        if self.action == "DIFFERENTIAL" {
            if !self.moved && !self.row.limits.contains(NEVER) {
                return Err("no change has reached it".into());
            }
            s.try_exec(&format!(
                "select pgtrickle.alter_stream_table({name}, refresh_mode => 'AUTO')"
            ))
            .map_err(|e| e.to_string())?;
            let effective = s.value(&format!(
                "select effective_mode from pgtrickle.explain_refresh_mode({name})"
            ));
            if effective != "DIFFERENTIAL" {
                return Err(format!("its mode under AUTO is {effective}"));
            }
        }
        Ok(())
    }
}

fn run(chapters: &[&str]) {
    let page = page();
    let db = database();
    let mut s = db.connect();
    s.exec(schema(&page));
    s.exec(ROWS);
    let mut failures = Vec::new();
    let mut live = Vec::new();
    let mut fail = |row: &Row, problem: String| {
        failures.push(format!(
            "{} [{}]: {problem}\n    {}",
            row.construct, row.class, row.query
        ));
    };
    let all: Vec<Row> = chapters
        .iter()
        .flat_map(|title| rows(chapter(&page, title)))
        .collect();
    for (position, row) in all.iter().enumerate() {
        match begin(&mut s, &format!("v{position}"), row) {
            Ok(created) => live.extend(created),
            Err(problem) => fail(row, problem),
        }
    }
    for (number, change) in std::iter::once(&"select 1").chain(&CHANGES).enumerate() {
        s.exec(&format!("begin; {change}; commit"));
        live.retain_mut(|one| match one.step(&mut s) {
            Ok(()) => true,
            Err(problem) => {
                fail(&one.row, format!("after change {number}: {problem}"));
                false
            }
        });
    }
    for one in &live {
        if let Err(problem) = one.end(&mut s) {
            fail(&one.row, problem);
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} rows are not true:\n{}",
        failures.len(),
        all.len(),
        failures.join("\n")
    );
}

#[test]
fn joins_and_set_operations() {
    run(CHAPTERS[0]);
}

#[test]
fn conditions() {
    run(CHAPTERS[1]);
}

#[test]
fn aggregates() {
    run(CHAPTERS[2]);
}

#[test]
fn windows_and_limits() {
    run(CHAPTERS[3]);
}

#[test]
fn laterals_and_recursion() {
    run(CHAPTERS[4]);
}

#[test]
fn expressions_and_sources() {
    run(CHAPTERS[5]);
}

#[test]
fn every_row_is_run_once() {
    let page = page();
    let mut run: Vec<Row> = Vec::new();
    for title in CHAPTERS.concat() {
        run.extend(rows(chapter(&page, title)));
    }
    let written = page
        .lines()
        .filter(|line| line.starts_with("| ") && cells(line).len() == 4)
        .count();
    // Each chapter has a heading.
    assert_eq!(run.len() + CHAPTERS.concat().len(), written);
    assert!(run.len() >= 120, "{} rows", run.len());
    for row in &run {
        assert!(CLASSES.contains(&row.class.as_str()), "{row:?}");
        let twins = run.iter().filter(|other| other.query == row.query);
        assert_eq!(twins.count(), 1, "{row:?}");
    }
    for class in CLASSES {
        assert!(
            chapter(&page, "Classes").contains(&format!("| `{class}` |")),
            "{class} is not explained"
        );
    }
}
