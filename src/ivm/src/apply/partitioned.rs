//! Partitioned operators: the partitions that the delta touches, by old or new images, are evaluated again over the new
//! state, and the difference from their stored rows is applied. It needs only the new state and may be repeated.
//!
//! The statement's CTEs: `d*` (source changes), `touched` (the keys of changed rows), `q` (the touched partitions as they
//! are now), then the difference as in a full refresh.

use super::outcome::{Outcome, cte};
use super::{Change, Identity, Layout, Target, full, outcome};
use crate::delta;
use crate::rel::{PartitionInput, Query, Rel};
use crate::scalar::Type;
use crate::sql::ast::{Cte, Expr, From, JoinKind, Select, Statement};
use crate::sql::{self, Sources};

const TOUCHED: &str = "touched";

pub(super) fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let net_first = change.careful || delta::changes_meet(&query.root, &change.dirty);
    let mut ctes: Vec<Cte> = change
        .dirty
        .iter()
        .flat_map(|id| sql::delta_table(*id, &sources[id], change.limit, net_first))
        .collect();
    ctes.push(touched(inputs(&query.root), sources, change));
    let row = sql::lower_touched(&query.root, sources, TOUCHED);
    ctes.push(cte("q", full::stored_columns(row, layout)));
    ctes.extend(full::bag_difference(
        layout,
        target,
        stored_partitions(layout, target),
    ));
    let mut outcome = Outcome::default();
    let delta_rows = change
        .dirty
        .iter()
        .map(|id| outcome.count(&sql::delta_name(*id), None))
        .collect::<Vec<_>>();
    outcome.delta_rows = delta_rows
        .into_iter()
        .reduce(|sum, rows| sum.infix("+", rows));
    outcome.inserted = Some(outcome.count("come", None));
    outcome.deleted = Some(outcome.count("gone", None));
    Statement {
        ctes,
        body: outcome.select(),
    }
}

/// The inputs of the partitioned operator under a chain of filters and projections.
fn inputs(rel: &Rel) -> &[PartitionInput] {
    match rel {
        Rel::Filter { input, .. } | Rel::Project { input, .. } => inputs(input),
        Rel::Partitioned { inputs, .. } => inputs,
        _ => &[],
    }
}

fn key(position: usize) -> String {
    format!("k{position}")
}

/// `touched(k*)`: the distinct keys of rows that came or went.
fn touched(inputs: &[PartitionInput], sources: &Sources, change: &Change) -> Cte {
    let branches = inputs
        .iter()
        .flat_map(|input| {
            delta::terms(&input.rel, &change.dirty)
                .into_iter()
                .map(|term| {
                    let row = sql::lower(&term, sources);
                    let items = input
                        .keys
                        .iter()
                        .enumerate()
                        .map(|(position, value)| (sql::scalar(value, &row), key(position)))
                        .collect();
                    row.select(items)
                })
        })
        .collect();
    let width = inputs.first().map_or(0, |input| input.keys.len());
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

/// The stored rows (alias `s`) of the touched partitions. Key by key, not by name: one stored column can be two keys.
fn stored_partitions(layout: &Layout, target: &Target) -> From {
    let names: &[String] = match &layout.identity {
        Identity::Partition(names) => names,
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
    let on = Expr::and(std::iter::once(hash).chain(confirmed).collect());
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
