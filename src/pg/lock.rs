//! Locks: on catalog entries of stream tables, and on relations.

use std::collections::BTreeSet;

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

/// Locks of what queries are made of besides relations. An object has one of [`INGREDIENT_LOCKS`] by its number: whoever
/// replaces thousands of functions at once does not fill the lock table.
pub type Ingredients = BTreeSet<u16>;

const INGREDIENT_LOCKS: u32 = 1024;

/// The sub-id of objects that keeps these locks apart from those of stream tables.
const INGREDIENT: u16 = 1;

/// The lock of a function, type, operator or text search object.
pub fn ingredient(object: pg_sys::Oid) -> u16 {
    (object.to_u32() % INGREDIENT_LOCKS) as u16
}

/// Waits for those who use an ingredient, and keeps others from using it until the transaction ends.
pub fn ingredient_changes(catalog: pg_sys::Oid, ingredient: u16) {
    // SAFETY: heavyweight locks are released at transaction end.
    unsafe {
        pg_sys::LockDatabaseObject(
            catalog,
            pg_sys::Oid::from(u32::from(ingredient)),
            INGREDIENT,
            // Does not conflict with itself, but with the mode of those who use it.
            pg_sys::RowExclusiveLock as i32,
        );
    }
}

/// This server only replays what another one does.
pub fn is_standby() -> bool {
    // SAFETY: reads the server's state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Something that is used as it is until the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Used {
    /// ACCESS SHARE on a relation.
    Relation(u32),
    /// Changes of an ingredient wait, and are known to this session if they came first.
    Ingredient(u16),
}

impl Used {
    /// Takes the lock, waiting for those who change it.
    pub fn lock(self, catalog: pg_sys::Oid) {
        // SAFETY: heavyweight locks are released at transaction end.
        unsafe {
            match self {
                Used::Relation(relation) => pg_sys::LockRelationOid(
                    pg_sys::Oid::from(relation),
                    pg_sys::AccessShareLock as i32,
                ),
                Used::Ingredient(number) => pg_sys::LockDatabaseObject(
                    catalog,
                    pg_sys::Oid::from(u32::from(number)),
                    INGREDIENT,
                    pg_sys::ShareLock as i32,
                ),
            }
        }
    }

    /// Takes the lock if nobody is in the way.
    pub fn try_lock(self, catalog: pg_sys::Oid) -> bool {
        // SAFETY: as above.
        unsafe {
            match self {
                Used::Relation(relation) => pg_sys::ConditionalLockRelationOid(
                    pg_sys::Oid::from(relation),
                    pg_sys::AccessShareLock as i32,
                ),
                Used::Ingredient(number) => pg_sys::ConditionalLockDatabaseObject(
                    catalog,
                    pg_sys::Oid::from(u32::from(number)),
                    INGREDIENT,
                    pg_sys::ShareLock as i32,
                ),
            }
        }
    }

    /// Gives back one hold of the lock, before anything was done under it.
    pub fn release(self, catalog: pg_sys::Oid) {
        // SAFETY: as above.
        unsafe {
            match self {
                Used::Relation(relation) => pg_sys::UnlockRelationOid(
                    pg_sys::Oid::from(relation),
                    pg_sys::AccessShareLock as i32,
                ),
                Used::Ingredient(number) => pg_sys::UnlockDatabaseObject(
                    catalog,
                    pg_sys::Oid::from(u32::from(number)),
                    INGREDIENT,
                    pg_sys::ShareLock as i32,
                ),
            }
        }
    }
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
