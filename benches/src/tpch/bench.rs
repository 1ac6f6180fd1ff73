//! One query of TPC-H at a time: kept differentially and fully while orders or supplies change.

use pgt_tests::tpch::{Changes, Kind, Query, Taste, load};
use pgt_tests::{Database, Server, Session, SqlError, StreamTable, quote};

use crate::sample::{Sample, timed};
use crate::server::without_waiting_for_disk;

/// Loaded data and sessions.
pub struct Bench<'s> {
    database: Database<'s>,
    scale: f64,
    changes: Changes,
    writer: Session,
    refresher: Session,
}

/// How much changes in one round.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// That share of `orders` and `lineitem`, or of `partsupp` for a query that reads neither.
    Share(f64),
    Rows(i64),
}

/// What is measured for one query and one amount.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub amount: Amount,
    /// Rounds measured, after one that is not.
    pub rounds: usize,
    /// Of these, those in which the query and a full refresh are measured too.
    pub comparisons: usize,
    /// Rounds afterwards in mode AUTO, beside full refreshes, after as many from which it learns.
    pub automatic: usize,
}

/// What one query cost after changes of one amount, in milliseconds.
#[derive(Default)]
pub struct Times {
    pub changed: Sample,
    pub differential: Sample,
    pub query: Sample,
    pub full: Sample,
    /// A refresh in mode AUTO, and the full one beside it.
    pub automatic: Sample,
    pub beside: Sample,
}

/// What became of one query.
pub enum Outcome {
    /// Not accepted in mode DIFFERENTIAL, and what the server said.
    Refused(String),
    /// A refresh failed or was no differential one, or the contents differed from the query afterwards.
    Failed(String),
    /// Times for each plan; the contents equalled the query after each.
    Measured(Vec<Times>),
}

impl Outcome {
    pub fn times(&self) -> Option<&[Times]> {
        match self {
            Self::Measured(times) => Some(times),
            Self::Refused(_) | Self::Failed(_) => None,
        }
    }
}

impl<'s> Bench<'s> {
    pub fn load(server: &'s Server, scale: f64) -> Self {
        let database = server.database();
        let mut writer = database.connect();
        // Building the indexes and statistics of large data may take longer than anything in a test.
        writer.exec("set statement_timeout = 0");
        without_waiting_for_disk(&mut writer);
        load(writer.client(), scale).unwrap_or_else(|e| panic!("could not load TPC-H data: {e:?}"));
        let mut refresher = database.connect();
        without_waiting_for_disk(&mut refresher);
        Self {
            scale,
            changes: Changes::open(&mut writer, Taste::Even),
            writer,
            refresher,
            database,
        }
    }

    pub fn measure(&mut self, query: &Query, plans: &[Plan]) -> Outcome {
        let text = query.text(self.scale);
        let stream = StreamTable::new(&format!("q{}", query.number), &text);
        let full = StreamTable::new(&format!("full_q{}", query.number), &text);
        if let Err(e) = self.create(&stream, "DIFFERENTIAL") {
            return Outcome::Refused(e.message);
        }
        let outcome = self.carry_out(query, &stream, &full, plans);
        self.start_anew(&[&stream, &full]);
        match outcome {
            Ok(times) => Outcome::Measured(times),
            Err(message) => Outcome::Failed(message),
        }
    }

    fn carry_out(
        &mut self,
        query: &Query,
        stream: &StreamTable,
        full: &StreamTable,
        plans: &[Plan],
    ) -> Result<Vec<Times>, String> {
        if plans.iter().any(|plan| plan.comparisons > 0) {
            self.create(full, "FULL").map_err(|e| e.to_string())?;
        }
        plans
            .iter()
            .map(|plan| self.rounds(query, stream, full, plan))
            .collect()
    }

    fn create(&mut self, stream: &StreamTable, mode: &str) -> Result<(), SqlError> {
        self.writer.try_exec(&format!(
            "select pgtrickle.create_stream_table({}, {}, schedule => '1d', refresh_mode => '{mode}')",
            quote(stream.name()),
            quote(stream.query())
        ))
    }

    /// Drops the stream tables; whatever session failed is replaced.
    fn start_anew(&mut self, streams: &[&StreamTable]) {
        self.refresher = self.database.connect();
        without_waiting_for_disk(&mut self.refresher);
        for stream in streams {
            let drop = format!(
                "select pgtrickle.drop_stream_table({})",
                quote(stream.name())
            );
            // One that could not be created cannot be dropped.
            let _ = self.writer.try_exec(&drop);
        }
    }

    /// Rounds of: change rows, then bring the result up to date in every way, in alternating order.
    fn rounds(
        &mut self,
        query: &Query,
        stream: &StreamTable,
        full: &StreamTable,
        plan: &Plan,
    ) -> Result<Times, String> {
        self.vacuum();
        let mut times = Times::default();
        for round in 0..=plan.rounds {
            let changed = self.change(query, plan.amount);
            let mut now = Times::default();
            for differential in [round % 2 == 0, round % 2 == 1] {
                if differential {
                    let time = self.refresh(stream)?;
                    now.differential.push(time);
                    self.assert_differential(stream)?;
                } else if plan.comparisons > 0 && round <= plan.comparisons {
                    let (time, rows) = timed(|| self.refresher.try_rows(stream.query()));
                    rows.map_err(|e| e.to_string())?;
                    now.query.push_ms(time);
                    now.full.push(self.refresh(full)?);
                }
            }
            if round > 0 {
                times.changed.push(changed as f64);
                times.add(&now);
            }
        }
        self.compare(stream)?;
        if plan.automatic > 0 {
            self.automatic(query, stream, full, plan, &mut times)?;
            self.compare(stream)?;
        }
        Ok(times)
    }

    /// Rounds in which the server chooses how to refresh.
    fn automatic(
        &mut self,
        query: &Query,
        stream: &StreamTable,
        full: &StreamTable,
        plan: &Plan,
        times: &mut Times,
    ) -> Result<(), String> {
        let alter = format!(
            "select pgtrickle.alter_stream_table({}, refresh_mode => 'AUTO')",
            quote(stream.name())
        );
        self.writer.try_exec(&alter).map_err(|e| e.to_string())?;
        self.refresh(stream)?;
        for round in 0..2 * plan.automatic {
            self.change(query, plan.amount);
            let mut now = Times::default();
            for chosen in [round % 2 == 0, round % 2 == 1] {
                if chosen {
                    now.automatic.push(self.refresh(stream)?);
                } else {
                    now.beside.push(self.refresh(full)?);
                }
            }
            if round >= plan.automatic {
                times.add(&now);
            }
        }
        Ok(())
    }

    /// New and cancelled orders, one quarter of the rows each, and other values for the rest; or other supplies.
    fn change(&mut self, query: &Query, amount: Amount) -> u64 {
        let base = if query.reads_orders() {
            "select (select count(*) from orders) + (select count(*) from lineitem)"
        } else {
            "select count(*) from partsupp"
        };
        let rows = match amount {
            Amount::Share(share) => (self.writer.number(base) as f64 * share).round() as i64,
            Amount::Rows(rows) => rows,
        };
        let parts: &[(Kind, i64)] = if query.reads_orders() {
            &[
                (Kind::Placed, rows / 4),
                (Kind::Cancelled, rows / 4),
                (Kind::Corrected, rows / 2),
            ]
        } else {
            &[(Kind::Supplies, rows)]
        };
        parts
            .iter()
            .map(|(kind, rows)| self.changes.apply(&mut self.writer, *kind, *rows))
            .sum()
    }

    /// The call as its client sees it.
    fn refresh(&mut self, stream: &StreamTable) -> Result<f64, String> {
        let sql = format!(
            "select pgtrickle.refresh_stream_table({})",
            quote(stream.name())
        );
        let (time, result) = timed(|| self.refresher.try_rows(&sql));
        result.map_err(|e| format!("refresh: {e}"))?;
        Ok(time.as_secs_f64() * 1000.0)
    }

    fn assert_differential(&mut self, stream: &StreamTable) -> Result<(), String> {
        let (action, reason) = stream.last_refresh(&mut self.writer);
        // Changes that do not reach the result leave the entry of its creation the last one.
        if action == "DIFFERENTIAL" || reason.as_deref() == Some("initial") {
            Ok(())
        } else {
            Err(format!("refresh was {action}: {reason:?}"))
        }
    }

    fn compare(&mut self, stream: &StreamTable) -> Result<(), String> {
        let difference = stream
            .try_difference(&mut self.writer, false)
            .map_err(|e| format!("comparison: {e}"))?;
        match difference.first() {
            None => Ok(()),
            Some(row) => Err(format!("differs from its query: {row}")),
        }
    }

    /// What autovacuum would have done by now; it leaves the logs alone.
    fn vacuum(&mut self) {
        let tables = self.writer.value(
            "select string_agg(oid::regclass::text, ', ') from pg_class
             where relkind = 'r' and relnamespace::regnamespace::text in ('public', 'pgtrickle', 'pgtrickle_stages')",
        );
        self.writer.exec(&format!("vacuum analyze {tables}"));
    }
}

impl Times {
    fn add(&mut self, other: &Self) {
        self.differential.extend(&other.differential);
        self.query.extend(&other.query);
        self.full.extend(&other.full);
        self.automatic.extend(&other.automatic);
        self.beside.extend(&other.beside);
    }
}
