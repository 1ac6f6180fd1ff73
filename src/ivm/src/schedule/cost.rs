//! Full or differential: a prediction from the times of earlier refreshes.
//!
//! Samples further than three times the median absolute deviation from the median time per changed row are left out, so
//! that one slow refresh (a cold cache, a busy machine) does not decide. From the others the time of a differential
//! refresh is predicted by least squares as `a + b x rows`, or as the median time per row where the deltas were all of
//! about one size and a line through them means nothing. The prediction is clamped to [0.5, 4] times the last full
//! refresh: beyond that it is no measurement any more. Samples of the first minute are of a server that is warming up.

use std::collections::VecDeque;

/// Samples remembered per result.
pub const REMEMBERED: usize = 16;
/// Smaller deltas are never worth a full refresh: their time is all fixed cost.
const SMALL: u64 = 1_000;
/// Milliseconds after the first sample during which samples do not count.
const WARM_UP: i64 = 60_000;
/// Deltas whose sizes deviate less than this from their mean, relative to it, are of one size.
const ONE_SIZE: f64 = 0.05;

/// When a prediction is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Fewer samples decide nothing.
    pub min_samples: usize,
    /// Older samples do not count, in milliseconds.
    pub window: i64,
    /// A differential refresh has to be expected to take this many times as long as the last full one.
    pub ratio: f64,
    /// Samples of the first minute do not count.
    pub warm_up: bool,
}

/// A differential refresh that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it ended, in milliseconds since the epoch.
    pub at: i64,
    pub rows: u64,
    pub ms: f64,
}

impl Sample {
    /// It says something about the cost of changes.
    pub fn counts(&self) -> bool {
        self.rows >= SMALL && self.ms.is_finite() && self.ms >= 0.0
    }

    fn per_row(&self) -> f64 {
        self.ms / self.rows as f64
    }
}

/// What is known of the cost of refreshing one result: the last samples, oldest first, and when there was the first one.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub samples: VecDeque<Sample>,
    pub first_at: Option<i64>,
}

impl Cost {
    /// Notes a differential refresh.
    pub fn note(&mut self, sample: Sample) {
        if !sample.counts() {
            return;
        }
        self.first_at.get_or_insert(sample.at);
        if self.samples.len() == REMEMBERED {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The milliseconds a differential refresh of `rows` changed rows will take, given that the last full one took
    /// `full_ms`. None if too little is known.
    pub fn predict(&self, rows: u64, full_ms: f64, now: i64, rules: &Prediction) -> Option<f64> {
        if rows < SMALL || full_ms <= 0.0 {
            return None;
        }
        let warm = self.first_at? + if rules.warm_up { WARM_UP } else { 0 };
        let recent: Vec<Sample> = self
            .samples
            .iter()
            .copied()
            .filter(|sample| sample.at >= warm && sample.at >= now - rules.window)
            .collect();
        if recent.len() < rules.min_samples.max(1) {
            return None;
        }
        let usual = without_outliers(recent);
        let expected = match line(&usual) {
            Some((fixed, per_row)) => fixed + per_row * rows as f64,
            None => median(usual.iter().map(Sample::per_row))? * rows as f64,
        };
        Some(expected.clamp(0.5 * full_ms, 4.0 * full_ms))
    }

    /// A full refresh is expected to be faster.
    pub fn prefers_full(
        &self,
        rows: u64,
        full_ms: Option<f64>,
        now: i64,
        rules: &Prediction,
    ) -> bool {
        let Some(full_ms) = full_ms else {
            return false;
        };
        self.predict(rows, full_ms, now, rules)
            .is_some_and(|expected| expected > rules.ratio * full_ms)
    }
}

fn without_outliers(samples: Vec<Sample>) -> Vec<Sample> {
    let Some(middle) = median(samples.iter().map(Sample::per_row)) else {
        return samples;
    };
    let away = |sample: &Sample| (sample.per_row() - middle).abs();
    let Some(deviation) = median(samples.iter().map(away)) else {
        return samples;
    };
    samples
        .into_iter()
        .filter(|sample| away(sample) <= 3.0 * deviation)
        .collect()
}

/// Ordinary least squares of ms over rows: intercept and slope, neither below zero. None where the sizes hardly differ.
fn line(samples: &[Sample]) -> Option<(f64, f64)> {
    let count = samples.len() as f64;
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let rows = mean(&|sample| sample.rows as f64);
    let ms = mean(&|sample| sample.ms);
    let variance = mean(&|sample| (sample.rows as f64 - rows).powi(2));
    if samples.len() < 3 || variance.sqrt() < ONE_SIZE * rows {
        return None;
    }
    let covariance = mean(&|sample| (sample.rows as f64 - rows) * (sample.ms - ms));
    let slope = (covariance / variance).max(0.0);
    Some(((ms - slope * rows).max(0.0), slope))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Prediction = Prediction {
        min_samples: 5,
        window: 3_600_000,
        ratio: 1.5,
        warm_up: true,
    };

    /// One sample a minute, the first in the first minute.
    fn after(samples: &[(u64, f64)]) -> (Cost, i64) {
        let mut cost = Cost::default();
        let mut at = 0;
        cost.note(Sample {
            at,
            rows: 1_000,
            ms: 1.0,
        });
        for (rows, ms) in samples {
            at += 60_000;
            cost.note(Sample {
                at,
                rows: *rows,
                ms: *ms,
            });
        }
        (cost, at)
    }

    fn prefers(known: &(Cost, i64), rows: u64, full_ms: Option<f64>) -> bool {
        known.0.prefers_full(rows, full_ms, known.1, &RULES)
    }

    #[test]
    fn too_little_is_known_at_first_and_of_small_deltas() {
        assert!(!prefers(&after(&[(10_000, 500.0); 4]), 10_000, Some(100.0)));
        let known = after(&[(10_000, 500.0); 5]);
        assert!(prefers(&known, 10_000, Some(100.0)));
        assert!(!prefers(&known, 900, Some(1.0)));
        assert!(!prefers(&known, 10_000, None));
    }

    #[test]
    fn first_minute_does_not_count() {
        let mut cost = Cost::default();
        for second in 0..16 {
            cost.note(Sample {
                at: second * 1_000,
                rows: 10_000,
                ms: 500.0,
            });
        }
        assert_eq!(cost.predict(10_000, 100.0, 16_000, &RULES), None);
        let cold = Prediction {
            warm_up: false,
            ..RULES
        };
        assert_eq!(cost.predict(10_000, 100.0, 16_000, &cold), Some(400.0));
    }

    #[test]
    fn old_samples_do_not_count() {
        let (cost, at) = after(&[(10_000, 500.0); 10]);
        assert!(cost.prefers_full(10_000, Some(100.0), at, &RULES));
        assert!(!cost.prefers_full(10_000, Some(100.0), at + 3_600_000, &RULES));
    }

    #[test]
    fn step_up_and_down_is_followed() {
        let known = after(&[(10_000, 100.0); 9]);
        assert!(!prefers(&known, 10_000, Some(200.0)));
        assert!(prefers(&known, 50_000, Some(200.0)));
        assert!(
            !prefers(&known, 10_000, Some(200.0)),
            "the delta is small again"
        );
    }

    #[test]
    fn sawtooth_recovers_from_a_spike_at_once() {
        let (mut cost, mut at) = after(&[(10_000, 50.0); 6]);
        let mut note = |cost: &mut Cost, ms: f64| {
            at += 60_000;
            cost.note(Sample {
                at,
                rows: 10_000,
                ms,
            });
            at
        };
        let mut now = note(&mut cost, 5_000.0);
        for _ in 0..5 {
            assert!(
                !cost.prefers_full(10_000, Some(100.0), now, &RULES),
                "one spike does not decide"
            );
            now = note(&mut cost, 50.0);
        }
    }

    #[test]
    fn fixed_cost_is_told_apart_from_that_of_rows() {
        let known = after(&[
            (1_000, 110.0),
            (2_000, 120.0),
            (4_000, 140.0),
            (8_000, 180.0),
            (16_000, 260.0),
            (1_500, 115.0),
        ]);
        let expected = known.0.predict(32_000, 300.0, known.1, &RULES);
        assert!(
            expected.is_some_and(|ms| (ms - 420.0).abs() < 30.0),
            "{expected:?}"
        );
    }

    #[test]
    fn prediction_stays_in_sight_of_the_last_full_refresh() {
        let (cost, now) = after(&[(1_000, 900.0); 9]);
        assert_eq!(cost.predict(1_000_000, 10.0, now, &RULES), Some(40.0));
        let (cost, now) = after(&[(1_000, 0.001); 9]);
        assert_eq!(cost.predict(1_000, 10.0, now, &RULES), Some(5.0));
    }
}
