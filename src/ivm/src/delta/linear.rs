//! d(filter(R)) = filter(dR), d(project(R)) = project(dR).

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
