//! What the delta says about the groups it touches.

use super::super::layout::StateKind;
use super::super::outcome::{cte, from_cte};
use super::super::state::{input_value, or_zero, scale_weight, zero};
use super::super::{Change, terms};
use super::{Plan, input, key, or_false, state};
use crate::delta::EarlyConditions;
use crate::rel::SumKind;
use crate::sql::ast::{Cte, Expr, From, Query, Select};
use crate::sql::{self, Sources};

impl Plan<'_> {
    /// `k*, x*, w`: the terms of the input's delta.
    pub(super) fn changed_rows(
        &self,
        sources: &Sources,
        change: &Change,
        early: &EarlyConditions,
    ) -> Query {
        let branches = terms(&self.grouped.input, change, early)
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
        sql::union_all(branches)
    }

    /// `net`: as the changed rows, one row per distinct image, weight not zero.
    pub(super) fn net(&self) -> Cte {
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

    /// `k*, s*, ..`: what the changed rows (alias `r`) say about each group they touch.
    pub(super) fn change_per_group(&self, rows: From) -> Select {
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
                                weighted(value(input).cast("pg_catalog.numeric"), w()),
                            ),
                        };
                        let folded = match (self.at_once, kind) {
                            (false, _) | (_, SumKind::Money) => folded,
                            (true, _) => or_zero(folded),
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
        Select {
            items,
            from: vec![rows],
            group_by: self
                .keys()
                .map(|(position, _)| Expr::column("r", key(position)))
                .collect(),
            ..Select::default()
        }
    }

    /// The delta's columns that `cur` passes on.
    pub(super) fn change_columns(&self) -> Vec<String> {
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
}

/// `value * w` of a numeric value. Nearly all weights are 1 and -1, for which nothing need be multiplied.
fn weighted(value: Expr, w: Expr) -> Expr {
    let is = |weight: i64| w.clone().infix("=", Expr::Integer(weight));
    Expr::Case(
        vec![
            (is(1), value.clone()),
            (is(-1), Expr::Negate(Box::new(value.clone()))),
        ],
        Box::new(value.infix("*", w.clone().cast("pg_catalog.numeric"))),
    )
}
