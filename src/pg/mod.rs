//! The fence around PostgreSQL: all `unsafe` code and all of `pg_sys` that is more than a type. What leaves this room are
//! owned values and lifetimes.

pub mod capture_trigger;
pub mod depend;
pub mod direct;
pub mod entry;
pub mod executor;
pub mod image;
pub mod lock;
pub mod log_scan;
pub mod node;
pub mod parse;
pub mod planner;
pub mod relation;
pub mod session;
pub mod shared;
pub mod snapshot;
pub mod spi;
pub mod utility_hook;
pub mod worker;
pub mod xact;
