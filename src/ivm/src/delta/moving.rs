//! d(moving(R)) = moving at the time before(dR) + the rows of R' that satisfy the conditions now and did not before, less
//! those that did before and do not now, where R' is the new state.
//!
//! A row that satisfies all conditions at one time fails at least one at the other; it is found by the first it fails, so
//! that there is one branch for each condition and no row is in two. In its branch the row satisfies a condition and the
//! negation of the same condition at the other time: two bounds of a range, for which an index is enough.

use std::collections::BTreeSet;

use super::terms;
use crate::rel::{CLOCK, Moving, Rel, SourceId};
use crate::scalar::Scalar;

pub(super) fn terms_of(input: &Rel, conditions: &[Moving], dirty: &BTreeSet<SourceId>) -> Vec<Rel> {
    let moves = dirty.contains(&CLOCK);
    let at_present = |condition: &Scalar| {
        if moves {
            condition.before()
        } else {
            condition.clone()
        }
    };
    let mut found: Vec<Rel> = terms(input, dirty)
        .into_iter()
        .map(|term| {
            let conditions = conditions
                .iter()
                .map(|moving| at_present(&moving.condition))
                .collect();
            filter(term, conditions)
        })
        .collect();
    if moves {
        for position in 0..conditions.len() {
            found.push(passed(
                input,
                conditions,
                position,
                &Scalar::clone,
                &Scalar::before,
            ));
            found.push(Rel::Negate(Box::new(passed(
                input,
                conditions,
                position,
                &Scalar::before,
                &Scalar::clone,
            ))));
        }
    }
    found
}

/// The rows that satisfy all conditions at one time and at the other fail the one at `position` first.
fn passed(
    input: &Rel,
    conditions: &[Moving],
    position: usize,
    one: &dyn Fn(&Scalar) -> Scalar,
    other: &dyn Fn(&Scalar) -> Scalar,
) -> Rel {
    let satisfied = conditions.iter().map(|moving| one(&moving.condition));
    let passing = conditions[..position]
        .iter()
        .map(|moving| other(&moving.condition));
    let failing = other(&conditions[position].negated);
    filter(
        input.clone(),
        satisfied.chain(passing).chain([failing]).collect(),
    )
}

fn filter(input: Rel, conditions: Vec<Scalar>) -> Rel {
    Rel::Filter {
        input: Box::new(input),
        conditions,
    }
}
