//! Joins whose sides change in the same cycle, with any number of inputs.

use pgt_tests::{Session, database};

/// Tables t1..tn (k primary key, a, b), chained on t(i).b = t(i+1).a.
fn chain(s: &mut Session, n: usize) {
    for i in 1..=n {
        s.exec(&format!(
            "create table t{i} (k int primary key, a int, b int);
             insert into t{i} select j, j % 4, (j + {i}) % 4 from generate_series(1, 6) j"
        ));
    }
}

fn chain_query(n: usize, kind: &str) -> String {
    let columns: Vec<String> = (1..=n).map(|i| format!("t{i}.k as k{i}")).collect();
    let joins: Vec<String> = (2..=n)
        .map(|i| format!("{kind} join t{i} on t{}.b = t{i}.a", i - 1))
        .collect();
    format!("select {} from t1 {}", columns.join(", "), joins.join(" "))
}

/// All sides change at once: a key moves, its match goes, a new match comes, and further rounds undo it.
fn every_side_changes(s: &mut Session, n: usize, v: &pgt_tests::StreamTable, differential: bool) {
    let rounds: [&dyn Fn(usize) -> String; 6] = [
        &|i| {
            format!(
                "update t{i} set b = (b + 1) % 4 where k = 2; delete from t{i} where a = 1; insert into t{i} values (10 + {i}, 1, 2)"
            )
        },
        &|i| {
            format!(
                "insert into t{i} values (20, {i} % 4, null), (21, null, 1); update t{i} set a = b where k % 2 = 0"
            )
        },
        &|i| {
            if i % 2 == 0 {
                format!("delete from t{i}")
            } else {
                format!("update t{i} set b = b where k > 2")
            }
        },
        &|i| {
            if i % 2 == 0 {
                format!("insert into t{i} select j, j % 3, j % 4 from generate_series(1, 5) j")
            } else {
                format!("update t{i} set k = k + 100")
            }
        },
        &|i| {
            if i == n {
                format!("delete from t{i}")
            } else {
                String::new()
            }
        },
        &|i| format!("insert into t{i} values (99, 3, 3) on conflict do nothing"),
    ];
    for round in rounds {
        let sql: Vec<String> = (1..=n).map(round).filter(|q| !q.is_empty()).collect();
        s.exec(&format!("begin; {}; commit", sql.join("; ")));
        v.refresh(s);
        v.assert_fresh(s);
        if differential {
            v.assert_mode(s, "DIFFERENTIAL");
        }
    }
}

fn inner_chain(n: usize) {
    let db = database();
    let mut s = db.connect();
    chain(&mut s, n);
    let v = s.stream_table("v", &chain_query(n, "inner"));
    every_side_changes(&mut s, n, &v, true);
}

fn outer_chain(n: usize, kind: &str) {
    let db = database();
    let mut s = db.connect();
    chain(&mut s, n);
    let v = s.auto_stream_table("v", &chain_query(n, kind));
    every_side_changes(&mut s, n, &v, false);
}

#[test]
fn inner_join_of_two() {
    inner_chain(2);
}

#[test]
fn inner_join_of_three() {
    inner_chain(3);
}

#[test]
fn inner_join_of_five() {
    inner_chain(5);
}

#[test]
fn inner_join_of_seven() {
    inner_chain(7);
}

#[test]
fn left_join_of_two() {
    outer_chain(2, "left");
}

#[test]
fn left_join_of_five() {
    outer_chain(5, "left");
}

#[test]
fn full_join_of_two() {
    outer_chain(2, "full");
}

#[test]
fn full_join_of_three() {
    outer_chain(3, "full");
}

#[test]
fn right_join_of_three() {
    outer_chain(3, "right");
}

/// A row beside the groups of many intermediate results that all change at the same keys: what changed must not multiply.
fn every_group_beside_a_row_changes(kind: &str) {
    const GROUPS: usize = 12;
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table a (id int primary key, k int); create table b (id int primary key, k int, v int);
         insert into a select i, i % 4 from generate_series(1, 12) i;
         insert into b select i, i % 4, i % 3 from generate_series(1, 30) i",
    );
    let columns: Vec<String> = (0..GROUPS).map(|i| format!("g{i}.v as v{i}")).collect();
    let joins: Vec<String> = (0..GROUPS)
        .map(|i| {
            format!("{kind} join (select k, max(v) as v from b where id <> {i} group by k) g{i} on g{i}.k = a.k")
        })
        .collect();
    let query = format!(
        "select a.id, {} from a {}",
        columns.join(", "),
        joins.join(" ")
    );
    let v = s.stream_table("v", &query);
    for changes in [
        "update b set v = v + 1",
        "update a set k = k + 1 where id = 3; update b set v = v * 2 where k < 2; delete from b where k = 2",
        "insert into b values (50, 2, 7), (51, null, 1); update a set k = null where id = 4; update b set k = 1 where k = 3",
    ] {
        s.exec(&format!("begin; {changes}; commit"));
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
        v.assert_mode(&mut s, "DIFFERENTIAL");
    }
}

#[test]
fn inner_joins_with_many_groups_that_all_change() {
    every_group_beside_a_row_changes("inner");
}

#[test]
fn left_joins_with_many_groups_that_all_change() {
    every_group_beside_a_row_changes("left");
}

#[test]
fn left_join_whose_other_side_appears_and_vanishes() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, x int); create table b (k int primary key, x int); insert into a values (1, 1), (2, 2), (3, null)");
    let v = s.auto_stream_table(
        "v",
        "select a.k, b.k as bk, coalesce(b.x, -1) as x from a left join b on a.x = b.x and b.k > 0",
    );
    for sql in [
        "insert into b values (1, 1)",
        "insert into b values (2, 1), (3, 2), (4, null)",
        "delete from b where k = 1; delete from a where k = 2",
        "delete from b; update a set x = 2 where k = 1",
        "insert into b values (9, 2); update a set k = 7 where k = 1",
        "update b set k = -9",
    ] {
        s.exec(sql);
        v.follows_somehow(&mut s);
    }
}

#[test]
fn comma_join_with_the_condition_in_where() {
    let db = database();
    let mut s = db.connect();
    chain(&mut s, 3);
    let v = s.stream_table("v", "select t1.k as k1, t2.k as k2, t3.k as k3 from t1, t2, t3 where t1.a = t2.b and t2.a = t3.b and t1.k <> t3.k");
    every_side_changes(&mut s, 3, &v, true);
}

#[test]
fn using_and_natural_join() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (id int primary key, x int); create table b (id int primary key, y int); create table c (id int, y int)");
    let using = s.stream_table("u", "select id, x, y from a join b using (id)");
    let natural = s.stream_table("n", "select * from b natural join c");
    s.exec("insert into a values (1, 1), (2, 2); insert into b values (1, 10), (3, 30); insert into c values (1, 10), (1, 10), (3, 31)");
    using.follows(&mut s);
    natural.follows(&mut s);
    s.exec("update b set id = 2 where id = 1; insert into c values (2, 10); update c set y = 30 where id = 3");
    using.follows(&mut s);
    natural.follows(&mut s);
}

#[test]
fn cross_join() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (x int); create table b (y int); insert into a values (1), (1), (null); insert into b values (7)");
    let v = s.stream_table("v", "select x, y from a cross join b");
    for sql in [
        "insert into a values (2); insert into b values (8), (8)",
        "delete from a where x = 1; update b set y = null where y = 7",
        "delete from b",
        "insert into b values (1), (2)",
    ] {
        s.exec(sql);
        v.follows(&mut s);
    }
}

#[test]
fn self_join() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table e (id int primary key, boss int, pay int); insert into e values (1, null, 10), (2, 1, 5), (3, 1, 12), (4, 2, 6)");
    let v = s.stream_table("v", "select e.id, b.id as boss, e.pay - b.pay as diff from e join e b on e.boss = b.id where e.pay > b.pay");
    let three = s.stream_table("three", "select a.id as a, b.id as b, c.id as c from e a join e b on a.boss = b.id join e c on b.boss = c.id");
    for sql in [
        "update e set pay = pay + 7 where id = 2",
        "update e set boss = 3 where id = 4; insert into e values (5, 4, 99)",
        "update e set boss = id",
        "delete from e where id in (1, 3)",
        "insert into e select i, i - 1, i * 3 from generate_series(10, 20) i; update e set boss = null where id = 2",
    ] {
        s.exec(sql);
        v.follows(&mut s);
        three.follows(&mut s);
    }
}

#[test]
fn theta_join() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, lo int, hi int); create table b (k int primary key, n int)");
    s.exec("insert into a select i, i * 2, i * 2 + 5 from generate_series(1, 8) i; insert into b select i, i * 3 from generate_series(1, 8) i");
    let v = s.stream_table("v", "select a.k as ak, b.k as bk from a join b on b.n between a.lo and a.hi and (a.k + b.k) % 2 = 0");
    for sql in [
        "update a set hi = hi + 4 where k < 4; update b set n = n - 1 where k > 3",
        "delete from a where k = 3; insert into b values (50, 10)",
        "update b set n = null where k = 2",
    ] {
        s.exec(sql);
        v.follows(&mut s);
    }
}

#[test]
fn join_of_keyless_tables_with_duplicates() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (x int, t text); create table b (x int, t text); insert into a values (1, 'p'), (1, 'p'), (2, null); insert into b values (1, 'q'), (1, 'q'), (null, 'z')");
    let v = s.stream_table(
        "v",
        "select a.t as at, b.t as bt from a join b on a.x = b.x",
    );
    for sql in [
        "insert into a values (1, 'p'); delete from b where ctid = (select ctid from b where x = 1 limit 1)",
        "update a set x = 2 where ctid = (select min(ctid) from a where x = 1); insert into b values (2, 'w'), (2, 'w')",
        "delete from a where x = 1; update b set t = 'w'",
    ] {
        s.exec(sql);
        v.follows(&mut s);
    }
}

#[test]
fn join_on_is_not_distinct_from() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, x int); create table b (k int primary key, x int); insert into a values (1, 1), (2, null)");
    let v = s.stream_table(
        "v",
        "select a.k as ak, b.k as bk from a join b on a.x is not distinct from b.x",
    );
    for sql in [
        "insert into b values (1, 1), (2, null), (3, 3)",
        "update a set x = null where k = 1; update b set x = null where k = 3",
        "delete from b where x is null",
    ] {
        s.exec(sql);
        v.follows(&mut s);
    }
}

#[test]
fn join_key_types_differ() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, x smallint); create table b (k bigint primary key, x numeric(10, 2))");
    let v = s.stream_table(
        "v",
        "select a.k as ak, b.k as bk, b.x from a join b on a.x = b.x",
    );
    for sql in [
        "insert into a values (1, 1), (2, 2); insert into b values (1, 1.00), (2, 2.5)",
        "update b set x = 2 where k = 2; update a set x = 3 where k = 1",
        "update b set x = 3.00 where k = 1",
    ] {
        s.exec(sql);
        v.follows(&mut s);
    }
}

#[test]
fn join_of_aggregate_input_where_every_side_changes() {
    let db = database();
    let mut s = db.connect();
    chain(&mut s, 3);
    let v = s.stream_table(
        "v",
        "select t1.a, count(*) as n, sum(t3.k) as total, min(t2.k) as low, max(t3.b) as high from t1 join t2 on t1.b = t2.a join t3 on t2.b = t3.a group by t1.a",
    );
    every_side_changes(&mut s, 3, &v, true);
}

#[test]
fn same_table_three_times_and_another_twice() {
    let db = database();
    let mut s = db.connect();
    chain(&mut s, 2);
    let v = s.stream_table(
        "v",
        "select x.k as x, y.k as y, z.k as z, p.k as p, q.k as q from t1 x join t2 p on x.a = p.b join t1 y on p.a = y.b join t2 q on y.a = q.b join t1 z on z.k = q.k",
    );
    every_side_changes(&mut s, 2, &v, true);
}

#[test]
fn one_side_changes_alone_after_the_other() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key, b int); create table b (k int primary key, t text); insert into a select i, i % 10 from generate_series(1, 200) i; insert into b select i, 't' || i from generate_series(0, 9) i");
    let v = s.stream_table("v", "select a.k, b.t from a join b on a.b = b.k");
    for sql in [
        "update a set b = 3 where k = 1",
        "update b set t = 'three' where k = 3",
        "delete from b where k = 4",
        "insert into b values (4, 'back')",
        "delete from a where b = 4",
    ] {
        s.exec(sql);
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
    }
}

/// An estimate that is wrong by the number of suppliers would have the planner begin with the parts, and read what the
/// change has nothing to do with.
#[test]
fn tables_that_did_not_change_are_looked_up_from_the_change() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table part (id int primary key, kind int not null);
         create table offer (part int, supplier int, cost int not null, primary key (part, supplier));
         create table sale (id int primary key, day int not null);
         create table item (sale int, n int, part int not null, supplier int not null, primary key (sale, n));
         insert into part select i, i % 10 from generate_series(1, 4000) i;
         insert into offer select i, i % 40, i % 7 from generate_series(1, 4000) i;
         insert into sale select i, i % 100 from generate_series(1, 40000) i;
         insert into item select i % 40000 + 1, i / 40000, p, p % 40
         from generate_series(0, 159999) i, lateral (select (hashint4(i) & 65535) % 4000 + 1 as p);
         create index on item (part, supplier);
         analyze",
    );
    s.exec("set pg_trickle.verify_refresh = off");
    let v = s.stream_table(
        "v",
        "select sale.day, sum(offer.cost) as cost, count(*) as n
         from part join offer on offer.part = part.id
             join item on item.part = offer.part and item.supplier = offer.supplier
             join sale on sale.id = item.sale
         where part.kind = 3 group by sale.day",
    );
    for round in 0..3 {
        s.exec(&format!(
            "update sale set day = day + 1 where id between {round} * 200 and {round} * 200 + 150"
        ));
        s.exec("select pg_stat_force_next_flush()");
        const READ: &str = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'item'";
        let before = s.number(READ);
        v.refresh(&mut s);
        s.exec("select pg_stat_force_next_flush()");
        let read = s.number(READ) - before;
        assert!(read < 5_000, "{read} items read for 150 sales");
        v.follows(&mut s);
    }
}
