//! Dropping stream tables, their sources and the extension: nothing is left.

use super::*;

#[test]
fn drop_by_function_and_by_statement_and_with_its_schema() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create schema app");
    for drop in [
        "select pgtrickle.drop_stream_table('app.v')",
        "drop table app.v",
        "drop table app.v cascade",
        "drop schema app cascade; create schema app",
    ] {
        s.stream_table("app.v", "select g, sum(n) as total from s group by g");
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        s.exec(drop);
        assert_nothing_left(&mut s);
        s.exec("update s set n = n + 1");
    }
}

#[test]
fn drop_rolled_back() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    for drop in [
        "select pgtrickle.drop_stream_table('v')",
        "drop table v",
        "drop table s cascade",
        "drop extension pg_trickle cascade",
    ] {
        s.exec(&format!("begin; {drop}; rollback"));
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        v.follows(&mut s);
    }
}

#[test]
fn drop_of_one_of_two() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.stream_table("w", "select g, count(*) as c from s group by g");
    s.exec("insert into s values (100, 1, 1); drop table w; insert into s values (101, 1, 1)");
    v.follows(&mut s);
    s.exec("drop table v");
    assert_nothing_left(&mut s);
}

#[test]
fn drop_of_the_source() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table other (k int primary key)");
    s.stream_table("v", "select k, n from s");
    s.stream_table("w", "select s.k from s join other on s.k = other.k");
    let unrelated = s.stream_table("u", "select k from other");
    let e = s.error("2BP01", "drop table s");
    assert!(e.detail.is_some_and(|d| d.contains('v')));
    s.exec("drop table s cascade");
    // Their query is gone, so they are gone or in ERROR, and what they wrote elsewhere does no harm.
    let left =
        s.lines("select status from pgtrickle.pgt_stream_tables where pgt_relid <> 'u'::regclass");
    assert!(left.iter().all(|status| status == "ERROR"), "{left:?}");
    s.exec("insert into other values (1)");
    unrelated.follows(&mut s);
    s.exec("drop table u");
    for name in ["v", "w"] {
        s.exec(&format!("drop table if exists {name}"));
    }
    assert_nothing_left(&mut s);
}

#[test]
fn drop_of_the_extension_leaves_tables_writable() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table("v", "select k, n from s");
    s.error("2BP01", "drop extension pg_trickle");
    s.exec("drop extension pg_trickle cascade");
    assert_eq!(
        s.value("select count(*) from pg_trigger where not tgisinternal"),
        "0"
    );
    assert_eq!(
        s.value("select count(*) from pg_namespace where nspname like 'pgtrickle%'"),
        "0"
    );
    s.exec("insert into s values (100, 1, 1); update s set n = n + 1; delete from s where k = 1; truncate s; drop table s");
    s.exec("create extension pg_trickle; create table s (k int primary key)");
    let v = s.stream_table("v2", "select k from s");
    s.exec("insert into s values (1)");
    v.follows(&mut s);
}

#[test]
fn drop_of_the_extension_while_refreshing() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k bigserial primary key, n int)");
    s.stream_table_with(
        "v",
        "select n, count(*) as c from s group by n",
        "schedule => 'continuous'",
    );
    s.stream_table_with("w", "select sum(c) as c from v", "schedule => 'continuous'");
    let load = db.connect().spawn("do $$ begin for i in 1..3000 loop insert into s(n) values (i % 10); commit; end loop; end $$");
    db.wait_until("select sum(c) > 0 from v");
    s.exec("drop extension pg_trickle cascade");
    let _ = load.finish();
    s.exec("insert into s(n) values (1); create extension pg_trickle");
    s.exec("drop table if exists v, w");
    let v = s.stream_table("v", "select count(*) as c from s");
    s.exec("insert into s(n) values (1)");
    v.follows(&mut s);
}
