//! What is known of a relation a query reads.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::scalar::Type;

use super::NotIncremental;
use crate::error::{Error, Kind};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Row, Under, Value};
use crate::pg::{node, relation};

/// What is committed by now, also in a transaction whose own snapshot is older: that is what queries are planned by.
fn look(sql: &str, values: &[Value]) -> Vec<Row> {
    spi::run_under(sql, values, Under::Snapshot(&Snapshot::latest()))
}

fn look_up(sql: &str, values: &[Value]) -> Option<Row> {
    look(sql, values).into_iter().next()
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct ColumnFacts {
    pub name: String,
    pub ty: Type,
    pub nullable: bool,
    pub virtual_generated: bool,
}

/// Why a relation cannot be a source in any mode.
pub(super) fn unusable(relid: pg_sys::Oid) -> Option<Error> {
    let row = look_up(
        "SELECT c.relname, c.relpersistence::pg_catalog.text, n.nspname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[Value::Oid(relid)],
    )?;
    let name = row.text(0);
    if row.text(1) == "t" {
        return Some(
            Error::new(
                Kind::NotIncremental,
                format!("temporary table \"{name}\" cannot be a source"),
            )
            .hint("The background workers cannot see temporary tables; use an unlogged table."),
        );
    }
    if matches!(
        row.text(2).as_str(),
        "pg_catalog" | "information_schema" | "pg_toast"
    ) {
        return Some(Error::new(
            Kind::NotIncremental,
            format!("system catalog \"{name}\" cannot be a source"),
        ));
    }
    None
}

/// The relation's changes can be captured by triggers of its own: an ordinary table without children, or a partitioned one.
pub fn capturable(relid: pg_sys::Oid, relkind: u8) -> bool {
    relkind == b'p' || relkind == b'r' && !has_children(relid)
}

/// Refuses relations whose changes cannot be followed row by row.
pub(super) fn check(relid: pg_sys::Oid, relkind: u8) -> Result<(), NotIncremental> {
    if !matches!(relkind, b'r' | b'p') {
        let what = match relkind {
            b'f' => "a foreign table",
            b'm' => "a materialized view",
            _ => "not a table",
        };
        return Err(NotIncremental::new(
            format!("{} is {what}", display_name(relid)),
            "Changes of it cannot be captured; the stream table is refreshed fully.",
        ));
    }
    let row_security = look_up(
        "SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(relid)],
    );
    if row_security.is_some_and(|row| row.bool(0)) {
        return Err(NotIncremental::new(
            format!("{} has row-level security", display_name(relid)),
            "The change log does not know the policies.",
        ));
    }
    Ok(())
}

/// The tables that a scan of `relid` reads: with its inheritance children, whatever inherits from it, each once. They stay
/// the same until the transaction ends, if the query's ingredients are held. Refuses those of which one cannot be followed;
/// `reader` is who is to read them.
pub(super) fn members(
    relid: pg_sys::Oid,
    relkind: u8,
    inherit: bool,
    reader: pg_sys::Oid,
) -> Result<Vec<pg_sys::Oid>, NotIncremental> {
    check(relid, relkind)?;
    if relkind == b'p' && !inherit {
        return Err(NotIncremental::new(
            format!(
                "ONLY leaves no rows of {}, which is partitioned",
                display_name(relid)
            ),
            "Leave ONLY out.",
        ));
    }
    if relkind != b'r' || !inherit {
        return Ok(vec![relid]);
    }
    let members = relation::held_with_heirs(relid);
    if members.len() > 1 {
        for member in &members {
            check_member(*member, relid, reader)?;
        }
    }
    Ok(members)
}

/// A table of an inheritance tree can be followed, and `reader` may read it by its own name: PostgreSQL asks only for rights
/// on the root of the tree.
fn check_member(
    member: pg_sys::Oid,
    root: pg_sys::Oid,
    reader: pg_sys::Oid,
) -> Result<(), NotIncremental> {
    let name = display_name(member);
    let place = if member == root {
        format!("{name} has inheritance children")
    } else {
        format!("{name} inherits from {}", display_name(root))
    };
    let row = look_up(
        "SELECT c.relkind::pg_catalog.text, c.relpersistence = 't', pg_catalog.pg_get_userbyid($2), \
         pg_catalog.has_any_column_privilege($2, c.oid, 'SELECT'), pg_catalog.has_table_privilege($2, c.oid, 'TRIGGER'), \
         pg_catalog.has_schema_privilege($2, c.relnamespace, 'USAGE'), c.relnamespace::pg_catalog.regnamespace::pg_catalog.text \
         FROM pg_catalog.pg_class c WHERE c.oid = $1",
        &[Value::Oid(member), Value::Oid(reader)],
    );
    let Some(row) = row else {
        return Err(NotIncremental::new(place, "Try again."));
    };
    let relkind = row.text(0).bytes().next().unwrap_or(b'r');
    if let Err(refusal) = check(member, relkind) {
        let what = refusal.reason.strip_prefix(&name);
        return Err(NotIncremental::new(
            format!("{place} and{}", what.unwrap_or(" is not a plain table")),
            refusal.hint,
        ));
    }
    if row.bool(1) {
        return Err(NotIncremental::new(
            format!("{place} and is a temporary table"),
            "Other sessions do not see its rows.",
        ));
    }
    let role = row.text(2);
    let schema = row.text(6);
    for (granted, privilege, object) in [
        (row.bool(3), "SELECT", &name),
        (row.bool(4), "TRIGGER", &name),
        (row.bool(5), "USAGE", &format!("SCHEMA {schema}")),
    ] {
        if !granted {
            return Err(NotIncremental::new(
                format!("{place} and {role} has no {privilege} privilege on it"),
                format!("GRANT {privilege} ON {object} TO {role}."),
            ));
        }
    }
    Ok(())
}

/// The columns of a table of an inheritance tree that stand for `wanted` columns of its root, by the attribute number they
/// have there.
pub(super) fn inherited_columns(
    member: pg_sys::Oid,
    root: pg_sys::Oid,
    wanted: &BTreeMap<i16, ColumnFacts>,
    reader: pg_sys::Oid,
) -> Result<BTreeMap<i16, (i16, ColumnFacts)>, NotIncremental> {
    if member == root {
        let same = |(attnum, column): (&i16, &ColumnFacts)| (*attnum, (*attnum, column.clone()));
        return Ok(wanted.iter().map(same).collect());
    }
    let facts = columns(member);
    let refuse = |column: &ColumnFacts, what: &str, hint: &str| {
        let (member, root) = (display_name(member), display_name(root));
        let reason = format!(
            "{member} inherits from {root} and its column {} {what}",
            column.name
        );
        Err(NotIncremental::new(reason, hint))
    };
    let mut found = BTreeMap::new();
    for (attnum, column) in wanted {
        let same = |own: &&ColumnFacts| own.name == column.name && own.ty == column.ty;
        let Some((own, column)) = facts.iter().find(|(_, own)| same(own)) else {
            return refuse(column, "is another one", "Please report the table.");
        };
        let readable = look_up(
            "SELECT pg_catalog.has_column_privilege($1, $2, $3::pg_catalog.int2, 'SELECT')",
            &[
                Value::Oid(reader),
                Value::Oid(member),
                Value::Int(i64::from(*own)),
            ],
        );
        if !readable.is_some_and(|row| row.bool(0)) {
            return refuse(
                column,
                "may not be read",
                "Grant the SELECT privilege on it.",
            );
        }
        found.insert(*attnum, (*own, column.clone()));
    }
    Ok(found)
}

fn has_children(relid: pg_sys::Oid) -> bool {
    look_up(
        "SELECT 1 FROM pg_catalog.pg_inherits WHERE inhparent = $1",
        &[Value::Oid(relid)],
    )
    .is_some()
}

pub(super) fn display_name(relid: pg_sys::Oid) -> String {
    look_up(
        "SELECT $1::pg_catalog.oid::pg_catalog.regclass::pg_catalog.text",
        &[Value::Oid(relid)],
    )
    .map_or_else(String::new, |row| row.text(0))
}

/// No row of the relation has a null in attribute `a`: rows from before a constraint that is NOT VALID may.
const NOT_NULL: &str = "(a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conrelid = a.attrelid \
     AND c.contype = 'n' AND a.attnum = ANY (c.conkey) AND NOT c.convalidated))";

/// The live columns of a relation by attribute number.
pub(super) fn columns(relid: pg_sys::Oid) -> BTreeMap<i16, ColumnFacts> {
    look(
        &format!(
            "SELECT attnum, attname, atttypid, atttypmod, attcollation, {NOT_NULL}, attgenerated = 'v' \
             FROM pg_catalog.pg_attribute a WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped"
        ),
        &[Value::Oid(relid)],
    )
    .iter()
    .map(|row| {
        let facts = ColumnFacts {
            name: row.text(1),
            ty: node::describe_type(row.oid(2), row.int(3) as i32, row.oid(4)),
            nullable: !row.bool(5),
            virtual_generated: row.bool(6),
        };
        (row.int(0) as i16, facts)
    })
    .collect()
}

/// Unique, immediately checked sets of columns that are all NOT NULL. Unique by what the columns' types call equal: an
/// index may go by another operator, or by another collation.
pub(super) fn unique_keys(relid: pg_sys::Oid) -> Vec<BTreeSet<i16>> {
    let mut keys: BTreeMap<(i64, i64), Vec<(i16, bool)>> = BTreeMap::new();
    let columns = look(
        &format!(
            "SELECT i.indnkeyatts, i.indexrelid::pg_catalog.int8, a.attnum, a.atttypid, o.amopopr, \
         {NOT_NULL} AND (k.sorting = a.attcollation \
             OR (SELECT pg_catalog.bool_and(s.collisdeterministic) FROM pg_catalog.pg_collation s \
                 WHERE s.oid IN (k.sorting, a.attcollation))) \
         FROM pg_catalog.pg_index i CROSS JOIN LATERAL ROWS FROM ( \
             pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[]), \
             pg_catalog.unnest(i.indcollation::pg_catalog.oid[])) WITH ORDINALITY k(attnum, class, sorting, n) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         JOIN pg_catalog.pg_opclass c ON c.oid = k.class \
         JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype \
             AND o.amoprighttype = c.opcintype AND o.amopstrategy = 3 \
         WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL \
         AND i.indexprs IS NULL AND k.n <= i.indnkeyatts"
        ),
        &[Value::Oid(relid)],
    );
    for row in &columns {
        let equal = node::equality_operator(row.oid(3)) == row.oid(4);
        keys.entry((row.int(0), row.int(1)))
            .or_default()
            .push((row.int(2) as i16, equal && row.bool(5)));
    }
    keys.into_iter()
        .filter(|((width, _), columns)| {
            columns.len() as i64 == *width && columns.iter().all(|(_, unique)| *unique)
        })
        .map(|(_, columns)| columns.into_iter().map(|(attnum, _)| attnum).collect())
        .collect()
}

pub(super) fn is_stream_table(relid: pg_sys::Oid) -> bool {
    look_up(
        "SELECT 1 FROM pgtrickle.pgt_stream_tables WHERE pgt_relid::pg_catalog.oid = $1",
        &[Value::Oid(relid)],
    )
    .is_some()
}
