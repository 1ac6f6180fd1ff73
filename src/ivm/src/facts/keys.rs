//! Keys: sets of columns that are never null and whose values together occur at most once in the result.
//!
//! A key of a join is the union of one key per input, reduced with functional dependencies: a key of an input
//! determines all its columns, `a = b` makes each determine the other, `a = constant` makes `a` determined by nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::rel::{Body, ColId, Rel};
use crate::scalar::{Scalar, Shape};

/// Keys considered per node; more only cost time here.
const MOST_KEYS: usize = 16;

/// The keys of `rel` that can be derived. Empty when none is known.
pub fn keys(rel: &Rel) -> Vec<BTreeSet<ColId>> {
    match rel {
        Rel::Scan(scan) => scan.keys.clone(),
        Rel::Moving { input, .. } | Rel::Bounded { input, .. } => keys(input),
        Rel::Filter { input, conditions } => {
            let found = keys(input);
            let closure = Dependencies::new(
                std::slice::from_ref(&**input),
                std::slice::from_ref(&found),
                conditions,
            );
            reduce_all(found, &closure)
        }
        Rel::Project { input, columns } => renamed(keys(input), columns),
        Rel::Join { inputs, conditions } => {
            let below: Vec<_> = inputs.iter().map(keys).collect();
            let closure = Dependencies::new(inputs, &below, conditions);
            reduce_all(combined(&below), &closure)
        }
        Rel::UnionAll { .. } => vec![],
        Rel::Unit => vec![BTreeSet::new()],
        // A semi or anti join keeps the keys of its first input, and so does a left join to at most one row.
        Rel::Match { left, .. } => keys(left),
        Rel::Outer {
            left,
            right,
            full: false,
            on,
        } => {
            if matches_at_most_one(right, on) {
                keys(left)
            } else {
                vec![]
            }
        }
        Rel::Outer { full: true, .. }
        | Rel::JoinChange { .. }
        | Rel::InnerChange { .. }
        | Rel::Negate(_)
        | Rel::Expand { .. }
        | Rel::ProjectSet { .. } => vec![],
        Rel::Partitioned { inputs, body, .. } => match (body, inputs.as_slice()) {
            (Body::Window { .. } | Body::Limit { .. }, [only]) => keys(&only.rel),
            (Body::First { .. }, [only]) => {
                let mut found = keys(&only.rel);
                let own: Option<BTreeSet<ColId>> = only
                    .keys
                    .iter()
                    .map(|key| key.as_column().filter(|_| !key.nullable))
                    .collect();
                found.extend(own);
                found
            }
            _ => vec![],
        },
        Rel::Aggregate { keys, .. } => {
            if keys.iter().any(|(_, scalar)| scalar.nullable) {
                vec![]
            } else {
                vec![keys.iter().map(|(id, _)| *id).collect()]
            }
        }
    }
}

/// Every choice of one set of each input, put together.
fn combined(inputs: &[Vec<BTreeSet<ColId>>]) -> Vec<BTreeSet<ColId>> {
    let mut found: Vec<BTreeSet<ColId>> = vec![BTreeSet::new()];
    for options in inputs {
        found = found
            .iter()
            .flat_map(|left| {
                options
                    .iter()
                    .map(move |right| left.union(right).copied().collect())
            })
            .take(MOST_KEYS)
            .collect();
    }
    found
}

/// Whether the values of the columns `known` decide those of the columns `wanted` in every row of `rel`.
pub fn determines(rel: &Rel, known: &BTreeSet<ColId>, wanted: &BTreeSet<ColId>) -> bool {
    wanted.is_subset(&determined(rel, known))
}

fn determined(rel: &Rel, known: &BTreeSet<ColId>) -> BTreeSet<ColId> {
    let mut found = known.clone();
    if keys(rel).iter().any(|key| key.is_subset(known)) {
        found.extend(rel.columns());
        return found;
    }
    match rel {
        Rel::Filter { input, .. } | Rel::Moving { input, .. } | Rel::Bounded { input, .. } => {
            found.extend(determined(input, known));
        }
        Rel::Outer {
            left, right, full, ..
        } => {
            if !full || shows_presence(left, known) {
                found.extend(determined(left, known));
            }
            if shows_presence(right, known) {
                found.extend(determined(right, known));
            }
        }
        Rel::Match { left, .. } => found.extend(determined(left, known)),
        Rel::Join { inputs, conditions } => {
            let below: Vec<_> = inputs.iter().map(keys).collect();
            found = Dependencies::new(inputs, &below, conditions).closure(&found);
        }
        Rel::Project { input, columns } => {
            let below: BTreeSet<ColId> = columns
                .iter()
                .filter(|(id, _)| known.contains(id))
                .filter_map(|(_, value)| value.as_column())
                .collect();
            let below = determined(input, &below);
            let decided = columns
                .iter()
                .filter(|(_, value)| value.columns().is_subset(&below))
                .map(|(id, _)| *id);
            found.extend(decided);
        }
        Rel::Aggregate { keys, .. } if keys.iter().all(|(id, _)| known.contains(id)) => {
            found.extend(rel.columns());
        }
        Rel::Partitioned {
            inputs,
            body: Body::Window { .. } | Body::First { .. } | Body::Limit { .. },
            ..
        } => {
            for input in inputs {
                found.extend(determined(&input.rel, known));
            }
        }
        _ => {}
    }
    found
}

/// The columns `known` tell whether this side of an outer join is there: one of them is null only where it is missing, and
/// then so is all of it.
fn shows_presence(side: &Rel, known: &BTreeSet<ColId>) -> bool {
    side.column_types()
        .iter()
        .any(|(id, (_, nullable))| !nullable && known.contains(id))
}

/// Sets of columns whose values no two rows share, where a null is a value like any other.
pub fn apart(rel: &Rel) -> Vec<BTreeSet<ColId>> {
    let mut found = keys(rel);
    match rel {
        Rel::Filter { input, .. }
        | Rel::Moving { input, .. }
        | Rel::Bounded { input, .. }
        | Rel::Match { left: input, .. } => {
            found.extend(apart(input));
        }
        Rel::Project { input, columns } => found.extend(renamed(apart(input), columns)),
        Rel::Join { inputs, .. } => {
            let each: Vec<_> = inputs.iter().map(apart).collect();
            found.extend(combined(&each));
        }
        Rel::Outer {
            left,
            right,
            full,
            on,
        } => {
            let (of_left, of_right) = (apart(left), apart(right));
            if !full && matches_at_most_one(right, on) {
                found.extend(of_left.iter().cloned());
            }
            // Rows of one side alone are alike only if both sides can be null in these columns and still be there.
            let pairs = combined(&[of_left, of_right])
                .into_iter()
                .filter(|pair| !full || shows_presence(left, pair) || shows_presence(right, pair));
            found.extend(pairs);
        }
        Rel::Partitioned { inputs, body, .. } => match (body, inputs.as_slice()) {
            (Body::Window { .. } | Body::Limit { .. }, [only]) => found.extend(apart(&only.rel)),
            (Body::First { .. }, [only]) => {
                found.extend(apart(&only.rel));
                let own: Option<BTreeSet<ColId>> =
                    only.keys.iter().map(Scalar::as_column).collect();
                found.extend(own);
            }
            (
                Body::SetOperation {
                    all: false,
                    columns,
                    ..
                },
                _,
            ) => found.push(columns.iter().map(|(id, _, _)| *id).collect()),
            _ => {}
        },
        Rel::Aggregate { keys, .. } => found.push(keys.iter().map(|(id, _)| *id).collect()),
        _ => {}
    }
    found
}

/// The conditions equate columns of the other side with a set of columns of `right` that no two of its rows share.
pub fn matches_at_most_one(right: &Rel, on: &[Scalar]) -> bool {
    let columns = right.columns();
    let matched: BTreeSet<ColId> = on
        .iter()
        .filter_map(|condition| match condition.shape {
            Shape::Equal(a, b) | Shape::Same(a, b)
                if columns.contains(&a) != columns.contains(&b) =>
            {
                Some(if columns.contains(&a) { a } else { b })
            }
            Shape::EqualConstant(a) if columns.contains(&a) => Some(a),
            _ => None,
        })
        .collect();
    apart(right).iter().any(|key| key.is_subset(&matched))
}

/// Exactly one row, whatever it is made from.
pub fn is_one_row(rel: &Rel) -> bool {
    match rel {
        Rel::Aggregate { keys, .. } => keys.is_empty(),
        Rel::Project { input, .. } => is_one_row(input),
        _ => false,
    }
}

/// Sets of columns under the names a projection gives them, where it keeps all of a set.
fn renamed(sets: Vec<BTreeSet<ColId>>, columns: &[(ColId, Scalar)]) -> Vec<BTreeSet<ColId>> {
    let mut names: BTreeMap<ColId, ColId> = BTreeMap::new();
    for (id, scalar) in columns {
        if let Some(from) = scalar.as_column() {
            names.entry(from).or_insert(*id);
        }
    }
    sets.into_iter()
        .filter_map(|set| set.iter().map(|id| names.get(id).copied()).collect())
        .collect()
}

/// The smallest key whose columns are all in `stored`.
pub fn minimal_key(rel: &Rel, stored: &BTreeSet<ColId>) -> Option<BTreeSet<ColId>> {
    keys(rel)
        .into_iter()
        .filter(|key| key.is_subset(stored))
        .min_by_key(BTreeSet::len)
}

struct Dependencies {
    /// (determinant, determined)
    rules: Vec<(BTreeSet<ColId>, BTreeSet<ColId>)>,
}

impl Dependencies {
    fn new(inputs: &[Rel], keys: &[Vec<BTreeSet<ColId>>], conditions: &[Scalar]) -> Self {
        let mut rules = Vec::new();
        for (input, keys) in inputs.iter().zip(keys) {
            let all = input.columns();
            rules.extend(keys.iter().map(|key| (key.clone(), all.clone())));
        }
        for condition in conditions {
            match condition.shape {
                Shape::Equal(a, b) => {
                    rules.push((BTreeSet::from([a]), BTreeSet::from([b])));
                    rules.push((BTreeSet::from([b]), BTreeSet::from([a])));
                }
                Shape::EqualConstant(a) => rules.push((BTreeSet::new(), BTreeSet::from([a]))),
                _ => {}
            }
        }
        Dependencies { rules }
    }

    fn closure(&self, from: &BTreeSet<ColId>) -> BTreeSet<ColId> {
        let mut known = from.clone();
        loop {
            let before = known.len();
            for (determinant, determined) in &self.rules {
                if determinant.is_subset(&known) {
                    known.extend(determined);
                }
            }
            if known.len() == before {
                return known;
            }
        }
    }
}

/// Each candidate with every column dropped that the remaining ones determine. Several orders of dropping are tried,
/// because which columns of an equality survive decides whether the key is among the stored columns.
fn reduce_all(
    candidates: Vec<BTreeSet<ColId>>,
    dependencies: &Dependencies,
) -> Vec<BTreeSet<ColId>> {
    let mut found: Vec<BTreeSet<ColId>> = Vec::new();
    for candidate in candidates {
        let ascending: Vec<ColId> = candidate.iter().copied().collect();
        let descending: Vec<ColId> = candidate.iter().rev().copied().collect();
        for order in [ascending, descending] {
            let mut key = candidate.clone();
            for id in order {
                let mut smaller = key.clone();
                smaller.remove(&id);
                if candidate.is_subset(&dependencies.closure(&smaller)) {
                    key = smaller;
                }
            }
            for variant in equal_variants(&key, dependencies) {
                if !found.contains(&variant) && found.len() < MOST_KEYS {
                    found.push(variant);
                }
            }
        }
    }
    found
}

/// The key itself and the keys that differ from it in one column exchanged for an equal one.
fn equal_variants(key: &BTreeSet<ColId>, dependencies: &Dependencies) -> Vec<BTreeSet<ColId>> {
    let mut variants = vec![key.clone()];
    for (from, to) in &dependencies.rules {
        let (Some(a), Some(b)) = (from.first(), to.first()) else {
            continue;
        };
        if from.len() == 1 && to.len() == 1 && key.contains(a) && !key.contains(b) {
            let mut variant = key.clone();
            variant.remove(a);
            variant.insert(*b);
            variants.push(variant);
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rel::{At, Scan, ScanColumn, SourceId};
    use crate::scalar::{Piece, Type};

    fn int() -> Type {
        Type {
            name: "integer".into(),
            collation: None,
            equality: Some("pg_catalog.=".into()),
            hashable: true,
            bitwise: true,
        }
    }

    fn scan(source: u64, ids: &[u32], key: &[u32]) -> Rel {
        Rel::Scan(Scan {
            source: SourceId(source),
            instance: source as u32,
            at: At::New,
            columns: ids
                .iter()
                .map(|id| ScanColumn {
                    id: ColId(*id),
                    attnum: *id as i16,
                    name: format!("x{id}"),
                    ty: int(),
                    nullable: false,
                })
                .collect(),
            keys: if key.is_empty() {
                vec![]
            } else {
                vec![key.iter().map(|id| ColId(*id)).collect()]
            },
        })
    }

    fn equal(a: u32, b: u32) -> Scalar {
        Scalar {
            pieces: vec![
                Piece::Column(ColId(a)),
                Piece::Text(" = ".into()),
                Piece::Column(ColId(b)),
            ],
            ty: int(),
            nullable: false,
            shape: Shape::Equal(ColId(a), ColId(b)),
        }
    }

    fn set(ids: &[u32]) -> BTreeSet<ColId> {
        ids.iter().map(|id| ColId(*id)).collect()
    }

    #[test]
    fn a_foreign_key_join_has_the_key_of_its_many_side() {
        let join = Rel::Join {
            inputs: vec![scan(1, &[1, 2], &[1]), scan(2, &[3, 4], &[3])],
            conditions: vec![equal(2, 3)],
        };
        assert!(keys(&join).contains(&set(&[1])));
        assert_eq!(minimal_key(&join, &set(&[1, 4])), Some(set(&[1])));
    }

    #[test]
    fn a_many_to_many_join_needs_both_keys() {
        let join = Rel::Join {
            inputs: vec![scan(1, &[1, 2], &[1]), scan(2, &[3, 4], &[3])],
            conditions: vec![equal(2, 4)],
        };
        assert_eq!(minimal_key(&join, &set(&[1, 2, 3, 4])), Some(set(&[1, 3])));
        assert_eq!(minimal_key(&join, &set(&[1, 2, 4])), None);
    }

    #[test]
    fn an_equality_meets_at_most_one_group_whatever_is_null() {
        let input = Box::new(scan(2, &[3, 4], &[]));
        let value = Scalar::column(ColId(3), int(), true);
        let groups = Rel::Aggregate {
            input,
            keys: vec![(ColId(5), value)],
            calls: vec![],
        };
        assert!(keys(&groups).is_empty());
        assert!(matches_at_most_one(&groups, &[equal(1, 5)]));
        assert!(!matches_at_most_one(&groups, &[]));
        let joined = Rel::Outer {
            left: Box::new(scan(1, &[1, 2], &[2])),
            right: Box::new(groups),
            full: false,
            on: vec![equal(1, 5)],
        };
        assert_eq!(keys(&joined), vec![set(&[2])]);
    }

    fn groups(input: Rel, from: u32, id: u32) -> Rel {
        Rel::Aggregate {
            input: Box::new(input),
            keys: vec![(ColId(id), Scalar::column(ColId(from), int(), true))],
            calls: vec![],
        }
    }

    fn outer(left: Rel, right: Rel, full: bool) -> Rel {
        Rel::Outer {
            left: Box::new(left),
            right: Box::new(right),
            full,
            on: vec![],
        }
    }

    #[test]
    fn groups_are_apart_though_a_key_can_be_null() {
        let join = Rel::Join {
            inputs: vec![groups(scan(1, &[1], &[]), 1, 5), scan(2, &[2], &[2])],
            conditions: vec![],
        };
        assert!(keys(&join).is_empty());
        assert_eq!(apart(&join), [set(&[2, 5])]);
        let joined = |full| {
            outer(
                groups(scan(1, &[1], &[]), 1, 5),
                groups(scan(2, &[2], &[]), 2, 6),
                full,
            )
        };
        assert_eq!(apart(&joined(false)), [set(&[5, 6])]);
        assert!(apart(&joined(true)).is_empty());
    }

    #[test]
    fn null_is_the_same_as_at_most_one_group() {
        let right = groups(scan(2, &[3], &[]), 3, 5);
        let same = Scalar {
            shape: Shape::Same(ColId(1), ColId(5)),
            ..equal(1, 5)
        };
        assert!(matches_at_most_one(&right, std::slice::from_ref(&same)));
        assert!(!matches_at_most_one(&scan(2, &[5], &[]), &[same]));
    }

    #[test]
    fn an_optional_side_is_decided_only_where_it_shows_that_it_is_there() {
        let constant = Scalar {
            shape: Shape::EqualConstant(ColId(2)),
            ..equal(2, 2)
        };
        let single = Rel::Filter {
            input: Box::new(scan(2, &[2, 3], &[2])),
            conditions: vec![constant],
        };
        assert_eq!(keys(&single), [set(&[])]);
        let left = outer(scan(1, &[1], &[]), single, false);
        assert!(!determines(&left, &set(&[1]), &set(&[3])));
        assert!(determines(&left, &set(&[1, 2]), &set(&[3])));
    }

    #[test]
    fn an_input_without_key_leaves_the_join_without() {
        let join = Rel::Join {
            inputs: vec![scan(1, &[1, 2], &[1]), scan(2, &[3, 4], &[])],
            conditions: vec![equal(2, 3)],
        };
        assert!(keys(&join).is_empty());
    }

    #[test]
    fn the_equal_column_of_the_other_side_serves_as_key() {
        let join = Rel::Join {
            inputs: vec![scan(1, &[1, 2], &[1]), scan(2, &[3, 4], &[3])],
            conditions: vec![equal(1, 3)],
        };
        assert_eq!(minimal_key(&join, &set(&[3, 2])), Some(set(&[3])));
    }
}
