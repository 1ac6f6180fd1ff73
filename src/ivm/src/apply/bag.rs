//! Results without grouping: the net delta goes into the stored rows as it is.
//!
//! With a key, each key touched is found through its unique index: it goes, comes or changes. Without, rows that go are
//! found by the hash of their image and as many are deleted as the weights say.

use std::collections::BTreeSet;

use super::outcome::{self, DONE, Outcome, cte, from_cte, modify};
use super::{Change, Identity, Layout, Target};
use crate::delta;
use crate::rel::{Query, SourceId};
use crate::sql::ast::{Cte, CteBody, Expr, From, JoinKind, Merge, Name, Select, Statement};
use crate::sql::{self, Sources};

const NET: &str = "net";

pub(super) fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let net_first = change.careful || delta::changes_meet(&query.root, &change.dirty);
    let mut ctes: Vec<_> = change
        .sources()
        .flat_map(|id| sql::delta_table(id, &sources[&id], change.limit, net_first))
        .collect();
    ctes.push(net(query, sources, &change.dirty));
    let weight = || Expr::column("x", "w");
    let width = layout.columns.len();

    let net_values = (0..width)
        .map(|position| Expr::column("x", value(position)))
        .collect();
    let output = outcome::write_output(
        target,
        width,
        vec![(
            weight(),
            net_values,
            Select {
                from: vec![from_cte(NET, "x")],
                ..Select::default()
            },
        )],
    );
    let mut outcome = Outcome::default();
    let delta_rows = change
        .sources()
        .map(|id| outcome.count(&sql::delta_name(id), None))
        .collect::<Vec<_>>();
    outcome.delta_rows = delta_rows
        .into_iter()
        .reduce(|sum, rows| sum.infix("+", rows));
    match &layout.identity {
        Identity::Key(key) => {
            ctes.extend(by_key(layout, target, key));
            let mut differs = Vec::new();
            for (action, name) in [("INSERT", "come"), ("UPDATE", "change"), ("DELETE", "go")] {
                let done = outcome.actions(action);
                let expected = outcome.count("chg", Some(kind(name)));
                differs.push(done.clone().infix("<>", expected));
                match action {
                    "INSERT" => outcome.inserted = Some(done),
                    "UPDATE" => outcome.updated = Some(done),
                    _ => outcome.deleted = Some(done),
                }
            }
            differs.push(
                outcome
                    .count("chg", Some(kind("clash")))
                    .infix(">", Expr::Integer(0)),
            );
            outcome.drift = Some(Expr::Or(differs));
        }
        _ => {
            ctes.extend(by_image(layout, target));
            let deleted = outcome.count("gone", None);
            let gone = Expr::aggregate("sum", Expr::Negate(Box::new(weight())))
                .filter(weight().infix("<", Expr::Integer(0)));
            let expected = outcome.of(NET, Expr::Coalesce(vec![gone, Expr::Integer(0)]));
            outcome.inserted = Some(outcome.count("come", None));
            outcome.drift = Some(deleted.clone().infix("<>", expected));
            outcome.deleted = Some(deleted);
        }
    }
    ctes.extend(output);
    Statement {
        ctes,
        body: outcome.select(),
    }
}

fn value(position: usize) -> String {
    format!("v{position}")
}

fn kind(kind: &str) -> Expr {
    Expr::column("x", "kind").infix("=", Expr::Literal(kind.to_owned()))
}

/// `net(v0.., w)`: the change of the result, one row per distinct image with a weight other than zero.
fn net(query: &Query, sources: &Sources, dirty: &BTreeSet<SourceId>) -> Cte {
    let branches = delta::terms(&query.root, dirty)
        .iter()
        .map(|term| {
            let lowered = sql::lower(term, sources);
            let mut items: Vec<(Expr, String)> = query
                .output
                .iter()
                .enumerate()
                .map(|(position, column)| (lowered.column(column.id), value(position)))
                .collect();
            let weight = lowered.weight().unwrap_or(Expr::Integer(1));
            items.push((weight, "w".into()));
            lowered.select(items)
        })
        .collect();
    let columns: Vec<Expr> = (0..query.output.len())
        .map(|position| Expr::column("r", value(position)))
        .collect();
    let weight = Expr::aggregate("sum", Expr::column("r", "w"));
    let mut items: Vec<(Expr, String)> = columns
        .iter()
        .enumerate()
        .map(|(position, column)| {
            (
                Expr::aggregate("any_value", column.clone()),
                value(position),
            )
        })
        .collect();
    items.push((weight.clone().cast("pg_catalog.int4"), "w".into()));
    let image = sql::image(columns);
    items.push((image.clone(), "image".into()));
    let select = Select {
        items,
        from: vec![From::Select {
            query: Box::new(sql::union_all(branches)),
            alias: "r".into(),
            lateral: false,
        }],
        group_by: vec![image],
        having: Some(weight.infix("<>", Expr::Integer(0))),
        ..Select::default()
    };
    cte(NET, select)
}

/// `chg`: one row per key touched; then one MERGE through the unique index.
fn by_key(layout: &Layout, target: &Target, key: &[String]) -> Vec<Cte> {
    let weight = || Expr::column("x", "w");
    let comes = || weight().infix(">", Expr::Integer(0));
    let mut items = Vec::new();
    let mut group_by = Vec::new();
    for (position, column) in layout.columns.iter().enumerate() {
        let from = Expr::column("x", value(position));
        if key.contains(&column.name) {
            // A key that stays may change its bytes (1.0 and 1.00 are one key).
            let newest = Expr::aggregate("any_value", from.clone());
            let newest = Expr::Coalesce(vec![newest.clone().filter(comes()), newest]);
            items.push((newest, value(position)));
            group_by.push(from);
        } else {
            items.push((
                Expr::aggregate("any_value", from).filter(comes()),
                value(position),
            ));
        }
    }
    let come = Expr::Coalesce(vec![
        Expr::aggregate("sum", weight()).filter(comes()),
        Expr::Integer(0),
    ]);
    let go = Expr::Coalesce(vec![
        Expr::aggregate("sum", Expr::Negate(Box::new(weight())))
            .filter(weight().infix("<", Expr::Integer(0))),
        Expr::Integer(0),
    ]);
    let is = |value: &Expr, count: i64| value.clone().infix("=", Expr::Integer(count));
    let kind = Expr::Case(
        vec![
            (
                Expr::and(vec![is(&come, 1), is(&go, 1)]),
                Expr::Literal("change".into()),
            ),
            (
                Expr::and(vec![is(&come, 1), is(&go, 0)]),
                Expr::Literal("come".into()),
            ),
            (
                Expr::and(vec![is(&come, 0), is(&go, 1)]),
                Expr::Literal("go".into()),
            ),
        ],
        Box::new(Expr::Literal("clash".into())),
    );
    items.push((kind, "kind".into()));
    let changes = cte(
        "chg",
        Select {
            items,
            from: vec![from_cte(NET, "x")],
            group_by,
            ..Select::default()
        },
    );

    let new_value = |name: &str| {
        let position = layout
            .columns
            .iter()
            .position(|column| column.name == name)
            .unwrap_or_default();
        Expr::column("n", value(position))
    };
    let assignments: Vec<(String, Expr)> = layout
        .columns
        .iter()
        .map(|column| (column.name.clone(), new_value(&column.name)))
        .collect();
    let n_kind = |kind: &str| Expr::column("n", "kind").infix("=", Expr::Literal(kind.to_owned()));
    let merge = Merge {
        table: target.table.clone(),
        alias: "s".into(),
        using: from_cte("chg", "n"),
        on: outcome::identify(layout, "s", &new_value),
        matched: vec![
            (Some(n_kind("go")), None),
            (None, Some(assignments.clone())),
        ],
        not_matched: Some((Some(n_kind("come")), assignments)),
        delete_unmatched: false,
        returning: vec![(Expr::MergeAction, "action".into())],
    };
    vec![changes, modify(DONE, CteBody::Merge(Box::new(merge)))]
}

/// `gone`: as many stored rows of each vanishing image as its weight says; `come`: new rows.
fn by_image(layout: &Layout, target: &Target) -> Vec<Cte> {
    let stored: Vec<Expr> = layout
        .columns
        .iter()
        .map(|column| Expr::column("s", &*column.name))
        .collect();
    let image = Expr::column("n", "image");
    let matching = Expr::and(vec![
        sql::image_hash(stored.clone()).infix("=", Expr::column("n", "hash")),
        sql::image(stored).infix("=", image.clone()),
    ]);
    let net_values = (0..layout.columns.len())
        .map(|position| Expr::column("x", value(position)))
        .collect();
    let vanishing = Select {
        items: vec![
            (sql::image_hash(net_values), "hash".into()),
            (Expr::column("x", "image"), "image".into()),
            (Expr::column("x", "w"), "w".into()),
        ],
        from: vec![from_cte(NET, "x")],
        conditions: vec![Expr::column("x", "w").infix("<", Expr::Integer(0))],
        ..Select::default()
    };
    let candidates = Select {
        items: vec![
            (Expr::column("s", "ctid"), "tid".into()),
            (
                Expr::Window(Name::new("pg_catalog", "row_number"), vec![image]),
                "nth".into(),
            ),
            (Expr::column("n", "w"), "w".into()),
        ],
        from: vec![From::Join {
            left: Box::new(From::Select {
                query: Box::new(vanishing.into()),
                alias: "n".into(),
                lateral: false,
            }),
            kind: JoinKind::Inner,
            right: Box::new(From::Table {
                name: target.table.clone(),
                alias: "s".into(),
                only: true,
            }),
            on: matching,
        }],
        ..Select::default()
    };
    let tids = Select {
        items: vec![(Expr::column("c", "tid"), "tid".into())],
        from: vec![From::Select {
            query: Box::new(candidates.into()),
            alias: "c".into(),
            lateral: false,
        }],
        conditions: vec![
            Expr::column("c", "nth").infix("<=", Expr::Negate(Box::new(Expr::column("c", "w")))),
        ],
        ..Select::default()
    };
    let one = || vec![(Expr::Integer(1), "one".to_owned())];
    let gone = CteBody::DeleteByTid {
        table: target.table.clone(),
        alias: "s".into(),
        tids: Expr::Array(Box::new(tids)),
        returning: one(),
    };
    let copies = From::Function {
        function: Name::new("pg_catalog", "generate_series"),
        arguments: vec![Expr::Integer(1), Expr::column("x", "w")],
        alias: "copies".into(),
        column: "nth".into(),
    };
    let come = CteBody::Insert {
        table: target.table.clone(),
        columns: layout
            .columns
            .iter()
            .map(|column| column.name.clone())
            .collect(),
        query: Select {
            items: (0..layout.columns.len())
                .map(|position| (Expr::column("x", value(position)), value(position)))
                .collect(),
            from: vec![from_cte(NET, "x"), copies],
            conditions: vec![Expr::column("x", "w").infix(">", Expr::Integer(0))],
            ..Select::default()
        }
        .into(),
        returning: one(),
    };
    vec![modify("gone", gone), modify("come", come)]
}
