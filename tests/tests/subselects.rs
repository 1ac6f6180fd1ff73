//! Sub-selects that become something else before they are maintained: arrays of rows that are compared or shown, aggregates
//! over nothing, aggregates of the query around.

use pgt_tests::{Session, StreamTable, database};

const TABLES: &str = "create table d (id int primary key, boss int, budget numeric, name varchar(20));
     create table e (id int primary key, d int, pay int, name text);
     create table l (k int, v int);
     create aggregate product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');
     insert into d select i, nullif(i % 4, 0), i * 100, 'n' || i from generate_series(1, 6) i;
     insert into e select i, i % 5, nullif(i * 7 % 10, 3) * 50, 'n' || i % 7 from generate_series(1, 25) i;
     insert into l select i % 6, i % 4 from generate_series(1, 12) i";

/// NULLs come and go, first and last rows too, on both sides of one refresh.
const CHANGES: [&str; 12] = [
    "insert into l values (1, null), (null, 2)",
    "insert into e values (100, 3, null, null), (101, null, 100, 'x'); delete from l where v = 0",
    "update l set v = 3 where v is null; update d set boss = null where id = 2",
    "begin; delete from e where d = 2; update d set id = 20 where id = 2; insert into e values (102, 20, 50, 'n1'); commit",
    "update e set pay = pay + 50 where id % 3 = 0; update d set budget = budget / 3, boss = 1 where id > 4",
    "delete from l",
    "insert into l values (3, 3), (4, null), (null, null)",
    "update e set d = null where id < 5; update e set d = 3 where d = 1",
    "begin; delete from e where d = 3; insert into d values (50, 2, null, null); insert into l values (50, 2), (2, 1); commit",
    "delete from e",
    "insert into e select i, i % 4, i * 10, 'n' || i from generate_series(1, 10) i; delete from d where id < 3",
    "insert into d values (1, 1, 1, 'n1'), (2, 2, 2, 'n2'); update l set k = v, v = k",
];

#[track_caller]
fn follow(queries: &[&str]) {
    let db = database();
    let mut s = db.connect();
    s.exec(TABLES);
    follow_in(&mut s, queries, &CHANGES);
}

#[track_caller]
fn follow_in(s: &mut Session, queries: &[&str], changes: &[&str]) {
    let tables: Vec<StreamTable> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| s.stream_table(&format!("v{number}"), query))
        .collect();
    for change in changes {
        s.exec(change);
        for v in &tables {
            v.refresh(s);
            v.assert_fresh(s);
        }
    }
    assert_eq!(
        s.lines(
            "select distinct action from pgtrickle.pgt_refresh_history
             where action not in ('DIFFERENTIAL', 'NO_DATA') and reason <> 'initial'"
        ),
        [""; 0]
    );
    assert_eq!(
        s.lines("select distinct effective_refresh_mode from pgtrickle.pgt_stream_tables"),
        ["DIFFERENTIAL"]
    );
}

#[test]
fn array_of_rows_is_compared_as_they_are() {
    follow(&[
        "select id from d where boss = any (array(select v from l))",
        "select id from d where boss <> all (array(select v from l))",
        "select id from d where not (boss = any (array(select v from l where k = d.id)))",
        "select id from d where (boss <> all (array(select v from l where k = d.id))) is not true",
        "select id, boss = any (array(select v from l)) as a, boss <> all (array(select v from l where k < d.id)) as b from d",
        "select id, budget > all (array(select e.pay from e where e.d = d.id order by e.id)) as a, budget < any (array(select v * 100 from l)) as b from d",
        "select id from d where name = any (array(select e.name from e where e.d = d.boss)) or boss is null",
        "select d.id, e.id as e from d left join e on e.d = d.id and e.pay = any (array(select v * 50 from l))",
        "select id from d where boss = any (array(select v from l order by k desc nulls last, v limit 3))",
    ]);
}

#[test]
fn array_of_arrays_is_none_of_rows() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (id int primary key, list int[]); create table n (x int)");
    follow_in(
        &mut s,
        &["select x from n where x = any (array(select list from a order by id))"],
        &[
            "insert into n values (1), (2), (3), (null)",
            "insert into a values (1, '{1,2}'), (2, '{2,3}')",
            "delete from a where id = 1",
            "update a set list = '{null,1}'",
            "delete from a",
        ],
    );
}

#[test]
fn array_and_comparison_of_an_aggregate() {
    follow(&[
        "select d.id, array(select count(*) from e where e.d = d.id) as n from d",
        "select d.id, array(select sum(e.pay) from e where e.d = d.id having count(*) > 4) as n from d",
        "select d.id, array(select max(e.name) || d.id from e where e.d < d.id) as n from d",
        "select d.id from d where 4 <= any (array(select count(*) from e where e.d = d.id))",
        "select d.id, d.boss in (select count(*) from e where e.d = d.id having count(*) <> 5) as a,
             d.budget > all (select sum(e.pay) from e where e.d = d.id having count(*) > 3) as b,
             (d.boss, 1) not in (select count(*), min(l.v) from l where l.k = d.id) as c from d",
    ]);
}

#[test]
fn order_of_a_sub_query_reaches_the_aggregate_over_it() {
    follow(&[
        "select d.id, json_array(select e.id from e where e.d = d.id order by e.pay desc nulls first, e.id) as j from d",
        "select json_array(select e.pay from e order by e.id returning jsonb) as j",
        "select array_agg(q.pay) as a, string_agg(q.name, ',') as s, count(*) as n from (select pay, name from e order by d nulls first, id desc) q where q.pay > 50",
        "select json_agg(q) as j from (select id, pay from e order by id desc limit 4) q",
        "select array_agg(q.name) as a from (select distinct name from e order by name desc) q",
    ]);
}

/// What becomes a join leaves no order.
#[test]
fn order_of_a_sub_query_does_not_outlive_a_semi_join() {
    let db = database();
    let mut s = db.connect();
    s.exec(TABLES);
    let v = s.auto_stream_table(
        "v",
        "select array_agg(q.id) as a from (select id from e order by id) q where q.id in (select v from l)",
    );
    let reason = s.value("select downgrade_reason from pgtrickle.explain_refresh_mode('v')");
    assert!(reason.contains("depends on the order"), "{reason}");
    for change in ["insert into l values (9, 9)", "delete from l where v < 2"] {
        s.exec(change);
        v.follows_somehow(&mut s);
    }
}

#[test]
fn sub_query_of_an_aggregate_that_returns_a_set_has_any_number_of_rows() {
    follow(&[
        "select id from d where exists (select generate_series(1, count(*)) from e where e.d = 3)",
        "select id from d where id in (select generate_series(2, count(*)) from e where e.d = 3)",
    ]);
}

#[test]
fn aggregate_whose_value_over_nothing_has_to_be_evaluated() {
    follow(&[
        "select d.id, (select product(l.v) from l where l.k = d.id) as p from d",
        "select d.id, (select product(l.v order by l.v) filter (where l.v <> d.boss) - count(*) from l where l.k > d.id) as p from d",
        "select d.id from d where (select product(distinct l.v) from l where l.k = d.id) < 2",
        "select d.id, x.p from d, lateral (select product(l.v) as p from l where l.k = d.id having product(l.v) < 3) x",
        "select d.id, x.p from d left join lateral (select product(l.v) as p from l where l.k = d.id) x on x.p > 1",
        "select d.id, (select rank(100) within group (order by e.pay) from e where e.d = d.id) as r,
             (select cume_dist(100) within group (order by e.pay) from e where e.d = d.id) as c from d",
    ]);
}

#[test]
fn aggregate_of_the_query_around() {
    follow(&[
        "select d, sum(pay) as s from e group by d having exists (select from d where d.budget < sum(e.pay))",
        "select d, (select count(*) from d where d.budget < sum(e.pay) and d.id <> e.d) as n from e group by d",
        "select d, (select max(d.id) from d where d.id < count(e.pay) and exists (select from l where l.k = count(e.pay) or l.v = min(e.id) + d.id)) as m, count(pay) as n from e group by d",
        "select (select sum(e.pay) + d.id from d where d.id = 4) as x from e",
        "select d, name, (select count(*) from l where l.k = count(e.id)) as n from e group by rollup (d, name)",
        "select d from e group by d having sum(pay) filter (where name > 'n3') in (select v * 100 from l) or max(id) > all (select d.id from d where d.boss < count(distinct e.name))",
        "select d, (select string_agg(l.v::text, ',' order by l.v) from l where l.k < avg(e.pay) / 50) as s from e group by d",
    ]);
}

/// 1.0 and 1.00 are one value to a comparison and two to everything else.
#[test]
fn equal_values_that_look_different_are_told_apart() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table a (id int primary key, n numeric, i interval, f float8, t text collate blind);
         create table b (k int, t text collate blind)",
    );
    follow_in(
        &mut s,
        &[
            "select id, (select n || '/' || count(*) from b where k < n) as x from a",
            "select id, (select count(*) from b where k < n) as x from a",
            "select a.id, x.* from a, lateral (select distinct a.n::text || b.k as x, a.i::text as i from b where b.k < a.f) x",
            "select id from a where exists (select k from b where k < n group by k having n::text || count(*) > '1.01')",
            "select id, n::text like any (select '%' || k from b) as x, f::text <> all (select k::text from b) as y from a",
            "select id, (select string_agg(a.t || b.t, ',' order by b.k) from b where b.t = a.t) as x from a",
            "select a.id, b.k from a left join b on b.k < a.n and (select a.n::text || count(*) from b c where c.k = b.k) like '1.00%'",
        ],
        &[
            "insert into b values (0, 'x'), (1, 'X'), (2, 'y')",
            "insert into a values (1, 1.0, '1 day', 0.0, 'x'), (2, 1.00, '24:00', '-0', 'X'), (3, 1.000, '1 day', 1, 'x')",
            "insert into b values (-1, 'x'), (0, 'Y'), (5, null); delete from a where id = 1",
            "update a set n = 1.0 where id = 3; update a set i = '1 day', t = 'x' where id = 2",
            "update a set n = 1, f = -f",
            "begin; update a set n = 1.00 where id = 2; delete from b where k = 0; insert into a values (4, 1.0000, null, null, 'y'), (5, null, '24:00', '0', null); commit",
            "delete from b",
            "insert into b select i % 3 - 1, chr(120 + i % 2) from generate_series(1, 6) i",
        ],
    );
}

#[test]
fn correlated_by_json() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table j (id int primary key, r json)");
    follow_in(
        &mut s,
        &[
            "select id, (select count(*) from j x where x.r::text = j.r::text) as n from j",
            "select id, (select json_agg(j.r -> 'a' order by x.id) from j x where (x.r ->> 'a') = (j.r ->> 'a')) as n from j",
            "select id, (select max(x.id) from j x where exists (select from j y where y.id = x.id and y.r::text = j.r::text) or x.r is null) as n from j",
            "select id, (select j.r from j x where x.id < j.id order by x.id limit 1) as n from j",
        ],
        &[
            "insert into j values (1, '{\"a\":1}'), (2, '{\"a\": 1}'), (3, '{\"a\":1}'), (4, null)",
            "update j set r = '{\"a\": 1}' where id = 3",
            "update j set r = null where id = 1; insert into j values (5, '{\"a\":2}'), (6, '{\"a\": 2}')",
            "begin; delete from j where id = 2; update j set r = '{\"a\":2}' where id = 4; commit",
            "delete from j",
        ],
    );
}

#[test]
fn sub_query_over_both_sides_of_an_outer_join() {
    follow(&[
        "select d.id, e.id as e from d left join e on exists (select from l where l.k = d.id and l.v = e.d)",
        "select d.id, e.id as e from d left join e on e.d = d.id and e.pay > (select sum(l.v) * 30 from l where l.k = d.id or l.v = e.d)",
        "select d.id, e.id as e from e right join d on e.d <> d.id and (e.d, d.id) not in (select l.k, l.v from l where l.k is not null) and e.pay > 100",
        "select d.id, e.id as e, l.v from d left join l on l.k = d.id left join e on e.d = l.v and d.boss = any (array(select x.v from l x where x.k = e.d))",
        "select d.id, (select count(e.id) * 100 + count(*) from l left join e on e.d = l.k and exists (select from l x where x.k = d.id and x.v = e.d)) as n from d",
    ]);
}

#[test]
fn outer_joins_inside_a_sub_query_look_around_it() {
    follow(&[
        "select d.id, (select count(l.v) * 100 + count(*) from e right join l on l.k = e.d and l.v < d.id) as n from d",
        "select d.id, (select count(e.id) * 1000 + count(l.v) * 100 + count(*) from e full join l on l.k = e.d and l.v < d.boss) as n from d",
        "select d.id, x.* from d, lateral (select e.id as e, l.v from (select * from e where e.d = d.id) e full join (select * from l where l.k < d.boss) l on l.v = e.id) x",
        "select d.id, x.* from d, lateral (select l.v, e.id as e, y.id as y from l left join (e join d y on y.id = e.d and y.id <> d.id) on l.v = e.id) x",
        "select d.id, (select count(e.id) * 1000 + count(*) from d x, (e full join l on l.k = e.d and l.v < d.id) where x.id = l.v or x.id = e.id) as n from d",
        "select d.id from d where exists (select from e full join l on l.k = e.d and l.v = d.boss where e.id is null and l.v < d.id)",
    ]);
}

#[test]
fn grouping_sets_of_what_a_row_picks() {
    follow(&[
        "select d.id, array(select count(*) from e where e.d = d.id group by rollup (e.name) order by 1) as n from d",
        "select d.id, x.* from d, lateral (select e.name, grouping(e.name) as g, count(*) as n, product(e.id % 3) as p, sum(e.pay) as s
             from e where e.d > d.id group by cube (e.name, e.pay) having count(*) <> 2) x",
        "select d.id, (select count(*) from (select e.name, d.boss from e where e.d = d.id group by grouping sets ((), (), (e.name))) q) as n from d",
        "select d.id, d.boss, e.name, count(*) as n from d join e on e.d = d.id group by grouping sets ((d.id), (d.id, e.name))",
    ]);
}

#[test]
fn fields_of_the_rows_of_a_function() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table j (id int primary key, b jsonb, n int);
         create function pairs(n int, out a int, out b text) returns setof record language sql immutable as 'select g, g::text from generate_series(1, n) g'",
    );
    follow_in(
        &mut s,
        &[
            "select id, (jsonb_each_text(b)).* from j",
            "select id, (pairs(n)).b, (pairs(n)).a, generate_series(1, 2) as g from j",
            "select (jsonb_each(b)).key as k, count(*) as n from j group by 1",
            "select id, array(select (pairs(j.n)).a order by 1 desc) as a from j",
        ],
        &[
            "insert into j values (1, '{\"a\": 1, \"b\": null}', 2), (2, '{}', 0), (3, null, null)",
            "update j set b = b || '{\"c\": [1]}', n = n + 1",
            "update j set b = '{\"a\": 2}', n = 4 where id = 3; delete from j where id = 1",
            "update j set b = null, n = null",
        ],
    );
}
