//! The demo: stream tables that follow a writer, on TPC-H data.
//!
//! Loads TPC-H into a private server, creates stream tables of different shapes,
//! lets a writer change orders and lineitems, and shows how the stream tables
//! keep up. At the end it reports what a differential refresh cost beside the
//! query itself, and whether every stream table equals its query.

#![forbid(unsafe_code)]

mod gallery;
mod monitor;
mod options;
mod report;
mod view;
mod writer;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgt_tests::{Server, tpch};

use options::{Invocation, Options};
use view::View;
use writer::Writer;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Invocation::Run(options)) => options,
        Ok(Invocation::Help) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("demo: {message}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// True if every stream table equals its query at the end.
fn run(options: &Options) -> Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    let interrupted = Arc::clone(&stop);
    ctrlc::set_handler(move || interrupted.store(true, Ordering::Relaxed))?;

    eprintln!("demo: starting a private PostgreSQL with pg_trickle");
    // The tests verify after every refresh and do without fsync; what is measured here must do neither.
    let server = Server::builder()
        .guc("pg_trickle.verify_refresh", "off")
        .guc("fsync", "on")
        .start();
    let database = server.database();
    let mut session = database.connect();
    let client = session.client();

    eprintln!("demo: loading TPC-H at scale factor {}", options.scale);
    let loaded = tpch::load(client, options.scale)?;
    eprintln!(
        "demo: {} rows loaded in {:.1} s",
        loaded.rows,
        loaded.elapsed.as_secs_f64()
    );

    for table in gallery::STREAM_TABLES {
        let started = Instant::now();
        table.create(client)?;
        eprintln!(
            "demo: created {} ({}) in {:.2} s",
            table.name,
            table.shape,
            started.elapsed().as_secs_f64()
        );
    }

    let writer = Writer::start(database.connect(), options.rate, options.seed, &stop)?;
    follow(client, &writer, options.duration, &stop)?;
    let written = writer.finish()?;
    eprintln!(
        "\ndemo: the writer committed {} transactions changing {} rows",
        written.transactions, written.rows
    );

    let findings = report::gather(client)?;
    print!("{}", report::render(&findings));
    Ok(findings.iter().all(report::Finding::is_equal))
}

/// Shows samples until the time is over, the user interrupts or the writer fails.
fn follow(
    client: &mut postgres::Client,
    writer: &Writer,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<()> {
    let started = Instant::now();
    let mut view = if std::io::stdout().is_terminal() {
        View::on_terminal()
    } else {
        View::as_lines()
    };
    while started.elapsed() < duration && !stop.load(Ordering::Relaxed) && writer.is_running() {
        let sample = monitor::sample(client)?;
        view.show(started.elapsed(), duration, writer.written(), &sample)?;
        let next = (started.elapsed() + view.interval()).min(duration);
        while started.elapsed() < next && !stop.load(Ordering::Relaxed) && writer.is_running() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// A PostgreSQL error says little by itself; the server's message, detail and
/// hint are one level further down.
fn explain(error: &(dyn Error + 'static)) -> String {
    let Some(db) = error
        .downcast_ref::<postgres::Error>()
        .and_then(postgres::Error::as_db_error)
    else {
        return error.to_string();
    };
    let mut text = format!("{} ({})", db.message(), db.code().code());
    if let Some(detail) = db.detail() {
        text.push_str(&format!("\n  detail: {detail}"));
    }
    if let Some(hint) = db.hint() {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}
