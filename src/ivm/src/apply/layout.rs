//! How a result is stored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::facts;
use crate::rel::{AggregateCall, AggregateKind, ColId, OutputColumn, Query, Rel, SumKind};
use crate::scalar::{Piece, Scalar, Shape, Type};

/// How a stored row is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// A unique key of columns that are never null, by the names of stored columns.
    Key(Vec<String>),
    /// Group columns that may be null, or too long for an index: found by `row_hash`, confirmed by `IS NOT DISTINCT FROM`.
    Group(Vec<String>),
    /// Rows belong to partitions, found by the hash of these columns; within one they are a bag.
    Partition(Vec<String>),
    /// No key: rows are found by the hash of their image, confirmed by the image.
    Bag,
    /// The result always has exactly one row.
    Single,
}

/// What a stored column holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A column of a result without grouping.
    Column(ColId),
    /// A group key, by its position.
    Key(usize),
    /// Running state, by its position in [`Grouped::states`].
    State(usize),
    /// A value computed from keys and states.
    Computed(Scalar),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredColumn {
    pub name: String,
    pub ty: Type,
    pub role: Role,
    /// Part of the query's result; otherwise state kept for the next refresh.
    pub visible: bool,
}

/// Running state of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateKind {
    /// Rows of the group.
    Rows,
    /// Rows for which the input (argument under filter) is not null.
    NonNull {
        input: usize,
    },
    /// Sum of the input, NULL while `count` (a `Rows` or `NonNull` state) is zero.
    Sum {
        input: usize,
        kind: SumKind,
        count: usize,
        scales: Option<usize>,
    },
    /// Sum over the input of 10^(12 * scale): one group of 12 digits counts the live inputs of each scale.
    Scales {
        input: usize,
    },
    Minimum {
        input: usize,
    },
    Maximum {
        input: usize,
    },
    /// No law: the call is evaluated again over the group.
    Recompute {
        call: Scalar,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub kind: StateKind,
    pub ty: Type,
}

/// An argument of aggregates: `CASE WHEN filter THEN argument END`; the constant 1 without argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub argument: Option<Scalar>,
    pub filter: Option<Scalar>,
}

/// A result with one row per group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grouped {
    pub input: Rel,
    pub keys: Vec<(ColId, Scalar)>,
    pub inputs: Vec<Input>,
    /// State 0 is always `Rows`.
    pub states: Vec<State>,
    /// The value of each aggregate call, over pseudo-columns that stand for states (see [`state_column`]).
    pub calls: BTreeMap<ColId, Scalar>,
}

/// How a result is stored, derived from the query alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub columns: Vec<StoredColumn>,
    pub identity: Identity,
    pub grouped: Option<Grouped>,
}

/// Pseudo-columns standing for states start here; a query never has that many columns.
const STATE_BASE: u32 = 1 << 24;

/// The pseudo-column that stands for state number `state`.
pub fn state_column(state: usize) -> ColId {
    ColId(STATE_BASE + state as u32)
}

/// The state a pseudo-column stands for.
pub fn column_state(id: ColId) -> Option<usize> {
    id.0.checked_sub(STATE_BASE).map(|state| state as usize)
}

fn builtin(name: &str) -> Type {
    Type {
        name: format!("pg_catalog.{name}"),
        collation: None,
        equality: Some("pg_catalog.=".into()),
        hashable: true,
        bitwise: name != "numeric",
    }
}

impl Layout {
    /// The layout of a query whose root is linear, or an aggregate with at most a projection above it.
    pub fn of(query: &Query) -> Layout {
        match &query.root {
            Rel::Aggregate { input, keys, calls } => {
                Layout::grouped(query, input, keys, calls, None)
            }
            Rel::Project {
                input: below,
                columns,
            } => match &**below {
                Rel::Aggregate { input, keys, calls } => {
                    Layout::grouped(query, input, keys, calls, Some(columns))
                }
                _ => Layout::partitioned(query).unwrap_or_else(|| Layout::linear(query)),
            },
            _ => Layout::partitioned(query).unwrap_or_else(|| Layout::linear(query)),
        }
    }

    /// The layout of a partitioned operator under filters and projections: the result's columns, and the partition keys
    /// that are not among them.
    fn partitioned(query: &Query) -> Option<Layout> {
        if query.root.recursion().is_some() {
            return Some(Layout::opaque(&query.output));
        }
        let keys = partition_keys(&query.root)?;
        let mut columns = visible_columns(&query.output);
        let mut names = Vec::new();
        for (position, (id, key)) in keys.iter().enumerate() {
            let shown = key.as_column().and_then(|base| {
                query
                    .output
                    .iter()
                    .find(|column| origin(&query.root, column.id) == base)
                    .map(|column| column.name.clone())
            });
            let name = shown.unwrap_or_else(|| {
                let name = format!("__pgt_part_{position}");
                columns.push(StoredColumn {
                    name: name.clone(),
                    ty: key.ty.clone(),
                    role: Role::Column(*id),
                    visible: false,
                });
                name
            });
            names.push(name);
        }
        Some(Layout {
            columns,
            identity: Identity::Partition(names),
            grouped: None,
        })
    }

    /// The layout of a result of which only its columns count: a bag.
    pub fn opaque(output: &[OutputColumn]) -> Layout {
        Layout {
            columns: visible_columns(output),
            identity: Identity::Bag,
            grouped: None,
        }
    }

    fn linear(query: &Query) -> Layout {
        let stored: BTreeSet<ColId> = query.output.iter().map(|column| column.id).collect();
        let comparable = |key: &BTreeSet<ColId>| {
            key.iter().all(|id| {
                query
                    .output
                    .iter()
                    .any(|column| column.id == *id && column.ty.equality.is_some())
            })
        };
        let identity = match facts::minimal_key(&query.root, &stored) {
            Some(key) if !key.is_empty() && comparable(&key) => Identity::Key(
                key.iter()
                    .filter_map(|id| query.output.iter().find(|column| column.id == *id))
                    .map(|column| column.name.clone())
                    .collect(),
            ),
            _ => Identity::Bag,
        };
        Layout {
            columns: visible_columns(&query.output),
            identity,
            grouped: None,
        }
    }

    fn grouped(
        query: &Query,
        input: &Rel,
        keys: &[(ColId, Scalar)],
        calls: &[(ColId, AggregateCall)],
        projection: Option<&Vec<(ColId, Scalar)>>,
    ) -> Layout {
        let mut builder = GroupedBuilder::new(input, keys);
        for (id, call) in calls {
            let value = builder.call(call);
            builder.grouped.calls.insert(*id, value);
        }
        let grouped = builder.grouped;

        let mut columns = Vec::new();
        for output in &query.output {
            let value = match projection {
                Some(projection) => projection
                    .iter()
                    .find(|(id, _)| *id == output.id)
                    .map(|(_, scalar)| scalar.clone())
                    .unwrap_or_else(|| Scalar::column(output.id, output.ty.clone(), true)),
                None => Scalar::column(output.id, output.ty.clone(), true),
            };
            let stored = |role: &Role| {
                columns
                    .iter()
                    .any(|column: &StoredColumn| column.role == *role)
            };
            let mut role = grouped.role(&value);
            if !matches!(role, Role::Computed(_)) && stored(&role) {
                role = Role::Computed(value);
            }
            columns.push(StoredColumn {
                name: output.name.clone(),
                ty: output.ty.clone(),
                role,
                visible: true,
            });
        }
        let taken: BTreeSet<String> = columns.iter().map(|column| column.name.clone()).collect();
        let hidden = |base: String| {
            let mut name = base.clone();
            let mut suffix = 1;
            while taken.contains(&name) {
                name = format!("{base}_{suffix}");
                suffix += 1;
            }
            name
        };
        for (position, (_, key)) in grouped.keys.iter().enumerate() {
            if !columns
                .iter()
                .any(|column| column.role == Role::Key(position))
            {
                columns.push(StoredColumn {
                    name: hidden(format!("__pgt_key_{position}")),
                    ty: key.ty.clone(),
                    role: Role::Key(position),
                    visible: false,
                });
            }
        }
        for (position, state) in grouped.states.iter().enumerate() {
            if !columns
                .iter()
                .any(|column| column.role == Role::State(position))
            {
                columns.push(StoredColumn {
                    name: hidden(state.hidden_name(position)),
                    ty: state.ty.clone(),
                    role: Role::State(position),
                    visible: false,
                });
            }
        }
        let key_names: Vec<String> = (0..grouped.keys.len())
            .filter_map(|position| {
                columns
                    .iter()
                    .find(|column| column.role == Role::Key(position))
            })
            .map(|column| column.name.clone())
            .collect();
        let identity = if key_names.is_empty() {
            Identity::Single
        } else if grouped
            .keys
            .iter()
            .all(|(_, key)| !key.nullable && key.ty.equality.is_some())
            && Type::fit_a_btree(grouped.keys.iter().map(|(_, key)| &key.ty))
        {
            Identity::Key(key_names)
        } else {
            Identity::Group(key_names)
        };
        Layout {
            columns,
            identity,
            grouped: Some(grouped),
        }
    }

    /// The stored column with this role.
    pub fn column_with(&self, role: &Role) -> Option<&StoredColumn> {
        self.columns.iter().find(|column| column.role == *role)
    }

    /// The stored column named `name`.
    pub fn column_named(&self, name: &str) -> Option<&StoredColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The layout of its rows without the state beside them, as the defining view has them; none if they are found by what
    /// is not shown.
    pub fn shown(&self) -> Option<Layout> {
        let columns: Vec<StoredColumn> = self.visible().cloned().collect();
        let identity = match &self.identity {
            Identity::Key(names) => {
                let shown = |name: &String| columns.iter().any(|column| column.name == *name);
                if !names.iter().all(shown) {
                    return None;
                }
                self.identity.clone()
            }
            _ => Identity::Bag,
        };
        Some(Layout {
            columns,
            identity,
            grouped: None,
        })
    }

    pub fn visible(&self) -> impl Iterator<Item = &StoredColumn> {
        self.columns.iter().filter(|column| column.visible)
    }
}

/// The keys of the partitioned operator under a chain of filters and projections.
pub(super) fn partition_keys(rel: &Rel) -> Option<&[(ColId, Scalar)]> {
    match rel {
        Rel::Filter { input, .. } | Rel::Project { input, .. } => partition_keys(input),
        Rel::Partitioned { keys, .. } => Some(keys),
        _ => None,
    }
}

/// The column that `id` is a mere copy of, through the projections of a chain.
fn origin(rel: &Rel, id: ColId) -> ColId {
    match rel {
        Rel::Filter { input, .. } => origin(input, id),
        Rel::Project { input, columns } => {
            match columns
                .iter()
                .find(|(known, _)| *known == id)
                .and_then(|(_, scalar)| scalar.as_column())
            {
                Some(below) => origin(input, below),
                None => id,
            }
        }
        _ => id,
    }
}

fn visible_columns(output: &[OutputColumn]) -> Vec<StoredColumn> {
    output
        .iter()
        .map(|column| StoredColumn {
            name: column.name.clone(),
            ty: column.ty.clone(),
            role: Role::Column(column.id),
            visible: true,
        })
        .collect()
}

impl State {
    fn hidden_name(&self, position: usize) -> String {
        let what = match self.kind {
            StateKind::Rows => return "__pgt_count".into(),
            StateKind::NonNull { .. } => "nonnull",
            StateKind::Sum { .. } => "sum",
            StateKind::Scales { .. } => "scales",
            StateKind::Minimum { .. } => "min",
            StateKind::Maximum { .. } => "max",
            StateKind::Recompute { .. } => "value",
        };
        format!("__pgt_{what}_{position}")
    }
}

impl Grouped {
    /// What a result column over keys and calls is stored as.
    fn role(&self, value: &Scalar) -> Role {
        if let Some(id) = value.as_column() {
            if let Some(position) = self.keys.iter().position(|(key, _)| *key == id) {
                return Role::Key(position);
            }
            if let Some(state) = self
                .calls
                .get(&id)
                .and_then(Scalar::as_column)
                .and_then(column_state)
            {
                return Role::State(state);
            }
        }
        Role::Computed(value.clone())
    }

    /// Some state has no law, so a touched group is always evaluated again.
    pub fn recomputes(&self) -> bool {
        self.states
            .iter()
            .any(|state| matches!(state.kind, StateKind::Recompute { .. }))
    }

    /// Some state may turn out not to be foldable for a particular change, so a part of the groups may have to be
    /// evaluated again.
    pub fn may_recompute(&self) -> bool {
        self.keys.iter().any(|(_, key)| !key.ty.bitwise)
            || self.states.iter().any(|state| {
                matches!(
                    state.kind,
                    StateKind::Minimum { .. }
                        | StateKind::Maximum { .. }
                        | StateKind::Sum {
                            kind: SumKind::FixedNumeric(_) | SumKind::FreeNumeric,
                            ..
                        }
                )
            })
    }

    /// Folding needs to know which inputs really came and went, not only their weighted sum.
    pub fn needs_net_inputs(&self) -> bool {
        self.keys.iter().any(|(_, key)| !key.ty.bitwise)
            || self.states.iter().any(|state| {
                matches!(
                    state.kind,
                    StateKind::Minimum { .. } | StateKind::Maximum { .. }
                )
            })
    }
}

struct GroupedBuilder {
    grouped: Grouped,
}

impl GroupedBuilder {
    fn new(input: &Rel, keys: &[(ColId, Scalar)]) -> Self {
        GroupedBuilder {
            grouped: Grouped {
                input: input.clone(),
                keys: keys.to_vec(),
                inputs: vec![],
                states: vec![State {
                    kind: StateKind::Rows,
                    ty: builtin("int8"),
                }],
                calls: BTreeMap::new(),
            },
        }
    }

    fn input(&mut self, argument: Option<&Scalar>, filter: Option<&Scalar>) -> usize {
        let input = Input {
            argument: argument.cloned(),
            filter: filter.cloned(),
        };
        let inputs = &mut self.grouped.inputs;
        inputs
            .iter()
            .position(|known| *known == input)
            .unwrap_or_else(|| {
                inputs.push(input);
                inputs.len() - 1
            })
    }

    fn state(&mut self, kind: StateKind, ty: Type) -> usize {
        let states = &mut self.grouped.states;
        states
            .iter()
            .position(|known| known.kind == kind)
            .unwrap_or_else(|| {
                states.push(State { kind, ty });
                states.len() - 1
            })
    }

    /// The state counting the rows whose input is not null.
    fn count(&mut self, argument: Option<&Scalar>, filter: Option<&Scalar>) -> usize {
        let always = argument.is_none_or(|argument| !argument.nullable);
        if always && filter.is_none() {
            return 0;
        }
        let input = self.input(argument, filter);
        self.state(StateKind::NonNull { input }, builtin("int8"))
    }

    fn sum(&mut self, call: &AggregateCall, kind: SumKind) -> usize {
        let (argument, filter) = (call.argument.as_ref(), call.filter.as_ref());
        let count = self.count(argument, filter);
        let input = self.input(argument, filter);
        let scales = (kind == SumKind::FreeNumeric)
            .then(|| self.state(StateKind::Scales { input }, builtin("numeric")));
        let ty = match kind {
            SumKind::Integer => builtin("int8"),
            SumKind::Money => builtin("money"),
            _ => builtin("numeric"),
        };
        self.state(
            StateKind::Sum {
                input,
                kind,
                count,
                scales,
            },
            ty,
        )
    }

    /// The call's value over state pseudo-columns.
    fn call(&mut self, call: &AggregateCall) -> Scalar {
        let whole = |state: usize| Scalar::column(state_column(state), call.call.ty.clone(), true);
        let (argument, filter) = (call.argument.as_ref(), call.filter.as_ref());
        match &call.kind {
            AggregateKind::CountStar => whole(self.count(None, filter)),
            AggregateKind::Count => whole(self.count(argument, filter)),
            AggregateKind::Sum(kind) => whole(self.sum(call, *kind)),
            AggregateKind::Avg(kind) => {
                let sum = self.sum(call, *kind);
                let count = self.count(argument, filter);
                // As PostgreSQL computes it: the numeric sum divided by the count, NULL over nothing.
                Scalar {
                    pieces: vec![
                        Piece::Text("((".into()),
                        Piece::Column(state_column(sum)),
                        Piece::Text(")::pg_catalog.numeric OPERATOR(pg_catalog./) NULLIF(".into()),
                        Piece::Column(state_column(count)),
                        Piece::Text(", 0)::pg_catalog.numeric)".into()),
                    ],
                    ty: call.call.ty.clone(),
                    nullable: true,
                    shape: Shape::Opaque,
                }
            }
            AggregateKind::Min => {
                let input = self.input(argument, filter);
                whole(self.state(StateKind::Minimum { input }, call.call.ty.clone()))
            }
            AggregateKind::Max => {
                let input = self.input(argument, filter);
                whole(self.state(StateKind::Maximum { input }, call.call.ty.clone()))
            }
            AggregateKind::Recompute => {
                let kind = StateKind::Recompute {
                    call: call.call.clone(),
                };
                whole(self.state(kind, call.call.ty.clone()))
            }
        }
    }
}
