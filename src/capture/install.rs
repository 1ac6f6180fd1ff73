//! Installing and removing capture: segments, layouts, triggers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgt_ivm::sql::ast::Name;

use crate::catalog::{self, ChangeSource, SEGMENTS, Segment, SourceKind};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Scope;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};
use crate::pg::{depend, entry, lock, relation};

/// How long to try for the source's lock without making its writers queue behind us.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes sure the changes of table `source` to `columns` are logged. Returns whether its log changed shape, so that
/// plans of its readers have to be made again.
///
/// Holds SHARE ROW EXCLUSIVE on the source to the end of the transaction if anything had to be installed: writers in
/// flight are waited for, so that every later snapshot sees either a change's rows or finds them logged.
pub fn ensure_table(source: pg_sys::Oid, columns: &BTreeSet<i16>) -> Result<bool> {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    let known = catalog::change_source(source, Under::Current);
    if let Some(known) = &known
        && columns
            .iter()
            .all(|column| known.columns().contains(column))
        && triggers_complete(source)
    {
        return Ok(false);
    }
    lock_against_writers(source)?;
    let unlogged = relation_facts(source)?.unlogged;
    let changed = ensure_layout(source, SourceKind::Table, columns, unlogged)?;
    catalog::renew_generated(source);
    install_triggers(source);
    relation::invalidate(source);
    Ok(changed)
}

/// Remembers, until the next crash, that an unlogged source has lost nothing since its reader `id` was built.
pub fn mark_unlogged_alive(id: i64, source: pg_sys::Oid) {
    spi::run(
        "INSERT INTO pgtrickle.pgt_unlogged_alive VALUES ($1, $2) ON CONFLICT DO NOTHING",
        &[Value::Int(id), Value::Oid(source)],
    );
}

/// Makes sure stream table `source` writes its own changes of `columns` into a log. The caller holds its lock.
pub fn ensure_stream(source: pg_sys::Oid, columns: &BTreeSet<i16>) -> Result<bool> {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    // Output rows always carry every visible column; the refresh that writes them does not know its readers.
    ensure_layout(source, SourceKind::StreamTable, columns, false)
}

fn ensure_layout(
    source: pg_sys::Oid,
    kind: SourceKind,
    columns: &BTreeSet<i16>,
    unlogged: bool,
) -> Result<bool> {
    let known = catalog::change_source(source, Under::Current);
    if let Some(known) = &known
        && columns
            .iter()
            .all(|column| known.columns().contains(column))
    {
        return Ok(false);
    }
    new_layout(source, kind, columns, unlogged, known.as_ref())?;
    Ok(true)
}

/// Starts a layout with these columns and those of the layout before that the source still has.
pub(super) fn new_layout(
    source: pg_sys::Oid,
    kind: SourceKind,
    columns: &BTreeSet<i16>,
    unlogged: bool,
    known: Option<&ChangeSource>,
) -> Result<()> {
    let before = known.map(ChangeSource::columns).unwrap_or_default();
    let wanted: BTreeSet<i16> = columns.iter().copied().chain(before).collect();
    let definitions: Vec<(i16, String)> = column_definitions(source)
        .into_iter()
        .filter(|(column, _)| wanted.contains(column))
        .collect();
    let layout = known.map_or(1, |known| known.layout + 1);
    let members = if kind == SourceKind::Table {
        members_of(source)
    } else {
        vec![]
    };
    catalog::save_source(&ChangeSource {
        source,
        kind,
        layout,
        current: 0,
        unlogged,
        members,
        segments: vec![],
    });
    for number in 0..SEGMENTS {
        let name = catalog::segment_name(source, layout, number);
        create_segment(&name, kind, &definitions, unlogged);
        let relid = relation_oid(&name)?;
        let index = relation_oid(&Name::new(&*name.schema, format!("{}_x", name.name)))?;
        depend::make_member(relid);
        let segment = Segment {
            layout,
            number,
            relid,
            index,
            columns: definitions.iter().map(|(column, _)| *column).collect(),
        };
        catalog::insert_segment(source, &segment);
    }
    for segment in known.iter().flat_map(|known| &known.segments) {
        relation::invalidate(segment.relid);
    }
    if let Some(now) = catalog::change_source(source, Under::Current) {
        super::rotate::drop_drained_layouts(&now);
    }
    Ok(())
}

fn create_segment(name: &Name, kind: SourceKind, columns: &[(i16, String)], unlogged: bool) {
    let mut definitions = match kind {
        SourceKind::Table => vec![
            "xid xid8 NOT NULL".to_owned(),
            "w smallint NOT NULL".to_owned(),
        ],
        SourceKind::StreamTable => vec![
            "version bigint NOT NULL".to_owned(),
            "w bigint NOT NULL".to_owned(),
        ],
    };
    definitions.extend(columns.iter().map(|(_, definition)| definition.clone()));
    let position = if kind == SourceKind::Table {
        "xid"
    } else {
        "version"
    };
    let persistence = if unlogged { "UNLOGGED " } else { "" };
    spi::command(&format!(
        "CREATE {persistence}TABLE {name} ({}) USING heap WITH (fillfactor = 100, autovacuum_enabled = off, \
         toast.autovacuum_enabled = off)",
        definitions.join(", ")
    ));
    spi::command(&format!(
        "CREATE INDEX {} ON {name} ({position})",
        pgt_ivm::sql::quote_identifier(&format!("{}_x", name.name))
    ));
}

/// `a<attnum> type [COLLATE ..]` for each column the source has, in the order of their numbers.
fn column_definitions(source: pg_sys::Oid) -> Vec<(i16, String)> {
    let rows = spi::run(
        "SELECT a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod), \
         CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0 \
         THEN pg_catalog.format(' COLLATE %I.%I', n.nspname, c.collname) ELSE '' END \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[Value::Oid(source)],
    );
    rows.iter()
        .map(|row| {
            let definition = format!("a{} {}{}", row.int(0), row.text(1), row.text(2));
            (row.int(0) as i16, definition)
        })
        .collect()
}

fn relation_oid(name: &Name) -> Result<pg_sys::Oid> {
    catalog::resolve_name(&name.to_string())?
        .ok_or_else(|| Error::new(Kind::Internal, format!("relation {name} is missing")))
}

pub(super) struct RelationFacts {
    pub(super) unlogged: bool,
}

pub(super) fn relation_facts(source: pg_sys::Oid) -> Result<RelationFacts> {
    // A partitioned table has no storage; its leaves decide.
    spi::first(
        "SELECT pg_catalog.bool_or(c.relpersistence = 'u') FROM pg_catalog.pg_class c WHERE c.oid = ANY (ARRAY(SELECT $1 \
         UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) WHERE isleaf))",
        &[Value::Oid(source)],
    )
    .map(|row| RelationFacts { unlogged: row.bool(0) })
    .ok_or_else(|| Error::new(Kind::NotFound, "source table does not exist"))
}

/// Takes SHARE ROW EXCLUSIVE on the source and every partition of it (a writer may address a partition directly and lock
/// nothing else), without letting writers queue behind a long wait.
pub(super) fn lock_against_writers(source: pg_sys::Oid) -> Result<()> {
    let mut relations = vec![source];
    relations.extend(
        tree(source)
            .into_iter()
            .map(|(relation, _)| relation)
            .filter(|relation| *relation != source),
    );
    let started = Instant::now();
    for relation in relations {
        lock_one_against_writers(relation, started);
    }
    Ok(())
}

fn lock_one_against_writers(relation: pg_sys::Oid, started: Instant) {
    while started.elapsed() < PATIENCE {
        if lock::try_relation_share_row_exclusive(relation) {
            return;
        }
        lock::sleep(Duration::from_millis(10));
    }
    let _settings = Scope::settings();
    crate::pg::session::set("lock_timeout", "2s");
    lock::relation_share_row_exclusive(relation);
}

fn partition_leaves(source: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    spi::run(
        "SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) \
         WHERE isleaf AND relid::pg_catalog.oid <> $1 ORDER BY 1",
        &[Value::Oid(source)],
    )
    .iter()
    .map(|row| row.oid(0))
    .collect()
}

/// The relations that hold the source's rows besides itself: leaves of its partition tree, or whatever inherits from it.
fn members_of(source: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut members = partition_leaves(source);
    if members.is_empty() && !is_partitioned(source) {
        members = relation::with_heirs(source);
        members.retain(|member| *member != source);
        members.sort_unstable_by_key(|member| member.to_u32());
    }
    members
}

fn is_partitioned(relation: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relation)],
    )
    .is_some_and(|row| row.bool(0))
}

/// Every relation of the source's partition tree, the source included.
fn tree(source: pg_sys::Oid) -> Vec<(pg_sys::Oid, String)> {
    spi::run(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (ARRAY(SELECT $1 UNION \
         SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass))) ORDER BY 1",
        &[Value::Oid(source)],
    )
    .iter()
    .map(|row| (row.oid(0), row.text(1)))
    .collect()
}

const ROW_TRIGGER: &str = "pgt_capture";
const TRUNCATE_TRIGGER: &str = "pgt_capture_truncate";

fn has_trigger(relation: pg_sys::Oid, name: &str) -> bool {
    spi::first(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2 AND tgenabled = 'A'",
        &[Value::Oid(relation), Value::Text(name.to_owned())],
    )
    .is_some()
}

/// The trigger is there but does not fire for everybody.
fn is_held_back(relation: pg_sys::Oid, name: &str) -> bool {
    spi::first(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2 AND tgenabled <> 'A'",
        &[Value::Oid(relation), Value::Text(name.to_owned())],
    )
    .is_some()
}

fn triggers_complete(source: pg_sys::Oid) -> bool {
    has_trigger(source, ROW_TRIGGER)
        && tree(source).iter().all(|(relation, _)| {
            has_trigger(*relation, TRUNCATE_TRIGGER) && !is_held_back(*relation, ROW_TRIGGER)
        })
}

/// Every relation of the source has its capture triggers.
pub fn has_triggers(source: pg_sys::Oid) -> bool {
    let _scope = Scope::internal();
    triggers_complete(source)
}

/// Row triggers are cloned to partitions by PostgreSQL; statement triggers are not, so each partition gets its own. A
/// partition that is a source itself needs no second trigger: the name is the same, and so it has either its own or a clone.
fn install_triggers(source: pg_sys::Oid) {
    for (relation, name) in tree(source) {
        let held_back = is_held_back(relation, ROW_TRIGGER);
        if relation == source && !held_back && !has_trigger(relation, ROW_TRIGGER) {
            spi::command(&format!(
                "CREATE OR REPLACE TRIGGER {ROW_TRIGGER} AFTER INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW \
                 EXECUTE FUNCTION pgtrickle.capture()"
            ));
            spi::command(&format!(
                "ALTER TABLE {name} ENABLE ALWAYS TRIGGER {ROW_TRIGGER}"
            ));
        }
        if held_back {
            spi::command(&format!(
                "ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {ROW_TRIGGER}"
            ));
        }
        if !has_trigger(relation, TRUNCATE_TRIGGER) {
            spi::command(&format!(
                "CREATE OR REPLACE TRIGGER {TRUNCATE_TRIGGER} AFTER TRUNCATE ON {name} FOR EACH STATEMENT \
                 EXECUTE FUNCTION pgtrickle.capture()"
            ));
            spi::command(&format!(
                "ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {TRUNCATE_TRIGGER}"
            ));
        }
    }
}

/// The partition tree of a captured source, or what inherits from it, may have changed. Gives new partitions their triggers;
/// returns whether rows came or went, which no row trigger has seen.
pub fn sync_members(source: pg_sys::Oid) -> bool {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    // In REPEATABLE READ too it may have been captured since the transaction began.
    let latest = Snapshot::latest();
    let Some(known) = catalog::change_source(source, Under::Snapshot(&latest)) else {
        return false;
    };
    if known.kind != SourceKind::Table {
        return false;
    }
    let members = members_of(source);
    if members == known.members && !triggers_complete(source) {
        pgrx::notice!("the triggers that capture changes for stream tables stay enabled");
    }
    install_triggers(source);
    if members == known.members {
        return false;
    }
    let differing: Vec<pg_sys::Oid> = members
        .iter()
        .filter(|member| !known.members.contains(member))
        .chain(
            known
                .members
                .iter()
                .filter(|member| !members.contains(member)),
        )
        .copied()
        .collect();
    catalog::save_members(source, &members);
    relation::invalidate(source);
    // A partition that has never held a row makes no difference; one that is gone may have held any. A child by inheritance
    // is a source of its own that has to be captured first.
    !is_partitioned(source) || differing.into_iter().any(|member| !is_empty(member))
}

/// Creates the triggers that sources lack: those cloned from a partitioned table went with what they were cloned from.
pub fn restore_triggers() {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    let bare = spi::run_under(
        "SELECT s.source FROM pgtrickle.pgt_change_sources s JOIN pg_catalog.pg_class c ON c.oid = s.source \
         WHERE s.kind = 'table' AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = s.source \
         AND t.tgname = $1) ORDER BY c.relkind = 'p' DESC, 1",
        &[Value::Text(ROW_TRIGGER.to_owned())],
        Under::Snapshot(&Snapshot::latest()),
    );
    for source in &bare {
        install_triggers(source.oid(0));
    }
}

/// `partition` is about to become a partition of `parent`, from which it gets a clone of the trigger that captures rows. Its
/// own would be in the way; the clone does what it does.
pub fn make_way(parent: pg_sys::Oid, partition: pg_sys::Oid) {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    let cloned = spi::first(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2",
        &[Value::Oid(parent), Value::Text(ROW_TRIGGER.to_owned())],
    );
    if cloned.is_none() {
        return;
    }
    for (relation, name) in tree(partition) {
        if has_own_row_trigger(relation) {
            spi::command(&format!("DROP TRIGGER {ROW_TRIGGER} ON {name}"));
        }
    }
}

/// The row trigger of this relation was created for itself and not cloned from a partitioned table.
fn has_own_row_trigger(relation: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2 AND tgparentid = 0",
        &[Value::Oid(relation), Value::Text(ROW_TRIGGER.to_owned())],
    )
    .is_some()
}

/// Whether `relation` belongs to a source that is read, itself or as a partition.
fn is_read(relation: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT 1 FROM pgtrickle.pgt_change_sources s JOIN pgtrickle.pgt_dependencies d ON d.source::pg_catalog.oid = s.source \
         AND d.source_type <> 'uncaptured' WHERE s.source = $1 OR s.source IN (SELECT relid::pg_catalog.oid FROM \
         pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass))",
        &[Value::Oid(relation)],
    )
    .is_some()
}

/// Whether other relations inherit from source `source` than when that was looked at last; none if it is not captured.
pub fn heirs_changed(source: pg_sys::Oid) -> Option<bool> {
    let latest = Snapshot::latest();
    let known = catalog::change_source(source, Under::Snapshot(&latest))?;
    Some(members_of(source) != known.members)
}

/// The relation exists and has no storage in use.
fn is_empty(relation: pg_sys::Oid) -> bool {
    spi::first(
        "SELECT pg_catalog.pg_relation_size(oid) = 0 FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relation)],
    )
    .is_some_and(|row| row.bool(0))
}

/// Fails if somebody has disabled or dropped the triggers that capture `source`.
pub fn insist_on_triggers(source: pg_sys::Oid) -> Result<()> {
    let _scope = Scope::internal();
    let captured = catalog::change_source(source, Under::Current)
        .is_some_and(|known| known.kind == SourceKind::Table);
    if !captured || triggers_complete(source) {
        return Ok(());
    }
    let readers: Vec<String> = catalog::dependents(source)
        .into_iter()
        .map(|id| catalog::load(id).map(|reader| reader.display_name()))
        .collect::<Result<_>>()?;
    Err(Error::new(
        Kind::HasDependents,
        "cannot disable or drop the triggers that capture changes for stream tables",
    )
    .detail(format!("The table is read by {}.", readers.join(", ")))
    .hint(
        "Drop these stream tables first, or use session_replication_role for triggers of your own.",
    ))
}

/// Drops the logs and triggers of sources that no stream table reads any more.
pub fn release_unread() -> Result<()> {
    let _scope = Scope::internal();
    let _quiet = entry::defining();
    let unread = spi::run(
        "SELECT s.source, s.kind FROM pgtrickle.pgt_change_sources s WHERE NOT EXISTS \
         (SELECT FROM pgtrickle.pgt_dependencies d WHERE d.source::pg_catalog.oid = s.source AND d.source_type <> 'uncaptured')",
        &[],
    );
    for row in &unread {
        let source = row.oid(0);
        if row.text(1) == "table" {
            let relations = tree(source);
            if !relations.is_empty() && !has_own_row_trigger(source) {
                // The trigger stays, for another source: those who are about to log for this one are waited for.
                lock_against_writers(source)?;
            }
            for (relation, name) in relations {
                if relation == source && has_own_row_trigger(relation) {
                    spi::command(&format!("DROP TRIGGER {ROW_TRIGGER} ON {name}"));
                }
                if has_trigger(relation, TRUNCATE_TRIGGER) && !is_read(relation) {
                    spi::command(&format!("DROP TRIGGER {TRUNCATE_TRIGGER} ON {name}"));
                }
            }
        }
        drop_segments(source, None);
        catalog::delete_source(source);
    }
    if !unread.is_empty() {
        restore_triggers();
    }
    Ok(())
}

/// Drops the segment tables of a source, of one layout or of all.
pub(super) fn drop_segments(source: pg_sys::Oid, layout: Option<i64>) {
    let Some(known) = catalog::change_source(source, Under::Current) else {
        return;
    };
    for segment in known
        .segments
        .iter()
        .filter(|segment| layout.is_none_or(|wanted| segment.layout == wanted))
    {
        depend::release_member(segment.relid);
        depend::command_done();
        spi::command(&format!("DROP TABLE IF EXISTS {}", segment.name(source)));
        spi::run(
            "DELETE FROM pgtrickle.pgt_change_segments WHERE source = $1 AND layout = $2 AND segment = $3",
            &[
                Value::Oid(source),
                Value::Int(segment.layout),
                Value::Int(segment.number),
            ],
        );
    }
}
