//! Refresh workers: whose they are and what they work on.
//!
//! A database's scheduler hands out jobs, the worker takes them, and leaves its result for the scheduler to notice. All
//! databases share one number of workers; each has a share of it and may use more while nobody else waits.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering};

use pgrx::{PGRXSharedMemory, PgLwLock, pg_sys};

use super::{databases, my_pid, my_process, set_latch};
use crate::pg::snapshot::database_id;

const SLOTS: usize = 128;

struct WorkerSlot {
    /// Database oid; 0 is free.
    database: AtomicU32,
    pid: AtomicI32,
    /// Process number plus one.
    process: AtomicI32,
    state: AtomicU32,
    /// The unit to refresh: its smallest member.
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
    /// The unit must wait: it is out of the schedule, held back, being restored.
    Waiting,
    /// Asked to end; takes no job any more.
    Leaving,
}

impl WorkerState {
    const ALL: [WorkerState; 9] = [
        WorkerState::Starting,
        WorkerState::Idle,
        WorkerState::Assigned,
        WorkerState::Running,
        WorkerState::Done,
        WorkerState::Failed,
        WorkerState::Stopped,
        WorkerState::Waiting,
        WorkerState::Leaving,
    ];

    fn from(number: u32) -> WorkerState {
        WorkerState::ALL
            .get(number as usize)
            .copied()
            .unwrap_or(WorkerState::Starting)
    }
}

impl WorkerSlot {
    /// Its process exists. One that is still to come is taken for dead: it finds out that its slot is not its own.
    fn is_alive(&self) -> bool {
        crate::pg::worker::alive(self.pid.load(Ordering::Acquire))
    }

    fn free(&self) {
        self.process.store(0, Ordering::Release);
        self.pid.store(0, Ordering::Release);
        self.database.store(0, Ordering::Release);
    }

    /// From `from` to `to`, unless somebody else was first.
    fn change(&self, from: WorkerState, to: WorkerState) -> bool {
        self.state
            .compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Asks the worker to end if it is idle: nobody can give it a job any more.
    fn send_home(&self) -> bool {
        let taken = self.change(WorkerState::Idle, WorkerState::Leaving);
        if taken {
            crate::pg::worker::terminate(self.pid.load(Ordering::Acquire));
        }
        taken
    }
}

pub struct Workers {
    slots: [WorkerSlot; SLOTS],
    /// How many there may be in the cluster.
    limit: AtomicU32,
    /// How many a database may use while others wait; 0 for an equal share.
    quota: AtomicU32,
}

// SAFETY: only atomics, valid for any process that maps the segment.
unsafe impl PGRXSharedMemory for Workers {}

impl Default for Workers {
    fn default() -> Self {
        Workers {
            slots: [const {
                WorkerSlot {
                    database: AtomicU32::new(0),
                    pid: AtomicI32::new(0),
                    process: AtomicI32::new(0),
                    state: AtomicU32::new(0),
                    job: AtomicI64::new(0),
                }
            }; SLOTS],
            limit: AtomicU32::new(0),
            quota: AtomicU32::new(0),
        }
    }
}

// SAFETY: the name is unique to this extension.
pub(super) static WORKERS: PgLwLock<Workers> = unsafe { PgLwLock::new(c"pg_trickle workers") };

/// The pids of a database's refresh workers.
pub fn workers_of(database: pg_sys::Oid) -> Vec<i32> {
    if !super::available() {
        return vec![];
    }
    WORKERS
        .share()
        .slots
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
    if !super::available() {
        return vec![];
    }
    let database = database_id().to_u32();
    WORKERS
        .share()
        .slots
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

/// How a database stands in the use of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub database: pg_sys::Oid,
    /// Workers it has, starting and idle ones included.
    pub used: u32,
    /// Workers at work.
    pub active: u32,
    /// Units that are due and wait.
    pub queued: u32,
    /// Workers it may have while others wait.
    pub quota: u32,
    /// The limit of the whole cluster, and how many workers there are.
    pub limit: u32,
    pub all_used: u32,
}

/// Every database with a running scheduler.
pub fn allocations() -> Vec<Allocation> {
    if !super::available() {
        return vec![];
    }
    let queues = databases::queues();
    let shared = WORKERS.share();
    let limit = shared.limit.load(Ordering::Acquire);
    let all_used = shared
        .slots
        .iter()
        .filter(|slot| slot.database.load(Ordering::Acquire) != 0)
        .count() as u32;
    let quota = match shared.quota.load(Ordering::Acquire) {
        0 => limit.div_ceil(queues.len().max(1) as u32),
        quota => quota,
    };
    queues
        .into_iter()
        .map(|(oid, queued)| {
            let mine = || {
                shared
                    .slots
                    .iter()
                    .filter(move |slot| slot.database.load(Ordering::Acquire) == oid)
            };
            Allocation {
                database: pg_sys::Oid::from(oid),
                used: mine().count() as u32,
                active: mine()
                    .filter(|slot| {
                        matches!(
                            WorkerState::from(slot.state.load(Ordering::Acquire)),
                            WorkerState::Assigned | WorkerState::Running
                        )
                    })
                    .count() as u32,
                queued,
                quota,
                limit,
                all_used,
            }
        })
        .collect()
}

/// As many workers exist as may.
pub(super) fn all_taken() -> bool {
    let shared = WORKERS.share();
    let used = shared
        .slots
        .iter()
        .filter(|slot| slot.database.load(Ordering::Acquire) != 0)
        .count();
    used >= shared.limit.load(Ordering::Acquire) as usize
}

/// Reserves a slot for a worker about to be started, if the cluster may have one more.
pub fn reserve_worker(limit: u32, quota: u32) -> Option<usize> {
    let scheduled = databases::with_scheduler();
    // Counting and taking go together.
    let shared = WORKERS.exclusive();
    for slot in &shared.slots {
        let database = slot.database.load(Ordering::Acquire);
        if database != 0 && !scheduled.contains(&database) && !slot.is_alive() {
            slot.free();
        }
    }
    shared.limit.store(limit, Ordering::Release);
    shared.quota.store(quota, Ordering::Release);
    let used = shared
        .slots
        .iter()
        .filter(|slot| slot.database.load(Ordering::Acquire) != 0)
        .count();
    if used >= limit as usize {
        return None;
    }
    let number = shared
        .slots
        .iter()
        .position(|slot| slot.database.load(Ordering::Acquire) == 0)?;
    let slot = &shared.slots[number];
    slot.pid.store(0, Ordering::Release);
    slot.process.store(0, Ordering::Release);
    slot.job.store(0, Ordering::Release);
    slot.state
        .store(WorkerState::Starting as u32, Ordering::Release);
    slot.database
        .store(database_id().to_u32(), Ordering::Release);
    Some(number)
}

/// Asks an idle worker of another database to end: of one that has more than its share, or else of one where nothing
/// waits. True if there was one.
pub fn send_one_home() -> bool {
    let all = allocations();
    let named = |wanted: &dyn Fn(&Allocation) -> bool| -> Vec<u32> {
        all.iter()
            .filter(|found| found.database != database_id() && wanted(found))
            .map(|found| found.database.to_u32())
            .collect()
    };
    send_home_from(&named(&|found| found.used > found.quota))
        || send_home_from(&named(&|found| found.queued == 0))
}

fn send_home_from(databases: &[u32]) -> bool {
    let shared = WORKERS.share();
    shared
        .slots
        .iter()
        .filter(|slot| databases.contains(&slot.database.load(Ordering::Acquire)))
        .any(WorkerSlot::send_home)
}

/// Asks a worker to end if it is idle.
pub fn send_home(slot: usize) -> bool {
    WORKERS.share().slots[slot].send_home()
}

/// Gives a slot back.
pub fn release_worker(slot: usize) {
    WORKERS.share().slots[slot].free();
}

/// The calling process takes its slot; false if that has been given to somebody else meanwhile.
pub fn enter_worker(slot: usize) -> bool {
    {
        // Nobody gives out or reaps slots at the same time.
        let shared = WORKERS.exclusive();
        let slot = &shared.slots[slot];
        if slot.database.load(Ordering::Acquire) != database_id().to_u32()
            || slot.pid.load(Ordering::Acquire) != 0
        {
            return false;
        }
        slot.pid.store(my_pid(), Ordering::Release);
        slot.process.store(my_process(), Ordering::Release);
        if !slot.change(WorkerState::Starting, WorkerState::Idle) {
            return false;
        }
    }
    databases::wake_scheduler(database_id());
    true
}

/// Gives an idle worker a unit to refresh; false if it is not idle any more.
pub fn assign(slot: usize, job: i64) -> bool {
    let shared = WORKERS.share();
    let slot = &shared.slots[slot];
    slot.job.store(job, Ordering::Release);
    let idle = slot.change(WorkerState::Idle, WorkerState::Assigned);
    if idle {
        set_latch(slot.process.load(Ordering::Acquire));
    }
    idle
}

/// The scheduler has noticed the result; the worker may have another job.
pub fn acknowledge(slot: usize) {
    WORKERS.share().slots[slot]
        .state
        .store(WorkerState::Idle as u32, Ordering::Release);
}

/// The worker's job, if it has been given one; it is running then.
pub fn take_job(slot: usize) -> Option<i64> {
    let shared = WORKERS.share();
    let slot = &shared.slots[slot];
    slot.change(WorkerState::Assigned, WorkerState::Running)
        .then(|| slot.job.load(Ordering::Acquire))
}

/// The worker's job ended.
pub fn finish_job(slot: usize, state: WorkerState) {
    WORKERS.share().slots[slot]
        .state
        .store(state as u32, Ordering::Release);
    databases::wake_scheduler(database_id());
}

/// The worker in `slot` ends. An unfinished job is left for its scheduler to notice.
pub fn worker_left(slot: usize) {
    {
        let shared = WORKERS.share();
        let view = &shared.slots[slot];
        view.process.store(0, Ordering::Release);
        // Only who has no job may free the slot, and from then on nobody can give it one.
        let free = view.change(WorkerState::Starting, WorkerState::Leaving)
            || view.change(WorkerState::Idle, WorkerState::Leaving)
            || view.change(WorkerState::Leaving, WorkerState::Leaving);
        if free {
            view.pid.store(0, Ordering::Release);
            view.database.store(0, Ordering::Release);
        }
    }
    databases::wake_waiting();
    databases::wake_scheduler(database_id());
}
