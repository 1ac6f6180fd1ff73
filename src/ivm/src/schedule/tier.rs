//! Tiers and stretched intervals: how much longer than scheduled a stream table waits.

/// How warm a stream table is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// As scheduled.
    #[default]
    Hot,
    /// Half as often.
    Warm,
    /// A tenth as often.
    Cold,
    /// Never.
    Frozen,
}

impl Tier {
    pub fn parse(text: &str) -> Option<Tier> {
        Some(match text.to_ascii_lowercase().as_str() {
            "hot" => Tier::Hot,
            "warm" => Tier::Warm,
            "cold" => Tier::Cold,
            "frozen" => Tier::Frozen,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Tier::Hot => "hot",
            Tier::Warm => "warm",
            Tier::Cold => "cold",
            Tier::Frozen => "frozen",
        }
    }

    /// The factor on the interval; none for never.
    pub fn factor(self) -> Option<u32> {
        match self {
            Tier::Hot => Some(1),
            Tier::Warm => Some(2),
            Tier::Cold => Some(10),
            Tier::Frozen => None,
        }
    }
}

/// An interval is stretched at most by this.
const MOST: u32 = 8;

/// The share of its interval a refresh may take before the interval is stretched.
const FULL: f64 = 0.95;

/// The factor on an interval of `interval` ms after a refresh that took `took` ms, if it was `factor` before: twice as
/// much when the refresh filled the stretched interval, half as much when half of it would do.
pub(super) fn stretch(factor: u32, interval: f64, took: f64) -> u32 {
    let fills = |factor: f64| took >= FULL * interval * factor;
    let now = f64::from(factor);
    if fills(now) {
        (factor * 2).min(MOST)
    } else if factor > 1 && !fills(now / 2.0) {
        factor / 2
    } else {
        factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_refreshes_stretch_the_interval_up_to_eightfold() {
        let mut factor = 1;
        let mut seen = vec![];
        for _ in 0..5 {
            factor = stretch(factor, 1_000.0, 20_000.0);
            seen.push(factor);
        }
        assert_eq!(seen, [2, 4, 8, 8, 8]);
    }

    #[test]
    fn a_refresh_that_fits_keeps_the_factor_and_a_quick_one_lowers_it() {
        assert_eq!(stretch(2, 1_000.0, 1_500.0), 2);
        assert_eq!(stretch(2, 1_000.0, 900.0), 1);
        assert_eq!(stretch(1, 1_000.0, 10.0), 1);
        assert_eq!(stretch(8, 1_000.0, 10.0), 4);
    }
}
