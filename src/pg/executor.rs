//! What a MERGE did, as PostgreSQL's executor has counted it: to count what it returns would take four more nodes.

use std::cell::Cell;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

static mut PREVIOUS: pg_sys::ExecutorEnd_hook_type = None;

/// Rows that a MERGE inserted, updated and deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
}

thread_local! {
    static LAST: Cell<Option<Merged>> = const { Cell::new(None) };
}

/// What the statement that ended last did, if it was a MERGE and nobody has asked yet.
pub fn take_merged() -> Option<Merged> {
    LAST.take()
}

/// Installs the hook. Called once, when the library is loaded.
pub fn install() {
    // SAFETY: the hook is chained before any statement of this session ends.
    unsafe {
        PREVIOUS = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(end);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the statement has not ended yet; what it is made of is there. A statement that a trigger ran ended before.
    unsafe {
        LAST.set(merged((*query).planstate));
        pg_sys::ffi::pg_guard_ffi_boundary(|| match PREVIOUS {
            Some(previous) => previous(query),
            None => pg_sys::standard_ExecutorEnd(query),
        });
    }
}

unsafe fn merged(node: *mut pg_sys::PlanState) -> Option<Merged> {
    // SAFETY: the node's tag tells its type.
    unsafe {
        if node.is_null() || (*node).type_ != NodeTag::T_ModifyTableState {
            return None;
        }
        let node = &*node.cast::<pg_sys::ModifyTableState>();
        (node.operation == pg_sys::CmdType::CMD_MERGE).then_some(Merged {
            inserted: node.mt_merge_inserted as i64,
            updated: node.mt_merge_updated as i64,
            deleted: node.mt_merge_deleted as i64,
        })
    }
}
