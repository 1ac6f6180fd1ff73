//! `refresh_stream_table`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::{self, InitiatedBy};
use crate::config::RefreshSettings;
use crate::lifecycle;
use crate::refresh::{self, Request};

#[pg_extern(sql = false)]
fn refresh_stream_table(name: &str) -> Result<(), ErrorReport> {
    let table = catalog::by_name(name)?;
    lifecycle::require_owner(&table)?;
    lifecycle::ensure_ready(&table)?;
    refresh::refresh(&Request {
        ids: vec![table.id],
        with_upstream: true,
        initiated_by: InitiatedBy::Manual,
        force_full: None,
        settings: RefreshSettings::read(),
    })?;
    Ok(())
}
