//! Groups, gates, watermarks, fuses, draining.

use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog;
use crate::error::{Error, Kind, Result as OwnResult};
use crate::lifecycle::{self, Changes};
use crate::pg::shared::{self, WorkerState};
use crate::pg::{depend, lock, session};

#[pg_extern(sql = false)]
fn create_refresh_group(group_name: &str, members: Vec<Option<String>>) -> Result<(), ErrorReport> {
    let members = named(members)?
        .iter()
        .map(|name| catalog::by_name(name))
        .collect::<OwnResult<Vec<_>>>()?;
    Ok(lifecycle::create_refresh_group(group_name, &members)?)
}

#[pg_extern(sql = false)]
fn drop_refresh_group(group_name: &str) -> Result<(), ErrorReport> {
    Ok(lifecycle::drop_refresh_group(group_name)?)
}

#[pg_extern(sql = false)]
fn gate_source(source: &str) -> Result<(), ErrorReport> {
    Ok(lifecycle::gate(source)?)
}

#[pg_extern(sql = false)]
fn ungate_source(source: &str) -> Result<(), ErrorReport> {
    Ok(lifecycle::ungate(source)?)
}

#[pg_extern(sql = false)]
fn advance_watermark(source: &str, watermark: TimestampWithTimeZone) -> Result<(), ErrorReport> {
    Ok(lifecycle::advance_watermark(source, watermark)?)
}

#[pg_extern(sql = false)]
fn create_watermark_group(
    group_name: &str,
    sources: Vec<Option<String>>,
    tolerance_secs: f64,
) -> Result<(), ErrorReport> {
    Ok(lifecycle::create_watermark_group(
        group_name,
        &named(sources)?,
        tolerance_secs,
    )?)
}

#[pg_extern(sql = false)]
fn drop_watermark_group(group_name: &str) -> Result<(), ErrorReport> {
    Ok(lifecycle::drop_watermark_group(group_name)?)
}

fn named(names: Vec<Option<String>>) -> OwnResult<Vec<String>> {
    names
        .into_iter()
        .map(|name| {
            name.ok_or_else(|| Error::new(Kind::InvalidArgument, "a name must not be NULL"))
        })
        .collect()
}

#[pg_extern(sql = false)]
fn reset_fuse(name: &str, action: &str) -> Result<(), ErrorReport> {
    let force = match action {
        "apply" => None,
        "reinitialize" => Some("fuse reset"),
        _ => {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("invalid action \"{action}\""),
            )
            .hint("Use 'apply' or 'reinitialize'.")
            .into());
        }
    };
    let table = catalog::by_name(name)?;
    if !table.fuse_blown {
        lifecycle::require_owner(&table)?;
        // It may have ended a refresh that somebody asked for, and then nothing was written down.
        match super::refresh::manual(&table, None) {
            Err(error) if matches!(error.kind, Kind::FuseBlown { id, .. } if id == table.id) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => {
                return Err(Error::new(
                    Kind::State,
                    format!("the fuse of {} has not blown", table.display_name()),
                )
                .into());
            }
        }
    }
    lifecycle::alter(
        &table,
        &Changes {
            status: Some("ACTIVE"),
            ..Changes::default()
        },
    )?;
    super::refresh::manual_past_fuse(&catalog::load(table.id)?, force)?;
    Ok(())
}

/// Only who may administer the database.
fn require_database_owner() -> OwnResult<()> {
    if session::owns_database() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Permission,
        "must be owner of the database",
    ))
}

fn at_work() -> bool {
    shared::my_workers().iter().any(|view| {
        matches!(view.state, WorkerState::Assigned | WorkerState::Running)
            && crate::pg::worker::alive(view.pid)
    })
}

#[pg_extern(sql = false)]
fn drain(timeout_s: i32) -> Result<bool, ErrorReport> {
    require_database_owner()?;
    shared::drain(Some(depend::extension_oid()));
    let started = Instant::now();
    let limit = Duration::from_secs(u64::try_from(timeout_s).unwrap_or(0));
    loop {
        if !at_work() {
            return Ok(true);
        }
        if started.elapsed() >= limit {
            return Ok(false);
        }
        lock::sleep(Duration::from_millis(10));
    }
}

#[pg_extern(sql = false)]
fn is_drained() -> bool {
    shared::draining() == Some(depend::extension_oid()) && !at_work()
}

#[pg_extern(sql = false)]
fn resume_after_drain() -> Result<(), ErrorReport> {
    require_database_owner()?;
    shared::drain(None);
    Ok(())
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn pgt_allocations() -> TableIterator<
    'static,
    (
        name!(database, pg_sys::Oid),
        name!(used, i64),
        name!(active, i64),
        name!(queued, i64),
        name!(quota, i64),
    ),
> {
    TableIterator::new(shared::allocations().into_iter().map(|found| {
        (
            found.database,
            i64::from(found.used),
            i64::from(found.active),
            i64::from(found.queued),
            i64::from(found.quota),
        )
    }))
}
