//! Gates: a table that is being loaded holds back whoever reads it.

use super::*;

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
