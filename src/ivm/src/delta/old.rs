//! old(R) = R' - dR: taken at the leaves where an operator is multilinear, around the operator where it is not.

use std::collections::BTreeSet;

use super::{reads, terms};
use crate::rel::{At, Rel, SourceId};

/// `rel` as the frontier saw it, when the sources in `dirty` changed.
pub(super) fn old(rel: &Rel, dirty: &BTreeSet<SourceId>) -> Rel {
    if !reads(rel, dirty) {
        return rel.clone();
    }
    match rel {
        Rel::Outer { .. } | Rel::Match { .. } => {
            let types = rel.column_types();
            let ids: Vec<_> = types.keys().copied().collect();
            let taken_back = terms(rel, dirty)
                .into_iter()
                .map(|term| Rel::Negate(Box::new(term)));
            Rel::UnionAll {
                inputs: std::iter::once(rel.clone())
                    .chain(taken_back)
                    .map(|input| (input, ids.clone()))
                    .collect(),
                columns: types.into_iter().map(|(id, (ty, _))| (id, ty)).collect(),
            }
        }
        Rel::Scan(_) => rel.read_at(At::Old, dirty),
        other => other.map_inputs(&mut |input| old(input, dirty)),
    }
}
