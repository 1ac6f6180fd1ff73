//! The FROM clause.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{At, ColId, Rel, Scan, ScanColumn, SourceId};

use super::query::{Analyzer, Known, Level, Produced, Result};
use super::{NotIncremental, source};
use crate::pg::node::{Expr, FromNode, JoinKind, Rte};

impl Analyzer {
    /// A FROM list with its WHERE clause.
    pub(super) fn from_list<'q>(
        &mut self,
        items: &[FromNode<'q>],
        condition: Option<Expr<'q>>,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let mut inputs = Vec::new();
        let mut conditions = Vec::new();
        for item in items {
            let (input, on) = self.from_node(item, level)?;
            inputs.push(input);
            conditions.extend(on);
        }
        if let Some(condition) = condition {
            conditions.extend(self.conditions(condition, level)?);
        }
        if inputs.is_empty() {
            return Err(NotIncremental::new(
                "the query reads no table",
                "Nothing can change; the stream table is refreshed fully.",
            ));
        }
        Ok(combine(inputs, conditions))
    }

    /// A join tree node and conditions that may be applied above it.
    fn from_node<'q>(
        &mut self,
        node: &FromNode<'q>,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Vec<pgt_ivm::scalar::Scalar>)> {
        match node {
            FromNode::Range(index) => Ok((self.range(*index, level)?, vec![])),
            FromNode::List { items, condition } => Ok((self.from_list(items, *condition, level)?, vec![])),
            FromNode::Join { kind: JoinKind::Inner, left, right, on } => {
                let (left, mut conditions) = self.from_node(left, level)?;
                let (right, more) = self.from_node(right, level)?;
                conditions.extend(more);
                if let Some(on) = on {
                    conditions.extend(self.conditions(*on, level)?);
                }
                Ok((combine(vec![left, right], conditions), vec![]))
            }
            FromNode::Join { .. } => Err(NotIncremental::new(
                "an outer join is not incremental yet",
                "The stream table is refreshed fully.",
            )),
        }
    }

    fn range<'q>(&mut self, index: usize, level: &mut Level<'q, '_>) -> Result<Rel> {
        let refuse = |what: &str| {
            Err(NotIncremental::new(
                format!("{what} in FROM is not incremental yet"),
                "The stream table is refreshed fully.",
            ))
        };
        match &level.range_table[index - 1] {
            Rte::Relation { relid, inherit, relkind, sampled, row_security } => {
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
            Rte::Cte { name, levels_up, recursive } => {
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
    fn cte<'q>(&mut self, name: &str, levels_up: u32, level: &Level<'q, '_>) -> Result<(Rel, Vec<Produced>)> {
        let mut home = level;
        for _ in 0..levels_up {
            home = home.outer.ok_or_else(|| {
                NotIncremental::new(format!("WITH query \"{name}\" is out of reach"), "Please report the query.")
            })?;
        }
        let query = home.query.cte(name).ok_or_else(|| {
            NotIncremental::new(format!("WITH query \"{name}\" is missing"), "Please report the query.")
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
        let wanted: BTreeSet<i16> =
            level.used.iter().filter(|var| var.range == index).map(|var| var.attnum).collect();
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
                return Err(NotIncremental::new("a system column is used", "Leave it out of the query."));
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
            let known =
                Known { id, ty: column.ty.clone(), nullable: column.nullable, scale: scale_of(&column.ty) };
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

/// The scale fixed by a numeric type's modifier.
pub(super) fn scale_of(ty: &pgt_ivm::scalar::Type) -> Option<i32> {
    let inside = ty.name.strip_prefix("numeric(")?.strip_suffix(')')?;
    inside.split_once(',').map_or(Some(0), |(_, scale)| scale.parse().ok()).filter(|scale| *scale >= 0)
}

/// Makes a sub-query's result columns known under its range-table index.
fn bind(index: usize, produced: Vec<Produced>, level: &mut Level<'_, '_>) {
    for (position, column) in produced.into_iter().enumerate() {
        level.known.insert((index, position as i16 + 1), column.known);
    }
}

/// Joins inputs, flattening inner joins so that a delta sees all inputs side by side.
fn combine(inputs: Vec<Rel>, mut conditions: Vec<pgt_ivm::scalar::Scalar>) -> Rel {
    let mut flat = Vec::new();
    for input in inputs {
        match input {
            Rel::Join { inputs: below, conditions: on } => {
                flat.extend(below);
                conditions.extend(on);
            }
            other => flat.push(other),
        }
    }
    if flat.len() == 1 {
        let only = flat.remove(0);
        if conditions.is_empty() { only } else { Rel::Filter { input: Box::new(only), conditions } }
    } else {
        Rel::Join { inputs: flat, conditions }
    }
}
