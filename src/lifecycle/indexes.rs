//! Indexes that a user's tables lack: without them a change of one table has to read all of another.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{AggregateKind, ColId, Rel, SourceId};
use pgt_ivm::rewrite::{Planned, STAGE_SOURCE};
use pgt_ivm::scalar::{Scalar, Shape};

use crate::pg::spi::{self, Value};

/// An index worth having.
pub struct Advice {
    /// The table, as it would be written.
    pub table: String,
    /// `CREATE INDEX ..`
    pub statement: String,
}

/// Smaller tables are read as fast without.
const LARGE_BYTES: i64 = 1 << 20;

/// The indexes that would spare a plan from reading whole tables.
pub fn missing(planned: &Planned) -> Vec<Advice> {
    let mut wanted: BTreeMap<SourceId, BTreeSet<i16>> = BTreeMap::new();
    for query in planned
        .stages
        .iter()
        .map(|stage| &stage.query)
        .chain([&planned.query])
    {
        let columns: BTreeMap<ColId, (SourceId, i16)> = query
            .root
            .scans()
            .iter()
            .flat_map(|scan| {
                scan.columns
                    .iter()
                    .map(|column| (column.id, (scan.source, column.attnum)))
            })
            .collect();
        look(&query.root, &columns, &mut wanted);
    }
    wanted
        .into_iter()
        .filter(|(source, _)| source.0 < STAGE_SOURCE)
        .filter_map(|(source, columns)| advice(pg_sys::Oid::from(source.0 as u32), &columns))
        .collect()
}

/// Notes the columns by which rows of a table are looked up: those equated in joins, and group keys whose groups may
/// have to be evaluated again.
fn look(
    rel: &Rel,
    columns: &BTreeMap<ColId, (SourceId, i16)>,
    wanted: &mut BTreeMap<SourceId, BTreeSet<i16>>,
) {
    let mut note = |id: ColId| {
        if let Some((source, attnum)) = columns.get(&id) {
            wanted.entry(*source).or_default().insert(*attnum);
        }
    };
    let mut equated = |conditions: &[Scalar]| {
        for condition in conditions {
            if let Shape::Equal(a, b) = condition.shape {
                note(a);
                note(b);
            }
        }
    };
    match rel {
        Rel::Join { conditions, .. } => equated(conditions),
        Rel::Outer { on, .. } | Rel::Match { on, .. } => equated(on),
        Rel::Aggregate { input, keys, calls } if matches!(**input, Rel::Scan(_)) => {
            let evaluated = calls.iter().any(|(_, call)| {
                matches!(
                    call.kind,
                    AggregateKind::Recompute | AggregateKind::Min | AggregateKind::Max
                )
            });
            if evaluated {
                keys.iter()
                    .filter_map(|(_, key)| key.as_column())
                    .for_each(note);
            }
        }
        _ => {}
    }
    for input in rel.inputs() {
        look(input, columns, wanted);
    }
}

fn advice(relid: pg_sys::Oid, columns: &BTreeSet<i16>) -> Option<Advice> {
    let list: Vec<i64> = columns.iter().map(|attnum| i64::from(*attnum)).collect();
    let first = *list.first()?;
    let served = spi::first(
        "SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL \
         AND i.indkey[0]::pg_catalog.int8 = ANY ($2)",
        &[Value::Oid(relid), Value::IntArray(list)],
    );
    if served.is_some() {
        return None;
    }
    let row = spi::first(
        "SELECT c.oid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(a.attname), \
         CASE c.relkind WHEN 'p' THEN (SELECT pg_catalog.sum(pg_catalog.pg_relation_size(t.relid)) \
         FROM pg_catalog.pg_partition_tree(c.oid) t)::pg_catalog.int8 ELSE pg_catalog.pg_relation_size(c.oid) END \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = $2 \
         WHERE c.oid = $1",
        &[Value::Oid(relid), Value::Int(first)],
    )?;
    if row.int(2) < LARGE_BYTES {
        return None;
    }
    let (table, column) = (row.text(0), row.text(1));
    Some(Advice {
        statement: format!("CREATE INDEX ON {table} ({column})"),
        table,
    })
}
