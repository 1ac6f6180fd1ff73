//! The scheduler of one database.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgt_ivm::schedule::{Board, retry_delay_ms};

use super::definitions::{Definitions, Reading};
use super::maintenance;
use crate::config::{self, SchedulerSettings};
use crate::pg::shared::{self, WorkerState, WorkerView};
use crate::pg::{depend, session, snapshot, worker};
use crate::refresh;

/// A unit that had to wait is tried again after this many milliseconds, if it is still in the schedule then.
const POSTPONED_MS: i64 = 200;

/// Due units looked at for each worker, to give it one it has had before.
const CHOICE: usize = 64;

/// A worker without a job for this long is sent home.
const IDLE_WORKER: Duration = Duration::from_secs(60);

/// Time between two maintenance passes (rotation, retention).
const MAINTENANCE: Duration = Duration::from_secs(10);

/// The same where somebody was in the way of the last one.
const AGAIN: Duration = Duration::from_secs(1);

/// An idle scheduler without stream tables leaves after this long; the launcher brings it back.
const NOTHING_TO_DO: Duration = Duration::from_secs(5);

/// A worker is kept for this long while a database without any waits.
const TURN: Duration = Duration::from_secs(1);

/// Reading changed definitions may take one part in this many of the scheduler's time.
const READING_SHARE: u32 = 10;

pub(super) fn main(database: pg_sys::Oid) {
    worker::connect(Some(database));
    if shared::is_closed(database) || !shared::enter_scheduler() {
        return;
    }
    worker::at_exit(shared::leave_scheduler);
    // Nobody's lock may stop the refreshes of a whole database.
    session::set_for_session("lock_timeout", "200ms");
    let mut scheduler = Scheduler::new(database);
    while scheduler.turn() {}
    for view in shared::my_workers() {
        worker::terminate(view.pid);
    }
}

/// What the definitions are read with; another value means reading them again.
type ReadWith = (bool, config::Consistency, config::SchedulePolicy);

struct Scheduler {
    database: pg_sys::Oid,
    board: Board,
    definitions: Definitions,
    /// All definitions are being read.
    reading: Option<Reading>,
    /// Changes of definitions that have been read.
    seen: Option<u64>,
    read_with: Option<ReadWith>,
    /// Not before this are definitions read again.
    next_reading: Instant,
    /// The worker that had a unit last.
    last_worker: HashMap<i64, i32>,
    /// When the jobs at work were handed out.
    started: HashMap<i64, Instant>,
    idle_since: HashMap<usize, Instant>,
    /// Since when this database has the workers it has.
    turn_since: Instant,
    next_maintenance: Instant,
    empty_since: Option<Instant>,
    overflows: u64,
    /// Transactions seen prepared, and how many there have been.
    prepared: Vec<String>,
    prepared_count: u64,
}

impl Scheduler {
    fn new(database: pg_sys::Oid) -> Scheduler {
        Scheduler {
            database,
            board: Board::new(SchedulerSettings::read().rules),
            definitions: Definitions::default(),
            reading: None,
            seen: None,
            read_with: None,
            next_reading: Instant::now(),
            last_worker: HashMap::new(),
            started: HashMap::new(),
            idle_since: HashMap::new(),
            turn_since: Instant::now(),
            next_maintenance: Instant::now() + MAINTENANCE,
            empty_since: None,
            overflows: 0,
            prepared: maintenance::prepared_transactions().unwrap_or_default(),
            prepared_count: shared::prepared_so_far(),
        }
    }

    /// One wake-up. False when there is nothing left to do in this database.
    fn turn(&mut self) -> bool {
        let awake = Instant::now();
        let settings = SchedulerSettings::read();
        if shared::is_closed(self.database) {
            return false;
        }
        self.board.set_rules(settings.rules);
        let Some(read_at) = self.read_definitions(&settings) else {
            return false;
        };
        if self.board.is_empty() && self.reading.is_none() {
            let since = *self.empty_since.get_or_insert_with(Instant::now);
            if since.elapsed() > NOTHING_TO_DO {
                return false;
            }
        } else {
            self.empty_since = None;
        }
        self.notice_commits();
        self.collect_results();
        let now = now_ms();
        let mut wake_at = now + settings.interval_ms as i64;
        if settings.enabled && !is_draining() {
            let decision = self
                .board
                .decide(now, CHOICE * settings.max_concurrent_refreshes);
            let started = self.dispatch_all(&decision.start, now, &settings);
            shared::publish_queue(decision.due - started);
            wake_at = decision.wake_at.map_or(wake_at, |due| due.min(wake_at));
        } else {
            shared::publish_queue(0);
        }
        self.keep_pool(&settings);
        if self.next_maintenance <= Instant::now() {
            let busy = maintenance::pass(&settings);
            self.next_maintenance = Instant::now() + if busy { AGAIN } else { MAINTENANCE };
            // Whatever way the extension went, its scheduler goes too.
            if matches!(
                worker::transaction(|| Ok(depend::extension_exists())),
                Ok(false)
            ) {
                return false;
            }
        }
        if self.notice_prepared() {
            wake_at = now;
        }
        worker::report_idle();
        shared::note_wakeup(awake.elapsed().as_micros() as u64, self.board.len());
        let wait = (wake_at - now_ms()).clamp(1, 60_000) as u64;
        worker::wait(Duration::from_millis(wait).min(read_at));
        true
    }

    /// Reads what changed among the definitions, as far as there is time for it. Returns how long to wait before going on
    /// with it; none if the extension is not installed.
    fn read_definitions(&mut self, settings: &SchedulerSettings) -> Option<Duration> {
        let (consistency, policy) = config::diamond_defaults();
        let read_with = (settings.tiers, consistency, policy);
        let changed = if self.read_with.is_some_and(|before| before != read_with) {
            shared::definitions(None)
        } else {
            shared::definitions(self.seen)
        };
        if changed == shared::Definitions::Unchanged && self.reading.is_none() {
            return Some(Duration::MAX);
        }
        let until = self.next_reading.saturating_duration_since(Instant::now());
        if !until.is_zero() {
            return Some(until);
        }
        let started = Instant::now();
        let outcome = worker::transaction(|| {
            if !depend::extension_exists() {
                return Ok(None);
            }
            if self.reading.is_none() {
                match &changed {
                    shared::Definitions::Some(ids, upto) => {
                        self.definitions.read_some(ids, settings);
                        return Ok(Some(Some(*upto)));
                    }
                    // What changes while everything is read is read once more afterwards.
                    shared::Definitions::All(upto) => self.reading = Some(Reading::new(*upto)),
                    shared::Definitions::Unchanged => {}
                }
            }
            let Some(reading) = &mut self.reading else {
                return Ok(Some(None));
            };
            let complete = self.definitions.read_on(reading, settings);
            Ok(Some(complete.then_some(reading.upto)))
        });
        match outcome {
            Ok(None) => return None,
            Ok(Some(None)) => {}
            Ok(Some(Some(upto))) => {
                self.reading = None;
                self.seen = Some(upto);
                self.read_with = Some(read_with);
                self.put_on_board();
            }
            Err(failure) => {
                pgrx::warning!("could not read the stream tables: {}", failure.message);
                self.reading = None;
                self.next_reading = Instant::now() + Duration::from_millis(settings.interval_ms);
                return Some(Duration::from_millis(settings.interval_ms));
            }
        }
        let took = started.elapsed();
        shared::note_reading(took.as_micros() as u64);
        self.next_reading = Instant::now() + took * READING_SHARE;
        Some(if self.reading.is_some() {
            Duration::ZERO
        } else {
            Duration::MAX
        })
    }

    fn put_on_board(&mut self) {
        let now = now_ms();
        self.definitions.put_on(&mut self.board, now);
        // Their new sources have not been watched until now.
        for id in self.definitions.take_changed() {
            self.board.mark_dirty(id, now);
        }
        let board = &self.board;
        self.last_worker.retain(|key, _| board.contains(*key));
        let definitions = &self.definitions;
        shared::retain_sources(|source| definitions.is_watched(source));
    }

    fn notice_commits(&mut self) {
        let now = now_ms();
        for source in shared::take_dirty() {
            for reader in self.definitions.readers(source) {
                self.board.mark_dirty(*reader, now);
            }
        }
        let overflows = shared::overflows();
        if overflows != self.overflows {
            self.overflows = overflows;
            self.board.mark_all_dirty(now);
        }
    }

    /// COMMIT PREPARED happens in a session that knows nothing of the changes. Whenever a transaction that was prepared is
    /// no longer, everything is looked at. True if that is the case.
    fn notice_prepared(&mut self) -> bool {
        let count = shared::prepared_so_far();
        if count == self.prepared_count && self.prepared.is_empty() {
            return false;
        }
        let Some(now) = maintenance::prepared_transactions() else {
            return false;
        };
        let decided =
            count != self.prepared_count || self.prepared.iter().any(|known| !now.contains(known));
        self.prepared_count = count;
        self.prepared = now;
        if decided {
            self.board.mark_all_dirty(now_ms());
        }
        decided
    }

    fn collect_results(&mut self) {
        let workers = shared::my_workers();
        // A job that no worker has is nobody's, however that came about.
        let now = now_ms();
        let lost: Vec<i64> = self
            .started
            .keys()
            .copied()
            .filter(|key| !workers.iter().any(|view| view.job == *key))
            .collect();
        for key in lost {
            self.started.remove(&key);
            self.board.lost(key, now);
        }
        for view in workers {
            match view.state {
                WorkerState::Done => {
                    let took = self.started.remove(&view.job).map(|at| at.elapsed());
                    let took = took.map_or(0.0, |took| took.as_secs_f64() * 1000.0);
                    self.board.succeeded(view.job, took);
                    self.free(view.slot);
                }
                WorkerState::Failed | WorkerState::Stopped => {
                    self.started.remove(&view.job);
                    let failures = self.board.failures(view.job) + 1;
                    let now = now_ms();
                    let retry_at = now + retry_delay_ms(failures, jitter()) as i64;
                    self.board.failed(view.job, retry_at, now);
                    self.free(view.slot);
                }
                WorkerState::Waiting => {
                    self.started.remove(&view.job);
                    let now = now_ms();
                    self.board.postponed(view.job, now + POSTPONED_MS, now);
                    self.free(view.slot);
                }
                WorkerState::Assigned
                | WorkerState::Running
                | WorkerState::Idle
                | WorkerState::Leaving
                    if !worker::alive(view.pid) =>
                {
                    // Killed in the middle: its transaction is gone, the job is not.
                    if matches!(view.state, WorkerState::Assigned | WorkerState::Running) {
                        self.started.remove(&view.job);
                        self.board.lost(view.job, now_ms());
                    }
                    shared::release_worker(view.slot);
                    self.idle_since.remove(&view.slot);
                }
                WorkerState::Starting if view.pid == 0 => {
                    let since = *self
                        .idle_since
                        .entry(view.slot)
                        .or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(30) {
                        shared::release_worker(view.slot);
                        self.idle_since.remove(&view.slot);
                    }
                }
                _ => {}
            }
        }
    }

    fn free(&mut self, slot: usize) {
        shared::acknowledge(slot);
        self.idle_since.insert(slot, Instant::now());
    }

    /// Hands units to idle workers, starting one if there are more; returns how many were handed out.
    fn dispatch_all(&mut self, keys: &[i64], now: i64, settings: &SchedulerSettings) -> usize {
        if keys.is_empty() {
            return 0;
        }
        let workers = shared::my_workers();
        let mut waiting: Vec<i64> = keys.to_vec();
        let mut started = 0;
        for idle in workers
            .iter()
            .filter(|view| view.state == WorkerState::Idle)
        {
            if waiting.is_empty() {
                return started;
            }
            if self.must_make_room() {
                shared::send_home(idle.slot);
                continue;
            }
            let key = waiting.remove(self.preferred(&waiting, idle.pid));
            if !self.dispatch(key, idle, now) {
                return started;
            }
            started += 1;
        }
        let at_work = workers.len();
        if !waiting.is_empty()
            && at_work < settings.max_concurrent_refreshes
            && !self.start_worker(&workers, settings)
        {
            // The cluster has as many as it may: somebody with more than his share gives one up.
            shared::send_one_home();
        }
        started
    }

    /// The position of the unit that a worker gets: one it has refreshed before and has prepared statements for, else one
    /// that nobody has, else the first.
    fn preferred(&self, waiting: &[i64], pid: i32) -> usize {
        let had_by = |wanted: Option<i32>| {
            waiting
                .iter()
                .position(|key| self.last_worker.get(key).copied() == wanted)
        };
        had_by(Some(pid)).or_else(|| had_by(None)).unwrap_or(0)
    }

    /// Hands a unit to an idle worker; false if it is not idle any more.
    fn dispatch(&mut self, key: i64, idle: &WorkerView, now: i64) -> bool {
        // Armed before the refresh can take its snapshot: no commit falls between.
        let members = self.board.members(key).to_vec();
        self.board.started(key, now);
        for source in members.iter().flat_map(|id| self.definitions.sources(*id)) {
            shared::arm(*source);
        }
        self.started.insert(key, Instant::now());
        if shared::assign(idle.slot, key) {
            self.last_worker.insert(key, idle.pid);
            return true;
        }
        self.started.remove(&key);
        self.board.lost(key, now);
        false
    }

    /// Starts a worker unless one is starting. False if the cluster may not have another one.
    fn start_worker(&mut self, workers: &[WorkerView], settings: &SchedulerSettings) -> bool {
        if workers
            .iter()
            .any(|view| view.state == WorkerState::Starting)
        {
            return true;
        }
        let Some(slot) = shared::reserve_worker(settings.max_workers, settings.quota) else {
            return false;
        };
        self.idle_since.insert(slot, Instant::now());
        if workers.is_empty() {
            self.turn_since = Instant::now();
        }
        let argument = ((slot as u64) << 32) | u64::from(self.database.to_u32());
        if !worker::start(
            "pg_trickle worker",
            "pg_trickle worker",
            "pgt_worker_main",
            argument,
        ) {
            shared::release_worker(slot);
            self.idle_since.remove(&slot);
            pgrx::warning!(
                "no background worker slot is free for a refresh; raise max_worker_processes"
            );
        }
        true
    }

    /// Another database waits for a worker, there are no more, and this one has more than its share, or has had its turn.
    fn must_make_room(&self) -> bool {
        let all = shared::allocations();
        let own = snapshot::database_id();
        let Some(mine) = all.iter().find(|found| found.database == own) else {
            return false;
        };
        if mine.all_used < mine.limit {
            return false;
        }
        all.iter()
            .filter(|found| found.database != own && found.queued > 0)
            .any(|found| {
                (mine.used > mine.quota && found.used < found.quota)
                    || (found.used == 0 && self.turn_since.elapsed() > TURN)
            })
    }

    /// Keeps as many workers as are to stay, and sends home those that have had nothing to do.
    fn keep_pool(&mut self, settings: &SchedulerSettings) {
        let workers = shared::my_workers();
        let pool = settings.pool.min(settings.max_concurrent_refreshes);
        if workers.len() < pool && !self.board.is_empty() {
            self.start_worker(&workers, settings);
            return;
        }
        let mut spare = workers.len() - pool.min(workers.len());
        let make_room = self.must_make_room();
        for view in workers
            .iter()
            .filter(|view| view.state == WorkerState::Idle)
        {
            let since = *self
                .idle_since
                .entry(view.slot)
                .or_insert_with(Instant::now);
            if make_room || (spare > 0 && since.elapsed() > IDLE_WORKER) {
                shared::send_home(view.slot);
                spare = spare.saturating_sub(1);
                if make_room {
                    return;
                }
            }
        }
    }
}

/// Nothing is to be started. What was said to an installation of the extension that has been dropped is forgotten.
fn is_draining() -> bool {
    let Some(drained) = shared::draining() else {
        return false;
    };
    let installed = worker::transaction(|| Ok(depend::extension_oid()));
    if matches!(installed, Ok(extension) if extension != drained) {
        shared::forget_drained(drained);
        return false;
    }
    true
}

fn now_ms() -> i64 {
    (refresh::now() * 1000.0) as i64
}

/// Some number in [0, 1) that differs from process to process and moment to moment.
fn jitter() -> f64 {
    refresh::now().fract()
}
