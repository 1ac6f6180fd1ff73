//! Tables that hold results, and their indexes, guards and grants.

use std::collections::BTreeSet;

use pgrx::pg_sys;
use pgt_ivm::apply::{Identity, Layout};
use pgt_ivm::sql;
use pgt_ivm::sql::ast::{Expr, Name};

use crate::catalog::{self, SourceKind, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::spi::{self, Under, Value};
use crate::refresh;

/// Creates the table of a result and its index. Run as the one who is to own it. Filled first, its pages keep more room than
/// is asked for later, see `refresh::set`.
pub(super) fn create_table(name: &Name, layout: &Layout) -> Result<pg_sys::Oid> {
    spi::command(&format!(
        "CREATE TABLE {name} ({}) WITH (fillfactor = 80)",
        refresh::storage_columns(layout).join(", ")
    ));
    create_index(name, layout);
    let relid = relation_oid(name)?;
    guard(name);
    Ok(relid)
}

pub(super) fn relation_oid(name: &Name) -> Result<pg_sys::Oid> {
    catalog::resolve_name(&name.to_string())?
        .ok_or_else(|| Error::new(Kind::Internal, format!("relation {name} is missing")))
}

/// The name of a table's identity index. PostgreSQL cuts names at 63 bytes; the suffix must survive.
fn index_name(table: &str) -> String {
    let mut base = table.to_owned();
    while base.len() > 50 {
        base.pop();
    }
    format!("{base}_pgt_identity")
}

/// The index by which stored rows are found again.
pub(super) fn create_index(table: &Name, layout: &Layout) {
    let column = |name: &String| Expr::Column(String::new(), name.clone());
    let definition = match &layout.identity {
        Identity::Key(names) => {
            let names: Vec<String> = names
                .iter()
                .map(|name| sql::quote_identifier(name))
                .collect();
            Some(("UNIQUE ", names.join(", ")))
        }
        Identity::Group(names) | Identity::Partition(names) => {
            let hashed: Vec<Expr> = names
                .iter()
                .filter_map(|name| layout.column_named(name))
                .filter(|stored| stored.ty.hashable)
                .map(|stored| column(&stored.name))
                .collect();
            Some(("", sql::row_hash(hashed).to_string()))
        }
        Identity::Bag => {
            let all = layout
                .columns
                .iter()
                .map(|stored| column(&stored.name))
                .collect();
            Some(("", sql::image_hash(all).to_string()))
        }
        Identity::Single => None,
    };
    if let Some((unique, keys)) = definition {
        let index = sql::quote_identifier(&index_name(&table.name));
        spi::command(&format!("CREATE {unique}INDEX {index} ON {table} ({keys})"));
    }
}

/// Drops the identity index, whatever kind it is.
pub(super) fn drop_index(table: &Name) {
    let index = Name::new(&*table.schema, index_name(&table.name));
    spi::command(&format!("DROP INDEX IF EXISTS {index}"));
}

const GUARD: &str = "pgt_refuse_write";

/// The table has the trigger that keeps users from writing to it.
pub(super) fn has_guard(relid: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2 AND tgenabled = 'A'",
        &[Value::Oid(relid), Value::Text(GUARD.to_owned())],
    )
    .is_some()
}

/// Keeps users from writing to the table directly.
pub(super) fn guard(table: &Name) {
    spi::command(&format!(
        "CREATE OR REPLACE TRIGGER {GUARD} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT \
         EXECUTE FUNCTION pgtrickle.refuse_write()"
    ));
    spi::command(&format!(
        "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {GUARD}"
    ));
}

/// Lets the owners of all readers of `source` read what they need of its log, and the owner of a stream table write its
/// own. A log can hold columns for others that a reader's owner must not see.
pub(super) fn grant_log(source: pg_sys::Oid) -> Result<()> {
    let Some(log) = catalog::change_source(source, Under::Current) else {
        return Ok(());
    };
    let readers = spi::run(
        "SELECT pg_catalog.pg_get_userbyid(c.relowner), st.effective_refresh_mode, d.pgt_id, \
         pg_catalog.has_table_privilege(c.relowner, $1, 'SELECT') \
         FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables st USING (pgt_id) \
         JOIN pg_catalog.pg_class c ON c.oid = st.pgt_relid WHERE d.source::pg_catalog.oid = $1",
        &[Value::Oid(source)],
    );
    let writer = match log.kind {
        SourceKind::StreamTable => spi::first(
            "SELECT pg_catalog.pg_get_userbyid(relowner) FROM pg_catalog.pg_class WHERE oid = $1",
            &[Value::Oid(source)],
        ),
        SourceKind::Table => None,
    };
    let position = match log.kind {
        SourceKind::Table => "xid",
        SourceKind::StreamTable => "version",
    };
    for segment in &log.segments {
        let name = segment.name(source);
        let mut granted: BTreeSet<String> = BTreeSet::new();
        for reader in &readers {
            let role = sql::quote_identifier(&reader.text(0));
            if reader.bool(3) {
                if granted.insert(reader.text(0)) && !may_read(&reader.text(0), segment.relid) {
                    spi::command(&format!("GRANT SELECT ON {name} TO {role}"));
                }
                continue;
            }
            let mut columns = vec![position.to_owned(), "w".to_owned()];
            // A full refresh only asks whether there are changes.
            if reader.text(1) != "FULL" {
                columns.extend(
                    catalog::dependencies(reader.int(2))
                        .into_iter()
                        .filter(|dependency| dependency.source == source)
                        .flat_map(|dependency| dependency.columns)
                        .filter(|column| segment.columns.contains(column))
                        .map(sql::log_column),
                );
            }
            spi::command(&format!(
                "GRANT SELECT ({}) ON {name} TO {role}",
                columns.join(", ")
            ));
        }
        if let Some(writer) = &writer {
            let role = sql::quote_identifier(&writer.text(0));
            spi::command(&format!("GRANT INSERT ON {name} TO {role}"));
        }
    }
    Ok(())
}

fn may_read(role: &str, relation: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT pg_catalog.has_table_privilege($1::pg_catalog.name, $2::pg_catalog.oid, 'SELECT')",
        &[Value::Text(role.to_owned()), Value::Oid(relation)],
    )
    .is_some_and(|row| row.bool(0))
}

/// Every plan over `relid` has to be made again.
pub(super) fn bump_generation(id: i64) {
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
}

/// Reads what [`refresh::layout_text`] wrote.
pub(super) fn read_layout(text: &str) -> Result<Layout> {
    serde_json::from_str(text).map_err(|problem| {
        Error::new(
            Kind::Internal,
            format!("could not read a layout: {problem}"),
        )
    })
}

/// Rows stored in one layout can be read in the other: the same columns, found by the same identity.
pub(super) fn same_shape(a: &Layout, b: &Layout) -> bool {
    let describe = |layout: &Layout| {
        layout
            .columns
            .iter()
            .map(|column| (column.name.clone(), column.ty.name.clone(), column.visible))
            .collect::<Vec<_>>()
    };
    a.identity == b.identity && describe(a) == describe(b)
}

/// The identity index of a table exists.
pub(super) fn has_index(table: &Name) -> bool {
    let index = Name::new(&*table.schema, index_name(&table.name));
    matches!(catalog::resolve_name(&index.to_string()), Ok(Some(_)))
}

/// As [`bump_generation`], with the rights for it.
pub(super) fn bump_generation_internal(id: i64) {
    let _scope = crate::pg::session::Scope::internal();
    bump_generation(id);
}

/// The role a table belongs to.
pub(super) fn owner_name(owner: pg_sys::Oid) -> String {
    spi::first(
        "SELECT pg_catalog.pg_get_userbyid($1)",
        &[Value::Oid(owner)],
    )
    .map_or_else(String::new, |row| row.text(0))
}

/// The stream table or stage behind `relid`, which must be one.
pub(super) fn must_be_stream_table(relid: pg_sys::Oid) -> Result<StreamTable> {
    catalog::by_relation(relid)?
        .ok_or_else(|| Error::new(Kind::Internal, "a stream table has lost its catalog entry"))
}
