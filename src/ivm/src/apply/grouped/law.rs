//! The laws of the states: the new value from the stored one and the change, and where there is none.

use super::super::layout::{State, StateKind};
use super::super::outcome;
use super::super::state::{largest_scale, or_zero, zero};
use super::{Plan, Role, or_false, state};
use crate::rel::SumKind;
use crate::sql::ast::{Expr, TextPiece};

/// An expression for each state.
pub(super) type Values<'a> = &'a dyn Fn(usize) -> Expr;

impl Plan<'_> {
    /// The new value of a state from the stored values, if there are any, and the changes.
    pub(super) fn fold(
        &self,
        position: usize,
        stored: Option<Values<'_>>,
        change: Values<'_>,
    ) -> Expr {
        let part = &self.grouped.states[position];
        let added = |number: usize| self.added(number, stored, change);
        let both = |number: usize| {
            stored
                .map(|stored| stored(number))
                .into_iter()
                .chain([change(number)])
                .collect()
        };
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
                    let change = Expr::Coalesce(vec![change(position), zero()]);
                    match stored {
                        Some(stored) => {
                            Expr::Coalesce(vec![stored(position), zero()]).infix("+", change)
                        }
                        None => change,
                    }
                } else {
                    added(position)
                };
                let sum = match scales {
                    Some(scales) => {
                        Expr::builtin("round", vec![sum, largest_scale(added(*scales))])
                    }
                    None => sum,
                };
                if *count == 0 && !self.single {
                    // A group without rows is deleted.
                    return sum;
                }
                Expr::Case(
                    vec![(added(*count).infix("<>", zero()), sum)],
                    Box::new(Expr::Null),
                )
            }
            StateKind::Minimum { .. } => better("LEAST", both(position)),
            StateKind::Maximum { .. } => better("GREATEST", both(position)),
            StateKind::Recompute { .. } => Expr::Null,
        }
    }

    /// The sum of what is stored, if there is a row, and the change.
    pub(super) fn added(
        &self,
        number: usize,
        stored: Option<Values<'_>>,
        change: Values<'_>,
    ) -> Expr {
        let change = match self.at_once {
            true => change(number),
            false => or_zero(change(number)),
        };
        match stored {
            Some(stored) if self.at_once && self.is_never_null(number) => {
                stored(number).infix("+", change)
            }
            Some(stored) => or_zero(stored(number)).infix("+", change),
            None => change,
        }
    }

    /// The state of a group with rows has a value.
    fn is_never_null(&self, number: usize) -> bool {
        match self.grouped.states[number].kind {
            StateKind::Rows | StateKind::NonNull { .. } | StateKind::Scales { .. } => true,
            StateKind::Sum { count, .. } => count == 0 && !self.single,
            _ => false,
        }
    }

    /// Whether the group cannot be folded for this change.
    pub(super) fn need(&self) -> Expr {
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
