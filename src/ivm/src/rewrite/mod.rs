//! Rel -> Rel.

mod bound;
mod narrow;
mod stages;

pub use stages::{Planned, STAGE_SOURCE, Stage, cut, with_sources};
