//! Rel -> Rel.

mod narrow;
mod stages;

pub use stages::{Planned, STAGE_SOURCE, Stage, cut, with_sources};
