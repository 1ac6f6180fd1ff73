//! Aggregates of a query that stand in a sub-query of it. They become columns of a range-table entry of their own, whose
//! values the query computes beside what it selects: the sub-query then refers to them as it does to any column.

use std::ffi::{CStr, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::walk::each_query;
use super::{Expr, Query, VarRef, list_items, tag};

/// The name of the range-table entry.
const ENTRY: &CStr = c"aggregates of this level";

/// Lifts them in `query` and every query below it.
pub(super) unsafe fn lift_outer_aggregates(query: *mut pg_sys::Query) {
    // SAFETY: the caller passes a copy of its own.
    unsafe {
        each_query(query, lift_of);
    }
}

struct Lift {
    /// The index of the new range-table entry.
    range: i32,
    /// The calls, as they stand at their own level.
    calls: Vec<*mut pg_sys::Node>,
    /// Levels below it.
    depth: u32,
}

unsafe fn lift_of(query: *mut pg_sys::Query) {
    // SAFETY: everything is our own copy; the new nodes have their tag and all fields that are not zero set.
    unsafe {
        let query = &mut *query;
        if !query.hasAggs || !query.hasSubLinks {
            return;
        }
        let mut state = Lift {
            range: list_items::<pg_sys::Node>(query.rtable).len() as i32 + 1,
            calls: vec![],
            depth: 0,
        };
        query.targetList = replace(query.targetList.cast(), (&raw mut state).cast()).cast();
        query.havingQual = replace(query.havingQual, (&raw mut state).cast());
        if state.calls.is_empty() {
            return;
        }
        let rte: *mut pg_sys::RangeTblEntry =
            pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast();
        (*rte).type_ = NodeTag::T_RangeTblEntry;
        (*rte).rtekind = pg_sys::RTEKind::RTE_RESULT;
        (*rte).eref = pg_sys::makeAlias(ENTRY.as_ptr(), std::ptr::null_mut());
        for call in state.calls {
            let place = list_items::<pg_sys::TargetEntry>(query.targetList).len() as i16 + 1;
            let target = pg_sys::makeTargetEntry(call.cast(), place, std::ptr::null_mut(), true);
            query.targetList = pg_sys::lappend(query.targetList, target.cast());
            let name = pg_sys::makeString(pg_sys::pstrdup(c"aggregate".as_ptr()));
            (*(*rte).eref).colnames = pg_sys::lappend((*(*rte).eref).colnames, name.cast());
        }
        query.rtable = pg_sys::lappend(query.rtable, rte.cast());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn replace(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> *mut pg_sys::Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: `context` is the Lift passed above; queries are changed in place, expressions are copied.
    unsafe {
        let state = &mut *context.cast::<Lift>();
        if tag(node) == NodeTag::T_Query {
            state.depth += 1;
            let flags = pg_sys::QTW_DONT_COPY_QUERY as _;
            let query = pg_sys::query_tree_mutator_impl(node.cast(), Some(replace), context, flags);
            state.depth -= 1;
            return query.cast();
        }
        // An aggregate of the SQL standard goes with the words around it.
        let call = match tag(node) {
            NodeTag::T_Aggref => node,
            NodeTag::T_JsonConstructorExpr => {
                (*node.cast::<pg_sys::JsonConstructorExpr>()).func.cast()
            }
            _ => std::ptr::null_mut(),
        };
        let lifted = state.depth > 0
            && !call.is_null()
            && tag(call) == NodeTag::T_Aggref
            && (*call.cast::<pg_sys::Aggref>()).agglevelsup == state.depth;
        if !lifted {
            return pg_sys::expression_tree_mutator_impl(node, Some(replace), context);
        }
        let own: *mut pg_sys::Node = pg_sys::copyObjectImpl(node.cast()).cast();
        pg_sys::IncrementVarSublevelsUp(own, -(state.depth as i32), 0);
        let known = state
            .calls
            .iter()
            .position(|known| pg_sys::equal(known.cast(), own.cast()));
        let place = known.unwrap_or_else(|| {
            state.calls.push(own);
            state.calls.len() - 1
        });
        pg_sys::makeVar(
            state.range,
            place as i16 + 1,
            pg_sys::exprType(own),
            pg_sys::exprTypmod(own),
            pg_sys::exprCollation(own),
            state.depth,
        )
        .cast()
    }
}

impl<'q> Query<'q> {
    /// The aggregates of this level that sub-queries of it use, with the columns they know them by.
    pub fn aggregates_below(&self) -> Vec<(VarRef, Expr<'q>)> {
        let entries = list_items::<pg_sys::RangeTblEntry>(self.node().rtable);
        // SAFETY: the lists hold nodes of these types; an entry of this kind has a name.
        unsafe {
            let Some(rte) = entries.last().copied().filter(|rte| {
                (**rte).rtekind == pg_sys::RTEKind::RTE_RESULT
                    && !(**rte).eref.is_null()
                    && CStr::from_ptr((*(**rte).eref).aliasname) == ENTRY
            }) else {
                return vec![];
            };
            let count = list_items::<pg_sys::Node>((*(*rte).eref).colnames).len();
            let targets = list_items::<pg_sys::TargetEntry>(self.node().targetList);
            targets[targets.len() - count..]
                .iter()
                .enumerate()
                .map(|(place, target)| {
                    let var = VarRef {
                        range: entries.len(),
                        attnum: place as i16 + 1,
                        levels_up: 0,
                    };
                    (var, Expr::wrap((**target).expr.cast()))
                })
                .collect()
        }
    }
}
