//! Expressions as SQL text with holes.

use std::ffi::{c_int, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::{Expr, Fragment, tag, text};

impl<'q> Expr<'q> {
    /// The expression as SQL text. `lift` is asked for every sub-expression from the top down: `Ok(Some(n))` leaves hole
    /// `n` in its place, `Ok(None)` descends, and an error ends the walk.
    pub fn deparse<E>(
        &self,
        lift: &mut dyn FnMut(Expr<'q>) -> Result<Option<u32>, E>,
    ) -> Result<Vec<Fragment>, E> {
        struct Walk<'a> {
            step: &'a mut dyn FnMut(*mut pg_sys::Node) -> Step,
        }
        enum Step {
            Descend,
            Leave,
            Hole(u32),
        }
        #[pg_guard]
        unsafe extern "C-unwind" fn mutate(
            node: *mut pg_sys::Node,
            context: *mut c_void,
        ) -> *mut pg_sys::Node {
            if node.is_null() {
                return node;
            }
            // SAFETY: `context` is the Walk passed below; the mutator copies what it descends into.
            unsafe {
                let step = match tag(node) {
                    NodeTag::T_List => Step::Descend,
                    _ => ((*context.cast::<Walk<'_>>()).step)(node),
                };
                match step {
                    Step::Leave => node,
                    Step::Hole(number) => parameter(node, number),
                    Step::Descend => {
                        pg_sys::expression_tree_mutator_impl(node, Some(mutate), context)
                    }
                }
            }
        }
        let mut failure = None;
        let mut step = |node: *mut pg_sys::Node| {
            if failure.is_some() {
                return Step::Leave;
            }
            match lift(Expr::wrap(node)) {
                Ok(None) => Step::Descend,
                Ok(Some(hole)) => Step::Hole(hole),
                Err(error) => {
                    failure = Some(error);
                    Step::Leave
                }
            }
        };
        let mut state = Walk { step: &mut step };
        // SAFETY: the copy is made, deparsed and left behind in the analysis context.
        let copy = unsafe { mutate(self.ptr, (&raw mut state).cast()) };
        if let Some(error) = failure {
            return Err(error);
        }
        // SAFETY: as above.
        let printed = unsafe {
            text(pg_sys::deparse_expression(
                copy,
                std::ptr::null_mut(),
                false,
                false,
            ))
        };
        Ok(split_holes(&printed))
    }
}

/// A Param of the type of `node`, numbered `hole`.
unsafe fn parameter(node: *mut pg_sys::Node, hole: u32) -> *mut pg_sys::Node {
    // SAFETY: a zeroed Param with its tag and fields set is a valid node.
    unsafe {
        let param: *mut pg_sys::Param = pg_sys::palloc0(size_of::<pg_sys::Param>()).cast();
        (*param).xpr.type_ = NodeTag::T_Param;
        (*param).paramkind = pg_sys::ParamKind::PARAM_EXTERN;
        (*param).paramid = hole as c_int;
        (*param).paramtype = pg_sys::exprType(node);
        (*param).paramtypmod = pg_sys::exprTypmod(node);
        (*param).paramcollid = pg_sys::exprCollation(node);
        (*param).location = -1;
        param.cast()
    }
}

/// Splits deparsed text at its parameters, skipping string constants and quoted identifiers.
fn split_holes(printed: &str) -> Vec<Fragment> {
    let bytes = printed.as_bytes();
    let mut fragments = Vec::new();
    let mut start = 0;
    let mut position = 0;
    while position < bytes.len() {
        match bytes[position] {
            b'\'' => {
                let escapes = position > 0 && matches!(bytes[position - 1], b'E' | b'e');
                position += 1;
                while position < bytes.len() {
                    if escapes && bytes[position] == b'\\' {
                        position += 2;
                    } else if bytes[position] == b'\'' {
                        // A doubled quote re-enters this branch as a new string, which ends the same way.
                        break;
                    } else {
                        position += 1;
                    }
                }
                position += 1;
            }
            b'"' => {
                position += 1;
                while position < bytes.len() && bytes[position] != b'"' {
                    position += 1;
                }
                position += 1;
            }
            b'$' if bytes.get(position + 1).is_some_and(u8::is_ascii_digit) => {
                if start < position {
                    fragments.push(Fragment::Text(printed[start..position].to_owned()));
                }
                let digits = bytes[position + 1..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit())
                    .count();
                let number = printed[position + 1..position + 1 + digits]
                    .parse()
                    .unwrap_or(0);
                fragments.push(Fragment::Hole(number));
                position += 1 + digits;
                start = position;
            }
            _ => position += 1,
        }
    }
    if start < bytes.len() {
        fragments.push(Fragment::Text(printed[start..].to_owned()));
    }
    fragments
}
