//! The scheduler of one database.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgt_ivm::schedule::{Board, Entry, Schedule, retry_delay_ms};

use super::maintenance;
use crate::catalog::{self, Mode, SourceType, Status};
use crate::config::SchedulerSettings;
use crate::error::Result;
use crate::pg::shared::{self, WorkerState};
use crate::pg::{depend, worker};
use crate::refresh;

/// A worker without a job for this long is sent home.
const IDLE_WORKER: Duration = Duration::from_secs(60);

/// Time between two maintenance passes (rotation, retention).
const MAINTENANCE: Duration = Duration::from_secs(10);

/// An idle scheduler without stream tables leaves after this long; the launcher brings it back.
const NOTHING_TO_DO: Duration = Duration::from_secs(5);

pub(super) fn main(database: pg_sys::Oid) {
    worker::connect(Some(database));
    if shared::is_closed(database) || !shared::enter_scheduler() {
        return;
    }
    worker::at_exit(shared::leave_scheduler);
    let mut scheduler = Scheduler::new(database);
    while scheduler.turn() {}
    for view in shared::my_workers() {
        worker::terminate(view.pid);
    }
}

struct Scheduler {
    database: pg_sys::Oid,
    board: Board,
    /// Sources watched, the commits seen of each, and who reads them.
    watched: Vec<pg_sys::Oid>,
    seen: Vec<u64>,
    readers: HashMap<u32, Vec<i64>>,
    generation: Option<u64>,
    idle_since: HashMap<usize, Instant>,
    last_maintenance: Instant,
    empty_since: Option<Instant>,
    failures: HashMap<i64, u32>,
    /// Transactions seen prepared, and how many there have been.
    prepared: Vec<String>,
    prepared_count: u64,
}

impl Scheduler {
    fn new(database: pg_sys::Oid) -> Scheduler {
        Scheduler {
            database,
            board: Board::new(1_000),
            watched: vec![],
            seen: vec![],
            readers: HashMap::new(),
            generation: None,
            idle_since: HashMap::new(),
            last_maintenance: Instant::now(),
            empty_since: None,
            failures: HashMap::new(),
            prepared: maintenance::prepared_transactions().unwrap_or_default(),
            prepared_count: shared::prepared_so_far(),
        }
    }

    /// One wake-up. False when there is nothing left to do in this database.
    fn turn(&mut self) -> bool {
        let settings = SchedulerSettings::read();
        if shared::is_closed(self.database) {
            return false;
        }
        let generation = shared::definitions_generation();
        if self.generation != Some(generation) {
            match worker::transaction(|| self.load(&settings)) {
                Ok(true) => self.generation = Some(generation),
                Ok(false) => return false,
                Err(failure) => {
                    pgrx::warning!("could not load the stream tables: {}", failure.message);
                    worker::wait(Duration::from_millis(settings.interval_ms));
                    return true;
                }
            }
        }
        if self.board.is_empty() {
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
        if settings.enabled {
            let decision = self.board.decide(now);
            for id in decision.start {
                if !self.dispatch(id, now, &settings) {
                    break;
                }
            }
            wake_at = decision.wake_at.map_or(wake_at, |due| due.min(wake_at));
        }
        self.send_idle_home();
        if self.last_maintenance.elapsed() >= MAINTENANCE {
            self.last_maintenance = Instant::now();
            maintenance::pass(&self.watched, &settings);
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
        if self.listen() {
            return true;
        }
        worker::wait(Duration::from_millis(
            (wake_at - now_ms()).clamp(1, 60_000) as u64
        ));
        true
    }

    /// Reads the stream tables of the database; false if the extension is not installed.
    fn load(&mut self, settings: &SchedulerSettings) -> Result<bool> {
        if !depend::extension_exists() {
            return Ok(false);
        }
        let mut entries = BTreeMap::new();
        let mut readers: HashMap<u32, Vec<i64>> = HashMap::new();
        for table in catalog::load_all()? {
            let mut always = false;
            let units = catalog::stages_of(table.id)?
                .into_iter()
                .map(|stage| stage.id)
                .chain([table.id]);
            for dependency in units.flat_map(catalog::dependencies) {
                match dependency.kind {
                    SourceType::Uncaptured => always = true,
                    SourceType::Stage => {}
                    _ => readers
                        .entry(dependency.source.to_u32())
                        .or_default()
                        .push(table.id),
                }
            }
            let Ok(schedule) = Schedule::parse(&table.schedule) else {
                continue;
            };
            entries.insert(
                table.id,
                Entry {
                    schedule,
                    upstream: refresh::upstream_of(table.id)?,
                    active: matches!(table.status, Status::Active | Status::Initializing)
                        && table.effective != Mode::Immediate,
                    always,
                    last_refreshed: catalog::last_refreshed_ms(table.id),
                },
            );
        }
        self.board.replace(entries, settings.default_schedule_ms);
        let before: HashMap<u32, u64> = self
            .watched
            .iter()
            .map(|oid| oid.to_u32())
            .zip(self.seen.iter().copied())
            .collect();
        self.watched = readers.keys().map(|oid| pg_sys::Oid::from(*oid)).collect();
        self.seen = shared::commits(&self.watched)
            .into_iter()
            .zip(&self.watched)
            .map(|(now, oid)| before.get(&oid.to_u32()).copied().unwrap_or(now))
            .collect();
        self.readers = readers;
        Ok(true)
    }

    fn notice_commits(&mut self) {
        let commits = shared::commits(&self.watched);
        for (position, count) in commits.into_iter().enumerate() {
            if count != self.seen[position] {
                self.seen[position] = count;
                let source = self.watched[position].to_u32();
                for reader in self.readers.get(&source).into_iter().flatten() {
                    self.board.mark_dirty(*reader);
                }
            }
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
            self.board.mark_all_dirty();
        }
        decided
    }

    /// Asks to be woken by commits that matter. True if one came in while asking.
    fn listen(&mut self) -> bool {
        let wanted: Vec<pg_sys::Oid> = self
            .watched
            .iter()
            .filter(|source| {
                let readers = self.readers.get(&source.to_u32());
                readers
                    .into_iter()
                    .flatten()
                    .any(|reader| self.board.is_clean(*reader))
            })
            .copied()
            .collect();
        shared::wake_on(&wanted);
        shared::commits(&self.watched) != self.seen
    }

    fn collect_results(&mut self) {
        for view in shared::my_workers() {
            match view.state {
                WorkerState::Done => {
                    self.board.succeeded(view.job);
                    self.failures.remove(&view.job);
                    shared::acknowledge(view.slot);
                    self.idle_since.insert(view.slot, Instant::now());
                }
                WorkerState::Failed | WorkerState::Stopped => {
                    let failures = self.failures.entry(view.job).or_insert(0);
                    *failures += 1;
                    let delay = retry_delay_ms(*failures, jitter());
                    self.board.failed(view.job, now_ms() + delay as i64);
                    shared::acknowledge(view.slot);
                    self.idle_since.insert(view.slot, Instant::now());
                }
                WorkerState::Assigned | WorkerState::Running | WorkerState::Idle
                    if !worker::alive(view.pid) =>
                {
                    // Killed in the middle: its transaction is gone, the job is not.
                    if view.state != WorkerState::Idle {
                        self.board.lost(view.job);
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

    /// Hands `id` to an idle worker, starting one if allowed; false if none is free.
    fn dispatch(&mut self, id: i64, now: i64, settings: &SchedulerSettings) -> bool {
        let workers = shared::my_workers();
        if let Some(idle) = workers.iter().find(|view| view.state == WorkerState::Idle) {
            self.board.started(id, now);
            shared::assign(idle.slot, id);
            return true;
        }
        let starting = workers
            .iter()
            .any(|view| view.state == WorkerState::Starting);
        if workers.len() < settings.max_concurrent_refreshes
            && !starting
            && let Some(slot) = shared::reserve_worker()
        {
            self.idle_since.insert(slot, Instant::now());
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
        }
        false
    }

    fn send_idle_home(&mut self) {
        for view in shared::my_workers()
            .into_iter()
            .filter(|view| view.state == WorkerState::Idle)
        {
            let since = *self
                .idle_since
                .entry(view.slot)
                .or_insert_with(Instant::now);
            if since.elapsed() > IDLE_WORKER {
                worker::terminate(view.pid);
            }
        }
    }
}

fn now_ms() -> i64 {
    (refresh::now() * 1000.0) as i64
}

/// Some number in [0, 1) that differs from process to process and moment to moment.
fn jitter() -> f64 {
    refresh::now().fract()
}
