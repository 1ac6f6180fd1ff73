//! From insert to visible: how long a row of a source takes to show in a `continuous` stream table.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use pgt_tests::{Server, Session};
use postgres::Statement;

use crate::options::Options;
use crate::report::{Goal, Section, number};
use crate::sample::Sample;
use crate::server::{self, without_waiting_for_disk};

/// Transactions per second in the background.
const LOAD: u32 = 200;

/// Nothing takes this long unless nobody refreshes at all.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Time between two looks, and so the resolution.
const LOOK: Duration = Duration::from_micros(100);

/// A stream table over `events`, and how to see that the event with id `$1` and group `$2` has arrived.
struct Shape {
    title: &'static str,
    name: &'static str,
    query: &'static str,
    arrived: &'static str,
}

const SHAPES: [Shape; 2] = [
    Shape {
        title: "filter",
        name: "s_filter",
        query: "select id, k, amount from events where amount >= 0",
        arrived: "select 1 from s_filter where id = $1 and k = $2",
    },
    Shape {
        title: "GROUP BY",
        name: "s_group",
        query: "select k, count(*) as c, sum(amount) as s, max(id) as last from events group by k",
        arrived: "select 1 from s_group where last >= $1 and k = $2",
    },
];

pub fn run(options: &Options) -> Section {
    let mut section = Section::new("Latency");
    let samples = options.amount(500, 50);
    let server = server::start_with(&[("autovacuum", "on")]);
    let mut results = Vec::new();
    for shape in &SHAPES {
        for load in [0, LOAD] {
            eprintln!("latency: {}, {load} transactions/s ..", shape.title);
            let (latency, achieved) = measure(&server, shape, load, samples);
            results.push((shape, load, latency, achieved));
        }
    }
    section.text(format!(
        "One row is inserted into a table of 100,000 rows; another session asks every {} us whether the row has arrived in the
stream table, which is scheduled as `continuous`. The time begins before the INSERT is sent, so it includes the INSERT
and its commit. {samples} rows one after the other with random pauses, without other work and while {LOAD} transactions
per second insert or update a row of the same table. Times in milliseconds.",
        LOOK.as_micros()
    ));
    let row = |(shape, load, latency, achieved): &(&Shape, u32, Sample, f64)| {
        vec![
            format!("{}, {}", shape.title, describe(*load)),
            number(latency.percentile(50.0)),
            number(latency.percentile(90.0)),
            number(latency.percentile(99.0)),
            number(latency.largest()),
            number(*achieved),
        ]
    };
    let rows: Vec<_> = results.iter().map(row).collect();
    section.table(
        &[
            "stream table, load",
            "p50",
            "p90",
            "p99",
            "max",
            "transactions/s achieved",
        ],
        &rows,
    );
    for (shape, load, latency, _) in &results {
        let what = format!("{}, {}", shape.title, describe(*load));
        let (p50, p99) = (latency.percentile(50.0), latency.percentile(99.0));
        section.goal(Goal::at_most(format!("{what}: p50"), 5.0, p50, "ms"));
        section.goal(Goal::at_most(format!("{what}: p99"), 25.0, p99, "ms"));
    }
    section
}

fn describe(load: u32) -> String {
    if load == 0 {
        "idle".into()
    } else {
        format!("{load} transactions/s")
    }
}

/// Latencies with `load` transactions per second beside, and how many of those there really were per second.
fn measure(server: &Server, shape: &Shape, load: u32, samples: usize) -> (Sample, f64) {
    let name = format!("latency_{}_{load}", shape.name);
    server
        .connect("postgres")
        .exec(&format!("create database {name}"));
    let mut writer = server.connect(&name);
    writer.exec(
        "create extension pg_trickle;
         create table events (id bigint primary key, k int not null, amount numeric(15,2) not null);
         insert into events select i, i % 1000, i from generate_series(1, 100000) i",
    );
    writer.exec("vacuum analyze");
    writer.stream_table_with(
        shape.name,
        shape.query,
        "schedule => 'continuous', refresh_mode => 'DIFFERENTIAL'",
    );
    without_waiting_for_disk(&mut writer);
    let mut reader = server.connect(&name);
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let result = thread::scope(|scope| {
        if load > 0 {
            let mut session = server.connect(&name);
            let (stop, done) = (&stop, &done);
            scope.spawn(move || write(&mut session, load, stop, done));
        }
        // The first refreshes make plans.
        one_after_the_other(&mut writer, &mut reader, shape, 20, 1_000_000);
        let (started, before) = (Instant::now(), done.load(Ordering::Relaxed));
        let latency = one_after_the_other(&mut writer, &mut reader, shape, samples, 2_000_000);
        let others = done.load(Ordering::Relaxed) - before;
        let achieved = others as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        (latency, achieved)
    });
    until_equal(&mut reader, shape);
    drop((writer, reader));
    server
        .connect("postgres")
        .exec(&format!("drop database {name} with (force)"));
    result
}

fn one_after_the_other(
    writer: &mut Session,
    reader: &mut Session,
    shape: &Shape,
    samples: usize,
    first: i64,
) -> Sample {
    let mut insert = |text: &str| writer.client().prepare(text).expect("insert");
    let insert = insert("insert into events values ($1, $2, 1)");
    let arrived = reader.client().prepare(shape.arrived).expect("look");
    let mut latency = Sample::default();
    for number in 0..samples {
        let (id, k) = (first + number as i64, (number % 1000) as i32);
        // From before the INSERT is sent: when exactly its commit took effect, a client on a busy machine cannot tell.
        let sent = Instant::now();
        writer
            .client()
            .execute(&insert, &[&id, &k])
            .expect("insert");
        wait_arrived(reader, &arrived, id, k);
        latency.push_ms(sent.elapsed());
        // Between 10 and 40 ms, spread so that no beat with anything else arises.
        sleep(Duration::from_micros(
            10_000 + (number as u64 * 7_919) % 30_000,
        ));
    }
    latency
}

fn wait_arrived(reader: &mut Session, arrived: &Statement, id: i64, k: i32) {
    let started = Instant::now();
    while reader
        .client()
        .query(arrived, &[&id, &k])
        .expect("look")
        .is_empty()
    {
        assert!(
            started.elapsed() < GIVE_UP,
            "row {id} has not arrived after {GIVE_UP:?}"
        );
        sleep(LOOK);
    }
}

/// Nobody writes any more: soon the stream table equals its query.
fn until_equal(reader: &mut Session, shape: &Shape) {
    let verify = format!(
        "select ok from pgtrickle.verify_stream_table('{}')",
        shape.name
    );
    let started = Instant::now();
    while reader.value(&verify) != "t" {
        assert!(
            started.elapsed() < GIVE_UP,
            "{} differs from its query",
            shape.name
        );
        sleep(Duration::from_millis(100));
    }
}

/// Inserts and updates one row per transaction at a steady rate until told to stop.
fn write(session: &mut Session, per_second: u32, stop: &AtomicBool, done: &AtomicU64) {
    without_waiting_for_disk(session);
    let mut prepare = |text: &str| session.client().prepare(text).expect("load");
    let insert = prepare("insert into events values ($1::bigint, ($1::bigint % 1000)::int, 1)");
    let update = prepare("update events set amount = amount + 1 where id = $1");
    let started = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let due = started + Duration::from_secs(1) * number / per_second;
        sleep(due.saturating_duration_since(Instant::now()));
        let (statement, id) = match number % 2 {
            0 => (&insert, 200_000 + i64::from(number)),
            _ => (&update, 1 + i64::from(number) * 7_919 % 100_000),
        };
        session.client().execute(statement, &[&id]).expect("load");
        done.fetch_add(1, Ordering::Relaxed);
    }
}
