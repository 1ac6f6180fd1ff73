//! States of aggregates: what a row adds to one, what a whole group's is, and the columns computed from them.

use super::Role;
use super::layout::{Grouped, Input, State, StateKind, column_state};
use crate::rel::{ColId, SumKind};
use crate::sql::ast::Expr;
use crate::sql::{self, Lowered};

pub(super) fn zero() -> Expr {
    Expr::Integer(0)
}

pub(super) fn or_zero(value: Expr) -> Expr {
    Expr::Coalesce(vec![value, zero()])
}

/// An aggregate's input over a row: the argument where the filter holds, 1 without argument.
pub(super) fn input_value(input: &Input, row: &Lowered) -> Expr {
    let value = match &input.argument {
        Some(argument) => sql::scalar(argument, row),
        None => Expr::Integer(1),
    };
    match &input.filter {
        None => value,
        Some(filter) => Expr::Case(
            vec![(sql::scalar(filter, row), value)],
            Box::new(Expr::Null),
        ),
    }
}

/// `10^(12 * scale(x))`, as in [`StateKind::Scales`].
pub(super) fn scale_weight(value: Expr) -> Expr {
    let scale = or_zero(Expr::builtin("scale", vec![value]));
    let digits = Expr::Integer(12).infix("*", scale);
    Expr::builtin("concat", vec![Expr::Literal("1e".into()), digits]).cast("pg_catalog.numeric")
}

/// The largest scale counted in a [`StateKind::Scales`] state.
pub(super) fn largest_scale(scales: Expr) -> Expr {
    let digits = Expr::builtin("length", vec![scales.cast("pg_catalog.text")]);
    digits
        .infix("-", Expr::Integer(1))
        .infix("/", Expr::Integer(12))
}

/// The state of a whole group evaluated from its rows.
pub(super) fn evaluate_state(grouped: &Grouped, state: &State, row: &Lowered) -> Expr {
    let value = |position: usize| input_value(&grouped.inputs[position], row);
    match &state.kind {
        StateKind::Rows => Expr::CountStar(None),
        StateKind::NonNull { input } => Expr::aggregate("count", value(*input)),
        StateKind::Sum { input, kind, .. } => {
            let argument = match kind {
                SumKind::Integer => value(*input).cast("pg_catalog.int8"),
                SumKind::BigInteger => value(*input).cast("pg_catalog.numeric"),
                _ => value(*input),
            };
            let sum = Expr::aggregate("sum", argument);
            if *kind == SumKind::Integer {
                sum.cast("pg_catalog.int8")
            } else {
                sum
            }
        }
        StateKind::Scales { input } => {
            let value = value(*input);
            or_zero(Expr::aggregate("sum", scale_weight(value.clone())).filter(value.is_not_null()))
        }
        StateKind::Minimum { input } => Expr::aggregate("min", value(*input)),
        StateKind::Maximum { input } => Expr::aggregate("max", value(*input)),
        StateKind::Recompute { call } => sql::scalar(call, row),
    }
}

/// A stored column's value from expressions for keys and states.
pub(super) fn stored_value(
    grouped: &Grouped,
    role: &Role,
    key: &dyn Fn(usize) -> Expr,
    state: &dyn Fn(usize) -> Expr,
) -> Expr {
    match role {
        Role::Key(position) => key(*position),
        Role::State(position) => state(*position),
        Role::Column(_) => Expr::Null,
        Role::Computed(value) => sql::fill(value, &|id| computed_column(grouped, id, key, state)),
    }
}

fn computed_column(
    grouped: &Grouped,
    id: ColId,
    key: &dyn Fn(usize) -> Expr,
    state: &dyn Fn(usize) -> Expr,
) -> Expr {
    if let Some(position) = column_state(id) {
        return state(position);
    }
    if let Some(position) = grouped.keys.iter().position(|(known, _)| *known == id) {
        return key(position);
    }
    match grouped.calls.get(&id) {
        Some(call) => sql::fill(call, &|inner| computed_column(grouped, inner, key, state)),
        None => Expr::Null,
    }
}
