//! The groups of a correlated sub-select that is tied to a table by its key are kept for the rows of the table that the
//! query is about.
//!
//! `σc(P) ⋈ γk(A)` on `k = u`, where `u` is a key of `P`, is `σc(P) ⋈ γk(A ⋈ σc(P))`: the groups left out meet no row, and
//! the rows of the others are all there, each once, as it meets at most one row of `P`.
//!
//! A change of `P` then looks for the rows of `A` by `k`, as PostgreSQL does for the sub-select itself. Whoever joins a
//! derived table with GROUP BY need not have an index for that; such groups are left as they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts;
use crate::rel::{self, ColId, Numbers, Rel, Scan};
use crate::scalar::{Piece, Scalar, Shape, Type};

/// `root` with its groups narrowed.
pub(super) fn narrow(root: &Rel) -> Rel {
    visit(root, &mut Fresh::above(root))
}

/// The last numbers given out.
#[derive(Default)]
pub(super) struct Fresh {
    column: u32,
    instance: u32,
}

impl Fresh {
    /// Above those of a tree.
    pub(super) fn above(root: &Rel) -> Fresh {
        let mut fresh = Fresh::default();
        rel::copy(root, &mut fresh);
        fresh
    }

    pub(super) fn next_column(&mut self) -> ColId {
        self.column += 1;
        ColId(self.column)
    }
}

/// As they are, to find the largest ones.
impl Numbers for Fresh {
    fn column(&mut self, id: ColId) -> ColId {
        self.column = self.column.max(id.0);
        id
    }

    fn instance(&mut self, instance: u32) -> u32 {
        self.instance = self.instance.max(instance);
        instance
    }
}

fn visit(rel: &Rel, fresh: &mut Fresh) -> Rel {
    let rel = rel.map_inputs(&mut |input| visit(input, fresh));
    let Rel::Join { inputs, conditions } = &rel else {
        return rel;
    };
    let narrowed = inputs
        .iter()
        .map(|input| {
            inputs
                .iter()
                .find_map(|table| narrowed(input, table, conditions, fresh))
                .unwrap_or_else(|| input.clone())
        })
        .collect();
    Rel::Join {
        inputs: narrowed,
        conditions: conditions.clone(),
    }
}

/// The groups of `grouped` that rows of `table` may ask for; none if there is nothing to gain, or no way to tell.
fn narrowed(grouped: &Rel, table: &Rel, conditions: &[Scalar], fresh: &mut Fresh) -> Option<Rel> {
    let groups = group_keys(grouped);
    if groups.is_empty() || !is_table(table) {
        return None;
    }
    let columns = table.columns();
    let about_table = |condition: &&Scalar| {
        let read = condition.columns();
        !read.is_empty() && read.is_subset(&columns) && !condition.has_clock()
    };
    let own: Vec<Scalar> = conditions.iter().filter(about_table).cloned().collect();
    if own.is_empty() && !is_filtered(table) {
        return None;
    }
    let types = table.column_types();
    let (key, unique) = facts::keys(table).into_iter().find_map(|key| {
        let mut key = key.into_iter();
        let (unique, None) = (key.next()?, key.next()) else {
            return None;
        };
        let same = equal_to(unique, conditions);
        let group = groups
            .iter()
            .find(|(id, _, ty)| same.contains(id) && is_same(ty, &types[&unique].0))?;
        Some((group.1, unique))
    })?;
    let of_bool = conditions
        .iter()
        .find(|condition| matches!(condition.shape, Shape::Equal(..)))?;
    let mut renamed = Renamed {
        fresh,
        columns: BTreeMap::new(),
    };
    let table = match own.is_empty() {
        true => table.clone(),
        false => Rel::Filter {
            input: Box::new(table.clone()),
            conditions: own,
        },
    };
    let copy = rel::copy(&table, &mut renamed);
    let unique = renamed.column(unique);
    let copy = only(&copy, &BTreeSet::from([unique]));
    let meets = Scalar {
        pieces: vec![
            Piece::Text("(".into()),
            Piece::Column(key),
            Piece::Text(" OPERATOR(pg_catalog.=) ".into()),
            Piece::Column(unique),
            Piece::Text(")".into()),
        ],
        ty: of_bool.ty.clone(),
        nullable: true,
        shape: Shape::Equal(key, unique),
    };
    Some(with_input(grouped, &mut |input| {
        joined(input, &copy, &meets)
    }))
}

fn joined(input: &Rel, other: &Rel, condition: &Scalar) -> Rel {
    let (mut inputs, mut conditions) = match input {
        Rel::Join { inputs, conditions } => (inputs.clone(), conditions.clone()),
        single => (vec![single.clone()], vec![]),
    };
    inputs.push(other.clone());
    conditions.push(condition.clone());
    Rel::Join { inputs, conditions }
}

/// Values of both are equal if and only if they are the same, and one operator says so.
fn is_same(a: &Type, b: &Type) -> bool {
    a == b && a.bitwise && a.equality.as_deref() == Some("pg_catalog.=")
}

/// The columns that the conditions make equal to one.
fn equal_to(column: ColId, conditions: &[Scalar]) -> BTreeSet<ColId> {
    let mut same = BTreeSet::from([column]);
    loop {
        let before = same.len();
        for condition in conditions {
            if let Shape::Equal(a, b) = condition.shape
                && (same.contains(&a) || same.contains(&b))
            {
                same.extend([a, b]);
            }
        }
        if same.len() == before {
            return same;
        }
    }
}

/// A table under filters and projections.
fn is_table(rel: &Rel) -> bool {
    match rel {
        Rel::Scan(_) => true,
        Rel::Filter { input, .. } | Rel::Project { input, .. } => is_table(input),
        _ => false,
    }
}

fn is_filtered(rel: &Rel) -> bool {
    match rel {
        Rel::Filter { .. } => true,
        Rel::Project { input, .. } => is_filtered(input),
        _ => false,
    }
}

/// What ties a sub-select to the query around it, where that is a key of an aggregate (under filters and projections) and a
/// column of its input: as it is called above, as below, and its type.
fn group_keys(rel: &Rel) -> Vec<(ColId, ColId, Type)> {
    match rel {
        Rel::Aggregate { input, keys, .. } => keys
            .iter()
            .filter_map(|(id, value)| Some((*id, value.as_column()?, value.ty.clone())))
            .filter(|(_, column, _)| is_tie(input, *column))
            .collect(),
        Rel::Filter { input, .. } => group_keys(input),
        Rel::Project { input, columns } => {
            let below = group_keys(input);
            columns
                .iter()
                .filter_map(|(id, value)| {
                    let from = value.as_column()?;
                    let (_, column, ty) = below.iter().find(|(known, _, _)| *known == from)?;
                    Some((*id, *column, ty.clone()))
                })
                .collect()
        }
        _ => vec![],
    }
}

/// Rows whose `column` is null are left out because the sub-select compares it with the query around it.
fn is_tie(input: &Rel, column: ColId) -> bool {
    match input {
        Rel::Filter { conditions, .. } | Rel::Join { conditions, .. } => conditions
            .iter()
            .any(|condition| condition.shape == Shape::Equal(column, column)),
        _ => false,
    }
}

/// The same with another input of its aggregate.
fn with_input(rel: &Rel, change: &mut dyn FnMut(&Rel) -> Rel) -> Rel {
    match rel {
        Rel::Aggregate { .. } => rel.map_inputs(change),
        other => other.map_inputs(&mut |input| with_input(input, change)),
    }
}

/// A table without the columns that neither its conditions nor `wanted` ask for.
fn only(rel: &Rel, wanted: &BTreeSet<ColId>) -> Rel {
    match rel {
        Rel::Scan(scan) => {
            let mut columns = scan.columns.clone();
            columns.retain(|column| wanted.contains(&column.id));
            let mut keys = scan.keys.clone();
            keys.retain(|key| key.is_subset(wanted));
            Rel::Scan(Scan {
                columns,
                keys,
                ..scan.clone()
            })
        }
        Rel::Filter { input, conditions } => {
            let read = conditions.iter().flat_map(Scalar::columns);
            Rel::Filter {
                input: Box::new(only(input, &wanted.iter().copied().chain(read).collect())),
                conditions: conditions.clone(),
            }
        }
        Rel::Project { input, columns } => {
            let mut columns = columns.clone();
            columns.retain(|(id, _)| wanted.contains(id));
            let read = columns.iter().flat_map(|(_, value)| value.columns());
            Rel::Project {
                input: Box::new(only(input, &read.collect())),
                columns,
            }
        }
        other => other.clone(),
    }
}

/// Gives out fresh numbers.
struct Renamed<'a> {
    fresh: &'a mut Fresh,
    columns: BTreeMap<ColId, ColId>,
}

impl Numbers for Renamed<'_> {
    fn column(&mut self, id: ColId) -> ColId {
        let fresh = &mut self.fresh.column;
        *self.columns.entry(id).or_insert_with(|| {
            *fresh += 1;
            ColId(*fresh)
        })
    }

    fn instance(&mut self, _instance: u32) -> u32 {
        self.fresh.instance += 1;
        self.fresh.instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rel::{At, ScanColumn, SourceId};

    fn int4() -> Type {
        Type {
            name: "pg_catalog.int4".into(),
            collation: None,
            equality: Some("pg_catalog.=".into()),
            hashable: true,
            bitwise: true,
        }
    }

    /// Columns `10 * source + 1`, which is the key if there is one, and `.. + 2`.
    fn table(source: u32, unique: bool) -> Rel {
        let id = |number| ColId(10 * source + number);
        let column = |number| ScanColumn {
            id: id(number),
            attnum: number as i16,
            name: format!("a{number}"),
            ty: int4(),
            nullable: false,
        };
        let key = unique.then(|| BTreeSet::from([id(1)]));
        Rel::Scan(Scan {
            source: SourceId(u64::from(source)),
            instance: source,
            at: At::New,
            columns: vec![column(1), column(2)],
            keys: key.into_iter().collect(),
        })
    }

    /// The rows of table 1 by its first column, which is 100 above.
    fn groups() -> Rel {
        Rel::Aggregate {
            input: Box::new(Rel::Filter {
                input: Box::new(table(1, false)),
                conditions: vec![equal(11, 11)],
            }),
            keys: vec![(ColId(100), Scalar::column(ColId(11), int4(), false))],
            calls: vec![],
        }
    }

    fn equal(a: u32, b: u32) -> Scalar {
        Scalar {
            shape: Shape::Equal(ColId(a), ColId(b)),
            pieces: vec![Piece::Column(ColId(a)), Piece::Column(ColId(b))],
            ..Scalar::null(int4())
        }
    }

    fn is_seven(a: u32) -> Scalar {
        Scalar {
            shape: Shape::EqualConstant(ColId(a)),
            pieces: vec![Piece::Column(ColId(a)), Piece::Text(" = 7".into())],
            ..Scalar::null(int4())
        }
    }

    /// How many tables the groups read after narrowing.
    fn tables_of_groups(other: Rel, conditions: Vec<Scalar>) -> usize {
        let narrowed = narrow(&Rel::Join {
            inputs: vec![groups(), other],
            conditions,
        });
        let Rel::Join { inputs, .. } = narrowed else {
            panic!("a join stays one");
        };
        inputs[0].scans().len()
    }

    #[test]
    fn groups_are_those_of_rows_the_query_is_about() {
        let conditions = || vec![equal(21, 100), is_seven(22)];
        assert_eq!(tables_of_groups(table(2, true), conditions()), 2);
        assert_eq!(tables_of_groups(table(2, false), conditions()), 1, "no key");
        assert_eq!(
            tables_of_groups(table(2, true), vec![equal(21, 100)]),
            1,
            "nothing is excluded"
        );
        assert_eq!(
            tables_of_groups(table(2, true), vec![equal(22, 100), is_seven(22)]),
            1,
            "another column"
        );
    }

    #[test]
    fn equality_is_followed_through_other_columns() {
        let other = Rel::Join {
            inputs: vec![groups(), table(2, true), table(3, false)],
            conditions: vec![equal(21, 31), equal(32, 31), equal(100, 32), is_seven(22)],
        };
        let Rel::Join { inputs, .. } = narrow(&other) else {
            panic!("a join stays one");
        };
        assert_eq!(inputs[0].scans().len(), 2);
        let copy = inputs[0].scans()[1];
        assert_eq!(copy.source, SourceId(2));
        assert_eq!(copy.instance, 4);
        assert!(copy.columns.iter().all(|column| column.id > ColId(100)));
    }
}
