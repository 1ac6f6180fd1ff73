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
    let (mut differences, comparison) = super::refresh::manual_then(&table, None, Then::List)?
        .map(|outcome| (outcome.differences, outcome.comparison))
        .unwrap_or_default();
    if let (true, Some(found)) = (differences.is_empty(), comparison)
        && !found.ok()
    {
        // What is shown is right; the state kept beside it is not.
        differences.push((
            "state".to_owned(),
            format!("{{\"rows\": {}}}", found.missing.max(found.surplus)),
        ));
    }
    if !dry_run && !differences.is_empty() {
        super::refresh::manual(&catalog::load(table.id)?, Some("repair"))?;
    }
    let rows: Vec<(String, pgrx::JsonB)> = differences
        .into_iter()
        .map(|(op, row)| {
            (
                op,
                pgrx::JsonB(serde_json::from_str(&row).unwrap_or(serde_json::Value::Null)),
            )
        })
        .collect();
    Ok(TableIterator::new(rows))
}
