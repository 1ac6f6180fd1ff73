//! Recursive queries: what the changed sources derive by [`delta::recursion`] goes into the stored rows, or the statement
//! gives up and the careful one evaluates the query as a whole.
//!
//! The statement's CTEs: `d*` (source changes, netted), `signs` (whether their signs allow it), `seed` (what the changed
//! sources derive from the stored rows), `derived` (the seed and all that follows from it), then `net` as for any bag.

use super::bag;
use super::outcome::{self, Outcome, cte, from_cte, value};
use super::{Change, Layout, Role, Target, lookup};
use crate::delta::{self, EarlyConditions};
use crate::rel::{ColId, ITSELF, Query, Recursion, Rel, Term};
use crate::scalar::Type;
use crate::sql::ast::{Cte, CteBody, Expr, From, Select, Statement};
use crate::sql::{self, SourceTable, Sources, delta_name, log_column};

const SIGNS: &str = "signs";
const SEED: &str = "seed";

pub(super) fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let Some((recursion, columns)) = query.root.recursion() else {
        unreachable!("the root of this plan is a recursive query")
    };
    let names = stored_names(columns, layout);
    let recursion = &named(recursion, &names);
    let mut readable = sources.clone();
    readable.insert(ITSELF, stored(target));

    let mut ctes = change.delta_tables(sources, true, &EarlyConditions::new());
    ctes.push(signs(recursion, sources, change));
    ctes.push(seed(recursion, columns, &readable, change));
    ctes.push(derived(recursion, columns, &names, &readable, target));
    ctes.push(bag::net(
        bag::derived(vec![in_layout(columns, layout)]),
        layout.columns.len(),
    ));
    let mut outcome = Outcome::default();
    outcome.count_changes(change, false);
    bag::carry(&mut ctes, &mut outcome, layout, target);
    Statement {
        ctes,
        body: outcome.select(),
    }
}

/// The names under which the query's columns are stored, in their order.
fn stored_names(columns: &[(ColId, Type)], layout: &Layout) -> Vec<String> {
    columns
        .iter()
        .filter_map(|(id, _)| layout.column_with(&Role::Column(*id)))
        .map(|column| column.name.clone())
        .collect()
}

/// The recursion with scans of itself that read the stored columns.
fn named(recursion: &Recursion, names: &[String]) -> Recursion {
    let term = |term: &Term| Term {
        rel: rename(&term.rel, names),
        columns: term.columns.clone(),
    };
    Recursion {
        all: recursion.all,
        base: term(&recursion.base),
        step: term(&recursion.step),
    }
}

fn rename(rel: &Rel, names: &[String]) -> Rel {
    match rel {
        Rel::Scan(scan) if scan.source == ITSELF => {
            let mut scan = scan.clone();
            for column in &mut scan.columns {
                column.name.clone_from(&names[column.attnum as usize - 1]);
            }
            Rel::Scan(scan)
        }
        other => other.map_inputs(&mut |input| rename(input, names)),
    }
}

/// The stored rows as a source, which has no log of its own.
fn stored(target: &Target) -> SourceTable {
    SourceTable {
        name: target.table.clone(),
        only: true,
        log: vec![],
        version: None,
        columns: Default::default(),
        indexed: Default::default(),
    }
}

/// `signs(lawful)`: one row, unless the sources changed in a way that has no law.
fn signs(recursion: &Recursion, sources: &Sources, change: &Change) -> Cte {
    let weights = delta::read(recursion, &change.dirty)
        .iter()
        .map(|changed| {
            let row = sql::lower(changed, sources);
            let weight = row.weight().unwrap_or(Expr::Integer(1));
            row.select(vec![(weight, "w".into())])
        })
        .collect();
    let some = |sign| {
        let with_sign = Expr::column("r", "w").infix(sign, Expr::Integer(0));
        Expr::Coalesce(vec![
            Expr::aggregate("bool_or", with_sign),
            Expr::Boolean(false),
        ])
    };
    let lawless = if recursion.all {
        Expr::And(vec![some("<"), some(">")])
    } else {
        some("<")
    };
    cte(
        SIGNS,
        Select {
            items: vec![(
                Expr::Case(
                    vec![(lawless, outcome::give_up())],
                    Box::new(Expr::Boolean(true)),
                ),
                "lawful".into(),
            )],
            from: vec![From::Select {
                query: Box::new(sql::union_all(weights)),
                alias: "r".into(),
                lateral: false,
            }],
            ..Select::default()
        },
    )
}

/// True where the law holds. It is evaluated once, before anything it guards is looked at.
fn lawful() -> Expr {
    Expr::Scalar(Box::new(Select {
        items: vec![(Expr::column("g", "lawful"), "lawful".into())],
        from: vec![from_cte(SIGNS, "g")],
        ..Select::default()
    }))
}

/// `SELECT a1, .., w` of the rows of a term, where the law holds.
fn rows_of(term: &Term, columns: &[(ColId, Type)], sources: &Sources) -> Select {
    let mut row = sql::lower(&term.rel, sources);
    row.conditions.insert(0, lawful());
    let mut items: Vec<(Expr, String)> = term
        .columns
        .iter()
        .zip(columns)
        .enumerate()
        .map(|(position, (id, (_, ty)))| (typed(row.column(*id), ty), name(position)))
        .collect();
    let weight = row.weight().unwrap_or(Expr::Integer(1));
    items.push((int(weight), "w".into()));
    row.select(items)
}

/// Exactly the column's type, modifier and collation, on which both terms of a recursive query have to agree.
fn typed(value: Expr, ty: &Type) -> Expr {
    let cast = value.cast(&ty.name);
    match &ty.collation {
        Some(collation) => cast.collate(collation),
        None => cast,
    }
}

fn int(weight: Expr) -> Expr {
    weight.cast("pg_catalog.int4")
}

/// The column at `position` of `seed` and `derived`.
fn name(position: usize) -> String {
    log_column(position as i16 + 1)
}

fn values(alias: &str, width: usize) -> Vec<Expr> {
    (0..width)
        .map(|position| Expr::column(alias, name(position)))
        .collect()
}

/// `seed(a*, w)`: one row per distinct image. Under UNION only what comes, once.
fn seed(
    recursion: &Recursion,
    columns: &[(ColId, Type)],
    sources: &Sources,
    change: &Change,
) -> Cte {
    let found = Recursion {
        step: Term {
            rel: lookup::hashed(&recursion.step.rel),
            ..recursion.step.clone()
        },
        ..recursion.clone()
    };
    let branches: Vec<Select> = delta::seed(&found, &change.dirty)
        .iter()
        .map(|term| rows_of(term, columns, sources))
        .collect();
    let weight = Expr::aggregate("sum", Expr::column("r", "w"));
    let rows = values("r", columns.len());
    let mut items: Vec<(Expr, String)> = rows
        .iter()
        .enumerate()
        .map(|(position, column)| (Expr::aggregate("any_value", column.clone()), name(position)))
        .collect();
    let (shown, sign) = if recursion.all {
        (weight.clone(), "<>")
    } else {
        (Expr::Integer(1), ">")
    };
    items.push((int(shown), "w".into()));
    cte(
        SEED,
        Select {
            items,
            from: vec![From::Select {
                query: Box::new(sql::union_all(branches)),
                alias: "r".into(),
                lateral: false,
            }],
            group_by: vec![sql::image(rows)],
            having: Some(weight.infix(sign, Expr::Integer(0))),
            ..Select::default()
        },
    )
}

/// `derived(a*, w)`: the seed, and what the step makes of it again and again. Under UNION without what is stored already.
fn derived(
    recursion: &Recursion,
    columns: &[(ColId, Type)],
    names: &[String],
    sources: &Sources,
    target: &Target,
) -> Cte {
    let new_rows = |rows: From| {
        let items = columns
            .iter()
            .enumerate()
            .map(|(position, (_, ty))| {
                (typed(Expr::column("x", name(position)), ty), name(position))
            })
            .chain([(Expr::column("x", "w"), "w".into())])
            .collect();
        let unknown = (!recursion.all).then(|| {
            let known = is_stored(names, target, values("x", columns.len()));
            Expr::Not(Box::new(known))
        });
        Box::new(Select {
            items,
            from: vec![rows],
            conditions: unknown.into_iter().collect(),
            ..Select::default()
        })
    };
    let step = rows_of(&delta::grown(recursion), columns, sources);
    Cte {
        name: delta_name(ITSELF),
        materialized: false,
        body: CteBody::Recursive {
            first: new_rows(from_cte(SEED, "x")),
            step: new_rows(From::Select {
                query: Box::new(step.into()),
                alias: "x".into(),
                lateral: false,
            }),
            all: recursion.all,
        },
    }
}

/// The row is among the stored ones. Each is looked up by itself: a join would rather read all of them.
fn is_stored(names: &[String], target: &Target, row: Vec<Expr>) -> Expr {
    let stored: Vec<Expr> = names
        .iter()
        .map(|name| Expr::column("s", name.clone()))
        .collect();
    Expr::Exists(Box::new(Select {
        items: vec![(Expr::Integer(1), "one".into())],
        from: vec![From::Table {
            name: target.table.clone(),
            alias: "s".into(),
            only: true,
        }],
        conditions: vec![
            sql::image_hash(stored.clone()).infix("=", sql::image_hash(row.clone())),
            sql::image(stored).infix("=", sql::image(row)),
        ],
        fence: true,
        ..Select::default()
    }))
}

/// The derived rows `(v*, w)` in the order in which they are stored.
fn in_layout(columns: &[(ColId, Type)], layout: &Layout) -> Select {
    let mut items: Vec<(Expr, String)> = layout
        .columns
        .iter()
        .enumerate()
        .map(|(stored, column)| {
            let position = columns
                .iter()
                .position(|(id, _)| column.role == Role::Column(*id))
                .unwrap_or_default();
            (Expr::column("x", name(position)), value(stored))
        })
        .collect();
    items.push((Expr::column("x", "w"), "w".into()));
    Select {
        items,
        from: vec![from_cte(&delta_name(ITSELF), "x")],
        ..Select::default()
    }
}
