//! Defining a stream table.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::apply::Layout;
use pgt_ivm::rewrite::{self, Planned, STAGE_SOURCE};
use pgt_ivm::sql::ast::Name;

use super::storage;
use crate::analyze::{self, Analysis};
use crate::capture;
use crate::catalog::{
    self, Dependency, InitiatedBy, Mode, NewStreamTable, SourceType, StreamTable,
};
use crate::config::RefreshSettings;
use crate::error::{Error, Kind, Result};
use crate::pg::node::ReadRelation;
use crate::pg::session::{self, Kept, Scope};
use crate::pg::spi::{self, Value};
use crate::pg::{depend, entry, lock, parse, shared, xact};
use crate::refresh::{self, Request, Then};

/// Relations read, by oid, with the columns used.
pub(super) type Reads = BTreeMap<u32, (SourceType, BTreeSet<i16>)>;

/// What the user wrote.
pub struct Definition<'a> {
    pub name: &'a str,
    pub query: &'a str,
    pub schedule: &'a str,
    pub mode: Mode,
    pub initialize: bool,
    pub diamond_consistency: Option<&'a str>,
    pub diamond_schedule_policy: Option<&'a str>,
}

/// Creates a stream table and, if asked, fills it.
///
/// Parts of a query are kept on their own, also for rows that the query around them never asks for. Where one of them fails
/// on such a row and the query itself does not, the query is not incremental.
pub fn create(definition: &Definition<'_>) -> Result<StreamTable> {
    if definition.mode == Mode::Full || !definition.initialize {
        return create_as(definition, None);
    }
    let failure = match xact::attempt(|| create_as(definition, None)) {
        Ok(created) => return created,
        Err(failure) if failure.may_be_the_delta() => failure,
        Err(failure) => failure.raise(),
    };
    let refusal = analyze::NotIncremental {
        reason: format!(
            "a part of it, evaluated on its own, fails with {}",
            failure.sqlstate
        ),
        hint: "Write the part such that it cannot fail on any row, with CASE or NULLIF.".into(),
    };
    // Fails as the query itself does.
    let whole = create_as(definition, Some(refusal.clone()))?;
    match definition.mode {
        Mode::Auto => Ok(whole),
        _ => Err(not_incremental(&refusal)),
    }
}

fn not_incremental(refusal: &analyze::NotIncremental) -> Error {
    Error::new(
        Kind::NotIncremental,
        format!(
            "the query cannot be maintained incrementally: {}",
            refusal.reason
        ),
    )
    .hint(refusal.hint.clone())
}

/// As [`create`]; with a refusal the query is left whole.
fn create_as(
    definition: &Definition<'_>,
    refusal: Option<analyze::NotIncremental>,
) -> Result<StreamTable> {
    require_preloaded()?;
    super::check_schedule(definition.schedule)?;
    refuse_immediate(definition.mode)?;
    check_diamond(
        definition.diamond_consistency,
        definition.diamond_schedule_policy,
    )?;
    let name = creation_name(definition.name)?;
    if catalog::resolve_name(&name.to_string())?.is_some() {
        return Err(Error::new(
            Kind::Exists,
            format!("relation \"{}\" already exists", name.name),
        )
        .hint("Use create_or_replace_stream_table() to replace a stream table."));
    }
    check_query_text(definition.query)?;
    let _quiet = entry::defining();
    if let Some(catalog_oid) = catalog::catalog_oid() {
        lock::definitions(catalog_oid);
    }
    let settings = Kept::current();
    let caller = session::current_user();
    let id = next_id();
    let view = create_view(
        &Name::new("pgtrickle_defs", format!("def_{id}")),
        definition.query,
        caller,
    )?;
    let analysis = analyze::analyze(view, &settings)?;
    check_privileges(&analysis)?;
    let (effective, downgrade) = match refusal {
        Some(refusal) => (Mode::Full, Some(refusal)),
        None => effective_mode(definition.mode, &analysis)?,
    };
    let planned = match (&effective, &analysis.query) {
        (Mode::Full, _) | (_, Err(_)) => None,
        (_, Ok(query)) => Some(rewrite::cut(query, definition.mode.ties())),
    };
    let layout = match &planned {
        Some(planned) => Layout::of(&planned.query),
        None => Layout::opaque(&refresh::view_columns(view)),
    };
    if layout.columns.is_empty() {
        return Err(Error::new(
            Kind::InvalidArgument,
            "a stream table needs at least one column",
        ));
    }
    let relid = storage::create_table(&name, &layout)?;
    {
        let _scope = Scope::internal();
        depend::make_part(view, relid);
        depend::needs_extension(relid);
        let layout = refresh::layout_text(&layout)?;
        register(
            id,
            &NewStreamTable {
                relid,
                view,
                schedule: definition.schedule,
                mode: definition.mode,
                effective,
                downgrade: downgrade
                    .as_ref()
                    .map(|refusal| (refusal.reason.as_str(), refusal.hint.as_str())),
                settings: &settings,
                layout: &layout,
                stage_query: None,
                diamond_consistency: definition.diamond_consistency,
                diamond_schedule_policy: definition.diamond_schedule_policy,
            },
        )?;
        catalog::ensure_state(id);
    }
    let table = catalog::load(id)?;
    attach_sources(&table, &analysis, planned.as_ref())?;
    super::groups::definition_changed(&table)?;
    xact::definition_will_change(id);
    if let Some(refusal) = &downgrade {
        pgrx::notice!(
            "stream table {} is refreshed fully: {}",
            table.display_name(),
            refusal.reason
        );
    }
    for (relation, statement) in super::indexes::missing(id) {
        pgrx::notice!("without an index a change may read all of {relation}: {statement}");
    }
    if definition.initialize {
        refresh::refresh(&Request {
            ids: vec![id],
            with_upstream: false,
            initiated_by: InitiatedBy::Create,
            force_full: None,
            settings: RefreshSettings::read(),
            fuses: false,
            set_up: super::rebuild::ensure_ready,
            then: Then::Nothing,
        })?;
    }
    catalog::load(id)
}

/// The library must have been preloaded, or nothing would ever be scheduled.
pub(super) fn require_preloaded() -> Result<()> {
    if shared::available() {
        return Ok(());
    }
    Err(Error::new(Kind::State, "pg_trickle is not loaded at server start")
        .detail("Background refresh and change tracking need shared memory.")
        .hint("Add pg_trickle to shared_preload_libraries in postgresql.conf and restart the server."))
}

/// Maintenance inside the writing transaction does not exist yet.
pub(super) fn refuse_immediate(mode: Mode) -> Result<()> {
    if mode == Mode::Immediate {
        return Err(Error::new(
            Kind::NotIncremental,
            "refresh mode IMMEDIATE is not available yet",
        )
        .hint("Use AUTO with schedule 'continuous'."));
    }
    Ok(())
}

pub(super) fn check_diamond(consistency: Option<&str>, policy: Option<&str>) -> Result<()> {
    for (value, allowed, what) in [
        (consistency, ["none", "atomic"], "diamond_consistency"),
        (policy, ["fastest", "slowest"], "diamond_schedule_policy"),
    ] {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            return Err(
                Error::new(Kind::InvalidArgument, format!("invalid {what} \"{value}\""))
                    .hint(format!("Use '{}' or '{}'.", allowed[0], allowed[1])),
            );
        }
    }
    Ok(())
}

/// The schema and table a new stream table is to get.
pub fn creation_name(text: &str) -> Result<Name> {
    let parts: Vec<String> = spi::run(
        "SELECT part FROM pg_catalog.unnest(pg_catalog.parse_ident($1)) part",
        &[Value::Text(text.to_owned())],
    )
    .iter()
    .map(|row| row.text(0))
    .collect();
    match parts.as_slice() {
        [table] => {
            let schema = spi::first("SELECT pg_catalog.current_schema()", &[])
                .and_then(|row| row.optional_text(0))
                .ok_or_else(|| {
                    Error::new(
                        Kind::InvalidArgument,
                        "no schema has been selected to create in",
                    )
                    .hint("Write the name as schema.table, or set search_path.")
                })?;
            Ok(Name::new(schema, table.clone()))
        }
        [schema, table] => Ok(Name::new(schema.clone(), table.clone())),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid stream table name \"{text}\""),
        )
        .hint("Write table or schema.table.")),
    }
}

pub(super) fn check_query_text(query: &str) -> Result<()> {
    let problem = match parse::classify(query) {
        parse::Statement::Select => return Ok(()),
        parse::Statement::SelectInto => "the defining query is a SELECT INTO",
        parse::Statement::Empty => "the defining query is empty",
        parse::Statement::Several => "the defining query consists of several statements",
        parse::Statement::Other => "the defining query is not a SELECT",
    };
    Err(Error::new(Kind::InvalidArgument, problem)
        .hint("A stream table is defined by exactly one SELECT."))
}

fn next_id() -> i64 {
    let _scope = Scope::internal();
    spi::first("SELECT pg_catalog.nextval('pgtrickle.pgt_id_seq')", &[]).map_or(0, |row| row.int(0))
}

/// The view that holds the defining query: created with the caller's search_path, then given to the caller.
///
/// The text has been parsed and is one SELECT, so that it is only analyzed here, with no way to do anything else.
pub(super) fn create_view(name: &Name, query: &str, owner: pg_sys::Oid) -> Result<pg_sys::Oid> {
    {
        let _scope = Scope::internal_with_callers_path();
        let query = query.trim().trim_end_matches(';');
        let command = format!("CREATE VIEW {name} AS {query}");
        if let Err(failure) = xact::attempt(|| spi::command(&command)) {
            if failure.sqlstate == "42P16" {
                return Err(Error::new(
                    Kind::NotIncremental,
                    "the query cannot define a stored table",
                )
                .detail(failure.message.clone())
                .hint("Temporary tables cannot be read, and every column needs a type that a table can have."));
            }
            failure.raise();
        }
    }
    let _scope = Scope::internal();
    let role = pgt_ivm::sql::quote_identifier(&storage::owner_name(owner));
    spi::command(&format!("ALTER VIEW {name} OWNER TO {role}"));
    storage::relation_oid(name)
}

/// SELECT and TRIGGER on every source, for the current user.
pub(super) fn check_privileges(analysis: &Analysis) -> Result<()> {
    for relation in &analysis.relations {
        let row = spi::first(
            "SELECT pg_catalog.has_any_column_privilege($1, 'SELECT'), \
             pg_catalog.has_table_privilege($1, 'TRIGGER'), $1::pg_catalog.regclass::pg_catalog.text",
            &[Value::Oid(relation.relid)],
        );
        let Some(row) = row else { continue };
        let missing = match (
            row.bool(0),
            row.bool(1) || !analyze::capturable(relation.relid, relation.relkind),
        ) {
            (false, _) => "SELECT",
            (true, false) => "TRIGGER",
            _ => continue,
        };
        return Err(Error::new(
            Kind::Permission,
            format!("permission denied for table {}", row.text(2)),
        )
        .detail(format!(
            "A stream table needs the {missing} privilege on its sources."
        ))
        .hint(format!(
            "GRANT {missing} ON {} TO the role that creates the stream table.",
            row.text(2)
        )));
    }
    Ok(())
}

/// The mode a stream table really gets, and why if it is not incremental.
pub(super) fn effective_mode(
    mode: Mode,
    analysis: &Analysis,
) -> Result<(Mode, Option<analyze::NotIncremental>)> {
    match (mode, &analysis.query) {
        (Mode::Full, _) => Ok((Mode::Full, None)),
        (Mode::Auto, Ok(_)) if let Some(ties) = &analysis.ties => {
            let refusal = analyze::NotIncremental {
                reason: ties.clone(),
                hint: "Order by more columns until no two rows are equal, or ask for DIFFERENTIAL: any of them is right then."
                    .into(),
            };
            Ok((Mode::Full, Some(refusal)))
        }
        (_, Ok(_)) => Ok((Mode::Differential, None)),
        (Mode::Auto, Err(refusal)) => {
            if let Some(function) = &analysis.volatile {
                return Err(Error::new(
                    Kind::NotIncremental,
                    format!("function {function} is volatile"),
                )
                .detail("Its result is another one each time it is evaluated.")
                .hint("Use refresh mode FULL if that is what you want."));
            }
            Ok((Mode::Full, Some(refusal.clone())))
        }
        (_, Err(refusal)) => Err(not_incremental(refusal)),
    }
}

fn register(id: i64, new: &NewStreamTable<'_>) -> Result<()> {
    catalog::insert(id, new)?;
    Ok(())
}

/// Captures the sources, creates the stages and records what reads what.
pub(super) fn attach_sources(
    table: &StreamTable,
    analysis: &Analysis,
    planned: Option<&Planned>,
) -> Result<()> {
    let catalog_oid = catalog::installed()?;
    lock::stream_table(catalog_oid, table.id);
    let mut touched: BTreeSet<u32> = BTreeSet::new();
    let mut stage_relids: Vec<pg_sys::Oid> = Vec::new();
    let mut units: Vec<(i64, Reads)> = Vec::new();
    // Stages that were there before.
    let mut found: BTreeSet<i64> = BTreeSet::new();
    match planned {
        Some(planned) => {
            let mut stored = Vec::new();
            for (number, stage) in planned.stages.iter().enumerate() {
                let kept = refresh::stage_query(&stage.query, &stage_relids)?;
                let (id, relid, name) = match find_stage(table, &kept, &stage.query)? {
                    Some(known) => {
                        found.insert(known.id);
                        (known.id, known.relid, known.name)
                    }
                    None => create_stage(table, &kept, &stage.query)?,
                };
                {
                    let _scope = Scope::internal();
                    catalog::add_stage(table.id, number, id);
                }
                let reads = read_columns(&stage.query, &stage_relids)?;
                stage_relids.push(relid);
                stored.push((relid, name));
                units.push((id, reads));
            }
            super::indexes::index_stages(planned, &stored);
            units.push((table.id, read_columns(&planned.query, &stage_relids)?));
        }
        None => {
            let mut reads = BTreeMap::new();
            for relation in &analysis.relations {
                let columns = all_columns(relation.relid);
                reads.insert(relation.relid.to_u32(), (kind_of(relation)?, columns));
            }
            if analysis.restless {
                // Nothing that is captured tells when it has to be evaluated again: the view stands for that.
                reads.insert(
                    table.view.to_u32(),
                    (SourceType::Uncaptured, BTreeSet::new()),
                );
            }
            units.push((table.id, reads));
        }
    }
    refuse_cycle(table, &units)?;
    let _scope = Scope::internal();
    for (id, reads) in &units {
        let dependencies: Vec<Dependency> = reads
            .iter()
            .map(|(source, (kind, columns))| Dependency {
                source: pg_sys::Oid::from(*source),
                kind: *kind,
                columns: columns.iter().copied().collect(),
            })
            .collect();
        catalog::replace_dependencies(*id, &dependencies);
    }
    for (source, (kind, columns)) in units.iter().flat_map(|(_, reads)| reads) {
        touched.insert(*source);
        let source = pg_sys::Oid::from(*source);
        let changed = match kind {
            SourceType::Table => capture::ensure_table(source, columns)?,
            SourceType::StreamTable | SourceType::Stage => {
                let upstream = storage::must_be_stream_table(source)?;
                lock::stream_table(catalog_oid, upstream.id);
                let visible = all_visible_columns(&upstream)?;
                let changed = capture::ensure_stream(source, &visible)?;
                if changed {
                    catalog::outdate_writer(source);
                }
                changed
            }
            SourceType::Uncaptured => false,
        };
        if changed {
            catalog::outdate_readers(source);
            // Perhaps nothing was captured for a while.
            for reader in catalog::dependents(source) {
                if found.contains(&reader) {
                    super::rebuild::require_reinit(reader, "its source is captured anew");
                }
            }
        }
    }
    for source in touched {
        storage::grant_log(pg_sys::Oid::from(source))?;
    }
    let moves = planned.is_some_and(|planned| {
        let mut queries = planned.stages.iter().map(|stage| &stage.query);
        queries.any(|query| query.root.moves()) || planned.query.root.moves()
    });
    super::indexes::save_lookups(table.id, planned);
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables SET moves = $2 WHERE pgt_id = $1 AND moves <> $2",
        &[Value::Int(table.id), Value::Bool(moves)],
    );
    Ok(())
}

/// What a relation is to a query that is evaluated as a whole.
pub(super) fn kind_of(relation: &ReadRelation) -> Result<SourceType> {
    Ok(if catalog::by_relation(relation.relid)?.is_some() {
        SourceType::StreamTable
    } else if analyze::capturable(relation.relid, relation.relkind) {
        SourceType::Table
    } else {
        SourceType::Uncaptured
    })
}

/// What a tree reads: relations with the columns used.
pub(super) fn read_columns(query: &pgt_ivm::rel::Query, stages: &[pg_sys::Oid]) -> Result<Reads> {
    let mut reads = BTreeMap::new();
    for (source, columns) in refresh::columns_read(query) {
        if source.0 >= STAGE_SOURCE {
            reads.insert(
                stages[(source.0 - STAGE_SOURCE) as usize].to_u32(),
                (SourceType::Stage, columns),
            );
        } else {
            let relid = pg_sys::Oid::from(source.0 as u32);
            let kind = match catalog::by_relation(relid)? {
                Some(_) => SourceType::StreamTable,
                None => SourceType::Table,
            };
            reads.insert(relid.to_u32(), (kind, columns));
        }
    }
    Ok(reads)
}

/// Live columns of a table that are stored.
pub(super) fn all_columns(relid: pg_sys::Oid) -> BTreeSet<i16> {
    spi::run(
        "SELECT attnum FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped \
         AND attgenerated <> 'v'",
        &[Value::Oid(relid)],
    )
    .iter()
    .map(|row| row.int(0) as i16)
    .collect()
}

/// The visible columns of a stream table or stage; they come first in its table.
fn all_visible_columns(table: &StreamTable) -> Result<BTreeSet<i16>> {
    let layout = storage::read_layout(&table.layout)?;
    Ok((1..=layout.visible().count() as i16).collect())
}

/// The stage of another stream table that keeps the same, locked.
fn find_stage(
    table: &StreamTable,
    kept: &str,
    query: &pgt_ivm::rel::Query,
) -> Result<Option<StreamTable>> {
    let layout = refresh::layout_text(&Layout::of(query))?;
    let find = || catalog::stage_that_keeps(kept, &layout, table.owner, &table.settings);
    let Some(known) = find()? else {
        return Ok(None);
    };
    lock::stream_table(catalog::installed()?, known.id);
    // It may have been dropped until then.
    Ok(find()?.filter(|still| still.id == known.id))
}

/// Creates the table of a stage, owned by the stream table's owner, and registers it.
fn create_stage(
    table: &StreamTable,
    kept: &str,
    query: &pgt_ivm::rel::Query,
) -> Result<(i64, pg_sys::Oid, Name)> {
    let layout = Layout::of(query);
    let id = next_id();
    let _scope = Scope::internal();
    let name = Name::new("pgtrickle_stages", format!("stage_{id}"));
    let relid = storage::create_table(&name, &layout)?;
    super::indexes::index_itself(&name, query, &layout);
    let role = pgt_ivm::sql::quote_identifier(&storage::owner_name(table.owner));
    spi::command(&format!("ALTER TABLE {name} OWNER TO {role}"));
    depend::make_member(relid);
    let layout = refresh::layout_text(&layout)?;
    register(
        id,
        &NewStreamTable {
            relid,
            view: relid,
            schedule: &table.schedule,
            mode: table.mode,
            effective: Mode::Differential,
            downgrade: None,
            settings: &table.settings,
            layout: &layout,
            stage_query: Some(kept),
            diamond_consistency: None,
            diamond_schedule_policy: None,
        },
    )?;
    catalog::ensure_state(id);
    Ok((id, relid, name))
}

/// Refuses a query that reads what reads this stream table.
fn refuse_cycle(table: &StreamTable, units: &[(i64, Reads)]) -> Result<()> {
    let mut path: BTreeMap<i64, i64> = BTreeMap::new();
    let mut open = Vec::new();
    for (source, (kind, _)) in units.iter().flat_map(|(_, reads)| reads) {
        if *kind == SourceType::StreamTable
            && let Some(upstream) = catalog::by_relation(pg_sys::Oid::from(*source))?
        {
            path.insert(upstream.id, table.id);
            open.push(upstream.id);
        }
    }
    while let Some(id) = open.pop() {
        if id == table.id {
            let mut names = vec![table.display_name()];
            let mut at = path[&id];
            while at != table.id {
                names.push(catalog::load(at)?.display_name());
                at = path[&at];
            }
            names.push(table.display_name());
            return Err(Error::new(
                Kind::Cycle,
                "stream tables would read each other in a circle",
            )
            .detail(format!("{}.", names.join(" reads ")))
            .hint("Read the base tables instead."));
        }
        for upstream in refresh::upstream_of(id)? {
            if let std::collections::btree_map::Entry::Vacant(free) = path.entry(upstream) {
                free.insert(id);
                open.push(upstream);
            }
        }
    }
    Ok(())
}
