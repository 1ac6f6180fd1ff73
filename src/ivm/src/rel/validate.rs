//! Invariants of a tree, checked after analysis and after every rewrite.

use std::collections::BTreeSet;

use super::{Body, ColId, Query, Rel, Term};
use crate::scalar::Scalar;

/// A tree that breaks an invariant: always a defect of this program, never of the user's query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("column #{} is read but not produced below {operator}", .column.0)]
    Unbound {
        column: ColId,
        operator: &'static str,
    },
    #[error("column #{} is produced twice", .0.0)]
    Duplicate(ColId),
    #[error("a union input has {found} columns instead of {expected}")]
    Arity { expected: usize, found: usize },
}

pub(super) fn query(query: &Query) -> Result<(), Malformed> {
    unique(&query.root, &mut BTreeSet::new())?;
    let produced = check(&query.root)?;
    for column in &query.output {
        bound(&produced, column.id, "the output")?;
    }
    Ok(())
}

fn check(rel: &Rel) -> Result<BTreeSet<ColId>, Malformed> {
    match rel {
        Rel::Scan(_) => {}
        Rel::Filter { input, conditions } => {
            let below = check(input)?;
            scalars(&below, conditions.iter(), "a filter")?;
        }
        Rel::Moving { input, conditions } => {
            let below = check(input)?;
            let all = conditions
                .iter()
                .flat_map(|moving| [&moving.condition, &moving.negated]);
            scalars(&below, all, "a moving filter")?;
        }
        Rel::Bounded { input, by, bounds } => {
            let mut below = check(input)?;
            scalars(&below, bounds.iter().map(|bound| &bound.value), "a value")?;
            let one = check(by)?;
            scalars(&one, bounds.iter().map(|bound| &bound.limit), "a limit")?;
            below.extend(one);
            let all = bounds
                .iter()
                .flat_map(|bound| [&bound.condition, &bound.negated]);
            scalars(&below, all, "a bound")?;
        }
        Rel::Project { input, columns } => {
            let below = check(input)?;
            scalars(
                &below,
                columns.iter().map(|(_, scalar)| scalar),
                "a projection",
            )?;
        }
        Rel::Join { inputs, conditions }
        | Rel::InnerChange {
            inputs, conditions, ..
        } => {
            let mut below = BTreeSet::new();
            for input in inputs {
                below.extend(check(input)?);
            }
            scalars(&below, conditions.iter(), "a join")?;
        }
        Rel::Unit => {}
        Rel::Negate(input) => {
            check(input)?;
        }
        Rel::Outer {
            left, right, on, ..
        }
        | Rel::Match {
            left, right, on, ..
        }
        | Rel::JoinChange {
            left, right, on, ..
        } => {
            let mut below = check(left)?;
            below.extend(check(right)?);
            scalars(&below, on.iter(), "a join")?;
        }
        Rel::Expand {
            input,
            item,
            columns,
            on,
            ..
        } => {
            let mut below = check(input)?;
            scalars(&below, std::iter::once(item), "a function in FROM")?;
            below.extend(columns.iter().map(|(id, _)| *id));
            scalars(&below, on.iter(), "a join")?;
        }
        Rel::ProjectSet { input, columns } => {
            let below = check(input)?;
            scalars(
                &below,
                columns.iter().map(|(_, scalar)| scalar),
                "a projection",
            )?;
        }
        Rel::UnionAll { inputs, columns } => {
            for (input, from) in inputs {
                let below = check(input)?;
                if from.len() != columns.len() {
                    return Err(Malformed::Arity {
                        expected: columns.len(),
                        found: from.len(),
                    });
                }
                for id in from {
                    bound(&below, *id, "a union")?;
                }
            }
        }
        Rel::Aggregate { input, keys, calls } => {
            let below = check(input)?;
            scalars(&below, keys.iter().map(|(_, scalar)| scalar), "a group key")?;
            for (_, call) in calls {
                scalars(&below, std::iter::once(&call.call), "an aggregate")?;
                scalars(&below, call.argument.iter(), "an aggregate's argument")?;
                scalars(&below, call.filter.iter(), "an aggregate's filter")?;
            }
        }
        Rel::Partitioned { inputs, keys, body } => {
            let mut below = BTreeSet::new();
            for input in inputs {
                let columns = check(&input.rel)?;
                scalars(&columns, input.keys.iter(), "a partition key")?;
                below.extend(columns);
            }
            match body {
                Body::SetOperation { columns, .. } => {
                    for id in columns.iter().flat_map(|(_, _, from)| from) {
                        bound(&below, *id, "a set operation")?;
                    }
                    below.extend(columns.iter().map(|(id, _, _)| *id));
                }
                Body::Window { columns, open } => {
                    let calls = columns.iter().map(|(_, call)| call);
                    scalars(&below, calls, "a window")?;
                    scalars(&below, open.iter().map(|call| &call.over), "a window")?;
                }
                Body::First { order, .. } | Body::Limit { order, .. } => {
                    scalars(&below, order.iter().map(|key| &key.value), "an order")?;
                }
                Body::Opaque {
                    columns, recursion, ..
                } => {
                    for term in recursion
                        .iter()
                        .flat_map(|recursion| [&recursion.base, &recursion.step])
                    {
                        check_term(term, columns.len())?;
                    }
                    below.extend(columns.iter().map(|(id, _)| *id));
                }
            }
            scalars(&below, keys.iter().map(|(_, key)| key), "a partition key")?;
        }
    }
    Ok(rel.columns())
}

fn check_term(term: &Term, expected: usize) -> Result<(), Malformed> {
    let below = check(&term.rel)?;
    if term.columns.len() != expected {
        return Err(Malformed::Arity {
            expected,
            found: term.columns.len(),
        });
    }
    term.columns
        .iter()
        .try_for_each(|id| bound(&below, *id, "a recursive query"))
}

fn scalars<'a>(
    below: &BTreeSet<ColId>,
    scalars: impl Iterator<Item = &'a Scalar>,
    operator: &'static str,
) -> Result<(), Malformed> {
    for scalar in scalars {
        for id in scalar.columns() {
            bound(below, id, operator)?;
        }
    }
    Ok(())
}

fn bound(below: &BTreeSet<ColId>, column: ColId, operator: &'static str) -> Result<(), Malformed> {
    if below.contains(&column) {
        Ok(())
    } else {
        Err(Malformed::Unbound { column, operator })
    }
}

/// Ids are unique: a column is produced by one node (a filter or join only passes columns on).
fn unique(rel: &Rel, seen: &mut BTreeSet<ColId>) -> Result<(), Malformed> {
    let produced: Vec<ColId> = match rel {
        Rel::Scan(scan) => scan.columns.iter().map(|column| column.id).collect(),
        // A projection may pass a column on under its own id.
        Rel::Project { columns, .. } | Rel::ProjectSet { columns, .. } => columns
            .iter()
            .filter(|(id, scalar)| scalar.as_column() != Some(*id))
            .map(|(id, _)| *id)
            .collect(),
        Rel::UnionAll { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
        Rel::Aggregate { keys, calls, .. } => keys
            .iter()
            .map(|(id, _)| *id)
            .chain(calls.iter().map(|(id, _)| *id))
            .collect(),
        Rel::Expand { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
        Rel::Filter { .. }
        | Rel::Moving { .. }
        | Rel::Bounded { .. }
        | Rel::Join { .. }
        | Rel::InnerChange { .. }
        | Rel::Unit
        | Rel::Outer { .. }
        | Rel::Match { .. }
        | Rel::JoinChange { .. }
        | Rel::Negate(_) => vec![],
        Rel::Partitioned { keys, body, .. } => {
            let own: Vec<ColId> = match body {
                Body::SetOperation { columns, .. } => {
                    columns.iter().map(|(id, _, _)| *id).collect()
                }
                Body::Opaque { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
                Body::Window { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
                Body::First { .. } | Body::Limit { .. } => vec![],
            };
            keys.iter().map(|(id, _)| *id).chain(own).collect()
        }
    };
    for id in produced {
        if !seen.insert(id) {
            return Err(Malformed::Duplicate(id));
        }
    }
    let terms = rel
        .recursion()
        .map(|(recursion, _)| [&recursion.base.rel, &recursion.step.rel]);
    rel.inputs()
        .into_iter()
        .chain(terms.into_iter().flatten())
        .try_for_each(|input| unique(input, seen))
}
