//! `alter_stream_table`, `pause_stream_table`, `resume_stream_table` and their plural forms.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::{self, Mode, Status};
use crate::error::{Error, Kind};
use crate::lifecycle::{self, Changes};
use crate::pg::session;

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn alter_stream_table(
    name: Option<&str>,
    query: Option<&str>,
    schedule: Option<&str>,
    refresh_mode: Option<&str>,
    status: Option<&str>,
    diamond_consistency: Option<&str>,
    diamond_schedule_policy: Option<&str>,
    tier: Option<&str>,
    fuse: Option<&str>,
    fuse_ceiling: Option<i64>,
) -> Result<(), ErrorReport> {
    let name = name.ok_or_else(|| Error::new(Kind::InvalidArgument, "name must not be NULL"))?;
    let table = catalog::by_name(name)?;
    let mode = refresh_mode.map(Mode::parse).transpose()?;
    lifecycle::alter(
        &table,
        &Changes {
            query,
            schedule,
            mode,
            status,
            diamond_consistency,
            diamond_schedule_policy,
            tier,
            fuse,
            fuse_ceiling,
        },
    )?;
    let redefined = query.is_some() || mode.is_some_and(|mode| mode != table.mode);
    if redefined && !matches!(table.status, Status::Suspended | Status::Error) {
        super::refresh::manual(&catalog::load(table.id)?, None)?;
    }
    Ok(())
}

fn set_status(name: &str, status: &str) -> Result<(), Error> {
    let table = catalog::by_name(name)?;
    lifecycle::alter(
        &table,
        &Changes {
            status: Some(status),
            ..Changes::default()
        },
    )
}

#[pg_extern(sql = false)]
fn pause_stream_table(name: &str) -> Result<(), ErrorReport> {
    Ok(set_status(name, "SUSPENDED")?)
}

#[pg_extern(sql = false)]
fn resume_stream_table(name: &str) -> Result<(), ErrorReport> {
    Ok(set_status(name, "ACTIVE")?)
}

/// Applies to the stream tables the caller owns (all, for a superuser); returns how many changed.
fn set_all(wanted: &str, changes: impl Fn(Status) -> bool) -> Result<i32, Error> {
    let mut count = 0;
    for table in catalog::load_all()? {
        if session::has_privileges_of(table.owner) && changes(table.status) {
            lifecycle::alter(
                &table,
                &Changes {
                    status: Some(wanted),
                    ..Changes::default()
                },
            )?;
            count += 1;
        }
    }
    Ok(count)
}

#[pg_extern(sql = false)]
fn pause_all() -> Result<i32, ErrorReport> {
    Ok(set_all("SUSPENDED", |status| {
        matches!(status, Status::Active | Status::Initializing)
    })?)
}

#[pg_extern(sql = false)]
fn resume_all() -> Result<i32, ErrorReport> {
    Ok(set_all("ACTIVE", |status| {
        matches!(status, Status::Suspended | Status::Error)
    })?)
}
