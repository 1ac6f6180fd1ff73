//! One client connection. Statements go through the simple protocol, so values are texts and any statement will do.

use crate::stream_table::StreamTable;
use postgres::{CancelToken, Client, Config, NoTls, SimpleQueryMessage};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// One row, NULLs as `None`.
pub type Row = Vec<Option<String>>;

/// What the server says when it refuses; a lost connection has code `08006`.
#[derive(Clone, Debug)]
pub struct SqlError {
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\n  detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<postgres::Error> for SqlError {
    fn from(e: postgres::Error) -> Self {
        match e.as_db_error() {
            Some(db) => Self {
                code: db.code().code().into(),
                message: db.message().into(),
                detail: db.detail().map(Into::into),
                hint: db.hint().map(Into::into),
            },
            None => Self {
                code: "08006".into(),
                message: e.to_string(),
                detail: None,
                hint: None,
            },
        }
    }
}

/// A connection, closed when dropped.
pub struct Session {
    client: Client,
    pid: i32,
    notices: Arc<Mutex<Vec<SqlError>>>,
}

impl Session {
    pub(crate) fn open(socket_directory: &Path, database: &str, user: &str) -> Self {
        Self::try_open(socket_directory, database, user)
            .unwrap_or_else(|e| panic!("could not connect to {database} as {user}: {e}"))
    }

    pub(crate) fn try_open(
        socket_directory: &Path,
        database: &str,
        user: &str,
    ) -> Result<Self, SqlError> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&notices);
        let mut config = Config::new();
        config
            .host_path(socket_directory)
            .dbname(database)
            .user(user)
            .application_name("pgt_tests")
            // Nothing takes this long, unless it waits for ever.
            .options("-c statement_timeout=150s");
        config.notice_callback(move |n| {
            let notice = SqlError {
                code: n.code().code().into(),
                message: format!("{}: {}", n.severity(), n.message()),
                detail: n.detail().map(Into::into),
                hint: n.hint().map(Into::into),
            };
            heard.lock().expect("notices").push(notice);
        });
        let client = config.connect(NoTls)?;
        let mut session = Self {
            client,
            pid: 0,
            notices,
        };
        let pid = session.try_rows("select pg_backend_pid()")?;
        session.pid = pid[0][0]
            .as_deref()
            .and_then(|p| p.parse().ok())
            .unwrap_or(0);
        Ok(session)
    }

    /// The process id of the backend that serves this session.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Notices and warnings received since the last call.
    pub fn notices(&self) -> Vec<SqlError> {
        std::mem::take(&mut self.notices.lock().expect("notices"))
    }

    /// The client itself, for what the simple protocol cannot do.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    pub fn try_exec(&mut self, sql: &str) -> Result<(), SqlError> {
        self.client.batch_execute(sql).map_err(Into::into)
    }

    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Row>, SqlError> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql)? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|i| row.get(i).map(Into::into)).collect());
            }
        }
        Ok(rows)
    }

    /// Several statements in one text are one transaction, unless they say otherwise.
    #[track_caller]
    pub fn exec(&mut self, sql: &str) {
        if let Err(e) = self.try_exec(sql) {
            panic!("{e}\nin: {sql}");
        }
    }

    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Row> {
        match self.try_rows(sql) {
            Ok(rows) => rows,
            Err(e) => panic!("{e}\nin: {sql}"),
        }
    }

    /// The rows, each as its values with `|` between and `-` for NULL, in one line each.
    #[track_caller]
    pub fn lines(&mut self, sql: &str) -> Vec<String> {
        let text = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
        self.rows(sql)
            .iter()
            .map(|r| r.iter().map(text).collect::<Vec<_>>().join("|"))
            .collect()
    }

    /// The one column of the one row, NULL as `None`.
    #[track_caller]
    pub fn nullable(&mut self, sql: &str) -> Option<String> {
        let rows = self.rows(sql);
        assert!(
            rows.len() == 1 && rows[0].len() == 1,
            "expected one value, got {rows:?}\nin: {sql}"
        );
        rows[0][0].clone()
    }

    /// The one column of the one row, which is not NULL.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        match self.nullable(sql) {
            Some(value) => value,
            None => panic!("expected a value, got NULL\nin: {sql}"),
        }
    }

    /// Seconds the contents of the stream table lie behind its sources.
    #[track_caller]
    pub fn staleness(&mut self, name: &str) -> f64 {
        let seconds = self.value(&format!("select pgtrickle.get_staleness('{name}')"));
        seconds.parse().expect("seconds")
    }

    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let value = self.value(sql);
        value
            .parse()
            .unwrap_or_else(|_| panic!("expected a number, got {value}\nin: {sql}"))
    }

    /// The statement must fail with this SQLSTATE; returns what the server said.
    #[track_caller]
    pub fn error(&mut self, sqlstate: &str, sql: &str) -> SqlError {
        match self.try_rows(sql) {
            Ok(rows) => panic!(
                "expected error {sqlstate}, got {} rows\nin: {sql}",
                rows.len()
            ),
            Err(e) => {
                assert!(
                    e.code == sqlstate,
                    "expected error {sqlstate}, got {e}\nin: {sql}"
                );
                e
            }
        }
    }

    /// Runs the statement in a thread, for one that has to wait for another session.
    pub fn spawn(mut self, sql: &str) -> Running {
        let (pid, cancel, sql) = (self.pid, self.client.cancel_token(), sql.to_string());
        let thread = std::thread::spawn(move || {
            let result = self.try_rows(&sql);
            (self, result)
        });
        Running {
            pid,
            cancel,
            thread,
        }
    }

    /// Creates a stream table that only refreshes when asked to and whose refreshes must be differential.
    #[track_caller]
    pub fn stream_table(&mut self, name: &str, query: &str) -> StreamTable {
        self.stream_table_with(
            name,
            query,
            "schedule => '1d', refresh_mode => 'DIFFERENTIAL'",
        )
    }

    /// The same for a query that need not be incremental.
    #[track_caller]
    pub fn auto_stream_table(&mut self, name: &str, query: &str) -> StreamTable {
        self.stream_table_with(name, query, "schedule => '1d', refresh_mode => 'AUTO'")
    }

    /// Creates a stream table with these further arguments of `create_stream_table`.
    #[track_caller]
    pub fn stream_table_with(&mut self, name: &str, query: &str, arguments: &str) -> StreamTable {
        self.exec(&format!(
            "select pgtrickle.create_stream_table({}, {}, {arguments})",
            quote(name),
            quote(query)
        ));
        StreamTable::new(name, query)
    }
}

/// A statement that is being executed in another thread.
pub struct Running {
    pid: i32,
    cancel: CancelToken,
    thread: JoinHandle<(Session, Result<Vec<Row>, SqlError>)>,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn cancel(&self) {
        let _ = self.cancel.cancel_query(NoTls);
    }

    /// Waits for the statement, which must succeed.
    #[track_caller]
    pub fn join(self) -> Session {
        match self.finish() {
            (session, Ok(_)) => session,
            (_, Err(e)) => panic!("statement in the background failed: {e}"),
        }
    }

    /// Waits for the statement, however it ends.
    pub fn finish(self) -> (Session, Result<Vec<Row>, SqlError>) {
        self.thread.join().expect("thread of a session")
    }
}

/// A string constant.
pub fn quote(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
