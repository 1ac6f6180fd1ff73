//! The documentation is true: its SQL runs, and it knows every function and view there is.
//!
//! Each page has a database of its own, in which its blocks run in order, one statement after the other as `psql` would.
//! A block opened by ```` ```sql error ```` must fail, in its last statement, with the SQLSTATE given behind it if one is.

use pgt_tests::{Session, database};
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(repository().join("docs")).expect("docs/");
    let mut pages: Vec<PathBuf> = docs
        .map(|entry| entry.expect("docs/").path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    pages.push(repository().join("README.md"));
    pages.sort();
    pages
}

/// A block of SQL in a page.
struct Block {
    line: usize,
    /// What stands behind `sql` on the opening line.
    mark: String,
    sql: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, l)| l)
            .take_while(|l| l.trim() != "```")
            .collect();
        let mut words = language.split_whitespace();
        if words.next() == Some("sql") {
            blocks.push(Block {
                line: number + 1,
                mark: words.collect::<Vec<_>>().join(" "),
                sql: body.join("\n"),
            });
        }
    }
    blocks
}

/// Cuts a script at the semicolons that end statements: not those in constants, quoted names, comments or bodies.
fn statements(script: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < script.len() {
        let rest = &script[at..];
        at += if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with('\'') || rest.starts_with('"') {
            quoted(rest, &rest[..1])
        } else if let Some(tag) = dollar_tag(rest) {
            quoted(rest, tag)
        } else {
            if rest.starts_with(';') {
                statements.push(script[start..at].trim().to_string());
                start = at + 1;
            }
            rest.chars().next().map_or(1, char::len_utf8)
        };
    }
    statements.push(script[start..].trim().to_string());
    statements.retain(|s| {
        s.lines()
            .any(|l| !l.trim().is_empty() && !l.trim().starts_with("--"))
    });
    statements
}

/// The length of a text that begins with `quote` and goes to its next occurrence.
fn quoted(text: &str, quote: &str) -> usize {
    match text[quote.len()..].find(quote) {
        Some(end) => end + 2 * quote.len(),
        None => text.len(),
    }
}

/// `$tag$` at the beginning.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text.strip_prefix('$')?.find('$')? + 2;
    let tag = &text[..end];
    tag[1..end - 1]
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_')
        .then_some(tag)
}

/// Runs a block; says what went wrong.
fn run(s: &mut Session, block: &Block) -> Result<(), String> {
    let wanted = block.mark.strip_prefix("error").map(str::trim);
    let statements = statements(&block.sql);
    for (position, statement) in statements.iter().enumerate() {
        let result = s.try_rows(statement);
        match (result, wanted, position + 1 == statements.len()) {
            (Ok(_), None, _) | (Ok(_), Some(_), false) => {}
            (Ok(_), Some(_), true) => return Err(format!("no error\nin: {statement}")),
            (Err(e), Some(code), true) if code.is_empty() || e.code == code => {}
            (Err(e), _, _) => return Err(format!("{e}\nin: {statement}")),
        }
    }
    Ok(())
}

#[test]
fn every_block_of_sql_runs() {
    let mut failures = Vec::new();
    for path in pages() {
        let db = database();
        let mut s = db.connect();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let page = fs::read_to_string(&path).expect("page");
        for block in blocks(&page) {
            if let Err(problem) = run(&mut s, &block) {
                failures.push(format!("{name}, line {}: {problem}", block.line));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Without line breaks and repeated blanks, so that a page may wrap.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every function as the reference writes it: `name(argument type = default, ...) -> result`. Names that begin with
/// `pgt_` are inner parts, but for `pgt_status`.
const SIGNATURES: &str = r"
select p.proname || '('
    || coalesce(string_agg(concat(case a.mode when 'v' then 'VARIADIC ' end, a.name || ' ', a.type, ' = ' || a.initial),
        ', ' order by a.i) filter (where a.mode in ('i', 'v')), '')
    || ') -> '
    || coalesce('(' || string_agg(a.name || ' ' || a.type, ', ' order by a.i) filter (where a.mode in ('o', 't')) || ')',
        case when p.proretset then 'setof ' else '' end || format_type(p.prorettype, null))
from pg_proc p left join lateral (
    select i, nullif(p.proargnames[i], '') as name, format_type(t, null) as type, coalesce(p.proargmodes[i], 'i') as mode,
        regexp_replace(pg_get_function_arg_default(p.oid, i::int), '::[a-z ]+$', '') as initial
    from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality u(t, i)
) a on true
where p.pronamespace = 'pgtrickle'::regnamespace and (p.proname !~ '^pgt_' or p.proname = 'pgt_status')
    and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
group by p.oid order by 1";

#[test]
fn reference_has_every_function_and_view() {
    let db = database();
    let mut s = db.connect();
    let page = fs::read_to_string(repository().join("docs/SQL_REFERENCE.md")).expect("reference");
    let page = flat(&page);
    let mut missing = Vec::new();
    for signature in s.lines(SIGNATURES) {
        if !page.contains(&flat(&signature)) {
            missing.push(signature);
        }
    }
    let relations = s.lines(
        "select '`' || c.relname || '`' || case c.relkind
             when 'v' then ': ' || string_agg(a.attname, ', ' order by a.attnum) || '.' else '' end
         from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'pgtrickle'::regnamespace and c.relkind in ('r', 'v')
             and c.relname not in ('pgt_units', 'pgt_edges', 'pgt_consumed', 'pgt_states', 'pgt_unlogged_alive',
                 'pgt_holds', 'pgt_watermark_states', 'pgt_lookups', 'pgt_missing_indexes', 'pgt_intervals', 'pgt_logs',
                 'pgt_stalenesses')
         group by c.oid order by 1",
    );
    missing.extend(
        relations
            .into_iter()
            .filter(|relation| !page.contains(relation)),
    );
    assert!(
        missing.is_empty(),
        "docs/SQL_REFERENCE.md lacks:\n{}",
        missing.join("\n")
    );
}
