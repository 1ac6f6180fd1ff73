//! GROUP BY and aggregate calls.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use pgt_ivm::rel::{AggregateCall, AggregateKind, ColId, Rel, SumKind};
use pgt_ivm::scalar::{Piece, Scalar, Shape};

use super::build::{Writer, aggregate_of, bigint};
use super::context::call_over_nothing;
use super::query::{Analyzer, Known, Level, Result};
use super::subquery::tied;
use super::{NotIncremental, source};
use crate::pg::node::{self, AggregateNode, Expr, Fragment, Kind, Rte, Target};

impl Analyzer {
    /// The grouping of `input`. Afterwards the level knows the columns that group-level expressions may use: group
    /// expressions under the grouping's range-table entry, aggregates by their structure.
    pub(super) fn group<'q>(
        &mut self,
        mut input: Rel,
        targets: &[Target<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let mut calls = Vec::new();
        let mut found: Vec<Expr<'q>> = Vec::new();
        for expr in targets
            .iter()
            .map(|target| target.expr)
            .chain(level.query.having())
        {
            expr.find(&mut |part| {
                let known = |known: &Expr<'q>| {
                    known.equals(&part)
                        || known.call_within().is_some_and(|call| call.equals(&part))
                };
                if let Kind::Aggregate(_) = part.kind()
                    && !found.iter().any(known)
                {
                    found.push(part);
                }
                false
            });
        }
        let mut columns = Vec::new();
        let mut counted = Vec::new();
        for expr in found {
            let Kind::Aggregate(node) = expr.kind() else {
                continue;
            };
            let (call, scale) = self.call(expr, &node, level)?;
            counted.push(self.counted_once(&node, level)?);
            let id = self.column();
            columns.push((
                expr,
                Known {
                    id,
                    ty: call.call.ty.clone(),
                    nullable: call.call.nullable,
                    scale,
                },
            ));
            calls.push((id, call));
        }
        let mut keys = Vec::new();
        let mut known_keys = Vec::new();
        let group_range = level
            .range_table
            .iter()
            .position(|rte| matches!(rte, Rte::Group { .. }));
        if let Some(position) = group_range {
            let Rte::Group { expressions } = &level.range_table[position] else {
                unreachable!()
            };
            let expressions = expressions.clone();
            let expanded = self.expand(input, &expressions, level)?;
            input = expanded.0;
            for (number, expr) in expressions.into_iter().enumerate() {
                let set = expanded.1.iter().find(|(place, _)| *place == number);
                let (key, scale) = match set {
                    Some((_, key)) => (key.clone(), None),
                    None => self.scalar(expr, level)?,
                };
                if key.ty.equality.is_none() {
                    return Err(NotIncremental::new(
                        format!("type {} has no equality", key.ty.name),
                        "GROUP BY needs types that can be compared.",
                    ));
                }
                let id = self.column();
                let known = Known {
                    id,
                    ty: key.ty.clone(),
                    nullable: key.nullable,
                    scale,
                };
                known_keys.push(((position + 1, number as i16 + 1), known));
                keys.push((id, key));
            }
        }
        // Columns that depend functionally on the group keys may stand ungrouped: grouping by them too changes nothing.
        let ungrouped = self.ungrouped_columns(targets, level);
        for var in ungrouped {
            let Some(known) = level.known.get(&var).cloned() else {
                continue;
            };
            if let Some(Rte::Relation {
                relid,
                inherit: true,
                relkind,
                ..
            }) = level.range_table.get(var.0 - 1)
                && source::members(*relid, *relkind, true, self.reader)?.len() > 1
            {
                return Err(NotIncremental::new(
                    "a column is not grouped, and the key that decides it is not one of the inheritance children",
                    "Group by the column too.",
                ));
            }
            if known.ty.equality.is_none() {
                return Err(NotIncremental::new(
                    format!("ungrouped column of type {} has no equality", known.ty.name),
                    "Leave it out, or cast it to a type that can be compared.",
                ));
            }
            let id = self.column();
            keys.push((id, known.scalar()));
            known_keys.push((var, Known { id, ..known }));
        }
        let sets = level.query.grouping_sets();
        if !sets.is_empty() {
            level.computed = columns;
            return self.grouping_sets((input, keys, calls), known_keys, &sets, targets, level);
        }
        // What ties the sub-query to the query around it groups too.
        for (_, known) in &mut level.context {
            let id = self.column();
            keys.push((id, known.scalar()));
            known.id = id;
        }
        level.known.extend(known_keys);
        level.computed = columns;
        // HAVING alone makes one group of everything.
        if keys.is_empty() && calls.is_empty() {
            calls.push((self.column(), super::build::count_star()));
        }
        // Several counts of the same values are one.
        counted.dedup();
        if let [Some(value)] = counted.as_slice() {
            let ids = calls.iter().map(|(id, _)| *id).collect();
            return Ok(self.count_distinct(input, keys, value.clone(), ids));
        }
        Ok(Rel::Aggregate {
            input: Box::new(input),
            keys,
            calls,
        })
    }

    /// What a call counts if it is `count(DISTINCT value)`.
    fn counted_once<'q>(
        &mut self,
        node: &AggregateNode<'q>,
        level: &Level<'q, '_>,
    ) -> Result<Option<Scalar>> {
        let facts = node::function_facts(node.function);
        match node.arguments.as_slice() {
            [only]
                if node.distinct
                    && node.filter.is_none()
                    && facts.builtin
                    && facts.name == "count" =>
            {
                let value = self.scalar(*only, level)?.0;
                Ok(value.ty.equality.is_some().then_some(value))
            }
            _ => Ok(None),
        }
    }

    /// count(DISTINCT x) grouped by k over R = count(y) grouped by k over SELECT DISTINCT k, x AS y FROM R: a group has a
    /// row in the one exactly if it has one in the other, and each value is there once. What is distinct is a stage that
    /// knows how many rows have a value, so that a change of R costs itself; without it every group it touches would be
    /// evaluated again. `ids` are the columns of the counts, which are all the same.
    fn count_distinct(
        &mut self,
        input: Rel,
        keys: Vec<(ColId, Scalar)>,
        value: Scalar,
        ids: Vec<ColId>,
    ) -> Rel {
        let mut below = |value: &Scalar| (self.column(), value.clone());
        let mut distinct: Vec<(ColId, Scalar)> = keys.iter().map(|(_, key)| below(key)).collect();
        distinct.push(below(&value));
        let column =
            |(id, value): &(ColId, Scalar)| Scalar::column(*id, value.ty.clone(), value.nullable);
        let keys = keys
            .iter()
            .zip(&distinct)
            .map(|((id, _), key)| (*id, column(key)))
            .collect();
        let calls = distinct.last().into_iter().flat_map(|value| {
            let known = Known {
                id: value.0,
                ty: value.1.ty.clone(),
                nullable: value.1.nullable,
                scale: None,
            };
            ids.iter().map(move |id| {
                let count = AggregateKind::Count;
                (*id, aggregate_of("count", count, &known, bigint()))
            })
        });
        Rel::Aggregate {
            calls: calls.collect(),
            input: Box::new(Rel::Aggregate {
                input: Box::new(input),
                keys: distinct,
                calls: vec![],
            }),
            keys,
        }
    }

    /// The rows that the set-returning functions in `expressions` make of those of `input`, and the columns these
    /// expressions have become, by their places.
    #[allow(clippy::type_complexity)]
    fn expand<'q>(
        &mut self,
        input: Rel,
        expressions: &[Expr<'q>],
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<(usize, Scalar)>)> {
        let mut sets = Vec::new();
        let mut more = Vec::new();
        for (place, expr) in expressions.iter().enumerate() {
            if expr.returns_set() {
                let value = self.target(*expr, level)?.0;
                let id = self.column();
                sets.push((place, Scalar::column(id, value.ty.clone(), true)));
                more.push((id, value));
            }
        }
        if sets.is_empty() {
            return Ok((input, sets));
        }
        let columns = input
            .column_types()
            .into_iter()
            .map(|(id, (ty, nullable))| (id, Scalar::column(id, ty, nullable)))
            .chain(more)
            .collect();
        let input = Box::new(input);
        Ok((Rel::ProjectSet { input, columns }, sets))
    }

    /// GROUPING SETS: one grouping per set over a copy of the input, under UNION ALL. Keys that are not in a set are null,
    /// and GROUPING(..) is a constant of the set.
    #[allow(clippy::type_complexity)]
    fn grouping_sets<'q>(
        &mut self,
        (input, keys, calls): (Rel, Vec<(ColId, Scalar)>, Vec<(ColId, AggregateCall)>),
        known_keys: Vec<((usize, i16), Known)>,
        sets: &[Vec<u32>],
        targets: &[Target<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let references = level.query.group_references();
        let mut groupings: Vec<(Expr<'q>, Vec<u32>)> = Vec::new();
        for expr in targets
            .iter()
            .map(|target| target.expr)
            .chain(level.query.having())
        {
            expr.find(&mut |part| {
                if let Kind::Grouping(of) = part.kind()
                    && !groupings.iter().any(|(known, _)| known.equals(&part))
                {
                    groupings.push((part, of));
                }
                false
            });
        }
        let integer = node::describe_type(pg_sys::INT4OID, -1, pg_sys::InvalidOid);
        let mut inputs = Vec::new();
        for set in sets {
            let present = |position: usize| {
                // Columns that depend functionally on group keys depend on some in each set.
                references
                    .get(position)
                    .is_none_or(|reference| set.contains(reference))
            };
            let mut present_keys: Vec<(ColId, Scalar)> = keys
                .iter()
                .enumerate()
                .filter(|(position, _)| present(*position))
                .map(|(_, key)| key.clone())
                .collect();
            let empty = present_keys.is_empty();
            // What ties the sub-query to the query around it groups too.
            let mut context: Vec<Known> = Vec::new();
            for (_, known) in &level.context {
                let key = Known {
                    id: self.column(),
                    ..known.clone()
                };
                present_keys.push((key.id, known.scalar()));
                context.push(key);
            }
            let grouped = Rel::Aggregate {
                input: Box::new(input.clone()),
                keys: present_keys,
                calls: calls.clone(),
            };
            let (copy, renamed) = self.fresh(&grouped);
            let new = |id: &ColId| renamed.get(id).copied().unwrap_or(*id);
            for known in &mut context {
                known.id = new(&known.id);
            }
            let mut values: Vec<Scalar> = calls
                .iter()
                .map(|(id, call)| Scalar::column(new(id), call.call.ty.clone(), call.call.nullable))
                .collect();
            let mut copy = copy;
            if empty && !context.is_empty() {
                (copy, context, values) = self.over_everything(copy, &context, &values, level)?;
            }
            let mut columns = Vec::new();
            for (position, (id, key)) in keys.iter().enumerate() {
                let value = match renamed.get(id) {
                    Some(copied) if present(position) => {
                        Scalar::column(*copied, key.ty.clone(), key.nullable)
                    }
                    _ => Scalar::null(key.ty.clone()),
                };
                columns.push((self.column(), value));
            }
            for value in values {
                columns.push((self.column(), value));
            }
            for (_, of) in &groupings {
                let bits = of.iter().fold(0, |bits, reference| {
                    bits << 1 | i64::from(!set.contains(reference))
                });
                columns.push((
                    self.column(),
                    Scalar {
                        pieces: vec![Piece::Text(format!("({bits})::integer"))],
                        ty: integer.clone(),
                        nullable: false,
                        shape: Shape::Constant,
                    },
                ));
            }
            for known in &context {
                columns.push((self.column(), known.scalar()));
            }
            let from = columns.iter().map(|(id, _)| *id).collect();
            inputs.push((
                Rel::Project {
                    input: Box::new(copy),
                    columns,
                },
                from,
            ));
        }
        let mut columns = Vec::new();
        for (_, known) in known_keys.iter() {
            columns.push((self.column(), known.ty.clone()));
        }
        for (_, known) in level.computed.iter_mut() {
            known.id = self.column();
            columns.push((known.id, known.ty.clone()));
        }
        for ((place, known), (id, _)) in known_keys.into_iter().zip(&columns) {
            let known = Known {
                id: *id,
                nullable: true,
                ..known
            };
            level.known.insert(place, known);
        }
        for (expr, _) in groupings {
            let known = Known {
                id: self.column(),
                ty: integer.clone(),
                nullable: false,
                scale: Some(0),
            };
            columns.push((known.id, known.ty.clone()));
            level.computed.push((expr, known));
        }
        for (_, known) in &mut level.context {
            known.id = self.column();
            columns.push((known.id, known.ty.clone()));
        }
        Ok(Rel::UnionAll { inputs, columns })
    }

    /// The grouping `rel` by the context alone, which has a row for each set of its values, also where nothing is grouped.
    fn over_everything<'q>(
        &mut self,
        rel: Rel,
        context: &[Known],
        calls: &[Scalar],
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<Known>, Vec<Scalar>)> {
        let Some(around) = &level.around else {
            return Err(NotIncremental::new(
                "GROUPING SETS tied to a query further out",
                "The stream table is refreshed fully.",
            ));
        };
        let (domain, own) = self.domain(&around.rel, &around.columns)?;
        let own: Vec<Known> = own.into_iter().map(|(_, known)| known).collect();
        let on = tied(&own, context)?;
        let (right, there) = self.mark(rel);
        let joined = Rel::Outer {
            left: Box::new(domain),
            right: Box::new(right),
            full: false,
            on,
        };
        let mut values = Vec::new();
        for ((expr, known), value) in level.computed.iter().zip(calls) {
            let nothing = call_over_nothing(expr, known)?;
            values.push(
                Writer::default()
                    .text("CASE WHEN ")
                    .column(there)
                    .text(" IS NULL THEN ")
                    .parts(nothing)
                    .text(" ELSE ")
                    .bare(value)
                    .text(" END")
                    .value(value.ty.clone(), value.nullable),
            );
        }
        Ok((joined, own, values))
    }

    /// Columns of the input that group-level expressions use outside aggregates.
    fn ungrouped_columns<'q>(
        &self,
        targets: &[Target<'q>],
        level: &Level<'q, '_>,
    ) -> Vec<(usize, i16)> {
        let mut found = Vec::new();
        for expr in targets
            .iter()
            .map(|target| target.expr)
            .chain(level.query.having())
        {
            expr.vars_outside_aggregates(&mut |var| {
                let grouped = matches!(
                    level.range_table.get(var.range - 1),
                    Some(Rte::Group { .. })
                );
                if var.levels_up == 0 && !grouped && !found.contains(&(var.range, var.attnum)) {
                    found.push((var.range, var.attnum));
                }
            });
        }
        found
    }

    /// An aggregate call over the level's input, and the scale of its value.
    fn call<'q>(
        &mut self,
        expr: Expr<'q>,
        node: &AggregateNode<'q>,
        level: &Level<'q, '_>,
    ) -> Result<(AggregateCall, Option<i32>)> {
        if node.levels_up > 0 {
            return Err(NotIncremental::new(
                "an aggregate of an outer query",
                "Rewrite it as a join.",
            ));
        }
        let mut first = true;
        let mut texts = BTreeMap::new();
        let fragments = expr.deparse(&mut |part| {
            if std::mem::take(&mut first) {
                return Ok(None);
            }
            match part.kind() {
                Kind::Clock => Err(super::scalar::clock_misplaced()),
                Kind::Var(var) => level.hole(var, &mut texts),
                Kind::Wordless { what, hint } => Err(NotIncremental::new(what, hint)),
                Kind::Sublink(_) => level
                    .computed(&part)
                    .map(|known| Some(known.id.0))
                    .ok_or_else(|| {
                        NotIncremental::new(
                            "a sub-query inside an aggregate is not incremental yet",
                            "Compute it in a sub-query in FROM.",
                        )
                    }),
                _ => Ok(None),
            }
        })?;
        let pieces = fragments
            .into_iter()
            .flat_map(|fragment| match fragment {
                Fragment::Text(text) => vec![Piece::Text(text)],
                Fragment::Hole(number) => super::scalar::column(number, &texts),
            })
            .collect();
        let (oid, modifier, collation) = expr.type_of();
        let facts = node::function_facts(node.function);
        let counts = facts.builtin && facts.name == "count";
        let whole = Scalar {
            pieces,
            ty: node::describe_type(oid, modifier, collation),
            nullable: !counts,
            shape: Shape::Opaque,
        };
        if facts.builtin && node::order_dependent(&facts.name) && !node.ordered {
            return Err(NotIncremental::new(
                format!(
                    "the result of {} depends on the order of its input",
                    facts.name
                ),
                "Write ORDER BY inside the aggregate call.",
            ));
        }
        let filter = match node.filter {
            Some(filter) => Some(self.scalar(filter, level)?.0),
            None => None,
        };
        let (argument, scale) = match node.arguments.as_slice() {
            [only] if node.plain => {
                let (scalar, scale) = self.scalar(*only, level)?;
                (Some(scalar), scale)
            }
            _ => (None, None),
        };
        let input_type = node
            .arguments
            .first()
            .map_or(pg_sys::InvalidOid, |argument| {
                node::base_type(argument.type_of().0)
            });
        let kind = if !facts.builtin || !node.plain {
            AggregateKind::Recompute
        } else {
            classify(&facts.name, node.star, input_type, scale, &argument)
        };
        let result_scale = match kind {
            AggregateKind::Sum(SumKind::FixedNumeric(scale)) => Some(i32::from(scale)),
            AggregateKind::Sum(SumKind::BigInteger) => Some(0),
            _ => None,
        };
        let argument = if kind == AggregateKind::Recompute {
            None
        } else {
            argument
        };
        Ok((
            AggregateCall {
                kind,
                argument,
                filter,
                call: whole,
            },
            result_scale,
        ))
    }
}

fn classify(
    name: &str,
    star: bool,
    input: pg_sys::Oid,
    scale: Option<i32>,
    argument: &Option<Scalar>,
) -> AggregateKind {
    let sum_kind = match input {
        pg_sys::INT2OID | pg_sys::INT4OID => Some(SumKind::Integer),
        pg_sys::INT8OID => Some(SumKind::BigInteger),
        pg_sys::NUMERICOID => Some(
            scale
                .and_then(|scale| u16::try_from(scale).ok())
                .map_or(SumKind::FreeNumeric, SumKind::FixedNumeric),
        ),
        pg_sys::MONEYOID => Some(SumKind::Money),
        _ => None,
    };
    let ordered = argument
        .as_ref()
        .is_some_and(|argument| argument.ty.equality.is_some());
    match (name, sum_kind) {
        ("count", _) if star => AggregateKind::CountStar,
        ("count", _) => AggregateKind::Count,
        ("sum", Some(kind)) => AggregateKind::Sum(kind),
        ("avg", Some(kind)) if kind != SumKind::Money => AggregateKind::Avg(kind),
        ("min", _) if ordered => AggregateKind::Min,
        ("max", _) if ordered => AggregateKind::Max,
        _ => AggregateKind::Recompute,
    }
}
