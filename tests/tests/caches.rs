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
        stat(&mut other, "compilations") > compiled,
        "the first ones were overwritten"
    );
    assert!(stat(&mut other, "l0_bytes") < 1 << 20);
    assert!(stat(&mut other, "l0_entries") > 5);
}
