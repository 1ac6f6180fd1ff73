//! Rules broken on purpose. Each situation passes with the rule in force and must be caught without it: else the tests
//! that look like it prove nothing.

use pgt_tests::{Database, Session, StreamTable, database};
use std::time::{Duration, Instant};

/// What went wrong, if anything did.
type Outcome = Result<(), String>;

fn break_rule(s: &mut Session, rule: &str) {
    s.exec(&format!("set pg_trickle.test_break = '{rule}'"));
}

/// The harness compares after every refresh by itself here, so that it is the comparison that is put to the test.
fn quiet(db: &Database<'_>) -> Session {
    let mut s = db.connect();
    s.exec("set pg_trickle.verify_refresh = off");
    s
}

fn equal(v: &StreamTable, s: &mut Session) -> Outcome {
    let difference = v.difference(s);
    if difference.is_empty() {
        Ok(())
    } else {
        Err(difference.join("; "))
    }
}

fn refresh(v: &StreamTable, s: &mut Session) -> Outcome {
    s.try_exec(&format!(
        "select pgtrickle.refresh_stream_table('{}')",
        v.name()
    ))
    .map_err(|e| e.to_string())
}

/// A writes, B writes and commits, refresh, A commits, refresh.
fn early_writer(db: &Database<'_>, rule: &str) -> Outcome {
    let (mut a, mut s) = (db.connect(), quiet(db));
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    break_rule(&mut s, rule);
    a.exec("begin; insert into s values (1)");
    s.exec("insert into s values (2)");
    refresh(&v, &mut s)?;
    equal(&v, &mut s)?;
    a.exec("commit");
    refresh(&v, &mut s)?;
    equal(&v, &mut s)
}

/// Transfers between accounts in a loop, each with an entry in a journal: the sum may not move at any refresh, and in the
/// end every entry has been counted once.
fn transfers(db: &Database<'_>, rule: &str, time: Duration) -> Outcome {
    let mut s = quiet(db);
    s.exec("create table acc (id int primary key, balance bigint); create table journal (id bigserial primary key, amount int)");
    s.exec("insert into acc select i, 1000 from generate_series(1, 200) i");
    let total = s.stream_table("total", "select sum(balance) as t from acc");
    let joined = s.stream_table(
        "joined",
        "select sum(a.balance - b.balance) as t from acc a join acc b on a.id = b.id",
    );
    let counted = s.stream_table(
        "counted",
        "select count(*) as c, sum(amount) as t from journal",
    );
    break_rule(&mut s, rule);
    let transfer = |n: i32| {
        format!(
            "do $$ declare a int; b int; begin loop
                a := {n} * 100 + 1 + (random() * 99)::int; b := {n} * 100 + 1 + (random() * 99)::int;
                update acc set balance = balance - 1 where id = a;
                update acc set balance = balance + 1 where id = b;
                insert into journal(amount) values (1); perform pg_sleep(0.001);
                commit; end loop; end $$"
        )
    };
    let writers: Vec<_> = (0..2).map(|n| db.connect().spawn(&transfer(n))).collect();
    let started = Instant::now();
    let mut outcome = Ok(());
    while outcome.is_ok() && started.elapsed() < time {
        outcome = refresh(&counted, &mut s);
        for (v, sum) in [(&total, "200000"), (&joined, "0")] {
            if let Err(e) = refresh(v, &mut s) {
                outcome = Err(e);
            } else {
                let now = s.value(&format!("select t from {}", v.name()));
                if now != sum {
                    outcome = Err(format!("{} is {now} instead of {sum}", v.name()));
                }
            }
        }
    }
    for writer in writers {
        writer.cancel();
        let _ = writer.finish();
    }
    outcome?;
    for v in [&total, &joined, &counted] {
        refresh(v, &mut s)?;
        equal(v, &mut s)?;
    }
    Ok(())
}

#[test]
fn late_commit_is_not_lost() {
    assert_eq!(early_writer(&database(), ""), Ok(()));
}

#[test]
fn late_commit_is_lost_when_the_frontier_is_a_position() {
    early_writer(&database(), "frontier_xmax").expect_err("the lost row must be noticed");
}

#[test]
fn transfers_are_whole() {
    assert_eq!(transfers(&database(), "", Duration::from_secs(3)), Ok(()));
}

#[test]
fn transfers_are_torn_without_one_snapshot_per_refresh() {
    let noticed =
        (0..8).any(|_| transfers(&database(), "read_committed", Duration::from_secs(3)).is_err());
    assert!(noticed, "the torn transfer must be noticed");
}

#[test]
fn lost_rows_are_noticed_by_the_products_own_verifier() {
    let db = database();
    let (mut a, mut s) = (db.connect(), quiet(&db));
    s.exec("create table s (k int primary key)");
    let v = s.stream_table("v", "select k from s");
    break_rule(&mut s, "frontier_xmax");
    a.exec("begin; insert into s values (1)");
    s.exec("insert into s values (2)");
    refresh(&v, &mut s).expect("refresh");
    a.exec("commit");
    refresh(&v, &mut s).expect("refresh");
    assert_eq!(
        s.lines("select ok, missing, surplus from pgtrickle.verify_stream_table('v')"),
        ["f|1|0"]
    );
    s.exec("set pg_trickle.verify_refresh = on; insert into s values (3)");
    assert!(
        refresh(&v, &mut s).is_err(),
        "verify_refresh turns a difference into an error"
    );
}
