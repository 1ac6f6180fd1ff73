//! The part of a tree that decides which values some of its columns have.

use std::collections::BTreeSet;

use super::is_one_row;
use crate::rel::{ColId, Rel};

/// A tree with the same distinct values of `columns`, without what only adds columns to the rows or repeats them.
///
/// Sub-selects that were lifted before are such, and each of them may hold all that is below it once more.
pub fn picked(rel: &Rel, columns: &BTreeSet<ColId>) -> Rel {
    match rel {
        Rel::Project {
            input,
            columns: listed,
        } if columns.iter().all(|id| {
            listed
                .iter()
                .any(|(name, value)| name == id && value.as_column() == Some(*id))
        }) =>
        {
            picked(input, columns)
        }
        Rel::Outer {
            left, full: false, ..
        } if columns.is_subset(&left.columns()) => picked(left, columns),
        Rel::Filter { input, conditions } => {
            let tested = conditions.iter().flat_map(|condition| condition.columns());
            Rel::Filter {
                input: Box::new(picked(
                    input,
                    &columns.iter().copied().chain(tested).collect(),
                )),
                conditions: conditions.clone(),
            }
        }
        Rel::Join { inputs, conditions } => {
            let tested = conditions.iter().flat_map(|condition| condition.columns());
            let used: BTreeSet<ColId> = columns.iter().copied().chain(tested).collect();
            let mut kept: Vec<Rel> = inputs
                .iter()
                .filter(|input| !is_one_row(input) || !input.columns().is_disjoint(&used))
                .map(|input| {
                    picked(
                        input,
                        &used.intersection(&input.columns()).copied().collect(),
                    )
                })
                .collect();
            match (kept.len(), conditions.is_empty()) {
                (0, _) => rel.clone(),
                (1, true) => kept.swap_remove(0),
                _ => Rel::Join {
                    inputs: kept,
                    conditions: conditions.clone(),
                },
            }
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rel::{At, Scan, ScanColumn, SourceId};
    use crate::scalar::{Scalar, Type};

    fn int() -> Type {
        Type {
            name: "integer".into(),
            collation: None,
            equality: Some("pg_catalog.=".into()),
            hashable: true,
            bitwise: true,
        }
    }

    fn scan(id: u32) -> Rel {
        Rel::Scan(Scan {
            source: SourceId(u64::from(id)),
            instance: id,
            at: At::New,
            columns: vec![ScanColumn {
                id: ColId(id),
                attnum: 1,
                name: format!("x{id}"),
                ty: int(),
                nullable: false,
            }],
            keys: vec![],
        })
    }

    fn column(id: u32) -> (ColId, Scalar) {
        (ColId(id), Scalar::column(ColId(id), int(), true))
    }

    fn beside(left: Rel, right: Rel, full: bool) -> Rel {
        Rel::Outer {
            left: Box::new(left),
            right: Box::new(right),
            full,
            on: vec![],
        }
    }

    fn one_row(id: u32) -> Rel {
        Rel::Project {
            input: Box::new(Rel::Aggregate {
                input: Box::new(scan(id)),
                keys: vec![],
                calls: vec![],
            }),
            columns: vec![(ColId(id), Scalar::null(int()))],
        }
    }

    fn of(rel: &Rel, id: u32) -> Rel {
        picked(rel, &BTreeSet::from([ColId(id)]))
    }

    #[test]
    fn what_is_beside_the_rows_is_left_out() {
        let lifted = Rel::Project {
            input: Box::new(beside(scan(1), scan(2), false)),
            columns: vec![column(1), column(2)],
        };
        assert_eq!(of(&lifted, 1), scan(1));
        assert_eq!(of(&lifted, 2), beside(scan(1), scan(2), false));
        let joined = Rel::Join {
            inputs: vec![lifted, one_row(3)],
            conditions: vec![],
        };
        assert_eq!(of(&joined, 1), scan(1));
    }

    #[test]
    fn what_decides_about_rows_stays() {
        let full = beside(scan(1), scan(2), true);
        assert_eq!(of(&full, 1), full);
        let computed = Rel::Project {
            input: Box::new(scan(1)),
            columns: vec![(ColId(1), Scalar::null(int()))],
        };
        assert_eq!(of(&computed, 1), computed);
        let product = Rel::Join {
            inputs: vec![scan(1), scan(2)],
            conditions: vec![],
        };
        assert_eq!(of(&product, 1), product);
        let tested = Rel::Join {
            inputs: vec![beside(scan(1), scan(2), false), one_row(3)],
            conditions: vec![column(3).1],
        };
        assert_eq!(
            of(&tested, 1),
            Rel::Join {
                inputs: vec![scan(1), one_row(3)],
                conditions: vec![column(3).1],
            }
        );
    }
}
