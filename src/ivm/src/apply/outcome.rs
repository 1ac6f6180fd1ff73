//! The row every apply statement returns, and the expressions apply statements share.

use super::{Identity, Layout, Target};
use crate::scalar::Type;
use crate::sql::ast::{Cte, CteBody, Expr, From, Query, Select};
use crate::sql::{self, param};

/// The CTE of the MERGE (or of the insert and delete) that changed the stored rows.
pub(super) const DONE: &str = "done";

pub(super) fn cte(name: &str, query: impl Into<Query>) -> Cte {
    Cte { name: name.to_owned(), materialized: true, body: CteBody::Query(query.into()) }
}

pub(super) fn modify(name: &str, body: CteBody) -> Cte {
    Cte { name: name.to_owned(), materialized: false, body }
}

pub(super) fn from_cte(name: &str, alias: &str) -> From {
    From::Cte { name: name.to_owned(), alias: alias.to_owned() }
}

/// `(SELECT value FROM cte x [WHERE condition])`
pub(super) fn one(value: Expr, name: &str, condition: Option<Expr>) -> Expr {
    Expr::Scalar(Box::new(Select {
        items: vec![(value, "v".into())],
        from: vec![from_cte(name, "x")],
        conditions: condition.into_iter().collect(),
        ..Select::default()
    }))
}

pub(super) fn count(name: &str, condition: Option<Expr>) -> Expr {
    one(Expr::CountStar(None), name, condition)
}

/// Rows of `done` whose MERGE action was `action`.
pub(super) fn actions(action: &str) -> Expr {
    count(DONE, Some(Expr::column("x", "action").infix("=", Expr::Literal(action.to_owned()))))
}

/// The result row of a statement.
pub(super) struct Outcome {
    pub inserted: Expr,
    pub updated: Expr,
    pub deleted: Expr,
    pub delta_rows: Expr,
    pub drift: Expr,
}

impl Outcome {
    pub(super) fn select(self) -> CteBody {
        let items = vec![
            (self.inserted, "inserted".into()),
            (self.updated, "updated".into()),
            (self.deleted, "deleted".into()),
            (self.delta_rows, "delta_rows".into()),
            (self.drift, "drift".into()),
        ];
        CteBody::Query(Select { items, ..Select::default() }.into())
    }
}

/// `a` and `b` are equal under their type's equality, or both null.
pub(super) fn not_distinct(a: Expr, b: Expr, ty: &Type) -> Expr {
    match ty.equality.as_deref() {
        None | Some("pg_catalog.=") => Expr::IsNotDistinct(Box::new(a), Box::new(b)),
        Some(_) => Expr::Coalesce(vec![
            equal(a.clone(), b.clone(), ty),
            Expr::and(vec![a.is_null(), b.is_null()]),
        ]),
    }
}

/// `a = b` by the type's own equality.
pub(super) fn equal(a: Expr, b: Expr, ty: &Type) -> Expr {
    a.operator(ty.equality.as_deref().unwrap_or("pg_catalog.="), b)
}

/// Condition that the stored row under alias `stored` is the one that `other` describes, column by column.
pub(super) fn identify(layout: &Layout, stored: &str, other: &dyn Fn(&str) -> Expr) -> Expr {
    let pairs = |names: &[String]| {
        names
            .iter()
            .filter_map(|name| layout.column_named(name))
            .map(|column| (Expr::column(stored, &column.name), other(&column.name), column.ty.clone()))
            .collect::<Vec<_>>()
    };
    match &layout.identity {
        Identity::Single => Expr::Boolean(true),
        Identity::Key(names) => {
            Expr::and(pairs(names).into_iter().map(|(a, b, ty)| equal(a, b, &ty)).collect())
        }
        Identity::Group(names) => {
            let pairs = pairs(names);
            let hashed: Vec<_> = pairs.iter().filter(|(_, _, ty)| ty.hashable).cloned().collect();
            let hash = sql::row_hash(hashed.iter().map(|(a, _, _)| a.clone()).collect())
                .infix("=", sql::row_hash(hashed.iter().map(|(_, b, _)| b.clone()).collect()));
            let confirmed = pairs.into_iter().map(|(a, b, ty)| not_distinct(a, b, &ty));
            Expr::and(std::iter::once(hash).chain(confirmed).collect())
        }
        Identity::Bag => {
            let names: Vec<&String> = layout.columns.iter().map(|column| &column.name).collect();
            let stored: Vec<Expr> = names.iter().map(|name| Expr::column(stored, name.as_str())).collect();
            let others: Vec<Expr> = names.iter().map(|name| other(name)).collect();
            Expr::and(vec![
                sql::image_hash(stored.clone()).infix("=", sql::image_hash(others.clone())),
                sql::image(stored).infix("=", sql::image(others)),
            ])
        }
    }
}

/// The names of an output log segment's columns for `count` result columns.
pub(super) fn output_columns(count: usize) -> Vec<String> {
    ["version".to_owned(), "w".to_owned()]
        .into_iter()
        .chain((1..=count).map(|position| sql::log_column(position as i16)))
        .collect()
}

/// `INSERT INTO output SELECT $version, weight, columns FROM ..`, branch by branch; none if nobody reads it.
pub(super) fn write_output(target: &Target, columns: usize, branches: Vec<(Expr, Vec<Expr>, Select)>) -> Option<Cte> {
    let table = target.output.clone()?;
    let names = output_columns(columns);
    let branches = branches
        .into_iter()
        .map(|(weight, values, mut select)| {
            select.items = [Expr::Param(param::VERSION), weight]
                .into_iter()
                .chain(values)
                .zip(names.iter().cloned())
                .collect();
            select
        })
        .collect();
    Some(modify(
        "output",
        CteBody::Insert { table, columns: names, query: Query { branches }, returning: vec![] },
    ))
}
