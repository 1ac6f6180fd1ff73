//! `drop_stream_table`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::{catalog, lifecycle};

#[pg_extern(sql = false)]
fn drop_stream_table(name: &str, cascade: bool) -> Result<(), ErrorReport> {
    let table = catalog::by_name(name)?;
    lifecycle::drop_stream_table(&table, cascade)?;
    Ok(())
}
