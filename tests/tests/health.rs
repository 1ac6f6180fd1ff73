//! The health check names what is wrong, and what to do about it.

use pgt_tests::{Database, Server, Session, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1), (2, 2)");
}

/// A server of the test's own on which nothing is refreshed unless the test asks for it.
fn quiet_server() -> Server {
    Server::builder().guc("pg_trickle.enabled", "off").start()
}

/// Severity and detail of one check.
fn check(s: &mut Session, name: &str) -> (String, String) {
    let rows = s.rows(&format!(
        "select severity, detail from pgtrickle.health_check() where check_name = '{name}'"
    ));
    assert_eq!(rows.len(), 1, "one row for {name}");
    let column = |i: usize| rows[0][i].clone().unwrap_or_default();
    (column(0), column(1))
}

#[track_caller]
fn assert_check(s: &mut Session, name: &str, severity: &str, names: &str) {
    let (found, detail) = check(s, name);
    assert!(
        found == severity && detail.contains(names),
        "{name} is {found} ({detail}), not {severity} naming \"{names}\""
    );
}

/// Rotates as often as it takes until the change log of `s` has no room left for another switch.
fn fill_ring(s: &mut Session) {
    for k in 1000..1004 {
        s.exec(&format!("insert into s values ({k}, {k})"));
        let _ = s.try_exec("select pgtrickle.rotate_change_buffer('s', force => true)");
    }
}

#[test]
fn permanent_failure_is_reported_with_what_to_do() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with("v", "select k, 10 / n as q from s", "schedule => '100ms'");
    assert_check(&mut s, "error_tables", "OK", "none");
    s.exec("insert into s values (3, 0)");
    db.wait_until("select status = 'ERROR' from pgtrickle.pgt_status()");
    assert_check(
        &mut s,
        "error_tables",
        "ERROR",
        "public.v is ERROR: division by zero",
    );
    assert_check(
        &mut s,
        "consecutive_errors",
        "WARN",
        "public.v: 1 in a row, last 22012",
    );
    assert_eq!(
        s.lines("select error, active, failing, severity from pgtrickle.quick_health"),
        ["1|0|1|ERROR"]
    );
    assert_eq!(
        s.lines("select action is not null, status, error_message from pgtrickle.get_refresh_history('v', 1)"),
        ["t|FAILED|division by zero"]
    );
    let diagnosis = s.lines(
        "select sqlstate, error_message, meaning, advice from pgtrickle.diagnose_errors('v')",
    );
    assert_eq!(diagnosis.len(), 1, "{diagnosis:?}");
    for word in ["22012", "division by zero", "rows", "resume_stream_table"] {
        assert!(
            diagnosis[0].contains(word),
            "{word} is missing in {diagnosis:?}"
        );
    }
    assert_eq!(
        s.lines("select failed_refreshes, last_status from pgtrickle.st_refresh_stats()"),
        ["1|FAILED"]
    );
    assert_eq!(
        s.lines("select status, stream_table from pgtrickle.refresh_timeline(1)"),
        ["FAILED|public.v"]
    );
    assert!(s.staleness("v") > 0.0, "the change is still pending");
    s.exec("update s set n = 5 where k = 3; select pgtrickle.resume_stream_table('v')");
    db.wait_until("select count(*) = 3 from v");
    for name in ["error_tables", "consecutive_errors", "stale_tables"] {
        assert_check(&mut s, name, "OK", "none");
    }
    assert_eq!(s.value("select severity from pgtrickle.quick_health"), "OK");
}

#[test]
fn failures_worth_a_retry_end_in_suspension() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key); insert into s values (1); create table busy (k int);
         create function wary(k int) returns int language plpgsql immutable as
         $$ begin if exists (select from public.busy) then raise exception 'not now' using errcode = '40001'; end if; return k; end $$",
    );
    s.stream_table_with("v", "select wary(k) as k from s", "schedule => '100ms'");
    s.exec("insert into busy values (1); insert into s values (13)");
    db.wait_until("select consecutive_errors > 0 from pgtrickle.pgt_status()");
    db.wait_until("select status = 'SUSPENDED' from pgtrickle.pgt_status()");
    assert_eq!(
        s.value("select consecutive_errors from pgtrickle.pgt_status()"),
        "3"
    );
    assert_check(
        &mut s,
        "error_tables",
        "WARN",
        "public.v is SUSPENDED: not now",
    );
    assert_check(
        &mut s,
        "consecutive_errors",
        "WARN",
        "3 in a row, last 40001 not now",
    );
    assert_eq!(
        s.lines("select count(*), min(sqlstate), min(meaning) from pgtrickle.diagnose_errors('v')"),
        ["3|40001|Another transaction was in the way."]
    );
    s.exec("delete from busy; select pgtrickle.resume_stream_table('v')");
    db.wait_until("select status = 'ACTIVE' and consecutive_errors = 0 and staleness = '0' from pgtrickle.pgt_status()");
    assert_check(&mut s, "error_tables", "OK", "none");
}

#[test]
fn suspended_stream_table_shows() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("select pgtrickle.pause_stream_table('v'); insert into s values (3, 3)");
    assert_check(&mut s, "error_tables", "WARN", "public.v is SUSPENDED");
    assert_eq!(
        s.lines("select suspended, active, severity from pgtrickle.quick_health"),
        ["1|0|WARN"]
    );
    s.exec("select pg_sleep(0.3)");
    assert!(s.staleness("v") >= 0.3, "nobody refreshes it");
    assert_eq!(
        s.value("select pending_rows from pgtrickle.change_buffer_sizes()"),
        "1"
    );
    s.exec("select pgtrickle.resume_stream_table('v')");
    db.wait_until("select pgtrickle.get_staleness('v') = 0");
    assert_check(&mut s, "error_tables", "OK", "none");
}

#[test]
fn overdue_means_ten_intervals_and_more_than_a_minute() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    for (name, schedule) in [
        ("second", "1s"),
        ("hour", "1h"),
        ("calculated", "calculated"),
        ("cron", "@daily"),
        ("continuous", "continuous"),
    ] {
        s.stream_table_with(
            name,
            "select k, n from s",
            &format!("schedule => '{schedule}'"),
        );
    }
    s.stream_table_with("base", "select k from s", "schedule => 'calculated'");
    s.stream_table_with("reader", "select k from base", "schedule => '1h30m'");
    let overdue = |age: &str| {
        format!(
            "select string_agg(relname, ',' order by relname) from pgtrickle.pgt_stream_tables
             join pg_class c on c.oid = pgt_relid join pgtrickle.pgt_intervals i using (pgt_id)
             where pgtrickle.pgt_is_overdue('{age}', i.duration)"
        )
    };
    assert_eq!(s.nullable(&overdue("59 s")), None);
    assert_eq!(s.value(&overdue("2 min")), "calculated,continuous,second");
    assert_eq!(
        s.value(&overdue("11 h")),
        "calculated,continuous,hour,second"
    );
    assert_eq!(
        s.value(&overdue("16 h")),
        "base,calculated,continuous,hour,reader,second"
    );
}

#[test]
fn paused_reader_blocks_the_log_and_is_named() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    let sleeper = s.stream_table("sleeper", "select count(*) as c from s");
    assert_check(&mut s, "change_log_blocked", "OK", "none");
    s.exec("select pgtrickle.pause_stream_table('sleeper')");
    fill_ring(&mut s);
    v.follows(&mut s);
    assert_eq!(
        s.lines(
            "select stream_table, blocked_by, pending_rows from pgtrickle.change_buffer_sizes()"
        ),
        [
            "public.sleeper|public.sleeper|4",
            "public.v|public.sleeper|0"
        ]
    );
    assert_check(
        &mut s,
        "change_log_blocked",
        "WARN",
        "log of public.s by public.sleeper (SUSPENDED)",
    );
    assert_eq!(
        s.lines("select is_current, rows > 0, blocked_by, blocked_since is null from pgtrickle.change_buffer_status('s') order by is_current, segment"),
        ["f|t|public.sleeper|f", "f|t|public.sleeper|f", "t|t|-|t"]
    );
    s.exec("select pgtrickle.resume_stream_table('sleeper')");
    sleeper.follows(&mut s);
    let blocked = s.lines(
        "select blocked_by from pgtrickle.change_buffer_sizes() where blocked_by is not null",
    );
    assert!(blocked.is_empty(), "{blocked:?}");
    assert_check(&mut s, "change_log_blocked", "OK", "none");
}

#[test]
fn open_transaction_blocks_the_log_and_is_named() {
    let server = quiet_server();
    let db = server.database();
    let (mut a, mut s) = (db.connect(), db.connect());
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    a.exec("begin; insert into s values (100, 100)");
    fill_ring(&mut s);
    v.follows(&mut s);
    let holder = format!("transaction of process {}", a.pid());
    assert_eq!(
        s.lines("select distinct blocked_by from pgtrickle.change_buffer_sizes()"),
        [holder.as_str()]
    );
    assert_check(&mut s, "change_log_blocked", "WARN", &holder);
    a.exec("commit");
    v.follows(&mut s);
    assert_check(&mut s, "change_log_blocked", "OK", "none");
}

#[test]
fn prepared_transaction_blocks_the_log_and_is_named() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    let gid = format!("{}_p", db.name());
    s.exec(&format!(
        "begin; insert into s values (100, 100); prepare transaction '{gid}'"
    ));
    fill_ring(&mut s);
    v.follows(&mut s);
    let blocked = s.lines("select distinct blocked_by from pgtrickle.change_buffer_sizes()");
    s.exec(&format!("commit prepared '{gid}'"));
    assert_eq!(blocked, [format!("prepared transaction '{gid}'")]);
    v.follows(&mut s);
    assert_check(&mut s, "change_log_blocked", "OK", "none");
}

#[test]
fn log_of_a_stream_table_is_blocked_by_its_reader() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let low = s.stream_table("low", "select k, n from s");
    let top = s.stream_table("top", "select sum(n) as total from low");
    s.exec("select pgtrickle.pause_stream_table('top')");
    for k in 10..13 {
        s.exec(&format!("insert into s values ({k}, {k})"));
        low.follows(&mut s);
        let _ = s.try_exec("select pgtrickle.rotate_change_buffer('low', force => true)");
    }
    assert_eq!(
        s.lines("select pending_rows, blocked_by from pgtrickle.change_buffer_sizes() where stream_table = 'public.top'"),
        ["3|public.top"]
    );
    assert_check(
        &mut s,
        "change_log_blocked",
        "WARN",
        "log of public.low by public.top (SUSPENDED)",
    );
    assert_eq!(
        s.value("select min(oldest_version) > 0 and max(oldest_xid) is null from pgtrickle.change_buffer_status('low')"),
        "t"
    );
    s.exec("select pgtrickle.resume_stream_table('top')");
    top.follows(&mut s);
    assert_check(&mut s, "change_log_blocked", "OK", "none");
}

#[test]
fn missing_and_disabled_triggers_are_found() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table p (k int, n int) partition by range (k); create table p1 partition of p for values from (0) to (10)");
    s.stream_table("v", "select k, n from p");
    assert_eq!(
        s.lines(
            "select relation, trigger_name, kind, state, ok from pgtrickle.trigger_inventory()"
        ),
        [
            "public.p|pgt_capture|rows|always|t",
            "public.p|pgt_capture_truncate|truncate|always|t",
            "public.p1|pgt_capture|rows|always|t",
            "public.p1|pgt_capture_truncate|truncate|always|t",
            "public.v|pgt_refuse_write|guard|always|t",
        ]
    );
    assert_check(&mut s, "capture_triggers", "OK", "none is missing");
    // Where event triggers fire it stays enabled.
    s.exec("alter table p1 disable trigger pgt_capture");
    assert_check(&mut s, "capture_triggers", "OK", "none is missing");
    s.exec("set event_triggers = off; alter table p1 disable trigger pgt_capture; reset event_triggers");
    assert_eq!(
        s.lines("select relation, state from pgtrickle.trigger_inventory() where not ok"),
        ["public.p1|disabled"]
    );
    assert_check(
        &mut s,
        "capture_triggers",
        "ERROR",
        "trigger pgt_capture on public.p1 is disabled",
    );
    assert_eq!(
        s.lines("select check_name from pgtrickle.preflight() where not ok"),
        ["capture_triggers"]
    );
    s.exec("alter table p1 enable always trigger pgt_capture");
    assert_check(&mut s, "capture_triggers", "OK", "none is missing");
}

#[test]
fn frontier_of_another_cluster_asks_for_a_rebuild() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table("v", "select k, n from s");
    s.exec("select pgtrickle.pause_stream_table('v')");
    assert_check(&mut s, "needs_reinit", "OK", "none");
    s.exec("update pgtrickle.pgt_refresh_state set frontier_cluster = 1");
    assert_check(
        &mut s,
        "needs_reinit",
        "WARN",
        "public.v: frontier of another cluster",
    );
    assert_eq!(
        s.value("select usable from pgtrickle.get_frontier('v')"),
        "f"
    );
    assert!(s.staleness("v") > 0.0);
    assert_eq!(
        s.nullable("select pending_rows from pgtrickle.change_buffer_sizes()"),
        None
    );
    s.exec("select pgtrickle.resume_stream_table('v'); select pgtrickle.refresh_stream_table('v')");
    assert_check(&mut s, "needs_reinit", "OK", "none");
    assert_eq!(s.staleness("v"), 0.0);
}

/// The scheduler of this database and the server's settings, or the lack of them.
#[test]
fn server_that_does_not_preload_is_told_so() {
    let server = Server::builder().without_preload().start();
    let db: Database<'_> = server.database();
    let mut s = db.connect();
    assert_check(
        &mut s,
        "scheduler_running",
        "ERROR",
        "shared_preload_libraries",
    );
    assert_eq!(
        s.lines("select check_name from pgtrickle.preflight() where not ok"),
        ["shared_preload_libraries"]
    );
    assert_eq!(
        s.lines("select total, scheduler_running from pgtrickle.quick_health"),
        ["0|f"]
    );
}

#[test]
fn missing_index_is_pointed_out() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table big (id int primary key, k int, filler text); create table side (k int primary key, name text)");
    s.exec("insert into big select i, i % 100, repeat('x', 200) from generate_series(1, 10000) i; insert into side select i, 'n' || i from generate_series(1, 100) i");
    let mut noticed = |before: &str| {
        s.exec(before);
        s.notices();
        s.exec("select pgtrickle.create_stream_table('v', 'select b.id, d.name from big b join side d on d.k = b.k', schedule => '1d')");
        s.notices()
            .iter()
            .any(|notice| notice.message.contains("CREATE INDEX ON big (k)"))
    };
    assert!(noticed("select 1"), "a change of side reads all of big");
    assert_check(&mut s, "missing_indexes", "WARN", "CREATE INDEX ON big (k)");
    s.exec("create index on big (k)");
    assert_check(&mut s, "missing_indexes", "OK", "none");
    let mut noticed = |before: &str| {
        s.exec(before);
        s.notices();
        s.exec("select pgtrickle.create_stream_table('v', 'select b.id, d.name from big b join side d on d.k = b.k', schedule => '1d')");
        s.notices()
            .iter()
            .any(|notice| notice.message.contains("CREATE INDEX"))
    };
    assert!(!noticed("select pgtrickle.drop_stream_table('v')"));
}

#[test]
fn workers_and_their_queue_are_counted() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with("v", "select k, n from s", "schedule => 'continuous'");
    s.exec("insert into s values (3, 3)");
    db.wait_until("select count(*) = 3 from v");
    let (severity, detail) = check(&mut s, "worker_pool");
    assert!(
        severity == "OK" && !detail.starts_with("0 of"),
        "{severity}: {detail}"
    );
    db.wait_until("select detail = '0 active stream tables have pending changes' from pgtrickle.health_check() where check_name = 'job_queue'");
    s.exec("select pgtrickle.alter_stream_table('v', schedule => '1d')");
    s.exec("insert into s values (4, 4)");
    assert_check(
        &mut s,
        "job_queue",
        "OK",
        " active stream tables have pending changes",
    );
}
