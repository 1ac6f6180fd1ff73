//! Rotation: switching the current segment and truncating segments every reader has passed.
//!
//! A segment is truncated only under ACCESS EXCLUSIVE, taken without waiting: then no transaction that wrote into it is
//! still open (writers hold their lock to the end, prepared transactions too), no reader is at work, and no stream table
//! is being built (a build locks the segments of its sources before it takes its snapshot). All rows in it are then
//! committed or void, and they are history for a reader whose frontier counts none of their transactions as open.

use pgrx::pg_sys;

use crate::catalog::{self, ChangeSource, SEGMENTS, Segment, SourceKind};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Scope;
use crate::pg::spi::{self, Under, Value};
use crate::pg::{lock, relation};

/// A current segment smaller than this is left alone, in bytes.
const SMALLEST_WORTH_ROTATING: i64 = 1 << 20;

/// What a pass over one source did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    pub truncated: u32,
    pub switched: bool,
    pub dropped_layouts: u32,
    /// A segment that is not current could not be truncated.
    pub blocked: bool,
    /// It could not even be looked at, because somebody was reading or writing it.
    pub busy: bool,
}

/// One pass over the log of `source`: truncates what every reader has passed, then switches the current segment if it
/// is worth it (`force`: if it has any row) and the next one is empty.
pub fn rotate(source: pg_sys::Oid, force: bool) -> Result<Rotation> {
    let _scope = Scope::internal();
    let mut done = Rotation::default();
    let Some(known) = catalog::change_source(source, Under::Current) else {
        return Err(
            Error::new(Kind::NotFound, "no stream table reads this relation")
                .hint("pgtrickle.change_buffer_sizes() lists the captured sources."),
        );
    };
    for segment in &known.segments {
        if !is_current(&known, segment) && size(segment) > 0 {
            match try_truncate(&known, segment) {
                Some(true) => done.truncated += 1,
                Some(false) => done.blocked = true,
                None => {
                    done.blocked = true;
                    done.busy = true;
                }
            }
        }
    }
    done.dropped_layouts = drop_drained_layouts(&known);
    if let Some(current) = known.current_segment()
        && (size(current) >= SMALLEST_WORTH_ROTATING || (force && size(current) > 0))
    {
        let next = (known.current + 1) % SEGMENTS;
        let free = known.segments.iter().any(|segment| {
            segment.layout == known.layout && segment.number == next && size(segment) == 0
        });
        if free && catalog::switch_segment(&known, next) {
            for segment in &known.segments {
                relation::invalidate(segment.relid);
            }
            if known.kind == SourceKind::StreamTable {
                // Its own plan names the segment it writes.
                catalog::outdate_writer(source);
            }
            done.switched = true;
        }
    }
    Ok(done)
}

/// The sources for which something may be gained by [`rotate`]: the current segment has grown, or another one is not
/// empty yet. Nothing is waited for: a log that is locked is left for later.
pub fn worth_rotating() -> Vec<pg_sys::Oid> {
    let _scope = Scope::internal();
    let mut worth: Vec<pg_sys::Oid> = spi::run(
        "SELECT s.source, g.relid, g.layout = s.layout AND g.segment = s.cur_segment \
         FROM pgtrickle.pgt_change_sources s JOIN pgtrickle.pgt_change_segments g USING (source) ORDER BY 1",
        &[],
    )
    .iter()
    .filter(|row| {
        let smallest = if row.bool(2) {
            SMALLEST_WORTH_ROTATING
        } else {
            1
        };
        relation::size_unless_locked(row.oid(1)).is_some_and(|bytes| bytes >= smallest)
    })
    .map(|row| row.oid(0))
    .collect();
    worth.dedup();
    worth
}

fn is_current(source: &ChangeSource, segment: &Segment) -> bool {
    segment.layout == source.layout && segment.number == source.current
}

fn size(segment: &Segment) -> i64 {
    spi::first(
        "SELECT pg_catalog.pg_relation_size($1::pg_catalog.oid::pg_catalog.regclass)",
        &[Value::Oid(segment.relid)],
    )
    .map_or(0, |row| row.int(0))
}

/// Truncates a segment that every reader has passed; none if somebody is in the way.
fn try_truncate(source: &ChangeSource, segment: &Segment) -> Option<bool> {
    if !lock::try_relation_exclusive(segment.relid) {
        return None;
    }
    let name = segment.name(source.source);
    // After the lock: what is committed now is all that will ever be in it.
    let passed = match source.kind {
        SourceKind::Table => spi::first(
            &format!(
                "WITH readers AS (SELECT s.frontier_base FROM pgtrickle.pgt_dependencies d \
                 JOIN pgtrickle.pgt_refresh_state s USING (pgt_id) WHERE d.source::pg_catalog.oid = $1 \
                 AND s.is_populated AND NOT s.needs_reinit) \
                 SELECT COALESCE((SELECT pg_catalog.max(xid) FROM {name}) < (SELECT pg_catalog.min(\
                 pg_catalog.pg_snapshot_xmax(frontier_base)) FROM readers), true) AND NOT EXISTS \
                 (SELECT FROM readers, pg_catalog.pg_snapshot_xip(frontier_base) x, {name} l WHERE l.xid = x)"
            ),
            &[Value::Oid(source.source)],
        ),
        SourceKind::StreamTable => spi::first(
            &format!(
                "SELECT COALESCE((SELECT pg_catalog.max(version) FROM {name}) <= (SELECT pg_catalog.min(u.version) \
                 FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_refresh_state s USING (pgt_id), \
                 LATERAL ROWS FROM (pg_catalog.unnest(s.upstream), pg_catalog.unnest(s.consumed)) u(upstream, version), \
                 pgtrickle.pgt_stream_tables up WHERE d.source::pg_catalog.oid = $1 AND up.pgt_id = u.upstream \
                 AND up.pgt_relid::pg_catalog.oid = $1 AND s.is_populated AND NOT s.needs_reinit), true)"
            ),
            &[Value::Oid(source.source)],
        ),
    };
    let passed = passed.is_some_and(|row| row.bool(0));
    if passed {
        spi::command(&format!("TRUNCATE {name}"));
    }
    Some(passed)
}

/// Layouts before the current one whose segments are all empty.
pub(super) fn drop_drained_layouts(source: &ChangeSource) -> u32 {
    let mut dropped = 0;
    let mut layouts: Vec<i64> = source
        .segments
        .iter()
        .map(|segment| segment.layout)
        .collect();
    layouts.dedup();
    for layout in layouts.into_iter().filter(|layout| *layout < source.layout) {
        let of_layout = || {
            source
                .segments
                .iter()
                .filter(|segment| segment.layout == layout)
        };
        // A writer that has not noticed the switch yet holds or will take a lock; under ours there is none.
        if of_layout()
            .all(|segment| lock::try_relation_exclusive(segment.relid) && size(segment) == 0)
        {
            super::install::drop_segments(source.source, Some(layout));
            relation::invalidate(source.source);
            catalog::outdate_readers(source.source);
            dropped += 1;
        }
    }
    dropped
}
