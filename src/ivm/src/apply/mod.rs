//! Delta -> apply plan: which stored rows go, come and change.
//!
//! [`Layout`] decides how a result is stored: its visible columns, the state kept beside them and how a stored row is
//! found again. [`differential`] carries one delta into the stored rows by one statement; [`full`] does the same for the
//! difference between the stored rows and the query evaluated now; [`initial`] fills an empty table.
//!
//! Every statement returns one row: `inserted, updated, deleted, delta_rows bigint, drift, again boolean`. `drift` means
//! that the stored rows are not what the delta assumes; the caller has to refuse the refresh. `again` means that nothing
//! was done and the careful statement is needed.

mod bag;
mod full;
mod grouped;
mod layout;
mod outcome;
mod partitioned;
mod state;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use layout::{Grouped, Identity, Layout, Role, State, StateKind, StoredColumn};

use crate::rel::{CLOCK, Query, SourceId};
use crate::sql::Sources;
use crate::sql::ast::{Name, Select, Statement};

/// Where a result is stored and where its own changes are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub table: Name,
    /// The log segment that takes the result's own changes, if anybody reads them.
    pub output: Option<Name>,
}

/// The change a differential statement is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The sources that changed, and [`CLOCK`] if time passed.
    pub dirty: BTreeSet<SourceId>,
    /// A bound of the logged rows of any one source.
    pub limit: Option<u64>,
    /// Net every source first and be ready to evaluate any group again: slower, and works where the fast statement meets
    /// a value it cannot fold (`again` in its result) or an expression that fails on a value of neither state.
    pub careful: bool,
}

impl Change {
    /// The sources that changed, without the clock.
    fn sources(&self) -> impl Iterator<Item = SourceId> {
        self.dirty.iter().copied().filter(|id| *id != CLOCK)
    }
}

/// The statement that applies a change.
pub fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    match &layout.grouped {
        Some(grouped) => grouped::differential(grouped, layout, sources, target, change),
        None if matches!(layout.identity, Identity::Partition(_)) => {
            partitioned::differential(query, layout, sources, target, change)
        }
        None => bag::differential(query, layout, sources, target, change),
    }
}

/// The statement that makes the stored rows equal to the query evaluated now, touching only rows that differ.
pub fn full(query: &Query, layout: &Layout, sources: &Sources, target: &Target) -> Statement {
    full::difference(layout, target, full::evaluate(query, layout, sources))
}

/// The statement that fills an empty table.
pub fn initial(query: &Query, layout: &Layout, sources: &Sources, target: &Target) -> Statement {
    full::fill(layout, target, full::evaluate(query, layout, sources))
}

/// The layout's columns `v0, v1, ..`, evaluated over the present state of the sources.
pub fn evaluate(query: &Query, layout: &Layout, sources: &Sources) -> Select {
    full::evaluate(query, layout, sources)
}

/// As [`full`], for a query that is only known as a view with the layout's columns.
pub fn full_from_view(view: &Name, layout: &Layout, target: &Target) -> Statement {
    full::difference(layout, target, full::read_view(view, layout))
}

/// As [`initial`], for a query that is only known as a view.
pub fn initial_from_view(view: &Name, layout: &Layout, target: &Target) -> Statement {
    full::fill(layout, target, full::read_view(view, layout))
}
