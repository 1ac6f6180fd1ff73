//! Every benchmark; `--write` makes docs/BENCHMARKS.md of the results.

use pgt_benches::{
    Machine, Options, Section, capture, choice, document, idle, latency, refresh, scheduler, tpch,
};

type Run = fn(&Options) -> Section;

const BENCHMARKS: [(&str, Run); 8] = [
    ("refresh", refresh::run),
    ("choice", choice::run),
    ("capture", capture::run),
    ("latency", latency::run),
    ("idle", idle::run),
    ("scheduler", scheduler::run),
    ("tpch", tpch::run),
    ("tpch --slope", tpch::slope),
];

const PREFACE: &str = "\
# Benchmarks

Everything here is printed by `cargo run --release -p pgt_benches --bin all -- --write`, or a section of it by the binary of that
name, with what is compared measured alternately on the same server. The verdicts are computed from the numbers. Ratios carry
over to other machines better than times do.
";

fn main() {
    let options = Options::from_arguments();
    let machine = Machine::look();
    let mut report = format!("{PREFACE}\n## Machine and settings\n\n{machine}");
    for (name, run) in BENCHMARKS {
        eprintln!("{name} ..");
        let section = run(&options);
        println!("{section}");
        report += &format!("\n{section}");
    }
    if options.write {
        document::write(&report);
    }
}
