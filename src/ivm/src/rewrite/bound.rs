//! A join with exactly one row that only bounds a side of it is a filter of that side.
//!
//! `R ⋈c T` without the columns of `T`, where `T` always is one row and `c` compares values of `R` with values of `T`, has
//! the rows of `R` that satisfy `c`. Such a `T` is the total, the average, the largest value of something: it changes
//! whenever anything does, and with it only the rows between its value before and after come and go.

use std::collections::BTreeSet;

use crate::facts::is_one_row;
use crate::rel::{Body, Bound, ColId, OutputColumn, Rel};
use crate::scalar::{Scalar, Shape};

/// `root`, of which `output` is read, with the joins that only bound written as such.
pub(super) fn bound(root: &Rel, output: &[OutputColumn]) -> Rel {
    let wanted = output.iter().map(|column| column.id).collect();
    visit(root, &wanted)
}

pub(super) type Columns = BTreeSet<ColId>;

/// `wanted` are the columns that are read above `rel`.
fn visit(rel: &Rel, wanted: &Columns) -> Rel {
    let Some((mut inputs, mut conditions)) = joined(rel) else {
        return below(rel, wanted);
    };
    let before = inputs.len();
    while let Some(Bounding { one, rows, bounds }) = bounding(&inputs, &conditions, wanted) {
        let columns = inputs[one].columns();
        conditions.retain(|condition| condition.columns().is_disjoint(&columns));
        let by = Box::new(inputs[one].clone());
        let input = Box::new(inputs[rows].clone());
        inputs[rows] = Rel::Bounded { input, by, bounds };
        inputs.remove(one);
    }
    if inputs.len() == before {
        return below(rel, wanted);
    }
    let wanted = with(wanted, &conditions);
    let mut inputs: Vec<Rel> = inputs.iter().map(|input| visit(input, &wanted)).collect();
    match (inputs.len(), conditions.is_empty()) {
        (1, true) => inputs.remove(0),
        (1, false) => Rel::Filter {
            input: Box::new(inputs.remove(0)),
            conditions,
        },
        _ => Rel::Join { inputs, conditions },
    }
}

/// The inputs of a join and all conditions on its rows.
fn joined(rel: &Rel) -> Option<(Vec<Rel>, Vec<Scalar>)> {
    match rel {
        Rel::Join { inputs, conditions } => Some((inputs.clone(), conditions.clone())),
        Rel::Filter { input, conditions } => match &**input {
            Rel::Join { .. } => {
                let (inputs, mut all) = joined(input)?;
                all.extend(conditions.iter().cloned());
                Some((inputs, all))
            }
            _ => None,
        },
        _ => None,
    }
}

/// The same operator over inputs that have been visited.
fn below(rel: &Rel, wanted: &Columns) -> Rel {
    match rel {
        Rel::Project { input, columns } => project(input, columns, wanted),
        // Known as text.
        Rel::Partitioned {
            body: Body::Opaque { .. },
            ..
        } => rel.clone(),
        _ => {
            let read = read(rel, wanted);
            rel.map_inputs(&mut |input| visit(input, &read))
        }
    }
}

/// The columns of its inputs that an operator reads, if `wanted` are read of it.
pub(super) fn read(rel: &Rel, wanted: &Columns) -> Columns {
    match rel {
        Rel::Filter { conditions, .. } | Rel::Join { conditions, .. } => with(wanted, conditions),
        Rel::Outer { on, .. } | Rel::Match { on, .. } => with(wanted, on),
        Rel::Bounded { bounds, .. } => with(wanted, bounds.iter().map(|bound| &bound.condition)),
        Rel::Project { columns, .. } => {
            let read = columns.iter().filter(|(id, _)| wanted.contains(id));
            with(&Columns::new(), read.map(|(_, value)| value))
        }
        Rel::ProjectSet { columns, .. } => {
            with(&Columns::new(), columns.iter().map(|(_, value)| value))
        }
        Rel::UnionAll { inputs, .. } => inputs.iter().flat_map(|(_, from)| from).copied().collect(),
        Rel::Aggregate { keys, calls, .. } => {
            let called = calls.iter().flat_map(|(_, call)| {
                [&call.call]
                    .into_iter()
                    .chain(&call.argument)
                    .chain(&call.filter)
            });
            let values = keys.iter().map(|(_, value)| value).chain(called);
            with(&Columns::new(), values)
        }
        Rel::Partitioned { inputs, keys, body } => {
            let keys = keys.iter().map(|(_, value)| value);
            let keys = keys.chain(inputs.iter().flat_map(|input| &input.keys));
            with(&of_body(body, wanted), keys)
        }
        other => other.inputs().into_iter().flat_map(Rel::columns).collect(),
    }
}

/// What a partitioned operator reads of its inputs, and what is read through it.
fn of_body(body: &Body, wanted: &Columns) -> Columns {
    match body {
        Body::SetOperation { columns, .. } => {
            columns.iter().flat_map(|(_, _, from)| *from).collect()
        }
        Body::Window { columns, .. } => with(wanted, columns.iter().map(|(_, call)| call)),
        Body::First { order, .. } => with(wanted, order.iter().map(|key| &key.value)),
        Body::Limit {
            order,
            count,
            offset,
            ..
        } => {
            let bounds = count.iter().chain(offset).map(|value| &**value);
            with(wanted, order.iter().map(|key| &key.value).chain(bounds))
        }
        Body::Opaque { .. } => wanted.clone(),
    }
}

/// What nobody reads is given up if its columns are not there any more.
fn project(input: &Rel, columns: &[(ColId, Scalar)], wanted: &Columns) -> Rel {
    let taken = columns.iter().filter(|(id, _)| wanted.contains(id));
    let input = visit(input, &with(&Columns::new(), taken.map(|(_, value)| value)));
    let there = input.columns();
    let mut columns = columns.to_vec();
    columns.retain(|(id, value)| wanted.contains(id) || value.columns().is_subset(&there));
    Rel::Project {
        input: Box::new(input),
        columns,
    }
}

pub(super) fn with<'a>(wanted: &Columns, read: impl IntoIterator<Item = &'a Scalar>) -> Columns {
    let read = read.into_iter().flat_map(Scalar::columns);
    wanted.iter().copied().chain(read).collect()
}

/// The input at `one` bounds that at `rows` and does nothing else.
struct Bounding {
    one: usize,
    rows: usize,
    bounds: Vec<Bound>,
}

fn bounding(inputs: &[Rel], conditions: &[Scalar], wanted: &Columns) -> Option<Bounding> {
    let columns: Vec<Columns> = inputs.iter().map(Rel::columns).collect();
    let pairs = (0..inputs.len()).flat_map(|one| (0..inputs.len()).map(move |rows| (one, rows)));
    pairs
        .filter(|(one, rows)| {
            one != rows
                && is_one_row(&inputs[*one])
                && columns[*one].is_disjoint(wanted)
                && is_read_alone(&inputs[*rows])
        })
        .find_map(|(one, rows)| {
            let bounds: Vec<Bound> = conditions
                .iter()
                .filter(|condition| !condition.columns().is_disjoint(&columns[one]))
                .map(|condition| compared(condition, &columns[rows], &columns[one]))
                .collect::<Option<_>>()?;
            (!bounds.is_empty()).then_some(Bounding { one, rows, bounds })
        })
}

/// A comparison of a value of `rows` with one of `one`.
fn compared(condition: &Scalar, rows: &Columns, one: &Columns) -> Option<Bound> {
    let Shape::Ordered(ordered) = &condition.shape else {
        return None;
    };
    let of = |side: &Scalar, columns: &Columns| {
        let read = side.columns();
        !read.is_empty() && read.is_subset(columns)
    };
    let (left, right) = (&ordered.left, &ordered.right);
    [(left, right), (right, left)]
        .into_iter()
        .find(|(value, limit)| of(value, rows) && of(limit, one))
        .map(|(value, limit)| Bound {
            condition: condition.clone(),
            negated: ordered.negated.clone(),
            value: value.clone(),
            limit: limit.clone(),
        })
}

/// One thing that is stored: it is cheap to look at more than once.
fn is_read_alone(rel: &Rel) -> bool {
    match rel {
        Rel::Scan(_) | Rel::Aggregate { .. } | Rel::Partitioned { .. } => true,
        Rel::Filter { input, .. } | Rel::Project { input, .. } | Rel::Bounded { input, .. } => {
            is_read_alone(input)
        }
        _ => false,
    }
}
