//! Looking at a query without creating anything.

use pgt_ivm::sql::ast::Name;

use super::create;
use crate::analyze::{self, Analysis};
use crate::catalog::StreamTable;
use crate::error::Result;
use crate::pg::session::Kept;
use crate::pg::spi::{self, Value};
use crate::pg::{entry, session, xact};
use crate::refresh;

/// What a query text means, as if a stream table were created with it. Nothing is left behind.
pub fn analyze_text(query: &str) -> Result<Analysis> {
    create::check_query_text(query)?;
    let settings = Kept::current();
    with_view(query, |view| analyze::analyze(view, &settings))
}

/// How a new query compares with the one a stream table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryComparison {
    Same,
    /// The same result columns, another query.
    Different,
    OtherColumns,
}

pub fn compare_query(table: &StreamTable, query: &str) -> Result<QueryComparison> {
    create::check_query_text(query)?;
    let describe = |view: pgrx::pg_sys::Oid| {
        let columns: Vec<(String, String)> = refresh::view_columns(view)
            .into_iter()
            .map(|column| (column.name, column.ty.name))
            .collect();
        let text = spi::first(
            "SELECT pg_catalog.pg_get_viewdef($1::pg_catalog.oid)",
            &[Value::Oid(view)],
        )
        .map_or_else(String::new, |row| row.text(0));
        (columns, text)
    };
    let (columns, text) = describe(table.view);
    let (new_columns, new_text) = with_view(query, |view| Ok(describe(view)))?;
    Ok(if columns != new_columns {
        QueryComparison::OtherColumns
    } else if text != new_text {
        QueryComparison::Different
    } else {
        QueryComparison::Same
    })
}

/// Creates a view of `query`, lends it to `look` and takes everything back.
fn with_view<R>(query: &str, look: impl FnOnce(pgrx::pg_sys::Oid) -> Result<R>) -> Result<R> {
    let _quiet = entry::defining();
    xact::rolled_back(|| {
        let name = Name::new("pgtrickle_defs", "probe");
        let view = create::create_view(&name, query, session::current_user())?;
        look(view)
    })
}
