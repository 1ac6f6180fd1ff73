//! Making a stream table fit its definition again: after a restore, after DDL on its sources, after an altered query.

use pgrx::pg_sys;
use pgt_ivm::apply::Layout;
use pgt_ivm::rewrite::{self, Planned};
use pgt_ivm::sql;

use super::{create, dropped, storage};
use crate::analyze::{self, Analysis};
use crate::capture;
use crate::catalog::{self, Mode, SourceType, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Scope;
use crate::pg::spi::{self, Under, Value};
use crate::pg::{depend, entry, lock, xact};
use crate::refresh;

/// Makes sure `table` can be refreshed: its sources are captured, its stages exist and its storage is what its query
/// needs. Costs nothing while its generation is the one this session has compiled.
pub fn ensure_ready(table: &StreamTable) -> Result<()> {
    if refresh::is_compiled(table) {
        return Ok(());
    }
    if fits(table)? {
        return Ok(());
    }
    rebuild(table, None)
}

/// A dump is being restored and has not come to this stream table's triggers and index, or those of its sources. Workers
/// leave it alone until then: what they would create, the dump creates.
pub fn is_being_restored(table: &StreamTable) -> Result<bool> {
    if refresh::is_compiled(table) || depend::is_part(table.view, table.relid) {
        return Ok(false);
    }
    let stored = storage::read_layout(&table.layout)?;
    if !storage::has_guard(table.relid) || !index_fits(table, &stored)? {
        return Ok(true);
    }
    Ok(catalog::dependencies(table.id).iter().any(|dependency| {
        dependency.kind == SourceType::Table && !capture::has_triggers(dependency.source)
    }))
}

/// Whether everything the stream table stands on is in place.
fn fits(table: &StreamTable) -> Result<bool> {
    if !depend::is_part(table.view, table.relid) {
        return Ok(false);
    }
    let stages = catalog::stages_of(table.id)?;
    for unit in stages.iter().map(|stage| stage.id).chain([table.id]) {
        for dependency in catalog::dependencies(unit) {
            if dependency.kind != SourceType::Uncaptured
                && catalog::change_source(dependency.source, Under::Current).is_none()
            {
                return Ok(false);
            }
        }
    }
    let analysis = analyze::analyze(table.view, &table.settings)?;
    let (effective, downgrade) = create::effective_mode(table.mode, &analysis)?;
    let reason = downgrade.map(|refusal| refusal.reason);
    if effective != table.effective || reason != table.downgrade_reason {
        return Ok(false);
    }
    let planned = plan((table.mode, effective), &analysis);
    let layouts: Vec<Layout> = planned
        .iter()
        .flat_map(|planned| planned.stages.iter().map(|stage| Layout::of(&stage.query)))
        .chain([layout(table.view, planned.as_ref())])
        .collect();
    if layouts.len() != stages.len() + 1 {
        return Ok(false);
    }
    for (layout, stored) in layouts.iter().zip(stages.iter().chain([table])) {
        if !same_storage(layout, stored)? {
            return Ok(false);
        }
    }
    if let Some(planned) = &planned {
        let relations: Vec<pg_sys::Oid> = stages.iter().map(|stage| stage.relid).collect();
        if refresh::stage_queries(planned, &relations)? != catalog::stage_queries(table.id) {
            return Ok(false);
        }
    }
    reads_what_is_recorded(table, &stages, &analysis, planned.as_ref())
}

/// The stored layout holds the same columns with the same meaning and is found by the same identity.
fn same_storage(layout: &Layout, stored: &StreamTable) -> Result<bool> {
    Ok(refresh::layout_text(layout)? == stored.layout)
}

/// Each unit reads the sources recorded for it, of which the columns it reads are captured.
fn reads_what_is_recorded(
    table: &StreamTable,
    stages: &[StreamTable],
    analysis: &Analysis,
    planned: Option<&Planned>,
) -> Result<bool> {
    let Some(planned) = planned else {
        // Refreshed fully, a table may be used in any way: all its columns count, new ones too.
        let recorded = catalog::dependencies(table.id);
        for relation in &analysis.relations {
            let kind = create::kind_of(relation)?;
            let columns = create::all_columns(relation.relid);
            let known = recorded.iter().any(|known| {
                known.source == relation.relid
                    && known.kind == kind
                    && columns.iter().all(|column| known.columns.contains(column))
            });
            if !known {
                return Ok(false);
            }
        }
        return Ok(true);
    };
    let relids: Vec<pg_sys::Oid> = stages.iter().map(|stage| stage.relid).collect();
    let queries = planned
        .stages
        .iter()
        .map(|stage| &stage.query)
        .chain([&planned.query]);
    for (query, unit) in queries.zip(stages.iter().chain([table])) {
        let recorded = catalog::dependencies(unit.id);
        let reads = create::read_columns(query, &relids)?;
        if !recorded
            .iter()
            .all(|known| reads.contains_key(&known.source.to_u32()))
        {
            return Ok(false);
        }
        for (source, (_, columns)) in reads {
            let known = recorded.iter().any(|known| {
                known.source.to_u32() == source
                    && columns.iter().all(|column| known.columns.contains(column))
            });
            if !known {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn plan((mode, effective): (Mode, Mode), analysis: &Analysis) -> Option<Planned> {
    match (effective, &analysis.query) {
        (Mode::Differential, Ok(query)) => Some(rewrite::cut(query, mode.ties())),
        _ => None,
    }
}

fn layout(view: pg_sys::Oid, planned: Option<&Planned>) -> Layout {
    match planned {
        Some(planned) => Layout::of(&planned.query),
        None => Layout::opaque(&refresh::view_columns(view)),
    }
}

/// Builds stages, storage, capture and dependencies of `table` again, for its own view or a new one. The rows stay until
/// the next refresh, which is a full one; where the storage itself changes they are gone within this transaction.
pub(super) fn rebuild(table: &StreamTable, new_view: Option<pg_sys::Oid>) -> Result<()> {
    let _quiet = entry::defining();
    let catalog_oid = catalog::installed()?;
    lock::definitions(catalog_oid);
    lock::stream_table(catalog_oid, table.id);
    let view = new_view.unwrap_or(table.view);
    let analysis = analyze::analyze(view, &table.settings)?;
    let (effective, downgrade) = create::effective_mode(table.mode, &analysis)?;
    let planned = plan((table.mode, effective), &analysis);
    let layout = layout(view, planned.as_ref());
    refuse_other_columns(table, view)?;
    {
        let _scope = Scope::internal();
        if !depend::is_part(view, table.relid) {
            depend::make_part(view, table.relid);
            depend::needs_extension(table.relid);
        }
        let stored = storage::read_layout(&table.layout)?;
        if !storage::same_shape(&stored, &layout) || !index_fits(table, &layout)? {
            change_storage(table, &stored, &layout)?;
        }
        storage::guard(&table.name);
        spi::run(
            "UPDATE pgtrickle.pgt_stream_tables SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq'), def_view = $2::pg_catalog.regclass, \
             effective_refresh_mode = $3, downgrade_reason = $4, downgrade_hint = $5, layout = $6, \
             altered_at = pg_catalog.clock_timestamp() WHERE pgt_id = $1",
            &[
                Value::Int(table.id),
                Value::Oid(view),
                Value::Text(effective.name().to_owned()),
                Value::OptionalText(downgrade.as_ref().map(|refusal| refusal.reason.clone())),
                Value::OptionalText(downgrade.as_ref().map(|refusal| refusal.hint.clone())),
                Value::Text(refresh::layout_text(&layout)?),
            ],
        );
        require_reinit(table.id, "definition changed");
    }
    let table = catalog::load(table.id)?;
    {
        let _scope = Scope::internal();
        // Those it had are found again where nothing about them has changed, but not what they hold.
        catalog::remove_stages(table.id);
    }
    create::attach_sources(&table, &analysis, planned.as_ref())?;
    {
        let _scope = Scope::internal();
        dropped::drop_unused_stages()?;
        for stage in catalog::stages_of(table.id)? {
            require_reinit(stage.id, "definition changed");
        }
    }
    capture::release_unread()?;
    super::groups::definition_changed(&table)?;
    xact::definition_will_change(table.id);
    Ok(())
}

/// The next refresh of `id` is a full one.
pub(super) fn require_reinit(id: i64, reason: &str) {
    catalog::ensure_state(id);
    spi::run(
        "UPDATE pgtrickle.pgt_refresh_state SET reinit_requests = reinit_requests + 1, reinit_reason = $2 WHERE pgt_id = $1",
        &[Value::Int(id), Value::Text(reason.to_owned())],
    );
}

/// The columns of the table have to be those of the view. Types are looked up, as both may have been renamed since.
fn refuse_other_columns(table: &StreamTable, view: pg_sys::Oid) -> Result<()> {
    let stored: Layout = storage::read_layout(&table.layout)?;
    let describe = |relation: pg_sys::Oid| {
        refresh::view_columns(relation)
            .into_iter()
            .map(|column| {
                (
                    column.name.clone(),
                    format!("{} {}", column.name, column.ty.name),
                )
            })
            .collect::<Vec<_>>()
    };
    let before: Vec<String> = describe(table.relid)
        .into_iter()
        .filter(|(name, _)| stored.visible().any(|column| column.name == *name))
        .map(|(_, column)| column)
        .collect();
    let after: Vec<String> = describe(view)
        .into_iter()
        .map(|(_, column)| column)
        .collect();
    if before == after {
        return Ok(());
    }
    Err(Error::new(
        Kind::SourceChanged,
        format!(
            "the query of stream table {} has other columns now",
            table.display_name()
        ),
    )
    .detail(format!(
        "It had ({}), it would have ({}).",
        before.join(", "),
        after.join(", ")
    ))
    .hint("Use pgtrickle.create_or_replace_stream_table(), which replaces the table too."))
}

/// Whether the identity index is there, as after pg_restore without indexes it is not.
fn index_fits(table: &StreamTable, layout: &Layout) -> Result<bool> {
    Ok(layout.identity == pgt_ivm::apply::Identity::Single || storage::has_index(&table.name))
}

/// Gives the table the hidden columns and the index of another layout. Where rows are found by something else than before
/// they cannot be compared with the query: they are deleted, and whoever reads the table starts again.
fn change_storage(table: &StreamTable, stored: &Layout, layout: &Layout) -> Result<()> {
    let _writing = entry::writing(table.relid);
    // As the owner: triggers and indexes of his on the table are his code.
    let _scope = Scope::restricted(table.owner, &table.settings);
    storage::drop_index(&table.name);
    if stored.identity != layout.identity {
        spi::command(&format!("DELETE FROM {}", table.name));
        for reader in catalog::dependents(table.relid) {
            let _scope = Scope::internal();
            require_reinit(reader, "an upstream stream table was rebuilt");
        }
    }
    let mut actions: Vec<String> = Vec::new();
    for column in &stored.columns {
        let name = sql::quote_identifier(&column.name);
        if column.visible {
            actions.push(format!("ALTER COLUMN {name} DROP NOT NULL"));
        } else {
            actions.push(format!("DROP COLUMN IF EXISTS {name}"));
        }
    }
    if !actions.is_empty() {
        spi::command(&format!(
            "ALTER TABLE {} {}",
            table.name,
            actions.join(", ")
        ));
    }
    let definitions = refresh::storage_columns(layout);
    let mut actions: Vec<String> = Vec::new();
    for (column, definition) in layout.columns.iter().zip(definitions) {
        if !column.visible {
            actions.push(format!("ADD COLUMN {definition}"));
        } else if definition.ends_with(" NOT NULL") {
            actions.push(format!(
                "ALTER COLUMN {} SET NOT NULL",
                sql::quote_identifier(&column.name)
            ));
        }
    }
    if !actions.is_empty() {
        spi::command(&format!(
            "ALTER TABLE {} {}",
            table.name,
            actions.join(", ")
        ));
    }
    storage::create_index(&table.name, layout);
    Ok(())
}
