//! d(bounded(R, T)) = bounded(dR, T') + passed(R') - passed(dR), where T is one row, ' is the new state and passed(R) is the
//! rows of R that satisfy the bounds with T' and did not with the row before, less those that did and do not.
//!
//! As with the time ([`super::moving`]), a row that passes all bounds at one time is found by the first it fails at the
//! other: it lies between two values, for which an index is enough. It also fails where the other value is null.
//!
//! The row before is the one that dT takes away. What dT brings is T' itself: nothing passes a bound and fails it with the
//! same row. So dT can be read as it is logged, whatever versions it went through, and a row's weight is its own times
//! that of the row of dT with the sign of the term.

use std::collections::BTreeSet;

use super::{reads, terms};
use crate::rel::{self, Bound, ColId, Numbers, Rel, SourceId};
use crate::scalar::{Piece, Scalar, Shape};

pub(super) fn terms_of(
    input: &Rel,
    by: &Rel,
    bounds: &[Bound],
    dirty: &BTreeSet<SourceId>,
) -> Vec<Rel> {
    let changes = terms(input, dirty);
    let mut found: Vec<Rel> = changes
        .iter()
        .map(|change| Rel::Bounded {
            input: Box::new(change.clone()),
            by: Box::new(by.clone()),
            bounds: bounds.to_vec(),
        })
        .collect();
    if reads(by, dirty) {
        for change in terms(by, dirty) {
            let change = rel::copy(&change, &mut Other);
            found.extend(passed(input, by, &change, bounds));
            for rows in &changes {
                found.extend(passed(rows, by, &change, bounds).into_iter().map(negate));
            }
        }
    }
    found
}

/// The rows of `input` that came, and those that went, because of a change of the one row. Its columns in `change` have
/// the numbers that [`Other`] gives them.
fn passed(input: &Rel, by: &Rel, change: &Rel, bounds: &[Bound]) -> Vec<Rel> {
    let meeting = |conditions: Vec<Scalar>| Rel::Join {
        inputs: vec![input.clone(), by.clone(), change.clone()],
        conditions,
    };
    let now = bounds.to_vec();
    let before: Vec<Bound> = bounds.iter().map(with_other).collect();
    let mut found = Vec::new();
    for position in 0..bounds.len() {
        for conditions in failing_first(&now, &before, position) {
            found.push(negate(meeting(conditions)));
        }
        for conditions in failing_first(&before, &now, position) {
            found.push(meeting(conditions));
        }
    }
    found
}

/// Conditions under which a row passes all of `passing`, and of `failing` those before `position` but not that one.
fn failing_first(passing: &[Bound], failing: &[Bound], position: usize) -> Vec<Vec<Scalar>> {
    let passes = |bound: &Bound| bound.condition.clone();
    let fails = &failing[position];
    let missing = fails.limit.nullable.then(|| is_null(fails));
    [fails.negated.clone()]
        .into_iter()
        .chain(missing)
        .map(|last| {
            passing
                .iter()
                .chain(&failing[..position])
                .map(passes)
                .chain([last])
                .collect()
        })
        .collect()
}

fn is_null(bound: &Bound) -> Scalar {
    let text = |text: &str| Piece::Text(text.to_owned());
    let mut pieces = vec![text("(")];
    pieces.extend(bound.limit.pieces.iter().cloned());
    pieces.push(text(") IS NULL"));
    Scalar {
        pieces,
        nullable: false,
        shape: Shape::Opaque,
        ..bound.condition.clone()
    }
}

fn negate(rel: Rel) -> Rel {
    Rel::Negate(Box::new(rel))
}

/// The bound by the other reading of the one row.
fn with_other(bound: &Bound) -> Bound {
    let of_one = bound.limit.columns();
    let mut other = |id: ColId| {
        if of_one.contains(&id) {
            Other.column(id)
        } else {
            id
        }
    };
    Bound {
        condition: bound.condition.rename(&mut other),
        negated: bound.negated.rename(&mut other),
        value: bound.value.clone(),
        limit: bound.limit.rename(&mut other),
    }
}

/// Numbers of what is read a second time in one term, above all that are given out otherwise.
struct Other;

impl Other {
    const FIRST: u32 = 1 << 30;
}

impl Numbers for Other {
    fn column(&mut self, id: ColId) -> ColId {
        ColId(Self::FIRST + id.0)
    }

    fn instance(&mut self, instance: u32) -> u32 {
        Self::FIRST + instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rel::{At, Scan, ScanColumn};
    use crate::scalar::Type;

    fn numeric() -> Type {
        Type {
            name: "numeric".into(),
            collation: None,
            equality: Some("pg_catalog.=".into()),
            hashable: true,
            bitwise: false,
        }
    }

    fn scan(source: u32, nullable: bool) -> Rel {
        Rel::Scan(Scan {
            source: SourceId(source.into()),
            instance: source,
            at: At::New,
            columns: vec![ScanColumn {
                id: ColId(source),
                attnum: 1,
                name: "v".into(),
                ty: numeric(),
                nullable,
            }],
            keys: vec![],
        })
    }

    fn compared(operator: &str) -> Scalar {
        Scalar {
            pieces: vec![
                Piece::Column(ColId(1)),
                Piece::Text(operator.into()),
                Piece::Column(ColId(2)),
            ],
            ty: numeric(),
            nullable: true,
            shape: Shape::Opaque,
        }
    }

    fn changes(dirty: &[u64], nullable: bool) -> Vec<Rel> {
        let bound = Bound {
            condition: compared(" > "),
            negated: compared(" <= "),
            value: Scalar::column(ColId(1), numeric(), true),
            limit: Scalar::column(ColId(2), numeric(), nullable),
        };
        let dirty = dirty.iter().map(|id| SourceId(*id)).collect();
        terms_of(&scan(1, true), &scan(2, nullable), &[bound], &dirty)
    }

    #[test]
    fn rows_come_and_go_where_the_one_row_moved_and_where_it_is_null() {
        assert_eq!(changes(&[2], false).len(), 2);
        let terms = changes(&[2], true);
        let negated = |term: &&Rel| matches!(term, Rel::Negate(_));
        assert_eq!(terms.len(), 4);
        assert_eq!(terms.iter().filter(negated).count(), 2);
        // Each reads the rows as they are, the one row as it is, and how it changed.
        for term in &terms {
            let read: Vec<_> = term
                .scans()
                .iter()
                .map(|scan| (scan.source.0, scan.at))
                .collect();
            assert_eq!(read, [(1, At::New), (2, At::New), (2, At::Delta)]);
        }
    }

    #[test]
    fn changed_rows_meet_the_new_row_alone() {
        let terms = changes(&[1], true);
        assert!(matches!(&terms[..], [Rel::Bounded { .. }]));
        assert_eq!(changes(&[1, 2], true).len(), 1 + 4 + 4);
        assert!(changes(&[3], true).is_empty());
    }

    #[test]
    fn second_reading_of_the_one_row_has_columns_of_its_own() {
        for term in changes(&[2], true) {
            let join = match term {
                Rel::Negate(join) => *join,
                join => join,
            };
            let Rel::Join { conditions, .. } = &join else {
                panic!("a term is a join");
            };
            let read: BTreeSet<ColId> = conditions.iter().flat_map(Scalar::columns).collect();
            assert!(read.is_subset(&join.columns()));
            assert_eq!(join.columns().len(), 3);
        }
    }
}
