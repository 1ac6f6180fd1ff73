//! `create_stream_table` and its variants.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::Mode;
use crate::lifecycle::{self, Definition};

#[pg_extern(sql = false)]
fn create_stream_table(
    name: &str,
    query: &str,
    schedule: &str,
    refresh_mode: &str,
    initialize: bool,
    diamond_consistency: Option<&str>,
    diamond_schedule_policy: Option<&str>,
) -> Result<(), ErrorReport> {
    lifecycle::create(&Definition {
        name,
        query,
        schedule,
        mode: Mode::parse(refresh_mode)?,
        initialize,
        diamond_consistency,
        diamond_schedule_policy,
    })?;
    Ok(())
}
