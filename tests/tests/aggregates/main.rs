//! GROUP BY, DISTINCT, HAVING and aggregates: groups that come, go and change; values that fold badly.

mod distinct;
mod groups;
mod values;

use pgt_tests::{Session, StreamTable, database};

/// Runs each batch, then refreshes and compares.
#[track_caller]
fn follow(s: &mut Session, v: &StreamTable, batches: &[&str]) {
    for batch in batches {
        s.exec(batch);
        v.follows(s);
    }
}

/// The same for queries that need not be incremental.
#[track_caller]
fn follow_somehow(s: &mut Session, v: &StreamTable, batches: &[&str]) {
    for batch in batches {
        s.exec(batch);
        v.follows_somehow(s);
    }
}
