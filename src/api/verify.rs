//! `verify_stream_table`: brings the stream table to a snapshot and compares it with its query there.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog;
use crate::error::{Error, Kind};
use crate::refresh::Then;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
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
    if mode != "rows" && mode != "count" {
        return Err(
            Error::new(Kind::InvalidArgument, format!("unknown mode \"{mode}\""))
                .hint("Use 'rows' or 'count'.")
                .into(),
        );
    }
    let table = catalog::by_name(name)?;
    let outcome = super::refresh::manual_then(&table, None, Then::Compare)?;
    let Some((found, snapshot)) =
        outcome.and_then(|outcome| Some((outcome.comparison?, outcome.snapshot)))
    else {
        return Err(Error::new(Kind::Internal, "nothing was compared").into());
    };
    let (missing, surplus) = if mode == "count" {
        let net = found.missing - found.surplus;
        (net.max(0), (-net).max(0))
    } else {
        (found.missing, found.surplus)
    };
    let ok = missing == 0 && surplus == 0;
    Ok(TableIterator::once((
        ok,
        missing,
        surplus,
        found.checked,
        snapshot,
    )))
}
