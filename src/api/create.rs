//! `create_stream_table` and its variants.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::{self, Mode, StreamTable};
use crate::error::{Error, Kind};
use crate::lifecycle::{self, Changes, Definition};
use crate::pg::spi::{self, Value};

fn required<'a>(value: Option<&'a str>, what: &str) -> Result<&'a str, Error> {
    value.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("{what} must not be NULL")))
}

#[allow(clippy::too_many_arguments)]
fn definition<'a>(
    name: Option<&'a str>,
    query: Option<&'a str>,
    schedule: Option<&'a str>,
    refresh_mode: Option<&'a str>,
    initialize: Option<bool>,
    diamond_consistency: Option<&'a str>,
    diamond_schedule_policy: Option<&'a str>,
) -> Result<Definition<'a>, Error> {
    Ok(Definition {
        name: required(name, "name")?,
        query: required(query, "query")?,
        schedule: schedule.unwrap_or("calculated"),
        mode: Mode::parse(refresh_mode.unwrap_or("AUTO"))?,
        initialize: initialize.unwrap_or(true),
        diamond_consistency,
        diamond_schedule_policy,
    })
}

/// The stream table that already has this name, if there is one.
fn existing(name: &str) -> Result<Option<StreamTable>, Error> {
    let name = lifecycle::creation_name(name)?;
    match catalog::resolve_name(&name.to_string())? {
        Some(relid) => catalog::by_relation(relid),
        None => Ok(None),
    }
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn create_stream_table(
    name: Option<&str>,
    query: Option<&str>,
    schedule: Option<&str>,
    refresh_mode: Option<&str>,
    initialize: Option<bool>,
    diamond_consistency: Option<&str>,
    diamond_schedule_policy: Option<&str>,
) -> Result<(), ErrorReport> {
    lifecycle::create(&definition(
        name,
        query,
        schedule,
        refresh_mode,
        initialize,
        diamond_consistency,
        diamond_schedule_policy,
    )?)?;
    Ok(())
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn create_stream_table_if_not_exists(
    name: Option<&str>,
    query: Option<&str>,
    schedule: Option<&str>,
    refresh_mode: Option<&str>,
    initialize: Option<bool>,
    diamond_consistency: Option<&str>,
    diamond_schedule_policy: Option<&str>,
) -> Result<(), ErrorReport> {
    let wanted = definition(
        name,
        query,
        schedule,
        refresh_mode,
        initialize,
        diamond_consistency,
        diamond_schedule_policy,
    )?;
    if let Some(known) = existing(wanted.name)? {
        pgrx::notice!(
            "stream table {} already exists, skipping",
            known.display_name()
        );
        return Ok(());
    }
    lifecycle::create(&wanted)?;
    Ok(())
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn create_or_replace_stream_table(
    name: Option<&str>,
    query: Option<&str>,
    schedule: Option<&str>,
    refresh_mode: Option<&str>,
    initialize: Option<bool>,
    diamond_consistency: Option<&str>,
    diamond_schedule_policy: Option<&str>,
) -> Result<(), ErrorReport> {
    let wanted = definition(
        name,
        query,
        schedule,
        refresh_mode,
        initialize,
        diamond_consistency,
        diamond_schedule_policy,
    )?;
    let Some(known) = existing(wanted.name)? else {
        lifecycle::create(&wanted)?;
        return Ok(());
    };
    lifecycle::require_owner(&known)?;
    let comparison = lifecycle::compare_query(&known, wanted.query)?;
    if comparison == lifecycle::QueryComparison::OtherColumns {
        // The table itself has to change: it goes and comes again.
        lifecycle::drop_stream_table(&known, false)?;
        lifecycle::create(&wanted)?;
        return Ok(());
    }
    lifecycle::alter(
        &known,
        &Changes {
            query: (comparison == lifecycle::QueryComparison::Different).then_some(wanted.query),
            schedule: (wanted.schedule != known.schedule).then_some(wanted.schedule),
            mode: (wanted.mode != known.mode).then_some(wanted.mode),
            status: None,
            diamond_consistency: wanted.diamond_consistency,
            diamond_schedule_policy: wanted.diamond_schedule_policy,
            ..Changes::default()
        },
    )?;
    if comparison == lifecycle::QueryComparison::Different && wanted.initialize {
        super::refresh::manual(&catalog::load(known.id)?, None)?;
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn export_definition(name: &str) -> Result<String, ErrorReport> {
    let table = catalog::by_name(name)?;
    lifecycle::require_owner(&table)?;
    let _scope = crate::pg::session::Scope::pinned(&table.settings);
    let query = spi::first(
        "SELECT pg_catalog.pg_get_viewdef($1::pg_catalog.oid)",
        &[Value::Oid(table.view)],
    )
    .map_or_else(String::new, |row| row.text(0));
    let literal = pgt_ivm::sql::quote_literal;
    let name = literal(&table.name.to_string());
    let mut arguments = vec![
        format!("name => {name}"),
        format!("query => {}", literal(query.trim().trim_end_matches(';'))),
        format!("schedule => {}", literal(&table.schedule)),
        format!("refresh_mode => {}", literal(table.mode.name())),
    ];
    let mut alterations = Vec::new();
    if let Some(row) = spi::first(
        "SELECT diamond_consistency, diamond_schedule_policy, NULLIF(tier, 'hot'), NULLIF(fuse, 'off'), fuse_ceiling \
         FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1",
        &[Value::Int(table.id)],
    ) {
        let text = |column, what: &str| {
            row.optional_text(column)
                .map(|value| format!("{what} => {}", literal(&value)))
        };
        arguments.extend(text(0, "diamond_consistency"));
        arguments.extend(text(1, "diamond_schedule_policy"));
        alterations.extend(text(2, "tier"));
        alterations.extend(text(3, "fuse"));
        alterations.extend(
            row.optional_int(4)
                .map(|ceiling| format!("fuse_ceiling => {ceiling}")),
        );
    }
    let mut script = format!(
        "SELECT pgtrickle.create_stream_table(\n    {}\n);\n",
        arguments.join(",\n    ")
    );
    if !alterations.is_empty() {
        script.push_str(&format!(
            "SELECT pgtrickle.alter_stream_table({name}, {});\n",
            alterations.join(", ")
        ));
    }
    Ok(script)
}
