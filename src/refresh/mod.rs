//! Carrying out refreshes: one executor for create, manual, scheduled, full and differential.
//!
//! The order of a refresh is fixed (and each step guards against a failure that was observed without it): lock the
//! stream tables, lock their sources and logs, take one snapshot, check under it that plans still hold, work under it,
//! store it as the frontier in the same transaction.

mod cache;
mod compile;
mod pending;
mod set;
mod ties;
mod unit;
mod verify;

pub use cache::{clear, current, is_compiled, known, session_entries};
pub use compile::{
    Compiled, Unit, columns_read, compile, layout_text, stage_queries, stage_query, view_columns,
};
pub use set::{Outcome, Request, Then, extent, failed_at, now, refresh, stands_alone, upstream_of};
pub use unit::storage_columns;
