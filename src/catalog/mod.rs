//! The catalog: rows of `pgtrickle.pgt_*` as structs. Their only reader and writer.
//!
//! Readers run as the current user (the catalog is readable by everybody); writers expect the caller to have entered
//! `Scope::internal`.

mod compiled;
mod groups;
mod history;
mod sources;
mod state;
mod stream_tables;

pub use compiled::{compiled, forget_compiled, save_compiled};
pub use groups::{
    Group, advance_epoch, all_reads, group, groups, held, may_hold, refresh_groups, renew_holds,
    replace_groups,
};
pub use history::{Action, HistoryRow, InitiatedBy, record};
pub use sources::{
    ChangeSource, SEGMENTS, Segment, SourceKind, change_source, delete_source, forget_columns,
    insert_segment, renew_generated, save_members, save_source, save_unlogged, segment_name,
    switch_segment,
};
pub use state::{
    RefreshState, Success, ensure_state, frontier_of, load_state, save_failure, save_success,
};
pub use stream_tables::{
    Dependency, Mode, NewStreamTable, SourceType, Status, StreamTable, add_stage, by_name,
    by_relation, dependencies, dependents, downstream_of, generation, insert, leave_shared_stages,
    load, load_all, outdate_readers, outdate_writer, remove_stages, remove_unused_stage,
    replace_dependencies, resolve_name, stage_queries, stage_that_keeps, stages_of, unused_stages,
    users_of_stage,
};

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::relation;

/// The oid of `pgtrickle.pgt_stream_tables`, under which stream tables are locked; none without the extension.
pub fn catalog_oid() -> Option<pg_sys::Oid> {
    relation::find("pgtrickle", "pgt_stream_tables")
}

/// As [`catalog_oid`]; an error without the extension.
pub fn installed() -> Result<pg_sys::Oid> {
    catalog_oid().ok_or_else(|| {
        Error::new(
            Kind::State,
            "extension pg_trickle is not installed in this database",
        )
    })
}
