//! Scalar expressions: deparsed text with holes, and the few facts laws ask for.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use pgt_ivm::rel::ColId;
use pgt_ivm::scalar::{Clock, Ordered, Piece, Scalar, Shape};

use super::NotIncremental;
use super::build::boolean;
use super::moving::has_clock;
use super::query::{Analyzer, Known, Level, Result};
use super::range::scale_of;
use crate::pg::node::{self, Expr, Fragment, Kind, VarRef};

impl<'q> Level<'q, '_> {
    /// The column a call or a sub-select has become.
    pub(super) fn computed(&self, part: &Expr<'q>) -> Option<&Known> {
        self.computed
            .iter()
            .find(|(known, _)| known.equals(part))
            .map(|(_, known)| known)
    }

    /// The type whose text stands for the value that `var` means, if one does.
    pub(super) fn restored(&self, var: VarRef) -> Option<&String> {
        if self.context.iter().any(|(known, _)| *known == var) {
            return self.restored.get(&var);
        }
        let levels_up = var.levels_up.checked_sub(1)?;
        self.outer?.restored(VarRef { levels_up, ..var })
    }

    /// The hole for a column, noted in `texts` if only the text of its value is there.
    pub(super) fn hole(
        &self,
        var: VarRef,
        texts: &mut BTreeMap<u32, String>,
    ) -> Result<Option<u32>> {
        let hole = self.known(var)?.id.0;
        if let Some(ty) = self.restored(var) {
            texts.insert(hole, ty.clone());
        }
        Ok(Some(hole))
    }

    pub(super) fn known(&self, var: VarRef) -> Result<&Known> {
        if let Some((_, known)) = self.context.iter().find(|(known, _)| *known == var) {
            return Ok(known);
        }
        if var.levels_up > 0 {
            let outer = self.outer.ok_or_else(|| {
                NotIncremental::new(
                    "an expression refers to an outer query",
                    "Rewrite it as a join.",
                )
            })?;
            return outer.known(VarRef {
                levels_up: var.levels_up - 1,
                ..var
            });
        }
        self.known.get(&(var.range, var.attnum)).ok_or_else(|| {
            NotIncremental::new(
                if var.attnum == 0 {
                    "a whole row is used as one value"
                } else {
                    "a column cannot be traced"
                },
                "Name the columns explicitly.",
            )
        })
    }
}

/// Holes from here on stand for the clock, below for columns.
const FIRST_CLOCK: u32 = 1 << 30;

/// The clock stands where no law knows what to do when time passes.
pub(super) fn clock_misplaced() -> NotIncremental {
    NotIncremental::new(
        "the current time is used outside of WHERE",
        "As a condition of WHERE or of an inner join, by itself or joined with AND, it is incremental.",
    )
}

/// The column in a hole, or the value it is the text of.
pub(super) fn column(hole: u32, texts: &BTreeMap<u32, String>) -> Vec<Piece> {
    let column = Piece::Column(ColId(hole));
    match texts.get(&hole) {
        None => vec![column],
        Some(ty) => vec![
            Piece::Text("((".into()),
            column,
            Piece::Text(format!(")::{ty})")),
        ],
    }
}

/// `ROW(..)` without a cast.
fn is_bare_row(pieces: &[Piece]) -> bool {
    let (Some(Piece::Text(first)), Some(Piece::Text(last))) = (pieces.first(), pieces.last())
    else {
        return false;
    };
    first.starts_with("ROW(") && last.ends_with(')')
}

impl Analyzer {
    /// An expression over the level's columns, and the scale all its values have if it is numeric and that is known.
    pub(super) fn scalar<'q>(
        &mut self,
        expr: Expr<'q>,
        level: &Level<'q, '_>,
    ) -> Result<(Scalar, Option<i32>)> {
        self.expression(expr, level, false)
    }

    /// As [`Analyzer::scalar`], where set-returning functions may stand.
    pub(super) fn target<'q>(
        &mut self,
        expr: Expr<'q>,
        level: &Level<'q, '_>,
    ) -> Result<(Scalar, Option<i32>)> {
        self.expression(expr, level, true)
    }

    fn expression<'q>(
        &mut self,
        expr: Expr<'q>,
        level: &Level<'q, '_>,
        sets: bool,
    ) -> Result<(Scalar, Option<i32>)> {
        let mut pieces = self.pieces(expr, level, sets)?;
        let (oid, modifier, collation) = expr.type_of();
        let scale = self.scale(&expr, level);
        let mut ty = node::describe_type(oid, modifier, collation);
        if is_bare_row(&pieces) {
            // Rows as values are equal where both are null in a column; ROW(..) = ROW(..) compares column by column.
            pieces.push(Piece::Text(format!("::{}", ty.name)));
        }
        // Equal numbers with the same number of decimals look the same.
        ty.bitwise |= scale.is_some();
        let shape = match shape(&expr, &pieces, level) {
            Shape::Opaque => self.ordered(&expr, level)?,
            known => known,
        };
        let scalar = Scalar {
            shape,
            ty,
            nullable: self.nullable(&expr, level),
            pieces,
        };
        Ok((scalar, scale))
    }

    /// The shape of a comparison of columns with columns by their order; opaque for anything else.
    fn ordered<'q>(&mut self, expr: &Expr<'q>, level: &Level<'q, '_>) -> Result<Shape> {
        let Kind::Operator {
            operator,
            arguments,
        } = expr.kind()
        else {
            return Ok(Shape::Opaque);
        };
        let ([left, right], true, Some(negated), false) = (
            arguments.as_slice(),
            node::is_ordering(operator),
            expr.negated(),
            has_clock(expr),
        ) else {
            return Ok(Shape::Opaque);
        };
        let (left, right) = (self.scalar(*left, level)?.0, self.scalar(*right, level)?.0);
        if left.columns().is_empty() || right.columns().is_empty() {
            return Ok(Shape::Opaque);
        }
        let negated = Scalar {
            pieces: self.pieces(negated, level, false)?,
            ty: boolean(),
            nullable: left.nullable || right.nullable,
            shape: Shape::Opaque,
        };
        Ok(Shape::Ordered(Box::new(Ordered {
            left,
            right,
            negated,
        })))
    }

    /// The text of an expression with columns in it.
    pub(super) fn pieces<'q>(
        &mut self,
        expr: Expr<'q>,
        level: &Level<'q, '_>,
        sets: bool,
    ) -> Result<Vec<Piece>> {
        let allowed = self.clock_allowed;
        let mut clocks: Vec<String> = Vec::new();
        let mut texts = BTreeMap::new();
        let fragments = expr.deparse(&mut |part| match part.kind() {
            Kind::Clock if allowed => {
                let (oid, modifier, collation) = part.type_of();
                clocks.push(node::describe_type(oid, modifier, collation).name);
                Ok(Some(FIRST_CLOCK + clocks.len() as u32 - 1))
            }
            Kind::Clock => Err(clock_misplaced()),
            Kind::Var(var) => level.hole(var, &mut texts),
            Kind::SublinkColumn(number) => level
                .sublink_columns
                .get(number as usize - 1)
                .map(|known| Some(known.id.0))
                .ok_or_else(|| {
                    NotIncremental::new(
                        "a sub-query's column cannot be traced",
                        "Write it as a join.",
                    )
                }),
            Kind::Aggregate(_) | Kind::Sublink(_) | Kind::Window(_) | Kind::Grouping(_) => level
                .computed(&part)
                .map(|known| Some(known.id.0))
                .ok_or_else(|| {
                    NotIncremental::new(
                        "an aggregate, window function or sub-query stands where none is expected",
                        "The stream table is refreshed fully.",
                    )
                }),
            Kind::Wordless { what, hint } => Err(NotIncremental::new(what, hint)),
            Kind::SetReturning if !sets => Err(NotIncremental::new(
                "a set-returning function stands where none is expected",
                "Move it into FROM.",
            )),
            _ => Ok(None),
        })?;
        Ok(fragments
            .into_iter()
            .flat_map(|fragment| match fragment {
                Fragment::Text(text) => vec![Piece::Text(text)],
                Fragment::Hole(number) if number >= FIRST_CLOCK => vec![
                    Piece::Text("((".into()),
                    Piece::Clock(Clock::Now),
                    Piece::Text(format!(")::{})", clocks[(number - FIRST_CLOCK) as usize])),
                ],
                Fragment::Hole(number) => column(number, &texts),
            })
            .collect())
    }

    /// Whether the value can be NULL; true unless it is known not to be.
    fn nullable<'q>(&self, expr: &Expr<'q>, level: &Level<'q, '_>) -> bool {
        let any = |arguments: &[Expr<'q>]| {
            arguments
                .iter()
                .any(|argument| self.nullable(argument, level))
        };
        match expr.kind() {
            Kind::Var(var) => level.known(var).map_or(true, |known| known.nullable),
            Kind::Const { is_null } => is_null,
            Kind::SublinkColumn(number) => level
                .sublink_columns
                .get(number as usize - 1)
                .is_none_or(|known| known.nullable),
            Kind::Aggregate(_) | Kind::Sublink(_) | Kind::Window(_) | Kind::Grouping(_) => {
                level.computed(expr).is_none_or(|known| known.nullable)
            }
            Kind::NullTest => false,
            Kind::And(arguments) | Kind::Or(arguments) => any(&arguments),
            Kind::Not(argument) | Kind::Relabel(argument) => self.nullable(&argument, level),
            Kind::Coalesce(arguments) => arguments
                .iter()
                .all(|argument| self.nullable(argument, level)),
            Kind::Case { results, otherwise } => {
                any(&results) || otherwise.is_none_or(|otherwise| self.nullable(&otherwise, level))
            }
            Kind::Operator {
                operator,
                arguments,
            } => !total_operator(operator, &arguments) || any(&arguments),
            Kind::Function {
                function,
                arguments,
            } => !total_cast(function, &arguments) || any(&arguments),
            _ => true,
        }
    }

    /// The number of decimals every value of a numeric expression is printed with, as PostgreSQL's numeric computes it:
    /// sums and differences take the larger scale of their operands, products the sum of both.
    fn scale<'q>(&self, expr: &Expr<'q>, level: &Level<'q, '_>) -> Option<i32> {
        let (oid, modifier, collation) = expr.type_of();
        if matches!(oid, pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID) {
            return Some(0);
        }
        if node::base_type(oid) != pg_sys::NUMERICOID {
            return None;
        }
        if let Some(scale) = expr.numeric_constant_scale() {
            return Some(scale);
        }
        match expr.kind() {
            Kind::Var(var) => level.known(var).ok().and_then(|known| known.scale),
            Kind::Aggregate(_) | Kind::Sublink(_) => {
                level.computed(expr).and_then(|known| known.scale)
            }
            Kind::Relabel(argument) => self.scale(&argument, level),
            Kind::Function {
                function,
                arguments,
            } => {
                let facts = node::function_facts(function);
                match (facts.builtin, facts.name.as_str(), arguments.as_slice()) {
                    (true, "numeric", [only]) => self.scale(only, level),
                    // The fields of a date are whole numbers.
                    (true, "extract", [_, source])
                        if node::base_type(source.type_of().0) == pg_sys::DATEOID =>
                    {
                        Some(0)
                    }
                    (true, "numeric", [_, _]) => {
                        scale_of(&node::describe_type(oid, modifier, collation))
                    }
                    _ => None,
                }
            }
            Kind::Operator {
                operator,
                arguments,
            } => {
                let [left, right] = arguments.as_slice() else {
                    return None;
                };
                let (name, facts, _) =
                    node::operator_facts(operator, left.type_of().0, right.type_of().0);
                if !facts.builtin {
                    return None;
                }
                let (left, right) = (self.scale(left, level)?, self.scale(right, level)?);
                match name.as_str() {
                    "+" | "-" => Some(left.max(right)),
                    "*" => Some(left + right),
                    _ => None,
                }
            }
            Kind::Coalesce(arguments) => self.same_scale(&arguments, level),
            Kind::Case { results, otherwise } => {
                // A missing ELSE is NULL, which has no scale to disagree.
                let mut branches = results;
                branches.extend(
                    otherwise
                        .filter(|value| !matches!(value.kind(), Kind::Const { is_null: true })),
                );
                self.same_scale(&branches, level)
            }
            _ => None,
        }
    }

    fn same_scale<'q>(&self, arguments: &[Expr<'q>], level: &Level<'q, '_>) -> Option<i32> {
        let mut scales = arguments.iter().map(|argument| self.scale(argument, level));
        let first = scales.next()??;
        scales.all(|scale| scale == Some(first)).then_some(first)
    }
}

/// The structure of an expression that laws ask for.
fn shape<'q>(expr: &Expr<'q>, pieces: &[Piece], level: &Level<'q, '_>) -> Shape {
    if let [Piece::Column(id)] = pieces {
        return Shape::Column(*id);
    }
    if !pieces.iter().any(|piece| matches!(piece, Piece::Column(_))) {
        return Shape::Constant;
    }
    let Kind::Operator {
        operator,
        arguments,
    } = expr.kind()
    else {
        return Shape::Opaque;
    };
    let [left, right] = arguments.as_slice() else {
        return Shape::Opaque;
    };
    let (_, _, equality) = node::operator_facts(operator, left.type_of().0, right.type_of().0);
    if !equality {
        return Shape::Opaque;
    }
    let column = |side: &Expr<'q>| match side.strip_equal_relabel().kind() {
        Kind::Var(var) => level.known(var).ok().map(|known| known.id),
        Kind::SublinkColumn(number) => level
            .sublink_columns
            .get(number as usize - 1)
            .map(|known| known.id),
        _ => None,
    };
    let constant =
        |side: &Expr<'q>| matches!(side.strip_relabel().kind(), Kind::Const { is_null: false });
    match (column(left), column(right)) {
        (Some(a), Some(b)) => Shape::Equal(a, b),
        (Some(a), None) if constant(right) => Shape::EqualConstant(a),
        (None, Some(b)) if constant(left) => Shape::EqualConstant(b),
        _ => Shape::Opaque,
    }
}

/// Types for which the operators below give NULL only for a NULL operand.
fn plain_type(oid: pg_sys::Oid) -> bool {
    matches!(
        node::base_type(oid),
        pg_sys::BOOLOID
            | pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::NUMERICOID
            | pg_sys::FLOAT4OID
            | pg_sys::FLOAT8OID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::BPCHAROID
            | pg_sys::DATEOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
            | pg_sys::INTERVALOID
            | pg_sys::MONEYOID
            | pg_sys::UUIDOID
    )
}

/// The arguments of a call that is null as soon as one of them is; none of anything else.
pub(super) fn strict_arguments<'q>(expr: &Expr<'q>) -> Vec<Expr<'q>> {
    match expr.kind() {
        Kind::Operator {
            operator,
            arguments,
        } => {
            let of = |argument: Option<&Expr<'q>>| {
                argument.map_or(pg_sys::InvalidOid, |argument| argument.type_of().0)
            };
            let (_, facts, _) =
                node::operator_facts(operator, of(arguments.first()), of(arguments.last()));
            if facts.strict { arguments } else { vec![] }
        }
        Kind::Function {
            function,
            arguments,
        } if node::function_facts(function).strict => arguments,
        Kind::Relabel(argument) => vec![argument],
        _ => vec![],
    }
}

fn total_operator(operator: pg_sys::Oid, arguments: &[Expr<'_>]) -> bool {
    let first = arguments
        .first()
        .map_or(pg_sys::InvalidOid, |argument| argument.type_of().0);
    let last = arguments
        .last()
        .map_or(pg_sys::InvalidOid, |argument| argument.type_of().0);
    let (name, facts, _) = node::operator_facts(operator, first, last);
    facts.builtin
        && facts.strict
        && arguments
            .iter()
            .all(|argument| plain_type(argument.type_of().0))
        && matches!(
            name.as_str(),
            "+" | "-" | "*" | "/" | "%" | "=" | "<>" | "<" | "<=" | ">" | ">=" | "||"
        )
}

fn total_cast(function: pg_sys::Oid, arguments: &[Expr<'_>]) -> bool {
    let facts = node::function_facts(function);
    facts.builtin
        && facts.strict
        && arguments
            .iter()
            .all(|argument| plain_type(argument.type_of().0))
        && matches!(
            facts.name.as_str(),
            "int2"
                | "int4"
                | "int8"
                | "numeric"
                | "float4"
                | "float8"
                | "text"
                | "varchar"
                | "bpchar"
                | "upper"
                | "lower"
                | "abs"
                | "round"
                | "length"
        )
}
