//! Compiled stream tables in the catalog, as bytes: they outlive the server's memory.
//!
//! A row is written under the stream table's lock and for exactly one build, server version, cluster and database; to
//! everybody else it does not exist.

use crate::pg::direct::{self, Field};
use crate::pg::snapshot::{Snapshot, cluster_id, database_id, server_version};
use crate::pg::spi;

const TABLE: &str = "pgt_compiled";

/// Attribute numbers.
mod column {
    pub const MADE_BY: usize = 2;
    pub const COMPILED: usize = 3;
}

/// Whose compiled forms this session can use.
fn maker() -> String {
    format!(
        "{} {} {} {}",
        env!("PGT_BUILD"),
        server_version(),
        cluster_id(),
        database_id().to_u32()
    )
}

/// What is kept of stream table `id`, of whatever generation.
pub fn compiled(id: i64) -> Option<Vec<u8>> {
    direct::read(TABLE, id, &Snapshot::take(), |row| {
        (row.text(column::MADE_BY)? == maker()).then(|| row.bytes(column::COMPILED))
    })?
}

/// Keeps the compiled form of stream table `id`. The caller holds its lock.
pub fn save_compiled(id: i64, bytes: &[u8]) {
    let latest = Snapshot::latest();
    let maker = maker();
    let (maker, bytes) = (Field::Text(&maker), Field::Bytes(bytes));
    if direct::read(TABLE, id, &latest, |_| ()).is_none() {
        direct::insert(TABLE, &[Field::Int(id), maker, bytes]);
    } else {
        // False if the caches are being cleared at this moment, which is as well.
        direct::update(
            TABLE,
            id,
            &latest,
            &[(column::MADE_BY, maker), (column::COMPILED, bytes)],
        );
    }
}

/// Forgets all of them.
pub fn forget_compiled() {
    spi::run("DELETE FROM pgtrickle.pgt_compiled", &[]);
}
