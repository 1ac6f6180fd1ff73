//! What ties a sub-select to the query around it: an equality with a column of its own, which then stands for the outer
//! one, or, in general, the set of values the outer rows have, joined into the sub-select.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use pgt_ivm::facts;
use pgt_ivm::rel::{ColId, Rel};
use pgt_ivm::scalar::{Piece, Scalar, Shape, Type};

use super::build::{Writer, extend, refuse};
use super::condition::conjuncts;
use super::from::reaches_out;
use super::query::{Analyzer, Around, Context, Known, Level, Produced, Result};
use super::scalar::strict_arguments;
use crate::pg::node::{self, AggregateNode, Expr, Fragment, Kind, Query, VarRef};

/// What is asked of a sub-query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Rows,
    OrderedRows,
    Existence,
}

impl Analyzer {
    /// What a sub-select may refer to around it, if that is part of `rel`.
    pub(super) fn context<'a, 'q>(
        &self,
        rel: &'a Rel,
        query: Query<'q>,
        level: &Level<'q, '_>,
        wanted: Wanted,
    ) -> Result<Context<'a>> {
        let mut columns = level.references_of(query)?;
        let mut restored = BTreeMap::new();
        let mut images = Vec::new();
        for (var, known) in &mut columns {
            let here = VarRef {
                levels_up: var.levels_up - 1,
                ..*var
            };
            if let Some(ty) = level.restored(here) {
                restored.insert(*var, ty.clone());
            }
            let Some(image) = level.images.get(var) else {
                continue;
            };
            if known.ty.equality.is_none() {
                restored.insert(*var, known.ty.name.clone());
                *known = image.clone();
            } else {
                let place = VarRef {
                    attnum: IMAGES - var.attnum,
                    ..*var
                };
                images.push((place, image.clone()));
            }
        }
        columns.extend(images);
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
            restored,
            exists: wanted == Wanted::Existence,
            ordered: wanted == Wanted::OrderedRows,
        })
    }

    /// `rel` beside what tells apart values of it that are equal and look different, where `query` looks into them, and
    /// beside the texts of those that cannot be compared.
    pub(super) fn distinguished<'q>(
        &mut self,
        rel: Rel,
        query: Query<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        level.images.clear();
        let available = rel.columns();
        let mut more = Vec::new();
        for (var, known) in level.references_of(query)? {
            let exact = known.ty.bitwise || known.scale.is_some();
            if exact || !available.contains(&known.id) {
                continue;
            }
            let value = if known.ty.equality.is_some() {
                if !query.looks_into(var) {
                    continue;
                }
                image_of(&known)
            } else if is_its_text(&known) {
                Writer::default()
                    .column(known.id)
                    .text("::pg_catalog.text")
                    .value(type_of(pg_sys::TEXTOID), known.nullable)
            } else {
                continue;
            };
            let image = Known {
                id: self.column(),
                ty: value.ty.clone(),
                nullable: value.nullable,
                scale: None,
            };
            more.push((image.id, value));
            level.images.insert(var, image);
        }
        Ok(match more.is_empty() {
            true => rel,
            false => extend(rel, more),
        })
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
            values.insert(known.id, call_over_nothing(expr, known)?);
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
        let parts = condition.map(conjuncts).unwrap_or_default();
        let Some(context) = context else {
            let (inputs, conditions) = self.items(None, &items, level)?;
            return self.restrict(inputs, conditions, parts, level);
        };
        level.restored = context.restored.clone();
        level.around = Some(Around {
            rel: context.rel.clone(),
            columns: context.columns.clone(),
        });
        if items.iter().any(|item| reaches_out(item, level)) {
            let (domain, columns) = self.domain(context.rel, &context.columns)?;
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
                let (domain, columns) = self.domain(context.rel, &context.columns)?;
                inputs.insert(0, domain);
                columns
            }
        };
        self.restrict(inputs, conditions, parts, level)
    }

    /// The distinct values of a context's columns among the rows around.
    pub(super) fn domain(
        &mut self,
        around: &Rel,
        of: &[(VarRef, Known)],
    ) -> Result<(Rel, Vec<(VarRef, Known)>)> {
        let wanted = of.iter().map(|(_, known)| known.id).collect();
        let (copy, renamed) = self.fresh(&facts::picked(around, &wanted));
        let mut distinct: BTreeMap<ColId, Known> = BTreeMap::new();
        let mut keys = Vec::new();
        let mut columns = Vec::new();
        for (var, known) in of {
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

/// Numbers of the columns that hold the images of others begin here, downwards.
const IMAGES: i16 = -10_000;

fn type_of(oid: pg_sys::Oid) -> Type {
    node::describe_type(oid, -1, pg_sys::InvalidOid)
}

/// The bytes of a value.
pub(super) fn image_of(known: &Known) -> Scalar {
    Writer::default()
        .text("pgtrickle.image(")
        .column(known.id)
        .text(")")
        .value(type_of(pg_sys::BYTEAOID), false)
}

/// Values of the type are their texts.
fn is_its_text(known: &Known) -> bool {
    known.ty.name == type_of(pg_sys::JSONOID).name
}

/// The value of an aggregate call over nothing.
pub(super) fn call_over_nothing(expr: &Expr<'_>, known: &Known) -> Result<Vec<Piece>> {
    let Kind::Aggregate(call) = expr.kind() else {
        return refuse(
            "a sub-query that aggregates what the query around it picks contains another one",
            "Compute it in a sub-query in FROM and join it.",
        );
    };
    let facts = node::function_facts(call.function);
    if facts.builtin && counts(&facts.name) {
        Ok(vec![Piece::Text("(0)::pg_catalog.int8".into())])
    } else if facts.builtin && !call.hypothetical {
        Ok(Scalar::null(known.ty.clone()).pieces)
    } else {
        evaluated_over_nothing(expr, &call)
    }
}

/// An aggregate that is zero over nothing; all the others are null.
fn counts(name: &str) -> bool {
    matches!(name, "count" | "regr_count")
}

/// The aggregate evaluated over no rows: what its arguments are does not matter then. Those of an ordered-set aggregate
/// before WITHIN GROUP may, where somebody else has written it.
fn evaluated_over_nothing(expr: &Expr<'_>, call: &AggregateNode<'_>) -> Result<Vec<Piece>> {
    let facts = node::function_facts(call.function);
    if !facts.builtin && call.within_group {
        return refuse(
            &format!("the value of {} over nothing is not known", facts.name),
            "Compute it in a sub-query in FROM and join it.",
        );
    }
    let mut first = true;
    let mut types = Vec::new();
    let fragments = expr.deparse(&mut |part| {
        if std::mem::take(&mut first) {
            return Ok(None);
        }
        match part.kind() {
            Kind::Var(_) | Kind::Sublink(_) | Kind::Clock => {
                let (oid, modifier, collation) = part.type_of();
                types.push(node::describe_type(oid, modifier, collation));
                Ok(Some(types.len() as u32 - 1))
            }
            Kind::Wordless { what, hint } => refuse(what, hint),
            _ => Ok(None),
        }
    })?;
    let mut pieces = vec![Piece::Text("(SELECT ".into())];
    for fragment in fragments {
        match fragment {
            Fragment::Text(text) => pieces.push(Piece::Text(text)),
            Fragment::Hole(number) => {
                pieces.extend(Scalar::null(types[number as usize].clone()).pieces);
            }
        }
    }
    pieces.push(Piece::Text(" WHERE false)".into()));
    Ok(pieces)
}

/// The value is null when its aggregates run over nothing: it is strict in one that is null then.
pub(super) fn is_null_over_nothing(expr: &Expr<'_>) -> bool {
    match expr.kind() {
        Kind::Aggregate(call) => {
            let facts = node::function_facts(call.function);
            facts.builtin && !call.hypothetical && !counts(&facts.name)
        }
        _ => strict_arguments(expr).iter().any(is_null_over_nothing),
    }
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
