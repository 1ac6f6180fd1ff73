//! The text form of a tree: one operator a line, inputs indented below it.

use super::{AggregateCall, AggregateKind, At, Body, ITSELF, Kept, Query, Rel, SortKey};
use crate::scalar::{Clock, Piece, Scalar};

pub(super) fn query(query: &Query) -> String {
    let output: Vec<String> = query
        .output
        .iter()
        .map(|column| format!("{}=#{}", column.name, column.id.0))
        .collect();
    let mut lines = vec![format!("Output {}", output.join(", "))];
    describe(&query.root, 1, &mut lines);
    lines.join("\n") + "\n"
}

fn describe(rel: &Rel, depth: usize, lines: &mut Vec<String>) {
    let line = match rel {
        Rel::Scan(scan) => {
            let columns: Vec<String> = scan
                .columns
                .iter()
                .map(|column| format!("#{}={}", column.id.0, column.name))
                .collect();
            let keys: Vec<String> = scan
                .keys
                .iter()
                .map(|key| {
                    key.iter()
                        .map(|id| format!("#{}", id.0))
                        .collect::<Vec<_>>()
                        .join(",")
                })
                .collect();
            let at = match scan.at {
                At::New => "",
                At::Delta => " delta",
            };
            let itself = if scan.source == ITSELF { " itself" } else { "" };
            format!(
                "Scan{at}{itself} t{} [{}] keys ({})",
                scan.instance,
                columns.join(", "),
                keys.join(") (")
            )
        }
        Rel::Filter { conditions, .. } => format!("Filter {}", conjunction(conditions)),
        Rel::Moving { conditions, .. } => {
            let now: Vec<Scalar> = conditions
                .iter()
                .map(|moving| moving.condition.clone())
                .collect();
            format!("Moving {}", conjunction(&now))
        }
        Rel::Bounded { bounds, .. } => {
            let all: Vec<Scalar> = bounds.iter().map(|bound| bound.condition.clone()).collect();
            format!("Bounded {}", conjunction(&all))
        }
        Rel::Project { columns, .. } => {
            let columns: Vec<String> = columns
                .iter()
                .map(|(id, scalar)| format!("#{}={}", id.0, expression(scalar)))
                .collect();
            format!("Project {}", columns.join(", "))
        }
        Rel::Join { conditions, .. } => format!("Join {}", conjunction(conditions)),
        Rel::Unit => "Unit".to_owned(),
        Rel::Outer { full, on, .. } => {
            let kind = if *full { "FullJoin" } else { "LeftJoin" };
            format!("{kind} {}", conjunction(on))
        }
        Rel::Match { present, on, .. } => {
            let kind = if *present { "SemiJoin" } else { "AntiJoin" };
            format!("{kind} {}", conjunction(on))
        }
        Rel::JoinChange { kind, on, .. } => {
            let kind = match kind {
                Kept::Matched => "SemiJoin",
                Kept::Unmatched => "AntiJoin",
                Kept::Left => "LeftJoin",
                Kept::Both => "FullJoin",
            };
            format!("change of {kind} {}", conjunction(on))
        }
        Rel::InnerChange { conditions, .. } => {
            format!("change of Join {}", conjunction(conditions))
        }
        Rel::Negate(_) => "Negate".to_owned(),
        Rel::Expand {
            item,
            columns,
            outer,
            on,
            ..
        } => {
            let kind = if *outer { "LeftExpand" } else { "Expand" };
            let columns: Vec<String> = columns.iter().map(|(id, _)| format!("#{}", id.0)).collect();
            let on = if *outer {
                format!(" on {}", conjunction(on))
            } else {
                String::new()
            };
            format!("{kind} {} = {}{on}", columns.join(", "), expression(item))
        }
        Rel::ProjectSet { columns, .. } => {
            let columns: Vec<String> = columns
                .iter()
                .map(|(id, scalar)| format!("#{}={}", id.0, expression(scalar)))
                .collect();
            format!("ProjectSet {}", columns.join(", "))
        }
        Rel::UnionAll { inputs, columns } => {
            let columns: Vec<String> = columns
                .iter()
                .enumerate()
                .map(|(position, (id, _))| {
                    let from: Vec<String> = inputs
                        .iter()
                        .map(|(_, from)| format!("#{}", from[position].0))
                        .collect();
                    format!("#{}=({})", id.0, from.join("|"))
                })
                .collect();
            format!("UnionAll {}", columns.join(", "))
        }
        Rel::Aggregate { keys, calls, .. } => {
            let keys: Vec<String> = keys
                .iter()
                .map(|(id, scalar)| format!("#{}={}", id.0, expression(scalar)))
                .collect();
            let calls: Vec<String> = calls
                .iter()
                .map(|(id, call)| format!("#{}={}", id.0, aggregate(call)))
                .collect();
            format!(
                "Aggregate keys [{}] calls [{}]",
                keys.join(", "),
                calls.join(", ")
            )
        }
        Rel::Partitioned { inputs, keys, body } => {
            let keys: Vec<String> = keys
                .iter()
                .map(|(id, scalar)| format!("#{}={}", id.0, expression(scalar)))
                .collect();
            let by: Vec<String> = inputs
                .iter()
                .map(|input| {
                    input
                        .keys
                        .iter()
                        .map(expression)
                        .collect::<Vec<_>>()
                        .join(",")
                })
                .collect();
            let what = match body {
                Body::SetOperation { kind, all, columns } => {
                    let columns: Vec<String> = columns
                        .iter()
                        .map(|(id, _, from)| format!("#{}=(#{}|#{})", id.0, from[0].0, from[1].0))
                        .collect();
                    let all = if *all { " all" } else { "" };
                    format!("{kind:?}{all} {}", columns.join(", "))
                }
                Body::Window { columns, .. } => {
                    let columns: Vec<String> = columns
                        .iter()
                        .map(|(id, call)| format!("#{}={}", id.0, expression(call)))
                        .collect();
                    format!("Window {}", columns.join(", "))
                }
                Body::First { order, .. } => format!("First order [{}]", sorting(order)),
                Body::Limit {
                    order,
                    count,
                    offset,
                    ties,
                    ..
                } => {
                    let shown = |value: &Option<Box<Scalar>>| {
                        value.as_deref().map_or("all".to_owned(), expression)
                    };
                    let offset = offset.as_ref().map_or(String::new(), |value| {
                        format!(" offset {}", expression(value))
                    });
                    let ties = if *ties { " with ties" } else { "" };
                    let count = shown(count);
                    format!("Limit {count}{offset}{ties} order [{}]", sorting(order))
                }
                Body::Opaque {
                    query,
                    recursion: None,
                    ..
                } => format!("Opaque {query}"),
                Body::Opaque {
                    columns,
                    recursion: Some(recursion),
                    ..
                } => {
                    let (base, step) = (&recursion.base.columns, &recursion.step.columns);
                    let columns: Vec<String> = columns
                        .iter()
                        .zip(base.iter().zip(step))
                        .map(|((id, _), (base, step))| {
                            format!("#{}=(#{}|#{})", id.0, base.0, step.0)
                        })
                        .collect();
                    let all = if recursion.all { " all" } else { "" };
                    format!("Recursion{all} {}", columns.join(", "))
                }
            };
            format!("{what} keys [{}] by ({})", keys.join(", "), by.join(") ("))
        }
    };
    lines.push(format!("{}{line}", "  ".repeat(depth)));
    if let Some((recursion, _)) = rel.recursion() {
        for term in [&recursion.base, &recursion.step] {
            describe(&term.rel, depth + 1, lines);
        }
        return;
    }
    for input in rel.inputs() {
        describe(input, depth + 1, lines);
    }
}

fn sorting(order: &[SortKey]) -> String {
    order
        .iter()
        .map(|key| {
            let nulls = if key.nulls_first { "first" } else { "last" };
            format!("{} {} nulls {nulls}", expression(&key.value), key.using)
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn conjunction(conditions: &[Scalar]) -> String {
    if conditions.is_empty() {
        return "true".to_owned();
    }
    conditions
        .iter()
        .map(expression)
        .collect::<Vec<_>>()
        .join(" and ")
}

fn aggregate(call: &AggregateCall) -> String {
    let law = match &call.kind {
        AggregateKind::CountStar | AggregateKind::Count => "fold",
        AggregateKind::Sum(_) | AggregateKind::Avg(_) => "fold",
        AggregateKind::Min | AggregateKind::Max => "extremum",
        AggregateKind::Recompute => "recompute",
    };
    format!("{} ({law})", expression(&call.call))
}

fn expression(scalar: &Scalar) -> String {
    scalar
        .pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Column(id) => format!("#{}", id.0),
            Piece::Clock(Clock::Now) => "now()".into(),
            Piece::Clock(Clock::Before) => "before()".into(),
        })
        .collect()
}
