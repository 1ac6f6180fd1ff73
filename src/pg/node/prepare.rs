//! The rewritten query of a view, with the aliases of joins replaced by what they stand for.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::array_test::restate_array_tests;
use super::inline::inline_correlated;
use super::outer_aggregate::lift_outer_aggregates;
use super::sorted_input::sort_in_calls;
use super::{Query, list_items, tag};

/// Lends the rewritten query of view `view` to `read`.
///
/// Views inside it are expanded and row security is applied as for the current user. All memory is released at the end.
pub fn with_view_query<R>(view: pg_sys::Oid, read: impl for<'q> FnOnce(Query<'q>) -> R) -> R {
    // SAFETY: the relation stays open (and locked) while its query is copied; QueryRewrite gets its own copy, with the
    // locks its range table needs taken by AcquireRewriteLocks.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"pg_trickle analysis".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let caller = pg_sys::MemoryContextSwitchTo(context);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let relation = pg_sys::relation_open(view, pg_sys::AccessShareLock as i32);
            let query: *mut pg_sys::Query =
                pg_sys::copyObjectImpl(pg_sys::get_view_query(relation).cast()).cast();
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            pg_sys::AcquireRewriteLocks(query, true, false);
            let rewritten = list_items::<pg_sys::Query>(pg_sys::QueryRewrite(query));
            let query = rewritten.first().copied().unwrap_or(query);
            restate_array_tests(query);
            sort_in_calls(query);
            inline_correlated(query);
            prepare(query);
            lift_outer_aggregates(query);
            read(Query {
                ptr: query,
                life: PhantomData,
            })
        }));
        pg_sys::MemoryContextSwitchTo(caller);
        match result {
            Ok(value) => {
                pg_sys::MemoryContextDelete(context);
                value
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Replaces join alias Vars by what they stand for, in this query and every sub-query of it.
unsafe fn prepare(query: *mut pg_sys::Query) {
    // SAFETY: `query` and everything below it is our own copy.
    unsafe {
        let flatten = move |node: *mut pg_sys::Node| {
            pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, node)
        };
        for rte in list_items::<pg_sys::RangeTblEntry>((*query).rtable) {
            match (*rte).rtekind {
                pg_sys::RTEKind::RTE_SUBQUERY => {
                    prepare((*rte).subquery);
                    if (*rte).lateral {
                        (*rte).subquery = flatten((*rte).subquery.cast()).cast();
                    }
                }
                pg_sys::RTEKind::RTE_FUNCTION => {
                    (*rte).functions = flatten((*rte).functions.cast()).cast();
                }
                pg_sys::RTEKind::RTE_VALUES => {
                    (*rte).values_lists = flatten((*rte).values_lists.cast()).cast();
                }
                pg_sys::RTEKind::RTE_TABLEFUNC => {
                    (*rte).tablefunc = flatten((*rte).tablefunc.cast()).cast();
                }
                _ => {}
            }
            if (*rte).rtekind == pg_sys::RTEKind::RTE_GROUP {
                let flat = pg_sys::flatten_join_alias_vars(
                    std::ptr::null_mut(),
                    query,
                    (*rte).groupexprs.cast(),
                );
                (*rte).groupexprs = flat.cast();
            }
        }
        for cte in list_items::<pg_sys::CommonTableExpr>((*query).cteList) {
            prepare((*cte).ctequery.cast());
        }
        for link in sublinks(query) {
            let select: *mut pg_sys::Query = (*link).subselect.cast();
            if (*link).subLinkType == pg_sys::SubLinkType::EXISTS_SUBLINK {
                forget_what_is_selected(&mut *select);
            }
            prepare(select);
        }
        (*query).targetList = flatten((*query).targetList.cast()).cast();
        (*query).havingQual = flatten((*query).havingQual);
        flatten_from((*query).jointree.cast(), query);
    }
}

/// What an EXISTS selects and how it is sorted is never evaluated, unless it decides how many rows there are. PostgreSQL's
/// `simplify_EXISTS_query` does the same.
fn forget_what_is_selected(query: &mut pg_sys::Query) {
    let decides = query.commandType != pg_sys::CmdType::CMD_SELECT
        || !query.setOperations.is_null()
        || query.hasAggs
        || !query.groupClause.is_null()
        || !query.groupingSets.is_null()
        || query.hasWindowFuncs
        || query.hasTargetSRFs
        || query.hasModifyingCTE
        || !query.havingQual.is_null()
        || !query.limitOffset.is_null()
        || !query.limitCount.is_null()
        || !query.rowMarks.is_null();
    if !decides {
        query.targetList = std::ptr::null_mut();
        query.distinctClause = std::ptr::null_mut();
        query.sortClause = std::ptr::null_mut();
        query.hasDistinctOn = false;
    }
}

/// The sub-selects in the expressions of this query level.
unsafe fn sublinks(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::SubLink> {
    #[pg_guard]
    unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: `context` is the vector passed below; nodes are valid.
        unsafe {
            match tag(node) {
                NodeTag::T_SubLink => {
                    (*context.cast::<Vec<*mut pg_sys::SubLink>>()).push(node.cast());
                    pg_sys::expression_tree_walker_impl(
                        (*node.cast::<pg_sys::SubLink>()).testexpr,
                        Some(walk),
                        context,
                    )
                }
                NodeTag::T_Query => false,
                _ => pg_sys::expression_tree_walker_impl(node, Some(walk), context),
            }
        }
    }
    let mut found: Vec<*mut pg_sys::SubLink> = Vec::new();
    // SAFETY: the walker only reads; sub-queries in FROM are prepared on their own.
    unsafe {
        pg_sys::query_tree_walker_impl(
            query,
            Some(walk),
            (&raw mut found).cast(),
            pg_sys::QTW_IGNORE_RT_SUBQUERIES as c_int,
        );
    }
    found
}

unsafe fn flatten_from(node: *mut pg_sys::Node, query: *mut pg_sys::Query) {
    if node.is_null() {
        return;
    }
    // SAFETY: the join tree consists of RangeTblRef, JoinExpr and FromExpr nodes of our own copy.
    unsafe {
        match tag(node) {
            NodeTag::T_FromExpr => {
                let from: *mut pg_sys::FromExpr = node.cast();
                (*from).quals =
                    pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, (*from).quals);
                for item in list_items::<pg_sys::Node>((*from).fromlist) {
                    flatten_from(item, query);
                }
            }
            NodeTag::T_JoinExpr => {
                let join: *mut pg_sys::JoinExpr = node.cast();
                (*join).quals =
                    pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, (*join).quals);
                flatten_from((*join).larg, query);
                flatten_from((*join).rarg, query);
            }
            _ => {}
        }
    }
}
