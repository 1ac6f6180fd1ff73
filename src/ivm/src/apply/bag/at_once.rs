//! Rows with a key where each key changed at most once: one MERGE through the key's index, without netting. It gives up,
//! with an error, where a key came or went more often, or where the stored rows are not what the delta assumes.

use super::super::outcome::{self, DONE, modify, value};
use super::super::{Change, Layout, Target};
use crate::sql::ast::{Assignments, Cte, CteBody, Expr, From, Matched, Merge, Select};

/// `rows` (alias `r`) are the changes of the result: `v0.., w`.
pub(super) fn merge(
    rows: From,
    layout: &Layout,
    target: &Target,
    key: &[String],
    change: &Change,
) -> Vec<Cte> {
    let weight = || Expr::column("r", "w");
    let comes = || weight().infix(">", Expr::Integer(0));
    let mut items = Vec::new();
    let mut keys = Vec::new();
    let mut types = Vec::new();
    let mut old = Vec::new();
    let mut new = Vec::new();
    for (position, column) in layout.columns.iter().enumerate() {
        let from = Expr::column("r", value(position));
        let newest = || Expr::aggregate("any_value", from.clone());
        let is_key = key.contains(&column.name);
        let item = match (is_key, column.ty.bitwise) {
            (true, true) => from.clone(),
            // A key that stays may change its bytes (1.0 and 1.00 are one key).
            (true, false) => Expr::Coalesce(vec![newest().filter(comes()), newest()]),
            (false, _) => newest().filter(comes()),
        };
        if is_key {
            keys.push((&column.ty, from));
            items.push((Expr::column("r", value(position)), format!("k{position}")));
        }
        items.push((item, value(position)));
        if !(is_key && column.ty.bitwise) {
            types.push(&column.ty);
            old.push(Expr::column("s", &*column.name));
            new.push(Expr::column("n", value(position)));
        }
    }
    items.push((Expr::CountStar(None), "rows".into()));
    items.push((Expr::aggregate("sum", weight()), "net".into()));
    let changes = Select {
        items,
        from: vec![rows],
        order_by: change.order(&keys),
        group_by: keys.into_iter().map(|(_, value)| value).collect(),
        ..Select::default()
    };

    let is = |rows: i64, net: i64| {
        Expr::and(vec![
            Expr::column("n", "rows").infix("=", Expr::Integer(rows)),
            Expr::column("n", "net").infix("=", Expr::Integer(net)),
        ])
    };
    let (come, go, stay) = (is(1, 1), is(1, -1), is(2, 0));
    let assignments = outcome::assignments(layout);
    let kept = assignments
        .iter()
        .zip(&layout.columns)
        .filter(|(_, column)| !(key.contains(&column.name) && column.ty.bitwise))
        .map(|(assignment, _)| assignment.clone())
        .collect::<Assignments>();
    let expected = Expr::Or(vec![go.clone(), stay]);
    let mut matched = vec![
        (
            Some(outcome::give_up_if(Expr::Not(Box::new(expected)))),
            Matched::Nothing,
        ),
        (Some(go), Matched::Delete),
    ];
    if !kept.is_empty() {
        matched.push((
            Some(outcome::differ(types, old, new)),
            Matched::Update(kept),
        ));
    }
    let arrives = Expr::Case(
        vec![(come, Expr::Boolean(true))],
        Box::new(outcome::give_up()),
    );
    let merge = Merge {
        table: target.table.clone(),
        alias: "s".into(),
        using: From::Select {
            query: Box::new(changes.into()),
            alias: "n".into(),
            lateral: false,
        },
        on: outcome::identify(layout, "s", &|name| {
            let position = layout
                .columns
                .iter()
                .position(|column| column.name == name)
                .unwrap_or_default();
            Expr::column("n", format!("k{position}"))
        }),
        matched,
        not_matched: Some((Some(arrives), assignments)),
        delete_unmatched: false,
        returning: outcome::returned(layout, target),
    };
    let mut ctes = vec![modify(DONE, CteBody::Merge(Box::new(merge)))];
    ctes.extend(outcome::output_of_done(layout, target));
    ctes
}
