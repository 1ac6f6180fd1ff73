//! Whether rows that are equal under an ORDER BY decide a result now: one of its watches has a row. While they do, its rows
//! are those of its view.

use std::rc::Rc;

use pgt_ivm::apply;
use pgt_ivm::sql::ast::{Name, Statement};

use super::compile::{Compiled, Unit};
use super::pending::{PROBE_CAP, Pending};
use super::unit::{How, UnitOutcome, delta_values, full_values, run_full, untouched};
use crate::catalog::{Action, RefreshState};
use crate::error::Result;
use crate::pg::spi::{self, Plan, Under, Value};

/// Why a stream table is refreshed from its view.
pub(super) const TIES: &str = "ties";

impl Compiled {
    /// Asked after its stages have been refreshed.
    pub(super) fn ties_decide(&self, under: Under<'_>) -> bool {
        let (false, Some(result)) = (self.watches.is_empty(), self.units.last()) else {
            return false;
        };
        let mut plans = result.plans.borrow_mut();
        let plan = plans.ties.get_or_insert_with(|| {
            let watches = self.watches.iter().map(|number| &self.units[*number]);
            let tables: Vec<Name> = watches.map(|watch| watch.target.table.clone()).collect();
            Rc::new(Plan::prepare(&apply::any_row(&tables).to_string(), &[]))
        });
        let rows = plan.run(&[], under);
        rows.first().is_some_and(|row| row.bool(0))
    }
}

impl Unit {
    /// Makes the stored rows those of the view, unless they are and no source has changed.
    pub(super) fn refresh_from_view(
        &self,
        state: &RefreshState,
        how: &How<'_>,
        under: Under<'_>,
    ) -> Result<UnitOutcome> {
        if !state.populated {
            return self.show(
                state,
                "initial",
                how.empty && self.target.output.is_none(),
                under,
            );
        }
        let known = state
            .frontier
            .as_ref()
            .filter(|_| !state.needs_reinit && state.upstream == self.upstream());
        if let (None, Some(frontier)) = (how.force, known) {
            let values = delta_values(frontier, state, state.snapshot_xmax);
            let cap = how.fuse.map_or(PROBE_CAP, |most| PROBE_CAP.max(most + 1));
            match self.pending(&values, cap, under) {
                Pending::Clean => return Ok(untouched(Action::NoData, 0)),
                Pending::Changes(changes, _) => {
                    let rows: u64 = changes.iter().map(|(_, count)| *count).sum();
                    if how.fuse.is_some_and(|most| rows > most) {
                        return Ok(untouched(Action::Skip, rows));
                    }
                }
                Pending::Unexplained(_) => {}
            }
        }
        self.show(state, how.force.unwrap_or(TIES), false, under)
    }

    /// Its rows are those of the view, or may be: a restored table has some, and no state that tells.
    pub(super) fn holds_unknown_rows(&self, state: &RefreshState, under: Under<'_>) -> bool {
        state.from_view
            || !state.populated && {
                let any_row = apply::any_row(std::slice::from_ref(&self.target.table));
                let rows = spi::run_under(&any_row.to_string(), &[], under);
                rows.first().is_some_and(|row| row.bool(0))
            }
    }

    /// A full refresh from the view of a query that is maintained incrementally otherwise.
    fn show(
        &self,
        state: &RefreshState,
        reason: &str,
        empty: bool,
        under: Under<'_>,
    ) -> Result<UnitOutcome> {
        let prepare = |statement: Statement, values: &[Value]| {
            Rc::new(Plan::prepare(&statement.to_string(), values))
        };
        let values = if empty { vec![] } else { full_values(state) };
        let plan = if empty {
            let statement = apply::initial_from_view(&self.view, &self.layout, &self.target);
            prepare(statement, &values)
        } else {
            let full = || apply::full_from_view(&self.view, &self.layout, &self.target);
            let mut plans = self.plans.borrow_mut();
            let plan = plans
                .from_view
                .get_or_insert_with(|| prepare(full(), &values));
            plan.clone()
        };
        let outcome = run_full(&plan, &values, (Action::Full, reason), under)?;
        Ok(UnitOutcome {
            from_view: true,
            ..outcome
        })
    }
}
