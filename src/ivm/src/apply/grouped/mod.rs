//! Results with one row per group: the delta is aggregated per group and folded into the stored state; where no law
//! allows that, exactly the touched groups are evaluated again over the new state.

mod at_once;
mod change;
mod in_steps;
mod law;

use super::layout::{Grouped, State};
use super::outcome::{self, Outcome};
use super::{Care, Change, Identity, Layout, Role, Target};
use crate::delta;
use crate::scalar::Scalar;
use crate::sql::Sources;
use crate::sql::ast::{Expr, Statement};

pub(super) fn differential(
    grouped: &Grouped,
    layout: &Layout,
    sources: &Sources,
    target: &Target,
    change: &Change,
) -> Statement {
    let net_first =
        change.care == Care::Careful || delta::changes_meet(&grouped.input, &change.dirty);
    let at_once = change.care == Care::Fast && !grouped.recomputes() && !grouped.needs_net_inputs();
    let plan = Plan {
        grouped,
        layout,
        at_once,
        single: layout.identity == Identity::Single,
        again: grouped.recomputes() || grouped.needs_net_inputs() || grouped.may_recompute(),
    };
    let early = change.early(&grouped.input);
    let mut ctes = change.delta_tables(sources, net_first, &early);
    let rows = plan.changed_rows(sources, change, &early);
    if at_once {
        let mut outcome = Outcome::default();
        outcome.count_changes(change, !net_first);
        let merge = plan.at_once(rows, target, change);
        return outcome.of_merge(ctes, merge, layout, target);
    }
    let (rest, mut outcome) = plan.in_steps(rows, sources, target);
    ctes.extend(rest);
    outcome.count_changes(change, !net_first);
    outcome.count_actions();
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

struct Plan<'a> {
    grouped: &'a Grouped,
    layout: &'a Layout,
    /// Stored states and changes are told apart from those that are not there: what is never null is not asked for.
    at_once: bool,
    single: bool,
    /// The statement in steps can evaluate groups again.
    again: bool,
}

impl Plan<'_> {
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

    fn stored_position(&self, role: &Role) -> usize {
        self.layout
            .columns
            .iter()
            .position(|column| column.role == *role)
            .unwrap_or_default()
    }

    /// The stored row (alias `s`) is that of the changed group (alias `g`).
    fn same_group(&self) -> Expr {
        outcome::identify(self.layout, "s", &|name| match self
            .layout
            .column_named(name)
            .map(|column| &column.role)
        {
            Some(Role::Key(number)) => Expr::column("g", key(*number)),
            _ => Expr::Null,
        })
    }
}

fn or_false(value: Expr) -> Expr {
    Expr::Coalesce(vec![value, Expr::Boolean(false)])
}
