//! R LEFT JOIN S = (R JOIN S) + (R ANTI JOIN S) x nulls; FULL adds nulls x (S ANTI JOIN R). While S does not change,
//! LEFT JOIN is linear in R.

use std::collections::{BTreeMap, BTreeSet};

use super::{join, matching, reads, terms};
use crate::rel::{ColId, Rel, SourceId};
use crate::scalar::{Scalar, Type};

pub(super) fn terms_of(
    left: &Rel,
    right: &Rel,
    full: bool,
    on: &[Scalar],
    dirty: &BTreeSet<SourceId>,
) -> Vec<Rel> {
    if !full && !reads(right, dirty) {
        return terms(left, dirty)
            .into_iter()
            .map(|term| Rel::Outer {
                left: Box::new(term),
                right: Box::new(right.clone()),
                full,
                on: on.to_vec(),
            })
            .collect();
    }
    let mut all = join::inner(&[left.clone(), right.clone()], on, dirty);
    all.extend(unmatched(left, right, on, dirty));
    if full {
        all.extend(unmatched(right, left, on, dirty));
    }
    all
}

/// The change of the rows of `kept` without partner, beside nulls for the columns of `other`.
fn unmatched(kept: &Rel, other: &Rel, on: &[Scalar], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    let own = kept
        .column_types()
        .into_iter()
        .map(|(id, (ty, nullable))| (id, Scalar::column(id, ty, nullable)));
    let missing = nulls(other.column_types());
    let columns: Vec<(ColId, Scalar)> = own.chain(missing).collect();
    matching::terms_of(kept, other, false, on, dirty)
        .into_iter()
        .map(|term| Rel::Project {
            input: Box::new(term),
            columns: columns.clone(),
        })
        .collect()
}

fn nulls(columns: BTreeMap<ColId, (Type, bool)>) -> impl Iterator<Item = (ColId, Scalar)> {
    columns
        .into_iter()
        .map(|(id, (ty, _))| (id, Scalar::null(ty)))
}
