//! The columns a node refers to, and the queries within a query.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::{VarRef, tag};

/// Every Var below `node` that refers to the level the node stands in, or further out; with `inside`, `node` is a query
/// and the level meant is its own.
pub(super) fn vars_in(node: *mut pg_sys::Node, inside: bool) -> BTreeSet<VarRef> {
    struct Walk {
        found: BTreeSet<VarRef>,
        depth: i64,
    }
    #[pg_guard]
    unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: `context` is the Walk passed below; nodes are valid.
        unsafe {
            let state = &mut *context.cast::<Walk>();
            match tag(node) {
                NodeTag::T_Var => {
                    let var = &*node.cast::<pg_sys::Var>();
                    if let Ok(levels_up) = u32::try_from(i64::from(var.varlevelsup) - state.depth) {
                        state.found.insert(VarRef {
                            range: var.varno as usize,
                            attnum: var.varattno,
                            levels_up,
                        });
                    }
                    false
                }
                NodeTag::T_Query => {
                    state.depth += 1;
                    // The alias lists of joins name every column, used or not.
                    let stop = pg_sys::query_tree_walker_impl(
                        node.cast(),
                        Some(walk),
                        context,
                        pg_sys::QTW_IGNORE_JOINALIASES as c_int,
                    );
                    state.depth -= 1;
                    stop
                }
                _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
            }
        }
    }
    let mut state = Walk {
        found: BTreeSet::new(),
        depth: -i64::from(inside),
    };
    // SAFETY: the walker only reads and its context outlives the call.
    unsafe {
        walk(node, (&raw mut state).cast());
    }
    state.found
}

/// Does `work` to `query` and every query below it, to each before those within it.
///
/// # Safety
/// `query` is valid and may be changed, and `work` leaves it valid.
pub(super) unsafe fn each_query(query: *mut pg_sys::Query, work: unsafe fn(*mut pg_sys::Query)) {
    #[pg_guard]
    unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: `context` is the function passed below; nodes are valid.
        unsafe {
            if tag(node) == NodeTag::T_Query {
                let work = *context.cast::<unsafe fn(*mut pg_sys::Query)>();
                work(node.cast());
                return pg_sys::query_tree_walker_impl(node.cast(), Some(walk), context, 0);
            }
            pg_sys::expression_tree_walker_impl(node, Some(walk), context)
        }
    }
    let mut work = work;
    // SAFETY: the context outlives the call.
    unsafe {
        walk(query.cast(), (&raw mut work).cast());
    }
}
