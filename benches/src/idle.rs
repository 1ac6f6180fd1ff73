//! What stream tables cost while nothing changes: CPU of all background processes with 500 of them.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgt_tests::Session;

use crate::options::Options;
use crate::process::cpu_seconds;
use crate::report::{Goal, Section, number};
use crate::server;

const SOURCES: usize = 50;

/// Half of the stream tables have each of these schedules.
const SCHEDULES: [&str; 2] = ["continuous", "1s"];

pub fn run(options: &Options) -> Section {
    let mut section = Section::new("Idle");
    let count = options.amount(500, 50);
    let watched = Duration::from_secs(options.amount(120, 15) as u64);
    let server = server::start_with(&[("autovacuum", "on")]);
    server.connect("postgres").exec("create database idle");
    let mut session = server.connect("idle");
    create(&mut session, count);
    // Everybody has refreshed once and gone to rest.
    sleep(Duration::from_secs(options.amount(30, 5) as u64));
    let used = watch(&mut session, watched);
    let minute = 60.0 / watched.as_secs_f64();
    let total: f64 = used.values().map(|cpu| cpu * minute).sum();
    section.text(format!(
        "{count} stream tables over {SOURCES} tables, half of them scheduled as `{}`, half as `{}`, and nobody writes. CPU time
of every pg_trickle process during {} seconds, in seconds per minute.",
        SCHEDULES[0],
        SCHEDULES[1],
        watched.as_secs()
    ));
    let row = |(kind, cpu): (&String, &f64)| vec![kind.clone(), number(cpu * minute)];
    section.table(
        &["process", "CPU s per minute"],
        &used.iter().map(row).collect::<Vec<_>>(),
    );
    section.goal(Goal::at_most(
        format!("{count} clean stream tables: all processes"),
        0.1,
        total,
        "s per minute",
    ));
    section
}

fn create(session: &mut Session, count: usize) {
    session.exec("create extension pg_trickle");
    for source in 0..SOURCES {
        session.exec(&format!(
            "create table t_{source} (id bigint primary key, k int not null, n int not null);
             insert into t_{source} select i, i % 10, i from generate_series(1, 1000) i"
        ));
    }
    for number in 0..count {
        let query = format!(
            "select k, count(*) as c, sum(n) as s from t_{} group by k",
            number % SOURCES
        );
        let schedule = SCHEDULES[number % SCHEDULES.len()];
        session.stream_table_with(
            &format!("s_{number}"),
            &query,
            &format!("schedule => '{schedule}'"),
        );
    }
}

/// CPU seconds used while watching, by kind of process; processes that come and go are looked at every second.
pub(crate) fn watch(session: &mut Session, duration: Duration) -> BTreeMap<String, f64> {
    let mut known: BTreeMap<i32, (String, f64, f64)> = BTreeMap::new();
    let started = Instant::now();
    let mut first = true;
    loop {
        for (pid, kind) in workers(session) {
            let Some(now) = cpu_seconds(pid) else {
                continue;
            };
            // What a process that came later has used, it has used while watched.
            let before = if first { now } else { 0.0 };
            known.entry(pid).or_insert((kind, before, now)).2 = now;
        }
        first = false;
        if started.elapsed() >= duration {
            break;
        }
        sleep(Duration::from_secs(1));
    }
    let mut used = BTreeMap::new();
    for (kind, before, after) in known.into_values() {
        *used.entry(kind).or_default() += after - before;
    }
    used
}

/// Process id and kind of pg_trickle's processes.
fn workers(session: &mut Session) -> Vec<(i32, String)> {
    session
        .rows("select pid, backend_type from pg_stat_activity where starts_with(backend_type, 'pg_trickle')")
        .into_iter()
        .filter_map(|row| {
            let [pid, kind] = <[_; 2]>::try_from(row).ok()?;
            Some((pid?.parse().ok()?, kind?))
        })
        .collect()
}
