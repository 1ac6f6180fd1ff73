//! Every operator of the supported SQL, each maintained incrementally through the same history of changes, and compared
//! with its query after each step.

use pgt_tests::{Server, Session, StreamTable};

const TABLES: &str = "
    create table dept(id int primary key, name text not null, boss int, budget numeric(12,2));
    create table emp(id int primary key, dept int, name text not null, salary int, bonus numeric(10,2), hired date not null, tags text[]);
    create table loose(k int, v int);
    create table doc(id int primary key, body jsonb);
    create index on emp(dept);
    insert into dept select i, 'd' || i, case when i % 3 = 0 then null else i * 2 end, i * 1000.50 from generate_series(1, 8) i;
    insert into emp select i, case when i % 7 = 0 then null else i % 6 + 1 end, 'e' || i % 13, case when i % 5 = 0 then null else i * 37 % 50 * 10 end,
        case when i % 4 = 0 then null else i * 1.25 end, date '2024-01-01' + i % 40, case when i % 3 = 0 then null else array['t' || i % 4, 't' || i % 5] end
        from generate_series(1, 40) i;
    insert into loose select i % 9, case when i % 4 = 0 then null else i % 5 end from generate_series(1, 25) i;
    insert into doc select i, jsonb_build_object('n', i, 'items', jsonb_build_array(i, i + 1), 'name', 'x' || i % 3) from generate_series(1, 10) i;
";

/// Each step is one transaction.
const STEPS: &[&str] = &[
    "insert into emp values (101, 2, 'new', 500, 7.25, '2024-02-10', '{a,b}'), (102, null, 'none', null, null, '2024-01-03', null), (103, 99, 'lost', 10, 1, '2024-01-03', '{}')",
    "update emp set salary = salary + 5 where id % 6 = 0",
    "delete from emp where id in (3, 9, 27)",
    "update emp set dept = 3 where dept = 2",
    "insert into loose values (null, 1), (2, null), (null, null), (5, 5), (5, 5)",
    "delete from dept where id = 3; insert into dept values (20, 'd20', 1, null)",
    "update dept set id = 99 where id = 4",
    "delete from loose where v is null; update loose set v = v + 1 where k = 5",
    "update emp set dept = null where id = 11; update emp set id = id + 1000 where id between 30 and 33; update dept set name = 'x' || name where id < 3",
    "update doc set body = jsonb_set(body, '{items}', '[1,2,3]') where id < 4; delete from doc where id = 7; insert into doc values (50, '{}'), (51, null)",
    "delete from emp where dept = 1",
    "delete from loose",
    "insert into loose select i % 4, i % 3 from generate_series(1, 9) i; insert into emp select i, i % 6, 'again', i, null, '2024-03-01', '{z}' from generate_series(200, 210) i",
    "delete from emp",
    "insert into emp values (1, 1, 'a', 100, 1.5, '2024-01-01', '{q,r}'), (2, 1, 'b', 100, null, '2024-01-02', null); update dept set boss = null",
    "delete from dept",
    "insert into dept values (1, 'one', 1, 5), (2, 'two', null, 6)",
];

fn run(queries: &[&str]) {
    let server = Server::shared();
    let db = server.database();
    let mut s: Session = db.connect();
    s.exec(TABLES);
    let mut streams = Vec::new();
    let mut failures = Vec::new();
    for (position, query) in queries.iter().enumerate() {
        let stream = StreamTable::new(&format!("v{position}"), query);
        let created = s.try_exec(&format!(
            "select pgtrickle.create_stream_table('v{position}', $pgt${query}$pgt$, schedule => '1d', refresh_mode => 'DIFFERENTIAL')"
        ));
        match created {
            Ok(()) => streams.push(stream),
            Err(e) => failures.push(format!("not created: {query}\n    {e}")),
        }
    }
    for step in std::iter::once(&"select 1").chain(STEPS) {
        s.exec(&format!("begin; {step}; commit"));
        streams.retain(|stream| {
            let refreshed = s.try_exec(&format!(
                "select pgtrickle.refresh_stream_table('{}')",
                stream.name()
            ));
            if let Err(e) = refreshed {
                failures.push(format!("refresh after {step}: {}\n    {e}", stream.query()));
                return false;
            }
            let difference = stream.difference(&mut s);
            if !difference.is_empty() {
                failures.push(format!(
                    "differs after {step}: {}\n    {}",
                    stream.query(),
                    difference.join("\n    ")
                ));
                return false;
            }
            let (action, reason) = stream.last_refresh(&mut s);
            if !["DIFFERENTIAL", "NO_DATA"].contains(&action.as_str())
                && reason.as_deref() != Some("initial")
            {
                failures.push(format!(
                    "{action} ({reason:?}) after {step}: {}",
                    stream.query()
                ));
                return false;
            }
            true
        });
    }
    for stream in &streams {
        let line = s
            .lines(&format!(
                "select ok, missing, surplus from pgtrickle.verify_stream_table('{}')",
                stream.name()
            ))
            .join("");
        if line != "t|0|0" {
            failures.push(format!("verified as {line}: {}", stream.query()));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} queries fail:\n{}",
        failures.len(),
        queries.len(),
        failures.join("\n")
    );
}

#[test]
fn outer_joins() {
    run(&[
        "select e.id, d.name from emp e left join dept d on d.id = e.dept",
        "select e.id, d.name from emp e right join dept d on d.id = e.dept",
        "select e.id, d.name from emp e full join dept d on d.id = e.dept and e.salary > 100",
        "select e.id, d.id as did from emp e left join dept d on d.id > e.dept and d.budget < 4000",
        "select d.id, l.v, e.id as eid from dept d left join (loose l join emp e on e.dept = l.k) on l.k = d.id",
        "select d.id, l.v, e.id as eid from dept d left join loose l on l.k = d.id left join emp e on e.dept = l.v",
        "select d.id, count(e.id) as n, sum(e.salary) as s from dept d left join emp e on e.dept = d.id group by d.id",
        "select d.id, x.n from dept d left join (select dept, count(*) as n from emp group by dept) x on x.dept = d.id",
        "select a.k, b.v from loose a full join loose b on a.k = b.v",
        "select count(*) from dept d left join loose l on true",
        "select a.id, b.id as b, c.id as c from emp a left join emp b on b.id = a.dept left join emp c on c.id = b.dept where a.salary is not null",
    ]);
}

#[test]
fn sub_selects_in_conditions() {
    run(&[
        "select e.id from emp e where exists (select 1 from dept d where d.id = e.dept)",
        "select e.id from emp e where not exists (select 1 from dept d where d.id > e.dept and d.budget > e.salary)",
        "select e.id from emp e where e.dept in (select id from dept where budget > 2000)",
        "select e.id from emp e where e.dept not in (select id from dept where budget > 2000)",
        "select e.id from emp e where e.dept not in (select v from loose)",
        "select e.id from emp e where e.salary not in (select v from loose where loose.k = e.dept)",
        "select e.id from emp e where (e.dept, e.salary) in (select k, v from loose)",
        "select k, v from loose where (k, v) not in (select k, v + 1 from loose where v > 2)",
        "select e.id from emp e where e.dept in (select k from loose) or e.salary > 300",
        "select e.id from emp e where not (e.dept in (select k from loose) and e.salary > 100)",
        "select e.id, e.dept in (select v from loose) as c from emp e",
        "select e.id, e.dept not in (select v from loose where v is not null) as c from emp e",
        "select e.id, exists (select 1 from dept d where d.boss = e.id) as boss from emp e",
        "select e.id, case when exists (select 1 from loose l where l.k = e.dept and l.v = 2) then 'y' else 'n' end as c from emp e",
        "select e.id from emp e where e.salary > all (select v from loose)",
        "select e.id from emp e where e.salary <= any (select v * 10 from loose where k = e.dept)",
        "select e.id, e.salary > all (select v * 50 from loose) as a, e.salary < any (select v * 50 from loose) as b from emp e",
        "select e.id, e.salary >= all (select v * 50 from loose l where l.k = e.dept) as a from emp e",
        "select d.id from dept d where exists (select 1 from emp e where e.dept = d.id and exists (select 1 from loose l where l.k = e.dept and l.v = d.boss))",
        "select d.id from dept d where exists (select dept from emp e where e.dept = d.id group by dept having count(*) > 3)",
        "select d.id from dept d where exists (select 1 from emp e where e.dept = d.id limit 1)",
        "select d.id, e.id as e from dept d left join emp e on e.dept = d.id and exists (select 1 from loose l where l.k = e.salary)",
    ]);
}

#[test]
fn scalar_sub_selects() {
    run(&[
        "select e.id, (select d.name from dept d where d.id = e.dept) as name from emp e",
        "select e.id, (select max(d.budget) from dept d) as top from emp e",
        "select e.id from emp e where e.salary > (select avg(salary) from emp)",
        "select e.id, (select count(*) from loose l where l.k = e.dept) as n from emp e",
        "select d.id, (select sum(e.salary) + 1 from emp e where e.dept = d.id) as s from dept d",
        "select d.id, (select coalesce(sum(e.salary), -1) + count(*) from emp e where e.dept = d.id) as s from dept d",
        "select d.id, (select count(*) from emp e where e.salary > d.boss) as s from dept d",
        "select d.id, (select count(*) from (select e.name from emp e where e.dept = d.id union select l.v::text from loose l where l.k = d.boss) q) as n from dept d",
        "select d.id, x.k from dept d, lateral (select e.dept as k from emp e where e.dept = d.id except select l.v from loose l where l.k = d.id) x",
        "select d.id from dept d where d.boss in (select e.id from emp e where e.dept = d.id union all select l.k from loose l where l.v = 2)",
        "select d.id, x.k from dept d, lateral (select e.salary as k from emp e where e.dept > d.id union all select l.v from loose l order by 1 limit 2) x",
        "select d.id, (select count(*) from emp e where e.dept = d.id having count(*) > 3) as s from dept d",
        "select d.id, (select count(*) from emp e where e.dept = d.id having count(*) < 3) as s from dept d",
        "select d.id, (select sum(e.salary) from emp e where e.dept = d.id offset 0) as s, (select max(e.id) from emp e where e.dept = d.id limit 1) as m from dept d",
        "select d.id from dept d where exists (select 1 from emp e where e.dept = d.id having count(*) > 3)",
        "select d.id from dept d where not exists (select count(*) from emp e where e.dept = d.id having count(*) between 1 and 3)",
        "select d.id, x.n from dept d, lateral (select count(*) as n from emp e where e.dept = d.id having count(*) <> 2) x",
        "select d.id, x.n from dept d left join lateral (select count(*) as n from emp e where e.dept = d.id having count(*) <> 2) x on true",
        "select e.id from emp e where e.salary = (select max(x.salary) from emp x where x.dept = e.dept)",
        "select d.id, (select e.name from emp e where e.dept = d.id order by e.id limit 1) as first from dept d",
        "select d.id, (select e.name from emp e where e.dept = d.id order by e.salary desc nulls last, e.id offset 1 limit 1) as second from dept d",
        "select dept, sum(salary) as s, (select count(*) from loose) as n from emp group by dept",
        "select dept, sum(salary) as s from emp group by dept having sum(salary) > (select avg(budget) / 10 from dept)",
        "select sum((select d.budget from dept d where d.id = e.dept)) as s from emp e",
        "select e.id, (select d.name from dept d where d.id = e.dept and d.budget > e.salary) as name from emp e",
        "select d.id, (select string_agg(e.name, ',' order by e.id) from emp e where e.dept = d.id) as names from dept d",
        "select e.id, (select l.v from loose l where l.k = e.id and l.v = -1) as v from emp e",
        "select e.id from emp e where e.bonus < (select 0.2 * avg(x.bonus) from emp x where x.dept = e.dept) or e.bonus is null",
    ]);
}

#[test]
fn windows() {
    run(&[
        "select id, dept, row_number() over (partition by dept order by id) as rn from emp",
        "select id, rank() over (partition by dept order by salary desc) as r, dense_rank() over (partition by dept order by salary desc) as dr from emp",
        "select id, sum(salary) over (partition by dept) as s, salary::numeric / nullif(sum(salary) over (partition by dept), 0) as share from emp",
        "select id, sum(salary) over (partition by dept order by id rows between 2 preceding and current row) as s from emp",
        "select id, lag(salary) over (partition by dept order by id) as l, lead(salary, 2, -1) over (partition by dept order by id) as ld from emp",
        "select id, first_value(name) over w as f, last_value(name) over w as l, nth_value(name, 2) over w as n from emp window w as (partition by dept order by id rows between unbounded preceding and unbounded following)",
        "select id, ntile(3) over (partition by dept order by id) as t, percent_rank() over (partition by dept order by id) as p, cume_dist() over (partition by dept order by id) as c from emp",
        "select id, row_number() over (order by id) as rn from emp",
        "select id, rank() over (order by salary) as rn, count(*) over () as n from emp",
        "select id, count(*) filter (where salary > 100) over (partition by dept order by hired range between interval '5 days' preceding and interval '2 days' following) as c from emp",
        "select id, sum(salary) over (partition by dept order by hired groups between 1 preceding and 1 following exclude ties) as c from emp",
        "select id, sum(salary) over (partition by dept, name) as a, sum(salary) over (partition by dept) as b from emp",
        "select id, sum(salary) over (partition by dept) as a, sum(salary) over (partition by name) as b from emp",
        "select dept, count(*) as n, rank() over (order by count(*) desc) as r from emp group by dept",
        "select * from (select id, dept, row_number() over (partition by dept order by salary desc nulls last, id) as rn from emp) q where rn <= 2",
        "select e.id, d.name, max(e.salary) over (partition by d.name) as m from emp e join dept d on d.id = e.dept",
        "select distinct dept, sum(salary) over (partition by dept) as s from emp",
        "select dept, avg(r) as a from (select dept, rank() over (partition by dept order by salary) as r from emp) q group by dept",
        "select k, v, row_number() over (partition by k order by v) as n from loose",
        "select k, v, sum(v) over (partition by k order by v desc nulls last) as n from loose",
    ]);
}

#[test]
fn distinct_on_and_limit() {
    run(&[
        "select distinct on (dept) dept, id, salary from emp order by dept, salary desc nulls last, id",
        "select distinct on (d.id) d.id, e.name from dept d left join emp e on e.dept = d.id order by d.id, e.hired, e.id",
        "select distinct on (k, v) k, v from loose",
        "select id, salary from emp order by salary desc nulls last, id limit 5",
        "select id, salary from emp order by salary, id limit 5 offset 3",
        "select id, salary from emp order by salary desc fetch first 3 rows with ties",
        "select id from emp order by id offset 10",
        "select dept, sum(salary) as s from emp group by dept order by s desc nulls last, dept limit 3",
        "select x.id, d.name from (select id, dept from emp order by hired desc, id limit 7) x join dept d on d.id = x.dept",
        "select id from emp order by id limit 0",
        "select id from emp order by id limit all",
        "(select id, salary from emp order by salary, id limit 3) union all (select id, salary from emp order by salary desc, id limit 3)",
        "select id from emp union select id from dept order by 1 limit 4",
        "select name from emp order by dept nulls first, id desc limit 4",
        "select distinct dept from emp order by dept limit 3",
    ]);
}

#[test]
fn grouping_sets() {
    run(&[
        "select dept, name, sum(salary) as s from emp group by rollup (dept, name)",
        "select dept, name, count(*) as n, grouping(dept, name) as g from emp group by cube (dept, name)",
        "select dept, name, hired, count(*) as n from emp group by grouping sets ((dept, name), (hired), ())",
        "select dept, count(*) as n, grouping(dept) as g from emp group by rollup (dept) having count(*) > 2 or grouping(dept) = 1",
        "select e.dept, d.name, sum(e.salary) as s from emp e join dept d on d.id = e.dept group by d.name, rollup (e.dept)",
        "select k % 3 as m, v, count(*) as n from loose group by grouping sets (rollup (k % 3), cube (v))",
        "select dept, sum(salary) as s, rank() over (partition by grouping(dept) order by sum(salary)) as r from emp group by rollup (dept)",
    ]);
}

#[test]
fn lateral_items() {
    run(&[
        "select e.id, t.tag from emp e, unnest(e.tags) as t(tag)",
        "select e.id, t.tag, t.n from emp e left join lateral unnest(e.tags) with ordinality as t(tag, n) on true",
        "select e.id, t.tag from emp e left join unnest(e.tags) as t(tag) on t.tag <> 't1'",
        "select id, unnest(tags) as tag from emp",
        "select id, generate_series(1, dept) as g, unnest(tags) as tag from emp",
        "select t.tag, count(*) as n from emp e, unnest(e.tags) as t(tag) group by t.tag",
        "select d.id, g.i from dept d cross join generate_series(1, 3) as g(i)",
        "select e.id, v.label from emp e join (values (1, 'one'), (2, 'two'), (null, 'none')) as v(k, label) on v.k = e.dept",
        "select d.id, x.n, x.s from dept d, lateral (select count(*) as n, sum(salary) as s from emp e where e.dept = d.id) x",
        "select d.id, x.name, x.salary from dept d, lateral (select e.name, e.salary from emp e where e.dept = d.id order by e.salary desc nulls last, e.id limit 2) x",
        "select d.id, x.name from dept d left join lateral (select e.name from emp e where e.dept = d.id and e.salary > d.budget / 10) x on true",
        "select d.id, x.v from dept d left join lateral (select l.v from loose l where l.k >= d.id group by l.v) x on x.v < d.id",
        "select d.id, x.y from dept d, lateral (select d.id + coalesce(d.boss, 0) as y) x",
        "select q.id, j.value #>> '{}' as item from doc q, jsonb_array_elements(q.body -> 'items') as j(value)",
        "select q.id, j.key, j.value::text as v from doc q, jsonb_each(q.body) as j",
        "select q.id, t.n, t.name from doc q, json_table(q.body, '$' columns (n int path '$.n', name text path '$.name')) as t",
        "select q.id, r.n, r.name from doc q, jsonb_to_record(q.body) as r(n int, name text)",
        "select e.id, r.a, r.b from emp e, rows from (generate_series(1, e.dept), unnest(e.tags)) as r(a, b)",
        "select d.id, x.m from dept d cross join lateral (select max(t) as m from emp e, unnest(e.tags) as t where e.dept = d.id) x",
        "select id, (select count(*) from unnest(tags)) as n from emp",
        "select id, (select string_agg(t, '-' order by t) from unnest(tags) as t where t <> name) as n from emp",
    ]);
}

#[test]
fn nested_operators() {
    run(&[
        "with t as (select dept, sum(salary) as s from emp group by dept) select a.dept, b.dept as other from t a join t b on a.s < b.s",
        "with t as materialized (select dept, sum(salary) as s from emp group by dept) select dept from t where s = (select max(s) from t)",
        "select d.id, (select count(*) from (select distinct name from emp e where e.dept = 2) q) as n from dept d",
        "select dept from emp intersect select id from dept",
        "select dept from emp except all select id from dept",
        "select dept, count(distinct name) as n, array_agg(id order by id) as ids from emp group by dept having count(*) > (select count(*) / 4 from loose)",
        "select x.dept, count(*) from (select dept, salary from emp union select id, boss from dept) x left join loose l on l.k = x.dept group by x.dept",
        "select sum(n) as s from (select count(*) as n from emp group by dept union all select count(*) from loose) q",
        "select e.id from emp e where e.dept in (select dept from emp group by dept having avg(salary) > 200)",
        "select a.n from (select count(*) as n from emp where salary > 100) a, (select count(*) as m from loose) b where a.n > b.m",
    ]);
}

#[test]
fn recursion_and_arrays() {
    run(&[
        "with recursive r as (select id, boss from dept where boss is null union all select d.id, d.boss from dept d join r on d.boss = r.id) select id, boss from r",
        "with recursive r(n) as (values (1) union all select n + 1 from r where n < 5) select d.id, r.n from dept d join r on r.n = d.id",
        "with recursive r as (select k, v from loose union select r.k, l.v from r join loose l on l.k = r.v), t as (select dept, count(*) as n from emp group by dept) select r.k, count(*) as n, max(t.n) as t from r left join t on t.dept = r.k group by r.k",
        "with recursive r as (select k, v, 1 as depth from loose union all select r.k, l.v, depth + 1 from r join loose l on l.k = r.v where depth < 3) search depth first by k, v set ordering select k, v, depth from r",
        "with recursive r as (select k, v from loose union all select r.k, l.v from r join loose l on l.k = r.v) cycle k, v set is_cycle using path select k, v, is_cycle from r",
        "select d.id, array(select e.id from emp e where e.dept = d.id order by e.id) as ids from dept d",
        "select d.id, array(select e.name from emp e where e.dept = d.id order by e.salary desc nulls last, e.id limit 2) as ids from dept d",
        "select array(select id from dept order by id) as ids, count(*) as n from loose",
    ]);
}

#[test]
fn sub_queries_used_often() {
    run(&[
        "with t as (select dept, sum(salary) as s from emp group by dept) select a.dept, b.s, c.s as most from t a, t b, (select max(s) as s from t) c where a.s < b.s",
        "with p as (select e.id, e.salary, d.name from emp e join dept d on d.id = e.dept) select x.id, y.id as other, z.id as third from p x, p y, p z where x.id < y.id and y.id < z.id and x.name = y.name and y.name = z.name",
        "with p as (select d.name, e.tags from emp e left join dept d on d.id = e.dept) select name from p union all select name || '!' from p where name is not null union all select tags[1] from p union all select tags[2] from p",
        "with p as (select e.dept, e.salary, l.v from emp e join loose l on l.k = e.dept), q as (select x.dept, y.v from p x join p y on x.v = y.dept), r as (select a.dept, b.v from q a join q b on a.v = b.dept and a.dept < b.dept) select dept, v, count(*) as n from r where dept < 4 group by dept, v",
        "select (select count(*) from emp e join dept d on d.id = e.dept where d.boss = o.id) as n, (select sum(salary) from emp e join dept d on d.id = e.dept where d.boss = o.id) as s, (select max(salary) from emp e join dept d on d.id = e.dept where d.boss = o.id) as m, o.id from dept o",
        "select k from loose where v in (select v from loose group by v having count(*) > 1) and k in (select v from loose group by v having count(*) > 1)",
        "with p as (select e.id, row(e.salary, d.name) as r from emp e join dept d on d.id = e.dept) select x.id, y.id as other, z.id as third from p x, p y, p z where x.r = y.r and y.r = z.r and x.id < y.id",
    ]);
}

#[test]
fn aggregates_over_nothing() {
    run(&[
        "select count(distinct dept) as a, regr_count(salary, id) as b, max(bonus) as c, count(bonus) as d from emp",
        "select count(distinct v) as a, array_agg(v order by v) as b from loose where k > 3",
        "select d.id, (select count(distinct e.name) from emp e where e.dept = d.id) as n from dept d",
        "select 1 as one from emp having count(*) > 20",
        "select 1 as one from emp having 1 < 2",
        "select stddev(salary) as a, bool_and(salary > 100) as b, bit_or(id) as c, mode() within group (order by dept) as d, rank(100) within group (order by salary) as e from emp",
        "select dept, variance(salary) as a, regr_count(salary, id) as b, every(salary > 100) as c, percentile_cont(0.5) within group (order by salary) as d from emp group by dept",
    ]);
}

#[test]
fn whole_rows_and_conversions() {
    run(&[
        "select d.id, count(e) as n from dept d left join emp e on e.dept = d.id group by d.id",
        "select d.id, to_jsonb(e) as j from dept d left join emp e on e.dept = d.id",
        "with p as (select id, row(salary, dept) as r from emp) select x.id, y.id as other from p x join p y on x.r = y.r and x.id < y.id",
        "with p as (select id, row(salary, dept) as r from emp) select id, r = row(null::int, 4) as e, r < row(100, null::int) as l from p",
        "with p as (select id, row(salary, dept) as r from emp) select id from p where r in (select row(case when v > 1 then v * 100 end, k) from loose)",
        "select e.id, (e).name as n, e is null as missing from emp e",
        "select e.id, l is null as missing from emp e left join loose l on l.k = e.id and l.v = 1",
        "select e.id from emp e where e.bonus not in (select v from loose) or e.id < 5",
        "select e.id, e.bonus > all (select v from loose where k = e.dept) as c from emp e",
        "select e.id, e.salary <> any (select v * 10 from loose where k = e.dept) as c, e.dept = all (select v from loose where k = e.dept) as d from emp e",
        "select e.id from emp e where (e.id, e.name) in (select id, name from dept) or e.salary > 200",
        "select d.id, not (d.id, d.name) in (select id, name from emp) as c from dept d",
        "select bonus from emp intersect select budget / 1000 from dept",
        "select budget from dept except all select salary::numeric from emp",
        "select d.id, u.x from dept d, unnest(array[d.boss, (select max(v) from loose where k = d.id)]) as u(x)",
        "select 0::bigint as c union all select sum(t.id) over (partition by t.dept) from (select id, dept from emp order by id limit 3) t, lateral (select min(v) as m from loose l where l.k = t.id) x",
        "select e.id, e.dept in (select k from loose) as a, e.salary in (select v from loose) as b, e.id in (select id from dept) as c, e.id in (select boss from dept) as d from emp e",
        "select a.id, b.id as b, c.id as c, d.id as d, e.id as e from dept a left join dept b on b.id = a.boss left join dept c on c.id = b.boss left join dept d on d.id = c.boss full join dept e on e.id = d.boss",
    ]);
}
