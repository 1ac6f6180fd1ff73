//! Shared memory: which sources are dirty, whom to wake, who works on what.
//!
//! Everything here is a hint that saves polling and compiling. The truth is in the catalog and the logs; what is lost, or
//! does not fit, costs a delay until the scheduler's slow clock, never a row.
//!
//! Each concern has a lock of its own: databases, sources, workers, compiled stream tables. They are taken shared wherever
//! the values behind them are atomics, which is everywhere but where slots are given out or taken back, definitions
//! announced and compiled stream tables written.

mod area;
pub mod cache;
mod costs;
mod databases;
mod sources;
mod workers;

use std::time::Duration;

use pgrx::pg_guard;
use pgrx::pg_shmem_init;
use pgrx::pg_sys;

use area::AREA;
use cache::LOCK;
use databases::DATABASES;
use workers::WORKERS;

pub use costs::{cost, note, note_full};
pub use databases::{
    Definitions, close_database, databases, definitions, definitions_changed, drain, draining,
    enter_launcher, enter_scheduler, forget_databases, forget_drained, is_closed, leave_scheduler,
    mark_prepared, note_reading, note_wakeup, prepared_so_far, publish_queue, scheduler_pid,
    scheduler_statistics,
};
pub use sources::{arm, mark_dirty, overflows, retain_sources, take_dirty};
pub use workers::{
    WorkerState, WorkerView, acknowledge, allocations, assign, enter_worker, finish_job,
    my_workers, release_worker, reserve_worker, send_home, send_one_home, take_job, worker_left,
    workers_of,
};

/// Holds every lock for a while in the way in which readers take it.
pub fn read_slowly(time: Duration) {
    if available() {
        let _sources = AREA.share();
        let _databases = DATABASES.share();
        let _workers = WORKERS.share();
        let _cache = LOCK.share();
        std::thread::sleep(time);
    }
}

/// Asks for the shared memory. Only in the postmaster, while libraries are preloaded.
pub fn register(megabytes: usize) {
    area::set_size(megabytes);
    pg_shmem_init!(DATABASES);
    pg_shmem_init!(WORKERS);
    pg_shmem_init!(LOCK);
    pg_shmem_init!(AREA);
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

/// Process number plus one.
fn my_process() -> i32 {
    // SAFETY: a backend's constant.
    unsafe { pg_sys::MyProcNumber + 1 }
}

fn my_pid() -> i32 {
    // SAFETY: a process constant.
    unsafe { pg_sys::MyProcPid }
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
