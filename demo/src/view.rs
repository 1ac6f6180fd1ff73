//! The live view: a table that is redrawn in place on a terminal, plain lines elsewhere.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::Result;
use crate::monitor::Sample;
use crate::writer::Written;

pub struct View {
    medium: Medium,
    previous: Option<(Duration, Written)>,
}

enum Medium {
    Terminal,
    Lines,
}

const CLEAR_SCREEN: &str = "\x1b[2J";
const CURSOR_HOME: &str = "\x1b[H";
const CLEAR_LINE_END: &str = "\x1b[K";

impl View {
    pub fn on_terminal() -> Self {
        Self {
            medium: Medium::Terminal,
            previous: None,
        }
    }

    pub fn as_lines() -> Self {
        Self {
            medium: Medium::Lines,
            previous: None,
        }
    }

    /// How long to wait between two calls of [`View::show`].
    pub fn interval(&self) -> Duration {
        match self.medium {
            Medium::Terminal => Duration::from_millis(500),
            Medium::Lines => Duration::from_secs(5),
        }
    }

    pub fn show(
        &mut self,
        elapsed: Duration,
        duration: Duration,
        written: Written,
        samples: &[Sample],
    ) -> Result<()> {
        let rate = self.rate(elapsed, written);
        let mut text = format!(
            "pg_trickle demo   {:>3} of {} s   {rate:>6.0} changes/s   {} transactions, {} rows so far\n\n",
            elapsed.as_secs(),
            duration.as_secs(),
            written.transactions,
            written.rows,
        );
        writeln!(
            text,
            "{:<20} {:<20} {:>9} {:>10} {:>10} {:<12} {:>9}",
            "stream table", "shape", "stale s", "refresh ms", "delta rows", "mode", "rows"
        )?;
        for sample in samples {
            let last = sample.last.as_ref();
            writeln!(
                text,
                "{:<20} {:<20} {:>9} {:>10} {:>10} {:<12} {:>9}",
                sample.name,
                sample.shape,
                decimals(sample.staleness_s, 2),
                decimals(last.and_then(|refresh| refresh.duration_ms), 1),
                last.and_then(|refresh| refresh.delta_rows)
                    .map_or_else(|| "-".to_owned(), |rows| rows.to_string()),
                last.map_or("-", |refresh| refresh.mode.as_str()),
                sample.rows,
            )?;
        }

        let mut out = std::io::stdout().lock();
        match self.medium {
            Medium::Terminal => {
                let clear = if self.previous.is_none() {
                    CLEAR_SCREEN
                } else {
                    ""
                };
                let text = text.replace('\n', &format!("{CLEAR_LINE_END}\n"));
                write!(out, "{clear}{CURSOR_HOME}{text}")?;
            }
            Medium::Lines => writeln!(out, "{text}")?,
        }
        out.flush()?;
        self.previous = Some((elapsed, written));
        Ok(())
    }

    /// Rows per second since the last call.
    fn rate(&self, elapsed: Duration, written: Written) -> f64 {
        let (since, rows) = self
            .previous
            .map_or((Duration::ZERO, 0), |(since, before)| (since, before.rows));
        let seconds = elapsed.saturating_sub(since).as_secs_f64();
        if seconds > 0.0 {
            (written.rows - rows) as f64 / seconds
        } else {
            0.0
        }
    }
}

/// A number that may be missing.
pub fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.places$}"))
}
