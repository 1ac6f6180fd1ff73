//! R LEFT JOIN S = (R JOIN S) + (R ANTI JOIN S) x nulls; FULL adds nulls x (S ANTI JOIN R). While S does not change,
//! LEFT JOIN is linear in R.
//!
//! The change of the pairs is dR JOIN S' + R' JOIN dS - dR JOIN dS; that of the rest follows the law of the anti join. All
//! of it is one node, so that the changes of both sides are evaluated once: a chain of joins whose inputs all changed
//! grows by its length, not by the number of combinations.

use std::collections::BTreeSet;

use super::{reads, terms};
use crate::rel::{Kept, Rel, SourceId};
use crate::scalar::Scalar;

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
    vec![Rel::JoinChange {
        left: Box::new(left.clone()),
        right: Box::new(right.clone()),
        kind: if full { Kept::Both } else { Kept::Left },
        on: on.to_vec(),
        left_terms: terms(left, dirty),
        right_terms: terms(right, dirty),
    }]
}
