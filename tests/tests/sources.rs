//! Kinds of source tables, and what may be done to their definition.

use pgt_tests::{Session, StreamTable, database};

fn partitioned(s: &mut Session) -> StreamTable {
    s.exec(
        "create table s (k int, r int, n int, primary key (r, k)) partition by range (r);
         create table s1 partition of s for values from (0) to (10);
         create table s2 (n int, gone int, k int not null, r int not null); alter table s2 drop gone; alter table s attach partition s2 for values from (10) to (20);
         create table s3 partition of s for values from (20) to (40) partition by list (r);
         create table s31 partition of s3 for values in (20, 21); create table s32 partition of s3 default;
         insert into s select i, i, i * 10 from generate_series(0, 39) i",
    );
    s.stream_table("v", "select k, r, n from s where n % 20 = 0")
}

#[test]
fn partitioned_table_by_its_root() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    v.assert_fresh(&mut s);
    for batch in [
        "insert into s select 100 + i, i, 20 from generate_series(0, 39, 3) i",
        "update s set n = n + 10 where k % 3 = 0",
        "delete from s where r between 8 and 22",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn dml_straight_to_partitions() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    for batch in [
        "insert into s2 (r, k, n) values (11, 200, 40); insert into s31 values (201, 20, 60); insert into s3 values (202, 30, 80)",
        "update s2 set n = 20, k = k + 1000 where r = 12; update s32 set n = 20",
        "delete from s1; delete from s31 where k = 201; delete from only s",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn rows_move_between_partitions() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    let g = s.stream_table(
        "g",
        "select r / 10 as d, count(*) as c, sum(n) as total from s group by r / 10",
    );
    for batch in [
        "update s set r = r + 10 where r < 10",
        "update s set r = (r + 17) % 40 where k < 20; update s set n = n + 1",
        "update s set r = 20 where r = 21; update s set r = 25 where r = 20; update s3 set r = 20 where r = 25",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        g.follows(&mut s);
    }
}

#[test]
fn partition_is_attached() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    s.exec("create table s5 (n int, k int not null, r int not null); insert into s5 values (20, 500, 50), (21, 501, 51)");
    s.exec("insert into s values (300, 1, 20); alter table s attach partition s5 for values from (40) to (60)");
    v.follows_somehow(&mut s);
    s.exec("insert into s5 values (40, 502, 52); update s set n = 60 where k = 501; update s set r = 3 where k = 500");
    v.follows(&mut s);
}

#[test]
fn partition_is_created_later() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    s.exec("create table s6 partition of s for values from (60) to (70); insert into s values (600, 60, 20); insert into s6 values (601, 61, 40)");
    v.follows_somehow(&mut s);
    s.exec("update s set r = 1 where k = 600; insert into s6 values (602, 62, 60)");
    v.follows(&mut s);
}

#[test]
fn partition_is_detached() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    s.exec("insert into s2 (r, k, n) values (15, 700, 20); alter table s detach partition s2");
    v.follows_somehow(&mut s);
    s.exec("insert into s2 (r, k, n) values (16, 701, 20); insert into s values (702, 5, 20)");
    v.follows(&mut s);
    s.exec("alter table s attach partition s2 for values from (10) to (20)");
    v.follows_somehow(&mut s);
    s.exec("update s2 set n = n + 20");
    v.follows(&mut s);
}

#[test]
fn partition_is_dropped_and_truncated() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    s.exec("truncate s2; insert into s values (800, 11, 20)");
    v.follows_somehow(&mut s);
    s.exec("drop table s31");
    v.follows_somehow(&mut s);
    s.exec("truncate s; insert into s values (801, 1, 20)");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (802, 30, 40)");
    v.follows(&mut s);
}

#[test]
fn partitioned_table_joined_with_an_ordinary_one() {
    let db = database();
    let mut s = db.connect();
    partitioned(&mut s);
    s.exec("create table d (r int primary key, name text); insert into d select i, 'r' || i from generate_series(0, 39) i");
    let v = s.stream_table("w", "select d.name, count(*) as c, sum(s.n) as total from s join d on d.r = s.r group by d.name");
    for batch in [
        "update s set r = 39 - r; update d set name = 'x' where r < 5",
        "delete from s2; insert into d values (50, 'none')",
        "delete from d where r > 30",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

/// It is a constant as long as all rows stand in one table.
#[test]
fn tableoid_of_one_table() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); create table o (k int primary key); insert into o values (1), (2), (3)");
    let v = s.auto_stream_table("v", "select k, tableoid as t from s");
    let w = s.stream_table(
        "w",
        "select o.k, s.tableoid as t from o left join only s on s.k = o.k",
    );
    for change in [
        "insert into s values (1, 1), (2, 2)",
        "update s set k = 3 where k = 1",
    ] {
        s.exec(change);
        v.follows(&mut s);
        w.follows(&mut s);
    }
    s.exec("create table c () inherits (s); insert into c values (9, 9); insert into s values (4, 4); delete from o where k = 2");
    v.follows_somehow(&mut s);
    w.follows_somehow(&mut s);
    assert_eq!(s.value("select count(distinct t) from v"), "2");
    s.exec("delete from o where k = 3");
    w.follows(&mut s);
    s.exec("drop table c; insert into s values (5, 5)");
    v.follows_somehow(&mut s);
    s.exec("alter table s rename to r; insert into r values (6, 6)");
    v.refresh(&mut s);
    v.assert_verified(&mut s);
    assert_eq!(s.value("select bool_and(t = 'r'::regclass) from v"), "t");
}

#[test]
fn unlogged_source() {
    let db = database();
    let mut s = db.connect();
    s.exec("create unlogged table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s where n > 1");
    for batch in [
        "insert into s values (1, 1), (2, 2)",
        "update s set n = n + 1",
        "delete from s where k = 2",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
    s.exec("alter table s set logged");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (3, 3)");
    v.follows(&mut s);
}

#[test]
fn logical_replication_applies_into_a_source() {
    let db = database();
    let publisher = db.server().empty_database();
    let (mut p, mut s) = (publisher.connect(), db.connect());
    p.exec("create table s (k int primary key, n int, t text); insert into s values (1, 1, 'a'), (2, 2, 'b'); create publication pub for table s");
    s.exec("create table s (k int primary key, n int, t text)");
    let v = s.stream_table("v", "select k, n, t from s where n > 0");
    let slot = format!("slot_{}", db.name());
    p.exec(&format!(
        "select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
    ));
    let connection = format!(
        "host={} dbname={} user=postgres",
        db.server().socket_directory().display(),
        publisher.name()
    );
    s.exec(&format!("create subscription sub connection '{connection}' publication pub with (create_slot = false, slot_name = '{slot}')"));
    db.wait_until("select count(*) = 2 from s");
    v.follows(&mut s);
    p.exec("begin; insert into s values (3, 3, 'c'); update s set n = 10 where k = 1; update s set k = 20 where k = 2; commit");
    db.wait_until("select count(*) = 3 and exists (select from s where k = 20) from s");
    v.follows(&mut s);
    p.exec("delete from s where k = 3");
    db.wait_until("select count(*) = 2 from s");
    v.follows(&mut s);
    p.exec("truncate s; insert into s values (7, 7, 'g')");
    db.wait_until("select count(*) = 1 and bool_and(k = 7) from s");
    v.follows_somehow(&mut s);
    s.exec("alter subscription sub disable; alter subscription sub set (slot_name = none); drop subscription sub");
    db.wait_until(&format!(
        "select not active from pg_replication_slots where slot_name = '{slot}'"
    ));
    p.exec(&format!("select pg_drop_replication_slot('{slot}')"));
}

/// It would be gone for queries before anything is heard of it.
#[test]
fn partition_is_not_detached_concurrently() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    s.exec("create table t (k int) partition by list (k); create table t1 partition of t for values in (1)");
    for (table, part) in [("s", "s2"), ("s3", "s31")] {
        let refused = s.error(
            "0A000",
            &format!("alter table {table} detach partition {part} concurrently"),
        );
        assert!(refused.hint.is_some());
        s.exec(&format!("alter table {table} detach partition {part}"));
        s.exec("update s set n = n + 20 where k = 1");
        v.follows_somehow(&mut s);
    }
    s.exec("alter table t detach partition t1 concurrently");
    s.exec("alter table if exists absent detach partition p concurrently");
}

#[test]
fn source_with_row_security() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, owner text); alter table s enable row level security; create policy mine on s using (owner = current_user)");
    let v = s.auto_stream_table("v", "select k, owner from s");
    s.exec("insert into s values (1, 'postgres'), (2, 'else')");
    v.follows_somehow(&mut s);
    assert_eq!(s.value("select count(*) from v"), "2");
}

#[test]
fn source_is_renamed_and_moved() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema one; create table one.s (k int primary key, n int); insert into one.s values (1, 1)");
    s.stream_table("v", "select k, n from one.s where n > 0");
    s.exec("insert into one.s values (2, 2); alter table one.s rename to renamed; insert into one.renamed values (3, 3)");
    StreamTable::new("v", "select k, n from one.renamed where n > 0").follows(&mut s);
    s.exec("create schema two; alter table one.renamed set schema two; insert into two.renamed values (4, 4)");
    StreamTable::new("v", "select k, n from two.renamed where n > 0").follows(&mut s);
    s.exec("alter schema two rename to three; update three.renamed set n = -n where k = 1");
    StreamTable::new("v", "select k, n from three.renamed where n > 0").follows(&mut s);
    s.exec("create schema one2; create table one.s (k int, n int); insert into one.s values (99, 99); insert into three.renamed values (5, 5)");
    StreamTable::new("v", "select k, n from three.renamed where n > 0").follows(&mut s);
}

#[test]
fn used_column_is_renamed() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, other int); insert into s values (1, 1, 1)");
    s.stream_table("v", "select k, n from s where n > 0");
    let g = "select n % 2 as m, count(*) as c from s group by n % 2";
    s.stream_table("g", g);
    s.exec("insert into s values (2, 2, 2); alter table s rename n to amount; insert into s values (3, 3, 3)");
    StreamTable::new("v", "select k, amount as n from s where amount > 0").follows(&mut s);
    StreamTable::new("g", &g.replace("n %", "amount %")).follows(&mut s);
    s.exec("alter table s rename k to id; alter table s rename other to k; update s set k = 50, amount = 4 where id = 1");
    StreamTable::new("v", "select id as k, amount as n from s where amount > 0").follows(&mut s);
}

#[test]
fn type_of_a_used_column_is_renamed_and_moved() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema one; create domain one.amount as int; create type mood as enum ('low', 'high')");
    s.exec("create table s (k int primary key, n one.amount, m mood); insert into s values (1, 1, 'low')");
    let streams = [
        s.stream_table("v", "select k, n, m from s where n > 0"),
        s.stream_table("g", "select m, n, count(*) as c from s group by m, n"),
        s.stream_table(
            "w",
            "select n, m from (select distinct n, m from s) q where n > 0",
        ),
    ];
    for change in [
        "alter domain one.amount rename to quantity; insert into s values (2, 2, 'high')",
        "alter type mood rename to feeling; insert into s values (3, 2, 'high')",
        "alter schema one rename to two; update s set m = 'low' where k = 2",
    ] {
        s.exec(change);
        for stream in &streams {
            stream.follows_somehow(&mut s);
        }
    }
    s.exec("create domain two.amount as text; delete from s where k = 3; insert into s values (4, 4, 'low')");
    for stream in &streams {
        stream.follows(&mut s);
    }
}

#[test]
fn expression_of_a_generated_column_is_altered() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int, a int, g int generated always as (a * 2) stored, v int generated always as (a * 3) virtual) partition by list (k)");
    s.exec("create table s1 partition of s for values in (1, 2); create table s2 partition of s default; insert into s (k, a) values (1, 1), (2, 2), (3, 3)");
    let streams = [
        s.stream_table("stored", "select k, g from s"),
        s.stream_table("computed", "select k, v from s"),
        s.stream_table(
            "sums",
            "select k % 2 as m, sum(g) as g, sum(v) as v from s group by k % 2",
        ),
        s.stream_table(
            "staged",
            "select g, n from (select g, count(*) as n from s group by g) q where n > 0",
        ),
    ];
    for change in [
        "insert into s (k, a) values (4, 4); alter table s alter g set expression as (a * 100)",
        "alter table s alter v set expression as (a * 1000); delete from s where k = 1",
    ] {
        s.exec(change);
        for stream in &streams {
            stream.follows_somehow(&mut s);
        }
    }
    s.exec("insert into s (k, a) values (5, 5); update s set a = 7 where k = 2");
    for stream in &streams {
        stream.follows(&mut s);
    }
}

/// What a query is made of can change without any row of its sources.
#[test]
fn types_operators_and_aggregates_of_the_query_are_altered() {
    let db = database();
    let mut s = db.connect();
    s.exec("create type mood as enum ('low', 'high'); create type pair as (a int, b text)");
    s.exec("create table s (k int primary key, m mood, p pair); insert into s values (1, 'low', row(1, 'x')), (2, 'high', row(1, 'x')), (3, null, null)");
    s.exec("create function plus(int, int) returns int language sql immutable as 'select $1 + $2'; create operator +@ (leftarg = int, rightarg = int, function = plus)");
    s.exec("create aggregate total(int) (sfunc = int4pl, stype = int, initcond = '0')");
    s.exec("create text search configuration words (copy = english)");
    let streams = [
        s.stream_table("label", "select k, m::text as m from s"),
        s.stream_table("moods", "select m, count(*) as n from s group by m"),
        s.stream_table("pairs", "select p, count(*) as n from s group by p"),
        s.stream_table("written", "select k, p::text as p, to_jsonb(p) as j from s"),
        s.stream_table("added", "select k, k operator(public.+@) 1 as n from s"),
        s.stream_table("totals", "select m, total(k) as n from s group by m"),
        s.stream_table(
            "parsed",
            "select k, to_tsvector('public.words', 'the cats ' || k) as t from s",
        ),
    ];
    let above = s.stream_table("above", "select j, p || '!' as p from written");
    for change in [
        "alter type mood rename value 'low' to 'lowest'",
        "alter type mood add value 'mid' before 'high'; insert into s values (4, 'lowest', row(2, 'y'))",
        "alter type pair add attribute c int",
        "insert into s values (5, 'high', row(1, 'x', null)); delete from s where k = 1",
        "alter type pair rename attribute b to bb",
        "create or replace function plus(int, int) returns int language sql immutable as 'select $1 * 100 + $2'",
        "create or replace aggregate total(int) (sfunc = int4larger, stype = int, initcond = '0')",
        "alter text search configuration words alter mapping for asciiword with simple",
    ] {
        s.exec(change);
        for stream in streams.iter().chain([&above]) {
            stream.follows_somehow(&mut s);
        }
    }
    s.exec("insert into s values (6, 'mid', row(3, 'z', 3)); update s set k = 7 where k = 2");
    for stream in streams.iter().chain([&above]) {
        stream.follows(&mut s);
    }
}

#[test]
fn stream_table_itself_is_renamed_and_moved() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema other; create table s (k int primary key)");
    s.stream_table("v", "select k from s");
    s.exec("alter table v rename to w; insert into s values (1)");
    StreamTable::new("w", "select k from s").follows(&mut s);
    s.exec("alter table w set schema other; insert into s values (2)");
    StreamTable::new("other.w", "select k from s").follows(&mut s);
    s.exec("create index on other.w (k); insert into s values (3)");
    StreamTable::new("other.w", "select k from s").follows(&mut s);
}

#[test]
fn column_is_added_and_an_unused_one_dropped() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, unused int, n int)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (1, 1, 1); alter table s add extra text default 'x'; insert into s values (2, 2, 2, 'y')");
    v.follows(&mut s);
    s.exec("insert into s values (3, 3, 3, 'z'); alter table s drop unused; insert into s values (4, 4, 'w'); update s set n = 9 where k = 1");
    v.follows(&mut s);
}

#[test]
fn used_column_cannot_be_dropped_without_cascade() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k from s where n > 0");
    s.error("2BP01", "alter table s drop n");
    s.error("2BP01", "drop table s");
    s.exec("insert into s values (1, 1)");
    v.follows(&mut s);
}

#[test]
fn type_of_a_used_column_cannot_be_changed_silently() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s values (1, 1)");
    let v = s.stream_table("v", "select k, n from s");
    // PostgreSQL itself refuses while a view uses the column.
    s.error("0A000", "alter table s alter n type bigint");
    s.exec("insert into s values (2, 2)");
    v.follows(&mut s);
}

#[test]
fn type_of_an_unused_column_is_changed() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, unused int); insert into s values (1, 1, 1)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (2, 2, 2); alter table s alter unused type text");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (3, 3, 'x'); update s set n = 7 where k = 1");
    v.follows(&mut s);
}

#[test]
fn primary_key_is_dropped_and_changed() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int, n int); alter table s add constraint pk primary key (k); insert into s values (1, 1), (2, 2)");
    let v = s.auto_stream_table("v", "select k, n from s");
    s.exec("insert into s values (3, 3)");
    // Dropping what the identity of the rows rests on may be refused, never ignored.
    if s.try_exec("alter table s drop constraint pk").is_ok() {
        s.exec("insert into s values (3, 3), (3, 4)");
        v.follows_somehow(&mut s);
        s.exec("delete from s where k = 3 and n = 4");
        v.follows_somehow(&mut s);
    }
    s.exec("alter table s add u int; update s set u = k");
    v.follows_somehow(&mut s);
}

#[test]
fn not_null_of_a_key_column_is_dropped() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int not null unique, n int); insert into s values (1, 1), (2, 2)");
    let v = s.auto_stream_table("v", "select k, n from s");
    if s.try_exec("alter table s alter k drop not null").is_ok() {
        s.exec("insert into s values (null, 1), (null, 1), (null, 2)");
        v.follows_somehow(&mut s);
        s.exec("delete from s where ctid = (select ctid from s where k is null and n = 1 limit 1)");
        v.follows_somehow(&mut s);
    }
}

#[test]
fn unique_nullable_key_is_no_key() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int unique, n int)");
    let v = s.stream_table("v", "select k, n from s");
    for batch in [
        "insert into s values (null, 1), (null, 1), (1, 1)",
        "delete from s where ctid = (select min(ctid) from s)",
        "update s set k = 2 where k is null; insert into s values (null, null)",
    ] {
        s.exec(batch);
        v.follows(&mut s);
    }
}

#[test]
fn unrelated_alter_table_is_not_blocked_nor_blocks() {
    let db = database();
    let (mut s, mut other) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k from s");
    s.exec("set lock_timeout = '5s'; insert into s values (1, 1)");
    other.exec("set lock_timeout = '5s'");
    other.exec(
        "alter table s set (fillfactor = 70); alter table s alter n set default 5; alter table s alter n set statistics 50; alter table s add check (n < 1000); create index on s (n); analyze s;
         comment on table s is 'x'; alter table s owner to postgres; alter table s replica identity full; cluster s using s_pkey; reindex table s; alter table s alter n set storage plain",
    );
    v.follows(&mut s);
    s.exec("insert into s values (2)");
    v.follows(&mut s);
}

#[test]
fn table_is_rewritten() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, t text)");
    let v = s.stream_table("v", "select k, n from s");
    for batch in [
        "insert into s values (1, 1, 'a'), (2, 2, 'b')",
        "vacuum full s",
        "insert into s values (3, 3, 'c')",
        "cluster s using s_pkey",
        "update s set n = n + 1",
        "alter table s add u uuid default gen_random_uuid()",
        "delete from s where k = 2",
        "alter table s set unlogged",
        "insert into s(k, n) values (9, 9)",
    ] {
        s.exec(batch);
        v.follows_somehow(&mut s);
    }
    s.exec("insert into s(k, n) values (10, 10)");
    v.follows(&mut s);
}

#[test]
fn stream_table_is_vacuumed_and_rewritten() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int)");
    let v = s.stream_table("v", "select g, count(*) as c from s group by g");
    for batch in [
        "insert into s select i, i % 5 from generate_series(1, 20) i",
        "delete from s where g = 3",
        "insert into s values (100, 3)",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        s.exec("vacuum full v");
        s.exec("analyze v");
        s.exec("reindex table v");
    }
}

#[test]
fn captured_triggers_cannot_be_seen_by_the_writer() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("set client_min_messages = debug1");
    s.notices();
    let rows = s.rows("insert into s values (1, 1) returning k, n");
    assert_eq!(rows.len(), 1);
    s.exec("reset client_min_messages; listen pg_trickle_alert; update s set n = 2");
    v.follows(&mut s);
}

#[test]
fn create_table_like_and_inherit_do_not_carry_capture() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.auto_stream_table("v", "select k, n from s");
    s.exec("create table copy (like s including all); insert into copy values (1, 1); create table child () inherits (s)");
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgrelid = 'copy'::regclass"),
        "0"
    );
    s.exec("insert into s values (5, 5)");
    v.follows_somehow(&mut s);
}

/// Triggers of a partition can be disabled by themselves, as pg_dump --disable-triggers does.
#[test]
fn triggers_of_a_partition_stay_enabled() {
    let db = database();
    let mut s = db.connect();
    let v = partitioned(&mut s);
    let insert = |s: &mut Session, k: i32| {
        s.exec(&format!(
            "insert into s values ({k}, 1, 20), ({k}, 11, 20), ({k}, 20, 20), ({k}, 35, 20)"
        ));
    };
    let mut k = 1000;
    for part in ["s1", "s2", "s3", "s31"] {
        for what in ["disable", "enable", "enable replica"] {
            let which = if what == "enable replica" {
                "pgt_capture"
            } else {
                "all"
            };
            s.exec(&format!("alter table {part} {what} trigger {which}"));
            insert(&mut s, k);
            s.exec("set session_replication_role = replica");
            insert(&mut s, k + 1);
            s.exec("reset session_replication_role");
            v.follows(&mut s);
            k += 2;
        }
    }
}

#[test]
fn policies_of_a_source_come_change_and_go() {
    let db = database();
    let mut s = db.connect();
    let role = db.role("reader");
    s.exec(&format!(
        "create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 5) i;
         grant all on schema public to {role}; alter table s owner to {role}; set role {role}"
    ));
    let v = s.auto_stream_table("v", "select k, n from s");
    for ddl in [
        "alter table s enable row level security; alter table s force row level security",
        "create policy p on s using (k = 1)",
        "alter policy p on s using (k = 2)",
        "create policy q on s using (k = 3)",
        "drop policy p on s",
        "alter table s no force row level security",
    ] {
        s.exec(ddl);
        v.follows_somehow(&mut s);
    }
}

/// Rows from before such a constraint may hold nulls.
#[test]
fn not_null_constraint_that_is_not_valid() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table a (k int primary key); insert into a values (1), (2), (3);
         create table b (k int, n int); insert into b values (null, 1), (2, 2), (null, 3);
         alter table b add constraint filled not null k not valid; create unique index on b (k)",
    );
    let tables = [
        (
            "missing",
            "select k from a where k not in (select k from b)",
        ),
        ("plain", "select k, n from b"),
        (
            "outside",
            "select a.k, b.n from a left join b on b.k = a.k where b.k is null",
        ),
        ("counted", "select count(k) as c, count(*) as d from b"),
        ("grouped", "select k, count(*) as c from b group by k"),
        ("once", "select distinct k from b"),
        ("filled", "select k from b where k is not null"),
    ]
    .map(|(name, query)| s.stream_table(name, query));
    for dml in [
        "delete from b where n = 3; insert into a values (9); insert into b values (9, 9)",
        "update b set n = 5 where n = 2",
        "delete from b where n = 1; alter table b validate constraint filled",
        "insert into b values (1, 1); delete from b where k = 2",
    ] {
        s.exec(dml);
        for table in &tables {
            table.follows_somehow(&mut s);
        }
    }
    s.exec("delete from b where k = 9; insert into a values (4)");
    for table in &tables {
        table.follows(&mut s);
    }
}
