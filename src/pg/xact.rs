//! End of transactions: what a commit touched is marked dirty after it has become visible.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;

use pgrx::pg_guard;
use pgrx::pg_sys;

use super::worker::Failure;
use super::{capture_trigger, shared};

/// Stands for all stream tables among those that change.
const ALL: i64 = 0;

thread_local! {
    static DEFINITIONS: RefCell<BTreeSet<i64>> = const { RefCell::new(BTreeSet::new()) };
}

/// Announces at commit that a stream table of this database was defined, altered or dropped. A subtransaction that is
/// rolled back does not take it back: one look too many does no harm.
pub fn definition_will_change(id: i64) {
    DEFINITIONS.with(|changed| changed.borrow_mut().insert(id));
}

/// Announces at commit that any stream table of this database may have been defined, altered or dropped.
pub fn definitions_will_change() {
    definition_will_change(ALL);
}

fn announce_definitions() {
    let changed = DEFINITIONS.take();
    if changed.contains(&ALL) {
        shared::definitions_changed(&[]);
    } else if !changed.is_empty() {
        shared::definitions_changed(&changed.into_iter().collect::<Vec<_>>());
    }
}

thread_local! {
    static CHANGED: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
}

/// Marks a stream table dirty, as a source of others, when this transaction commits.
pub fn mark_dirty_at_commit(relation: pg_sys::Oid) {
    CHANGED.with(|changed| changed.borrow_mut().push(relation));
}

/// Registers the callbacks. Called once per process.
pub fn install() {
    // SAFETY: callbacks stay registered for the life of the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_event), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_event(
    event: pg_sys::XactEvent::Type,
    _argument: *mut c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PARALLEL_COMMIT => {
            let mut touched = capture_trigger::take_touched();
            touched.extend(CHANGED.take());
            if !touched.is_empty() {
                shared::mark_dirty(&touched);
            }
            announce_definitions();
        }
        pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            let (touched, changed) = (capture_trigger::take_touched(), CHANGED.take());
            if !touched.is_empty() || !changed.is_empty() {
                shared::mark_prepared();
            }
            // What is prepared may be committed by any session: better one look too many.
            announce_definitions();
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PARALLEL_ABORT => {
            capture_trigger::take_touched();
            CHANGED.take();
            DEFINITIONS.take();
        }
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    _id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    // SAFETY: reads transaction state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            capture_trigger::subtransaction_aborted(level)
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            capture_trigger::subtransaction_committed(level)
        }
        _ => {}
    }
}

/// Raises the error of a cancelled statement, or of one that took too long, here rather than when it is done.
pub fn answer_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Runs `work` in a subtransaction that is rolled back whatever happens; an error is raised again afterwards.
pub fn rolled_back<R>(work: impl FnOnce() -> R) -> R {
    match in_subtransaction(work, false) {
        Ok(result) => result,
        Err(failure) => failure.raise(),
    }
}

/// Runs `work` in a subtransaction. An error rolls it back and is returned instead of raised.
pub fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    in_subtransaction(work, true)
}

fn in_subtransaction<R>(work: impl FnOnce() -> R, keep: bool) -> Result<R, Failure> {
    // SAFETY: as PL/pgSQL does it: memory context and resource owner of the caller are put back afterwards, and an
    // aborted subtransaction is rolled back before anything else happens.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let outcome = pgrx::PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
            .catch_others(|caught| Err(super::worker::failure(caught)))
            .execute();
        pg_sys::MemoryContextSwitchTo(context);
        if outcome.is_ok() && keep {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::FlushErrorState();
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}
