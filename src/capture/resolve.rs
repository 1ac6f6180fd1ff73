//! Which log a written relation belongs to.

use pgrx::pg_sys;

use crate::catalog;
use crate::pg::capture_trigger::LogTarget;
use crate::pg::session::Scope;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};

/// The log of `relation`, which is a source or a partition of one; none if it is not captured.
///
/// Reads the catalog as of now, whatever snapshot the writer's transaction has: a REPEATABLE READ writer that began
/// before a source was captured still logs its changes.
pub fn resolve(relation: pg_sys::Oid) -> Option<LogTarget> {
    let _scope = Scope::internal();
    let snapshot = Snapshot::latest();
    let under = Under::Snapshot(&snapshot);
    if spi::run_under(
        "SELECT pg_catalog.to_regclass('pgtrickle.pgt_change_sources')",
        &[],
        under,
    )
    .first()
    .is_none_or(|row| row.is_null(0))
    {
        return None;
    }
    let root = spi::run_under(
        "SELECT COALESCE(pg_catalog.pg_partition_root($1::pg_catalog.oid::pg_catalog.regclass)::pg_catalog.oid, $1)",
        &[Value::Oid(relation)],
        under,
    )
    .first()
    .map(|row| row.oid(0))?;
    let source = catalog::change_source(root, under)?;
    let segment = source.current_segment()?;
    let attributes = if root == relation {
        segment.columns.clone()
    } else {
        by_name(root, relation, &segment.columns, under)?
    };
    Some(LogTarget {
        source: root,
        segment: segment.relid,
        index: segment.index,
        attributes,
        depends_on: std::iter::once(root)
            .chain(source.segments.iter().map(|segment| segment.relid))
            .collect(),
    })
}

/// The attribute numbers in `partition` of the columns of `root`.
fn by_name(
    root: pg_sys::Oid,
    partition: pg_sys::Oid,
    columns: &[i16],
    under: Under<'_>,
) -> Option<Vec<i16>> {
    let rows = spi::run_under(
        "SELECT r.attnum, p.attnum FROM pg_catalog.pg_attribute r JOIN pg_catalog.pg_attribute p \
         ON p.attrelid = $2 AND p.attname = r.attname AND NOT p.attisdropped WHERE r.attrelid = $1 AND r.attnum > 0",
        &[Value::Oid(root), Value::Oid(partition)],
        under,
    );
    columns
        .iter()
        .map(|column| {
            rows.iter()
                .find(|row| row.int(0) == i64::from(*column))
                .map(|row| row.int(1) as i16)
        })
        .collect()
}
