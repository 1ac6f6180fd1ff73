//! R = base + step(R), so dR = seed + step'(dR) with seed = d(base) + d(step)(R), where ' is the new state: the seed and
//! whatever the step makes of it, again and again.
//!
//! UNION ALL counts derivations, and the law holds for a change that only brings rows into the sources or only takes some
//! away: what is derived stays within the new or the old result, and both are finite. With both signs it may go in circles
//! for ever that no longer hang on the base. UNION keeps a row while it has any derivation; the law holds for what comes
//! into the result, so for sources that only gained rows, with the rows that R has already left out of the seed and of each
//! step. Whether a change is of that kind is told by the sources: a row that loses one derivation and gains another, made
//! from itself, would not show in the net change of the terms.

use std::collections::BTreeSet;

use super::{linear, terms};
use crate::rel::{ITSELF, Recursion, Rel, SourceId, Term};
use crate::scalar::Scalar;

/// The law holds for this query: more rows of a source, or of the query itself, never make fewer rows, and the step is
/// linear in the query's own rows.
pub fn has_law(recursion: &Recursion) -> bool {
    monotone(&recursion.base.rel)
        && itself(&recursion.base.rel) == 0
        && monotone(&recursion.step.rel)
        && itself(&recursion.step.rel) == 1
        && linear(&recursion.step.rel)
}

/// What the base gains, and what the step makes of the stored rows and the changed sources.
pub fn seed(recursion: &Recursion, dirty: &BTreeSet<SourceId>) -> Vec<Term> {
    [&recursion.base, &recursion.step]
        .into_iter()
        .flat_map(|term| {
            terms(&term.rel, dirty).into_iter().map(|rel| Term {
                rel,
                columns: term.columns.clone(),
            })
        })
        .collect()
}

/// The changes of the sources as the terms read them: without rows that a condition on the table alone keeps out.
pub fn read(recursion: &Recursion, dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    let mut found = Vec::new();
    for term in [&recursion.base, &recursion.step] {
        passing(&term.rel, &[], dirty, &mut found);
    }
    found
}

fn passing(rel: &Rel, above: &[Scalar], dirty: &BTreeSet<SourceId>, found: &mut Vec<Rel>) {
    match rel {
        Rel::Scan(scan) if dirty.contains(&scan.source) => {
            let columns = rel.columns();
            let conditions = above
                .iter()
                .filter(|condition| condition.columns().is_subset(&columns))
                .cloned()
                .collect::<Vec<_>>();
            found.extend(linear::filter(rel, &conditions, dirty));
        }
        Rel::Filter { input, conditions } => {
            passing(input, &[above, conditions].concat(), dirty, found);
        }
        Rel::Join { inputs, conditions } => {
            let conditions = [above, conditions].concat();
            for input in inputs {
                passing(input, &conditions, dirty, found);
            }
        }
        other => {
            for input in other.inputs() {
                passing(input, &[], dirty, found);
            }
        }
    }
}

/// What the step makes of a change of the query's own rows.
pub fn grown(recursion: &Recursion) -> Term {
    let mut changed = terms(&recursion.step.rel, &BTreeSet::from([ITSELF]));
    Term {
        // One reference to itself is one term.
        rel: changed.swap_remove(0),
        columns: recursion.step.columns.clone(),
    }
}

fn monotone(rel: &Rel) -> bool {
    let operator = match rel {
        Rel::Scan(_)
        | Rel::Unit
        | Rel::Filter { .. }
        | Rel::Project { .. }
        | Rel::Join { .. }
        | Rel::UnionAll { .. }
        | Rel::Expand { .. }
        | Rel::ProjectSet { .. } => true,
        Rel::Match { present, .. } => *present,
        _ => false,
    };
    operator && rel.inputs().into_iter().all(monotone)
}

/// The operators above the scan of the query's own rows add nothing that is not made from them.
fn linear(rel: &Rel) -> bool {
    match rel {
        Rel::Scan(scan) => scan.source == ITSELF,
        Rel::Filter { input, .. }
        | Rel::Project { input, .. }
        | Rel::Expand { input, .. }
        | Rel::ProjectSet { input, .. }
        | Rel::Match { left: input, .. } => linear(input),
        Rel::Join { inputs, .. } => inputs.iter().any(linear),
        _ => false,
    }
}

fn itself(rel: &Rel) -> usize {
    rel.scans()
        .iter()
        .filter(|scan| scan.source == ITSELF)
        .count()
}
