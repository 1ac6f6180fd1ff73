//! Conditions on the time: rows come and go as time passes, without a change of a source, and only these rows are touched.

use std::thread::sleep;
use std::time::Duration;

use pgt_tests::{Database, Session, database};

/// Rows every tenth of a second, from an hour ago until 20 seconds from now.
fn events(s: &mut Session) {
    s.exec(
        "create table e (id int primary key, g int not null, at timestamptz not null, v int);
         create index on e (at);
         create index on e (g);
         insert into e select i, i % 7, now() + interval '0.1 s' * (i - 36000), i from generate_series(1, 36200) i;
         analyze e",
    );
}

/// Refreshes and verifies again and again while time passes and rows change; nothing may be refreshed fully.
fn follow(db: &Database, s: &mut Session, queries: &[&str]) {
    let tables: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| {
            s.stream_table_with(
                &format!("v{number}"),
                query,
                "refresh_mode => 'DIFFERENTIAL', schedule => '1d'",
            )
        })
        .collect();
    let changes = [
        "select 1",
        "insert into e select 100000 + i, i % 7, now() + interval '0.1 s' * (i - 30), -i from generate_series(1, 60) i",
        "update e set v = v + 1 where at between now() - interval '2 s' and now() + interval '2 s'",
        "update e set at = at + interval '1.5 s' where id % 3 = 0 and at > now() - interval '4 s'",
        "delete from e where id % 5 = 0 and at > now() - interval '4 s'",
        "update e set g = g + 1 where at > now() - interval '3 s' and id % 2 = 0",
        "select 1",
    ];
    let mut writer = db.connect();
    for change in changes {
        writer.exec(change);
        sleep(Duration::from_millis(300));
        for table in &tables {
            table.assert_verified(s);
        }
    }
    for table in &tables {
        let full = format!(
            "select count(*) from pgtrickle.get_refresh_history('{}', 1000) where action <> 'DIFFERENTIAL' and reason <> 'initial'",
            table.name()
        );
        assert_eq!(s.value(&full), "0", "{}", table.name());
        let done = format!(
            "select count(*) > 3 from pgtrickle.get_refresh_history('{}', 1000) where action = 'DIFFERENTIAL'",
            table.name()
        );
        assert_eq!(s.value(&done), "t", "{} moves", table.name());
    }
}

#[test]
fn rows_enter_and_leave_filters() {
    let db = database();
    let mut s = db.connect();
    events(&mut s);
    follow(
        &db,
        &mut s,
        &[
            "select id, v from e where at > now() - interval '3 s'",
            "select id, v from e where at <= now() and at > now() - interval '2 s'",
            "select id from e where at between current_timestamp - interval '2 s' and current_timestamp + interval '1 s'",
            "select id from e where date_trunc('second', at) = date_trunc('second', now())",
            "select id from e where now() - at < interval '2 s' and at - now() < interval '1 s'",
            "select id from e where at > now() - interval '1 s' or id % 10000 = 0 and at < now()",
            "select v % 10 as k from e where localtimestamp < at::timestamp and at < now() + interval '3 s'",
            "select id from e where at > now() - v * interval '0.0001 s'",
        ],
    );
}

#[test]
fn rows_enter_and_leave_groups() {
    let db = database();
    let mut s = db.connect();
    events(&mut s);
    follow(
        &db,
        &mut s,
        &[
            "select g, count(*) as c, sum(v) as s, min(v) as lo, max(v) as hi from e where at > now() - interval '3 s' and at < now() group by g",
            "select count(*) as c, avg(v) as a from e where at between now() - interval '1 s' and now()",
            "select g, string_agg(v::text, ',' order by id) as l from e where at between now() - interval '1 s' and now() group by g",
            "select distinct g from e where at > now() - interval '0.5 s' and at < now()",
            "select g, m from (select g, max(at) as m from e where at < now() group by g) x where m > now() - interval '0.4 s'",
            "select c, count(*) as n from (select g, count(*) as c from e where at between now() - interval '2 s' and now() group by g) x group by c",
        ],
    );
}

#[test]
fn rows_enter_and_leave_joins_and_windows() {
    let db = database();
    let mut s = db.connect();
    events(&mut s);
    s.exec("create table d (g int primary key, name text); insert into d select i, 'n' || i from generate_series(0, 8) i");
    follow(
        &db,
        &mut s,
        &[
            "select e.id, d.name from e join d using (g) where e.at between now() - interval '2 s' and now()",
            "select a.id as a, b.id as b from e a join e b on a.g = b.g and a.id < b.id and b.at between now() - interval '1 s' and now() where a.at > now() - interval '1 s' and a.at < now()",
            "select d.name, e.id from d left join (select * from e where at between now() - interval '0.3 s' and now()) e using (g)",
            "select d.name from d where exists (select from e where e.g = d.g and e.at between now() - interval '0.4 s' and now())",
            "select d.name from d where not exists (select from e where e.g = d.g and e.at between now() - interval '0.4 s' and now())",
            "select id, row_number() over (partition by g order by at, id) as r from e where at between now() - interval '1 s' and now()",
            "select id, v from e where at < now() order by at desc, id limit 5",
            "select id from e where at between now() - interval '1 s' and now() union select g from d",
            "select d.name, (select count(*) from e where e.g = d.g and e.at between now() - interval '1 s' and now()) as c from d",
        ],
    );
}

#[test]
fn schedule_moves_the_window_without_any_change() {
    let db = database();
    let mut s = db.connect();
    events(&mut s);
    let v = s.stream_table_with(
        "v",
        "select id from e where at between now() - interval '1 s' and now()",
        "schedule => '200ms'",
    );
    let first = s.value("select max(id) from v");
    db.wait_until(&format!("select min(id) > {first} from v"));
    assert_eq!(
        s.value("select count(*) from pgtrickle.get_refresh_history('v', 1000) where action <> 'DIFFERENTIAL' and reason <> 'initial'"),
        "0"
    );
    assert_eq!(
        s.value("select bool_and(delta_rows = 0) from pgtrickle.get_refresh_history('v', 1000)"),
        "t",
        "nothing was logged"
    );
    v.assert_verified(&mut s);
}

#[test]
fn window_that_does_not_move_leaves_no_history() {
    let db = database();
    let mut s = db.connect();
    s.exec("create table e (id int, at timestamptz); insert into e values (1, '2020-01-01'), (2, now() + interval '1 day')");
    s.stream_table_with(
        "v",
        "select id from e where at < now()",
        "schedule => '100ms'",
    );
    let before = s.number("select sum(wakeups) from pgtrickle.scheduler_statistics()");
    db.wait_until(&format!(
        "select wakeups > {before} + 10 from pgtrickle.scheduler_statistics()"
    ));
    assert_eq!(
        s.value("select count(*) from pgtrickle.get_refresh_history('v', 1000)"),
        "1"
    );
}

#[test]
fn refresh_in_an_older_transaction_moves_the_window_back_and_forth() {
    let db = database();
    let mut s = db.connect();
    let mut other = db.connect();
    events(&mut s);
    let v = s.stream_table_with(
        "v",
        "select g, count(*) as c, max(v) as m from e where at between now() - interval '1 s' and now() group by g",
        "schedule => '1d'",
    );
    s.exec("begin; select now()");
    sleep(Duration::from_millis(1500));
    other.exec("select pgtrickle.refresh_stream_table('v')");
    v.assert_verified(&mut s);
    s.exec("commit");
    v.assert_verified(&mut other);
    v.assert_verified(&mut s);
}

#[test]
fn rows_between_two_times_are_found_through_the_index() {
    let db = database();
    let mut s = db.connect();
    events(&mut s);
    s.stream_table_with(
        "v",
        "select g, count(*) as c from e where at > now() - interval '10 minutes' group by g",
        "refresh_mode => 'DIFFERENTIAL', schedule => '1d'",
    );
    let plan = s.value("select pgtrickle.explain_stream_table('v', 'plan')");
    assert!(plan.contains("when time has passed"), "{plan}");
    let (_, moving) = plan
        .split_once("when time has passed")
        .expect("a part for the time");
    assert!(
        moving.contains("e_at_idx") && !moving.contains("Seq Scan on e"),
        "{moving}"
    );
}

#[test]
fn clock_elsewhere_is_refused_and_recomputed() {
    let db = database();
    let mut s = db.connect();
    events(&mut s);
    for query in [
        "select id, at < now() as past from e",
        "select id from e where at < now() group by id having max(at) < now()",
        "select e.id from e left join e f on f.id = e.id and f.at < now()",
        "select sum(v) filter (where at < now()) as s from e",
        "select id from e order by at < now() limit 3",
        "with recursive r(id) as (select 1 union select id + 1 from r where id < 5 and now() > '2020-01-01') select id from r",
    ] {
        let e = s.error(
            "0A000",
            &format!(
                "select pgtrickle.create_stream_table('x', $q${query}$q$, refresh_mode => 'DIFFERENTIAL')"
            ),
        );
        assert!(e.hint.is_some(), "{query}: {e}");
        let v = s.stream_table_with("y", query, "schedule => '1d'");
        v.assert_verified(&mut s);
        s.exec("drop table y");
    }
}
