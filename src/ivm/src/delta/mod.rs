//! Rel -> delta: the change of a query's result, given the changes of its sources.
//!
//! A delta is a list of *terms*. A term is the query's own tree with every leaf read at a definite state (`New` or
//! `Delta`); the change is the bag union of the terms, each row weighted by the product of its leaves' weights. Which
//! sources changed is known before, so a term is only built for those.

mod bounded;
mod early;
mod join;
mod linear;
mod matching;
mod moving;
mod outer;
mod recursion;
mod union;

pub use recursion::{grown, has_law, read, seed};

use std::collections::BTreeSet;

pub use early::{Early, EarlyConditions, early, without};

use crate::rel::{At, CLOCK, Rel, SourceId};

/// The terms of the change of `rel` when exactly the sources in `dirty` changed. Empty if none of them is read.
///
/// `rel` is linear or bilinear: a stateful operator has been cut off into a stage or is the root of its plan.
pub fn terms(rel: &Rel, dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    if !reads(rel, dirty) {
        return vec![];
    }
    match rel {
        Rel::Scan(scan) => {
            let mut scan = scan.clone();
            scan.at = At::Delta;
            vec![Rel::Scan(scan)]
        }
        Rel::Filter { input, conditions } => linear::filter(input, conditions, dirty),
        Rel::Moving { input, conditions } => moving::terms_of(input, conditions, dirty),
        Rel::Bounded { input, by, bounds } => bounded::terms_of(input, by, bounds, dirty),
        Rel::Project { input, columns } => linear::project(input, columns, dirty),
        Rel::Join { inputs, conditions } => join::inner(inputs, conditions, dirty),
        Rel::UnionAll { inputs, columns } => union::all(inputs, columns, dirty),
        Rel::Outer {
            left,
            right,
            full,
            on,
        } => outer::terms_of(left, right, *full, on, dirty),
        Rel::Match {
            left,
            right,
            present,
            on,
        } => matching::terms_of(left, right, *present, on, dirty),
        Rel::Expand { input, .. } | Rel::ProjectSet { input, .. } | Rel::Negate(input) => {
            linear::of_rows(rel, input, dirty)
        }
        Rel::Unit => vec![],
        Rel::JoinChange { .. } | Rel::InnerChange { .. } => {
            unreachable!("a change is not differentiated again")
        }
        // Cut off by `rewrite::stages`; reading it whole would be wrong, so no term claims to describe it.
        Rel::Aggregate { .. } | Rel::Partitioned { .. } => {
            unreachable!("a stateful operator below the root of a plan")
        }
    }
}

/// The terms of the change that reaches the stateful operator at the root of a plan, or of the whole change if there is
/// none.
pub fn below_root(root: &Rel, dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    if let Some((recursion, _)) = root.recursion() {
        return seed(recursion, dirty)
            .into_iter()
            .chain([grown(recursion)])
            .map(|term| term.rel)
            .collect();
    }
    match stateful_inputs(root) {
        Some(inputs) => inputs
            .into_iter()
            .flat_map(|input| terms(input, dirty))
            .collect(),
        None => terms(root, dirty),
    }
}

/// Changes can meet changes: more than one scan reads a source that changed. Then they are netted first, or a row that
/// changed often would meet every other version of itself.
pub fn changes_meet(root: &Rel, dirty: &BTreeSet<SourceId>) -> bool {
    let scans = root
        .scans()
        .iter()
        .filter(|scan| dirty.contains(&scan.source))
        .count();
    scans + usize::from(moves(root, dirty)) > 1
}

fn moves(rel: &Rel, dirty: &BTreeSet<SourceId>) -> bool {
    dirty.contains(&CLOCK) && rel.moves()
}

/// The inputs of the stateful operator under a chain of filters and projections.
fn stateful_inputs(rel: &Rel) -> Option<Vec<&Rel>> {
    match rel {
        Rel::Filter { input, .. } | Rel::Project { input, .. } => stateful_inputs(input),
        Rel::Aggregate { input, .. } => Some(vec![input]),
        Rel::Partitioned { inputs, .. } => Some(inputs.iter().map(|input| &input.rel).collect()),
        _ => None,
    }
}

/// Whether `rel` reads a source in `dirty`.
pub fn reads(rel: &Rel, dirty: &BTreeSet<SourceId>) -> bool {
    moves(rel, dirty) || rel.scans().iter().any(|scan| dirty.contains(&scan.source))
}
