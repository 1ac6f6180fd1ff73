//! Altering, replacing, pausing stream tables; what users add to them.

use super::*;

#[test]
fn replacement_in_its_three_forms() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let replace = |q: &str, more: &str| {
        format!(
            "select pgtrickle.create_or_replace_stream_table('v', {}, schedule => '1d'{more})",
            quote(q)
        )
    };
    s.exec(&replace("select k, n from s", ""));
    let oid = s.value("select 'v'::regclass::oid");
    let version = s.value("select data_version from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state");
    s.exec(&replace("select k, n from s", ""));
    assert_eq!(s.value("select data_version from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), version, "identical: nothing is done");
    s.exec(&replace("select k, n from s", ", refresh_mode => 'FULL'"));
    assert_eq!(
        s.value("select refresh_mode from pgtrickle.pgt_stream_tables"),
        "FULL"
    );
    s.exec(&replace(
        "select k, n + 1 as n from s where g = 1",
        ", refresh_mode => 'DIFFERENTIAL'",
    ));
    assert_eq!(
        s.value("select 'v'::regclass::oid"),
        oid,
        "same columns: the table stays"
    );
    let v = StreamTable::new("v", "select k, n + 1 as n from s where g = 1");
    v.assert_fresh(&mut s);
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
    s.exec(&replace(
        "select g, count(*) as c, 'x' as t from s group by g",
        ", refresh_mode => 'DIFFERENTIAL'",
    ));
    let v = StreamTable::new("v", "select g, count(*) as c, 'x' as t from s group by g");
    v.assert_fresh(&mut s);
    s.exec("insert into s values (101, 1, 1)");
    v.follows(&mut s);
}

#[test]
fn alteration_of_the_query_keeps_indexes_grants_and_dependents() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let role = db.role("reader");
    s.stream_table("v", "select k, n from s");
    let top = s.stream_table("top", "select sum(n) as total from v");
    s.exec(&format!("create index by_n on v (n); grant select on v to {role}; create view over as select * from v"));
    s.exec("select pgtrickle.alter_stream_table('v', query => 'select k, n * 2 as n from s where g <> 1')");
    let v = StreamTable::new("v", "select k, n * 2 as n from s where g <> 1");
    v.assert_fresh(&mut s);
    assert_eq!(s.lines(&format!("select to_regclass('by_n') is not null, has_table_privilege('{role}', 'v', 'select'), (select count(*) = (select count(*) from v) from over)")), ["t|t|t"]);
    s.exec("insert into s values (100, 0, 1)");
    top.follows_somehow(&mut s);
    s.exec("insert into s values (101, 0, 1)");
    top.follows(&mut s);
    v.assert_fresh(&mut s);
}

#[test]
fn alteration_of_the_query_to_other_sources() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key, n int); insert into t values (1, 100)");
    s.stream_table("v", "select k, n from s");
    s.exec("select pgtrickle.alter_stream_table('v', query => 'select k, n from t')");
    let v = StreamTable::new("v", "select k, n from t");
    v.assert_fresh(&mut s);
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgrelid = 's'::regclass"),
        "0"
    );
    s.exec("insert into t values (2, 2); insert into s values (100, 1, 1)");
    v.follows(&mut s);
    // A failing alteration changes nothing.
    assert!(
        s.try_exec(
            "select pgtrickle.alter_stream_table('v', query => 'select k, 1 / (n - n) as n from t')"
        )
        .is_err()
    );
    assert!(
        s.try_exec("select pgtrickle.alter_stream_table('v', query => 'select nonsense')")
            .is_err()
    );
    s.exec("insert into t values (3, 3)");
    v.follows(&mut s);
}

#[test]
fn alteration_of_schedule_mode_and_status() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("select pgtrickle.alter_stream_table('v', schedule => '2h30m', refresh_mode => 'FULL')");
    assert_eq!(
        s.lines("select schedule, refresh_mode, status from pgtrickle.pgt_stream_tables"),
        ["2h30m|FULL|ACTIVE"]
    );
    s.exec("insert into s values (100, 1, 1)");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    s.exec("insert into s values (99, 1, 1)");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    v.assert_mode(&mut s, "FULL");
    s.exec("select pgtrickle.alter_stream_table('v', refresh_mode => 'DIFFERENTIAL')");
    s.exec("insert into s values (98, 1, 1)");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (101, 1, 1)");
    v.follows(&mut s);
    s.exec("select pgtrickle.alter_stream_table('v', status => 'SUSPENDED')");
    assert_eq!(s.value(STATUS), "SUSPENDED");
    s.exec("select pgtrickle.alter_stream_table('v', status => 'ACTIVE')");
    assert_eq!(s.value(STATUS), "ACTIVE");
    s.exec("select pgtrickle.alter_stream_table('v')");
    for bad in [
        "schedule => '10'",
        "schedule => 'sometimes'",
        "schedule => '* * *'",
        "schedule => '-5s'",
        "schedule => '1ms'",
        "refresh_mode => 'FAST'",
        "status => 'HAPPY'",
    ] {
        s.error(
            "22023",
            &format!("select pgtrickle.alter_stream_table('v', {bad})"),
        );
    }
    v.assert_fresh(&mut s);
}

#[test]
fn alteration_to_differential_of_what_is_not_incremental() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select k, random() >= 0 as r from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    s.error(
        "0A000",
        "select pgtrickle.alter_stream_table('v', refresh_mode => 'DIFFERENTIAL')",
    );
    assert_eq!(
        s.value("select refresh_mode from pgtrickle.pgt_stream_tables"),
        "FULL"
    );
    v.refresh(&mut s);
    v.assert_equal(&mut s);
}

#[test]
fn pause_and_resume() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("select pgtrickle.pause_stream_table('v')");
    assert_eq!(s.value(STATUS), "SUSPENDED");
    s.exec("insert into s values (100, 1, 1)");
    let other = s.stream_table_with("w", "select count(*) as c from s", "schedule => '100ms'");
    s.exec("insert into s values (101, 1, 1)");
    db.wait_until("select c = 11 from w");
    assert_eq!(
        s.value("select count(*) from v"),
        "9",
        "a paused one does not move"
    );
    s.exec("select pgtrickle.resume_stream_table('v')");
    assert_eq!(s.value(STATUS), "ACTIVE");
    db.wait_until("select count(*) = 11 from v");
    v.assert_fresh(&mut s);
    other.assert_fresh(&mut s);
    assert_eq!(s.value("select pgtrickle.pause_all()"), "2");
    assert_eq!(s.value("select pgtrickle.resume_all()"), "2");
}

#[test]
fn user_indexes_constraints_and_triggers_on_a_stream_table() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, g, n from s");
    s.exec("create index on v (n); create unique index on v (k, g); create table audit (op text, k int)");
    s.exec("create function note() returns trigger language plpgsql set search_path = public as $$ begin insert into public.audit values (tg_op, coalesce(new.k, old.k)); return null; end $$; create trigger note after insert or update or delete on v for each row execute function note()");
    s.exec("insert into s values (100, 1, 1); update s set n = -1 where k = 1; delete from s where k = 2");
    v.follows(&mut s);
    assert_eq!(
        s.lines("select op, k from audit order by k"),
        ["UPDATE|1", "DELETE|2", "INSERT|100"]
    );
}

#[test]
fn what_was_compiled_and_rolled_back_is_forgotten() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int); insert into s values (1, 1), (2, 2), (3, 3)",
    );
    let v = s.stream_table("v", "select k, n from s where n > 1");
    let alter = |condition: &str| {
        format!(
            "select pgtrickle.alter_stream_table('v', query => 'select k, n from s where {condition}')"
        )
    };
    s.exec("begin");
    s.exec(&alter("n > 2"));
    s.exec("rollback");
    s.exec(&alter("n < 3"));
    assert_eq!(s.value("select sum(k) from v"), "3");
    s.exec("begin; savepoint a");
    s.exec(&alter("n = 1"));
    s.exec("rollback to a");
    s.exec(&alter("n = 3"));
    s.exec("commit");
    assert_eq!(s.value("select sum(k) from v"), "3");
    let mut other = db.connect();
    s.exec("begin");
    s.exec(&alter("n = 2"));
    other.exec("insert into s values (4, 3)");
    s.exec("rollback");
    other.exec("select pgtrickle.refresh_stream_table('v')");
    assert_eq!(other.value("select sum(k) from v"), "7");
    v.assert_verified(&mut s);
}

/// What would change stored rows, or what is written, or lets others write, is refused; the rest is not.
#[test]
fn own_table_keeps_its_rows() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int, c char(3), v varchar(10), x numeric(10, 2), b bit(4), t timestamp(3), i interval day to second(2), l text collate \"C\", a int[]);
         insert into s select i, i, 'c', 'v', i + 0.5, b'1010', now(), '1 day', 'l', '{1}' from generate_series(1, 5) i;
         create table parent (k int, n int); create table parts (k int, n int) partition by list (k);
         create function nothing() returns trigger language plpgsql as 'begin return null; end'",
    );
    let v = s.stream_table("v", "select k, n from s");
    let wide = s.stream_table(
        "wide",
        "select *, l || v as lv, c || 'x' as cx, x * 2 as xx from s",
    );
    for ddl in [
        "alter table v alter n type int using n / 2",
        "alter table v alter n type bigint",
        "alter table v set unlogged",
        "alter table v force row level security",
        "alter table v inherit parent",
        "create table child () inherits (v)",
        "alter table parts attach partition v default",
        "create rule r as on delete to v do instead nothing",
        "create trigger t before insert on v for each row execute function nothing()",
    ] {
        let refused = s.error("0A000", ddl);
        assert!(
            refused.detail.is_some() && refused.hint.is_some(),
            "{refused}"
        );
    }
    s.error("0A000", "alter table wide alter x type numeric(10, 1)");
    for ddl in [
        "alter table wide set (fillfactor = 80); alter table v set (fillfactor = 80)",
        "alter table wide add check (k > 0); create index on wide (k)",
        "alter table v enable row level security; alter table v disable row level security",
        "create trigger t after insert on v for each row execute function nothing()",
        "create trigger u before insert on v for each statement execute function nothing()",
        "create table alike (like v including all)",
    ] {
        s.exec(ddl);
    }
    s.exec("insert into s(k, n) values (6, 6); update s set n = n + 1, x = x + 1 where k = 1; delete from s where k = 2");
    v.follows(&mut s);
    wide.follows(&mut s);
}

/// A refresh sees one snapshot, and nobody writes stored rows but itself, whatever its triggers do.
#[test]
fn triggers_of_a_refresh_neither_refresh_nor_write_stored_rows() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); create table audit (k int, x int)");
    let v = s.stream_table("v", "select k, n from s");
    let w = s.stream_table("w", "select n, count(*) as c from v group by n");
    let both = s.stream_table("b", "select v.k, a.x from v join audit a on a.k = v.k");
    let on_v = |s: &mut Session, body: &str| {
        s.exec(&format!(
            "create or replace function f() returns trigger language plpgsql set search_path = public, pgtrickle as $$ begin {body}; return null; end $$;
             create or replace trigger f after insert on v for each row execute function f()"
        ));
    };
    s.exec("insert into s values (1, 1), (2, 2)");
    for body in [
        "perform refresh_stream_table('w')",
        "perform refresh_stream_table('v')",
        "update w set c = 100",
        "update v set n = 100 where k = new.k",
    ] {
        on_v(&mut s, body);
        s.error("0A000", "select pgtrickle.refresh_stream_table('v')");
        assert_eq!(s.value("select count(*) from v"), "0");
    }
    on_v(&mut s, "insert into audit values (new.k, 1)");
    s.error("0A000", "select pgtrickle.refresh_stream_table('b')");
    v.follows(&mut s);
    both.follows(&mut s);
    w.follows(&mut s);
    assert_eq!(s.lines("select k, x from b order by 1"), ["1|1", "2|1"]);
}
