//! Refresh workers: how many there are, whose they are, and that nothing is lost when they or definitions come and go.

use pgt_tests::{Database, Server, Session, StreamTable, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

const PIDS: &str = "select coalesce(string_agg(pid::text, ' ' order by pid), '') from pgtrickle.worker_pool_status() where kind = 'worker'";

/// A stream table of this name whose refresh waits while somebody has advisory lock 4711.
fn slow(s: &mut Session, name: &str) -> StreamTable {
    s.exec(
        "create or replace function held(n int) returns int language plpgsql volatile as $$ begin
            perform pg_advisory_xact_lock_shared(4711); return n; end $$",
    );
    s.stream_table_with(
        name,
        "select k, held(n) as n from s",
        "schedule => '100ms', refresh_mode => 'FULL'",
    )
}

const HOLD: &str = "select pg_advisory_lock(4711)";
const LET_GO: &str = "select pg_advisory_unlock(4711)";

/// Workers of this database that wait for the advisory lock.
const HELD: &str = "select pid from pg_stat_activity where datname = current_database() and backend_type = 'pg_trickle worker' and wait_event = 'advisory'";

#[test]
fn pool_of_four_stays_the_same_four() {
    let server = Server::builder()
        .guc("pg_trickle.worker_pool_size", "4")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let tables: Vec<StreamTable> = (0..6)
        .map(|number| {
            s.stream_table_with(
                &format!("v{number}"),
                &format!("select k, n + {number} as n from s"),
                "schedule => 'continuous', refresh_mode => 'DIFFERENTIAL'",
            )
        })
        .collect();
    db.wait_until("select count(*) = 4 from pgtrickle.worker_pool_status() where kind = 'worker'");
    let before = s.value(PIDS);
    let load = db.connect().spawn(
        "do $$ begin
            while (select count(*) from pgtrickle.pgt_refresh_history where initiated_by = 'SCHEDULER') < 400 loop
                update s set n = n + 1 where k = 1; commit; perform pg_sleep(0.005);
            end loop; end $$",
    );
    load.join();
    assert_eq!(s.value(PIDS), before);
    for table in &tables {
        table.catches_up(&mut s);
        table.assert_mode(&mut s, "DIFFERENTIAL");
    }
    assert_eq!(
        s.lines("select workers_used, workers_quota from pgtrickle.worker_allocation_status()"),
        ["4|4"]
    );
}

#[test]
fn pool_grows_with_its_setting() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("insert into s values (10, 1, 1)");
    v.catches_up(&mut s);
    let before = s.value(PIDS);
    server.configure_guc("pg_trickle.worker_pool_size", "3");
    server.reload();
    db.wait_until("select count(*) = 3 from pgtrickle.worker_pool_status() where kind = 'worker'");
    assert!(
        s.value(PIDS).split(' ').any(|pid| pid == before),
        "the one there was stays"
    );
    s.exec("insert into s values (11, 1, 1)");
    v.catches_up(&mut s);
}

#[test]
fn without_a_pool_workers_come_on_demand() {
    let server = Server::builder()
        .guc("pg_trickle.worker_pool_size", "0")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("select pgtrickle.create_stream_table('v', 'select k, n from s', schedule => '100ms'), pgtrickle.pause_stream_table('v')");
    db.wait_until(
        "select exists (select from pgtrickle.worker_pool_status() where kind = 'scheduler')",
    );
    assert_eq!(s.value(PIDS), "");
    s.exec("insert into s values (10, 1, 1); select pgtrickle.resume_stream_table('v')");
    StreamTable::new("v", "select k, n from s").catches_up(&mut s);
    assert_ne!(s.value(PIDS), "");
}

#[test]
fn databases_that_share_one_worker_all_make_progress() {
    let server = Server::builder()
        .guc("pg_trickle.max_dynamic_refresh_workers", "1")
        .start();
    let dbs: Vec<Database<'_>> = (0..3).map(|_| server.database()).collect();
    let tables: Vec<StreamTable> = dbs
        .iter()
        .map(|db| {
            let mut s = db.connect();
            source(&mut s);
            s.stream_table_with("v", "select k, n from s", "schedule => 'continuous'")
        })
        .collect();
    // The first is never out of work.
    let load = dbs[0].connect().spawn(
        "do $$ begin loop update s set n = n + 1 where k = 1; commit; perform pg_sleep(0.002); end loop; end $$",
    );
    let mut sessions: Vec<Session> = dbs.iter().map(Database::connect).collect();
    for (session, table) in sessions.iter_mut().zip(&tables).skip(1) {
        session.exec("insert into s values (100, 1, 1)");
        table.catches_up(session);
    }
    assert!(
        sessions[0].number("select sum(workers_used) from pgtrickle.worker_allocation_status()")
            <= 1
    );
    // Every database sees all of them.
    let mut names: Vec<String> = dbs.iter().map(|db| db.name().to_string()).collect();
    names.sort();
    for session in &mut sessions {
        let list = |column: &str| format!("select {column} from pgtrickle");
        let allocated = session.lines(&format!("{}.worker_allocation_status()", list("db_name")));
        assert_eq!(allocated, names);
        let summed = session.lines(&format!("{}.cluster_worker_summary()", list("db_name")));
        assert_eq!(summed, names);
        assert_eq!(
            session.lines("select distinct quota, d.oid is not null from pgtrickle.cluster_worker_summary() c left join pg_database d on d.oid = c.db_oid and d.datname = c.db_name"),
            ["1|t"]
        );
    }
    load.cancel();
    let (mut first, _) = load.finish();
    tables[0].catches_up(&mut first);
}

#[test]
fn database_may_use_what_others_leave_but_not_keep_it() {
    let server = Server::builder()
        .guc("pg_trickle.max_dynamic_refresh_workers", "2")
        .guc("pg_trickle.per_database_worker_quota", "1")
        .start();
    let greedy = server.database();
    let modest = server.database();
    let mut g = greedy.connect();
    let mut m = modest.connect();
    source(&mut g);
    source(&mut m);
    let tables: Vec<StreamTable> = ["v1", "v2", "v3"]
        .iter()
        .map(|name| slow(&mut g, name))
        .collect();
    let v = m.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    v.catches_up(&mut m);
    g.exec("insert into s values (10, 1, 1)");
    for table in &tables {
        table.catches_up(&mut g);
    }
    let mut keeper = greedy.connect();
    keeper.exec(HOLD);
    g.exec("insert into s values (11, 1, 1)");
    greedy.wait_until(&format!("select count(*) = 2 from ({HELD}) x"));
    let line = "select workers_active, workers_queued, quota, quota_utilization_pct from pgtrickle.cluster_worker_summary() where db_name =";
    modest.wait_until(&format!(
        "select workers_active = 2 and workers_queued >= 1 and quota = 1 and quota_utilization_pct = 200 from ({line} '{}') x",
        greedy.name()
    ));
    m.exec("insert into s values (10, 1, 1)");
    greedy.wait_until(&format!(
        "select workers_active = 0 and workers_queued = 1 from ({line} '{}') x",
        modest.name()
    ));
    assert_eq!(
        m.number("select count(*) from v"),
        9,
        "both workers are busy"
    );
    // From now on the greedy one always has work for two.
    let load = greedy.connect().spawn(
        "do $$ begin loop update s set n = n + 1 where k = 1; commit; perform pg_sleep(0.002); end loop; end $$",
    );
    keeper.exec(LET_GO);
    v.catches_up(&mut m);
    for key in 11..14 {
        m.exec(&format!("insert into s values ({key}, 1, 1)"));
        v.catches_up(&mut m);
    }
    load.cancel();
    let _ = load.finish();
    for table in &tables {
        table.catches_up(&mut g);
    }
}

#[test]
fn refresh_whose_worker_is_terminated_is_repeated() {
    // With one worker there is no progress unless its place becomes free.
    let server = Server::builder()
        .guc("pg_trickle.max_dynamic_refresh_workers", "1")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = slow(&mut s, "v");
    let w = s.stream_table_with(
        "w",
        "select g, sum(n) as total from s group by g",
        "schedule => '100ms'",
    );
    let mut keeper = db.connect();
    for key in 100..103 {
        keeper.exec(HOLD);
        s.exec(&format!("insert into s values ({key}, 1, 1)"));
        db.wait_until(&format!("select count(*) = 1 from ({HELD}) x"));
        s.exec(&format!("select pg_terminate_backend(pid) from ({HELD}) x"));
        keeper.exec(LET_GO);
        v.catches_up(&mut s);
        w.catches_up(&mut s);
    }
    db.wait_until(
        "select workers_used <= 1 and workers_queued = 0 from pgtrickle.worker_allocation_status()",
    );
    assert_eq!(
        s.lines("select name, status, consecutive_errors from pgtrickle.pgt_status() order by 1"),
        ["public.v|ACTIVE|0", "public.w|ACTIVE|0"]
    );
}

#[test]
fn refresh_that_is_cancelled_is_repeated() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = slow(&mut s, "v");
    let mut keeper = db.connect();
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until(&format!("select count(*) = 1 from ({HELD}) x"));
    s.exec(&format!("select pg_cancel_backend(pid) from ({HELD}) x"));
    db.wait_until("select exists (select from pgtrickle.get_refresh_history('v') where status = 'FAILED' and error_message is not null)");
    keeper.exec(LET_GO);
    v.catches_up(&mut s);
    assert_eq!(
        s.lines("select status, consecutive_errors from pgtrickle.pgt_status()"),
        ["ACTIVE|0"]
    );
}

#[test]
fn scheduler_that_is_terminated_comes_back() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = slow(&mut s, "v");
    let w = s.stream_table_with(
        "w",
        "select count(*) as c from s",
        "schedule => 'continuous'",
    );
    let mut keeper = db.connect();
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until(&format!("select count(*) = 1 from ({HELD}) x"));
    w.catches_up(&mut s);
    s.exec("select pg_terminate_backend(pid) from pgtrickle.worker_pool_status() where kind = 'scheduler'");
    s.exec("insert into s values (11, 1, 1)");
    keeper.exec(LET_GO);
    w.catches_up(&mut s);
    v.catches_up(&mut s);
    s.exec("insert into s values (12, 1, 1)");
    w.catches_up(&mut s);
    v.catches_up(&mut s);
}

#[test]
fn launcher_that_is_terminated_comes_back() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    v.catches_up(&mut s);
    s.exec("select pg_terminate_backend(pid, 10000) from pgtrickle.worker_pool_status() where kind = 'launcher'");
    // Schedulers need none, and a new database gets its own once it is back.
    s.exec("insert into s values (10, 1, 1)");
    v.catches_up(&mut s);
    let late = server.database();
    let mut s = late.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("insert into s values (10, 1, 1)");
    v.catches_up(&mut s);
}

#[test]
fn diamond_whose_worker_is_terminated_is_repeated_whole() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec(
        "create function held(n int) returns int language plpgsql volatile as $$ begin
            perform pg_advisory_xact_lock_shared(4711); return n; end $$",
    );
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let b = s.stream_table_with("b", "select k, n from s", arguments);
    let c = s.stream_table_with(
        "c",
        "select k, held(g) as g from s",
        &format!("{arguments}, refresh_mode => 'FULL'"),
    );
    let d = s.stream_table_with(
        "d",
        "select b.k, b.n, c.g from b join c on c.k = b.k",
        arguments,
    );
    let mut keeper = db.connect();
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until(&format!("select count(*) = 1 from ({HELD}) x"));
    s.exec(&format!("select pg_terminate_backend(pid) from ({HELD}) x"));
    let state =
        "select (select count(*) from b), (select count(*) from c), (select count(*) from d)";
    assert_eq!(s.lines(state), ["9|9|9"]);
    keeper.exec(LET_GO);
    db.wait_until("select count(*) = 10 from d");
    assert_eq!(s.lines(state), ["10|10|10"]);
    for table in [b, c, d] {
        table.assert_fresh(&mut s);
    }
}

#[test]
fn definitions_come_and_go_while_others_are_refreshed() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let stop = db.connect().spawn(
        "do $$ begin loop update s set n = n + 1 where k = 1 + (random() * 8)::int; commit; perform pg_sleep(0.005); end loop; end $$",
    );
    // Each session defines 25, and drops or alters some of them again.
    let definers: Vec<_> = (0..4)
        .map(|number| {
            db.connect().spawn(&format!(
                "do $$ begin for i in 1..25 loop
                    perform pgtrickle.create_stream_table('v{number}_' || i, 'select k, n + ' || i || ' as n from public.s', schedule => '100ms'); commit;
                    if i % 3 = 0 then perform pgtrickle.drop_stream_table('v{number}_' || i); commit; end if;
                    if i % 5 = 1 and i % 3 <> 0 then perform pgtrickle.alter_stream_table('v{number}_' || i, schedule => 'continuous'); commit; end if;
                    if i % 7 = 2 and i % 3 <> 1 then perform pgtrickle.create_stream_table('w{number}_' || i, 'select n from public.v{number}_' || i - 1, schedule => '200ms'); commit; end if;
                 end loop; end $$"
            ))
        })
        .collect();
    let failed: Vec<_> = definers
        .into_iter()
        .filter_map(|running| running.finish().1.err())
        .collect();
    stop.cancel();
    let _ = stop.finish();
    assert!(failed.is_empty(), "{failed:?}");
    // Of each 25 every third is gone.
    let names = s.lines("select name from pgtrickle.pgt_status() order by 1");
    assert_eq!(names.iter().filter(|name| name.contains(".v")).count(), 68);
    s.exec("update s set n = n + 1");
    db.wait_until("select sum(n) = (select sum(n + 25) from s) from v3_25");
    for name in names {
        let column = s.value(&format!(
            "select pg_get_viewdef(def_view, true) from pgtrickle.pgt_stream_tables where pgt_relid = '{name}'::regclass"
        ));
        let query = column.trim_end_matches(';');
        StreamTable::new(&name, query).catches_up(&mut s);
    }
    assert_eq!(
        s.lines("select error_message from pgtrickle.pgt_refresh_history where error_message is not null"),
        [""; 0]
    );
}

#[test]
fn definitions_that_are_rolled_back_leave_the_scheduler_right() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table ticks (k serial primary key)");
    s.stream_table_with(
        "clock",
        "select count(*) as c from ticks",
        "schedule => '100ms'",
    );
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    let rare = s.stream_table("rare", "select k, g from s");
    let make = "select pgtrickle.create_stream_table('w', 'select count(*) as c from s', schedule => '100ms')";
    for change in [
        make,
        "select pgtrickle.drop_stream_table('v')",
        "drop table v",
        "select pgtrickle.alter_stream_table('v', schedule => '1d')",
        "select pgtrickle.alter_stream_table('v', query => 'select k, g as n from public.s')",
        "select pgtrickle.alter_stream_table('v', tier => 'frozen')",
        "select pgtrickle.pause_stream_table('v')",
        "select pgtrickle.alter_stream_table('rare', schedule => '100ms')",
    ] {
        s.exec(&format!("begin; {change}; rollback"));
        s.exec(&format!("begin; savepoint a; {change}; rollback to a; insert into s select max(k) + 1, 1, 1 from s; commit"));
        v.catches_up(&mut s);
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        v.catches_up(&mut s);
    }
    // What follows a rolled-back part of the same transaction counts.
    s.exec(&format!(
        "begin; savepoint a; {make}; rollback to a; {make}; commit"
    ));
    s.exec("insert into s select max(k) + 1, 1, 1 from s");
    StreamTable::new("w", "select count(*) as c from s").catches_up(&mut s);
    s.exec("begin; savepoint a; select pgtrickle.pause_stream_table('v'); release a; savepoint b; select pgtrickle.resume_stream_table('v'); rollback to b; commit");
    s.exec("insert into s select max(k) + 1, 1, 1 from s");
    for _ in 0..4 {
        s.exec("insert into ticks default values");
        db.wait_until("select c = (select count(*) from ticks) from clock");
    }
    assert_eq!(
        s.number("select count(*) from s") - s.number("select count(*) from v"),
        1,
        "v is paused"
    );
    assert_eq!(
        s.number("select count(*) from rare"),
        9,
        "nor is rare refreshed"
    );
    s.exec("select pgtrickle.resume_stream_table('v')");
    v.catches_up(&mut s);
    rare.assert_fresh(&mut s);
}

#[test]
fn one_commit_is_noticed_by_readers_of_different_schedules() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables: Vec<StreamTable> = ["continuous", "100ms", "700ms", "* * * * * *", "calculated"]
        .iter()
        .enumerate()
        .map(|(number, schedule)| {
            s.stream_table_with(
                &format!("v{number}"),
                "select k, n from s",
                &format!("schedule => '{schedule}'"),
            )
        })
        .collect();
    for round in 0..3 {
        // The second commit may come while the first is being refreshed.
        s.exec("update s set n = n + 1");
        s.exec(&format!("insert into s values (100 + {round}, 1, 1)"));
        for table in &tables {
            table.catches_up(&mut s);
        }
    }
}

#[test]
fn number_of_refreshes_at_a_time_is_limited() {
    let server = Server::builder()
        .guc("pg_trickle.max_concurrent_refreshes", "2")
        .guc("pg_trickle.max_dynamic_refresh_workers", "8")
        .start();
    let db = server.database();
    let mut s = db.connect();
    source(&mut s);
    let tables: Vec<StreamTable> = ["v1", "v2", "v3", "v4"]
        .iter()
        .map(|name| slow(&mut s, name))
        .collect();
    let mut keeper = db.connect();
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until(&format!("select count(*) = 2 from ({HELD}) x"));
    db.wait_until("select workers_queued = 2 from pgtrickle.worker_allocation_status()");
    assert_eq!(s.number(&format!("select count(*) from ({HELD}) x")), 2);
    // One worker more, as soon as the setting says so.
    server.configure_guc("pg_trickle.max_concurrent_refreshes", "3");
    server.reload();
    db.wait_until(&format!("select count(*) = 3 from ({HELD}) x"));
    keeper.exec(LET_GO);
    for table in &tables {
        table.catches_up(&mut s);
    }
}
