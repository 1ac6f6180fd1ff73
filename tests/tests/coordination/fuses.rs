//! Fuses: too many changes stop a stream table until somebody has looked.

use super::*;

const STATUS: &str =
    "select status from pgtrickle.pgt_stream_tables where pgt_relid = 'v'::regclass";

fn fused(s: &mut Session, schedule: &str, ceiling: i64) -> StreamTable {
    let v = s.stream_table_with(
        "v",
        "select k, n from s",
        &format!("schedule => '{schedule}', refresh_mode => 'DIFFERENTIAL'"),
    );
    s.exec(&format!(
        "select pgtrickle.alter_stream_table('v', fuse => 'on', fuse_ceiling => {ceiling})"
    ));
    v
}

fn wait_blown(db: &Database<'_>) {
    db.wait_until("select status = 'SUSPENDED' from pgtrickle.pgt_stream_tables where pgt_relid = 'v'::regclass");
}

#[test]
fn fuse_blows_in_the_scheduler_and_is_reset() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = fused(&mut s, "100ms", 10);
    assert_eq!(
        s.lines("select name, fuse, fuse_ceiling, state, reason from pgtrickle.fuse_status()"),
        ["public.v|on|10|armed|-"]
    );
    s.exec("insert into s select i, 1, 1 from generate_series(11, 20) i");
    v.catches_up(&mut s);
    s.exec("insert into s select i, 1, 1 from generate_series(21, 31) i");
    wait_blown(&db);
    assert_eq!(s.number("select count(*) from v"), 19);
    assert_eq!(
        s.lines(
            "select action, status, reason, delta_rows from pgtrickle.get_refresh_history('v', 1)"
        ),
        ["SKIP|SKIPPED|fuse|11"]
    );
    assert_eq!(
        s.lines("select name, state, blown_at is not null, reason is not null from pgtrickle.fuse_status()"),
        ["public.v|blown|t|t"]
    );
    must_wait(&mut s, "v");
    let refused = s.error("22023", "select pgtrickle.reset_fuse('v', 'ignore')");
    assert!(refused.hint.is_some(), "{refused}");
    assert_eq!(
        s.number("select count(*) from v"),
        19,
        "until somebody decides"
    );
    s.exec("select pgtrickle.reset_fuse('v', 'apply')");
    assert_eq!(s.value(STATUS), "ACTIVE");
    v.assert_equal(&mut s);
    v.assert_mode(&mut s, "DIFFERENTIAL");
    assert_eq!(
        s.lines("select state from pgtrickle.fuse_status()"),
        ["armed"]
    );
    s.exec("update s set n = n + 1");
    wait_blown(&db);
    s.exec("select pgtrickle.reset_fuse('v', 'reinitialize')");
    v.assert_equal(&mut s);
    let (action, _) = v.last_refresh(&mut s);
    assert!(action == "FULL" || action == "REINITIALIZE", "{action}");
    s.exec("delete from s where k = 1");
    v.catches_up(&mut s);
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

#[test]
fn fuse_is_refused_where_it_makes_no_sense() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    for (sqlstate, arguments) in [
        ("22023", "fuse => 'on'"),
        ("22023", "fuse => 'maybe', fuse_ceiling => 1"),
        ("22023", "fuse => 'on', fuse_ceiling => 0"),
        ("22023", "fuse_ceiling => -5"),
    ] {
        let refused = s.error(
            sqlstate,
            &format!("select pgtrickle.alter_stream_table('v', {arguments})"),
        );
        assert!(refused.hint.is_some(), "{refused}");
    }
    assert!(
        s.lines("select name from pgtrickle.fuse_status()")
            .is_empty()
    );
    s.error("55000", "select pgtrickle.reset_fuse('v', 'apply')");
    s.error("42P01", "select pgtrickle.reset_fuse('nowhere', 'apply')");
    s.exec("select pgtrickle.alter_stream_table('v', fuse => 'on', fuse_ceiling => 9223372036854775807)");
    s.exec("insert into s values (10, 1, 1)");
    v.follows(&mut s);
    s.exec("select pgtrickle.alter_stream_table('v', fuse => 'off')");
    assert!(
        s.lines("select name from pgtrickle.fuse_status()")
            .is_empty()
    );
}

#[test]
fn fuse_that_ends_a_manual_refresh_can_be_reset() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = fused(&mut s, "1d", 10);
    s.exec("insert into s select i, 1, 1 from generate_series(11, 21) i");
    must_wait(&mut s, "v");
    assert_eq!(s.number("select count(*) from v"), 9);
    // What the hint says has to help.
    s.exec("select pgtrickle.reset_fuse('v', 'apply')");
    v.assert_fresh(&mut s);
}

#[test]
fn high_ceilings_are_counted_right() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = fused(&mut s, "1d", 120_000);
    s.exec("insert into s select i, 1, 1 from generate_series(1001, 121000) i");
    v.follows(&mut s);
    s.exec("insert into s select i, 1, 1 from generate_series(200001, 320001) i");
    s.exec("select pgtrickle.alter_stream_table('v', schedule => '100ms')");
    wait_blown(&db);
    assert_eq!(s.number("select count(*) from v"), 120_009);
    assert_eq!(
        s.lines("select action, delta_rows from pgtrickle.get_refresh_history('v', 1)"),
        ["SKIP|120001"]
    );
    s.exec("select pgtrickle.reset_fuse('v', 'apply')");
    v.assert_fresh(&mut s);
}

#[test]
fn updated_rows_are_logged_twice_and_count_so() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = fused(&mut s, "1d", 18);
    s.exec("update s set n = n + 1");
    v.follows(&mut s);
    s.exec("select pgtrickle.alter_stream_table('v', fuse_ceiling => 17)");
    s.exec("update s set n = n + 1");
    must_wait(&mut s, "v");
    s.exec("select pgtrickle.reset_fuse('v', 'apply')");
    v.assert_fresh(&mut s);
}

#[test]
fn fuse_sees_changes_of_intermediate_results() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select c, count(*) as groups from (select g, count(*) as c from s group by g) x group by c",
        "schedule => '100ms'",
    );
    s.exec("select pgtrickle.alter_stream_table('v', fuse => 'on', fuse_ceiling => 10)");
    for (round, action) in ["apply", "reinitialize"].iter().enumerate() {
        s.exec(&format!(
            "insert into s select {round} * 100 + i, i % 3, 1 from generate_series(11, 30) i"
        ));
        wait_blown(&db);
        s.exec(&format!("select pgtrickle.reset_fuse('v', '{action}')"));
        v.assert_equal(&mut s);
    }
    v.catches_up(&mut db.connect());
}

#[test]
fn fuse_of_a_member_stops_its_diamond() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    clock(&mut s);
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let v = s.stream_table_with("v", "select k, n from s", arguments);
    let c = s.stream_table_with("c", "select k, g from s", arguments);
    let d = s.stream_table_with(
        "d",
        "select v.k, v.n, c.g from v join c on c.k = v.k",
        arguments,
    );
    s.exec("select pgtrickle.alter_stream_table('v', fuse => 'on', fuse_ceiling => 10)");
    s.exec("insert into s select i, 1, 1 from generate_series(11, 30) i");
    wait_blown(&db);
    s.exec("insert into s values (31, 1, 1)");
    let_time_pass(&db, &mut s);
    let state =
        "select (select count(*) from v), (select count(*) from c), (select count(*) from d)";
    assert_eq!(s.lines(state), ["9|9|9"]);
    let mut other = db.connect();
    for name in ["v", "c", "d"] {
        must_wait(&mut other, name);
    }
    s.exec("select pgtrickle.reset_fuse('v', 'apply')");
    assert_eq!(s.lines(state), ["30|30|30"]);
    s.exec("delete from s where k = 1");
    db.wait_until("select count(*) = 29 from d");
    assert_eq!(s.lines(state), ["29|29|29"]);
    for table in [v, c, d] {
        table.assert_fresh(&mut s);
    }
}

#[test]
fn session_that_has_seen_a_blown_fuse_sees_it_reset() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = fused(&mut s, "100ms", 10);
    s.exec("insert into s select i, 1, 1 from generate_series(11, 30) i");
    wait_blown(&db);
    must_wait(&mut s, "v");
    db.connect()
        .exec("select pgtrickle.reset_fuse('v', 'apply')");
    v.follows_somehow(&mut s);
}

#[test]
fn fuses_of_others_are_not_ones_own() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = fused(&mut s, "100ms", 1);
    s.exec("update s set n = n + 1");
    wait_blown(&db);
    let mut x = db.connect_as(&db.role("stranger"));
    x.error("42501", "select pgtrickle.reset_fuse('public.v', 'apply')");
    x.error(
        "42501",
        "select pgtrickle.alter_stream_table('public.v', fuse => 'off')",
    );
    assert_eq!(s.value(STATUS), "SUSPENDED");
    // Resuming arms the fuse again, and the same changes blow it again.
    s.exec("select pgtrickle.resume_stream_table('v')");
    db.wait_until(
        "select count(*) = 2 from pgtrickle.get_refresh_history('v') where action = 'SKIP'",
    );
    wait_blown(&db);
    s.exec("select pgtrickle.alter_stream_table('v', fuse => 'off'); select pgtrickle.resume_stream_table('v')");
    v.catches_up(&mut s);
}
