//! Defining, altering and dropping stream tables.

mod alter;
mod create;
mod dropped;
mod names;
mod rebuild;
mod schedule;
mod storage;

pub use alter::{Changes, alter};
pub use create::{Definition, create, creation_name};
pub use dropped::{drop_stream_table, forget_dropped};
pub use names::require_owner;
pub use rebuild::{ensure_ready, recompile};
pub use schedule::check_schedule;
