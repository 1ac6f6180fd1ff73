//! Lowering of the change of an outer, semi or anti join.

use std::collections::{BTreeMap, BTreeSet};

use super::ast::{Cte, Expr, From, JoinKind, Name, Query, Select, TextPiece};
use super::joins::{conjunction, from_cte, int, items_of, materialized, net, stand_in, under};
use super::lower::{Lowered, Sources, column_name, derived, lower, scalar, union_all};
use crate::rel::{ColId, Kept, Rel};
use crate::scalar::{Scalar, Shape, Type};

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

/// What is known in the CTE `name` of each numbered row `l`.
fn left_join(rows: From, name: &str, alias: &str) -> From {
    From::Join {
        left: Box::new(rows),
        kind: JoinKind::Left,
        right: Box::new(from_cte(name, alias)),
        on: Expr::column(alias, "n").infix("=", Expr::column("l", "n")),
    }
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

fn null(ty: Type) -> Expr {
    scalar(&Scalar::null(ty), &Lowered::default())
}
