//! Sub-selects in expressions. Each becomes a column: the sub-select, grouped by what ties it to the query around it, is
//! joined with the rows that use it.
//!
//! What ties it is either an equality with a column of its own, which then stands for the outer one, or, in general, the
//! set of values the outer rows have, joined into the sub-select.

use pgt_ivm::facts;
use pgt_ivm::rel::{AggregateCall, AggregateKind, ColId, Rel};
use pgt_ivm::scalar::{Piece, Scalar, Shape, Type};

use super::build::{Writer, aggregate_of, boolean, count_star, extend, refuse, same};
use super::context::{Wanted, is_shown, or_over_nothing};
use super::from::combine;
use super::quantified::node_type;
use super::query::{Analyzer, Answer, Known, Level, Produced, Result};
use crate::pg::node::{self, Expr, Kind, SublinkKind, SublinkNode};

/// What becomes of a row for which a sub-select has none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    /// It stays, beside nulls.
    Stays,
    /// A condition drops it.
    Goes,
}

/// The columns of two contexts are the same.
pub(super) fn tied(mine: &[Known], theirs: &[Known]) -> Result<Vec<Scalar>> {
    let mut on = Vec::new();
    for (mine, theirs) in mine.iter().zip(theirs) {
        on.extend(same(mine, theirs)?);
    }
    Ok(on)
}

impl Analyzer {
    /// The sub-selects in `exprs`, outside aggregates, as columns beside `rel`.
    pub(super) fn lift<'q>(
        &mut self,
        rel: Rel,
        exprs: &[Expr<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        self.lift_needed(rel, exprs, &[], level)
    }

    /// As [`Analyzer::lift`], where only rows are wanted for which the values of the sub-selects `needed` are not null.
    pub(super) fn lift_needed<'q>(
        &mut self,
        rel: Rel,
        exprs: &[Expr<'q>],
        needed: &[Expr<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let links = exprs.iter().flat_map(|expr| expr.sublinks(false)).collect();
        self.lift_all(rel, links, needed, level)
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
        self.lift_all(rel, links, &[], level)
    }

    fn lift_all<'q>(
        &mut self,
        mut rel: Rel,
        links: Vec<Expr<'q>>,
        needed: &[Expr<'q>],
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
            let without = if needed.iter().any(|known| known.equals(&expr)) {
                Without::Goes
            } else {
                Without::Stays
            };
            let (with, known) = self.sublink(rel, (expr, without), &link, level)?;
            rel = with;
            level.computed.push((expr, known));
        }
        Ok(rel)
    }

    fn sublink<'q>(
        &mut self,
        rel: Rel,
        (expr, without): (Expr<'q>, Without),
        link: &SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        let wanted = match link.kind {
            SublinkKind::Exists => Wanted::Existence,
            SublinkKind::Array => Wanted::OrderedRows,
            _ => Wanted::Rows,
        };
        let rel = self.distinguished(rel, link.query, level)?;
        let context = self.context(&rel, link.query, level, wanted)?;
        let outer: Vec<Known> = context
            .columns
            .iter()
            .map(|(_, known)| known.clone())
            .collect();
        let answer = self.answer(link.query, Some(level), Some(context))?;
        match link.kind {
            SublinkKind::Value => {
                let (rel, columns) = self.only_row(rel, &outer, answer, without)?;
                match columns.into_iter().next() {
                    Some(column) => Ok((rel, column)),
                    None => refuse("a sub-query without columns", "Select a column."),
                }
            }
            SublinkKind::Row => self.row(rel, &outer, answer, link, level),
            SublinkKind::Exists => self.exists(rel, &outer, answer),
            SublinkKind::Any | SublinkKind::All => {
                self.quantified(rel, &outer, answer, expr, link, level)
            }
            SublinkKind::Array => self.array(rel, &outer, answer, node_type(&expr)),
            SublinkKind::Other => refuse(
                "a sub-query of this kind is not incremental yet",
                "Write it as a join.",
            ),
        }
    }

    /// `rel` beside the rows of `right` with the same context; no context: beside its one row.
    pub(super) fn beside(
        &mut self,
        rel: Rel,
        outer: &[Known],
        right: Rel,
        context: &[Known],
        more: Vec<Scalar>,
    ) -> Result<Rel> {
        let mut on = more;
        on.extend(tied(outer, context)?);
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
    pub(super) fn grouped(
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
            .map(|(key, known)| (key.id, known.scalar()))
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

    pub(super) fn add(&mut self, rel: Rel, value: Scalar) -> (Rel, Known) {
        let known = Known {
            id: self.column(),
            ty: value.ty.clone(),
            nullable: value.nullable,
            scale: None,
        };
        (extend(rel, vec![(known.id, value)]), known)
    }

    /// `(x, y) op (..)`: the comparison with the one row, which is not evaluated where there is none.
    fn row<'q>(
        &mut self,
        rel: Rel,
        outer: &[Known],
        mut answer: Answer,
        link: &SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Known)> {
        let Some(test) = link.test else {
            return refuse(
                "a row sub-query without comparison",
                "Please report the query.",
            );
        };
        let always = answer.empty.is_some();
        if !always {
            let (marked, there) = self.mark(answer.rel);
            answer.rel = marked;
            answer.produced.push(Produced {
                name: String::new(),
                known: Known {
                    id: there,
                    ty: boolean(),
                    nullable: false,
                    scale: None,
                },
            });
        }
        let (rel, mut columns) = self.only_row(rel, outer, answer, Without::Stays)?;
        let there = if always { None } else { columns.pop() };
        level.sublink_columns = columns;
        let test = self.scalar(test, level);
        level.sublink_columns.clear();
        let mut test = test?.0;
        if let Some(there) = there {
            test = Writer::default()
                .text("CASE WHEN ")
                .column(there.id)
                .text(" THEN ")
                .scalar(&test)
                .text(" END")
                .value(boolean(), true);
        }
        Ok(self.add(rel, test))
    }

    /// The columns of a sub-select's one row: NULL without row, an error with several. Where rows go that have no such row
    /// and would be beside NULL, an inner join does it: its change needs no matches counted.
    fn only_row(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        without: Without,
    ) -> Result<(Rel, Vec<Known>)> {
        let columns: Vec<Known> = answer
            .produced
            .iter()
            .map(|column| column.known.clone())
            .collect();
        if let Some(empty) = answer.empty {
            if outer.is_empty() {
                let joined = combine(vec![rel, answer.rel], vec![]);
                return Ok((joined, columns));
            }
            if without == Without::Goes && answer.null_over_nothing && answer.shown.is_none() {
                let on = tied(outer, &answer.context)?;
                return Ok((combine(vec![rel, answer.rel], on), columns));
            }
            let (right, there) = self.mark(answer.rel);
            let joined = self.beside(rel, outer, right, &answer.context, vec![])?;
            let values = columns
                .iter()
                .zip(&empty)
                .map(|(column, empty)| or_over_nothing(there, column, empty, answer.shown.as_ref()))
                .collect();
            return Ok(self.add_each(joined, &columns, values));
        }
        let on = tied(outer, &answer.context)?;
        if facts::matches_at_most_one(&answer.rel, &on) {
            if without == Without::Goes {
                return Ok((combine(vec![rel, answer.rel], on), columns));
            }
            let joined = Rel::Outer {
                left: Box::new(rel),
                right: Box::new(answer.rel),
                full: false,
                on,
            };
            let optional = columns
                .into_iter()
                .map(|column| Known {
                    nullable: true,
                    ..column
                })
                .collect();
            return Ok((joined, optional));
        }
        let rows = self.column();
        let mut calls = vec![(rows, count_star())];
        let mut values = Vec::new();
        for column in &columns {
            let any = self.column();
            let ty = column.ty.clone();
            calls.push((
                any,
                aggregate_of("any_value", AggregateKind::Recompute, column, ty.clone()),
            ));
            let value = Writer::default()
                .text("CASE WHEN ")
                .column(rows)
                .text(" > 1 THEN (SELECT ")
                .scalar(&Scalar::null(ty.clone()))
                .text(" FROM (VALUES (1), (2)) AS more(than_one)) ELSE ")
                .column(any)
                .text(" END")
                .value(ty, true);
            values.push(value);
        }
        let (right, keys) = self.grouped(answer.rel, &answer.context, &[], calls);
        let joined = match without {
            Without::Stays => self.beside(rel, outer, right, &keys, vec![])?,
            Without::Goes => combine(vec![rel, right], tied(outer, &keys)?),
        };
        Ok(self.add_each(joined, &columns, values))
    }

    /// `values` as columns beside `rel`, each with the scale of the column it is a value of.
    pub(super) fn add_each(
        &mut self,
        rel: Rel,
        of: &[Known],
        values: Vec<Scalar>,
    ) -> (Rel, Vec<Known>) {
        let mut added = Vec::new();
        let mut known = Vec::new();
        for (column, value) in of.iter().zip(values) {
            let id = self.column();
            known.push(Known {
                id,
                ty: value.ty.clone(),
                nullable: value.nullable,
                scale: column.scale,
            });
            added.push((id, value));
        }
        (extend(rel, added), known)
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
        if let Some(empty) = answer.empty.clone()
            && !outer.is_empty()
        {
            return self.array_of_one(rel, outer, answer, &empty, ty);
        }
        let decided: Vec<Scalar> = answer
            .order
            .iter()
            .map(|key| key.value.clone())
            .chain(answer.context.iter().map(Known::scalar))
            .collect();
        let wanted = [column.id].into_iter().collect();
        if let Some(reason) = super::order::ties(&answer.rel, &decided, &wanted, "ARRAY(..)") {
            self.leave_open(reason, false);
        }
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

    /// `ARRAY(SELECT count(*) ..)`: the value of the one row there always is, unless HAVING hides it.
    fn array_of_one(
        &mut self,
        rel: Rel,
        outer: &[Known],
        answer: Answer,
        empty: &[Scalar],
        ty: Type,
    ) -> Result<(Rel, Known)> {
        let ([column], [empty]) = (answer.produced.as_slice(), empty) else {
            return refuse("a sub-query of several columns", "Select one.");
        };
        if format!("{}[]", column.known.ty.name) != ty.name {
            return refuse(
                "an array of an aggregate that is an array itself",
                "Compute it in a sub-query in FROM and join it.",
            );
        }
        let (right, there) = self.mark(answer.rel);
        let joined = self.beside(rel, outer, right, &answer.context, vec![])?;
        let value = or_over_nothing(there, &column.known, empty, None);
        let array = Writer::default()
            .text("(ARRAY[")
            .bare(&value)
            .text(&format!("])::{}", ty.name));
        let array = match &answer.shown {
            None => array,
            Some((shown, over_nothing)) => Writer::default()
                .text("CASE WHEN ")
                .parts(is_shown(there, shown, over_nothing).pieces())
                .text(" THEN ")
                .parts(array.pieces())
                .text(&format!(" ELSE ('{{}}')::{} END", ty.name)),
        };
        Ok(self.add(joined, array.value(ty, false)))
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
}
