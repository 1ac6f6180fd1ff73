//! Lowering of outer, semi and anti joins and of items computed from a row, and the words that their changes are put in.

use std::collections::BTreeMap;

use super::ast::{Cte, CteBody, Expr, From, JoinKind, Query, Select};
use super::lower::{Lowered, Sources, column_name, derived, image, lower, scalar};
use crate::rel::{ColId, Rel};
use crate::scalar::{Scalar, Type};

pub(super) fn outer(
    left: &Rel,
    right: &Rel,
    full: bool,
    on: &[Scalar],
    sources: &Sources,
) -> Lowered {
    let (left, mut columns, weights) = side(left, sources);
    let (right, more, _) = side(right, sources);
    columns.extend(more);
    Lowered {
        from: vec![From::Join {
            left: Box::new(left),
            kind: if full { JoinKind::Full } else { JoinKind::Left },
            right: Box::new(right),
            on: conjunction(on, &columns),
        }],
        conditions: vec![],
        columns,
        weights,
    }
}

pub(super) fn matching(
    left: &Rel,
    right: &Rel,
    present: bool,
    on: &[Scalar],
    sources: &Sources,
) -> Lowered {
    let mut row = lower(left, sources);
    let partner = lower(right, sources);
    let mut columns = row.columns.clone();
    columns.extend(partner.columns.clone());
    let mut select = partner.select(vec![(Expr::Integer(1), "one".into())]);
    select.conditions.push(conjunction(on, &columns));
    let exists = Expr::Exists(Box::new(select));
    row.conditions.push(if present {
        exists
    } else {
        Expr::Not(Box::new(exists))
    });
    row
}

/// The rows of `input` beside those of an item computed from them; `left` holds the conditions of a LEFT JOIN.
pub(super) fn expand(
    input: &Rel,
    item: &Scalar,
    columns: &[(ColId, Type)],
    left: Option<&Vec<Scalar>>,
    sources: &Sources,
) -> Lowered {
    let alias = format!("e{}", columns.first().map_or(0, |(id, _)| id.0));
    let names = columns.iter().map(|(id, _)| column_name(*id)).collect();
    let own = columns
        .iter()
        .map(|(id, _)| (*id, Expr::column(&alias, column_name(*id))));
    let Some(on) = left else {
        let mut row = lower(input, sources);
        let item = scalar(item, &row);
        row.columns.extend(own);
        row.from.push(From::Item {
            item,
            alias,
            columns: names,
        });
        return row;
    };
    let (from, mut known, weights) = side(input, sources);
    let row = Lowered {
        columns: known.clone(),
        ..Lowered::default()
    };
    let item = scalar(item, &row);
    known.extend(own);
    Lowered {
        from: vec![From::Join {
            left: Box::new(from),
            kind: JoinKind::Left,
            on: conjunction(on, &known),
            right: Box::new(From::Item {
                item,
                alias,
                columns: names,
            }),
        }],
        conditions: vec![],
        columns: known,
        weights,
    }
}

/// One side of an explicit join: a single FROM item whose columns are bare columns.
fn side(rel: &Rel, sources: &Sources) -> (From, BTreeMap<ColId, Expr>, Vec<Expr>) {
    let row = lower(rel, sources);
    let ids: Vec<ColId> = rel.columns().into_iter().collect();
    let bare = ids
        .iter()
        .all(|id| matches!(row.columns.get(id), Some(Expr::Column(..))));
    if row.from.len() == 1 && row.conditions.is_empty() && bare {
        let mut from = row.from;
        return (from.remove(0), row.columns, row.weights);
    }
    let weighted = !row.weights.is_empty();
    let mut items = items_of(&row, &ids);
    if let Some(weight) = row.weight() {
        items.push((weight.cast("pg_catalog.int4"), "w".into()));
    }
    if items.is_empty() {
        items.push((Expr::Integer(1), "one".into()));
    }
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(rel));
    let mut table = derived(row.select(items).into(), &[alias_by], weighted);
    let alias = format!("u{}", alias_by.0);
    table.columns = ids
        .iter()
        .map(|id| (*id, Expr::column(&alias, column_name(*id))))
        .collect();
    (table.from.remove(0), table.columns, table.weights)
}

/// A number for the alias of a derived table without columns, different from every column's.
pub(super) fn stand_in(rel: &Rel) -> ColId {
    let instance = rel.scans().first().map_or(0, |scan| scan.instance);
    ColId((1 << 30) + instance)
}

pub(super) fn items_of(row: &Lowered, ids: &[ColId]) -> Vec<(Expr, String)> {
    ids.iter()
        .map(|id| (row.column(*id), column_name(*id)))
        .collect()
}

pub(super) fn conjunction(on: &[Scalar], columns: &BTreeMap<ColId, Expr>) -> Expr {
    let row = Lowered {
        columns: columns.clone(),
        ..Lowered::default()
    };
    Expr::and(on.iter().map(|condition| scalar(condition, &row)).collect())
}

/// The columns `ids` of a derived table or CTE under `alias`.
pub(super) fn under(alias: &str, ids: &[ColId]) -> BTreeMap<ColId, Expr> {
    ids.iter()
        .map(|id| (*id, Expr::column(alias, column_name(*id))))
        .collect()
}

pub(super) fn materialized(name: &str, query: Query) -> Cte {
    Cte {
        name: name.to_owned(),
        materialized: true,
        body: CteBody::Query(query),
    }
}

pub(super) fn from_cte(name: &str, alias: &str) -> From {
    From::Cte {
        name: name.to_owned(),
        alias: alias.to_owned(),
    }
}

pub(super) fn int(value: Expr) -> Expr {
    value.cast("pg_catalog.int4")
}

/// A change of these columns, each image of them once.
pub(super) fn net(change: Query, ids: &[ColId]) -> Query {
    if ids.is_empty() {
        return change;
    }
    let columns: Vec<Expr> = ids
        .iter()
        .map(|id| Expr::column("x", column_name(*id)))
        .collect();
    let weight = || Expr::aggregate("sum", Expr::column("x", "w"));
    let mut items: Vec<(Expr, String)> = columns
        .iter()
        .zip(ids)
        .map(|(column, id)| {
            (
                Expr::aggregate("any_value", column.clone()),
                column_name(*id),
            )
        })
        .collect();
    items.push((int(weight()), "w".into()));
    Select {
        items,
        from: vec![From::Select {
            query: Box::new(change),
            alias: "x".into(),
            lateral: false,
        }],
        group_by: vec![image(columns)],
        having: Some(weight().infix("<>", Expr::Integer(0))),
        ..Select::default()
    }
    .into()
}
