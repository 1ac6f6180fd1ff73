//! Groups that come, go and change their keys; no group at all; HAVING; grouping sets.

use super::*;

#[test]
fn null_is_a_group_key_like_any_other() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, h text, n int); insert into s values (1, null, null, 1), (2, null, 'a', 2)");
    let v = s.stream_table(
        "v",
        "select g, h, count(*) as c, sum(n) as total from s group by g, h",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (3, null, null, 10), (4, 1, null, 20)",
            "update s set g = null where k = 4; update s set h = null where k = 2",
            "delete from s where k in (1, 3)",
            "delete from s",
            "insert into s values (9, null, null, null)",
        ],
    );
    assert_eq!(s.lines("select g, h, c, total from v"), ["-|-|1|-"]);
}

#[test]
fn group_vanishes_and_returns_in_one_cycle() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int); insert into s values (1, 1, 10), (2, 2, 20)");
    let v = s.stream_table(
        "v",
        "select g, count(*) as c, sum(n) as total, min(n) as low from s group by g",
    );
    follow(
        &mut s,
        &v,
        &[
            "delete from s where g = 1; insert into s values (5, 1, 7)",
            "update s set g = 3 where g = 1; update s set g = 1 where g = 2; update s set g = 2 where g = 3",
        ],
    );
    assert_eq!(
        s.lines("select g, c, total, low from v order by g"),
        ["1|1|20|20", "2|1|7|7"]
    );
}

#[test]
fn query_without_group_by_has_one_row_over_nothing() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select count(*) as c, sum(n) as total, min(n) as low, max(n) as high, avg(n) as mean from s where n > 0");
    v.assert_fresh(&mut s);
    assert_eq!(
        s.lines("select c, total, low, high, mean from v"),
        ["0|-|-|-|-"]
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (1, 5)",
            "delete from s",
            "insert into s values (1, 7), (2, 8)",
            "update s set n = -n",
        ],
    );
    assert_eq!(
        s.lines("select c, total, low, high, mean from v"),
        ["0|-|-|-|-"]
    );
}

#[test]
fn query_without_group_by_but_with_having() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select count(*) as c from s having count(*) > 1");
    for (sql, rows) in [
        ("insert into s values (1)", 0),
        ("insert into s values (2), (3)", 1),
        ("delete from s where k > 1", 0),
        ("insert into s values (7)", 1),
    ] {
        s.exec(sql);
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
        assert_eq!(s.rows("select * from v").len(), rows, "after {sql}");
    }
}

#[test]
fn group_by_over_nothing_has_no_row() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int)");
    let v = s.stream_table("v", "select g, count(*) as c from s group by g");
    v.assert_fresh(&mut s);
    follow(
        &mut s,
        &v,
        &["insert into s values (1, 1)", "delete from s"],
    );
}

#[test]
fn group_by_a_constant_and_by_nothing_selected() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int)");
    let hidden = s.stream_table("hidden", "select sum(n) as total from s group by g");
    let keys_only = s.stream_table("keys_only", "select g from s group by g");
    let empty_set = s.auto_stream_table("empty_set", "select count(*) as c from s group by ()");
    for batch in [
        "insert into s values (1, 1, 5), (2, 2, 5), (3, null, 5)",
        "update s set n = 6 where k = 2",
        "delete from s where k = 1; insert into s values (4, 2, 1)",
        "delete from s",
    ] {
        s.exec(batch);
        hidden.follows(&mut s);
        keys_only.refresh(&mut s);
        keys_only.assert_fresh(&mut s);
        empty_set.refresh(&mut s);
        empty_set.assert_fresh(&mut s);
    }
}

#[test]
fn group_by_expressions() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, at timestamptz, t text, n int)");
    let v = s.stream_table(
        "v",
        "select date_trunc('day', at, 'UTC') as day, upper(left(t, 1)) || '-' as initial, n % 3 + 1 as m, count(*) as c, sum(n * 2 + 1) as total
         from s group by 1, 2, n % 3",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, '2024-01-01Z'::timestamptz + i * interval '7 hours', chr(97 + i % 4), i from generate_series(1, 30) i",
            "update s set at = at + interval '1 day' where k % 5 = 0; update s set t = upper(t) where k % 2 = 0",
            "delete from s where k > 20; update s set t = null where k < 4",
        ],
    );
}

#[test]
fn having_is_crossed_in_both_directions() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, 1 from generate_series(1, 9) i");
    let v = s.stream_table(
        "v",
        "select g, sum(n) as total from s group by g having sum(n) > 3 and count(*) < 5",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (10, 0, 1)",
            "insert into s values (11, 0, 1), (12, 1, 7)",
            "delete from s where k = 11; update s set n = 0 where g = 1",
            "delete from s where g = 0",
            "update s set n = 10 where g = 1 and k < 5",
        ],
    );
}

#[test]
fn negative_zero_and_zero_are_one_group() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, f float8, n numeric); insert into s values (1, 0.0, 1.0), (2, '-0.0', 1.00)");
    let v = s.stream_table("v", "select f, count(*) as c from s group by f");
    let w = s.stream_table(
        "w",
        "select n, count(*) as c, sum(k) as total from s group by n",
    );
    let d = s.stream_table("d", "select distinct f, n from s");
    for batch in [
        "insert into s values (3, '-0', 1.000), (4, 'NaN', 'NaN'), (5, 'NaN', 'NaN')",
        "delete from s where k = 1",
        "update s set n = 1 where k = 2; update s set f = 0 where k = 3",
        "delete from s where k = 4",
    ] {
        s.exec(batch);
        for v in [&v, &w, &d] {
            v.refresh(&mut s);
            v.assert_fresh(&mut s);
        }
    }
    assert_eq!(s.value("select count(*) from w where n = 1"), "1");
}

#[test]
fn equal_intervals_are_one_group() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, i interval); insert into s values (1, '1 day'), (2, '24:00')");
    let v = s.stream_table("v", "select i, count(*) as c from s group by i");
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (3, '1 day'), (4, '1 mon'), (5, '30 days')",
            "delete from s where k = 1",
            "update s set i = '24:00' where k = 3; update s set i = '720:00' where k = 4",
        ],
    );
    assert_eq!(s.rows("select * from v").len(), 2);
}

#[test]
fn text_groups_differ_by_case_and_padding() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, t text, c char(5), v varchar(5)); insert into s values (1, 'a', 'a', 'a'), (2, 'A', 'a  ', 'a  '), (3, 'a ', 'A', 'A')");
    let v = s.stream_table("v", "select t, count(*) as n from s group by t");
    let c = s.stream_table("c", "select c, v, count(*) as n from s group by c, v");
    for batch in [
        "insert into s values (4, 'a', 'a', 'a'), (5, '', '', ''), (6, null, null, null)",
        "update s set t = lower(t), c = lower(c)",
        "delete from s where k in (1, 5)",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        c.follows(&mut s);
    }
}

#[test]
fn nondeterministic_collation_groups_by_its_own_equality() {
    let db = database();
    let mut s = db.connect();
    if s.value("select count(*) from pg_collation where collprovider = 'i'") == "0" {
        eprintln!("this PostgreSQL has no ICU");
        return;
    }
    s.exec(
        "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    s.exec("create table s (k int primary key, t text collate ci); insert into s values (1, 'a'), (2, 'A'), (3, 'b')");
    let v = s.auto_stream_table("v", "select t, count(*) as n from s group by t");
    let d = s.auto_stream_table("d", "select distinct t from s");
    for batch in [
        "insert into s values (4, 'B'), (5, 'c')",
        "delete from s where k in (1, 3)",
        "update s set t = upper(t)",
    ] {
        s.exec(batch);
        v.follows_somehow(&mut s);
        d.follows_somehow(&mut s);
    }
    assert_eq!(s.rows("select * from v").len(), 3);
}

#[test]
fn grouping_sets_rollup_and_cube_are_right_in_some_mode() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int, b int, n int)");
    let v = s.auto_stream_table("v", "select a, b, grouping(a, b) as lvl, count(*) as c, sum(n) as total from s group by rollup (a, b)");
    let w = s.auto_stream_table(
        "w",
        "select a, b, count(*) as c from s group by grouping sets ((a), (b), (a, b), ())",
    );
    for batch in [
        "insert into s select i, i % 2, i % 3, i from generate_series(1, 10) i",
        "update s set a = null where k = 1; delete from s where b = 2",
        "delete from s",
    ] {
        s.exec(batch);
        v.follows_somehow(&mut s);
        w.follows_somehow(&mut s);
    }
}

#[test]
fn aggregate_over_an_aggregate_is_right_in_some_mode() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int)");
    let v = s.auto_stream_table("v", "select c, count(*) as groups, sum(total) as total from (select g, count(*) as c, sum(n) as total from s group by g) x group by c");
    let w = s.auto_stream_table(
        "w",
        "select count(*) as c from (select distinct g from s) x",
    );
    for batch in [
        "insert into s select i, i % 4, i from generate_series(1, 11) i",
        "delete from s where k = 3; update s set g = 9 where g = 1",
        "delete from s where g = 9",
    ] {
        s.exec(batch);
        v.follows_somehow(&mut s);
        w.follows_somehow(&mut s);
    }
}

#[test]
fn group_key_is_the_primary_key() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, name text, x int); create table b (k int primary key, a int references a on delete cascade, n int)");
    let v = s.stream_table("v", "select a.k, a.name, count(*) as c, sum(b.n) as total from a join b on b.a = a.k group by a.k");
    follow(
        &mut s,
        &v,
        &[
            "insert into a values (1, 'one', 1), (2, 'two', 2); insert into b values (1, 1, 5), (2, 1, 6), (3, 2, 7)",
            "update a set name = 'eins' where k = 1",
            "delete from a where k = 2; update b set n = n + 1",
        ],
    );
}
