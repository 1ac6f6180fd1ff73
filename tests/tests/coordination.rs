//! What has to wait and what stops: gates, watermarks, fuses, tiers, draining, pausing.

use pgt_tests::{Database, Server, Session, StreamTable, database};

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

/// A stream table that is refreshed many times a second, by whose refreshes others can see that time passes.
fn clock(s: &mut Session) {
    s.exec("create table ticks (k serial primary key)");
    s.stream_table_with(
        "clock",
        "select count(*) as c from ticks",
        "schedule => '100ms'",
    );
}

/// Returns after the scheduler has refreshed something else three times.
fn let_time_pass(db: &Database<'_>, s: &mut Session) {
    for _ in 0..3 {
        s.exec("insert into ticks default values");
        db.wait_until("select c = (select count(*) from ticks) from clock");
    }
}

#[track_caller]
fn must_wait(s: &mut Session, name: &str) {
    let refused = s.error(
        "55000",
        &format!("select pgtrickle.refresh_stream_table('{name}')"),
    );
    assert!(refused.hint.is_some(), "{refused}");
}

fn held(s: &mut Session) -> Vec<String> {
    s.lines(
        "select pgt_relid from pgtrickle.pgt_stream_tables join pgtrickle.pgt_held using (pgt_id) order by pgt_relid::text",
    )
}

// ------------------------------------------------------------------------------------------------ gates

#[test]
fn gate_holds_the_scheduler_and_people() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    clock(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => 'continuous'");
    s.exec("insert into s values (10, 1, 1)");
    v.catches_up(&mut s);
    s.exec("select pgtrickle.gate_source('s'), pgtrickle.gate_source('public.s')");
    assert_eq!(
        s.lines("select source, gated_by, holds from pgtrickle.source_gates()"),
        ["public.s|postgres|1"]
    );
    s.exec("insert into s values (11, 1, 1)");
    let_time_pass(&db, &mut s);
    assert_eq!(s.number("select count(*) from v"), 10);
    must_wait(&mut s, "v");
    assert_eq!(s.number("select count(*) from v"), 10);
    s.exec("select pgtrickle.ungate_source('s')");
    assert!(
        s.lines("select source from pgtrickle.source_gates()")
            .is_empty()
    );
    v.catches_up(&mut s);
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

#[test]
fn gate_holds_what_reads_through_a_held_stream_table() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    clock(&mut s);
    s.exec("create table t (k int primary key)");
    let low = s.stream_table_with("low", "select k, n from s", "schedule => '100ms'");
    let top = s.stream_table_with(
        "top",
        "select low.k, t.k as other from low left join t on t.k = low.k",
        "schedule => '100ms'",
    );
    s.exec("select pgtrickle.gate_source('s'); insert into s values (10, 1, 1)");
    let_time_pass(&db, &mut s);
    assert_eq!(
        s.lines("select (select count(*) from low), (select count(*) from top)"),
        ["9|9"]
    );
    must_wait(&mut s, "top");
    // A stream table is a source too: gated, it goes on itself.
    s.exec("select pgtrickle.ungate_source('s'), pgtrickle.gate_source('low')");
    db.wait_until("select count(*) = 10 from low");
    let_time_pass(&db, &mut s);
    assert_eq!(s.number("select count(*) from top"), 9);
    s.exec("select pgtrickle.ungate_source('low')");
    top.catches_up(&mut s);
    low.assert_fresh(&mut s);
}

#[test]
fn gated_member_holds_its_whole_diamond() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    clock(&mut s);
    s.exec("create table t (k int primary key); insert into t values (1)");
    let arguments = "schedule => '100ms', diamond_consistency => 'atomic'";
    let b = s.stream_table_with("b", "select k, n from s", arguments);
    let c = s.stream_table_with(
        "c",
        "select s.k, t.k as other from s left join t on t.k = s.k",
        arguments,
    );
    let d = s.stream_table_with(
        "d",
        "select b.k, b.n, c.other from b join c on c.k = b.k",
        arguments,
    );
    s.exec("select pgtrickle.gate_source('t'); insert into s values (10, 1, 1)");
    let_time_pass(&db, &mut s);
    let state =
        "select (select count(*) from b), (select count(*) from c), (select count(*) from d)";
    assert_eq!(s.lines(state), ["9|9|9"]);
    for name in ["b", "c", "d"] {
        must_wait(&mut s, name);
    }
    assert_eq!(s.lines(state), ["9|9|9"]);
    s.exec("select pgtrickle.ungate_source('t')");
    db.wait_until("select count(*) = 10 from d");
    assert_eq!(s.lines(state), ["10|10|10"]);
    for table in [b, c, d] {
        table.assert_fresh(&mut s);
    }
}

#[test]
fn gate_that_is_rolled_back_holds_nothing() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("begin; select pgtrickle.gate_source('s'); rollback");
    s.exec("begin; savepoint a; select pgtrickle.gate_source('s'); rollback to a; insert into s values (10, 1, 1); commit");
    v.catches_up(&mut s);
    assert!(held(&mut s).is_empty());
    s.exec("select pgtrickle.gate_source('s'); insert into s values (11, 1, 1)");
    s.exec("begin; select pgtrickle.ungate_source('s'); rollback");
    must_wait(&mut s, "v");
    s.exec("select pgtrickle.ungate_source('s')");
    v.catches_up(&mut s);
}

#[test]
fn gates_are_for_owners_of_tables() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create view seen as select k from s; create sequence q");
    let v = s.stream_table("v", "select k, n from s");
    let role = db.role("stranger");
    s.exec(&format!("grant select on s to {role}"));
    let mut x = db.connect_as(&role);
    for verb in ["gate_source", "ungate_source"] {
        x.error("42501", &format!("select pgtrickle.{verb}('public.s')"));
        s.error("42P01", &format!("select pgtrickle.{verb}('nowhere')"));
        s.error("22023", &format!("select pgtrickle.{verb}('seen')"));
        s.error("22023", &format!("select pgtrickle.{verb}('q')"));
    }
    x.error(
        "42501",
        "select pgtrickle.advance_watermark('public.s', now())",
    );
    s.error(
        "42P01",
        "select pgtrickle.advance_watermark('nowhere', now())",
    );
    s.exec(&format!(
        "alter table s owner to {role}; grant select on s to postgres"
    ));
    x.exec("select pgtrickle.gate_source('public.s')");
    assert_eq!(
        s.value("select gated_by from pgtrickle.source_gates()"),
        role
    );
    must_wait(&mut s, "v");
    x.exec("select pgtrickle.ungate_source('public.s')");
    s.exec("alter table s owner to postgres");
    v.assert_fresh(&mut s);
}

/// Gates a table, gives it a watermark, and drops it.
fn drop_gated(s: &mut Session, table: &str) {
    s.exec(&format!(
        "select pgtrickle.gate_source('{table}'), pgtrickle.advance_watermark('{table}', now())"
    ));
    s.exec(&format!("drop table {table} cascade"));
    for list in ["source_gates", "watermarks"] {
        assert_eq!(
            s.lines(&format!("select source from pgtrickle.{list}()")),
            [""; 0]
        );
        assert_eq!(
            s.number(&format!("select count(*) from pgtrickle.pgt_{list}")),
            0
        );
    }
}

#[test]
fn dropped_source_leaves_neither_gate_nor_watermark() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key)");
    let v = s.stream_table("v", "select k, n from s");
    s.stream_table("w", "select k from t");
    s.exec("begin; drop table t cascade; rollback");
    drop_gated(&mut s, "t");
    v.assert_fresh(&mut s);
}

#[test]
fn dropped_table_leaves_neither_gate_nor_watermark() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key)");
    let v = s.stream_table("v", "select k, n from s");
    drop_gated(&mut s, "t");
    v.assert_fresh(&mut s);
}

#[test]
fn stream_table_defined_on_a_gated_table_is_held() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("select pgtrickle.gate_source('s')");
    s.exec("select pgtrickle.create_stream_table('v', 'select k, n from s', schedule => '1d', initialize => false)");
    assert_eq!(held(&mut s), ["v"]);
    must_wait(&mut s, "v");
    s.exec("select pgtrickle.ungate_source('s')");
    StreamTable::new("v", "select k, n from s").follows_somehow(&mut s);
    // One that is altered to read it, and one that is altered not to.
    s.exec("create table t (k int primary key, n int)");
    s.exec("select pgtrickle.gate_source('t')");
    let altered = s
        .try_exec("select pgtrickle.alter_stream_table('v', query => 'select k, n from public.t')");
    assert!(
        altered.is_ok() || held(&mut s).is_empty(),
        "either it is done or it is not: {altered:?}"
    );
    s.exec("select pgtrickle.ungate_source('t')");
    s.exec("select pgtrickle.alter_stream_table('v', query => 'select k, n from public.t')");
    s.exec("select pgtrickle.gate_source('t')");
    assert_eq!(held(&mut s), ["v"]);
    s.exec("select pgtrickle.ungate_source('t')");
    assert!(held(&mut s).is_empty());
    StreamTable::new("v", "select k, n from t").follows_somehow(&mut s);
}

#[test]
fn gate_waits_for_no_refresh_and_later_ones_see_it() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (10, 1, 1)");
    s.exec("begin; select pgtrickle.gate_source('s')");
    // Not committed: it holds nobody, or whoever comes now waits until it is decided.
    let refresh = db
        .connect()
        .spawn("select pgtrickle.refresh_stream_table('v')");
    db.wait_until(&format!(
        "select wait_event_type = 'Lock' or state = 'idle' from pg_stat_activity where pid = {}",
        refresh.pid()
    ));
    s.exec("commit");
    let _ = refresh.finish();
    must_wait(&mut s, "v");
    s.exec("select pgtrickle.ungate_source('s')");
    v.follows_somehow(&mut s);
}

#[test]
fn gate_that_closes_while_a_worker_waits_is_no_failure() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    // The lock of the stream table is taken: a worker comes as far as that.
    let mut holder = db.connect();
    holder.exec("begin; select pgtrickle.refresh_stream_table('v')");
    s.exec("insert into s values (10, 1, 1)");
    db.wait_until("select exists (select from pg_stat_activity where datname = current_database() and backend_type = 'pg_trickle worker' and wait_event_type = 'Lock')");
    s.exec("select pgtrickle.gate_source('s')");
    holder.exec("commit");
    db.wait_until("select workers_active = 0 from pgtrickle.cluster_worker_summary() where db_name = current_database()");
    assert_eq!(
        s.lines("select status, error_message from pgtrickle.get_refresh_history('v') where status = 'FAILED'"),
        [""; 0]
    );
    s.exec("select pgtrickle.ungate_source('s')");
    v.catches_up(&mut s);
    assert_eq!(
        s.lines("select status, consecutive_errors from pgtrickle.pgt_status()"),
        ["ACTIVE|0"]
    );
}

#[test]
fn gates_and_definitions_change_side_by_side() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key)");
    s.stream_table("v", "select k, n from s");
    s.exec("select pgtrickle.gate_source('t')");
    let gating = db.connect().spawn(
        "do $$ begin for i in 1..100 loop
            perform pgtrickle.gate_source('s'); commit;
            perform pgtrickle.ungate_source('s'); commit;
         end loop; end $$",
    );
    let altering = db.connect().spawn(
        "do $$ begin for i in 1..30 loop
            begin
                perform pgtrickle.alter_stream_table('v', query => format('select k, n + %s as n from public.s', i));
            exception when object_not_in_prerequisite_state then null; -- it is gated just now
            end; commit;
         end loop; end $$",
    );
    let ended = [altering.finish().1, gating.finish().1];
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    s.exec("select pgtrickle.ungate_source('s'), pgtrickle.alter_stream_table('v', query => 'select k, n from public.s')");
    StreamTable::new("v", "select k, n from s").assert_fresh(&mut s);
}

#[test]
fn gate_of_a_partition_holds_what_reads_the_whole() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table p (k int, r int) partition by range (r); create table p1 partition of p for values from (0) to (10)");
    let v = s.stream_table("v", "select k, r from p");
    s.exec("select pgtrickle.gate_source('p')");
    must_wait(&mut s, "v");
    s.exec("select pgtrickle.ungate_source('p'), pgtrickle.gate_source('p1')");
    must_wait(&mut s, "v");
    s.exec("select pgtrickle.ungate_source('p1')");
    v.assert_fresh(&mut s);
}

// ------------------------------------------------------------------------------------------------ watermarks

/// Tables `a` and `b` in a watermark group of 60 seconds, and `v` which reads both.
fn aligned(s: &mut Session, schedule: &str) -> StreamTable {
    s.exec("create table a (k int primary key); create table b (k int primary key)");
    let v = s.stream_table_with(
        "v",
        "select a.k, b.k as other from a full join b on b.k = a.k",
        &format!("schedule => '{schedule}'"),
    );
    s.exec("select pgtrickle.create_watermark_group('pair', array['a', 'b'], 60)");
    v
}

fn advance(table: &str, time: &str) -> String {
    format!("select pgtrickle.advance_watermark('{table}', '2026-01-01 {time}+00')")
}

#[test]
fn watermarks_never_go_back() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    s.exec(&advance("a", "12:00:00"));
    s.exec(&advance("a", "12:00:00"));
    let refused = s.error("22023", &advance("a", "11:59:59"));
    assert!(refused.hint.is_some(), "{refused}");
    s.exec(&format!("begin; {}; rollback", advance("a", "13:00:00")));
    s.exec(&advance("a", "12:30:00"));
    s.exec("select pgtrickle.advance_watermark('a', null)");
    assert_eq!(
        s.lines("select source, watermark, advanced_by from pgtrickle.watermarks()"),
        ["public.a|2026-01-01 12:30:00+00|postgres"]
    );
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    v.assert_fresh(&mut s);
}

#[test]
fn unaligned_tables_hold_what_reads_them_together() {
    let db = database();
    let mut s = db.connect();
    clock(&mut s);
    let v = aligned(&mut s, "continuous");
    let alone = s.stream_table_with("alone", "select k from a", "schedule => 'continuous'");
    // A table without watermark may be complete up to any time.
    assert_eq!(held(&mut s), ["v"]);
    assert_eq!(
        s.lines("select group_name, aligned, lag_secs, tolerance_secs, without_watermark from pgtrickle.watermark_status()"),
        ["pair|f|-|60|2"]
    );
    s.exec(&advance("a", "12:00:00"));
    assert_eq!(held(&mut s), ["v"]);
    s.exec("insert into a values (1)");
    alone.catches_up(&mut s);
    assert_eq!(s.number("select count(*) from v"), 0);
    must_wait(&mut s, "v");
    s.exec(&advance("b", "12:01:00"));
    assert!(held(&mut s).is_empty(), "as far apart as they may be");
    v.catches_up(&mut s);
    s.exec(&advance("b", "12:01:01"));
    assert_eq!(
        s.lines("select group_name, aligned, lag_secs, without_watermark from pgtrickle.watermark_status()"),
        ["pair|f|61|0"]
    );
    s.exec("insert into b values (2)");
    let_time_pass(&db, &mut s);
    assert_eq!(s.number("select count(*) from v"), 1);
    must_wait(&mut s, "v");
    s.exec(&advance("a", "12:01:00"));
    v.catches_up(&mut s);
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

#[test]
fn watermarks_reach_through_stream_tables() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key); create table b (k int primary key)");
    let low_a = s.stream_table_with("low_a", "select k from a", "schedule => 'continuous'");
    let low_b = s.stream_table_with("low_b", "select k from b", "schedule => 'continuous'");
    let top = s.stream_table_with(
        "top",
        "select x.k, y.k as other from low_a x full join low_b y on y.k = x.k",
        "schedule => 'continuous'",
    );
    let above = s.stream_table_with("above", "select count(*) as c from top", "schedule => '1d'");
    s.exec("select pgtrickle.create_watermark_group('pair', array['a', 'b'])");
    assert_eq!(held(&mut s), ["above", "top"]);
    s.exec("insert into a values (1); insert into b values (2)");
    low_a.catches_up(&mut s);
    low_b.catches_up(&mut s);
    assert_eq!(s.number("select count(*) from top"), 0);
    must_wait(&mut s, "top");
    must_wait(&mut s, "above");
    s.exec(&advance("a", "12:00:00"));
    s.exec(&advance("b", "12:00:00"));
    top.catches_up(&mut s);
    s.exec(&advance("b", "12:00:00.001"));
    assert_eq!(held(&mut s), ["above", "top"]);
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    assert!(held(&mut s).is_empty());
    above.follows_somehow(&mut s);
}

#[test]
fn watermarks_advanced_side_by_side_end_aligned() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "continuous");
    s.exec(&format!("begin; {}", advance("a", "12:00:00")));
    let other = db.connect().spawn(&advance("b", "12:00:00"));
    db.wait_until(&format!(
        "select wait_event_type = 'Lock' or state = 'idle' from pg_stat_activity where pid = {}",
        other.pid()
    ));
    s.exec("commit");
    other.join();
    assert!(held(&mut s).is_empty());
    s.exec("insert into a values (1); insert into b values (2)");
    v.catches_up(&mut s);
    // Two that run ahead by turns, at the same time.
    s.exec("select pgtrickle.alter_stream_table('v', schedule => '1d')");
    let run = |table: &str| {
        db.connect().spawn(&format!(
            "do $$ begin for i in 1..60 loop perform pgtrickle.advance_watermark('{table}', '2026-01-01 13:00:00+00'::timestamptz + i * interval '90 seconds'); commit; end loop; end $$"
        ))
    };
    for running in [run("a"), run("b")] {
        running.join();
    }
    assert!(held(&mut s).is_empty());
    s.exec("insert into b values (3)");
    v.follows(&mut s);
}

#[test]
fn watermark_advanced_in_an_older_snapshot_ends_aligned() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    let mut older = db.connect();
    older.exec("begin isolation level repeatable read; select 1");
    s.exec(&advance("b", "12:00:00"));
    let advanced = older
        .try_exec(&advance("a", "12:00:00"))
        .and_then(|()| older.try_exec("commit"));
    // It may be refused, as REPEATABLE READ may be.
    if let Err(refused) = advanced {
        assert_eq!(refused.code, "40001", "{refused}");
        older.exec("rollback");
        s.exec(&advance("a", "12:00:00"));
    }
    assert_eq!(
        s.lines("select aligned from pgtrickle.watermark_status()"),
        ["t"]
    );
    assert_eq!(held(&mut s), [""; 0]);
    v.assert_fresh(&mut s);
}

/// Drops `c`, the one table of its group that has no watermark.
fn drop_of_a_group(db: &Database<'_>, read_c: bool) {
    let mut s = db.connect();
    s.exec("create table c (k int primary key)");
    let v = aligned(&mut s, "1d");
    if read_c {
        s.stream_table("w", "select k from c");
    }
    s.exec("select pgtrickle.create_watermark_group('three', array['a', 'b', 'c'])");
    for table in ["a", "b"] {
        s.exec(&advance(table, "12:00:00"));
    }
    assert_eq!(held(&mut s), ["v"], "c has no watermark");
    s.exec("begin; drop table c cascade; rollback");
    assert_eq!(held(&mut s), ["v"]);
    s.exec("drop table c cascade");
    assert_eq!(held(&mut s), [""; 0], "the two that are left are aligned");
    v.follows_somehow(&mut s);
}

#[test]
fn dropped_source_leaves_its_watermark_group() {
    drop_of_a_group(&database(), true);
}

#[test]
fn dropped_table_leaves_its_watermark_group() {
    drop_of_a_group(&database(), false);
}

#[test]
fn watermark_groups_are_refused_where_they_make_no_sense() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    for (sqlstate, arguments) in [
        ("42710", "'pair', array['a', 'b']"),
        ("22023", "'g', array['a']"),
        ("22023", "'g', array[]::text[]"),
        ("22023", "'g', array['a', null]"),
        ("22023", "'g', array['a', 'b'], -1"),
        ("22023", "'g', array['a', 'b'], 'NaN'"),
        ("22023", "'g', array['a', 'b'], 'Infinity'"),
        ("42P01", "'g', array['a', 'nowhere']"),
    ] {
        s.error(
            sqlstate,
            &format!("select pgtrickle.create_watermark_group({arguments})"),
        );
    }
    s.error("42704", "select pgtrickle.drop_watermark_group('g')");
    let role = db.role("stranger");
    let mut x = db.connect_as(&role);
    x.error(
        "42501",
        "select pgtrickle.create_watermark_group('g', array['public.a', 'public.b'])",
    );
    x.error("42501", "select pgtrickle.drop_watermark_group('pair')");
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    v.assert_fresh(&mut s);
}

#[test]
fn watermark_group_of_one_table_named_twice_is_refused() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    s.error(
        "22023",
        "select pgtrickle.create_watermark_group('g', array['a', 'public.a'])",
    );
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    v.assert_fresh(&mut s);
}

#[test]
fn tables_that_are_complete_for_ever_are_aligned() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    s.exec("select pgtrickle.advance_watermark('a', 'infinity')");
    assert_eq!(held(&mut s), ["v"]);
    s.exec("select pgtrickle.advance_watermark('b', 'infinity')");
    assert!(held(&mut s).is_empty());
    assert_eq!(
        s.lines("select group_name, aligned from pgtrickle.watermark_status()"),
        ["pair|t"]
    );
    v.assert_fresh(&mut s);
}

// ------------------------------------------------------------------------------------------------ fuses

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

// ------------------------------------------------------------------------------------------------ tiers

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

// ------------------------------------------------------------------------------------------------ drain and pause

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
