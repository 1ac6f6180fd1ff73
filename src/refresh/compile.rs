//! From a catalog entry to something that can be run: units (stages, then the result) with their layouts and sources.
//!
//! Any change of the definition, of a source's shape or of a log's layout gives a stream table another generation, and it
//! is compiled anew.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pgrx::pg_sys;
use pgt_ivm::apply::{Layout, Target};
use pgt_ivm::rel::{OutputColumn, Query, Rel, SourceId};
use pgt_ivm::rewrite::{self, Planned, STAGE_SOURCE};
use pgt_ivm::scalar::Type;
use pgt_ivm::sql::ast::Name;
use pgt_ivm::sql::{SourceTable, Sources};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::cache;
use super::unit::Plans;
use crate::analyze;
use crate::catalog::{self, Dependency, Mode, SourceType, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::lock::Ingredients;
use crate::pg::node;
use crate::pg::relation;
use crate::pg::spi::{self, Under, Value};

/// Where a unit's source comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceRef {
    pub relid: pg_sys::Oid,
    pub segments: Vec<pg_sys::Oid>,
    pub unlogged: bool,
    /// The stream table or stage, if it is one.
    pub stream: Option<i64>,
}

/// One stored result: a stage or a stream table itself.
#[derive(Serialize, Deserialize)]
pub struct Unit {
    pub id: i64,
    pub relid: pg_sys::Oid,
    /// The tree; none if the result is only known as a view.
    pub query: Option<Query>,
    pub layout: Layout,
    pub sources: Sources,
    /// In the order of `sources`.
    pub source_refs: BTreeMap<SourceId, SourceRef>,
    pub target: Target,
    pub view: Name,
    #[serde(skip)]
    pub(super) plans: RefCell<Plans>,
}

impl Unit {
    /// Its rows come and go as time passes.
    pub fn moves(&self) -> bool {
        self.query.as_ref().is_some_and(|query| query.root.moves())
    }

    /// The ids of the upstream stream tables and stages, in the order of their position in the consumed versions.
    pub fn upstream(&self) -> Vec<i64> {
        self.sources
            .iter()
            .filter(|(_, source)| source.version.is_some())
            .filter_map(|(id, _)| self.source_refs[id].stream)
            .collect()
    }
}

/// A stream table ready to be refreshed.
#[derive(Serialize, Deserialize)]
pub struct Compiled {
    pub table: StreamTable,
    pub units: Vec<Unit>,
    /// The units that have a row if rows that are equal under an ORDER BY decide the result.
    pub watches: BTreeSet<usize>,
    /// It reads something whose changes cannot be captured.
    pub uncaptured: bool,
    /// Its result can change while nothing it reads does.
    pub restless: bool,
    /// What its query is made of besides relations.
    pub ingredients: Ingredients,
}

/// The stream table compiled, from a cache if its generation is still the same. Fails if it does not fit what is stored and
/// logged for it, so that whatever has been compiled can be refreshed.
pub fn compile(table: &StreamTable) -> Result<Rc<Compiled>> {
    if let Some(known) = cache::kept(table.id)
        && known.is_of(table)
    {
        return Ok(known);
    }
    let compiled = Rc::new(build(table)?);
    cache::keep(&compiled);
    Ok(compiled)
}

impl Compiled {
    /// Compiled from exactly this definition. Ids are given out again after the extension has been dropped and created;
    /// tables are not.
    pub(super) fn is_of(&self, table: &StreamTable) -> bool {
        self.table.generation == table.generation && self.table.relid == table.relid
    }

    /// What it reads directly or through its stages.
    pub(super) fn upstream(&self) -> Vec<i64> {
        let units: Vec<i64> = self.units.iter().map(|unit| unit.id).collect();
        let mut upstream: Vec<i64> = self
            .units
            .iter()
            .flat_map(Unit::upstream)
            .filter(|id| !units.contains(id))
            .collect();
        upstream.sort_unstable();
        upstream.dedup();
        upstream
    }
}

fn build(table: &StreamTable) -> Result<Compiled> {
    let dependencies = catalog::dependencies(table.id);
    let uncaptured = dependencies
        .iter()
        .any(|dependency| dependency.kind == SourceType::Uncaptured);
    let restless = dependencies
        .iter()
        .any(|dependency| dependency.source == table.view);
    let mut watches = BTreeSet::new();
    let (units, ingredients) = if table.effective == Mode::Full {
        let ingredients = analyze::hold_ingredients(table.view);
        (vec![opaque_unit(table, &dependencies)?], ingredients)
    } else {
        let analysis = analyze::analyze(table.view, &table.settings)?;
        let query = analysis.query.map_err(|refusal| {
            Error::new(
                Kind::SourceChanged,
                format!(
                    "stream table {} can no longer be maintained incrementally",
                    table.display_name()
                ),
            )
            .detail(format!("{}.", refusal.reason))
            .hint("Alter its refresh mode to FULL or AUTO.")
        })?;
        let planned = rewrite::cut(&query, table.mode.ties());
        let units = incremental_units(table, &planned)?;
        watches = planned.watches;
        (units, analysis.ingredients)
    };
    Ok(Compiled {
        table: table.clone(),
        units,
        watches,
        uncaptured,
        restless,
        ingredients,
    })
}

/// The columns of each table and stream table the query reads.
pub fn columns_read(query: &Query) -> BTreeMap<SourceId, BTreeSet<i16>> {
    let mut columns: BTreeMap<SourceId, BTreeSet<i16>> = BTreeMap::new();
    for scan in query.root.scans() {
        columns
            .entry(scan.source)
            .or_default()
            .extend(scan.columns.iter().map(|column| column.attnum));
    }
    columns
}

/// What stages keep, by which equal ones are found: their queries over relations. `relations`: those of the stages.
pub fn stage_queries(planned: &Planned, relations: &[pg_sys::Oid]) -> Result<Vec<String>> {
    planned
        .stages
        .iter()
        .map(|stage| stage_query(&stage.query, relations))
        .collect()
}

/// What a stage keeps, whatever its sources' columns are called and is known of their values. `relations`: those of the
/// stages before it.
pub fn stage_query(query: &Query, relations: &[pg_sys::Oid]) -> Result<String> {
    let number = |source: SourceId| source.0.checked_sub(STAGE_SOURCE);
    let resolved = rewrite::with_sources(query, |source| {
        number(source)
            .and_then(|number| relations.get(number as usize))
            .map_or(source, |relid| SourceId(u64::from(relid.to_u32())))
    });
    let mut text = serde_json::to_value(&resolved).map_err(|problem| {
        Error::new(Kind::Internal, "a query could not be stored").detail(problem.to_string())
    })?;
    forget_facts(&mut text);
    Ok(text.to_string())
}

/// Takes from a query what does not change its rows: nullability, what is known of ties, and names of columns and keys in
/// scans.
fn forget_facts(value: &mut Json) {
    match value {
        Json::Array(items) => items.iter_mut().for_each(forget_facts),
        Json::Object(fields) => {
            fields.remove("nullable");
            fields.remove("open");
            if let Some(Json::Object(scan)) = fields.get_mut("Scan") {
                scan.remove("keys");
                if let Some(Json::Array(columns)) = scan.get_mut("columns") {
                    for column in columns.iter_mut().filter_map(Json::as_object_mut) {
                        column.remove("name");
                    }
                }
            }
            fields.values_mut().for_each(forget_facts);
        }
        _ => {}
    }
}

fn incremental_units(table: &StreamTable, planned: &Planned) -> Result<Vec<Unit>> {
    let stage_rows = catalog::stages_of(table.id)?;
    let relations: Vec<pg_sys::Oid> = stage_rows.iter().map(|stage| stage.relid).collect();
    if stage_queries(planned, &relations)? != catalog::stage_queries(table.id) {
        return Err(Error::new(
            Kind::State,
            format!(
                "the intermediate results of stream table {} are outdated",
                table.display_name()
            ),
        )
        .hint("Call pgtrickle.repair_stream_table() for it."));
    }
    let mut units = Vec::new();
    for (stage, row) in planned.stages.iter().zip(&stage_rows) {
        units.push(unit(row, &stage.query, &stage_rows)?);
    }
    units.push(unit(table, &planned.query, &stage_rows)?);
    Ok(units)
}

fn unit(table: &StreamTable, query: &Query, stages: &[StreamTable]) -> Result<Unit> {
    let mut sources = Sources::new();
    let mut source_refs = BTreeMap::new();
    let mut version = 0;
    let mut types: BTreeMap<SourceId, BTreeMap<i16, Type>> = BTreeMap::new();
    for scan in query.root.scans() {
        let entry = types.entry(scan.source).or_default();
        entry.extend(
            scan.columns
                .iter()
                .map(|column| (column.attnum, column.ty.clone())),
        );
    }
    for (id, columns) in types {
        let (relid, stream) = if id.0 >= STAGE_SOURCE {
            let stage = &stages[(id.0 - STAGE_SOURCE) as usize];
            (stage.relid, Some(stage.id))
        } else {
            let relid = pg_sys::Oid::from(id.0 as u32);
            (
                relid,
                catalog::by_relation(relid)?.map(|upstream| upstream.id),
            )
        };
        if stream.is_some() {
            version += 1;
        }
        let reference = source_ref(relid, stream, &columns.keys().copied().collect())?;
        sources.insert(
            id,
            SourceTable {
                name: relation_name(relid)?,
                only: is_plain_table(relid),
                log: reference.1,
                version: stream.is_some().then_some(version),
                indexed: relation::found_by_index(relid),
                columns,
            },
        );
        source_refs.insert(id, reference.0);
    }
    let layout = Layout::of(query);
    if layout_text(&layout)? != table.layout {
        return Err(overtaken(table.relid));
    }
    Ok(Unit {
        id: table.id,
        relid: table.relid,
        layout,
        query: Some(query.clone()),
        sources,
        source_refs,
        target: Target {
            table: table.name.clone(),
            output: output_segment(table.relid),
        },
        view: table.view_name.clone(),
        plans: RefCell::default(),
    })
}

/// A stream table of which only its view is known: refreshed fully when a captured source changed.
fn opaque_unit(table: &StreamTable, dependencies: &[Dependency]) -> Result<Unit> {
    let mut sources = Sources::new();
    let mut source_refs = BTreeMap::new();
    let mut version = 0;
    for dependency in dependencies
        .iter()
        .filter(|dependency| dependency.kind != SourceType::Uncaptured)
    {
        let stream = catalog::by_relation(dependency.source)?.map(|upstream| upstream.id);
        if stream.is_some() {
            version += 1;
        }
        let (reference, log) = source_ref(dependency.source, stream, &BTreeSet::new())?;
        let id = SourceId(u64::from(dependency.source.to_u32()));
        sources.insert(
            id,
            SourceTable {
                name: relation_name(dependency.source)?,
                only: false,
                log,
                version: stream.is_some().then_some(version),
                columns: BTreeMap::new(),
                indexed: BTreeSet::new(),
            },
        );
        source_refs.insert(id, reference);
    }
    Ok(Unit {
        id: table.id,
        relid: table.relid,
        query: None,
        layout: Layout::opaque(&view_columns(table.view)),
        sources,
        source_refs,
        target: Target {
            table: table.name.clone(),
            output: output_segment(table.relid),
        },
        view: table.view_name.clone(),
        plans: RefCell::default(),
    })
}

/// The form in which a layout is kept in the catalog: what decides how rows are stored, without the tree they come from,
/// so that a renamed source column changes nothing.
pub fn layout_text(layout: &Layout) -> Result<String> {
    let mut layout = layout.clone();
    if let Some(grouped) = &mut layout.grouped {
        grouped.input = Rel::UnionAll {
            inputs: vec![],
            columns: vec![],
        };
    }
    serde_json::to_string(&layout).map_err(|problem| {
        Error::new(
            Kind::Internal,
            format!("could not write a layout: {problem}"),
        )
    })
}

fn source_ref(
    relid: pg_sys::Oid,
    stream: Option<i64>,
    columns: &BTreeSet<i16>,
) -> Result<(SourceRef, Vec<Name>)> {
    let log = catalog::change_source(relid, Under::Current).ok_or_else(|| {
        Error::new(
            Kind::State,
            format!("changes of {} are not captured", describe(relid)),
        )
        .hint("Refresh the stream table with pgtrickle.refresh_stream_table() to set it up again.")
    })?;
    let current = log.columns();
    if !columns.iter().all(|column| current.contains(column)) {
        return Err(overtaken(relid));
    }
    // A layout without the columns is older than this reader: every row in it was seen when it was built.
    let usable: Vec<_> = log
        .segments
        .iter()
        .filter(|segment| {
            columns
                .iter()
                .all(|column| segment.columns.contains(column))
        })
        .collect();
    let names = usable.iter().map(|segment| segment.name(relid)).collect();
    let reference = SourceRef {
        relid,
        segments: usable.iter().map(|segment| segment.relid).collect(),
        unlogged: log.unlogged,
        stream,
    };
    Ok((reference, names))
}

/// What the query of a stream table means, or needs, changed after that was looked at.
pub(super) fn overtaken(relid: pg_sys::Oid) -> Error {
    Error::new(
        Kind::MustWait,
        format!(
            "the definition of {} changed during a refresh",
            describe(relid)
        ),
    )
    .hint("Try again.")
}

fn output_segment(relid: pg_sys::Oid) -> Option<Name> {
    let log = catalog::change_source(relid, Under::Current)?;
    log.current_segment().map(|segment| segment.name(relid))
}

fn relation_name(relid: pg_sys::Oid) -> Result<Name> {
    spi::first(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
         ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[Value::Oid(relid)],
    )
    .map(|row| Name::new(row.text(0), row.text(1)))
    .ok_or_else(|| Error::new(Kind::NotFound, "a source table does not exist any more"))
}

fn describe(relid: pg_sys::Oid) -> String {
    relation_name(relid).map_or_else(
        |_| format!("relation {}", relid.to_u32()),
        |name| name.to_string(),
    )
}

/// Not partitioned: scanned with ONLY, which says what analysis has checked.
fn is_plain_table(relid: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT relkind = 'r' FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relid)],
    )
    .is_some_and(|row| row.bool(0))
}

/// The columns of a defining view.
pub fn view_columns(view: pg_sys::Oid) -> Vec<OutputColumn> {
    spi::run(
        "SELECT attnum, attname, atttypid, atttypmod, attcollation FROM pg_catalog.pg_attribute \
         WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        &[Value::Oid(view)],
    )
    .iter()
    .map(|row| OutputColumn {
        id: pgt_ivm::rel::ColId(row.int(0) as u32),
        name: row.text(1),
        ty: node::describe_type(row.oid(2), row.int(3) as i32, row.oid(4)),
    })
    .collect()
}
