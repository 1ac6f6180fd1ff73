//! Stream tables that follow by themselves: schedules, order, failures, databases that come and go.

use pgt_tests::{Server, Session, StreamTable, database};
use std::time::{Duration, Instant};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

fn follows_by_itself(schedule: &str) {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select k, n from s where n > 0",
        &format!("schedule => '{schedule}', refresh_mode => 'DIFFERENTIAL'"),
    );
    for batch in [
        "insert into s values (100, 1, 1)",
        "update s set n = n + 1",
        "delete from s where k < 5",
    ] {
        s.exec(batch);
        v.catches_up(&mut s);
        v.assert_mode(&mut s, "DIFFERENTIAL");
    }
}

#[test]
fn continuous() {
    follows_by_itself("continuous");
}

#[test]
fn every_100_milliseconds() {
    follows_by_itself("100ms");
}

#[test]
fn compound_duration() {
    follows_by_itself("1s200ms");
}

#[test]
fn cron_with_seconds() {
    follows_by_itself("* * * * * *");
}

#[test]
fn calculated_alone() {
    follows_by_itself("calculated");
}

#[test]
fn calculated_follows_its_readers() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with("low", "select k, g, n from s", "schedule => 'calculated'");
    let top = s.stream_table_with(
        "top",
        "select g, sum(n) as total, count(*) as c from low group by g",
        "schedule => '200ms'",
    );
    let whole = StreamTable::new(
        "top",
        "select g, sum(n) as total, count(*) as c from s group by g",
    );
    s.exec("insert into s values (100, 1, 1)");
    whole.catches_up(&mut s);
    top.assert_verified(&mut s);
    s.exec("delete from s where g = 1");
    whole.catches_up(&mut s);
}

#[test]
fn hourly_and_daily_do_not_run_early() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with(
        "hourly",
        "select count(*) as c from s",
        "schedule => '@yearly'",
    );
    s.stream_table_with("daily", "select count(*) as c from s", "schedule => '1d'");
    s.stream_table_with(
        "often",
        "select count(*) as c from s",
        "schedule => '100ms'",
    );
    for k in 100..105 {
        s.exec(&format!("insert into s values ({k}, 1, 1)"));
        db.wait_until(&format!("select c = {k} - 90 from often"));
    }
    assert_eq!(
        s.lines("select (select c from hourly), (select c from daily)"),
        ["9|9"]
    );
}

#[test]
fn nothing_is_run_for_a_clean_stream_table() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int)");
    s.stream_table_with(
        "clean",
        "select count(*) as c from s",
        "schedule => '100ms'",
    );
    s.stream_table_with("busy", "select count(*) as c from t", "schedule => '100ms'");
    let history = "select count(*) from pgtrickle.get_refresh_history('clean', 1000)";
    s.exec("insert into t values (0)");
    db.wait_until("select c = 1 from busy");
    let before = s.number(history);
    for i in 2..8 {
        s.exec("insert into t values (1)");
        db.wait_until(&format!("select c = {i} from busy"));
    }
    assert_eq!(s.number(history), before);
    // A transaction that touched the source but rolled back, and one that changed nothing.
    s.exec("begin; insert into s values (500, 1, 1); rollback; update s set n = n");
    s.exec("insert into t values (1)");
    db.wait_until("select c = 8 from busy");
    assert_eq!(s.value("select c from clean"), "9");
}

#[test]
fn chain_runs_in_order() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with(
        "l1",
        "select k, g, n * 2 as n from s",
        "schedule => 'continuous'",
    );
    s.stream_table_with(
        "l2",
        "select g, sum(n) as total from l1 group by g",
        "schedule => 'continuous'",
    );
    s.stream_table_with(
        "l3",
        "select max(total) as high, count(*) as c from l2",
        "schedule => 'continuous'",
    );
    s.stream_table_with(
        "l4",
        "select l3.high, l2.g from l3 join l2 on l2.total = l3.high",
        "schedule => 'continuous'",
    );
    let l3 = StreamTable::new(
        "l3",
        "select max(total) as high, count(*) as c from (select g, sum(n * 2) as total from s group by g) x",
    );
    for i in 0..5 {
        s.exec(&format!("insert into s values (100 + {i}, {i}, {i} * 50); update s set n = n + 1 where k % 3 = {i} % 3"));
        l3.catches_up(&mut s);
    }
    let l4 = StreamTable::new(
        "l4",
        "with l2 as (select g, sum(n * 2) as total from s group by g) select total as high, g from l2 where total = (select max(total) from l2)",
    );
    l4.catches_up(&mut s);
}

#[test]
fn prepared_transactions_are_noticed() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => 'continuous'");
    let gid = format!("{}_p", db.name());
    s.exec(&format!(
        "begin; insert into s values (100, 1, 1); prepare transaction '{gid}'"
    ));
    s.exec("insert into s values (101, 1, 1)");
    v.catches_up(&mut s);
    s.exec(&format!("commit prepared '{gid}'"));
    v.catches_up(&mut s);
    assert_eq!(s.value("select count(*) from v"), "11");
}

#[test]
fn truncate_is_noticed() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select g, count(*) as c from s group by g",
        "schedule => 'continuous'",
    );
    s.exec("truncate s");
    v.catches_up(&mut s);
    s.exec("insert into s values (1, 1, 1)");
    v.catches_up(&mut s);
}

#[test]
fn uninitialized_is_populated_by_the_scheduler() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select k, n from s",
        "schedule => '100ms', initialize => false",
    );
    db.wait_until("select status = 'ACTIVE' and is_populated from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state");
    v.catches_up(&mut s);
}

#[test]
fn permanent_failure_becomes_error_and_is_resumed() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, 10 / n as q from s", "schedule => '100ms'");
    let other = s.stream_table_with("w", "select count(*) as c from s", "schedule => '100ms'");
    s.exec("insert into s values (100, 1, 0)");
    db.wait_until(
        "select status = 'ERROR' from pgtrickle.pgt_stream_tables where pgt_relid = 'v'::regclass",
    );
    other.catches_up(&mut s);
    assert_eq!(
        s.value("select count(*) from v"),
        "9",
        "it stays at its last good snapshot"
    );
    s.exec("delete from s where n = 0");
    s.exec("select pgtrickle.resume_stream_table('v')");
    v.catches_up(&mut s);
}

#[test]
fn retryable_failures_back_off_and_suspend() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    // A full disk may be mended; this one never is until told to.
    s.exec(
        "create table switch (broken bool); insert into switch values (true);
         create function maybe(n int) returns int language plpgsql volatile as $$ begin
            if (select broken from public.switch) and n = 100 then raise exception 'not now' using errcode = '53100'; end if; return n; end $$",
    );
    let v = s.stream_table_with(
        "v",
        "select k, maybe(k) as n from s",
        "schedule => '100ms', refresh_mode => 'FULL'",
    );
    s.exec("insert into s values (100, 1, 1)");
    db.wait_until("select status = 'SUSPENDED' from pgtrickle.pgt_stream_tables");
    assert_eq!(s.value("select consecutive_errors from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), "3");
    let attempts = s.rows("select start_time from pgtrickle.get_refresh_history('v', 100) where status not in ('COMPLETED', 'SUCCESS', 'OK') and error_message is not null");
    assert_eq!(
        attempts.len(),
        3,
        "max_consecutive_errors attempts, no more"
    );
    s.exec("update switch set broken = false");
    s.exec("select pgtrickle.resume_stream_table('v')");
    assert_eq!(s.value("select consecutive_errors from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), "0");
    v.catches_up(&mut s);
}

#[test]
fn retryable_failure_that_heals_needs_nobody() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec(
        "create sequence tries;
         create function twice(n int) returns int language plpgsql volatile as $$ begin
            if n = 100 and nextval('public.tries') < 3 then raise exception 'not now' using errcode = '40P01'; end if; return n; end $$",
    );
    let v = s.stream_table_with(
        "v",
        "select k, twice(k) as n from s",
        "schedule => '100ms', refresh_mode => 'FULL'",
    );
    s.exec("insert into s values (100, 1, 1)");
    db.wait_until("select count(*) = 10 from v");
    assert_eq!(s.lines("select status, consecutive_errors from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), ["ACTIVE|0"]);
    s.exec("drop function if exists never(); insert into s values (101, 1, 1)");
    db.wait_until("select count(*) = 11 from v");
    let _ = v;
}

/// One always fails, one is slow, many are idle: the rest stay on schedule.
#[test]
fn troublesome_neighbours_do_not_delay_the_others() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table quiet (k int primary key); create table slow_source (k int primary key); create function slow(n int) returns int language plpgsql volatile as $$ begin perform pg_sleep(600); return n; end $$");
    s.exec("do $$ begin for i in 1..500 loop perform pgtrickle.create_stream_table('idle' || i, 'select k from quiet where k = ' || i, schedule => '100ms'); if i % 50 = 0 then commit; end if; end loop; end $$");
    s.stream_table_with(
        "failing",
        "select k, 1 / (n - n) as q from s where n < 0",
        "schedule => '100ms'",
    );
    s.stream_table_with(
        "slow",
        "select k, slow(k) as q from slow_source",
        "schedule => '100ms', refresh_mode => 'FULL'",
    );
    let v = s.stream_table_with(
        "v",
        "select count(*) as c, sum(n) as total from s",
        "schedule => '100ms'",
    );
    s.exec("insert into slow_source values (1); insert into s values (100, 1, -1)");
    db.wait_until("select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')");
    let mut worst = Duration::ZERO;
    for k in 200..210 {
        let started = Instant::now();
        s.exec(&format!("insert into s values ({k}, 1, 1)"));
        db.wait_until(&format!("select c = {k} - 189 from v"));
        worst = worst.max(started.elapsed());
    }
    assert!(
        worst < Duration::from_secs(20),
        "the slow one would have taken ten minutes, this one took {worst:?}"
    );
    v.assert_fresh(&mut s);
    s.exec("select pg_cancel_backend(pid) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'");
}

#[test]
fn drop_of_a_stream_table_while_the_worker_refreshes_it() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create function slow(n int) returns int language plpgsql volatile as $$ begin perform pg_sleep(0.5); return n; end $$");
    s.stream_table_with(
        "v",
        "select g, slow(count(*)::int) as c from s group by g",
        "schedule => '100ms', refresh_mode => 'FULL'",
    );
    s.exec("insert into s values (100, 1, 1)");
    db.wait_until("select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')");
    s.exec("set lock_timeout = '60s'; select pgtrickle.drop_stream_table('v')");
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "0"
    );
    let w = s.stream_table_with("w", "select count(*) as c from s", "schedule => '100ms'");
    s.exec("insert into s values (101, 1, 1)");
    w.catches_up(&mut s);
}

#[test]
fn extension_comes_and_goes_while_running() {
    let server = Server::shared();
    let db = server.empty_database();
    let mut s = db.connect();
    for round in 0..3 {
        s.exec("create extension pg_trickle; create table s (k int primary key)");
        let v = s.stream_table_with("v", "select k from s", "schedule => 'continuous'");
        s.exec(&format!("insert into s values ({round})"));
        v.catches_up(&mut s);
        s.exec("drop extension pg_trickle cascade; drop table s; drop table if exists v");
        db.wait_until("select count(*) = 0 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type <> 'client backend'");
    }
}

#[test]
fn databases_are_served_side_by_side() {
    let server = Server::shared();
    let dbs: Vec<_> = (0..4).map(|_| server.database()).collect();
    let tables: Vec<_> = dbs
        .iter()
        .map(|db| {
            let mut s = db.connect();
            source(&mut s);
            s.stream_table_with(
                "v",
                "select g, sum(n) as total from s group by g",
                "schedule => 'continuous'",
            )
        })
        .collect();
    for db in &dbs {
        db.connect().exec("update s set n = n + 1");
    }
    for (db, v) in dbs.iter().zip(&tables) {
        v.catches_up(&mut db.connect());
    }
}

#[test]
fn switched_off_and_on() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select count(*) as c from s", "schedule => '100ms'");
    s.exec("insert into s values (100, 1, 1)");
    v.catches_up(&mut s);
    server.configure_guc("pg_trickle.enabled", "off");
    server.reload();
    db.wait_until("select not current_setting('pg_trickle.enabled')::bool");
    // The scheduler reads the same setting at its own pace: let a commit pass until nothing moves any more.
    let before = s.number("select count(*) from pgtrickle.get_refresh_history('v', 1000)");
    s.exec("insert into s values (101, 1, 1)");
    std::thread::sleep(Duration::from_secs(2));
    s.exec("insert into s values (102, 1, 1)");
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        s.number("select count(*) from pgtrickle.get_refresh_history('v', 1000)") <= before + 1
    );
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    server.configure_guc("pg_trickle.enabled", "on");
    server.reload();
    s.exec("insert into s values (103, 1, 1)");
    v.catches_up(&mut s);
}

#[test]
fn work_goes_on_after_a_restart() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select g, count(*) as c from s group by g",
        "schedule => '100ms'",
    );
    let manual = s.stream_table("m", "select k, n from s");
    let top = s.stream_table_with("top", "select sum(c) as c from v", "schedule => '100ms'");
    s.exec("insert into s values (100, 1, 1)");
    drop(s);
    server.restart();
    let mut s = db.connect();
    v.catches_up(&mut s);
    top.catches_up(&mut s);
    s.exec("insert into s values (101, 1, 1)");
    v.catches_up(&mut s);
    top.catches_up(&mut s);
    manual.follows(&mut s);
}

#[test]
fn commit_to_visible_takes_no_poll_interval() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table_with(
        "v",
        "select count(*) as c from s",
        "schedule => 'continuous'",
    );
    let mut best = Duration::MAX;
    for k in 100..110 {
        let started = Instant::now();
        s.exec(&format!("insert into s values ({k}, 1, 1)"));
        while s.value("select c from v") != (k - 90).to_string() {
            assert!(started.elapsed() < Duration::from_secs(60));
        }
        best = best.min(started.elapsed());
    }
    // The slow clock ticks once a second: had it been what noticed, all ten would have taken that long.
    assert!(best < Duration::from_millis(500), "best of ten: {best:?}");
}

#[test]
fn definition_that_is_not_committed_stops_nobody_else() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key); create table b (k int primary key)");
    s.stream_table("gone", "select k from a");
    s.stream_table_with("v", "select k from b", "schedule => '100ms'");
    let mut other = db.connect();
    other.exec("begin; select pgtrickle.drop_stream_table('gone')");
    // Longer than the time between two maintenance passes.
    for k in 0..24 {
        s.exec(&format!("insert into b values ({k})"));
        db.wait_until(&format!("select count(*) = {} from v", k + 1));
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    other.exec("rollback");
    assert_eq!(
        s.value("select max_us < 5000000 from pgtrickle.scheduler_statistics()"),
        "t"
    );
}

#[test]
fn dropping_an_unrelated_table_invalidates_nothing() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, n int); create table other (k int primary key, check (k > 0))");
    s.stream_table("v", "select k, n from a");
    let generation = "select generation from pgtrickle.pgt_stream_tables";
    let before = s.value(generation);
    s.exec("create index on other (k); drop table other");
    assert_eq!(s.value(generation), before);
    s.exec("create index i on a (n); drop index i");
    assert_ne!(s.value(generation), before, "its plans may have used it");
}

#[test]
fn cost_model_prefers_the_faster_way() {
    let server = Server::builder()
        .guc("pg_trickle.enabled", "off")
        .guc("pg_trickle.test_break", "warm_up")
        .guc("pg_trickle.differential_max_change_ratio", "0")
        .guc("pg_trickle.prediction_min_samples", "3")
        .start();
    let db = server.database();
    let mut s = db.connect();
    // An update of every row costs at least twice as much as the query: it evaluates the old and the new images.
    s.exec(
        "create table t (k int primary key, n int);
         create function slow(n int) returns int language plpgsql immutable cost 1 as $$
         declare until timestamptz := clock_timestamp() + interval '0.1 ms';
         begin while clock_timestamp() < until loop null; end loop; return n; end $$;
         insert into t select i, i from generate_series(1, 1500) i",
    );
    let v = s.stream_table_with(
        "v",
        "select slow(n) % 7 as g, count(*) as c from t group by slow(n) % 7",
        "refresh_mode => 'AUTO', schedule => '1d'",
    );
    let last = "select action, coalesce(reason, '') from pgtrickle.get_refresh_history('v', 1)";
    let mut seen = Vec::new();
    for _ in 0..8 {
        s.exec("update t set n = n + 1");
        v.refresh(&mut s);
        seen.push(s.lines(last).join(""));
    }
    assert_eq!(seen[0], "DIFFERENTIAL|", "nothing is known yet: {seen:?}");
    assert_eq!(seen[7], "FULL|cost model", "{seen:?}");
    s.exec("update t set n = n + 1 where k < 10");
    v.refresh(&mut s);
    assert_eq!(
        s.lines(last),
        ["DIFFERENTIAL|"],
        "a small change is not worth it"
    );
    v.assert_verified(&mut s);
    let mut other = db.connect();
    s.exec("update t set n = n + 1");
    v.refresh(&mut other);
    assert_eq!(
        other.lines(last),
        ["FULL|cost model"],
        "every session knows what one has measured"
    );
}
