//! Creating stream tables, and what a definition says of itself.

use super::*;

#[test]
fn creation_fills_and_describes() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec(
        "select pgtrickle.create_stream_table('v', 'select g, count(*) as c from s group by g')",
    );
    let v = StreamTable::new("v", "select g, count(*) as c from s group by g");
    v.assert_fresh(&mut s);
    assert_eq!(
        s.lines("select schedule, refresh_mode, effective_refresh_mode, status, is_populated from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"),
        ["calculated|AUTO|DIFFERENTIAL|ACTIVE|t"]
    );
    assert_eq!(
        s.lines("select relkind, relpersistence from pg_class where oid = 'v'::regclass"),
        ["r|p"]
    );
    let (name, status) = (
        "select name from pgtrickle.pgt_status()",
        "select status from pgtrickle.pgt_status()",
    );
    assert!(s.value(name).ends_with('v'));
    assert_eq!(s.value(status), "ACTIVE");
}

#[test]
fn creation_without_initialization() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select k, n from s",
        "schedule => '1d', initialize => false",
    );
    assert_eq!(s.lines("select status, coalesce(is_populated, false), (select count(*) from v) from pgtrickle.pgt_stream_tables natural left join pgtrickle.pgt_refresh_state"), ["INITIALIZING|f|0"]);
    s.exec("insert into s values (100, 1, 1)");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    assert_eq!(s.lines("select status, is_populated from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), ["ACTIVE|t"]);
    s.exec("insert into s values (101, 1, 1)");
    v.follows(&mut s);
}

#[test]
fn creation_in_a_schema_and_with_a_qualified_name() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create schema app; set search_path = app, public");
    let bare = s.stream_table("v", "select k, n from s");
    assert_eq!(
        s.lines("select to_regclass('app.v') is not null, to_regclass('public.v') is null"),
        ["t|t"]
    );
    let full = s.stream_table("public.w", "select k, n from s");
    s.exec("insert into s values (100, 1, 1)");
    bare.follows(&mut s);
    full.follows(&mut s);
}

#[test]
fn creation_twice() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.error(
        "42P07",
        "select pgtrickle.create_stream_table('v', 'select k, n from s')",
    );
    s.error(
        "42P07",
        "select pgtrickle.create_stream_table('s', 'select 1 as one')",
    );
    s.exec("select pgtrickle.create_stream_table_if_not_exists('v', 'select 1 as one')");
    s.exec("select pgtrickle.create_stream_table_if_not_exists('w', 'select k from s', schedule => '1d')");
    assert_eq!(s.value("select count(*) from w"), "9");
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
}

#[test]
fn creation_rolled_back() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("begin; select pgtrickle.create_stream_table('v', 'select k, n from s'); rollback");
    assert_nothing_left(&mut s);
    s.exec("insert into s values (100, 1, 1)");
    s.exec("begin; savepoint a; select pgtrickle.create_stream_table('v', 'select k, n from s'); rollback to a; commit");
    assert_nothing_left(&mut s);
    s.stream_table("v", "select k, n from s")
        .assert_fresh(&mut s);
}

#[test]
fn creation_inside_a_transaction_that_made_the_source() {
    let db = database();
    let mut s = db.connect();
    // Refusing it is fine, a wrong stream table is not.
    let made = s.try_exec("begin; create table s (k int primary key, n int); insert into s values (1, 1); select pgtrickle.create_stream_table('v', 'select k, n from s', schedule => '1d'); insert into s values (2, 2); commit");
    let _ = s.try_exec("rollback");
    if made.is_ok() {
        let v = StreamTable::new("v", "select k, n from s");
        v.refresh(&mut s);
        v.assert_fresh(&mut s);
        s.exec("insert into s values (3, 3)");
        v.follows(&mut s);
    } else {
        assert_eq!(
            s.value("select count(*) from pgtrickle.pgt_stream_tables"),
            "0"
        );
    }
}

#[test]
fn creation_that_fails_while_filling() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("update s set n = 0 where k = 5");
    s.error(
        "22012",
        "select pgtrickle.create_stream_table('v', 'select k, 10 / n as q from s')",
    );
    assert_nothing_left(&mut s);
    s.exec("insert into s values (100, 0, 0)");
}

#[test]
fn part_that_fails_on_rows_the_query_leaves_out() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("update s set n = 0 where k = 5");
    let query = "select k, case when n <> 0 then (select max(10 / t.n) from s t where t.k = s.k) end as q from s";
    s.error(
        "0A000",
        &format!(
            "select pgtrickle.create_stream_table('v', '{query}', refresh_mode => 'DIFFERENTIAL')"
        ),
    );
    assert_nothing_left(&mut s);
    let v = s.auto_stream_table("v", query);
    let reason = s.value("select downgrade_reason from pgtrickle.explain_refresh_mode('v')");
    assert!(reason.contains("fails with 22012"), "{reason}");
    s.exec("update s set n = n + 1 where k <> 5; delete from s where k = 2");
    v.follows_somehow(&mut s);
    v.assert_mode(&mut s, "FULL");
}

#[test]
fn definition_round_trip() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let query = "select g, count(*) as c, 'it''s \\ $1 ;' as \"odd \"\"name\" from s where n > 0 group by g";
    let arguments = "schedule => '90m', refresh_mode => 'DIFFERENTIAL'";
    let v = s.stream_table_with("v", query, arguments);
    let wanted = "select schedule, refresh_mode, status from pgtrickle.pgt_stream_tables";
    let before = s.lines(wanted);
    let script = s.value("select pgtrickle.export_definition('v')");
    s.exec("select pgtrickle.drop_stream_table('v')");
    s.exec("create schema elsewhere; set search_path = elsewhere");
    s.exec(&script);
    s.exec("reset search_path");
    assert_eq!(s.lines(wanted), before);
    v.assert_fresh(&mut s);
    assert_eq!(s.value("select pgtrickle.export_definition('v')"), script);
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
}

#[test]
fn without_preloading_the_extension_says_so() {
    let server = pgt_tests::Server::builder().without_preload().start();
    let db = server.empty_database();
    let mut s = db.connect();
    let e = match s.try_exec("create extension pg_trickle") {
        Err(e) => e,
        Ok(()) => {
            source(&mut s);
            s.try_exec("select pgtrickle.create_stream_table('v', 'select k from s')")
                .expect_err("refused without preloading")
        }
    };
    assert_eq!(e.code, "55000", "{e}");
    assert!(format!("{e}").contains("shared_preload_libraries"), "{e}");
    assert!(e.hint.is_some());
}

#[test]
fn large_results_and_stages_have_statistics_from_the_start() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table t (k int primary key, g int, n int);
         insert into t select i, i % 2000, i from generate_series(1, 4000) i",
    );
    let v = s.stream_table(
        "v",
        "select total, count(*) as c from (select g, sum(n) as total from t group by g) x group by total",
    );
    s.stream_table("few", "select k, n from t where k < 10");
    assert_eq!(
        s.lines(
            "select schemaname from pg_stats where (schemaname = 'pgtrickle_stages' and attname = 'c0')
             or (tablename in ('v', 'few') and attname in ('total', 'n')) order by 1"
        ),
        ["pgtrickle_stages", "public"]
    );
    v.assert_fresh(&mut s);
}
