//! Shared memory: whoever only reads it waits for no other reader.

use std::time::{Duration, Instant};

use pgt_tests::{Server, Session};

/// Everything that only reads shared memory, with the commit that marks a source dirty and the refresh of what a session
/// has compiled.
const READERS: &[&str] = &[
    "select * from pgtrickle.cache_stats()",
    "select * from pgtrickle.scheduler_statistics()",
    "select * from pgtrickle.cluster_worker_summary()",
    "select * from pgtrickle.worker_allocation_status()",
    "select pgtrickle.is_drained()",
    "select pgtrickle.scheduler_pid()",
    "select * from pgtrickle.pgt_status()",
    "select * from pgtrickle.health_check()",
    "insert into s select max(k) + 1, 1 from s",
    "select pgtrickle.refresh_stream_table('v')",
];

/// Has `s` hold all locks as readers do, and returns when it does.
fn read_slowly(s: &mut Session, milliseconds: u32) {
    s.exec("set pg_trickle.test_break = 'slow_readers'");
    s.exec(&format!("select pg_temp.pgt_read_slowly({milliseconds})"));
}

#[test]
fn readers_do_not_wait_for_readers() {
    let server = Server::builder().guc("pg_trickle.enabled", "off").start();
    let db = server.database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1)");
    let v = s.stream_table("v", "select k, n from s");
    v.follows_somehow(&mut s);
    // So that nothing is left to be compiled, planned or entered. A differential refresh is measured from the second time
    // on that its statement runs, a full one always.
    s.exec("select pgtrickle.repair_stream_table('v')");
    for reader in READERS.iter().chain(READERS) {
        s.exec(reader);
    }
    let mut slow = db.connect();
    slow.exec(
        "create function pg_temp.pgt_read_slowly(int) returns void language c strict
         as 'pg_trickle', 'pgt_read_slowly_wrapper'",
    );
    slow.error("42501", "select pg_temp.pgt_read_slowly(1)");
    let slow_pid = slow.number("select pg_backend_pid()");
    let mut writer = db.connect();
    let writer_pid = writer.number("select pg_backend_pid()");
    let mut watcher = db.connect();
    let active = |pid: i64| {
        format!(
            "select state = 'active' and query like '%read_slowly(%' from pg_stat_activity where pid = {pid}"
        )
    };
    std::thread::scope(|scope| {
        scope.spawn(|| read_slowly(&mut slow, 10_000));
        let started = Instant::now();
        while watcher.value(&active(slow_pid)) != "t" {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "it has not begun"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        for reader in READERS {
            s.exec(reader);
            assert_eq!(
                watcher.value(&active(slow_pid)),
                "t",
                "it waited for a reader: {reader}"
            );
        }
        // That the locks are really held shows in who needs one for himself.
        scope.spawn(|| writer.exec("select pgtrickle.clear_caches()"));
        let waits = format!(
            "select wait_event_type || ':' || wait_event from pg_stat_activity where pid = {writer_pid}"
        );
        let mut seen = None;
        while watcher.value(&active(slow_pid)) == "t"
            && seen.as_deref() != Some("LWLock:pg_trickle cache")
        {
            seen = watcher.nullable(&waits);
        }
        assert_eq!(seen.as_deref(), Some("LWLock:pg_trickle cache"));
    });
    v.follows(&mut s);
}
