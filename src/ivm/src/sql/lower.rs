//! Lowering of relational trees to SQL.
//!
//! Filters, projections and joins of scans become one flat SELECT; a bag union becomes a derived table. A leaf read at
//! `Delta` carries a weight column, and the weight of a row is the product of the weights of its leaves.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ast::{Expr, From, Name, Query, Select, TextPiece};
use super::{inner_change, join_change, joins, partition};
use crate::rel::{At, ColId, ITSELF, Rel, Scan, SourceId};
use crate::scalar::{Clock, Piece, Scalar, Type};

/// Where a source and its changes are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTable {
    pub name: Name,
    /// Read without inheritance children.
    pub only: bool,
    /// The live log segments.
    pub log: Vec<Name>,
    /// The position (from 1) of the source's consumed version in the array parameter, for stream tables;
    /// none for tables, whose changes are found by transaction id.
    pub version: Option<u32>,
    /// The logged columns this query needs, by attribute number.
    pub columns: BTreeMap<i16, Type>,
    /// Attribute numbers of the columns by whose values an index finds rows.
    pub indexed: BTreeSet<i16>,
}

pub type Sources = BTreeMap<SourceId, SourceTable>;

/// Parameters of every delta statement.
pub mod param {
    /// xid8: the frontier's xmax.
    pub const XMAX: u32 = 1;
    /// xid8[]: transactions in progress at the frontier.
    pub const IN_PROGRESS: u32 = 2;
    /// bigint[]: consumed version of each upstream stream table.
    pub const CONSUMED: u32 = 3;
    /// bigint: the version this refresh produces.
    pub const VERSION: u32 = 4;
    /// xid8: the xmax of the refresh's own snapshot. No row it sees is at or above it; the planner needs to be told.
    pub const BOUND: u32 = 5;
    /// timestamptz: the time of the refresh before.
    pub const CLOCK: u32 = 6;
}

/// A SELECT under construction.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    pub from: Vec<From>,
    pub conditions: Vec<Expr>,
    pub columns: BTreeMap<ColId, Expr>,
    pub weights: Vec<Expr>,
}

impl Lowered {
    /// The expression of column `id`.
    pub fn column(&self, id: ColId) -> Expr {
        self.columns.get(&id).cloned().unwrap_or(Expr::Null)
    }

    /// The product of the leaves' weights, none if every leaf is unweighted.
    pub fn weight(&self) -> Option<Expr> {
        self.weights
            .iter()
            .cloned()
            .reduce(|product, weight| product.infix("*", weight))
    }

    /// `SELECT items FROM .. WHERE ..`
    pub fn select(self, items: Vec<(Expr, String)>) -> Select {
        Select {
            items,
            from: self.from,
            conditions: self.conditions,
            ..Select::default()
        }
    }
}

/// The name of the CTE holding the net change of `source`.
pub fn delta_name(source: SourceId) -> String {
    if source == ITSELF {
        return "derived".to_owned();
    }
    format!("d{}", source.0)
}

/// The name of a logged column.
pub fn log_column(attnum: i16) -> String {
    format!("a{attnum}")
}

/// `rel` as a SELECT under construction.
pub fn lower(rel: &Rel, sources: &Sources) -> Lowered {
    match rel {
        Rel::Scan(scan) => lower_scan(scan, &sources[&scan.source]),
        Rel::Filter { input, conditions } => filter(lower(input, sources), conditions),
        Rel::Moving { input, conditions } => {
            let now: Vec<Scalar> = conditions
                .iter()
                .map(|moving| moving.condition.clone())
                .collect();
            filter(lower(input, sources), &now)
        }
        Rel::Project { input, columns } => project(lower(input, sources), columns),
        Rel::Bounded { input, by, bounds } => {
            let conditions: Vec<Scalar> =
                bounds.iter().map(|bound| bound.condition.clone()).collect();
            let row = lower(input, sources);
            filter(beside(row, lower(by, sources)), &conditions)
        }
        Rel::Join { inputs, conditions } => {
            let joined = inputs
                .iter()
                .map(|input| lower(input, sources))
                .reduce(beside)
                .unwrap_or_default();
            filter(joined, conditions)
        }
        Rel::UnionAll { inputs, columns } => lower_union(inputs, columns, sources),
        Rel::Unit => Lowered::default(),
        Rel::Outer {
            left,
            right,
            full,
            on,
        } => joins::outer(left, right, *full, on, sources),
        Rel::Match {
            left,
            right,
            present,
            on,
        } => joins::matching(left, right, *present, on, sources),
        Rel::JoinChange {
            left,
            right,
            kind,
            on,
            left_terms,
            right_terms,
        } => join_change::change([left, right], *kind, on, [left_terms, right_terms], sources),
        Rel::InnerChange {
            inputs,
            conditions,
            changes,
        } => inner_change::change(inputs, conditions, changes, sources),
        Rel::Negate(input) => {
            let mut lowered = lower(input, sources);
            lowered.weights.push(Expr::Integer(-1));
            lowered
        }
        Rel::Expand {
            input,
            item,
            columns,
            outer,
            on,
        } => joins::expand(input, item, columns, outer.then_some(on), sources),
        Rel::ProjectSet { input, columns } => {
            let row = lower(input, sources);
            let weighted = !row.weights.is_empty();
            let mut items: Vec<(Expr, String)> = columns
                .iter()
                .map(|(id, value)| (scalar(value, &row), column_name(*id)))
                .collect();
            if let Some(weight) = row.weight() {
                items.push((weight.cast("pg_catalog.int4"), "w".into()));
            }
            let ids: Vec<ColId> = columns.iter().map(|(id, _)| *id).collect();
            derived(row.select(items).into(), &ids, weighted)
        }
        Rel::Aggregate { input, keys, calls } => {
            let lowered = lower(input, sources);
            let items: Vec<(ColId, Expr)> = keys
                .iter()
                .map(|(id, key)| (*id, scalar(key, &lowered)))
                .chain(
                    calls
                        .iter()
                        .map(|(id, call)| (*id, scalar(&call.call, &lowered))),
                )
                .collect();
            let group_by = keys
                .iter()
                .map(|(_, key)| group_key(key, &lowered))
                .collect();
            let ids: Vec<ColId> = items.iter().map(|(id, _)| *id).collect();
            let mut select = lowered.select(
                items
                    .into_iter()
                    .map(|(id, value)| (value, column_name(id)))
                    .collect(),
            );
            select.group_by = group_by;
            derived(select.into(), &ids, false)
        }
        Rel::Partitioned { inputs, keys, body } => {
            partition::lower(inputs, keys, body, sources, None)
        }
    }
}

/// As [`lower`], for a tree whose stateful operator is partitioned: only the partitions whose keys are in CTE `touched`
/// (columns `k0, k1, ..`).
pub fn lower_touched(rel: &Rel, sources: &Sources, touched: &str) -> Lowered {
    match rel {
        Rel::Filter { input, conditions } => {
            filter(lower_touched(input, sources, touched), conditions)
        }
        Rel::Project { input, columns } => project(lower_touched(input, sources, touched), columns),
        Rel::Partitioned { inputs, keys, body } => {
            partition::lower(inputs, keys, body, sources, Some(touched))
        }
        other => lower(other, sources),
    }
}

/// Every pair of rows.
fn beside(mut left: Lowered, right: Lowered) -> Lowered {
    left.from.extend(right.from);
    left.conditions.extend(right.conditions);
    left.columns.extend(right.columns);
    left.weights.extend(right.weights);
    left
}

fn filter(mut lowered: Lowered, conditions: &[Scalar]) -> Lowered {
    let conditions: Vec<Expr> = conditions
        .iter()
        .map(|condition| scalar(condition, &lowered))
        .collect();
    lowered.conditions.extend(conditions);
    lowered
}

/// Columns below stay known: the partition keys of the operator under a projection are asked for by id.
fn project(mut lowered: Lowered, columns: &[(ColId, Scalar)]) -> Lowered {
    let computed: Vec<(ColId, Expr)> = columns
        .iter()
        .map(|(id, value)| (*id, scalar(value, &lowered)))
        .collect();
    lowered.columns.extend(computed);
    lowered
}

fn lower_scan(scan: &Scan, source: &SourceTable) -> Lowered {
    let alias = format!("t{}", scan.instance);
    let by_attnum = |alias: &str| {
        scan.columns
            .iter()
            .map(|column| (column.id, Expr::column(alias, log_column(column.attnum))))
            .collect::<BTreeMap<_, _>>()
    };
    match scan.at {
        At::New => Lowered {
            from: vec![From::Table {
                name: source.name.clone(),
                alias: alias.clone(),
                only: source.only,
            }],
            columns: scan
                .columns
                .iter()
                .map(|column| (column.id, Expr::column(&alias, column.name.clone())))
                .collect(),
            ..Lowered::default()
        },
        At::Delta => Lowered {
            from: vec![From::Cte {
                name: delta_name(scan.source),
                alias: alias.clone(),
            }],
            columns: by_attnum(&alias),
            weights: vec![Expr::column(&alias, "w")],
            ..Lowered::default()
        },
    }
}

fn lower_union(
    inputs: &[(Rel, Vec<ColId>)],
    columns: &[(ColId, Type)],
    sources: &Sources,
) -> Lowered {
    let lowered: Vec<_> = inputs
        .iter()
        .map(|(input, from)| (lower(input, sources), from))
        .collect();
    let weighted = lowered.iter().any(|(branch, _)| !branch.weights.is_empty());
    let branches = lowered
        .into_iter()
        .map(|(branch, from)| {
            let mut items: Vec<(Expr, String)> = from
                .iter()
                .zip(columns)
                .map(|(id, (to, _))| (branch.column(*id), column_name(*to)))
                .collect();
            if weighted {
                let weight = branch.weight().unwrap_or(Expr::Integer(1));
                items.push((weight.cast("pg_catalog.int4"), "w".into()));
            }
            branch.select(items)
        })
        .collect();
    let ids: Vec<ColId> = columns.iter().map(|(id, _)| *id).collect();
    derived(union_all(branches), &ids, weighted)
}

/// A derived table with columns named after `ids`.
pub(super) fn derived(query: Query, ids: &[ColId], weighted: bool) -> Lowered {
    let alias = format!("u{}", ids.first().map_or(0, |id| id.0));
    Lowered {
        columns: ids
            .iter()
            .map(|id| (*id, Expr::column(&alias, column_name(*id))))
            .collect(),
        weights: if weighted {
            vec![Expr::column(&alias, "w")]
        } else {
            vec![]
        },
        from: vec![From::Select {
            query: Box::new(query),
            alias,
            lateral: false,
        }],
        conditions: vec![],
    }
}

pub(super) fn column_name(id: ColId) -> String {
    format!("c{}", id.0)
}

/// A group key. A constant, also one that a column below turns out to be, would be taken for a position in the select
/// list; with its type written out it is an expression like any other.
pub fn group_key(value: &Scalar, input: &Lowered) -> Expr {
    match scalar(value, input) {
        key @ Expr::Column(..) => key,
        key => key.cast(&value.ty.name),
    }
}

/// A scalar with its holes filled from `input`.
pub fn scalar(value: &Scalar, input: &Lowered) -> Expr {
    fill(value, &|id| input.column(id))
}

/// A scalar with its holes filled by `column`.
pub fn fill(value: &Scalar, column: &dyn Fn(ColId) -> Expr) -> Expr {
    if let Some(id) = value.as_column() {
        return column(id);
    }
    let mut pieces: Vec<TextPiece> = value
        .pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => TextPiece::Text(text.clone()),
            Piece::Column(id) => TextPiece::Expr(column(*id)),
            Piece::Clock(Clock::Now) => TextPiece::Text("pg_catalog.now()".into()),
            Piece::Clock(Clock::Before) => TextPiece::Expr(Expr::Param(param::CLOCK)),
        })
        .collect();
    let mut collations = BTreeSet::new();
    collations_of(&pieces, &mut collations);
    if collations.len() > 1 {
        for piece in &mut pieces {
            if let TextPiece::Expr(value @ Expr::Pieces(_)) = piece {
                *value = unwritten_collation(value.clone());
            }
        }
    }
    Expr::Pieces(pieces)
}

/// What stands behind each `COLLATE` that is written out.
fn collations_of<'a>(pieces: &'a [TextPiece], found: &mut BTreeSet<&'a str>) {
    for piece in pieces {
        match piece {
            TextPiece::Text(text) => found.extend(text.split(" COLLATE ").skip(1).map(|rest| {
                let end = rest.find([' ', ')', ',']).unwrap_or(rest.len());
                &rest[..end]
            })),
            TextPiece::Expr(Expr::Pieces(pieces)) => collations_of(pieces, found),
            TextPiece::Expr(_) => {}
        }
    }
}

/// A column has its collation without saying so, and another `COLLATE` beside it wins. Its value may be an expression that
/// does say so, which a sub-select hides.
fn unwritten_collation(value: Expr) -> Expr {
    let Expr::Pieces(pieces) = &value else {
        return value;
    };
    let mut collations = BTreeSet::new();
    collations_of(pieces, &mut collations);
    if collations.is_empty() {
        return value;
    }
    Expr::Scalar(Box::new(Select {
        items: vec![(value, "value".into())],
        ..Select::default()
    }))
}

/// `pgtrickle.image(columns)`: the exact bytes of the values, for netting and comparing bags.
pub fn image(columns: Vec<Expr>) -> Expr {
    variadic("image", columns)
}

/// `pgtrickle.image_hash(columns)`: 64 bits of `image`.
pub fn image_hash(columns: Vec<Expr>) -> Expr {
    variadic("image_hash", columns)
}

/// `pgtrickle.row_hash(columns)`: values equal under their types' `=` hash alike.
pub fn row_hash(columns: Vec<Expr>) -> Expr {
    variadic("row_hash", columns)
}

/// A call of one of our variadic functions. A call takes at most 100 arguments, so wide rows are passed in groups.
fn variadic(function: &str, columns: Vec<Expr>) -> Expr {
    const MOST: usize = 90;
    let name = Name::new("pgtrickle", function);
    if columns.is_empty() {
        return Expr::Call(
            name,
            vec![Expr::Literal(String::new()).cast("pg_catalog.text")],
        );
    }
    if columns.len() <= MOST {
        return Expr::Call(name, columns);
    }
    let groups = columns
        .chunks(MOST)
        .map(|group| Expr::Call(name.clone(), group.to_vec()))
        .collect();
    variadic(function, groups)
}

/// Several SELECTs under UNION ALL.
pub fn union_all(branches: Vec<Select>) -> Query {
    Query {
        with: vec![],
        branches,
    }
}
