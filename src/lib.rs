//! pg_trickle: stream tables, defined by a query and kept equal to it by applying changes.
//!
//! The rooms, from the doors down: `api` (a person asks), `scheduler` (the clock or a commit asks), `ddl` (the schema
//! moved); `lifecycle` and `refresh`; `analyze`, `capture`, `catalog`; `pg`, the fence around PostgreSQL, and the pure
//! crate `pgt_ivm`. Rooms import downwards only.
#![deny(unsafe_code)]
// pgrx reports an SQLSTATE only for errors of its own, large, type.
#![allow(clippy::result_large_err)]

mod analyze;
mod api;
mod capture;
mod catalog;
mod config;
mod ddl;
mod error;
mod lifecycle;
#[allow(unsafe_code)]
mod pg;
mod refresh;
mod scheduler;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

/// Called by PostgreSQL when the library is loaded.
#[allow(unsafe_code)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::worker::no_backtraces();
    config::register(pg::worker::preloading());
    pg::capture_trigger::install(pg::capture_trigger::Callbacks {
        resolve: capture::resolve,
        limit: config::max_changes_per_tx,
    });
    pg::entry::install(pg::entry::Callbacks {
        ddl_end: ddl::ddl_end,
        dropped: ddl::dropped,
        rewritten: ddl::rewritten,
        detaching_concurrently: ddl::detaching_concurrently,
        attaching: ddl::attaching,
    });
    pg::executor::install();
    pg::planner::install();
    pg::xact::install();
    pg::worker::install(scheduler::MAINS);
    if pg::worker::preloading() {
        pg::shared::mark_preloaded();
        pg::shared::register(config::shared_memory_mb());
        pg::utility_hook::install();
        pg::worker::register_launcher();
    }
}
