//! A database of one test.

use crate::server::{Server, tail};
use crate::session::Session;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Generous, since machines that run tests are busy; nothing waits this long unless something is wrong.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A database, dropped with the value.
pub struct Database<'s> {
    server: &'s Server,
    name: String,
}

impl<'s> Database<'s> {
    pub(crate) fn create(server: &'s Server, with_extension: bool) -> Self {
        let database = Self::copy_of(server, "template1");
        if with_extension {
            database.connect().exec("create extension pg_trickle");
        }
        database
    }

    pub(crate) fn copy_of(server: &'s Server, template: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "t{}_{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        server
            .connect("postgres")
            .exec(&format!("create database {name} template {template}"));
        Self { server, name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn server(&self) -> &'s Server {
        self.server
    }

    /// A superuser's session.
    pub fn connect(&self) -> Session {
        self.connect_as("postgres")
    }

    pub fn connect_as(&self, role: &str) -> Session {
        Session::open(&self.server.socket_directory(), &self.name, role)
    }

    /// Makes a login role for this database only, named so that no other test's role collides, and returns the name.
    pub fn role(&self, suffix: &str) -> String {
        let role = format!("{}_{suffix}", self.name);
        self.connect().exec(&format!("create role {role} login"));
        role
    }

    /// Waits until the query returns true, asking anew in a session of its own; panics after a generous time.
    #[track_caller]
    pub fn wait_until(&self, condition: &str) {
        let mut session = self.connect();
        let deadline = Instant::now() + DEADLINE;
        while session.nullable(condition).as_deref() != Some("t") {
            assert!(
                Instant::now() < deadline,
                "still not true after {DEADLINE:?}: {condition}"
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until backend `pid` waits for a lock that another backend holds.
    #[track_caller]
    pub fn wait_blocked(&self, pid: i32) {
        self.wait_until(&format!("select cardinality(pg_blocking_pids({pid})) > 0"));
    }
}

impl Database<'_> {
    /// One left behind by a failed test would hold up every other test of the server.
    fn forget_prepared_transactions(&self) {
        let Ok(mut session) =
            Session::try_open(&self.server.socket_directory(), &self.name, "postgres")
        else {
            return;
        };
        let left = session
            .try_rows("select gid from pg_prepared_xacts where database = current_database()");
        for gid in left.into_iter().flatten().filter_map(|row| row[0].clone()) {
            let _ = session.try_exec(&format!("rollback prepared '{gid}'"));
        }
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.server.log();
            let mine = format!(" {} ", self.name);
            let lines: Vec<&str> = log
                .lines()
                .filter(|l| l.contains(&mine) || l.contains("terminated by signal"))
                .collect();
            eprintln!(
                "what the server logged for database {}:\n{}",
                self.name,
                tail(&lines.join("\n"), 40)
            );
        }
        self.forget_prepared_transactions();
        if let Ok(mut session) =
            Session::try_open(&self.server.socket_directory(), "postgres", "postgres")
        {
            if let Err(e) = session.try_exec(&format!(
                "drop database if exists {} with (force)",
                self.name
            )) {
                eprintln!("database {} is left behind: {e}", self.name);
            }
            let roles = session.rows(&format!(
                "select rolname from pg_roles where starts_with(rolname, '{}_')",
                self.name
            ));
            for role in roles {
                let _ = session.try_exec(&format!(
                    "drop role {}",
                    role[0].as_deref().unwrap_or_default()
                ));
            }
        }
    }
}
