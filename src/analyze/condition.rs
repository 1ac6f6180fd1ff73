//! Conditions: conjuncts, and the sub-selects among them, which become semi and anti joins where that is possible.

use std::collections::BTreeMap;

use pgt_ivm::facts;
use pgt_ivm::rel::{ColId, Rel};
use pgt_ivm::scalar::Scalar;

use super::NotIncremental;
use super::build::{Writer, boolean, same};
use super::context::Wanted;
use super::from::combine;
use super::moving::{has_clock, place};
use super::query::{Analyzer, Known, Level, Produced, Result};
use super::scalar::strict_arguments;
use crate::pg::node::{Expr, FromNode, Kind, Query, SublinkKind, SublinkNode};

/// The rows of a sub-select, its columns, and the conditions that tie it to the query around it.
type SubSelect = (Rel, Vec<Produced>, Vec<Scalar>);

impl Analyzer {
    /// The join of `inputs` under `conditions` and the conjuncts `parts`, which may contain sub-selects.
    pub(super) fn restrict<'q>(
        &mut self,
        inputs: Vec<Rel>,
        mut conditions: Vec<Scalar>,
        parts: Vec<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let mut links = Vec::new();
        let mut involved = Vec::new();
        let mut moving = Vec::new();
        for part in parts {
            match sublink(part) {
                Some(link) => links.push((part, link)),
                None if !part.sublinks(true).is_empty() => involved.push(part),
                None if has_clock(&part) => moving.push(self.moving(part, level)?),
                None => conditions.extend(self.conditions(part, level)?),
            }
        }
        let mut rel = place(combine(inputs, conditions), moving);
        for (part, (present, link)) in links {
            match self.matching(&rel, present, link, level)? {
                Some(matched) => rel = matched,
                None => involved.push(part),
            }
        }
        if !involved.is_empty() {
            // The columns end here: above an outer join they could be null where the sub-select is not.
            let before = level.computed.len();
            let needed: Vec<Expr<'q>> = involved.iter().flat_map(needed_sublinks).collect();
            rel = self.lift_needed(rel, &involved, &needed, level)?;
            let mut conditions = Vec::new();
            for part in involved {
                conditions.extend(self.conditions(part, level)?);
            }
            level.computed.truncate(before);
            rel = combine(vec![rel], conditions);
        }
        Ok(rel)
    }

    /// `EXISTS`, `x op ANY`, `x op ALL` or their negations as a condition on `rel`; none if only a column will do.
    fn matching<'q>(
        &mut self,
        rel: &Rel,
        present: bool,
        link: SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<Option<Rel>> {
        if link
            .test
            .is_some_and(|test| !test.sublinks(true).is_empty())
        {
            return Ok(None);
        }
        let Some((rel, (inner, produced, mut on))) = self.sub_select(rel, &link, level)? else {
            return Ok(None);
        };
        let all = link.kind == SublinkKind::All;
        if let Some(test) = link.test {
            level.sublink_columns = produced.iter().map(|column| column.known.clone()).collect();
            let compared = self.conditions(test, level);
            level.sublink_columns.clear();
            let compared = compared?;
            // A single comparison that is unknown could be told from a false one by a hash of NULLs; here it is a join.
            if !present && !all && compared.len() == 1 && compared[0].nullable {
                return Ok(None);
            }
            // NOT IN holds if every comparison is false, ALL if every one is true; unknown ones spoil both.
            on.extend(compared.into_iter().map(|condition| match (all, present) {
                (false, true) => condition,
                (false, false) if !condition.nullable => condition,
                (false, false) => tested(condition, "IS NOT FALSE"),
                (true, true) => tested(condition, "IS NOT TRUE"),
                (true, false) => tested(condition, "IS FALSE"),
            }));
        }
        // ALL holds where no comparison fails.
        let present = present != all;
        let mut visible = rel.columns();
        visible.extend(inner.columns());
        if !on.iter().all(|scalar| scalar.columns().is_subset(&visible)) {
            return Err(NotIncremental::new(
                "a sub-query refers to a query further out",
                "Write it as a join.",
            ));
        }
        // A row that matches at most one row of `inner` is in the inner join as often as in the semi join. The columns of
        // `inner` beside it are read by nobody.
        if present && facts::matches_at_most_one(&inner, &on) {
            return Ok(Some(combine(vec![rel, inner], on)));
        }
        Ok(Some(Rel::Match {
            left: Box::new(rel),
            right: Box::new(inner),
            present,
            on,
        }))
    }

    /// `rel`, perhaps beside more columns, and the rows of a sub-select in a condition with what ties them to it; none if they
    /// always exist.
    fn sub_select<'q>(
        &mut self,
        rel: &Rel,
        link: &SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<Option<(Rel, SubSelect)>> {
        let query = link.query;
        let exists = link.kind == SublinkKind::Exists;
        if query.vars().iter().any(|var| var.levels_up > 0)
            && let Some(found) = self.simple_sub_select(query, exists, level)?
        {
            return Ok(Some((rel.clone(), found)));
        }
        let wanted = if exists {
            Wanted::Existence
        } else {
            Wanted::Rows
        };
        let rel = self.distinguished(rel.clone(), query, level)?;
        let context = self.context(&rel, query, level, wanted)?;
        let outer: Vec<Known> = context
            .columns
            .iter()
            .map(|(_, known)| known.clone())
            .collect();
        let answer = self.answer(query, Some(level), Some(context))?;
        if answer.empty.is_some() && (exists || !outer.is_empty()) {
            return Ok(None);
        }
        let mut on = Vec::new();
        for (mine, theirs) in outer.iter().zip(&answer.context) {
            on.extend(same(mine, theirs)?);
        }
        Ok(Some((rel, (answer.rel, answer.produced, on))))
    }

    /// A sub-select of joins and conditions alone: whatever ties it to the query around it can stay a condition.
    fn simple_sub_select<'q>(
        &mut self,
        query: Query<'q>,
        exists: bool,
        level: &Level<'q, '_>,
    ) -> Result<Option<SubSelect>> {
        let FromNode::List { items, condition } = query.from() else {
            return Ok(None);
        };
        let ranges = query.range_table().len();
        let lateral = (1..=ranges).any(|index| {
            query
                .range_references(index)
                .iter()
                .any(|var| var.levels_up > 0)
        });
        let plain = !query.has_aggregates()
            && !query.has_group_by()
            && !query.has_grouping_sets()
            && !query.has_windows()
            && !query.has_target_srfs()
            && query.limit().is_none()
            && query.set_operation().is_none();
        let nested = condition.is_some_and(|condition| {
            condition
                .sublinks(true)
                .iter()
                .any(|link| link.references().iter().any(|var| var.levels_up > 0))
        });
        if lateral || !plain || nested || joins_refer_out(&items) {
            return Ok(None);
        }
        let mut inner = Level::new(query, Some(level));
        let (correlated, own): (Vec<Expr<'q>>, Vec<Expr<'q>>) = condition
            .map(conjuncts)
            .unwrap_or_default()
            .into_iter()
            .partition(|part| part.sublinks(true).is_empty() && refers_out(part));
        let (inputs, conditions) = self.items(None, &items, &mut inner)?;
        let rel = self.restrict(inputs, conditions, own, &mut inner)?;
        let mut on = Vec::new();
        for part in correlated {
            on.extend(self.conditions(part, &inner)?);
        }
        let mut produced = Vec::new();
        let mut columns: Vec<(ColId, Scalar)> = Vec::new();
        for target in query.targets().iter().filter(|target| !target.junk) {
            // What an EXISTS selects does not matter, and an IN may only select what its own tables have.
            if let Ok((scalar, scale)) = self.scalar(target.expr, &inner) {
                let id = self.column();
                let known = Known {
                    id,
                    ty: scalar.ty.clone(),
                    nullable: scalar.nullable,
                    scale,
                };
                produced.push(Produced {
                    name: target.name.clone(),
                    known,
                });
                columns.push((id, scalar));
            }
        }
        // The columns the conditions use pass through beside the selected ones.
        let below = rel.column_types();
        let mut renamed: BTreeMap<ColId, ColId> = BTreeMap::new();
        for id in on.iter().flat_map(Scalar::columns) {
            if let (Some((ty, nullable)), false) = (below.get(&id), renamed.contains_key(&id)) {
                let fresh = self.column();
                columns.push((fresh, Scalar::column(id, ty.clone(), *nullable)));
                renamed.insert(id, fresh);
            }
        }
        let columns = columns
            .into_iter()
            .filter(|(_, scalar)| scalar.columns().iter().all(|id| below.contains_key(id)))
            .collect::<Vec<_>>();
        produced.retain(|column| columns.iter().any(|(id, _)| *id == column.known.id));
        let selected = query.targets().iter().filter(|target| !target.junk).count();
        if !exists && produced.len() != selected {
            return Ok(None);
        }
        let on = on
            .iter()
            .map(|condition| condition.rename(&mut |id| renamed.get(&id).copied().unwrap_or(id)))
            .collect();
        Ok(Some((
            Rel::Project {
                input: Box::new(rel),
                columns,
            },
            produced,
            on,
        )))
    }

    /// The conjuncts of a condition.
    pub(super) fn conditions<'q>(
        &mut self,
        condition: Expr<'q>,
        level: &Level<'q, '_>,
    ) -> Result<Vec<Scalar>> {
        match condition.kind() {
            Kind::And(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.extend(self.conditions(part, level)?);
                }
                Ok(all)
            }
            _ => Ok(vec![self.scalar(condition, level)?.0]),
        }
    }
}

/// The parts of a conjunction. What all alternatives of a disjunction have in common is a part too: (a AND b) OR (a AND c)
/// holds only where a does. The disjunction stays whole, since only what the query spells out can be printed.
pub(super) fn conjuncts(condition: Expr<'_>) -> Vec<Expr<'_>> {
    match condition.kind() {
        Kind::And(parts) => parts.into_iter().flat_map(conjuncts).collect(),
        Kind::Or(alternatives) => {
            let mut parts = common(&alternatives);
            parts.push(condition);
            parts
        }
        _ => vec![condition],
    }
}

/// The conjuncts that all of the alternatives have, without sub-selects: those are looked at once.
fn common<'q>(alternatives: &[Expr<'q>]) -> Vec<Expr<'q>> {
    let mut each = alternatives.iter().map(|one| conjuncts(*one));
    let first = each.next().unwrap_or_default();
    each.fold(first, |mut shared, other| {
        shared.retain(|part| other.iter().any(|known| known.equals(part)));
        shared
    })
    .into_iter()
    .filter(|part| part.sublinks(true).is_empty())
    .collect()
}

/// The sub-selects used as values without which a condition is not true: it is strict in them.
fn needed_sublinks<'q>(condition: &Expr<'q>) -> Vec<Expr<'q>> {
    match condition.kind() {
        Kind::Sublink(node) if node.kind == SublinkKind::Value => vec![*condition],
        Kind::And(parts) => parts.iter().flat_map(needed_sublinks).collect(),
        _ => strict_arguments(condition)
            .iter()
            .flat_map(needed_sublinks)
            .collect(),
    }
}

/// A condition that is a sub-link or the negation of one.
fn sublink(condition: Expr<'_>) -> Option<(bool, SublinkNode<'_>)> {
    let usable = |node: &SublinkNode<'_>| {
        matches!(
            node.kind,
            SublinkKind::Exists | SublinkKind::Any | SublinkKind::All
        )
    };
    match condition.kind() {
        Kind::Sublink(node) if usable(&node) => Some((true, node)),
        Kind::Not(inner) => match inner.kind() {
            Kind::Sublink(node) if usable(&node) => Some((false, node)),
            _ => None,
        },
        _ => None,
    }
}

/// `(condition) IS NOT FALSE` or the like, which is never null.
pub(super) fn tested(condition: Scalar, test: &str) -> Scalar {
    Writer::default()
        .scalar(&condition)
        .text(" ")
        .text(test)
        .value(condition.ty, false)
}

/// A condition inside the join tree refers to the query around it.
fn joins_refer_out(items: &[FromNode<'_>]) -> bool {
    items.iter().any(|item| match item {
        FromNode::Range(_) => false,
        FromNode::List { items, condition } => {
            joins_refer_out(items) || condition.iter().any(refers_out)
        }
        FromNode::Join {
            left, right, on, ..
        } => {
            on.iter().any(refers_out)
                || joins_refer_out(std::slice::from_ref(&**left))
                || joins_refer_out(std::slice::from_ref(&**right))
        }
    })
}

fn refers_out(expr: &Expr<'_>) -> bool {
    expr.references().iter().any(|var| var.levels_up > 0)
}

/// All of the conditions as one.
pub(super) fn conjunction(conditions: &[Scalar]) -> Scalar {
    let mut text = Writer::default();
    for (position, condition) in conditions.iter().enumerate() {
        text = text
            .text(if position > 0 { " AND " } else { "" })
            .scalar(condition);
    }
    text.value(boolean(), true)
}
