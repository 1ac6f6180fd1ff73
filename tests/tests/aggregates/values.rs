//! Aggregates of rows that come, go and change: values that fold badly, filters, expressions over them.

use super::*;

#[test]
fn sum_becomes_null_when_only_nulls_are_left() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int)");
    let v = s.stream_table(
        "v",
        "select g, sum(n) as total, count(n) as c from s group by g",
    );
    s.exec("insert into s values (1, 1, 5)");
    v.follows(&mut s);
    assert_eq!(s.lines("select g, total, c from v"), ["1|5|1"]);
    s.exec("update s set n = null");
    v.follows(&mut s);
    assert_eq!(s.lines("select g, total, c from v"), ["1|-|0"]);
    s.exec("delete from s");
    v.follows(&mut s);
    assert!(s.rows("select g, total, c from v").is_empty());
}

#[test]
fn average_with_nulls_that_become_values() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int); insert into s values (1, 3), (2, 3), (3, null)",
    );
    let v = s.stream_table("v", "select avg(n) as mean, count(*) as c from s");
    follow(
        &mut s,
        &v,
        &[
            "update s set n = 3 where k = 3",
            "update s set n = 9 where n = 3 and k = 3",
            "update s set n = null",
            "insert into s values (4, 1)",
            "delete from s",
        ],
    );
    assert_eq!(s.lines("select mean, c from v"), ["-|0"]);
}

#[test]
fn expressions_over_aggregates() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int, m numeric)");
    let v = s.stream_table(
        "v",
        "select g + 1 as g1, sum(n) * 100 / nullif(count(*), 0) as ratio, coalesce(max(m), 0) - coalesce(min(m), 0) as span,
            case when count(*) > 2 then 'many' else 'few' end as size, round(avg(m), 2) as mean, 'x' as constant
         from s group by g having sum(n) > 3 or count(m) = 0",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, i % 4, i, i / 3.0 from generate_series(1, 12) i",
            "update s set m = null where g = 2",
            "update s set n = 0 where g = 1; delete from s where k = 3",
            "update s set g = 1; update s set m = 2.5 where k = 4",
        ],
    );
}

#[test]
fn filter_clauses() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int, t text)");
    let v = s.stream_table(
        "v",
        "select g, count(*) filter (where n > 5) as big, sum(n) filter (where t = 'a') as a, avg(n) filter (where t is null) as nulls,
            min(n) filter (where n % 2 = 0) as even, max(t) filter (where n < 0) as none, count(t) as c from s group by g",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, i % 2, i, case i % 3 when 0 then 'a' when 1 then 'b' end from generate_series(1, 12) i",
            "update s set t = 'a' where t is null; update s set n = -n where k = 4",
            "delete from s where n % 2 = 0; update s set n = null where k = 5",
            "update s set t = null; insert into s values (50, null, null, null)",
        ],
    );
}

#[test]
fn extremum_is_deleted_tied_moved_away_and_back() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int, t text); insert into s select i, i % 2, i, 'n' || i from generate_series(1, 10) i");
    let v = s.stream_table("v", "select g, min(n) as low, max(n) as high, min(t) as first, max(t) as last from s group by g");
    let all = s.stream_table("a", "select min(n) as low, max(n) as high from s");
    for batch in [
        "delete from s where n in (1, 10)",
        "insert into s values (20, 0, 8, 'n8'), (21, 1, 3, 'n3')",
        "delete from s where k = 8",
        "update s set n = 100 where n = (select min(n) from s); update s set n = 3 where n = 100",
        "update s set n = -n",
        "update s set n = null where g = 0",
        "delete from s where n = (select max(n) from s); insert into s values (30, 1, 1000, 'zz'); delete from s where k = 30",
        "update s set g = 1 - g",
        "delete from s where g = 1",
        "delete from s",
    ] {
        s.exec(batch);
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
        all.refresh(&mut s);
        all.assert_fresh(&mut s);
    }
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

#[test]
fn extrema_of_many_types() {
    let db = database();
    let mut s = db.connect();
    s.exec("create type mood as enum ('sad', 'ok', 'happy')");
    s.exec("create table s (k int primary key, d date, t timestamptz, i interval, b bytea, m mood, a int[], n numeric, f float8, x inet)");
    let v = s.stream_table(
        "v",
        "select min(d) as d1, max(d) as d2, min(t) as t1, max(i) as i2, max(m) as m2, min(a) as a1, max(n) as n2, min(f) as f1, max(x) as x2 from s",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, date '2024-01-01' + i, now(), i * interval '1 hour', '\\x00', (array['sad', 'ok', 'happy'])[1 + i % 3]::mood, array[i, 1], i / 7.0, i / 3.0, ('10.0.0.' || i)::inet from generate_series(1, 9) i",
            "delete from s where k in (1, 9)",
            "update s set m = 'sad', n = 'NaN', f = 'NaN' where k = 2",
            "update s set n = 'Infinity', f = '-Infinity' where k = 3; delete from s where k = 2",
            "delete from s",
        ],
    );
}

#[test]
fn numeric_nan_and_infinities() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n numeric)");
    let v = s.stream_table("v", "select g, sum(n) as total, avg(n) as mean, count(n) as c, min(n) as low, max(n) as high from s group by g");
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (1, 1, 1.5), (2, 1, 'NaN'), (3, 2, 'Infinity'), (4, 2, 1), (5, 3, '-Infinity')",
            "insert into s values (6, 2, '-Infinity'), (7, 3, 'Infinity')",
            "delete from s where k in (2, 6)",
            "delete from s where k in (3, 5)",
            "update s set n = 'NaN'",
            "update s set n = k",
        ],
    );
}

/// The scale of a numeric sum is that of its finest summand, and avg divides with it.
#[test]
fn numeric_scale_after_the_finest_value_left() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n numeric); insert into s values (1, 1, 1), (2, 1, 1), (3, 1, 0)");
    let v = s.stream_table(
        "v",
        "select g, avg(n) as mean, sum(n) as total from s group by g",
    );
    s.exec("insert into s values (4, 1, 1.000000000000000000000000000001)");
    v.follows(&mut s);
    s.exec("delete from s where k = 4");
    v.follows(&mut s);
    v.assert_same_text(&mut s);
}

#[test]
fn sums_of_every_exact_type() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a smallint, b int, c bigint, d numeric(12, 3), i interval, m money, n numeric)");
    let v = s.stream_table(
        "v",
        "select k % 2 as g, sum(a) as a, sum(b) as b, sum(c) as c, sum(d) as d, sum(i) as i, sum(m) as m, avg(a) as aa, avg(b) as ab, avg(c) as ac, avg(d) as ad, avg(i) as ai, avg(n) as an
         from s group by 1",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, i, i * 1000000, i * 1000000000000, i / 7.0, i * interval '1 month 3 days 5.5 seconds', (i * 1.25)::numeric::money, i * 1e20 from generate_series(1, 9) i",
            "update s set a = -a, b = 2147483647, c = 9223372036854775807, i = -i where k in (3, 5, 7)",
            "update s set a = null, d = null, i = null, m = null where k % 2 = 0",
            "delete from s where k % 2 = 0; update s set n = null where k = 1",
            "insert into s(k) values (100), (101)",
        ],
    );
}

#[test]
fn infinite_intervals() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, i interval); insert into s values (1, '1 day'), (2, '2 days')");
    let v = s.stream_table(
        "v",
        "select sum(i) as total, avg(i) as mean, max(i) as high from s",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (3, 'infinity')",
            "delete from s where k = 3",
            "insert into s values (4, '-infinity')",
            "delete from s where k = 4; update s set i = i * 2",
        ],
    );
}

#[test]
fn integer_sum_passes_beyond_bigint_and_back() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n bigint)");
    let v = s.stream_table("v", "select sum(n) as total, avg(n) as mean from s");
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, 9223372036854775807 from generate_series(1, 20) i",
            "delete from s where k > 1",
            "update s set n = -9223372036854775808",
            "insert into s values (2, -1)",
        ],
    );
}

#[test]
fn float_sums_do_not_drift() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, f float8, r real)");
    let v = s.stream_table(
        "v",
        "select g, sum(f) as f, sum(r) as r, avg(f) as mean, count(*) as c from s group by g",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (1, 1, 1e17, 1), (2, 1, 0.5, 2.5), (3, 2, 'Infinity', 'Infinity')",
            "delete from s where k = 1",
            "insert into s values (4, 2, '-Infinity', 1)",
            "delete from s where k = 3",
            "update s set f = 'NaN' where k = 2",
            "update s set f = 0.25, r = 0.5",
        ],
    );
}

#[test]
fn count_of_a_column_and_of_rows_of_a_join() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table c (id int primary key, name text, region text); create table o (id int primary key, c int, amount numeric(10, 2))");
    s.exec("insert into c select i, 'c' || i, case i % 3 when 0 then null else 'r' || i % 3 end from generate_series(1, 9) i");
    let v = s.stream_table("v", "select c.region, count(*) as orders, count(distinct_name) as named, sum(amount) as total, avg(amount) as mean from (select id, region, name as distinct_name from c) c join o on o.c = c.id group by c.region");
    follow(
        &mut s,
        &v,
        &[
            "insert into o select i, 1 + i % 9, i * 1.37 from generate_series(1, 40) i",
            "update c set region = 'r1' where region is null; update o set amount = amount + 1 where id % 5 = 0",
            "delete from c where id = 3; update o set c = 4 where c = 5",
            "update c set name = null where id % 2 = 0; delete from o where amount > 40",
        ],
    );
}

#[test]
fn same_aggregate_twice_and_of_expressions() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int, b int)");
    let v = s.stream_table("v", "select a % 2 as g, sum(b) as s1, sum(b) as s2, sum(b + 1) as s3, sum(a * b) as s4, count(a + b) as c, max(a - b) as m, max(-b) as n, sum(1) as ones from s group by a % 2");
    follow(
        &mut s,
        &v,
        &[
            "insert into s select i, i, i * i from generate_series(1, 9) i",
            "update s set b = null where k = 3; update s set a = null where k = 4",
            "delete from s where k > 7; update s set b = -b",
        ],
    );
}

#[test]
fn booleans_strings_and_other_aggregates_are_right_in_some_mode() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, g int, n int, t text, f float8)");
    let v = s.auto_stream_table(
        "v",
        "select g, bool_and(n > 0) as every, bool_or(n > 8) as some, string_agg(t, ',' order by t, k) as ts, array_agg(n order by k) as ns, count(distinct n) as nd,
            stddev_pop(n) as sd, var_samp(n) as vs, bit_or(n) as bits, jsonb_object_agg(k, t) as j, percentile_cont(0.5) within group (order by n) as med, mode() within group (order by t) as mo
         from s group by g",
    );
    follow_somehow(
        &mut s,
        &v,
        &[
            "insert into s select i, i % 3, i, 't' || i % 4, i from generate_series(1, 12) i",
            "update s set n = -n where k = 5; delete from s where k = 7",
            "delete from s where g = 1; update s set t = 'z'",
            "delete from s",
        ],
    );
}
