//! TPC-H: the data, the 22 queries, and changes to the data. The demo, the tests and the benchmarks share it.

mod changes;
mod load;
mod queries;

pub use changes::{Changes, Kind, Taste};
pub use load::{Loaded, load};
pub use queries::{QUERIES, Query};

use crate::database::Database;
use crate::server::Server;

/// A fresh database with the extension and TPC-H data. The data are generated once per server and scale factor, then
/// copied.
pub fn database(server: &Server, scale: f64) -> Database<'_> {
    let template = template(server, scale);
    let database = Database::copy_of(server, &template);
    database.connect().exec("create extension pg_trickle");
    database
}

/// The name of the database that others are copied from; whoever comes first makes it, and the others wait.
fn template(server: &Server, scale: f64) -> String {
    let name = format!("tpch_{}", scale.to_string().replace('.', "_"));
    let mut session = server.connect("postgres");
    session.exec("set statement_timeout = 0; select pg_advisory_lock(hashtext('tpch template'))");
    let complete =
        format!("select count(*) from pg_database where datname = '{name}' and datistemplate");
    if session.number(&complete) == 0 {
        session.exec(&format!("drop database if exists {name}"));
        session.exec(&format!("create database {name}"));
        load(server.connect(&name).client(), scale)
            .unwrap_or_else(|e| panic!("could not load TPC-H data: {e:?}"));
        // Nobody connects to it any more, which would stand in the way of copying.
        session.exec(&format!(
            "alter database {name} with allow_connections false is_template true"
        ));
    }
    name
}
