//! The command line shared by all benchmarks.

/// How much to measure.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Small data and few repetitions: shows that a benchmark works, not what it measures.
    pub quick: bool,
    /// Put the results into docs/BENCHMARKS.md.
    pub write: bool,
    /// TPC-H: how times grow with the data, instead of the times themselves.
    pub slope: bool,
    /// TPC-H: another scale factor.
    pub scale: Option<f64>,
    /// Scheduler: other numbers of stream tables.
    pub sizes: Option<Vec<usize>>,
    /// Scheduler: only this part.
    pub part: Option<Part>,
}

/// A part of benchmark `scheduler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Many stream tables over few tables.
    Many,
    /// Stream tables over stream tables.
    Graphs,
    /// First calls in a session.
    Calls,
}

impl Options {
    /// Takes what [`usage`] lists; anything else ends the process with it.
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
                "--sizes" => options.sizes = Some(sizes(arguments.next())),
                "--part" => {
                    options.part = Some(match arguments.next().as_deref() {
                        Some("many") => Part::Many,
                        Some("graphs") => Part::Graphs,
                        Some("calls") => Part::Calls,
                        _ => usage(),
                    });
                }
                _ => usage(),
            }
        }
        options
    }

    /// The numbers asked for, or else one of two lists.
    pub fn sizes(&self, full: &[usize], quick: &[usize]) -> Vec<usize> {
        match &self.sizes {
            Some(sizes) => sizes.clone(),
            None if self.quick => quick.to_vec(),
            None => full.to_vec(),
        }
    }

    /// One of two amounts.
    pub fn amount(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// Numbers with commas between.
fn sizes(text: Option<String>) -> Vec<usize> {
    let text = text.unwrap_or_default();
    let sizes: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match sizes {
        Ok(sizes) if sizes.iter().all(|size| *size > 10) => sizes,
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!(
        "usage: refresh|choice|capture|latency|idle|all [--quick] [--write]
       tpch [--quick] [--write] [--slope | --scale F]
       scheduler [--quick] [--write] [--sizes N,..] [--part many|graphs|calls]"
    );
    std::process::exit(2);
}
