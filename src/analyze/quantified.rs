//! `x op ANY (..)` and `x op ALL (..)` as values: by equality with the values of the sub-select or by their extrema, and
//! where neither will do by comparing them with every value of `x`.

use std::collections::BTreeMap;

use pgt_ivm::facts;
use pgt_ivm::rel::{AggregateKind, ColId, Rel};
use pgt_ivm::scalar::{Scalar, Shape, Type};

use super::NotIncremental;
use super::build::{Writer, aggregate_of, bigint, boolean, count_star, same};
use super::condition::tested;
use super::context::{image_of, is_shown, or_over_nothing};
use super::from::combine;
use super::query::{Analyzer, Answer, Known, Level, Result};
use crate::pg::node::{self, Expr, Kind, SublinkKind, SublinkNode};

impl Analyzer {
    /// `x op ANY (..)` or `x op ALL (..)`, with SQL's three values.
    pub(super) fn quantified<'q>(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        expr: Expr<'q>,
        link: &SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        let unknown = || {
            NotIncremental::new(
                "a sub-query is compared in a way that is not incremental yet",
                "Write it with EXISTS.",
            )
        };
        let Some(test) = link.test else {
            return Err(unknown());
        };
        if let Some(empty) = answer.empty.clone()
            && !outer.is_empty()
        {
            return self.compared_with_one(rel, outer, answer, &empty, (test, link.kind), level);
        }
        if let Kind::And(parts) = test.kind()
            && let Some(pairs) = self.never_null(&answer, parts, level)?
        {
            return self.row_in(rel, outer, answer, pairs);
        }
        let Kind::Operator {
            operator,
            arguments,
        } = test.kind()
        else {
            return self.compared(rel, outer, answer, test, link, level);
        };
        let ([left, right], [column]) = (arguments.as_slice(), answer.produced.as_slice()) else {
            return self.compared(rel, outer, answer, test, link, level);
        };
        let mut column = column.known.clone();
        let mut answer = answer;
        if !matches!(right.strip_equal_relabel().kind(), Kind::SublinkColumn(_)) {
            // The column is converted before it is compared.
            level.sublink_columns = vec![column];
            let converted = self.scalar(*right, level);
            level.sublink_columns.clear();
            // An implicit conversion is not printed.
            let converted = converted?.0;
            let cast = format!("::{}", converted.ty.name);
            let (ty, nullable) = (converted.ty.clone(), converted.nullable);
            let converted = Writer::default()
                .scalar(&converted)
                .text(&cast)
                .value(ty, nullable);
            let (rel, known) = self.add(answer.rel, converted);
            answer.rel = rel;
            column = known;
        }
        let (name, facts, equality) =
            node::operator_facts(operator, left.type_of().0, right.type_of().0);
        let negated = node::negated_equality(operator, left.type_of().0, right.type_of().0);
        let any = link.kind == SublinkKind::Any;
        let x = self.scalar(*left, level)?.0;
        let distinct = match (any, equality, negated) {
            (true, true, _) => Some(true),
            (false, _, true) => Some(false),
            _ => None,
        };
        let null_matters = x.nullable || column.nullable;
        let (rows, values, extremum) = (self.column(), self.column(), self.column());
        if let Some(positive) = distinct {
            let Some(equal) = x.ty.equality.clone() else {
                return Err(unknown());
            };
            let second = null_matters.then(|| self.fresh(&answer.rel));
            let (right, keys) = self.grouped(
                answer.rel,
                &answer.context,
                std::slice::from_ref(&column),
                vec![],
            );
            let (right, there) = self.mark(right);
            let Some((key, context)) = keys.split_last() else {
                return Err(unknown());
            };
            let meets = Scalar {
                pieces: Writer::default()
                    .scalar(&x)
                    .text(&format!(" OPERATOR({equal}) "))
                    .column(key.id)
                    .pieces(),
                ty: boolean(),
                nullable: true,
                shape: x
                    .as_column()
                    .map_or(Shape::Opaque, |id| Shape::Equal(id, key.id)),
            };
            let mut joined = self.beside(rel, outer, right, context, vec![meets])?;
            let mut found = Writer::default();
            if let Some((copy, renamed)) = second {
                let of = |known: &Known| Known {
                    id: renamed.get(&known.id).copied().unwrap_or(known.id),
                    ..known.clone()
                };
                let context: Vec<Known> = answer.context.iter().map(of).collect();
                let calls = vec![
                    (rows, count_star()),
                    (
                        values,
                        aggregate_of("count", AggregateKind::Count, &of(&column), bigint()),
                    ),
                ];
                let (right, keys) = self.grouped(copy, &context, &[], calls);
                joined = self.beside(joined, outer, right, &keys, vec![])?;
                found = found
                    .text("CASE WHEN ")
                    .column(there)
                    .text(" IS NOT NULL THEN true WHEN COALESCE(")
                    .column(rows)
                    .text(", 0) = 0 THEN false WHEN ")
                    .scalar(&x)
                    .text(" IS NOT DISTINCT FROM NULL OR ")
                    .column(rows)
                    .text(" <> ")
                    .column(values)
                    .text(" THEN NULL ELSE false END");
            } else {
                found = found.column(there).text(" IS NOT NULL");
            }
            let found = found.value(boolean(), null_matters);
            let value = if positive {
                found
            } else {
                Writer::default()
                    .text("NOT ")
                    .scalar(&found)
                    .value(boolean(), null_matters)
            };
            return Ok(self.add(joined, value));
        }
        // x <> ANY: one of the extrema differs; x = ALL: none does.
        let differs = matches!((any, name.as_str()), (true, "<>") | (false, "="));
        // x < ANY: less than the greatest; x < ALL: less than the least; and the other way round.
        let greatest = match name.as_str() {
            "<" | "<=" => Some(any),
            ">" | ">=" => Some(!any),
            _ => differs.then_some(true),
        };
        let ordered = facts.builtin && node::has_extrema(right.type_of().0);
        let Some(greatest) = greatest.filter(|_| ordered) else {
            return self.compared(rel, outer, answer, test, link, level);
        };
        let (function, kind) = if greatest {
            ("max", AggregateKind::Max)
        } else {
            ("min", AggregateKind::Min)
        };
        // The aggregate's result has the type that is compared: text for a varchar, the type under a domain.
        let (oid, modifier, collation) = right.type_of();
        let ty = node::describe_type(oid, modifier, collation);
        let least = self.column();
        let mut calls = vec![
            (rows, count_star()),
            (
                values,
                aggregate_of("count", AggregateKind::Count, &column, bigint()),
            ),
            (extremum, aggregate_of(function, kind, &column, ty.clone())),
        ];
        if differs {
            let call = aggregate_of("min", AggregateKind::Min, &column, ty.clone());
            calls.push((least, call));
        }
        let (right, keys) = self.grouped(answer.rel, &answer.context, &[], calls);
        let joined = self.beside(rel, outer, right, &keys, vec![])?;
        let mut compared = Writer::default()
            .scalar(&x)
            .text(&format!(" OPERATOR(pg_catalog.{name}) "))
            .column(extremum);
        if differs {
            compared = compared
                .text(if any { " OR " } else { " AND " })
                .scalar(&x)
                .text(&format!(" OPERATOR(pg_catalog.{name}) "))
                .column(least);
        }
        let compared = compared.value(boolean(), true);
        let decided = Writer::default();
        let decided = if any {
            decided
                .text("CASE WHEN COALESCE(")
                .column(rows)
                .text(", 0) = 0 THEN false WHEN ")
                .scalar(&compared)
                .text(" THEN true WHEN ")
        } else {
            decided
                .text("CASE WHEN COALESCE(")
                .column(rows)
                .text(", 0) = 0 THEN true WHEN NOT ")
                .scalar(&compared)
                .text(" THEN false WHEN ")
        };
        let value = decided
            .scalar(&x)
            .text(" IS NOT DISTINCT FROM NULL OR ")
            .column(rows)
            .text(" <> ")
            .column(values)
            .text(if any {
                " THEN NULL ELSE false END"
            } else {
                " THEN NULL ELSE true END"
            })
            .value(node_type(&expr), true);
        Ok(self.add(joined, value))
    }

    /// A comparison with the one row there always is, unless HAVING hides it.
    fn compared_with_one<'q>(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        empty: &[Scalar],
        (test, kind): (Expr<'q>, SublinkKind),
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        let (right, there) = self.mark(answer.rel);
        let joined = self.beside(rel, outer, right, &answer.context, vec![])?;
        let columns: Vec<Known> = answer
            .produced
            .iter()
            .map(|column| column.known.clone())
            .collect();
        let values = columns
            .iter()
            .zip(empty)
            .map(|(column, empty)| or_over_nothing(there, column, empty, None))
            .collect();
        let (joined, columns) = self.add_each(joined, &columns, values);
        level.sublink_columns = columns;
        let test = self.scalar(test, level);
        level.sublink_columns.clear();
        let test = test?.0;
        let value = match &answer.shown {
            None => test,
            Some((shown, over_nothing)) => Writer::default()
                .text("CASE WHEN ")
                .parts(is_shown(there, shown, over_nothing).pieces())
                .text(" THEN ")
                .scalar(&test)
                .text(match kind {
                    SublinkKind::All => " ELSE true END",
                    _ => " ELSE false END",
                })
                .value(boolean(), true),
        };
        Ok(self.add(joined, value))
    }

    /// The sides of the comparisons of `(x, y) IN (..)`, if they are equalities of values that cannot be null.
    fn never_null<'q>(
        &mut self,
        answer: &Answer,
        parts: Vec<Expr<'q>>,
        level: &Level<'q, '_>,
    ) -> Result<Option<Vec<(Scalar, usize)>>> {
        let mut pairs = Vec::new();
        for part in parts {
            let Kind::Operator {
                operator,
                arguments,
            } = part.kind()
            else {
                return Ok(None);
            };
            let [left, right] = arguments.as_slice() else {
                return Ok(None);
            };
            let (_, _, equality) =
                node::operator_facts(operator, left.type_of().0, right.type_of().0);
            let Kind::SublinkColumn(number) = right.strip_equal_relabel().kind() else {
                return Ok(None);
            };
            let place = number as usize - 1;
            let x = self.scalar(*left, level)?.0;
            let nullable = answer
                .produced
                .get(place)
                .is_none_or(|column| column.known.nullable);
            if !equality || x.ty.equality.is_none() || x.nullable || nullable {
                return Ok(None);
            }
            pairs.push((x, place));
        }
        Ok(Some(pairs))
    }

    /// `(x, y) IN (..)` over values that cannot be null.
    fn row_in(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        pairs: Vec<(Scalar, usize)>,
    ) -> Result<(Rel, Known)> {
        let columns: Vec<Known> = answer
            .produced
            .iter()
            .map(|column| column.known.clone())
            .collect();
        let (right, keys) = self.grouped(answer.rel, &answer.context, &columns, vec![]);
        let (right, there) = self.mark(right);
        let (context, keys) = keys.split_at(answer.context.len());
        let mut meets = Vec::new();
        for (x, place) in pairs {
            let key = &keys[place];
            let equal = x.ty.equality.clone().unwrap_or_default();
            meets.push(Scalar {
                shape: x
                    .as_column()
                    .map_or(Shape::Opaque, |id| Shape::Equal(id, key.id)),
                pieces: Writer::default()
                    .scalar(&x)
                    .text(&format!(" OPERATOR({equal}) "))
                    .column(key.id)
                    .pieces(),
                ty: boolean(),
                nullable: false,
            });
        }
        let joined = self.beside(rel, outer, right, context, meets)?;
        let value = Writer::default()
            .column(there)
            .text(" IS NOT NULL")
            .value(boolean(), false);
        Ok(self.add(joined, value))
    }

    /// Any comparison with a sub-select: each set of values that it compares is joined with the rows of the sub-select
    /// that decide it or leave it open.
    fn compared<'q>(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        test: Expr<'q>,
        link: &SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        level.sublink_columns = answer
            .produced
            .iter()
            .map(|column| column.known.clone())
            .collect();
        let compared = self.scalar(test, level);
        level.sublink_columns.clear();
        let compared = compared?.0;
        // Equal values that look different are told apart where the comparison looks into them.
        let mut rel = rel;
        let mut images = Vec::new();
        for var in test.references() {
            let known = level.known(var)?.clone();
            if var.levels_up == 0
                && !known.ty.bitwise
                && known.ty.equality.is_some()
                && test.looks_into(var)
            {
                let (with, image) = self.add(rel, image_of(&known));
                rel = with;
                images.push(image);
            }
        }
        let test = compared;
        let mut around: Vec<Known> = outer.iter().cloned().chain(images).collect();
        let types = rel.column_types();
        for id in test.columns() {
            if let Some((ty, nullable)) = types.get(&id)
                && !around.iter().any(|known| known.id == id)
            {
                around.push(Known {
                    id,
                    ty: ty.clone(),
                    nullable: *nullable,
                    scale: None,
                });
            }
        }
        let wanted = around.iter().map(|known| known.id).collect();
        let (copy, renamed) = self.fresh(&facts::picked(&rel, &wanted));
        let copied: Vec<Known> = around
            .iter()
            .map(|known| Known {
                id: renamed.get(&known.id).copied().unwrap_or(known.id),
                ..known.clone()
            })
            .collect();
        let mut inputs = vec![answer.rel];
        let mut keys = vec![];
        if !around.is_empty() {
            let (domain, of_domain) = self.grouped(copy, &copied, &[], vec![]);
            inputs.insert(0, domain);
            keys = of_domain;
        }
        let stands: BTreeMap<ColId, ColId> = around
            .iter()
            .zip(&keys)
            .map(|(known, key)| (known.id, key.id))
            .collect();
        let test = test.rename(&mut |id| stands.get(&id).copied().unwrap_or(id));
        let mut on = Vec::new();
        for (mine, theirs) in keys.iter().zip(&answer.context) {
            on.extend(same(mine, theirs)?);
        }
        // What decides: a comparison that holds for ANY, one that fails for ALL.
        let any = link.kind == SublinkKind::Any;
        let (decides, matters) = if any {
            ("IS TRUE", "IS NOT FALSE")
        } else {
            ("IS FALSE", "IS NOT TRUE")
        };
        on.push(tested(test.clone(), matters));
        let deciding = Writer::default()
            .text("CASE WHEN ")
            .scalar(&tested(test, decides))
            .text(" THEN true END")
            .value(boolean(), true);
        let (joined, deciding) = self.add(combine(inputs, on), deciding);
        let (rows, decided) = (self.column(), self.column());
        let calls = vec![
            (rows, count_star()),
            (
                decided,
                aggregate_of("count", AggregateKind::Count, &deciding, bigint()),
            ),
        ];
        let (right, keys) = self.grouped(joined, &keys, &[], calls);
        let joined = self.beside(rel, &around, right, &keys, vec![])?;
        let (open, found) = if any {
            ("false", "true")
        } else {
            ("true", "false")
        };
        let value = Writer::default()
            .text("CASE WHEN COALESCE(")
            .column(rows)
            .text(&format!(", 0) = 0 THEN {open} WHEN "))
            .column(decided)
            .text(&format!(" > 0 THEN {found} END"))
            .value(boolean(), true);
        Ok(self.add(joined, value))
    }
}

pub(super) fn node_type(expr: &Expr<'_>) -> Type {
    let (oid, modifier, collation) = expr.type_of();
    node::describe_type(oid, modifier, collation)
}
