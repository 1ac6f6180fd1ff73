//! Databases with stream tables: their schedulers, their dirty sources, what changed in their definitions.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgrx::{PGRXSharedMemory, PgLwLock, pg_sys};

use super::{costs, my_pid, my_process, set_latch, sources, workers};
use crate::pg::snapshot::database_id;

const SLOTS: usize = 128;

/// Changed definitions remembered; a scheduler that is further behind reads all of them.
const REMEMBERED: usize = 256;

/// Stands for every stream table among changed definitions.
const EVERYTHING: i64 = 0;

/// A database with a scheduler.
struct DatabaseSlot {
    oid: AtomicU32,
    /// The scheduler's process number plus one, 0 without scheduler.
    scheduler: AtomicI32,
    scheduler_pid: AtomicI32,
    /// Workers must leave: the database is about to be dropped or copied. Microseconds since 2000 until which.
    closed_until: AtomicI64,
    /// Definitions changed so far, and the ids of the last of them.
    definitions: AtomicU64,
    changed: [AtomicI64; REMEMBERED],
    /// Prepared transactions that touched sources, so far.
    prepared: AtomicU64,
    /// The first slot on the list of dirty sources, plus one.
    dirty: AtomicU32,
    /// Units that are due and wait for a worker.
    queued: AtomicU32,
    /// Nothing is started for this installation of the extension, by its oid; 0 for none.
    draining: AtomicU32,
    statistics: Statistics,
}

/// What a scheduler has done so far.
#[derive(Default)]
struct Statistics {
    wakeups: AtomicU64,
    busy_us: AtomicU64,
    last_us: AtomicU64,
    max_us: AtomicU64,
    stream_tables: AtomicU64,
    readings: AtomicU64,
    reading_us: AtomicU64,
}

/// What the scheduler of a database has done since the server was started. Times are microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulerStatistics {
    pub wakeups: u64,
    pub busy_us: u64,
    pub last_us: u64,
    pub max_us: u64,
    pub stream_tables: u64,
    pub readings: u64,
    pub reading_us: u64,
}

pub struct Databases {
    slots: [DatabaseSlot; SLOTS],
    launcher: AtomicI32,
}

// SAFETY: only atomics, valid for any process that maps the segment.
unsafe impl PGRXSharedMemory for Databases {}

impl Default for Databases {
    fn default() -> Self {
        Databases {
            slots: [const {
                DatabaseSlot {
                    oid: AtomicU32::new(0),
                    scheduler: AtomicI32::new(0),
                    scheduler_pid: AtomicI32::new(0),
                    closed_until: AtomicI64::new(0),
                    definitions: AtomicU64::new(0),
                    changed: [const { AtomicI64::new(0) }; REMEMBERED],
                    prepared: AtomicU64::new(0),
                    dirty: AtomicU32::new(0),
                    queued: AtomicU32::new(0),
                    draining: AtomicU32::new(0),
                    statistics: Statistics {
                        wakeups: AtomicU64::new(0),
                        busy_us: AtomicU64::new(0),
                        last_us: AtomicU64::new(0),
                        max_us: AtomicU64::new(0),
                        stream_tables: AtomicU64::new(0),
                        readings: AtomicU64::new(0),
                        reading_us: AtomicU64::new(0),
                    },
                }
            }; SLOTS],
            launcher: AtomicI32::new(0),
        }
    }
}

// SAFETY: the name is unique to this extension.
pub(super) static DATABASES: PgLwLock<Databases> =
    unsafe { PgLwLock::new(c"pg_trickle databases") };

impl Statistics {
    fn forget(&self) {
        for counter in [
            &self.wakeups,
            &self.busy_us,
            &self.last_us,
            &self.max_us,
            &self.stream_tables,
            &self.readings,
            &self.reading_us,
        ] {
            counter.store(0, Ordering::Release);
        }
    }
}

/// The scheduler of this database has been awake for `us`, with so many stream tables on its board.
pub fn note_wakeup(us: u64, stream_tables: usize) {
    with(database_id(), |slot, _| {
        let counters = &slot.statistics;
        counters.wakeups.fetch_add(1, Ordering::AcqRel);
        counters.busy_us.fetch_add(us, Ordering::AcqRel);
        counters.last_us.store(us, Ordering::Release);
        counters.max_us.fetch_max(us, Ordering::AcqRel);
        counters
            .stream_tables
            .store(stream_tables as u64, Ordering::Release);
    });
}

/// The scheduler of this database has read definitions for `us`.
pub fn note_reading(us: u64) {
    with(database_id(), |slot, _| {
        slot.statistics.readings.fetch_add(1, Ordering::AcqRel);
        slot.statistics.reading_us.fetch_add(us, Ordering::AcqRel);
    });
}

pub fn scheduler_statistics() -> SchedulerStatistics {
    if !super::available() {
        return SchedulerStatistics::default();
    }
    with(database_id(), |slot, _| {
        let counters = &slot.statistics;
        SchedulerStatistics {
            wakeups: counters.wakeups.load(Ordering::Acquire),
            busy_us: counters.busy_us.load(Ordering::Acquire),
            last_us: counters.last_us.load(Ordering::Acquire),
            max_us: counters.max_us.load(Ordering::Acquire),
            stream_tables: counters.stream_tables.load(Ordering::Acquire),
            readings: counters.readings.load(Ordering::Acquire),
            reading_us: counters.reading_us.load(Ordering::Acquire),
        }
    })
    .unwrap_or_default()
}

impl Databases {
    fn slot(&self, oid: pg_sys::Oid) -> Option<&DatabaseSlot> {
        self.slots
            .iter()
            .find(|slot| slot.oid.load(Ordering::Acquire) == oid.to_u32())
    }
}

/// Calls `work` with the slot of a database; none if it has none.
fn with<R>(oid: pg_sys::Oid, work: impl FnOnce(&DatabaseSlot, &Databases) -> R) -> Option<R> {
    let shared = DATABASES.share();
    shared.slot(oid).map(|slot| work(slot, &shared))
}

/// As [`with`], giving the database a slot if it has none and there is one.
fn ensured<R>(oid: pg_sys::Oid, work: impl FnOnce(&DatabaseSlot, &Databases) -> R) -> Option<R> {
    if DATABASES.share().slot(oid).is_none() {
        let shared = DATABASES.exclusive();
        if shared.slot(oid).is_none() {
            let slot = shared
                .slots
                .iter()
                .find(|slot| slot.oid.load(Ordering::Acquire) == 0)?;
            slot.scheduler.store(0, Ordering::Release);
            slot.scheduler_pid.store(0, Ordering::Release);
            slot.closed_until.store(0, Ordering::Release);
            slot.definitions.store(0, Ordering::Release);
            slot.prepared.store(0, Ordering::Release);
            slot.dirty.store(0, Ordering::Release);
            slot.queued.store(0, Ordering::Release);
            slot.draining.store(0, Ordering::Release);
            slot.statistics.forget();
            slot.oid.store(oid.to_u32(), Ordering::Release);
        }
    }
    with(oid, work)
}

/// Frees what belongs to databases that are gone. Those that are closed come back if they are not dropped.
pub fn forget_databases(gone: &[pg_sys::Oid]) {
    let gone: Vec<u32> = gone
        .iter()
        .filter(|oid| !is_closed(**oid))
        .map(|oid| oid.to_u32())
        .collect();
    if gone.is_empty() {
        return;
    }
    for slot in &DATABASES.exclusive().slots {
        if gone.contains(&slot.oid.load(Ordering::Acquire)) {
            slot.oid.store(0, Ordering::Release);
        }
    }
    sources::forget_databases(&gone);
    costs::forget_databases(&gone);
}

/// Puts a source's slot on the list of its database's dirty ones and wakes the scheduler.
pub(super) fn push_dirty(database: pg_sys::Oid, slot: u32, next: &AtomicU32) {
    ensured(database, |known, _| {
        let mut first = known.dirty.load(Ordering::Acquire);
        loop {
            next.store(first, Ordering::Release);
            match known
                .dirty
                .compare_exchange(first, slot, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => break,
                Err(other) => first = other,
            }
        }
        set_latch(known.scheduler.load(Ordering::Acquire));
    });
}

/// Empties the list of dirty sources; its first slot plus one.
pub(super) fn take_dirty(database: pg_sys::Oid) -> u32 {
    with(database, |slot, _| slot.dirty.swap(0, Ordering::AcqRel)).unwrap_or(0)
}

pub(super) fn wake_scheduler(database: pg_sys::Oid) {
    with(database, |slot, _| {
        set_latch(slot.scheduler.load(Ordering::Acquire));
    });
}

/// A transaction of this database that touched sources was prepared; its commit cannot be seen.
pub fn mark_prepared() {
    if super::available() {
        ensured(database_id(), |slot, _| {
            slot.prepared.fetch_add(1, Ordering::AcqRel)
        });
    }
}

/// How many transactions of this database that touched sources have been prepared.
pub fn prepared_so_far() -> u64 {
    with(database_id(), |slot, _| {
        slot.prepared.load(Ordering::Acquire)
    })
    .unwrap_or(0)
}

/// Says that these stream tables of this database were defined, altered or dropped (all of them, if none is named), and
/// wakes scheduler and launcher.
pub fn definitions_changed(ids: &[i64]) {
    if !super::available() {
        return;
    }
    ensured(database_id(), |_, _| ());
    // Numbers and ids go together.
    let shared = DATABASES.exclusive();
    let Some(slot) = shared.slot(database_id()) else {
        return;
    };
    let everything = [EVERYTHING];
    for id in if ids.is_empty() { &everything } else { ids } {
        let number = slot.definitions.load(Ordering::Acquire);
        slot.changed[number as usize % REMEMBERED].store(*id, Ordering::Release);
        slot.definitions.store(number + 1, Ordering::Release);
    }
    set_latch(slot.scheduler.load(Ordering::Acquire));
    if slot.scheduler_pid.load(Ordering::Acquire) == 0 {
        set_latch(shared.launcher.load(Ordering::Acquire));
    }
}

/// What changed among the definitions of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definitions {
    Unchanged,
    /// Only these stream tables, up to this number of changes.
    Some(Vec<i64>, u64),
    /// Any of them, up to this number of changes.
    All(u64),
}

/// What changed in this database since `seen` changes; none have been seen yet at the beginning.
pub fn definitions(seen: Option<u64>) -> Definitions {
    with(database_id(), |slot, _| {
        // Changes are announced under the exclusive lock.
        let now = slot.definitions.load(Ordering::Acquire);
        match seen {
            Some(seen) if seen == now => Definitions::Unchanged,
            Some(seen) if seen < now && now - seen <= REMEMBERED as u64 => {
                let mut ids: Vec<i64> = (seen..now)
                    .map(|number| {
                        slot.changed[number as usize % REMEMBERED].load(Ordering::Acquire)
                    })
                    .collect();
                ids.sort_unstable();
                ids.dedup();
                if ids.contains(&EVERYTHING) {
                    Definitions::All(now)
                } else {
                    Definitions::Some(ids, now)
                }
            }
            _ => Definitions::All(now),
        }
    })
    .unwrap_or(Definitions::Unchanged)
}

/// Every database that ever announced a definition: oid, changes of definitions, scheduler pid.
pub fn databases() -> Vec<(pg_sys::Oid, u64, i32)> {
    DATABASES
        .share()
        .slots
        .iter()
        .map(|slot| {
            (
                pg_sys::Oid::from(slot.oid.load(Ordering::Acquire)),
                slot.definitions.load(Ordering::Acquire),
                slot.scheduler_pid.load(Ordering::Acquire),
            )
        })
        .filter(|(oid, _, _)| *oid != pg_sys::InvalidOid)
        .collect()
}

/// The scheduler's pid of this database, if it runs.
pub fn scheduler_pid() -> Option<i32> {
    if !super::available() {
        return None;
    }
    with(database_id(), |slot, _| {
        slot.scheduler_pid.load(Ordering::Acquire)
    })
    .filter(|pid| *pid != 0)
}

/// Registers the calling process as its database's scheduler; false if there is one.
pub fn enter_scheduler() -> bool {
    ensured(database_id(), |slot, _| {
        let pid = my_pid();
        let known = slot.scheduler_pid.load(Ordering::Acquire);
        if known != pid && crate::pg::worker::alive(known) {
            return false;
        }
        slot.scheduler_pid.store(pid, Ordering::Release);
        slot.scheduler.store(my_process(), Ordering::Release);
        true
    })
    .unwrap_or(false)
}

/// Undoes [`enter_scheduler`].
pub fn leave_scheduler() {
    with(database_id(), |slot, shared| {
        if slot.scheduler_pid.load(Ordering::Acquire) == my_pid() {
            slot.scheduler.store(0, Ordering::Release);
            slot.scheduler_pid.store(0, Ordering::Release);
            slot.queued.store(0, Ordering::Release);
            set_latch(shared.launcher.load(Ordering::Acquire));
        }
    });
}

/// Registers the calling process as the launcher.
pub fn enter_launcher() {
    DATABASES
        .share()
        .launcher
        .store(my_process(), Ordering::Release);
}

/// Keeps workers out of `database` for a while. Returns the scheduler's pid if one is running.
pub fn close_database(database: pg_sys::Oid, microseconds: i64) -> Option<i32> {
    if !super::available() {
        return None;
    }
    ensured(database, |slot, _| {
        slot.closed_until
            .store(super::now() + microseconds, Ordering::Release);
        slot.scheduler_pid.load(Ordering::Acquire)
    })
    .filter(|pid| *pid != 0)
}

/// Workers must stay out of `database` for now.
pub fn is_closed(database: pg_sys::Oid) -> bool {
    with(database, |slot, _| {
        slot.closed_until.load(Ordering::Acquire) > super::now()
    })
    .unwrap_or(false)
}

/// Nothing is started in this database from now on, for this installation of the extension; none begins again.
pub fn drain(extension: Option<pg_sys::Oid>) {
    if super::available() {
        ensured(database_id(), |slot, _| {
            let draining = extension.map_or(0, pg_sys::Oid::to_u32);
            slot.draining.store(draining, Ordering::Release);
            set_latch(slot.scheduler.load(Ordering::Acquire));
        });
    }
}

/// The installation of the extension for which nothing is started. One that was dropped has taken that with it: the caller
/// compares with its own.
pub fn draining() -> Option<pg_sys::Oid> {
    if !super::available() {
        return None;
    }
    with(database_id(), |slot, _| {
        slot.draining.load(Ordering::Acquire)
    })
    .filter(|oid| *oid != 0)
    .map(pg_sys::Oid::from)
}

/// Undoes [`drain`] for an installation of the extension that is gone.
pub fn forget_drained(extension: pg_sys::Oid) {
    with(database_id(), |slot, _| {
        let gone = extension.to_u32();
        let _ = slot
            .draining
            .compare_exchange(gone, 0, Ordering::AcqRel, Ordering::Acquire);
    });
}

/// Says how many units of this database wait for a worker. The schedulers of databases that use more workers than their
/// share are woken, so that they can make room.
pub fn publish_queue(queued: usize) {
    with(database_id(), |slot, shared| {
        let queued = queued.min(u32::MAX as usize) as u32;
        if slot.queued.swap(queued, Ordering::AcqRel) == 0 && queued > 0 && workers::all_taken() {
            for other in &shared.slots {
                if other.oid.load(Ordering::Acquire) != database_id().to_u32() {
                    set_latch(other.scheduler.load(Ordering::Acquire));
                }
            }
        }
    });
}

/// Wakes every scheduler that waits for a worker.
pub(super) fn wake_waiting() {
    for slot in &DATABASES.share().slots {
        if slot.queued.load(Ordering::Acquire) > 0 {
            set_latch(slot.scheduler.load(Ordering::Acquire));
        }
    }
}

/// The databases whose scheduler is alive.
pub(super) fn with_scheduler() -> Vec<u32> {
    DATABASES
        .share()
        .slots
        .iter()
        .filter(|slot| crate::pg::worker::alive(slot.scheduler_pid.load(Ordering::Acquire)))
        .map(|slot| slot.oid.load(Ordering::Acquire))
        .filter(|oid| *oid != 0)
        .collect()
}

/// Oid and queue of every database with a running scheduler.
pub(super) fn queues() -> Vec<(u32, u32)> {
    DATABASES
        .share()
        .slots
        .iter()
        .filter(|slot| slot.scheduler_pid.load(Ordering::Acquire) != 0)
        .map(|slot| {
            (
                slot.oid.load(Ordering::Acquire),
                slot.queued.load(Ordering::Acquire),
            )
        })
        .filter(|(oid, _)| *oid != 0)
        .collect()
}
