//! What DDL of others means for stream tables.
//!
//! Most commands mean nothing: names are followed by PostgreSQL itself, plans are made again. What matters: a source or
//! something a query is made of changed (plans again, and a rebuild where contents may differ), partitions came or went
//! (rows moved without any row trigger seeing it), somebody altered a stream table's own table.

use pgrx::pg_sys;

use crate::capture;
use crate::catalog;
use crate::error::Error;
use crate::lifecycle;
use crate::pg::session::Scope;
use crate::pg::spi::{self, Value};
use crate::pg::{entry, xact};

/// After any DDL command.
pub fn ddl_end() {
    let _scope = Scope::internal();
    if catalog::catalog_oid().is_none() {
        return;
    }
    let _quiet = entry::defining();
    let commands = spi::run(
        "SELECT classid, objid, command_tag FROM pg_catalog.pg_event_trigger_ddl_commands() \
         WHERE classid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass, \
         'pg_catalog.pg_namespace'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass, \
         'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_collation'::pg_catalog.regclass)",
        &[],
    );
    for command in &commands {
        let tag = command.text(2);
        match tag.as_str() {
            "CREATE TABLE" | "ALTER TABLE" | "CREATE INDEX" | "ALTER INDEX" => {
                relation_changed(command.oid(1))
            }
            "CREATE VIEW" | "ALTER VIEW" | "CREATE FUNCTION" | "ALTER FUNCTION" => {
                ingredient_changed(command.oid(0), command.oid(1));
            }
            "ALTER SCHEMA" | "ALTER TYPE" | "ALTER DOMAIN" | "ALTER OPERATOR"
            | "ALTER COLLATION" => bump_all(),
            _ => {}
        }
    }
}

/// After any DROP.
pub fn dropped() {
    let _scope = Scope::internal();
    if catalog::catalog_oid().is_none() {
        return;
    }
    let _quiet = entry::defining();
    // The indexes, triggers and row types of a dropped table went with it and are nobody else's.
    let dropped = spi::first(
        "SELECT pg_catalog.bool_or(object_type IN ('table', 'view', 'foreign table', 'materialized view')), \
         pg_catalog.bool_or((original AND object_type IN ('index', 'table constraint')) \
         OR ((original OR normal) AND object_type IN ('table column', 'function', 'type'))), \
         pg_catalog.bool_or((original OR normal) AND object_type = 'trigger') \
         FROM pg_catalog.pg_event_trigger_dropped_objects() WHERE NOT is_temporary",
        &[],
    );
    let Some(dropped) = dropped else { return };
    if dropped.bool(0) {
        if let Err(error) = lifecycle::forget_dropped() {
            raise(error);
        }
        let partitioned = spi::run(
            "SELECT s.source FROM pgtrickle.pgt_change_sources s WHERE EXISTS (SELECT FROM \
             pg_catalog.unnest(s.members) m WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = m))",
            &[],
        );
        for row in partitioned {
            members_changed(row.oid(0));
        }
    }
    if dropped.bool(1) {
        bump_all();
    }
    if dropped.bool(2) {
        for source in spi::run(
            "SELECT source FROM pgtrickle.pgt_change_sources s WHERE kind = 'table' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.source)",
            &[],
        ) {
            if let Err(error) = capture::insist_on_triggers(source.oid(0)) {
                raise(error);
            }
        }
    }
}

/// A table or index was created or altered.
fn relation_changed(relation: pg_sys::Oid) {
    // The table itself, the table of an index, the root of a partition.
    let row = spi::first(
        "SELECT t.oid, COALESCE(pg_catalog.pg_partition_root(t.oid)::pg_catalog.oid, t.oid), \
         EXISTS (SELECT FROM pgtrickle.pgt_stream_tables st WHERE st.pgt_relid::pg_catalog.oid = t.oid), \
         EXISTS (SELECT FROM pgtrickle.pgt_change_sources s WHERE s.source = \
         COALESCE(pg_catalog.pg_partition_root(t.oid)::pg_catalog.oid, t.oid)), \
         ARRAY(SELECT s.source FROM pgtrickle.pgt_change_sources s WHERE t.oid = ANY (s.members))::pg_catalog.text \
         FROM pg_catalog.pg_class t WHERE t.oid = COALESCE((SELECT indrelid FROM pg_catalog.pg_index \
         WHERE indexrelid = $1), $1)",
        &[Value::Oid(relation)],
    );
    let Some(row) = row else { return };
    if row.bool(2)
        && let Err(error) = lifecycle::stream_table_altered(row.oid(0))
    {
        raise(error);
    }
    if row.bool(3) {
        source_changed(row.oid(1));
    }
    // A detached partition is not under its former root any more.
    for part in row
        .text(4)
        .trim_matches(['{', '}'])
        .split(',')
        .filter_map(|part| part.parse::<u32>().ok())
    {
        members_changed(pg_sys::Oid::from(part));
    }
    inheritance_changed(relation);
}

fn source_changed(source: pg_sys::Oid) {
    members_changed(source);
    // What is refreshed fully may use the table in ways that are not known, a whole row for example.
    let full = spi::run(
        "UPDATE pgtrickle.pgt_refresh_state SET reinit_requests = reinit_requests + 1, reinit_reason = 'source altered' \
         WHERE pgt_id IN (SELECT d.pgt_id FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables st \
         USING (pgt_id) WHERE d.source::pg_catalog.oid = $1 AND st.effective_refresh_mode = 'FULL') RETURNING 1",
        &[Value::Oid(source)],
    );
    if !full.is_empty() {
        xact::mark_dirty_at_commit(source);
    }
    bump_readers(source);
}

/// Partitions may have been attached or detached: rows came or went with them.
fn members_changed(source: pg_sys::Oid) {
    if capture::sync_members(source) {
        spi::run(
            "UPDATE pgtrickle.pgt_refresh_state SET reinit_requests = reinit_requests + 1, reinit_reason = 'partitions changed' \
             WHERE pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source::pg_catalog.oid = $1)",
            &[Value::Oid(source)],
        );
        xact::mark_dirty_at_commit(source);
        bump_readers(source);
    }
}

/// A table became the child of a source by inheritance: its rows are the source's rows now, and nothing captures them.
fn inheritance_changed(relation: pg_sys::Oid) {
    let parents = spi::run(
        "SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN pgtrickle.pgt_change_sources s ON s.source = i.inhparent \
         JOIN pg_catalog.pg_class c ON c.oid = i.inhparent WHERE i.inhrelid = $1 AND c.relkind = 'r'",
        &[Value::Oid(relation)],
    );
    for parent in parents {
        bump_readers(parent.oid(0));
    }
}

fn bump_readers(source: pg_sys::Oid) {
    if catalog::outdate_readers(source) {
        xact::definitions_will_change();
    }
}

/// A view or function was created or replaced: whatever is made of it may mean something else now.
fn ingredient_changed(class: pg_sys::Oid, object: pg_sys::Oid) {
    let changed = spi::run(
        "WITH RECURSIVE made_of(class, object) AS (SELECT $1::pg_catalog.oid, $2::pg_catalog.oid UNION \
         SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, r.ev_class FROM made_of m \
         JOIN pg_catalog.pg_depend d ON d.refclassid = m.class AND d.refobjid = m.object \
         AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
         JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid WHERE r.ev_class <> m.object) \
         UPDATE pgtrickle.pgt_stream_tables st SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') WHERE st.stage_query IS NULL \
         AND st.def_view::pg_catalog.oid IN (SELECT object FROM made_of) AND st.def_view::pg_catalog.oid <> $2 \
         RETURNING st.pgt_id",
        &[Value::Oid(class), Value::Oid(object)],
    );
    for row in &changed {
        spi::run(
            "UPDATE pgtrickle.pgt_refresh_state SET reinit_requests = reinit_requests + 1, \
             reinit_reason = 'a view or function of the query was replaced' WHERE pgt_id IN \
             (SELECT unit FROM pgtrickle.pgt_units WHERE pgt_id = $1)",
            &[Value::Int(row.int(0))],
        );
    }
    if !changed.is_empty() {
        xact::definitions_will_change();
    }
}

fn bump_all() {
    spi::run(
        "UPDATE pgtrickle.pgt_stream_tables SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') WHERE stage_query IS NULL",
        &[],
    );
}

fn raise(error: Error) -> ! {
    pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
    unreachable!("an error report at level ERROR does not return")
}
