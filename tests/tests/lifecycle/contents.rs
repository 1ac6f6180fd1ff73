//! Contents: verified, protected, rebuilt, and what the history says of them.

use super::*;

#[test]
fn verification_reports_exactly_what_was_corrupted() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.stream_table("v", "select k, g, n from s");
    let top = s.stream_table("top", "select g, sum(n) as total from v group by g");
    top.assert_fresh(&mut s);
    corrupt(
        &mut s,
        "delete from v where k = 1; update v set n = 999 where k = 2; insert into v values (77, 7, 7)",
    );
    assert_eq!(
        s.lines("select ok, missing, surplus from pgtrickle.verify_stream_table('v')"),
        ["f|2|2"]
    );
    let dry = s.rows("select op, row from pgtrickle.repair_stream_table('v', dry_run => true)");
    assert_eq!(
        dry.len(),
        3,
        "one missing, one changed, one surplus: {dry:?}"
    );
    assert_eq!(
        s.value("select ok from pgtrickle.verify_stream_table('v')"),
        "f",
        "a dry run repairs nothing"
    );
    assert_eq!(
        s.rows("select op, row from pgtrickle.repair_stream_table('v')")
            .len(),
        3
    );
    let v = StreamTable::new("v", "select k, g, n from s");
    v.assert_fresh(&mut s);
    assert!(
        s.rows("select * from pgtrickle.repair_stream_table('v')")
            .is_empty()
    );
    // Its reader never saw the damage.
    s.exec("insert into s values (100, 1, 1)");
    top.follows_somehow(&mut s);
    s.exec("insert into s values (101, 1, 1)");
    top.follows(&mut s);
    v.assert_fresh(&mut s);
}

/// Changes that no refresh has seen yet are no damage.
#[test]
fn verification_of_a_stream_table_that_is_behind() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, g, n from s");
    s.exec("insert into s values (100, 1, 1); delete from s where k = 1");
    assert_eq!(
        s.lines("select ok, missing, surplus from pgtrickle.verify_stream_table('v')"),
        ["t|0|0"]
    );
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
}

#[test]
fn verification_of_groups_and_duplicates() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let g = s.stream_table(
        "grouped",
        "select g, count(*) as c, sum(n) as total from s group by g",
    );
    let b = s.stream_table("bag", "select g from s");
    corrupt(
        &mut s,
        "update grouped set total = total + 1 where g = 1; insert into bag values (1), (1); delete from bag where ctid = (select ctid from bag where g = 2 limit 1)",
    );
    assert_eq!(
        s.lines("select ok, missing, surplus from pgtrickle.verify_stream_table('grouped')"),
        ["f|1|1"]
    );
    assert_eq!(
        s.lines("select ok, missing, surplus from pgtrickle.verify_stream_table('bag')"),
        ["f|1|2"]
    );
    for v in [&g, &b] {
        s.exec(&format!(
            "select * from pgtrickle.repair_stream_table('{}')",
            v.name()
        ));
        v.assert_fresh(&mut s);
    }
    s.exec("insert into s values (100, 1, 1); delete from s where k = 2");
    g.follows(&mut s);
    b.follows(&mut s);
}

/// What a refresh after a corruption must not do is to make it invisible to the verifier.
#[test]
fn verification_compares_hidden_state_too() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select g, avg(n) as mean from s group by g");
    let hidden = s.lines("select attname from pg_attribute where attrelid = 'v'::regclass and attnum > 0 and attname like '\\_\\_pgt%'");
    assert!(!hidden.is_empty(), "avg needs state");
    assert_eq!(
        s.value("select count(*) from pgtrickle.list_auxiliary_columns('v')"),
        hidden.len().to_string()
    );
    corrupt(
        &mut s,
        &format!("update v set {} = {} + 1 where g = 1", hidden[0], hidden[0]),
    );
    assert_eq!(
        s.value("select ok from pgtrickle.verify_stream_table('v')"),
        "f"
    );
    s.exec("select * from pgtrickle.repair_stream_table('v')");
    v.assert_fresh(&mut s);
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
}

/// Changes the contents of stream tables behind the product's back.
fn corrupt(s: &mut Session, sql: &str) {
    let tables = s.lines("select pgt_relid from pgtrickle.pgt_stream_tables");
    let guard = |action: &str| {
        tables
            .iter()
            .map(|t| format!("alter table {t} {action} trigger pgt_refuse_write"))
            .collect::<Vec<_>>()
            .join("; ")
    };
    s.exec(&guard("disable"));
    s.exec(sql);
    s.exec(&guard("enable always"));
}

#[test]
fn direct_changes_are_refused() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    for sql in [
        "insert into v values (100, 1)",
        "update v set n = 1",
        "delete from v",
        "truncate v",
        "merge into v using s on v.k = s.k when matched then delete",
        "copy v from program 'true'",
        "with d as (delete from v returning *) select * from d",
        "begin; savepoint a; delete from v; commit",
    ] {
        let e = s.try_exec(sql).expect_err(sql);
        assert!(
            ["42809", "42501", "55000", "0A000"].contains(&e.code.as_str())
                || sql.starts_with("copy"),
            "{sql}: {e}"
        );
        let _ = s.try_exec("rollback");
    }
    assert_eq!(s.value("select count(*) from v"), "9");
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
}

#[test]
fn refresh_if_stale() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (100, 1, 1)");
    assert_eq!(
        s.value("select pgtrickle.refresh_if_stale('v', '1 hour')"),
        "f"
    );
    assert_eq!(s.value("select count(*) from v"), "9");
    assert_eq!(
        s.value("select pgtrickle.refresh_if_stale('v', '0 seconds')"),
        "t"
    );
    v.assert_fresh(&mut s);
}

#[test]
fn frontier_of_another_database_or_time_means_rebuild() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    let spoil = |column: &str, value: &str| {
        format!("update pgtrickle.pgt_refresh_state set {column} = {value}")
    };
    for (column, value) in [
        ("frontier_cluster", "frontier_cluster + 1"),
        ("frontier_db", "1::oid"),
        ("frontier_base", "'9000000000:9000000000:'"),
    ] {
        s.exec(&spoil(column, value));
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
        let (mode, reason) = v.last_refresh(&mut s);
        assert!(
            mode != "DIFFERENTIAL" && reason.is_some(),
            "{column}: {mode} {reason:?}"
        );
        s.exec("insert into s select max(k) + 1, 1, 1 from s");
        v.follows(&mut s);
    }
}

#[test]
fn history_counts_rows() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("insert into s values (100, 1, 1), (101, 1, 1); update s set n = n + 1 where k = 1; delete from s where k in (2, 3, 4)");
    v.follows(&mut s);
    let sql = "select action, status, rows_inserted, rows_updated, rows_deleted, error_message is null as n, end_time >= start_time as e, duration_ms >= 0 as d from pgtrickle.get_refresh_history('v', 1)";
    let line = s.lines(sql).join("");
    assert!(line == "DIFFERENTIAL|COMPLETED|2|1|3|t|t|t", "{line}");
    assert!(s.number("select count(*) from pgtrickle.get_refresh_history('v')") >= 2);
}
