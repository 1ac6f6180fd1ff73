//! Window function calls.

use std::collections::BTreeSet;

use pgt_ivm::rel::{Body, ColId, OpenCall, Rel};
use pgt_ivm::scalar::{Piece, Scalar};

use super::NotIncremental;
use super::build::{Writer, boolean};
use super::query::{Analyzer, Known, Level, Result};
use crate::pg::node::{self, Expr, Kind, Target, Window, WindowNode};

impl Analyzer {
    /// The window function calls of the select list as columns beside `rel`. Rows that share the values of every
    /// PARTITION BY depend on each other and on nothing else.
    pub(super) fn windows<'q>(
        &mut self,
        rel: Rel,
        targets: &[Target<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let mut found: Vec<(Expr<'q>, WindowNode<'q>)> = Vec::new();
        for target in targets {
            target.expr.find(&mut |part| {
                if let Kind::Window(node) = part.kind()
                    && !found.iter().any(|(known, _)| known.equals(&part))
                {
                    found.push((part, node));
                }
                false
            });
        }
        let windows = level.query.windows();
        let window_of = |node: &WindowNode<'q>| {
            windows
                .iter()
                .find(|window| window.number == node.window)
                .ok_or_else(|| {
                    NotIncremental::new("an OVER clause is missing", "Please report the query.")
                })
        };
        let mut common: Option<BTreeSet<u32>> = None;
        for (_, node) in &found {
            let own: BTreeSet<u32> = window_of(node)?.partition.iter().copied().collect();
            common = Some(match common {
                None => own,
                Some(common) => common.intersection(&own).copied().collect(),
            });
        }
        let (mut columns, mut open) = (Vec::new(), Vec::new());
        let mut known_calls = Vec::new();
        for (expr, node) in &found {
            let window = window_of(node)?;
            let over = self.over(window, targets, level)?;
            let call = self.window_call(expr, node, window, &over, level)?;
            let id = self.column();
            if let Some(reason) = self.left_open(&rel, node, window, targets, level)?
                && self.leave_open(reason, !window.order.is_empty())
            {
                open.push(OpenCall {
                    column: id,
                    over,
                    is_number: is_row_number(node),
                });
            }
            known_calls.push((
                *expr,
                Known {
                    id,
                    ty: call.ty.clone(),
                    nullable: call.nullable,
                    scale: None,
                },
            ));
            columns.push((id, call));
        }
        let mut keys: Vec<Scalar> = level.context_keys();
        for reference in common.unwrap_or_default() {
            keys.push(self.referenced(reference, targets, level)?);
        }
        level.computed.extend(known_calls);
        Ok(self.partitioned(rel, keys, Body::Window { columns, open }))
    }

    /// The expression a clause refers to by its number in the select list.
    pub(super) fn referenced<'q>(
        &mut self,
        reference: u32,
        targets: &[Target<'q>],
        level: &Level<'q, '_>,
    ) -> Result<Scalar> {
        let target = targets
            .iter()
            .find(|target| target.reference == reference)
            .ok_or_else(|| {
                NotIncremental::new(
                    "a clause refers to no column of the select list",
                    "Please report the query.",
                )
            })?;
        Ok(self.scalar(target.expr, level)?.0)
    }

    /// `PARTITION BY .. ORDER BY ..`
    fn over<'q>(
        &mut self,
        window: &Window<'q>,
        targets: &[Target<'q>],
        level: &Level<'q, '_>,
    ) -> Result<Scalar> {
        let mut text = Writer::default();
        let mut separator = "PARTITION BY ";
        for key in &level.context_keys() {
            text = text.text(separator).scalar(key);
            separator = ", ";
        }
        for reference in &window.partition {
            let key = self.referenced(*reference, targets, level)?;
            text = text.text(separator).typed(&key);
            separator = ", ";
        }
        let mut separator = " ORDER BY ";
        for item in &window.order {
            let key = self.referenced(item.reference, targets, level)?;
            let nulls = if item.nulls_first { "FIRST" } else { "LAST" };
            text = text
                .text(separator)
                .typed(&key)
                .text(&format!(" USING OPERATOR({}) NULLS {nulls}", item.using));
            separator = ", ";
        }
        Ok(text.value(boolean(), true))
    }

    fn window_call<'q>(
        &mut self,
        expr: &Expr<'q>,
        node: &WindowNode<'q>,
        window: &Window<'q>,
        over: &Scalar,
        level: &Level<'q, '_>,
    ) -> Result<Scalar> {
        if node.variadic {
            return Err(NotIncremental::new(
                "a window function with a variable number of arguments",
                "The stream table is refreshed fully.",
            ));
        }
        let mut text = Writer::default().text(&node.name).text("(");
        if node.star {
            text = text.text("*");
        }
        for (position, argument) in node.arguments.iter().enumerate() {
            if position > 0 {
                text = text.text(", ");
            }
            text = text.bare(&self.scalar(*argument, level)?.0);
        }
        text = text.text(")");
        if let Some(filter) = node.filter {
            text = text
                .text(" FILTER (WHERE ")
                .bare(&self.scalar(filter, level)?.0)
                .text(")");
        }
        text = text.text(" OVER (").bare(over);
        let offset = |value: Option<Expr<'q>>, analyzer: &mut Self| -> Result<String> {
            let Some(value) = value else {
                return Ok(String::new());
            };
            let scalar = analyzer.scalar(value, level)?.0;
            // The offsets of a frame contain no columns.
            Ok(format!(
                "({})",
                scalar
                    .pieces
                    .iter()
                    .map(|piece| match piece {
                        Piece::Text(text) => text.as_str(),
                        // Frame offsets have no columns, and the clock is refused there.
                        Piece::Column(_) | Piece::Clock(_) => "NULL",
                    })
                    .collect::<String>()
            ))
        };
        let (start, end) = (
            offset(window.frame.start, self)?,
            offset(window.frame.end, self)?,
        );
        text = text
            .text(" ")
            .text(&window.frame.text(&start, &end))
            .text(")");
        let (oid, modifier, collation) = expr.type_of();
        let facts = node::function_facts(node.function);
        let never_null = facts.builtin
            && matches!(
                facts.name.as_str(),
                "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist" | "count"
            );
        Ok(text.value(node::describe_type(oid, modifier, collation), !never_null))
    }

    /// Why rows that are equal under the ORDER BY can get different values depending on which comes first, if they can.
    fn left_open<'q>(
        &mut self,
        rel: &Rel,
        node: &WindowNode<'q>,
        window: &Window<'q>,
        targets: &[Target<'q>],
        level: &Level<'q, '_>,
    ) -> Result<Option<String>> {
        let facts = node::function_facts(node.function);
        let by_value = match (facts.builtin, node.aggregate, facts.name.as_str()) {
            (true, false, "rank" | "dense_rank" | "percent_rank" | "cume_dist") => true,
            (true, false, "first_value" | "last_value" | "nth_value") => false,
            (_, true, name) => {
                window.frame.is_by_value() && !(facts.builtin && node::order_dependent(name))
            }
            _ => false,
        };
        if by_value {
            return Ok(None);
        }
        let mut sorted = Vec::new();
        for reference in window
            .partition
            .iter()
            .copied()
            .chain(window.order.iter().map(|item| item.reference))
        {
            sorted.push(self.referenced(reference, targets, level)?);
        }
        sorted.extend(level.context_keys());
        let mut wanted: BTreeSet<ColId> = BTreeSet::new();
        for target in targets.iter().filter(|target| !target.junk) {
            target.expr.find(&mut |part| {
                if let Kind::Var(var) = part.kind()
                    && let Ok(known) = level.known(var)
                {
                    wanted.insert(known.id);
                }
                if let Some((_, known)) = level.computed.iter().find(|(call, _)| call.equals(&part))
                {
                    wanted.insert(known.id);
                }
                false
            });
        }
        let available = rel.columns();
        wanted.retain(|id| available.contains(id));
        let what = format!("{}()", facts.name);
        Ok(super::order::ties(rel, &sorted, &wanted, &what))
    }
}

fn is_row_number(node: &WindowNode<'_>) -> bool {
    let facts = node::function_facts(node.function);
    facts.builtin && !node.aggregate && facts.name == "row_number"
}
