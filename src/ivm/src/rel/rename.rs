//! Copies of a tree under other column and instance numbers.

use super::{
    AggregateCall, Body, Bound, ColId, Moving, OpenCall, PartitionInput, Recursion, Rel, Scan,
    ScanColumn, SortKey, SourceId, Term,
};
use crate::scalar::Scalar;

/// Gives out the numbers of a copy.
pub trait Numbers {
    /// The new id of a column; the same for the same column.
    fn column(&mut self, id: ColId) -> ColId;
    fn instance(&mut self, instance: u32) -> u32;
    /// What stands for a source.
    fn source(&mut self, source: SourceId) -> SourceId {
        source
    }
}

/// The same tree with every column and instance renumbered.
pub fn copy(rel: &Rel, numbers: &mut dyn Numbers) -> Rel {
    let named = |columns: &[(ColId, Scalar)], numbers: &mut dyn Numbers| -> Vec<(ColId, Scalar)> {
        columns
            .iter()
            .map(|(id, value)| (numbers.column(*id), scalar(value, numbers)))
            .collect()
    };
    match rel {
        Rel::Unit => Rel::Unit,
        Rel::Scan(scan) => Rel::Scan(Scan {
            source: numbers.source(scan.source),
            instance: numbers.instance(scan.instance),
            at: scan.at,
            columns: scan
                .columns
                .iter()
                .map(|column| ScanColumn {
                    id: numbers.column(column.id),
                    ..column.clone()
                })
                .collect(),
            keys: scan
                .keys
                .iter()
                .map(|key| key.iter().map(|id| numbers.column(*id)).collect())
                .collect(),
        }),
        Rel::Filter { input, conditions } => Rel::Filter {
            input: Box::new(copy(input, numbers)),
            conditions: all(conditions, numbers),
        },
        Rel::Moving { input, conditions } => Rel::Moving {
            input: Box::new(copy(input, numbers)),
            conditions: conditions
                .iter()
                .map(|moving| Moving {
                    condition: moving.condition.rename(&mut |id| numbers.column(id)),
                    negated: moving.negated.rename(&mut |id| numbers.column(id)),
                })
                .collect(),
        },
        Rel::Bounded { input, by, bounds } => Rel::Bounded {
            input: Box::new(copy(input, numbers)),
            by: Box::new(copy(by, numbers)),
            bounds: bounds
                .iter()
                .map(|bound| Bound {
                    condition: scalar(&bound.condition, numbers),
                    negated: scalar(&bound.negated, numbers),
                    value: scalar(&bound.value, numbers),
                    limit: scalar(&bound.limit, numbers),
                })
                .collect(),
        },
        Rel::Project { input, columns } => Rel::Project {
            input: Box::new(copy(input, numbers)),
            columns: named(columns, numbers),
        },
        Rel::ProjectSet { input, columns } => Rel::ProjectSet {
            input: Box::new(copy(input, numbers)),
            columns: named(columns, numbers),
        },
        Rel::Join { inputs, conditions } => Rel::Join {
            inputs: inputs.iter().map(|input| copy(input, numbers)).collect(),
            conditions: all(conditions, numbers),
        },
        Rel::Outer {
            left,
            right,
            full,
            on,
        } => Rel::Outer {
            left: Box::new(copy(left, numbers)),
            right: Box::new(copy(right, numbers)),
            full: *full,
            on: all(on, numbers),
        },
        Rel::Match {
            left,
            right,
            present,
            on,
        } => Rel::Match {
            left: Box::new(copy(left, numbers)),
            right: Box::new(copy(right, numbers)),
            present: *present,
            on: all(on, numbers),
        },
        Rel::JoinChange {
            left,
            right,
            kind,
            on,
            left_terms,
            right_terms,
        } => Rel::JoinChange {
            left: Box::new(copy(left, numbers)),
            right: Box::new(copy(right, numbers)),
            kind: *kind,
            on: all(on, numbers),
            left_terms: left_terms.iter().map(|term| copy(term, numbers)).collect(),
            right_terms: right_terms.iter().map(|term| copy(term, numbers)).collect(),
        },
        Rel::InnerChange {
            inputs,
            conditions,
            changes,
        } => Rel::InnerChange {
            inputs: inputs.iter().map(|input| copy(input, numbers)).collect(),
            conditions: all(conditions, numbers),
            changes: changes
                .iter()
                .map(|terms| terms.iter().map(|term| copy(term, numbers)).collect())
                .collect(),
        },
        Rel::Negate(input) => Rel::Negate(Box::new(copy(input, numbers))),
        Rel::Expand {
            input,
            item,
            columns,
            outer,
            on,
        } => Rel::Expand {
            input: Box::new(copy(input, numbers)),
            item: scalar(item, numbers),
            columns: columns
                .iter()
                .map(|(id, ty)| (numbers.column(*id), ty.clone()))
                .collect(),
            outer: *outer,
            on: all(on, numbers),
        },
        Rel::UnionAll { inputs, columns } => Rel::UnionAll {
            inputs: inputs
                .iter()
                .map(|(input, from)| {
                    (
                        copy(input, numbers),
                        from.iter().map(|id| numbers.column(*id)).collect(),
                    )
                })
                .collect(),
            columns: columns
                .iter()
                .map(|(id, ty)| (numbers.column(*id), ty.clone()))
                .collect(),
        },
        Rel::Aggregate { input, keys, calls } => Rel::Aggregate {
            input: Box::new(copy(input, numbers)),
            keys: named(keys, numbers),
            calls: calls
                .iter()
                .map(|(id, call)| {
                    let renamed = AggregateCall {
                        kind: call.kind.clone(),
                        argument: call.argument.as_ref().map(|value| scalar(value, numbers)),
                        filter: call.filter.as_ref().map(|value| scalar(value, numbers)),
                        call: scalar(&call.call, numbers),
                    };
                    (numbers.column(*id), renamed)
                })
                .collect(),
        },
        Rel::Partitioned { inputs, keys, body } => Rel::Partitioned {
            inputs: inputs
                .iter()
                .map(|input| PartitionInput {
                    rel: copy(&input.rel, numbers),
                    keys: all(&input.keys, numbers),
                })
                .collect(),
            keys: named(keys, numbers),
            body: body_of(body, numbers),
        },
    }
}

fn body_of(body: &Body, numbers: &mut dyn Numbers) -> Body {
    let sorted = |order: &[SortKey], numbers: &mut dyn Numbers| -> Vec<SortKey> {
        order
            .iter()
            .map(|key| SortKey {
                value: scalar(&key.value, numbers),
                ..key.clone()
            })
            .collect()
    };
    match body {
        Body::SetOperation { kind, all, columns } => Body::SetOperation {
            kind: *kind,
            all: *all,
            columns: columns
                .iter()
                .map(|(id, ty, from)| {
                    (
                        numbers.column(*id),
                        ty.clone(),
                        from.map(|id| numbers.column(id)),
                    )
                })
                .collect(),
        },
        Body::Window { columns, open } => Body::Window {
            columns: columns
                .iter()
                .map(|(id, call)| (numbers.column(*id), scalar(call, numbers)))
                .collect(),
            open: open
                .iter()
                .map(|call| OpenCall {
                    column: numbers.column(call.column),
                    over: scalar(&call.over, numbers),
                    is_number: call.is_number,
                })
                .collect(),
        },
        Body::First { order, open } => Body::First {
            order: sorted(order, numbers),
            open: *open,
        },
        Body::Limit {
            order,
            count,
            offset,
            ties,
            open,
        } => Body::Limit {
            order: sorted(order, numbers),
            count: count.clone(),
            offset: offset.clone(),
            ties: *ties,
            open: *open,
        },
        Body::Opaque {
            query,
            columns,
            recursion,
        } => Body::Opaque {
            query: query.clone(),
            columns: columns
                .iter()
                .map(|(id, ty)| (numbers.column(*id), ty.clone()))
                .collect(),
            recursion: recursion.as_ref().map(|recursion| {
                Box::new(Recursion {
                    all: recursion.all,
                    base: term(&recursion.base, numbers),
                    step: term(&recursion.step, numbers),
                })
            }),
        },
    }
}

fn term(term: &Term, numbers: &mut dyn Numbers) -> Term {
    Term {
        rel: copy(&term.rel, numbers),
        columns: term.columns.iter().map(|id| numbers.column(*id)).collect(),
    }
}

fn all(scalars: &[Scalar], numbers: &mut dyn Numbers) -> Vec<Scalar> {
    scalars.iter().map(|value| scalar(value, numbers)).collect()
}

fn scalar(value: &Scalar, numbers: &mut dyn Numbers) -> Scalar {
    value.rename(&mut |id| numbers.column(id))
}
