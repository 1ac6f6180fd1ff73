//! The apply statement where every state folds: one MERGE through the groups' key. It gives up, with an error, before
//! it would store a value that addition does not explain.

use super::super::layout::StateKind;
use super::super::outcome;
use super::super::state::{stored_value, zero};
use super::law::Values;
use super::{Change, Identity, Plan, Role, Target, key, state};
use crate::rel::SumKind;
use crate::sql::ast::{Assignments, Expr, From, Matched, Merge, Query};

impl Plan<'_> {
    /// `rows` are the changes of the input.
    pub(super) fn at_once(&self, rows: Query, target: &Target, change: &Change) -> Merge {
        let rows = From::Select {
            query: Box::new(rows),
            alias: "r".into(),
            lateral: false,
        };
        let mut groups = self.change_per_group(rows);
        if matches!(self.layout.identity, Identity::Key(_)) {
            let keys: Vec<_> = self
                .keys()
                .map(|(number, value)| (&value.ty, Expr::column("r", key(number))))
                .collect();
            groups.order_by = change.order(&keys);
        }
        let change = |number: usize| Expr::column("g", state(number));
        let stored = |number: usize| {
            let position = self.stored_position(&Role::State(number));
            Expr::column("s", &*self.layout.columns[position].name)
        };
        let old_key = |number: usize| {
            let position = self.stored_position(&Role::Key(number));
            Expr::column("s", &*self.layout.columns[position].name)
        };
        let new_key = |number: usize| Expr::column("g", key(number));
        let folded = |number: usize| self.fold(number, Some(&stored), &change);
        let fresh = |number: usize| self.fold(number, None, &change);

        let mut matched = vec![(
            Some(outcome::give_up_if(self.refuses(Some(&stored), &change))),
            Matched::Nothing,
        )];
        if !self.single {
            matched.push((Some(folded(0).infix("=", zero())), Matched::Delete));
        }
        let kept: Assignments = self
            .assignments(&old_key, &folded)
            .filter(|(role, _, _)| !matches!(role, Role::Key(_)))
            .map(|(_, column, value)| (column, value))
            .collect();
        matched.push((Some(self.changes(&change)), Matched::Update(kept)));
        let comes = Expr::Case(
            vec![
                (self.refuses(None, &change), outcome::give_up()),
                (fresh(0).infix(">", zero()), Expr::Boolean(true)),
            ],
            Box::new(Expr::Boolean(self.single)),
        );
        let new = self
            .assignments(&new_key, &fresh)
            .map(|(_, column, value)| (column, value))
            .collect();
        Merge {
            table: target.table.clone(),
            alias: "s".into(),
            using: From::Select {
                query: Box::new(groups.into()),
                alias: "g".into(),
                lateral: false,
            },
            on: self.same_group(),
            matched,
            not_matched: Some((Some(comes), new)),
            delete_unmatched: false,
            returning: vec![],
        }
    }

    fn assignments<'a>(
        &'a self,
        key: &'a dyn Fn(usize) -> Expr,
        state: &'a dyn Fn(usize) -> Expr,
    ) -> impl Iterator<Item = (&'a Role, String, Expr)> {
        self.layout.columns.iter().map(move |column| {
            let value = stored_value(self.grouped, &column.role, key, state);
            (&column.role, column.name.clone(), value)
        })
    }

    /// The group cannot be folded: fewer rows than none, or a sum that is no finite number, from which nothing can be
    /// taken away again.
    fn refuses(&self, stored: Option<Values<'_>>, change: Values<'_>) -> Expr {
        let rows = || self.fold(0, stored, change);
        let mut reasons = vec![rows().infix("<", zero())];
        for (position, part) in self.states() {
            if let StateKind::Sum {
                kind: SumKind::FixedNumeric(_) | SumKind::FreeNumeric,
                ..
            } = part.kind
            {
                // Zero times a number is zero, times NaN or an infinity it is NaN.
                let special = self
                    .added(position, stored, change)
                    .infix("*", zero())
                    .infix("<>", zero());
                reasons.push(if self.single {
                    special
                } else {
                    Expr::and(vec![rows().infix("<>", zero()), special])
                });
            }
        }
        Expr::Or(reasons)
    }

    /// Some state changes. Whatever is stored is computed from keys and states.
    fn changes(&self, change: Values<'_>) -> Expr {
        Expr::Or(
            self.states()
                .map(|(position, part)| {
                    let nothing = match part.kind {
                        StateKind::Sum {
                            kind: SumKind::Money,
                            ..
                        } => Expr::Literal("0".into()).cast("pg_catalog.money"),
                        _ => zero(),
                    };
                    change(position).infix("<>", nothing)
                })
                .collect(),
        )
    }
}
