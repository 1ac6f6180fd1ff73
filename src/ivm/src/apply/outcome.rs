//! The row every apply statement returns, and the expressions apply statements share.

use super::{Change, Identity, Layout, Target};
use crate::scalar::Type;
use crate::sql::ast::{
    Assignments, Cte, CteBody, Expr, From, Merge, Name, Query, Select, Statement,
};
use crate::sql::{self, param};

/// The CTE of the MERGE (or of the insert and delete) that changed the stored rows.
pub(super) const DONE: &str = "done";

/// The name of the stored column at `position` in the rows that come: `v0, v1, ..`.
pub(super) fn value(position: usize) -> String {
    format!("v{position}")
}

/// What the stored column `name` becomes from the row under alias `n`.
pub(super) fn new_value(layout: &Layout, name: &str) -> Expr {
    let position = layout
        .columns
        .iter()
        .position(|column| column.name == name)
        .unwrap_or_default();
    Expr::column("n", value(position))
}

/// Every stored column from the row under alias `n`.
pub(super) fn assignments(layout: &Layout) -> Assignments {
    layout
        .columns
        .iter()
        .map(|column| (column.name.clone(), new_value(layout, &column.name)))
        .collect()
}

/// The caller has counted the changes.
fn unknown_rows() -> Expr {
    Expr::Null.cast("pg_catalog.int8")
}

pub(super) fn cte(name: &str, query: impl Into<Query>) -> Cte {
    Cte {
        name: name.to_owned(),
        materialized: true,
        body: CteBody::Query(query.into()),
    }
}

pub(super) fn modify(name: &str, body: CteBody) -> Cte {
    Cte {
        name: name.to_owned(),
        materialized: false,
        body,
    }
}

pub(super) fn from_cte(name: &str, alias: &str) -> From {
    From::Cte {
        name: name.to_owned(),
        alias: alias.to_owned(),
    }
}

/// The result row of a statement, collected CTE by CTE: each is read once, whatever is counted in it.
#[derive(Default)]
pub(super) struct Outcome {
    /// (CTE, counted values by name)
    counted: Vec<(String, Vec<(Expr, String)>)>,
    pub inserted: Option<Expr>,
    pub updated: Option<Expr>,
    pub deleted: Option<Expr>,
    pub delta_rows: Option<Expr>,
    pub drift: Option<Expr>,
}

impl Outcome {
    /// A value aggregated over the rows (alias `x`) of a CTE.
    pub(super) fn of(&mut self, cte: &str, value: Expr) -> Expr {
        let position = self
            .counted
            .iter()
            .position(|(known, _)| known == cte)
            .unwrap_or_else(|| {
                self.counted.push((cte.to_owned(), vec![]));
                self.counted.len() - 1
            });
        let values = &mut self.counted[position].1;
        let number = values
            .iter()
            .position(|(known, _)| *known == value)
            .unwrap_or_else(|| {
                let name = format!("n{}", values.len());
                values.push((value, name));
                values.len() - 1
            });
        Expr::column(&format!("z{position}"), format!("n{number}"))
    }

    /// The number of rows of a CTE for which `condition` holds.
    pub(super) fn count(&mut self, cte: &str, condition: Option<Expr>) -> Expr {
        self.of(cte, Expr::CountStar(condition.map(Box::new)))
    }

    /// Rows of `done` whose MERGE action was `action`.
    pub(super) fn actions(&mut self, action: &str) -> Expr {
        let condition = Expr::column("x", "action").infix("=", Expr::Literal(action.to_owned()));
        self.count(DONE, Some(condition))
    }

    /// What the MERGE did.
    pub(super) fn count_actions(&mut self) {
        self.inserted = Some(self.actions("INSERT"));
        self.updated = Some(self.actions("UPDATE"));
        self.deleted = Some(self.actions("DELETE"));
    }

    /// The rows of the sources' deltas; none if they are `logged` as they are and the caller has counted them.
    pub(super) fn count_changes(&mut self, change: &Change, logged: bool) {
        if logged && change.limit.is_some() {
            self.delta_rows = Some(unknown_rows());
            return;
        }
        let counts: Vec<Expr> = change
            .sources()
            .map(|id| self.count(&sql::delta_name(id), None))
            .collect();
        self.delta_rows = counts.into_iter().reduce(|sum, rows| sum.infix("+", rows));
    }

    /// The statement that ends with `merge`. Where nobody reads what it changes and nothing else is told, it is the
    /// statement, and whoever runs it asks the executor for its counts.
    pub(super) fn of_merge(
        mut self,
        mut ctes: Vec<Cte>,
        merge: Merge,
        layout: &Layout,
        target: &Target,
    ) -> Statement {
        if target.output.is_none() && self.tells_nothing() {
            let body = CteBody::Merge(Box::new(merge));
            return Statement { ctes, body };
        }
        let returning = returned(layout, target);
        let merge = CteBody::Merge(Box::new(Merge { returning, ..merge }));
        ctes.push(modify(DONE, merge));
        ctes.extend(output_of_done(layout, target));
        self.count_actions();
        Statement {
            ctes,
            body: self.select(),
        }
    }

    /// Nothing that differs from what holds by itself.
    fn tells_nothing(&self) -> bool {
        self.counted.is_empty() && self.drift.is_none() && self.delta_rows == Some(unknown_rows())
    }

    pub(super) fn select(self) -> CteBody {
        let zero = || Expr::Integer(0).cast("pg_catalog.int8");
        let items = vec![
            (self.inserted.unwrap_or_else(zero), "inserted".to_owned()),
            (self.updated.unwrap_or_else(zero), "updated".to_owned()),
            (self.deleted.unwrap_or_else(zero), "deleted".to_owned()),
            (
                self.delta_rows.unwrap_or_else(zero),
                "delta_rows".to_owned(),
            ),
            (
                self.drift.unwrap_or(Expr::Boolean(false)),
                "drift".to_owned(),
            ),
        ];
        let from = self
            .counted
            .into_iter()
            .enumerate()
            .map(|(position, (cte, items))| From::Select {
                query: Box::new(
                    Select {
                        items,
                        from: vec![from_cte(&cte, "x")],
                        ..Select::default()
                    }
                    .into(),
                ),
                alias: format!("z{position}"),
                lateral: false,
            })
            .collect();
        CteBody::Query(
            Select {
                items,
                from,
                ..Select::default()
            }
            .into(),
        )
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
            .map(|column| {
                (
                    Expr::column(stored, &column.name),
                    other(&column.name),
                    column.ty.clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    match &layout.identity {
        Identity::Single => Expr::Boolean(true),
        Identity::Key(names) => Expr::and(
            pairs(names)
                .into_iter()
                .map(|(a, b, ty)| equal(a, b, &ty))
                .collect(),
        ),
        Identity::Group(names) | Identity::Partition(names) => {
            let pairs = pairs(names);
            let hashed: Vec<_> = pairs
                .iter()
                .filter(|(_, _, ty)| ty.hashable)
                .cloned()
                .collect();
            // Without a hash there has to be some equality of expressions, or the rows could not be merged at all.
            let sides = if hashed.is_empty() {
                let nulls = |value: &Expr| {
                    Expr::builtin("num_nulls", vec![value.clone()]).cast("pg_catalog.int8")
                };
                pairs.first().map(|(a, b, _)| (nulls(a), nulls(b)))
            } else {
                let hash = |values: Vec<Expr>| sql::row_hash(values);
                Some((
                    hash(hashed.iter().map(|(a, _, _)| a.clone()).collect()),
                    hash(hashed.iter().map(|(_, b, _)| b.clone()).collect()),
                ))
            };
            let hash = sides.map_or(Expr::Boolean(true), |(a, b)| a.infix("=", b));
            let confirmed = pairs.into_iter().map(|(a, b, ty)| not_distinct(a, b, &ty));
            Expr::and(std::iter::once(hash).chain(confirmed).collect())
        }
        Identity::Bag => {
            let names: Vec<&String> = layout.columns.iter().map(|column| &column.name).collect();
            let stored: Vec<Expr> = names
                .iter()
                .map(|name| Expr::column(stored, name.as_str()))
                .collect();
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
pub(super) fn write_output(
    target: &Target,
    columns: usize,
    branches: Vec<(Expr, Vec<Expr>, Select)>,
) -> Option<Cte> {
    let table = target.output.clone()?;
    let names = output_columns(columns);
    let branches = branches
        .into_iter()
        .map(|(weight, values, mut select)| {
            select.items = [Expr::Param(param::VERSION).cast("pg_catalog.int8"), weight]
                .into_iter()
                .chain(values)
                .zip(names.iter().cloned())
                .collect();
            select
        })
        .collect();
    Some(modify(
        "output",
        CteBody::Insert {
            table,
            columns: names,
            query: sql::union_all(branches),
            returning: vec![],
        },
    ))
}

/// Two rows of these types are not the same bytes. What `=` does not tell apart from bytes is compared so; the rest as
/// records, not column by column: the cast keeps PostgreSQL from taking the operator for a row-wise comparison.
pub(super) fn differ<'a>(
    types: impl IntoIterator<Item = &'a Type>,
    a: Vec<Expr>,
    b: Vec<Expr>,
) -> Expr {
    let record = |values: Vec<Expr>| Expr::Row(values).cast("pg_catalog.record");
    let (mut left, mut right, mut ways) = (vec![], vec![], vec![]);
    for (ty, (a, b)) in types.into_iter().zip(a.into_iter().zip(b)) {
        if ty.equals_by_bytes() {
            let same = Expr::IsNotDistinct(Box::new(a), Box::new(b));
            ways.push(Expr::Not(Box::new(same)));
        } else {
            left.push(a);
            right.push(b);
        }
    }
    if !left.is_empty() || ways.is_empty() {
        ways.push(record(left).operator("pg_catalog.*<>", record(right)));
    }
    Expr::Or(ways)
}

/// Ends the statement with an error: a more careful one has to do it.
pub(super) fn give_up() -> Expr {
    Expr::Call(Name::new("pgtrickle", "pgt_give_up"), vec![])
}

/// False, unless `condition` holds.
pub(super) fn give_up_if(condition: Expr) -> Expr {
    Expr::Case(vec![(condition, give_up())], Box::new(Expr::Boolean(false)))
}

/// What a MERGE returns: its action, and the visible columns before (`o*`) and after (`v*`) if somebody reads the
/// result's changes.
pub(super) fn returned(layout: &Layout, target: &Target) -> Vec<(Expr, String)> {
    let mut returning = vec![(Expr::MergeAction, "action".to_owned())];
    if target.output.is_some() {
        for (position, column) in layout.visible().enumerate() {
            returning.push((Expr::column("old", &*column.name), format!("o{position}")));
            returning.push((Expr::column("new", &*column.name), value(position)));
        }
    }
    returning
}

/// The change of the visible columns, from what the MERGE [`returned`].
pub(super) fn output_of_done(layout: &Layout, target: &Target) -> Option<Cte> {
    let width = layout.visible().count();
    let types = || layout.visible().map(|column| &column.ty);
    let side = |prefix: &str| {
        (0..width)
            .map(|position| Expr::column("x", format!("{prefix}{position}")))
            .collect::<Vec<_>>()
    };
    let is_not =
        |action: &str| Expr::column("x", "action").infix("<>", Expr::Literal(action.to_owned()));
    let branch = |action: &str| Select {
        from: vec![from_cte(DONE, "x")],
        conditions: vec![
            is_not(action),
            Expr::Or(vec![
                is_not("UPDATE"),
                differ(types(), side("o"), side("v")),
            ]),
        ],
        ..Select::default()
    };
    write_output(
        target,
        width,
        vec![
            (Expr::Integer(-1), side("o"), branch("INSERT")),
            (Expr::Integer(1), side("v"), branch("DELETE")),
        ],
    )
}
