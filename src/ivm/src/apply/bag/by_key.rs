//! Rows with a key: each one touched goes, comes or changes.

use super::super::outcome::{self, DONE, cte, from_cte, modify, value};
use super::super::{Layout, Target};
use super::NET;
use crate::sql::ast::{Cte, CteBody, Expr, Matched, Merge, Select};

/// `chg`: one row per key touched; then one MERGE through the unique index.
pub(super) fn by_key(layout: &Layout, target: &Target, key: &[String]) -> Vec<Cte> {
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

    let assignments = outcome::assignments(layout);
    let n_kind = |kind: &str| Expr::column("n", "kind").infix("=", Expr::Literal(kind.to_owned()));
    let merge = Merge {
        table: target.table.clone(),
        alias: "s".into(),
        using: from_cte("chg", "n"),
        on: outcome::identify(layout, "s", &|name| outcome::new_value(layout, name)),
        matched: vec![
            (Some(n_kind("go")), Matched::Delete),
            (None, Matched::Update(assignments.clone())),
        ],
        not_matched: Some((Some(n_kind("come")), assignments)),
        delete_unmatched: false,
        returning: vec![(Expr::MergeAction, "action".into())],
    };
    vec![changes, modify(DONE, CteBody::Merge(Box::new(merge)))]
}
