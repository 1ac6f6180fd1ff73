//! Locks: on catalog entries of stream tables, and on relations.

use pgrx::pg_sys;

/// Takes the lock under which stream tables are defined, rebuilt, altered and dropped: one at a time, because they meet
/// on sources, logs and catalog rows in any order. Refreshes do not take it.
pub fn definitions(catalog: pg_sys::Oid) {
    stream_table(catalog, 0);
}

/// Takes the lock under which gates and watermarks change.
pub fn holds(catalog: pg_sys::Oid) {
    stream_table(catalog, i64::from(u32::MAX));
}

/// Takes the lock of stream table `pgt_id`, an object lock on its entry in catalog `catalog`, until the transaction ends.
pub fn stream_table(catalog: pg_sys::Oid, pgt_id: i64) {
    // SAFETY: heavyweight locks are released at transaction end.
    unsafe {
        pg_sys::LockDatabaseObject(
            catalog,
            pg_sys::Oid::from(pgt_id as u32),
            0,
            pg_sys::ExclusiveLock as i32,
        );
    }
}

/// Gives back what [`stream_table`] took, before anything was done under it.
pub fn release_stream_table(catalog: pg_sys::Oid, pgt_id: i64) {
    // SAFETY: releases one hold of a heavyweight lock.
    unsafe {
        pg_sys::UnlockDatabaseObject(
            catalog,
            pg_sys::Oid::from(pgt_id as u32),
            0,
            pg_sys::ExclusiveLock as i32,
        );
    }
}

/// ACCESS SHARE on a relation, until the transaction ends.
pub fn relation_read(relation: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as i32) }
}

/// ACCESS EXCLUSIVE on a relation if nobody is in the way.
pub fn try_relation_exclusive(relation: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessExclusiveLock as i32) }
}

/// SHARE ROW EXCLUSIVE on a relation (waits out its writers) if nobody is in the way.
pub fn try_relation_share_row_exclusive(relation: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::ShareRowExclusiveLock as i32) }
}

/// SHARE ROW EXCLUSIVE on a relation, waiting as long as `lock_timeout` allows.
pub fn relation_share_row_exclusive(relation: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareRowExclusiveLock as i32) }
}

/// Sleeps, answering interrupts.
pub fn sleep(duration: std::time::Duration) {
    // SAFETY: waits on this process's latch; an interrupt raises its error here.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            duration.as_millis() as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        pgrx::check_for_interrupts!();
    }
}
