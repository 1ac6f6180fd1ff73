//! Stream tables over stream tables: order, versions, diamonds, cycles.

use pgt_tests::{Session, StreamTable, database};

fn base(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 12) i");
}

const BATCHES: [&str; 6] = [
    "insert into s values (100, 1, 50), (101, 7, 1)",
    "update s set n = n + 1 where k % 2 = 0",
    "update s set g = g + 1 where k < 4; delete from s where k = 5",
    "delete from s where g = 1",
    "update s set n = n; insert into s values (102, null, null)",
    "delete from s; insert into s values (1, 1, 1)",
];

#[test]
fn refresh_brings_the_upstream_up_to_date_first() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("low", "select k, g, n * 2 as n from s where n > 2");
    s.stream_table(
        "mid",
        "select g, sum(n) as total, count(*) as c from low group by g",
    );
    s.stream_table("top", "select g, total from mid where c > 1");
    let top = StreamTable::new(
        "top",
        "select g, sum(n * 2) as total from s where n > 2 group by g having count(*) > 1",
    );
    for batch in BATCHES {
        s.exec(batch);
        top.refresh(&mut s);
        top.assert_fresh(&mut s);
    }
    for name in ["low", "mid", "top"] {
        StreamTable::new(name, "").assert_verified(&mut s);
        StreamTable::new(name, "").assert_mode(&mut s, "DIFFERENTIAL");
    }
}

#[test]
fn downstream_catches_up_over_several_versions() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    let low = s.stream_table("low", "select k, g, n from s where n > 2");
    let top = s.stream_table(
        "top",
        "select g, count(*) as c, sum(n) as total from low group by g",
    );
    for batch in BATCHES {
        s.exec(batch);
        low.follows(&mut s);
    }
    top.follows(&mut s);
    let other = s.stream_table("other", "select max(n) as high from low");
    other.assert_fresh(&mut s);
    s.exec("insert into s values (500, 2, 500)");
    low.follows(&mut s);
    top.follows(&mut s);
    other.follows(&mut s);
}

#[test]
fn diamond_ends_at_one_snapshot() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("l", "select k, n from s where g = 1 or g = 0");
    s.stream_table("r", "select k, n * 10 as n from s");
    s.stream_table(
        "top",
        "select l.k, l.n, r.n as rn from l join r on l.k = r.k",
    );
    let whole = StreamTable::new(
        "top",
        "select k, n, n * 10 as rn from s where g = 1 or g = 0",
    );
    for batch in BATCHES {
        s.exec(batch);
        whole.refresh(&mut s);
        whole.assert_fresh(&mut s);
        whole.assert_mode(&mut s, "DIFFERENTIAL");
    }
}

#[test]
fn join_of_a_stream_table_with_its_own_source() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("sums", "select g, sum(n) as total from s group by g");
    s.stream_table(
        "share",
        "select s.k, s.n, sums.total from s join sums on sums.g = s.g",
    );
    let whole = StreamTable::new(
        "share",
        "select s.k, s.n, t.total from s join (select g, sum(n) as total from s group by g) t on t.g = s.g",
    );
    for batch in BATCHES {
        s.exec(batch);
        whole.refresh(&mut s);
        whole.assert_fresh(&mut s);
    }
}

#[test]
fn self_join_of_a_stream_table() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("low", "select k, g from s where n > 1");
    let top = s.stream_table(
        "top",
        "select a.k as ak, b.k as bk from low a join low b on a.g = b.g and a.k < b.k",
    );
    for batch in BATCHES {
        s.exec(batch);
        top.follows(&mut s);
    }
}

#[test]
fn keyless_stream_table_as_a_source() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("bag", "select g from s");
    let top = s.stream_table("top", "select g, count(*) as c from bag group by g");
    let copy = s.stream_table("copy", "select g from bag where g is not null");
    for batch in BATCHES {
        s.exec(batch);
        top.follows(&mut s);
        copy.follows(&mut s);
    }
}

#[test]
fn distinct_over_grouped_over_distinct() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("d", "select distinct g, n % 4 as m from s");
    s.stream_table("c", "select g, count(*) as c from d group by g");
    let top = s.stream_table("t", "select distinct c from c");
    for batch in BATCHES {
        s.exec(batch);
        top.refresh(&mut s);
        top.assert_fresh(&mut s);
    }
    StreamTable::new("t", "select distinct c from (select g, count(*) as c from (select distinct g, n % 4 as m from s) d group by g) c").assert_equal(&mut s);
}

#[test]
fn full_upstream_passes_on_only_what_changed() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    let low = s.stream_table_with(
        "low",
        "select k, g, n from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    let top = s.stream_table("top", "select g, sum(n) as total from low group by g");
    for batch in BATCHES {
        s.exec(batch);
        top.follows(&mut s);
        low.assert_fresh(&mut s);
        low.assert_mode(&mut s, "FULL");
    }
}

#[test]
fn truncate_of_the_base_reaches_the_top() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("low", "select k, g, n from s where n > 1");
    let top = s.stream_table("top", "select g, count(*) as c from low group by g");
    s.exec("truncate s; insert into s values (1, 1, 5)");
    top.follows_somehow(&mut s);
    StreamTable::new("low", "select k, g, n from s where n > 1").assert_fresh(&mut s);
    s.exec("insert into s values (2, 1, 6)");
    top.follows(&mut s);
}

#[test]
fn refresh_of_a_chain_rolled_back() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    let low = s.stream_table("low", "select k, g, n from s");
    let top = s.stream_table("top", "select g, sum(n) as total from low group by g");
    s.exec("insert into s values (50, 1, 1)");
    s.exec("begin");
    top.refresh(&mut s);
    s.exec("rollback; insert into s values (51, 1, 2)");
    s.exec("begin");
    low.refresh(&mut s);
    s.exec("rollback");
    top.follows(&mut s);
    low.assert_fresh(&mut s);
}

#[test]
fn chain_within_a_repeatable_read_transaction() {
    let db = database();
    let (mut a, mut b) = (db.connect(), db.connect());
    base(&mut a);
    a.stream_table("low", "select k, g, n from s");
    let top = a.stream_table("top", "select g, sum(n) as total from low group by g");
    b.exec("insert into s values (50, 1, 1)");
    b.exec("begin isolation level repeatable read; select 1 from s");
    a.exec("insert into s values (51, 1, 100)");
    top.refresh(&mut b);
    top.assert_equal(&mut b);
    b.exec("commit");
    top.follows(&mut a);
    StreamTable::new("top", "select g, sum(n) as total from s group by g").assert_equal(&mut a);
}

#[test]
fn ten_levels_and_ten_siblings() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    let mut below = "s".to_string();
    for level in 0..10 {
        let name = format!("l{level}");
        s.stream_table(
            &name,
            &format!("select k, g, n + 1 as n from {below} where n <> {level}"),
        );
        below = name;
    }
    for i in 0..10 {
        s.stream_table(
            &format!("sib{i}"),
            &format!("select k, n from l9 where k % 10 = {i}"),
        );
    }
    let arms: Vec<String> = (0..10).map(|i| format!("select * from sib{i}")).collect();
    let all = s.stream_table("everything", &arms.join(" union all "));
    for batch in BATCHES {
        s.exec(batch);
        all.follows(&mut s);
    }
    let wanted = "select k, n + 10 as n from s where n <> 0";
    StreamTable::new("everything", wanted).assert_equal(&mut s);
}

#[test]
fn cycle_is_refused_with_its_path() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    let a = s.stream_table("aaa", "select k, n from s");
    s.stream_table("bbb", "select k, n from aaa");
    let c = s.stream_table("ccc", "select k, n from bbb");
    let e = s.error(
        "42P19",
        "select pgtrickle.alter_stream_table('aaa', query => 'select k, n from ccc')",
    );
    let said = format!("{e}");
    for name in ["aaa", "bbb", "ccc"] {
        assert!(said.contains(name), "the path is named: {said}");
    }
    s.error(
        "42P19",
        "select pgtrickle.alter_stream_table('aaa', query => 'select k, n from aaa')",
    );
    s.exec("create view through as select k, n from ccc");
    s.error(
        "42P19",
        "select pgtrickle.alter_stream_table('aaa', query => 'select k, n from through')",
    );
    s.exec("insert into s values (77, 1, 77)");
    c.follows(&mut s);
    a.assert_fresh(&mut s);
}

#[test]
fn upstream_with_dependents_is_not_dropped_by_accident() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    let low = s.stream_table("low", "select k, g, n from s");
    let top = s.stream_table("top", "select g, sum(n) as total from low group by g");
    s.error("2BP01", "select pgtrickle.drop_stream_table('low')");
    s.error("2BP01", "drop table low");
    s.exec("insert into s values (77, 1, 77)");
    top.follows(&mut s);
    low.assert_fresh(&mut s);
    s.exec("select pgtrickle.drop_stream_table('low', cascade => true)");
    assert_eq!(
        s.value("select count(*) from pgtrickle.pgt_stream_tables"),
        "0"
    );
    assert_eq!(
        s.lines("select to_regclass('low'), to_regclass('top')"),
        ["-|-"]
    );
}

#[test]
fn dependency_tree_and_dag_name_everything() {
    let db = database();
    let mut s = db.connect();
    base(&mut s);
    s.stream_table("low", "select k, g, n from s");
    s.stream_table("top", "select g, sum(n) as total from low group by g");
    assert_eq!(
        s.value("select count(*) from pgtrickle.list_sources('top')"),
        "1"
    );
    for sql in [
        "select string_agg(t::text, ' ') from pgtrickle.dependency_tree() t",
        "select pgtrickle.explain_dag('mermaid')",
        "select pgtrickle.explain_dag('dot')",
    ] {
        let text = s.value(sql);
        assert!(
            text.contains("low") && text.contains("top"),
            "{sql}: {text}"
        );
    }
}
