//! Registered snapshots, and the identity of cluster, database and transaction.

use pgrx::pg_sys;

/// One state of the database, held until dropped.
pub struct Snapshot(pg_sys::Snapshot, bool);

impl Snapshot {
    /// The state as of now in READ COMMITTED, the transaction's own in REPEATABLE READ and above.
    pub fn take() -> Snapshot {
        // SAFETY: registered with the current resource owner, unregistered in drop.
        unsafe {
            Snapshot(
                pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()),
                true,
            )
        }
    }

    /// The state as of now, whatever the isolation level.
    pub fn latest() -> Snapshot {
        // SAFETY: as above.
        unsafe { Snapshot(pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()), false) }
    }

    /// Taken by [`Snapshot::take`] in a transaction whose snapshot never moves (REPEATABLE READ and above).
    pub fn is_transactions_own(&self) -> bool {
        // SAFETY: reads transaction state.
        self.1 && unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32
    }

    pub(super) fn pointer(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's resource owner releases the snapshot.
        if !std::thread::panicking() {
            // SAFETY: registered once in the constructor.
            unsafe { pg_sys::UnregisterSnapshot(self.0) }
        }
    }
}

/// The cluster's system identifier.
pub fn cluster_id() -> i64 {
    // SAFETY: reads a constant of the running cluster.
    unsafe { pg_sys::GetSystemIdentifier() as i64 }
}

pub fn database_id() -> pg_sys::Oid {
    // SAFETY: a backend's constant.
    unsafe { pg_sys::MyDatabaseId }
}

/// The current transaction's top-level id, if it has one.
pub fn current_xid() -> Option<u64> {
    // SAFETY: reads transaction state.
    let id = unsafe { pg_sys::GetTopFullTransactionIdIfAny() };
    (id.value != 0).then_some(id.value)
}
