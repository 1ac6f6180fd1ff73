//! What queries are made of besides rows: replaced while somebody uses it, used while somebody replaces it.

use pgt_tests::{Session, StreamTable, database};

const SOURCES: &str = "
    create table s (k int primary key, n int);
    create function inner_f(int) returns int language sql immutable begin atomic select $1 % 7; end;
    create function f(int) returns int language sql immutable begin atomic select inner_f($1); end;
    create type pair as (a int, b int);
    create table p (k int, g int) partition by range (k);
    create table p1 partition of p for values from (0) to (50);
    create table p2 (k int, g int); insert into p2 select i, i % 3 from generate_series(50, 59) i;
    insert into s select i, i from generate_series(1, 30) i;
    insert into p select i, i % 3 from generate_series(1, 9) i";

const REPLACE: &str = "create or replace function inner_f(int) returns int language sql immutable begin atomic select $1 % 5 + 100; end";

/// Queries, and DDL that changes their result.
const CASES: [(&str, &str); 3] = [
    ("select k, f(n) as f from s", REPLACE),
    (
        "select k, to_jsonb(null::pair) is null as j, jsonb_populate_record(null::pair, jsonb_build_object('a', n))::text as t from s",
        "alter type pair add attribute c int",
    ),
    (
        "select g, count(*) as c from p group by g",
        "alter table p attach partition p2 for values from (50) to (60)",
    ),
];

fn rewritten_rows(s: &mut Session, v: &StreamTable) {
    v.refresh(s);
    v.assert_fresh(s);
    assert_eq!(
        s.lines("select distinct status from pgtrickle.pgt_refresh_history"),
        ["COMPLETED"]
    );
}

#[test]
fn replaced_while_a_stream_table_is_created() {
    for (query, ddl) in CASES {
        let db = database();
        let mut s = db.connect();
        s.exec(SOURCES);
        s.exec("begin");
        let v = s.stream_table("v", query);
        let replacing = db.connect().spawn(ddl);
        db.wait_blocked(replacing.pid());
        s.exec("commit");
        replacing.join();
        rewritten_rows(&mut s, &v);
    }
}

#[test]
fn stream_table_is_created_while_they_are_replaced() {
    for (query, ddl) in CASES {
        let db = database();
        let (mut s, mut other) = (db.connect(), db.connect());
        s.exec(SOURCES);
        other.exec("begin");
        other.exec(ddl);
        let creating = db.connect().spawn(&format!(
            "select pgtrickle.create_stream_table('v', {})",
            pgt_tests::quote(query)
        ));
        db.wait_blocked(creating.pid());
        other.exec("commit");
        creating.join();
        rewritten_rows(&mut s, &StreamTable::new("v", query));
    }
}

#[test]
fn refresh_waits_for_what_is_being_replaced() {
    for mode in ["DIFFERENTIAL", "FULL"] {
        for (query, ddl) in CASES {
            let db = database();
            let (mut s, mut other) = (db.connect(), db.connect());
            s.exec(SOURCES);
            let v = s.stream_table_with("v", query, &format!("refresh_mode => '{mode}'"));
            s.exec("insert into s values (31, 31); insert into p values (10, 1)");
            other.exec("begin");
            other.exec(ddl);
            let refresh = db
                .connect()
                .spawn("select pgtrickle.refresh_stream_table('v')");
            db.wait_blocked(refresh.pid());
            other.exec("commit");
            refresh.join();
            v.assert_fresh(&mut s);
            assert_eq!(v.last_refresh(&mut s).0, "REINITIALIZE", "{query}");
            rewritten_rows(&mut s, &v);
        }
    }
}

#[test]
fn replacing_waits_for_a_refresh_and_is_followed() {
    for (query, ddl) in CASES {
        let db = database();
        let mut s = db.connect();
        s.exec(SOURCES);
        let v = s.stream_table("v", query);
        s.exec("insert into s values (31, 31); insert into p values (10, 1)");
        s.exec("begin");
        v.refresh(&mut s);
        let replacing = db.connect().spawn(ddl);
        db.wait_blocked(replacing.pid());
        s.exec("commit");
        replacing.join();
        rewritten_rows(&mut s, &v);
    }
}

/// A refresh that waits holds nothing that a migration may want.
#[test]
fn migration_of_several_things_does_not_deadlock_with_refreshes() {
    let steps = [
        REPLACE,
        "alter table s add x int",
        "alter table p add x int",
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let db = database();
        let (mut s, mut other) = (db.connect(), db.connect());
        s.exec(SOURCES);
        let query = "select s.k, f(s.n) as f, p.g from s join p on p.k = s.k";
        let v = s.stream_table("v", query);
        s.exec("insert into s values (31, 31)");
        let mut refreshing = db.connect();
        v.refresh(&mut refreshing);
        s.exec("insert into s values (32, 32)");
        other.exec("begin");
        other.exec(steps[order[0]]);
        let refresh = refreshing.spawn("select pgtrickle.refresh_stream_table('v')");
        db.wait_blocked(refresh.pid());
        other.exec(steps[order[1]]);
        other.exec(steps[order[2]]);
        other.exec("commit");
        refresh.join();
        rewritten_rows(&mut s, &v);
    }
}

#[test]
fn new_functions_stop_nobody() {
    let db = database();
    let (mut s, mut other) = (db.connect(), db.connect());
    s.exec(SOURCES);
    let v = s.stream_table("v", "select k, f(n) as f from s");
    // As many as there are locks.
    other.exec(
        "begin; do $$ begin for i in 1..1100 loop
            execute format('create function g%s(int) returns int language sql as ''select $1''', i);
         end loop; end $$",
    );
    s.exec("set lock_timeout = '5s'; insert into s values (31, 31)");
    v.follows(&mut s);
    let w = s.stream_table("w", "select f(n) as f, count(*) as c from s group by f(n)");
    w.assert_fresh(&mut s);
    other.exec("commit");
}
