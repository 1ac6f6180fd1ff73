//! What DDL of others means for stream tables.

use crate::lifecycle;

/// After any DDL command.
pub fn ddl_end() {}

/// After any DROP.
pub fn dropped() {
    lifecycle::forget_dropped();
}
