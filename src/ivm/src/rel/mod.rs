//! The relational tree: what a defining query means, independent of how PostgreSQL spelled it.
//!
//! Every column has an id ([`ColId`]) unique in the whole query; operators name columns by id only. A tree is plain
//! data: it is built by `analyze`, changed by `rewrite`, differentiated by `delta`, printed by [`text`].

mod rename;
mod text;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use crate::scalar::ColId;
use crate::scalar::{Scalar, Type};
pub use rename::{Numbers, copy};
pub use validate::Malformed;

/// A relation the query reads: the oid of a table, or a number given to an internal stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceId(pub u64);

/// Stands for the time among the sources that changed.
pub const CLOCK: SourceId = SourceId(u64::MAX);

/// Stands for a recursive query's own rows in the trees of its terms.
pub const ITSELF: SourceId = SourceId(u64::MAX - 1);

/// Which state of a source a scan reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum At {
    /// What the refresh snapshot sees. Weight one per row.
    #[default]
    New,
    /// The net change between both.
    Delta,
}

/// A column read from a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanColumn {
    pub id: ColId,
    /// Attribute number in the source; the change log names its columns by it.
    pub attnum: i16,
    pub name: String,
    pub ty: Type,
    pub nullable: bool,
}

/// A source read by the query. Two scans of one source (a self join) are two instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    pub source: SourceId,
    pub instance: u32,
    pub at: At,
    pub columns: Vec<ScanColumn>,
    /// Sets of columns that are unique and not null together.
    pub keys: Vec<BTreeSet<ColId>>,
}

/// How an aggregate can be kept up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AggregateKind {
    CountStar,
    Count,
    Sum(SumKind),
    Avg(SumKind),
    Min,
    Max,
    /// No law: its group is evaluated again whenever a row of it changes.
    Recompute,
}

/// The arithmetic of a foldable sum: which type the running state has and what decides the printed scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SumKind {
    /// smallint, integer: `sum` is bigint.
    Integer,
    /// bigint: `sum` is numeric of scale 0.
    BigInteger,
    /// numeric whose every value has this scale.
    FixedNumeric(u16),
    /// numeric of any scale: the scale of a sum is the largest among its live inputs, so it is state too.
    FreeNumeric,
    Money,
}

/// An aggregate call over the input of its `Aggregate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateCall {
    pub kind: AggregateKind,
    /// The argument, for the kinds that fold.
    pub argument: Option<Scalar>,
    pub filter: Option<Scalar>,
    /// The whole call as PostgreSQL deparses it, over the columns of the input.
    pub call: Scalar,
}

/// One input of a partitioned operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionInput {
    pub rel: Rel,
    /// Which partition a row belongs to, as values compared by their types' equality.
    pub keys: Vec<Scalar>,
}

/// What a partitioned operator does with its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// `A INTERSECT B` or `A EXCEPT B`, with or without ALL. Each column comes from one column of each input.
    SetOperation {
        kind: SetKind,
        all: bool,
        columns: Vec<(ColId, Type, [ColId; 2])>,
    },
    /// Window function calls over the rows of one input, beside its columns.
    Window {
        columns: Vec<(ColId, Scalar)>,
        open: Vec<OpenCall>,
    },
    /// The first row of each partition. It is `open` if several rows can be.
    First { order: Vec<SortKey>, open: bool },
    /// The first rows of the whole input. The keys are the values it is ordered by. It is `open` if rows that are equal
    /// under the order can stand on both sides of its ends.
    Limit {
        order: Vec<SortKey>,
        count: Option<Box<Scalar>>,
        offset: Option<Box<Scalar>>,
        ties: bool,
        open: bool,
    },
    /// A query known as text, evaluated as a whole when anything it reads changed. The inputs only say what that is.
    Opaque {
        query: String,
        columns: Vec<(ColId, Type)>,
        /// The terms of a recursive query, where some changes of it have a law.
        recursion: Option<Box<Recursion>>,
    },
}

/// A window function call whose values rows that are equal under its ORDER BY can exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    pub column: ColId,
    /// `PARTITION BY .. ORDER BY ..`
    pub over: Scalar,
    pub is_number: bool,
}

/// `base UNION step` or `base UNION ALL step`, where the step reads the query's own rows: a scan of [`ITSELF`] whose
/// attribute numbers are the positions of the query's columns, from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recursion {
    pub all: bool,
    pub base: Term,
    pub step: Term,
}

/// One term of a recursive query, and its columns in the order of the query's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    pub rel: Rel,
    pub columns: Vec<ColId>,
}

/// One expression of an ORDER BY.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    pub value: Scalar,
    /// The operator that puts one value before another: `pg_catalog.<`.
    pub using: String,
    pub nulls_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetKind {
    Intersect,
    Except,
}

/// Which rows a join keeps besides, or instead of, its pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Rows of the left side with a partner, alone.
    Matched,
    /// Rows of the left side without one, alone.
    Unmatched,
    /// The pairs, and rows of the left side without a partner.
    Left,
    /// The pairs, and rows of either side without a partner.
    Both,
}

/// A condition that depends on the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    pub condition: Scalar,
    /// True where the condition was or will be true at another time and is not now: a comparison with the negated
    /// operator if there is one, so that an index finds the rows between two times.
    pub negated: Scalar,
}

/// A comparison of a row with a value of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub condition: Scalar,
    /// True where the condition is false. It is null exactly if a side is.
    pub negated: Scalar,
    /// The side of the row.
    pub value: Scalar,
    /// The side of the other row.
    pub limit: Scalar,
}

/// A relational operator. Weights are implicit: each node is a multiset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rel {
    Scan(Scan),
    /// The rows for which every condition is true.
    Filter {
        input: Box<Rel>,
        conditions: Vec<Scalar>,
    },
    /// The rows for which every condition is true, where that changes as time passes.
    Moving {
        input: Box<Rel>,
        conditions: Vec<Moving>,
    },
    /// Exactly the columns listed, each computed from the input.
    Project {
        input: Box<Rel>,
        columns: Vec<(ColId, Scalar)>,
    },
    /// Inner join of all inputs under all conditions; none is a cross join.
    Join {
        inputs: Vec<Rel>,
        conditions: Vec<Scalar>,
    },
    /// The rows of `input` that satisfy every bound with the row of `by`, which always is exactly one.
    Bounded {
        input: Box<Rel>,
        by: Box<Rel>,
        bounds: Vec<Bound>,
    },
    /// Bag union. `columns[i]` is taken from `inputs[k].1[i]`, a column of that input.
    UnionAll {
        inputs: Vec<(Rel, Vec<ColId>)>,
        columns: Vec<(ColId, Type)>,
    },
    /// Exactly one row without columns.
    Unit,
    /// `left LEFT JOIN right ON ..`, or FULL.
    Outer {
        left: Box<Rel>,
        right: Box<Rel>,
        full: bool,
        on: Vec<Scalar>,
    },
    /// Rows of `left` for which `right` has (or has not) a row satisfying `on`.
    Match {
        left: Box<Rel>,
        right: Box<Rel>,
        present: bool,
        on: Vec<Scalar>,
    },
    /// The change of an outer, semi or anti join whose right side changed. Only in deltas; `delta::matching` and
    /// `delta::outer` have the laws. The changes of both sides are evaluated once, however often the law uses them.
    JoinChange {
        left: Box<Rel>,
        right: Box<Rel>,
        kind: Kept,
        on: Vec<Scalar>,
        left_terms: Vec<Rel>,
        right_terms: Vec<Rel>,
    },
    /// The change of an inner join of which several inputs changed, given the terms of the change of each (none for a
    /// clean one). Only in deltas; `delta::join` has the law. Each input's change is evaluated once.
    InnerChange {
        inputs: Vec<Rel>,
        conditions: Vec<Scalar>,
        changes: Vec<Vec<Rel>>,
    },
    /// The same rows with their weights negated. Only in deltas.
    Negate(Box<Rel>),
    /// Each row of the input beside the rows of a FROM item that is computed from it: a function call, VALUES. With
    /// `outer` a row stays when the item has no row that satisfies `on`.
    Expand {
        input: Box<Rel>,
        item: Scalar,
        columns: Vec<(ColId, Type)>,
        outer: bool,
        on: Vec<Scalar>,
    },
    /// Exactly the columns listed, of which some are set-returning.
    ProjectSet {
        input: Box<Rel>,
        columns: Vec<(ColId, Scalar)>,
    },
    /// One row per distinct combination of keys; with no keys exactly one row. No calls: DISTINCT.
    Aggregate {
        input: Box<Rel>,
        keys: Vec<(ColId, Scalar)>,
        calls: Vec<(ColId, AggregateCall)>,
    },
    /// An operator whose result falls apart into partitions: rows of a partition depend on the rows of the inputs with the
    /// same key values and on nothing else. `keys` are the key values of a result row.
    Partitioned {
        inputs: Vec<PartitionInput>,
        keys: Vec<(ColId, Scalar)>,
        body: Body,
    },
}

impl Body {
    /// The columns of the result, without the partition keys.
    fn columns(&self, inputs: &[PartitionInput]) -> BTreeSet<ColId> {
        let passed = || inputs.iter().flat_map(|input| input.rel.columns());
        match self {
            Body::Window { columns, .. } => {
                passed().chain(columns.iter().map(|(id, _)| *id)).collect()
            }
            Body::First { .. } | Body::Limit { .. } => passed().collect(),
            Body::Opaque { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
            Body::SetOperation { columns, .. } => columns.iter().map(|(id, _, _)| *id).collect(),
        }
    }

    /// Type and nullability of the result's columns.
    fn column_types(&self, inputs: &[PartitionInput]) -> BTreeMap<ColId, (Type, bool)> {
        let passed = || inputs.iter().flat_map(|input| input.rel.column_types());
        match self {
            Body::Window { columns, .. } => passed()
                .chain(
                    columns
                        .iter()
                        .map(|(id, call)| (*id, (call.ty.clone(), call.nullable))),
                )
                .collect(),
            Body::First { .. } | Body::Limit { .. } => passed().collect(),
            Body::Opaque { columns, .. } => columns
                .iter()
                .map(|(id, ty)| (*id, (ty.clone(), true)))
                .collect(),
            Body::SetOperation { columns, .. } => {
                let types: Vec<_> = inputs
                    .iter()
                    .map(|input| input.rel.column_types())
                    .collect();
                columns
                    .iter()
                    .map(|(id, ty, from)| {
                        let nullable = from
                            .iter()
                            .zip(&types)
                            .any(|(id, types)| types.get(id).is_none_or(|(_, nullable)| *nullable));
                        (*id, (ty.clone(), nullable))
                    })
                    .collect()
            }
        }
    }
}

/// A column of the query's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputColumn {
    pub id: ColId,
    pub name: String,
    pub ty: Type,
}

/// A defining query: its tree and the result's columns in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    pub root: Rel,
    pub output: Vec<OutputColumn>,
}

impl Rel {
    /// Nothing but scans, filters, projections and inner joins.
    pub fn is_plain(&self) -> bool {
        match self {
            Rel::Scan(_) => true,
            Rel::Filter { input, .. } | Rel::Project { input, .. } => input.is_plain(),
            Rel::Join { inputs, .. } => inputs.iter().all(Rel::is_plain),
            Rel::Bounded { input, by, .. } => input.is_plain() && by.is_plain(),
            _ => false,
        }
    }

    /// The columns the node produces.
    pub fn columns(&self) -> BTreeSet<ColId> {
        match self {
            Rel::Scan(scan) => scan.columns.iter().map(|column| column.id).collect(),
            Rel::Filter { input, .. } | Rel::Moving { input, .. } | Rel::Bounded { input, .. } => {
                input.columns()
            }
            Rel::Project { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
            Rel::Join { inputs, .. } | Rel::InnerChange { inputs, .. } => {
                inputs.iter().flat_map(Rel::columns).collect()
            }
            Rel::Unit => BTreeSet::new(),
            Rel::Outer { left, right, .. } => {
                left.columns().into_iter().chain(right.columns()).collect()
            }
            Rel::Match { left, .. } => left.columns(),
            Rel::JoinChange {
                left, right, kind, ..
            } => match kind {
                Kept::Matched | Kept::Unmatched => left.columns(),
                Kept::Left | Kept::Both => {
                    left.columns().into_iter().chain(right.columns()).collect()
                }
            },
            Rel::Negate(input) => input.columns(),
            Rel::Expand { input, columns, .. } => input
                .columns()
                .into_iter()
                .chain(columns.iter().map(|(id, _)| *id))
                .collect(),
            Rel::ProjectSet { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
            Rel::UnionAll { columns, .. } => columns.iter().map(|(id, _)| *id).collect(),
            Rel::Aggregate { keys, calls, .. } => keys
                .iter()
                .map(|(id, _)| *id)
                .chain(calls.iter().map(|(id, _)| *id))
                .collect(),
            // The keys are only known where the result is stored.
            Rel::Partitioned { inputs, body, .. } => body.columns(inputs),
        }
    }

    /// Type and nullability of every column the node produces.
    pub fn column_types(&self) -> BTreeMap<ColId, (Type, bool)> {
        match self {
            Rel::Scan(scan) => scan
                .columns
                .iter()
                .map(|column| (column.id, (column.ty.clone(), column.nullable)))
                .collect(),
            Rel::Filter { input, .. } | Rel::Moving { input, .. } | Rel::Bounded { input, .. } => {
                input.column_types()
            }
            Rel::Project { columns, .. } => columns
                .iter()
                .map(|(id, scalar)| (*id, (scalar.ty.clone(), scalar.nullable)))
                .collect(),
            Rel::Join { inputs, .. } | Rel::InnerChange { inputs, .. } => {
                inputs.iter().flat_map(Rel::column_types).collect()
            }
            Rel::Unit => BTreeMap::new(),
            Rel::Outer {
                left, right, full, ..
            } => {
                let side = |rel: &Rel, optional: bool| {
                    rel.column_types()
                        .into_iter()
                        .map(move |(id, (ty, nullable))| (id, (ty, nullable || optional)))
                };
                side(left, *full).chain(side(right, true)).collect()
            }
            Rel::Match { left, .. } => left.column_types(),
            Rel::JoinChange {
                left, right, kind, ..
            } => match kind {
                Kept::Matched | Kept::Unmatched => left.column_types(),
                Kept::Left | Kept::Both => left
                    .column_types()
                    .into_iter()
                    .chain(right.column_types())
                    .map(|(id, (ty, _))| (id, (ty, true)))
                    .collect(),
            },
            Rel::Negate(input) => input.column_types(),
            Rel::Expand { input, columns, .. } => input
                .column_types()
                .into_iter()
                .chain(columns.iter().map(|(id, ty)| (*id, (ty.clone(), true))))
                .collect(),
            Rel::ProjectSet { columns, .. } => columns
                .iter()
                .map(|(id, scalar)| (*id, (scalar.ty.clone(), true)))
                .collect(),
            Rel::UnionAll { inputs, columns } => {
                let types: Vec<_> = inputs
                    .iter()
                    .map(|(input, _)| input.column_types())
                    .collect();
                columns
                    .iter()
                    .enumerate()
                    .map(|(position, (id, ty))| {
                        let nullable = inputs.iter().zip(&types).any(|((_, from), types)| {
                            types
                                .get(&from[position])
                                .is_none_or(|(_, nullable)| *nullable)
                        });
                        (*id, (ty.clone(), nullable))
                    })
                    .collect()
            }
            Rel::Aggregate { keys, calls, .. } => keys
                .iter()
                .map(|(id, scalar)| (*id, (scalar.ty.clone(), scalar.nullable)))
                .chain(
                    calls
                        .iter()
                        .map(|(id, call)| (*id, (call.call.ty.clone(), call.call.nullable))),
                )
                .collect(),
            Rel::Partitioned { inputs, body, .. } => body.column_types(inputs),
        }
    }

    /// The operator's inputs.
    pub fn inputs(&self) -> Vec<&Rel> {
        match self {
            Rel::Scan(_) | Rel::Unit => vec![],
            Rel::Filter { input, .. }
            | Rel::Moving { input, .. }
            | Rel::Project { input, .. }
            | Rel::ProjectSet { input, .. }
            | Rel::Expand { input, .. }
            | Rel::Negate(input)
            | Rel::Aggregate { input, .. } => vec![input],
            Rel::Outer { left, right, .. }
            | Rel::Match { left, right, .. }
            | Rel::JoinChange { left, right, .. } => vec![left, right],
            Rel::Bounded { input, by, .. } => vec![input, by],
            Rel::Join { inputs, .. } | Rel::InnerChange { inputs, .. } => inputs.iter().collect(),
            Rel::UnionAll { inputs, .. } => inputs.iter().map(|(input, _)| input).collect(),
            Rel::Partitioned { inputs, .. } => inputs.iter().map(|input| &input.rel).collect(),
        }
    }

    /// Every scan in the tree, left to right.
    pub fn scans(&self) -> Vec<&Scan> {
        match self {
            Rel::Scan(scan) => vec![scan],
            other => other.inputs().into_iter().flat_map(Rel::scans).collect(),
        }
    }

    /// The result changes as time passes.
    pub fn moves(&self) -> bool {
        matches!(self, Rel::Moving { .. }) || self.inputs().into_iter().any(Rel::moves)
    }

    /// The terms of the recursive query that this is, and its columns.
    pub fn recursion(&self) -> Option<(&Recursion, &[(ColId, Type)])> {
        match self {
            Rel::Partitioned {
                body:
                    Body::Opaque {
                        recursion: Some(recursion),
                        columns,
                        ..
                    },
                ..
            } => Some((recursion, columns)),
            _ => None,
        }
    }

    /// The distinct sources read, in order of first appearance.
    pub fn sources(&self) -> Vec<SourceId> {
        let mut seen = Vec::new();
        for scan in self.scans() {
            if !seen.contains(&scan.source) {
                seen.push(scan.source);
            }
        }
        seen
    }

    /// The same operator over other inputs.
    pub fn map_inputs(&self, change: &mut dyn FnMut(&Rel) -> Rel) -> Rel {
        match self {
            Rel::Scan(_) | Rel::Unit => self.clone(),
            Rel::Filter { input, conditions } => Rel::Filter {
                input: Box::new(change(input)),
                conditions: conditions.clone(),
            },
            Rel::Moving { input, conditions } => Rel::Moving {
                input: Box::new(change(input)),
                conditions: conditions.clone(),
            },
            Rel::Bounded { input, by, bounds } => Rel::Bounded {
                input: Box::new(change(input)),
                by: Box::new(change(by)),
                bounds: bounds.clone(),
            },
            Rel::ProjectSet { input, columns } => Rel::ProjectSet {
                input: Box::new(change(input)),
                columns: columns.clone(),
            },
            Rel::Negate(input) => Rel::Negate(Box::new(change(input))),
            Rel::InnerChange {
                inputs,
                conditions,
                changes,
            } => Rel::InnerChange {
                inputs: inputs.iter().map(&mut *change).collect(),
                conditions: conditions.clone(),
                changes: changes
                    .iter()
                    .map(|terms| terms.iter().map(&mut *change).collect())
                    .collect(),
            },
            Rel::Expand {
                input,
                item,
                columns,
                outer,
                on,
            } => Rel::Expand {
                input: Box::new(change(input)),
                item: item.clone(),
                columns: columns.clone(),
                outer: *outer,
                on: on.clone(),
            },
            Rel::Outer {
                left,
                right,
                full,
                on,
            } => Rel::Outer {
                left: Box::new(change(left)),
                right: Box::new(change(right)),
                full: *full,
                on: on.clone(),
            },
            Rel::Match {
                left,
                right,
                present,
                on,
            } => Rel::Match {
                left: Box::new(change(left)),
                right: Box::new(change(right)),
                present: *present,
                on: on.clone(),
            },
            Rel::JoinChange {
                left,
                right,
                kind,
                on,
                left_terms,
                right_terms,
            } => Rel::JoinChange {
                left: Box::new(change(left)),
                right: Box::new(change(right)),
                kind: *kind,
                on: on.clone(),
                left_terms: left_terms.iter().map(&mut *change).collect(),
                right_terms: right_terms.iter().map(&mut *change).collect(),
            },
            Rel::Project { input, columns } => Rel::Project {
                input: Box::new(change(input)),
                columns: columns.clone(),
            },
            Rel::Join { inputs, conditions } => Rel::Join {
                inputs: inputs.iter().map(&mut *change).collect(),
                conditions: conditions.clone(),
            },
            Rel::UnionAll { inputs, columns } => Rel::UnionAll {
                inputs: inputs
                    .iter()
                    .map(|(input, from)| (change(input), from.clone()))
                    .collect(),
                columns: columns.clone(),
            },
            Rel::Aggregate { input, keys, calls } => Rel::Aggregate {
                input: Box::new(change(input)),
                keys: keys.clone(),
                calls: calls.clone(),
            },
            Rel::Partitioned { inputs, keys, body } => Rel::Partitioned {
                inputs: inputs
                    .iter()
                    .map(|input| PartitionInput {
                        rel: change(&input.rel),
                        keys: input.keys.clone(),
                    })
                    .collect(),
                keys: keys.clone(),
                body: body.clone(),
            },
        }
    }
}

impl Query {
    /// Checks the tree's invariants: every column read is produced below, ids are unique, arities agree.
    pub fn validate(&self) -> Result<(), Malformed> {
        validate::query(self)
    }

    /// The tree as indented text, the form goldens and `explain_stream_table(.., 'rel')` show.
    pub fn text(&self) -> String {
        text::query(self)
    }
}
