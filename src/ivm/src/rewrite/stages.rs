//! A plan has at most one stateful operator, at its root: every other one becomes a stage, a stored intermediate result
//! with its own plan, read like any source. So does a join that occurs often in a plan. What is the same is one stage.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bound::bound;
use super::narrow::narrow;
use super::watch::watched;
use crate::facts;
use crate::rel::{
    self, At, ColId, Numbers, OutputColumn, PartitionInput, Query, Rel, Scan, ScanColumn, SourceId,
};

/// Source ids of stages start here, above every oid.
pub const STAGE_SOURCE: u64 = 1 << 32;

/// A join that occurs this often in one plan is stored. Twice it is cheaper to evaluate its change twice.
const OFTEN: usize = 3;

/// A stored intermediate result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub source: SourceId,
    pub query: Query,
}

/// `query` with other names of its sources.
pub fn with_sources(query: &Query, sources: impl Fn(SourceId) -> SourceId) -> Query {
    struct Sources<F>(F);
    impl<F: Fn(SourceId) -> SourceId> Numbers for Sources<F> {
        fn column(&mut self, id: ColId) -> ColId {
            id
        }

        fn instance(&mut self, instance: u32) -> u32 {
            instance
        }

        fn source(&mut self, source: SourceId) -> SourceId {
            (self.0)(source)
        }
    }
    Query {
        root: rel::copy(&query.root, &mut Sources(sources)),
        output: query.output.clone(),
    }
}

/// A query cut into plans: stages in the order they have to be maintained, then the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    pub stages: Vec<Stage>,
    pub query: Query,
    /// The stages that nothing reads: the result is decided by the query unless one of them has a row.
    pub watches: BTreeSet<usize>,
}

/// What holds where rows that are equal under an ORDER BY decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Any of them is right.
    Any,
    /// It has to be known.
    Watched,
}

/// Cuts `query` at its inner stateful operators.
pub fn cut(query: &Query, ties: Ties) -> Planned {
    let root = bound(&narrow(&query.root), &query.output);
    let (root, watches) = match ties {
        Ties::Any => (root, vec![]),
        Ties::Watched => watched(&root, &query.output),
    };
    let scans = root.scans();
    let mut cutter = Cutter {
        stages: vec![],
        instance: scans.iter().map(|scan| scan.instance).max().unwrap_or(0),
    };
    let root = cutter.plan(&root);
    let watches = watches.iter().map(|watch| cutter.place(watch).0).collect();
    Planned {
        stages: cutter.stages,
        query: Query {
            root,
            output: query.output.clone(),
        },
        watches,
    }
}

struct Cutter {
    stages: Vec<Stage>,
    /// The last instance number given out.
    instance: u32,
}

impl Cutter {
    /// A plan for `rel`: reads stages where it had stateful operators below its root.
    fn plan(&mut self, rel: &Rel) -> Rel {
        self.keep_root(rel, &often(rel))
    }

    /// The root of a plan: a stateful operator stays where it is and only what is below it is cut. An aggregate may have
    /// a projection above it, a partitioned operator any filters and projections.
    fn keep_root(&mut self, rel: &Rel, often: &[Rel]) -> Rel {
        match rel {
            Rel::Aggregate { input, keys, calls } => Rel::Aggregate {
                input: Box::new(self.below(input, often)),
                keys: keys.clone(),
                calls: calls.clone(),
            },
            Rel::Partitioned { inputs, keys, body } => Rel::Partitioned {
                inputs: inputs
                    .iter()
                    .map(|input| PartitionInput {
                        rel: self.below(&input.rel, often),
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
                    input: Box::new(self.keep_root(input, often)),
                    columns: columns.clone(),
                }
            }
            Rel::Filter { input, conditions } if is_partitioned(input) => Rel::Filter {
                input: Box::new(self.keep_root(input, often)),
                conditions: conditions.clone(),
            },
            other => other.map_inputs(&mut |input| self.below(input, often)),
        }
    }

    fn below(&mut self, rel: &Rel, often: &[Rel]) -> Rel {
        let stored = match rel {
            Rel::Aggregate { .. } | Rel::Partitioned { .. } => true,
            other => is_join(other) && often.contains(&canonical(other).0),
        };
        if stored {
            self.stage(rel)
        } else {
            rel.map_inputs(&mut |input| self.below(input, often))
        }
    }

    /// A scan of the stage that keeps `rel`.
    fn stage(&mut self, rel: &Rel) -> Rel {
        let (position, columns) = self.place(rel);
        self.instance += 1;
        Rel::Scan(Scan {
            source: self.stages[position].source,
            instance: self.instance,
            at: At::New,
            columns,
            keys: facts::keys(rel),
        })
    }

    /// The number of the stage that keeps `rel`, and its columns there.
    fn place(&mut self, rel: &Rel) -> (usize, Vec<ScanColumn>) {
        let (root, mut renamed) = canonical(&self.plan(rel));
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
            .filter_map(|(position, column)| {
                Some(ScanColumn {
                    id: renamed.remove(&column.id)?,
                    attnum: position as i16 + 1,
                    name: column.name.clone(),
                    ty: column.ty.clone(),
                    nullable: types[&column.id].1,
                })
            })
            .collect();
        let query = Query { root, output };
        let position = self
            .stages
            .iter()
            .position(|stage| stage.query == query)
            .unwrap_or_else(|| {
                let source = SourceId(STAGE_SOURCE + self.stages.len() as u64);
                self.stages.push(Stage { source, query });
                self.stages.len() - 1
            });
        (position, columns)
    }
}

/// A partitioned operator under nothing but filters and projections.
fn is_partitioned(rel: &Rel) -> bool {
    match rel {
        // The law of a recursive query reads its rows as they are.
        Rel::Partitioned { .. } => rel.recursion().is_none(),
        Rel::Filter { input, .. } | Rel::Project { input, .. } => is_partitioned(input),
        _ => false,
    }
}

/// Reads more than one thing.
fn is_join(rel: &Rel) -> bool {
    matches!(
        rel,
        Rel::Join { .. }
            | Rel::Outer { .. }
            | Rel::Match { .. }
            | Rel::Bounded { .. }
            | Rel::Project { .. }
    ) && rel.scans().len() > 1
}

fn is_storable(rel: &Rel) -> bool {
    let types = rel.column_types();
    types.values().all(|(ty, _)| ty.is_storable())
}

/// The joins below the root of a plan that occur often, in canonical form.
fn often(root: &Rel) -> Vec<Rel> {
    fn visit(rel: &Rel, found: &mut Vec<(Rel, usize)>) {
        for input in rel.inputs() {
            if is_join(input) && is_storable(input) {
                let (form, _) = canonical(input);
                match found.iter_mut().find(|(known, _)| *known == form) {
                    Some((_, count)) => *count += 1,
                    None => found.push((form, 1)),
                }
            }
            visit(input, found);
        }
    }
    if root.scans().len() < 2 * OFTEN {
        return vec![];
    }
    let mut found = Vec::new();
    visit(root, &mut found);
    found
        .into_iter()
        .filter(|(_, count)| *count >= OFTEN)
        .map(|(form, _)| form)
        .collect()
}

/// The tree with columns and instances numbered in the order of their appearance, and what each column was before: trees
/// that mean the same, column by column, become equal.
fn canonical(rel: &Rel) -> (Rel, BTreeMap<ColId, ColId>) {
    #[derive(Default)]
    struct InOrder {
        columns: BTreeMap<ColId, ColId>,
        instances: BTreeMap<u32, u32>,
    }
    impl Numbers for InOrder {
        fn column(&mut self, id: ColId) -> ColId {
            let next = ColId(self.columns.len() as u32 + 1);
            *self.columns.entry(id).or_insert(next)
        }

        fn instance(&mut self, instance: u32) -> u32 {
            let next = self.instances.len() as u32 + 1;
            *self.instances.entry(instance).or_insert(next)
        }
    }
    let mut numbers = InOrder::default();
    let copy = rel::copy(rel, &mut numbers);
    let before = numbers.columns.iter().map(|(old, new)| (*new, *old));
    (copy, before.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Type;

    fn column(id: u32) -> ScanColumn {
        ScanColumn {
            id: ColId(id),
            attnum: 1,
            name: "a".into(),
            ty: Type {
                name: "pg_catalog.int4".into(),
                collation: None,
                equality: Some("pg_catalog.=".into()),
                hashable: true,
                bitwise: true,
            },
            nullable: true,
        }
    }

    fn scan(source: u64, number: u32) -> Rel {
        Rel::Scan(Scan {
            source: SourceId(source),
            instance: number,
            at: At::New,
            columns: vec![column(number)],
            keys: vec![],
        })
    }

    fn join(inputs: Vec<Rel>) -> Rel {
        Rel::Join {
            inputs,
            conditions: vec![],
        }
    }

    fn distinct(number: u32) -> Rel {
        let column = column(number);
        Rel::Aggregate {
            input: Box::new(scan(1, number)),
            keys: vec![(
                ColId(number + 100),
                crate::scalar::Scalar::column(column.id, column.ty, true),
            )],
            calls: vec![],
        }
    }

    fn cut_any(root: Rel) -> Planned {
        let output = vec![];
        cut(&Query { root, output }, Ties::Any)
    }

    fn stages(root: Rel) -> usize {
        cut_any(root).stages.len()
    }

    #[test]
    fn equal_sub_queries_are_one_stage() {
        assert_eq!(stages(join(vec![distinct(1), distinct(2)])), 1);
        let of_another_table = Rel::Filter {
            input: Box::new(join(vec![distinct(1), scan(2, 2)])),
            conditions: vec![],
        };
        assert_eq!(stages(of_another_table), 1);
    }

    #[test]
    fn joins_used_often_are_stages() {
        let pair = |number: u32| join(vec![scan(1, number), scan(2, number + 1)]);
        assert_eq!(stages(join(vec![pair(1), pair(3)])), 0);
        assert_eq!(stages(join(vec![pair(1), pair(3), pair(5)])), 1);
        let other = join(vec![scan(2, 5), scan(1, 6)]);
        assert_eq!(stages(join(vec![pair(1), pair(3), other])), 0);
    }

    #[test]
    fn joins_of_anonymous_rows_are_never_stored() {
        let pair = |number: u32| {
            let mut row = column(number);
            row.ty.name = "pg_catalog.record".into();
            let input = join(vec![scan(1, number), scan(2, number + 1)]);
            Rel::Project {
                input: Box::new(input),
                columns: vec![(
                    ColId(number + 100),
                    crate::scalar::Scalar::column(row.id, row.ty, true),
                )],
            }
        };
        let planned = cut_any(join(vec![pair(1), pair(3), pair(5)]));
        let [stage] = &planned.stages[..] else {
            panic!("the join below the rows is stored");
        };
        assert!(is_storable(&stage.query.root));
    }

    #[test]
    fn columns_of_a_shared_stage_are_those_of_each_reader() {
        let planned = cut_any(join(vec![distinct(1), distinct(2)]));
        let read: Vec<_> = planned
            .query
            .root
            .scans()
            .iter()
            .map(|scan| (scan.source, scan.instance, scan.columns[0].id))
            .collect();
        assert_eq!(
            read,
            [
                (SourceId(STAGE_SOURCE), 3, ColId(101)),
                (SourceId(STAGE_SOURCE), 4, ColId(102))
            ]
        );
    }
}
