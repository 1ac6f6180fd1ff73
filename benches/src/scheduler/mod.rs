//! The scheduler: wake-ups and idle costs with many stream tables, graphs of stream tables, first calls.

mod database;
mod first_call;
mod graphs;
mod many;
mod one_more;
mod statistics;
mod wake;

use crate::options::{Options, Part};
use crate::report::Section;

pub fn run(options: &Options) -> Section {
    let mut section = Section::new("Scheduler");
    let wanted = |part| options.part.is_none_or(|only| only == part);
    if wanted(Part::Many) {
        many::run(options, &mut section);
    }
    if wanted(Part::Graphs) {
        graphs::run(options, &mut section);
    }
    if wanted(Part::Calls) {
        first_call::run(options, &mut section);
    }
    section
}
