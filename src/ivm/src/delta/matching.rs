//! Semi join: m(r, S) = 1 if S has a row that satisfies the condition with r, anti join: 1 if it has none; then
//! d(sum of r in R of m(r, S) r) = sum of r in dR of m(r, S_old) r + sum of r in R' of (m(r, S') - m(r, S_old)) r.
//!
//! The second sum only concerns rows of R' that meet a row of dS. No old state is read: the matches a row had are the
//! matches it has less the weights of those in dS, w together. To know whether they are and were more than none, no more
//! than max(w, 0) + 1 of the present ones have to be counted.

use std::collections::BTreeSet;

use super::{reads, terms};
use crate::rel::{Kept, Rel, SourceId};
use crate::scalar::Scalar;

pub(super) fn terms_of(
    left: &Rel,
    right: &Rel,
    present: bool,
    on: &[Scalar],
    dirty: &BTreeSet<SourceId>,
) -> Vec<Rel> {
    let left_terms = terms(left, dirty);
    if !reads(right, dirty) {
        return left_terms
            .into_iter()
            .map(|term| Rel::Match {
                left: Box::new(term),
                right: Box::new(right.clone()),
                present,
                on: on.to_vec(),
            })
            .collect();
    }
    vec![Rel::JoinChange {
        left: Box::new(left.clone()),
        right: Box::new(right.clone()),
        kind: if present {
            Kept::Matched
        } else {
            Kept::Unmatched
        },
        on: on.to_vec(),
        left_terms,
        right_terms: terms(right, dirty),
    }]
}
