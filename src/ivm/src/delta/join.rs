//! d(R1 x .. x Rn) = sum over dirty i of: R1' x .. x R(i-1)' x dRi x R(i+1) x .. x Rn
//! where ' is the new state: dirty inputs before the i-th are read at new, those after it at old, clean ones as they are.
//!
//! With old(R) = R' - dR multiplied out: the sum over all non-empty sets D of dirty inputs of (-1)^(|D|-1) times the join
//! of dRi for i in D and Ri' for the others. While few inputs are dirty that is better, because each term then joins
//! tables and changes directly; no plan has to join the union of both.
//!
//! An input whose change is more than that of a table would be evaluated once per term; then the whole change is one node
//! that evaluates the change of each input once, and deltas of nested joins grow by their depth only.

use std::collections::BTreeSet;

use super::old::old;
use super::{reads, terms};
use crate::rel::{At, Rel, SourceId};
use crate::scalar::Scalar;

/// Up to so many dirty inputs the old states are multiplied out: 3 give 7 terms instead of 3.
const MULTIPLIED_OUT: usize = 3;

pub(super) fn inner(inputs: &[Rel], conditions: &[Scalar], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    let changed: Vec<usize> = inputs
        .iter()
        .enumerate()
        .filter(|(_, input)| reads(input, dirty))
        .map(|(position, _)| position)
        .collect();
    let simple = changed.iter().all(|position| is_leaf(&inputs[*position]));
    if !simple && changed.len() > 1 {
        return vec![Rel::InnerChange {
            inputs: inputs.to_vec(),
            conditions: conditions.to_vec(),
            changes: inputs.iter().map(|input| terms(input, dirty)).collect(),
        }];
    }
    if changed.len() > MULTIPLIED_OUT {
        return telescoped(inputs, conditions, dirty);
    }
    let changes: Vec<Vec<Rel>> = inputs.iter().map(|input| terms(input, dirty)).collect();
    let mut all = Vec::new();
    for chosen in 1_u32..1 << changed.len() {
        let mut joins: Vec<Vec<Rel>> = vec![vec![]];
        for (position, input) in inputs.iter().enumerate() {
            let is_chosen = changed
                .iter()
                .position(|place| *place == position)
                .is_some_and(|place| chosen & (1 << place) != 0);
            let own = [input.clone()];
            let options = if is_chosen {
                &changes[position][..]
            } else {
                &own
            };
            joins = joins
                .iter()
                .flat_map(|join| {
                    options.iter().map(move |option| {
                        let mut join = join.clone();
                        join.push(option.clone());
                        join
                    })
                })
                .collect();
        }
        all.extend(joins.into_iter().map(|inputs| {
            let join = Rel::Join {
                inputs,
                conditions: conditions.to_vec(),
            };
            if chosen.count_ones() % 2 == 0 {
                Rel::Negate(Box::new(join))
            } else {
                join
            }
        }));
    }
    all
}

/// A table under filters and projections.
fn is_leaf(rel: &Rel) -> bool {
    match rel {
        Rel::Scan(_) => true,
        Rel::Filter { input, .. } | Rel::Project { input, .. } => is_leaf(input),
        _ => false,
    }
}

fn telescoped(inputs: &[Rel], conditions: &[Scalar], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
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
