//! `rotate_change_buffer`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Kind};
use crate::pg::session;
use crate::pg::spi::{self, Value};
use crate::{capture, catalog};

#[pg_extern(sql = false)]
fn rotate_change_buffer(source: &str, force: bool) -> Result<bool, ErrorReport> {
    let relid = catalog::resolve_name(source)?.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!("relation \"{source}\" does not exist"),
        )
    })?;
    let owner = spi::first(
        "SELECT relowner FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relid)],
    );
    if !owner.is_some_and(|row| session::has_privileges_of(row.oid(0))) {
        return Err(Error::new(Kind::Permission, format!("must be owner of {source}")).into());
    }
    let done = capture::rotate(relid, force)?;
    if !force && done.blocked && done.truncated == 0 && !done.switched {
        let blocker = spi::first(
            "SELECT blocked_by, reader FROM pgtrickle.pgt_log_blocker($1)",
            &[Value::Oid(relid)],
        );
        let by = match blocker {
            Some(row) if !row.is_null(1) => {
                format!("Stream table {} has not seen all changes yet.", row.text(0))
            }
            Some(row) if !row.is_null(0) => format!("It is held back by {}.", row.text(0)),
            _ => "A transaction that wrote to it, or a refresh, is still open.".to_owned(),
        };
        return Err(Error::new(
            Kind::InUse,
            format!("cannot rotate the change log of {source}"),
        )
        .detail(by)
        .hint("Refresh the stream tables that read it, or drop those that are not needed.")
        .into());
    }
    Ok(done.switched || done.truncated > 0)
}
