//! The server that benchmarks run on.

use pgt_tests::{Server, Session};

/// Settings that differ from PostgreSQL's defaults, and why.
pub const SETTINGS: &[(&str, &str)] = &[
    // The harness for tests switches these for its own purposes.
    ("fsync", "on"),
    ("wal_level", "replica"),
    ("pg_trickle.verify_refresh", "off"),
    // The data fits, so that what is measured is CPU.
    ("shared_buffers", "1GB"),
    // No checkpoint in the middle of a measurement.
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "20GB"),
    // Vacuum runs between measurements instead of in the middle of some of them.
    ("autovacuum", "off"),
];

/// A private server with [`SETTINGS`].
pub fn start() -> Server {
    start_with(&[])
}

/// The same with further settings, which win.
pub fn start_with(further: &[(&str, &str)]) -> Server {
    SETTINGS
        .iter()
        .chain(further)
        .fold(Server::builder(), |builder, (name, value)| {
            builder.guc(name, value)
        })
        .start()
}

/// Commits of this session do not wait for the disk, as those of pg_trickle's own workers.
pub fn without_waiting_for_disk(session: &mut Session) {
    session.exec("set synchronous_commit = off");
}
