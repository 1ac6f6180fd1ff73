//! The command line shared by all benchmarks.

/// How much to measure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Small data and few repetitions: shows that a benchmark works, not what it measures.
    pub quick: bool,
    /// Put the results into docs/BENCHMARKS.md.
    pub write: bool,
    /// TPC-H: how times grow with the data, instead of the times themselves.
    pub slope: bool,
    /// TPC-H: another scale factor.
    pub scale: Option<f64>,
}

impl Options {
    /// Takes `--quick`, `--write`, `--slope` and `--scale F`; anything else ends the process with the usage.
    pub fn from_arguments() -> Self {
        let mut options = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                "--slope" => options.slope = true,
                "--scale" => match arguments.next().map(|value| value.parse()) {
                    Some(Ok(scale)) => options.scale = Some(scale),
                    _ => usage(),
                },
                _ => usage(),
            }
        }
        options
    }

    /// One of two amounts.
    pub fn amount(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

fn usage() -> ! {
    eprintln!(
        "usage: refresh|capture|latency|idle|all [--quick] [--write]
       tpch [--quick] [--write] [--slope | --scale F]"
    );
    std::process::exit(2);
}
