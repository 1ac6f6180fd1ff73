//! Rows with a key of which nearly all change at most once: one MERGE through the key's index, without netting. Keys that
//! changed more often are netted alone, or where none are expected it gives up, with an error; as it does where the stored
//! rows are not what the delta assumes.

use super::super::outcome::{self, cte, from_cte, value};
use super::super::{Care, Change, Layout, Target};
use super::{NET, derived, net};
use crate::sql::ast::{Assignments, Cte, Expr, From, Matched, Merge, Query, Select};
use crate::sql::union_all;

/// The changes by key, and whether its rows have to be netted.
const EACH: &str = "by_key";

/// The MERGE and what it reads. `rows` (alias `r`) are the changes of the result: `v0.., w`.
pub(super) fn merge(
    rows: From,
    layout: &Layout,
    target: &Target,
    key: &[String],
    change: &Change,
) -> (Vec<Cte>, Merge) {
    let mut ctes = Vec::new();
    let changes: Query = if change.care == Care::Fast {
        let mut changes = by_key(rows, layout, key);
        changes.order_by = change.order(&keys(layout, key));
        changes.into()
    } else {
        ctes.extend(each_and_net(rows, layout, key, change));
        let once = Select {
            items: names(layout, key),
            from: vec![from_cte(EACH, "r")],
            conditions: vec![Expr::Not(Box::new(Expr::column("r", "again")))],
            ..Select::default()
        };
        union_all(vec![once, by_key(from_cte(NET, "r"), layout, key)])
    };
    (ctes, carry(changes, layout, target, key))
}

/// The key's values in `r`, with their types.
fn keys<'a>(layout: &'a Layout, key: &[String]) -> Vec<(&'a crate::scalar::Type, Expr)> {
    layout
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| key.contains(&column.name))
        .map(|(position, column)| (&column.ty, Expr::column("r", value(position))))
        .collect()
}

/// `k0.., v0.., rows, net` of each key: the row that comes, if one does, and what there was to net.
fn by_key(rows: From, layout: &Layout, key: &[String]) -> Select {
    let weight = || Expr::column("r", "w");
    let comes = || weight().infix(">", Expr::Integer(0));
    let mut items = Vec::new();
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
            items.push((from.clone(), format!("k{position}")));
        }
        items.push((item, value(position)));
    }
    items.push((Expr::CountStar(None), "rows".into()));
    items.push((Expr::aggregate("sum", weight()), "net".into()));
    Select {
        items,
        from: vec![rows],
        group_by: keys(layout, key)
            .into_iter()
            .map(|(_, value)| value)
            .collect(),
        ..Select::default()
    }
}

/// The columns of [`by_key`] in `r`.
fn names(layout: &Layout, key: &[String]) -> Vec<(Expr, String)> {
    let of_columns = layout
        .columns
        .iter()
        .enumerate()
        .flat_map(|(position, column)| {
            let is_key = key.contains(&column.name).then(|| format!("k{position}"));
            is_key.into_iter().chain([value(position)])
        });
    of_columns
        .chain(["rows".into(), "net".into()])
        .map(|name| (Expr::column("r", &*name), name))
        .collect()
}

/// [`EACH`] and, of the keys in it that changed more than once or from something to the same, [`NET`]. The rows are read a
/// second time only if there is such a key.
fn each_and_net(rows: From, layout: &Layout, key: &[String], change: &Change) -> [Cte; 2] {
    let weight = || Expr::column("r", "w");
    let mut each = by_key(rows.clone(), layout, key);
    let (mut types, mut old, mut new) = (vec![], vec![], vec![]);
    for (position, column) in layout.columns.iter().enumerate() {
        if key.contains(&column.name) && column.ty.bitwise {
            continue;
        }
        let one = |sign| {
            let is_one = weight().infix(sign, Expr::Integer(0));
            Expr::aggregate("any_value", Expr::column("r", value(position))).filter(is_one)
        };
        types.push(&column.ty);
        old.push(one("<"));
        new.push(one(">"));
    }
    let several = Expr::CountStar(None).infix(">", Expr::Integer(2));
    let nothing = Expr::and(vec![
        Expr::aggregate("sum", weight()).infix("=", Expr::Integer(0)),
        Expr::Not(Box::new(outcome::differ(types, old, new))),
    ]);
    each.items
        .push((Expr::Or(vec![several, nothing]), "again".into()));
    each.order_by = change.order(&keys(layout, key));

    let again = |filter: Vec<Expr>| {
        let mut conditions = vec![Expr::column("e", "again")];
        conditions.extend(filter);
        Expr::Exists(Box::new(Select {
            from: vec![from_cte(EACH, "e")],
            conditions,
            ..Select::default()
        }))
    };
    let any = Expr::Scalar(Box::new(Select {
        items: vec![(again(vec![]), "any".into())],
        ..Select::default()
    }));
    let same_key = keys_equal(layout, key);
    let width = layout.columns.len();
    let twice = Select {
        items: (0..width)
            .map(value)
            .chain(["w".into()])
            .map(|name| (Expr::column("r", &*name), name))
            .collect(),
        from: vec![rows],
        conditions: vec![any, again(vec![same_key])],
        ..Select::default()
    };
    [cte(EACH, each), net(derived(vec![twice]), width)]
}

/// A row of `r` has the key of a row of `e`.
fn keys_equal(layout: &Layout, key: &[String]) -> Expr {
    let position = |name: &str| layout.columns.iter().position(|column| column.name == name);
    let mut pairs = Vec::new();
    for name in key {
        if let Some(position) = position(name) {
            let ty = &layout.columns[position].ty;
            let (a, b) = (
                Expr::column("e", format!("k{position}")),
                Expr::column("r", value(position)),
            );
            pairs.push(outcome::equal(a, b, ty));
        }
    }
    Expr::and(pairs)
}

/// Carries `changes` (as [`by_key`] has them) into the stored rows.
fn carry(changes: Query, layout: &Layout, target: &Target, key: &[String]) -> Merge {
    let (mut types, mut old, mut new) = (vec![], vec![], vec![]);
    for (position, column) in layout.columns.iter().enumerate() {
        if !(key.contains(&column.name) && column.ty.bitwise) {
            types.push(&column.ty);
            old.push(Expr::column("s", &*column.name));
            new.push(Expr::column("n", value(position)));
        }
    }
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
    Merge {
        table: target.table.clone(),
        alias: "s".into(),
        using: From::Select {
            query: Box::new(changes),
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
        returning: vec![],
    }
}
