//! What one statement or one transaction can do to a source: duplicates, triggers, MERGE, TRUNCATE, COPY, nothing at all.

use pgt_tests::{Session, database};
use std::io::Write;

#[test]
fn keyless_insert_twice_delete_one_in_one_cycle() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (x text)");
    let v = s.stream_table("v", "select x from s");
    s.exec(
        "insert into s values ('a'), ('a'); delete from s where ctid = (select min(ctid) from s)",
    );
    v.follows(&mut s);
    assert_eq!(s.lines("select x from v"), ["a"]);
}

#[test]
fn keyless_duplicates_that_were_there_before() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (x text, y int); insert into s values ('a', 1), ('a', 1), ('a', 1), ('b', null), ('b', null), (null, null)");
    let v = s.stream_table("v", "select x, y from s");
    s.exec("insert into s values ('a', 1), ('b', null), (null, null)");
    s.exec("delete from s where ctid in (select ctid from s where x = 'a' limit 2)");
    v.follows(&mut s);
    s.exec("delete from s where ctid in (select ctid from s where x is null limit 1); delete from s where x = 'b'");
    v.follows(&mut s);
    s.exec("delete from s");
    v.follows(&mut s);
    s.exec("insert into s values ('a', 1), ('a', 1)");
    v.follows(&mut s);
}

#[test]
fn keyless_update_makes_and_ends_duplicates() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (x int, y int); insert into s select i, i from generate_series(1, 5) i");
    let v = s.stream_table("v", "select x from s");
    s.exec("update s set x = 1");
    v.follows(&mut s);
    s.exec("update s set x = y where y < 3");
    v.follows(&mut s);
    assert_eq!(
        s.lines("select x from v order by x"),
        ["1", "1", "1", "1", "2"]
    );
}

#[test]
fn projection_drops_the_key() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, x int); insert into s select i, i % 3 from generate_series(1, 9) i");
    let v = s.stream_table("v", "select x from s");
    s.exec("delete from s where k = 3; update s set x = 1 where k = 4; insert into s values (10, 1), (11, null), (12, null)");
    v.follows(&mut s);
    s.exec("update s set x = null where k = 10; delete from s where k = 11");
    v.follows(&mut s);
}

#[test]
fn after_trigger_that_updates_the_same_row_again() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int);
         create function again() returns trigger language plpgsql as $$ begin
            if pg_trigger_depth() < 4 then update s set n = n + 1 where k = new.k; end if; return null; end $$",
    );
    // One whose name sorts before the capture trigger's and one after it.
    s.exec("create trigger aaa after insert or update on s for each row execute function again()");
    s.exec("create trigger zzz after insert or update on s for each row execute function again()");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (1, 0), (2, 10)");
    v.follows(&mut s);
    s.exec("update s set n = 100 where k = 1");
    v.follows(&mut s);
}

#[test]
fn after_trigger_that_deletes_the_row_again() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int);
         create function vanish() returns trigger language plpgsql as $$ begin delete from s where k = new.k and new.n < 0; return null; end $$;
         create trigger aaa after insert or update on s for each row execute function vanish()",
    );
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (1, -1), (2, 1), (3, 2)");
    v.follows(&mut s);
    s.exec("update s set n = -n where k = 2");
    v.follows(&mut s);
    assert_eq!(s.lines("select k from v"), ["3"]);
}

#[test]
fn before_trigger_that_rewrites_new() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int, t text);
         create function rewrite() returns trigger language plpgsql as $$ begin
            if new.n = 13 then return null; end if; new.n := new.n * 2; new.t := upper(new.t); return new; end $$;
         create trigger b before insert or update on s for each row execute function rewrite()",
    );
    let v = s.stream_table("v", "select k, n, t from s");
    s.exec("insert into s values (1, 1, 'a'), (2, 13, 'b'), (3, 3, 'c')");
    v.follows(&mut s);
    s.exec("update s set t = 'x'");
    v.follows(&mut s);
    assert_eq!(
        s.lines("select k, n, t from v order by k"),
        ["1|4|X", "3|12|X"]
    );
}

#[test]
fn on_conflict_do_update_and_do_nothing() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1)");
    let v = s.stream_table("v", "select k, n from s where n <> 7");
    s.exec(
        "insert into s values (1, 10), (2, 20) on conflict (k) do update set n = s.n + excluded.n",
    );
    v.follows(&mut s);
    s.exec("insert into s values (1, 7), (3, 7) on conflict (k) do update set n = excluded.n where s.n > 5");
    s.exec("insert into s values (2, 99), (4, 4) on conflict do nothing");
    v.follows(&mut s);
}

#[test]
fn merge_with_all_its_branches() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 6) i");
    let v = s.stream_table("v", "select k, n from s");
    s.exec(
        "merge into s using (values (1, 0), (2, 22), (3, 3), (10, 100), (11, 0)) as d(k, n) on s.k = d.k
         when matched and d.n = 0 then delete
         when matched and d.n = s.n then do nothing
         when matched then update set n = d.n
         when not matched and d.n > 0 then insert values (d.k, d.n)
         when not matched then do nothing
         when not matched by source and s.k > 4 then delete
         when not matched by source then update set n = -s.n",
    );
    v.follows(&mut s);
    assert_eq!(
        s.lines("select k, n from v order by k"),
        ["2|22", "3|3", "4|-4", "10|100"]
    );
}

#[test]
fn functions_and_triggers_that_write_to_other_sources() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table a (k int primary key, n int); create table b (k int primary key, n int);
         create function mirror() returns trigger language plpgsql as $$ begin
            if tg_op = 'DELETE' then delete from b where k = old.k; return old; end if;
            insert into b values (new.k, new.n * 10) on conflict (k) do update set n = excluded.n; return new; end $$;
         create trigger m after insert or update or delete on a for each row execute function mirror();
         create function fill(n int) returns void language sql as $$ insert into a select i, i from generate_series(1, n) i on conflict do nothing $$",
    );
    let v = s.stream_table(
        "v",
        "select a.k, a.n as an, b.n as bn from a join b on a.k = b.k",
    );
    s.exec("select fill(3)");
    v.follows(&mut s);
    s.exec("select fill(6); update a set n = n + 1 where k < 3; delete from a where k = 2");
    v.follows(&mut s);
}

#[test]
fn delete_returning_feeds_an_insert() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, n int); create table b (k int primary key, n int); insert into a select i, i from generate_series(1, 8) i");
    let joined = s.stream_table(
        "joined",
        "select a.k as ak, b.k as bk from a join b on a.n = b.n + 1",
    );
    let united = s.stream_table("united", "select k, n from a union all select k, n from b");
    s.exec(
        "with d as (delete from a where k % 2 = 0 returning *) insert into b select k, n from d",
    );
    joined.follows(&mut s);
    united.follows(&mut s);
    s.exec("with d as (delete from b returning *), u as (update a set n = n + 1 returning *) insert into a select k, n from d");
    joined.follows(&mut s);
    united.follows(&mut s);
}

#[test]
fn row_moved_away_and_back_within_one_cycle() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 3) i");
    let v = s.stream_table("v", "select k, n from s where n < 10");
    let grouped = s.stream_table("grouped", "select n, count(*) as c from s group by n");
    s.exec("update s set n = 50 where k = 1; update s set n = 1 where k = 1; delete from s where k = 2; insert into s values (2, 2)");
    s.exec("update s set k = 30 where k = 3; update s set k = 3 where k = 30");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    grouped.refresh(&mut s);
    grouped.assert_fresh(&mut s);
}

#[test]
fn keys_rotate_among_rows() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key deferrable initially deferred, n int); insert into s select i, i * 10 from generate_series(1, 5) i");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("update s set k = k % 5 + 1");
    v.follows(&mut s);
    s.exec("begin; update s set k = 6 - k; update s set n = n + k; commit");
    v.follows(&mut s);
}

#[test]
fn update_that_changes_nothing_is_no_work() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, unused int); insert into s select i, i from generate_series(1, 5) i");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (6, 6)");
    v.follows(&mut s);
    let version = "select data_version from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state where pgt_relid = 'v'::regclass";
    let before = s.value(version);
    s.exec("update s set n = n; update s set k = k, n = n + 0; update s set unused = 7");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    assert_eq!(s.value(version), before, "nothing was refreshed");
}

#[test]
fn unchanged_rows_are_not_written() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 100) i");
    let v = s.stream_table("v", "select k, n / 10 as tens from s");
    let grouped = s.stream_table(
        "grouped",
        "select n % 10 as d, count(*) as c from s group by 1",
    );
    s.exec("create table before as select k, ctid as place from v; create table gbefore as select d, ctid as place from grouped");
    s.exec("update s set n = n + 1 where k = 1; delete from s where k = 55; insert into s values (155, 55)");
    v.follows(&mut s);
    grouped.refresh(&mut s);
    grouped.assert_fresh(&mut s);
    assert_eq!(
        s.value("select count(*) from v join before b on v.k = b.k and v.ctid = b.place"),
        "99"
    );
    assert_eq!(
        s.value("select count(*) from grouped g join gbefore b on g.d = b.d and g.ctid = b.place"),
        "8"
    );
}

#[test]
fn full_refresh_writes_only_differences() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 100) i");
    let v = s.stream_table_with(
        "v",
        "select k, n from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    s.exec("create table before as select k, ctid as place from v; update s set n = n + 1 where k <= 3");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    v.assert_mode(&mut s, "FULL");
    assert_eq!(
        s.value("select count(*) from v join before b on v.k = b.k and v.ctid = b.place"),
        "97"
    );
}

fn truncate_then_insert(s: &mut Session) -> pgt_tests::StreamTable {
    s.exec("create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 10) i");
    s.stream_table(
        "v",
        "select n % 3 as m, count(*) as c, sum(n) as total from s group by n % 3",
    )
}

#[test]
fn truncate_and_insert_in_one_transaction() {
    let db = database();
    let mut s = db.connect();
    let v = truncate_then_insert(&mut s);
    s.exec("begin; insert into s values (100, 1); truncate s; insert into s values (1, 5), (2, 6); commit");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (3, 7)");
    v.follows(&mut s);
}

#[test]
fn truncate_rolled_back_to_a_savepoint() {
    let db = database();
    let mut s = db.connect();
    let v = truncate_then_insert(&mut s);
    s.exec("begin; insert into s values (50, 50); savepoint a; truncate s; insert into s values (1, 5); rollback to a; insert into s values (60, 60); commit");
    v.follows(&mut s);
    assert_eq!(s.value("select sum(c) from v"), "12");
}

#[test]
fn truncate_of_an_empty_table_and_twice() {
    let db = database();
    let mut s = db.connect();
    let v = truncate_then_insert(&mut s);
    s.exec("truncate s; truncate s");
    v.follows_somehow(&mut s);
    assert_eq!(s.value("select count(*) from v"), "0");
    s.exec("truncate s");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (1, 1)");
    v.follows(&mut s);
}

#[test]
fn truncate_cascade_of_two_sources_of_one_join() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table p (k int primary key, n int); create table c (k int primary key, p int references p);
         insert into p select i, i from generate_series(1, 5) i; insert into c select i, 1 + i % 5 from generate_series(1, 20) i",
    );
    let v = s.stream_table(
        "v",
        "select p.k, count(*) as n from p join c on c.p = p.k group by p.k",
    );
    s.exec("begin; truncate p cascade; insert into p values (1, 1); insert into c values (1, 1); commit");
    v.follows_somehow(&mut s);
    s.exec("insert into c values (2, 1)");
    v.follows(&mut s);
}

#[test]
fn truncate_restart_identity_with_rows_before_and_after() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int generated always as identity primary key, n int); insert into s(n) select generate_series(1, 5)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec(
        "insert into s(n) values (6); truncate s restart identity; insert into s(n) values (60)",
    );
    v.follows_somehow(&mut s);
    assert_eq!(s.lines("select k, n from v"), ["1|60"]);
}

#[test]
fn foreign_key_actions() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table p (k int primary key);
         create table c (k int primary key, p int references p on delete cascade on update cascade);
         create table d (k int primary key, p int references p on delete set null);
         insert into p select generate_series(1, 4); insert into c select i, 1 + i % 4 from generate_series(1, 8) i; insert into d select i, 1 + i % 4 from generate_series(1, 8) i",
    );
    let v = s.stream_table(
        "v",
        "select c.k as ck, d.k as dk, c.p from c join d on c.p = d.p",
    );
    s.exec("delete from p where k = 1");
    v.follows(&mut s);
    s.exec("delete from d where p = 2; update p set k = 20 where k = 2");
    v.follows(&mut s);
}

#[test]
fn copy_into_a_source() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, t text)");
    let v = s.stream_table(
        "v",
        "select n % 10 as d, count(*) as c, max(t) as last from s group by 1",
    );
    let mut copy = s.client().copy_in("copy s from stdin").expect("copy");
    for k in 0..5000 {
        writeln!(
            copy,
            "{k}\t{}\t{}",
            k * 7,
            if k % 11 == 0 {
                "\\N".into()
            } else {
                format!("t{k}")
            }
        )
        .expect("copy data");
    }
    copy.finish().expect("copy");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
}

#[test]
fn replica_role_is_captured() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("set session_replication_role = replica; insert into s values (1, 1), (2, 2); update s set n = 3 where k = 2; reset session_replication_role");
    v.follows(&mut s);
}

#[test]
fn rules_and_updatable_views_reach_the_source() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int); create view w as select k, n from s where n > 0 with check option;
         create table log (k int); create rule also as on insert to s do also insert into log values (new.k)",
    );
    let v = s.stream_table(
        "v",
        "select s.k, n, log.k as lk from s join log on log.k = s.k",
    );
    s.exec("insert into w values (1, 1), (2, 2); update w set n = 9 where k = 1; delete from w where k = 2");
    v.follows(&mut s);
}

#[test]
fn large_batch_then_small_then_large_deletion() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int)");
    let grouped = s.stream_table(
        "grouped",
        "select g, count(*) as c, sum(n) as total, max(n) as high from s group by g",
    );
    let filtered = s.stream_table("filtered", "select k, g from s where n % 3 = 0");
    for sql in [
        "insert into s select i, i % 500, i * 7 % 1000 from generate_series(1, 20000) i",
        "update s set n = n + 1 where k = 77",
        "delete from s where k % 3 <> 0",
        "update s set g = g + 1",
        "delete from s",
        "insert into s values (1, 1, 3)",
    ] {
        s.exec(sql);
        for v in [&grouped, &filtered] {
            v.follows(&mut s);
        }
    }
}

#[test]
fn many_refreshes_of_small_batches() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, g int, n int); create table b (g int primary key, name text); insert into b select i, 'g' || i from generate_series(0, 9) i");
    let v = s.stream_table("v", "select b.name, count(*) as c, sum(a.n) as total, avg(a.n) as mean from a join b using (g) group by b.name");
    for i in 0..60 {
        s.exec(&format!("insert into a values ({i}, {i} % 10, {i} * 3); delete from a where k = {i} - 20; update a set n = n + 1 where k % 7 = {i} % 7"));
        if i % 9 == 0 {
            s.exec(&format!(
                "update b set name = name || '.' where g = {i} % 10"
            ));
        }
        v.refresh(&mut s);
        v.assert_equal(&mut s);
    }
    v.assert_fresh(&mut s);
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

/// Large changes are applied at once even where some keys changed several times; these are netted alone.
#[test]
fn keys_that_change_often_in_large_changes() {
    const OFTEN: [&str; 9] = [
        "insert into s values ('9001', 1, 'a'); delete from s where k = '9001'",
        "update s set n = -1 where k = '1'; update s set n = -2 where k = '1'",
        "update s set n = n + 1 where k = '2'; update s set n = n - 1 where k = '2'",
        "delete from s where k = '3'; insert into s values ('3', 33, 'three')",
        "delete from s where k = '4'; insert into s values ('4', 4, 'x4'); delete from s where k = '4'",
        "insert into s values ('9002', 1, 'a'); update s set n = 2 where k = '9002'; update s set x = null where k = '9002'",
        "update s set k = '9003' where k = '5'; update s set k = '5' where k = '9003'; update s set n = null where k = '5'",
        "update s set k = '9004' where k = '6'; insert into s values ('6', 66, 'six')",
        "update s set n = 1000 where k = '7'; update s set n = 7 where k = '7'; update s set n = 1000 where k = '7'",
    ];
    for (ty, many) in [("int", 3_000), ("numeric(8,2)", 1_000), ("text", 1_000)] {
        let db = database();
        let mut s = db.connect();
        s.exec(&format!(
            "create table s (k {ty} primary key, n int, x text); insert into s select i, i, 'x' || i from generate_series(1, {many}) i"
        ));
        let v = s.stream_table("v", "select k, n, x from s");
        let w = s.stream_table("w", "select k, n % 10 as m from s where n < 900");
        for round in 0..3 {
            s.exec(&format!("update s set n = n + 1 where n % 2 = {round} % 2"));
            for batch in OFTEN {
                s.exec(&batch.replace("900", &format!("9{round}0")));
            }
            v.follows(&mut s);
            w.follows(&mut s);
        }
    }
}
