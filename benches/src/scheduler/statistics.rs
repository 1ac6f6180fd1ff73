//! What a scheduler counts of itself.

use pgt_tests::Session;

/// Wake-ups of the scheduler of a database, and the microseconds it spent in them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    pub wakeups: f64,
    pub busy_us: f64,
    pub max_us: f64,
    /// Of `busy_us`, what reading definitions took.
    pub reading_us: f64,
    /// Stream tables it knows of now.
    pub stream_tables: f64,
}

impl Statistics {
    pub fn read(session: &mut Session) -> Self {
        let rows = session.rows(
            "select wakeups, busy_us, max_us, reading_us, stream_tables from pgtrickle.scheduler_statistics()",
        );
        let value = |column: usize| {
            rows.first()
                .and_then(|row| row[column].as_deref()?.parse().ok())
                .unwrap_or(0.0)
        };
        Self {
            wakeups: value(0),
            busy_us: value(1),
            max_us: value(2),
            reading_us: value(3),
            stream_tables: value(4),
        }
    }

    /// What happened since; the longest wake-up is that of all time.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            wakeups: self.wakeups - before.wakeups,
            busy_us: self.busy_us - before.busy_us,
            max_us: self.max_us,
            reading_us: self.reading_us - before.reading_us,
            stream_tables: self.stream_tables,
        }
    }

    /// The mean wake-up in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        self.busy_us / self.wakeups / 1000.0
    }
}
