//! Watermark groups: what reads several tables waits until they are equally complete.

use super::*;

/// Tables `a` and `b` in a watermark group of 60 seconds, and `v` which reads both.
fn aligned(s: &mut Session, schedule: &str) -> StreamTable {
    s.exec("create table a (k int primary key); create table b (k int primary key)");
    let v = s.stream_table_with(
        "v",
        "select a.k, b.k as other from a full join b on b.k = a.k",
        &format!("schedule => '{schedule}'"),
    );
    s.exec("select pgtrickle.create_watermark_group('pair', array['a', 'b'], 60)");
    v
}

fn advance(table: &str, time: &str) -> String {
    format!("select pgtrickle.advance_watermark('{table}', '2026-01-01 {time}+00')")
}

#[test]
fn watermarks_never_go_back() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    s.exec(&advance("a", "12:00:00"));
    s.exec(&advance("a", "12:00:00"));
    let refused = s.error("22023", &advance("a", "11:59:59"));
    assert!(refused.hint.is_some(), "{refused}");
    s.exec(&format!("begin; {}; rollback", advance("a", "13:00:00")));
    s.exec(&advance("a", "12:30:00"));
    s.exec("select pgtrickle.advance_watermark('a', null)");
    assert_eq!(
        s.lines("select source, watermark, advanced_by from pgtrickle.watermarks()"),
        ["public.a|2026-01-01 12:30:00+00|postgres"]
    );
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    v.assert_fresh(&mut s);
}

#[test]
fn unaligned_tables_hold_what_reads_them_together() {
    let db = database();
    let mut s = db.connect();
    clock(&mut s);
    let v = aligned(&mut s, "continuous");
    let alone = s.stream_table_with("alone", "select k from a", "schedule => 'continuous'");
    // A table without watermark may be complete up to any time.
    assert_eq!(held(&mut s), ["v"]);
    assert_eq!(
        s.lines("select group_name, aligned, lag_secs, tolerance_secs, without_watermark from pgtrickle.watermark_status()"),
        ["pair|f|-|60|2"]
    );
    s.exec(&advance("a", "12:00:00"));
    assert_eq!(held(&mut s), ["v"]);
    s.exec("insert into a values (1)");
    alone.catches_up(&mut s);
    assert_eq!(s.number("select count(*) from v"), 0);
    must_wait(&mut s, "v");
    s.exec(&advance("b", "12:01:00"));
    assert!(held(&mut s).is_empty(), "as far apart as they may be");
    v.catches_up(&mut s);
    s.exec(&advance("b", "12:01:01"));
    assert_eq!(
        s.lines("select group_name, aligned, lag_secs, without_watermark from pgtrickle.watermark_status()"),
        ["pair|f|61|0"]
    );
    s.exec("insert into b values (2)");
    let_time_pass(&db, &mut s);
    assert_eq!(s.number("select count(*) from v"), 1);
    must_wait(&mut s, "v");
    s.exec(&advance("a", "12:01:00"));
    v.catches_up(&mut s);
    v.assert_mode(&mut s, "DIFFERENTIAL");
}

#[test]
fn watermarks_reach_through_stream_tables() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table a (k int primary key); create table b (k int primary key)");
    let low_a = s.stream_table_with("low_a", "select k from a", "schedule => 'continuous'");
    let low_b = s.stream_table_with("low_b", "select k from b", "schedule => 'continuous'");
    let top = s.stream_table_with(
        "top",
        "select x.k, y.k as other from low_a x full join low_b y on y.k = x.k",
        "schedule => 'continuous'",
    );
    let above = s.stream_table_with("above", "select count(*) as c from top", "schedule => '1d'");
    s.exec("select pgtrickle.create_watermark_group('pair', array['a', 'b'])");
    assert_eq!(held(&mut s), ["above", "top"]);
    s.exec("insert into a values (1); insert into b values (2)");
    low_a.catches_up(&mut s);
    low_b.catches_up(&mut s);
    assert_eq!(s.number("select count(*) from top"), 0);
    must_wait(&mut s, "top");
    must_wait(&mut s, "above");
    s.exec(&advance("a", "12:00:00"));
    s.exec(&advance("b", "12:00:00"));
    top.catches_up(&mut s);
    s.exec(&advance("b", "12:00:00.001"));
    assert_eq!(held(&mut s), ["above", "top"]);
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    assert!(held(&mut s).is_empty());
    above.follows_somehow(&mut s);
}

#[test]
fn watermarks_advanced_side_by_side_end_aligned() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "continuous");
    s.exec(&format!("begin; {}", advance("a", "12:00:00")));
    let other = db.connect().spawn(&advance("b", "12:00:00"));
    db.wait_until(&format!(
        "select wait_event_type = 'Lock' or state = 'idle' from pg_stat_activity where pid = {}",
        other.pid()
    ));
    s.exec("commit");
    other.join();
    assert!(held(&mut s).is_empty());
    s.exec("insert into a values (1); insert into b values (2)");
    v.catches_up(&mut s);
    // Two that run ahead by turns, at the same time.
    s.exec("select pgtrickle.alter_stream_table('v', schedule => '1d')");
    let run = |table: &str| {
        db.connect().spawn(&format!(
            "do $$ begin for i in 1..60 loop perform pgtrickle.advance_watermark('{table}', '2026-01-01 13:00:00+00'::timestamptz + i * interval '90 seconds'); commit; end loop; end $$"
        ))
    };
    for running in [run("a"), run("b")] {
        running.join();
    }
    assert!(held(&mut s).is_empty());
    s.exec("insert into b values (3)");
    v.follows(&mut s);
}

#[test]
fn watermark_advanced_in_an_older_snapshot_ends_aligned() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    let mut older = db.connect();
    older.exec("begin isolation level repeatable read; select 1");
    s.exec(&advance("b", "12:00:00"));
    let advanced = older
        .try_exec(&advance("a", "12:00:00"))
        .and_then(|()| older.try_exec("commit"));
    // It may be refused, as REPEATABLE READ may be.
    if let Err(refused) = advanced {
        assert_eq!(refused.code, "40001", "{refused}");
        older.exec("rollback");
        s.exec(&advance("a", "12:00:00"));
    }
    assert_eq!(
        s.lines("select aligned from pgtrickle.watermark_status()"),
        ["t"]
    );
    assert_eq!(held(&mut s), [""; 0]);
    v.assert_fresh(&mut s);
}

/// Drops `c`, the one table of its group that has no watermark.
fn drop_of_a_group(db: &Database<'_>, read_c: bool) {
    let mut s = db.connect();
    s.exec("create table c (k int primary key)");
    let v = aligned(&mut s, "1d");
    if read_c {
        s.stream_table("w", "select k from c");
    }
    s.exec("select pgtrickle.create_watermark_group('three', array['a', 'b', 'c'])");
    for table in ["a", "b"] {
        s.exec(&advance(table, "12:00:00"));
    }
    assert_eq!(held(&mut s), ["v"], "c has no watermark");
    s.exec("begin; drop table c cascade; rollback");
    assert_eq!(held(&mut s), ["v"]);
    s.exec("drop table c cascade");
    assert_eq!(held(&mut s), [""; 0], "the two that are left are aligned");
    v.follows_somehow(&mut s);
}

#[test]
fn dropped_source_leaves_its_watermark_group() {
    drop_of_a_group(&database(), true);
}

#[test]
fn dropped_table_leaves_its_watermark_group() {
    drop_of_a_group(&database(), false);
}

#[test]
fn watermark_groups_are_refused_where_they_make_no_sense() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    for (sqlstate, arguments) in [
        ("42710", "'pair', array['a', 'b']"),
        ("22023", "'g', array['a']"),
        ("22023", "'g', array[]::text[]"),
        ("22023", "'g', array['a', null]"),
        ("22023", "'g', array['a', 'b'], -1"),
        ("22023", "'g', array['a', 'b'], 'NaN'"),
        ("22023", "'g', array['a', 'b'], 'Infinity'"),
        ("42P01", "'g', array['a', 'nowhere']"),
    ] {
        s.error(
            sqlstate,
            &format!("select pgtrickle.create_watermark_group({arguments})"),
        );
    }
    s.error("42704", "select pgtrickle.drop_watermark_group('g')");
    let role = db.role("stranger");
    let mut x = db.connect_as(&role);
    x.error(
        "42501",
        "select pgtrickle.create_watermark_group('g', array['public.a', 'public.b'])",
    );
    x.error("42501", "select pgtrickle.drop_watermark_group('pair')");
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    v.assert_fresh(&mut s);
}

#[test]
fn watermark_group_of_one_table_named_twice_is_refused() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    s.error(
        "22023",
        "select pgtrickle.create_watermark_group('g', array['a', 'public.a'])",
    );
    s.exec("select pgtrickle.drop_watermark_group('pair')");
    v.assert_fresh(&mut s);
}

#[test]
fn tables_that_are_complete_for_ever_are_aligned() {
    let db = database();
    let mut s = db.connect();
    let v = aligned(&mut s, "1d");
    s.exec("select pgtrickle.advance_watermark('a', 'infinity')");
    assert_eq!(held(&mut s), ["v"]);
    s.exec("select pgtrickle.advance_watermark('b', 'infinity')");
    assert!(held(&mut s).is_empty());
    assert_eq!(
        s.lines("select group_name, aligned from pgtrickle.watermark_status()"),
        ["pair|t"]
    );
    v.assert_fresh(&mut s);
}
