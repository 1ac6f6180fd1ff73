//! A plan has at most one stateful operator, at its root: every other one becomes a stage, a stored intermediate result
//! with its own plan, read like any source.

use serde::{Deserialize, Serialize};

use crate::facts;
use crate::rel::{At, OutputColumn, PartitionInput, Query, Rel, Scan, ScanColumn, SourceId};

/// Source ids of stages start here, above every oid.
pub const STAGE_SOURCE: u64 = 1 << 32;

/// A stored intermediate result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub source: SourceId,
    pub query: Query,
}

/// A query cut into plans: stages in the order they have to be maintained, then the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    pub stages: Vec<Stage>,
    pub query: Query,
}

/// Cuts `query` at its inner stateful operators.
pub fn cut(query: &Query) -> Planned {
    let mut stages = Vec::new();
    let mut instance = query
        .root
        .scans()
        .iter()
        .map(|scan| scan.instance)
        .max()
        .unwrap_or(0);
    let root = keep_root(&query.root, &mut stages, &mut instance);
    Planned {
        stages,
        query: Query {
            root,
            output: query.output.clone(),
        },
    }
}

/// The root of a plan: a stateful operator stays where it is and only what is below it is cut. An aggregate may have a
/// projection above it, a partitioned operator any filters and projections.
fn keep_root(rel: &Rel, stages: &mut Vec<Stage>, instance: &mut u32) -> Rel {
    match rel {
        Rel::Aggregate { input, keys, calls } => Rel::Aggregate {
            input: Box::new(below(input, stages, instance)),
            keys: keys.clone(),
            calls: calls.clone(),
        },
        Rel::Partitioned { inputs, keys, body } => Rel::Partitioned {
            inputs: inputs
                .iter()
                .map(|input| PartitionInput {
                    rel: below(&input.rel, stages, instance),
                    keys: input.keys.clone(),
                })
                .collect(),
            keys: keys.clone(),
            body: body.clone(),
        },
        Rel::Project { input, columns }
            if matches!(**input, Rel::Aggregate { .. }) || is_partitioned(input) =>
        {
            Rel::Project {
                input: Box::new(keep_root(input, stages, instance)),
                columns: columns.clone(),
            }
        }
        Rel::Filter { input, conditions } if is_partitioned(input) => Rel::Filter {
            input: Box::new(keep_root(input, stages, instance)),
            conditions: conditions.clone(),
        },
        other => below(other, stages, instance),
    }
}

/// A partitioned operator under nothing but filters and projections.
fn is_partitioned(rel: &Rel) -> bool {
    match rel {
        Rel::Partitioned { .. } => true,
        Rel::Filter { input, .. } | Rel::Project { input, .. } => is_partitioned(input),
        _ => false,
    }
}

fn below(rel: &Rel, stages: &mut Vec<Stage>, instance: &mut u32) -> Rel {
    match rel {
        Rel::Aggregate { .. } | Rel::Partitioned { .. } => {
            let unique = facts::keys(rel);
            let root = keep_root(rel, stages, instance);
            let types = root.column_types();
            let output: Vec<OutputColumn> = types
                .iter()
                .enumerate()
                .map(|(position, (id, (ty, _)))| OutputColumn {
                    id: *id,
                    name: format!("c{position}"),
                    ty: ty.clone(),
                })
                .collect();
            let columns = output
                .iter()
                .enumerate()
                .map(|(position, column)| ScanColumn {
                    id: column.id,
                    attnum: position as i16 + 1,
                    name: column.name.clone(),
                    ty: column.ty.clone(),
                    nullable: types[&column.id].1,
                })
                .collect();
            let source = SourceId(STAGE_SOURCE + stages.len() as u64);
            stages.push(Stage {
                source,
                query: Query { root, output },
            });
            *instance += 1;
            Rel::Scan(Scan {
                source,
                instance: *instance,
                at: At::New,
                columns,
                keys: unique,
            })
        }
        other => other.map_inputs(&mut |input| below(input, stages, instance)),
    }
}
