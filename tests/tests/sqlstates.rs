//! Every refusal has its SQLSTATE, and those that a user can mend have a hint.

use pgt_tests::{Session, database};

fn one(s: &mut Session) {
    s.exec("create table s (k int primary key, n int)");
    s.stream_table("v", "select k, n from s");
}

#[test]
fn unknown_names_are_not_found() {
    let db = database();
    let mut s = db.connect();
    one(&mut s);
    for call in [
        "refresh_stream_table('missing')",
        "refresh_stream_table('nowhere.missing')",
        "drop_stream_table('missing')",
        "alter_stream_table('missing', schedule => '1d')",
        "pause_stream_table('missing')",
        "resume_stream_table('missing')",
        "verify_stream_table('missing')",
        "repair_stream_table('missing')",
        "export_definition('missing')",
        "explain_stream_table('missing')",
        "explain_refresh_mode('missing')",
        "explain_delta('missing')",
        "get_refresh_history('missing')",
        "get_staleness('missing')",
        "list_sources('missing')",
        "list_auxiliary_columns('missing')",
        "refresh_if_stale('missing')",
        "create_stream_table('w', 'select * from missing')",
    ] {
        s.error("42P01", &format!("select * from pgtrickle.{call}"));
    }
}

#[test]
fn ordinary_tables_are_no_stream_tables() {
    let db = database();
    let mut s = db.connect();
    one(&mut s);
    for call in [
        "refresh_stream_table('s')",
        "drop_stream_table('s')",
        "verify_stream_table('s')",
        "alter_stream_table('s', schedule => '1d')",
    ] {
        let e = s.error("42P01", &format!("select * from pgtrickle.{call}"));
        assert!(e.message.contains('s'), "{e}");
    }
    s.exec("insert into s values (1, 1)");
    assert_eq!(s.value("select count(*) from s"), "1");
}

#[test]
fn existing_names() {
    let db = database();
    let mut s = db.connect();
    one(&mut s);
    s.exec("create view w as select 1 as one; create index i on s (n)");
    for name in ["v", "s", "w", "i"] {
        s.error(
            "42P07",
            &format!("select pgtrickle.create_stream_table('{name}', 'select k from s')"),
        );
    }
}

#[test]
fn invalid_arguments() {
    let db = database();
    let mut s = db.connect();
    one(&mut s);
    for arguments in [
        "schedule => 'never ever'",
        "schedule => ''",
        "schedule => '5'",
        "schedule => '99 99 * * *'",
        "schedule => '1y'",
        "schedule => '5ms'",
        "refresh_mode => 'SLOW'",
        "refresh_mode => ''",
        "diamond_consistency => 'maybe'",
        "diamond_schedule_policy => 'random'",
    ] {
        s.error(
            "22023",
            &format!("select pgtrickle.create_stream_table('w', 'select k from s', {arguments})"),
        );
    }
    for call in [
        "explain_stream_table('v', 'nonsense')",
        "explain_delta('v', 'nonsense')",
        "verify_stream_table('v', 'nonsense')",
        "explain_dag('nonsense')",
    ] {
        s.error("22023", &format!("select * from pgtrickle.{call}"));
    }
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "1"
    );
}

#[test]
fn null_arguments() {
    let db = database();
    let mut s = db.connect();
    one(&mut s);
    for call in [
        "create_stream_table(null, 'select 1 as one')",
        "create_stream_table('w', null)",
        "refresh_stream_table(null)",
        "drop_stream_table(null)",
    ] {
        // Strict functions do nothing on NULL; the others refuse. None may crash or create.
        let _ = s.try_exec(&format!("select pgtrickle.{call}"));
    }
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "1"
    );
}

#[test]
fn queries_that_do_not_parse_say_where() {
    let db = database();
    let mut s = db.connect();
    one(&mut s);
    s.error(
        "42601",
        "select pgtrickle.create_stream_table('w', 'select from where')",
    );
    s.error(
        "42703",
        "select pgtrickle.create_stream_table('w', 'select nothing from s')",
    );
    s.error(
        "42883",
        "select pgtrickle.create_stream_table('w', 'select no_such_function(k) from s')",
    );
    s.error(
        "42701",
        "select pgtrickle.create_stream_table('w', 'select k, k from s')",
    );
}

#[test]
fn lock_timeout_of_the_caller_holds() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    one(&mut a);
    a.exec("insert into s values (1, 1)");
    a.exec("begin; lock table s in access exclusive mode");
    b.exec("set lock_timeout = '200ms'");
    b.error("55P03", "select pgtrickle.refresh_stream_table('v')");
    a.exec("commit");
    b.exec("select pgtrickle.refresh_stream_table('v')");
    assert_eq!(b.value("select count(*) from v"), "1");
}

#[test]
fn statement_timeout_and_cancel_leave_the_last_good_snapshot() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    a.exec("create table s (k int primary key); create function slow(n int) returns int language plpgsql immutable as $$ begin perform pg_sleep(0.2); return n; end $$");
    let v = a.stream_table("v", "select k, slow(k) as n from s");
    a.exec("insert into s select generate_series(1, 10)");
    b.exec("set statement_timeout = '500ms'");
    b.error("57014", "select pgtrickle.refresh_stream_table('v')");
    assert_eq!(a.value("select count(*) from v"), "0");
    let running = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('v')");
    db.wait_until(&format!(
        "select wait_event = 'PgSleep' from pg_stat_activity where pid = {}",
        running.pid()
    ));
    running.cancel();
    assert_eq!(running.finish().1.expect_err("cancelled").code, "57014");
    a.exec("delete from s where k > 2");
    v.refresh(&mut a);
    v.assert_fresh(&mut a);
}

#[test]
fn error_of_the_query_is_passed_on_and_leaves_the_last_good_snapshot() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1)");
    let v = s.stream_table("v", "select k, 10 / n as q from s");
    s.exec("insert into s values (2, 0)");
    s.error("22012", "select pgtrickle.refresh_stream_table('v')");
    assert_eq!(s.lines("select k, q from v"), ["1|10"]);
    s.exec("update s set n = 5 where k = 2");
    v.follows(&mut s);
    s.exec("insert into s values (3, 0); delete from s where k = 3");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
}

#[test]
fn version_and_preflight_answer() {
    let db = database();
    let mut s = db.connect();
    assert!(s.value("select pgtrickle.version()").contains('.'));
    let failed = s.lines("select check_name, detail from pgtrickle.preflight() where not ok");
    assert!(failed.is_empty(), "{failed:?}");
}
