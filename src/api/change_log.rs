//! `rotate_change_buffer`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Kind};
use crate::pg::session;
use crate::pg::spi::{self, Value};
use crate::{capture, catalog};

#[pg_extern(sql = false)]
fn rotate_change_buffer(source: &str, force: bool) -> Result<bool, ErrorReport> {
    let relid = catalog::resolve_name(source)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("relation \"{source}\" does not exist")))?;
    let owner = spi::first("SELECT relowner FROM pg_catalog.pg_class WHERE oid = $1", &[Value::Oid(relid)]);
    if !owner.is_some_and(|row| session::has_privileges_of(row.oid(0))) {
        return Err(Error::new(Kind::Permission, format!("must be owner of {source}")).into());
    }
    let done = capture::rotate(relid, force)?;
    Ok(done.switched || done.truncated > 0)
}
