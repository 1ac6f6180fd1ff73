//! Altering a stream table.

use std::collections::BTreeSet;

use pgt_ivm::schedule::Tier;
use pgt_ivm::sql::ast::Name;

use super::{create, rebuild, storage};
use crate::catalog::{self, Mode, StreamTable};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Scope;
use crate::pg::spi::{self, Value};
use crate::pg::{depend, entry, lock, xact};

/// What to change; none means leave.
#[derive(Default)]
pub struct Changes<'a> {
    pub query: Option<&'a str>,
    pub schedule: Option<&'a str>,
    pub mode: Option<Mode>,
    /// ACTIVE or SUSPENDED.
    pub status: Option<&'a str>,
    pub diamond_consistency: Option<&'a str>,
    pub diamond_schedule_policy: Option<&'a str>,
    pub tier: Option<&'a str>,
    /// on or off.
    pub fuse: Option<&'a str>,
    pub fuse_ceiling: Option<i64>,
}

/// Applies the changes. A new query must have the same columns; the table keeps its indexes, grants and readers.
pub fn alter(table: &StreamTable, changes: &Changes<'_>) -> Result<()> {
    super::require_owner(table)?;
    let _quiet = entry::defining();
    let catalog_oid = catalog::installed()?;
    lock::definitions(catalog_oid);
    // The refresh at the end, if there is one, is that of the whole group.
    let together = crate::refresh::extent(&[table.id], false)?;
    for id in together.into_iter().collect::<BTreeSet<i64>>() {
        lock::stream_table(catalog_oid, id);
    }
    create::check_diamond(changes.diamond_consistency, changes.diamond_schedule_policy)?;
    if let Some(schedule) = changes.schedule {
        super::check_schedule(schedule)?;
        set(table.id, "schedule", schedule);
    }
    if let Some(consistency) = changes.diamond_consistency {
        set(table.id, "diamond_consistency", consistency);
    }
    if let Some(policy) = changes.diamond_schedule_policy {
        set(table.id, "diamond_schedule_policy", policy);
    }
    set_tier_and_fuse(table, changes)?;
    if let Some(status) = changes.status {
        change_status(table, status)?;
    }
    if let Some(mode) = changes.mode
        && mode != table.mode
    {
        create::refuse_immediate(mode)?;
        set(table.id, "refresh_mode", mode.name());
        if changes.query.is_none() {
            rebuild::rebuild(&catalog::load(table.id)?, None)?;
        }
    }
    if let Some(query) = changes.query {
        change_query(&catalog::load(table.id)?, query)?;
    }
    xact::definition_will_change(table.id);
    Ok(())
}

fn set(id: i64, column: &'static str, value: &str) {
    let _scope = Scope::internal();
    spi::run(
        &format!("UPDATE pgtrickle.pgt_stream_tables SET {column} = $2 WHERE pgt_id = $1"),
        &[Value::Int(id), Value::Text(value.to_owned())],
    );
}

fn set_tier_and_fuse(table: &StreamTable, changes: &Changes<'_>) -> Result<()> {
    if let Some(tier) = changes.tier {
        let known = Tier::parse(tier).ok_or_else(|| {
            Error::new(Kind::InvalidArgument, format!("invalid tier \"{tier}\""))
                .hint("Use hot, warm, cold or frozen.")
        })?;
        set(table.id, "tier", known.name());
    }
    if changes.fuse.is_none() && changes.fuse_ceiling.is_none() {
        return Ok(());
    }
    if let Some(fuse) = changes.fuse {
        if !["on", "off"].contains(&fuse) {
            return Err(
                Error::new(Kind::InvalidArgument, format!("invalid fuse \"{fuse}\""))
                    .hint("Use on or off."),
            );
        }
        set(table.id, "fuse", fuse);
    }
    let _scope = Scope::internal();
    if let Some(ceiling) = changes.fuse_ceiling {
        if ceiling < 1 {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("invalid fuse_ceiling {ceiling}"),
            )
            .hint("The ceiling is a number of changed rows, 1 or more."));
        }
        spi::run(
            "UPDATE pgtrickle.pgt_stream_tables SET fuse_ceiling = $2 WHERE pgt_id = $1",
            &[Value::Int(table.id), Value::Int(ceiling)],
        );
    }
    let useless = spi::first(
        "SELECT 1 FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1 AND fuse = 'on' AND fuse_ceiling IS NULL",
        &[Value::Int(table.id)],
    );
    if useless.is_some() {
        return Err(
            Error::new(Kind::InvalidArgument, "a fuse needs a fuse_ceiling")
                .hint("Say above how many changed rows it blows."),
        );
    }
    storage::bump_generation_internal(table.id);
    Ok(())
}

fn change_status(table: &StreamTable, status: &str) -> Result<()> {
    match status.to_ascii_uppercase().as_str() {
        "SUSPENDED" => {
            set(table.id, "status", "SUSPENDED");
            storage::bump_generation_internal(table.id);
        }
        "ACTIVE" => {
            let _scope = Scope::internal();
            spi::run(
                "UPDATE pgtrickle.pgt_stream_tables SET status = CASE WHEN EXISTS (SELECT FROM \
                 pgtrickle.pgt_refresh_state s WHERE s.pgt_id = $1 AND s.is_populated) THEN 'ACTIVE' \
                 ELSE 'INITIALIZING' END, fuse_blown_at = NULL, fuse_reason = NULL WHERE pgt_id = $1",
                &[Value::Int(table.id)],
            );
            spi::run(
                "UPDATE pgtrickle.pgt_refresh_state SET consecutive_errors = 0, retry_at = NULL WHERE pgt_id = $1",
                &[Value::Int(table.id)],
            );
            storage::bump_generation(table.id);
        }
        _ => {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("invalid status \"{status}\""),
            )
            .hint("Use ACTIVE or SUSPENDED."));
        }
    }
    Ok(())
}

/// Puts a new view in the place of the old one and rebuilds what depends on it.
fn change_query(table: &StreamTable, query: &str) -> Result<()> {
    create::check_query_text(query)?;
    let old = table.view_name.clone();
    let temporary = Name::new("pgtrickle_defs", format!("new_{}", table.id));
    let view = create::create_view(&temporary, query, table.owner)?;
    let analysis = crate::analyze::analyze(view, &table.settings)?;
    create::check_privileges(&analysis)?;
    create::effective_mode(table.mode, &analysis)?;
    {
        let _scope = Scope::internal();
        depend::release_part(table.view);
        depend::make_part(view, table.relid);
        spi::run(
            "UPDATE pgtrickle.pgt_stream_tables SET def_view = $2::pg_catalog.regclass WHERE pgt_id = $1",
            &[Value::Int(table.id), Value::Oid(view)],
        );
        depend::command_done();
        spi::command(&format!("DROP VIEW {old}"));
        spi::command(&format!(
            "ALTER VIEW {temporary} RENAME TO {}",
            pgt_ivm::sql::quote_identifier(&old.name)
        ));
    }
    rebuild::rebuild(&catalog::load(table.id)?, Some(view))?;
    storage::bump_generation_internal(table.id);
    Ok(())
}
