//! The FROM clause.

use std::collections::{BTreeMap, BTreeSet};

use pgt_ivm::rel::{ColId, Rel};
use pgt_ivm::scalar::Scalar;

use super::NotIncremental;
use super::build::{Writer, boolean, extend, same};
use super::condition::{conjunction, conjuncts};
use super::context::{Wanted, image_of, is_shown, or_over_nothing};
use super::query::{Analyzer, Known, Level, Produced, Result};
use super::range::bind;
use super::subquery::tied;
use crate::pg::node::{Expr, FromNode, JoinKind, Rte, VarRef};

impl Analyzer {
    /// The items of a FROM list as inputs of one join, and conditions over them. `start` stands before the first.
    pub(super) fn items<'q>(
        &mut self,
        start: Option<Rel>,
        items: &[FromNode<'q>],
        level: &mut Level<'q, '_>,
    ) -> Result<(Vec<Rel>, Vec<Scalar>)> {
        let mut inputs: Vec<Rel> = start.into_iter().collect();
        let mut conditions = Vec::new();
        for item in items {
            match item {
                FromNode::Range(index) if !level.query.range_references(*index).is_empty() => {
                    let before =
                        combine(std::mem::take(&mut inputs), std::mem::take(&mut conditions));
                    inputs.push(self.lateral(*index, before, None, level)?);
                }
                item if !inputs.is_empty() && reaches_out(item, level) => {
                    let before =
                        combine(std::mem::take(&mut inputs), std::mem::take(&mut conditions));
                    inputs.push(self.read_node(Some(before), item, level)?);
                }
                item => inputs.push(self.read_node(None, item, level)?),
            }
        }
        Ok((inputs, conditions))
    }

    /// A node of the join tree, beside the rows of `before`, which its conditions may refer to.
    fn read_node<'q>(
        &mut self,
        before: Option<Rel>,
        node: &FromNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        match node {
            FromNode::Range(index) if !level.query.range_references(*index).is_empty() => {
                self.lateral(*index, before.unwrap_or(Rel::Unit), None, level)
            }
            FromNode::Range(index) => {
                let range = self.range(*index, level)?;
                Ok(combine(before.into_iter().chain([range]).collect(), vec![]))
            }
            FromNode::List { items, condition } => {
                let (inputs, conditions) = self.items(before, items, level)?;
                let parts = condition.map(conjuncts).unwrap_or_default();
                self.restrict(inputs, conditions, parts, level)
            }
            FromNode::Join {
                kind,
                left,
                right,
                on,
            } => {
                let beside = before.is_some() && reaches_out(right, level);
                let before = match (kind, before) {
                    (JoinKind::Full, Some(before)) => {
                        return self.full_apart(before, left, right, *on, level);
                    }
                    (JoinKind::Right, Some(before)) => {
                        let turned = FromNode::Join {
                            kind: JoinKind::Left,
                            left: right.clone(),
                            right: left.clone(),
                            on: *on,
                        };
                        return self.read_node(Some(before), &turned, level);
                    }
                    (_, before) => before,
                };
                let left = self.read_node(before, left, level)?;
                let parts = on.map(conjuncts).unwrap_or_default();
                if let FromNode::Range(index) = **right
                    && !level.query.range_references(index).is_empty()
                {
                    return match kind {
                        JoinKind::Inner => {
                            let joined = self.lateral(index, left, None, level)?;
                            self.restrict(vec![joined], vec![], parts, level)
                        }
                        JoinKind::Left => self.lateral(index, left, Some(parts), level),
                        _ => Err(NotIncremental::new(
                            "a lateral item in a right or full join",
                            "Write it as a left join.",
                        )),
                    };
                }
                if beside && *kind == JoinKind::Left {
                    let (right, own) = self.apart(right, level)?;
                    let on = tied(&knowns(&level.context), &knowns(&own))?;
                    return self.outer((left, right), on, false, parts, level);
                }
                if beside {
                    let joined = self.read_node(Some(left), right, level)?;
                    return self.restrict(vec![joined], vec![], parts, level);
                }
                let right = self.read_node(None, right, level)?;
                match kind {
                    JoinKind::Inner => self.restrict(vec![left, right], vec![], parts, level),
                    JoinKind::Left => self.outer((left, right), vec![], false, parts, level),
                    JoinKind::Right => self.outer((right, left), vec![], false, parts, level),
                    JoinKind::Full => self.outer((left, right), vec![], true, parts, level),
                }
            }
        }
    }

    /// A node of the join tree for each set of values of the context, and the columns beside it that hold these.
    fn apart<'q>(
        &mut self,
        node: &FromNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Vec<(VarRef, Known)>)> {
        let Some(around) = level.around.clone() else {
            return Err(NotIncremental::new(
                "a join inside a sub-query refers to the query around it",
                "Move the condition into WHERE, or write a left join.",
            ));
        };
        let (domain, own) = self.domain(&around.rel, &around.columns)?;
        let before = std::mem::replace(&mut level.context, own);
        let rel = self.read_node(Some(domain), node, level);
        let own = std::mem::replace(&mut level.context, before);
        Ok((rel?, own))
    }

    /// A full join inside a sub-query: one for each set of values of the context, joined with the rows before that have it.
    fn full_apart<'q>(
        &mut self,
        before: Rel,
        left: &FromNode<'q>,
        right: &FromNode<'q>,
        on: Option<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let (left, of_left) = self.apart(left, level)?;
        let (right, of_right) = self.apart(right, level)?;
        let same = tied(&knowns(&of_left), &knowns(&of_right))?;
        let parts = on.map(conjuncts).unwrap_or_default();
        let around = std::mem::replace(&mut level.context, of_left.clone());
        let joined = self.outer((left, right), same, true, parts, level);
        level.context = around;
        let mut merged = Vec::new();
        let mut more = Vec::new();
        for ((_, one), (_, other)) in of_left.iter().zip(&of_right) {
            let value = Writer::default()
                .text("COALESCE(")
                .column(one.id)
                .text(", ")
                .column(other.id)
                .text(")")
                .value(one.ty.clone(), one.nullable);
            let known = Known {
                id: self.column(),
                ..one.clone()
            };
            more.push((known.id, value));
            merged.push(known);
        }
        let joined = extend(joined?, more);
        let on = tied(&knowns(&level.context), &merged)?;
        Ok(combine(vec![before, joined], on))
    }

    /// An item of FROM that refers to what stands before it. `left` holds the conditions of a LEFT JOIN.
    fn lateral<'q>(
        &mut self,
        index: usize,
        before: Rel,
        left: Option<Vec<Expr<'q>>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let Rte::Subquery { query } = &level.range_table[index - 1] else {
            return self.computed(index, before, left, level);
        };
        let query = *query;
        let before = self.distinguished(before, query, level)?;
        let context = self.context(&before, query, level, Wanted::Rows)?;
        let outer: Vec<Known> = context
            .columns
            .iter()
            .map(|(_, known)| known.clone())
            .collect();
        let answer = self.answer(query, Some(level), Some(context))?;
        let mut on = Vec::new();
        for (mine, theirs) in outer.iter().zip(&answer.context) {
            on.extend(same(mine, theirs)?);
        }
        let Some(empty) = answer.empty else {
            bind(index, answer.produced, level);
            let right = self.whole_row(index, answer.rel, level);
            let Some(parts) = left else {
                return Ok(combine(vec![before, right], on));
            };
            let columns = right.columns();
            for part in parts {
                on.extend(self.conditions(part, level)?);
            }
            nullable(&columns, level);
            return Ok(Rel::Outer {
                left: Box::new(before),
                right: Box::new(right),
                full: false,
                on,
            });
        };
        // There is always exactly one row, so that a left join is an inner one; its condition hides the values.
        let inner = left.is_none();
        let (right, there) = self.mark(answer.rel);
        let joined = Rel::Outer {
            left: Box::new(before),
            right: Box::new(right),
            full: false,
            on,
        };
        let mut more = Vec::new();
        let mut produced = Vec::new();
        for (column, empty) in answer.produced.into_iter().zip(empty) {
            let value = or_over_nothing(there, &column.known, &empty, answer.shown.as_ref());
            let known = Known {
                id: self.column(),
                nullable: true,
                ..column.known
            };
            more.push((known.id, value));
            produced.push(Produced {
                name: column.name,
                known,
            });
        }
        let shown_row: Vec<Known> = produced.iter().map(|column| column.known.clone()).collect();
        let names: Vec<String> = produced.iter().map(|column| column.name.clone()).collect();
        bind(index, produced, level);
        let extended = self.whole_row(index, extend(joined, more), level);
        let parts: Vec<Expr<'q>> = left
            .into_iter()
            .flatten()
            .filter(|part| !part.is_true_constant())
            .collect();
        if !parts.is_empty() {
            return self.hidden(index, extended, names, shown_row, parts, level);
        }
        match &answer.shown {
            Some((shown, over_nothing)) if inner => Ok(Rel::Filter {
                input: Box::new(extended),
                conditions: vec![is_shown(there, shown, over_nothing).value(boolean(), false)],
            }),
            _ => Ok(extended),
        }
    }

    /// The columns `shown` of item `index`, null where one of the conditions `parts` does not hold.
    fn hidden<'q>(
        &mut self,
        index: usize,
        rel: Rel,
        names: Vec<String>,
        shown: Vec<Known>,
        parts: Vec<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let before = level.computed.len();
        let rel = self.lift(rel, &parts, level)?;
        let mut conditions = Vec::new();
        for part in parts {
            conditions.extend(self.conditions(part, level)?);
        }
        level.computed.truncate(before);
        let holds = conjunction(&conditions);
        let mut hide = |known: &Known| {
            let value = Writer::default()
                .text("CASE WHEN ")
                .scalar(&holds)
                .text(" THEN ")
                .column(known.id)
                .text(" END")
                .value(known.ty.clone(), true);
            let hidden = Known {
                id: self.column(),
                nullable: true,
                ..known.clone()
            };
            ((hidden.id, value), hidden)
        };
        let (mut more, knowns): (Vec<_>, Vec<_>) = shown.iter().map(&mut hide).unzip();
        if let Some(whole) = level.known.get(&(index, 0)).cloned() {
            let (value, hidden) = hide(&whole);
            more.push(value);
            level.known.insert((index, 0), hidden);
        }
        let produced = names
            .into_iter()
            .zip(knowns)
            .map(|(name, known)| Produced { name, known })
            .collect();
        bind(index, produced, level);
        Ok(extend(rel, more))
    }

    /// A left or full join.
    fn outer<'q>(
        &mut self,
        (left, right): (Rel, Rel),
        mut on: Vec<Scalar>,
        full: bool,
        parts: Vec<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let (mut left, mut right) = (left, right);
        let before = level.computed.len();
        let mut both = Vec::new();
        let mut plain = Vec::new();
        for part in parts {
            // A sub-select in the condition becomes a column of the side it looks at.
            if !part.sublinks(true).is_empty() {
                let here: BTreeSet<ColId> = part
                    .references()
                    .into_iter()
                    .filter_map(|var| level.known(var).ok())
                    .map(|known| known.id)
                    .collect();
                if here.is_subset(&right.columns()) {
                    right = self.lift(right, &[part], level)?;
                } else if here.is_subset(&left.columns()) {
                    left = self.lift(left, &[part], level)?;
                } else if !full {
                    both.push(part);
                    continue;
                } else {
                    return Err(NotIncremental::new(
                        "a sub-query in the condition of a full join looks at both sides",
                        "Compute it in a sub-query in FROM.",
                    ));
                }
                on.extend(self.conditions(part, level)?);
            } else {
                plain.push(part);
            }
        }
        if !both.is_empty() {
            // They leave fewer rows for the others.
            let (compared, others): (Vec<_>, Vec<_>) = plain.into_iter().partition(|part| {
                part.references().into_iter().all(|var| {
                    level
                        .known(var)
                        .is_ok_and(|known| known.ty.equality.is_some())
                })
            });
            both.extend(compared);
            plain = others;
        }
        for part in plain {
            on.extend(self.conditions(part, level)?);
        }
        level.computed.truncate(before);
        if !both.is_empty() {
            let (matched, same) = self.matched(&mut left, right, both, level)?;
            right = matched;
            on.extend(same);
        }
        let mut optional = right.columns();
        if full {
            optional.extend(left.columns());
        }
        nullable(&optional, level);
        Ok(Rel::Outer {
            left: Box::new(left),
            right: Box::new(right),
            full,
            on,
        })
    }

    /// The rows of the optional side `right` that conditions with sub-selects over both sides match with each set of values
    /// the other side has, and what ties these to it.
    fn matched<'q>(
        &mut self,
        left: &mut Rel,
        right: Rel,
        parts: Vec<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Vec<Scalar>)> {
        let sides = left.columns();
        let mut used: Vec<Known> = Vec::new();
        let mut more = Vec::new();
        for var in parts.iter().flat_map(|part| part.references()) {
            let known = level.known(var)?.clone();
            if !sides.contains(&known.id) || used.iter().any(|other| other.id == known.id) {
                continue;
            }
            // Equal values that look different may match different rows.
            if !known.ty.bitwise && known.scale.is_none() && known.ty.equality.is_some() {
                let value = image_of(&known);
                let image = Known {
                    id: self.column(),
                    ty: value.ty.clone(),
                    nullable: false,
                    scale: None,
                };
                more.push((image.id, value));
                used.push(image);
            }
            used.push(known);
        }
        if !more.is_empty() {
            *left = extend(left.clone(), more);
        }
        let (copy, renamed) = self.fresh(left);
        let copied: Vec<Known> = used
            .iter()
            .map(|known| Known {
                id: renamed.get(&known.id).copied().unwrap_or(known.id),
                ..known.clone()
            })
            .collect();
        if let Some(bare) = used.iter().find(|known| known.ty.equality.is_none()) {
            return Err(NotIncremental::new(
                format!(
                    "a sub-query in the condition of an outer join looks at type {}, which has no equality",
                    bare.ty.name
                ),
                "Cast it to a type that can be compared.",
            ));
        }
        let (domain, keys) = self.grouped(copy, &copied, &[], vec![]);
        let stands: BTreeMap<ColId, Known> = used
            .iter()
            .zip(&keys)
            .map(|(known, key)| (known.id, key.clone()))
            .collect();
        let (known, context) = (level.known.clone(), level.context.clone());
        for known in level.known.values_mut() {
            put_in_place(known, &stands);
        }
        for (_, known) in &mut level.context {
            put_in_place(known, &stands);
        }
        let matched = self.restrict(vec![domain, right], vec![], parts, level);
        (level.known, level.context) = (known, context);
        Ok((matched?, tied(&used, &keys)?))
    }
}

/// The columns of a context.
fn knowns(context: &[(VarRef, Known)]) -> Vec<Known> {
    context.iter().map(|(_, known)| known.clone()).collect()
}

/// A condition or an item inside a join tree refers to the query around it.
pub(super) fn reaches_out(node: &FromNode<'_>, level: &Level<'_, '_>) -> bool {
    let refers_out =
        |condition: &Expr<'_>| condition.references().iter().any(|var| var.levels_up > 0);
    match node {
        FromNode::Range(index) => level
            .query
            .range_references(*index)
            .iter()
            .any(|var| var.levels_up > 0),
        FromNode::List { items, condition } => {
            items.iter().any(|item| reaches_out(item, level)) || condition.iter().any(refers_out)
        }
        FromNode::Join {
            left, right, on, ..
        } => on.iter().any(refers_out) || reaches_out(left, level) || reaches_out(right, level),
    }
}

/// The other columns that `to` names in place of those.
fn put_in_place(known: &mut Known, to: &BTreeMap<ColId, Known>) {
    if let Some(other) = to.get(&known.id) {
        *known = other.clone();
    }
}

/// Columns of the optional side of an outer join can be null.
fn nullable(columns: &BTreeSet<ColId>, level: &mut Level<'_, '_>) {
    for known in level
        .known
        .values_mut()
        .filter(|known| columns.contains(&known.id))
    {
        known.nullable = true;
    }
}

/// Joins inputs, flattening inner joins so that a delta sees all inputs side by side.
pub(super) fn combine(inputs: Vec<Rel>, mut conditions: Vec<Scalar>) -> Rel {
    let mut flat = Vec::new();
    for input in inputs {
        match input {
            Rel::Join {
                inputs: below,
                conditions: on,
            } => {
                flat.extend(below);
                conditions.extend(on);
            }
            other => flat.push(other),
        }
    }
    if flat.is_empty() {
        flat.push(Rel::Unit);
    }
    if flat.len() == 1 {
        let only = flat.remove(0);
        if conditions.is_empty() {
            only
        } else {
            Rel::Filter {
                input: Box::new(only),
                conditions,
            }
        }
    } else {
        Rel::Join {
            inputs: flat,
            conditions,
        }
    }
}
