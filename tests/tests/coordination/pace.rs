//! Tiers, draining, pausing: how often, and whether at all.

use super::*;

#[test]
fn frozen_waits_until_it_is_hot_again() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    clock(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("select pgtrickle.alter_stream_table('v', tier => 'frozen')");
    let_time_pass(&db, &mut s);
    s.exec("insert into s values (10, 1, 1)");
    let_time_pass(&db, &mut s);
    assert_eq!(s.number("select count(*) from v"), 9);
    v.refresh(&mut s);
    v.assert_equal(&mut s);
    s.exec("insert into s values (11, 1, 1)");
    let_time_pass(&db, &mut s);
    assert_eq!(s.number("select count(*) from v"), 10);
    s.exec("select pgtrickle.alter_stream_table('v', tier => 'hot')");
    v.catches_up(&mut s);
    let refused = s.error(
        "22023",
        "select pgtrickle.alter_stream_table('v', tier => 'lukewarm')",
    );
    assert!(refused.hint.is_some(), "{refused}");
}

#[test]
fn cold_and_warm_are_refreshed_less_often() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = ["hot", "warm", "cold"].map(|tier| {
        let table = s.stream_table_with(
            &format!("{tier}_one"),
            "select k, n from s",
            "schedule => '200ms'",
        );
        s.exec(&format!(
            "select pgtrickle.alter_stream_table('{tier}_one', tier => '{tier}')"
        ));
        table
    });
    let load = db.connect().spawn(
        "do $$ begin for i in 1..200 loop update s set n = n + 1 where k = 1; commit; perform pg_sleep(0.02); end loop; end $$",
    );
    db.wait_until("select count(*) >= 3 from pgtrickle.get_refresh_history('cold_one', 1000)");
    load.join();
    for table in tables {
        table.catches_up(&mut s);
    }
    // Ten times 200 ms lie between the starts of two of them; a hot one comes several times in between.
    assert_eq!(
        s.lines("select start_time - before from (select start_time, lag(start_time) over (order by start_time) as before
            from pgtrickle.get_refresh_history('cold_one', 1000) where action = 'DIFFERENTIAL') x where start_time - before < '1 s'"),
        [""; 0]
    );
}

#[test]
fn tiers_mean_nothing_when_switched_off() {
    let server = Server::builder()
        .guc("pg_trickle.tiered_scheduling", "off")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("select pgtrickle.alter_stream_table('v', tier => 'frozen')");
    s.exec("insert into s values (10, 1, 1)");
    v.catches_up(&mut s);
    server.configure_guc("pg_trickle.tiered_scheduling", "on");
    server.reload();
    db.wait_until("select current_setting('pg_trickle.tiered_scheduling') = 'on'");
    s.exec("select pgtrickle.alter_stream_table('v', tier => 'hot')");
    s.exec("insert into s values (11, 1, 1)");
    v.catches_up(&mut s);
}

#[test]
fn drain_waits_for_those_at_work_and_starts_no_more() {
    let db = database();
    let elsewhere = database();
    let mut other = elsewhere.connect();
    clock(&mut other);
    let mut s = db.connect();
    source(&mut s);
    s.exec("create function held(n int) returns int language plpgsql volatile as $$ begin perform pg_advisory_xact_lock_shared(4711); return n; end $$");
    let v = s.stream_table_with(
        "v",
        "select k, held(n) as n from s",
        "schedule => '100ms', refresh_mode => 'FULL'",
    );
    assert_eq!(s.value("select pgtrickle.is_drained()"), "f");
    let mut keeper = db.connect();
    keeper.exec("select pg_advisory_lock(4711)");
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until("select exists (select from pg_stat_activity where datname = current_database() and backend_type = 'pg_trickle worker' and wait_event = 'advisory')");
    assert_eq!(s.value("select pgtrickle.drain(0)"), "f");
    assert_eq!(s.value("select pgtrickle.drain(timeout_s => 1)"), "f");
    assert_eq!(s.value("select pgtrickle.is_drained()"), "f");
    keeper.exec("select pg_advisory_unlock(4711)");
    assert_eq!(s.value("select pgtrickle.drain()"), "t");
    assert_eq!(s.value("select pgtrickle.is_drained()"), "t");
    assert_eq!(s.number("select count(*) from v"), 10);
    s.exec("insert into s values (11, 1, 1)");
    // Another database goes on meanwhile.
    let_time_pass(&elsewhere, &mut other);
    assert_eq!(s.number("select count(*) from v"), 10);
    assert_eq!(s.value("select pgtrickle.is_drained()"), "t");
    s.exec("select pgtrickle.resume_after_drain()");
    assert_eq!(s.value("select pgtrickle.is_drained()"), "f");
    db.wait_until("select count(*) = 11 from v");
    v.catches_up(&mut s);
}

#[test]
fn draining_goes_with_the_extension() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    v.catches_up(&mut s);
    assert_eq!(s.value("select pgtrickle.drain()"), "t");
    s.exec("begin; drop extension pg_trickle cascade; create extension pg_trickle");
    assert_eq!(s.value("select pgtrickle.is_drained()"), "f");
    s.exec("rollback");
    assert_eq!(
        s.value("select pgtrickle.is_drained()"),
        "t",
        "it was not dropped"
    );
    s.exec("insert into s values (20, 1, 1); select pg_sleep(1.5)");
    assert_eq!(s.number("select count(*) from v where k = 20"), 0);
    s.exec(
        "drop table if exists v; drop extension pg_trickle cascade; create extension pg_trickle",
    );
    assert_eq!(s.value("select pgtrickle.is_drained()"), "f");
    let w = s.stream_table_with("w", "select k, n from s", "schedule => '100ms'");
    s.exec("insert into s values (21, 1, 1)");
    db.wait_until("select exists (select from w where k = 21)");
    assert_eq!(s.value("select pgtrickle.drain()"), "t");
    assert_eq!(
        s.value("select pgtrickle.is_drained()"),
        "t",
        "for the new one"
    );
    s.exec("select pgtrickle.resume_after_drain()");
    w.catches_up(&mut s);
}

#[test]
fn drained_database_can_still_be_refreshed_by_hand() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    assert_eq!(s.value("select pgtrickle.drain()"), "t");
    s.exec("insert into s values (10, 1, 1)");
    v.follows_somehow(&mut s);
    // What is defined meanwhile waits too.
    s.exec("select pgtrickle.create_stream_table('w', 'select k from s', schedule => '100ms', initialize => false)");
    assert_eq!(s.value("select pgtrickle.is_drained()"), "t");
    s.exec("select pgtrickle.resume_after_drain(); insert into s values (11, 1, 1)");
    v.catches_up(&mut s);
    StreamTable::new("w", "select k from s").catches_up(&mut s);
}

#[test]
fn draining_is_for_the_owner_of_the_database() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    let role = db.role("ordinary");
    let mut x = db.connect_as(&role);
    x.error("42501", "select pgtrickle.drain(0)");
    x.error("42501", "select pgtrickle.resume_after_drain()");
    assert_eq!(x.value("select pgtrickle.is_drained()"), "f");
    s.exec(&format!("alter database {} owner to {role}", db.name()));
    assert_eq!(x.value("select pgtrickle.drain(60)"), "t");
    x.exec("select pgtrickle.resume_after_drain()");
    s.exec(&format!("alter database {} owner to postgres", db.name()));
    v.assert_fresh(&mut s);
}

#[test]
fn all_are_paused_and_resumed() {
    let db = database();
    let elsewhere = database();
    let mut other = elsewhere.connect();
    clock(&mut other);
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    let w = s.stream_table_with("w", "select k from v", "schedule => '100ms'");
    s.stream_table("m", "select count(*) as c from s");
    assert_eq!(s.number("select pgtrickle.pause_all()"), 3);
    assert_eq!(s.number("select pgtrickle.pause_all()"), 0);
    assert_eq!(
        s.lines("select distinct status from pgtrickle.pgt_status()"),
        ["SUSPENDED"]
    );
    let_time_pass(&elsewhere, &mut other);
    s.exec("insert into s values (10, 1, 1)");
    let_time_pass(&elsewhere, &mut other);
    assert_eq!(
        s.lines("select (select count(*) from v), (select count(*) from w)"),
        ["9|9"]
    );
    s.exec("begin; select pgtrickle.resume_all(); rollback");
    let_time_pass(&elsewhere, &mut other);
    assert_eq!(
        s.lines("select (select count(*) from v), (select count(*) from w)"),
        ["9|9"]
    );
    assert_eq!(s.number("select pgtrickle.resume_all()"), 3);
    assert_eq!(s.number("select pgtrickle.resume_all()"), 0);
    w.catches_up(&mut s);
    v.catches_up(&mut s);
}

#[test]
fn stream_table_is_left_alone_from_the_pause_on() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    clock(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => 'continuous'");
    for _ in 0..30 {
        s.exec("select pgtrickle.pause_stream_table('v')");
        let before = s.number("select count(*) from v");
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        let_time_pass(&db, &mut s);
        assert_eq!(s.number("select count(*) from v"), before);
        s.exec("select pgtrickle.resume_stream_table('v')");
        v.catches_up(&mut s);
    }
}
