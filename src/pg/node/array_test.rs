//! `x op ANY (ARRAY(SELECT ..))` is `x op ANY (SELECT ..)`, and `ALL` likewise: the array is never null, and both compare
//! its elements as they compare rows. An array of arrays is another matter: its elements are theirs.

use std::ffi::c_void;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::{list_items, operator_facts, tag};

/// Restates them in `query` and every query below it.
pub(super) unsafe fn restate_array_tests(query: *mut pg_sys::Query) {
    // SAFETY: the caller passes a copy of its own.
    unsafe {
        mutate(query.cast(), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn mutate(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> *mut pg_sys::Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: nodes are valid; queries are our own copy and changed in place, expressions are copied.
    unsafe {
        if tag(node) == NodeTag::T_Query {
            let flags = pg_sys::QTW_DONT_COPY_QUERY as _;
            return pg_sys::query_tree_mutator_impl(node.cast(), Some(mutate), context, flags)
                .cast();
        }
        let copy = pg_sys::expression_tree_mutator_impl(node, Some(mutate), context);
        if tag(node) != NodeTag::T_ScalarArrayOpExpr {
            return copy;
        }
        as_sublink(&*copy.cast::<pg_sys::ScalarArrayOpExpr>()).unwrap_or(copy)
    }
}

/// The comparison with the rows of the sub-select that the array is made of; none if it is made of something else.
unsafe fn as_sublink(test: &pg_sys::ScalarArrayOpExpr) -> Option<*mut pg_sys::Node> {
    // SAFETY: each cast follows the node's tag; new nodes have their tag and all fields that are not zero set.
    unsafe {
        let arguments = list_items::<pg_sys::Node>(test.args);
        let [left, right] = arguments.as_slice() else {
            return None;
        };
        let (left, mut array) = (*left, *right);
        // What becomes of each element before it is compared, the last first.
        let mut conversions = Vec::new();
        while tag(array) == NodeTag::T_ArrayCoerceExpr {
            let convert = &*array.cast::<pg_sys::ArrayCoerceExpr>();
            // An explicit conversion would be missing from `x op ANY (SELECT ..)` in words.
            if convert.coerceformat != pg_sys::CoercionForm::COERCE_IMPLICIT_CAST {
                return None;
            }
            conversions.push(convert.elemexpr.cast::<pg_sys::Node>());
            array = convert.arg.cast();
        }
        if tag(array) != NodeTag::T_SubLink {
            return None;
        }
        let made: *mut pg_sys::SubLink = array.cast();
        if (*made).subLinkType != pg_sys::SubLinkType::ARRAY_SUBLINK {
            return None;
        }
        let select: *mut pg_sys::Query = (*made).subselect.cast();
        let column = list_items::<pg_sys::TargetEntry>((*select).targetList)
            .into_iter()
            .find(|target| !(**target).resjunk)?;
        let value: *mut pg_sys::Node = (*column).expr.cast();
        let ty = pg_sys::exprType(value);
        if ty == pg_sys::RECORDOID
            || pg_sys::get_array_type(ty) == pg_sys::InvalidOid
            || pg_sys::get_element_type(ty) != pg_sys::InvalidOid
        {
            return None;
        }
        let param: *mut pg_sys::Param = pg_sys::palloc0(size_of::<pg_sys::Param>()).cast();
        (*param).xpr.type_ = NodeTag::T_Param;
        (*param).paramkind = pg_sys::ParamKind::PARAM_SUBLINK;
        (*param).paramid = 1;
        (*param).paramtype = ty;
        (*param).paramtypmod = pg_sys::exprTypmod(value);
        (*param).paramcollid = pg_sys::exprCollation(value);
        (*param).location = -1;
        let mut element: *mut pg_sys::Node = param.cast();
        for conversion in conversions.into_iter().rev() {
            element = converted(conversion, element)?;
        }

        // x <> ALL (..) is x NOT IN (..).
        let denied = (!test.useOr)
            .then(|| pg_sys::get_negator(test.opno))
            .filter(|negator| {
                *negator != pg_sys::InvalidOid
                    && pg_sys::op_strict(test.opno)
                    && pg_sys::op_strict(*negator)
                    && operator_facts(*negator, pg_sys::exprType(left), pg_sys::exprType(element)).2
            });
        let compare: *mut pg_sys::OpExpr = pg_sys::palloc0(size_of::<pg_sys::OpExpr>()).cast();
        (*compare).xpr.type_ = NodeTag::T_OpExpr;
        (*compare).opno = denied.unwrap_or(test.opno);
        (*compare).opfuncid = pg_sys::get_opcode((*compare).opno);
        (*compare).opresulttype = pg_sys::BOOLOID;
        (*compare).inputcollid = test.inputcollid;
        (*compare).args = pg_sys::lappend(
            pg_sys::lappend(std::ptr::null_mut(), left.cast()),
            element.cast(),
        );
        (*compare).location = -1;
        (*made).subLinkType = if test.useOr || denied.is_some() {
            pg_sys::SubLinkType::ANY_SUBLINK
        } else {
            pg_sys::SubLinkType::ALL_SUBLINK
        };
        (*made).testexpr = compare.cast();
        let link: *mut pg_sys::Node = made.cast();
        Some(match denied {
            Some(_) => pg_sys::makeBoolExpr(
                pg_sys::BoolExprType::NOT_EXPR,
                pg_sys::lappend(std::ptr::null_mut(), link.cast()),
                -1,
            )
            .cast(),
            None => link,
        })
    }
}

/// What `conversion` makes of `element`; none if it does so in another way than by calls.
unsafe fn converted(
    conversion: *mut pg_sys::Node,
    element: *mut pg_sys::Node,
) -> Option<*mut pg_sys::Node> {
    struct Put {
        element: *mut pg_sys::Node,
        plain: bool,
    }
    #[pg_guard]
    unsafe extern "C-unwind" fn put(
        node: *mut pg_sys::Node,
        context: *mut c_void,
    ) -> *mut pg_sys::Node {
        if node.is_null() {
            return node;
        }
        // SAFETY: `context` is the Put passed below; the mutator copies what it descends into.
        unsafe {
            let state = &mut *context.cast::<Put>();
            match tag(node) {
                NodeTag::T_CaseTestExpr => state.element,
                NodeTag::T_List
                | NodeTag::T_RelabelType
                | NodeTag::T_FuncExpr
                | NodeTag::T_CoerceViaIO
                | NodeTag::T_Const => {
                    pg_sys::expression_tree_mutator_impl(node, Some(put), context)
                }
                _ => {
                    state.plain = false;
                    node
                }
            }
        }
    }
    let mut state = Put {
        element,
        plain: true,
    };
    // SAFETY: the context outlives the call.
    let made = unsafe { put(conversion, (&raw mut state).cast()) };
    state.plain.then_some(made)
}
