//! Monitoring tells the truth: what is pending, stale, failed, suspended or in the way, and for whom.

use pgt_tests::{Server, Session, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1), (2, 2)");
}

/// A server of the test's own on which nothing is refreshed unless the test asks for it.
fn quiet_server() -> Server {
    Server::builder().guc("pg_trickle.enabled", "off").start()
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
    assert_eq!(s.staleness("v"), 0.0, "nothing has changed");
    s.exec("update s set n = n; begin; insert into s values (5, 5); rollback");
    assert_eq!(s.staleness("v"), 0.0, "still nothing");
    s.exec("insert into s values (6, 6)");
    let stale = s.staleness("v");
    assert!(stale > 0.0 && stale < 60.0, "{stale}");
    s.exec("select pg_sleep(0.2)");
    assert!(s.staleness("v") > stale, "it grows");
    assert_eq!(
        s.value("select extract(epoch from staleness) > 0.2 from pgtrickle.pgt_status()"),
        "t"
    );
    v.follows(&mut s);
    assert_eq!(s.staleness("v"), 0.0);
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
    assert_eq!(s.staleness("v"), 0.0);
    assert_eq!(
        s.value("select blocker_pid from pgtrickle.frontier_lag('v')"),
        a.pid().to_string()
    );
    a.exec("commit");
    assert!(s.staleness("v") > 0.0);
    assert_eq!(
        s.lines("select pending_changes, blocker_pid from pgtrickle.frontier_lag('v')"),
        ["1|-"]
    );
    v.follows(&mut s);
    assert_eq!(s.staleness("v"), 0.0);
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
        s.staleness("top") > 0.0,
        "low has not seen the change, so top has not either"
    );
    low.follows(&mut s);
    assert_eq!(s.staleness("low"), 0.0);
    assert!(
        s.staleness("top") > 0.0,
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
    assert_eq!(s.staleness("top"), 0.0);
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
fn lists_say_what_is_said_of_each_and_look_once() {
    let server = quiet_server();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table other (k int, n int)");
    let v = s.stream_table("v", "select k, n from s");
    s.stream_table(
        "above",
        "select c, count(*) as n from (select n, count(*) as c from v group by n) x group by c",
    );
    s.stream_table("top", "select c from above");
    s.stream_table("fresh", "select k from other");
    s.stream_table("behind", "select k, n from s");
    let mut open = db.connect();
    open.exec("begin; insert into s values (3, 3)");
    s.exec("insert into s values (4, 4)");
    v.refresh(&mut s);
    open.exec("commit");
    s.exec("set track_functions = 'all'; begin");
    let rows = s.rows(
        "select p.name, extract(epoch from p.staleness), pgtrickle.get_staleness(p.name) from (
             select name, staleness from pgtrickle.pgt_status() offset 0) p order by name",
    );
    let second = |row: &Vec<Option<String>>, column: usize| {
        row[column]
            .as_deref()
            .map(|value| value.parse::<f64>().expect("seconds"))
    };
    for row in &rows {
        let (all, one) = (second(row, 1), second(row, 2));
        let same = all
            .zip(one)
            .is_some_and(|(all, one)| (all == 0.0) == (one == 0.0) && (all - one).abs() < 1.0);
        assert!(same, "{row:?}");
    }
    let stale = rows.iter().filter(|row| second(row, 1) > Some(0.0)).count();
    assert_eq!(stale, 4, "all but one: {rows:?}");
    s.exec("commit; begin");
    for list in [
        "pgt_status()",
        "stream_tables_info",
        "quick_health",
        "health_check()",
        "change_buffer_sizes()",
    ] {
        let calls = "select coalesce(max(calls), 0) from pg_stat_xact_user_functions where funcname = 'pgt_pending'";
        let before = s.number(calls);
        s.rows(&format!("select * from pgtrickle.{list}"));
        assert_eq!(s.number(calls) - before, 1, "{list} asks once for all");
    }
    s.exec("commit");
    v.assert_verified(&mut s);
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
    assert!(s.staleness("v") > 0.0, "nobody knows whether m has changed");
    assert_eq!(
        s.lines("select source, source_type, captured from pgtrickle.list_sources('v')"),
        ["public.m|uncaptured|f"]
    );
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
        s.number("select count(*) from pgtrickle.pgt_stages") > 0,
        "the query has an intermediate result"
    );
    s.exec("insert into s values (100, 1, 5)");
    assert!(s.staleness("v") > 0.0, "the change is pending in the stage");
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
    assert_eq!(s.staleness("v"), 0.0);
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
        assert_eq!(s.staleness(name), 0.0);
    }
    s.exec("set search_path = ''");
    let name = s.value("select name from pgtrickle.pgt_status()");
    assert_eq!(s.staleness(&name), 0.0);
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

#[test]
fn delta_rows_are_those_logged_however_they_are_read() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int); insert into s values (1, 1), (2, 2)");
    let v = s.stream_table("v", "select x.k, y.a from s x join s y on y.k = x.a");
    let w = s.stream_table("w", "select k, a from s where a > 5");
    // What stays the same is not logged.
    s.exec("update s set a = 1; update s set a = 2; update s set a = 1 where k = 1");
    for view in [&v, &w] {
        view.follows_somehow(&mut s);
        assert_eq!(
            s.value(&format!(
                "select delta_rows from pgtrickle.get_refresh_history('{}', 1)",
                view.name()
            )),
            "8"
        );
    }
}
