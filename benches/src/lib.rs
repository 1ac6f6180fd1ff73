//! Side-by-side measurements: what pg_trickle costs beside what somebody would otherwise do, in one run on one server.
//!
//! Each benchmark is a module with a `run` that returns its section of the report, and a binary of the same name that
//! prints it. The binary `all` runs every one of them. With `--write` they put their results into docs/BENCHMARKS.md.
//! Every verdict in a report is computed from the numbers beside it.

#![forbid(unsafe_code)]

pub mod capture;
pub mod choice;
pub mod document;
mod huge_pages;
pub mod idle;
pub mod latency;
mod machine;
mod options;
mod process;
pub mod refresh;
mod report;
mod sample;
pub mod scheduler;
mod server;
pub mod tpch;

pub use machine::Machine;
pub use options::Options;
pub use report::{Goal, Section};
pub use sample::Sample;

/// Runs one benchmark as its binary does: options from the command line, the section on standard output.
pub fn main(run: fn(&Options) -> Section) {
    let options = Options::from_arguments();
    println!("{}", Machine::look());
    let section = run(&options);
    println!("{section}");
    if options.write {
        document::put(&section);
    }
}
