//! The columns by which plans look rows up: without an index a change of one table has to read all of another. Stages get
//! theirs here; what the users' tables lack is told.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use pgt_ivm::apply::{self, Identity, Layout, Lookup, Role};
use pgt_ivm::rel::{AggregateKind, ColId, Query, Rel, SourceId};
use pgt_ivm::rewrite::{Planned, STAGE_SOURCE};
use pgt_ivm::scalar::{Scalar, Shape};
use pgt_ivm::sql;
use pgt_ivm::sql::ast::{Expr, Name};

use crate::pg::relation;
use crate::pg::session::Scope;
use crate::pg::spi::{self, Value};

/// Notes by which columns of its tables a stream table's plans look rows up.
pub(super) fn save_lookups(id: i64, planned: Option<&Planned>) {
    spi::run(
        "DELETE FROM pgtrickle.pgt_lookups WHERE pgt_id = $1",
        &[Value::Int(id)],
    );
    let wanted = planned.map(lookups).unwrap_or_default();
    for (source, columns) in wanted.range(..SourceId(STAGE_SOURCE)) {
        let source = pg_sys::Oid::from(source.0 as u32);
        let list: Vec<String> = columns.keys().map(ToString::to_string).collect();
        spi::run(
            "INSERT INTO pgtrickle.pgt_lookups (pgt_id, source, columns) \
             VALUES ($1, $2, $3::pg_catalog.text::pg_catalog.int2[])",
            &[
                Value::Int(id),
                Value::Oid(source),
                Value::Text(format!("{{{}}}", list.join(","))),
            ],
        );
    }
}

/// Creates the indexes by which other plans look up rows of the stages, given as they are stored.
pub(super) fn index_stages(planned: &Planned, stages: &[(pg_sys::Oid, Name)]) {
    let _scope = Scope::internal();
    let numbers = SourceId(STAGE_SOURCE)..SourceId(STAGE_SOURCE + stages.len() as u64);
    for (source, columns) in lookups(planned).range(numbers) {
        let number = (source.0 - STAGE_SOURCE) as usize;
        let (query, (relid, table)) = (&planned.stages[number].query, &stages[number]);
        let name = |attnum: i16| &query.output[attnum as usize - 1].name;
        let identity = Layout::of(query).identity;
        let key = match &identity {
            Identity::Key(names) => names.as_slice(),
            _ => &[],
        };
        // The identity's own index serves whoever looks for its first column.
        let served = |column: &String| {
            key.first() == Some(column)
                || key.contains(column)
                    && columns
                        .keys()
                        .any(|other| key.first() == Some(name(*other)))
        };
        let found = relation::found_by_index(*relid);
        for (attnum, sought) in columns {
            let column = name(*attnum);
            if served(column) || found.contains(attnum) {
                continue;
            }
            let distinct = identity == Identity::Group(vec![column.clone()]);
            let method = relation::lookup_method(*relid, *attnum, distinct)
                .filter(|method| *sought == Sought::Equal || *method == "btree");
            if let Some(method) = method {
                let column = sql::quote_identifier(column);
                spi::command(&format!(
                    "CREATE INDEX ON {table} USING {method} ({column})"
                ));
            }
        }
    }
}

/// The indexes that would spare the plans of `id` from reading whole tables: table and statement.
pub(super) fn missing(id: i64) -> Vec<(String, String)> {
    spi::run(
        "SELECT relation, statement FROM pgtrickle.pgt_missing_indexes WHERE pgt_id = $1 ORDER BY 1, 2",
        &[Value::Int(id)],
    )
    .iter()
    .map(|row| (row.text(0), row.text(1)))
    .collect()
}

/// Creates the indexes by which the step of a recursive query finds its stored rows.
pub(super) fn index_itself(table: &Name, query: &Query, layout: &Layout) {
    for lookup in apply::lookups(query) {
        let (Lookup::Value(id) | Lookup::Hash(id)) = lookup;
        let Some(stored) = layout.column_with(&Role::Column(id)) else {
            continue;
        };
        let column = Expr::Column(String::new(), stored.name.clone());
        let key = match lookup {
            Lookup::Value(_) => column,
            Lookup::Hash(_) => sql::row_hash(vec![column]),
        };
        spi::command(&format!("CREATE INDEX ON {table} ({key})"));
    }
}

/// How values of a column are looked up. What an index that is ordered finds by order it finds by equality.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sought {
    Equal,
    Between,
}

/// The columns by which rows of each source are looked up.
type Lookups = BTreeMap<SourceId, BTreeMap<i16, Sought>>;

fn lookups(planned: &Planned) -> Lookups {
    let mut wanted = Lookups::new();
    for query in planned
        .stages
        .iter()
        .map(|stage| &stage.query)
        .chain([&planned.query])
    {
        for tree in trees(&query.root) {
            let mut columns = Origins::new();
            trace(tree, &mut columns);
            look(tree, &columns, &mut wanted);
        }
    }
    wanted
}

/// The columns of sources that a column is a mere copy of.
type Origins = BTreeMap<ColId, Vec<(SourceId, i16)>>;

fn trace(rel: &Rel, origins: &mut Origins) {
    for input in rel.inputs() {
        trace(input, origins);
    }
    match rel {
        Rel::Scan(scan) => origins.extend(
            scan.columns
                .iter()
                .map(|column| (column.id, vec![(scan.source, column.attnum)])),
        ),
        Rel::Project { columns, .. } => {
            for (id, value) in columns {
                if let Some(origin) = value.as_column().and_then(|from| origins.get(&from)) {
                    origins.insert(*id, origin.clone());
                }
            }
        }
        Rel::UnionAll { inputs, columns } => {
            for (position, (id, _)) in columns.iter().enumerate() {
                let found = inputs
                    .iter()
                    .filter_map(|(_, from)| origins.get(from.get(position)?))
                    .flatten()
                    .copied()
                    .collect();
                origins.insert(*id, found);
            }
        }
        _ => {}
    }
}

/// The tree of a plan, or of the terms of a recursive query.
fn trees(root: &Rel) -> Vec<&Rel> {
    match root.recursion() {
        Some((recursion, _)) => vec![&recursion.base.rel, &recursion.step.rel],
        None => vec![root],
    }
}

/// Notes the columns by which rows of a table are looked up: those equated in joins, those compared with the time or with
/// the one row of something, and group keys whose groups may have to be evaluated again.
fn look(rel: &Rel, columns: &Origins, wanted: &mut Lookups) {
    let mut seek = |id: ColId, sought: Sought| {
        for (source, attnum) in columns.get(&id).into_iter().flatten() {
            let known = wanted.entry(*source).or_default().entry(*attnum);
            let known = known.or_insert(sought);
            *known = sought.max(*known);
        }
    };
    if let Rel::Bounded { bounds, .. } = rel {
        for bound in bounds {
            if let Some(id) = bound.value.as_column() {
                seek(id, Sought::Between);
            }
        }
    }
    let mut note = |id| seek(id, Sought::Equal);
    let mut equated = |conditions: &[Scalar]| {
        for condition in conditions {
            if let Shape::Equal(a, b) = condition.shape {
                note(a);
                note(b);
            }
        }
    };
    match rel {
        Rel::Join { conditions, .. } => equated(conditions),
        Rel::Outer { on, .. } | Rel::Match { on, .. } => equated(on),
        Rel::Moving { conditions, .. } => {
            for moving in conditions {
                if let [only] = Vec::from_iter(moving.condition.columns())[..] {
                    note(only);
                }
            }
        }
        Rel::Aggregate { input, keys, calls } if matches!(**input, Rel::Scan(_)) => {
            let evaluated = calls.iter().any(|(_, call)| {
                matches!(
                    call.kind,
                    AggregateKind::Recompute | AggregateKind::Min | AggregateKind::Max
                )
            });
            if evaluated {
                keys.iter()
                    .filter_map(|(_, key)| key.as_column())
                    .for_each(note);
            }
        }
        _ => {}
    }
    for input in rel.inputs() {
        look(input, columns, wanted);
    }
}
