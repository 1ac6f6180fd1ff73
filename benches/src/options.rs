//! The command line shared by all benchmarks.

/// How much to measure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Small data and few repetitions: shows that a benchmark works, not what it measures.
    pub quick: bool,
    /// Make docs/BENCHMARKS.md of the results.
    pub write: bool,
}

impl Options {
    /// Takes `--quick` and `--write`; anything else ends the process with the usage.
    pub fn from_arguments() -> Self {
        let mut options = Self::default();
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                _ => {
                    eprintln!("usage: refresh|capture|latency|idle|all [--quick] [--write]");
                    std::process::exit(2);
                }
            }
        }
        options
    }

    /// One of two amounts.
    pub fn amount(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
