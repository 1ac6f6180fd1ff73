//! Every benchmark; `--write` makes docs/BENCHMARKS.md of the results.

use std::path::Path;

use pgt_benches::{Machine, Options, Section, capture, idle, latency, refresh};

type Run = fn(&Options) -> Section;

const BENCHMARKS: [(&str, Run); 4] = [
    ("refresh", refresh::run),
    ("capture", capture::run),
    ("latency", latency::run),
    ("idle", idle::run),
];

const PREFACE: &str = "\
# Benchmarks

Everything here is printed by one run of `cargo run --release -p pgt_benches --bin all -- --write`, with what is compared measured
alternately on the same server. The verdicts are computed from the numbers. Ratios carry over to other machines better
than times do.
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
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/BENCHMARKS.md");
        std::fs::write(&path, report).expect("docs/BENCHMARKS.md");
    }
}
