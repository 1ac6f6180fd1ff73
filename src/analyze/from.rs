//! The FROM clause.

use std::collections::BTreeSet;

use pgt_ivm::rel::{ColId, Rel};
use pgt_ivm::scalar::Scalar;

use super::NotIncremental;
use super::build::{Writer, boolean, extend, same};
use super::condition::{conjunction, conjuncts};
use super::context::{Wanted, is_shown, or_over_nothing};
use super::query::{Analyzer, Known, Level, Produced, Result};
use super::range::bind;
use crate::pg::node::{Expr, FromNode, JoinKind, Rte};

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
                let optional = match kind {
                    JoinKind::Inner => false,
                    JoinKind::Left => beside && !matches!(**right, FromNode::Range(_)),
                    JoinKind::Right | JoinKind::Full => true,
                };
                if before.is_some() && optional {
                    return Err(NotIncremental::new(
                        "a join inside a sub-query refers to the query around it",
                        "Move the condition into WHERE, or write a left join.",
                    ));
                }
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
                if beside {
                    let joined = self.read_node(Some(left), right, level)?;
                    return self.restrict(vec![joined], vec![], parts, level);
                }
                let right = self.read_node(None, right, level)?;
                match kind {
                    JoinKind::Inner => self.restrict(vec![left, right], vec![], parts, level),
                    JoinKind::Left => self.outer(left, right, false, parts, level),
                    JoinKind::Right => self.outer(right, left, false, parts, level),
                    JoinKind::Full => self.outer(left, right, true, parts, level),
                }
            }
        }
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
        left: Rel,
        right: Rel,
        full: bool,
        parts: Vec<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let (mut left, mut right) = (left, right);
        let before = level.computed.len();
        let mut on = Vec::new();
        for part in parts {
            // A sub-select in the condition becomes a column of the side it looks at.
            if !part.sublinks(true).is_empty() {
                let here: BTreeSet<ColId> = part
                    .references()
                    .into_iter()
                    .filter(|var| var.levels_up == 0)
                    .filter_map(|var| level.known.get(&(var.range, var.attnum)))
                    .map(|known| known.id)
                    .collect();
                if here.is_subset(&right.columns()) {
                    right = self.lift(right, &[part], level)?;
                } else if here.is_subset(&left.columns()) {
                    left = self.lift(left, &[part], level)?;
                } else {
                    return Err(NotIncremental::new(
                        "a sub-query in the condition of an outer join looks at both sides",
                        "Compute it in a sub-query in FROM.",
                    ));
                }
            }
            on.extend(self.conditions(part, level)?);
        }
        level.computed.truncate(before);
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
