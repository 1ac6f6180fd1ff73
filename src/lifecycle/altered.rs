//! Somebody used ALTER TABLE on a stream table's own table, or on a source.

use pgrx::pg_sys;

use super::storage;
use crate::capture;
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::spi::{self, Value};
use crate::pg::xact;

/// Accepts what does not touch the stored rows (a new name or schema, another owner, indexes, options) and refuses the
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
    refuse_what_changes_rows(&table)?;
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

/// Refuses what has changed the stored rows of a stream table, would change what is written, or lets others write.
fn refuse_what_changes_rows(table: &StreamTable) -> Result<()> {
    let found = spi::first(
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute v JOIN pg_catalog.pg_attribute a ON a.attname = v.attname \
         WHERE v.attrelid = $2 AND a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
         AND (a.atttypid, a.atttypmod, a.attcollation) IS DISTINCT FROM (v.atttypid, v.atttypmod, v.attcollation)) \
         THEN 'The types of its columns are those of its defining query.' \
         WHEN c.relpersistence <> 'p' THEN 'An unlogged table is emptied by a crash.' \
         WHEN c.relforcerowsecurity THEN 'Policies for its owner would hide rows from its refreshes.' \
         WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE $1 IN (i.inhrelid, i.inhparent)) \
         THEN 'Rows of other tables would be its rows, or its rows those of others.' \
         WHEN EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = $1) THEN 'A rule would change what is written.' \
         WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgtype & 3 = 3) \
         THEN 'A trigger before the rows are written could change them.' END \
         FROM pg_catalog.pg_class c WHERE c.oid = $1",
        &[Value::Oid(table.relid), Value::Oid(table.view)],
    );
    match found.and_then(|row| row.optional_text(0)) {
        None => Ok(()),
        Some(reason) => Err(refusal(table, &reason)),
    }
}

fn refusal(table: &StreamTable, reason: &str) -> Error {
    Error::new(
        Kind::NotIncremental,
        format!("cannot alter stream table {} in this way", table.display_name()),
    )
    .detail(reason)
    .hint("Use a view or a table of your own that reads it, or change its query with pgtrickle.alter_stream_table().")
}

/// Refuses to write the rows of a stream table anew. Run with internal rights.
pub fn refuse_rewrite(relid: pg_sys::Oid) -> Result<()> {
    match catalog::by_relation(relid)? {
        Some(table) => Err(refusal(&table, "Its rows are those of its defining query.")),
        None => Ok(()),
    }
}

/// Refuses a rule, a trigger or a child table that would change the stored rows of a stream table. Run with internal rights.
pub fn stream_table_added_to(relid: pg_sys::Oid) -> Result<()> {
    match catalog::by_relation(relid)? {
        Some(table) => refuse_what_changes_rows(&table),
        None => Ok(()),
    }
}

/// The log of a source takes the source's rows as they are now. Returns whether plans of its readers have to be made again.
pub fn source_reshaped(source: pg_sys::Oid) -> Result<bool> {
    let changed = capture::follow_shape(source)?;
    if changed {
        storage::grant_log(source)?;
    }
    Ok(changed)
}
