//! What belongs together and what is held back, after definitions, gates or watermarks changed.

use std::collections::BTreeSet;

use pgrx::pg_sys;
use pgt_ivm::graph;

use crate::catalog::{self, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{self, Scope};
use crate::pg::spi::{self, Value};
use crate::pg::{lock, xact};

/// Finds the groups and holds again where the definition of `table` may have changed them.
pub(super) fn definition_changed(table: &StreamTable) -> Result<()> {
    let _scope = Scope::internal();
    let reads_streams = !crate::refresh::upstream_of(table.id)?.is_empty();
    if reads_streams
        || table.consistency_group.is_some()
        || !catalog::downstream_of(table.relid).is_empty()
    {
        regroup();
    }
    renew_holds();
    Ok(())
}

/// Finds the groups again, from all definitions.
pub(super) fn regroup() {
    let _scope = Scope::internal();
    let reads = catalog::all_reads();
    let wanted = catalog::refresh_groups();
    let groups = graph::groups(&reads, &graph::diamonds(&reads), &wanted);
    for id in catalog::replace_groups(&groups, &wanted) {
        xact::definition_will_change(id);
    }
}

fn renew_holds() {
    let _scope = Scope::internal();
    if catalog::may_hold() {
        if let Some(catalog_oid) = catalog::catalog_oid() {
            lock::holds(catalog_oid);
        }
        for id in catalog::renew_holds() {
            xact::definition_will_change(id);
        }
    }
}

fn lock_definitions() -> Result<()> {
    lock::definitions(catalog::installed()?);
    Ok(())
}

/// Gates and watermarks are looked at by one transaction at a time: two that close a gap together would each see it.
fn lock_holds() -> Result<()> {
    lock::holds(catalog::installed()?);
    Ok(())
}

/// Has stream tables refreshed together.
pub fn create_refresh_group(name: &str, members: &[StreamTable]) -> Result<()> {
    let distinct: BTreeSet<i64> = members.iter().map(|member| member.id).collect();
    if distinct.len() < 2 {
        return Err(Error::new(
            Kind::InvalidArgument,
            "a refresh group needs at least two stream tables",
        ));
    }
    for member in members {
        super::require_owner(member)?;
    }
    lock_definitions()?;
    {
        let _scope = Scope::internal();
        if group_exists("pgt_refresh_groups", name) {
            return Err(Error::new(
                Kind::DuplicateObject,
                format!("refresh group \"{name}\" already exists"),
            )
            .hint("Drop it first with pgtrickle.drop_refresh_group()."));
        }
        for member in members {
            spi::run(
                "INSERT INTO pgtrickle.pgt_refresh_groups (group_name, pgt_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                &[Value::Text(name.to_owned()), Value::Int(member.id)],
            );
        }
    }
    regroup();
    Ok(())
}

pub fn drop_refresh_group(name: &str) -> Result<()> {
    lock_definitions()?;
    let members: Vec<i64> = spi::run(
        "SELECT pgt_id FROM pgtrickle.pgt_refresh_groups WHERE group_name = $1",
        &[Value::Text(name.to_owned())],
    )
    .iter()
    .map(|row| row.int(0))
    .collect();
    if members.is_empty() {
        return Err(no_such("refresh group", name, "refresh_groups"));
    }
    for id in members {
        super::require_owner(&catalog::load(id)?)?;
    }
    {
        let _scope = Scope::internal();
        spi::run(
            "DELETE FROM pgtrickle.pgt_refresh_groups WHERE group_name = $1",
            &[Value::Text(name.to_owned())],
        );
    }
    regroup();
    Ok(())
}

fn group_exists(table: &'static str, name: &str) -> bool {
    spi::first(
        &format!("SELECT 1 FROM pgtrickle.{table} WHERE group_name = $1"),
        &[Value::Text(name.to_owned())],
    )
    .is_some()
}

fn no_such(what: &str, name: &str, listing: &str) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("{what} \"{name}\" does not exist"),
    )
    .hint(format!("pgtrickle.{listing}() lists them."))
}

/// The table a user calls `name`, which must be the caller's own.
fn own_source(name: &str) -> Result<pg_sys::Oid> {
    let oid = catalog::resolve_name(name)?.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!("relation \"{name}\" does not exist"),
        )
    })?;
    let row = spi::first(
        "SELECT relowner, relkind IN ('r', 'p', 'f', 'm') FROM pg_catalog.pg_class WHERE oid = $1",
        &[Value::Oid(oid)],
    );
    match row {
        Some(row) if !session::has_privileges_of(row.oid(0)) => Err(Error::new(
            Kind::Permission,
            format!("must be owner of table {name}"),
        )),
        Some(row) if row.bool(1) => Ok(oid),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            format!("\"{name}\" is not a table"),
        )),
    }
}

/// Holds back every refresh that reads the table.
pub fn gate(source: &str) -> Result<()> {
    let oid = own_source(source)?;
    lock_holds()?;
    let by = role_name();
    {
        let _scope = Scope::internal();
        spi::run(
            "INSERT INTO pgtrickle.pgt_source_gates (source, gated_by) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[Value::Oid(oid), Value::Text(by)],
        );
    }
    renew_holds();
    Ok(())
}

/// Lets refreshes read the table again.
pub fn ungate(source: &str) -> Result<()> {
    let oid = own_source(source)?;
    lock_holds()?;
    {
        let _scope = Scope::internal();
        spi::run(
            "DELETE FROM pgtrickle.pgt_source_gates WHERE source = $1",
            &[Value::Oid(oid)],
        );
    }
    renew_holds();
    Ok(())
}

/// The table is complete up to `watermark`.
pub fn advance_watermark(
    source: &str,
    watermark: pgrx::datum::TimestampWithTimeZone,
) -> Result<()> {
    let oid = own_source(source)?;
    lock_holds()?;
    let by = role_name();
    {
        let _scope = Scope::internal();
        let at = Value::Timestamp(watermark.into());
        let row = spi::first(
            "INSERT INTO pgtrickle.pgt_watermarks AS w (source, watermark, advanced_by) VALUES ($1, $2, $3) \
             ON CONFLICT (source) DO UPDATE SET watermark = EXCLUDED.watermark, advanced_at = pg_catalog.now(), \
             advanced_by = EXCLUDED.advanced_by WHERE w.watermark <= EXCLUDED.watermark RETURNING 1",
            &[Value::Oid(oid), at, Value::Text(by)],
        );
        if row.is_none() {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("the watermark of {source} cannot go back"),
            )
            .hint("pgtrickle.watermarks() shows where it is."));
        }
    }
    renew_holds();
    Ok(())
}

/// Holds back what reads several of these tables while their watermarks differ by more than the tolerance.
pub fn create_watermark_group(name: &str, sources: &[String], tolerance: f64) -> Result<()> {
    if !tolerance.is_finite() || tolerance < 0.0 {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid tolerance {tolerance}"),
        )
        .hint("The tolerance is a number of seconds, 0 or more."));
    }
    let oids = sources
        .iter()
        .map(|source| own_source(source).map(|oid| oid.to_u32().to_string()))
        .collect::<Result<BTreeSet<_>>>()?;
    if oids.len() < 2 {
        return Err(Error::new(
            Kind::InvalidArgument,
            "a watermark group needs at least two tables",
        ));
    }
    lock_holds()?;
    {
        let _scope = Scope::internal();
        if group_exists("pgt_watermark_groups", name) {
            return Err(Error::new(
                Kind::DuplicateObject,
                format!("watermark group \"{name}\" already exists"),
            )
            .hint("Drop it first with pgtrickle.drop_watermark_group()."));
        }
        let list = oids.into_iter().collect::<Vec<_>>().join(",");
        spi::run(
            "INSERT INTO pgtrickle.pgt_watermark_groups (group_name, sources, tolerance_secs) \
             VALUES ($1, $2::pg_catalog.text::pg_catalog.oid[], $3)",
            &[
                Value::Text(name.to_owned()),
                Value::Text(format!("{{{list}}}")),
                Value::Float(tolerance),
            ],
        );
    }
    renew_holds();
    Ok(())
}

pub fn drop_watermark_group(name: &str) -> Result<()> {
    lock_holds()?;
    let owners = spi::run(
        "SELECT c.relowner FROM pgtrickle.pgt_watermark_groups g, pg_catalog.unnest(g.sources) s \
         LEFT JOIN pg_catalog.pg_class c ON c.oid = s WHERE g.group_name = $1",
        &[Value::Text(name.to_owned())],
    );
    if owners.is_empty() {
        return Err(no_such("watermark group", name, "watermark_status"));
    }
    if owners
        .iter()
        .any(|row| !row.is_null(0) && !session::has_privileges_of(row.oid(0)))
    {
        return Err(Error::new(
            Kind::Permission,
            format!("must be owner of every table of watermark group \"{name}\""),
        ));
    }
    {
        let _scope = Scope::internal();
        spi::run(
            "DELETE FROM pgtrickle.pgt_watermark_groups WHERE group_name = $1",
            &[Value::Text(name.to_owned())],
        );
    }
    renew_holds();
    Ok(())
}

fn role_name() -> String {
    super::storage::owner_name(session::current_user())
}

/// Gates and watermarks of tables that are gone.
pub(super) fn forget_dropped_sources() {
    let gone = spi::first(
        "SELECT 1 FROM (SELECT source FROM pgtrickle.pgt_source_gates UNION ALL SELECT source FROM pgtrickle.pgt_watermarks \
         UNION ALL SELECT pg_catalog.unnest(sources) FROM pgtrickle.pgt_watermark_groups) s \
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.source) LIMIT 1",
        &[],
    );
    if gone.is_none() {
        return;
    }
    for table in ["pgt_source_gates", "pgt_watermarks"] {
        spi::run(
            &format!(
                "DELETE FROM pgtrickle.{table} x WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = x.source)"
            ),
            &[],
        );
    }
    spi::run(
        "UPDATE pgtrickle.pgt_watermark_groups g SET sources = ARRAY(SELECT s FROM pg_catalog.unnest(g.sources) s \
         JOIN pg_catalog.pg_class c ON c.oid = s) WHERE EXISTS (SELECT FROM pg_catalog.unnest(g.sources) s \
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s))",
        &[],
    );
    spi::run(
        "DELETE FROM pgtrickle.pgt_watermark_groups WHERE pg_catalog.cardinality(sources) < 2",
        &[],
    );
    renew_holds();
}
