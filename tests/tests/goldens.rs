//! Goldens: for many queries the relational tree, the plans it is cut into and the delta SQL, as reviewed text files in
//! `tests/goldens`. Queries that are not incremental are there with their reason. `PGT_BLESS=1` rewrites the files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgt_tests::{Session, database, quote};

const SCHEMA: &str = "
    create table a (id int primary key, k int not null, n int, v numeric(10,2), t text);
    create table b (id int primary key, k int, m int not null);
    create table c (x numeric, f float8, j json);
";

/// Name and query. A name starting with `not_` is not incremental.
const QUERIES: &[(&str, &str)] = &[
    (
        "filter_with_key",
        "select id, n * 2 as double from a where n > 10 and t <> 'x'",
    ),
    ("projection_without_key", "select k, t from a"),
    (
        "join_on_primary_key",
        "select b.id, a.t from a join b on a.id = b.k",
    ),
    (
        "join_many_to_many",
        "select a.t, b.m from a, b where a.k = b.k and a.n < b.m",
    ),
    (
        "self_join",
        "select x.id, y.n from a x join a y on x.k = y.id",
    ),
    (
        "union_all",
        "select id, n from a union all select k, m from b where m > 0",
    ),
    ("union_distinct", "select n from a union select m from b"),
    ("distinct", "select distinct k, t from a"),
    (
        "count_and_sum",
        "select k, count(*), sum(n), count(n) as counted from a group by k",
    ),
    (
        "average_of_fixed_scale",
        "select k, avg(v), sum(v * 2) from a group by k",
    ),
    ("sum_of_free_numeric", "select sum(x) from c"),
    (
        "minimum_and_maximum",
        "select k, min(n), max(t) from a group by k",
    ),
    ("floats_are_recomputed", "select sum(f), count(*) from c"),
    (
        "aggregate_filter",
        "select k, count(*) filter (where n > 5) as big, sum(n) filter (where t is null) from a group by k",
    ),
    (
        "expression_over_aggregates",
        "select k + 1 as k1, sum(n) / count(*) as mean from a group by k",
    ),
    (
        "having_is_a_stage",
        "select k, sum(n) as total from a group by k having sum(n) > 10",
    ),
    (
        "nested_aggregates",
        "select total, count(*) from (select k, sum(n) as total from a group by k) s group by total",
    ),
    (
        "join_of_an_aggregate",
        "select b.id, s.total from b join (select k, sum(n) as total from a group by k) s on s.k = b.k",
    ),
    (
        "cte_used_twice",
        "with s as (select id, k from a where n > 0) select x.id, y.k from s x join s y on x.k = y.id",
    ),
    (
        "equal_aggregates_are_one_stage",
        "with s as (select k, sum(n) as total from a group by k) select x.k, y.total from s x join s y on x.total = y.k",
    ),
    (
        "join_used_often_is_a_stage",
        "with s as (select a.id, b.m from a join b on a.k = b.k) select x.id from s x, s y, s z where x.m = y.id and y.m = z.id",
    ),
    (
        "left_join",
        "select a.id, b.m from a left join b on a.k = b.k",
    ),
    (
        "full_join_of_three",
        "select a.id, b.m, c.f from a full join b on a.id = b.id left join c on c.x = a.v",
    ),
    (
        "exists_correlated",
        "select a.id from a where exists (select from b where b.k = a.k and b.m > a.n)",
    ),
    (
        "anti_join_by_not_in",
        "select id from a where k not in (select m from b)",
    ),
    ("except_all", "select k from a except all select m from b"),
    ("theta_outer", "select a.id from a left join b on a.n < b.m"),
    (
        "not_in_of_nullable",
        "select id from a where n not in (select k from b)",
    ),
    ("not_volatile", "select id, random() as r from a"),
    ("not_clock", "select id, now() > '2020-01-01' as b from a"),
    (
        "moving_window",
        "select k, count(*) as c from a where to_timestamp(n) > now() - interval '1 hour' and n > 0 group by k",
    ),
    (
        "window",
        "select id, sum(n) over (partition by k order by id) as s from a",
    ),
    (
        "distinct_on",
        "select distinct on (k) k, id from a order by k, n desc, id",
    ),
    (
        "grouping_sets",
        "select k, n, count(*) as c, grouping(k, n) as g from a group by rollup (k, n)",
    ),
    (
        "scalar_sub_select",
        "select id, (select count(*) from b where b.k = a.k) as c from a",
    ),
    (
        "scalar_sub_select_that_is_needed",
        "select id from a where v < (select 0.5 * sum(m) from b where b.k = a.k)",
    ),
    (
        "bounded_by_one_row",
        "select id, v from a where v > (select avg(m) from b) and v <= (select count(*) from b)",
    ),
    (
        "in_a_key",
        "select id from a where k in (select id from b where m > 0)",
    ),
    (
        "count_distinct",
        "select k, count(distinct t) as ts from a group by k",
    ),
    (
        "common_to_alternatives",
        "select a.id, b.m from a, b where (a.k = b.k and a.n > 1 and b.m = 1) or (a.n > 1 and b.m = 2 and a.k = b.k)",
    ),
    (
        "not_in_under_or",
        "select id from a where n not in (select m from b) or k = 1",
    ),
    (
        "lateral_limit",
        "select a.id, x.m from a, lateral (select m from b where b.k = a.k order by m limit 2) x",
    ),
    (
        "set_returning",
        "select a.id, g.i from a left join generate_series(1, a.n) as g(i) on g.i > a.k",
    ),
    ("not_sampled", "select id from a tablesample system (10)"),
    ("limit", "select id from a order by n limit 3"),
    (
        "recursive",
        "with recursive r as (select id, k from a where k is null union all select a.id, a.k from a join r on a.k = r.id) select id from r",
    ),
    (
        "recursive_set",
        "with recursive r as (select k, n from a union select r.k, x.m from r join b x on x.k = r.n join b y on y.id = x.m) select k, n from r where n > 0",
    ),
    (
        "recursive_by_text",
        "with recursive r as (select t, 1 as d from a where n is null union all select x.t || 'x', d + 1 from r join a x on x.t = r.t where d < 3) select t, d from r",
    ),
    (
        "recursive_whole",
        "with recursive r as (select id, 1 as d from a union all select b.k, d + 1 from r left join b on b.id = r.id where d < 3) select id from r",
    ),
];

#[test]
fn plans_are_as_reviewed() {
    let db = database();
    let mut s = db.connect();
    s.exec(SCHEMA);
    let mut problems = Vec::new();
    for (name, query) in QUERIES {
        let found = describe(&mut s, name, query);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("goldens")
            .join(format!("{name}.txt"));
        if std::env::var("PGT_BLESS").is_ok_and(|bless| bless == "1") {
            std::fs::write(&path, &found).expect("goldens can be written");
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if expected != found {
            problems.push(format!(
                "{name}: {}\n{}",
                path.display(),
                first_difference(&expected, &found)
            ));
        }
    }
    assert!(
        problems.is_empty(),
        "plans differ from the goldens; look at them and bless them with PGT_BLESS=1\n{}",
        problems.join("\n")
    );
}

fn describe(s: &mut Session, name: &str, query: &str) -> String {
    if name.starts_with("not_") {
        let reasons = s.lines(&format!(
            "select concat_ws(' | ', node, class, reason, hint) from pgtrickle.validate_query({})",
            quote(query)
        ));
        return format!("{query}\n\n{}\n", reasons.join("\n"));
    }
    s.exec(&format!(
        "select pgtrickle.create_stream_table({}, {}, schedule => '1d', refresh_mode => 'DIFFERENTIAL')",
        quote(name),
        quote(query)
    ));
    let mut text = format!("{query}\n");
    for stage in ["rewritten", "delta", "apply", "sql"] {
        let explained = s.value(&format!(
            "select pgtrickle.explain_stream_table({}, '{stage}')",
            quote(name)
        ));
        text.push_str(&format!("\n== {stage}\n\n{}\n", explained.trim_end()));
    }
    s.exec(&format!(
        "select pgtrickle.drop_stream_table({})",
        quote(name)
    ));
    without_numbers_of_this_run(&text)
}

/// Oids and ids differ from run to run: they are replaced by their order of appearance.
fn without_numbers_of_this_run(text: &str) -> String {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut result = String::new();
    let mut rest = text;
    while let Some(position) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, tail) = rest.split_at(position);
        result.push_str(before);
        let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = tail.split_at(digits);
        let marked = ["\"d", "log_", "stage_", "def_"]
            .iter()
            .any(|prefix| result.ends_with(prefix));
        if marked && digits > 0 {
            let next = seen.len() + 1;
            let order = *seen.entry(number.to_owned()).or_insert(next);
            result.push_str(&format!("@{order}"));
        } else {
            result.push_str(number);
        }
        rest = tail;
    }
    result + rest
}

fn first_difference(expected: &str, found: &str) -> String {
    let mut found_lines = found.lines();
    for (number, line) in expected.lines().enumerate() {
        let now = found_lines.next().unwrap_or("(end)");
        if line != now {
            return format!("  line {}:\n  - {line}\n  + {now}", number + 1);
        }
    }
    format!("  + {}", found_lines.next().unwrap_or("(nothing)"))
}
