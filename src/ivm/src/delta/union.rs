//! d(A + B) = dA + dB.

use std::collections::BTreeSet;

use super::terms;
use crate::rel::{ColId, Rel, SourceId};
use crate::scalar::Type;

pub(super) fn all(
    inputs: &[(Rel, Vec<ColId>)],
    columns: &[(ColId, Type)],
    dirty: &BTreeSet<SourceId>,
) -> Vec<Rel> {
    inputs
        .iter()
        .flat_map(|(input, from)| {
            terms(input, dirty)
                .into_iter()
                .map(move |term| Rel::UnionAll {
                    inputs: vec![(term, from.clone())],
                    columns: columns.to_vec(),
                })
        })
        .collect()
}
