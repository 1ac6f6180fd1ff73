//! The apply statement that can evaluate groups again. Its CTEs after those of the sources: `raw` (keys and inputs of
//! changed rows), `net` (the same netted, only where an extremum needs it), `grp` (the change per group), `cur` (with the
//! stored row), `again` (groups evaluated again), `nxt` (the new states), `fin` (old and new stored columns of the rows
//! that really change), `done` (the MERGE).

use super::super::layout::StateKind;
use super::super::outcome::{self, DONE, Outcome, cte, from_cte, modify};
use super::super::state::{evaluate_state, or_zero, stored_value, zero};
use super::{Plan, Role, Target, key, state};
use crate::sql::ast::{Cte, CteBody, Expr, From, JoinKind, Matched, Merge, Name, Query, Select};
use crate::sql::{self, Sources};

/// Stored columns before (`o`) and after (`v`), by position.
fn before(position: usize) -> String {
    format!("o{position}")
}

fn after(position: usize) -> String {
    format!("v{position}")
}

impl Plan<'_> {
    /// The CTEs after those of the sources, and what is counted in them.
    pub(super) fn in_steps(
        &self,
        rows: Query,
        sources: &Sources,
        target: &Target,
    ) -> (Vec<Cte>, Outcome) {
        let mut ctes = vec![cte("raw", rows)];
        let mut rows = "raw";
        if self.grouped.needs_net_inputs() && !self.grouped.recomputes() {
            ctes.push(self.net());
            rows = "net";
        }
        ctes.push(cte("grp", self.change_per_group(from_cte(rows, "r"))));
        ctes.push(self.current(target));
        if self.again {
            ctes.push(self.evaluate_again(sources));
        }
        ctes.push(self.next());
        ctes.push(self.finish());
        ctes.push(self.merge(target));
        ctes.extend(self.output(target));
        let mut outcome = Outcome::default();
        let negative = Expr::column("x", "s0").infix("<", zero());
        outcome.drift = Some(outcome.count("nxt", Some(negative)).infix(">", zero()));
        (ctes, outcome)
    }

    /// `cur`: each touched group beside its stored row, and whether it has to be evaluated again (`need`).
    fn current(&self, target: &Target) -> Cte {
        let stored = From::Table {
            name: target.table.clone(),
            alias: "s".into(),
            only: true,
        };
        let on = self.same_group();
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
            let number = Expr::Window(Name::new("pg_catalog", "row_number"), vec![]);
            items.push((number, "g".into()));
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
        let stored =
            |number: usize| Expr::column("c", before(self.stored_position(&Role::State(number))));
        let change = |number: usize| {
            Expr::column(
                "c",
                match self.grouped.states[number].kind {
                    StateKind::Minimum { .. } | StateKind::Maximum { .. } => {
                        format!("come{number}")
                    }
                    _ => state(number),
                },
            )
        };
        for (position, part) in self.states() {
            let evaluated = Expr::column("a", state(position));
            let folded = (!recomputes).then(|| self.fold(position, Some(&stored), &change));
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
        let types = self.layout.columns.iter().map(|column| &column.ty);
        let changed = outcome::differ(types, side(before), side(after));
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
        let conditions = vec![Expr::Or(ways)];
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
            let dead = Expr::column("n", "n").infix("<=", zero());
            matched.push((Some(dead), Matched::Delete));
        }
        matched.push((None, Matched::Update(assignments.clone())));
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
        let types = visible.iter().map(|p| &self.layout.columns[*p].ty);
        let differs = outcome::differ(types, side(before), side(after));
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
