//! What DDL of others means for stream tables.
//!
//! Most commands mean nothing: names are followed by PostgreSQL itself, plans are made again. What matters: a source or
//! something a query is made of changed (plans again, and a rebuild where contents may differ), partitions or inheritance
//! children came or went (rows moved without any row trigger seeing it), somebody altered a stream table's own table.

use pgrx::pg_sys;

use crate::capture;
use crate::catalog;
use crate::error::{Error, Kind};
use crate::lifecycle;
use crate::pg::entry::{self, Command};
use crate::pg::session::Scope;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Under, Value};
use crate::pg::{depend, lock, relation, xact};

/// After any DDL command.
pub fn ddl_end(command: Command) {
    let _scope = Scope::internal();
    if catalog::catalog_oid().is_none() {
        return;
    }
    let _quiet = entry::defining();
    let commands = spi::run(
        "SELECT classid, objid, command_tag, CASE classid \
         WHEN 'pg_catalog.pg_trigger'::pg_catalog.regclass THEN (SELECT tgrelid FROM pg_catalog.pg_trigger t WHERE t.oid = objid) \
         WHEN 'pg_catalog.pg_rewrite'::pg_catalog.regclass THEN (SELECT ev_class FROM pg_catalog.pg_rewrite r WHERE r.oid = objid) \
         WHEN 'pg_catalog.pg_policy'::pg_catalog.regclass THEN (SELECT polrelid FROM pg_catalog.pg_policy p WHERE p.oid = objid) END \
         FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE classid IN (\
         'pg_catalog.pg_trigger'::pg_catalog.regclass, 'pg_catalog.pg_rewrite'::pg_catalog.regclass, \
         'pg_catalog.pg_policy'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass, \
         'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_namespace'::pg_catalog.regclass, \
         'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass, \
         'pg_catalog.pg_collation'::pg_catalog.regclass, 'pg_catalog.pg_ts_config'::pg_catalog.regclass, \
         'pg_catalog.pg_ts_dict'::pg_catalog.regclass) OR command_tag IN ('GRANT', 'REVOKE')",
        &[],
    );
    let adds_value = command == Command::AddsEnumValue;
    if command == Command::EndsInheritance {
        reconsider(UNCAPTURED, &[]);
    }
    for command in &commands {
        let tag = command.text(2);
        match tag.as_str() {
            "CREATE INDEX" | "ALTER INDEX" => relation_changed(command.oid(1)),
            "CREATE TABLE" | "CREATE FOREIGN TABLE" | "ALTER FOREIGN TABLE" => {
                wait_for_readers_above(command.oid(1));
                relation_changed(command.oid(1));
            }
            "ALTER TABLE" => {
                wait_for_readers_above(command.oid(1));
                relation_changed(command.oid(1));
                row_type_changed(command.oid(1));
                for heir in heirs(command.oid(1)) {
                    source_changed(heir);
                    row_type_changed(heir);
                }
                // A detached partition has lost what was cloned from the table it belonged to.
                capture::restore_triggers();
            }
            "CREATE TRIGGER" | "CREATE RULE" => added_to(command.oid(3)),
            "CREATE POLICY" | "ALTER POLICY" => relation_changed(command.oid(3)),
            "CREATE VIEW"
            | "ALTER VIEW"
            | "CREATE FUNCTION"
            | "ALTER FUNCTION"
            | "ALTER ROUTINE"
            | "CREATE AGGREGATE"
            | "ALTER TEXT SEARCH CONFIGURATION"
            | "ALTER TEXT SEARCH DICTIONARY" => {
                let reason = "a view or function of the query was replaced";
                ingredient_changed(command.oid(0), command.oid(1), reason);
            }
            "ALTER TYPE" if adds_value && !are_listed(command.oid(1)) => bump_all(),
            "ALTER TYPE" => {
                bump_all();
                if command.oid(0) == pg_sys::RelationRelationId {
                    row_type_changed(command.oid(1));
                    // Tables of this type changed with it.
                    for source in capture::misshapen() {
                        reshape(source);
                    }
                } else {
                    ingredient_changed(command.oid(0), command.oid(1), TYPE_ALTERED);
                }
            }
            "GRANT" | "REVOKE" => rights_changed(),
            "ALTER SCHEMA" | "ALTER DOMAIN" | "ALTER OPERATOR" | "ALTER COLLATION" => bump_all(),
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
        let parents = look(
            "SELECT s.source FROM pgtrickle.pgt_change_sources s JOIN pg_catalog.pg_class t ON t.oid = s.source WHERE EXISTS \
             (SELECT FROM pg_catalog.unnest(s.members) m WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = m))",
            &[],
        );
        for row in parents {
            members_changed(row.oid(0));
        }
        reconsider(UNCAPTURED, &[]);
    }
    if dropped.bool(1) {
        for source in capture::misshapen() {
            reshape(source);
        }
        bump_all();
    }
    for policy in spi::run(
        "SELECT DISTINCT c.oid FROM pg_catalog.pg_event_trigger_dropped_objects() d, pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE d.object_type = 'policy' \
         AND n.nspname = d.address_names[1] AND c.relname = d.address_names[2]",
        &[],
    ) {
        relation_changed(policy.oid(0));
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

/// Before a partition is detached in several transactions: after the first one its rows are gone for queries, and only
/// after the last one is anything heard of it.
pub fn detaching_concurrently(relation: pg_sys::Oid) {
    let _scope = Scope::internal();
    if catalog::catalog_oid().is_none() {
        return;
    }
    let captured = spi::first(
        "SELECT 1 FROM pgtrickle.pgt_change_sources WHERE source IN (SELECT relid::pg_catalog.oid \
         FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass))",
        &[Value::Oid(relation)],
    );
    if captured.is_some() {
        raise(
            Error::new(
                Kind::NotIncremental,
                "cannot detach a partition of a source of stream tables concurrently",
            )
            .detail("Its rows would be gone before the stream tables learn of it.")
            .hint("Detach it without CONCURRENTLY."),
        );
    }
}

/// Before a table becomes a partition of another one.
pub fn attaching(parent: pg_sys::Oid, partition: pg_sys::Oid) {
    let owned = spi::first(
        "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(partition)],
    )
    .is_some_and(|row| row.bool(0));
    let _scope = Scope::internal();
    // Whoever may not attach it is told so.
    if owned && catalog::catalog_oid().is_some() {
        capture::make_way(parent, partition);
    }
}

/// Before ALTER TABLE writes a table anew.
pub fn rewritten() {
    let _scope = Scope::internal();
    if catalog::catalog_oid().is_none() {
        return;
    }
    // With other values, or with another persistence; another access method (8) keeps the rows as they are.
    let rewritten = spi::first(
        "SELECT pg_catalog.pg_event_trigger_table_rewrite_oid() WHERE pg_catalog.pg_event_trigger_table_rewrite_reason() & 7 <> 0",
        &[],
    );
    if let Some(row) = rewritten
        && let Err(error) = lifecycle::refuse_rewrite(row.oid(0))
    {
        raise(error);
    }
}

/// A table or index was created or altered.
fn relation_changed(relation: pg_sys::Oid) {
    // The table itself, the table of an index, what it is a partition of.
    let row = look(
        "SELECT t.oid, EXISTS (SELECT FROM pgtrickle.pgt_stream_tables st WHERE st.pgt_relid::pg_catalog.oid = t.oid), \
         ARRAY(SELECT s.source FROM pgtrickle.pgt_change_sources s WHERE s.source = t.oid OR s.source IN (SELECT \
         relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors(t.oid)))::pg_catalog.text, \
         ARRAY(SELECT s.source FROM pgtrickle.pgt_change_sources s WHERE t.oid = ANY (s.members))::pg_catalog.text \
         FROM pg_catalog.pg_class t WHERE t.oid = COALESCE((SELECT indrelid FROM pg_catalog.pg_index \
         WHERE indexrelid = $1), $1)",
        &[Value::Oid(relation)],
    );
    let Some(row) = row.first() else { return };
    if row.bool(1)
        && let Err(error) = lifecycle::stream_table_altered(row.oid(0))
    {
        raise(error);
    }
    for source in oids(&row.text(2)) {
        source_changed(source);
    }
    // A detached partition is not under its former root any more, and a table may have ceased to inherit.
    for source in oids(&row.text(3)) {
        members_changed(source);
    }
    inheritance_changed(relation);
}

/// The elements of an array as PostgreSQL prints it.
fn oids(array: &str) -> Vec<pg_sys::Oid> {
    array
        .trim_matches(['{', '}'])
        .split(',')
        .filter_map(|element| element.parse::<u32>().ok())
        .map(pg_sys::Oid::from)
        .collect()
}

/// The sources that inherit from a table: what is done to its columns is done to theirs.
fn heirs(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    look(
        "WITH RECURSIVE below(oid) AS (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1 UNION \
         SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below b ON i.inhparent = b.oid) \
         SELECT s.source FROM pgtrickle.pgt_change_sources s JOIN below ON below.oid = s.source",
        &[Value::Oid(relation)],
    )
    .iter()
    .map(|row| row.oid(0))
    .collect()
}

fn source_changed(source: pg_sys::Oid) {
    members_changed(source);
    reshape(source);
    if capture::generated_anew(source) {
        require_reinit(source, "a generated column has another expression");
    }
    // What is refreshed fully may use the table in ways that are not known, a whole row for example.
    let full = look(
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

/// The log of a source takes the source's rows as they are now.
fn reshape(source: pg_sys::Oid) {
    match lifecycle::source_reshaped(source) {
        Ok(true) => bump_readers(source),
        Ok(false) => {}
        Err(error) => raise(error),
    }
}

/// Partitions may have been attached or detached, or children by inheritance: rows came or went with them.
fn members_changed(source: pg_sys::Oid) {
    if capture::sync_members(source) {
        require_reinit(source, "partitions or inheritance children changed");
        bump_readers(source);
    }
}

/// Rows of `source` changed in a way that no row trigger has seen.
fn require_reinit(source: pg_sys::Oid, reason: &str) {
    look(
        "UPDATE pgtrickle.pgt_refresh_state SET reinit_requests = reinit_requests + 1, reinit_reason = $2 \
         WHERE pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source::pg_catalog.oid = $1)",
        &[Value::Oid(source), Value::Text(reason.to_owned())],
    );
    xact::mark_dirty_at_commit(source);
}

/// The tables that a table inherits from, directly or not, partitioned ones left out.
fn ancestors(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    look(
        "WITH RECURSIVE above(oid) AS (SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = $1 UNION \
         SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above a ON i.inhrelid = a.oid) \
         SELECT c.oid FROM above JOIN pg_catalog.pg_class c ON c.oid = above.oid AND c.relkind = 'r'",
        &[Value::Oid(relation)],
    )
    .iter()
    .map(|row| row.oid(0))
    .collect()
}

/// A table may have become the child of others by inheritance: its rows are theirs now, and nothing captures them.
fn inheritance_changed(relation: pg_sys::Oid) {
    for ancestor in ancestors(relation) {
        members_changed(ancestor);
        // Nothing may be in the way of capturing it any more.
        reconsider(
            "d.source_type = 'uncaptured' AND c.oid = $1",
            &[Value::Oid(ancestor)],
        );
    }
    for related in spi::run(
        "SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = $1 UNION \
         SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = $1",
        &[Value::Oid(relation)],
    ) {
        added_to(related.oid(0));
    }
}

/// What is not captured may have lost the children that were in the way.
const UNCAPTURED: &str = "d.source_type = 'uncaptured'";

/// Privileges were granted or revoked. Tables that inherit are read by their own names.
fn rights_changed() {
    reconsider(
        "EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))",
        &[],
    );
}

/// Plans are made again of those that depend in this way (`d`) on an ordinary table (`c`).
fn reconsider(which: &str, values: &[Value]) {
    // Whoever is outdating them already need not be waited for.
    let outdated = look(
        &format!(
            "UPDATE pgtrickle.pgt_stream_tables SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') \
             WHERE pgt_id IN (SELECT st.pgt_id FROM pgtrickle.pgt_stream_tables st WHERE st.pgt_id IN (SELECT r.pgt_id \
             FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_units r ON r.unit = d.pgt_id \
             JOIN pg_catalog.pg_class c ON c.oid = d.source::pg_catalog.oid AND c.relkind = 'r' WHERE {which}) \
             FOR UPDATE SKIP LOCKED) RETURNING 1"
        ),
        values,
    );
    if !outdated.is_empty() {
        xact::definitions_will_change();
    }
}

/// Something was added to a table that must not be added to a stream table.
fn added_to(relation: pg_sys::Oid) {
    if let Err(error) = lifecycle::stream_table_added_to(relation) {
        raise(error);
    }
}

fn bump_readers(source: pg_sys::Oid) {
    if catalog::outdate_readers(source) {
        xact::definitions_will_change();
    }
}

const TYPE_ALTERED: &str = "a type of the query was altered";

/// From what is in `made_of(class, object)` to what is made of it: views, functions, operators, types made of a type or a
/// relation, tables with a column of a type.
const MADE_OF: &str = "SELECT CASE WHEN r.ev_class IS NULL THEN d.classid ELSE 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid END, \
     COALESCE(r.ev_class, d.objid) FROM made_of m JOIN pg_catalog.pg_depend d ON d.refclassid = m.class \
     AND d.refobjid = m.object AND (d.classid IN ('pg_catalog.pg_rewrite'::pg_catalog.regclass, \
     'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass, \
     'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_ts_config'::pg_catalog.regclass) \
     OR d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
     AND m.class = 'pg_catalog.pg_type'::pg_catalog.regclass) LEFT JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid \
     AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass WHERE r.ev_class IS DISTINCT FROM m.object";

/// Those who use an object at this moment are done with it, and know what it was; those who come later wait for this
/// transaction. What did not exist before it nobody else uses.
fn wait_for_users(class: pg_sys::Oid, object: pg_sys::Oid) {
    if let Some(catalog_oid) = catalog::catalog_oid()
        && depend::is_older_than_this_transaction(class, object)
    {
        lock::ingredient_changes(catalog_oid, lock::ingredient(object));
    }
}

/// As [`wait_for_users`] of the partitioned tables that a table is, or is part of, and of those it has come to inherit from:
/// ATTACH and INHERIT let those read on who know nothing of the new rows yet.
fn wait_for_readers_above(relation: pg_sys::Oid) {
    let partitioned = spi::run(
        "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relkind = 'p' AND c.oid IN (SELECT relid::pg_catalog.oid \
         FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass)) ORDER BY 1",
        &[Value::Oid(relation)],
    );
    for table in &partitioned {
        wait_for_users(pg_sys::RelationRelationId, table.oid(0));
    }
    for ancestor in ancestors(relation) {
        if capture::heirs_changed(ancestor) != Some(false) {
            wait_for_users(pg_sys::RelationRelationId, ancestor);
        }
    }
}

/// A view, function or type was created, replaced or altered: whatever is made of it may mean something else now.
fn ingredient_changed(class: pg_sys::Oid, object: pg_sys::Oid, reason: &str) {
    wait_for_users(class, object);
    let made = spi::run_under(
        &format!(
            "WITH RECURSIVE made_of(class, object) AS (SELECT $1::pg_catalog.oid, $2::pg_catalog.oid UNION {MADE_OF}) \
             SELECT st.pgt_id FROM pgtrickle.pgt_stream_tables st WHERE st.stage_query IS NULL \
             AND st.def_view::pg_catalog.oid IN (SELECT object FROM made_of) AND st.def_view::pg_catalog.oid <> $2"
        ),
        &[Value::Oid(class), Value::Oid(object)],
        Under::Snapshot(&Snapshot::latest()),
    );
    meaning_changed(&made, reason);
}

/// A query made of an enum type asks which values it has (`enum_first`, `enum_last`, `enum_range`).
fn are_listed(ty: pg_sys::Oid) -> bool {
    spi::first(
        &format!(
            "WITH RECURSIVE made_of(class, object) AS (SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid, \
             $1::pg_catalog.oid UNION {MADE_OF}) SELECT 1 FROM made_of m JOIN pg_catalog.pg_rewrite w ON w.ev_class = m.object \
             WHERE w.ev_action::pg_catalog.text ~ ':funcid (3528|3529|3530|3531) ' LIMIT 1"
        ),
        &[Value::Oid(ty)],
    )
    .is_some()
}

/// A table or a composite type was altered: its rows as values have other columns, or columns of other names, than before.
fn row_type_changed(relation: pg_sys::Oid) {
    wait_for_users(pg_sys::TypeRelationId, relation::row_type(relation));
    let made = spi::run_under(
        &format!(
            "WITH RECURSIVE made_of(class, object) AS ((SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid, \
             c.reltype FROM pg_catalog.pg_class c WHERE c.oid = $1 UNION \
             SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, w.ev_class FROM pg_catalog.pg_depend d \
             JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1 \
             AND w.ev_action::pg_catalog.text LIKE '%:varattno 0 %') UNION {MADE_OF}) \
             SELECT st.pgt_id FROM pgtrickle.pgt_stream_tables st WHERE st.stage_query IS NULL \
             AND st.def_view::pg_catalog.oid IN (SELECT object FROM made_of)"
        ),
        &[Value::Oid(relation)],
        Under::Snapshot(&Snapshot::latest()),
    );
    meaning_changed(&made, TYPE_ALTERED);
    made.iter().for_each(|row| index_again(row.int(0)));
}

/// Rows whose type has another number of columns now have another hash.
fn index_again(id: i64) {
    let tables = spi::run(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pgtrickle.pgt_units u \
         JOIN pgtrickle.pgt_stream_tables st ON st.pgt_id = u.unit JOIN pg_catalog.pg_class c ON c.oid = st.pgt_relid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relhasindex AND u.pgt_id = $1",
        &[Value::Int(id)],
    );
    for table in &tables {
        spi::command(&format!("REINDEX TABLE {}", table.text(0)));
    }
}

/// The queries of these stream tables may have another result although no row of a source changed.
fn meaning_changed(stream_tables: &[spi::Row], reason: &str) {
    // In REPEATABLE READ too they include those created since the transaction began.
    let latest = Snapshot::latest();
    for row in stream_tables {
        let id = Value::Int(row.int(0));
        spi::run_under(
            "UPDATE pgtrickle.pgt_stream_tables SET generation = pg_catalog.nextval('pgtrickle.pgt_generation_seq') WHERE pgt_id = $1",
            std::slice::from_ref(&id),
            Under::Snapshot(&latest),
        );
        spi::run_under(
            "UPDATE pgtrickle.pgt_refresh_state SET reinit_requests = reinit_requests + 1, reinit_reason = $2 WHERE pgt_id IN \
             (SELECT unit FROM pgtrickle.pgt_units WHERE pgt_id = $1)",
            &[id, Value::Text(reason.to_owned())],
            Under::Snapshot(&latest),
        );
    }
    if !stream_tables.is_empty() {
        xact::definitions_will_change();
    }
}

/// What this statement returns as of now, also in a transaction whose own snapshot is older: stream tables created since are
/// concerned as well.
fn look(sql: &str, values: &[Value]) -> Vec<spi::Row> {
    spi::run_under(sql, values, Under::Snapshot(&Snapshot::latest()))
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
