//! The FROM clause.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{At, Body, ColId, PartitionInput, Rel, Scan, ScanColumn, SourceId};
use pgt_ivm::scalar::Scalar;

use super::query::{Analyzer, Known, Level, Produced, Result};
use super::subquery::{Wanted, Writer, boolean, extend, is_shown, or_over_nothing, same};
use super::{NotIncremental, source};
use crate::pg::node::{
    self, Expr, FromNode, Item, JoinKind, Kind, Query, Rte, SublinkKind, SublinkNode,
};

/// The rows of a sub-select, its columns, and the conditions that tie it to the query around it.
type SubSelect = (Rel, Vec<Produced>, Vec<Scalar>);

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
                item => inputs.push(self.read_node(item, level)?),
            }
        }
        Ok((inputs, conditions))
    }

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
        for part in parts {
            match sublink(part) {
                Some(link) => links.push((part, link)),
                None if !part.sublinks(true).is_empty() => involved.push(part),
                None => conditions.extend(self.conditions(part, level)?),
            }
        }
        let mut rel = combine(inputs, conditions);
        for (part, (present, link)) in links {
            match self.matching(&rel, present, link, level)? {
                Some(matched) => rel = matched,
                None => involved.push(part),
            }
        }
        if !involved.is_empty() {
            // The columns end here: above an outer join they could be null where the sub-select is not.
            let before = level.computed.len();
            rel = self.lift(rel, &involved, level)?;
            let mut conditions = Vec::new();
            for part in involved {
                conditions.extend(self.conditions(part, level)?);
            }
            level.computed.truncate(before);
            rel = Rel::Filter {
                input: Box::new(rel),
                conditions,
            };
        }
        Ok(rel)
    }

    /// A node of the join tree.
    fn read_node<'q>(&mut self, node: &FromNode<'q>, level: &mut Level<'q, '_>) -> Result<Rel> {
        match node {
            FromNode::Range(index) => self.range(*index, level),
            FromNode::List { items, condition } => {
                let (inputs, conditions) = self.items(None, items, level)?;
                let parts = condition.map(conjuncts).unwrap_or_default();
                self.restrict(inputs, conditions, parts, level)
            }
            FromNode::Join {
                kind,
                left,
                right,
                on,
            } => {
                let left = self.read_node(left, level)?;
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
                let right = self.read_node(right, level)?;
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
            let Some(parts) = left else {
                return Ok(combine(vec![before, answer.rel], on));
            };
            let columns = answer.rel.columns();
            for part in parts {
                on.extend(self.conditions(part, level)?);
            }
            nullable(&columns, level);
            return Ok(Rel::Outer {
                left: Box::new(before),
                right: Box::new(answer.rel),
                full: false,
                on,
            });
        };
        // There is always exactly one row, so that a left join without conditions is an inner one.
        let inner = left.is_none();
        let always = left.iter().flatten().all(|part| part.is_true_constant());
        if !always {
            return Err(NotIncremental::new(
                "a left join of a lateral aggregate under a condition",
                "Put the condition into the sub-query.",
            ));
        }
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
        bind(index, produced, level);
        let extended = extend(joined, more);
        match &answer.shown {
            Some((shown, over_nothing)) if inner => Ok(Rel::Filter {
                input: Box::new(extended),
                conditions: vec![is_shown(there, shown, over_nothing).value(boolean(), false)],
            }),
            _ => Ok(extended),
        }
    }

    /// VALUES or function calls beside the rows of `before`.
    fn computed<'q>(
        &mut self,
        index: usize,
        before: Rel,
        left: Option<Vec<Expr<'q>>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let kept = level.computed.len();
        let before = self.lift(before, &level.query.item_expressions(index), level)?;
        let Some(item) = level.query.item(index) else {
            return Err(NotIncremental::new(
                "an item of FROM has an unknown form",
                "The stream table is refreshed fully.",
            ));
        };
        let mut text = Writer::default();
        match item {
            Item::Functions { calls, ordinality } => {
                text = text.text("ROWS FROM (");
                for (position, (call, definitions)) in calls.into_iter().enumerate() {
                    if position > 0 {
                        text = text.text(", ");
                    }
                    let (call, _) = self.target(call, level)?;
                    text = text.bare(&call);
                    if !definitions.is_empty() {
                        let list: Vec<String> = definitions
                            .iter()
                            .map(|(name, ty)| {
                                format!("{} {ty}", pgt_ivm::sql::quote_identifier(name))
                            })
                            .collect();
                        text = text.text(&format!(" AS ({})", list.join(", ")));
                    }
                }
                text = text.text(if ordinality { ") WITH ORDINALITY" } else { ")" });
            }
            Item::Values(rows) => {
                text = text.text("(VALUES ");
                for (position, row) in rows.into_iter().enumerate() {
                    text = text.text(if position > 0 { ", (" } else { "(" });
                    for (position, value) in row.into_iter().enumerate() {
                        if position > 0 {
                            text = text.text(", ");
                        }
                        let (value, _) = self.scalar(value, level)?;
                        text = text.bare(&value);
                    }
                    text = text.text(")");
                }
                text = text.text(")");
            }
            Item::Table(call) => {
                text = text.parts(self.pieces(call, level, true)?);
            }
        }
        let mut columns = Vec::new();
        let mut produced = Vec::new();
        for (name, ty) in level.query.range_columns(index) {
            let known = Known {
                id: self.column(),
                ty: ty.clone(),
                nullable: true,
                scale: scale_of(&ty),
            };
            columns.push((known.id, ty));
            produced.push(Produced { name, known });
        }
        if columns.is_empty() {
            return Err(NotIncremental::new(
                "an item of FROM without columns",
                "The stream table is refreshed fully.",
            ));
        }
        level.computed.truncate(kept);
        bind(index, produced, level);
        let mut on = Vec::new();
        let outer = left.is_some();
        for part in left.into_iter().flatten() {
            on.extend(self.conditions(part, level)?);
        }
        Ok(Rel::Expand {
            input: Box::new(before),
            item: text.value(boolean(), true),
            columns,
            outer,
            on,
        })
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
        let Some((inner, produced, mut on)) = self.sub_select(rel, &link, level)? else {
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
        Ok(Some(Rel::Match {
            left: Box::new(rel.clone()),
            right: Box::new(inner),
            present,
            on,
        }))
    }

    /// The rows of a sub-select in a condition, and the conditions that tie them to the query around it; none if they
    /// always exist.
    fn sub_select<'q>(
        &mut self,
        rel: &Rel,
        link: &SublinkNode<'q>,
        level: &Level<'q, '_>,
    ) -> Result<Option<SubSelect>> {
        let query = link.query;
        let exists = link.kind == SublinkKind::Exists;
        if query.vars().iter().any(|var| var.levels_up > 0)
            && let Some(found) = self.simple_sub_select(query, exists, level)?
        {
            return Ok(Some(found));
        }
        let wanted = if exists {
            Wanted::Existence
        } else {
            Wanted::Rows
        };
        let context = self.context(rel, query, level, wanted)?;
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
        Ok(Some((answer.rel, answer.produced, on)))
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

    fn range<'q>(&mut self, index: usize, level: &mut Level<'q, '_>) -> Result<Rel> {
        let refuse = |what: &str| {
            Err(NotIncremental::new(
                format!("{what} in FROM is not incremental yet"),
                "The stream table is refreshed fully.",
            ))
        };
        match &level.range_table[index - 1] {
            Rte::Relation {
                relid,
                inherit,
                relkind,
                sampled,
                row_security,
            } => {
                if *sampled {
                    return refuse("TABLESAMPLE");
                }
                if *row_security {
                    return refuse("a table with row-level security");
                }
                let (relid, inherit, relkind) = (*relid, *inherit, *relkind);
                self.scan(index, relid, inherit, relkind, level)
            }
            Rte::Subquery { query, .. } => {
                let query = *query;
                let (rel, produced) = self.query(query, Some(level))?;
                bind(index, produced, level);
                Ok(rel)
            }
            Rte::Cte {
                name,
                levels_up,
                recursive,
            } => {
                if *recursive {
                    return refuse("a recursive reference");
                }
                let (name, levels_up) = (name.clone(), *levels_up);
                let (rel, produced) = self.cte(index, &name, levels_up, level)?;
                bind(index, produced, level);
                Ok(rel)
            }
            Rte::Item => self.computed(index, Rel::Unit, None, level),
            Rte::Result => Ok(Rel::Unit),
            _ => refuse("an item of this kind"),
        }
    }

    /// A common table expression is analyzed where it is read: each reference gets columns of its own.
    fn cte<'q>(
        &mut self,
        index: usize,
        name: &str,
        levels_up: u32,
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let mut home = level;
        for _ in 0..levels_up {
            home = home.outer.ok_or_else(|| {
                NotIncremental::new(
                    format!("WITH query \"{name}\" is out of reach"),
                    "Please report the query.",
                )
            })?;
        }
        let query = home.query.cte(name).ok_or_else(|| {
            NotIncremental::new(
                format!("WITH query \"{name}\" is missing"),
                "Please report the query.",
            )
        })?;
        if home.query.is_recursive_cte(name) {
            return self.whole(index, home.query, level);
        }
        self.query(query, Some(home))
    }

    /// A recursive query: evaluated as a whole whenever a table it reads has changed.
    fn whole<'q>(
        &mut self,
        index: usize,
        home: Query<'q>,
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let Some(whole) = home.whole_cte(level.query, index) else {
            return Err(NotIncremental::new(
                "a recursive query refers to something around it, to whole rows or system columns",
                "Name the columns, and move what it refers to into it.",
            ));
        };
        let mut inputs = Vec::new();
        for (relid, read) in whole.reads {
            let relid = pg_sys::Oid::from(relid);
            source::check(relid, read.relkind, read.inherit)?;
            let facts = source::columns(relid);
            let mut columns = Vec::new();
            for attnum in read.columns {
                let column = facts
                    .get(&attnum)
                    .filter(|column| !column.virtual_generated)
                    .ok_or_else(|| {
                        NotIncremental::new(
                            "a recursive query reads a column that is generated when it is read",
                            "Use a stored generated column, or the expression itself.",
                        )
                    })?;
                columns.push(ScanColumn {
                    id: self.column(),
                    attnum,
                    name: column.name.clone(),
                    ty: column.ty.clone(),
                    nullable: column.nullable,
                });
            }
            inputs.push(PartitionInput {
                rel: Rel::Scan(Scan {
                    source: SourceId(u64::from(relid.to_u32())),
                    instance: self.instance(),
                    at: At::New,
                    columns,
                    keys: vec![],
                }),
                keys: vec![],
            });
        }
        let mut columns = Vec::new();
        let mut produced = Vec::new();
        for (name, ty) in level.query.range_columns(index) {
            let known = Known {
                id: self.column(),
                ty: ty.clone(),
                nullable: true,
                scale: scale_of(&ty),
            };
            columns.push((known.id, name.clone(), ty));
            produced.push(Produced { name, known });
        }
        let rel = Rel::Partitioned {
            inputs,
            keys: vec![],
            body: Body::Opaque {
                query: whole.text,
                columns,
            },
        };
        Ok((rel, produced))
    }

    fn scan<'q>(
        &mut self,
        index: usize,
        relid: pg_sys::Oid,
        inherit: bool,
        relkind: u8,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        source::check(relid, relkind, inherit)?;
        let facts = source::columns(relid);
        let mut wanted: BTreeSet<i16> = level
            .used
            .iter()
            .filter(|var| var.range == index && var.levels_up == 0)
            .map(|var| var.attnum)
            .collect();
        let whole = wanted.remove(&0);
        if whole {
            if source::is_stream_table(relid) {
                return Err(NotIncremental::new(
                    "a whole row of a stream table is used as one value",
                    "Name the columns, or build the value with ROW(..).",
                ));
            }
            wanted.extend(facts.keys());
        }
        let mut columns = Vec::new();
        let mut ids: BTreeMap<i16, ColId> = BTreeMap::new();
        for attnum in wanted {
            let Some(column) = facts.get(&attnum) else {
                return Err(NotIncremental::new(
                    "a system column is used",
                    "Leave it out of the query.",
                ));
            };
            if column.name.starts_with("__pgt_") && source::is_stream_table(relid) {
                return Err(NotIncremental::new(
                    format!("{} is internal state of a stream table", column.name),
                    "Name the columns instead of writing *.",
                ));
            }
            if column.virtual_generated {
                return Err(NotIncremental::new(
                    format!("column {} is generated when it is read", column.name),
                    "Use a stored generated column, or the expression itself.",
                ));
            }
            let id = self.column();
            ids.insert(attnum, id);
            let known = Known {
                id,
                ty: column.ty.clone(),
                nullable: column.nullable,
                scale: scale_of(&column.ty),
            };
            level.known.insert((index, attnum), known);
            columns.push(ScanColumn {
                id,
                attnum,
                name: column.name.clone(),
                ty: column.ty.clone(),
                nullable: column.nullable,
            });
        }
        let keys = source::unique_keys(relid)
            .into_iter()
            .filter_map(|key| key.iter().map(|attnum| ids.get(attnum).copied()).collect())
            .collect();
        let mut row = Writer::default().text("ROW(");
        for (position, id) in facts
            .keys()
            .filter_map(|attnum| ids.get(attnum))
            .enumerate()
        {
            row = row.text(if position > 0 { ", " } else { "" }).column(*id);
        }
        let scan = Rel::Scan(Scan {
            source: SourceId(u64::from(relid.to_u32())),
            instance: self.instance(),
            at: At::New,
            columns,
            keys,
        });
        if !whole {
            return Ok(scan);
        }
        // A column of its own, so that a row that an outer join misses is null and not a row of nulls.
        let ty = node::row_type(relid);
        let id = self.column();
        let value = row
            .text(&format!(")::{}", ty.name))
            .value(ty.clone(), false);
        level.known.insert(
            (index, 0),
            Known {
                id,
                ty,
                nullable: false,
                scale: None,
            },
        );
        Ok(extend(scan, vec![(id, value)]))
    }
}

/// The parts of a conjunction.
pub(super) fn conjuncts(condition: Expr<'_>) -> Vec<Expr<'_>> {
    match condition.kind() {
        Kind::And(parts) => parts.into_iter().flat_map(conjuncts).collect(),
        _ => vec![condition],
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
fn tested(condition: Scalar, test: &str) -> Scalar {
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

/// The scale fixed by a numeric type's modifier.
pub(super) fn scale_of(ty: &pgt_ivm::scalar::Type) -> Option<i32> {
    let inside = ty.name.strip_prefix("numeric(")?.strip_suffix(')')?;
    inside
        .split_once(',')
        .map_or(Some(0), |(_, scale)| scale.parse().ok())
        .filter(|scale| *scale >= 0)
}

/// Makes a sub-query's result columns known under its range-table index.
fn bind(index: usize, produced: Vec<Produced>, level: &mut Level<'_, '_>) {
    for (position, column) in produced.into_iter().enumerate() {
        level
            .known
            .insert((index, position as i16 + 1), column.known);
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
