//! Results without grouping: the net delta goes into the stored rows as it is.
//!
//! With a key, each key touched is found through its unique index. Without, rows that go are found by the hash of their
//! image.

mod at_once;
mod by_image;
mod by_key;

use super::outcome::{self, Outcome, cte, from_cte, value};
use super::{Care, Change, Identity, Layout, Target, terms};
use crate::delta::{self, EarlyConditions};
use crate::rel::Query;
use crate::sql::ast::{Cte, Expr, From, Select, Statement};
use crate::sql::{self, Sources};

const NET: &str = "net";

pub(super) fn differential(
    query: &Query,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let meet = delta::changes_meet(&query.root, &change.dirty);
    let net_first = change.care == Care::Careful || meet;
    let early = change.early(&query.root);
    let mut ctes = change.delta_tables(sources, net_first, &early);
    let rows = delta_rows(query, sources, change, &early);
    let mut outcome = Outcome::default();
    outcome.count_changes(change, !net_first);
    if let Identity::Key(key) = &layout.identity
        && (change.care == Care::Fast || change.care == Care::Net && change.is_large())
        && !meet
        && query.root.is_plain()
    {
        let (rest, merge) = at_once::merge(rows, layout, target, key, change);
        ctes.extend(rest);
        return outcome.of_merge(ctes, merge, layout, target);
    }
    ctes.push(net(rows, query.output.len()));
    carry(&mut ctes, &mut outcome, layout, target);
    Statement {
        ctes,
        body: outcome.select(),
    }
}

/// The CTEs that carry `net` into the stored rows, and what is told of it.
pub(super) fn carry(ctes: &mut Vec<Cte>, outcome: &mut Outcome, layout: &Layout, target: &Target) {
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
    match &layout.identity {
        Identity::Key(key) => {
            ctes.extend(by_key::by_key(layout, target, key));
            outcome.count_actions();
            let mut differs = Vec::new();
            for (action, name) in [("INSERT", "come"), ("UPDATE", "change"), ("DELETE", "go")] {
                let expected = outcome.count("chg", Some(kind(name)));
                differs.push(outcome.actions(action).infix("<>", expected));
            }
            differs.push(
                outcome
                    .count("chg", Some(kind("clash")))
                    .infix(">", Expr::Integer(0)),
            );
            outcome.drift = Some(Expr::Or(differs));
        }
        _ => {
            ctes.extend(by_image::by_image(layout, target));
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
}

fn kind(kind: &str) -> Expr {
    Expr::column("x", "kind").infix("=", Expr::Literal(kind.to_owned()))
}

/// `v0.., w`: the terms of the change of the result.
fn delta_rows(query: &Query, sources: &Sources, change: &Change, early: &EarlyConditions) -> From {
    let branches = terms(&query.root, change, early)
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
    derived(branches)
}

/// Rows as `net` reads them.
pub(super) fn derived(branches: Vec<Select>) -> From {
    From::Select {
        query: Box::new(sql::union_all(branches)),
        alias: "r".into(),
        lateral: false,
    }
}

/// `net(v0.., w)`: the change of the result, one row per distinct image with a weight other than zero.
pub(super) fn net(rows: From, width: usize) -> Cte {
    let columns: Vec<Expr> = (0..width)
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
        from: vec![rows],
        group_by: vec![image],
        having: Some(weight.infix("<>", Expr::Integer(0))),
        ..Select::default()
    };
    cte(NET, select)
}
