//! Full or differential: a prediction from the times of earlier refreshes.
//!
//! The time of a differential refresh is predicted as `a + b x rows`, or as the median time per row where the deltas were
//! all of about one size and a line through them means nothing. Samples further than three times the median absolute
//! deviation from the line through most of them (its slope the median of the slopes between any two, its height the median of
//! what is left) do not count, so that one slow refresh (a cold cache, a busy machine) does not decide, and neither does it
//! count as one to be large where most deltas are not; the others are fitted by least squares. Deltas of a few rows are kept
//! apart: their time is all fixed cost, and there are so many of them that nothing else would be remembered.
//!
//! A full refresh is expected to take the median of the last ones, for the same reason. The prediction is clamped to [0.5, 4]
//! times that: beyond it is no measurement any more. Samples of the first minute are of a server that is warming up.
//!
//! Each way is tried again when what is known of it is old: without recent differential refreshes nothing is predicted, and
//! where no full one is recent (the first may have been slow for reasons of its own) one is tried if it may be the faster
//! way.

use std::collections::VecDeque;

/// Samples remembered per result.
pub const REMEMBERED: usize = 16;
/// The same of small deltas.
pub const REMEMBERED_SMALL: usize = 8;
/// The same of full refreshes.
pub const REMEMBERED_FULL: usize = 5;
/// The time of smaller deltas is all fixed cost.
const SMALL: u64 = 1_000;
/// Up to how many times the largest delta measured the line says that a differential refresh is faster.
const REACH: u64 = 4;
/// A full refresh may be faster than the ones before if a differential one is expected to take this part of their time.
const WORTH_TRYING: f64 = 0.6;
/// Deviations below this part of the time itself are none.
const NOISE: f64 = 0.05;
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
    /// It says something about the cost of a refresh as such, not of changes.
    pub fn is_small(&self) -> bool {
        self.rows < SMALL
    }

    fn counts(&self) -> bool {
        self.rows > 0 && self.ms.is_finite() && self.ms >= 0.0
    }

    fn per_row(&self) -> f64 {
        self.ms / self.rows as f64
    }
}

/// What is known of the cost of refreshing one result: the last samples, oldest first, and when there was the first one.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub samples: VecDeque<Sample>,
    /// Those of small deltas.
    pub small: VecDeque<Sample>,
    /// Full refreshes, whatever had changed.
    pub full: VecDeque<Sample>,
    pub first_at: Option<i64>,
}

impl Cost {
    /// Notes a differential refresh.
    pub fn note(&mut self, sample: Sample) {
        if !sample.counts() {
            return;
        }
        self.first_at.get_or_insert(sample.at);
        let (samples, most) = if sample.is_small() {
            (&mut self.small, REMEMBERED_SMALL)
        } else {
            (&mut self.samples, REMEMBERED)
        };
        if samples.len() == most {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Notes a full refresh.
    pub fn note_full(&mut self, sample: Sample) {
        if self.full.len() == REMEMBERED_FULL {
            self.full.pop_front();
        }
        self.full.push_back(sample);
    }

    /// The milliseconds a full refresh will take, given what the last one took.
    pub fn expect_full(&self, last_ms: Option<f64>) -> Option<f64> {
        median(self.full.iter().map(|sample| sample.ms)).or(last_ms)
    }

    /// The milliseconds a differential refresh of `rows` changed rows will take, where a full one takes `full_ms`. None
    /// if too little is known.
    pub fn predict(&self, rows: u64, full_ms: f64, now: i64, rules: &Prediction) -> Option<f64> {
        if full_ms <= 0.0 {
            return None;
        }
        let expected = if rows < SMALL {
            median(
                self.recent(&self.small, now, rules)?
                    .iter()
                    .map(|sample| sample.ms),
            )?
        } else {
            let usual = without_outliers(self.recent(&self.samples, now, rules)?);
            match line(&usual) {
                Some((fixed, per_row)) => fixed + per_row * rows as f64,
                None => median(usual.iter().map(Sample::per_row))? * rows as f64,
            }
        };
        Some(expected.clamp(0.5 * full_ms, 4.0 * full_ms))
    }

    /// Those that count, if they are enough.
    fn recent(
        &self,
        samples: &VecDeque<Sample>,
        now: i64,
        rules: &Prediction,
    ) -> Option<Vec<Sample>> {
        let warm = self.first_at? + if rules.warm_up { WARM_UP } else { 0 };
        let recent: Vec<Sample> = samples
            .iter()
            .copied()
            .filter(|sample| sample.at >= warm && sample.at >= now - rules.window)
            .collect();
        (recent.len() >= rules.min_samples.max(1)).then_some(recent)
    }

    /// A full refresh is expected to be faster, or is not; none if too little is known to say either. `last_ms` is what the
    /// last full one took.
    pub fn prefers_full(
        &self,
        rows: u64,
        last_ms: Option<f64>,
        now: i64,
        rules: &Prediction,
    ) -> Option<bool> {
        let full_ms = self.expect_full(last_ms)?;
        let expected = self.predict(rows, full_ms, now, rules)?;
        let largest = self.samples.iter().map(|sample| sample.rows).max();
        let recent = |sample: &Sample| sample.at >= now - rules.window;
        let untried = !self.full.iter().any(recent);
        if expected > rules.ratio * full_ms || untried && expected > WORTH_TRYING * full_ms {
            Some(true)
        } else if rows < SMALL || largest.is_some_and(|largest| rows <= REACH * largest) {
            Some(false)
        } else {
            None
        }
    }
}

/// Leaves out what is far from the line through most of them.
fn without_outliers(samples: Vec<Sample>) -> Vec<Sample> {
    let mut slopes = Vec::new();
    for (number, one) in samples.iter().enumerate() {
        for other in &samples[..number] {
            let rows = one.rows as f64 - other.rows as f64;
            if rows.abs() > ONE_SIZE * one.rows as f64 {
                slopes.push((one.ms - other.ms) / rows);
            }
        }
    }
    let slope = median(slopes.into_iter()).unwrap_or(0.0);
    let above = |sample: &Sample| sample.ms - slope * sample.rows as f64;
    let Some(height) = median(samples.iter().map(above)) else {
        return samples;
    };
    let away = |sample: &Sample| (above(sample) - height).abs();
    let Some(deviation) = median(samples.iter().map(away)) else {
        return samples;
    };
    let usual = |sample: &Sample| {
        let expected = height + slope * sample.rows as f64;
        away(sample) <= (3.0 * deviation).max(NOISE * expected.abs())
    };
    samples.into_iter().filter(usual).collect()
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

    /// The same after a full refresh just now.
    fn with_full(known: &(Cost, i64), ms: f64) -> (Cost, i64) {
        let (mut cost, at) = known.clone();
        let rows = 10_000;
        cost.note_full(Sample { at, rows, ms });
        (cost, at)
    }

    fn prefers(known: &(Cost, i64), rows: u64, full_ms: Option<f64>) -> bool {
        known.0.prefers_full(rows, full_ms, known.1, &RULES) == Some(true)
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
        let prefers = |at| cost.prefers_full(10_000, Some(100.0), at, &RULES);
        assert_eq!(prefers(at), Some(true));
        assert_eq!(prefers(at + 3_600_000), None);
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
            assert_eq!(
                cost.prefers_full(10_000, Some(100.0), now, &RULES),
                Some(false),
                "one spike does not decide"
            );
            now = note(&mut cost, 50.0);
        }
    }

    #[test]
    fn few_large_deltas_among_others_are_no_outliers() {
        let known = after(&[
            (2_000, 12.0),
            (2_100, 13.0),
            (1_900, 11.0),
            (2_000, 12.0),
            (100_000, 1_010.0),
            (2_050, 12.0),
            (1_950, 12.0),
            (100_000, 990.0),
        ]);
        let expected = known.0.predict(50_000, 400.0, known.1, &RULES);
        assert!(
            expected.is_some_and(|ms| (ms - 500.0).abs() < 30.0),
            "{expected:?}"
        );
        assert!(!prefers(&with_full(&known, 400.0), 50_000, None));
        assert!(prefers(&with_full(&known, 300.0), 50_000, None));
    }

    #[test]
    fn full_refresh_that_may_be_faster_than_the_first_is_tried() {
        let known = after(&[(10_000, 70.0); 9]);
        assert!(
            !prefers(&known, 10_000, Some(120.0)),
            "by far the slower way"
        );
        assert!(prefers(&known, 10_000, Some(100.0)), "tried");
        assert!(
            !prefers(&with_full(&known, 100.0), 10_000, None),
            "it was slow"
        );
        assert!(
            prefers(&with_full(&known, 40.0), 10_000, None),
            "it was fast"
        );
        let later = (with_full(&known, 100.0).0, known.1 + 3_000_000);
        assert!(!prefers(&later, 10_000, None));
    }

    #[test]
    fn one_slow_full_refresh_does_not_decide() {
        let (mut cost, now) = after(&[(10_000, 300.0); 9]);
        for ms in [100.0, 110.0, 90.0, 100.0, 900.0] {
            cost.note_full(Sample {
                at: now,
                rows: 10_000,
                ms,
            });
        }
        assert_eq!(cost.expect_full(Some(900.0)), Some(100.0));
        let prefers = cost.prefers_full(10_000, Some(900.0), now, &RULES);
        assert_eq!(prefers, Some(true));
    }

    #[test]
    fn line_is_not_trusted_far_beyond_what_was_measured() {
        let (cost, now) = after(&[(10_000, 100.0); 9]);
        let prefers = |rows| cost.prefers_full(rows, Some(1_000_000.0), now, &RULES);
        assert_eq!(prefers(40_000), Some(false));
        assert_eq!(prefers(40_001), None);
    }

    #[test]
    fn small_deltas_that_cost_more_than_everything_are_noticed() {
        let slow = after(&[(20, 500.0); 8]);
        assert!(prefers(&slow, 30, Some(100.0)));
        assert!(!prefers(&with_full(&slow, 420.0), 30, None));
        assert!(
            !prefers(&slow, 10_000, Some(100.0)),
            "that says nothing of large ones"
        );
        let mostly = after(&[
            (20, 500.0),
            (20, 500.0),
            (20, 5.0),
            (20, 5.0),
            (20, 5.0),
            (20, 5.0),
            (20, 500.0),
        ]);
        assert!(!prefers(&mostly, 30, Some(100.0)), "spikes do not decide");
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
