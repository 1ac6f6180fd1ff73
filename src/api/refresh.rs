//! `refresh_stream_table`, `refresh_if_stale`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::{self, InitiatedBy, StreamTable};
use crate::config::RefreshSettings;
use crate::error::{Error, Kind, Result as OwnResult};
use crate::lifecycle;
use crate::pg::spi::{self, Value};
use crate::refresh::{self, Outcome, Request, Then};

/// Refreshes a stream table and what it reads, for the current user.
pub(super) fn manual(table: &StreamTable, force_full: Option<&str>) -> OwnResult<()> {
    manual_then(table, force_full, Then::Nothing).map(|_| ())
}

/// As [`manual`], whatever the fuse says.
pub(super) fn manual_past_fuse(table: &StreamTable, force_full: Option<&str>) -> OwnResult<()> {
    run(table, force_full, false, Then::Nothing).map(|_| ())
}

/// As [`manual`], looking at the result under the same snapshot.
pub(super) fn manual_then(
    table: &StreamTable,
    force_full: Option<&str>,
    then: Then,
) -> OwnResult<Option<Outcome>> {
    run(table, force_full, true, then)
}

fn run(
    table: &StreamTable,
    force_full: Option<&str>,
    fuses: bool,
    then: Then,
) -> OwnResult<Option<Outcome>> {
    lifecycle::require_owner(table)?;
    let with_upstream = !refresh::stands_alone(table) && make_ready(table)? > 1;
    let outcomes = refresh::refresh(&Request {
        ids: vec![table.id],
        with_upstream,
        initiated_by: if force_full.is_some() {
            InitiatedBy::Repair
        } else {
            InitiatedBy::Manual
        },
        force_full: force_full.map(str::to_owned),
        settings: RefreshSettings::read(),
        fuses,
        set_up: lifecycle::ensure_ready,
        then,
    })?;
    Ok(outcomes.into_iter().find(|outcome| outcome.id == table.id))
}

/// Sets up again what is refreshed together with `table`, where that is needed; returns how many stream tables it is.
fn make_ready(table: &StreamTable) -> OwnResult<usize> {
    let mut order = refresh::extent(&[table.id], true)?;
    loop {
        for id in &order {
            if *id == table.id {
                lifecycle::ensure_ready(table)?;
            } else {
                lifecycle::ensure_ready(&catalog::load(*id)?)?;
            }
        }
        // What has been set up again may belong to a group.
        let now = refresh::extent(&[table.id], true)?;
        if std::mem::replace(&mut order, now) == order {
            return Ok(order.len());
        }
    }
}

#[pg_extern(sql = false)]
fn refresh_stream_table(name: &str) -> Result<(), ErrorReport> {
    let known = catalog::resolve_name(name)?.and_then(refresh::known);
    let table = match known {
        Some(table) => table,
        None => catalog::by_name(name)?,
    };
    Ok(manual(&table, None)?)
}

#[pg_extern(sql = false)]
fn refresh_if_stale(name: &str, max_age: pgrx::datum::Interval) -> Result<bool, ErrorReport> {
    let table = catalog::by_name(name)?;
    lifecycle::require_owner(&table)?;
    let limit = max_age.as_micros() as f64 / 1e6;
    let stale = spi::first(
        "SELECT pgtrickle.get_staleness($1)",
        &[Value::Text(name.to_owned())],
    )
    .is_none_or(|row| row.is_null(0) || row.float(0) > limit);
    if stale {
        manual(&table, None).map_err(|error: Error| ErrorReport::from(error))?;
    }
    Ok(stale)
}

/// What a delta statement calls where it does not know the new rows.
#[pg_extern(sql = false)]
fn pgt_give_up() -> Result<bool, ErrorReport> {
    Err(Error::new(
        Kind::Unexplained,
        "the changes alone do not explain the new rows",
    )
    .into())
}
