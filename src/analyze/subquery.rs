//! Sub-selects in expressions. Each becomes a column: the sub-select, grouped by what ties it to the query around it, is
//! joined with the rows that use it.
//!
//! What ties it is either an equality with a column of its own, which then stands for the outer one, or, in general, the
//! set of values the outer rows have, joined into the sub-select.

use std::collections::BTreeMap;

use pgt_ivm::facts;
use pgt_ivm::rel::{AggregateCall, AggregateKind, ColId, Rel};
use pgt_ivm::scalar::{Piece, Scalar, Shape, Type};

use super::NotIncremental;
use super::from::combine;
use super::query::{Analyzer, Answer, Context, Known, Level, Produced, Result};
use crate::pg::node::{self, Expr, Kind, Query, SublinkKind, SublinkNode, VarRef};

fn refuse<T>(reason: &str, hint: &str) -> Result<T> {
    Err(NotIncremental::new(reason, hint))
}

/// What is asked of a sub-query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Rows,
    OrderedRows,
    Existence,
}

/// Text with columns in it.
#[derive(Default)]
pub(super) struct Writer {
    pieces: Vec<Piece>,
}

impl Writer {
    pub(super) fn text(mut self, text: &str) -> Self {
        self.pieces.push(Piece::Text(text.to_owned()));
        self
    }

    pub(super) fn column(mut self, id: ColId) -> Self {
        self.pieces.push(Piece::Column(id));
        self
    }

    /// An expression in parentheses.
    pub(super) fn scalar(mut self, scalar: &Scalar) -> Self {
        self.pieces.push(Piece::Text("(".into()));
        self.pieces.extend(scalar.pieces.iter().cloned());
        self.pieces.push(Piece::Text(")".into()));
        self
    }

    /// An expression that is never taken for a position in the select list.
    pub(super) fn typed(self, scalar: &Scalar) -> Self {
        let ty = format!("::{}", scalar.ty.name);
        match scalar.as_column() {
            Some(_) => self.scalar(scalar),
            None => self.scalar(scalar).text(&ty),
        }
    }

    /// An expression as it is.
    pub(super) fn bare(mut self, scalar: &Scalar) -> Self {
        self.pieces.extend(scalar.pieces.iter().cloned());
        self
    }

    pub(super) fn parts(mut self, pieces: Vec<Piece>) -> Self {
        self.pieces.extend(pieces);
        self
    }

    pub(super) fn pieces(self) -> Vec<Piece> {
        self.pieces
    }

    pub(super) fn value(self, ty: Type, nullable: bool) -> Scalar {
        Scalar {
            pieces: self.pieces,
            ty,
            nullable,
            shape: Shape::Opaque,
        }
    }
}

pub(super) fn boolean() -> Type {
    builtin("boolean")
}

pub(super) fn bigint() -> Type {
    builtin("bigint")
}

fn builtin(name: &str) -> Type {
    Type {
        name: name.into(),
        collation: None,
        equality: Some("pg_catalog.=".into()),
        hashable: true,
        bitwise: true,
    }
}

fn column_of(known: &Known) -> Scalar {
    Scalar::column(known.id, known.ty.clone(), known.nullable)
}

pub(super) fn count_star() -> AggregateCall {
    AggregateCall {
        kind: AggregateKind::CountStar,
        argument: None,
        filter: None,
        call: Writer::default()
            .text("pg_catalog.count(*)")
            .value(bigint(), false),
    }
}

fn aggregate_of(name: &str, kind: AggregateKind, argument: &Known, ty: Type) -> AggregateCall {
    let value = column_of(argument);
    AggregateCall {
        call: Writer::default()
            .text(&format!("pg_catalog.{name}"))
            .scalar(&value)
            .value(ty, kind != AggregateKind::Count),
        argument: (kind != AggregateKind::Recompute).then_some(value),
        kind,
        filter: None,
    }
}

/// `a = b`, or both null where that can be.
pub(super) fn same(a: &Known, b: &Known) -> Result<Vec<Scalar>> {
    let Some(equality) = a.ty.equality.clone() else {
        return refuse(
            &format!(
                "a sub-query is tied to its surroundings by type {}, which has no equality",
                a.ty.name
            ),
            "Cast it to a type that can be compared.",
        );
    };
    if !(a.nullable && b.nullable) {
        return Ok(vec![Scalar {
            pieces: Writer::default()
                .column(a.id)
                .text(&format!(" OPERATOR({equality}) "))
                .column(b.id)
                .pieces(),
            ty: boolean(),
            nullable: a.nullable || b.nullable,
            shape: Shape::Equal(a.id, b.id),
        }]);
    }
    let confirmed = Writer::default()
        .column(a.id)
        .text(" IS NOT DISTINCT FROM ")
        .column(b.id)
        .value(boolean(), false);
    if !a.ty.hashable {
        return Ok(vec![confirmed]);
    }
    let hashed = Writer::default()
        .text("pgtrickle.row_hash(")
        .column(a.id)
        .text(") = pgtrickle.row_hash(")
        .column(b.id)
        .text(")")
        .value(boolean(), false);
    Ok(vec![hashed, confirmed])
}

/// Whether an aggregate's row passes its HAVING: `there` marks that it has a row at all.
pub(super) fn is_shown(there: ColId, shown: &Known, over_nothing: &Scalar) -> Writer {
    Writer::default()
        .text("(CASE WHEN ")
        .column(there)
        .text(" IS NULL THEN ")
        .scalar(over_nothing)
        .text(" ELSE ")
        .column(shown.id)
        .text(" END) IS TRUE")
}

/// A column of an aggregate that was joined, or its value over nothing where it has no row; null where HAVING hides it.
pub(super) fn or_over_nothing(
    there: ColId,
    column: &Known,
    empty: &Scalar,
    shown: Option<&(Known, Scalar)>,
) -> Scalar {
    let value = Writer::default()
        .text("CASE WHEN ")
        .column(there)
        .text(" IS NULL THEN ")
        .scalar(empty)
        .text(" ELSE ")
        .column(column.id)
        .text(" END");
    let Some((shown, over_nothing)) = shown else {
        return value.value(column.ty.clone(), column.nullable || empty.nullable);
    };
    let value = value.value(column.ty.clone(), true);
    Writer::default()
        .text("CASE WHEN ")
        .parts(is_shown(there, shown, over_nothing).pieces())
        .text(" THEN ")
        .scalar(&value)
        .text(" END")
        .value(column.ty.clone(), true)
}

/// `rel` with more columns.
pub(super) fn extend(rel: Rel, more: Vec<(ColId, Scalar)>) -> Rel {
    let columns = rel
        .column_types()
        .into_iter()
        .map(|(id, (ty, nullable))| (id, Scalar::column(id, ty, nullable)))
        .chain(more)
        .collect();
    Rel::Project {
        input: Box::new(rel),
        columns,
    }
}

impl Analyzer {
    /// The sub-selects in `exprs`, outside aggregates, as columns beside `rel`.
    pub(super) fn lift<'q>(
        &mut self,
        rel: Rel,
        exprs: &[Expr<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let links = exprs.iter().flat_map(|expr| expr.sublinks(false)).collect();
        self.lift_all(rel, links, level)
    }

    /// The sub-selects that aggregates in `exprs` and group expressions use.
    pub(super) fn lift_below_aggregates<'q>(
        &mut self,
        rel: Rel,
        exprs: &[Expr<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let mut links = Vec::new();
        for expr in exprs {
            expr.find(&mut |part| {
                if let Kind::Aggregate(_) = part.kind() {
                    links.extend(part.sublinks(true));
                }
                false
            });
        }
        for rte in &level.range_table {
            if let node::Rte::Group { expressions } = rte {
                links.extend(expressions.iter().flat_map(|expr| expr.sublinks(true)));
            }
        }
        self.lift_all(rel, links, level)
    }

    fn lift_all<'q>(
        &mut self,
        mut rel: Rel,
        links: Vec<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        // A sub-select in the comparison of another stands behind it.
        for expr in links.into_iter().rev() {
            if level.computed.iter().any(|(known, _)| known.equals(&expr)) {
                continue;
            }
            let Kind::Sublink(link) = expr.kind() else {
                continue;
            };
            let (with, known) = self.sublink(rel, expr, &link, level)?;
            rel = with;
            level.computed.push((expr, known));
        }
        Ok(rel)
    }

    /// What a sub-select may refer to around it, if that is part of `rel`.
    pub(super) fn context<'a, 'q>(
        &self,
        rel: &'a Rel,
        query: Query<'q>,
        level: &Level<'q, '_>,
        wanted: Wanted,
    ) -> Result<Context<'a>> {
        let columns = level.references_of(query)?;
        let available = rel.columns();
        if columns
            .iter()
            .any(|(_, known)| !available.contains(&known.id))
        {
            return refuse(
                "a sub-query refers to a query further out",
                "Write it as a join.",
            );
        }
        Ok(Context {
            rel,
            columns,
            exists: wanted == Wanted::Existence,
            ordered: wanted == Wanted::OrderedRows,
        })
    }

    fn sublink<'q>(
        &mut self,
        rel: Rel,
        expr: Expr<'q>,
        link: &SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        let wanted = match link.kind {
            SublinkKind::Exists => Wanted::Existence,
            SublinkKind::Array => Wanted::OrderedRows,
            _ => Wanted::Rows,
        };
        let context = self.context(&rel, link.query, level, wanted)?;
        let outer: Vec<Known> = context
            .columns
            .iter()
            .map(|(_, known)| known.clone())
            .collect();
        let answer = self.answer(link.query, Some(level), Some(context))?;
        match link.kind {
            SublinkKind::Value => self.value(rel, &outer, answer),
            SublinkKind::Exists => self.exists(rel, &outer, answer),
            SublinkKind::Any | SublinkKind::All => {
                self.quantified(rel, &outer, answer, expr, link, level)
            }
            SublinkKind::Array => self.array(rel, &outer, answer, node_type(&expr)),
            SublinkKind::Other => refuse(
                "a row sub-query is not incremental yet",
                "Compare the columns one by one.",
            ),
        }
    }

    /// `rel` beside the rows of `right` with the same context; no context: beside its one row.
    fn beside(
        &mut self,
        rel: Rel,
        outer: &[Known],
        right: Rel,
        context: &[Known],
        more: Vec<Scalar>,
    ) -> Result<Rel> {
        let mut on = more;
        for (mine, theirs) in outer.iter().zip(context) {
            on.extend(same(mine, theirs)?);
        }
        if on.is_empty() {
            return Ok(combine(vec![rel, right], vec![]));
        }
        Ok(Rel::Outer {
            left: Box::new(rel),
            right: Box::new(right),
            full: false,
            on,
        })
    }

    /// A grouping of `input` by its context and `more`, with fresh columns.
    fn grouped(
        &mut self,
        input: Rel,
        context: &[Known],
        more: &[Known],
        calls: Vec<(ColId, AggregateCall)>,
    ) -> (Rel, Vec<Known>) {
        let keys: Vec<Known> = context
            .iter()
            .chain(more)
            .map(|known| Known {
                id: self.column(),
                ..known.clone()
            })
            .collect();
        let named = keys
            .iter()
            .zip(context.iter().chain(more))
            .map(|(key, known)| (key.id, column_of(known)))
            .collect();
        let rel = Rel::Aggregate {
            input: Box::new(input),
            keys: named,
            calls,
        };
        (rel, keys)
    }

    /// A column that is true in every row, so that a row that is missing can be told.
    pub(super) fn mark(&mut self, rel: Rel) -> (Rel, ColId) {
        let id = self.column();
        let there = Scalar {
            pieces: vec![Piece::Text("true".into())],
            ty: boolean(),
            nullable: false,
            shape: Shape::Constant,
        };
        (extend(rel, vec![(id, there)]), id)
    }

    fn add(&mut self, rel: Rel, value: Scalar) -> (Rel, Known) {
        let known = Known {
            id: self.column(),
            ty: value.ty.clone(),
            nullable: value.nullable,
            scale: None,
        };
        (extend(rel, vec![(known.id, value)]), known)
    }

    /// A scalar sub-select: its one row's value, NULL without row, an error with several.
    fn value(&mut self, rel: Rel, outer: &[Known], answer: Answer) -> Result<(Rel, Known)> {
        let Some(column) = answer.produced.first().map(|column| column.known.clone()) else {
            return refuse("a sub-query without columns", "Select a column.");
        };
        if let Some(empty) = answer.empty {
            if outer.is_empty() {
                let joined = combine(vec![rel, answer.rel], vec![]);
                return Ok((joined, column));
            }
            let (right, there) = self.mark(answer.rel);
            let joined = self.beside(rel, outer, right, &answer.context, vec![])?;
            let Some(empty) = empty.first() else {
                return refuse("a sub-query without columns", "Select a column.");
            };
            let value = or_over_nothing(there, &column, empty, answer.shown.as_ref());
            let (rel, known) = self.add(joined, value);
            return Ok((
                rel,
                Known {
                    scale: column.scale,
                    ..known
                },
            ));
        }
        let mut on = Vec::new();
        for (mine, theirs) in outer.iter().zip(&answer.context) {
            on.extend(same(mine, theirs)?);
        }
        if facts::matches_at_most_one(&answer.rel, &on) {
            let joined = Rel::Outer {
                left: Box::new(rel),
                right: Box::new(answer.rel),
                full: false,
                on,
            };
            return Ok((
                joined,
                Known {
                    nullable: true,
                    ..column
                },
            ));
        }
        let (rows, any) = (self.column(), self.column());
        let ty = column.ty.clone();
        let calls = vec![
            (rows, count_star()),
            (
                any,
                aggregate_of("any_value", AggregateKind::Recompute, &column, ty.clone()),
            ),
        ];
        let (right, keys) = self.grouped(answer.rel, &answer.context, &[], calls);
        let joined = self.beside(rel, outer, right, &keys, vec![])?;
        let value = Writer::default()
            .text("CASE WHEN ")
            .column(rows)
            .text(" > 1 THEN (SELECT ")
            .scalar(&Scalar::null(ty.clone()))
            .text(" FROM (VALUES (1), (2)) AS more(than_one)) ELSE ")
            .column(any)
            .text(" END")
            .value(ty, true);
        let (rel, known) = self.add(joined, value);
        Ok((
            rel,
            Known {
                scale: column.scale,
                ..known
            },
        ))
    }

    /// `ARRAY(SELECT ..)`: the values in the order of the sub-select, an empty array without rows.
    fn array(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        ty: Type,
    ) -> Result<(Rel, Known)> {
        let Some(column) = answer.produced.first().map(|column| column.known.clone()) else {
            return refuse("a sub-query without columns", "Select a column.");
        };
        if answer.empty.is_some() && !outer.is_empty() {
            return refuse(
                "an array of an aggregate over what the query around it picks",
                "Write ARRAY[(SELECT ..)].",
            );
        }
        let decided: Vec<Scalar> = answer
            .order
            .iter()
            .map(|key| key.value.clone())
            .chain(answer.context.iter().map(column_of))
            .collect();
        self.check_ties(
            &answer.rel,
            &decided,
            &[column.id].into_iter().collect(),
            "ARRAY(..)",
        );
        let mut text = Writer::default()
            .text("pg_catalog.array_agg(")
            .column(column.id);
        for (position, key) in answer.order.iter().enumerate() {
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            text = text
                .text(if position > 0 { ", " } else { " ORDER BY " })
                .scalar(&key.value)
                .text(&format!(" USING OPERATOR({}) NULLS {nulls}", key.using));
        }
        let values = self.column();
        let call = AggregateCall {
            kind: AggregateKind::Recompute,
            argument: None,
            filter: None,
            call: text.text(")").value(ty.clone(), true),
        };
        let (right, keys) = self.grouped(answer.rel, &answer.context, &[], vec![(values, call)]);
        let joined = self.beside(rel, outer, right, &keys, vec![])?;
        let value = Writer::default()
            .text("COALESCE(")
            .column(values)
            .text(&format!(", '{{}}'::{})", ty.name))
            .value(ty, false);
        Ok(self.add(joined, value))
    }

    fn exists(&mut self, rel: Rel, outer: &[Known], answer: Answer) -> Result<(Rel, Known)> {
        if let Some((shown, over_nothing)) = answer.shown {
            let (right, there) = self.mark(answer.rel);
            let joined = self.beside(rel, outer, right, &answer.context, vec![])?;
            let value = is_shown(there, &shown, &over_nothing).value(boolean(), false);
            return Ok(self.add(joined, value));
        }
        if answer.empty.is_some() {
            let always = Writer::default().text("true").value(boolean(), false);
            return Ok(self.add(rel, always));
        }
        if outer.is_empty() {
            let rows = self.column();
            let (right, _) = self.grouped(answer.rel, &[], &[], vec![(rows, count_star())]);
            let joined = combine(vec![rel, right], vec![]);
            let value = Writer::default()
                .column(rows)
                .text(" > 0")
                .value(boolean(), false);
            return Ok(self.add(joined, value));
        }
        let (right, keys) = self.grouped(answer.rel, &answer.context, &[], vec![]);
        let (right, there) = self.mark(right);
        let joined = self.beside(rel, outer, right, &keys, vec![])?;
        let value = Writer::default()
            .column(there)
            .text(" IS NOT NULL")
            .value(boolean(), false);
        Ok(self.add(joined, value))
    }

    /// `x op ANY (..)` or `x op ALL (..)`, with SQL's three values.
    fn quantified<'q>(
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
        if let Kind::And(parts) = test.kind() {
            return self.row_in(rel, outer, answer, link, parts, level);
        }
        let Kind::Operator {
            operator,
            arguments,
        } = test.kind()
        else {
            return Err(unknown());
        };
        let ([left, right], [column]) = (arguments.as_slice(), answer.produced.as_slice()) else {
            return Err(unknown());
        };
        if answer.empty.is_some() && !outer.is_empty() {
            return Err(unknown());
        }
        let mut column = column.known.clone();
        let mut answer = answer;
        if !matches!(right.strip_relabel().kind(), Kind::SublinkColumn(_)) {
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
            "<" | "<=" => any,
            ">" | ">=" => !any,
            _ if differs => true,
            _ => return Err(unknown()),
        };
        if !facts.builtin || !node::has_extrema(right.type_of().0) {
            return Err(unknown());
        }
        let (function, kind) = if greatest {
            ("max", AggregateKind::Max)
        } else {
            ("min", AggregateKind::Min)
        };
        let ty = column.ty.clone();
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

    /// `(x, y) IN (..)`, or `NOT IN` as `<> ALL`, over values that cannot be null.
    fn row_in<'q>(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        link: &SublinkNode<'q>,
        parts: Vec<Expr<'q>>,
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        let unknown = || {
            NotIncremental::new(
                "a row that may contain nulls is compared with a sub-query as a value",
                "Write it with EXISTS.",
            )
        };
        if link.kind != SublinkKind::Any || answer.empty.is_some() {
            return Err(unknown());
        }
        let columns: Vec<Known> = answer
            .produced
            .iter()
            .map(|column| column.known.clone())
            .collect();
        let (right, keys) = self.grouped(answer.rel, &answer.context, &columns, vec![]);
        let (right, there) = self.mark(right);
        let (context, keys) = keys.split_at(answer.context.len());
        let mut meets = Vec::new();
        for part in parts {
            let Kind::Operator {
                operator,
                arguments,
            } = part.kind()
            else {
                return Err(unknown());
            };
            let [left, right] = arguments.as_slice() else {
                return Err(unknown());
            };
            let (_, _, equality) =
                node::operator_facts(operator, left.type_of().0, right.type_of().0);
            let Kind::SublinkColumn(number) = right.strip_relabel().kind() else {
                return Err(unknown());
            };
            let x = self.scalar(*left, level)?.0;
            let key = keys.get(number as usize - 1).ok_or_else(unknown)?;
            let Some(equal) = x.ty.equality.clone().filter(|_| equality) else {
                return Err(unknown());
            };
            if x.nullable || key.nullable {
                return Err(unknown());
            }
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

    /// The values of a sub-select's columns when its aggregates run over nothing, over the columns of its context.
    pub(super) fn over_nothing<'q>(
        &self,
        columns: &[(ColId, Scalar)],
        produced: &[Produced],
        context: &Context<'_>,
        level: &Level<'q, '_>,
    ) -> Result<Vec<Scalar>> {
        let mut values: BTreeMap<ColId, Vec<Piece>> = BTreeMap::new();
        for (expr, known) in &level.computed {
            let Kind::Aggregate(call) = expr.kind() else {
                return refuse(
                    "a sub-query that aggregates what the query around it picks contains another one",
                    "Compute it in a sub-query in FROM and join it.",
                );
            };
            let facts = node::function_facts(call.function);
            if !facts.builtin || call.hypothetical {
                return refuse(
                    &format!("the value of {} over nothing is not known", facts.name),
                    "Compute it in a sub-query in FROM and join it.",
                );
            }
            let value = if facts.name == "count" || facts.name == "regr_count" {
                vec![Piece::Text("(0)::pg_catalog.int8".into())]
            } else {
                Scalar::null(known.ty.clone()).pieces
            };
            values.insert(known.id, value);
        }
        for ((_, inner), (_, outer)) in level.context.iter().zip(&context.columns) {
            values.insert(inner.id, vec![Piece::Column(outer.id)]);
        }
        produced
            .iter()
            .filter_map(|column| columns.iter().find(|(id, _)| *id == column.known.id))
            .map(|(_, value)| {
                let mut pieces = Vec::new();
                for piece in &value.pieces {
                    match piece {
                        Piece::Column(id) => match values.get(id) {
                            Some(replacement) => pieces.extend(replacement.iter().cloned()),
                            None => {
                                return refuse(
                                    "a sub-query's value over nothing cannot be derived",
                                    "Compute it in a sub-query in FROM and join it.",
                                );
                            }
                        },
                        text => pieces.push(text.clone()),
                    }
                }
                Ok(Scalar {
                    pieces,
                    ty: value.ty.clone(),
                    nullable: true,
                    shape: Shape::Opaque,
                })
            })
            .collect()
    }

    /// FROM and WHERE of a level, with the columns of its context bound to columns of its own.
    pub(super) fn read_from<'q>(
        &mut self,
        level: &mut Level<'q, '_>,
        context: Option<&Context<'_>>,
    ) -> Result<Rel> {
        let query = level.query;
        let node::FromNode::List { items, condition } = query.from() else {
            return refuse(
                "the FROM clause has an unknown form",
                "Please report the query.",
            );
        };
        let parts = condition.map(super::from::conjuncts).unwrap_or_default();
        let Some(context) = context else {
            let (inputs, conditions) = self.items(None, &items, level)?;
            return self.restrict(inputs, conditions, parts, level);
        };
        let reaches_out = (1..=level.range_table.len()).any(|index| {
            query
                .range_references(index)
                .iter()
                .any(|var| var.levels_up > 0)
        });
        if reaches_out {
            let (domain, columns) = self.domain(context)?;
            level.context = columns;
            let (inputs, conditions) = self.items(Some(domain), &items, level)?;
            return self.restrict(inputs, conditions, parts, level);
        }
        let (mut inputs, conditions) = self.items(None, &items, level)?;
        let stand_ins: Option<Vec<(VarRef, Known)>> = context
            .columns
            .iter()
            .map(|(var, outer)| Some((*var, stand_in(*var, outer, &parts, level)?)))
            .collect();
        level.context = match stand_ins {
            Some(columns) => columns,
            None => {
                let (domain, columns) = self.domain(context)?;
                inputs.insert(0, domain);
                columns
            }
        };
        self.restrict(inputs, conditions, parts, level)
    }

    /// The distinct values of a context's columns among the rows around.
    fn domain(&mut self, context: &Context<'_>) -> Result<(Rel, Vec<(VarRef, Known)>)> {
        let (copy, renamed) = self.fresh(context.rel);
        let mut distinct: BTreeMap<ColId, Known> = BTreeMap::new();
        let mut keys = Vec::new();
        let mut columns = Vec::new();
        for (var, known) in &context.columns {
            if known.ty.equality.is_none() {
                return refuse(
                    &format!(
                        "a sub-query is tied to its surroundings by type {}, which has no equality",
                        known.ty.name
                    ),
                    "Cast it to a type that can be compared.",
                );
            }
            let from = renamed.get(&known.id).copied().unwrap_or(known.id);
            let key = distinct.entry(from).or_insert_with(|| Known {
                id: self.column(),
                ..known.clone()
            });
            if !keys.iter().any(|(id, _)| *id == key.id) {
                keys.push((
                    key.id,
                    Scalar::column(from, known.ty.clone(), known.nullable),
                ));
            }
            columns.push((*var, key.clone()));
        }
        let rel = Rel::Aggregate {
            input: Box::new(copy),
            keys,
            calls: vec![],
        };
        Ok((rel, columns))
    }
}

/// A column of the level itself that a condition equates with the outer column `var`.
fn stand_in<'q>(
    var: VarRef,
    outer: &Known,
    parts: &[Expr<'q>],
    level: &Level<'q, '_>,
) -> Option<Known> {
    parts.iter().find_map(|part| {
        let Kind::Operator {
            operator,
            arguments,
        } = part.kind()
        else {
            return None;
        };
        let [left, right] = arguments.as_slice() else {
            return None;
        };
        let (_, _, equality) = node::operator_facts(operator, left.type_of().0, right.type_of().0);
        let as_var = |expr: &Expr<'q>| match expr.kind() {
            Kind::Var(var) => Some(var),
            _ => None,
        };
        let (left, right) = (as_var(left)?, as_var(right)?);
        let own = match (left == var, right == var) {
            (true, false) => right,
            (false, true) => left,
            _ => return None,
        };
        if !equality || own.levels_up > 0 {
            return None;
        }
        let known = level.known.get(&(own.range, own.attnum))?;
        // Where equal values can look different, one cannot stand for the other in an expression.
        (known.ty.name == outer.ty.name && known.ty.bitwise).then(|| Known {
            // The equality leaves no row where it is null.
            nullable: false,
            ..known.clone()
        })
    })
}

fn node_type(expr: &Expr<'_>) -> Type {
    let (oid, modifier, collation) = expr.type_of();
    node::describe_type(oid, modifier, collation)
}
