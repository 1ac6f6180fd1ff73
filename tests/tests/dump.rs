//! pg_dump and pg_restore into another cluster, and databases copied or dropped while the product runs.

use pgt_tests::{Server, Session, StreamTable, database};

struct Case {
    tables: Vec<StreamTable>,
}

/// One stream table of each kind that has something special to be dumped.
fn populate(s: &mut Session) -> Case {
    s.exec(
        "create schema app; create type app.mood as enum ('sad', 'happy');
         create table app.s (k int primary key, g int, n numeric, m app.mood); create table app.bag (t text);
         create table app.part (k int, r int) partition by range (r); create table app.part1 partition of app.part for values from (0) to (10);
         create table app.other (k int) partition by list (k); create table app.other1 partition of app.other for values in (1);
         create table app.parent (k int, r int); create table app.child (r2 int) inherits (app.parent); insert into app.child values (1, 1, 1);
         insert into app.s select i, i % 4, i / 3.0, 'happy' from generate_series(1, 40) i; insert into app.bag values ('a'), ('a'), (null); insert into app.part values (1, 1)",
    );
    let tables = vec![
        s.stream_table(
            "app.grouped",
            "select g, count(*) as c, avg(n) as mean from app.s group by g",
        ),
        s.stream_table("app.bagged", "select t from app.bag"),
        s.stream_table(
            "app.joined",
            "select s.k, b.t, s.m from app.s join app.bag b on length(b.t) = s.k",
        ),
        s.stream_table("app.parted", "select k, r from app.part"),
        s.stream_table("app.single", "select k, r from app.part1"),
        s.stream_table("app.alone", "select k from app.other1"),
        s.stream_table(
            "app.family",
            "select r, count(*) as c from app.parent group by r",
        ),
        s.stream_table(
            "app.stacked",
            "select c, count(*) as groups from app.grouped group by c",
        ),
        s.stream_table_with(
            "app.ranked",
            "select k, rank() over (order by n) as r from app.s",
            "schedule => '1d', refresh_mode => 'FULL'",
        ),
        s.stream_table_with(
            "app.often",
            "select sum(n) as total from app.s",
            "schedule => '100ms'",
        ),
    ];
    s.exec(
        "create index by_mean on app.grouped (mean); insert into app.s values (100, 1, 1, 'sad')",
    );
    Case { tables }
}

fn restored_is_complete(s: &mut Session, case: &Case) {
    assert_eq!(
        s.number("select count(*) from pgtrickle.pgt_stream_tables"),
        case.tables.len() as i64
    );
    assert_eq!(
        s.value("select to_regclass('app.by_mean') is not null"),
        "t"
    );
    for v in &case.tables {
        let schedule = s.value(&format!(
            "select schedule from pgtrickle.pgt_stream_tables where pgt_relid = '{}'::regclass",
            v.name()
        ));
        assert_eq!(
            schedule,
            if v.name() == "app.often" {
                "100ms"
            } else {
                "1d"
            }
        );
        if v.name() == "app.often" {
            continue;
        }
        s.exec("insert into app.s select max(k) + 1, 2, 2, 'sad' from app.s; insert into app.bag values ('zz'); insert into app.part1 values (5, 5); insert into app.child values (5, 5, 5); insert into app.other values (1)");
        v.refresh(s);
        v.assert_fresh(s);
    }
    // The very first refresh was a rebuild: whatever the frontier of the other cluster said is void.
    let first = s.lines("select distinct action from pgtrickle.get_refresh_history('app.bagged')");
    assert!(
        first.iter().any(|a| a == "FULL" || a == "REINITIALIZE"),
        "{first:?}"
    );
    s.exec("insert into app.s values (1000, 1, 5, null); insert into app.bag values ('zz'), (null); update app.part set r = r + 1; update app.parent set r = r + 1; insert into app.other1 values (1); delete from app.s where k < 5");
    for v in &case.tables {
        v.refresh(s);
        v.assert_fresh(s);
    }
    for name in [
        "app.grouped",
        "app.bagged",
        "app.joined",
        "app.parted",
        "app.single",
        "app.alone",
        "app.family",
        "app.stacked",
    ] {
        StreamTable::new(name, "").assert_mode(s, "DIFFERENTIAL");
    }
}

#[test]
fn custom_format_into_another_cluster() {
    let db = database();
    let case = populate(&mut db.connect());
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("dump");
    let file = file.to_string_lossy();
    db.server()
        .client_program("pg_dump", &["-Fc", "-f", &file, db.name()]);
    let other = Server::start();
    other.connect("postgres").exec("create database restored");
    other.client_program("pg_restore", &["--exit-on-error", "-d", "restored", &file]);
    let mut s = other.connect("restored");
    assert_eq!(
        s.value("select count(*) from app.bagged"),
        "3",
        "contents are there before any refresh"
    );
    restored_is_complete(&mut s, &case);
}

#[test]
fn plain_format_into_another_database_of_the_cluster() {
    let db = database();
    let case = populate(&mut db.connect());
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("dump.sql");
    let file = file.to_string_lossy();
    db.server()
        .client_program("pg_dump", &["-f", &file, db.name()]);
    let other = db.server().empty_database();
    db.server().client_program(
        "psql",
        &[
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            other.name(),
            "-f",
            &file,
        ],
    );
    restored_is_complete(&mut other.connect(), &case);
}

#[test]
fn dump_of_one_schema_and_of_data_only_do_not_fail() {
    let db = database();
    populate(&mut db.connect());
    for args in [
        &["-n", "app"][..],
        &["--data-only"],
        &["--schema-only"],
        &["--exclude-extension=pg_trickle"],
    ] {
        let out = db
            .server()
            .client_program("pg_dump", &[args, &[db.name()]].concat());
        assert!(
            !String::from_utf8_lossy(&out.stdout).contains("pgtrickle_changes."),
            "log segments are not dumped"
        );
    }
}

#[test]
fn database_copied_by_template() {
    let db = database();
    let mut s = db.connect();
    let case = populate(&mut s);
    s.exec("insert into app.bag values ('pending')");
    drop(s);
    let copy = format!("{}_copy", db.name());
    let mut root = db.server().connect("postgres");
    root.exec(&format!(
        "alter database {} allow_connections false",
        db.name()
    ));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        root.exec(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'",
            db.name()
        ));
        if root
            .try_exec(&format!("create database {copy} template {}", db.name()))
            .is_ok()
        {
            break;
        }
        assert!(
            std::time::Instant::now() < end,
            "the database is never free to be copied"
        );
    }
    root.exec(&format!(
        "alter database {} allow_connections true",
        db.name()
    ));
    let mut s = db.server().connect(&copy);
    restored_is_complete(&mut s, &case);
    drop(s);
    root.exec(&format!("drop database {copy} with (force)"));
}

#[test]
fn database_is_dropped_while_its_stream_tables_run() {
    let server = Server::shared();
    for round in 0..2 {
        let db = server.database();
        let mut s = db.connect();
        s.exec("create table s (k bigserial primary key, n int)");
        s.stream_table_with(
            "v",
            "select n, count(*) as c from s group by n",
            "schedule => 'continuous'",
        );
        let load = db
            .connect()
            .spawn("do $$ begin loop insert into s(n) values (1); commit; end loop; end $$");
        db.wait_until("select sum(c) > 5 from v");
        drop(s);
        let mut root = server.connect("postgres");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while let Err(e) = root.try_exec(&format!("drop database {} with (force)", db.name())) {
            assert!(std::time::Instant::now() < end, "round {round}: {e}");
        }
        let _ = load.finish();
        // Nobody works for it any more.
        let gone = format!(
            "select count(*) = 0 from pg_stat_activity where datname = '{}'",
            db.name()
        );
        assert_eq!(root.value(&gone), "t");
    }
}

#[test]
fn workers_leave_an_ordinary_drop_database_alone() {
    let server = Server::shared();
    let db = server.database();
    let mut s = db.connect();
    s.exec("create table s (k int)");
    s.stream_table_with("v", "select k from s", "schedule => '100ms'");
    s.exec("insert into s values (1)");
    db.wait_until("select count(*) = 1 from v");
    drop(s);
    // Without FORCE: PostgreSQL waits five seconds for others to leave, and the product's workers do leave.
    let mut root = server.connect("postgres");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(e) = root.try_exec(&format!("drop database {}", db.name())) {
        assert!(std::time::Instant::now() < end, "{e}");
    }
}
