//! The FROM clause.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{At, ColId, Rel, Scan, ScanColumn, SourceId};
use pgt_ivm::scalar::{Piece, Scalar, Shape};

use super::query::{Analyzer, Known, Level, Produced, Result, refuse_unsupported};
use super::{NotIncremental, source};
use crate::pg::node::{Expr, FromNode, JoinKind, Kind, Query, Rte, SublinkKind, SublinkNode};

impl Analyzer {
    /// A FROM list with its WHERE clause.
    pub(super) fn read_list<'q>(
        &mut self,
        items: &[FromNode<'q>],
        condition: Option<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let mut inputs = Vec::new();
        let mut conditions = Vec::new();
        for item in items {
            let (input, on) = self.read_node(item, level)?;
            inputs.push(input);
            conditions.extend(on);
        }
        let mut links = Vec::new();
        if let Some(condition) = condition {
            for part in conjuncts(condition) {
                match sublink(part) {
                    Some(link) => links.push(link),
                    None => conditions.extend(self.conditions(part, level)?),
                }
            }
        }
        if inputs.is_empty() {
            return Err(NotIncremental::new(
                "the query reads no table",
                "Nothing can change; the stream table is refreshed fully.",
            ));
        }
        let mut rel = combine(inputs, conditions);
        for (present, link) in links {
            rel = self.matching(rel, present, link, level)?;
        }
        Ok(rel)
    }

    /// A join tree node and conditions that may be applied above it.
    fn read_node<'q>(
        &mut self,
        node: &FromNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Vec<pgt_ivm::scalar::Scalar>)> {
        match node {
            FromNode::Range(index) => Ok((self.range(*index, level)?, vec![])),
            FromNode::List { items, condition } => {
                Ok((self.read_list(items, *condition, level)?, vec![]))
            }
            FromNode::Join {
                kind: JoinKind::Inner,
                left,
                right,
                on,
            } => {
                let (left, mut conditions) = self.read_node(left, level)?;
                let (right, more) = self.read_node(right, level)?;
                conditions.extend(more);
                if let Some(on) = on {
                    conditions.extend(self.conditions(*on, level)?);
                }
                Ok((combine(vec![left, right], conditions), vec![]))
            }
            FromNode::Join {
                kind,
                left,
                right,
                on,
            } => {
                let (left, conditions) = self.read_node(left, level)?;
                let left = combine(vec![left], conditions);
                let (right, conditions) = self.read_node(right, level)?;
                let right = combine(vec![right], conditions);
                let (left, right) = if *kind == JoinKind::Right {
                    (right, left)
                } else {
                    (left, right)
                };
                let on = match on {
                    Some(on) => self.conditions(*on, level)?,
                    None => vec![],
                };
                let joined = self.outer(left, right, *kind == JoinKind::Full, on, level);
                Ok((joined, vec![]))
            }
        }
    }

    /// A left or full join.
    fn outer<'q>(
        &mut self,
        left: Rel,
        right: Rel,
        full: bool,
        on: Vec<Scalar>,
        level: &mut Level<'q, '_>,
    ) -> Rel {
        let nullable = right
            .columns()
            .into_iter()
            .chain(full.then(|| left.columns()).into_iter().flatten());
        let nullable: BTreeSet<ColId> = nullable.collect();
        for known in level
            .known
            .values_mut()
            .filter(|known| nullable.contains(&known.id))
        {
            known.nullable = true;
        }
        Rel::Outer {
            left: Box::new(left),
            right: Box::new(right),
            full,
            on,
        }
    }

    /// `EXISTS`, `NOT EXISTS`, `IN` or `NOT IN` as a condition on `rel`.
    fn matching<'q>(
        &mut self,
        rel: Rel,
        present: bool,
        link: SublinkNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let (inner, produced, mut on) = self.sub_select(link.query, level)?;
        if let Some(test) = link.test {
            level.sublink_columns = produced.iter().map(|column| column.known.clone()).collect();
            let compared = self.conditions(test, level);
            level.sublink_columns.clear();
            // NOT IN holds if every comparison is false; one that is unknown spoils it like one that is true.
            on.extend(compared?.into_iter().map(|condition| {
                if present || !condition.nullable {
                    condition
                } else {
                    is_not_false(condition)
                }
            }));
        }
        let mut visible = rel.columns();
        visible.extend(inner.columns());
        if !on.iter().all(|scalar| scalar.columns().is_subset(&visible)) {
            return Err(NotIncremental::new(
                "a sub-query refers to a query further out",
                "Write it as a join.",
            ));
        }
        Ok(Rel::Match {
            left: Box::new(rel),
            right: Box::new(inner),
            present,
            on,
        })
    }

    /// The rows of a sub-select in a condition, and the conditions that tie them to the query around it.
    fn sub_select<'q>(
        &mut self,
        query: Query<'q>,
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<Produced>, Vec<Scalar>)> {
        let used = query.vars();
        if !used.iter().any(|var| var.levels_up > 0) {
            let (rel, produced) = self.query(query, Some(level))?;
            return Ok((rel, produced, vec![]));
        }
        refuse_unsupported(&query)?;
        if query.has_aggregates() || query.has_group_by() || query.set_operation().is_some() {
            return Err(NotIncremental::new(
                "a correlated sub-query with aggregates or set operations is not incremental yet",
                "Compute it in a sub-query in FROM and join it.",
            ));
        }
        let mut inner = Level {
            query,
            range_table: query.range_table(),
            used,
            known: BTreeMap::new(),
            aggregates: vec![],
            sublink_columns: vec![],
            outer: Some(level),
        };
        let FromNode::List { items, condition } = query.from() else {
            return Err(NotIncremental::new(
                "the FROM clause has an unknown form",
                "Please report the query.",
            ));
        };
        let (correlated, own): (Vec<Expr<'q>>, Vec<Expr<'q>>) = condition
            .map(conjuncts)
            .unwrap_or_default()
            .into_iter()
            .partition(|part| is_correlated(part));
        let mut rel = self.read_list(&items, None, &mut inner)?;
        let mut conditions = Vec::new();
        let mut links = Vec::new();
        for part in own {
            match sublink(part) {
                Some(link) => links.push(link),
                None => conditions.extend(self.conditions(part, &inner)?),
            }
        }
        rel = combine(vec![rel], conditions);
        for (present, link) in links {
            rel = self.matching(rel, present, link, &mut inner)?;
        }
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
        let on = on
            .iter()
            .map(|condition| rename(condition, &renamed))
            .collect();
        Ok((
            Rel::Project {
                input: Box::new(rel),
                columns,
            },
            produced,
            on,
        ))
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
                let (rel, produced) = self.cte(&name, levels_up, level)?;
                bind(index, produced, level);
                Ok(rel)
            }
            Rte::Values => refuse("VALUES"),
            Rte::Function => refuse("a function"),
            _ => refuse("an item of this kind"),
        }
    }

    /// A common table expression is analyzed where it is read: each reference gets columns of its own.
    fn cte<'q>(
        &mut self,
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
        self.query(query, Some(home))
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
        let wanted: BTreeSet<i16> = level
            .used
            .iter()
            .filter(|var| var.range == index && var.levels_up == 0)
            .map(|var| var.attnum)
            .collect();
        if wanted.contains(&0) {
            return Err(NotIncremental::new(
                "a whole row is used as one value",
                "Name the columns, or build the value with ROW(..).",
            ));
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
        Ok(Rel::Scan(Scan {
            source: SourceId(u64::from(relid.to_u32())),
            instance: self.instance(),
            at: At::New,
            columns,
            keys,
        }))
    }
}

/// The parts of a conjunction.
fn conjuncts(condition: Expr<'_>) -> Vec<Expr<'_>> {
    match condition.kind() {
        Kind::And(parts) => parts.into_iter().flat_map(conjuncts).collect(),
        _ => vec![condition],
    }
}

/// A condition that is a sub-link or the negation of one.
fn sublink(condition: Expr<'_>) -> Option<(bool, SublinkNode<'_>)> {
    let usable = |node: &SublinkNode<'_>| node.kind != SublinkKind::Other;
    match condition.kind() {
        Kind::Sublink(node) if usable(&node) => Some((true, node)),
        Kind::Not(inner) => match inner.kind() {
            Kind::Sublink(node) if usable(&node) => Some((false, node)),
            _ => None,
        },
        _ => None,
    }
}

/// The expression refers to the query around its own, other than through a sub-select of its own.
fn is_correlated(expr: &Expr<'_>) -> bool {
    let mut found = false;
    expr.vars_outside_aggregates(&mut |var| found |= var.levels_up > 0);
    found
}

/// `(condition) IS NOT FALSE`
fn is_not_false(condition: Scalar) -> Scalar {
    let mut pieces = vec![Piece::Text("((".into())];
    pieces.extend(condition.pieces);
    pieces.push(Piece::Text(") IS NOT FALSE)".into()));
    Scalar {
        pieces,
        nullable: false,
        shape: Shape::Opaque,
        ..condition
    }
}

/// A condition with columns called by other ids.
fn rename(scalar: &Scalar, to: &BTreeMap<ColId, ColId>) -> Scalar {
    let name = |id: ColId| to.get(&id).copied().unwrap_or(id);
    Scalar {
        pieces: scalar
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Column(id) => Piece::Column(name(*id)),
                Piece::Text(text) => Piece::Text(text.clone()),
            })
            .collect(),
        shape: match scalar.shape {
            Shape::Column(id) => Shape::Column(name(id)),
            Shape::Equal(a, b) => Shape::Equal(name(a), name(b)),
            Shape::EqualConstant(id) => Shape::EqualConstant(name(id)),
            ref other => other.clone(),
        },
        ..scalar.clone()
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
fn combine(inputs: Vec<Rel>, mut conditions: Vec<pgt_ivm::scalar::Scalar>) -> Rel {
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
