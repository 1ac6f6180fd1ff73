//! What the product tells about itself: plans, modes, health, sizes.

use pgt_tests::{Session, database};

fn sources(s: &mut Session) {
    s.exec("create table a (k int primary key, g int, n int); create table b (k int primary key, g int)");
}

#[test]
fn every_stage_of_a_plan_can_be_shown() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table("v", "select a.g, count(*) as c, avg(a.n) as mean from a join b on a.g = b.g where a.n > 0 group by a.g");
    for stage in [
        "summary",
        "rel",
        "rewritten",
        "delta",
        "sql",
        "apply",
        "plan",
    ] {
        let text = s.value(&format!(
            "select pgtrickle.explain_stream_table('v', '{stage}')"
        ));
        assert!(text.len() > 20, "{stage}: {text}");
    }
    assert_eq!(
        s.value("select pgtrickle.explain_stream_table('v')"),
        s.value("select pgtrickle.explain_stream_table('v', 'summary')")
    );
    assert!(
        !s.rows("select * from pgtrickle.explain_delta('v')")
            .is_empty()
    );
    assert!(
        s.lines("select * from pgtrickle.explain_delta('v', 'json')")
            .join("")
            .contains("Plan")
    );
}

#[test]
fn sources_and_auxiliary_columns_are_listed() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table(
        "v",
        "select a.g, count(*) as c, avg(a.n) as mean from a join b on a.g = b.g group by a.g",
    );
    let listed = s
        .lines("select x::text from pgtrickle.list_sources('v') x")
        .join(" ");
    assert!(listed.contains('a') && listed.contains('b'), "{listed}");
    assert_eq!(
        s.value("select count(*) from pgtrickle.list_sources('v')"),
        "2"
    );
    s.stream_table("w", "select k, n from a");
    assert_eq!(
        s.value("select count(*) from pgtrickle.list_auxiliary_columns('w')"),
        "0"
    );
    assert_eq!(
        s.lines("select attname from pg_attribute where attrelid = 'w'::regclass and attnum > 0"),
        ["k", "n"],
        "SELECT * shows exactly the query's columns"
    );
}

#[test]
fn effective_mode_and_its_reason() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let mode = |name: &str| {
        format!(
            "select configured_mode, effective_mode, downgrade_reason is null from pgtrickle.explain_refresh_mode('{name}')"
        )
    };
    s.auto_stream_table("i", "select k from a");
    assert_eq!(s.lines(&mode("i")), ["AUTO|DIFFERENTIAL|t"]);
    s.stream_table("d", "select k from a");
    assert_eq!(s.lines(&mode("d")), ["DIFFERENTIAL|DIFFERENTIAL|t"]);
    s.stream_table_with(
        "f",
        "select k from a",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    assert_eq!(s.lines(&mode("f")), ["FULL|FULL|t"]);
    s.auto_stream_table("n", "select k from a tablesample system (100)");
    assert_eq!(s.lines(&mode("n")), ["AUTO|FULL|f"]);
}

#[test]
fn query_is_judged_before_anything_is_created() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let classes = |q: &str| format!("select distinct class from pgtrickle.validate_query('{q}')");
    assert!(
        s.lines(&classes("select k from a where n > 0"))
            .contains(&"linear".into())
    );
    assert!(
        s.lines(&classes("select a.k from a join b on a.g = b.g"))
            .contains(&"bilinear".into())
    );
    assert!(
        s.lines(&classes("select g, sum(n) from a group by g"))
            .contains(&"algebraic".into())
    );
    let full = s.lines("select class || coalesce(reason, '') from pgtrickle.validate_query('select k from a tablesample system (100)') where class = 'full'");
    assert!(full.iter().any(|l| l.len() > 10), "{full:?}");
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "0"
    );
    s.error(
        "42P01",
        "select * from pgtrickle.validate_query('select * from missing')",
    );
}

#[test]
fn health_is_ok_when_all_is_well() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table_with("v", "select k from a", "schedule => '1s'");
    db.wait_until("select severity = 'OK' from pgtrickle.health_check() where check_name = 'scheduler_running'");
    let checks = s.lines("select check_name from pgtrickle.health_check()");
    for name in [
        "scheduler_running",
        "error_tables",
        "stale_tables",
        "needs_reinit",
        "consecutive_errors",
        "change_log_growth",
        "change_log_blocked",
    ] {
        assert!(
            checks.iter().any(|c| c == name),
            "{name} is missing in {checks:?}"
        );
    }
    let bad = s.lines("select check_name, severity, detail from pgtrickle.health_check() where severity = 'ERROR'");
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn staleness_grows_only_while_something_is_pending() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    let v = s.stream_table("v", "select k from a");
    s.exec("insert into a values (1, 1, 1)");
    assert!(
        s.value("select pgtrickle.get_staleness('v')")
            .parse::<f64>()
            .expect("seconds")
            >= 0.0
    );
    v.follows(&mut s);
    let after: f64 = s
        .value("select pgtrickle.get_staleness('v')")
        .parse()
        .expect("seconds");
    assert!(after < 60.0, "{after}");
    assert_eq!(s.value("select count(*) from pgtrickle.pgt_status() where staleness is not null or data_timestamp is not null"), "1");
}

#[test]
fn a_failing_stream_table_shows_in_health_and_history() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1)");
    s.stream_table_with("v", "select k, 10 / n as q from s", "schedule => '100ms'");
    s.exec("insert into s values (2, 0)");
    db.wait_until("select status = 'ERROR' from pgtrickle.pgt_stream_tables");
    let message = s.value("select error_message from pgtrickle.get_refresh_history('v', 1)");
    assert!(message.contains("division by zero"), "{message}");
    assert_eq!(s.value("select severity <> 'OK' from pgtrickle.health_check() where check_name = 'error_tables'"), "t");
    s.exec("update s set n = 2 where k = 2");
    s.exec("select pgtrickle.resume_stream_table('v')");
    db.wait_until("select count(*) = 2 from v");
    assert_eq!(s.lines("select status, consecutive_errors from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), ["ACTIVE|0"]);
}

#[test]
fn views_for_monitoring_have_a_row_for_each_stream_table() {
    let db = database();
    let mut s = db.connect();
    sources(&mut s);
    s.stream_table("v", "select k from a");
    s.stream_table("w", "select g, count(*) as c from a group by g");
    for view in [
        "pgtrickle.stream_tables_info",
        "pgtrickle.pg_stat_stream_tables",
    ] {
        assert_eq!(
            s.value(&format!("select count(*) from {view}")),
            "2",
            "{view}"
        );
    }
    assert!(s.number("select count(*) from pgtrickle.quick_health") >= 1);
    assert!(s.number("select count(*) from pgtrickle.trigger_inventory()") >= 1);
    s.rows("select * from pgtrickle.refresh_timeline()");
    s.rows("select * from pgtrickle.refresh_efficiency()");
    s.rows("select * from pgtrickle.st_refresh_stats()");
}
