//! Full refresh: the stored rows become equal to the query evaluated now; only rows that differ are written.

use super::outcome::{self, DONE, Outcome, cte, from_cte, modify, value};
use super::state::{evaluate_state, stored_value};
use super::{Identity, Layout, Role, Target};
use crate::rel::{Query, Rel};
use crate::sql::ast::{
    Cte, CteBody, Expr, From, JoinKind, Matched, Merge, Name, Select, Statement,
};
use crate::sql::{self, Lowered, Sources};

/// The query's stored columns `v*`, evaluated over the new state.
pub(super) fn evaluate(query: &Query, layout: &Layout, sources: &Sources) -> Select {
    let Some(grouped) = &layout.grouped else {
        return stored_columns(sql::lower(&query.root, sources), layout);
    };
    let input: &Rel = &grouped.input;
    let row = sql::lower(input, sources);
    let mut items: Vec<(Expr, String)> = grouped
        .keys
        .iter()
        .enumerate()
        .map(|(position, (_, key))| (sql::scalar(key, &row), format!("k{position}")))
        .collect();
    items.extend(
        grouped.states.iter().enumerate().map(|(position, state)| {
            (evaluate_state(grouped, state, &row), format!("s{position}"))
        }),
    );
    let group_by = grouped
        .keys
        .iter()
        .map(|(_, key)| sql::group_key(key, &row))
        .collect();
    let mut groups = row.select(items);
    groups.group_by = group_by;
    if layout.identity != Identity::Single && groups.group_by.is_empty() {
        groups.having = Some(Expr::CountStar(None).infix(">", Expr::Integer(0)));
    }
    Select {
        items: layout
            .columns
            .iter()
            .enumerate()
            .map(|(position, column)| {
                let stored = stored_value(
                    grouped,
                    &column.role,
                    &|number| Expr::column("g", format!("k{number}")),
                    &|number| Expr::column("g", format!("s{number}")),
                );
                (stored, value(position))
            })
            .collect(),
        from: vec![From::Select {
            query: Box::new(groups.into()),
            alias: "g".into(),
            lateral: false,
        }],
        ..Select::default()
    }
}

/// The layout's columns `v*` of a row without grouping.
pub(super) fn stored_columns(row: Lowered, layout: &Layout) -> Select {
    let items = layout
        .columns
        .iter()
        .enumerate()
        .map(|(position, column)| match column.role {
            Role::Column(id) => (row.column(id), value(position)),
            _ => (Expr::Null, value(position)),
        })
        .collect();
    row.select(items)
}

/// The layout's columns `v*`, read from a view.
pub(super) fn read_view(view: &Name, layout: &Layout) -> Select {
    Select {
        items: layout
            .columns
            .iter()
            .enumerate()
            .map(|(position, column)| (Expr::column("q", &*column.name), value(position)))
            .collect(),
        from: vec![From::Table {
            name: view.clone(),
            alias: "q".into(),
            only: false,
        }],
        ..Select::default()
    }
}

fn column_names(layout: &Layout) -> Vec<String> {
    layout
        .columns
        .iter()
        .map(|column| column.name.clone())
        .collect()
}

fn visible_values(layout: &Layout, table: &str) -> Vec<Expr> {
    layout
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.visible)
        .map(|(position, _)| Expr::column(table, value(position)))
        .collect()
}

/// Fills an empty table.
pub(super) fn fill(layout: &Layout, target: &Target, rows: Select) -> Statement {
    let insert = CteBody::Insert {
        table: target.table.clone(),
        columns: column_names(layout),
        query: rows.into(),
        returning: vec![(Expr::Integer(1), "one".into())],
    };
    let mut outcome = Outcome::default();
    outcome.inserted = Some(outcome.count("come", None));
    Statement {
        ctes: vec![modify("come", insert)],
        body: outcome.select(),
    }
}

/// Applies the difference between `rows` and the stored rows.
pub(super) fn difference(layout: &Layout, target: &Target, rows: Select) -> Statement {
    let mut ctes = vec![cte("q", rows)];
    let mut outcome = Outcome::default();
    if matches!(layout.identity, Identity::Bag | Identity::Partition(_)) {
        let stored = From::Table {
            name: target.table.clone(),
            alias: "s".into(),
            only: true,
        };
        ctes.extend(bag_difference(layout, target, stored));
        outcome.inserted = Some(outcome.count("come", None));
        outcome.deleted = Some(outcome.count("gone", None));
    } else {
        ctes.extend(keyed_difference(layout, target));
        outcome.inserted = Some(outcome.actions("INSERT"));
        outcome.updated = Some(outcome.actions("UPDATE"));
        outcome.deleted = Some(outcome.actions("DELETE"));
    }
    Statement {
        ctes,
        body: outcome.select(),
    }
}

/// One MERGE by identity. The rows' old and new visible columns are returned for the output.
fn keyed_difference(layout: &Layout, target: &Target) -> Vec<Cte> {
    let assignments = outcome::assignments(layout);
    let stored: Vec<Expr> = layout
        .columns
        .iter()
        .map(|column| Expr::column("s", &*column.name))
        .collect();
    let fresh: Vec<Expr> = layout
        .columns
        .iter()
        .map(|column| outcome::new_value(layout, &column.name))
        .collect();
    let merge = Merge {
        table: target.table.clone(),
        alias: "s".into(),
        using: from_cte("q", "n"),
        on: outcome::identify(layout, "s", &|name| outcome::new_value(layout, name)),
        matched: vec![(
            Some(outcome::differ(
                layout.columns.iter().map(|column| &column.ty),
                stored,
                fresh,
            )),
            Matched::Update(assignments.clone()),
        )],
        not_matched: Some((None, assignments)),
        delete_unmatched: true,
        returning: outcome::returned(layout, target),
    };
    let mut ctes = vec![modify(DONE, CteBody::Merge(Box::new(merge)))];
    ctes.extend(outcome::output_of_done(layout, target));
    ctes
}

/// The multiset difference between `q` and `present` (stored rows under alias `s`) by image: the n-th copy of an image on
/// one side pairs with the n-th on the other.
pub(super) fn bag_difference(layout: &Layout, target: &Target, present: From) -> Vec<Cte> {
    let from_present = present;
    let width = layout.columns.len();
    let numbered = |image: Expr, from: From, mut items: Vec<(Expr, String)>| {
        items.push((image.clone(), "image".into()));
        items.push((
            Expr::Window(Name::new("pg_catalog", "row_number"), vec![image]),
            "nth".into(),
        ));
        Select {
            items,
            from: vec![from],
            ..Select::default()
        }
    };
    let fresh: Vec<Expr> = (0..width)
        .map(|position| Expr::column("x", value(position)))
        .collect();
    let stored: Vec<Expr> = layout
        .columns
        .iter()
        .map(|column| Expr::column("s", &*column.name))
        .collect();
    let wanted = numbered(
        sql::image(fresh.clone()),
        from_cte("q", "x"),
        fresh
            .into_iter()
            .enumerate()
            .map(|(position, expr)| (expr, value(position)))
            .collect(),
    );
    let mut present_items: Vec<(Expr, String)> = stored
        .iter()
        .cloned()
        .enumerate()
        .map(|(position, expr)| (expr, format!("o{position}")))
        .collect();
    present_items.push((Expr::column("s", "ctid"), "tid".into()));
    let present = numbered(sql::image(stored), from_present, present_items);
    let mut items: Vec<(Expr, String)> = (0..width)
        .flat_map(|position| {
            [
                (Expr::column("a", value(position)), value(position)),
                (
                    Expr::column("b", format!("o{position}")),
                    format!("o{position}"),
                ),
            ]
        })
        .collect();
    items.push((Expr::column("b", "tid"), "tid".into()));
    let pair = |name: &str| Expr::column("a", name).infix("=", Expr::column("b", name));
    let difference = Select {
        items,
        from: vec![From::Join {
            left: Box::new(From::Select {
                query: Box::new(wanted.into()),
                alias: "a".into(),
                lateral: false,
            }),
            kind: JoinKind::Full,
            right: Box::new(From::Select {
                query: Box::new(present.into()),
                alias: "b".into(),
                lateral: false,
            }),
            on: Expr::and(vec![pair("image"), pair("nth")]),
        }],
        conditions: vec![Expr::Or(vec![
            Expr::column("a", "nth").is_null(),
            Expr::column("b", "nth").is_null(),
        ])],
        ..Select::default()
    };
    let goes = || Expr::column("x", "tid").is_not_null();
    let comes = || Expr::column("x", "tid").is_null();
    let one = || vec![(Expr::Integer(1), "one".to_owned())];
    let tids = Select {
        items: vec![(Expr::column("x", "tid"), "tid".into())],
        from: vec![from_cte("diff", "x")],
        conditions: vec![goes()],
        ..Select::default()
    };
    let gone = CteBody::DeleteByTid {
        table: target.table.clone(),
        alias: "s".into(),
        tids: Expr::Array(Box::new(tids)),
        returning: one(),
    };
    let come = CteBody::Insert {
        table: target.table.clone(),
        columns: column_names(layout),
        query: Select {
            items: (0..width)
                .map(|position| (Expr::column("x", value(position)), value(position)))
                .collect(),
            from: vec![from_cte("diff", "x")],
            conditions: vec![comes()],
            ..Select::default()
        }
        .into(),
        returning: one(),
    };
    let mut ctes = vec![
        cte("diff", difference),
        modify("gone", gone),
        modify("come", come),
    ];
    let old_side = layout
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.visible)
        .map(|(position, _)| Expr::column("x", format!("o{position}")))
        .collect();
    let branch = |condition: Expr| Select {
        from: vec![from_cte("diff", "x")],
        conditions: vec![condition],
        ..Select::default()
    };
    ctes.extend(outcome::write_output(
        target,
        layout.visible().count(),
        vec![
            (Expr::Integer(-1), old_side, branch(goes())),
            (
                Expr::Integer(1),
                visible_values(layout, "x"),
                branch(comes()),
            ),
        ],
    ));
    ctes
}
