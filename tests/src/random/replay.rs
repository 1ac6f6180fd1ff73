//! Carries a case out and compares.

use super::case::{Case, Event};
use super::query::Query;
use crate::database::Database;
use crate::server::Server;
use crate::session::{Session, SqlError};
use crate::stream_table::StreamTable;
use std::fmt;
use std::time::{Duration, Instant};

/// What went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub text: String,
}

/// Failures of one kind are taken for the same when a case is made smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Creating or refreshing failed with this SQLSTATE.
    Refused(String),
    /// A change failed with an SQLSTATE that is not its own fault.
    ChangeFailed(String),
    Different,
    WrongMode,
    /// The case itself is invalid: a fault of the generator.
    Invalid,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

fn failure(kind: Kind, text: impl fmt::Display) -> Failure {
    Failure {
        kind,
        text: text.to_string(),
    }
}

/// What became of a case's stream tables.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub created: usize,
    /// Left out, because the query is too large or PostgreSQL itself has no plan for it.
    pub skipped: usize,
    /// Left alone, because a refresh took too long although the query itself is small.
    pub slow: usize,
    /// Those that no refresh changed.
    pub idle: usize,
    /// Those in which equal rows decided for a while.
    pub tied: usize,
    /// The reasons for which they are not incremental, and the queries.
    pub refused: Vec<(String, String)>,
}

/// What takes longer runs away.
const LONGEST: &str = "20s";

/// A query that takes longer has become too large to be compared again.
const LONG: Duration = Duration::from_secs(1);

/// Largest query that is worth the time.
const MAX_ROWS: i64 = 2000;

struct Stream {
    table: StreamTable,
    bag: bool,
    /// Entries of the history up to this one have been looked at.
    seen: i64,
    /// There was a TRUNCATE, which takes effect whenever its transaction ends: refreshes may be full ones from then on.
    truncated: bool,
    /// It is not incremental, and so has another mode.
    refused: bool,
    /// Changes have made it too large to be worth the time.
    abandoned: bool,
}

struct Replay<'d> {
    db: &'d Database<'d>,
    reader: Session,
    streams: Vec<Stream>,
    settings: &'d str,
    /// Equal rows may decide.
    open: bool,
    tally: Tally,
}

/// Carries the case out in a fresh database, with `settings` in force where stream tables are refreshed.
pub fn replay(server: &Server, case: &Case, settings: &str) -> Result<Tally, Failure> {
    let db = server.database();
    let mut replay = Replay::prepare(
        &db,
        case,
        if case.open {
            "schedule => '1d', refresh_mode => 'AUTO'"
        } else {
            "schedule => '1d', refresh_mode => 'DIFFERENTIAL'"
        },
        settings,
    )?;
    // Whatever a refresh would wait for is held by this thread.
    replay.reader.exec("set lock_timeout = '40ms'");
    let mut writers: Vec<Session> = (0..case.sessions).map(|_| writer(&db)).collect();
    for event in &case.events {
        match event {
            Event::Statement { session, sql } => {
                replay.change(&mut writers[*session], sql)?;
            }
            Event::Refresh { stream } if *stream < replay.streams.len() => {
                replay.follow(*stream)?
            }
            Event::Refresh { .. } => {}
            Event::Rotate { relation } => replay.rotate(relation)?,
            Event::Check => {
                for stream in 0..replay.streams.len() {
                    replay.follow(stream)?;
                }
            }
        }
    }
    replay.end(&mut writers)?;
    Ok(replay.tally)
}

/// The same case with writers that run freely, and a scheduler that refreshes by itself.
pub fn replay_concurrently(server: &Server, case: &Case) -> Result<Tally, Failure> {
    let db = server.database();
    let mut replay = Replay::prepare(
        &db,
        case,
        "schedule => 'continuous', refresh_mode => 'DIFFERENTIAL'",
        "",
    )?;
    let scripts = case.scripts();
    let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let run = |script: Vec<String>| {
            let db = &db;
            scope.spawn(move || {
                let mut session = writer(db);
                session.exec("set lock_timeout = '2s'; set deadlock_timeout = '20ms'");
                for _ in 0..4 {
                    for sql in &script {
                        change(db, &mut session, sql)?;
                    }
                    let _ = session.try_exec("rollback");
                }
                Ok(())
            })
        };
        let running: Vec<_> = scripts.into_iter().map(run).collect();
        running
            .into_iter()
            .map(|r| r.join().expect("writer's thread"))
            .collect()
    });
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    for stream in &mut replay.streams {
        stream.truncated = true;
    }
    replay.end(&mut [])?;
    let broken = replay.reader.lines("select pgt_relid, status, last_error_message from pgtrickle.pgt_stream_tables natural join pgtrickle.pgt_refresh_state where status <> 'ACTIVE'");
    if broken.is_empty() {
        Ok(replay.tally)
    } else {
        Err(failure(Kind::WrongMode, broken.join("; ")))
    }
}

/// A session whose statements wait for each other only briefly: all are driven by one thread.
fn writer(db: &Database<'_>) -> Session {
    let mut session = db.connect();
    session.exec("set lock_timeout = '15ms'");
    session
}

impl<'d> Replay<'d> {
    fn prepare(
        db: &'d Database<'d>,
        case: &Case,
        arguments: &str,
        settings: &'d str,
    ) -> Result<Self, Failure> {
        let mut reader = db.connect();
        let setup = case
            .tables
            .iter()
            .map(super::schema::Table::definition)
            .chain(
                case.views
                    .iter()
                    .map(|(name, q)| format!("create view {name} as {}", q.sql())),
            )
            .chain(case.fill.iter().cloned());
        for sql in setup {
            reader
                .try_exec(&sql)
                .map_err(|e| failure(Kind::Invalid, format!("{e}\nin: {sql}")))?;
        }
        reader.exec(settings);
        if case.large {
            reader.exec("set pg_trickle.test_break = 'large_changes'");
        }
        if case.open {
            // Two evaluations of a query may pick different rows, and no refresh is full because that is faster.
            reader.exec("set pg_trickle.verify_refresh = off; set pg_trickle.refresh_strategy = 'differential'");
        }
        let mut replay = Self {
            db,
            reader,
            streams: Vec::new(),
            settings,
            open: case.open,
            tally: Tally::default(),
        };
        for (name, query) in &case.streams {
            let table = StreamTable::new(name, &query.sql());
            // One that reads a stream table that was left out is left out too.
            let exists = |n: &String| {
                !n.starts_with('v') || replay.streams.iter().any(|s| s.table.name() == n)
            };
            if !query.reads().iter().all(exists) || !replay.is_small(&table)? {
                replay.tally.skipped += 1;
                continue;
            }
            let read = query.reads();
            let bag = |(name, q): &(String, Query)| q.is_bag() || !read.contains(name);
            let bag = query.is_bag() && case.views.iter().all(bag);
            replay.create(table, arguments, bag)?;
        }
        Ok(replay)
    }

    /// Goes on without a stream table whose refresh or comparison takes too long. Time is no question of right and wrong:
    /// it is counted, unless the query itself, or one below, has become too large.
    fn leave_alone(&mut self, stream: usize) -> Result<(), Failure> {
        let table = self.streams[stream].table.clone();
        let below = self.streams[..stream].iter().any(|s| s.abandoned);
        let grown = below || !self.is_small(&table)?;
        self.streams[stream].abandoned = true;
        self.tally.slow += usize::from(!grown);
        Ok(())
    }

    fn is_small(&mut self, table: &StreamTable) -> Result<bool, Failure> {
        let count = format!(
            "set statement_timeout = '300ms'; select count(c.*) from (select * from ({}) q limit {}) c",
            table.query(),
            MAX_ROWS + 1
        );
        let counted = self.reader.try_rows(&count);
        self.reader
            .exec(&format!("set statement_timeout = '{LONGEST}'"));
        match counted {
            Ok(rows) => Ok(rows[0][0]
                .as_deref()
                .and_then(|n| n.parse::<i64>().ok())
                .is_some_and(|n| n <= MAX_ROWS)),
            // Too slow, or a FULL JOIN that PostgreSQL cannot carry out.
            Err(e) if ["57014", "0A000"].contains(&e.code.as_str()) => Ok(false),
            // PostgreSQL 18.6 cannot plan some queries that join laterally with functions.
            Err(e) if e.message.starts_with("wrong varnullingrels") => Ok(false),
            Err(e) => Err(failure(
                Kind::Invalid,
                format!("{e}\nin: {}", table.query()),
            )),
        }
    }

    fn create(&mut self, table: StreamTable, arguments: &str, bag: bool) -> Result<(), Failure> {
        let (name, query) = (
            table.name().to_string(),
            crate::session::quote(table.query()),
        );
        let sql = |arguments: &str| {
            format!("select pgtrickle.create_stream_table('{name}', {query}, {arguments})")
        };
        let mut created = self.reader.try_exec(&sql(arguments));
        let refused = matches!(&created, Err(e) if e.code == "0A000");
        self.tally.created += 1;
        if let Err(e) = &created
            && refused
        {
            self.tally
                .refused
                .push((e.to_string(), table.query().into()));
            created = self
                .reader
                .try_exec(&sql(&arguments.replace("DIFFERENTIAL", "AUTO")));
        }
        created.map_err(|e| {
            failure(
                Kind::Refused(e.code.clone()),
                format!("creating {name}: {e}\n{}", table.query()),
            )
        })?;
        let refused = refused
            || self.reader.value(&format!(
                "select effective_refresh_mode from pgtrickle.pgt_stream_tables where pgt_relid = '{name}'::regclass"
            )) == "FULL";
        self.streams.push(Stream {
            table,
            bag,
            seen: 0,
            truncated: false,
            refused,
            abandoned: false,
        });
        let stream = self.streams.len() - 1;
        self.compare(stream)?;
        self.streams[stream].seen = self.last_entry(stream);
        Ok(())
    }

    fn change(&mut self, session: &mut Session, sql: &str) -> Result<(), Failure> {
        if sql.starts_with("truncate") {
            for stream in &mut self.streams {
                stream.truncated = true;
            }
        }
        change(self.db, session, sql)
    }

    /// Refreshes one stream table, compares it, and looks at the mode.
    fn follow(&mut self, stream: usize) -> Result<(), Failure> {
        if self.streams[stream].abandoned {
            return Ok(());
        }
        let name = self.streams[stream].table.name().to_string();
        match self
            .reader
            .try_exec(&format!("select pgtrickle.refresh_stream_table('{name}')"))
        {
            Ok(()) => {}
            // A TRUNCATE is in flight: the refresh waits for it, and so it should.
            Err(e) if e.code == "55P03" && self.streams[stream].truncated => return Ok(()),
            Err(e) if e.code == "57014" => return self.leave_alone(stream),
            Err(e) => {
                return Err(failure(
                    Kind::Refused(e.code.clone()),
                    format!("refreshing {name}: {e}"),
                ));
            }
        }
        self.compare(stream)?;
        self.check_mode(stream)
    }

    fn rotate(&mut self, relation: &str) -> Result<(), Failure> {
        match self.reader.try_exec(&format!(
            "select pgtrickle.rotate_change_buffer('{relation}', force => true)"
        )) {
            Ok(()) => Ok(()),
            // Nobody reads it, or somebody who reads it is behind or at work.
            Err(e) if ["42P01", "55006", "55P03"].contains(&e.code.as_str()) => Ok(()),
            Err(e) => Err(failure(
                Kind::Refused(e.code.clone()),
                format!("rotating the log of {relation}: {e}"),
            )),
        }
    }

    /// Which rows are in it may be up to whoever evaluates the query.
    fn is_undecided(&mut self, stream: usize) -> bool {
        let name = self.streams[stream].table.name();
        self.open
            && self.reader.value(&format!(
                "select effective_mode from pgtrickle.explain_refresh_mode('{name}')"
            )) == "FULL"
    }

    fn compare(&mut self, stream: usize) -> Result<(), Failure> {
        if self.is_undecided(stream) {
            return Ok(());
        }
        let Stream { table, bag, .. } = &self.streams[stream];
        // Whoever truncates holds a lock that a comparison has to wait for; then there is nothing to compare now.
        let start = Instant::now();
        let exact = table.try_difference(&mut self.reader, *bag);
        let difference = match exact {
            Ok(difference) => difference,
            Err(e) if e.code == "55P03" => return Ok(()),
            Err(e) if e.code == "57014" => return self.leave_alone(stream),
            Err(e) => return Err(failure(Kind::Invalid, e)),
        };
        if difference.is_empty() {
            self.streams[stream].abandoned = start.elapsed() > LONG;
            return Ok(());
        }
        Err(failure(
            Kind::Different,
            format!(
                "{} differs from its query ({}):\n  {}\n{}",
                table.name(),
                self.settings,
                difference.join("\n  "),
                table.query()
            ),
        ))
    }

    fn check_mode(&mut self, stream: usize) -> Result<(), Failure> {
        let Stream {
            table,
            seen,
            truncated,
            refused,
            ..
        } = &self.streams[stream];
        let sql = format!(
            "select refresh_id, action, reason from pgtrickle.get_refresh_history('{}', 50) where refresh_id > {seen} and action not in ('DIFFERENTIAL', 'NO_DATA') and coalesce(reason not in ('ties', 'no more ties'), true)",
            table.name()
        );
        let wrong = self.reader.lines(&sql);
        if !wrong.is_empty() && !truncated && !refused {
            return Err(failure(
                Kind::WrongMode,
                format!("{}: {}\n{}", table.name(), wrong.join("; "), table.query()),
            ));
        }
        self.streams[stream].seen = self.last_entry(stream);
        Ok(())
    }

    fn last_entry(&mut self, stream: usize) -> i64 {
        let name = self.streams[stream].table.name();
        self.reader.number(&format!(
            "select coalesce(max(refresh_id), 0) from pgtrickle.get_refresh_history('{name}', 1)"
        ))
    }

    /// Ends what is in flight, and checks everything once more, with the product's own verifier too.
    fn end(&mut self, writers: &mut [Session]) -> Result<(), Failure> {
        for session in writers {
            let _ = session.try_exec("rollback");
        }
        for gid in self
            .reader
            .lines("select gid from pg_prepared_xacts where database = current_database()")
        {
            self.reader.exec(&format!("commit prepared '{gid}'"));
        }
        self.reader.exec("set lock_timeout = '30s'");
        for stream in 0..self.streams.len() {
            self.follow(stream)?;
            let name = self.streams[stream].table.name().to_string();
            let ties = format!(
                "select count(*) from pgtrickle.get_refresh_history('{name}', 1000) where reason like '%ties'"
            );
            self.tally.tied += usize::from(self.reader.number(&ties) > 0);
            if self.streams[stream].abandoned || self.is_undecided(stream) {
                continue;
            }
            let changed = format!(
                "select count(*) from pgtrickle.get_refresh_history('{name}', 1000)
                 where action = 'DIFFERENTIAL' and rows_inserted + rows_updated + rows_deleted > 0"
            );
            self.tally.idle += usize::from(self.reader.number(&changed) == 0);
            let line = self.reader.try_rows(&format!(
                "select ok, missing, surplus from pgtrickle.verify_stream_table('{name}')"
            ));
            match line {
                Ok(rows) if rows[0][0].as_deref() == Some("t") => {}
                Ok(rows) => {
                    return Err(failure(
                        Kind::Different,
                        format!(
                            "verify_stream_table({name}) says {rows:?} but the comparison found nothing"
                        ),
                    ));
                }
                Err(e) if e.code == "57014" => self.leave_alone(stream)?,
                Err(e) => {
                    return Err(failure(
                        Kind::Refused(e.code.clone()),
                        format!("verifying {name}: {e}"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// One statement of a writer. Sessions get into each other's way, which is theirs to bear; nothing else may fail.
fn change(db: &Database<'_>, session: &mut Session, sql: &str) -> Result<(), Failure> {
    let sql = sql.replace("$db", db.name());
    let Err(e) = session.try_exec(&sql) else {
        return Ok(());
    };
    if is_conflict(&e) {
        // A single statement has ended; a transaction stays aborted until its last statement comes.
        std::thread::sleep(Duration::from_millis(1));
        return Ok(());
    }
    Err(failure(
        Kind::ChangeFailed(e.code.clone()),
        format!("{e}\nin: {sql}"),
    ))
}

fn is_conflict(e: &SqlError) -> bool {
    const CONFLICTS: [&str; 8] = [
        "55P03", // lock_not_available
        "40001", // serialization_failure
        "40P01", // deadlock_detected
        "23505", // unique_violation: another session was faster
        "25P02", // in_failed_sql_transaction
        "3B001", // invalid savepoint, its transaction being gone
        "42704", // prepared transaction does not exist, since it failed before
        "25P01", // no_active_sql_transaction
    ];
    CONFLICTS.contains(&e.code.as_str())
}
