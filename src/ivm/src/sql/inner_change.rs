//! Lowering of the change of an inner join of which several inputs changed.

use std::collections::BTreeSet;

use super::ast::{Cte, Expr, From, Query, Select};
use super::joins::{conjunction, from_cte, int, items_of, materialized, net, stand_in, under};
use super::lower::{Lowered, Sources, column_name, derived, lower, union_all};
use crate::rel::{ColId, ITSELF, Rel};
use crate::scalar::Scalar;

/// Up to so many changed inputs every combination is a branch of its own.
const MULTIPLIED_OUT: usize = 3;

/// Up to so many changed inputs each has a branch of its own. Every old state in it has up to three rows for one that
/// changed, and where all of them changed that is a product.
const AT_ONCE: usize = 6;

/// The change of an inner join: `pgt_j<i>(c*, w)` is the change of input i, unless that is what was read from the log and
/// need not be copied; the branches join those with the new states, or, of many changed inputs, the first with the new
/// and the later ones with the old states of the others.
pub(super) fn change(
    inputs: &[Rel],
    conditions: &[Scalar],
    changes: &[Vec<Rel>],
    sources: &Sources,
) -> Lowered {
    let name = |position: usize| format!("pgt_j{position}");
    let ids_of =
        |position: usize| -> Vec<ColId> { inputs[position].columns().into_iter().collect() };
    let changed: Vec<usize> = (0..inputs.len())
        .filter(|position| !changes[*position].is_empty())
        .collect();
    let recursive = inputs
        .iter()
        .chain(changes.iter().flatten())
        .any(|rel| rel.scans().iter().any(|scan| scan.source == ITSELF));
    if changed.len() > AT_ONCE && !recursive {
        return in_steps(inputs, conditions, changes, sources);
    }
    let as_logged = |position: usize| match changes[position].as_slice() {
        [only] if changed.len() <= MULTIPLIED_OUT && is_scan(only) => Some(only),
        _ => None,
    };
    let with = changed
        .iter()
        .filter(|position| as_logged(**position).is_none())
        .map(|position| {
            let branches = changes[*position]
                .iter()
                .map(|term| {
                    let row = lower(term, sources);
                    let mut items = items_of(&row, &ids_of(*position));
                    items.push((int(row.weight().unwrap_or(Expr::Integer(1))), "w".into()));
                    row.select(items)
                })
                .collect();
            materialized(&name(*position), union_all(branches))
        })
        .collect();
    let change = |position: usize| {
        if let Some(term) = as_logged(position) {
            return lower(term, sources);
        }
        let alias = format!("j{position}");
        Lowered {
            from: vec![from_cte(&name(position), &alias)],
            columns: under(&alias, &ids_of(position)),
            weights: vec![Expr::column(&alias, "w")],
            conditions: vec![],
        }
    };
    let old = |position: usize| {
        let ids = ids_of(position);
        let row = lower(&inputs[position], sources);
        let mut items = items_of(&row, &ids);
        items.push((int(row.weight().unwrap_or(Expr::Integer(1))), "w".into()));
        let now = row.select(items);
        let mut items: Vec<(Expr, String)> = ids
            .iter()
            .map(|id| (Expr::column("d", column_name(*id)), column_name(*id)))
            .collect();
        items.push((Expr::Negate(Box::new(Expr::column("d", "w"))), "w".into()));
        let taken_back = Select {
            items,
            from: vec![from_cte(&name(position), "d")],
            fence: true,
            ..Select::default()
        };
        let alias = format!("o{position}");
        Lowered {
            from: vec![From::Select {
                query: Box::new(union_all(vec![now, taken_back])),
                alias: alias.clone(),
                lateral: false,
            }],
            columns: under(&alias, &ids),
            weights: vec![Expr::column(&alias, "w")],
            conditions: vec![],
        }
    };
    // For each branch, how each input is read, and the sign.
    let mut plans: Vec<(Vec<Lowered>, bool)> = Vec::new();
    let now = |position: usize| lower(&inputs[position], sources);
    if changed.len() <= MULTIPLIED_OUT {
        for chosen in 1_u32..1 << changed.len() {
            let rows = (0..inputs.len())
                .map(|position| {
                    let place = changed.iter().position(|other| *other == position);
                    match place {
                        Some(place) if chosen & (1 << place) != 0 => change(position),
                        _ => now(position),
                    }
                })
                .collect();
            plans.push((rows, chosen.count_ones() % 2 == 0));
        }
    } else {
        for at in &changed {
            let rows = (0..inputs.len())
                .map(|position| {
                    if position == *at {
                        change(position)
                    } else if position > *at && changed.contains(&position) {
                        old(position)
                    } else {
                        now(position)
                    }
                })
                .collect();
            plans.push((rows, false));
        }
    }
    let ids: Vec<ColId> = {
        let all: BTreeSet<ColId> = (0..inputs.len()).flat_map(ids_of).collect();
        all.into_iter().collect()
    };
    let branches = plans
        .into_iter()
        .map(|(rows, negative)| {
            let mut joined = Lowered::default();
            for row in rows {
                joined.from.extend(row.from);
                joined.conditions.extend(row.conditions);
                joined.columns.extend(row.columns);
                joined.weights.extend(row.weights);
            }
            if negative {
                joined.weights.push(Expr::Integer(-1));
            }
            joined
                .conditions
                .push(conjunction(conditions, &joined.columns));
            let mut items = items_of(&joined, &ids);
            let weight = joined.weight().unwrap_or(Expr::Integer(1));
            items.push((int(weight), "w".into()));
            joined.select(items)
        })
        .collect();
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(&inputs[0]));
    let mut table = derived(Query { with, branches }, &[alias_by], true);
    table.columns = under(&format!("u{}", alias_by.0), &ids);
    table
}

/// The same, one input after the other: `pgt_s<i>(c*, w)` is the net change of the join P of the first ones, and that with
/// one more, A, is dP JOIN A' + P' JOIN dA - dP JOIN dA.
fn in_steps(
    inputs: &[Rel],
    conditions: &[Scalar],
    changes: &[Vec<Rel>],
    sources: &Sources,
) -> Lowered {
    let ids_of = |position: usize| -> BTreeSet<ColId> { inputs[position].columns() };
    let cte = |kind: char, position: usize, alias: &str, ids: &BTreeSet<ColId>| {
        let ids: Vec<ColId> = ids.iter().copied().collect();
        Lowered {
            from: vec![from_cte(&format!("pgt_{kind}{position}"), alias)],
            columns: under(alias, &ids),
            weights: vec![Expr::column(alias, "w")],
            conditions: vec![],
        }
    };
    let branch = |rows: Vec<Lowered>, on: &[Scalar], ids: &BTreeSet<ColId>, negative: bool| {
        let mut joined = Lowered::default();
        for row in rows {
            joined.from.extend(row.from);
            joined.conditions.extend(row.conditions);
            joined.columns.extend(row.columns);
            joined.weights.extend(row.weights);
        }
        if negative {
            joined.weights.push(Expr::Integer(-1));
        }
        if !on.is_empty() {
            joined.conditions.push(conjunction(on, &joined.columns));
        }
        let ids: Vec<ColId> = ids.iter().copied().collect();
        let mut items = items_of(&joined, &ids);
        let weight = joined.weight().unwrap_or(Expr::Integer(1));
        items.push((int(weight), "w".into()));
        joined.select(items)
    };
    let order = connected(inputs, conditions, changes);
    let mut with: Vec<Cte> = Vec::new();
    for position in order.iter().filter(|at| !changes[**at].is_empty()) {
        let branches = changes[*position]
            .iter()
            .map(|term| branch(vec![lower(term, sources)], &[], &ids_of(*position), false))
            .collect();
        with.push(materialized(
            &format!("pgt_j{position}"),
            union_all(branches),
        ));
    }
    let first = order[0];
    let mut known = ids_of(first);
    let mut so_far = cte('j', first, "s", &known);
    let mut open: Vec<&Scalar> = conditions.iter().collect();
    for (step, position) in order.iter().enumerate() {
        known.extend(ids_of(*position));
        let (on, later): (Vec<&Scalar>, Vec<&Scalar>) = open
            .into_iter()
            .partition(|condition| condition.columns().is_subset(&known));
        open = later;
        let on: Vec<Scalar> = on.into_iter().cloned().collect();
        let now = || lower(&inputs[*position], sources);
        let mut branches = Vec::new();
        if step == 0 {
            if on.is_empty() {
                continue;
            }
            branches.push(branch(vec![so_far], &on, &known, false));
        } else {
            branches.push(branch(vec![so_far.clone(), now()], &on, &known, false));
            if !changes[*position].is_empty() {
                let own = || cte('j', *position, "j", &ids_of(*position));
                let mut rows: Vec<Lowered> = order[..step]
                    .iter()
                    .map(|at| lower(&inputs[*at], sources))
                    .collect();
                rows.push(own());
                let all: Vec<Scalar> = conditions
                    .iter()
                    .filter(|condition| condition.columns().is_subset(&known))
                    .cloned()
                    .collect();
                branches.push(branch(rows, &all, &known, false));
                branches.push(branch(vec![so_far, own()], &on, &known, true));
            }
        }
        let several = branches.len() > 1;
        let ids: Vec<ColId> = known.iter().copied().collect();
        let change = union_all(branches);
        with.push(materialized(
            &format!("pgt_s{step}"),
            if several { net(change, &ids) } else { change },
        ));
        so_far = cte('s', step, "s", &known);
    }
    let ids: Vec<ColId> = known.iter().copied().collect();
    let whole = branch(vec![so_far], &[], &known, false);
    let alias_by = ids.first().copied().unwrap_or_else(|| stand_in(&inputs[0]));
    let query = Query {
        with,
        branches: vec![whole],
    };
    let mut table = derived(query, &[alias_by], true);
    table.columns = under(&format!("u{}", alias_by.0), &ids);
    table
}

/// All inputs, beginning with one that changed, each tied by a condition to those before it where there is one.
fn connected(inputs: &[Rel], conditions: &[Scalar], changes: &[Vec<Rel>]) -> Vec<usize> {
    let columns: Vec<BTreeSet<ColId>> = inputs.iter().map(Rel::columns).collect();
    let mut left: Vec<usize> = (0..inputs.len()).collect();
    let mut order: Vec<usize> = Vec::new();
    let mut known: BTreeSet<ColId> = BTreeSet::new();
    while !left.is_empty() {
        let tied = |position: usize| {
            conditions.iter().any(|condition| {
                let mut here = false;
                let mut before = false;
                for id in condition.columns() {
                    here |= columns[position].contains(&id);
                    before |= known.contains(&id);
                }
                here && before
            })
        };
        let changed = |position: usize| !changes[position].is_empty();
        let next = if order.is_empty() {
            left.iter().position(|at| changed(*at))
        } else {
            left.iter().position(|at| tied(*at))
        };
        let next = left.remove(next.unwrap_or(0));
        known.extend(&columns[next]);
        order.push(next);
    }
    order
}

/// The rows of a scan, perhaps under other names. A recursive query may read its own rows only once.
fn is_scan(rel: &Rel) -> bool {
    match rel {
        Rel::Scan(scan) => scan.source != ITSELF,
        Rel::Filter { input, conditions } => conditions.is_empty() && is_scan(input),
        Rel::Project { input, columns } => {
            is_scan(input) && columns.iter().all(|(_, value)| value.as_column().is_some())
        }
        _ => false,
    }
}
