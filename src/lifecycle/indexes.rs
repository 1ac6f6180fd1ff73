//! Indexes that a user's tables lack: without them a change of one table has to read all of another.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{AggregateKind, ColId, Rel, SourceId};
use pgt_ivm::rewrite::{Planned, STAGE_SOURCE};
use pgt_ivm::scalar::{Scalar, Shape};

use crate::pg::spi::{self, Value};

/// Notes by which columns of its tables a stream table's plans look rows up.
pub(super) fn save_lookups(id: i64, planned: Option<&Planned>) {
    spi::run(
        "DELETE FROM pgtrickle.pgt_lookups WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
    for (source, columns) in planned.map(lookups).unwrap_or_default() {
        let list: Vec<String> = columns.iter().map(ToString::to_string).collect();
        spi::run(
            "INSERT INTO pgtrickle.pgt_lookups (pgt_id, source, columns) \
             VALUES ($1, $2, $3::pg_catalog.text::pg_catalog.int2[])",
            &[
                Value::Int(id),
                Value::Oid(source),
                Value::Text(format!("{{{}}}", list.join(","))),
            ],
        );
    }
}

/// The indexes that would spare the plans of `id` from reading whole tables: table and statement.
pub(super) fn missing(id: i64) -> Vec<(String, String)> {
    spi::run(
        "SELECT relation, statement FROM pgtrickle.pgt_missing_indexes WHERE pgt_id = $1 ORDER BY 1, 2",
        &[Value::Int(id)],
    )
    .iter()
    .map(|row| (row.text(0), row.text(1)))
    .collect()
}

fn lookups(planned: &Planned) -> Vec<(pg_sys::Oid, BTreeSet<i16>)> {
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
        .map(|(source, columns)| (pg_sys::Oid::from(source.0 as u32), columns))
        .collect()
}

/// Notes the columns by which rows of a table are looked up: those equated in joins, those compared with the time, and
/// group keys whose groups may have to be evaluated again.
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
        Rel::Moving { conditions, .. } => {
            for moving in conditions {
                if let [only] = Vec::from_iter(moving.condition.columns())[..] {
                    note(only);
                }
            }
        }
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
