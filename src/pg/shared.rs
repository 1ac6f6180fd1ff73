//! Shared memory: which sources are dirty, and whom to wake.
//!
//! Everything here is a hint that saves polling. The truth about changes is in the logs; a lost mark costs a delay until
//! the scheduler's slow clock, never a row.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_guard, pg_shmem_init};

const DATABASES: usize = 128;
const WORKERS: usize = 128;
const SOURCES: usize = 16 * 1024;

/// A database with a scheduler.
pub struct DatabaseSlot {
    oid: AtomicU32,
    /// The scheduler's process number plus one, 0 without scheduler.
    scheduler: AtomicI32,
    scheduler_pid: AtomicI32,
    /// Workers must leave: the database is about to be dropped or copied. Microseconds since the epoch until which.
    closed_until: AtomicI64,
    /// Grows when stream tables of the database are defined, altered or dropped.
    generation: AtomicU64,
    /// Prepared transactions that touched sources, so far.
    prepared: AtomicU64,
}

/// A source with changes to be noticed.
pub struct SourceSlot {
    /// Database oid in the high half, source oid in the low half; 0 is free.
    key: AtomicU64,
    /// Commits that touched it.
    commits: AtomicU64,
    /// The scheduler wants to hear of the next commit.
    wake: AtomicBool,
}

/// A refresh worker: whose it is and what it works on. Its database's scheduler hands out jobs; the worker takes them.
pub struct WorkerSlot {
    /// Database oid; 0 is free.
    database: AtomicU32,
    pid: AtomicI32,
    /// Process number plus one.
    process: AtomicI32,
    state: AtomicU32,
    /// The stream table to refresh.
    job: AtomicI64,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Starting,
    Idle,
    Assigned,
    Running,
    /// The refresh went well.
    Done,
    /// The refresh failed and may be tried again.
    Failed,
    /// The refresh failed for good; the stream table is out of the schedule.
    Stopped,
}

impl WorkerState {
    const ALL: [WorkerState; 7] = [
        WorkerState::Starting,
        WorkerState::Idle,
        WorkerState::Assigned,
        WorkerState::Running,
        WorkerState::Done,
        WorkerState::Failed,
        WorkerState::Stopped,
    ];

    fn from(number: u32) -> WorkerState {
        WorkerState::ALL
            .get(number as usize)
            .copied()
            .unwrap_or(WorkerState::Starting)
    }
}

pub struct Shared {
    workers: [WorkerSlot; WORKERS],
    databases: [DatabaseSlot; DATABASES],
    sources: [SourceSlot; SOURCES],
    /// Grows when the table of sources overflows and every source must be taken as dirty.
    overflow: AtomicU64,
    launcher: AtomicI32,
}

// SAFETY: only atomics, valid for any process that maps the segment.
unsafe impl PGRXSharedMemory for Shared {}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            workers: [const {
                WorkerSlot {
                    database: AtomicU32::new(0),
                    pid: AtomicI32::new(0),
                    process: AtomicI32::new(0),
                    state: AtomicU32::new(0),
                    job: AtomicI64::new(0),
                }
            }; WORKERS],
            databases: [const {
                DatabaseSlot {
                    oid: AtomicU32::new(0),
                    scheduler: AtomicI32::new(0),
                    scheduler_pid: AtomicI32::new(0),
                    closed_until: AtomicI64::new(0),
                    generation: AtomicU64::new(0),
                    prepared: AtomicU64::new(0),
                }
            }; DATABASES],
            sources: [const {
                SourceSlot {
                    key: AtomicU64::new(0),
                    commits: AtomicU64::new(0),
                    wake: AtomicBool::new(false),
                }
            }; SOURCES],
            overflow: AtomicU64::new(0),
            launcher: AtomicI32::new(0),
        }
    }
}

// SAFETY: the name is unique to this extension.
static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"pg_trickle") };

/// Asks for the shared memory. Only in the postmaster, while libraries are preloaded.
pub fn register() {
    pg_shmem_init!(SHARED);
}

/// The library was preloaded, so that shared memory and workers exist.
pub fn available() -> bool {
    // SAFETY: plain reads of process globals.
    unsafe { PRELOADED }
}

static mut PRELOADED: bool = false;

/// Remembers that the library is being preloaded. Forked processes inherit it.
pub fn mark_preloaded() {
    // SAFETY: called once, in the postmaster, before any other thread of execution exists.
    unsafe { PRELOADED = true }
}

fn key(database: pg_sys::Oid, source: pg_sys::Oid) -> u64 {
    (u64::from(database.to_u32()) << 32) | u64::from(source.to_u32())
}

/// A source slot whose database is gone.
const TOMBSTONE: u64 = u64::MAX;

impl Shared {
    fn probe(key: u64) -> impl Iterator<Item = usize> {
        let start = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % SOURCES;
        (0..1024).map(move |step| (start + step) % SOURCES)
    }

    fn source(&self, key: u64) -> Option<&SourceSlot> {
        for position in Shared::probe(key) {
            let slot = &self.sources[position];
            match slot.key.load(Ordering::Acquire) {
                found if found == key => return Some(slot),
                0 => return None,
                _ => {}
            }
        }
        None
    }

    fn database(&self, oid: pg_sys::Oid) -> Option<&DatabaseSlot> {
        self.databases
            .iter()
            .find(|slot| slot.oid.load(Ordering::Acquire) == oid.to_u32())
    }
}

/// Makes sure a source has a slot; false if there is no room. Slots are given out under the exclusive lock.
fn ensure_source(key: u64) -> bool {
    if SHARED.share().source(key).is_some() {
        return true;
    }
    let shared = SHARED.exclusive();
    if shared.source(key).is_some() {
        return true;
    }
    for position in Shared::probe(key) {
        let slot = &shared.sources[position];
        if matches!(slot.key.load(Ordering::Acquire), 0 | TOMBSTONE) {
            slot.commits.store(0, Ordering::Release);
            slot.wake.store(true, Ordering::Release);
            slot.key.store(key, Ordering::Release);
            return true;
        }
    }
    false
}

/// Makes sure a database has a slot; false if there is no room.
fn ensure_database(oid: pg_sys::Oid) -> bool {
    if SHARED.share().database(oid).is_some() {
        return true;
    }
    let shared = SHARED.exclusive();
    if shared.database(oid).is_some() {
        return true;
    }
    let Some(slot) = shared
        .databases
        .iter()
        .find(|slot| slot.oid.load(Ordering::Acquire) == 0)
    else {
        return false;
    };
    slot.scheduler.store(0, Ordering::Release);
    slot.scheduler_pid.store(0, Ordering::Release);
    slot.closed_until.store(0, Ordering::Release);
    slot.generation.store(0, Ordering::Release);
    slot.prepared.store(0, Ordering::Release);
    slot.oid.store(oid.to_u32(), Ordering::Release);
    true
}

/// Frees what belongs to databases that are not in `existing`.
pub fn forget_other_databases(existing: &[pg_sys::Oid]) {
    let gone: Vec<u32> = databases()
        .into_iter()
        .map(|(oid, _, _)| oid)
        .filter(|oid| !existing.contains(oid) && !is_closed(*oid))
        .map(|oid| oid.to_u32())
        .collect();
    if gone.is_empty() {
        return;
    }
    let shared = SHARED.exclusive();
    for slot in &shared.databases {
        if gone.contains(&slot.oid.load(Ordering::Acquire)) {
            slot.oid.store(0, Ordering::Release);
        }
    }
    for slot in &shared.sources {
        let key = slot.key.load(Ordering::Acquire);
        if key != 0 && key != TOMBSTONE && gone.contains(&((key >> 32) as u32)) {
            slot.key.store(TOMBSTONE, Ordering::Release);
        }
    }
}

fn set_latch(process: i32) {
    if process > 0 {
        // SAFETY: process numbers index the array of all processes; setting the latch of a process that has gone is
        // harmless.
        unsafe {
            let process = (*pg_sys::ProcGlobal).allProcs.add(process as usize - 1);
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}

fn my_process() -> i32 {
    // SAFETY: a backend's constant.
    unsafe { pg_sys::MyProcNumber + 1 }
}

/// Marks sources of this database dirty and wakes its scheduler.
pub fn mark_dirty(sources: &[pg_sys::Oid]) {
    if !available() || sources.is_empty() {
        return;
    }
    let database = super::snapshot::database_id();
    let mut wake = false;
    for source in sources {
        let key = key(database, *source);
        let room = ensure_source(key);
        let shared = SHARED.share();
        match shared.source(key) {
            Some(slot) if room => {
                slot.commits.fetch_add(1, Ordering::AcqRel);
                // A wake-up costs the writer a system call: one per refresh is enough.
                wake |= slot.wake.swap(false, Ordering::AcqRel);
            }
            _ => {
                shared.overflow.fetch_add(1, Ordering::AcqRel);
                wake = true;
            }
        }
    }
    if !wake {
        return;
    }
    let shared = SHARED.share();
    if let Some(slot) = shared.database(database) {
        set_latch(slot.scheduler.load(Ordering::Acquire));
    }
}

/// A transaction of this database that touched sources was prepared; its commit cannot be seen.
pub fn mark_prepared() {
    if available()
        && ensure_database(super::snapshot::database_id())
        && let Some(slot) = SHARED.share().database(super::snapshot::database_id())
    {
        slot.prepared.fetch_add(1, Ordering::AcqRel);
    }
}

/// How many transactions of this database that touched sources have been prepared.
pub fn prepared_so_far() -> u64 {
    SHARED
        .share()
        .database(super::snapshot::database_id())
        .map_or(0, |slot| slot.prepared.load(Ordering::Acquire))
}

/// How many commits have touched each source so far; overflow counts for all.
pub fn commits(sources: &[pg_sys::Oid]) -> Vec<u64> {
    let shared = SHARED.share();
    let database = super::snapshot::database_id();
    let overflow = shared.overflow.load(Ordering::Acquire);
    sources
        .iter()
        .map(|source| {
            overflow
                + shared
                    .source(key(database, *source))
                    .map_or(0, |slot| slot.commits.load(Ordering::Acquire))
        })
        .collect()
}

/// Asks to be woken by the next commit that touches one of these sources.
pub fn wake_on(sources: &[pg_sys::Oid]) {
    let database = super::snapshot::database_id();
    for source in sources {
        let key = key(database, *source);
        if ensure_source(key)
            && let Some(slot) = SHARED.share().source(key)
        {
            slot.wake.store(true, Ordering::Release);
        }
    }
}

/// Says that stream tables of this database were defined, altered or dropped, and wakes scheduler and launcher.
pub fn definitions_changed() {
    if !available() {
        return;
    }
    if !ensure_database(super::snapshot::database_id()) {
        return;
    }
    let shared = SHARED.share();
    if let Some(slot) = shared.database(super::snapshot::database_id()) {
        slot.generation.fetch_add(1, Ordering::AcqRel);
        set_latch(slot.scheduler.load(Ordering::Acquire));
        if slot.scheduler_pid.load(Ordering::Acquire) == 0 {
            set_latch(shared.launcher.load(Ordering::Acquire));
        }
    }
}

/// The counter behind [`definitions_changed`].
pub fn definitions_generation() -> u64 {
    let shared = SHARED.share();
    shared
        .database(super::snapshot::database_id())
        .map_or(0, |slot| slot.generation.load(Ordering::Acquire))
}

/// Generation of every database that ever announced a definition: (database, generation, scheduler pid).
pub fn databases() -> Vec<(pg_sys::Oid, u64, i32)> {
    let shared = SHARED.share();
    shared
        .databases
        .iter()
        .map(|slot| {
            (
                pg_sys::Oid::from(slot.oid.load(Ordering::Acquire)),
                slot.generation.load(Ordering::Acquire),
                slot.scheduler_pid.load(Ordering::Acquire),
            )
        })
        .filter(|(oid, _, _)| *oid != pg_sys::InvalidOid)
        .collect()
}

/// The scheduler's pid of this database, if it runs.
pub fn scheduler_pid() -> Option<i32> {
    if !available() {
        return None;
    }
    let shared = SHARED.share();
    let slot = shared.database(super::snapshot::database_id())?;
    Some(slot.scheduler_pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
}

/// Registers the calling process as its database's scheduler; false if there is one.
pub fn enter_scheduler() -> bool {
    if !ensure_database(super::snapshot::database_id()) {
        return false;
    }
    let shared = SHARED.share();
    let Some(slot) = shared.database(super::snapshot::database_id()) else {
        return false;
    };
    // SAFETY: a process constant.
    let pid = unsafe { pg_sys::MyProcPid };
    let known = slot.scheduler_pid.load(Ordering::Acquire);
    // SAFETY: signal 0 only asks whether the process exists.
    if known != 0 && known != pid && unsafe { libc::kill(known, 0) } == 0 {
        return false;
    }
    slot.scheduler_pid.store(pid, Ordering::Release);
    slot.scheduler.store(my_process(), Ordering::Release);
    true
}

/// Undoes [`enter_scheduler`].
pub fn leave_scheduler() {
    let shared = SHARED.share();
    // SAFETY: a process constant.
    let pid = unsafe { pg_sys::MyProcPid };
    if let Some(slot) = shared.database(super::snapshot::database_id())
        && slot.scheduler_pid.load(Ordering::Acquire) == pid
    {
        slot.scheduler.store(0, Ordering::Release);
        slot.scheduler_pid.store(0, Ordering::Release);
        set_latch(shared.launcher.load(Ordering::Acquire));
    }
}

/// Registers the calling process as the launcher.
pub fn enter_launcher() {
    SHARED
        .share()
        .launcher
        .store(my_process(), Ordering::Release);
}

/// Keeps workers out of `database` for a while. Returns the scheduler's pid if one is running.
pub fn close_database(database: pg_sys::Oid, microseconds: i64) -> Option<i32> {
    if !available() {
        return None;
    }
    if !ensure_database(database) {
        return None;
    }
    let shared = SHARED.share();
    let slot = shared.database(database)?;
    // SAFETY: reads the clock.
    let until = unsafe { pg_sys::GetCurrentTimestamp() } + microseconds;
    slot.closed_until.store(until, Ordering::Release);
    Some(slot.scheduler_pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
}

/// Workers must stay out of `database` for now.
pub fn is_closed(database: pg_sys::Oid) -> bool {
    let shared = SHARED.share();
    shared.database(database).is_some_and(|slot| {
        // SAFETY: reads the clock.
        slot.closed_until.load(Ordering::Acquire) > unsafe { pg_sys::GetCurrentTimestamp() }
    })
}

/// The pids of a database's refresh workers.
pub fn workers_of(database: pg_sys::Oid) -> Vec<i32> {
    if !available() {
        return vec![];
    }
    let shared = SHARED.share();
    shared
        .workers
        .iter()
        .filter(|slot| slot.database.load(Ordering::Acquire) == database.to_u32())
        .map(|slot| slot.pid.load(Ordering::Acquire))
        .filter(|pid| *pid != 0)
        .collect()
}

/// A worker as its scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView {
    pub slot: usize,
    pub pid: i32,
    pub state: WorkerState,
    pub job: i64,
}

/// The workers of this database.
pub fn my_workers() -> Vec<WorkerView> {
    let shared = SHARED.share();
    let database = super::snapshot::database_id().to_u32();
    shared
        .workers
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.database.load(Ordering::Acquire) == database)
        .map(|(number, slot)| WorkerView {
            slot: number,
            pid: slot.pid.load(Ordering::Acquire),
            state: WorkerState::from(slot.state.load(Ordering::Acquire)),
            job: slot.job.load(Ordering::Acquire),
        })
        .collect()
}

/// Reserves a slot for a worker about to be started.
pub fn reserve_worker() -> Option<usize> {
    let shared = SHARED.share();
    let database = super::snapshot::database_id().to_u32();
    shared.workers.iter().position(|slot| {
        let free = slot
            .database
            .compare_exchange(0, database, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if free {
            slot.pid.store(0, Ordering::Release);
            slot.job.store(0, Ordering::Release);
            slot.state
                .store(WorkerState::Starting as u32, Ordering::Release);
        }
        free
    })
}

/// Gives a slot back.
pub fn release_worker(slot: usize) {
    let shared = SHARED.share();
    let slot = &shared.workers[slot];
    slot.process.store(0, Ordering::Release);
    slot.pid.store(0, Ordering::Release);
    slot.database.store(0, Ordering::Release);
}

/// The calling process takes its slot.
pub fn enter_worker(slot: usize) {
    let shared = SHARED.share();
    let slot = &shared.workers[slot];
    // SAFETY: a process constant.
    slot.pid
        .store(unsafe { pg_sys::MyProcPid }, Ordering::Release);
    slot.process.store(my_process(), Ordering::Release);
    slot.state
        .store(WorkerState::Idle as u32, Ordering::Release);
    wake_scheduler(&shared);
}

fn wake_scheduler(shared: &Shared) {
    if let Some(slot) = shared.database(super::snapshot::database_id()) {
        set_latch(slot.scheduler.load(Ordering::Acquire));
    }
}

/// Gives an idle worker a stream table to refresh.
pub fn assign(slot: usize, job: i64) {
    let shared = SHARED.share();
    let slot = &shared.workers[slot];
    slot.job.store(job, Ordering::Release);
    slot.state
        .store(WorkerState::Assigned as u32, Ordering::Release);
    set_latch(slot.process.load(Ordering::Acquire));
}

/// The scheduler has noticed the result; the worker may have another job.
pub fn acknowledge(slot: usize) {
    SHARED.share().workers[slot]
        .state
        .store(WorkerState::Idle as u32, Ordering::Release);
}

/// The worker's job, if it has been given one; it is running then.
pub fn take_job(slot: usize) -> Option<i64> {
    let shared = SHARED.share();
    let slot = &shared.workers[slot];
    slot.state
        .compare_exchange(
            WorkerState::Assigned as u32,
            WorkerState::Running as u32,
            Ordering::AcqRel,
            Ordering::Acquire,
        )
        .is_ok()
        .then(|| slot.job.load(Ordering::Acquire))
}

/// The worker's job ended.
pub fn finish_job(slot: usize, state: WorkerState) {
    let shared = SHARED.share();
    shared.workers[slot]
        .state
        .store(state as u32, Ordering::Release);
    wake_scheduler(&shared);
}

/// The worker in `slot` ends. An unfinished job is left for its scheduler to notice.
pub fn worker_left(slot: usize) {
    let shared = SHARED.share();
    let view = &shared.workers[slot];
    let state = WorkerState::from(view.state.load(Ordering::Acquire));
    view.process.store(0, Ordering::Release);
    if matches!(state, WorkerState::Starting | WorkerState::Idle) {
        view.pid.store(0, Ordering::Release);
        view.database.store(0, Ordering::Release);
    }
    wake_scheduler(&shared);
}
