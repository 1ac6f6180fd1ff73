//! Rel -> Rel.

mod bound;
mod narrow;
mod stages;
mod watch;

pub use stages::{Planned, STAGE_SOURCE, Stage, Ties, cut, with_sources};
