//! WITH queries that refer to the query around them become sub-queries where they are read, as they would if they stood
//! in FROM: what ties them to their surroundings is then found there.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::walk::{each_query, vars_in};
use super::{list_items, tag};

/// Inlines them in `query` and every query below it.
pub(super) unsafe fn inline_correlated(query: *mut pg_sys::Query) {
    // SAFETY: the caller passes a copy of its own.
    unsafe {
        each_query(query, inline_of);
    }
}

/// Inlines the WITH queries of `holder` itself, the earlier ones first: what reads them then refers out too.
unsafe fn inline_of(holder: *mut pg_sys::Query) {
    // SAFETY: cteList holds CommonTableExpr nodes whose query has been analyzed.
    unsafe {
        for cte in list_items::<pg_sys::CommonTableExpr>((*holder).cteList) {
            let query: *mut pg_sys::Query = (*cte).ctequery.cast();
            let plain = !(*cte).cterecursive && (*query).commandType == pg_sys::CmdType::CMD_SELECT;
            if plain && !vars_in(query.cast(), false).is_empty() {
                let mut state = Reads {
                    name: (*cte).ctename,
                    query,
                    depth: -1,
                };
                replace(holder.cast(), (&raw mut state).cast());
                (*holder).cteList = pg_sys::list_delete_ptr((*holder).cteList, cte.cast());
            }
        }
    }
}

struct Reads {
    name: *const c_char,
    query: *mut pg_sys::Query,
    /// Levels below the holder.
    depth: i32,
}

/// Puts a copy of the WITH query in place of each range-table entry that reads it.
#[pg_guard]
unsafe extern "C-unwind" fn replace(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: `context` is the Reads passed above; nodes are valid, and our own copy.
    unsafe {
        let state = &mut *context.cast::<Reads>();
        match tag(node) {
            NodeTag::T_Query => {
                state.depth += 1;
                let stop = pg_sys::query_tree_walker_impl(
                    node.cast(),
                    Some(replace),
                    context,
                    // The copy itself is not looked into.
                    pg_sys::QTW_EXAMINE_RTES_AFTER as c_int,
                );
                state.depth -= 1;
                stop
            }
            NodeTag::T_RangeTblEntry => {
                let rte = &mut *node.cast::<pg_sys::RangeTblEntry>();
                let reads = rte.rtekind == pg_sys::RTEKind::RTE_CTE
                    && i64::from(rte.ctelevelsup) == i64::from(state.depth)
                    && CStr::from_ptr(rte.ctename) == CStr::from_ptr(state.name);
                if reads {
                    let copy = pg_sys::copyObjectImpl(state.query.cast());
                    if state.depth > 0 {
                        pg_sys::IncrementVarSublevelsUp(copy.cast(), state.depth, 1);
                    }
                    rte.rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
                    rte.subquery = copy.cast();
                    rte.security_barrier = false;
                    rte.ctename = std::ptr::null_mut();
                    rte.ctelevelsup = 0;
                    rte.self_reference = false;
                    rte.coltypes = std::ptr::null_mut();
                    rte.coltypmods = std::ptr::null_mut();
                    rte.colcollations = std::ptr::null_mut();
                }
                false
            }
            _ => pg_sys::expression_tree_walker_impl(node, Some(replace), context),
        }
    }
}
