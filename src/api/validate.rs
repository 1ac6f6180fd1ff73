//! `validate_query`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgt_ivm::rel::{AggregateKind, Body, Rel, SetKind};

use crate::error::Error;
use crate::lifecycle;

type Finding = (String, String, Option<String>, Option<String>);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn validate_query(
    query: &str,
) -> Result<
    TableIterator<
        'static,
        (
            name!(node, String),
            name!(class, String),
            name!(reason, Option<String>),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let analysis = lifecycle::analyze_text(query)?;
    let findings = match analysis.query {
        Ok(query) => {
            let mut findings = Vec::new();
            describe(&query.root, &mut findings);
            findings
        }
        Err(refusal) => {
            vec![(
                "query".to_owned(),
                "full".to_owned(),
                Some(refusal.reason),
                Some(refusal.hint),
            )]
        }
    };
    Ok::<_, Error>(TableIterator::new(findings)).map_err(ErrorReport::from)
}

/// One line per operator, outermost first.
fn describe(rel: &Rel, findings: &mut Vec<Finding>) {
    let (node, class, reason) = match rel {
        Rel::Scan(_) => ("scan", "linear", None),
        Rel::Filter { .. } => ("filter", "linear", None),
        Rel::Moving { .. } => (
            "moving filter",
            "linear",
            Some("rows come and go as time passes".into()),
        ),
        Rel::Bounded { .. } => (
            "comparison with one row",
            "linear",
            Some("rows between its values before and after come and go".into()),
        ),
        Rel::Project { .. } => ("project", "linear", None),
        Rel::UnionAll { .. } => ("union all", "linear", None),
        Rel::Join { .. } => ("inner join", "bilinear", None),
        Rel::Unit => ("one row", "constant", None),
        Rel::Outer { full: false, .. } => ("left join", "counted", None),
        Rel::Outer { full: true, .. } => ("full join", "counted", None),
        Rel::Match { present: true, .. } => ("semi join", "counted", None),
        Rel::Match { present: false, .. } => ("anti join", "counted", None),
        Rel::Expand { .. } => ("function in FROM", "linear", None),
        Rel::ProjectSet { .. } => ("set-returning projection", "linear", None),
        // Only in deltas.
        Rel::JoinChange { .. } | Rel::InnerChange { .. } | Rel::Negate(_) => return,
        Rel::Partitioned { .. } if rel.recursion().is_some() => {
            ("recursive query", "semi-naive", None)
        }
        Rel::Partitioned { body, .. } => (
            match body {
                Body::Window { .. } => "window",
                Body::First { .. } => "distinct on",
                Body::Limit { .. } => "limit",
                Body::Opaque { .. } => "whole query",
                Body::SetOperation {
                    kind: SetKind::Intersect,
                    ..
                } => "intersect",
                Body::SetOperation {
                    kind: SetKind::Except,
                    ..
                } => "except",
            },
            "keyed",
            None,
        ),
        Rel::Aggregate { calls, .. } if calls.is_empty() => ("distinct", "algebraic", None),
        Rel::Aggregate { calls, .. } => {
            let recomputed: Vec<String> = calls
                .iter()
                .filter(|(_, call)| call.kind == AggregateKind::Recompute)
                .map(|(_, call)| call.call.ty.name.clone())
                .collect();
            if recomputed.is_empty() {
                ("aggregate", "algebraic", None)
            } else {
                (
                    "aggregate",
                    "recompute",
                    Some(format!(
                        "aggregates of type {} are evaluated again for each touched group",
                        recomputed.join(", ")
                    )),
                )
            }
        }
    };
    findings.push((node.to_owned(), class.to_owned(), reason, None));
    if let Some((recursion, _)) = rel.recursion() {
        describe(&recursion.base.rel, findings);
        describe(&recursion.step.rel, findings);
        return;
    }
    for input in rel.inputs() {
        describe(input, findings);
    }
}
