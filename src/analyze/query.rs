//! One query level: FROM and WHERE, grouping, the select list, DISTINCT, set operations.

use std::collections::{BTreeMap, BTreeSet};

use pgt_ivm::rel::{self, Body, ColId, OutputColumn, PartitionInput, Query as RelQuery, Rel};
use pgt_ivm::scalar::{Piece, Scalar, Shape, Type};

use super::NotIncremental;
use crate::pg::node::{self, Expr, FromNode, Kind, Query, Rte, SetKind, SetOperation, VarRef};

pub(super) type Result<T> = std::result::Result<T, NotIncremental>;

/// A column known at some level, with what expressions need of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: ColId,
    pub ty: Type,
    pub nullable: bool,
    /// Every value has this many decimals.
    pub scale: Option<i32>,
}

/// A column of a level's result.
#[derive(Clone, Debug)]
pub(super) struct Produced {
    pub name: String,
    pub known: Known,
}

/// Gives out column and instance numbers while a query is read.
#[derive(Default)]
pub(super) struct Analyzer {
    next_column: u32,
    next_instance: u32,
}

/// What is visible at one query level.
pub(super) struct Level<'q, 'a> {
    pub query: Query<'q>,
    pub range_table: Vec<Rte<'q>>,
    /// Columns of this level that are read anywhere in it.
    pub used: BTreeSet<VarRef>,
    pub known: BTreeMap<(usize, i16), Known>,
    /// Aggregate calls that have become columns.
    pub aggregates: Vec<(Expr<'q>, Known)>,
    /// The columns of the sub-select that a sub-link under analysis compares with.
    pub sublink_columns: Vec<Known>,
    /// The level around this one, for common table expressions.
    pub outer: Option<&'a Level<'q, 'a>>,
}

impl Analyzer {
    pub(super) fn column(&mut self) -> ColId {
        self.next_column += 1;
        ColId(self.next_column)
    }

    pub(super) fn instance(&mut self) -> u32 {
        self.next_instance += 1;
        self.next_instance
    }

    /// A whole view.
    pub(super) fn view<'q>(mut self, query: Query<'q>) -> Result<RelQuery> {
        let (root, produced) = self.query(query, None)?;
        let output = produced
            .into_iter()
            .map(|column| OutputColumn {
                id: column.known.id,
                name: column.name,
                ty: column.known.ty,
            })
            .collect();
        Ok(RelQuery { root, output })
    }

    /// A query level and its result columns.
    pub(super) fn query<'q>(
        &mut self,
        query: Query<'q>,
        outer: Option<&Level<'q, '_>>,
    ) -> Result<(Rel, Vec<Produced>)> {
        refuse_unsupported(&query)?;
        let mut level = Level {
            query,
            range_table: query.range_table(),
            used: query.vars(),
            known: BTreeMap::new(),
            aggregates: vec![],
            sublink_columns: vec![],
            outer,
        };
        if level.used.iter().any(|var| var.levels_up > 0) {
            return Err(NotIncremental::new(
                "a sub-query refers to the query around it",
                "Rewrite the lateral reference as a join.",
            ));
        }
        if let Some(operation) = query.set_operation() {
            return self.set_operation(&operation, &mut level);
        }
        let from = query.from();
        let FromNode::List { items, condition } = from else {
            return Err(NotIncremental::new(
                "the FROM clause has an unknown form",
                "Please report the query.",
            ));
        };
        let mut rel = self.read_list(&items, condition, &mut level)?;
        let targets: Vec<_> = query.targets();
        if query.has_aggregates() || query.has_group_by() {
            rel = self.group(rel, &targets, &mut level)?;
            if let Some(having) = query.having() {
                let conditions = self.conditions(having, &level)?;
                rel = Rel::Filter {
                    input: Box::new(rel),
                    conditions,
                };
            }
        } else if let Some(having) = query.having() {
            let conditions = self.conditions(having, &level)?;
            rel = Rel::Filter {
                input: Box::new(rel),
                conditions,
            };
        }
        let mut columns = Vec::new();
        let mut produced = Vec::new();
        for target in targets.iter().filter(|target| !target.junk) {
            let (scalar, scale) = self.scalar(target.expr, &level)?;
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
        if columns.is_empty() {
            return Err(NotIncremental::new(
                "the query has no columns",
                "Select at least one column.",
            ));
        }
        let mut rel = Rel::Project {
            input: Box::new(rel),
            columns,
        };
        if query.has_distinct() {
            (rel, produced) = self.distinct(rel, produced)?;
        }
        Ok((rel, produced))
    }

    /// DISTINCT: a grouping by every column, without aggregates.
    fn distinct(&mut self, input: Rel, produced: Vec<Produced>) -> Result<(Rel, Vec<Produced>)> {
        let mut keys = Vec::new();
        let mut distinct = Vec::new();
        for column in produced {
            let known = column.known;
            if known.ty.equality.is_none() {
                return Err(NotIncremental::new(
                    format!("type {} has no equality", known.ty.name),
                    "DISTINCT and UNION need types that can be compared.",
                ));
            }
            let id = self.column();
            keys.push((
                id,
                Scalar::column(known.id, known.ty.clone(), known.nullable),
            ));
            distinct.push(Produced {
                name: column.name,
                known: Known { id, ..known },
            });
        }
        Ok((
            Rel::Aggregate {
                input: Box::new(input),
                keys,
                calls: vec![],
            },
            distinct,
        ))
    }

    fn set_operation<'q>(
        &mut self,
        operation: &SetOperation,
        level: &mut Level<'q, '_>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let names: Vec<_> = level.query.targets();
        let (rel, produced) = self.set_node(operation, level, &names)?;
        // The names of the result are those of the outermost query.
        let produced = names
            .iter()
            .zip(produced)
            .map(|(target, column)| Produced {
                name: target.name.clone(),
                ..column
            })
            .collect();
        Ok((rel, produced))
    }

    fn set_node<'q>(
        &mut self,
        operation: &SetOperation,
        level: &mut Level<'q, '_>,
        targets: &[node::Target<'q>],
    ) -> Result<(Rel, Vec<Produced>)> {
        match operation {
            SetOperation::Range(index) => match &level.range_table[index - 1] {
                Rte::Subquery { query, .. } => {
                    let query = *query;
                    self.query(query, Some(level))
                }
                _ => Err(NotIncremental::new(
                    "a set operation has an unknown input",
                    "Please report the query.",
                )),
            },
            SetOperation::Operation {
                kind: SetKind::Union,
                all,
                ..
            } => {
                let mut leaves = Vec::new();
                flatten_union(operation, *all, &mut leaves);
                let mut inputs = Vec::new();
                for leaf in leaves {
                    inputs.push(self.set_node(leaf, level, targets)?);
                }
                let (rel, produced) = self.union_all(inputs, targets)?;
                if *all {
                    Ok((rel, produced))
                } else {
                    self.distinct(rel, produced)
                }
            }
            SetOperation::Operation {
                kind,
                all,
                left,
                right,
            } => {
                let kind = match kind {
                    SetKind::Intersect => rel::SetKind::Intersect,
                    _ => rel::SetKind::Except,
                };
                let left = self.set_node(left, level, targets)?;
                let right = self.set_node(right, level, targets)?;
                self.intersect_or_except(kind, *all, left, right, targets)
            }
        }
    }

    /// A bag union whose inputs are cast to the result's types.
    fn union_all<'q>(
        &mut self,
        inputs: Vec<(Rel, Vec<Produced>)>,
        targets: &[node::Target<'q>],
    ) -> Result<(Rel, Vec<Produced>)> {
        let mut types = Vec::new();
        for target in targets.iter().filter(|target| !target.junk) {
            let (oid, modifier, collation) = target.expr.type_of();
            types.push(node::describe_type(oid, modifier, collation));
        }
        let mut produced = Vec::new();
        for (position, ty) in types.iter().enumerate() {
            let nullable = inputs
                .iter()
                .any(|(_, columns)| columns[position].known.nullable);
            let scale = inputs
                .iter()
                .map(|(_, columns)| columns[position].known.scale)
                .reduce(|a, b| if a == b { a } else { None })
                .flatten();
            let known = Known {
                id: self.column(),
                ty: ty.clone(),
                nullable,
                scale,
            };
            produced.push(Produced {
                name: inputs[0].1[position].name.clone(),
                known,
            });
        }
        let inputs = inputs
            .into_iter()
            .map(|(rel, columns)| self.cast_columns(rel, columns, &types))
            .collect();
        let columns = produced
            .iter()
            .map(|column| (column.known.id, column.known.ty.clone()))
            .collect();
        Ok((Rel::UnionAll { inputs, columns }, produced))
    }

    /// INTERSECT or EXCEPT: each distinct row is a partition of its own.
    fn intersect_or_except<'q>(
        &mut self,
        kind: rel::SetKind,
        all: bool,
        left: (Rel, Vec<Produced>),
        right: (Rel, Vec<Produced>),
        targets: &[node::Target<'q>],
    ) -> Result<(Rel, Vec<Produced>)> {
        let mut types = Vec::new();
        for target in targets.iter().filter(|target| !target.junk) {
            let (oid, modifier, collation) = target.expr.type_of();
            types.push(node::describe_type(oid, modifier, collation));
        }
        if let Some(ty) = types.iter().find(|ty| !ty.bitwise) {
            return Err(NotIncremental::new(
                format!("INTERSECT or EXCEPT of type {}", ty.name),
                "Values of this type can be equal and still look different; which one is shown is not determined.",
            ));
        }
        let mut produced = Vec::new();
        for (position, ty) in types.iter().enumerate() {
            let nullable = left.1[position].known.nullable || right.1[position].known.nullable;
            let known = Known {
                id: self.column(),
                ty: ty.clone(),
                nullable,
                scale: None,
            };
            produced.push(Produced {
                name: left.1[position].name.clone(),
                known,
            });
        }
        let nullable: Vec<Vec<bool>> = [&left.1, &right.1]
            .iter()
            .map(|columns| columns.iter().map(|column| column.known.nullable).collect())
            .collect();
        let (left, from_left) = self.cast_columns(left.0, left.1, &types);
        let (right, from_right) = self.cast_columns(right.0, right.1, &types);
        let input = |rel: Rel, from: &[ColId], nullable: &[bool]| PartitionInput {
            rel,
            keys: from
                .iter()
                .zip(&types)
                .zip(nullable)
                .map(|((id, ty), nullable)| Scalar::column(*id, ty.clone(), *nullable))
                .collect(),
        };
        let inputs = vec![
            input(left, &from_left, &nullable[0]),
            input(right, &from_right, &nullable[1]),
        ];
        let columns = produced
            .iter()
            .enumerate()
            .map(|(position, column)| {
                (
                    column.known.id,
                    column.known.ty.clone(),
                    [from_left[position], from_right[position]],
                )
            })
            .collect();
        let keys = produced
            .iter()
            .map(|column| {
                let known = &column.known;
                (
                    self.column(),
                    Scalar::column(known.id, known.ty.clone(), known.nullable),
                )
            })
            .collect();
        Ok((
            Rel::Partitioned {
                inputs,
                keys,
                body: Body::SetOperation { kind, all, columns },
            },
            produced,
        ))
    }

    fn cast_columns(
        &mut self,
        rel: Rel,
        columns: Vec<Produced>,
        types: &[Type],
    ) -> (Rel, Vec<ColId>) {
        if columns
            .iter()
            .zip(types)
            .all(|(column, ty)| column.known.ty.name == ty.name)
        {
            return (
                rel,
                columns.into_iter().map(|column| column.known.id).collect(),
            );
        }
        let mut ids = Vec::new();
        let mut projected = Vec::new();
        for (column, ty) in columns.into_iter().zip(types) {
            let id = self.column();
            let scalar = if column.known.ty.name == ty.name {
                Scalar::column(column.known.id, column.known.ty, column.known.nullable)
            } else {
                Scalar {
                    pieces: vec![
                        Piece::Text("(".into()),
                        Piece::Column(column.known.id),
                        Piece::Text(format!(")::{}", ty.name)),
                    ],
                    ty: ty.clone(),
                    nullable: column.known.nullable,
                    shape: Shape::Opaque,
                }
            };
            projected.push((id, scalar));
            ids.push(id);
        }
        (
            Rel::Project {
                input: Box::new(rel),
                columns: projected,
            },
            ids,
        )
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

fn flatten_union<'a>(operation: &'a SetOperation, all: bool, leaves: &mut Vec<&'a SetOperation>) {
    match operation {
        SetOperation::Operation {
            kind: SetKind::Union,
            all: this,
            left,
            right,
        } if *this == all => {
            flatten_union(left, all, leaves);
            flatten_union(right, all, leaves);
        }
        other => leaves.push(other),
    }
}

pub(super) fn refuse_unsupported(query: &Query<'_>) -> Result<()> {
    let refuse = |what: &str| {
        Err(NotIncremental::new(
            format!("{what} is not incremental yet"),
            "The stream table is refreshed fully.",
        ))
    };
    if !query.is_plain_select() {
        return refuse("a statement that is not a SELECT");
    }
    if query.is_recursive() {
        return refuse("WITH RECURSIVE");
    }
    if query.has_windows() {
        return refuse("a window function");
    }
    if query.has_target_srfs() {
        return refuse("a set-returning function in the select list");
    }
    if query.has_grouping_sets() {
        return refuse("GROUPING SETS, ROLLUP or CUBE");
    }
    if query.has_distinct_on() {
        return refuse("DISTINCT ON");
    }
    if query.has_limit() {
        return refuse("LIMIT or OFFSET");
    }
    Ok(())
}
