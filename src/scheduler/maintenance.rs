//! What is done now and then: rotation of change logs, retention of the history, prepared transactions.

use crate::capture;
use crate::config::SchedulerSettings;
use crate::pg::session::Scope;
use crate::pg::spi::{self, Value};
use crate::pg::worker;

/// Somebody was in the way for longer than the scheduler waits.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Rotates the logs that have grown and deletes old history. Each log is a transaction of its own, so that one that is
/// locked delays no other.
///
/// True if somebody was in the way of something that is worth another try soon.
pub(super) fn pass(settings: &SchedulerSettings) -> bool {
    let mut busy = false;
    match worker::transaction(|| Ok(capture::worth_rotating())) {
        Ok(sources) => {
            for source in sources {
                match worker::transaction(|| capture::rotate(source, false)) {
                    Ok(done) => busy |= done.busy,
                    Err(failure) if failure.sqlstate != LOCK_NOT_AVAILABLE => {
                        pgrx::warning!("could not rotate a change log: {}", failure.message);
                    }
                    Err(_) => busy = true,
                }
            }
        }
        Err(failure) => pgrx::warning!("could not look at the change logs: {}", failure.message),
    }
    let retained = worker::transaction(|| {
        let _scope = Scope::internal();
        spi::run(
            "DELETE FROM pgtrickle.pgt_refresh_history WHERE refresh_id IN (SELECT refresh_id \
             FROM pgtrickle.pgt_refresh_history WHERE start_time < pg_catalog.now() - \
             pg_catalog.make_interval(days => $1::pg_catalog.int4) ORDER BY refresh_id LIMIT 10000)",
            &[Value::Int(i64::from(settings.history_retention_days))],
        );
        Ok(())
    });
    if let Err(failure) = retained {
        pgrx::warning!("could not delete old refresh history: {}", failure.message);
    }
    busy
}

/// The transactions of this database that are prepared and not yet decided; none if that could not be found out.
pub(super) fn prepared_transactions() -> Option<Vec<String>> {
    worker::transaction(|| {
        let rows = spi::run(
            "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()",
            &[],
        );
        Ok(rows.iter().map(|row| row.text(0)).collect())
    })
    .ok()
}
