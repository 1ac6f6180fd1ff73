//! Monitoring tells the truth: what is pending, stale, failed, suspended or in the way, and for whom.

use pgt_tests::{Database, Server, Session, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1), (2, 2)");
}

/// A server of the test's own on which nothing is refreshed unless the test asks for it.
fn quiet_server() -> Server {
    Server::builder().guc("pg_trickle.enabled", "off").start()
}

fn staleness(s: &mut Session, name: &str) -> f64 {
    let seconds = s.value(&format!("select pgtrickle.get_staleness('{name}')"));
    seconds.parse().expect("seconds")
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
fn pending_changes_are_counted_until_they_are_refreshed() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s where n > 0");
    let lag = "select pending_changes, oldest_pending is null from pgtrickle.frontier_lag('v')";
    let sizes = "select stream_table, source_table, pending_rows, buffer_bytes > 0, segments, blocked_by from pgtrickle.change_buffer_sizes()";
    assert_eq!(s.lines(lag), ["0|t"]);
    assert_eq!(s.lines(sizes), ["public.v|public.s|0|t|3|-"]);
    s.exec(
        "insert into s values (3, 3); update s set n = 9 where k = 1; delete from s where k = 2",
    );
    // An update is two images.
    assert_eq!(s.lines(lag), ["4|f"]);
    assert_eq!(s.lines(sizes), ["public.v|public.s|4|t|3|-"]);
    assert_eq!(
        s.value("select sum(rows) from pgtrickle.change_buffer_status('s')"),
        "4"
    );
    v.follows(&mut s);
    assert_eq!(s.lines(lag), ["0|t"]);
    assert_eq!(s.lines(sizes), ["public.v|public.s|0|t|3|-"]);
}

#[test]
fn stream_table_without_pending_changes_is_not_stale() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("select pg_sleep(0.3)");
    assert_eq!(staleness(&mut s, "v"), 0.0, "nothing has changed");
    s.exec("update s set n = n; begin; insert into s values (5, 5); rollback");
    assert_eq!(staleness(&mut s, "v"), 0.0, "still nothing");
    s.exec("insert into s values (6, 6)");
    let stale = staleness(&mut s, "v");
    assert!(stale > 0.0 && stale < 60.0, "{stale}");
    s.exec("select pg_sleep(0.2)");
    assert!(staleness(&mut s, "v") > stale, "it grows");
    assert_eq!(
        s.value("select extract(epoch from staleness) > 0.2 from pgtrickle.pgt_status()"),
        "t"
    );
    v.follows(&mut s);
    assert_eq!(staleness(&mut s, "v"), 0.0);
}

#[test]
fn change_is_pending_from_its_commit_on() {
    let server = quiet_server();
    let db = server.database();
    let (mut a, mut s) = (db.connect(), db.connect());
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    a.exec("begin; insert into s values (10, 10)");
    s.exec("insert into s values (11, 11)");
    v.follows(&mut s);
    // The frontier remembers the open transaction: below its upper end, and yet to come.
    assert_eq!(staleness(&mut s, "v"), 0.0);
    assert_eq!(
        s.value("select blocker_pid from pgtrickle.frontier_lag('v')"),
        a.pid().to_string()
    );
    a.exec("commit");
    assert!(staleness(&mut s, "v") > 0.0);
    assert_eq!(
        s.lines("select pending_changes, blocker_pid from pgtrickle.frontier_lag('v')"),
        ["1|-"]
    );
    v.follows(&mut s);
    assert_eq!(staleness(&mut s, "v"), 0.0);
}

#[test]
fn staleness_comes_down_from_what_is_read() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let low = s.stream_table("low", "select k, n from s");
    let top = s.stream_table("top", "select sum(n) as total from low");
    s.exec("insert into s values (3, 3)");
    assert!(
        staleness(&mut s, "top") > 0.0,
        "low has not seen the change, so top has not either"
    );
    low.follows(&mut s);
    assert_eq!(staleness(&mut s, "low"), 0.0);
    assert!(
        staleness(&mut s, "top") > 0.0,
        "low has a version that top has not consumed"
    );
    assert_eq!(
        s.lines("select pending_changes, oldest_pending from pgtrickle.frontier_lag('top')"),
        ["1|-"]
    );
    let versions = "select v.version, s.data_version from pgtrickle.pgt_upstream_versions v
        join pgtrickle.pgt_refresh_state s on s.pgt_id = v.upstream";
    assert_ne!(
        s.lines(versions),
        s.lines(&versions.replace("v.version", "s.data_version"))
    );
    top.follows(&mut s);
    assert_eq!(staleness(&mut s, "top"), 0.0);
    assert_eq!(
        s.lines(versions),
        s.lines(&versions.replace("v.version", "s.data_version"))
    );
    assert_eq!(
        s.lines("select upstream ? 'public.low', usable, base is not null from pgtrickle.get_frontier('top')"),
        ["t|t|t"]
    );
}

#[test]
fn unfilled_stream_table_has_no_staleness() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with(
        "v",
        "select k, n from s",
        "schedule => '1d', initialize => false",
    );
    s.exec("select pgtrickle.pause_stream_table('v')");
    if s.value("select is_populated from pgtrickle.pgt_status()") == "f" {
        assert_eq!(s.nullable("select pgtrickle.get_staleness('v')"), None);
        assert_eq!(
            s.nullable("select pending_rows from pgtrickle.change_buffer_sizes()"),
            None
        );
    }
}

#[test]
fn source_that_cannot_be_captured_makes_stale() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create materialized view m as select k, n from s");
    s.auto_stream_table("v", "select k, n from m");
    s.exec("select pgtrickle.pause_stream_table('v'); select pg_sleep(0.1)");
    assert!(
        staleness(&mut s, "v") > 0.0,
        "nobody knows whether m has changed"
    );
    assert_eq!(
        s.lines("select source, source_type, captured from pgtrickle.list_sources('v')"),
        ["public.m|uncaptured|f"]
    );
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
    assert!(staleness(&mut s, "v") > 0.0, "the change is still pending");
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
    assert!(staleness(&mut s, "v") >= 0.3, "nobody refreshes it");
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
             join pg_class c on c.oid = pgt_relid where pgtrickle.pgt_is_overdue(pgt_id, '{age}')"
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
    s.exec("set session_replication_role = replica; alter table p1 disable trigger pgt_capture");
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
    assert!(staleness(&mut s, "v") > 0.0);
    assert_eq!(
        s.nullable("select pending_rows from pgtrickle.change_buffer_sizes()"),
        None
    );
    s.exec("select pgtrickle.resume_stream_table('v'); select pgtrickle.refresh_stream_table('v')");
    assert_check(&mut s, "needs_reinit", "OK", "none");
    assert_eq!(staleness(&mut s, "v"), 0.0);
}

#[test]
fn intermediate_results_stay_inside() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
    let v = s.stream_table(
        "v",
        "select total, count(*) as groups from (select g, sum(n) as total from s group by g) q group by total",
    );
    assert!(
        s.number("select count(*) from pgtrickle.pgt_stream_tables where stage_of is not null") > 0,
        "the query has an intermediate result"
    );
    s.exec("insert into s values (100, 1, 5)");
    assert!(
        staleness(&mut s, "v") > 0.0,
        "the change is pending in the stage"
    );
    assert_eq!(
        s.lines(
            "select stream_table, source_table, pending_rows from pgtrickle.change_buffer_sizes()"
        ),
        ["public.v|public.s|1"]
    );
    assert_eq!(
        s.value("select pending_changes from pgtrickle.frontier_lag('v')"),
        "1"
    );
    v.follows(&mut s);
    assert_eq!(staleness(&mut s, "v"), 0.0);
    assert_eq!(
        s.lines("select source, source_type, columns_used from pgtrickle.list_sources('v')"),
        ["public.s|table|{g,n}"]
    );
    for sql in [
        "select x::text from pgtrickle.pgt_status() x",
        "select x::text from pgtrickle.stream_tables_info x",
        "select x::text from pgtrickle.pg_stat_stream_tables x",
        "select x::text from pgtrickle.change_buffer_sizes() x",
        "select x::text from pgtrickle.refresh_timeline() x",
        "select x::text from pgtrickle.refresh_efficiency() x",
        "select x::text from pgtrickle.st_refresh_stats() x",
        "select x::text from pgtrickle.dependency_tree() x",
        "select x::text from pgtrickle.trigger_inventory() x",
        "select x::text from pgtrickle.list_sources('v') x",
        "select x::text from pgtrickle.get_frontier('v') x",
    ] {
        let lines = s.lines(sql).join("\n");
        assert!(
            !lines.is_empty() && !lines.contains("stage"),
            "{sql}: {lines}"
        );
    }
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_upstream_versions"),
        "0"
    );
    assert_eq!(s.value("select total from pgtrickle.quick_health"), "1");
}

#[test]
fn history_adds_up() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (3, 3), (4, 4), (5, 5)");
    v.follows(&mut s);
    s.exec("update s set n = 0 where k in (3, 4); delete from s where k = 5");
    v.follows(&mut s);
    v.refresh(&mut s);
    assert_eq!(
        s.lines("select action, status, rows_inserted, rows_updated, rows_deleted, reason from pgtrickle.get_refresh_history('v')"),
        ["DIFFERENTIAL|COMPLETED|0|2|1|-", "DIFFERENTIAL|COMPLETED|3|0|0|-", "FULL|COMPLETED|2|0|0|initial"]
    );
    assert_eq!(
        s.value("select count(*) from pgtrickle.get_refresh_history('v', 2)"),
        "2"
    );
    assert_eq!(
        s.lines("select refreshes, differential_refreshes, full_refreshes, failed_refreshes, rows_inserted, rows_updated, rows_deleted, delta_rows from pgtrickle.pg_stat_stream_tables"),
        ["3|2|1|0|5|2|1|8"]
    );
    assert_eq!(
        s.lines("select total_refreshes, successful_refreshes, rows_inserted, last_action, avg_duration_ms > 0, max_duration_ms >= avg_duration_ms from pgtrickle.st_refresh_stats()"),
        ["3|3|5|DIFFERENTIAL|t|t"]
    );
    assert_eq!(
        s.lines("select differential_refreshes, full_refreshes, delta_rows, rows_changed, last_full_reason, speedup > 0 from pgtrickle.refresh_efficiency()"),
        ["2|1|8|6|initial|t"]
    );
    assert_eq!(
        s.lines("select initiated_by from pgtrickle.refresh_timeline()"),
        ["MANUAL", "MANUAL", "CREATE"]
    );
}

#[test]
fn definition_is_explained() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, g int, n numeric, unused text); create table b (k int primary key, g int)");
    s.stream_table(
        "v",
        "select a.g, avg(a.n) as mean, count(*) as c from a join b on a.k = b.k group by a.g",
    );
    assert_eq!(
        s.lines(
            "select source, source_type, columns_used, captured from pgtrickle.list_sources('v')"
        ),
        ["public.a|table|{k,g,n}|t", "public.b|table|{k}|t"],
        "the columns the query uses, no others"
    );
    assert_eq!(
        s.lines("select column_name, data_type, purpose from pgtrickle.list_auxiliary_columns('v') order by purpose"),
        s.lines(
            "select attname, format_type(atttypid, atttypmod), x.purpose from pg_attribute
             join pgtrickle.list_auxiliary_columns('v') x on x.column_name = attname
             where attrelid = 'v'::regclass and attnum > 3 order by x.purpose"
        ),
        "every column after the query's own"
    );
    assert!(
        s.value("select string_agg(purpose, ', ') from pgtrickle.list_auxiliary_columns('v')")
            .contains("sum of")
    );
    let mode = "select configured_mode, effective_mode, downgrade_reason from pgtrickle.explain_refresh_mode('v')";
    assert_eq!(s.lines(mode), ["DIFFERENTIAL|DIFFERENTIAL|-"]);
    s.exec("set pg_trickle.refresh_strategy = 'full'");
    assert_eq!(
        s.lines(mode),
        ["DIFFERENTIAL|FULL|pg_trickle.refresh_strategy is full"]
    );
    s.stream_table("w", "select g, c from v where c > 1");
    assert_eq!(
        s.lines("select depth, name, kind, status from pgtrickle.dependency_tree()"),
        [
            "0|public.a|table|-",
            "1|public.v|stream table|ACTIVE",
            "2|public.w|stream table|ACTIVE",
            "0|public.b|table|-",
            "1|public.v|stream table|ACTIVE",
            "2|public.w|stream table|ACTIVE",
        ]
    );
    assert_eq!(
        s.value("select regexp_replace(pgtrickle.explain_dag(), 'n\\d+', 'n', 'g')"),
        "graph LR\n    n[\"public.a\"]\n    n[\"public.b\"]\n    n([\"public.v\"])\n    n([\"public.w\"])\n    n --> n\n    n --> n\n    n --> n\n"
    );
    let dot = s.value("select pgtrickle.explain_dag('dot')");
    assert!(
        dot.starts_with("digraph") && dot.matches(" -> ").count() == 3,
        "{dot}"
    );
    let info = s.lines("select sources, defining_query, owner, total_bytes > 0 from pgtrickle.stream_tables_info where table_name = 'v'");
    assert!(
        info[0].starts_with("{public.a,public.b}|") && info[0].contains("GROUP BY"),
        "{info:?}"
    );
}

#[test]
fn names_are_found_as_everywhere() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema \"My Schema\"; create table s (k int primary key); set search_path = \"My Schema\", public");
    s.stream_table("\"My Schema\".\"V 1\"", "select k from public.s");
    assert_eq!(
        s.value("select name from pgtrickle.pgt_status()"),
        "\"My Schema\".\"V 1\""
    );
    for name in ["\"V 1\"", "\"My Schema\".\"V 1\""] {
        assert_eq!(staleness(&mut s, name), 0.0);
    }
    s.exec("set search_path = ''");
    let name = s.value("select name from pgtrickle.pgt_status()");
    assert_eq!(staleness(&mut s, &name), 0.0);
    for call in [
        "get_staleness('\"V 1\"')",
        "get_staleness('V 1')",
        "get_refresh_history('public.s')",
        "frontier_lag('missing')",
        "get_frontier('missing')",
        "diagnose_errors('public.s')",
        "list_sources('missing')",
        "list_auxiliary_columns('missing')",
        "explain_refresh_mode('public.s')",
        "change_buffer_status('missing')",
        "change_buffer_status('pg_catalog.pg_class')",
    ] {
        if call.contains("'V 1'") {
            // Not a name at all.
            assert!(s.try_rows(&format!("select pgtrickle.{call}")).is_err());
            continue;
        }
        let e = s.error("42P01", &format!("select * from pgtrickle.{call}"));
        assert!(e.hint.is_some(), "{call}: {e}");
    }
}

#[test]
fn workers_are_listed() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with("v", "select k, n from s", "schedule => 'continuous'");
    s.exec("insert into s values (3, 3)");
    db.wait_until("select count(*) = 3 from v");
    let kinds =
        "select string_agg(distinct kind, ',' order by kind) from pgtrickle.worker_pool_status()";
    assert_eq!(s.value(kinds), "launcher,scheduler,worker");
    assert_eq!(
        s.value("select pid = pgtrickle.scheduler_pid() from pgtrickle.worker_pool_status() where kind = 'scheduler'"),
        "t"
    );
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

/// Everything can be called by a role that owns and may read nothing.
fn calls(s: &mut Session) {
    for call in [
        "pgt_status()",
        "get_refresh_history('app.v')",
        "get_staleness('app.v')",
        "refresh_timeline()",
        "refresh_efficiency()",
        "st_refresh_stats()",
        "health_check()",
        "change_buffer_sizes()",
        "change_buffer_status('app.s')",
        "trigger_inventory()",
        "frontier_lag('app.v')",
        "get_frontier('app.v')",
        "dependency_tree()",
        "explain_dag('dot')",
        "diagnose_errors('app.v')",
        "explain_refresh_mode('app.v')",
        "list_sources('app.v')",
        "list_auxiliary_columns('app.v')",
        "worker_pool_status()",
        "preflight()",
        "version()",
        "stream_tables_info",
        "pg_stat_stream_tables",
        "quick_health",
        "pgt_upstream_versions",
    ] {
        s.rows(&format!("select * from pgtrickle.{call}"));
    }
}

#[test]
fn ordinary_role_sees_numbers_and_no_rows() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    s.exec("create schema app; create table app.s (k int primary key, secret text)");
    s.stream_table("app.v", "select k, secret from app.s");
    s.exec("insert into app.s values (1, 'x'), (2, 'y')");
    let role = db.role("watcher");
    s.exec(&format!("grant usage on schema app to {role}"));
    let mut watcher = db.connect_as(&role);
    calls(&mut watcher);
    assert_eq!(
        watcher.value("select pending_rows from pgtrickle.change_buffer_sizes()"),
        "2"
    );
    watcher.error("42501", "select * from app.v");
    let segment =
        s.value("select relid::regclass from pgtrickle.pgt_change_segments where segment = 0");
    watcher.error("42501", &format!("select * from {segment}"));
    // A search path full of traps changes nothing.
    s.exec(&format!("grant create on schema public to {role}"));
    watcher.exec(
        "create function public.trap(text, text) returns boolean language sql as 'select false';
         create operator public.= (leftarg = text, rightarg = text, function = public.trap);
         set search_path = public, pg_catalog",
    );
    calls(&mut watcher);
    assert_eq!(
        watcher.value("select count(*) from pgtrickle.health_check() where check_name operator(pg_catalog.=) 'scheduler_running'"),
        "1"
    );
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
    assert!(!noticed(
        "select pgtrickle.drop_stream_table('v'); create index on big (k)"
    ));
}
