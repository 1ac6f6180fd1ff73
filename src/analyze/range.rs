//! What stands in FROM: tables, WITH queries, functions and VALUES.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgt_ivm::rel::{At, ColId, Rel, Scan, ScanColumn, SourceId};
use pgt_ivm::scalar::Type;

use super::build::{Writer, boolean, extend};
use super::query::{Analyzer, Known, Level, Produced, Result};
use super::{NotIncremental, source};
use crate::pg::node::{self, Expr, Item, Rte};

impl Analyzer {
    pub(super) fn range<'q>(&mut self, index: usize, level: &mut Level<'q, '_>) -> Result<Rel> {
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
                Ok(self.whole_row(index, rel, level))
            }
            Rte::Cte {
                name,
                levels_up,
                recursive,
            } => {
                if *recursive {
                    let (rel, produced) = self.itself(index, level)?;
                    bind(index, produced, level);
                    return Ok(rel);
                }
                let (name, levels_up) = (name.clone(), *levels_up);
                let (rel, produced) = self.cte(index, &name, levels_up, level)?;
                bind(index, produced, level);
                Ok(self.whole_row(index, rel, level))
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
            return self.recursive(index, name, home, level);
        }
        self.query(query, Some(home))
    }

    /// New columns for all columns of a range-table entry.
    pub(super) fn entry_columns(
        &mut self,
        index: usize,
        level: &Level<'_, '_>,
    ) -> (Vec<(ColId, Type)>, Vec<Produced>) {
        level
            .query
            .range_columns(index)
            .into_iter()
            .map(|(name, ty)| {
                let known = Known {
                    id: self.column(),
                    ty: ty.clone(),
                    nullable: true,
                    scale: scale_of(&ty),
                };
                ((known.id, ty), Produced { name, known })
            })
            .unzip()
    }

    fn scan<'q>(
        &mut self,
        index: usize,
        relid: pg_sys::Oid,
        inherit: bool,
        relkind: u8,
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let members = source::members(relid, relkind, inherit, self.reader)?;
        let facts = source::columns(relid);
        let mut wanted: BTreeSet<i16> = level
            .used
            .iter()
            .filter(|var| var.range == index && var.levels_up == 0)
            .map(|var| var.attnum)
            .collect();
        let whole = wanted.remove(&0);
        if whole {
            let state = facts
                .values()
                .any(|column| column.name.starts_with("__pgt_"));
            if state && source::is_stream_table(relid) {
                return Err(NotIncremental::new(
                    "a whole row of a stream table with internal state is used as one value",
                    "Name the columns, or build the value with ROW(..).",
                ));
            }
            wanted.extend(facts.keys());
        }
        let tableoid = pg_sys::TableOidAttributeNumber as i16;
        let in_one_table = relkind == b'r' && members.len() == 1;
        let says_where = in_one_table && wanted.remove(&tableoid);
        // A virtual column is its expression over the columns that are stored.
        let mut generated = Vec::new();
        for attnum in wanted.clone() {
            if facts
                .get(&attnum)
                .is_some_and(|column| column.virtual_generated)
            {
                let value = node::generation_expression(relid, attnum, index);
                wanted.remove(&attnum);
                wanted.extend(value.references().iter().map(|var| var.attnum));
                generated.push((attnum, value));
            }
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
        let mut scan = match members.as_slice() {
            [_] => self.table(relid, columns),
            members => {
                let union = self.inherited(relid, members, &columns, &facts)?;
                for (id, (_, nullable)) in union.column_types() {
                    let known = level.known.values_mut().find(|known| known.id == id);
                    known
                        .into_iter()
                        .for_each(|known| known.nullable = nullable);
                }
                union
            }
        };
        let mut computed = Vec::new();
        for (attnum, value) in generated {
            let (value, scale) = self.scalar(value, level)?;
            let id = self.column();
            ids.insert(attnum, id);
            let known = Known {
                id,
                ty: value.ty.clone(),
                nullable: value.nullable,
                scale,
            };
            level.known.insert((index, attnum), known);
            computed.push((id, value));
        }
        if says_where {
            let known = Known {
                id: self.column(),
                ty: node::describe_type(pg_sys::OIDOID, -1, pg_sys::InvalidOid),
                nullable: false,
                scale: None,
            };
            let value = Writer::default()
                .text(&format!("({})::pg_catalog.oid", relid.to_u32()))
                .value(known.ty.clone(), false);
            computed.push((known.id, value));
            level.known.insert((index, tableoid), known);
        }
        if !computed.is_empty() {
            scan = extend(scan, computed);
        }
        if !whole {
            return Ok(scan);
        }
        let mut row = Writer::default().text("ROW(");
        for (position, id) in facts
            .keys()
            .filter_map(|attnum| ids.get(attnum))
            .enumerate()
        {
            row = row.text(if position > 0 { ", " } else { "" }).column(*id);
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

    /// The rows of one table.
    fn table(&mut self, relid: pg_sys::Oid, columns: Vec<ScanColumn>) -> Rel {
        let ids: BTreeMap<i16, ColId> = columns
            .iter()
            .map(|column| (column.attnum, column.id))
            .collect();
        let keys = source::unique_keys(relid)
            .into_iter()
            .filter_map(|key| key.iter().map(|attnum| ids.get(attnum).copied()).collect())
            .collect();
        Rel::Scan(Scan {
            source: SourceId(u64::from(relid.to_u32())),
            instance: self.instance(),
            at: At::New,
            columns,
            keys,
        })
    }

    /// The rows of the tables of an inheritance tree as those of its root, which has these columns.
    fn inherited(
        &mut self,
        root: pg_sys::Oid,
        members: &[pg_sys::Oid],
        columns: &[ScanColumn],
        facts: &BTreeMap<i16, source::ColumnFacts>,
    ) -> Result<Rel> {
        let wanted: BTreeMap<i16, source::ColumnFacts> = columns
            .iter()
            .filter_map(|column| Some((column.attnum, facts.get(&column.attnum)?.clone())))
            .collect();
        let mut inputs = Vec::new();
        for member in members {
            let found = source::inherited_columns(*member, root, &wanted, self.reader)?;
            let own = self.scan_columns(columns.iter().map(|column| &found[&column.attnum]));
            let ids = own.iter().map(|column| column.id).collect();
            inputs.push((self.table(*member, own), ids));
        }
        Ok(Rel::UnionAll {
            inputs,
            columns: columns
                .iter()
                .map(|column| (column.id, column.ty.clone()))
                .collect(),
        })
    }

    /// New columns for columns of a table.
    pub(super) fn scan_columns<'a>(
        &mut self,
        columns: impl Iterator<Item = &'a (i16, source::ColumnFacts)>,
    ) -> Vec<ScanColumn> {
        columns
            .map(|(attnum, column)| ScanColumn {
                id: self.column(),
                attnum: *attnum,
                name: column.name.clone(),
                ty: column.ty.clone(),
                nullable: column.nullable,
            })
            .collect()
    }

    /// `rel` beside a column that holds the whole row of item `index`, a sub-query, where that is used as a value. A column
    /// of its own, so that a row that an outer join misses is null and not a row of nulls.
    pub(super) fn whole_row<'q>(
        &mut self,
        index: usize,
        rel: Rel,
        level: &mut Level<'q, '_>,
    ) -> Rel {
        let used = level
            .used
            .iter()
            .any(|var| (var.range, var.attnum, var.levels_up) == (index, 0, 0));
        if !used {
            return rel;
        }
        let view = level.query.view_of(index);
        let mut row = Writer::default().text(if view.is_some() {
            "ROW("
        } else {
            // The names of the columns are part of the value.
            "(SELECT pgt_row FROM (SELECT "
        });
        let columns = level.query.range_columns(index).into_iter().enumerate();
        for (place, (name, _)) in columns {
            let Some(known) = level.known.get(&(index, place as i16 + 1)) else {
                return rel;
            };
            row = row.text(if place > 0 { ", " } else { "" }).column(known.id);
            if view.is_none() {
                row = row.text(&format!(" AS {}", pgt_ivm::sql::quote_identifier(&name)));
            }
        }
        let (row, ty) = match view {
            Some(view) => {
                let ty = node::row_type(view);
                (row.text(&format!(")::{}", ty.name)), ty)
            }
            None => (
                row.text(") AS pgt_row)"),
                node::describe_type(pg_sys::RECORDOID, -1, pg_sys::InvalidOid),
            ),
        };
        let id = self.column();
        let known = Known {
            id,
            ty: ty.clone(),
            nullable: false,
            scale: None,
        };
        level.known.insert((index, 0), known);
        extend(rel, vec![(id, row.value(ty, false))])
    }

    /// VALUES or function calls beside the rows of `before`.
    pub(super) fn computed<'q>(
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
        let (columns, produced) = self.entry_columns(index, level);
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
pub(super) fn bind(index: usize, produced: Vec<Produced>, level: &mut Level<'_, '_>) {
    for (position, column) in produced.into_iter().enumerate() {
        level
            .known
            .insert((index, position as i16 + 1), column.known);
    }
}
