//! The harness of the server tests: private PostgreSQL servers with the extension, databases, sessions and the checks
//! that every test ends with. The demo and the benchmarks start their servers with it too.
//!
//! ```no_run
//! let db = pgt_tests::database();
//! let mut session = db.connect();
//! session.exec("create table s (k int primary key, n int)");
//! let v = session.stream_table("v", "select k, n from s where n > 10");
//! session.exec("insert into s values (1, 5), (2, 50)");
//! v.follows(&mut session); // refreshes, compares both directions, asserts that the refresh was differential
//! ```

#![forbid(unsafe_code)]

mod builder;
mod database;
mod install;
mod pooler;
pub mod random;
mod server;
mod session;
mod shared;
mod stream_table;
pub mod tpch;

pub use builder::ServerBuilder;
pub use database::Database;
pub use install::Install;
pub use pooler::Pooler;
pub use server::Server;
pub use session::{Row, Running, Session, SqlError, quote};
pub use stream_table::StreamTable;

/// A fresh database on the shared server, what most tests begin with.
pub fn database() -> Database<'static> {
    Server::shared().database()
}
