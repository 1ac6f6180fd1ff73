//! What is known of a relation a query reads.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::scalar::Type;

use super::NotIncremental;
use crate::error::{Error, Kind};
use crate::pg::node;
use crate::pg::spi::{self, Value};

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct ColumnFacts {
    pub name: String,
    pub ty: Type,
    pub nullable: bool,
    pub virtual_generated: bool,
}

/// Why a relation cannot be a source in any mode.
pub(super) fn unusable(relid: pg_sys::Oid) -> Option<Error> {
    let row = spi::first(
        "SELECT c.relname, c.relpersistence::pg_catalog.text, n.nspname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[Value::Oid(relid)],
    )?;
    let name = row.text(0);
    if row.text(1) == "t" {
        return Some(
            Error::new(
                Kind::NotIncremental,
                format!("temporary table \"{name}\" cannot be a source"),
            )
            .hint("The background workers cannot see temporary tables; use an unlogged table."),
        );
    }
    if matches!(
        row.text(2).as_str(),
        "pg_catalog" | "information_schema" | "pg_toast"
    ) {
        return Some(Error::new(
            Kind::NotIncremental,
            format!("system catalog \"{name}\" cannot be a source"),
        ));
    }
    None
}

/// The relation's changes can be captured by triggers: an ordinary or partitioned table that is read as a whole.
pub fn capturable(relid: pg_sys::Oid, relkind: u8) -> bool {
    matches!(relkind, b'r' | b'p')
        && !is_partition(relid)
        && (relkind == b'p' || !has_children(relid))
}

/// The table is a partition of another one, whose triggers fire for it too.
fn is_partition(relid: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT relispartition FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relid)],
    )
    .is_some_and(|row| row.bool(0))
}

/// Refuses relations whose changes cannot be followed row by row.
pub(super) fn check(relid: pg_sys::Oid, relkind: u8, inherit: bool) -> Result<(), NotIncremental> {
    if is_partition(relid) {
        return Err(NotIncremental::new(
            format!("{} is a partition", display_name(relid)),
            "Read the partitioned table, with the partition's bounds as a condition.",
        ));
    }
    if !matches!(relkind, b'r' | b'p') {
        let what = match relkind {
            b'f' => "a foreign table",
            b'm' => "a materialized view",
            _ => "not a table",
        };
        return Err(NotIncremental::new(
            format!("{} is {what}", display_name(relid)),
            "Changes of it cannot be captured; the stream table is refreshed fully.",
        ));
    }
    if relkind == b'r' && inherit && has_children(relid) {
        return Err(NotIncremental::new(
            format!("{} has inheritance children", display_name(relid)),
            "Use ONLY, or a partitioned table instead of inheritance.",
        ));
    }
    let row_security = spi::first(
        "SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relid)],
    );
    if row_security.is_some_and(|row| row.bool(0)) {
        return Err(NotIncremental::new(
            format!("{} has row-level security", display_name(relid)),
            "The change log does not know the policies.",
        ));
    }
    Ok(())
}

fn has_children(relid: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT 1 FROM pg_catalog.pg_inherits WHERE inhparent = $1",
        &[Value::Oid(relid)],
    )
    .is_some()
}

pub(super) fn display_name(relid: pg_sys::Oid) -> String {
    spi::first(
        "SELECT $1::pg_catalog.oid::pg_catalog.regclass::pg_catalog.text",
        &[Value::Oid(relid)],
    )
    .map_or_else(String::new, |row| row.text(0))
}

/// No row of the relation has a null in attribute `a`: rows from before a constraint that is NOT VALID may.
const NOT_NULL: &str = "(a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conrelid = a.attrelid \
     AND c.contype = 'n' AND a.attnum = ANY (c.conkey) AND NOT c.convalidated))";

/// The live columns of a relation by attribute number.
pub(super) fn columns(relid: pg_sys::Oid) -> BTreeMap<i16, ColumnFacts> {
    spi::run(
        &format!(
            "SELECT attnum, attname, atttypid, atttypmod, attcollation, {NOT_NULL}, attgenerated = 'v' \
             FROM pg_catalog.pg_attribute a WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped"
        ),
        &[Value::Oid(relid)],
    )
    .iter()
    .map(|row| {
        let facts = ColumnFacts {
            name: row.text(1),
            ty: node::describe_type(row.oid(2), row.int(3) as i32, row.oid(4)),
            nullable: !row.bool(5),
            virtual_generated: row.bool(6),
        };
        (row.int(0) as i16, facts)
    })
    .collect()
}

/// Unique, immediately checked sets of columns that are all NOT NULL. Unique by what the columns' types call equal: an
/// index may go by another operator, or by another collation.
pub(super) fn unique_keys(relid: pg_sys::Oid) -> Vec<BTreeSet<i16>> {
    let mut keys: BTreeMap<(i64, i64), Vec<(i16, bool)>> = BTreeMap::new();
    let columns = spi::run(
        &format!(
            "SELECT i.indnkeyatts, i.indexrelid::pg_catalog.int8, a.attnum, a.atttypid, o.amopopr, \
         {NOT_NULL} AND (k.sorting = a.attcollation \
             OR (SELECT pg_catalog.bool_and(s.collisdeterministic) FROM pg_catalog.pg_collation s \
                 WHERE s.oid IN (k.sorting, a.attcollation))) \
         FROM pg_catalog.pg_index i CROSS JOIN LATERAL ROWS FROM ( \
             pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[]), \
             pg_catalog.unnest(i.indcollation::pg_catalog.oid[])) WITH ORDINALITY k(attnum, class, sorting, n) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         JOIN pg_catalog.pg_opclass c ON c.oid = k.class \
         JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype \
             AND o.amoprighttype = c.opcintype AND o.amopstrategy = 3 \
         WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL \
         AND i.indexprs IS NULL AND k.n <= i.indnkeyatts"
        ),
        &[Value::Oid(relid)],
    );
    for row in &columns {
        let equal = node::equality_operator(row.oid(3)) == row.oid(4);
        keys.entry((row.int(0), row.int(1)))
            .or_default()
            .push((row.int(2) as i16, equal && row.bool(5)));
    }
    keys.into_iter()
        .filter(|((width, _), columns)| {
            columns.len() as i64 == *width && columns.iter().all(|(_, unique)| *unique)
        })
        .map(|(_, columns)| columns.into_iter().map(|(attnum, _)| attnum).collect())
        .collect()
}

pub(super) fn is_stream_table(relid: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT 1 FROM pgtrickle.pgt_stream_tables WHERE pgt_relid::pg_catalog.oid = $1",
        &[Value::Oid(relid)],
    )
    .is_some()
}
