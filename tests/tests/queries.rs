//! The other shapes of queries: projections, unions, sub-selects, and all that is not incremental yet but must be right.

use pgt_tests::{Session, StreamTable, database};

#[track_caller]
fn follow(s: &mut Session, v: &StreamTable, batches: &[&str]) {
    for batch in batches {
        s.exec(batch);
        v.follows(s);
    }
}

#[track_caller]
fn follow_somehow(s: &mut Session, query: &str, batches: &[&str]) {
    let v = s.auto_stream_table("v", query);
    for batch in batches {
        s.exec(batch);
        v.follows_somehow(s);
    }
}

fn pair(s: &mut Session) {
    s.exec(
        "create table a (k int primary key, x int, n int); create table b (k int primary key, x int, n int);
         insert into a select i, i % 4, i from generate_series(1, 8) i; insert into b select i, i % 3, i * 10 from generate_series(1, 5) i",
    );
}

/// First match appears, last match vanishes, outer row goes in the same cycle, NULLs on both sides.
const MATCHES: [&str; 7] = [
    "insert into b values (20, 3, 1)",
    "delete from b where x = 1; insert into b values (21, null, 5)",
    "delete from a where k = 3; delete from b where x = 3",
    "insert into a values (30, null, 7), (31, 2, 8); update b set x = 2 where x = 0",
    "begin; delete from b where k = 21; insert into b values (22, 0, 2); update a set x = 0 where x = 2; commit",
    "delete from b",
    "insert into b values (1, 0, 0); update a set n = n + 1",
];

#[test]
fn every_kind_of_scalar_expression() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create type pair as (l int, r text);
         create function twice(n int) returns int language sql immutable as 'select n * 2';
         create function plus(a int, b int default 5) returns int language plpgsql immutable as 'begin return a + b; end';
         create operator @+@ (function = plus, leftarg = int, rightarg = int);
         create table s (k int primary key, n int, t text, d date, j jsonb, a int[], p pair, f float8, b bool)",
    );
    let v = s.stream_table(
        "v",
        r#"select k, n + 1 as plus, -n as minus, n::text || 'x''y$1"z' as txt, t like 'a%' as lk, t ~ '^a.*\d$' as re, upper(t) as up, coalesce(t, 'none') as co, nullif(n, 3) as ni,
            case n when 1 then 'one' when 2 then 'two' else t end as ca, case when n > 3 then n end as cb, n in (1, 2, null) as isin, n = any (a) as an, a[1] as a1, a[1:2] as sl, array[n, k] as arr,
            row(n, t) is null as rw, (p).l as pl, (p).r as pr, j -> 'x' as jx, j ->> 'y' as jy, j @> '{"x": 1}' as jc, d + 7 as wk, extract(year from d) as yr, d::timestamp as ts, greatest(n, k, 2) as gr, least(n, k) as le,
            n is distinct from 2 as isd, b is true as ist, not b as nb, b and n > 2 or t is null as bo, twice(n) as tw, plus(n) as pd, n operator(public.@+@) 3 as op, t collate "C" < 'b' as col, cast(f as numeric(8, 2)) as cn, round(f) as rf,
            format('%s-%s', n, t) as fm, substring(t from 2 for 1) as su, overlay(coalesce(t, '') placing 'ZZ' from 1) as ov, trim(both 'a' from t) as tr, position('a' in t) as po, E'\\x\n' as es, '{1,2}'::int[] as ca2, interval '1 day' * n as iv,
            date '2024-02-29' as dt, to_char(d, 'YYYY-MM') as tc, md5(t) as md, length(t) as le2, (n between 2 and 4) as bt, xmin_like as al from (select *, k * 10 as xmin_like from s) s"#,
    );
    follow(
        &mut s,
        &v,
        &[
            r#"insert into s select i, i, case i % 3 when 0 then null else 'a' || i end, date '2024-01-30' + i, jsonb_build_object('x', i, 'y', 'v' || i), array[i, 1, null], row(i, 'r' || i)::pair, i / 3.0, i % 2 = 0 from generate_series(1, 8) i"#,
            "insert into s(k) values (100)",
            "update s set n = n + 1, t = 'abc' || k, p = null, a = null where k % 2 = 0",
            "update s set j = j || '{\"x\": 1}', b = null, f = 'NaN' where k < 5",
        ],
    );
}

#[test]
fn filters_with_null_and_three_valued_logic() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int, b int)");
    let v = s.stream_table(
        "v",
        "select k from s where not (a > 1 and b < 5) or a is null and b is not null",
    );
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (1, null, null), (2, 2, null), (3, null, 3), (4, 1, 1), (5, 2, 3)",
            "update s set a = b, b = a",
            "update s set a = null where k % 2 = 1",
            "update s set b = 9",
        ],
    );
}

#[test]
fn column_names_that_need_quotes() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema \"Odd Schema\"; create table \"Odd Schema\".\"ta\"\"ble\" (\"select\" int primary key, \"Big\" text, \"a.b\" int, \"ünïcode $1\" text)");
    let v = s.stream_table("\"Odd Schema\".\"v'iew\"", "select \"select\", \"Big\" as \"from\", \"a.b\" + 1 as \"?column?\", \"ünïcode $1\" from \"Odd Schema\".\"ta\"\"ble\"");
    follow(
        &mut s,
        &v,
        &[
            "insert into \"Odd Schema\".\"ta\"\"ble\" values (1, 'x', 2, 'é'), (2, null, null, '$1')",
            "update \"Odd Schema\".\"ta\"\"ble\" set \"Big\" = 'y'''",
        ],
    );
}

#[test]
fn duplicate_looking_columns_and_long_names() {
    let db = database();
    let mut s = db.connect();
    let long = "c".repeat(63);
    s.exec(&format!(
        "create table s (k int primary key, {long} int, n int)"
    ));
    let v = s.stream_table(
        "v",
        &format!("select k, k as k2, {long}, {long} as d, n, n as n2 from s"),
    );
    let g = s.stream_table(&"g".repeat(63), &format!("select {long}, sum(n) as \"sum\", count(*) as \"count\", avg(n) as \"avg\" from s group by {long}"));
    for batch in [
        "insert into s values (1, 1, 1), (2, 1, 2)",
        "update s set n = 5 where k = 1",
        "delete from s where k = 2",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        g.follows(&mut s);
    }
}

#[test]
fn columns_named_like_the_products_own() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (xid int primary key, weight int, op text, __pgt_x int, old_k int, \"new\" int, change_id int, delta int, w int, d int)");
    let v = s.stream_table(
        "v",
        "select xid, weight, op, old_k, \"new\", change_id, delta, w, d from s",
    );
    let g = s.stream_table(
        "g",
        "select weight, w, count(*) as d, sum(delta) as xid from s group by weight, w",
    );
    for batch in [
        "insert into s values (1, 2, 'x', 3, 4, 5, 6, 7, 8, 9), (2, 2, 'x', 3, 4, 5, 6, 7, 8, 9)",
        "update s set weight = -weight, delta = 0 where xid = 1",
        "delete from s where xid = 2",
    ] {
        s.exec(batch);
        v.follows(&mut s);
        g.follows(&mut s);
    }
}

#[test]
fn zero_columns_and_constants_only() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select 1 as one, null::text as nothing from s");
    follow(
        &mut s,
        &v,
        &[
            "insert into s values (1), (2)",
            "delete from s where k = 1",
            "insert into s values (5), (6), (7)",
        ],
    );
    let w = s.auto_stream_table("w", "select 1 as one, 'x' as two");
    w.assert_fresh(&mut s);
}

#[test]
fn union_all_of_the_same_and_of_different_tables() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let v = s.stream_table("v", "select k, n from a union all select k, x from b where x > 0 union all select x, null from a");
    let tagged = s.stream_table(
        "tagged",
        "select 'a' as src, k, n::numeric as n from a union all select 'b', k, n / 2.0 from b",
    );
    for batch in MATCHES {
        s.exec(batch);
        v.follows(&mut s);
        tagged.refresh(&mut s);
        tagged.assert_fresh(&mut s);
    }
}

#[test]
fn aggregate_over_union_all_of_joins() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let v = s.stream_table("v", "select x, sum(n) as total, count(*) as c from (select a.x, b.n from a join b on a.x = b.x union all select b.x, a.n from b join a on b.k = a.k union all select null, 1 from a) u group by x");
    follow(&mut s, &v, &MATCHES);
}

#[test]
fn sub_selects_in_from_ctes_and_views() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    s.exec("create view big as select k, x, n from b where n > 5; create view joined as select a.k as ak, big.k as bk, big.n from a join big on a.x = big.x");
    let v = s.stream_table(
        "v",
        "with f as (select k, x + 0 as x from a where n > 1), g as (select * from f where x < 3) select g.k, j.bk, q.n from g join joined j on j.ak = g.k join (select k, n * 2 as n from (select * from b) bb) q on q.k = j.bk",
    );
    follow(&mut s, &v, &MATCHES);
}

#[test]
fn cte_used_twice_and_materialized() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let v = s.auto_stream_table("v", "with f as (select k, x from a where n > 1) select f.k, g.k as gk from f join f g on f.x = g.x");
    let m = s.auto_stream_table("m", "with f as materialized (select k, x from a), g as not materialized (select x, n from b) select f.k, g.n from f join g on f.x = g.x");
    for batch in MATCHES {
        s.exec(batch);
        v.follows_somehow(&mut s);
        m.follows_somehow(&mut s);
    }
}

#[test]
fn exists_and_not_exists() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let ne = s.auto_stream_table(
        "ne",
        "select k, x from a where not exists (select from b where b.x = a.x)",
    );
    let sum = s.auto_stream_table("su", "select x, sum(n) as total from a where exists (select 1 from b where b.x = a.x and b.n > 0) group by x");
    for batch in MATCHES {
        s.exec(batch);
        ne.follows_somehow(&mut s);
        sum.follows_somehow(&mut s);
    }
}

#[test]
fn in_and_not_in_with_nulls() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let isin = s.auto_stream_table("isin", "select k, n from a where x in (select x from b)");
    let notin = s.auto_stream_table(
        "notin",
        "select k, n from a where x not in (select x from b)",
    );
    let any = s.auto_stream_table(
        "anyall",
        "select k from a where n > any (select n from b) and x <> all (select k from b)",
    );
    for batch in MATCHES {
        s.exec(batch);
        for v in [&isin, &notin, &any] {
            v.follows_somehow(&mut s);
        }
    }
}

#[test]
fn semi_join_feeding_a_sum() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    follow_somehow(
        &mut s,
        "select count(*) as c, sum(n) as total from a where x in (select x from b where n > 0) or not exists (select 1 from b where b.k = a.k)",
        &MATCHES,
    );
}

#[test]
fn scalar_sub_selects() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let v = s.auto_stream_table("v", "select k, (select max(n) from b) as top, (select count(*) from b where b.x = a.x) as c from a where n >= (select min(k) from b) or n is null");
    for batch in MATCHES {
        s.exec(batch);
        v.follows_somehow(&mut s);
    }
}

#[test]
fn many_correlated_sub_selects_beside_each_other() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    // None of them may contain those lifted before it: there would be twice as many with each.
    let values: Vec<String> = (0..16)
        .map(|i| format!("(select count(*) from b where b.n > a.n + {i}) as c{i}"))
        .chain(
            (0..4)
                .map(|i| format!("a.n + {i} <= any (select b.n from b where b.x <> a.x) as d{i}")),
        )
        .collect();
    let v = s.stream_table("v", &format!("select a.k, {} from a", values.join(", ")));
    follow(
        &mut s,
        &v,
        &[
            "insert into b select 100 + i, i, i % 3 from generate_series(1, 5) i",
            "update a set n = n + 1; delete from b where n = 2",
            "update a set n = null where k = 2; update b set n = null where n = 3",
        ],
    );
}

#[test]
fn set_operations() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let queries = [
        "union",
        "intersect",
        "except",
        "intersect all",
        "except all",
    ]
    .map(|op| format!("select x, k % 2 as p from a {op} select x, k % 2 from b"));
    let tables: Vec<StreamTable> = queries
        .iter()
        .enumerate()
        .map(|(i, q)| s.auto_stream_table(&format!("v{i}"), q))
        .collect();
    for batch in MATCHES {
        s.exec(batch);
        for v in &tables {
            v.follows_somehow(&mut s);
        }
    }
}

#[test]
fn window_functions() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    follow_somehow(
        &mut s,
        "select k, x, rank() over (partition by x order by n desc, k) as r, sum(n) over (partition by x order by k rows between 1 preceding and current row) as s2, lag(n) over (order by k) as l from a",
        &MATCHES,
    );
}

#[test]
fn distinct_on_and_limit() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let on = s.auto_stream_table(
        "o",
        "select distinct on (x) x, k, n from a order by x, n desc, k",
    );
    let limit = s.auto_stream_table(
        "l",
        "select k, n from a order by n desc, k limit 3 offset 1",
    );
    for batch in MATCHES {
        s.exec(batch);
        on.follows_somehow(&mut s);
        limit.follows_somehow(&mut s);
    }
}

#[test]
fn lateral_and_set_returning_functions() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let lateral = s.auto_stream_table("l", "select a.k, t.bk from a cross join lateral (select b.k as bk from b where b.x = a.x order by b.n desc, b.k limit 1) t");
    let srf = s.auto_stream_table(
        "r",
        "select a.k, g.i, g.o from a, generate_series(1, a.x) with ordinality as g(i, o)",
    );
    let target = s.auto_stream_table("t", "select k, unnest(array[x, n]) as u from a");
    let values = s.auto_stream_table("w", "select a.k, w.name from a join (values (0, 'zero'), (1, 'one')) as w(x, name) on w.x = a.x");
    for batch in MATCHES {
        s.exec(batch);
        for v in [&lateral, &srf, &target, &values] {
            v.follows_somehow(&mut s);
        }
    }
}

#[test]
fn recursive_query() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table e (id int primary key, parent int); insert into e values (1, null), (2, 1), (3, 2), (4, 1)");
    follow_somehow(
        &mut s,
        "with recursive t as (select id, parent, 1 as depth from e where parent is null union all select e.id, e.parent, t.depth + 1 from e join t on e.parent = t.id) select id, depth from t",
        &[
            "insert into e values (5, 4), (6, 5)",
            "update e set parent = 3 where id = 4",
            "delete from e where id = 2",
            "update e set parent = 1 where id = 3",
        ],
    );
}

#[test]
fn query_not_incremental_says_why() {
    let db = database();
    let mut s = db.connect();
    pair(&mut s);
    let query = "select a.k from a tablesample system (100) repeatable (1)";
    let e = s.error(
        "0A000",
        &format!(
            "select pgtrickle.create_stream_table('v', '{query}', refresh_mode => 'DIFFERENTIAL')"
        ),
    );
    assert!(
        e.hint.is_some() && e.message.len() > 10,
        "reason and hint: {e}"
    );
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "0",
        "a refused creation leaves nothing behind"
    );
    s.auto_stream_table("v", query).assert_fresh(&mut s);
    let rows = s.rows("select configured_mode, effective_mode, downgrade_reason from pgtrickle.explain_refresh_mode('v')");
    assert_eq!(
        (rows[0][0].as_deref(), rows[0][1].as_deref()),
        (Some("AUTO"), Some("FULL"))
    );
    assert!(
        rows[0][2].as_deref().is_some_and(|r| !r.is_empty()),
        "the reason is told: {rows:?}"
    );
}

/// A row without its optional side is null there, whatever the columns that are there decide.
#[test]
fn ties_between_rows_with_and_without_their_optional_side() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int not null, v numeric); create table u (k int primary key, n int)");
    s.exec("insert into s select i, 1, i % 2 from generate_series(1, 4) i; insert into u values (1, 1)");
    let first = "from s left join (select k, n, coalesce(n, 0) as c from u";
    for (query, watched) in [
        (
            format!("select s.n, x.n as u {first} where k = 1) x on x.k = s.k order by s.n limit 1"),
            true,
        ),
        (
            format!("select s.n, x.c {first}) x on x.k = s.k order by s.n, x.n limit 1"),
            true,
        ),
        (
            format!("select s.n, x.c {first}) x on x.k = s.k order by s.n, x.k limit 1"),
            false,
        ),
        (
            "select x.v, y.n from (select distinct v from s) x left join (select distinct n from u) y on y.n > x.v order by x.v, y.n limit 1".into(),
            false,
        ),
        (
            "select x.v, y.n from (select distinct v from s) x full join (select distinct n from u) y on y.n = x.v order by x.v, y.n limit 1".into(),
            true,
        ),
    ] {
        let v = s.auto_stream_table("v", &query);
        let rewritten = s.value("select pgtrickle.explain_stream_table('v', 'rewritten')");
        assert_eq!(rewritten.contains("Watch"), watched, "{query}");
        s.exec("insert into u values (3, null); delete from u where k = 1; insert into s values (9, 0, null)");
        v.follows_somehow(&mut s);
        s.exec("select pgtrickle.drop_stream_table('v'); delete from u; delete from s where k = 9; insert into u values (1, 1)");
    }
}

#[test]
fn rejected_in_every_mode() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key); create temp table tmp (k int)");
    for query in [
        "select k from tmp",
        "select relname from pg_class",
        "select k from s for update",
        "with d as (delete from s returning k) select k from d",
        "select k from missing",
        "insert into s values (1)",
        "select 1 as a; select 2 as b",
        "",
        "select k, k from s",
    ] {
        for mode in ["AUTO", "FULL", "DIFFERENTIAL"] {
            let sql = format!(
                "select pgtrickle.create_stream_table('v', '{query}', refresh_mode => '{mode}')"
            );
            assert!(s.try_exec(&sql).is_err(), "was accepted: {query}");
        }
    }
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "0"
    );
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgrelid = 's'::regclass"),
        "0"
    );
    assert_eq!(
        s.value(
            "select count(*) from pg_class where relnamespace = 'pgtrickle_defs'::regnamespace"
        ),
        "0"
    );
}

#[test]
fn volatile_functions_only_in_full_mode() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key); insert into s values (1)");
    s.error("0A000", "select pgtrickle.create_stream_table('v', 'select k, random() as r from s', refresh_mode => 'DIFFERENTIAL')");
    // What comes out differently each time cannot be compared.
    s.exec("set pg_trickle.verify_refresh = off");
    s.stream_table_with(
        "v",
        "select k, random() as r from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    s.exec("insert into s values (2)");
    s.exec("select pgtrickle.refresh_stream_table('v')");
    assert_eq!(
        s.value("select count(*) from v where r between 0 and 1"),
        "2"
    );
}

/// Settings of the session that creates, writes or refreshes do not change what the expressions mean.
#[test]
fn session_settings_do_not_leak_into_the_contents() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema other; create table s (k int primary key, d date, i interval, f float8, b bytea, z timestamptz); create table other.s (k int)");
    let query = "select k, d::text as d, i::text as i, f::text as f, b::text as b, '2024-03-04'::date as c, z::date as zd from public.s";
    let v = s.stream_table_with("public.v", query, "schedule => '1d'");
    let mut odd = db.connect();
    odd.exec("set datestyle = 'SQL, DMY'; set intervalstyle = 'iso_8601'; set extra_float_digits = -10; set bytea_output = 'escape'; set timezone = 'Pacific/Auckland'; set search_path = other");
    odd.exec("insert into public.s values (1, '03/04/2024', '1 day 2:00', 1.0 / 3, '\\x00ff', '2024-01-01 23:30+00'), (2, null, null, 2.0 / 3, null, null)");
    odd.exec("select pgtrickle.refresh_stream_table('public.v')");
    v.assert_equal(&mut s);
    s.exec("update public.s set f = f + 1");
    v.refresh(&mut odd);
    v.assert_equal(&mut s);
    v.assert_verified(&mut odd);
    v.assert_verified(&mut s);
}

/// What text search and abbreviations of time zones mean is what it was at the creation.
#[test]
fn settings_of_the_creation_are_kept() {
    let db = database();
    let mut s = db.connect();
    let mut odd = db.connect();
    s.exec("create table s (k int primary key, t text); set default_text_search_config = 'simple'");
    odd.exec("set default_text_search_config = 'english'; set timezone_abbreviations = 'India'; set timezone = 'Asia/Tokyo'");
    let search = "select k, to_tsvector(t) as v, t @@ 'cats' as m from s where to_tsvector(t) @@ plainto_tsquery('running cat')";
    let english = odd.stream_table("english", search);
    let simple = s.stream_table("simple", search);
    let time = "select k, ('2024-01-0' || k || ' 12:00 IST')::timestamptz as t from s";
    let india = odd.stream_table("india", time);
    let israel = s.stream_table("israel", time);
    for change in [
        "insert into s values (1, 'the cat runs'), (2, 'running cat'), (3, null), (4, 'dogs')",
        "update s set t = 'a cat that ran, running' where k = 4; delete from s where k = 2",
    ] {
        s.exec(change);
        for v in [&english, &india] {
            v.refresh(&mut s);
            v.assert_verified(&mut s);
            v.assert_fresh(&mut odd);
            v.assert_mode(&mut s, "DIFFERENTIAL");
        }
        for v in [&simple, &israel] {
            v.refresh(&mut odd);
            v.assert_verified(&mut odd);
            v.assert_fresh(&mut s);
            v.assert_mode(&mut s, "DIFFERENTIAL");
        }
    }
    assert_eq!(
        s.lines("select (select count(*) from english), (select count(*) from simple), (select max(a.t - b.t) from israel a join india b using (k))"),
        ["2|1|03:30:00"]
    );
    // Somebody may alter this one, and nothing would say that the query depends on it.
    s.exec("create text search configuration own (copy = english); set default_text_search_config = 'public.own'");
    let own = s.auto_stream_table("own", "select k, to_tsvector(t) as v from s");
    s.exec("insert into s values (5, 'birds'); alter text search configuration own alter mapping for asciiword with simple; insert into s values (6, 'flies')");
    own.refresh(&mut s);
    own.assert_equal(&mut s);
    own.assert_mode(&mut s, "FULL");
    let reason = s.value("select downgrade_reason from pgtrickle.explain_refresh_mode('own')");
    assert!(
        reason.contains("default text search configuration"),
        "{reason}"
    );
}

/// Names are resolved when the stream table is created.
#[test]
fn search_path_of_the_creator() {
    let db = database();
    let mut s = db.connect();
    s.exec("create schema one; create schema two; create table one.s (k int primary key); create table two.s (k int primary key); create function one.f(int) returns int language sql immutable as 'select $1 + 1'; create function two.f(int) returns int language sql immutable as 'select $1 + 2'");
    s.exec("set search_path = one");
    s.exec(
        "select pgtrickle.create_stream_table('v', 'select f(k) as k from s', schedule => '1d')",
    );
    s.exec("set search_path = two; insert into one.s values (1); insert into two.s values (50)");
    s.exec("select pgtrickle.refresh_stream_table('one.v')");
    assert_eq!(s.lines("select k from one.v"), ["2"]);
}

/// An operator of the user's own that a careless search_path would pick up.
#[test]
fn objects_that_shadow_builtin_ones() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create function public.count(int) returns int language sql immutable as 'select -1';
         create function public.bad_eq(int, int) returns bool language sql immutable as 'select false';
         create operator public.= (function = public.bad_eq, leftarg = int, rightarg = int);
         create table public.pg_class (relname text); create table s (k int primary key, g int)",
    );
    let v = s.stream_table("v", "select g, pg_catalog.count(*) as c from s group by g");
    s.exec("set search_path = public, pg_catalog; insert into s values (1, 1), (2, 1), (3, 2)");
    s.exec("select pgtrickle.refresh_stream_table('v')");
    s.exec("set search_path = pg_catalog, public; delete from s where k = 1");
    v.follows(&mut s);
}

/// A row without a named type cannot be stored, so no intermediate result can hold one.
#[test]
fn anonymous_rows_in_between() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (id int primary key, g int); create table c (id int, g int); insert into a values (1, 1), (2, 2); insert into c values (1, 1), (5, 1)");
    for (number, query) in [
        "select a.id, (select max(c) is not null from c where c.g = a.g) as x from a",
        "select count(*) as n from (select distinct row(id, g) as r from a) q",
        "select g, (array_agg(row(id, g) order by id))[1] is null as r from a group by g",
    ]
    .into_iter()
    .enumerate()
    {
        let v = s.auto_stream_table(&format!("v{number}"), query);
        s.exec("update a set g = g + 1; insert into c values (7, 3)");
        v.follows_somehow(&mut s);
    }
}

#[test]
fn result_that_moves_with_the_clock() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table e (id int primary key, at timestamptz not null); insert into e select i, now() - interval '1 hour' + i * interval '1 s' from generate_series(-5, 5) i");
    let v = s.auto_stream_table("v", "select id from e where at > now() - interval '1 hour'");
    let before = s.number("select count(*) from v");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    v.refresh(&mut s);
    assert!(
        s.number("select count(*) from v") < before,
        "rows leave as time passes, without a change of the source"
    );
    let w = db.connect().stream_table_with(
        "w",
        "select id from e where at > clock_timestamp() - interval '1 hour'",
        "schedule => '1s', refresh_mode => 'FULL'",
    );
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(
        s.number("select count(*) from pgtrickle.get_refresh_history('w', 20)") > 1,
        "{} is evaluated on its schedule",
        w.name()
    );
}

#[test]
fn stages_have_indexes_for_those_who_look_their_rows_up() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table a (id int primary key, k int not null, n int, t text);
         create table b (id int primary key, n bigint, t text);
         insert into a select i, i % 5, i, 't' || i from generate_series(1, 20) i;
         insert into b select i, i, 't' || i from generate_series(1, 20) i",
    );
    let by_number = s.stream_table(
        "by_number",
        "select b.id, g.k from b join (select k, count(*) as c from a group by k) g on g.c = b.n",
    );
    let by_text = s.stream_table(
        "by_text",
        "select b.id, g.c from b join (select t, count(*) as c from a group by t) g on g.t = b.t",
    );
    assert_eq!(
        s.lines(
            "select substring(indexdef from 'USING .*') from pg_indexes where schemaname = 'pgtrickle_stages'
             and indexname not like '%identity' order by 1"
        ),
        ["USING btree (c1)", "USING hash (c0)"]
    );
    // Longer than what a btree can hold.
    s.exec(
        "update b set t = repeat('z', 10000) || id where id = 3;
         update a set t = repeat('z', 10000) || '3' where id = 3; update b set n = 4 where id = 7",
    );
    by_number.follows(&mut s);
    by_text.follows(&mut s);
}
