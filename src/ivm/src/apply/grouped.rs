//! Results with one row per group: the delta is aggregated per group and folded into the stored state; where no law
//! allows that, exactly the touched groups are evaluated again over the new state.
//!
//! The statement's CTEs: `d*` (net source changes), `raw` (keys and inputs of changed rows), `net` (the same netted, only
//! where an extremum needs it), `grp` (the change per group), `cur` (with the stored row), `again` (groups evaluated
//! again), `nxt` (the new states), `fin` (old and new stored columns of the rows that really change), `done` (the MERGE).

use std::collections::BTreeSet;

use super::layout::{Grouped, State, StateKind};
use super::outcome::{self, DONE, Outcome, cte, from_cte, modify};
use super::state::{
    evaluate_state, input_value, largest_scale, or_zero, scale_weight, stored_value, zero,
};
use super::{Change, Identity, Layout, Role, Target};
use crate::delta;
use crate::rel::{SourceId, SumKind};
use crate::scalar::Scalar;
use crate::sql::ast::{
    Cte, CteBody, Expr, From, JoinKind, Merge, Name, Select, Statement, TextPiece,
};
use crate::sql::{self, Sources};

pub(super) fn differential(
    grouped: &Grouped,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let net_first = change.careful || delta::changes_meet(&grouped.input, &change.dirty);
    let again = grouped.recomputes()
        || grouped.needs_net_inputs()
        || (change.careful && grouped.may_recompute());
    let plan = Plan {
        grouped,
        layout,
        single: layout.identity == Identity::Single,
        again,
    };
    let mut ctes: Vec<Cte> = change
        .sources()
        .flat_map(|id| sql::delta_table(id, &sources[&id], change.limit, net_first))
        .collect();
    ctes.push(plan.raw(sources, &change.dirty));
    let rows = if grouped.needs_net_inputs() && !grouped.recomputes() {
        ctes.push(plan.net());
        "net"
    } else {
        "raw"
    };
    ctes.push(plan.change_per_group(rows));
    ctes.push(plan.current(target));
    if again {
        ctes.push(plan.evaluate_again(sources));
    }
    ctes.push(plan.next());
    ctes.push(plan.finish());
    ctes.push(plan.merge(target));
    ctes.extend(plan.output(target));
    let mut outcome = Outcome::default();
    let delta_rows = change
        .sources()
        .map(|id| outcome.count(&sql::delta_name(id), None))
        .collect::<Vec<_>>();
    outcome.delta_rows = delta_rows
        .into_iter()
        .reduce(|sum, rows| sum.infix("+", rows));
    outcome.inserted = Some(outcome.actions("INSERT"));
    outcome.updated = Some(outcome.actions("UPDATE"));
    outcome.deleted = Some(outcome.actions("DELETE"));
    let negative = Expr::column("x", "s0").infix("<", Expr::Integer(0));
    outcome.drift = Some(
        outcome
            .count("nxt", Some(negative))
            .infix(">", Expr::Integer(0)),
    );
    if plan.may_give_up() {
        let needed = outcome.count("cur", Some(Expr::column("x", "need")));
        outcome.again = Some(needed.infix(">", Expr::Integer(0)));
    }
    Statement {
        ctes,
        body: outcome.select(),
    }
}

fn key(position: usize) -> String {
    format!("k{position}")
}

fn state(position: usize) -> String {
    format!("s{position}")
}

fn input(position: usize) -> String {
    format!("x{position}")
}

/// Stored columns before (`o`) and after (`v`), by position.
fn before(position: usize) -> String {
    format!("o{position}")
}

fn after(position: usize) -> String {
    format!("v{position}")
}

struct Plan<'a> {
    grouped: &'a Grouped,
    layout: &'a Layout,
    single: bool,
    /// The statement can evaluate groups again.
    again: bool,
}

impl Plan<'_> {
    /// The statement cannot evaluate groups again, but may find that it would have to.
    fn may_give_up(&self) -> bool {
        !self.again && self.grouped.may_recompute()
    }

    fn keys(&self) -> impl Iterator<Item = (usize, &Scalar)> {
        self.grouped.keys.iter().map(|(_, key)| key).enumerate()
    }

    /// Some key is equal to others that are spelled differently.
    fn loose_keys(&self) -> bool {
        self.keys().any(|(_, value)| !value.ty.bitwise)
    }

    fn states(&self) -> impl Iterator<Item = (usize, &State)> {
        self.grouped.states.iter().enumerate()
    }

    /// `raw(k*, x*, w)`: the terms of the input's delta.
    fn raw(&self, sources: &Sources, dirty: &BTreeSet<SourceId>) -> Cte {
        let branches = delta::terms(&self.grouped.input, dirty)
            .iter()
            .map(|term| {
                let row = sql::lower(term, sources);
                let mut items: Vec<(Expr, String)> = self
                    .keys()
                    .map(|(position, value)| (sql::scalar(value, &row), key(position)))
                    .collect();
                if !self.grouped.recomputes() {
                    items.extend(
                        self.grouped
                            .inputs
                            .iter()
                            .enumerate()
                            .map(|(position, value)| (input_value(value, &row), input(position))),
                    );
                }
                items.push((row.weight().unwrap_or(Expr::Integer(1)), "w".into()));
                row.select(items)
            })
            .collect();
        cte("raw", sql::union_all(branches))
    }

    /// `net`: as `raw`, one row per distinct image, weight not zero.
    fn net(&self) -> Cte {
        let names: Vec<String> = (0..self.grouped.keys.len())
            .map(key)
            .chain((0..self.grouped.inputs.len()).map(input))
            .collect();
        let weight = Expr::aggregate("sum", Expr::column("r", "w"));
        let mut items: Vec<(Expr, String)> = names
            .iter()
            .map(|name| {
                (
                    Expr::aggregate("any_value", Expr::column("r", name)),
                    name.clone(),
                )
            })
            .collect();
        items.push((weight.clone().cast("pg_catalog.int4"), "w".into()));
        let select = Select {
            items,
            from: vec![from_cte("raw", "r")],
            group_by: vec![sql::image(
                names.iter().map(|name| Expr::column("r", name)).collect(),
            )],
            having: Some(weight.infix("<>", zero())),
            ..Select::default()
        };
        cte("net", select)
    }

    /// `grp(k*, s*, ..)`: what the delta says about each group it touches.
    fn change_per_group(&self, rows: &str) -> Cte {
        let w = || Expr::column("r", "w");
        let comes = || w().infix(">", zero());
        let goes = || w().infix("<", zero());
        let mut items: Vec<(Expr, String)> = self
            .keys()
            .map(|(position, _)| (Expr::column("r", key(position)), key(position)))
            .collect();
        if self.grouped.recomputes() {
            // Only which groups are touched matters.
            items.push((Expr::aggregate("sum", w()), "s0".into()));
        } else {
            for (position, part) in self.states() {
                let value = |number: &usize| Expr::column("r", input(*number));
                let sum = |value: Expr, ty: &str| Expr::aggregate("sum", value).cast(ty);
                match &part.kind {
                    StateKind::Rows => {
                        items.push((or_zero(sum(w(), "pg_catalog.int8")), state(position)))
                    }
                    StateKind::NonNull { input } => {
                        let counted =
                            Expr::aggregate("sum", w()).filter(value(input).is_not_null());
                        items.push((or_zero(counted.cast("pg_catalog.int8")), state(position)));
                    }
                    StateKind::Sum { input, kind, .. } => {
                        let folded = match kind {
                            SumKind::Integer => sum(
                                value(input).cast("pg_catalog.int8").infix("*", w()),
                                "pg_catalog.int8",
                            ),
                            SumKind::Money => Expr::aggregate("sum", value(input).infix("*", w())),
                            _ => Expr::aggregate(
                                "sum",
                                value(input)
                                    .cast("pg_catalog.numeric")
                                    .infix("*", w().cast("pg_catalog.numeric")),
                            ),
                        };
                        items.push((folded, state(position)));
                    }
                    StateKind::Scales { input } => {
                        let folded = Expr::aggregate(
                            "sum",
                            scale_weight(value(input)).infix("*", w().cast("pg_catalog.numeric")),
                        );
                        items.push((
                            or_zero(folded.filter(value(input).is_not_null())),
                            state(position),
                        ));
                    }
                    StateKind::Minimum { input } => {
                        let extremum = || Expr::aggregate("min", value(input));
                        items.push((extremum().filter(comes()), format!("come{position}")));
                        items.push((extremum().filter(goes()), format!("go{position}")));
                    }
                    StateKind::Maximum { input } => {
                        let extremum = || Expr::aggregate("max", value(input));
                        items.push((extremum().filter(comes()), format!("come{position}")));
                        items.push((extremum().filter(goes()), format!("go{position}")));
                    }
                    StateKind::Recompute { .. } => {}
                }
            }
            for (position, value) in self.keys() {
                if !value.ty.bitwise {
                    let newest = Expr::aggregate("any_value", Expr::column("r", key(position)));
                    items.push((newest.filter(comes()), format!("comek{position}")));
                }
            }
            if self.loose_keys() {
                items.push((
                    or_false(Expr::aggregate("bool_or", comes())),
                    "comes".into(),
                ));
                items.push((or_false(Expr::aggregate("bool_or", goes())), "goes".into()));
            }
        }
        let select = Select {
            items,
            from: vec![from_cte(rows, "r")],
            group_by: self
                .keys()
                .map(|(position, _)| Expr::column("r", key(position)))
                .collect(),
            ..Select::default()
        };
        cte("grp", select)
    }

    /// The delta's columns that `cur` passes on.
    fn change_columns(&self) -> Vec<String> {
        let mut names: Vec<String> = self.keys().map(|(position, _)| key(position)).collect();
        if self.grouped.recomputes() {
            return names;
        }
        for (position, part) in self.states() {
            match part.kind {
                StateKind::Minimum { .. } | StateKind::Maximum { .. } => {
                    names.push(format!("come{position}"));
                    names.push(format!("go{position}"));
                }
                _ => names.push(state(position)),
            }
        }
        for (position, value) in self.keys() {
            if !value.ty.bitwise {
                names.push(format!("comek{position}"));
            }
        }
        if self.loose_keys() {
            names.push("comes".into());
            names.push("goes".into());
        }
        names
    }

    fn stored_position(&self, role: &Role) -> usize {
        self.layout
            .columns
            .iter()
            .position(|column| column.role == *role)
            .unwrap_or_default()
    }

    /// `cur`: each touched group beside its stored row, and whether it has to be evaluated again (`need`).
    fn current(&self, target: &Target) -> Cte {
        let stored = From::Table {
            name: target.table.clone(),
            alias: "s".into(),
            only: true,
        };
        let on = outcome::identify(self.layout, "s", &|name| {
            let position = self
                .layout
                .columns
                .iter()
                .position(|column| column.name == name);
            match position.map(|position| &self.layout.columns[position].role) {
                Some(Role::Key(number)) => Expr::column("g", key(*number)),
                _ => Expr::Null,
            }
        });
        let mut items: Vec<(Expr, String)> = self
            .change_columns()
            .into_iter()
            .map(|name| (Expr::column("g", &*name), name))
            .collect();
        items.push((Expr::column("s", "ctid"), "tid".into()));
        for (position, column) in self.layout.columns.iter().enumerate() {
            items.push((Expr::column("s", &*column.name), before(position)));
        }
        if self.again {
            items.push((Expr::builtin_window("row_number"), "g".into()));
        }
        if self.again || self.may_give_up() {
            items.push((self.need(), "need".into()));
        }
        let from = From::Join {
            left: Box::new(from_cte("grp", "g")),
            kind: JoinKind::Left,
            right: Box::new(stored),
            on,
        };
        cte(
            "cur",
            Select {
                items,
                from: vec![from],
                ..Select::default()
            },
        )
    }

    /// Whether the group cannot be folded for this change.
    fn need(&self) -> Expr {
        if self.grouped.recomputes() {
            return Expr::Boolean(true);
        }
        let stored = |position: usize| {
            let role = Role::State(position);
            Expr::column("s", &*self.layout.columns[self.stored_position(&role)].name)
        };
        let mut reasons = Vec::new();
        for (position, part) in self.states() {
            match &part.kind {
                StateKind::Sum {
                    kind: SumKind::FixedNumeric(_) | SumKind::FreeNumeric,
                    ..
                } => {
                    let special = || {
                        Expr::Literal("{NaN,Infinity,-Infinity}".into())
                            .cast("pg_catalog.numeric[]")
                    };
                    for value in [Expr::column("g", state(position)), stored(position)] {
                        reasons.push(or_false(Expr::EqualAny(
                            Box::new(value),
                            Box::new(special()),
                        )));
                    }
                }
                StateKind::Minimum { .. } => {
                    reasons.push(self.lost(position, stored(position), part, "LEAST"))
                }
                StateKind::Maximum { .. } => {
                    reasons.push(self.lost(position, stored(position), part, "GREATEST"))
                }
                _ => {}
            }
        }
        if self.loose_keys() {
            // The stored spelling of the key may have left with the rows that go.
            reasons.push(Expr::and(vec![
                Expr::column("g", "goes"),
                Expr::Not(Box::new(Expr::column("g", "comes"))),
            ]));
        }
        if reasons.is_empty() {
            return Expr::Boolean(false);
        }
        let survives = or_zero(stored(0))
            .infix("+", Expr::column("g", "s0"))
            .infix(">", zero());
        let any = Expr::Or(reasons);
        if self.single {
            any
        } else {
            Expr::and(vec![survives, any])
        }
    }

    /// The extremum may have left: the best value that goes is at least as good as the stored one, and no value that
    /// comes is at least as good as that.
    fn lost(&self, position: usize, stored: Expr, part: &State, best: &'static str) -> Expr {
        let come = Expr::column("g", format!("come{position}"));
        let go = Expr::column("g", format!("go{position}"));
        let at_least_as_good = |a: Expr, b: Expr| {
            or_false(outcome::equal(
                better(best, vec![a.clone(), b]),
                a,
                &part.ty,
            ))
        };
        Expr::and(vec![
            go.clone().is_not_null(),
            at_least_as_good(go.clone(), stored),
            Expr::Not(Box::new(at_least_as_good(come, go))),
        ])
    }

    /// `again(g, k*, s*)`: the states of the groups in need, evaluated over the new state.
    fn evaluate_again(&self, sources: &Sources) -> Cte {
        let nullable: Vec<usize> = self
            .keys()
            .filter(|(_, value)| value.nullable)
            .map(|(position, _)| position)
            .collect();
        let target = |position: usize| Expr::column("t", key(position));
        let branch = |with_nulls: bool| {
            let row = sql::lower(&self.grouped.input, sources);
            let mut conditions = Vec::new();
            for (position, value) in self.keys() {
                let mine = sql::scalar(value, &row);
                let same = outcome::equal(mine.clone(), target(position), &value.ty);
                if with_nulls && value.nullable {
                    let both = Expr::and(vec![mine.is_null(), target(position).is_null()]);
                    conditions.push(Expr::Or(vec![same, both]));
                } else {
                    conditions.push(same);
                }
            }
            let mut items = vec![(Expr::column("t", "g"), "g".to_owned())];
            for (position, value) in self.keys() {
                items.push((
                    Expr::aggregate("any_value", sql::scalar(value, &row)),
                    key(position),
                ));
            }
            for (position, part) in self.states() {
                items.push((evaluate_state(self.grouped, part, &row), state(position)));
            }
            let mut wanted = vec![Expr::column("c", "need")];
            if !nullable.is_empty() {
                let some_null = Expr::Or(
                    nullable
                        .iter()
                        .map(|position| Expr::column("c", key(*position)).is_null())
                        .collect(),
                );
                wanted.push(if with_nulls {
                    some_null
                } else {
                    Expr::Not(Box::new(some_null))
                });
            }
            let groups = Select {
                items: std::iter::once("g".to_owned())
                    .chain(self.keys().map(|(position, _)| key(position)))
                    .map(|name| (Expr::column("c", &*name), name))
                    .collect(),
                from: vec![from_cte("cur", "c")],
                conditions: wanted,
                ..Select::default()
            };
            if self.single {
                // The one group exists over nothing too, so nothing may be grouped by.
                items[0].0 = Expr::Integer(1).cast("pg_catalog.int8");
                let needed = Expr::Exists(Box::new(Select {
                    items: vec![(Expr::Integer(1), "one".into())],
                    ..groups
                }));
                return Select {
                    items,
                    from: row.from,
                    conditions: row.conditions.into_iter().chain([needed]).collect(),
                    ..Select::default()
                };
            }
            let mut from = vec![From::Select {
                query: Box::new(groups.into()),
                alias: "t".into(),
                lateral: false,
            }];
            from.extend(row.from);
            conditions.extend(row.conditions);
            Select {
                items,
                from,
                conditions,
                group_by: vec![Expr::column("t", "g")],
                ..Select::default()
            }
        };
        let mut branches = vec![branch(false)];
        if !nullable.is_empty() {
            branches.push(branch(true));
        }
        cte("again", sql::union_all(branches))
    }

    /// `nxt(tid, o*, k*, s*)`: the new keys and states.
    fn next(&self) -> Cte {
        let again = self.again;
        let recomputes = self.grouped.recomputes();
        let choose = |evaluated: Expr, folded: Option<Expr>| match folded {
            None => evaluated,
            Some(folded) if again => Expr::Case(
                vec![(Expr::column("c", "need"), evaluated)],
                Box::new(folded),
            ),
            Some(folded) => folded,
        };
        let mut items = vec![(Expr::column("c", "tid"), "tid".to_owned())];
        items.extend(
            (0..self.layout.columns.len())
                .map(|position| (Expr::column("c", before(position)), before(position))),
        );
        for (position, value) in self.keys() {
            let change = Expr::column("c", key(position));
            let evaluated = Expr::column("a", key(position));
            let chosen = if recomputes {
                Expr::Coalesce(vec![evaluated, change])
            } else if value.ty.bitwise {
                change
            } else {
                let stored = self.stored_position(&Role::Key(position));
                let kept = Expr::Case(
                    vec![
                        (
                            Expr::and(vec![Expr::column("c", "goes"), Expr::column("c", "comes")]),
                            Expr::column("c", format!("comek{position}")),
                        ),
                        (
                            Expr::column("c", "tid").is_not_null(),
                            Expr::column("c", before(stored)),
                        ),
                    ],
                    Box::new(change),
                );
                choose(evaluated, Some(kept))
            };
            items.push((chosen, key(position)));
        }
        for (position, part) in self.states() {
            let evaluated = Expr::column("a", state(position));
            let folded = (!recomputes).then(|| self.fold(position, part));
            let evaluated = match part.kind {
                StateKind::Rows | StateKind::NonNull { .. } | StateKind::Scales { .. } => {
                    or_zero(evaluated)
                }
                _ => evaluated,
            };
            items.push((choose(evaluated, folded), state(position)));
        }
        let from = if again {
            From::Join {
                left: Box::new(from_cte("cur", "c")),
                kind: JoinKind::Left,
                right: Box::new(from_cte("again", "a")),
                on: Expr::column("a", "g").infix("=", Expr::column("c", "g")),
            }
        } else {
            from_cte("cur", "c")
        };
        cte(
            "nxt",
            Select {
                items,
                from: vec![from],
                ..Select::default()
            },
        )
    }

    /// The new value of a state from its stored value and the change.
    fn fold(&self, position: usize, part: &State) -> Expr {
        let stored =
            |number: usize| Expr::column("c", before(self.stored_position(&Role::State(number))));
        let change = |number: usize| Expr::column("c", state(number));
        let added = |number: usize| or_zero(stored(number)).infix("+", or_zero(change(number)));
        match &part.kind {
            StateKind::Rows | StateKind::NonNull { .. } | StateKind::Scales { .. } => {
                added(position)
            }
            StateKind::Sum {
                kind,
                count,
                scales,
                ..
            } => {
                let sum = if *kind == SumKind::Money {
                    let zero = || Expr::Literal("0".into()).cast("pg_catalog.money");
                    Expr::Coalesce(vec![stored(position), zero()])
                        .infix("+", Expr::Coalesce(vec![change(position), zero()]))
                } else {
                    added(position)
                };
                let sum = match scales {
                    Some(scales) => {
                        Expr::builtin("round", vec![sum, largest_scale(added(*scales))])
                    }
                    None => sum,
                };
                Expr::Case(
                    vec![(added(*count).infix("<>", zero()), sum)],
                    Box::new(Expr::Null),
                )
            }
            StateKind::Minimum { .. } => better(
                "LEAST",
                vec![
                    stored(position),
                    Expr::column("c", format!("come{position}")),
                ],
            ),
            StateKind::Maximum { .. } => better(
                "GREATEST",
                vec![
                    stored(position),
                    Expr::column("c", format!("come{position}")),
                ],
            ),
            StateKind::Recompute { .. } => Expr::Null,
        }
    }

    /// `fin(tid, n, o*, v*)`: rows that come, go or change.
    fn finish(&self) -> Cte {
        let rows = Expr::column("x", state(0));
        let alive = || {
            if self.single {
                Expr::Boolean(true)
            } else {
                rows.clone().infix(">", zero())
            }
        };
        let mut items = vec![
            (Expr::column("x", "tid"), "tid".to_owned()),
            (rows.clone(), "n".to_owned()),
        ];
        for (position, column) in self.layout.columns.iter().enumerate() {
            items.push((Expr::column("x", before(position)), before(position)));
            let value = stored_value(
                self.grouped,
                &column.role,
                &|number| Expr::column("x", key(number)),
                &|number| Expr::column("x", state(number)),
            );
            // A group that vanishes has no values: computing them could fail (1 / count).
            let value = match (&column.role, self.single) {
                (Role::Computed(_), false) => {
                    Expr::Case(vec![(alive(), value)], Box::new(Expr::Null))
                }
                _ => value,
            };
            items.push((value, after(position)));
        }
        let inner = Select {
            items,
            from: vec![from_cte("nxt", "x")],
            ..Select::default()
        };
        let columns = self.layout.columns.len();
        let side = |name: fn(usize) -> String| {
            (0..columns)
                .map(|p| Expr::column("y", name(p)))
                .collect::<Vec<_>>()
        };
        let changed = outcome::differ(side(before), side(after));
        let tid = || Expr::column("y", "tid");
        let y_alive = if self.single {
            Expr::Boolean(true)
        } else {
            Expr::column("y", "n").infix(">", zero())
        };
        let mut ways = vec![Expr::and(vec![tid().is_null(), y_alive])];
        if !self.single {
            ways.push(Expr::and(vec![
                tid().is_not_null(),
                Expr::column("y", "n").infix("<=", zero()),
            ]));
        }
        ways.push(Expr::and(vec![tid().is_not_null(), changed]));
        let names = ["tid".to_owned(), "n".to_owned()]
            .into_iter()
            .chain((0..columns).flat_map(|position| [before(position), after(position)]));
        let mut conditions = vec![Expr::Or(ways)];
        if self.may_give_up() {
            // Nothing is written if one group cannot be folded: the careful statement does it all.
            let needed = Select {
                items: vec![(Expr::Integer(1), "one".into())],
                from: vec![from_cte("cur", "c")],
                conditions: vec![Expr::column("c", "need")],
                ..Select::default()
            };
            conditions.push(Expr::Not(Box::new(Expr::Exists(Box::new(needed)))));
        }
        let select = Select {
            items: names
                .map(|name| (Expr::column("y", &*name), name))
                .collect(),
            from: vec![From::Select {
                query: Box::new(inner.into()),
                alias: "y".into(),
                lateral: false,
            }],
            conditions,
            ..Select::default()
        };
        cte("fin", select)
    }

    fn merge(&self, target: &Target) -> Cte {
        let assignments: Vec<(String, Expr)> = self
            .layout
            .columns
            .iter()
            .enumerate()
            .map(|(position, column)| (column.name.clone(), Expr::column("n", after(position))))
            .collect();
        let mut matched = Vec::new();
        if !self.single {
            matched.push((Some(Expr::column("n", "n").infix("<=", zero())), None));
        }
        matched.push((None, Some(assignments.clone())));
        let merge = Merge {
            table: target.table.clone(),
            alias: "s".into(),
            using: from_cte("fin", "n"),
            on: Expr::column("s", "ctid").infix("=", Expr::column("n", "tid")),
            matched,
            not_matched: Some((None, assignments)),
            delete_unmatched: false,
            returning: vec![(Expr::MergeAction, "action".into())],
        };
        modify(DONE, CteBody::Merge(Box::new(merge)))
    }

    /// The change of the visible columns, for readers of the result.
    fn output(&self, target: &Target) -> Option<Cte> {
        let visible: Vec<usize> = (0..self.layout.columns.len())
            .filter(|position| self.layout.columns[*position].visible)
            .collect();
        let side = |name: fn(usize) -> String| {
            visible
                .iter()
                .map(|p| Expr::column("x", name(*p)))
                .collect::<Vec<_>>()
        };
        let alive = if self.single {
            Expr::Boolean(true)
        } else {
            Expr::column("x", "n").infix(">", zero())
        };
        let had = Expr::column("x", "tid").is_not_null();
        let differs = outcome::differ(side(before), side(after));
        let unmatched = Expr::column("x", "tid").is_null();
        let dead = Expr::Not(Box::new(alive.clone()));
        let from = || vec![from_cte("fin", "x")];
        let gone = Select {
            from: from(),
            conditions: vec![had, Expr::Or(vec![dead, differs.clone()])],
            ..Select::default()
        };
        let come = Select {
            from: from(),
            conditions: vec![alive, Expr::Or(vec![unmatched, differs])],
            ..Select::default()
        };
        outcome::write_output(
            target,
            visible.len(),
            vec![
                (Expr::Integer(-1), side(before), gone),
                (Expr::Integer(1), side(after), come),
            ],
        )
    }
}

fn or_false(value: Expr) -> Expr {
    Expr::Coalesce(vec![value, Expr::Boolean(false)])
}

/// `LEAST(..)` or `GREATEST(..)`, which are syntax, not functions.
fn better(which: &'static str, values: Vec<Expr>) -> Expr {
    let mut pieces = vec![TextPiece::Text(format!("{which}("))];
    for (position, value) in values.into_iter().enumerate() {
        if position > 0 {
            pieces.push(TextPiece::Text(", ".into()));
        }
        pieces.push(TextPiece::Expr(value));
    }
    pieces.push(TextPiece::Text(")".into()));
    Expr::Pieces(pieces)
}

impl Expr {
    /// `pg_catalog.name() OVER ()`
    fn builtin_window(name: &str) -> Expr {
        Expr::Window(Name::new("pg_catalog", name), vec![])
    }
}
