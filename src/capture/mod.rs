//! Change capture: which relations log where, and the segments the log consists of.
//!
//! A source's log is a ring of segment tables per *layout* (set of logged columns). Writers insert into the current
//! segment; readers read all of them by transaction id, so it never matters which segment a writer thought was current.
//! A live segment is never altered: when a reader needs more columns a new layout starts and the old one drains.

mod install;
mod resolve;
mod rotate;
mod shape;

pub use install::{
    ensure_stream, ensure_table, has_triggers, heirs_changed, insist_on_triggers, make_way,
    mark_unlogged_alive, release_unread, restore_triggers, sync_members,
};
pub use resolve::resolve;
pub use rotate::{rotate, worth_rotating};
pub use shape::{follow_shape, generated_anew, misshapen};
