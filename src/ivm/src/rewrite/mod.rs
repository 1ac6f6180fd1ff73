//! Rel -> Rel.

mod stages;

pub use stages::{Planned, STAGE_SOURCE, Stage, cut, with_sources};
