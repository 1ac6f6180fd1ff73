//! Whether rows that are equal under an ORDER BY decide a result now: one of its watches has a row.

use std::rc::Rc;

use pgt_ivm::apply;
use pgt_ivm::sql::ast::Name;

use super::compile::Compiled;
use crate::pg::spi::{Plan, Under};

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
