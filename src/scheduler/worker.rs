//! A refresh worker: stays connected, refreshes what its scheduler hands it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::catalog::{self, Action, HistoryRow, InitiatedBy, Mode, StreamTable};
use crate::config::{RefreshSettings, SchedulerSettings};
use crate::error::Kind;
use crate::lifecycle;
use crate::pg::session::{self, Scope};
use crate::pg::shared::{self, WorkerState};
use crate::pg::spi::{self, Value};
use crate::pg::worker::{self, Failure};
use crate::pg::xact;
use crate::refresh::{self, Request, Then};
use pgt_ivm::schedule::retry_delay_ms;

thread_local! {
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn leave() {
    if let Some(slot) = SLOT.take() {
        shared::worker_left(slot);
    }
}

pub(super) fn main(database: pg_sys::Oid, slot: usize) {
    worker::connect(Some(database));
    if shared::is_closed(database) || !shared::enter_worker(slot) {
        return;
    }
    SLOT.set(Some(slot));
    worker::at_exit(leave);
    // Rows and frontier travel in one transaction: a crash can only repeat work.
    session::set_for_session("synchronous_commit", "off");
    loop {
        match shared::take_job(slot) {
            Some(id) => {
                let state = run(id);
                shared::finish_job(slot, state);
            }
            None => {
                worker::report_idle();
                worker::wait(Duration::from_secs(10));
                if shared::is_closed(database) || shared::scheduler_pid().is_none() {
                    return;
                }
            }
        }
    }
}

/// Refreshes the unit of a stream table and keeps record of a failure.
fn run(id: i64) -> WorkerState {
    worker::report(&format!("refreshing stream table {id}"));
    let started = Instant::now();
    let started_at = refresh::now();
    let failure = match refresh_once(id) {
        Ok(true) => return WorkerState::Done,
        // It is being restored: look again later.
        Ok(false) => return WorkerState::Waiting,
        // It was taken out of the schedule, or held back, since the scheduler looked.
        Err(failure) if failure.kind == Some(Kind::MustWait) => return WorkerState::Waiting,
        Err(failure) => failure,
    };
    let elapsed = started.elapsed().as_secs_f64() * 1000.0;
    let failed = refresh::failed_at().unwrap_or(id);
    let recorded = worker::transaction(|| match failure.kind {
        Some(Kind::FuseBlown { id, rows }) => record_blown_fuse(id, rows, started_at, elapsed),
        _ => record_failure(failed, &failure, started_at, elapsed),
    });
    match recorded {
        Ok(state) => state,
        Err(problem) => {
            pgrx::warning!("could not record a failed refresh: {}", problem.message);
            WorkerState::Failed
        }
    }
}

/// False if the stream table is not complete yet.
fn refresh_once(id: i64) -> Result<bool, Failure> {
    worker::transaction(|| {
        let table = match refresh::current(id).map_or_else(|| catalog::load(id), Ok) {
            Ok(table) => table,
            // Dropped while the job was waiting.
            Err(_) => return Ok(true),
        };
        let group = table.consistency_group.and_then(catalog::group);
        let others = group.iter().filter(|group| group.atomic);
        for (member, _) in others.flat_map(|group| &group.members) {
            if *member != id && !make_ready(&catalog::load(*member)?)? {
                return Ok(false);
            }
        }
        if !make_ready(&table)? {
            return Ok(false);
        }
        refresh::refresh(&Request {
            ids: vec![id],
            with_upstream: false,
            initiated_by: InitiatedBy::Scheduler,
            force_full: None,
            settings: RefreshSettings::read(),
            fuses: true,
            set_up: lifecycle::ensure_ready,
            then: Then::Nothing,
        })?;
        Ok(true)
    })
}

/// False if the stream table is being restored.
fn make_ready(table: &StreamTable) -> crate::error::Result<bool> {
    if lifecycle::is_being_restored(table)? {
        return Ok(false);
    }
    lifecycle::ensure_ready(table)?;
    Ok(true)
}

/// A fuse blew: the stream table is out of the schedule until somebody has looked at it.
fn record_blown_fuse(
    id: i64,
    rows: u64,
    started_at: f64,
    duration_ms: f64,
) -> crate::error::Result<WorkerState> {
    let _scope = Scope::internal();
    let Ok(table) = catalog::load(id) else {
        return Ok(WorkerState::Done);
    };
    let reason = format!(
        "{rows} rows have changed, more than {}",
        table.fuse_ceiling.unwrap_or_default()
    );
    catalog::record(&HistoryRow {
        reason: Some("fuse".into()),
        delta_rows: rows as i64,
        ..nothing_done(id, Action::Skip, started_at, duration_ms)
    });
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables SET status = 'SUSPENDED', fuse_blown_at = pg_catalog.clock_timestamp(), \
         fuse_reason = $2, generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') WHERE pgt_id = $1",
        &[Value::Int(id), Value::Text(reason.clone())],
    );
    pgrx::warning!(
        "the fuse of stream table {} has blown: {reason}",
        table.display_name()
    );
    xact::definition_will_change(id);
    Ok(WorkerState::Stopped)
}

/// The history of a refresh that changed nothing.
fn nothing_done(id: i64, action: Action, started_at: f64, duration_ms: f64) -> HistoryRow {
    HistoryRow {
        id,
        taken_at: None,
        started_at,
        action,
        initiated_by: InitiatedBy::Scheduler,
        reason: None,
        inserted: 0,
        updated: 0,
        deleted: 0,
        delta_rows: 0,
        duration_ms,
        error: None,
    }
}

/// Failures that will be the same the next time: bad data, violated constraints, missing rights, missing objects.
fn permanent(sqlstate: &str) -> bool {
    ["22", "23", "28", "42"]
        .iter()
        .any(|class| sqlstate.starts_with(class))
}

fn record_failure(
    id: i64,
    failure: &Failure,
    started_at: f64,
    duration_ms: f64,
) -> crate::error::Result<WorkerState> {
    let _scope = Scope::internal();
    let Ok(table) = catalog::load(id) else {
        return Ok(WorkerState::Done);
    };
    catalog::ensure_state(id);
    let failures = catalog::save_failure(
        id,
        &failure.sqlstate,
        &failure.message,
        retry_delay_ms(1, 1.0),
    );
    let action = if table.effective == Mode::Full {
        Action::Full
    } else {
        Action::Differential
    };
    catalog::record(&HistoryRow {
        error: Some((failure.sqlstate.clone(), failure.message.clone())),
        ..nothing_done(id, action, started_at, duration_ms)
    });
    let limit = SchedulerSettings::read().max_consecutive_errors;
    let status = if permanent(&failure.sqlstate) {
        "ERROR"
    } else if failures >= limit {
        "SUSPENDED"
    } else {
        return Ok(WorkerState::Failed);
    };
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables SET status = $2, \
         generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') WHERE pgt_id = $1",
        &[Value::Int(id), Value::Text(status.to_owned())],
    );
    pgrx::warning!("stream table {id} is now {status}: {}", failure.message);
    xact::definition_will_change(id);
    Ok(WorkerState::Stopped)
}
