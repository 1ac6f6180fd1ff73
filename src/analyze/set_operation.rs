//! UNION, INTERSECT and EXCEPT.

use pgt_ivm::rel::{self, Body, ColId, PartitionInput, Rel};
use pgt_ivm::scalar::{Piece, Scalar, Shape, Type};

use super::NotIncremental;
use super::query::{Analyzer, Context, Known, Level, Produced, Result};
use crate::pg::node::{self, Rte, SetKind, SetOperation, VarRef};

impl Analyzer {
    pub(super) fn set_operation<'q>(
        &mut self,
        operation: &SetOperation,
        level: &mut Level<'q, '_>,
        context: Option<&Context<'_>>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let names: Vec<_> = level.query.targets();
        let mut types = Vec::new();
        for target in names.iter().filter(|target| !target.junk) {
            let (oid, modifier, collation) = target.expr.type_of();
            types.push(node::describe_type(oid, modifier, collation));
        }
        for (_, known) in context.iter().flat_map(|context| &context.columns) {
            types.push(known.ty.clone());
        }
        let (rel, mut produced) = self.set_node(operation, level, &types, context)?;
        // The names of the result are those of the outermost query.
        for (target, column) in names.iter().zip(&mut produced) {
            column.name.clone_from(&target.name);
        }
        Ok((rel, produced))
    }

    pub(super) fn set_node<'q>(
        &mut self,
        operation: &SetOperation,
        level: &mut Level<'q, '_>,
        types: &[Type],
        context: Option<&Context<'_>>,
    ) -> Result<(Rel, Vec<Produced>)> {
        match operation {
            SetOperation::Range(index) => match &level.range_table[index - 1] {
                Rte::Subquery { query, .. } => {
                    let query = *query;
                    let inside = context.map(|context| Context {
                        rel: context.rel,
                        columns: context
                            .columns
                            .iter()
                            .map(|(var, known)| {
                                let seen = VarRef {
                                    levels_up: var.levels_up + 1,
                                    ..*var
                                };
                                (seen, known.clone())
                            })
                            .collect(),
                        restored: context
                            .restored
                            .iter()
                            .map(|(var, ty)| {
                                let seen = VarRef {
                                    levels_up: var.levels_up + 1,
                                    ..*var
                                };
                                (seen, ty.clone())
                            })
                            .collect(),
                        exists: false,
                        ordered: false,
                    });
                    let answer = self.answer(query, Some(level), inside)?;
                    if answer.empty.is_some() && context.is_some() {
                        return Err(NotIncremental::new(
                            "an aggregate without GROUP BY in a set operation that refers to the query around it",
                            "Compute it in a sub-query in FROM and join it.",
                        ));
                    }
                    let mut produced = answer.produced;
                    produced.extend(answer.context.into_iter().map(|known| Produced {
                        name: String::new(),
                        known,
                    }));
                    Ok((answer.rel, produced))
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
                    inputs.push(self.set_node(leaf, level, types, context)?);
                }
                let (rel, produced) = self.union_all(inputs, types);
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
                let left = self.set_node(left, level, types, context)?;
                let right = self.set_node(right, level, types, context)?;
                self.intersect_or_except(kind, *all, left, right, types)
            }
        }
    }

    /// A bag union whose inputs are cast to the result's types.
    fn union_all(
        &mut self,
        inputs: Vec<(Rel, Vec<Produced>)>,
        types: &[Type],
    ) -> (Rel, Vec<Produced>) {
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
            .map(|(rel, columns)| self.cast_columns(rel, columns, types))
            .collect();
        let columns = produced
            .iter()
            .map(|column| (column.known.id, column.known.ty.clone()))
            .collect();
        (Rel::UnionAll { inputs, columns }, produced)
    }

    /// INTERSECT or EXCEPT: each distinct row is a partition of its own.
    fn intersect_or_except(
        &mut self,
        kind: rel::SetKind,
        all: bool,
        left: (Rel, Vec<Produced>),
        right: (Rel, Vec<Produced>),
        types: &[Type],
    ) -> Result<(Rel, Vec<Produced>)> {
        if let Some(ty) = types.iter().find(|ty| ty.equality.is_none()) {
            return Err(NotIncremental::new(
                format!("type {} has no equality", ty.name),
                "INTERSECT and EXCEPT need types that can be compared.",
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
        let (left, from_left) = self.cast_columns(left.0, left.1, types);
        let (right, from_right) = self.cast_columns(right.0, right.1, types);
        let input = |rel: Rel, from: &[ColId], nullable: &[bool]| PartitionInput {
            rel,
            keys: from
                .iter()
                .zip(types)
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
                (self.column(), known.scalar())
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

    pub(super) fn cast_columns(
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
