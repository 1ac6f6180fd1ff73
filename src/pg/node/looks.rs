//! Whether a column is looked into or only compared. Values that are equal can look different (1.0 and 1.00): a comparison
//! by their type's own order cannot tell them apart, anything else may.

use std::ffi::{c_int, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::{Expr, Query, VarRef, base_type, list_items, tag};

struct Walk {
    var: VarRef,
    depth: u32,
    found: bool,
}

impl Query<'_> {
    /// The query, or one within, does more with the column it calls `var` than to compare it.
    pub fn looks_into(&self, var: VarRef) -> bool {
        let mut state = Walk {
            var,
            depth: 0,
            found: false,
        };
        // SAFETY: the walker only reads and its context outlives the call.
        unsafe {
            pg_sys::query_tree_walker_impl(
                std::ptr::from_ref(self.node()).cast_mut(),
                Some(walk),
                (&raw mut state).cast(),
                pg_sys::QTW_IGNORE_JOINALIASES as c_int,
            );
        }
        state.found
    }
}

impl Expr<'_> {
    /// The expression, or a sub-select in it, does more with the column than to compare it.
    pub fn looks_into(&self, var: VarRef) -> bool {
        let mut state = Walk {
            var,
            depth: 0,
            found: false,
        };
        // SAFETY: as above.
        unsafe {
            walk(self.ptr, (&raw mut state).cast());
        }
        state.found
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: `context` is the Walk passed above; each cast follows the node's tag.
    unsafe {
        let state = &mut *context.cast::<Walk>();
        let compared = match tag(node) {
            NodeTag::T_Query => {
                state.depth += 1;
                let stop = pg_sys::query_tree_walker_impl(
                    node.cast(),
                    Some(walk),
                    context,
                    pg_sys::QTW_IGNORE_JOINALIASES as c_int,
                );
                state.depth -= 1;
                return stop;
            }
            NodeTag::T_Var => {
                state.found |= is_it(node, state);
                return state.found;
            }
            NodeTag::T_NullTest => vec![(*node.cast::<pg_sys::NullTest>()).arg.cast()],
            NodeTag::T_OpExpr | NodeTag::T_DistinctExpr => {
                let compare = &*node.cast::<pg_sys::OpExpr>();
                list_items::<pg_sys::Node>(compare.args)
                    .into_iter()
                    .filter(|side| compares(compare.opno, compare.inputcollid, *side))
                    .collect()
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let compare = &*node.cast::<pg_sys::ScalarArrayOpExpr>();
                list_items::<pg_sys::Node>(compare.args)
                    .into_iter()
                    .take(1)
                    .filter(|side| compares(compare.opno, compare.inputcollid, *side))
                    .collect()
            }
            _ => vec![],
        };
        if !compared.iter().any(|side| is_it(bare(*side), state)) {
            return pg_sys::expression_tree_walker_impl(node, Some(walk), context);
        }
        let sides = match tag(node) {
            NodeTag::T_NullTest => vec![],
            NodeTag::T_ScalarArrayOpExpr => {
                list_items(((*node.cast::<pg_sys::ScalarArrayOpExpr>()).args).cast())
            }
            _ => list_items::<pg_sys::Node>((*node.cast::<pg_sys::OpExpr>()).args),
        };
        sides
            .into_iter()
            .any(|side| !is_it(bare(side), state) && walk(side, context))
    }
}

/// The node under casts that change nothing but the type's name.
unsafe fn bare(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the cast follows the tag.
    unsafe {
        while tag(node) == NodeTag::T_RelabelType {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
    }
    node
}

unsafe fn is_it(node: *mut pg_sys::Node, state: &Walk) -> bool {
    // SAFETY: the cast follows the tag.
    unsafe {
        if tag(node) != NodeTag::T_Var {
            return false;
        }
        let var = &*node.cast::<pg_sys::Var>();
        (var.varno as usize, var.varattno) == (state.var.range, state.var.attnum)
            && var.varlevelsup == state.var.levels_up + state.depth
    }
}

/// The operator compares its operand `side` by the order that its type has of its own, under its own collation.
unsafe fn compares(operator: pg_sys::Oid, collation: pg_sys::Oid, side: *mut pg_sys::Node) -> bool {
    // SAFETY: catalog lookups of existing objects; the list is a copy.
    unsafe {
        let column = bare(side);
        let family = (*pg_sys::lookup_type_cache(
            base_type(pg_sys::exprType(column)),
            pg_sys::TYPECACHE_BTREE_OPFAMILY as c_int,
        ))
        .btree_opf;
        family != pg_sys::InvalidOid
            && pg_sys::exprCollation(column) == collation
            && list_items::<pg_sys::OpIndexInterpretation>(pg_sys::get_op_index_interpretation(
                operator,
            ))
            .into_iter()
            .any(|place| (*place).opfamily_id == family)
    }
}
