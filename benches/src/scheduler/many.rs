//! Many stream tables in one database: what they cost the scheduler and its workers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use pgt_tests::{Server, Session};

use super::database::{self, creation};
use super::one_more::{OneMore, one_more};
use super::statistics::Statistics;
use super::wake::{self, Wake, touch, wake_ups};
use crate::idle;
use crate::options::Options;
use crate::report::{Goal, Section, number};

/// Stream tables over each table.
const READERS: usize = 10;

/// Stream tables created in one transaction.
const BATCH: usize = 100;

/// Sessions that create them.
const CREATORS: usize = 2;

/// The wake-up that is hoped for with that many clean stream tables, in milliseconds.
const WAKE_UPS: [(usize, f64); 2] = [(1_000, 1.0), (10_000, 20.0)];

/// Everything measured with one number of stream tables.
struct Measured {
    count: usize,
    created: Duration,
    settled: Duration,
    one_more: OneMore,
    reading_ms: f64,
    idle_wake_ms: f64,
    /// The longest wake-up from beginning to end, definitions read in it.
    longest_ms: f64,
    /// The same after [`one_more`], whose locks a wake-up may have had to wait for.
    longest_with_ddl_ms: f64,
    dirty: Vec<Wake>,
    /// CPU of all processes, percent of one core.
    idle: Vec<(String, f64)>,
    /// Bytes per stream table.
    scheduler: f64,
    worker: f64,
}

pub fn run(options: &Options, section: &mut Section) {
    let measured: Vec<Measured> = options
        .sizes(&[100, 1_000, 10_000], &[100])
        .into_iter()
        .map(|count| measure(options, count))
        .collect();
    report(section, &measured);
    wake::fan_out(options, section);
}

pub fn source(number: usize) -> String {
    format!("src_{number}")
}

fn measure(options: &Options, count: usize) -> Measured {
    let server = database::start();
    let mut session = database::create(&server, "many");
    let sources = count.div_ceil(READERS);
    create_sources(&mut session, sources);
    // The first one brings the scheduler up.
    session.exec(&stream(0, sources));
    let scheduler = database::process(&mut session, "scheduler");
    database::until_quiet(&mut session);
    let before = database::memory(scheduler);

    let started = Instant::now();
    create_streams(&server, count, sources);
    let created = started.elapsed();
    until_known(&mut session, count);
    let settled = started.elapsed() - created;
    eprintln!("scheduler: {count} created in {created:.1?}, at rest {settled:.1?} later");
    let reading_ms = Statistics::read(&mut session).reading_us / 1000.0;
    session.exec("vacuum analyze");
    let memory = (database::memory(scheduler) - before) / (count - 1) as f64;

    let idle = watch_idle(options, &mut session);
    let idle_wake_ms = idle_wake_up(options, &mut session);
    let dirty = [1, sources].map(|touched| {
        // Until every worker has met every stream table, where that does not take minutes.
        let (warm_up, rounds) = if touched * READERS <= 1_000 {
            (options.amount(15, 2), options.amount(10, 3))
        } else {
            (2, 2)
        };
        wake_ups(&mut session, sources, touched, count, (warm_up, rounds))
    });
    let worker = worker_memory(&mut session, sources, count);
    let longest_ms = Statistics::read(&mut session).max_us / 1000.0;
    let one_more = one_more(&mut session);
    let longest_with_ddl_ms = Statistics::read(&mut session).max_us / 1000.0;
    Measured {
        count,
        created,
        settled,
        one_more,
        reading_ms,
        idle_wake_ms,
        longest_ms,
        longest_with_ddl_ms,
        dirty: dirty.into(),
        idle,
        scheduler: memory,
        worker,
    }
}

pub fn create_sources(session: &mut Session, sources: usize) {
    for number in 0..sources {
        session.exec(&format!(
            "create table {0} (k bigint primary key, n int not null);
             insert into {0} select i, i from generate_series(1, 20) i",
            source(number)
        ));
    }
}

/// The statement that creates stream table number `number`.
pub fn stream(number: usize, sources: usize) -> String {
    let query = format!(
        "select k, n from {} where n > {}",
        source(number % sources),
        3 + number / sources
    );
    creation(&format!("s_{number}"), &query, "")
}

/// Creates all but the first, in batches.
pub fn create_streams(server: &Server, count: usize, sources: usize) {
    let next = AtomicUsize::new(1);
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CREATORS {
            scope.spawn(|| {
                let mut session = database::connect(server, "many");
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= count {
                        return;
                    }
                    let batch: Vec<String> = (first..(first + BATCH).min(count))
                        .map(|number| stream(number, sources))
                        .collect();
                    session.exec(&batch.join("\n"));
                    if first % 1000 == 1 {
                        eprintln!("scheduler: {first} created, {:.1?}", started.elapsed());
                    }
                }
            });
        }
    });
}

/// Waits until the scheduler has read all definitions and had each stream table looked at.
pub fn until_known(session: &mut Session, count: usize) {
    while Statistics::read(session).stream_tables < count as f64 {
        sleep(Duration::from_millis(20));
    }
    database::until_quiet(session);
}

/// CPU of all processes while nobody writes, in percent of one core.
fn watch_idle(options: &Options, session: &mut Session) -> Vec<(String, f64)> {
    let watched = Duration::from_secs(options.amount(60, 10) as u64);
    sleep(Duration::from_secs(options.amount(15, 2) as u64));
    let used = idle::watch(session, watched);
    used.into_iter()
        .map(|(kind, cpu)| (kind, 100.0 * cpu / watched.as_secs_f64()))
        .collect()
}

/// The mean wake-up with nothing due, in milliseconds; the clock runs faster for it.
fn idle_wake_up(options: &Options, session: &mut Session) -> f64 {
    database::configure(session, "pg_trickle.scheduler_interval_ms", "10");
    let before = Statistics::read(session);
    sleep(Duration::from_secs(options.amount(10, 3) as u64));
    let mean = Statistics::read(session).since(&before).mean_ms();
    database::configure(session, "pg_trickle.scheduler_interval_ms", "1000");
    mean
}

/// What a worker that has refreshed every stream table keeps of each, in bytes.
fn worker_memory(session: &mut Session, sources: usize, count: usize) -> f64 {
    for pid in database::processes(session, "worker") {
        session.exec(&format!("select pg_terminate_backend({pid}, 5000)"));
    }
    database::configure(session, "pg_trickle.max_concurrent_refreshes", "1");
    touch(session, 1);
    let worker = database::process(session, "worker");
    database::until_quiet(session);
    let before = database::memory(worker);
    touch(session, sources);
    database::until_quiet(session);
    let grown = database::memory(worker) - before;
    grown / (count - READERS) as f64
}

fn report(section: &mut Section, measured: &[Measured]) {
    section.text(format!(
        "Stream tables `select k, n from src_i where n > c`, scheduled as `continuous`, {READERS} over each small table. They are
created in transactions of {BATCH} by {CREATORS} sessions. *At rest* is when the scheduler has read them and had each
looked at once. A wake-up with nothing due is the mean over some seconds of a faster clock; the longest is that of the whole
run, with definitions read in it; memory is the growth of the anonymous pages, of the scheduler from 1 stream table to all of them, of a
worker that has refreshed each of them once (it keeps compiled no more than the settings allow)."
    ));
    let row = |m: &Measured| {
        vec![
            m.count.to_string(),
            number(m.created.as_secs_f64()),
            number(m.settled.as_secs_f64()),
            number(m.reading_ms),
            number(m.idle_wake_ms),
            number(m.longest_ms),
            number(total(&m.idle)),
            number(m.scheduler / 1024.0),
            number(m.worker / 1024.0),
        ]
    };
    section.table(
        &[
            "stream tables",
            "created, s",
            "at rest after, s",
            "definitions read, ms",
            "wake-up with nothing due, ms",
            "longest wake-up, ms",
            "idle CPU, % of a core",
            "scheduler, KB each",
            "worker, KB each",
        ],
        &measured.iter().map(row).collect::<Vec<_>>(),
    );
    let mut rows = Vec::new();
    for m in measured {
        for (kind, percent) in &m.idle {
            rows.push(vec![format!("{}: {kind}", m.count), number(*percent)]);
        }
    }
    section.table(&["idle CPU by process", "% of a core"], &rows);
    section.text(
        "One change of a definition where there are that many stream tables, medians in milliseconds; *read one* is how long
the scheduler reads one definition that was altered, the last column its longest wake-up up to then.",
    );
    let row = |m: &Measured| {
        vec![
            m.count.to_string(),
            number(m.one_more.create.median()),
            number(m.one_more.create_above.median()),
            number(m.one_more.drop.median()),
            number(m.one_more.drop_unrelated.median()),
            number(m.one_more.reading.median()),
            number(m.longest_with_ddl_ms),
        ]
    };
    section.table(
        &[
            "stream tables",
            "create one more",
            "create one over another",
            "drop one",
            "drop an unrelated table",
            "read one",
            "longest wake-up, ms",
        ],
        &measured.iter().map(row).collect::<Vec<_>>(),
    );
    section.text(
        "Then one transaction inserts a row into one source, or into each. Wake-ups of the scheduler from there until it is at
rest again (the clock's among them); medians. *All visible* is from the commit to that of the last refresh; *the first
time* workers compile, and they still do in some of the later rounds with 10,000.",
    );
    let mut rows = Vec::new();
    for m in measured {
        for wake in &m.dirty {
            rows.push(vec![
                format!("{} of {}", wake.dirty, m.count),
                format!("{:.0}", wake.wakeups.median()),
                number(wake.mean_ms.median()),
                number(wake.busy_ms.median()),
                number(wake.lag.median()),
                number(wake.first_lag),
            ]);
        }
    }
    section.table(
        &[
            "dirty",
            "wake-ups",
            "mean wake-up, ms",
            "all wake-ups, ms",
            "all visible, ms",
            "the first time, ms",
        ],
        &rows,
    );
    for m in measured {
        let wanted = WAKE_UPS.iter().find(|(count, _)| *count == m.count);
        if let Some((count, limit)) = wanted {
            let what = format!("{count} stream tables: wake-up with nothing due");
            section.goal(Goal::at_most(what, *limit, m.idle_wake_ms, "ms"));
        }
        if m.count == 1_000 {
            let what = "1000 clean stream tables: CPU of all processes";
            section.goal(Goal::at_most(what, 0.5, total(&m.idle), "% of a core"));
        }
    }
}

fn total(idle: &[(String, f64)]) -> f64 {
    idle.iter().map(|(_, percent)| percent).sum()
}
