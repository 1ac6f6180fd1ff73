//! Altering a stream table.

use crate::catalog::StreamTable;
use crate::error::Result;

/// What to change; none means leave.
#[derive(Default)]
pub struct Changes<'a> { pub query: Option<&'a str> }
/// placeholder
pub fn alter(_table: &StreamTable, _changes: &Changes<'_>) -> Result<()> { Ok(()) }
