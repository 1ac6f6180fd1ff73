//! Dropping stream tables, by our function or by PostgreSQL's own commands.

use crate::capture;
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Scope;
use crate::pg::spi::{self, Value};
use crate::pg::{depend, entry, lock, xact};

/// Drops a stream table. Without `cascade` it must not be read by another one.
pub fn drop_stream_table(table: &StreamTable, cascade: bool) -> Result<()> {
    super::require_owner(table)?;
    let catalog_oid = catalog::installed()?;
    lock::definitions(catalog_oid);
    lock::stream_table(catalog_oid, table.id);
    let readers = catalog::downstream_of(table.relid);
    if !cascade && !readers.is_empty() {
        let names: Vec<String> = readers
            .iter()
            .map(|id| catalog::load(*id).map(|reader| reader.display_name()))
            .collect::<Result<_>>()?;
        return Err(Error::new(
            Kind::HasDependents,
            format!(
                "cannot drop stream table {} because others read it",
                table.display_name()
            ),
        )
        .detail(format!("Read by {}.", names.join(", ")))
        .hint("Drop them first, or pass cascade => true."));
    }
    let cascade = if cascade { " CASCADE" } else { "" };
    spi::command(&format!("DROP TABLE {}{cascade}", table.name));
    Ok(())
}

/// Clears away what belonged to stream tables and sources that are gone. Called after any DROP.
pub fn forget_dropped() -> Result<()> {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    super::groups::forget_dropped_sources();
    let gone = spi::run(
        "SELECT st.pgt_id FROM pgtrickle.pgt_stream_tables st WHERE st.stage_query IS NULL AND NOT EXISTS \
         (SELECT FROM pg_catalog.pg_class c WHERE c.oid = st.pgt_relid::pg_catalog.oid)",
        &[],
    );
    for row in &gone {
        forget(row.int(0));
    }
    if !gone.is_empty() {
        drop_unused_stages()?;
    }
    let lost = spi::first(
        "SELECT 1 FROM pgtrickle.pgt_change_sources s WHERE NOT EXISTS \
         (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.source)",
        &[],
    );
    if !gone.is_empty() || lost.is_some() {
        capture::release_unread()?;
        super::groups::regroup();
        for row in &gone {
            xact::definition_will_change(row.int(0));
        }
        if gone.is_empty() {
            xact::definitions_will_change();
        }
    }
    Ok(())
}

/// Removes a stream table's catalog rows.
fn forget(id: i64) {
    spi::run(
        "DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
    spi::run(
        "DELETE FROM pgtrickle.pgt_refresh_history WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
    spi::run(
        "DELETE FROM pgtrickle.pgt_held WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
}

/// Drops the stages that no stream table has any more.
pub(super) fn drop_unused_stages() -> Result<()> {
    let catalog_oid = catalog::installed()?;
    for stage in catalog::unused_stages() {
        // Perhaps somebody is about to use it.
        lock::stream_table(catalog_oid, stage);
        if let Some((relid, table)) = catalog::remove_unused_stage(stage) {
            depend::release_member(relid);
            depend::command_done();
            spi::command(&format!("DROP TABLE IF EXISTS {table}"));
        }
    }
    Ok(())
}
