//! Lowering of outer, semi and anti joins, their changes, and items computed from a row.

use std::collections::{BTreeMap, BTreeSet};

use super::ast::{Cte, CteBody, Expr, From, JoinKind, Name, Query, Select, TextPiece};
use super::lower::{Lowered, Sources, column_name, derived, image, lower, scalar, union_all};
use crate::rel::{ColId, ITSELF, Kept, Rel};
use crate::scalar::{Scalar, Shape, Type};

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

/// The names of the CTEs about one side of a join that changed.
struct Names {
    /// Its change.
    change: &'static str,
    /// Its rows that came or went, and those that meet a change of the other side, numbered.
    rows: &'static str,
    /// The weight of the changed partners of each of those rows.
    changed: &'static str,
    /// The number of partners it has now, if that is not more than matters.
    partners: &'static str,
}

const LEFT: Names = Names {
    change: "pgt_x",
    rows: "pgt_l",
    changed: "pgt_d",
    partners: "pgt_p",
};

const RIGHT: Names = Names {
    change: "pgt_r",
    rows: "pgt_m",
    changed: "pgt_e",
    partners: "pgt_q",
};

/// A side of a join that changed.
struct Side<'a> {
    rel: &'a Rel,
    terms: &'a [Rel],
    ids: Vec<ColId>,
    names: Names,
}

/// From so many changes of joins within each other on they are netted: where all sides of a chain changed at once, each
/// join would repeat the rows of the change below it, of which most cancel out.
const DEEP: usize = 2;

/// How many changes of outer, semi and anti joins are within each other.
fn changes_within(rel: &Rel) -> usize {
    match rel {
        Rel::JoinChange {
            left_terms,
            right_terms,
            ..
        } => {
            let terms = left_terms.iter().chain(right_terms);
            1 + terms.map(changes_within).max().unwrap_or(0)
        }
        Rel::Filter { input, .. }
        | Rel::Moving { input, .. }
        | Rel::Bounded { input, .. }
        | Rel::Project { input, .. }
        | Rel::ProjectSet { input, .. }
        | Rel::Expand { input, .. }
        | Rel::Match { left: input, .. }
        | Rel::Negate(input) => changes_within(input),
        Rel::Outer { left, right, .. } => changes_within(left).max(changes_within(right)),
        Rel::UnionAll { inputs, .. } => {
            let inputs = inputs.iter().map(|(input, _)| changes_within(input));
            inputs.max().unwrap_or(0)
        }
        Rel::Join { inputs, .. } => inputs.iter().map(changes_within).max().unwrap_or(0),
        Rel::InnerChange { changes, .. } => {
            let terms = changes.iter().flatten();
            terms.map(changes_within).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// A change of these columns, each image of them once.
fn net(change: Query, ids: &[ColId]) -> Query {
    if ids.is_empty() {
        return change;
    }
    let columns: Vec<Expr> = ids
        .iter()
        .map(|id| Expr::column("x", column_name(*id)))
        .collect();
    let weight = || Expr::aggregate("sum", Expr::column("x", "w"));
    let mut items: Vec<(Expr, String)> = columns
        .iter()
        .zip(ids)
        .map(|(column, id)| {
            (
                Expr::aggregate("any_value", column.clone()),
                column_name(*id),
            )
        })
        .collect();
    items.push((int(weight()), "w".into()));
    Select {
        items,
        from: vec![From::Select {
            query: Box::new(change),
            alias: "x".into(),
            lateral: false,
        }],
        group_by: vec![image(columns)],
        having: Some(weight().infix("<>", Expr::Integer(0))),
        ..Select::default()
    }
    .into()
}

/// The columns `ids` of a derived table or CTE under `alias`.
fn under(alias: &str, ids: &[ColId]) -> BTreeMap<ColId, Expr> {
    ids.iter()
        .map(|id| (*id, Expr::column(alias, column_name(*id))))
        .collect()
}

fn materialized(name: &str, query: Query) -> Cte {
    Cte {
        name: name.to_owned(),
        materialized: true,
        body: CteBody::Query(query),
    }
}

fn from_cte(name: &str, alias: &str) -> From {
    From::Cte {
        name: name.to_owned(),
        alias: alias.to_owned(),
    }
}

/// What is known in the CTE `name` of each numbered row `l`.
fn left_join(rows: From, name: &str, alias: &str) -> From {
    From::Join {
        left: Box::new(rows),
        kind: JoinKind::Left,
        right: Box::new(from_cte(name, alias)),
        on: Expr::column(alias, "n").infix("=", Expr::column("l", "n")),
    }
}

fn int(value: Expr) -> Expr {
    value.cast("pg_catalog.int4")
}

/// Rows of one source by the value of column `id` of `rel`, which are looked up through an index.
fn is_indexed(rel: &Rel, id: ColId, sources: &Sources) -> bool {
    match rel {
        Rel::Scan(scan) => scan
            .columns
            .iter()
            .find(|column| column.id == id)
            .zip(sources.get(&scan.source))
            .is_some_and(|(column, source)| source.indexed.contains(&column.attnum)),
        Rel::Filter { input, .. } => is_indexed(input, id, sources),
        Rel::Project { input, columns } => columns
            .iter()
            .find(|(own, _)| *own == id)
            .and_then(|(_, value)| value.as_column())
            .is_some_and(|from| is_indexed(input, from, sources)),
        _ => false,
    }
}

impl Side<'_> {
    /// `change(c*, w)`
    fn change(&self, sources: &Sources) -> Cte {
        let mut branches: Vec<Select> = self
            .terms
            .iter()
            .map(|term| {
                let row = lower(term, sources);
                let mut items = items_of(&row, &self.ids);
                items.push((int(row.weight().unwrap_or(Expr::Integer(1))), "w".into()));
                row.select(items)
            })
            .collect();
        if branches.is_empty() {
            // Nothing changed here; the other side did.
            let mut items: Vec<(Expr, String)> = self
                .rel
                .column_types()
                .into_iter()
                .filter(|(id, _)| self.ids.contains(id))
                .map(|(id, (ty, _))| (null(ty), column_name(id)))
                .collect();
            items.push((int(Expr::Integer(0)), "w".into()));
            branches.push(Select {
                items,
                conditions: vec![Expr::Boolean(false)],
                ..Select::default()
            });
        }
        let change = union_all(branches);
        let deep = self.terms.iter().any(|term| changes_within(term) >= DEEP);
        materialized(
            self.names.change,
            if deep { net(change, &self.ids) } else { change },
        )
    }

    /// `rows(c*, w, came, n)`
    fn rows(&self, other: &Side<'_>, on: &[Scalar], sources: &Sources) -> Cte {
        let names: Vec<String> = self.ids.iter().map(|id| column_name(*id)).collect();
        let mut items: Vec<(Expr, String)> = names
            .iter()
            .map(|name| (Expr::column("x", name.clone()), name.clone()))
            .collect();
        items.push((Expr::column("x", "w"), "w".into()));
        items.push((Expr::Boolean(true), "came".into()));
        let moved = Select {
            items,
            from: vec![from_cte(self.names.change, "x")],
            ..Select::default()
        };
        let mut row = lower(self.rel, sources);
        let mut columns = row.columns.clone();
        columns.extend(under("r", &other.ids));
        let meets = |on: &[Scalar]| {
            Expr::Exists(Box::new(Select {
                items: vec![(Expr::Integer(1), "one".into())],
                from: vec![from_cte(other.names.change, "r")],
                conditions: vec![conjunction(on, &columns)],
                ..Select::default()
            }))
        };
        // By equalities alone the planner can go from the few changes to the rows that meet them.
        let equalities: Vec<Scalar> = on
            .iter()
            .filter(|condition| match condition.shape {
                Shape::Equal(a, b) => self.ids.contains(&a) != self.ids.contains(&b),
                _ => false,
            })
            .cloned()
            .collect();
        if !equalities.is_empty() && equalities.len() < on.len() {
            row.conditions.push(meets(&equalities));
        }
        row.conditions.push(meets(on));
        let mut items = items_of(&row, &self.ids);
        items.push((Expr::Integer(1), "w".into()));
        items.push((Expr::Boolean(false), "came".into()));
        let concerned = union_all(vec![moved, row.select(items)]);
        let mut items: Vec<(Expr, String)> = names
            .into_iter()
            .chain(["w".to_owned(), "came".to_owned()])
            .map(|name| (Expr::column("x", name.clone()), name))
            .collect();
        items.push((
            Expr::Window(Name::new("pg_catalog", "row_number"), vec![]),
            "n".into(),
        ));
        let numbered = Select {
            items,
            from: vec![From::Select {
                query: Box::new(concerned),
                alias: "x".into(),
                lateral: false,
            }],
            ..Select::default()
        };
        materialized(self.names.rows, numbered.into())
    }

    /// `changed(n, w)` and `partners(n, c)`
    fn counts(&self, other: &Side<'_>, on: &[Scalar], sources: &Sources) -> [Cte; 2] {
        let number = || Expr::column("l", "n");
        let mut columns = under("l", &self.ids);
        columns.extend(under("r", &other.ids));
        let changed = Select {
            items: vec![
                (number(), "n".into()),
                (Expr::aggregate("sum", Expr::column("r", "w")), "w".into()),
            ],
            from: vec![
                from_cte(self.names.rows, "l"),
                from_cte(other.names.change, "r"),
            ],
            conditions: vec![conjunction(on, &columns)],
            group_by: vec![number()],
            ..Select::default()
        };
        let mut partner = lower(other.rel, sources);
        let mut columns = under("l", &self.ids);
        columns.extend(partner.columns.clone());
        partner.conditions.push(conjunction(on, &columns));
        let partners = if other.is_found(on, sources) {
            self.partners_that_matter(partner)
        } else {
            partner.from.insert(0, from_cte(self.names.rows, "l"));
            Select {
                group_by: vec![number()],
                ..partner.select(vec![
                    (number(), "n".into()),
                    (Expr::CountStar(None), "c".into()),
                ])
            }
        };
        [
            materialized(self.names.changed, changed.into()),
            materialized(self.names.partners, partners.into()),
        ]
    }

    /// An index finds the rows that satisfy `on` with a row of the other side.
    fn is_found(&self, on: &[Scalar], sources: &Sources) -> bool {
        on.iter().any(|condition| match condition.shape {
            Shape::Equal(a, b) => [a, b].iter().any(|id| is_indexed(self.rel, *id, sources)),
            _ => false,
        })
    }

    /// `partners(n, c)` with no more of them counted than decide whether there are any and whether there were: one more
    /// than came.
    fn partners_that_matter(&self, partner: Lowered) -> Select {
        let came = Expr::Coalesce(vec![Expr::column("d", "w"), Expr::Integer(0)]);
        let enough =
            Expr::builtin("int8larger", vec![came, Expr::Integer(0)]).infix("+", Expr::Integer(1));
        let some = Select {
            rows: Some(Expr::Pieces(vec![
                TextPiece::Text(" LIMIT ".into()),
                TextPiece::Expr(enough),
            ])),
            ..partner.select(vec![(Expr::Integer(1), "one".into())])
        };
        let counted = Select {
            items: vec![(Expr::CountStar(None), "c".into())],
            from: vec![From::Select {
                query: Box::new(some.into()),
                alias: "q".into(),
                lateral: false,
            }],
            ..Select::default()
        };
        Select {
            items: vec![
                (Expr::column("l", "n"), "n".into()),
                (Expr::Scalar(Box::new(counted)), "c".into()),
            ],
            from: vec![left_join(
                from_cte(self.names.rows, "l"),
                self.names.changed,
                "d",
            )],
            ..Select::default()
        }
    }

    /// The change of the rows that have (or have not) a partner, with `items` made of row `l`.
    fn alone(&self, present: bool, mut items: Vec<(Expr, String)>) -> Select {
        let or_zero = |table: &str, column: &str| {
            Expr::Coalesce(vec![Expr::column(table, column), Expr::Integer(0)])
        };
        let now = or_zero("p", "c");
        let before = now.clone().infix("-", or_zero("d", "w"));
        let counted = |matches: Expr| {
            let sign = if present { ">" } else { "<=" };
            int(matches.infix(sign, Expr::Integer(0)))
        };
        let factor = Expr::Case(
            vec![(Expr::column("l", "came"), counted(before.clone()))],
            Box::new(counted(now).infix("-", counted(before))),
        );
        items.push((
            int(Expr::column("l", "w").infix("*", factor.clone())),
            "w".into(),
        ));
        let rows = from_cte(self.names.rows, "l");
        Select {
            items,
            from: vec![left_join(
                left_join(rows, self.names.changed, "d"),
                self.names.partners,
                "p",
            )],
            conditions: vec![factor.infix("<>", Expr::Integer(0))],
            ..Select::default()
        }
    }
}

fn null(ty: Type) -> Expr {
    scalar(&Scalar::null(ty), &Lowered::default())
}

/// The change of a join that keeps more, or less, than its pairs.
pub(super) fn change(
    [left, right]: [&Rel; 2],
    kind: Kept,
    on: &[Scalar],
    [left_terms, right_terms]: [&[Rel]; 2],
    sources: &Sources,
) -> Lowered {
    let side = |rel, terms, names| Side {
        rel,
        terms,
        ids: Rel::columns(rel).into_iter().collect(),
        names,
    };
    let left = side(left, left_terms, LEFT);
    let mut right = side(right, right_terms, RIGHT);
    if matches!(kind, Kept::Matched | Kept::Unmatched) {
        // Of its rows only the conditions see something.
        let seen: BTreeSet<ColId> = on.iter().flat_map(Scalar::columns).collect();
        right.ids.retain(|id| seen.contains(id));
    }
    let mut with = vec![left.change(sources), right.change(sources)];
    with.push(left.rows(&right, on, sources));
    with.extend(left.counts(&right, on, sources));
    let own = |side: &Side<'_>| -> BTreeMap<ColId, Expr> { under("l", &side.ids) };
    let nulls = |side: &Side<'_>| -> BTreeMap<ColId, Expr> {
        side.rel
            .column_types()
            .into_iter()
            .map(|(id, (ty, _))| (id, null(ty)))
            .collect()
    };
    let named = |columns: BTreeMap<ColId, Expr>| -> Vec<(Expr, String)> {
        columns
            .into_iter()
            .map(|(id, value)| (value, column_name(id)))
            .collect()
    };
    let both = |a: BTreeMap<ColId, Expr>, b: BTreeMap<ColId, Expr>| {
        named(a.into_iter().chain(b).collect())
    };
    let branches = match kind {
        Kept::Matched => vec![left.alone(true, named(own(&left)))],
        Kept::Unmatched => vec![left.alone(false, named(own(&left)))],
        Kept::Left | Kept::Both => {
            let mut branches = pairs(&left, &right, on, sources);
            branches.push(left.alone(false, both(own(&left), nulls(&right))));
            if kind == Kept::Both {
                with.push(right.rows(&left, on, sources));
                with.extend(right.counts(&left, on, sources));
                branches.push(right.alone(false, both(nulls(&left), own(&right))));
            }
            branches
        }
    };
    let ids: Vec<ColId> = match kind {
        Kept::Matched | Kept::Unmatched => left.ids.clone(),
        Kept::Left | Kept::Both => {
            let all: BTreeSet<ColId> = left.ids.iter().chain(&right.ids).copied().collect();
            all.into_iter().collect()
        }
    };
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(left.rel));
    let mut table = derived(Query { with, branches }, &[alias_by], true);
    table.columns = under(&format!("u{}", alias_by.0), &ids);
    table
}

/// Up to so many changed inputs every combination is a branch of its own.
const MULTIPLIED_OUT: usize = 3;

/// Up to so many changed inputs each has a branch of its own. Every old state in it has up to three rows for one that
/// changed, and where all of them changed that is a product.
const AT_ONCE: usize = 6;

/// The change of an inner join: `pgt_j<i>(c*, w)` is the change of input i, unless that is what was read from the log and
/// need not be copied; the branches join those with the new states, or, of many changed inputs, the first with the new
/// and the later ones with the old states of the others.
pub(super) fn inner_change(
    inputs: &[Rel],
    conditions: &[Scalar],
    changes: &[Vec<Rel>],
    sources: &Sources,
) -> Lowered {
    let name = |position: usize| format!("pgt_j{position}");
    let ids_of =
        |position: usize| -> Vec<ColId> { inputs[position].columns().into_iter().collect() };
    let changed: Vec<usize> = (0..inputs.len())
        .filter(|position| !changes[*position].is_empty())
        .collect();
    let recursive = inputs
        .iter()
        .chain(changes.iter().flatten())
        .any(|rel| rel.scans().iter().any(|scan| scan.source == ITSELF));
    if changed.len() > AT_ONCE && !recursive {
        return inner_change_in_steps(inputs, conditions, changes, sources);
    }
    let as_logged = |position: usize| match changes[position].as_slice() {
        [only] if changed.len() <= MULTIPLIED_OUT && is_scan(only) => Some(only),
        _ => None,
    };
    let with = changed
        .iter()
        .filter(|position| as_logged(**position).is_none())
        .map(|position| {
            let branches = changes[*position]
                .iter()
                .map(|term| {
                    let row = lower(term, sources);
                    let mut items = items_of(&row, &ids_of(*position));
                    items.push((int(row.weight().unwrap_or(Expr::Integer(1))), "w".into()));
                    row.select(items)
                })
                .collect();
            materialized(&name(*position), union_all(branches))
        })
        .collect();
    let change = |position: usize| {
        if let Some(term) = as_logged(position) {
            return lower(term, sources);
        }
        let alias = format!("j{position}");
        Lowered {
            from: vec![from_cte(&name(position), &alias)],
            columns: under(&alias, &ids_of(position)),
            weights: vec![Expr::column(&alias, "w")],
            conditions: vec![],
        }
    };
    let old = |position: usize| {
        let ids = ids_of(position);
        let row = lower(&inputs[position], sources);
        let mut items = items_of(&row, &ids);
        items.push((int(row.weight().unwrap_or(Expr::Integer(1))), "w".into()));
        let now = row.select(items);
        let mut items: Vec<(Expr, String)> = ids
            .iter()
            .map(|id| (Expr::column("d", column_name(*id)), column_name(*id)))
            .collect();
        items.push((Expr::Negate(Box::new(Expr::column("d", "w"))), "w".into()));
        let taken_back = Select {
            items,
            from: vec![from_cte(&name(position), "d")],
            fence: true,
            ..Select::default()
        };
        let alias = format!("o{position}");
        Lowered {
            from: vec![From::Select {
                query: Box::new(union_all(vec![now, taken_back])),
                alias: alias.clone(),
                lateral: false,
            }],
            columns: under(&alias, &ids),
            weights: vec![Expr::column(&alias, "w")],
            conditions: vec![],
        }
    };
    // For each branch, how each input is read, and the sign.
    let mut plans: Vec<(Vec<Lowered>, bool)> = Vec::new();
    let now = |position: usize| lower(&inputs[position], sources);
    if changed.len() <= MULTIPLIED_OUT {
        for chosen in 1_u32..1 << changed.len() {
            let rows = (0..inputs.len())
                .map(|position| {
                    let place = changed.iter().position(|other| *other == position);
                    match place {
                        Some(place) if chosen & (1 << place) != 0 => change(position),
                        _ => now(position),
                    }
                })
                .collect();
            plans.push((rows, chosen.count_ones() % 2 == 0));
        }
    } else {
        for at in &changed {
            let rows = (0..inputs.len())
                .map(|position| {
                    if position == *at {
                        change(position)
                    } else if position > *at && changed.contains(&position) {
                        old(position)
                    } else {
                        now(position)
                    }
                })
                .collect();
            plans.push((rows, false));
        }
    }
    let ids: Vec<ColId> = {
        let all: BTreeSet<ColId> = (0..inputs.len()).flat_map(ids_of).collect();
        all.into_iter().collect()
    };
    let branches = plans
        .into_iter()
        .map(|(rows, negative)| {
            let mut joined = Lowered::default();
            for row in rows {
                joined.from.extend(row.from);
                joined.conditions.extend(row.conditions);
                joined.columns.extend(row.columns);
                joined.weights.extend(row.weights);
            }
            if negative {
                joined.weights.push(Expr::Integer(-1));
            }
            joined
                .conditions
                .push(conjunction(conditions, &joined.columns));
            let mut items = items_of(&joined, &ids);
            let weight = joined.weight().unwrap_or(Expr::Integer(1));
            items.push((int(weight), "w".into()));
            joined.select(items)
        })
        .collect();
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(&inputs[0]));
    let mut table = derived(Query { with, branches }, &[alias_by], true);
    table.columns = under(&format!("u{}", alias_by.0), &ids);
    table
}

/// The same, one input after the other: `pgt_s<i>(c*, w)` is the net change of the join P of the first ones, and that with
/// one more, A, is dP JOIN A' + P' JOIN dA - dP JOIN dA.
fn inner_change_in_steps(
    inputs: &[Rel],
    conditions: &[Scalar],
    changes: &[Vec<Rel>],
    sources: &Sources,
) -> Lowered {
    let ids_of = |position: usize| -> BTreeSet<ColId> { inputs[position].columns() };
    let cte = |kind: char, position: usize, alias: &str, ids: &BTreeSet<ColId>| {
        let ids: Vec<ColId> = ids.iter().copied().collect();
        Lowered {
            from: vec![from_cte(&format!("pgt_{kind}{position}"), alias)],
            columns: under(alias, &ids),
            weights: vec![Expr::column(alias, "w")],
            conditions: vec![],
        }
    };
    let branch = |rows: Vec<Lowered>, on: &[Scalar], ids: &BTreeSet<ColId>, negative: bool| {
        let mut joined = Lowered::default();
        for row in rows {
            joined.from.extend(row.from);
            joined.conditions.extend(row.conditions);
            joined.columns.extend(row.columns);
            joined.weights.extend(row.weights);
        }
        if negative {
            joined.weights.push(Expr::Integer(-1));
        }
        if !on.is_empty() {
            joined.conditions.push(conjunction(on, &joined.columns));
        }
        let ids: Vec<ColId> = ids.iter().copied().collect();
        let mut items = items_of(&joined, &ids);
        let weight = joined.weight().unwrap_or(Expr::Integer(1));
        items.push((int(weight), "w".into()));
        joined.select(items)
    };
    let order = connected(inputs, conditions, changes);
    let mut with: Vec<Cte> = Vec::new();
    for position in order.iter().filter(|at| !changes[**at].is_empty()) {
        let branches = changes[*position]
            .iter()
            .map(|term| branch(vec![lower(term, sources)], &[], &ids_of(*position), false))
            .collect();
        with.push(materialized(
            &format!("pgt_j{position}"),
            union_all(branches),
        ));
    }
    let first = order[0];
    let mut known = ids_of(first);
    let mut so_far = cte('j', first, "s", &known);
    let mut open: Vec<&Scalar> = conditions.iter().collect();
    for (step, position) in order.iter().enumerate() {
        known.extend(ids_of(*position));
        let (on, later): (Vec<&Scalar>, Vec<&Scalar>) = open
            .into_iter()
            .partition(|condition| condition.columns().is_subset(&known));
        open = later;
        let on: Vec<Scalar> = on.into_iter().cloned().collect();
        let now = || lower(&inputs[*position], sources);
        let mut branches = Vec::new();
        if step == 0 {
            if on.is_empty() {
                continue;
            }
            branches.push(branch(vec![so_far], &on, &known, false));
        } else {
            branches.push(branch(vec![so_far.clone(), now()], &on, &known, false));
            if !changes[*position].is_empty() {
                let own = || cte('j', *position, "j", &ids_of(*position));
                let mut rows: Vec<Lowered> = order[..step]
                    .iter()
                    .map(|at| lower(&inputs[*at], sources))
                    .collect();
                rows.push(own());
                let all: Vec<Scalar> = conditions
                    .iter()
                    .filter(|condition| condition.columns().is_subset(&known))
                    .cloned()
                    .collect();
                branches.push(branch(rows, &all, &known, false));
                branches.push(branch(vec![so_far, own()], &on, &known, true));
            }
        }
        let several = branches.len() > 1;
        let ids: Vec<ColId> = known.iter().copied().collect();
        let change = union_all(branches);
        with.push(materialized(
            &format!("pgt_s{step}"),
            if several { net(change, &ids) } else { change },
        ));
        so_far = cte('s', step, "s", &known);
    }
    let ids: Vec<ColId> = known.iter().copied().collect();
    let whole = branch(vec![so_far], &[], &known, false);
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(&inputs[0]));
    let query = Query {
        with,
        branches: vec![whole],
    };
    let mut table = derived(query, &[alias_by], true);
    table.columns = under(&format!("u{}", alias_by.0), &ids);
    table
}

/// All inputs, beginning with one that changed, each tied by a condition to those before it where there is one.
fn connected(inputs: &[Rel], conditions: &[Scalar], changes: &[Vec<Rel>]) -> Vec<usize> {
    let columns: Vec<BTreeSet<ColId>> = inputs.iter().map(Rel::columns).collect();
    let mut left: Vec<usize> = (0..inputs.len()).collect();
    let mut order: Vec<usize> = Vec::new();
    let mut known: BTreeSet<ColId> = BTreeSet::new();
    while !left.is_empty() {
        let tied = |position: usize| {
            conditions.iter().any(|condition| {
                let mut here = false;
                let mut before = false;
                for id in condition.columns() {
                    here |= columns[position].contains(&id);
                    before |= known.contains(&id);
                }
                here && before
            })
        };
        let changed = |position: usize| !changes[position].is_empty();
        let next = if order.is_empty() {
            left.iter().position(|at| changed(*at))
        } else {
            left.iter().position(|at| tied(*at))
        };
        let next = left.remove(next.unwrap_or(0));
        known.extend(&columns[next]);
        order.push(next);
    }
    order
}

/// The rows of a scan, perhaps under other names. A recursive query may read its own rows only once.
fn is_scan(rel: &Rel) -> bool {
    match rel {
        Rel::Scan(scan) => scan.source != ITSELF,
        Rel::Filter { input, conditions } => conditions.is_empty() && is_scan(input),
        Rel::Project { input, columns } => {
            is_scan(input) && columns.iter().all(|(_, value)| value.as_column().is_some())
        }
        _ => false,
    }
}

/// dR JOIN S', and R' JOIN dS - dR JOIN dS.
fn pairs(left: &Side<'_>, right: &Side<'_>, on: &[Scalar], sources: &Sources) -> Vec<Select> {
    let named = |columns: &BTreeMap<ColId, Expr>| -> Vec<(Expr, String)> {
        let wanted: BTreeSet<ColId> = left.ids.iter().chain(&right.ids).copied().collect();
        wanted
            .into_iter()
            .map(|id| {
                let value = columns.get(&id).cloned().unwrap_or(Expr::Null);
                (value, column_name(id))
            })
            .collect()
    };
    let mut branches = Vec::new();
    if !left.terms.is_empty() {
        let mut partner = lower(right.rel, sources);
        let mut columns = under("l", &left.ids);
        columns.extend(partner.columns.clone());
        partner.from.insert(0, from_cte(left.names.change, "l"));
        partner.conditions.push(conjunction(on, &columns));
        let mut items = named(&columns);
        items.push((Expr::column("l", "w"), "w".into()));
        branches.push(partner.select(items));
    }
    let mut columns = under("l", &left.ids);
    columns.extend(under("r", &right.ids));
    let mut items = named(&columns);
    let sign = Expr::Case(
        vec![(Expr::column("l", "came"), Expr::Integer(-1))],
        Box::new(Expr::Integer(1)),
    );
    let weight = Expr::column("l", "w")
        .infix("*", Expr::column("r", "w"))
        .infix("*", sign);
    items.push((int(weight), "w".into()));
    branches.push(Select {
        items,
        from: vec![
            from_cte(left.names.rows, "l"),
            from_cte(right.names.change, "r"),
        ],
        conditions: vec![conjunction(on, &columns)],
        ..Select::default()
    });
    branches
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
