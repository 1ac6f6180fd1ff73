//! Somebody used ALTER TABLE on a stream table's own table.

use pgrx::pg_sys;

use super::storage;
use crate::catalog;
use crate::error::{Error, Kind, Result};
use crate::pg::spi::{self, Value};
use crate::pg::xact;

/// Accepts what does not touch the stored columns (a new name or schema, another owner, indexes, options) and refuses the
/// rest. Run with internal rights.
pub fn stream_table_altered(relid: pg_sys::Oid) -> Result<()> {
    let Some(table) = catalog::by_relation(relid)? else {
        return Ok(());
    };
    let layout = storage::read_layout(&table.layout)?;
    let columns: Vec<String> = spi::run(
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped \
         ORDER BY attnum",
        &[Value::Oid(relid)],
    )
    .iter()
    .map(|row| row.text(0))
    .collect();
    if layout
        .columns
        .iter()
        .any(|column| !columns.contains(&column.name))
    {
        return Err(Error::new(
            Kind::NotIncremental,
            format!("cannot drop or rename columns of stream table {}", table.display_name()),
        )
        .detail("Its columns are those of its defining query.")
        .hint("Change the query with pgtrickle.alter_stream_table() or create_or_replace_stream_table()."));
    }
    if table.is_stage {
        catalog::outdate_writer(relid);
        return Ok(());
    }
    // Stages are shared with stream tables of one owner only.
    catalog::leave_shared_stages(table.id);
    let role = pgt_ivm::sql::quote_identifier(&storage::owner_name(table.owner));
    spi::command(&format!("ALTER VIEW {} OWNER TO {role}", table.view_name));
    for stage in catalog::stages_of(table.id)? {
        spi::command(&format!("ALTER TABLE {} OWNER TO {role}", stage.name));
    }
    let units = catalog::stages_of(table.id)?
        .into_iter()
        .map(|stage| stage.id)
        .chain([table.id]);
    for dependency in units.flat_map(catalog::dependencies) {
        storage::grant_log(dependency.source)?;
    }
    storage::grant_log(relid)?;
    storage::bump_generation(table.id);
    catalog::outdate_readers(relid);
    xact::definitions_will_change();
    Ok(())
}
