//! `pgt_change_sources` and `pgt_change_segments`: where changes are logged.

use std::collections::BTreeSet;

use pgrx::pg_sys;
use pgt_ivm::sql::ast::Name;

use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Table,
    StreamTable,
}

impl SourceKind {
    pub fn name(self) -> &'static str {
        match self {
            SourceKind::Table => "table",
            SourceKind::StreamTable => "stream_table",
        }
    }
}

/// A source with a change log.
#[derive(Clone, Debug)]
pub struct ChangeSource {
    pub source: pg_sys::Oid,
    pub kind: SourceKind,
    pub layout: i64,
    pub current: i64,
    pub unlogged: bool,
    pub members: Vec<pg_sys::Oid>,
    /// All live segments, of all layouts, oldest layout first.
    pub segments: Vec<Segment>,
}

/// One table of a change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub layout: i64,
    pub number: i64,
    pub relid: pg_sys::Oid,
    pub index: pg_sys::Oid,
    pub columns: Vec<i16>,
}

/// How many segments a layout has.
pub const SEGMENTS: i64 = 3;

impl Segment {
    /// The segment's table.
    pub fn name(&self, source: pg_sys::Oid) -> Name {
        segment_name(source, self.layout, self.number)
    }
}

/// The name of a segment's table.
pub fn segment_name(source: pg_sys::Oid, layout: i64, number: i64) -> Name {
    Name::new(
        "pgtrickle_changes",
        format!("log_{}_{layout}_{number}", source.to_u32()),
    )
}

impl ChangeSource {
    /// The segment that takes new changes.
    pub fn current_segment(&self) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| segment.layout == self.layout && segment.number == self.current)
    }

    /// The columns the current layout logs.
    pub fn columns(&self) -> Vec<i16> {
        self.current_segment()
            .map(|segment| segment.columns.clone())
            .unwrap_or_default()
    }
}

pub(super) fn parse_numbers(text: &str) -> Vec<i16> {
    text.trim_matches(['{', '}'])
        .split(',')
        .filter_map(|part| part.parse().ok())
        .collect()
}

pub(super) fn print_numbers<T: ToString>(numbers: &[T]) -> String {
    let parts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", parts.join(","))
}

/// The change log of `source` as `under` sees it.
pub fn change_source(source: pg_sys::Oid, under: Under<'_>) -> Option<ChangeSource> {
    let rows = spi::run_under(
        "SELECT s.kind, s.layout, s.cur_segment, s.unlogged, s.members::pg_catalog.text, g.layout, g.segment, g.relid, \
         g.index_id, g.columns::pg_catalog.text FROM pgtrickle.pgt_change_sources s \
         JOIN pgtrickle.pgt_change_segments g USING (source) WHERE s.source = $1 ORDER BY g.layout, g.segment",
        &[Value::Oid(source)],
        under,
    );
    let first = rows.first()?;
    Some(ChangeSource {
        source,
        kind: if first.text(0) == "table" {
            SourceKind::Table
        } else {
            SourceKind::StreamTable
        },
        layout: first.int(1),
        current: first.int(2),
        unlogged: first.bool(3),
        members: first
            .text(4)
            .trim_matches(['{', '}'])
            .split(',')
            .filter_map(|part| part.parse::<u32>().ok())
            .map(pg_sys::Oid::from)
            .collect(),
        segments: rows
            .iter()
            .map(|row| Segment {
                layout: row.int(5),
                number: row.int(6),
                relid: row.oid(7),
                index: row.oid(8),
                columns: parse_numbers(&row.text(9)),
            })
            .collect(),
    })
}

/// Makes another segment the current one. False if somebody else has switched it, or started a layout, in the meantime:
/// what was known of the source is outdated then.
pub fn switch_segment(source: &ChangeSource, next: i64) -> bool {
    spi::first(
        "UPDATE pgtrickle.pgt_change_sources SET cur_segment = $4, switched_at = pg_catalog.clock_timestamp() \
         WHERE source = $1 AND layout = $2 AND cur_segment = $3 RETURNING 1",
        &[
            Value::Oid(source.source),
            Value::Int(source.layout),
            Value::Int(source.current),
            Value::Int(next),
        ],
    )
    .is_some()
}

/// Remembers the partitions of a source, or what inherits from it.
pub fn save_members(source: pg_sys::Oid, members: &[pg_sys::Oid]) {
    let members: Vec<u32> = members.iter().map(|oid| oid.to_u32()).collect();
    spi::run_under(
        "UPDATE pgtrickle.pgt_change_sources SET members = $2::pg_catalog.text::pg_catalog.oid[] WHERE source = $1",
        &[Value::Oid(source), Value::Text(print_numbers(&members))],
        Under::Snapshot(&Snapshot::latest()),
    );
}

/// Remembers that a source has become unlogged. It stays so: its log may be.
pub fn save_unlogged(source: pg_sys::Oid) {
    spi::run(
        "UPDATE pgtrickle.pgt_change_sources SET unlogged = true WHERE source = $1",
        &[Value::Oid(source)],
    );
}

/// Writes the source's own row (not its segments), under the lock that keeps writers away. Once unlogged it stays so.
pub fn save_source(source: &ChangeSource) {
    let members: Vec<u32> = source.members.iter().map(|oid| oid.to_u32()).collect();
    spi::run(
        "INSERT INTO pgtrickle.pgt_change_sources (source, kind, layout, cur_segment, unlogged, members) \
         VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.text::pg_catalog.oid[]) ON CONFLICT (source) DO UPDATE SET \
         layout = EXCLUDED.layout, cur_segment = EXCLUDED.cur_segment, members = EXCLUDED.members, \
         unlogged = pgt_change_sources.unlogged OR EXCLUDED.unlogged, \
         switched_at = pg_catalog.clock_timestamp()",
        &[
            Value::Oid(source.source),
            Value::Text(source.kind.name().to_owned()),
            Value::Int(source.layout),
            Value::Int(source.current),
            Value::Bool(source.unlogged),
            Value::Text(print_numbers(&members)),
        ],
    );
}

pub fn insert_segment(source: pg_sys::Oid, segment: &Segment) {
    spi::run(
        "INSERT INTO pgtrickle.pgt_change_segments (source, layout, segment, relid, index_id, columns) \
         VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.text::pg_catalog.int2[])",
        &[
            Value::Oid(source),
            Value::Int(segment.layout),
            Value::Int(segment.number),
            Value::Oid(segment.relid),
            Value::Oid(segment.index),
            Value::Text(print_numbers(&segment.columns)),
        ],
    );
}

/// Whatever any layout of `source` logged of these columns is not to be read any more.
pub fn forget_columns(source: pg_sys::Oid, columns: &BTreeSet<i16>) {
    let columns: Vec<i16> = columns.iter().copied().collect();
    spi::run(
        "UPDATE pgtrickle.pgt_change_segments SET columns = ARRAY(SELECT c FROM pg_catalog.unnest(columns) \
         WITH ORDINALITY u(c, n) WHERE c <> ALL ($2::pg_catalog.text::pg_catalog.int2[]) ORDER BY n) WHERE source = $1",
        &[Value::Oid(source), Value::Text(print_numbers(&columns))],
    );
}

/// Remembers by which expressions the columns of `source` and its partitions are generated. Returns whether one of them is
/// generated by another expression than before.
pub fn renew_generated(source: pg_sys::Oid) -> bool {
    let values = [Value::Oid(source)];
    let row = spi::first(
        "WITH tree(oid) AS (SELECT $1::pg_catalog.oid UNION SELECT relid::pg_catalog.oid \
         FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass)), \
         now AS (SELECT COALESCE(pg_catalog.jsonb_object_agg(d.adrelid || ' ' || d.adnum, pg_catalog.md5(d.adbin::pg_catalog.text)), '{}') AS found \
         FROM tree JOIN pg_catalog.pg_attribute a ON a.attrelid = tree.oid AND a.attgenerated <> '' \
         JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum) \
         SELECT now.found::pg_catalog.text, now.found <> s.generated, EXISTS (SELECT FROM pg_catalog.jsonb_each_text(s.generated) b \
         JOIN pg_catalog.jsonb_each_text(now.found) n USING (key) WHERE b.value <> n.value) \
         FROM now, pgtrickle.pgt_change_sources s WHERE s.source = $1",
        &values,
    );
    let Some(row) = row.filter(|row| row.bool(1)) else {
        return false;
    };
    spi::run(
        "UPDATE pgtrickle.pgt_change_sources SET generated = $2::pg_catalog.text::pg_catalog.jsonb WHERE source = $1",
        &[Value::Oid(source), Value::Text(row.text(0))],
    );
    row.bool(2)
}

/// Forgets a source and its segments (the tables are dropped by the caller).
pub fn delete_source(source: pg_sys::Oid) {
    spi::run(
        "DELETE FROM pgtrickle.pgt_change_sources WHERE source = $1",
        &[Value::Oid(source)],
    );
    spi::run(
        "DELETE FROM pgtrickle.pgt_unlogged_alive WHERE source = $1",
        &[Value::Oid(source)],
    );
}
