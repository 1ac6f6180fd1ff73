//! Looking at SQL text before anything is done with it.

use std::ffi::CString;

use pgrx::pg_sys::{self, NodeTag};

/// What a text is, syntactically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Exactly one SELECT (or VALUES, TABLE, WITH .. SELECT).
    Select,
    /// Exactly one SELECT .. INTO.
    SelectInto,
    Other,
    Empty,
    Several,
}

/// Parses `sql` without analyzing it. A syntax error is PostgreSQL's own error.
pub fn classify(sql: &str) -> Statement {
    let Ok(sql) = CString::new(sql) else {
        return Statement::Other;
    };
    // SAFETY: the raw parse tree is only inspected.
    unsafe {
        let list = pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if list.is_null() {
            return Statement::Empty;
        }
        if (*list).length != 1 {
            return Statement::Several;
        }
        let raw: *mut pg_sys::RawStmt = (*(*list).elements).ptr_value.cast();
        let statement = (*raw).stmt;
        if (*statement).type_ != NodeTag::T_SelectStmt {
            return Statement::Other;
        }
        let select: *mut pg_sys::SelectStmt = statement.cast();
        if (*select).intoClause.is_null() {
            Statement::Select
        } else {
            Statement::SelectInto
        }
    }
}
