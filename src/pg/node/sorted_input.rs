//! An aggregate whose value depends on the order of its input, over nothing but a sorted sub-query, gets it in that order:
//! `JSON_ARRAY(SELECT .. ORDER BY ..)`, which PostgreSQL writes as such a query, and `array_agg(x) FROM (.. ORDER BY ..)`.
//! The order then stands in the call.

use std::ffi::c_void;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::walk::{each_query, vars_in};
use super::{VarRef, function_facts, list_items, order_dependent, tag};

/// Puts the order into the calls of `query` and every query below it.
pub(super) unsafe fn sort_in_calls(query: *mut pg_sys::Query) {
    // SAFETY: the caller passes a copy of its own.
    unsafe {
        each_query(query, sort_calls_of);
    }
}

unsafe fn sort_calls_of(query: *mut pg_sys::Query) {
    // SAFETY: each cast follows the tag or the kind of the entry; everything is our own copy.
    unsafe {
        let query = &mut *query;
        let grouped = !query.groupClause.is_null() || !query.groupingSets.is_null();
        if !query.hasAggs || grouped || query.jointree.is_null() {
            return;
        }
        let items = list_items::<pg_sys::Node>((*query.jointree).fromlist);
        let [item] = items.as_slice() else {
            return;
        };
        // A sub-select in WHERE may become a join, which leaves no order.
        if tag(*item) != NodeTag::T_RangeTblRef
            || pg_sys::checkExprHasSubLink((*query.jointree).quals)
        {
            return;
        }
        let index = (*item.cast::<pg_sys::RangeTblRef>()).rtindex as usize;
        let Some(rte) = list_items::<pg_sys::RangeTblEntry>(query.rtable)
            .get(index - 1)
            .copied()
        else {
            return;
        };
        // Functions that return sets add an order of their own.
        if (*rte).rtekind != pg_sys::RTEKind::RTE_SUBQUERY
            || (*(*rte).subquery).sortClause.is_null()
            || (*(*rte).subquery).hasTargetSRFs
        {
            return;
        }
        let calls = calls_of(query);
        // Where one of them sorts the input its own way, the others see it so too.
        let sorts = |call: &*mut pg_sys::Aggref| {
            !(**call).aggorder.is_null() || !(**call).aggdistinct.is_null()
        };
        let depends = |call: &*mut pg_sys::Aggref| {
            let facts = function_facts((**call).aggfnoid);
            facts.builtin && order_dependent(&facts.name)
        };
        if calls.iter().any(sorts) || !calls.iter().any(depends) {
            return;
        }
        let whole_row = VarRef {
            range: index,
            attnum: 0,
            levels_up: 0,
        };
        let shown = vars_in(std::ptr::from_mut(query).cast(), true).contains(&whole_row);
        let Some(keys) = sort_columns(&mut *rte, shown) else {
            return;
        };
        for call in calls.into_iter().filter(depends) {
            for (position, (clause, column)) in keys.iter().enumerate() {
                let reference = position as u32 + 1;
                let value = (**column).expr.cast();
                let var = pg_sys::makeVar(
                    index as _,
                    (**column).resno,
                    pg_sys::exprType(value),
                    pg_sys::exprTypmod(value),
                    pg_sys::exprCollation(value),
                    0,
                );
                let place = list_items::<pg_sys::TargetEntry>((*call).args).len() as i16 + 1;
                let argument =
                    pg_sys::makeTargetEntry(var.cast(), place, std::ptr::null_mut(), true);
                (*argument).ressortgroupref = reference;
                (*call).args = pg_sys::lappend((*call).args, argument.cast());
                let key: *mut pg_sys::SortGroupClause =
                    pg_sys::copyObjectImpl(clause.cast()).cast();
                (*key).tleSortGroupRef = reference;
                (*call).aggorder = pg_sys::lappend((*call).aggorder, key.cast());
            }
        }
    }
}

/// The aggregate calls of the level itself.
unsafe fn calls_of(query: &pg_sys::Query) -> Vec<*mut pg_sys::Aggref> {
    #[pg_guard]
    unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() || tag(node) == NodeTag::T_Query {
            return false;
        }
        // SAFETY: `context` is the vector passed below; nodes are valid.
        unsafe {
            if tag(node) == NodeTag::T_Aggref {
                let call: *mut pg_sys::Aggref = node.cast();
                if (*call).agglevelsup == 0 {
                    (*context.cast::<Vec<*mut pg_sys::Aggref>>()).push(call);
                }
                return false;
            }
            pg_sys::expression_tree_walker_impl(node, Some(walk), context)
        }
    }
    let mut found: Vec<*mut pg_sys::Aggref> = Vec::new();
    // SAFETY: the walker only reads and its context outlives the calls.
    unsafe {
        walk(query.targetList.cast(), (&raw mut found).cast());
        walk(query.havingQual, (&raw mut found).cast());
    }
    found
}

/// The keys that the sub-query `rte` is sorted by, as columns of it; none if one would have to be added and `shown` says
/// that all of its columns are seen.
unsafe fn sort_columns(
    rte: &mut pg_sys::RangeTblEntry,
    shown: bool,
) -> Option<Vec<(*mut pg_sys::SortGroupClause, *mut pg_sys::TargetEntry)>> {
    // SAFETY: the lists hold nodes of these types; they are our own copy.
    unsafe {
        let select = &mut *rte.subquery;
        let targets = list_items::<pg_sys::TargetEntry>(select.targetList);
        let keys = list_items::<pg_sys::SortGroupClause>(select.sortClause)
            .into_iter()
            .map(|clause| {
                let column = targets
                    .iter()
                    .find(|target| (***target).ressortgroupref == (*clause).tleSortGroupRef)?;
                Some((clause, *column))
            })
            .collect::<Option<Vec<_>>>()?;
        if keys.iter().any(|(_, column)| (**column).resjunk) {
            if shown {
                return None;
            }
            let sorts =
                |target: &*mut pg_sys::TargetEntry| keys.iter().any(|(_, column)| column == target);
            let (junk, columns): (Vec<_>, Vec<_>) =
                targets.into_iter().partition(|target| (**target).resjunk);
            let (added, junk): (Vec<_>, Vec<_>) = junk.into_iter().partition(sorts);
            for column in &added {
                let name = pg_sys::pstrdup(c"sorted".as_ptr());
                (**column).resjunk = false;
                (**column).resname = name;
                let named = pg_sys::makeString(name);
                (*rte.eref).colnames = pg_sys::lappend((*rte.eref).colnames, named.cast());
            }
            let all = columns.into_iter().chain(added).chain(junk);
            select.targetList = std::ptr::null_mut();
            for (position, target) in all.enumerate() {
                (*target).resno = position as i16 + 1;
                select.targetList = pg_sys::lappend(select.targetList, target.cast());
            }
        }
        Some(keys)
    }
}
