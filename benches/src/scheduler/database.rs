//! What the parts of the benchmark ask of a database: its processes, whether it has come to rest, when rows were committed.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgt_tests::{Server, Session, quote};

use crate::server;

/// Nothing takes this long unless nobody refreshes at all.
const GIVE_UP: Duration = Duration::from_secs(600);

/// A server that remembers when each transaction was committed.
pub fn start() -> Server {
    server::start_with(&[
        ("track_commit_timestamp", "on"),
        // Vacuum, and a scheduler and workers for each database that is there at a time.
        ("max_worker_processes", "32"),
    ])
}

/// A new database with the extension, and a session in it that waits for nothing at commit.
pub fn create(server: &Server, name: &str) -> Session {
    let mut session = server.connect("postgres");
    session.exec(&format!("create database {name}"));
    let mut session = connect(server, name);
    session.exec("create extension pg_trickle");
    session
}

pub fn connect(server: &Server, name: &str) -> Session {
    let mut session = server.connect(name);
    server::without_waiting_for_disk(&mut session);
    session.exec("set statement_timeout = 0");
    session
}

pub fn drop(server: &Server, name: &str) {
    let mut session = server.connect("postgres");
    session.exec(&format!("drop database {name} with (force)"));
}

/// Changes a setting of the whole server and waits until its processes will have noticed.
pub fn configure(session: &mut Session, name: &str, value: &str) {
    session.exec(&format!("alter system set {name} = {}", quote(value)));
    session.exec("select pg_reload_conf()");
    sleep(Duration::from_millis(500));
}

/// The statement that creates a `continuous` stream table.
pub fn creation(name: &str, query: &str, further: &str) -> String {
    format!(
        "select pgtrickle.create_stream_table({}, {}, schedule => 'continuous', refresh_mode => 'DIFFERENTIAL'{further});",
        quote(name),
        quote(query)
    )
}

/// Waits until nothing is due and nobody works, and has not been for some looks in a row.
pub fn until_quiet(session: &mut Session) {
    let sql = "select coalesce(sum(workers_active + workers_queued), 0) from pgtrickle.cluster_worker_summary()";
    let started = Instant::now();
    let mut quiet = 0;
    while quiet < 10 {
        assert!(started.elapsed() < GIVE_UP, "not at rest after {GIVE_UP:?}");
        sleep(Duration::from_millis(50));
        quiet = if session.number(sql) == 0 {
            quiet + 1
        } else {
            0
        };
    }
}

/// The process ids of this database's processes of that kind, `scheduler` or `worker`.
pub fn processes(session: &mut Session, kind: &str) -> Vec<i32> {
    let sql = format!(
        "select pid from pg_stat_activity where backend_type = 'pg_trickle {kind}' and datname = current_database()"
    );
    let pids = session.rows(&sql);
    pids.iter()
        .filter_map(|row| row[0].as_deref()?.parse().ok())
        .collect()
}

/// The one process of that kind, as soon as there is one.
pub fn process(session: &mut Session, kind: &str) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(pid) = processes(session, kind).first() {
            return *pid;
        }
        assert!(started.elapsed() < GIVE_UP, "there is no {kind}");
        sleep(Duration::from_millis(50));
    }
}

/// Private memory of a process in bytes: its share of anonymous pages, which shared memory is not among.
pub fn memory(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss_Anon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes * 1024.0)
}

/// Milliseconds from the commit that brought row `k` of `source` to the last of the commits that brought it to the stream
/// tables; none while it is missing in one of them.
///
/// Both times are the server's own, in microseconds, so that nobody has to look while work is going on.
pub fn lag_ms(session: &mut Session, source: &str, streams: &[String], k: i64) -> Option<f64> {
    let mut last: f64 = 0.0;
    // One statement for all would need a lock for each.
    for some in streams.chunks(100) {
        let rows: Vec<String> = some
            .iter()
            .map(|name| format!("select xmin from {name} where k = {k}"))
            .collect();
        let found = session.rows(&format!(
            "select count(*), extract(epoch from max(pg_xact_commit_timestamp(xmin)) - (select
                 pg_xact_commit_timestamp(xmin) from {source} where k = {k})) * 1000 from ({}) r",
            rows.join(" union all ")
        ));
        if found[0][0].as_deref() != Some(some.len().to_string().as_str()) {
            return None;
        }
        let lag = found[0][1].as_deref().and_then(|lag| lag.parse().ok());
        last = last.max(lag.expect("commit timestamps"));
    }
    Some(last)
}

/// As [`lag_ms`], looking every so often until all have it.
pub fn wait_lag_ms(
    session: &mut Session,
    source: &str,
    streams: &[String],
    k: i64,
    look: Duration,
) -> f64 {
    let started = Instant::now();
    loop {
        sleep(look);
        if let Some(lag) = lag_ms(session, source, streams, k) {
            return lag;
        }
        assert!(
            started.elapsed() < GIVE_UP,
            "row {k} has not arrived after {GIVE_UP:?}"
        );
    }
}
