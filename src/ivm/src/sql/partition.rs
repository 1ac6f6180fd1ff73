//! Lowering of partitioned operators, over all partitions or over the touched ones only.
//!
//! Each input becomes a derived table with one column per column id. Restricted to touched keys it is joined with them by
//! plain equality, so that an index of the input can serve; touched keys with a NULL are joined in a branch of their own.

use super::ast::{Expr, From, Query};
use super::lower::{Lowered, Sources, column_name, lower as lower_rel, scalar, union_all};
use crate::rel::{Body, ColId, PartitionInput, SetKind};
use crate::scalar::Scalar;

pub(super) fn lower(
    inputs: &[PartitionInput],
    keys: &[(ColId, Scalar)],
    body: &Body,
    sources: &Sources,
    touched: Option<&str>,
) -> Lowered {
    let mut lowered = match body {
        Body::SetOperation { kind, all, columns } => {
            let from = |side: usize| -> Vec<(ColId, ColId)> {
                columns
                    .iter()
                    .map(|(id, _, from)| (from[side], *id))
                    .collect()
            };
            let operator = match (kind, all) {
                (SetKind::Intersect, false) => "INTERSECT",
                (SetKind::Intersect, true) => "INTERSECT ALL",
                (SetKind::Except, false) => "EXCEPT",
                (SetKind::Except, true) => "EXCEPT ALL",
            };
            let alias = "p".to_owned();
            Lowered {
                columns: columns
                    .iter()
                    .map(|(id, _, _)| (*id, Expr::column(&alias, column_name(*id))))
                    .collect(),
                from: vec![From::SetOperation {
                    left: Box::new(restricted(&inputs[0], &from(0), sources, touched, true)),
                    operator,
                    right: Box::new(restricted(&inputs[1], &from(1), sources, touched, true)),
                    alias,
                }],
                ..Lowered::default()
            }
        }
    };
    let values: Vec<(ColId, Expr)> = keys
        .iter()
        .map(|(id, key)| (*id, scalar(key, &lowered)))
        .collect();
    lowered.columns.extend(values);
    lowered
}

/// The columns `from` of an input, named after the ids `to`, restricted to touched partitions. Rows with a NULL key can
/// matter or not: on the other side of an equality they never meet anything.
fn restricted(
    input: &PartitionInput,
    columns: &[(ColId, ColId)],
    sources: &Sources,
    touched: Option<&str>,
    null_keys: bool,
) -> Query {
    let branch = |with_nulls: Option<bool>| {
        let mut row = lower_rel(&input.rel, sources);
        let mut items: Vec<(Expr, String)> = columns
            .iter()
            .map(|(from, to)| (row.column(*from), column_name(*to)))
            .collect();
        if items.is_empty() {
            items.push((Expr::Integer(1), "one".into()));
        }
        let (Some(name), Some(with_nulls)) = (touched, with_nulls) else {
            return row.select(items);
        };
        let mut conditions = Vec::new();
        let mut some_null = Vec::new();
        for (position, key) in input.keys.iter().enumerate() {
            let mine = scalar(key, &row);
            let theirs = Expr::column("t", format!("k{position}"));
            let same = mine.clone().operator(
                key.ty.equality.as_deref().unwrap_or("pg_catalog.="),
                theirs.clone(),
            );
            if with_nulls {
                let both = Expr::and(vec![mine.is_null(), theirs.clone().is_null()]);
                conditions.push(Expr::Or(vec![same, both]));
            } else {
                conditions.push(same);
            }
            some_null.push(theirs.is_null());
        }
        if with_nulls {
            conditions.push(Expr::Or(some_null));
        }
        row.from.insert(
            0,
            From::Cte {
                name: name.to_owned(),
                alias: "t".into(),
            },
        );
        row.conditions.extend(conditions);
        row.select(items)
    };
    let nullable = null_keys && input.keys.iter().any(|key| key.nullable);
    let branches = match (touched, nullable) {
        (None, _) => vec![branch(None)],
        (Some(_), false) => vec![branch(Some(false))],
        (Some(_), true) => vec![branch(Some(false)), branch(Some(true))],
    };
    union_all(branches)
}
