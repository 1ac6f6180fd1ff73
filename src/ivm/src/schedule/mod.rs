//! Decisions with the clock as an argument: when is a stream table due, when is a failed refresh tried again.

mod board;
mod cost;
mod duration;
mod retry;
mod tier;

use croner::Cron;
use croner::parser::{CronParser, Seconds};

pub use board::{Board, Decision, Entry, Group, Policy, Rules};
pub use cost::{
    Cost, Prediction, REMEMBERED as COST_SAMPLES, REMEMBERED_FULL as FULL_COST_SAMPLES,
    REMEMBERED_SMALL as SMALL_COST_SAMPLES, Sample,
};
pub use retry::retry_delay_ms;
pub use tier::Tier;

/// When a stream table is refreshed, as its owner wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Milliseconds between refreshes.
    Every(u64),
    Cron(Box<Cron>),
    /// As often as its readers need.
    Calculated,
    /// As soon as a commit touches a source.
    Continuous,
}

/// A schedule that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("{0}")]
    Duration(String),
    #[error("the cron expression is not valid: {0}")]
    Cron(String),
    #[error("the schedule is empty")]
    Empty,
}

impl Schedule {
    /// Parses `500ms`, `1h30m`, `*/5 * * * *`, `@hourly`, `calculated` or `continuous`.
    pub fn parse(text: &str) -> Result<Schedule, Invalid> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "" => return Err(Invalid::Empty),
            "calculated" => return Ok(Schedule::Calculated),
            "continuous" => return Ok(Schedule::Continuous),
            _ => {}
        }
        if text.starts_with('@') || text.contains(' ') {
            let parser = CronParser::builder().seconds(Seconds::Optional).build();
            let cron = parser
                .parse(text)
                .map_err(|problem| Invalid::Cron(problem.to_string()))?;
            return Ok(Schedule::Cron(Box::new(cron)));
        }
        duration::parse(text).map(Schedule::Every)
    }
}

/// The next moment after `last` at which a cron expression is due, in milliseconds since the epoch (UTC).
fn next_cron_ms(cron: &Cron, last: i64) -> Option<i64> {
    let from = chrono::DateTime::from_timestamp_millis(last - last.rem_euclid(1_000))?;
    cron.find_next_occurrence(&from, false)
        .ok()
        .map(|next| next.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up() {
        assert_eq!(Schedule::parse("1h30m"), Ok(Schedule::Every(5_400_000)));
        assert_eq!(Schedule::parse("100ms"), Ok(Schedule::Every(100)));
        assert_eq!(
            Schedule::parse("2w1d"),
            Ok(Schedule::Every(15 * 86_400_000))
        );
    }

    #[test]
    fn words_are_schedules_too() {
        assert_eq!(Schedule::parse(" Continuous "), Ok(Schedule::Continuous));
        assert_eq!(Schedule::parse("calculated"), Ok(Schedule::Calculated));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "1",
            "s",
            "1y",
            "1h 30m",
            "* * *",
            "@sometimes",
            "-5s",
            "0s",
            "99999999999999999999d",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn cron_finds_the_next_minute() {
        let next = |text: &str, last: i64| match Schedule::parse(text) {
            Ok(Schedule::Cron(cron)) => next_cron_ms(&cron, last),
            other => panic!("{other:?}"),
        };
        // 1970-01-01 00:07:00 -> 00:10:00
        assert_eq!(next("*/5 * * * *", 7 * 60_000), Some(10 * 60_000));
        assert_eq!(next("@hourly", 1), Some(3_600_000));
    }
}
