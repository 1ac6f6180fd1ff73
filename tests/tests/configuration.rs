//! `docs/CONFIGURATION.md` is what the server says about its settings.
//!
//! `PGT_BLESS=1` writes the page anew.

use pgt_tests::{Session, database};
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
# Configuration

Every setting of pg_trickle, as the server describes it. This page is written by the test that compares it with a
running server (`PGT_BLESS=1 cargo nextest run -p pgt_tests -E 'binary(configuration)'`); the settings are defined in
[src/config.rs](../src/config.rs).

Besides these, `shared_preload_libraries` must contain `pg_trickle`, and `max_worker_processes` needs room for one
launcher, one scheduler for each database with the extension, and the refresh workers.
`pgtrickle.preflight()` tells whether that is so.

";

const SETTINGS: &str = "
select name, short_desc, coalesce(extra_desc, ''), coalesce(unit, ''), coalesce(min_val, ''), coalesce(max_val, ''),
    coalesce(boot_val, ''), context, vartype
from pg_settings where name like 'pg_trickle.%' order by name";

/// Who can change a setting and when it takes effect.
fn context(name: &str) -> &'static str {
    match name {
        "postmaster" => "at server start",
        "sighup" => {
            "in `postgresql.conf` or by `ALTER SYSTEM`; takes effect when the configuration is reloaded"
        }
        "superuser" => {
            "by a superuser, or whoever was granted it, in a session or for a role or database"
        }
        "user" => "by anybody, in a session",
        other => panic!("a setting of context {other}: say here what that means"),
    }
}

fn with_unit(value: &str, unit: &str) -> String {
    match (value, unit) {
        ("", _) => "empty".into(),
        (value, "") => format!("`{value}`"),
        (value, unit) => format!("`{value} {unit}`"),
    }
}

fn page(s: &mut Session) -> String {
    let settings = s.rows(SETTINGS);
    let mut page = String::from(HEAD);
    page.push_str("| setting | default | |\n|---|---|---|\n");
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    let mut sections = String::new();
    for row in &rows {
        let [name, short, long, unit, min, max, default, changed, kind] = row.as_slice() else {
            panic!("{row:?}")
        };
        let anchor = name.replace('.', "");
        let default = with_unit(default, unit);
        writeln!(page, "| [{name}](#{anchor}) | {default} | {short} |").expect("string");
        write!(sections, "\n## {name}\n\n{short}").expect("string");
        if !long.is_empty() {
            write!(sections, " {long}").expect("string");
        }
        sections.push_str("\n\n");
        let range = match kind.as_str() {
            "bool" => "`on` or `off`".to_string(),
            "string" => "text".to_string(),
            _ => format!("{} to {}", with_unit(min, unit), with_unit(max, unit)),
        };
        writeln!(sections, "- default: {default}").expect("string");
        writeln!(sections, "- values: {range}").expect("string");
        writeln!(sections, "- changed: {}", context(changed)).expect("string");
    }
    page + &sections
}

#[test]
fn page_is_what_the_server_says() {
    let db = database();
    let wanted = page(&mut db.connect());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
    if std::env::var_os("PGT_BLESS").is_some() {
        std::fs::write(&path, &wanted).expect("docs/CONFIGURATION.md");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let (mut ours, mut theirs) = (written.lines(), wanted.lines());
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return,
            (a, b) => assert_eq!(
                a, b,
                "docs/CONFIGURATION.md (left) is not what the server says (right); PGT_BLESS=1 rewrites it"
            ),
        }
    }
}

#[test]
fn every_setting_explains_itself() {
    let db = database();
    let mut s = db.connect();
    for row in s.rows(SETTINGS) {
        let (name, short) = (row[0].clone().unwrap_or_default(), row[1].clone());
        let short = short.unwrap_or_default();
        assert!(
            short.len() > 10 && short.ends_with('.'),
            "{name}: \"{short}\" is no description"
        );
    }
}
