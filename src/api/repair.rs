//! `repair_stream_table`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog;
use crate::refresh::Then;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn repair_stream_table(
    name: &str,
    dry_run: bool,
) -> Result<TableIterator<'static, (name!(op, String), name!(row, pgrx::JsonB))>, ErrorReport> {
    let table = catalog::by_name(name)?;
    // First to the present, so that only what is wrong remains.
    let differences = super::refresh::manual_then(&table, None, Then::List)?
        .map(|outcome| outcome.differences)
        .unwrap_or_default();
    if !dry_run && !differences.is_empty() {
        super::refresh::manual(&table, Some("repair"))?;
    }
    let rows: Vec<(String, pgrx::JsonB)> = differences
        .into_iter()
        .map(|(op, row)| (op, pgrx::JsonB(serde_json::from_str(&row).unwrap_or(serde_json::Value::Null))))
        .collect();
    Ok(TableIterator::new(rows))
}
