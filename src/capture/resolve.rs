//! Which log a written relation belongs to.

use pgrx::pg_sys;

use crate::catalog;
use crate::pg::capture_trigger::LogTarget;
use crate::pg::session::Scope;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};

/// The logs of `relation`, which is a source or a partition of some; none if it is not captured. A partition can be a source
/// of its own beside its root, and so can what is between them: each has a log.
///
/// Reads the catalog as of now, whatever snapshot the writer's transaction has: a REPEATABLE READ writer that began
/// before a source was captured still logs its changes.
pub fn resolve(relation: pg_sys::Oid) -> Vec<LogTarget> {
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
        return vec![];
    }
    // From the relation up to the root of its partition tree.
    let path: Vec<pg_sys::Oid> = spi::run_under(
        "SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass) \
         UNION SELECT $1",
        &[Value::Oid(relation)],
        under,
    )
    .iter()
    .map(|row| row.oid(0))
    .collect();
    let mut targets = Vec::new();
    for above in &path {
        let Some(source) = catalog::change_source(*above, under) else {
            continue;
        };
        let Some(segment) = source.current_segment() else {
            continue;
        };
        let attributes = if *above == relation {
            Some(segment.columns.clone())
        } else {
            by_name(*above, relation, &segment.columns, under)
        };
        let Some(attributes) = attributes else {
            continue;
        };
        targets.push(LogTarget {
            source: *above,
            segment: segment.relid,
            index: segment.index,
            attributes,
            depends_on: path
                .iter()
                .copied()
                .chain(source.segments.iter().map(|segment| segment.relid))
                .collect(),
        });
    }
    targets
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
