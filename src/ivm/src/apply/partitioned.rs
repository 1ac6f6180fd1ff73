//! Partitioned operators: the partitions that the delta touches, by old or new images, are evaluated again over the new
//! state, and the difference from their stored rows is applied. It needs only the new state and may be repeated.
//!
//! The statement's CTEs: `d*` (source changes), `touched` (the keys of changed rows), `q` (the touched partitions as they
//! are now), then the difference as in a full refresh.

use super::outcome::{Outcome, cte};
use super::{Care, Change, Identity, Layout, Target, full, outcome, terms};
use crate::delta::{self, EarlyConditions};
use crate::rel::{Body, PartitionInput, Query, Rel, SortKey};
use crate::scalar::{Scalar, Type};
use crate::sql::ast::{Cte, Expr, From, JoinKind, Select, Statement, TextPiece};
use crate::sql::{self, Lowered, Sources};

const TOUCHED: &str = "touched";

pub(super) fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let net_first = change.care == Care::Careful || delta::changes_meet(&query.root, &change.dirty);
    let early = change.early(&query.root);
    let mut ctes = change.delta_tables(sources, net_first, &early);
    let (partitions, body) = operator(&query.root);
    ctes.push(match body {
        Some(Body::Limit {
            order,
            count: Some(count),
            ..
        }) => touched_window(
            partitions,
            (order, count),
            (layout, target),
            sources,
            (change, &early),
        ),
        _ => touched(partitions, sources, change, &early),
    });
    let row = sql::lower_touched(&query.root, sources, TOUCHED);
    ctes.push(cte("q", full::stored_columns(row, layout)));
    ctes.extend(full::bag_difference(
        layout,
        target,
        stored_partitions(layout, target, matches!(body, Some(Body::Limit { .. }))),
    ));
    let mut outcome = Outcome::default();
    outcome.count_changes(change, !net_first);
    outcome.inserted = Some(outcome.count("come", None));
    outcome.deleted = Some(outcome.count("gone", None));
    Statement {
        ctes,
        body: outcome.select(),
    }
}

/// The partitioned operator under a chain of filters and projections.
fn operator(rel: &Rel) -> (&[PartitionInput], Option<&Body>) {
    match rel {
        Rel::Filter { input, .. } | Rel::Project { input, .. } => operator(input),
        Rel::Partitioned { inputs, body, .. } => (inputs, Some(body)),
        _ => (&[], None),
    }
}

fn key(position: usize) -> String {
    format!("k{position}")
}

/// `touched(k*)`: the distinct keys of rows that came or went. Without keys, one row if there is any.
fn touched(
    inputs: &[PartitionInput],
    sources: &Sources,
    change: &Change,
    early: &EarlyConditions,
) -> Cte {
    let width = inputs.first().map_or(0, |input| input.keys.len());
    let branches: Vec<Select> = inputs
        .iter()
        .flat_map(|input| {
            terms(&input.rel, change, early).into_iter().map(|term| {
                let row = sql::lower(&term, sources);
                let mut items: Vec<(Expr, String)> = input
                    .keys
                    .iter()
                    .enumerate()
                    .map(|(position, value)| (sql::scalar(value, &row), key(position)))
                    .collect();
                if items.is_empty() {
                    items.push((Expr::Integer(1), "one".into()));
                }
                row.select(items)
            })
        })
        .collect();
    if width == 0 {
        let select = Select {
            items: vec![(Expr::Integer(1), "one".into())],
            from: vec![From::Select {
                query: Box::new(sql::union_all(branches)),
                alias: "r".into(),
                lateral: false,
            }],
            limit: Some(1),
            ..Select::default()
        };
        return cte(TOUCHED, select);
    }
    let columns: Vec<Expr> = (0..width)
        .map(|position| Expr::column("r", key(position)))
        .collect();
    let select = Select {
        items: columns
            .iter()
            .cloned()
            .enumerate()
            .map(|(position, column)| (column, key(position)))
            .collect(),
        from: vec![From::Select {
            query: Box::new(sql::union_all(branches)),
            alias: "r".into(),
            lateral: false,
        }],
        group_by: columns,
        ..Select::default()
    };
    cte(TOUCHED, select)
}

/// `touched`: one row if a row came or went that does not stand behind every row kept. Rows behind the last of a full
/// window change nothing.
fn touched_window(
    inputs: &[PartitionInput],
    (order, count): (&[SortKey], &Scalar),
    (layout, target): (&Layout, &Target),
    sources: &Sources,
    (change, early): (&Change, &EarlyConditions),
) -> Cte {
    let names: &[String] = match &layout.identity {
        Identity::Partition(names) => names,
        _ => &[],
    };
    let mut branches: Vec<Select> = inputs
        .iter()
        .flat_map(|input| terms(&input.rel, change, early))
        .map(|term| {
            let row = sql::lower(&term, sources);
            let mut items: Vec<(Expr, String)> = order
                .iter()
                .enumerate()
                .map(|(position, sort)| (sql::scalar(&sort.value, &row), key(position)))
                .collect();
            items.push((Expr::Boolean(true), "changed".into()));
            row.select(items)
        })
        .collect();
    let count = sql::scalar(count, &Lowered::default()).cast("pg_catalog.int8");
    let last = Expr::Pieces(vec![
        TextPiece::Text(" OFFSET GREATEST(".into()),
        TextPiece::Expr(count.clone()),
        TextPiece::Text(" - 1, 0) LIMIT CASE WHEN ".into()),
        TextPiece::Expr(count),
        TextPiece::Text(" > 0 THEN 1 ELSE 0 END".into()),
    ]);
    let mut items: Vec<(Expr, String)> = names
        .iter()
        .enumerate()
        .map(|(position, name)| (Expr::column("s", name.clone()), key(position)))
        .collect();
    items.push((Expr::Boolean(false), "changed".into()));
    branches.push(Select {
        items,
        from: vec![From::Table {
            name: target.table.clone(),
            alias: "s".into(),
            only: true,
        }],
        order_by: names
            .iter()
            .zip(order)
            .map(|(name, sort)| sql::sorted(Expr::column("s", name.clone()), sort))
            .collect(),
        rows: Some(last),
        ..Select::default()
    });
    let mut over = vec![TextPiece::Text("pg_catalog.rank() OVER (ORDER BY ".into())];
    for (position, sort) in order.iter().enumerate() {
        if position > 0 {
            over.push(TextPiece::Text(", ".into()));
        }
        let Expr::Pieces(pieces) = sql::sorted(Expr::column("r", key(position)), sort) else {
            continue;
        };
        over.extend(pieces);
    }
    over.push(TextPiece::Text(")".into()));
    let ranked = Select {
        items: vec![
            (Expr::column("r", "changed"), "changed".into()),
            (
                if order.is_empty() {
                    Expr::Integer(1)
                } else {
                    Expr::Pieces(over)
                },
                "place".into(),
            ),
        ],
        from: vec![From::Select {
            query: Box::new(sql::union_all(branches)),
            alias: "r".into(),
            lateral: false,
        }],
        ..Select::default()
    };
    let first = |changed: bool| {
        let which = Expr::column("x", "changed");
        let which = if changed {
            which
        } else {
            Expr::Not(Box::new(which))
        };
        Expr::aggregate("min", Expr::column("x", "place")).filter(which)
    };
    let select = Select {
        items: vec![(Expr::Integer(1), "one".into())],
        from: vec![From::Select {
            query: Box::new(ranked.into()),
            alias: "x".into(),
            lateral: false,
        }],
        having: Some(Expr::Coalesce(vec![
            first(true).infix("<=", first(false)),
            first(true).is_not_null(),
        ])),
        ..Select::default()
    };
    cte(TOUCHED, select)
}

/// The stored rows (alias `s`) of the touched partitions. Key by key, not by name: one stored column can be two keys.
fn stored_partitions(layout: &Layout, target: &Target, whole: bool) -> From {
    let names: &[String] = match &layout.identity {
        Identity::Partition(names) if !whole => names,
        _ => &[],
    };
    let pairs: Vec<(Expr, Expr, &Type)> = names
        .iter()
        .enumerate()
        .filter_map(|(position, name)| {
            let column = layout.column_named(name)?;
            Some((
                Expr::column("s", name.clone()),
                Expr::column("t", key(position)),
                &column.ty,
            ))
        })
        .collect();
    let hashed = |side: fn(&(Expr, Expr, &Type)) -> Expr| {
        sql::row_hash(
            pairs
                .iter()
                .filter(|(_, _, ty)| ty.hashable)
                .map(side)
                .collect(),
        )
    };
    let hash = hashed(|pair| pair.0.clone()).infix("=", hashed(|pair| pair.1.clone()));
    let confirmed = pairs
        .iter()
        .map(|(stored, touched, ty)| outcome::not_distinct(stored.clone(), touched.clone(), ty));
    let on = if names.is_empty() {
        Expr::Boolean(true)
    } else {
        Expr::and(std::iter::once(hash).chain(confirmed).collect())
    };
    From::Join {
        left: Box::new(From::Cte {
            name: TOUCHED.to_owned(),
            alias: "t".into(),
        }),
        kind: JoinKind::Inner,
        right: Box::new(From::Table {
            name: target.table.clone(),
            alias: "s".into(),
            only: true,
        }),
        on,
    }
}
