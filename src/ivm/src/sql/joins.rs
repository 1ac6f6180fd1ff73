//! Lowering of outer, semi and anti joins, their changes, and items computed from a row.

use std::collections::BTreeMap;

use super::ast::{Cte, CteBody, Expr, From, JoinKind, Query, Select};
use super::lower::{Lowered, Sources, column_name, derived, lower, scalar, union_all};
use crate::rel::{ColId, Rel};
use crate::scalar::{Scalar, Type};

/// One side of an explicit join: a single FROM item whose columns are bare columns.
fn side(rel: &Rel, sources: &Sources) -> (From, BTreeMap<ColId, Expr>, Vec<Expr>) {
    let row = lower(rel, sources);
    let ids: Vec<ColId> = rel.columns().into_iter().collect();
    let bare = ids
        .iter()
        .all(|id| matches!(row.columns.get(id), Some(Expr::Column(..))));
    if row.from.len() == 1 && row.conditions.is_empty() && bare {
        let mut from = row.from;
        return (from.remove(0), row.columns, row.weights);
    }
    let weighted = !row.weights.is_empty();
    let mut items = items_of(&row, &ids);
    if let Some(weight) = row.weight() {
        items.push((weight.cast("pg_catalog.int4"), "w".into()));
    }
    if items.is_empty() {
        items.push((Expr::Integer(1), "one".into()));
    }
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(rel));
    let mut table = derived(row.select(items).into(), &[alias_by], weighted);
    let alias = format!("u{}", alias_by.0);
    table.columns = ids
        .iter()
        .map(|id| (*id, Expr::column(&alias, column_name(*id))))
        .collect();
    (table.from.remove(0), table.columns, table.weights)
}

/// A number for the alias of a derived table without columns, different from every column's.
fn stand_in(rel: &Rel) -> ColId {
    let instance = rel.scans().first().map_or(0, |scan| scan.instance);
    ColId((1 << 30) + instance)
}

fn items_of(row: &Lowered, ids: &[ColId]) -> Vec<(Expr, String)> {
    ids.iter()
        .map(|id| (row.column(*id), column_name(*id)))
        .collect()
}

fn conjunction(on: &[Scalar], columns: &BTreeMap<ColId, Expr>) -> Expr {
    let row = Lowered {
        columns: columns.clone(),
        ..Lowered::default()
    };
    Expr::and(on.iter().map(|condition| scalar(condition, &row)).collect())
}

pub(super) fn outer(
    left: &Rel,
    right: &Rel,
    full: bool,
    on: &[Scalar],
    sources: &Sources,
) -> Lowered {
    let (left, mut columns, weights) = side(left, sources);
    let (right, more, _) = side(right, sources);
    columns.extend(more);
    Lowered {
        from: vec![From::Join {
            left: Box::new(left),
            kind: if full { JoinKind::Full } else { JoinKind::Left },
            right: Box::new(right),
            on: conjunction(on, &columns),
        }],
        conditions: vec![],
        columns,
        weights,
    }
}

pub(super) fn matching(
    left: &Rel,
    right: &Rel,
    present: bool,
    on: &[Scalar],
    sources: &Sources,
) -> Lowered {
    let mut row = lower(left, sources);
    let partner = lower(right, sources);
    let mut columns = row.columns.clone();
    columns.extend(partner.columns.clone());
    let mut select = partner.select(vec![(Expr::Integer(1), "one".into())]);
    select.conditions.push(conjunction(on, &columns));
    let exists = Expr::Exists(Box::new(select));
    row.conditions.push(if present {
        exists
    } else {
        Expr::Not(Box::new(exists))
    });
    row
}

/// The change of a semi or anti join whose right side changed.
///
/// `l(c*, w, came, n)`: rows of the left that came or went, and rows that meet a change of the right, numbered; `r`: the
/// change of the right; `d(n, w)`: the weight of the changed matches of a row; `p(n, c)`: its matches now.
pub(super) fn change(
    [left, right]: [&Rel; 2],
    present: bool,
    on: &[Scalar],
    [left_terms, right_terms]: [&[Rel]; 2],
    sources: &Sources,
) -> Lowered {
    let left_ids: Vec<ColId> = left.columns().into_iter().collect();
    let right_ids: Vec<ColId> = right.columns().into_iter().collect();
    let under = |alias: &str, ids: &[ColId]| -> BTreeMap<ColId, Expr> {
        ids.iter()
            .map(|id| (*id, Expr::column(alias, column_name(*id))))
            .collect()
    };
    let cte = |name: &str, query: Query| Cte {
        name: name.to_owned(),
        materialized: true,
        body: CteBody::Query(query),
    };
    let from_cte = |name: &str| From::Cte {
        name: format!("pgt_{name}"),
        alias: name.to_owned(),
    };
    let weighted = |row: &Lowered| {
        row.weight()
            .unwrap_or(Expr::Integer(1))
            .cast("pg_catalog.int4")
    };

    let changes = right_terms
        .iter()
        .map(|term| {
            let row = lower(term, sources);
            let mut items = items_of(&row, &right_ids);
            items.push((weighted(&row), "w".into()));
            row.select(items)
        })
        .collect();

    let mut concerned: Vec<Select> = left_terms
        .iter()
        .map(|term| {
            let row = lower(term, sources);
            let mut items = items_of(&row, &left_ids);
            items.push((weighted(&row), "w".into()));
            items.push((Expr::Boolean(true), "came".into()));
            row.select(items)
        })
        .collect();
    let mut row = lower(left, sources);
    let mut columns = row.columns.clone();
    columns.extend(under("r", &right_ids));
    let meets = Select {
        items: vec![(Expr::Integer(1), "one".into())],
        from: vec![from_cte("r")],
        conditions: vec![conjunction(on, &columns)],
        ..Select::default()
    };
    row.conditions.push(Expr::Exists(Box::new(meets)));
    let mut items = items_of(&row, &left_ids);
    items.push((Expr::Integer(1), "w".into()));
    items.push((Expr::Boolean(false), "came".into()));
    concerned.push(row.select(items));

    let mut items: Vec<(Expr, String)> = left_ids
        .iter()
        .map(|id| column_name(*id))
        .chain(["w".to_owned(), "came".to_owned()])
        .map(|name| (Expr::column("x", name.clone()), name))
        .collect();
    items.push((
        Expr::Window(super::ast::Name::new("pg_catalog", "row_number"), vec![]),
        "n".into(),
    ));
    let numbered = Select {
        items,
        from: vec![From::Select {
            query: Box::new(union_all(concerned)),
            alias: "x".into(),
            lateral: false,
        }],
        ..Select::default()
    };

    let number = || Expr::column("l", "n");
    let mut columns = under("l", &left_ids);
    columns.extend(under("r", &right_ids));
    let changed_matches = Select {
        items: vec![
            (number(), "n".into()),
            (Expr::aggregate("sum", Expr::column("r", "w")), "w".into()),
        ],
        from: vec![from_cte("l"), from_cte("r")],
        conditions: vec![conjunction(on, &columns)],
        group_by: vec![number()],
        ..Select::default()
    };
    let partner = lower(right, sources);
    let mut columns = under("l", &left_ids);
    columns.extend(partner.columns.clone());
    let mut present_matches = partner.select(vec![
        (number(), "n".into()),
        (Expr::CountStar(None), "c".into()),
    ]);
    present_matches.from.insert(0, from_cte("l"));
    present_matches.conditions.push(conjunction(on, &columns));
    present_matches.group_by = vec![number()];

    let or_zero = |table: &str, column: &str| {
        Expr::Coalesce(vec![Expr::column(table, column), Expr::Integer(0)])
    };
    let now = or_zero("p", "c");
    let before = now.clone().infix("-", or_zero("d", "w"));
    let counted = |matches: Expr| {
        let sign = if present { ">" } else { "<=" };
        matches
            .infix(sign, Expr::Integer(0))
            .cast("pg_catalog.int4")
    };
    let came = Expr::column("l", "came");
    let factor = Expr::Case(
        vec![(came, counted(before.clone()))],
        Box::new(counted(now).infix("-", counted(before))),
    );
    let left_join = |from: From, name: &str| From::Join {
        left: Box::new(from),
        kind: JoinKind::Left,
        right: Box::new(from_cte(name)),
        on: Expr::column(name, "n").infix("=", number()),
    };
    let mut items: Vec<(Expr, String)> = left_ids
        .iter()
        .map(|id| (Expr::column("l", column_name(*id)), column_name(*id)))
        .collect();
    items.push((
        Expr::column("l", "w")
            .infix("*", factor.clone())
            .cast("pg_catalog.int4"),
        "w".into(),
    ));
    let body = Select {
        items,
        from: vec![left_join(left_join(from_cte("l"), "d"), "p")],
        conditions: vec![factor.infix("<>", Expr::Integer(0))],
        ..Select::default()
    };
    let query = Query {
        with: vec![
            cte("pgt_r", union_all(changes)),
            cte("pgt_l", numbered.into()),
            cte("pgt_d", changed_matches.into()),
            cte("pgt_p", present_matches.into()),
        ],
        branches: vec![body],
    };
    let alias_by = left_ids.first().copied().unwrap_or_else(|| stand_in(left));
    let mut table = derived(query, &[alias_by], true);
    table.columns = under(&format!("u{}", alias_by.0), &left_ids);
    table
}

/// The rows of `input` beside those of an item computed from them; `left` holds the conditions of a LEFT JOIN.
pub(super) fn expand(
    input: &Rel,
    item: &Scalar,
    columns: &[(ColId, Type)],
    left: Option<&Vec<Scalar>>,
    sources: &Sources,
) -> Lowered {
    let alias = format!("e{}", columns.first().map_or(0, |(id, _)| id.0));
    let names = columns.iter().map(|(id, _)| column_name(*id)).collect();
    let own = columns
        .iter()
        .map(|(id, _)| (*id, Expr::column(&alias, column_name(*id))));
    let Some(on) = left else {
        let mut row = lower(input, sources);
        let item = scalar(item, &row);
        row.columns.extend(own);
        row.from.push(From::Item {
            item,
            alias,
            columns: names,
        });
        return row;
    };
    let (from, mut known, weights) = side(input, sources);
    let row = Lowered {
        columns: known.clone(),
        ..Lowered::default()
    };
    let item = scalar(item, &row);
    known.extend(own);
    Lowered {
        from: vec![From::Join {
            left: Box::new(from),
            kind: JoinKind::Left,
            on: conjunction(on, &known),
            right: Box::new(From::Item {
                item,
                alias,
                columns: names,
            }),
        }],
        conditions: vec![],
        columns: known,
        weights,
    }
}
