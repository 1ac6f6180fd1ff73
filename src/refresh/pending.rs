//! What the logs of a unit's sources hold that is new to it.

use pgt_ivm::rel::SourceId;

use super::compile::Unit;
use crate::pg::log_scan::LogScan;
use crate::pg::session::Scope;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};

/// Log rows counted per segment of a source by the probe; more are not told apart.
pub(super) const PROBE_CAP: u64 = 1_000_001;

/// The log segments that hold something new, as positions in the list of each source that changed; empty for all.
pub(super) type Filled = Vec<(SourceId, Vec<usize>)>;

/// What the sources' logs hold for a unit.
pub(super) enum Pending {
    Clean,
    /// Log rows per dirty source, and the segments they are in if plans are made for these.
    Changes(Vec<(SourceId, u64)>, Filled),
    /// The log does not explain everything.
    Unexplained(&'static str),
}

impl Unit {
    pub(super) fn pending(&self, values: &[Value], cap: u64, under: Under<'_>) -> Pending {
        if self.sources.is_empty() {
            return Pending::Clean;
        }
        for reference in self
            .source_refs
            .values()
            .filter(|reference| reference.unlogged)
        {
            let alive = spi::run_under(
                "SELECT 1 FROM pgtrickle.pgt_unlogged_alive WHERE pgt_id = $1 AND source = $2",
                &[Value::Int(self.id), Value::Oid(reference.relid)],
                under,
            );
            if alive.is_empty() {
                return Pending::Unexplained("an unlogged source was reset by a crash");
            }
        }
        let latest;
        let snapshot = match under {
            Under::Snapshot(snapshot) => snapshot,
            Under::Current => {
                latest = Snapshot::take();
                &latest
            }
        };
        self.count_changes(values, cap, snapshot)
    }

    /// The log rows that are new to the reader, found through the logs' indexes.
    fn count_changes(&self, values: &[Value], cap: u64, snapshot: &Snapshot) -> Pending {
        let (Some(Value::Xid8(xmax)), Some(Value::Xid8Array(in_progress)), Some(consumed)) =
            (values.first(), values.get(1), values.get(2))
        else {
            return Pending::Clean;
        };
        let Value::IntArray(consumed) = consumed else {
            return Pending::Clean;
        };
        let mut changes = Vec::new();
        let mut filled = Filled::new();
        for (id, source) in &self.sources {
            let scan = match source.version {
                None => LogScan {
                    first: *xmax,
                    also: in_progress,
                    snapshot,
                    cap,
                },
                Some(position) => LogScan {
                    first: consumed
                        .get(position as usize - 1)
                        .map_or(0, |version| *version as u64 + 1),
                    also: &[],
                    snapshot,
                    cap,
                },
            };
            let mut rows = 0;
            let mut segments = Vec::new();
            for (position, segment) in self.source_refs[id].segments.iter().enumerate() {
                match scan.count(*segment) {
                    Some(0) => {}
                    Some(more) => {
                        rows += more;
                        segments.push(position);
                    }
                    None => return Pending::Unexplained("TRUNCATE"),
                }
            }
            if rows > 0 {
                changes.push((*id, rows));
                filled.push((*id, segments));
            }
        }
        // A plan for each set of segments is worth it while they do not multiply: for one source, or for two of which
        // neither has just gone on to its next segment.
        let few = match filled.as_slice() {
            [_] => true,
            [(_, first), (_, second)] => first.len() == 1 && second.len() == 1,
            _ => false,
        };
        if !few {
            filled.clear();
        }
        if changes.is_empty() {
            Pending::Clean
        } else {
            Pending::Changes(changes, filled)
        }
    }

    /// A source's log holds a marker that `later` sees and `earlier` does not.
    pub(super) fn truncated_between(&self, earlier: &Snapshot, later: &Snapshot) -> bool {
        let markers = |under: Under<'_>| -> i64 {
            self.sources
                .values()
                .filter(|source| source.version.is_none())
                .flat_map(|source| &source.log)
                .map(|segment| {
                    spi::run_under(
                        &format!("SELECT pg_catalog.count(*) FROM {segment} WHERE w = 0"),
                        &[],
                        under,
                    )
                    .first()
                    .map_or(0, |row| row.int(0))
                })
                .sum()
        };
        let _scope = Scope::internal();
        markers(Under::Snapshot(later)) != markers(Under::Snapshot(earlier))
    }

    /// More of some source changed than a differential refresh is worth.
    pub(super) fn too_many(&self, changes: &[(SourceId, u64)], ratio: f64) -> bool {
        let largest = changes.iter().map(|(_, count)| *count).max().unwrap_or(0);
        if ratio <= 0.0 || largest < 1_000 {
            return false;
        }
        let rows = self
            .source_refs
            .values()
            .map(|reference| {
                spi::first(
                    "SELECT pg_catalog.sum(GREATEST(c.reltuples, 0)) FROM pg_catalog.pg_class c WHERE c.oid = ANY (ARRAY(SELECT $1 \
                     UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass)))",
                    &[Value::Oid(reference.relid)],
                )
                .map_or(0.0, |row| row.text(0).parse::<f64>().unwrap_or(0.0))
            })
            .fold(0.0, f64::max);
        rows > 0.0 && largest as f64 > rows * ratio
    }
}
