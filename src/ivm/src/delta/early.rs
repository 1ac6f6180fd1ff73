//! A condition right above a scan is tested where the scan's changes are read from the log: d(filter(R)) = filter(dR), and
//! what is filtered early need not be carried along.

use std::collections::{BTreeMap, BTreeSet};

use crate::rel::{At, ColId, Rel, Scan, SourceId};
use crate::scalar::Scalar;

/// Conditions on the changes of one source, and the attribute numbers of the columns they are about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Early {
    pub conditions: Vec<Scalar>,
    pub columns: BTreeMap<ColId, i16>,
}

/// The early conditions of each changed source.
pub type EarlyConditions = BTreeMap<SourceId, Early>;

/// What can be tested early of the sources in `dirty`. A source that is read more than once has no condition that holds
/// wherever its changes are needed.
pub fn early(root: &Rel, dirty: &BTreeSet<SourceId>) -> EarlyConditions {
    let scans = root.scans();
    dirty
        .iter()
        .filter(|source| scans.iter().filter(|scan| scan.source == **source).count() == 1)
        .filter_map(|source| {
            let above = above(root, *source)?;
            let early = Early {
                columns: above
                    .scan
                    .columns
                    .iter()
                    .map(|column| (column.id, column.attnum))
                    .collect(),
                conditions: above.conditions,
            };
            (!early.conditions.is_empty()).then_some((*source, early))
        })
        .collect()
}

struct Above<'a> {
    scan: &'a Scan,
    conditions: Vec<Scalar>,
    /// Nothing but filters, projections and inner joins stands between the scan and here.
    near: bool,
}

fn above(rel: &Rel, source: SourceId) -> Option<Above<'_>> {
    if let Rel::Scan(scan) = rel {
        return (scan.source == source).then_some(Above {
            scan,
            conditions: vec![],
            near: true,
        });
    }
    let mut found = rel
        .inputs()
        .into_iter()
        .find_map(|input| above(input, source))?;
    match rel {
        Rel::Filter { conditions, .. } | Rel::Join { conditions, .. } if found.near => {
            let early = conditions
                .iter()
                .filter(|condition| is_about(condition, found.scan))
                .cloned();
            found.conditions.extend(early);
        }
        Rel::Project { .. } => {}
        _ => found.near = false,
    }
    Some(found)
}

fn is_about(condition: &Scalar, scan: &Scan) -> bool {
    let read = condition.columns();
    !read.is_empty()
        && !condition.has_clock()
        && read
            .iter()
            .all(|id| scan.columns.iter().any(|column| column.id == *id))
}

/// A term of a delta without the conditions that its changes have passed already.
pub fn without(term: &Rel, early: &EarlyConditions) -> Rel {
    let mut rel = term.map_inputs(&mut |input| without(input, early));
    let changed: BTreeSet<SourceId> = rel
        .scans()
        .iter()
        .filter(|scan| scan.at == At::Delta)
        .map(|scan| scan.source)
        .collect();
    if let Rel::Filter { conditions, .. } | Rel::Join { conditions, .. } = &mut rel {
        let passed = |condition: &Scalar| {
            early.iter().any(|(source, early)| {
                changed.contains(source) && early.conditions.contains(condition)
            })
        };
        conditions.retain(|condition| !passed(condition));
    }
    rel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rel::ScanColumn;
    use crate::scalar::{Piece, Shape, Type};

    fn boolean(columns: &[u32]) -> Scalar {
        Scalar {
            pieces: columns
                .iter()
                .flat_map(|id| [Piece::Column(ColId(*id)), Piece::Text(" > 0 ".into())])
                .collect(),
            ty: ty(),
            nullable: true,
            shape: Shape::Opaque,
        }
    }

    fn ty() -> Type {
        Type {
            name: "pg_catalog.int4".into(),
            collation: None,
            equality: Some("pg_catalog.=".into()),
            hashable: true,
            bitwise: true,
        }
    }

    fn scan(source: u64, columns: &[u32]) -> Rel {
        Rel::Scan(Scan {
            source: SourceId(source),
            instance: source as u32,
            at: At::New,
            columns: columns
                .iter()
                .map(|id| ScanColumn {
                    id: ColId(*id),
                    attnum: *id as i16,
                    name: format!("c{id}"),
                    ty: ty(),
                    nullable: true,
                })
                .collect(),
            keys: vec![],
        })
    }

    fn join(inputs: Vec<Rel>, conditions: Vec<Scalar>) -> Rel {
        Rel::Join { inputs, conditions }
    }

    fn dirty(sources: &[u64]) -> BTreeSet<SourceId> {
        sources.iter().map(|id| SourceId(*id)).collect()
    }

    #[test]
    fn conditions_of_one_source_are_early_and_leave_its_terms() {
        let tree = join(
            vec![scan(1, &[1, 2]), scan(2, &[3])],
            vec![boolean(&[1]), boolean(&[1, 3]), boolean(&[3])],
        );
        let early = early(&tree, &dirty(&[1]));
        assert_eq!(early[&SourceId(1)].conditions, vec![boolean(&[1])]);
        let terms = super::super::terms(&tree, &dirty(&[1]));
        let Rel::Join { conditions, .. } = without(&terms[0], &early) else {
            panic!("the term of a join is a join");
        };
        assert_eq!(conditions, vec![boolean(&[1, 3]), boolean(&[3])]);
    }

    #[test]
    fn source_read_twice_has_none() {
        let tree = join(
            vec![scan(1, &[1]), scan(1, &[2])],
            vec![boolean(&[1]), boolean(&[2])],
        );
        assert!(early(&tree, &dirty(&[1])).is_empty());
    }

    #[test]
    fn conditions_above_an_outer_join_come_later() {
        let outer = Rel::Outer {
            left: Box::new(Rel::Filter {
                input: Box::new(scan(1, &[1])),
                conditions: vec![boolean(&[1])],
            }),
            right: Box::new(scan(2, &[2])),
            full: false,
            on: vec![],
        };
        let tree = Rel::Filter {
            input: Box::new(outer),
            conditions: vec![boolean(&[1, 1]), boolean(&[2])],
        };
        let early = early(&tree, &dirty(&[1, 2]));
        assert_eq!(early[&SourceId(1)].conditions, vec![boolean(&[1])]);
        assert!(!early.contains_key(&SourceId(2)));
    }
}
