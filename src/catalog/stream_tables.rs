//! `pgt_stream_tables` and `pgt_dependencies`.

use pgrx::pg_sys;
use pgt_ivm::rewrite::Ties;
use pgt_ivm::sql::ast::Name;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::pg::direct;
use crate::pg::relation;
use crate::pg::session::Kept;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Row, Under, Value};

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Auto,
    Differential,
    Full,
    Immediate,
}

impl Mode {
    pub fn parse(text: &str) -> Result<Mode> {
        match text.to_ascii_uppercase().as_str() {
            "AUTO" => Ok(Mode::Auto),
            "DIFFERENTIAL" => Ok(Mode::Differential),
            "FULL" => Ok(Mode::Full),
            "IMMEDIATE" => Ok(Mode::Immediate),
            _ => Err(Error::new(
                Kind::InvalidArgument,
                format!("invalid refresh mode \"{text}\""),
            )
            .hint("Use AUTO, DIFFERENTIAL, FULL or IMMEDIATE.")),
        }
    }

    /// What such a stream table does about rows that are equal under an ORDER BY.
    pub fn ties(self) -> Ties {
        match self {
            Mode::Auto => Ties::Watched,
            _ => Ties::Any,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Mode::Auto => "AUTO",
            Mode::Differential => "DIFFERENTIAL",
            Mode::Full => "FULL",
            Mode::Immediate => "IMMEDIATE",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Initializing,
    Active,
    Suspended,
    Error,
}

impl Status {
    pub(super) fn parse(text: &str) -> Status {
        match text {
            "INITIALIZING" => Status::Initializing,
            "SUSPENDED" => Status::Suspended,
            "ERROR" => Status::Error,
            _ => Status::Active,
        }
    }
}

/// A row of `pgt_stream_tables` with what the system catalogs know of its table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamTable {
    pub id: i64,
    pub relid: pg_sys::Oid,
    pub name: Name,
    pub owner: pg_sys::Oid,
    pub view: pg_sys::Oid,
    pub view_name: Name,
    pub schedule: String,
    pub mode: Mode,
    pub effective: Mode,
    pub downgrade_reason: Option<String>,
    pub status: Status,
    pub settings: Kept,
    pub generation: i64,
    pub layout: String,
    pub is_stage: bool,
    /// The group it is refreshed with if that is atomic.
    pub consistency_group: Option<i64>,
    /// Most changes a refresh may find.
    pub fuse_ceiling: Option<u64>,
    pub fuse_blown: bool,
}

impl StreamTable {
    /// `schema.table` as the user would write it.
    pub fn display_name(&self) -> String {
        format!(
            "{}.{}",
            pgt_ivm::sql::plain_identifier(&self.name.schema),
            pgt_ivm::sql::plain_identifier(&self.name.name)
        )
    }
}

const COLUMNS: &str = "st.pgt_id, st.pgt_relid::pg_catalog.oid, n.nspname, c.relname, c.relowner, \
     st.def_view::pg_catalog.oid, vn.nspname, v.relname, st.schedule, st.refresh_mode, st.effective_refresh_mode, \
     st.downgrade_reason, st.status, pg_catalog.array_to_string(st.settings, E'\n'), st.generation, st.layout, st.stage_query IS NOT NULL, \
     st.consistency_group, CASE WHEN st.fuse = 'on' THEN st.fuse_ceiling END, st.fuse_blown_at IS NOT NULL";

const TABLES: &str = "pgtrickle.pgt_stream_tables st \
     JOIN pg_catalog.pg_class c ON c.oid = st.pgt_relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_class v ON v.oid = st.def_view JOIN pg_catalog.pg_namespace vn ON vn.oid = v.relnamespace";

fn read(row: &Row) -> Result<StreamTable> {
    Ok(StreamTable {
        id: row.int(0),
        relid: row.oid(1),
        name: Name::new(row.text(2), row.text(3)),
        owner: row.oid(4),
        view: row.oid(5),
        view_name: Name::new(row.text(6), row.text(7)),
        schedule: row.text(8),
        mode: Mode::parse(&row.text(9))?,
        effective: Mode::parse(&row.text(10))?,
        downgrade_reason: row.optional_text(11),
        status: Status::parse(&row.text(12)),
        settings: Kept::from_lines(row.text(13)),
        generation: row.int(14),
        layout: row.text(15),
        is_stage: row.bool(16),
        consistency_group: row.optional_int(17),
        fuse_ceiling: row
            .optional_int(18)
            .and_then(|most| u64::try_from(most).ok()),
        fuse_blown: row.bool(19),
    })
}

fn select(condition: &str, values: &[Value]) -> Result<Vec<StreamTable>> {
    spi::run(
        &format!("SELECT {COLUMNS} FROM {TABLES} WHERE {condition} ORDER BY st.pgt_id"),
        values,
    )
    .iter()
    .map(read)
    .collect()
}

/// The stream table or stage with this id.
pub fn load(id: i64) -> Result<StreamTable> {
    select("st.pgt_id = $1", &[Value::Int(id)])?
        .pop()
        .ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("stream table with id {id} does not exist"),
            )
        })
}

/// The generation and the table of a stream table or stage, if it exists. Ids are given out again after the extension has
/// been dropped and created; tables are not.
pub fn generation(id: i64) -> Option<(i64, pg_sys::Oid)> {
    // The table's columns, as sql/10_catalog.sql lists them.
    const RELID: usize = 2;
    const GENERATION: usize = 11;
    direct::read("pgt_stream_tables", id, &Snapshot::take(), |row| {
        Some((row.int(GENERATION)?, row.oid(RELID)?))
    })?
}

/// Outdates what is compiled of all that read `source`, themselves or through a stage. Returns whether there are any.
pub fn outdate_readers(source: pg_sys::Oid) -> bool {
    let outdated = spi::run_under(
        "UPDATE pgtrickle.pgt_stream_tables st SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') \
         WHERE st.pgt_id IN (SELECT r.pgt_id FROM pgtrickle.pgt_dependencies d \
         JOIN pgtrickle.pgt_units r ON r.unit = d.pgt_id WHERE d.source::pg_catalog.oid = $1) RETURNING 1",
        &[Value::Oid(source)],
        // In REPEATABLE READ too they include those created since the transaction began.
        Under::Snapshot(&Snapshot::latest()),
    );
    !outdated.is_empty()
}

/// Outdates what is compiled of the stream tables that write `relation`, their own table or a stage's.
pub fn outdate_writer(relation: pg_sys::Oid) {
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables st SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') \
         WHERE st.pgt_id IN (SELECT w.pgt_id FROM pgtrickle.pgt_stream_tables t \
         JOIN pgtrickle.pgt_units w ON w.unit = t.pgt_id WHERE t.pgt_relid::pg_catalog.oid = $1)",
        &[Value::Oid(relation)],
    );
}

/// Every stream table, without stages.
pub fn load_all() -> Result<Vec<StreamTable>> {
    select("st.stage_query IS NULL", &[])
}

pub fn by_relation(relid: pg_sys::Oid) -> Result<Option<StreamTable>> {
    Ok(select("st.pgt_relid::pg_catalog.oid = $1", &[Value::Oid(relid)])?.pop())
}

/// The stages of a stream table, innermost first.
pub fn stages_of(id: i64) -> Result<Vec<StreamTable>> {
    spi::run(
        &format!(
            "SELECT {COLUMNS} FROM {TABLES} JOIN pgtrickle.pgt_stages part ON part.stage = st.pgt_id \
             WHERE part.pgt_id = $1 ORDER BY part.number"
        ),
        &[Value::Int(id)],
    )
    .iter()
    .map(read)
    .collect()
}

/// What the stages of a stream table keep, in the same order.
pub fn stage_queries(id: i64) -> Vec<String> {
    spi::run(
        "SELECT st.stage_query FROM pgtrickle.pgt_stages part JOIN pgtrickle.pgt_stream_tables st \
         ON st.pgt_id = part.stage WHERE part.pgt_id = $1 ORDER BY part.number",
        &[Value::Int(id)],
    )
    .iter()
    .map(|row| row.text(0))
    .collect()
}

/// The stage that keeps `query` in this layout for this owner, evaluated under these settings.
pub fn stage_that_keeps(
    query: &str,
    layout: &str,
    owner: pg_sys::Oid,
    settings: &Kept,
) -> Result<Option<StreamTable>> {
    Ok(select(
        "st.stage_query = $1 AND c.relowner = $2 AND pg_catalog.array_to_string(st.settings, E'\n') = $3 AND st.layout = $4",
        &[
            Value::Text(query.to_owned()),
            Value::Oid(owner),
            Value::Text(settings.lines().to_owned()),
            Value::Text(layout.to_owned()),
        ],
    )?
    .into_iter()
    .next())
}

/// Makes `stage` the stage of this number of a stream table.
pub fn add_stage(id: i64, number: usize, stage: i64) {
    spi::run(
        "INSERT INTO pgtrickle.pgt_stages (pgt_id, number, stage) VALUES ($1, $2::pg_catalog.int4, $3)",
        &[Value::Int(id), Value::Int(number as i64), Value::Int(stage)],
    );
}

/// Takes a stream table's stages from it.
pub fn remove_stages(id: i64) {
    spi::run(
        "DELETE FROM pgtrickle.pgt_stages WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
}

/// Takes those stages from a stream table that others have too. Returns whether there were any.
pub fn leave_shared_stages(id: i64) -> bool {
    !spi::run(
        "DELETE FROM pgtrickle.pgt_stages part WHERE part.pgt_id = $1 AND EXISTS \
         (SELECT FROM pgtrickle.pgt_stages other WHERE other.stage = part.stage AND other.pgt_id <> $1) RETURNING 1",
        &[Value::Int(id)],
    )
    .is_empty()
}

/// The stream tables that have this stage.
pub fn users_of_stage(stage: i64) -> Vec<i64> {
    spi::run(
        "SELECT pgt_id FROM pgtrickle.pgt_stages WHERE stage = $1 ORDER BY 1",
        &[Value::Int(stage)],
    )
    .iter()
    .map(|row| row.int(0))
    .collect()
}

/// The stages that no stream table has any more.
pub fn unused_stages() -> Vec<i64> {
    spi::run(
        "SELECT st.pgt_id FROM pgtrickle.pgt_stream_tables st WHERE st.stage_query IS NOT NULL AND NOT EXISTS \
         (SELECT FROM pgtrickle.pgt_stages part WHERE part.stage = st.pgt_id) ORDER BY 1",
        &[],
    )
    .iter()
    .map(|row| row.int(0))
    .collect()
}

/// Removes the entry of a stage if no stream table has it. Returns its table: oid and qualified name.
pub fn remove_unused_stage(stage: i64) -> Option<(pg_sys::Oid, String)> {
    spi::first(
        "DELETE FROM pgtrickle.pgt_stream_tables st USING pg_catalog.pg_class c, pg_catalog.pg_namespace n \
         WHERE st.pgt_id = $1 AND NOT EXISTS (SELECT FROM pgtrickle.pgt_stages part WHERE part.stage = st.pgt_id) \
         AND c.oid = st.pgt_relid AND n.oid = c.relnamespace \
         RETURNING c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)",
        &[Value::Int(stage)],
    )
    .map(|row| (row.oid(0), row.text(1)))
}

/// The relation a name stands for under the caller's search_path.
pub fn resolve_name(name: &str) -> Result<Option<pg_sys::Oid>> {
    Ok(relation::resolve(name))
}

/// The stream table a user calls `name`.
pub fn by_name(name: &str) -> Result<StreamTable> {
    let missing = || {
        Error::new(
            Kind::NotFound,
            format!("stream table \"{name}\" does not exist"),
        )
        .hint("pgtrickle.pgt_status() lists the stream tables of this database.")
    };
    let found = select(
        "st.pgt_relid = pg_catalog.to_regclass($1) AND st.stage_query IS NULL",
        &[Value::Text(name.to_owned())],
    )?;
    if let Some(found) = found.into_iter().next() {
        return Ok(found);
    }
    resolve_name(name)?.ok_or_else(missing)?;
    Err(
        Error::new(Kind::NotFound, format!("\"{name}\" is not a stream table"))
            .hint("pgtrickle.pgt_status() lists the stream tables of this database."),
    )
}

/// A stream table or stage about to be registered.
pub struct NewStreamTable<'a> {
    pub relid: pg_sys::Oid,
    pub view: pg_sys::Oid,
    pub schedule: &'a str,
    pub mode: Mode,
    pub effective: Mode,
    pub downgrade: Option<(&'a str, &'a str)>,
    pub settings: &'a Kept,
    pub layout: &'a str,
    /// What it keeps, for a stage.
    pub stage_query: Option<&'a str>,
    pub diamond_consistency: Option<&'a str>,
    pub diamond_schedule_policy: Option<&'a str>,
}

/// Registers a stream table under `id`.
pub fn insert(id: i64, new: &NewStreamTable<'_>) -> Result<()> {
    let optional = |text: Option<&str>| Value::OptionalText(text.map(str::to_owned));
    let row = spi::first(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_id, pgt_relid, def_view, schedule, refresh_mode, effective_refresh_mode, \
         downgrade_reason, downgrade_hint, status, settings, layout, stage_query, diamond_consistency, \
         diamond_schedule_policy) \
         VALUES ($1, $2::pg_catalog.regclass, $3::pg_catalog.regclass, $4, $5, $6, $7, $8, 'INITIALIZING', \
         pg_catalog.string_to_array($9, E'\n'), $10, \
         $11, $12, $13) RETURNING pgt_id",
        &[
            Value::Int(id),
            Value::Oid(new.relid),
            Value::Oid(new.view),
            Value::Text(new.schedule.to_owned()),
            Value::Text(new.mode.name().to_owned()),
            Value::Text(new.effective.name().to_owned()),
            optional(new.downgrade.map(|(reason, _)| reason)),
            optional(new.downgrade.map(|(_, hint)| hint)),
            Value::Text(new.settings.lines().to_owned()),
            Value::Text(new.layout.to_owned()),
            optional(new.stage_query),
            optional(new.diamond_consistency),
            optional(new.diamond_schedule_policy),
        ],
    );
    row.map(|_| ())
        .ok_or_else(|| Error::new(Kind::Internal, "could not register a stream table"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    Table,
    StreamTable,
    Stage,
    /// Read, but its changes cannot be captured.
    Uncaptured,
}

impl SourceType {
    fn name(self) -> &'static str {
        match self {
            SourceType::Table => "table",
            SourceType::StreamTable => "stream_table",
            SourceType::Stage => "stage",
            SourceType::Uncaptured => "uncaptured",
        }
    }

    pub fn parse(text: &str) -> SourceType {
        match text {
            "stream_table" => SourceType::StreamTable,
            "stage" => SourceType::Stage,
            "uncaptured" => SourceType::Uncaptured,
            _ => SourceType::Table,
        }
    }
}

/// A relation a stream table reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    pub source: pg_sys::Oid,
    pub kind: SourceType,
    pub columns: Vec<i16>,
}

pub fn dependencies(id: i64) -> Vec<Dependency> {
    spi::run(
        "SELECT source::pg_catalog.oid, source_type, columns_used::pg_catalog.text FROM pgtrickle.pgt_dependencies \
         WHERE pgt_id = $1 ORDER BY source",
        &[Value::Int(id)],
    )
    .iter()
    .map(|row| Dependency {
        source: row.oid(0),
        kind: SourceType::parse(&row.text(1)),
        columns: super::sources::parse_numbers(&row.text(2)),
    })
    .collect()
}

pub fn replace_dependencies(id: i64, dependencies: &[Dependency]) {
    spi::run(
        "DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
    for dependency in dependencies {
        spi::run(
            "INSERT INTO pgtrickle.pgt_dependencies (pgt_id, source, source_type, columns_used) \
             VALUES ($1, $2::pg_catalog.regclass, $3, $4::pg_catalog.text::pg_catalog.int2[])",
            &[
                Value::Int(id),
                Value::Oid(dependency.source),
                Value::Text(dependency.kind.name().to_owned()),
                Value::Text(super::sources::print_numbers(&dependency.columns)),
            ],
        );
    }
}

/// The stream tables and stages that read `source`.
pub fn dependents(source: pg_sys::Oid) -> Vec<i64> {
    spi::run(
        "SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source::pg_catalog.oid = $1 ORDER BY 1",
        &[Value::Oid(source)],
    )
    .iter()
    .map(|row| row.int(0))
    .collect()
}

/// The stream tables (not stages) that read stream table `relid`, directly or through a stage.
pub fn downstream_of(relid: pg_sys::Oid) -> Vec<i64> {
    spi::run(
        "SELECT DISTINCT u.pgt_id FROM pgtrickle.pgt_dependencies d \
         JOIN pgtrickle.pgt_units u ON u.unit = d.pgt_id WHERE d.source::pg_catalog.oid = $1 ORDER BY 1",
        &[Value::Oid(relid)],
    )
    .iter()
    .map(|row| row.int(0))
    .collect()
}
