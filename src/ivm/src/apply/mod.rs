//! Delta -> apply plan: which stored rows go, come and change.
//!
//! [`Layout`] decides how a result is stored: its visible columns, the state kept beside them and how a stored row is
//! found again. [`differential`] carries one delta into the stored rows by one statement; [`full`] does the same for the
//! difference between the stored rows and the query evaluated now; [`initial`] fills an empty table.
//!
//! Every statement returns one row: `inserted, updated, deleted, delta_rows bigint, drift boolean`. `delta_rows` is null
//! where they are the logged rows, which the caller has counted. `drift` means that the stored rows are not what the
//! delta assumes; the caller has to refuse the refresh.

mod bag;
mod full;
mod grouped;
mod layout;
mod lookup;
mod outcome;
mod partitioned;
mod recursive;
mod state;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use layout::{Grouped, Identity, Layout, Role, State, StateKind, StoredColumn};
pub use lookup::{Lookup, lookups};

use crate::delta::{self, EarlyConditions};
use crate::rel::{CLOCK, Query, Rel, SourceId};
use crate::scalar::Type;
use crate::sql::ast::{Cte, Expr, From, Name, Select, Statement};
use crate::sql::{self, Sources};

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
    /// Transactions were in progress when the sources were last read; what they logged since is part of the change.
    pub open: bool,
    pub care: Care,
}

/// What a differential statement is ready for. The less, the faster it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Care {
    /// It ends with an error where a key of a plain result changed more than once, where a value cannot be folded, where a
    /// recursive query has no law for the change, and where the stored rows are not what the delta assumes.
    Fast,
    /// Changes of the result are netted, any group can be evaluated again, and drift is reported.
    Net,
    /// Every source is netted first too: no expression is computed from a value that is in neither state. A recursive
    /// query is evaluated as a whole.
    Careful,
}

/// Up to so many changed rows are looked up one by one; of more it may be better to read what they meet as a whole.
const SMALL: u64 = 10_000;

/// Up to so many changed rows are looked up in any order.
const WORTH_SORTING: u64 = 300;

impl Change {
    /// The order of `keys`, each with its value: rows are found and written faster in the order of the index that finds
    /// them. None for a small change, and for types that are slow to compare.
    fn order(&self, keys: &[(&Type, Expr)]) -> Vec<Expr> {
        if !self.is_large() || !keys.iter().all(|(ty, _)| ty.equals_by_bytes()) {
            return vec![];
        }
        keys.iter().map(|(_, value)| value.clone()).collect()
    }

    /// So few rows changed that going from them through indexes is the best there is.
    pub fn is_small(&self) -> bool {
        self.limit.is_some_and(|limit| limit <= SMALL)
    }

    /// So many rows may have changed that what is done once matters less than what is done for each.
    fn is_large(&self) -> bool {
        self.limit.is_none_or(|limit| limit > WORTH_SORTING)
    }

    /// The sources that changed, without the clock.
    fn sources(&self) -> impl Iterator<Item = SourceId> {
        self.dirty.iter().copied().filter(|id| *id != CLOCK)
    }

    /// What can be tested before anything is netted.
    fn early(&self, root: &Rel) -> EarlyConditions {
        match self.care {
            Care::Careful => EarlyConditions::new(),
            _ => delta::early(root, &self.dirty),
        }
    }

    /// The changes of the sources, netted or as they were logged.
    fn delta_tables(&self, sources: &Sources, net: bool, early: &EarlyConditions) -> Vec<Cte> {
        let form = match (net, self.is_small()) {
            (false, _) => sql::Form::Logged,
            (true, false) => sql::Form::Netted,
            (true, true) => sql::Form::NettedInOrder,
        };
        self.sources()
            .flat_map(|id| sql::delta_table(id, &sources[&id], self.open, form, early.get(&id)))
            .collect()
    }
}

/// The terms of the change of `rel`, without what its sources' changes have passed early.
fn terms(rel: &Rel, change: &Change, early: &EarlyConditions) -> Vec<Rel> {
    delta::terms(rel, &change.dirty)
        .iter()
        .map(|term| delta::without(term, early))
        .collect()
}

/// The statement that applies a change. It returns a row (rows inserted, updated and deleted, rows of the change or NULL
/// where those logged are all, whether the stored rows did not match it), or is a MERGE that returns nothing, of which the
/// first three are to be asked and the others are NULL and false.
pub fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    match &layout.grouped {
        Some(grouped) => grouped::differential(grouped, layout, sources, target, change),
        None if query.root.recursion().is_some() && change.care != Care::Careful => {
            recursive::differential(query, layout, sources, target, change)
        }
        None if matches!(layout.identity, Identity::Partition(_))
            || query.root.recursion().is_some() =>
        {
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

/// As [`full`], of the rows of the view that has the layout's visible columns. What is kept beside them is not touched.
pub fn full_from_view(view: &Name, layout: &Layout, target: &Target) -> Statement {
    let shown = layout.shown().unwrap_or_else(|| layout.clone());
    full::difference(&shown, target, full::read_view(view, &shown))
}

/// As [`initial`], of the rows of the view.
pub fn initial_from_view(view: &Name, layout: &Layout, target: &Target) -> Statement {
    let shown = layout.shown().unwrap_or_else(|| layout.clone());
    full::fill(&shown, target, full::read_view(view, &shown))
}

/// As [`full`], where the stored rows are those of the view and nothing beside them can be relied on.
pub fn full_after_view(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
) -> Statement {
    let found = Layout {
        identity: match &layout.identity {
            // Its columns are shown.
            Identity::Key(_) => layout.identity.clone(),
            _ => Identity::Bag,
        },
        ..layout.clone()
    };
    full::difference(&found, target, full::evaluate(query, layout, sources))
}

/// Whether one of these tables has a row.
pub fn any_row(tables: &[Name]) -> Select {
    let ways = tables.iter().map(|table| {
        Expr::Exists(Box::new(Select {
            items: vec![(Expr::Integer(1), "one".into())],
            from: vec![From::Table {
                name: table.clone(),
                alias: "s".into(),
                only: true,
            }],
            ..Select::default()
        }))
    });
    Select {
        items: vec![(Expr::Or(ways.collect()), "any".into())],
        ..Select::default()
    }
}
