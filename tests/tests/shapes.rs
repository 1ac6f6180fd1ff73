//! Tables and types that change shape under stream tables and their logs: columns that go or get another type, generated
//! columns, names inside values, tables that become unlogged.

use pgt_tests::{Server, database};

/// A column is logged for a stream table that is gone. It goes too, and then another column has to be logged.
#[test]
fn logged_column_is_dropped_before_another_one_is_logged() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, x int, m int); insert into s select i, i, i * 100, i * 10 from generate_series(1, 5) i");
    let n = s.stream_table("n", "select k, n from s");
    s.stream_table("x", "select k, x from s");
    s.exec("select pgtrickle.drop_stream_table('x'); alter table s drop x");
    s.exec("update s set n = n + 1 where k = 1");
    n.follows(&mut s);
    let m = s.stream_table("m", "select k, m from s");
    s.exec("update s set m = m + 1, n = n + 1 where k <= 2; insert into s values (6, 6, 60); delete from s where k = 5");
    m.follows(&mut s);
    n.follows(&mut s);
}

#[test]
fn logged_column_of_a_partitioned_table_is_dropped() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (x text, k int, n int) partition by range (k);
         create table s1 partition of s for values from (0) to (10); create table s2 partition of s default;
         insert into s select 'x', i, i from generate_series(1, 20) i",
    );
    let n = s.stream_table("n", "select k, n from s");
    s.stream_table("x", "select k, x from s");
    s.exec("select pgtrickle.drop_stream_table('x'); alter table s drop x");
    s.exec("update s set n = n + 1 where k % 2 = 1; insert into s1 values (0, 0)");
    n.follows(&mut s);
}

/// Its values do not fit into the log as it was made.
#[test]
fn logged_column_gets_another_type() {
    let db = database();
    let mut s = db.connect();
    for (before, after, using) in [
        ("int", "text", "x || 'a'"),
        ("text", "bigint", "length(x)"),
        ("text", "text collate \"C\"", "x"),
        ("numeric(10, 2)", "numeric(12, 4)", "x + 0.0001"),
        ("text", "int[]", "array[k]"),
    ] {
        s.exec(&format!(
            "create table s (k int primary key, n int, x {before});
             insert into s select i, i, i from generate_series(1, 5) i"
        ));
        let n = s.stream_table("n", "select k, n from s");
        let all = s.stream_table_with("al", "select k from s", "refresh_mode => 'FULL'");
        s.stream_table("x", "select k, x from s");
        s.exec("update s set n = n + 1 where k = 1");
        s.exec("select pgtrickle.drop_stream_table('x')");
        s.exec(&format!(
            "alter table s alter x type {after} using {using}; update s set n = n + 1 where k = 2"
        ));
        n.follows(&mut s);
        let x = s.stream_table("x", "select k, x from s");
        s.exec(
            "update s set x = (select x from s where k = 5) where k <= 3; delete from s where k = 4",
        );
        x.follows(&mut s);
        n.follows(&mut s);
        all.follows_somehow(&mut s);
        s.exec("drop table s cascade");
    }
}

/// A full refresh logs columns it may not even read.
#[test]
fn columns_come_and_go_under_a_full_refresh() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, x int); insert into s select i, i, i from generate_series(1, 5) i");
    let v = s.stream_table_with("v", "select k, n from s", "refresh_mode => 'FULL'");
    for ddl in [
        "alter table s drop x; alter table s add y text default 'abc'",
        "alter table s add z int",
        "alter table s alter y drop default, alter y type int using 7, drop z",
        "alter table s add z text default repeat('z', 100)",
    ] {
        s.exec(ddl);
        v.follows_somehow(&mut s);
        s.exec("update s set n = n + 1 where k <= 2");
        v.follows_somehow(&mut s);
        s.exec("delete from s where k = (select max(k) from s); insert into s select max(k) + 1, 1 from s");
        v.follows_somehow(&mut s);
    }
}

/// Columns of a table change with those of what it inherits from, or of the type it is made of.
#[test]
fn logged_column_is_altered_by_way_of_a_parent_or_a_type() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table parent (k int, n int, x text); create table heir (primary key (k)) inherits (parent);
         create type kind as (k int, n int, x text); create table typed of kind (primary key (k));
         insert into heir select i, i, repeat('x', 100) from generate_series(1, 5) i; insert into typed table heir",
    );
    let tables = [
        ("a", "select k, n from heir"),
        ("b", "select k, n from typed"),
        ("c", "select k, to_json(heir) as j from heir"),
    ]
    .map(|(name, query)| s.stream_table(name, query));
    for name in ["heir", "typed"] {
        s.stream_table(&format!("x_{name}"), &format!("select k, x from {name}"));
    }
    s.exec("select pgtrickle.drop_stream_table('x_heir'), pgtrickle.drop_stream_table('x_typed')");
    for ddl in [
        "alter table parent alter x type bigint using length(x); alter type kind drop attribute x cascade; alter type kind add attribute x bigint cascade",
        "alter table parent add y text; alter type kind add attribute y text cascade",
        "alter table parent drop x; alter type kind drop attribute y cascade",
        "alter table parent add z int default 7; alter type kind alter attribute x type int cascade",
    ] {
        s.exec(ddl);
        s.exec("update heir set n = n + 1 where k <= 2; update typed set n = n + 1 where k <= 2");
        for table in &tables {
            table.follows_somehow(&mut s);
        }
        s.exec("update parent set n = n + 1 where k = 3; delete from typed where k = 4; insert into typed (k, n) values (4, 4)");
        for table in &tables {
            table.follows(&mut s);
        }
    }
}

#[test]
fn type_of_a_logged_column_is_dropped() {
    let db = database();
    let mut s = db.connect();
    s.exec("create type mood as enum ('sad', 'ok'); create table s (k int primary key, n int, m mood); insert into s values (1, 1, 'ok')");
    let n = s.stream_table("n", "select k, n from s");
    s.stream_table("m", "select k, m from s");
    s.exec("select pgtrickle.drop_stream_table('m'); drop type mood cascade");
    s.exec("update s set n = 2; insert into s values (2, 2)");
    n.follows(&mut s);
    let k = s.stream_table("kk", "select k, n + 1 as n from s");
    s.exec("delete from s where k = 1");
    k.follows(&mut s);
}

/// Other values without any row being written.
#[test]
fn generated_columns_get_another_expression() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int, m int, g int generated always as (n * 2) stored, h int generated always as (n * 3));
         insert into s select i, i, -i from generate_series(1, 5) i",
    );
    let tables = [
        ("g", "select k, g from s"),
        ("h", "select k, h from s"),
        ("hs", "select h % 2 as odd, sum(h) as h from s group by 1"),
        ("gs", "select g % 2 as odd, sum(g) as g from s group by 1"),
        (
            "twice",
            "select a.k, b.h from s a join s b on a.h = b.g + b.n",
        ),
    ]
    .map(|(name, query)| s.stream_table(name, query));
    for ddl in [
        "alter table s alter g set expression as (n * 20)",
        "alter table s alter h set expression as (m * 30)",
        "alter table s alter g set expression as (m + n), alter h set expression as (m + n)",
    ] {
        s.exec(ddl);
        for table in &tables {
            table.follows_somehow(&mut s);
        }
        s.exec("update s set m = m - 1 where k <= 2; update s set n = n + 1 where k = 3; alter table s add unused int; alter table s drop unused");
        for table in &tables {
            table.follows(&mut s);
        }
    }
}

#[test]
fn names_inside_values_are_changed() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create type mood as enum ('sad', 'ok'); create type place as (street text, number int);
         create table part (a int, b int);
         create table s (k int primary key, n int, m mood, ms mood[], p place, q part);
         insert into s select i, i, 'ok', '{sad}', row('x', i)::place, row(i, i)::part from generate_series(1, 5) i;
         create view w as select k, to_json(s) as j from s",
    );
    let tables = [
        ("a", "select m::text as t, count(*) as c from s group by 1"),
        ("b", "select k, ms::text as t from s"),
        ("c", "select k, to_json(s) as j from s"),
        ("d", "select k, to_jsonb(p) as j from s"),
        ("e", "select k, j from w"),
        ("f", "select k, row_to_json(q) as j from s"),
        (
            "g",
            "select k, (select json_agg(x order by x.k) from s x where x.k < s.k) as j from s",
        ),
        ("h", "select k, enum_range(null::mood) as r from s"),
    ]
    .map(|(name, query)| s.auto_stream_table(name, query));
    for ddl in [
        "alter type mood rename value 'ok' to 'fine'",
        "alter type mood add value 'glad'",
        "alter type place rename attribute street to road",
        "alter type place add attribute zip text",
        "alter table part rename b to c",
        "alter table part add d int",
        "alter table s rename n to nn",
        "alter table s add zz int default 5",
        "alter table s drop zz",
    ] {
        s.exec(ddl);
        for table in &tables {
            table.refresh(&mut s);
            table.assert_verified(&mut s);
        }
        let n = s.value(
            "select attname from pg_attribute where attrelid = 's'::regclass and attnum = 2",
        );
        s.exec(&format!("update s set {n} = {n} + 1 where k = 1"));
        for table in &tables {
            table.refresh(&mut s);
            table.assert_verified(&mut s);
        }
    }
}

/// It is empty after a crash, whatever it was when it began to be captured.
#[test]
fn source_that_became_unlogged_is_emptied_by_a_crash() {
    let server = Server::start();
    let db = server.database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int); insert into s values (1, 1);
         create table p (k int, n int) partition by range (k); create table p1 partition of p for values from (0) to (10);
         insert into p values (1, 1);
         create unlogged table back (k int primary key); insert into back values (1)",
    );
    let v = s.stream_table("v", "select k, n from s");
    let w = s.stream_table("w", "select k, n from p");
    let back = s.stream_table("b", "select k from back");
    s.exec("alter table s set unlogged; create unlogged table p2 partition of p for values from (10) to (20); alter table back set logged");
    s.exec(
        "insert into s values (2, 2); insert into p values (11, 11); insert into back values (2)",
    );
    for table in [&v, &w, &back] {
        table.follows_somehow(&mut s);
    }
    s.exec("insert into s values (3, 3); insert into p values (2, 2), (12, 12); insert into back values (3)");
    drop(s);
    server.kill_postmaster();
    server.up();
    let mut s = db.connect();
    assert_eq!(s.value("select count(*) from s"), "0");
    for table in [&v, &w, &back] {
        table.follows_somehow(&mut s);
    }
    s.exec("insert into s values (4, 4); insert into p values (4, 4), (14, 14); insert into back values (4)");
    for table in [&v, &w, &back] {
        table.follows(&mut s);
    }
}

/// What a query calls is itself made of something.
#[test]
fn parts_of_functions_operators_and_aggregates_are_replaced() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int); insert into s values (1, 1), (2, 3);
         create function inner_f(int) returns int language sql immutable begin atomic select $1 + 1; end;
         create function outer_f(int) returns int language sql immutable begin atomic select inner_f($1) * 2; end;
         create function same(int, int) returns bool language sql immutable as 'select $1 = $2';
         create operator === (leftarg = int, rightarg = int, function = same);
         create function step(int, int) returns int language sql immutable as 'select $1 + coalesce($2, 0)';
         create aggregate total(int) (sfunc = step, stype = int, initcond = '0')",
    );
    let tables = [
        ("f", "select k, outer_f(n) as x from s"),
        ("o", "select k from s where k === n"),
        ("a", "select k, total(n) as x from s group by k"),
    ]
    .map(|(name, query)| s.stream_table(name, query));
    for ddl in [
        "create or replace function inner_f(int) returns int language sql immutable begin atomic select $1 + 10; end",
        "create or replace function same(int, int) returns bool language sql immutable as 'select $1 <> $2'",
        "create or replace function step(int, int) returns int language sql immutable as 'select $1 + 2 * coalesce($2, 0)'",
        "create or replace aggregate total(int) (sfunc = step, stype = int, initcond = '100')",
    ] {
        s.exec(ddl);
        for table in &tables {
            table.follows_somehow(&mut s);
        }
        s.exec("update s set n = n + 1; delete from s where k > 2; insert into s values (3, 3)");
        for table in &tables {
            table.follows(&mut s);
        }
    }
}
