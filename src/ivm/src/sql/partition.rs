//! Lowering of partitioned operators, over all partitions or over the touched ones only.
//!
//! Each input becomes a derived table with one column per column id. Restricted to touched keys it is joined with them by
//! plain equality, so that an index of the input can serve; touched keys with a NULL are joined in a branch of their own.
//! Without keys there is one partition and at most one touched row: whether there is one is asked first, once, and if there
//! is none nothing is read. A join with that row would leave it to the planner to read everything before it asks.

use super::ast::{Expr, From, Query, Select, TextPiece};
use super::lower::{
    Lowered, Sources, column_name, derived, group_key, lower as lower_rel, scalar, union_all,
};
use crate::rel::{Body, ColId, PartitionInput, SetKind, SortKey};
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
        Body::Window { columns, .. } => {
            let (from, row) = only_input(inputs, sources, touched);
            let mut items = passed(&row);
            items.extend(
                columns
                    .iter()
                    .map(|(id, call)| (scalar(call, &row), column_name(*id))),
            );
            let select = Select {
                items,
                from: vec![from],
                ..Select::default()
            };
            let ids: Vec<ColId> = row
                .columns
                .keys()
                .copied()
                .chain(columns.iter().map(|(id, _)| *id))
                .collect();
            derived(select.into(), &ids, false)
        }
        Body::First { order, .. } => {
            let (from, row) = only_input(inputs, sources, touched);
            let select = Select {
                distinct_on: inputs[0]
                    .keys
                    .iter()
                    .map(|key| group_key(key, &row))
                    .collect(),
                items: passed(&row),
                from: vec![from],
                order_by: order_by(order, &row),
                ..Select::default()
            };
            let ids: Vec<ColId> = row.columns.keys().copied().collect();
            derived(select.into(), &ids, false)
        }
        Body::Limit {
            order,
            count,
            offset,
            ties,
            ..
        } => {
            let (from, row) = only_input(inputs, sources, touched);
            let select = Select {
                items: passed(&row),
                from: vec![from],
                order_by: order_by(order, &row),
                rows: Some(rows(count.as_deref(), offset.as_deref(), *ties)),
                ..Select::default()
            };
            let ids: Vec<ColId> = row.columns.keys().copied().collect();
            derived(select.into(), &ids, false)
        }
        Body::Opaque { query, columns, .. } => {
            let alias = "p".to_owned();
            let whole = From::Item {
                item: Expr::Pieces(vec![TextPiece::Text(format!("({query})"))]),
                alias: alias.clone(),
                columns: columns.iter().map(|(id, _)| column_name(*id)).collect(),
            };
            Lowered {
                columns: columns
                    .iter()
                    .map(|(id, _)| (*id, Expr::column(&alias, column_name(*id))))
                    .collect(),
                from: vec![whole],
                conditions: touched.map(some_touched).into_iter().collect(),
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

/// The one input as a derived table, and its columns there.
fn only_input(
    inputs: &[PartitionInput],
    sources: &Sources,
    touched: Option<&str>,
) -> (From, Lowered) {
    let alias = "p";
    let ids = inputs[0].rel.columns();
    let same: Vec<(ColId, ColId)> = ids.iter().map(|id| (*id, *id)).collect();
    let from = From::Select {
        query: Box::new(restricted(&inputs[0], &same, sources, touched, true)),
        alias: alias.to_owned(),
        lateral: false,
    };
    let row = Lowered {
        columns: ids
            .into_iter()
            .map(|id| (id, Expr::column(alias, column_name(id))))
            .collect(),
        ..Lowered::default()
    };
    (from, row)
}

/// There is a row in CTE `touched`. It depends on no row, so it is evaluated once and before anything is read.
fn some_touched(touched: &str) -> Expr {
    Expr::Exists(Box::new(Select {
        items: vec![(Expr::Integer(1), "one".into())],
        from: vec![From::Cte {
            name: touched.to_owned(),
            alias: "t".into(),
        }],
        ..Select::default()
    }))
}

/// Every column of a derived table.
fn passed(row: &Lowered) -> Vec<(Expr, String)> {
    row.columns
        .iter()
        .map(|(id, column)| (column.clone(), column_name(*id)))
        .collect()
}

/// Sort keys over `row`.
pub fn order_by(order: &[SortKey], row: &Lowered) -> Vec<Expr> {
    order
        .iter()
        .map(|key| sorted(group_key(&key.value, row), key))
        .collect()
}

/// `value USING OPERATOR(..) NULLS ..`
pub fn sorted(value: Expr, key: &SortKey) -> Expr {
    let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
    Expr::Pieces(vec![
        TextPiece::Expr(value),
        TextPiece::Text(format!(" USING OPERATOR({}) NULLS {nulls}", key.using)),
    ])
}

/// ` OFFSET .. LIMIT ..`
fn rows(count: Option<&Scalar>, offset: Option<&Scalar>, ties: bool) -> Expr {
    let nothing = Lowered::default();
    let mut pieces = Vec::new();
    if let Some(offset) = offset {
        pieces.push(TextPiece::Text(" OFFSET ".into()));
        pieces.push(TextPiece::Expr(scalar(offset, &nothing)));
    }
    if let Some(count) = count {
        let words = if ties {
            (" FETCH FIRST ", " ROWS WITH TIES")
        } else {
            (" LIMIT ", "")
        };
        pieces.push(TextPiece::Text(words.0.into()));
        pieces.push(TextPiece::Expr(scalar(count, &nothing)));
        pieces.push(TextPiece::Text(words.1.into()));
    }
    Expr::Pieces(pieces)
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
        if input.keys.is_empty() {
            row.conditions.push(some_touched(name));
            return row.select(items);
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
