//! d(R1 x .. x Rn) = sum over all non-empty sets D of changed inputs of (-1)^(|D|-1) times the join of dRi for i in D and
//! Ri' for the others, where ' is the new state. Of many changed inputs: the sum over changed i of
//! R1' x .. x R(i-1)' x dRi x R(i+1) x .. x Rn, where the later ones are read as they were, R = R' - dR.
//!
//! While few inputs changed the first form is better, because each branch then joins tables and changes directly; no plan
//! has to join the union of both. With more than one changed input the whole is one node that evaluates the change of
//! each input once, so that deltas of nested joins grow by their depth only.

use std::collections::BTreeSet;

use super::{reads, terms};
use crate::rel::{Rel, SourceId};
use crate::scalar::Scalar;

pub(super) fn inner(inputs: &[Rel], conditions: &[Scalar], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    let mut changed = inputs
        .iter()
        .enumerate()
        .filter(|(_, input)| reads(input, dirty));
    let (Some((position, input)), None) = (changed.next(), changed.next()) else {
        return vec![Rel::InnerChange {
            inputs: inputs.to_vec(),
            conditions: conditions.to_vec(),
            changes: inputs.iter().map(|input| terms(input, dirty)).collect(),
        }];
    };
    terms(input, dirty)
        .into_iter()
        .map(|term| {
            let mut inputs = inputs.to_vec();
            inputs[position] = term;
            Rel::Join {
                inputs,
                conditions: conditions.to_vec(),
            }
        })
        .collect()
}
