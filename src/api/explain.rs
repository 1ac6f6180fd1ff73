//! `explain_stream_table`, `explain_delta`.

use std::collections::BTreeSet;
use std::rc::Rc;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgt_ivm::delta;
use pgt_ivm::rel::{CLOCK, Query, SourceId};
use pgt_ivm::rewrite::{self, Ties};

use crate::analyze;
use crate::catalog::{self, Mode, StreamTable};
use crate::error::{Error, Kind, Result as OwnResult};
use crate::lifecycle;
use crate::pg::session::Scope;
use crate::refresh::{self, Compiled, Unit};

const STAGES: &str = "summary, rel, rewritten, delta, sql, apply, plan";

fn compiled(name: &str) -> OwnResult<Rc<Compiled>> {
    let table = catalog::by_name(name)?;
    lifecycle::require_owner(&table)?;
    lifecycle::ensure_ready(&table)?;
    refresh::compile(&catalog::load(table.id)?)
}

#[pg_extern(sql = false)]
fn explain_stream_table(name: &str, stage: &str) -> Result<String, ErrorReport> {
    let compiled = compiled(name)?;
    let text = match stage {
        "summary" => summary(&compiled)?,
        "rel" => query_of(&compiled.table)?.text(),
        "rewritten" => rewritten(&query_of(&compiled.table)?, compiled.table.mode.ties()),
        "delta" => each_delta(&compiled, |unit, dirty| {
            let terms = delta_terms(unit, dirty);
            Ok(terms.join("\n"))
        })?,
        "sql" if compiled.units.iter().all(|unit| unit.query.is_none()) => compiled
            .units
            .iter()
            .map(|unit| unit.full_statement().to_string())
            .collect::<Vec<_>>()
            .join("\n"),
        "sql" => each_delta(&compiled, |unit, dirty| {
            Ok(unit.differential_statement(dirty, None)?.to_string())
        })?,
        "apply" => compiled
            .units
            .iter()
            .map(apply)
            .collect::<Vec<_>>()
            .join("\n"),
        "plan" => each_delta(&compiled, |unit, dirty| {
            let lines = plan(&compiled.table, unit, dirty, "text")?;
            Ok(lines.join("\n"))
        })?,
        other => {
            return Err(
                Error::new(Kind::InvalidArgument, format!("unknown stage \"{other}\""))
                    .hint(format!("Stages are {STAGES}."))
                    .into(),
            );
        }
    };
    Ok(text)
}

fn query_of(table: &StreamTable) -> OwnResult<Query> {
    analyze::analyze(table.view, &table.settings)?
        .query
        .map_err(|refusal| {
            Error::new(
                Kind::NotIncremental,
                format!(
                    "stream table {} is not maintained incrementally: {}",
                    table.display_name(),
                    refusal.reason
                ),
            )
            .hint(refusal.hint)
        })
}

fn summary(compiled: &Compiled) -> OwnResult<String> {
    let table = &compiled.table;
    let mut lines = vec![
        format!("stream table {}", table.display_name()),
        format!(
            "schedule {}, mode {}, effective {}",
            table.schedule,
            table.mode.name(),
            table.effective.name()
        ),
    ];
    if let Some(reason) = &table.downgrade_reason {
        lines.push(format!("refreshed fully: {reason}"));
    }
    for (number, unit) in compiled.units.iter().enumerate() {
        let kind = if unit.id == table.id {
            "result"
        } else if compiled.watches.contains(&number) {
            "watch"
        } else {
            "stage"
        };
        let reads: Vec<String> = unit
            .sources
            .values()
            .map(|source| source.name.to_string())
            .collect();
        let others: Vec<String> = catalog::users_of_stage(unit.id)
            .into_iter()
            .filter(|user| *user != table.id)
            .map(|user| Ok(catalog::load(user)?.display_name()))
            .collect::<OwnResult<_>>()?;
        let shared = if others.is_empty() {
            String::new()
        } else {
            format!(", shared with {}", others.join(", "))
        };
        lines.push(format!(
            "{kind} {} identity {:?} reads {}{shared}",
            unit.target.table,
            unit.layout.identity,
            reads.join(", ")
        ));
    }
    Ok(lines.join("\n") + "\n")
}

fn rewritten(query: &Query, ties: Ties) -> String {
    let planned = rewrite::cut(query, ties);
    let mut text = String::new();
    for (number, stage) in planned.stages.iter().enumerate() {
        let kind = if planned.watches.contains(&number) {
            "Watch"
        } else {
            "Stage"
        };
        text.push_str(&format!("{kind} {number}\n{}", stage.query.text()));
    }
    text + "Result\n" + &planned.query.text()
}

/// One section per unit and changed source.
fn each_delta(
    compiled: &Compiled,
    describe: impl Fn(&Unit, &BTreeSet<SourceId>) -> OwnResult<String>,
) -> OwnResult<String> {
    let mut sections = Vec::new();
    for unit in compiled.units.iter().filter(|unit| unit.query.is_some()) {
        let changed = unit
            .sources
            .iter()
            .map(|(id, source)| (*id, format!("{} changed", source.name)));
        let passed = unit.moves().then(|| (CLOCK, "time has passed".to_owned()));
        for (id, what) in changed.chain(passed) {
            sections.push(format!(
                "-- {} when {what}\n{}\n",
                unit.target.table,
                describe(unit, &BTreeSet::from([id]))?
            ));
        }
    }
    if sections.is_empty() {
        return Err(no_delta(compiled));
    }
    Ok(sections.join("\n"))
}

/// Why there is no delta to explain.
fn no_delta(compiled: &Compiled) -> Error {
    let table = &compiled.table;
    if table.effective == Mode::Differential {
        return Error::new(
            Kind::NotIncremental,
            format!("stream table {} reads no table", table.display_name()),
        )
        .detail("Its contents never change.");
    }
    let reason = table
        .downgrade_reason
        .clone()
        .unwrap_or_else(|| "its mode is FULL".into());
    Error::new(
        Kind::NotIncremental,
        format!(
            "stream table {} is not maintained incrementally: {reason}",
            table.display_name()
        ),
    )
}

fn delta_terms(unit: &Unit, dirty: &BTreeSet<SourceId>) -> Vec<String> {
    let Some(query) = &unit.query else {
        return vec![];
    };
    delta::below_root(&query.root, dirty)
        .into_iter()
        .map(|root| {
            Query {
                root,
                output: vec![],
            }
            .text()
        })
        .collect()
}

fn apply(unit: &Unit) -> String {
    let columns: Vec<String> = unit
        .layout
        .columns
        .iter()
        .map(|column| {
            format!(
                "  {} {} {:?}{}",
                column.name,
                column.ty.name,
                column.role,
                if column.visible { "" } else { " hidden" }
            )
        })
        .collect();
    format!(
        "{} identity {:?}\n{}\n",
        unit.target.table,
        unit.layout.identity,
        columns.join("\n")
    )
}

/// EXPLAIN of the delta statement, as a refresh would run it.
fn plan(
    table: &StreamTable,
    unit: &Unit,
    dirty: &BTreeSet<SourceId>,
    format: &str,
) -> OwnResult<Vec<String>> {
    let _scope = Scope::restricted(table.owner, &table.settings);
    unit.explain(dirty, 1_000, format)
}

#[pg_extern(sql = false)]
fn explain_delta(name: &str, format: &str) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    if !["text", "json", "xml", "yaml"].contains(&format.to_ascii_lowercase().as_str()) {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!("unknown format \"{format}\""),
        )
        .hint("Use text, json, xml or yaml.")
        .into());
    }
    let compiled = compiled(name)?;
    let mut lines = Vec::new();
    for unit in compiled.units.iter().filter(|unit| unit.query.is_some()) {
        let mut dirty: BTreeSet<SourceId> = unit.sources.keys().copied().collect();
        if dirty.is_empty() && unit.moves() {
            dirty.insert(CLOCK);
        }
        if dirty.is_empty() {
            continue;
        }
        lines.extend(plan(&compiled.table, unit, &dirty, format)?);
    }
    if lines.is_empty() {
        return Err(no_delta(&compiled).into());
    }
    Ok(SetOfIterator::new(lines))
}
