//! SIGKILL at random moments under load: afterwards nothing is lost and nothing counted twice.

use pgt_tests::{Database, Server, Session, StreamTable};
use std::time::{Duration, Instant};

fn setup(s: &mut Session) -> Vec<StreamTable> {
    s.exec("create table s (k bigserial primary key, g int, n int); create table d (g int primary key, name text); insert into d select i, 'd' || i from generate_series(0, 9) i");
    let continuous = "schedule => 'continuous'";
    vec![
        s.stream_table_with(
            "grouped",
            "select g, count(*) as c, sum(n) as total, max(n) as high from s group by g",
            continuous,
        ),
        s.stream_table_with(
            "joined",
            "select s.k, d.name from s join d on d.g = s.g where s.n % 2 = 0",
            "schedule => '100ms'",
        ),
        s.stream_table_with(
            "stacked",
            "select sum(c) as c, sum(total) as total from grouped",
            continuous,
        ),
        s.stream_table_with(
            "distinct_n",
            "select distinct n from s",
            "schedule => '200ms'",
        ),
        s.stream_table_with(
            "filtered",
            "select k, n from s where n < 10",
            "schedule => '200ms', refresh_mode => 'FULL'",
        ),
    ]
}

/// Writes until the connection breaks; what it does depends on `seed` only.
fn load(seed: u32) -> String {
    format!(
        "do $$ begin perform setseed(0.{seed}); loop
            insert into s(g, n) select (random() * 9)::int, (random() * 100)::int from generate_series(1, 5);
            update s set n = n + 1, g = (g + 1) % 10 where k = (select max(k) - (random() * 20)::int from s);
            delete from s where k = (select min(k) from s);
            if random() < 0.1 then update d set name = name || '.' where g = (random() * 9)::int; end if;
            if random() < 0.2 then rollback; else commit; end if;
         end loop; end $$"
    )
}

fn everything_is_right(db: &Database<'_>, tables: &[StreamTable]) {
    let mut s = db.connect();
    for v in tables {
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
    }
    // And it goes on differentially, by itself.
    s.exec("insert into s(g, n) values (3, 1000)");
    db.wait_until("select high = 1000 from grouped where g = 3");
    s.exec("delete from s where n = 1000");
    for v in tables {
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
    }
}

#[test]
fn postmaster_is_killed_under_load() {
    let server = Server::start();
    let db = server.database();
    let tables = setup(&mut db.connect());
    for round in 1..=4_u32 {
        let writers: Vec<_> = (0..2)
            .map(|i| db.connect().spawn(&load(round * 10 + i)))
            .collect();
        let floor = db
            .connect()
            .number("select coalesce(sum(c), 0) from grouped");
        db.wait_until(&format!(
            "select sum(c) > {floor} + {} from grouped",
            7 * round
        ));
        server.kill_postmaster();
        for writer in writers {
            let _ = writer.finish();
        }
        server.up();
        everything_is_right(&db, &tables);
    }
}

#[test]
fn workers_are_killed_under_load() {
    let server = Server::start();
    let db = server.database();
    let tables = setup(&mut db.connect());
    for round in 1..=4_u32 {
        let writers: Vec<_> = (0..2)
            .map(|i| db.connect().spawn(&load(round * 10 + i)))
            .collect();
        let mut s = db.connect();
        let floor = s.number("select coalesce(sum(c), 0) from grouped");
        db.wait_until(&format!(
            "select sum(c) > {floor} + {} from grouped",
            5 * round
        ));
        let workers = "select pid from pg_stat_activity where backend_type like 'pg_trickle%' order by random() limit 1";
        let pid = i32::try_from(s.number(workers)).expect("pid");
        server.kill_worker(pid);
        for writer in writers {
            let _ = writer.finish();
        }
        server.wait_ready();
        everything_is_right(&db, &tables);
    }
}

/// Workers that are terminated politely come back without a restart of the server.
#[test]
fn terminated_workers_come_back() {
    let server = Server::start();
    let db = server.database();
    let tables = setup(&mut db.connect());
    for _ in 0..3 {
        let mut s = db.connect();
        s.exec("insert into s(g, n) select i % 10, i from generate_series(1, 50) i");
        s.exec("select pg_terminate_backend(pid) from pg_stat_activity where backend_type like 'pg_trickle%'");
        everything_is_right(&db, &tables);
    }
}

#[test]
fn immediate_shutdown_under_load() {
    let server = Server::builder().guc("fsync", "on").start();
    let db = server.database();
    let tables = setup(&mut db.connect());
    for round in 1..=2 {
        let writer = db.connect().spawn(&load(round));
        db.wait_until(&format!("select count(*) > {} from s", 20 * round));
        server.stop("immediate");
        let _ = writer.finish();
        server.up();
        everything_is_right(&db, &tables);
    }
}

/// An unlogged source is empty after a crash; so is what was derived from it.
#[test]
fn unlogged_source_is_emptied_by_a_crash() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    s.exec(
        "create unlogged table u (k int primary key, n int); create table s (k int primary key)",
    );
    let v = s.stream_table("v", "select k, n from u");
    let both = s.stream_table("w", "select u.k from u join s on u.k = s.k");
    s.exec("insert into u values (1, 1), (2, 2); insert into s values (1), (2)");
    v.follows(&mut s);
    both.follows(&mut s);
    s.exec("insert into u values (3, 3)");
    drop(s);
    server.kill_postmaster();
    server.up();
    let mut s = db.connect();
    assert_eq!(s.value("select count(*) from u"), "0");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    both.refresh(&mut s);
    both.assert_fresh(&mut s);
    s.exec("insert into u values (9, 9)");
    v.follows(&mut s);
}

#[test]
fn prepared_transaction_survives_a_crash() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table_with("v", "select k from s", "schedule => '100ms'");
    s.exec("begin; insert into s values (1); prepare transaction 'p'");
    s.exec("insert into s values (2)");
    db.wait_until("select count(*) = 1 from v");
    drop(s);
    server.kill_postmaster();
    server.up();
    let mut s = db.connect();
    s.exec("insert into s values (3)");
    db.wait_until("select count(*) = 2 from v");
    s.exec("commit prepared 'p'");
    db.wait_until("select count(*) = 3 from v");
    v.assert_fresh(&mut s);
}

/// The scheduler is there again soon after a crash, with nobody connecting to wake it.
#[test]
fn pending_changes_are_refreshed_after_a_crash_without_a_commit() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    s.stream_table_with("v", "select count(*) as c from s", "schedule => '1s'");
    s.exec("insert into s values (1)");
    drop(s);
    server.kill_postmaster();
    server.up();
    db.wait_until("select c = 1 from v");
    let started = Instant::now();
    server.kill_postmaster();
    server.up();
    db.wait_until(
        "select exists (select from pg_stat_activity where backend_type like 'pg_trickle%')",
    );
    assert!(started.elapsed() < Duration::from_secs(60));
}
