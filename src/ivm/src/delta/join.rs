//! d(R1 x .. x Rn) = sum over dirty i of: R1' x .. x R(i-1)' x dRi x R(i+1) x .. x Rn
//! where ' is the new state: dirty inputs before the i-th are read at new, those after it at old, clean ones as they are.

use std::collections::BTreeSet;

use super::old::old;
use super::{reads, terms};
use crate::rel::{At, Rel, SourceId};
use crate::scalar::Scalar;

pub(super) fn inner(inputs: &[Rel], conditions: &[Scalar], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    let mut all = Vec::new();
    for (position, input) in inputs.iter().enumerate() {
        if !reads(input, dirty) {
            continue;
        }
        for term in terms(input, dirty) {
            let joined = inputs
                .iter()
                .enumerate()
                .map(|(other, input)| match other.cmp(&position) {
                    std::cmp::Ordering::Less => input.read_at(At::New, dirty),
                    std::cmp::Ordering::Equal => term.clone(),
                    std::cmp::Ordering::Greater => old(input, dirty),
                })
                .collect();
            all.push(Rel::Join {
                inputs: joined,
                conditions: conditions.to_vec(),
            });
        }
    }
    all
}
