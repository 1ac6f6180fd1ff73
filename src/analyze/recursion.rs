//! Recursive WITH queries: the text by which one is evaluated as a whole, and its two terms where changes of it have a law.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use pgt_ivm::delta;
use pgt_ivm::rel::{
    At, Body, ITSELF, PartitionInput, Recursion, Rel, Scan, ScanColumn, SourceId, Term,
};
use pgt_ivm::scalar::Type;

use super::query::{Analyzer, Level, Produced, Result};
use super::{NotIncremental, source};
use crate::pg::node::{Query, SetKind, SetOperation};
use crate::pg::xact;

impl Analyzer {
    /// Range-table entry `index` of `level` reads the recursive query `name` of level `home`.
    pub(super) fn recursive<'q>(
        &mut self,
        index: usize,
        name: &str,
        home: &Level<'q, '_>,
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<Produced>)> {
        let (query, mut inputs) = self.whole(index, home.query, level)?;
        let (columns, produced) = self.entry_columns(index, level);
        let types: Vec<Type> = columns.iter().map(|(_, ty)| ty.clone()).collect();
        let recursion = self.recursion(name, home, &types);
        if let Some(recursion) = &recursion {
            inputs = self.read_by(recursion);
        }
        let rel = Rel::Partitioned {
            inputs,
            keys: vec![],
            body: Body::Opaque {
                query,
                columns,
                recursion: recursion.map(Box::new),
            },
        };
        Ok((rel, produced))
    }

    /// The reference of a recursive query to itself.
    pub(super) fn itself<'q>(
        &mut self,
        index: usize,
        level: &Level<'q, '_>,
    ) -> Result<(Rel, Vec<Produced>)> {
        if !self.recursing {
            return Err(NotIncremental::new(
                "a recursive query refers to one around it",
                "The stream table is refreshed fully.",
            ));
        }
        let (columns, produced) = self.entry_columns(index, level);
        let scan = Rel::Scan(Scan {
            source: ITSELF,
            instance: self.instance(),
            at: At::New,
            columns: columns
                .into_iter()
                .zip(&produced)
                .enumerate()
                .map(|(position, ((id, ty), column))| ScanColumn {
                    id,
                    attnum: position as i16 + 1,
                    name: column.name.clone(),
                    ty,
                    nullable: true,
                })
                .collect(),
            keys: vec![],
        });
        Ok((scan, produced))
    }

    /// The terms of a recursive query, if all that is in them has a law. The query is closed: a reference to a recursive
    /// query inside it is one to itself.
    fn recursion<'q>(
        &mut self,
        name: &str,
        home: &Level<'q, '_>,
        types: &[Type],
    ) -> Option<Recursion> {
        let query = home.query.cte(name)?;
        let Some(SetOperation::Operation {
            kind: SetKind::Union,
            all,
            left,
            right,
        }) = query.set_operation()
        else {
            return None;
        };
        if !types.iter().all(|ty| can_be_kept(ty, all)) {
            return None;
        }
        // What is found out about terms that turn out to have no law does not count.
        let (ties, open, recursing) = (self.ties.clone(), self.open.clone(), self.recursing);
        self.recursing = true;
        let terms = xact::attempt(|| {
            let mut level = Level::new(query, Some(home));
            let base = self.term(&left, all, &mut level, types)?;
            let step = self.term(&right, all, &mut level, types)?;
            Ok::<_, NotIncremental>(Recursion { all, base, step })
        });
        self.recursing = recursing;
        let recursion = match terms {
            Ok(Ok(recursion)) => Some(recursion),
            Ok(Err(_)) => None,
            Err(failure) if failure.may_be_the_query() => None,
            Err(failure) => failure.raise(),
        };
        let recursion = recursion
            .filter(|recursion| delta::has_law(recursion) && sources(recursion).next().is_some());
        if recursion.is_none() {
            (self.ties, self.open) = (ties, open);
        }
        recursion
    }

    fn term<'q>(
        &mut self,
        operation: &SetOperation,
        all: bool,
        level: &mut Level<'q, '_>,
        types: &[Type],
    ) -> Result<Term> {
        let (rel, produced) = self.set_node(operation, level, types, None)?;
        let rel = match rel {
            // UNION does the same once more.
            Rel::Aggregate { input, keys, calls } if !all && calls.is_empty() => Rel::Project {
                input,
                columns: keys,
            },
            other => other,
        };
        let (rel, columns) = self.cast_columns(rel, produced, types);
        Ok(Term { rel, columns })
    }

    /// Scans of everything the terms read.
    fn read_by(&mut self, recursion: &Recursion) -> Vec<PartitionInput> {
        let mut reads: BTreeMap<SourceId, BTreeMap<i16, ScanColumn>> = BTreeMap::new();
        for scan in sources(recursion) {
            let columns = reads.entry(scan.source).or_default();
            for column in &scan.columns {
                columns.insert(column.attnum, column.clone());
            }
        }
        reads
            .into_iter()
            .map(|(source, columns)| {
                let columns = columns
                    .into_values()
                    .map(|column| ScanColumn {
                        id: self.column(),
                        ..column
                    })
                    .collect();
                self.input(source, columns)
            })
            .collect()
    }

    /// The text of a recursive query, and scans of everything that stands in it.
    fn whole<'q>(
        &mut self,
        index: usize,
        home: Query<'q>,
        level: &Level<'q, '_>,
    ) -> Result<(String, Vec<PartitionInput>)> {
        let Some(whole) = home.whole_cte(level.query, index) else {
            return Err(NotIncremental::new(
                "a recursive query refers to something around it, to whole rows or system columns",
                "Name the columns, and move what it refers to into it.",
            ));
        };
        if home.searches_breadth_first() {
            return Err(NotIncremental::new(
                "SEARCH BREADTH FIRST looks into rows without a named type",
                "Count the steps in a column and order by it.",
            ));
        }
        if home
            .mutable_functions()
            .iter()
            .any(|function| function.clock)
        {
            return Err(super::scalar::clock_misplaced());
        }
        let mut inputs = Vec::new();
        for (relid, read) in whole.reads {
            let relid = pg_sys::Oid::from(relid);
            let facts = source::columns(relid);
            let mut wanted = BTreeMap::new();
            for attnum in read.columns {
                let column = facts
                    .get(&attnum)
                    .filter(|column| !column.virtual_generated)
                    .ok_or_else(|| {
                        NotIncremental::new(
                            "a recursive query reads a column that is generated when it is read",
                            "Use a stored generated column, or the expression itself.",
                        )
                    })?;
                wanted.insert(attnum, column.clone());
            }
            for member in source::members(relid, read.relkind, read.inherit, self.reader)? {
                let found = source::inherited_columns(member, relid, &wanted, self.reader)?;
                let columns = self.scan_columns(found.values());
                inputs.push(self.input(SourceId(u64::from(member.to_u32())), columns));
            }
        }
        Ok((whole.text, inputs))
    }

    fn input(&mut self, source: SourceId, columns: Vec<ScanColumn>) -> PartitionInput {
        PartitionInput {
            rel: Rel::Scan(Scan {
                source,
                instance: self.instance(),
                at: At::New,
                columns,
                keys: vec![],
            }),
            keys: vec![],
        }
    }
}

fn sources(recursion: &Recursion) -> impl Iterator<Item = &Scan> {
    [&recursion.base, &recursion.step]
        .into_iter()
        .flat_map(|term| term.rel.scans())
        .filter(|scan| scan.source != ITSELF)
}

/// Rows with a column of this type can be stored, and found among the stored ones: UNION compares them by their types'
/// equality, which has to be that of their bytes, or it would be open which of several equal rows is kept.
fn can_be_kept(ty: &Type, all: bool) -> bool {
    let anonymous = ["pg_catalog.record", "pg_catalog.record[]"].contains(&&*ty.name);
    !anonymous && (all || ty.bitwise)
}
