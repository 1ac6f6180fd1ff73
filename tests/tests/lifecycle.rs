//! Stream tables are created, altered, paused, repaired and dropped, by the product's functions or by plain DDL.

use pgt_tests::{Session, StreamTable, database, quote};

const STATUS: &str =
    "select status from pgtrickle.pgt_stream_tables where pgt_relid = 'v'::regclass";

fn source(s: &mut Session) {
    s.exec("create table s (k int primary key, g int, n int); insert into s select i, i % 3, i from generate_series(1, 9) i");
}

/// Everything that could be left of a stream table over `s`.
#[track_caller]
fn assert_nothing_left(s: &mut Session) {
    let left = s.lines(
        "select 'catalog', count(*) from pgtrickle.pgt_stream_tables having count(*) > 0
         union all select 'dependencies', count(*) from pgtrickle.pgt_dependencies having count(*) > 0
         union all select 'history', count(*) from pgtrickle.pgt_refresh_history having count(*) > 0
         union all select 'sources', count(*) from pgtrickle.pgt_change_sources having count(*) > 0
         union all select 'trigger ' || tgname || ' on ' || tgrelid::regclass, 1 from pg_trigger where not tgisinternal
         union all select 'relation ' || oid::regclass, 1 from pg_class where relnamespace in (select oid from pg_namespace where nspname in ('pgtrickle_defs', 'pgtrickle_changes', 'pgtrickle_stages'))",
    );
    assert!(left.is_empty(), "left behind: {left:?}");
}

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
fn replacement_in_its_three_forms() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let replace = |q: &str, more: &str| {
        format!(
            "select pgtrickle.create_or_replace_stream_table('v', {}, schedule => '1d'{more})",
            quote(q)
        )
    };
    s.exec(&replace("select k, n from s", ""));
    let oid = s.value("select 'v'::regclass::oid");
    let version = s.value("select data_version from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state");
    s.exec(&replace("select k, n from s", ""));
    assert_eq!(s.value("select data_version from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state"), version, "identical: nothing is done");
    s.exec(&replace("select k, n from s", ", refresh_mode => 'FULL'"));
    assert_eq!(
        s.value("select refresh_mode from pgtrickle.pgt_stream_tables"),
        "FULL"
    );
    s.exec(&replace(
        "select k, n + 1 as n from s where g = 1",
        ", refresh_mode => 'DIFFERENTIAL'",
    ));
    assert_eq!(
        s.value("select 'v'::regclass::oid"),
        oid,
        "same columns: the table stays"
    );
    let v = StreamTable::new("v", "select k, n + 1 as n from s where g = 1");
    v.assert_fresh(&mut s);
    s.exec("insert into s values (100, 1, 1)");
    v.follows(&mut s);
    s.exec(&replace(
        "select g, count(*) as c, 'x' as t from s group by g",
        ", refresh_mode => 'DIFFERENTIAL'",
    ));
    let v = StreamTable::new("v", "select g, count(*) as c, 'x' as t from s group by g");
    v.assert_fresh(&mut s);
    s.exec("insert into s values (101, 1, 1)");
    v.follows(&mut s);
}

#[test]
fn alteration_of_the_query_keeps_indexes_grants_and_dependents() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let role = db.role("reader");
    s.stream_table("v", "select k, n from s");
    let top = s.stream_table("top", "select sum(n) as total from v");
    s.exec(&format!("create index by_n on v (n); grant select on v to {role}; create view over as select * from v"));
    s.exec("select pgtrickle.alter_stream_table('v', query => 'select k, n * 2 as n from s where g <> 1')");
    let v = StreamTable::new("v", "select k, n * 2 as n from s where g <> 1");
    v.assert_fresh(&mut s);
    assert_eq!(s.lines(&format!("select to_regclass('by_n') is not null, has_table_privilege('{role}', 'v', 'select'), (select count(*) = (select count(*) from v) from over)")), ["t|t|t"]);
    s.exec("insert into s values (100, 0, 1)");
    top.follows_somehow(&mut s);
    s.exec("insert into s values (101, 0, 1)");
    top.follows(&mut s);
    v.assert_fresh(&mut s);
}

#[test]
fn alteration_of_the_query_to_other_sources() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    s.exec("create table t (k int primary key, n int); insert into t values (1, 100)");
    s.stream_table("v", "select k, n from s");
    s.exec("select pgtrickle.alter_stream_table('v', query => 'select k, n from t')");
    let v = StreamTable::new("v", "select k, n from t");
    v.assert_fresh(&mut s);
    assert_eq!(
        s.value("select count(*) from pg_trigger where tgrelid = 's'::regclass"),
        "0"
    );
    s.exec("insert into t values (2, 2); insert into s values (100, 1, 1)");
    v.follows(&mut s);
    // A failing alteration changes nothing.
    assert!(
        s.try_exec(
            "select pgtrickle.alter_stream_table('v', query => 'select k, 1 / (n - n) as n from t')"
        )
        .is_err()
    );
    assert!(
        s.try_exec("select pgtrickle.alter_stream_table('v', query => 'select nonsense')")
            .is_err()
    );
    s.exec("insert into t values (3, 3)");
    v.follows(&mut s);
}

#[test]
fn alteration_of_schedule_mode_and_status() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, n from s");
    s.exec("select pgtrickle.alter_stream_table('v', schedule => '2h30m', refresh_mode => 'FULL')");
    assert_eq!(
        s.lines("select schedule, refresh_mode, status from pgtrickle.pgt_stream_tables"),
        ["2h30m|FULL|ACTIVE"]
    );
    s.exec("insert into s values (100, 1, 1)");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    s.exec("insert into s values (99, 1, 1)");
    v.refresh(&mut s);
    v.assert_fresh(&mut s);
    v.assert_mode(&mut s, "FULL");
    s.exec("select pgtrickle.alter_stream_table('v', refresh_mode => 'DIFFERENTIAL')");
    s.exec("insert into s values (98, 1, 1)");
    v.follows_somehow(&mut s);
    s.exec("insert into s values (101, 1, 1)");
    v.follows(&mut s);
    s.exec("select pgtrickle.alter_stream_table('v', status => 'SUSPENDED')");
    assert_eq!(s.value(STATUS), "SUSPENDED");
    s.exec("select pgtrickle.alter_stream_table('v', status => 'ACTIVE')");
    assert_eq!(s.value(STATUS), "ACTIVE");
    s.exec("select pgtrickle.alter_stream_table('v')");
    for bad in [
        "schedule => '10'",
        "schedule => 'sometimes'",
        "schedule => '* * *'",
        "schedule => '-5s'",
        "schedule => '1ms'",
        "refresh_mode => 'FAST'",
        "status => 'HAPPY'",
    ] {
        s.error(
            "22023",
            &format!("select pgtrickle.alter_stream_table('v', {bad})"),
        );
    }
    v.assert_fresh(&mut s);
}

#[test]
fn alteration_to_differential_of_what_is_not_incremental() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with(
        "v",
        "select k, random() >= 0 as r from s",
        "schedule => '1d', refresh_mode => 'FULL'",
    );
    s.error(
        "0A000",
        "select pgtrickle.alter_stream_table('v', refresh_mode => 'DIFFERENTIAL')",
    );
    assert_eq!(
        s.value("select refresh_mode from pgtrickle.pgt_stream_tables"),
        "FULL"
    );
    v.refresh(&mut s);
    v.assert_equal(&mut s);
}

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

#[test]
fn pause_and_resume() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table_with("v", "select k, n from s", "schedule => '100ms'");
    s.exec("select pgtrickle.pause_stream_table('v')");
    assert_eq!(s.value(STATUS), "SUSPENDED");
    s.exec("insert into s values (100, 1, 1)");
    let other = s.stream_table_with("w", "select count(*) as c from s", "schedule => '100ms'");
    s.exec("insert into s values (101, 1, 1)");
    db.wait_until("select c = 11 from w");
    assert_eq!(
        s.value("select count(*) from v"),
        "9",
        "a paused one does not move"
    );
    s.exec("select pgtrickle.resume_stream_table('v')");
    assert_eq!(s.value(STATUS), "ACTIVE");
    db.wait_until("select count(*) = 11 from v");
    v.assert_fresh(&mut s);
    other.assert_fresh(&mut s);
    assert_eq!(s.value("select pgtrickle.pause_all()"), "2");
    assert_eq!(s.value("select pgtrickle.resume_all()"), "2");
}

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
fn user_indexes_constraints_and_triggers_on_a_stream_table() {
    let db = database();
    let mut s = db.connect();
    source(&mut s);
    let v = s.stream_table("v", "select k, g, n from s");
    s.exec("create index on v (n); create unique index on v (k, g); create table audit (op text, k int)");
    s.exec("create function note() returns trigger language plpgsql set search_path = public as $$ begin insert into public.audit values (tg_op, coalesce(new.k, old.k)); return null; end $$; create trigger note after insert or update or delete on v for each row execute function note()");
    s.exec("insert into s values (100, 1, 1); update s set n = -1 where k = 1; delete from s where k = 2");
    v.follows(&mut s);
    assert_eq!(
        s.lines("select op, k from audit order by k"),
        ["UPDATE|1", "DELETE|2", "INSERT|100"]
    );
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
fn what_was_compiled_and_rolled_back_is_forgotten() {
    let db = database();
    let mut s = db.connect();
    s.exec(
        "create table s (k int primary key, n int); insert into s values (1, 1), (2, 2), (3, 3)",
    );
    let v = s.stream_table("v", "select k, n from s where n > 1");
    let alter = |condition: &str| {
        format!(
            "select pgtrickle.alter_stream_table('v', query => 'select k, n from s where {condition}')"
        )
    };
    s.exec("begin");
    s.exec(&alter("n > 2"));
    s.exec("rollback");
    s.exec(&alter("n < 3"));
    assert_eq!(s.value("select sum(k) from v"), "3");
    s.exec("begin; savepoint a");
    s.exec(&alter("n = 1"));
    s.exec("rollback to a");
    s.exec(&alter("n = 3"));
    s.exec("commit");
    assert_eq!(s.value("select sum(k) from v"), "3");
    let mut other = db.connect();
    s.exec("begin");
    s.exec(&alter("n = 2"));
    other.exec("insert into s values (4, 3)");
    s.exec("rollback");
    other.exec("select pgtrickle.refresh_stream_table('v')");
    assert_eq!(other.value("select sum(k) from v"), "7");
    v.assert_verified(&mut s);
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
