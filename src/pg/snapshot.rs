//! Registered snapshots, and the identity of cluster, database and transaction.

use pgrx::pg_sys;

/// One state of the database, held until dropped.
pub struct Snapshot(pg_sys::Snapshot, bool);

/// `now()` of this transaction, in microseconds since 2000-01-01 UTC.
pub fn transaction_time() -> i64 {
    // SAFETY: reads transaction state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

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

    /// The latest state without anything this transaction has done, for scans of this transaction.
    pub(super) fn latest_of_others() -> Snapshot {
        let snapshot = Snapshot::latest();
        // SAFETY: registering has made a copy that is ours.
        unsafe { (*snapshot.0).curcid = 0 }
        snapshot
    }

    /// Taken by [`Snapshot::take`] in a transaction whose snapshot never moves (REPEATABLE READ and above).
    pub fn is_transactions_own(&self) -> bool {
        // SAFETY: reads transaction state.
        self.1 && unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32
    }

    /// The snapshot as `pg_current_snapshot()` prints it: `xmin:xmax:xip,xip,..`.
    pub fn text(&self) -> String {
        // SAFETY: the snapshot is registered; its array has `xcnt` entries.
        unsafe {
            let next = pg_sys::ReadNextFullTransactionId().value;
            // A transaction id of 32 bits belongs to the epoch before the next one's if it is larger.
            let widen = |xid: pg_sys::TransactionId| {
                let xid = u64::from(xid.into_inner());
                let candidate = (next >> 32 << 32) | xid;
                if xid > next & 0xffff_ffff {
                    candidate - (1 << 32)
                } else {
                    candidate
                }
            };
            let data = &*self.0;
            let mut running: Vec<u64> = (0..data.xcnt as usize)
                .map(|position| widen(*data.xip.add(position)))
                .collect();
            running.sort_unstable();
            running.dedup();
            let list: Vec<String> = running.iter().map(u64::to_string).collect();
            format!(
                "{}:{}:{}",
                widen(data.xmin),
                widen(data.xmax),
                list.join(",")
            )
        }
    }

    /// The same state together with what this transaction has done until now, for scans that end before it does more.
    pub(super) fn with_own_writes(&self) -> pg_sys::SnapshotData {
        // SAFETY: a shallow copy of a registered snapshot, whose arrays outlive it.
        unsafe {
            // A statement's writes become visible with the next command.
            pg_sys::CommandCounterIncrement();
            let mut copy = *self.0;
            copy.curcid = pg_sys::GetCurrentCommandId(false);
            copy
        }
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

/// The version of the running server.
pub fn server_version() -> String {
    // SAFETY: a setting that is always there; its value is a C string.
    unsafe {
        let value = pg_sys::GetConfigOption(c"server_version".as_ptr(), false, false);
        std::ffi::CStr::from_ptr(value)
            .to_string_lossy()
            .into_owned()
    }
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
