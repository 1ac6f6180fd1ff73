//! Conditions that depend on the time: `at > now() - interval '1 day'`.

use pgt_ivm::rel::{Moving, Rel};
use pgt_ivm::scalar::{Scalar, Shape};

use super::build::{Writer, boolean};
use super::query::{Analyzer, Level, Result};
use crate::pg::node::{self, Expr, Kind};

/// The expression depends on the time.
pub(super) fn has_clock(expr: &Expr<'_>) -> bool {
    expr.find(&mut |part| matches!(part.kind(), Kind::Clock))
        .is_some()
}

impl Analyzer {
    /// A condition that depends on the time.
    pub(super) fn moving<'q>(
        &mut self,
        condition: Expr<'q>,
        level: &Level<'q, '_>,
    ) -> Result<Moving> {
        let scalar = self.at_clock(condition, level)?;
        let negated = match negation(condition) {
            Some(negated) => self.at_clock(negated, level)?,
            None => Writer::default()
                .scalar(&scalar)
                .text(" IS NOT TRUE")
                .value(boolean(), false),
        };
        Ok(Moving {
            condition: scalar,
            negated,
        })
    }

    fn at_clock<'q>(&mut self, expr: Expr<'q>, level: &Level<'q, '_>) -> Result<Scalar> {
        self.clock_allowed = true;
        let scalar = self.scalar(expr, level);
        self.clock_allowed = false;
        // What is constant now is not at another time.
        Ok(Scalar {
            shape: Shape::Opaque,
            ..scalar?.0
        })
    }
}

/// The negated comparison, where it is true of a row exactly if the comparison is false and that is as long as the
/// comparison is true at some time: one side does not depend on the time, the other is never null.
fn negation(condition: Expr<'_>) -> Option<Expr<'_>> {
    let Kind::Operator { arguments, .. } = condition.kind() else {
        return None;
    };
    let [left, right] = arguments.as_slice() else {
        return None;
    };
    let apart = |column: &Expr<'_>, time: &Expr<'_>| !has_clock(column) && is_time(time);
    if apart(left, right) || apart(right, left) {
        condition.negated()
    } else {
        None
    }
}

/// Computed from the clock and constants by PostgreSQL's own date and time arithmetic, which gives NULL for NULL only.
fn is_time(expr: &Expr<'_>) -> bool {
    match expr.kind() {
        Kind::Clock => true,
        Kind::Const { is_null } => !is_null,
        Kind::Relabel(inner) => is_time(&inner),
        Kind::Operator {
            operator,
            arguments,
        } => {
            let (_, function, _) =
                node::operator_facts(operator, expr.type_of().0, expr.type_of().0);
            is_arithmetic(expr, &function) && arguments.iter().all(is_time)
        }
        Kind::Function {
            function,
            arguments,
        } => is_arithmetic(expr, &node::function_facts(function)) && arguments.iter().all(is_time),
        _ => false,
    }
}

fn is_arithmetic(expr: &Expr<'_>, function: &node::FunctionFacts) -> bool {
    function.builtin && function.strict && node::is_date_or_time(expr.type_of().0)
}

/// Puts moving conditions where they belong: on the input of a join that has all their columns, or on top.
pub(super) fn place(rel: Rel, conditions: Vec<Moving>) -> Rel {
    let mut rel = rel;
    for moving in conditions {
        let columns = moving.condition.columns();
        rel = match rel {
            Rel::Join {
                mut inputs,
                conditions,
            } if !columns.is_empty() => {
                let owner = inputs
                    .iter()
                    .position(|input| columns.is_subset(&input.columns()));
                if let Some(owner) = owner {
                    let input = inputs.remove(owner);
                    inputs.insert(owner, on(input, moving));
                    Rel::Join { inputs, conditions }
                } else {
                    on(Rel::Join { inputs, conditions }, moving)
                }
            }
            other => on(other, moving),
        };
    }
    rel
}

fn on(input: Rel, moving: Moving) -> Rel {
    match input {
        Rel::Moving {
            input,
            mut conditions,
        } => {
            conditions.push(moving);
            Rel::Moving { input, conditions }
        }
        other => Rel::Moving {
            input: Box::new(other),
            conditions: vec![moving],
        },
    }
}
