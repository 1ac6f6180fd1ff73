//! Stream tables that read the same along several ways, and groups somebody asked for: found, kept together, never mixed.

mod found;
mod mixture;
mod mode;
mod refresh_groups;

use pgt_tests::{Database, Server, Session, SqlError, StreamTable, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

const B: &str = "select k, n from s";
const C: &str = "select k, n * 2 as m from s";
const D: &str = "select b.k, b.n, c.m from b join c on c.k = b.k";

/// Branches `b` and `c` over `s`, both read by `d`; these further arguments hold for all three.
fn diamond(s: &mut Session, arguments: &str) -> [StreamTable; 3] {
    [("b", B), ("c", C), ("d", D)].map(|(name, query)| s.stream_table_with(name, query, arguments))
}

const ATOMIC: &str = "schedule => '1d', diamond_consistency => 'atomic'";

/// The groups of `diamond_groups()`, each as its members in alphabetical order, a star before what converges.
fn groups(s: &mut Session) -> Vec<String> {
    s.lines(
        "select string_agg(case when is_convergence then '*' else '' end || member_name, ' ' order by member_name)
         from pgtrickle.diamond_groups() group by group_id order by 1",
    )
}

fn epoch(s: &mut Session) -> i64 {
    s.number("select distinct epoch from pgtrickle.diamond_groups()")
}

/// Rows and sum of `b`, `c` and `d`, all seen by one statement.
const STATE: &str = "select (select count(*) || ':' || coalesce(sum(n), 0) from b), (select count(*) || ':' || coalesce(sum(m) / 2, 0) from c),
     (select count(*) || ':' || coalesce(sum(n), 0) from d), (select count(*) || ':' || coalesce(sum(m) / 2, 0) from d)";

/// What the source says: the state of all three if they are up to date.
const WANTED: &str = "select count(*) || ':' || coalesce(sum(n), 0) from s";

/// Rows and sum that all three have, which must agree.
#[track_caller]
fn state(s: &mut Session) -> String {
    let line = s.lines(STATE).remove(0);
    let parts: Vec<&str> = line.split('|').collect();
    assert!(
        parts.iter().all(|part| part == &parts[0]),
        "b, c, d, d are at different moments: {line}"
    );
    parts[0].to_string()
}

#[track_caller]
fn is_current(s: &mut Session) {
    assert_eq!(state(s), s.value(WANTED));
}

#[track_caller]
fn all_fresh(s: &mut Session, tables: &[StreamTable]) {
    for table in tables {
        table.assert_fresh(s);
    }
}

/// Waits until all three show what the source has.
#[track_caller]
fn wait_current(db: &Database<'_>) {
    db.wait_until(&format!(
        "with x (b, c, d, e) as ({STATE}) select b = w and c = w and d = w and e = w from x, ({WANTED}) s (w)"
    ));
}

/// Whoever evaluates `held()` waits until the session has gone or unlocked.
fn gatekeeper(db: &Database<'_>) -> Session {
    let mut keeper = db.connect();
    keeper.exec(
        "create function held(n int) returns int language plpgsql volatile as $$ begin
            perform pg_advisory_xact_lock_shared(4711); return n; end $$",
    );
    keeper
}
