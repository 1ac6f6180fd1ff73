//! The clock and commits ask: launcher (one per cluster), scheduler (one per database with stream tables), workers.
//!
//! Commits mark sources dirty in shared memory and wake the scheduler, which keeps the board (`pgt_ivm::schedule`) and
//! hands due stream tables to workers that stay connected. Nothing here decides what is correct: a lost mark or a killed
//! worker costs time, never a row.

mod database;
mod definitions;
mod launcher;
mod maintenance;
mod worker;

use crate::pg::worker::Mains;

/// What the worker processes run.
pub const MAINS: Mains = Mains {
    launcher: launcher::main,
    scheduler: database::main,
    worker: worker::main,
};
