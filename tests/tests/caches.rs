//! Compiled stream tables: shared between sessions, limited in each, forgotten on demand and when definitions change.

use pgt_tests::{Server, Session};

/// A server of the test's own, so that what is counted is counted for it alone.
fn server() -> Server {
    Server::builder().guc("pg_trickle.enabled", "off").start()
}

fn stat(s: &mut Session, column: &str) -> i64 {
    s.number(&format!("select {column} from pgtrickle.cache_stats()"))
}

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

const NESTED: &str =
    "select c, count(*) as n from (select g, count(*) as c from s group by g) x group by c";

#[test]
fn second_session_compiles_nothing() {
    let server = server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", NESTED);
    v.follows_somehow(&mut s);
    let compiled = stat(&mut s, "compilations");
    assert!(compiled > 0);
    for key in 100..105 {
        let mut other = db.connect();
        let hits = stat(&mut other, "l0_hits");
        other.exec(&format!("insert into s values ({key}, 1, 1)"));
        v.follows(&mut other);
        assert_eq!(stat(&mut other, "l0_hits"), hits + 1);
        assert_eq!(stat(&mut other, "l1_entries"), 1);
    }
    assert_eq!(stat(&mut s, "compilations"), compiled);
    let mut alone = db.connect();
    alone.exec("set pg_trickle.template_cache = off; insert into s values (200, 1, 1)");
    v.follows(&mut alone);
    assert!(stat(&mut s, "compilations") > compiled, "by itself");
}

#[test]
fn sessions_keep_what_they_used_last() {
    let server = server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let tables: Vec<_> = (0..4)
        .map(|n| s.stream_table(&format!("v{n}"), &format!("select k, n + {n} as n from s")))
        .collect();
    let mut other = db.connect();
    other.exec("set pg_trickle.template_cache_max_entries = 2");
    let evictions = stat(&mut other, "evictions");
    for table in &tables {
        table.refresh(&mut other);
    }
    assert_eq!(stat(&mut other, "l1_entries"), 2);
    assert_eq!(stat(&mut other, "evictions"), evictions + 2);
    let hits = stat(&mut other, "l0_hits");
    tables[3].refresh(&mut other);
    tables[2].refresh(&mut other);
    assert_eq!(stat(&mut other, "l0_hits"), hits, "these two are kept");
    tables[0].refresh(&mut other);
    assert_eq!(stat(&mut other, "l0_hits"), hits + 1);
    tables[2].refresh(&mut other);
    assert_eq!(
        stat(&mut other, "l0_hits"),
        hits + 1,
        "used later than the other"
    );
    other.exec("insert into s values (100, 1, 1)");
    for table in &tables {
        table.follows(&mut other);
    }
}

#[test]
fn cleared_caches_fill_again() {
    let server = server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", NESTED);
    let mut other = db.connect();
    v.refresh(&mut other);
    assert!(stat(&mut s, "l0_entries") >= 1);
    let compiled = stat(&mut s, "compilations");
    assert!(s.number("select pgtrickle.clear_caches()") >= 1);
    assert_eq!(stat(&mut s, "l0_entries"), 0);
    assert_eq!(stat(&mut other, "l1_entries"), 0, "in every session");
    other.exec("insert into s values (100, 1, 1)");
    v.follows(&mut other);
    assert!(stat(&mut s, "compilations") > compiled);
    assert_eq!(stat(&mut s, "l0_entries"), 1);
    let role = db.role("ordinary");
    db.connect_as(&role)
        .error("42501", "select pgtrickle.clear_caches()");
}

#[test]
fn full_cache_forgets_the_oldest_and_everything_goes_on() {
    let server = Server::builder()
        .guc("pg_trickle.enabled", "off")
        .guc("pg_trickle.shared_memory_mb", "1")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let wide = (0..60)
        .map(|n| format!("sum(n + {n}) as column_with_a_long_name_number_{n}"))
        .collect::<Vec<_>>()
        .join(", ");
    let tables: Vec<_> = (0..60)
        .map(|n| {
            s.stream_table(
                &format!("v{n}"),
                &format!("select g, {wide} from s where k <> {n} group by g"),
            )
        })
        .collect();
    let mut other = db.connect();
    let compiled = stat(&mut other, "compilations");
    other.exec("insert into s values (1000, 1, 1)");
    for table in &tables {
        table.follows(&mut other);
    }
    assert!(
        stat(&mut other, "l2_hits") > 0,
        "the first ones were overwritten"
    );
    assert_eq!(
        stat(&mut other, "compilations"),
        compiled,
        "and are in the catalog"
    );
    s.exec("delete from pgtrickle.pgt_compiled");
    let mut another = db.connect();
    another.exec("insert into s values (1001, 1, 1)");
    for table in &tables[..5] {
        table.follows(&mut another);
    }
    assert!(
        stat(&mut other, "compilations") > compiled,
        "what is nowhere is compiled again"
    );
    assert!(stat(&mut other, "l0_bytes") < 1 << 20);
    assert!(stat(&mut other, "l0_entries") > 5);
}

#[test]
fn first_session_after_a_restart_compiles_nothing() {
    let server = server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", NESTED);
    let w = s.stream_table_with(
        "w",
        "select k, now() as t, n from s",
        "refresh_mode => 'FULL'",
    );
    // The second one had the log changed for both.
    v.refresh(&mut s);
    assert_eq!(s.number("select count(*) from pgtrickle.pgt_compiled"), 2);
    server.restart();
    let mut s = db.connect();
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
    w.refresh(&mut s);
    assert_eq!(stat(&mut s, "compilations"), 0);
    assert_eq!(stat(&mut s, "l2_hits"), 2);
    let mut other = db.connect();
    other.exec("insert into s values (101, 1, 1)");
    v.follows(&mut other);
    assert_eq!(
        stat(&mut s, "l2_hits"),
        2,
        "found in shared memory from then on"
    );
    // Altered, it is compiled once more and kept again.
    s.exec("alter table s rename n to m; insert into s values (102, 1, 1)");
    v.follows(&mut s);
    server.restart();
    let mut s = db.connect();
    s.exec("insert into s values (103, 1, 1)");
    v.follows(&mut s);
    assert_eq!(stat(&mut s, "compilations"), 0);
    assert!(s.number("select pgtrickle.clear_caches()") >= 1);
    assert_eq!(s.number("select count(*) from pgtrickle.pgt_compiled"), 0);
    s.exec("insert into s values (104, 1, 1)");
    v.follows(&mut s);
    assert_eq!(stat(&mut s, "compilations"), 1, "forgotten everywhere");
    assert_eq!(s.number("select count(*) from pgtrickle.pgt_compiled"), 1);
    s.exec("drop table v");
    assert_eq!(s.number("select count(*) from pgtrickle.pgt_compiled"), 0);
}

#[test]
fn nobody_uses_what_another_build_or_database_has_compiled() {
    let server = server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", NESTED);
    s.exec("update pgtrickle.pgt_compiled set made_by = replace(made_by, ' ', ' 1')");
    server.restart();
    let mut s = db.connect();
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
    assert_eq!(stat(&mut s, "l2_hits"), 0);
    assert_eq!(stat(&mut s, "compilations"), 1);
    assert_eq!(
        s.number("select count(*) from pgtrickle.pgt_compiled where made_by ~ '^[0-9a-f]{16} 18'"),
        1,
        "it is its own again"
    );
    assert_eq!(
        s.value("select 'pgtrickle.pgt_compiled'::regclass = any (extconfig) from pg_extension where extname = 'pg_trickle'"),
        "f",
        "it is not dumped"
    );
    drop(s);
    let mut admin = server.connect("postgres");
    admin.exec(&format!("create database copied template {}", db.name()));
    let mut copied = server.connect("copied");
    copied.exec("insert into s values (200, 1, 1)");
    v.follows_somehow(&mut copied);
    assert_eq!(stat(&mut copied, "l2_hits"), 0);
    drop(copied);
    admin.exec("drop database copied with (force)");
}

#[test]
fn refresh_that_is_rolled_back_keeps_nothing() {
    let server = server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", NESTED);
    s.exec("begin; alter table s alter n type bigint; rollback; insert into s values (100, 1, 1)");
    v.follows(&mut s);
    s.exec("begin isolation level repeatable read; select 1");
    let mut other = db.connect();
    other.exec("alter table s rename n to m; insert into s values (101, 1, 1)");
    v.follows(&mut other);
    let refresh = "select pgtrickle.refresh_stream_table('v')";
    if let Err(refused) = s.try_exec(refresh) {
        assert_eq!(refused.code, "40001", "an old snapshot: {refused}");
    }
    s.exec("rollback");
    server.restart();
    let mut s = db.connect();
    s.exec("insert into s values (102, 1, 1)");
    v.follows(&mut s);
}
