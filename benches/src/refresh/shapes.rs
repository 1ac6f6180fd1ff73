//! The queries that are measured, each with the statements that somebody would write to keep its result by hand.

/// A query, kept in four ways: as a stream table `s_<name>`, as a materialized view `m_<name>`, and by hand in `h_<name>`.
pub struct Shape {
    pub name: &'static str,
    pub title: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    /// Columns of the table kept by hand; begins with the query's columns.
    pub by_hand: &'static str,
    /// Statements that carry the changes `{changes}` into that table, all equivalent; the fastest is compared with.
    pub statements: &'static [&'static str],
}

pub const SHAPES: &[Shape] = &[
    Shape {
        name: "filter",
        title: "filter, 90 % of the rows",
        query: "select id, customer_id, amount from facts where n < 900",
        key: "id",
        by_hand: "select id, customer_id, amount from facts where n < 900",
        statements: &[
            "c as (select distinct on (id) id, customer_id, amount, w > 0 and n < 900 as comes
                 from {changes} l order by id, pos desc)
             merge into h_filter s using c on s.id = c.id
             when matched and not comes then delete
             when matched and (s.customer_id <> c.customer_id or s.amount <> c.amount)
                 then update set customer_id = c.customer_id, amount = c.amount
             when not matched and comes then insert values (c.id, c.customer_id, c.amount)",
            "d as (select id, customer_id, amount, sum(w) as w from {changes} l where n < 900
                 group by id, customer_id, amount having sum(w) <> 0),
             c as (select id, max(customer_id) filter (where w > 0) as customer_id,
                 max(amount) filter (where w > 0) as amount, bool_or(w > 0) as comes from d group by id)
             merge into h_filter s using c on s.id = c.id
             when matched and not comes then delete
             when matched then update set customer_id = c.customer_id, amount = c.amount
             when not matched then insert values (c.id, c.customer_id, c.amount)",
        ],
    },
    Shape {
        name: "group_1k",
        title: "GROUP BY, 1,000 groups",
        query: "select k, count(*) as c, sum(amount) as s, avg(amount) as a, sum(n) as sn, avg(n) as an
            from facts group by k",
        key: "k",
        by_hand: "select k, count(*) as c, sum(amount) as s, avg(amount) as a, sum(n) as sn, avg(n) as an
            from facts group by k",
        statements: &[
            "c as (select k, sum(w) as c, sum(amount * w) as s, sum(n * w) as sn from {changes} l group by k)
             merge into h_group_1k s using c on s.k = c.k
             when matched and s.c + c.c = 0 then delete
             when matched then update set c = s.c + c.c, s = s.s + c.s, a = (s.s + c.s) / (s.c + c.c),
                 sn = s.sn + c.sn, an = (s.sn + c.sn)::numeric / (s.c + c.c)
             when not matched then insert values (c.k, c.c, c.s, c.s / c.c, c.sn, c.sn::numeric / c.c)",
        ],
    },
    Shape {
        name: "group_100k",
        title: "GROUP BY, 100,000 groups",
        query: "select h, count(*) as c, sum(amount) as s, avg(amount) as a, sum(n) as sn, avg(n) as an
            from facts group by h",
        key: "h",
        by_hand: "select h, count(*) as c, sum(amount) as s, avg(amount) as a, sum(n) as sn, avg(n) as an
            from facts group by h",
        statements: &[
            "c as (select h, sum(w) as c, sum(amount * w) as s, sum(n * w) as sn from {changes} l group by h)
             merge into h_group_100k s using c on s.h = c.h
             when matched and s.c + c.c = 0 then delete
             when matched then update set c = s.c + c.c, s = s.s + c.s, a = (s.s + c.s) / (s.c + c.c),
                 sn = s.sn + c.sn, an = (s.sn + c.sn)::numeric / (s.c + c.c)
             when not matched then insert values (c.h, c.c, c.s, c.s / c.c, c.sn, c.sn::numeric / c.c)",
        ],
    },
    Shape {
        name: "join",
        title: "3-way join, GROUP BY, 125 groups",
        query: "select r.name, c.segment, count(*) as c, sum(f.amount) as s, avg(f.n) as an from facts f
            join customer c on c.id = f.customer_id join region r on r.id = c.region_id group by r.name, c.segment",
        key: "name, segment",
        by_hand: "select r.name, c.segment, count(*) as c, sum(f.amount) as s, avg(f.n) as an, sum(f.n) as sn from facts f
            join customer c on c.id = f.customer_id join region r on r.id = c.region_id group by r.name, c.segment",
        statements: &[
            "c as (select r.name, c.segment, sum(w) as c, sum(amount * w) as s, sum(n * w) as sn from {changes} l
                 join customer c on c.id = l.customer_id join region r on r.id = c.region_id group by r.name, c.segment)
             merge into h_join s using c on s.name = c.name and s.segment = c.segment
             when matched and s.c + c.c = 0 then delete
             when matched then update set c = s.c + c.c, s = s.s + c.s, an = (s.sn + c.sn)::numeric / (s.c + c.c),
                 sn = s.sn + c.sn
             when not matched then insert values (c.name, c.segment, c.c, c.s, c.sn::numeric / c.c, c.sn)",
        ],
    },
];
