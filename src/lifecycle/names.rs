//! Who may do what.

use crate::catalog::StreamTable;
use crate::error::{Error, Kind, Result};
use crate::pg::session;

/// Fails unless the current user has the rights of the stream table's owner.
pub fn require_owner(table: &StreamTable) -> Result<()> {
    if session::has_privileges_of(table.owner) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Permission,
        format!("must be owner of stream table {}", table.display_name()),
    ))
}
