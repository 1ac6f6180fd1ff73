//! Readers see one moment, whatever fails, waits or changes meanwhile.

use super::*;

/// Reads `b`, `c` and `d` in one statement while the writers run, and looks for a mixture.
fn watch(s: &mut Session, writers: &[pgt_tests::Running]) -> usize {
    let mut states = std::collections::BTreeSet::new();
    while !writers.iter().all(pgt_tests::Running::is_finished) {
        states.insert(state(s));
    }
    states.len()
}

/// A session that changes `s` and commits, `rounds` times.
fn writer(db: &Database<'_>, number: usize, rounds: usize) -> pgt_tests::Running {
    db.connect().spawn(&format!(
        "do $$ begin for i in 1..{rounds} loop
            insert into s values ({number} * 100000 + i, i % 3, i);
            update s set n = n + 1 where k between {number} * 100000 + i - 3 and {number} * 100000 + i;
            if i % 5 = 0 then delete from s where k = {number} * 100000 + i - 2; end if;
            commit; perform pg_sleep(0.005);
         end loop; end $$"
    ))
}

#[test]
fn readers_see_one_moment_while_others_write() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let writers = [writer(&db, 1, 200), writer(&db, 2, 200)];
    let seen = watch(&mut s, &writers);
    assert!(seen > 3, "they moved on meanwhile: {seen} states");
    for writer in writers {
        writer.join();
    }
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn failing_branch_leaves_all_members_as_they_were() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("alter table s add zero int not null default 1");
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let b = s.stream_table_with("b", B, arguments);
    let c = s.stream_table_with("c", "select k, n * 2 / zero as m from s", arguments);
    let d = s.stream_table_with("d", D, arguments);
    s.stream_table_with(
        "often",
        "select count(*) as c from s",
        "schedule => '100ms'",
    );
    for round in 0..2 {
        s.exec("update s set zero = 0 where k = 1");
        db.wait_until("select status = 'ERROR' from pgtrickle.pgt_stream_tables where pgt_relid = 'c'::regclass");
        let before = state(&mut s);
        let before_epoch = epoch(&mut s);
        let writers = [
            writer(&db, round * 10 + 1, 40),
            writer(&db, round * 10 + 2, 40),
        ];
        let seen = watch(&mut s, &writers);
        assert!(seen <= 1, "none of them moves: {seen} states");
        for writer in writers {
            writer.join();
        }
        db.wait_until("select c = (select count(*) from s) from often");
        assert_eq!(state(&mut s), before);
        assert_eq!(epoch(&mut s), before_epoch);
        for name in ["b", "d"] {
            let refused = s.error(
                "55000",
                &format!("select pgtrickle.refresh_stream_table('{name}')"),
            );
            assert!(refused.hint.is_some(), "{refused}");
        }
        s.error("22012", "select pgtrickle.refresh_stream_table('c')");
        assert_eq!(state(&mut s), before);
        s.exec("update s set zero = 1 where k = 1; select pgtrickle.resume_stream_table('c')");
        wait_current(&db);
    }
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn violated_constraint_of_a_member_holds_the_group() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.exec("alter table d add constraint small check (m < 1000)");
    s.exec("insert into s values (10, 1, 1), (11, 1, 600)");
    for table in &tables {
        s.error(
            "23514",
            &format!("select pgtrickle.refresh_stream_table('{}')", table.name()),
        );
        assert!(state(&mut s).starts_with("9:"));
    }
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    db.wait_until(
        "select status = 'ERROR' from pgtrickle.pgt_stream_tables where pgt_relid = 'd'::regclass",
    );
    assert!(state(&mut s).starts_with("9:"));
    s.exec("alter table d drop constraint small; select pgtrickle.resume_stream_table('d')");
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn paused_member_holds_the_group() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(&mut s, ATOMIC);
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    s.exec("create table ticks (k serial primary key)");
    s.stream_table_with(
        "clock",
        "select count(*) as c from ticks",
        "schedule => '100ms'",
    );
    let let_time_pass = |s: &mut Session| {
        for _ in 0..3 {
            s.exec("insert into ticks default values");
            db.wait_until("select c = (select count(*) from ticks) from clock");
        }
    };
    for (paused, others) in [("b", ["c", "d"]), ("c", ["b", "d"]), ("d", ["b", "c"])] {
        s.exec(&format!("select pgtrickle.pause_stream_table('{paused}')"));
        let_time_pass(&mut s);
        let before = state(&mut s);
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        let_time_pass(&mut s);
        for name in others {
            let refused = s.error(
                "55000",
                &format!("select pgtrickle.refresh_stream_table('{name}')"),
            );
            assert!(
                refused
                    .hint
                    .as_deref()
                    .is_some_and(|hint| hint.contains("resume_stream_table")),
                "{refused}"
            );
        }
        assert_eq!(state(&mut s), before, "{paused} is paused");
        s.exec(&format!("select pgtrickle.resume_stream_table('{paused}')"));
        wait_current(&db);
    }
    all_fresh(&mut s, &tables);
}

#[test]
fn members_do_not_suffer_from_the_pause_of_another() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let load = writer(&db, 1, 150);
    while !load.is_finished() {
        s.exec("select pgtrickle.pause_stream_table('c')");
        s.exec("select pgtrickle.resume_stream_table('c')");
    }
    load.join();
    assert_eq!(
        s.lines("select error_message from pgtrickle.pgt_refresh_history where error_message is not null"),
        [""; 0]
    );
    wait_current(&db);
    all_fresh(&mut s, &tables);
}

#[test]
fn truncate_and_changed_definition_of_a_branch_do_not_mix() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let load = db.connect().spawn(
        "do $$ begin for i in 1..12 loop
            truncate s; commit;
            insert into s select x, x % 3, x + i from generate_series(1, 20 + i) x; commit; perform pg_sleep(0.03);
         end loop; end $$",
    );
    watch(&mut s, &[load]);
    wait_current(&db);
    s.exec(
        "select pgtrickle.alter_stream_table('c', query => 'select k, n + n as m from public.s')",
    );
    s.exec("insert into s values (1000, 1, 1)");
    wait_current(&db);
    let c = StreamTable::new("c", "select k, n + n as m from s");
    all_fresh(&mut s, &[tables[0].clone(), c, tables[2].clone()]);
}

#[test]
fn columns_that_come_and_go_do_not_mix_moments() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let b = s.stream_table_with("b", B, arguments);
    let c = s.stream_table_with(
        "c",
        "select g, sum(n) as total, count(*) as c from s group by g",
        arguments,
    );
    let d = s.stream_table_with(
        "d",
        "select (select sum(n) from b) as x, (select sum(total) from c) as y",
        arguments,
    );
    let load = db.connect().spawn(
        "do $$ begin for i in 1..50 loop
            insert into s values (1000 + i, i % 4, i); commit;
            if i % 10 = 5 then alter table s add extra int default 1; commit; end if;
            if i % 10 = 0 then alter table s drop extra; commit; end if;
            perform pg_sleep(0.01);
         end loop; end $$",
    );
    while !load.is_finished() {
        assert_eq!(
            s.lines(
                "select x = y, x = (select sum(n) from b), y = (select sum(total) from c) from d"
            ),
            ["t|t|t"]
        );
    }
    load.join();
    b.catches_up(&mut s);
    c.catches_up(&mut s);
    d.catches_up(&mut s);
}

/// What the session knew of `b` from before there was a group is forgotten while it waits for the group to be made.
#[test]
fn refresh_that_waited_for_a_new_group_is_one_of_the_group() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let b = s.stream_table_with("b", B, ATOMIC);
    let c = s.stream_table_with("c", C, ATOMIC);
    let mut waiting = db.connect();
    b.refresh(&mut waiting);
    s.exec("begin");
    let d = s.stream_table_with("d", D, ATOMIC);
    db.connect().exec("insert into s values (10, 1, 1)");
    let refresh = waiting.spawn("select pgtrickle.refresh_stream_table('b')");
    db.wait_blocked(refresh.pid());
    s.exec("select pgtrickle.clear_caches()");
    s.exec("commit");
    refresh.join();
    is_current(&mut s);
    all_fresh(&mut s, &[b, c, d]);
}

/// A diamond of which the refresh of `c` waits for the gatekeeper.
fn slow_diamond(db: &Database<'_>, s: &mut Session) -> (Session, [StreamTable; 3]) {
    source(s);
    let keeper = gatekeeper(db);
    let b = s.stream_table_with("b", B, ATOMIC);
    let c = s.stream_table_with(
        "c",
        "select k, held(n) * 2 as m from s",
        &format!("{ATOMIC}, refresh_mode => 'FULL'"),
    );
    let d = s.stream_table_with("d", D, ATOMIC);
    (keeper, [b, c, d])
}

const HOLD: &str = "select pg_advisory_lock(4711)";
const LET_GO: &str = "select pg_advisory_unlock(4711)";

/// The state of `c` is changed by another transaction after the snapshot of the refresh and before its end: under that
/// snapshot the state from before and the one the refresh leaves are both to be seen.
#[test]
fn failure_counted_while_the_group_is_refreshed_hides_nothing() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, [b, c, d]) = slow_diamond(&db, &mut s);
    let over = s.stream_table_with("over", "select count(*) as n, sum(m) as m from c", ATOMIC);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let refresh = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('over')");
    db.wait_blocked(refresh.pid());
    // As a worker does whose refresh has failed.
    s.exec(
        "update pgtrickle.pgt_refresh_state set consecutive_errors = 1, retry_at = now()
         where pgt_id = (select pgt_id from pgtrickle.pgt_stream_tables where pgt_relid = 'c'::regclass)",
    );
    keeper.exec(LET_GO);
    refresh.join();
    is_current(&mut s);
    s.exec("insert into s values (11, 1, 1)");
    for table in [&over, &d] {
        table.follows(&mut s);
    }
    all_fresh(&mut s, &[b, c, d, over]);
}

#[test]
fn members_are_dropped_while_their_group_is_refreshed() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, [b, c, _]) = slow_diamond(&db, &mut s);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let refresh = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('b')");
    db.wait_blocked(refresh.pid());
    let dropping = db
        .connect()
        .spawn("select pgtrickle.drop_stream_table('d')");
    db.wait_blocked(dropping.pid());
    keeper.exec(LET_GO);
    refresh.join();
    dropping.join();
    assert!(groups(&mut s).is_empty());
    assert_eq!(s.value("select to_regclass('d') is null"), "t");
    s.exec("insert into s values (11, 1, 1)");
    b.follows_somehow(&mut s);
    assert_eq!(s.lines("select count(*) from c"), ["10"]);
    c.follows_somehow(&mut s);
}

#[test]
fn members_are_altered_while_their_group_is_refreshed() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, [b, c, d]) = slow_diamond(&db, &mut s);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let refresh = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('d')");
    db.wait_blocked(refresh.pid());
    let altering = db.connect().spawn(
        "select pgtrickle.alter_stream_table('b', query => 'select k, n + 0 as n from public.s')",
    );
    db.wait_blocked(altering.pid());
    keeper.exec(LET_GO);
    refresh.join();
    altering.join();
    is_current(&mut s);
    s.exec("update s set n = n + 1");
    b.refresh(&mut s);
    is_current(&mut s);
    all_fresh(&mut s, &[b, c, d]);
}

#[test]
fn refresh_that_waited_for_a_dropped_member_goes_on_without_it() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let [b, c, _] = diamond(&mut s, ATOMIC);
    s.exec("insert into s values (10, 1, 1)");
    s.exec("begin; select pgtrickle.drop_stream_table('d')");
    let waiting = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('b')");
    db.wait_blocked(waiting.pid());
    s.exec("commit");
    waiting.join();
    b.assert_equal(&mut s);
    all_fresh(&mut s, &[b, c]);
}

#[test]
fn worker_that_waited_for_a_dropped_member_goes_on_without_it() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let [b, c, _] = diamond(&mut s, ATOMIC);
    s.exec("select pgtrickle.alter_stream_table('b', schedule => '100ms')");
    let mut dropping = db.connect();
    dropping.exec("begin; select pgtrickle.drop_stream_table('d')");
    // One that knows nothing of the members yet.
    s.exec("select pg_terminate_backend(pid, 10000) from pgtrickle.worker_pool_status() where kind = 'worker'");
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until("select exists (select from pg_stat_activity where datname = current_database() and backend_type = 'pg_trickle worker' and wait_event_type = 'Lock')");
    dropping.exec("commit");
    db.wait_until("select workers_active = 0 from pgtrickle.cluster_worker_summary() where db_name = current_database()");
    assert_eq!(
        s.lines("select name, status from pgtrickle.pgt_status() order by 1"),
        ["public.b|ACTIVE", "public.c|ACTIVE"]
    );
    b.catches_up(&mut s);
    c.follows(&mut s);
}

#[test]
fn refreshes_of_different_members_do_not_deadlock() {
    let db = database();
    let mut s = db.connect();
    let (mut keeper, tables) = slow_diamond(&db, &mut s);
    keeper.exec(HOLD);
    s.exec("insert into s values (10, 1, 1)");
    let first = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('d')");
    db.wait_blocked(first.pid());
    let others = ["c", "b", "d"].map(|name| {
        let running = db
            .connect()
            .spawn(&format!("select pgtrickle.refresh_stream_table('{name}')"));
        db.wait_blocked(running.pid());
        running
    });
    keeper.exec(LET_GO);
    first.join();
    let failed: Vec<SqlError> = others
        .into_iter()
        .filter_map(|running| running.finish().1.err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    all_fresh(&mut s, &tables);
}

#[test]
fn people_and_the_scheduler_refresh_a_diamond_together() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let tables = diamond(
        &mut s,
        "schedule => 'continuous', diamond_consistency => 'atomic'",
    );
    let load = writer(&db, 1, 100);
    let people: Vec<_> = tables
        .iter()
        .map(|table| {
            db.connect().spawn(&format!(
                "do $$ begin for i in 1..40 loop perform pgtrickle.refresh_stream_table('{}'); commit; end loop; end $$",
                table.name()
            ))
        })
        .collect();
    let failed: Vec<SqlError> = people
        .into_iter()
        .filter_map(|running| running.finish().1.err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    load.join();
    wait_current(&db);
    assert_eq!(
        s.lines("select name, status from pgtrickle.pgt_status() where status <> 'ACTIVE'"),
        [""; 0]
    );
    assert_eq!(
        s.lines("select error_message from pgtrickle.pgt_refresh_history where error_message is not null"),
        [""; 0]
    );
    all_fresh(&mut s, &tables);
}
