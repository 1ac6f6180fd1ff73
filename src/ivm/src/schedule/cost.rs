//! Full or differential: a prediction from the times of earlier refreshes.
//!
//! The time of a differential refresh is predicted as rows x the median of (time / rows) among the last samples. A sample
//! further than three times the median absolute deviation from the median is left out, so that one slow refresh (a cold
//! cache, a busy machine) does not decide. The prediction is clamped to [0.5, 4] times the last full refresh: beyond that
//! it is no measurement any more.

use std::collections::VecDeque;

/// Samples remembered per result.
const REMEMBERED: usize = 9;
/// Fewer samples decide nothing.
const ENOUGH: usize = 3;
/// Smaller deltas are never worth a full refresh: their time is all fixed cost.
const SMALL: u64 = 1_000;
/// A full refresh has to promise this much less time.
const MARGIN: f64 = 1.2;

/// What is known of the cost of refreshing one result.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Milliseconds per changed row of the last differential refreshes, oldest first.
    samples: VecDeque<f64>,
}

impl Cost {
    /// Notes a differential refresh of `rows` changed rows that took `ms` milliseconds.
    pub fn note(&mut self, rows: u64, ms: f64) {
        if rows < SMALL || !ms.is_finite() || ms < 0.0 {
            return;
        }
        if self.samples.len() == REMEMBERED {
            self.samples.pop_front();
        }
        self.samples.push_back(ms / rows as f64);
    }

    /// The milliseconds a differential refresh of `rows` changed rows will take, given that the last full one took
    /// `full_ms`. None if too little is known.
    pub fn predict(&self, rows: u64, full_ms: f64) -> Option<f64> {
        if rows < SMALL || self.samples.len() < ENOUGH || full_ms <= 0.0 {
            return None;
        }
        let all: Vec<f64> = self.samples.iter().copied().collect();
        let middle = median(&all)?;
        let deviation = median(
            &all.iter()
                .map(|sample| (sample - middle).abs())
                .collect::<Vec<_>>(),
        )?;
        let usual: Vec<f64> = all
            .into_iter()
            .filter(|sample| (sample - middle).abs() <= 3.0 * deviation)
            .collect();
        let per_row = median(&usual)?;
        Some((per_row * rows as f64).clamp(0.5 * full_ms, 4.0 * full_ms))
    }

    /// A full refresh is expected to be faster.
    pub fn prefers_full(&self, rows: u64, full_ms: Option<f64>) -> bool {
        let Some(full_ms) = full_ms else {
            return false;
        };
        self.predict(rows, full_ms)
            .is_some_and(|expected| expected > MARGIN * full_ms)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: &[(u64, f64)]) -> Cost {
        let mut cost = Cost::default();
        for (rows, ms) in samples {
            cost.note(*rows, *ms);
        }
        cost
    }

    #[test]
    fn too_little_is_known_at_first_and_of_small_deltas() {
        assert!(!after(&[(10_000, 500.0), (10_000, 500.0)]).prefers_full(10_000, Some(100.0)));
        let known = after(&[(10_000, 500.0); 5]);
        assert!(known.prefers_full(10_000, Some(100.0)));
        assert!(!known.prefers_full(900, Some(1.0)));
        assert!(!known.prefers_full(10_000, None));
    }

    #[test]
    fn step_up_and_down_is_followed() {
        let cost = after(&[(10_000, 100.0); 9]);
        assert!(!cost.prefers_full(10_000, Some(200.0)));
        assert!(cost.prefers_full(50_000, Some(200.0)));
        assert!(
            !cost.prefers_full(10_000, Some(200.0)),
            "the delta is small again"
        );
    }

    #[test]
    fn sawtooth_recovers_from_a_spike_at_once() {
        let mut cost = after(&[(10_000, 50.0); 6]);
        cost.note(10_000, 5_000.0);
        for _ in 0..5 {
            assert!(
                !cost.prefers_full(10_000, Some(100.0)),
                "one spike does not decide"
            );
            cost.note(10_000, 50.0);
        }
    }

    #[test]
    fn prediction_stays_in_sight_of_the_last_full_refresh() {
        let cost = after(&[(1_000, 900.0); 9]);
        assert_eq!(cost.predict(1_000_000, 10.0), Some(40.0));
        assert_eq!(after(&[(1_000, 0.001); 9]).predict(1_000, 10.0), Some(5.0));
    }
}
