//! d(filter(R)) = filter(dR), d(project(R)) = project(dR), and so for whatever looks at one row at a time.

use std::collections::BTreeSet;

use super::terms;
use crate::rel::{ColId, Rel, SourceId};
use crate::scalar::Scalar;

pub(super) fn filter(input: &Rel, conditions: &[Scalar], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    terms(input, dirty)
        .into_iter()
        .map(|term| Rel::Filter {
            input: Box::new(term),
            conditions: conditions.to_vec(),
        })
        .collect()
}

pub(super) fn project(
    input: &Rel,
    columns: &[(ColId, Scalar)],
    dirty: &BTreeSet<SourceId>,
) -> Vec<Rel> {
    terms(input, dirty)
        .into_iter()
        .map(|term| Rel::Project {
            input: Box::new(term),
            columns: columns.to_vec(),
        })
        .collect()
}

/// The terms of an operator with one input that looks at each row alone.
pub(super) fn of_rows(rel: &Rel, input: &Rel, dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    terms(input, dirty)
        .into_iter()
        .map(|term| rel.map_inputs(&mut |_| term.clone()))
        .collect()
}
