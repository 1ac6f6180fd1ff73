//! DISTINCT, and counts of distinct values.

use super::*;

#[test]
fn distinct_counts_its_duplicates() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int, b text); insert into s values (1, 1, 'x'), (2, 1, 'x'), (3, null, null), (4, null, null)");
    let v = s.stream_table("v", "select distinct a, b from s");
    assert_eq!(s.lines("select column_name from information_schema.columns where table_name = 'v' order by ordinal_position limit 2"), ["a", "b"]);
    follow(
        &mut s,
        &v,
        &[
            "delete from s where k = 1; insert into s values (5, 7, 'x')",
            "delete from s where k = 2; delete from s where k = 3",
            "update s set a = 1, b = 'x'",
            "delete from s",
            "insert into s values (1, null, ''), (2, null, null)",
        ],
    );
}

#[test]
fn distinct_change_that_leaves_the_row_is_no_write() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int); insert into s values (1, 1), (2, 1)");
    let v = s.stream_table("v", "select distinct a from s");
    s.exec("delete from s where k = 1; insert into s values (3, 1), (4, 1)");
    v.follows(&mut s);
    s.exec("delete from s where k in (2, 3)");
    v.follows(&mut s);
    s.exec("delete from s where k = 4");
    v.follows(&mut s);
}

#[test]
fn distinct_values_are_counted() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, a int, b numeric, t text); insert into s select i, i % 3, i % 4, i % 5, 't' || i % 2 from generate_series(1, 30) i");
    let streams = [
        s.stream_table("by_g", "select g, count(distinct a) as n from s group by g"),
        s.stream_table("of_all", "select count(distinct t) as n from s"),
        s.stream_table(
            "loose",
            "select b, count(distinct b) as n, count(distinct b) + 1 as more from s group by b",
        ),
        s.stream_table("expressed", "select g + 1 as h, count(distinct lower(t) || a) as n from s where a <> 2 group by g + 1 having count(distinct lower(t) || a) > 1"),
        s.stream_table("beside", "select g, count(distinct a) as n, count(*) as c from s group by g"),
        s.stream_table("two", "select g, count(distinct a) as n, count(distinct t) as m from s group by g"),
        s.stream_table("filtered", "select g, count(distinct a) filter (where a > 1) as n from s group by g"),
        s.stream_table("nested", "select x.k, (select count(distinct y.t) from s y where y.g = x.a) as n from s x"),
    ];
    for batch in [
        "update s set a = null where g = 1",
        "delete from s where a = 3; insert into s values (40, null, null, null, null), (41, 7, 1, 1.0, 'T1'), (42, 7, 1, 1.00, 't1')",
        "update s set g = 7, b = b + 0.0 where k < 10",
        "update s set a = k, t = upper(t) where g = 2; delete from s where k = 41",
        "delete from s",
        "insert into s values (1, 1, 1, 1, 'x'), (2, 1, 1, 1, 'x'), (3, null, null, null, null)",
    ] {
        s.exec(batch);
        for v in &streams {
            v.refresh(&mut s);
            v.assert_fresh(&mut s);
            let (mode, reason) = v.last_refresh(&mut s);
            assert!(
                mode == "DIFFERENTIAL" || reason.as_deref() == Some("initial"),
                "{} was refreshed by {mode} ({reason:?})",
                v.name()
            );
        }
    }
}

#[test]
fn distinct_over_a_join_and_over_union_all() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, x int); create table b (k int primary key, x int); insert into a select i, i % 3 from generate_series(1, 9) i; insert into b select i, i % 4 from generate_series(1, 8) i");
    let joined = s.stream_table(
        "joined",
        "select distinct a.x, b.k % 2 as p from a join b on a.x = b.x",
    );
    let united = s.stream_table(
        "united",
        "select distinct x from (select x from a union all select x from b) u",
    );
    for batch in [
        "delete from a where x = 1; insert into b values (20, 2)",
        "update b set x = x + 1; update a set x = x + 1 where k < 4",
        "delete from b",
        "insert into b values (1, 0), (2, 0)",
    ] {
        s.exec(batch);
        for v in [&joined, &united] {
            v.refresh(&mut s);
            v.assert_fresh(&mut s);
        }
    }
}
