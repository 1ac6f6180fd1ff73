//! The command line.

use std::time::Duration;

pub const USAGE: &str = "\
usage: scripts/demo [--seconds N] [--scale F] [--rate N] [--seed N]

  --seconds N   how long the writer writes (default 60; interrupt to end early)
  --scale F     TPC-H scale factor (default 0.05, which is 300,000 lineitems)
  --rate N      rows the writer changes per second (default 500; 0: as fast as it can)
  --seed N      seed of the writer's choices (default 1)";

pub enum Invocation {
    Run(Options),
    Help,
}

#[derive(Debug, PartialEq)]
pub struct Options {
    pub duration: Duration,
    pub scale: f64,
    /// Rows per second; 0 means unlimited.
    pub rate: u32,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(60),
            scale: 0.05,
            rate: 500,
            seed: 1,
        }
    }
}

/// The message of an error is for the user, to be followed by [`USAGE`].
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Invocation, String> {
    let mut options = Options::default();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        // Both "--scale 0.1" and "--scale=0.1".
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            attached
                .clone()
                .or_else(|| arguments.next())
                .ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "--seconds" => options.duration = Duration::from_secs(number(&name, &value()?)?),
            "--scale" => options.scale = number(&name, &value()?)?,
            "--rate" => options.rate = number(&name, &value()?)?,
            "--seed" => options.seed = number(&name, &value()?)?,
            "--help" | "-h" => return Ok(Invocation::Help),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if !(options.scale > 0.0 && options.scale <= 10.0) {
        return Err("--scale must lie between 0 and 10".to_owned());
    }
    Ok(Invocation::Run(options))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{name} does not take \"{value}\""))
}
