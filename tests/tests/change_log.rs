//! The change log: what is written to it, how it is rotated, who may hold it back.

use pgt_tests::{Database, Server, Session, StreamTable, database};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Rows that are visible in any segment.
fn logged(s: &mut Session) -> i64 {
    segments(s)
        .iter()
        .map(|t| s.number(&format!("select count(*) from {t}")))
        .sum()
}

fn segments(s: &mut Session) -> Vec<String> {
    s.lines("select oid::regclass from pg_class where relnamespace = 'pgtrickle_changes'::regnamespace and relkind = 'r' order by oid::regclass::text")
}

/// The files of the segments: TRUNCATE gives a new one.
fn files(s: &mut Session) -> Vec<String> {
    s.lines("select oid::regclass || ' ' || relfilenode from pg_class where relnamespace = 'pgtrickle_changes'::regnamespace and relkind = 'r' order by 1")
}

fn rotate(s: &mut Session) {
    s.exec("select pgtrickle.rotate_change_buffer('s', force => true)");
}

/// Changes the source, refreshes and rotates until some segment has been truncated. The steps of a rotation are separate
/// transactions, and old transactions anywhere in the cluster hold it up.
#[track_caller]
fn rotate_until_truncated(s: &mut Session, readers: &[&StreamTable]) {
    let before = files(s);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        rotate(s);
        let now = files(s);
        if before.iter().any(|f| !now.contains(f)) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no segment was truncated: {before:?}"
        );
        s.exec("insert into s select coalesce(max(k), 0) + 1 from s");
        for v in readers {
            v.follows(s);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Who holds the log of `s` back.
fn blocker(s: &mut Session) -> String {
    let sizes = s.lines(
        "select blocked_by from pgtrickle.change_buffer_sizes() where blocked_by is not null",
    );
    let status = s.lines(
        "select blocked_by from pgtrickle.change_buffer_status('s') where blocked_by is not null",
    );
    assert_eq!(sizes.is_empty(), status.is_empty(), "{sizes:?} {status:?}");
    status.join(" ")
}

fn assert_no_rows_were_deleted(db: &Database<'_>) {
    let mut s = db.connect();
    s.exec("select pg_stat_force_next_flush()");
    let sql = "select coalesce(sum(n_tup_del + n_tup_upd), 0) from pg_stat_all_tables where schemaname = 'pgtrickle_changes'";
    assert_eq!(s.value(sql), "0", "the log is never deleted from");
}

#[test]
fn update_that_changes_nothing_logs_nothing() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, t text, j json, unused text); insert into s select i, i, repeat(md5(i::text), 500), '{\"a\":1}', 'u' from generate_series(1, 5) i");
    s.stream_table("v", "select k, n, t, j from s where n > 0");
    let before = logged(&mut s);
    s.exec("update s set n = n; update s set t = t || '', j = '{\"a\":1}'; update s set k = k + 0, n = n * 1");
    assert_eq!(logged(&mut s), before, "identical values");
    s.exec("update s set unused = 'changed' || k; update s set unused = null");
    assert_eq!(logged(&mut s), before, "a column that nobody uses");
    s.exec("update s set n = n + 1 where k = 1");
    assert!(logged(&mut s) > before);
}

#[test]
fn change_of_bytes_is_a_change() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n numeric); insert into s values (1, 1.0)");
    s.stream_table("v", "select k, n from s");
    let before = logged(&mut s);
    s.exec("update s set n = 1.00");
    assert!(logged(&mut s) > before);
}

#[test]
fn aborted_work_leaves_nothing_visible() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let before = logged(&mut s);
    s.exec("begin; insert into s values (1); savepoint a; insert into s values (2); rollback to a; rollback");
    assert_eq!(logged(&mut s), before);
    s.error("23505", "insert into s values (3), (3)");
    assert_eq!(logged(&mut s), before);
    v.assert_fresh(&mut s);
}

#[test]
fn columns_used_only_by_a_later_stream_table() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, a int, b int, c text)");
    let first = s.stream_table("first", "select k, a from s");
    s.exec("insert into s values (1, 1, 1, 'x')");
    let second = s.stream_table(
        "second",
        "select b, count(*) as n, max(c) as c from s group by b",
    );
    s.exec("update s set b = 2, c = 'y'; insert into s values (2, 2, 2, 'z')");
    first.follows(&mut s);
    second.follows(&mut s);
    let third = s.stream_table("third", "select k, c from s");
    s.exec("update s set a = 9, c = 'w' where k = 1; delete from s where k = 2");
    for v in [&first, &second, &third] {
        v.follows(&mut s);
    }
    s.exec("select pgtrickle.drop_stream_table('second'); update s set b = 5, c = 'v'");
    first.refresh(&mut s);
    first.assert_fresh(&mut s);
    third.follows(&mut s);
}

#[test]
fn sources_without_readers_are_not_captured() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key); create table t (k int primary key)");
    s.stream_table("v", "select k from s");
    s.stream_table("w", "select k from s union all select k from t");
    s.exec("select pgtrickle.drop_stream_table('w')");
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgrelid = 't'::regclass"),
        "0"
    );
    s.exec("insert into s values (1); select pgtrickle.drop_stream_table('v')");
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgrelid = 's'::regclass"),
        "0"
    );
    assert!(segments(&mut s).is_empty(), "no segment is left");
}

#[test]
fn rotation_truncates_what_everybody_has_read() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s");
    let w = s.stream_table("w", "select sum(n) as total from s");
    for round in 0..6 {
        s.exec(&format!("insert into s select {round} * 100 + i, i from generate_series(1, 50) i; update s set n = n + 1 where k % 7 = 0"));
        v.follows(&mut s);
        w.follows(&mut s);
        rotate_until_truncated(&mut s, &[&v, &w]);
        s.exec(&format!("delete from s where k = {round} * 100 + 1"));
        v.follows(&mut s);
        w.follows(&mut s);
    }
    assert_no_rows_were_deleted(&db);
}

#[test]
fn changes_on_both_sides_of_a_switch() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s");
    for i in 0..8 {
        s.exec(&format!("insert into s values ({i}, 0)"));
        rotate(&mut s);
        s.exec(&format!("update s set n = n + 1 where k >= {i} - 2"));
    }
    v.follows(&mut s);
    rotate(&mut s);
    s.exec("delete from s where k % 2 = 0");
    rotate(&mut s);
    v.follows(&mut s);
}

#[test]
fn repeatable_read_writer_across_a_rotation() {
    let db = database();
    let (mut a, mut s) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    s.exec("insert into s values (1)");
    v.follows(&mut s);
    a.exec("begin isolation level repeatable read; select count(*) from s");
    for k in 10..16 {
        rotate(&mut s);
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
    }
    a.exec("insert into s values (100)");
    for k in 20..26 {
        rotate(&mut s);
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
    }
    a.exec("insert into s values (101); commit");
    v.follows(&mut s);
    assert_eq!(s.value("select count(*) from v where k in (100, 101)"), "2");
    rotate_until_truncated(&mut s, &[&v]);
    v.assert_fresh(&mut s);
}

#[test]
fn writer_in_flight_during_rotations() {
    let db = database();
    let (mut a, mut s) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    a.exec("begin; insert into s values (1)");
    for k in 10..16 {
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
        rotate(&mut s);
    }
    a.exec("insert into s values (2); commit");
    v.follows(&mut s);
    assert_eq!(s.value("select count(*) from v where k < 10"), "2");
}

#[test]
fn prepared_transaction_across_rotations() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let gid = format!("{}_p", db.name());
    s.exec(&format!(
        "begin; insert into s values (1); prepare transaction '{gid}'"
    ));
    for k in 10..16 {
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
        rotate(&mut s);
    }
    s.exec(&format!("commit prepared '{gid}'"));
    v.follows(&mut s);
    assert_eq!(s.value("select count(*) from v where k = 1"), "1");
}

#[test]
fn lagging_stream_table_blocks_and_is_named() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let slow = s.stream_table("slowpoke", "select count(*) as c from s");
    s.exec("insert into s values (1)");
    v.follows(&mut s);
    let before = files(&mut s);
    for k in 10..14 {
        rotate(&mut s);
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
    }
    assert!(blocker(&mut s).contains("slowpoke"), "{}", blocker(&mut s));
    // What the slow one has not read is still there.
    let kept: Vec<String> = files(&mut s)
        .into_iter()
        .filter(|f| before.contains(f))
        .collect();
    assert!(!kept.is_empty());
    slow.follows(&mut s);
    v.follows(&mut s);
    rotate_until_truncated(&mut s, &[&v, &slow]);
    s.exec("insert into s values (99)");
    slow.follows(&mut s);
    v.follows(&mut s);
}

#[test]
fn paused_stream_table_blocks_and_is_named() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let paused = s.stream_table("sleeper", "select count(*) as c from s");
    s.exec("select pgtrickle.pause_stream_table('sleeper')");
    for k in 10..14 {
        rotate(&mut s);
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
    }
    assert!(blocker(&mut s).contains("sleeper"), "{}", blocker(&mut s));
    s.exec("select pgtrickle.resume_stream_table('sleeper')");
    paused.follows(&mut s);
    rotate_until_truncated(&mut s, &[&v, &paused]);
}

#[test]
fn lock_of_a_dump_makes_rotation_skip() {
    let db = database();
    let (mut dump, mut s) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    s.exec("insert into s values (1)");
    v.follows(&mut s);
    let locks: Vec<String> = segments(&mut s)
        .iter()
        .map(|t| format!("lock table {t} in access share mode"))
        .collect();
    dump.exec(&format!("begin; {}", locks.join("; ")));
    s.exec("set statement_timeout = '20s'; set deadlock_timeout = '60s'");
    for k in 2..8 {
        rotate(&mut s);
        s.exec(&format!("insert into s values ({k})"));
        v.follows(&mut s);
    }
    dump.exec("commit");
    rotate_until_truncated(&mut s, &[&v]);
    s.exec("insert into s values (100)");
    v.follows(&mut s);
}

/// An old snapshot keeps dead rows alive everywhere; the log has none to keep.
#[test]
fn old_snapshot_leaves_no_dead_rows_in_the_log() {
    let db = database();
    let (mut holder, mut s) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (1, 1)");
    holder.exec("create table unrelated (k int)");
    holder.exec("begin isolation level repeatable read; select * from unrelated");
    for round in 0..3 {
        s.exec(&format!("insert into s select {round} * 1000 + i, i from generate_series(2, 200) i; update s set n = n + 1"));
        v.follows(&mut s);
        rotate(&mut s);
    }
    assert_no_rows_were_deleted(&db);
    let dead = "select coalesce(sum(n_dead_tup), 0) from pg_stat_all_tables where schemaname = 'pgtrickle_changes'";
    assert_eq!(s.value(dead), "0");
    holder.exec("commit");
    s.exec("insert into s values (5000, 1)");
    v.follows(&mut s);
    rotate_until_truncated(&mut s, &[&v]);
    s.exec("insert into s values (5001, 1)");
    v.follows(&mut s);
    rotate_until_truncated(&mut s, &[&v]);
    assert_no_rows_were_deleted(&db);
}

#[test]
fn scheduler_rotates_by_itself() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k bigserial primary key, n int)");
    let v = s.stream_table_with(
        "v",
        "select count(*) as c, sum(n) as total from s",
        "schedule => '100ms'",
    );
    let before = files(&mut s);
    let started = std::time::Instant::now();
    let mut truncated = Vec::new();
    while truncated.len() < 2 {
        assert!(
            started.elapsed().as_secs() < 100,
            "segments were truncated {} times: {before:?} {:?}",
            truncated.len(),
            files(&mut s)
        );
        s.exec("insert into s(n) select i from generate_series(1, 500) i");
        for file in files(&mut s) {
            if !before.contains(&file) && !truncated.contains(&file) {
                truncated.push(file);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    assert_no_rows_were_deleted(&db);
}

#[test]
fn sizes_tell_what_is_pending() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    let pending = "select coalesce(sum(pending_rows), 0) from pgtrickle.change_buffer_sizes() where stream_table::text like '%v'";
    assert_eq!(s.value(pending), "0");
    s.exec("insert into s select generate_series(1, 10)");
    assert_eq!(s.value(pending), "10");
    v.follows(&mut s);
    assert_eq!(s.value(pending), "0");
}

#[test]
fn limit_of_changes_per_transaction() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); create table free (k int)");
    let v = s.stream_table("v", "select k, n from s");
    let before = logged(&mut s);
    s.exec("set pg_trickle.max_changes_per_tx = 2");
    s.exec("begin; insert into s values (1, 1), (2, 2)");
    let e = s.error("54000", "insert into s values (3, 3)");
    assert!(e.hint.is_some(), "{e}");
    s.exec("rollback");
    assert_eq!(logged(&mut s), before, "nothing is captured");
    s.error(
        "54000",
        "insert into s select i, i from generate_series(1, 3) i",
    );
    s.exec("insert into free select generate_series(1, 100)");
    s.exec("insert into s values (1, 1), (2, 2)");
    s.exec("insert into s values (3, 3), (4, 4)");
    s.error("54000", "update s set n = n + 1");
    s.error("54000", "delete from s");
    s.exec("set pg_trickle.max_changes_per_tx = -1; update s set n = n + 1");
    v.follows(&mut s);
}

#[test]
fn limit_zero_refuses_every_change() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int, unused int); insert into s values (1, 1, 1)");
    s.stream_table("v", "select k, n from s");
    s.exec("set pg_trickle.max_changes_per_tx = 0");
    s.error("54000", "insert into s values (2, 2, 2)");
    s.error("54000", "delete from s");
    s.exec("update s set n = n");
}

#[test]
fn savepoint_rollback_returns_the_quota() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int)");
    let v = s.stream_table("v", "select k, n from s");
    s.exec("set pg_trickle.max_changes_per_tx = 3");
    s.exec("begin; insert into s values (1, 1); savepoint a; insert into s values (2, 2), (3, 3); rollback to a; insert into s values (4, 4), (5, 5)");
    s.error("54000", "insert into s values (6, 6)");
    s.exec("rollback to a; insert into s values (7, 7); savepoint b; insert into s values (8, 8); release b; commit");
    v.follows(&mut s);
    assert_eq!(s.value("select count(*) from v"), "3");
    // A new transaction starts from nothing.
    s.exec("insert into s values (9, 9), (10, 10), (11, 11)");
    v.follows(&mut s);
}

#[test]
fn limit_holds_for_copy_and_huge_statements() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s select i, i from generate_series(1, 20000) i");
    let v = s.stream_table("v", "select sum(n) as total from s");
    s.exec("set pg_trickle.max_changes_per_tx = 1000");
    s.error("54000", "update s set n = n + 1");
    let mut copy = s.client().copy_in("copy s from stdin").expect("copy");
    for k in 0..2000 {
        if std::io::Write::write_all(&mut copy, format!("{}\t1\n", 100_000 + k).as_bytes()).is_err()
        {
            break;
        }
    }
    let error = copy.finish().expect_err("the limit holds");
    assert_eq!(error.code().map(|c| c.code()), Some("54000"));
    assert_eq!(logged(&mut s), 0);
    s.exec("update s set n = n + 1 where k <= 500");
    v.follows(&mut s);
}

#[test]
fn stages_learn_that_a_layout_of_their_source_is_gone() {
    let server = Server::builder().guc("pg_trickle.enabled", "off").start();
    let db = server.database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, g int, n int, m int);
         insert into s select i, i % 3, i, i from generate_series(1, 9) i",
    );
    let staged = s.stream_table(
        "staged",
        "select total, count(*) as c from (select g, sum(n) as total from s group by g) x group by total",
    );
    s.exec("update s set n = n + 1 where k = 1");
    // Another column is logged from here on.
    s.stream_table("other", "select k, m from s");
    staged.follows(&mut s);
    let layouts = "select count(distinct layout) from pgtrickle.pgt_change_segments where source = 's'::regclass";
    assert_eq!(s.value(layouts), "2");
    rotate(&mut s);
    assert_eq!(s.value(layouts), "1");
    s.exec("update s set n = n + 1 where k = 2");
    staged.follows(&mut s);
}

#[test]
fn a_log_is_read_through_its_index_whatever_its_size_was_when_the_plan_was_made() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (id int primary key, k int, n int);
         insert into t select i, i % 10, i from generate_series(1, 10000) i;",
    );
    let v = s.stream_table("v", "select k, sum(n) as n from t group by k");
    let whole = |s: &mut Session| {
        s.exec("select pg_stat_force_next_flush()");
        s.number(
            "select coalesce(sum(seq_scan), 0)::bigint from pg_stat_all_tables
             where schemaname = 'pgtrickle_changes'",
        )
    };
    let before = whole(&mut s);
    for change in ["where id = 1", "", "where id = 2"] {
        s.exec(&format!("update t set n = n + 1 {change}"));
        v.follows(&mut s);
    }
    assert_eq!(whole(&mut s), before);
    let plan = s.lines("select * from pgtrickle.explain_delta('v')");
    assert!(
        plan.iter().any(|line| line.contains("Index Scan")),
        "{plan:?}"
    );
    assert!(
        !plan.iter().any(|line| line.contains("Seq Scan")),
        "{plan:?}"
    );
}

#[test]
fn a_rotation_that_waited_for_a_new_layout_leaves_it_current() {
    let db = database();
    let (mut s, mut defining) = (db.connect(), db.connect());
    s.exec("create table s (k int primary key, a int, b int); insert into s select i, i, i from generate_series(1, 9) i");
    let v = s.stream_table("v", "select k, a from s");
    s.exec("update s set a = a + 1");
    defining.exec("begin");
    let w = defining.stream_table("w", "select k, b from s");
    let rotating = db
        .connect()
        .spawn("select pgtrickle.rotate_change_buffer('s', force => true)");
    db.wait_blocked(rotating.pid());
    defining.exec("commit");
    rotating.join();
    s.exec("update s set b = b + 1, a = a + 1 where k < 5; delete from s where k = 9");
    for table in [v, w] {
        table.follows(&mut s);
    }
}

/// The planner would expect 200 rows of whatever is netted.
#[test]
fn net_changes_are_expected_to_have_as_many_rows_as_were_logged() {
    let server = Server::builder().start();
    let db = server.database();
    let mut s = db.connect();
    s.exec(
        "create table a (id int primary key, k int);
         create table b (id int primary key, n int);
         insert into a select i, i % 1000 from generate_series(1, 3000) i;
         insert into b select i, i from generate_series(1, 1000) i",
    );
    let v = s.stream_table("v", "select a.id, b.n from a join b on b.id = a.k");
    s.exec("load 'auto_explain'");
    s.exec("set auto_explain.log_nested_statements = on; set auto_explain.log_min_duration = 0");
    s.exec("update a set k = k + 1 where id <= 300; update b set n = n + 1 where id <= 15");
    v.refresh(&mut s);
    s.exec("reset auto_explain.log_min_duration");
    let mut expected: Vec<u32> = server
        .log()
        .lines()
        .filter_map(|line| line.split_once("CTE Scan on d"))
        .filter(|(_, source)| source.starts_with(|c: char| c.is_ascii_digit()))
        .filter_map(|(_, rest)| rest.split_once("rows="))
        .filter_map(|(_, rest)| rest.split_once(' ')?.0.parse().ok())
        .collect();
    expected.sort_unstable();
    expected.dedup();
    // 600 rows of one, 30 of the other.
    let [few, many] = expected[..] else {
        panic!("netted changes are scanned: {expected:?}");
    };
    assert!((10..90).contains(&few), "{few}");
    assert!((300..1000).contains(&many), "{many}");
    v.follows(&mut s);
}
