//! `verify_stream_table`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under};
use crate::{catalog, lifecycle, refresh};

#[pg_extern(sql = false)]
fn verify_stream_table(
    name: &str,
    mode: &str,
) -> Result<
    TableIterator<
        'static,
        (
            name!(ok, bool),
            name!(missing, i64),
            name!(surplus, i64),
            name!(checked_rows, i64),
            name!(snapshot, String),
        ),
    >,
    ErrorReport,
> {
    let _ = mode;
    let table = catalog::by_name(name)?;
    lifecycle::require_owner(&table)?;
    let compiled = refresh::compile(&table)?;
    let snapshot = Snapshot::take();
    let found = refresh::compare(&compiled, Under::Snapshot(&snapshot))?;
    let taken = spi::run_under(
        "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text",
        &[],
        Under::Snapshot(&snapshot),
    );
    let taken = taken.first().map_or_else(String::new, |row| row.text(0));
    Ok(TableIterator::once((found.ok(), found.missing, found.surplus, found.checked, taken)))
}
