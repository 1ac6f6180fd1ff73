//! Repeated measurements of one thing.

use std::time::{Duration, Instant};

/// Measured values in no particular unit.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    values: Vec<f64>,
}

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a duration in milliseconds.
    pub fn push_ms(&mut self, duration: Duration) {
        self.push(duration.as_secs_f64() * 1000.0);
    }

    /// Adds the values of another sample.
    pub fn extend(&mut self, other: &Self) {
        self.values.extend(&other.values);
    }

    pub fn count(&self) -> usize {
        self.values.len()
    }

    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    pub fn largest(&self) -> f64 {
        self.percentile(100.0)
    }

    /// The value below which `percent` of the values lie (nearest rank); NaN without values.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// Runs `work` and returns how long it took.
pub fn timed<R>(work: impl FnOnce() -> R) -> (Duration, R) {
    let started = Instant::now();
    let result = work();
    (started.elapsed(), result)
}
