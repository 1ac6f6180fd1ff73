//! DISTINCT ON and LIMIT.

use std::collections::{BTreeMap, BTreeSet};

use pgt_ivm::facts;
use pgt_ivm::rel::{Body, ColId, OpenCall, PartitionInput, Rel, SortKey};
use pgt_ivm::scalar::Scalar;

use super::NotIncremental;
use super::build::{Writer, bigint, boolean};
use super::query::{Analyzer, Known, Level, Produced, Result};
use crate::pg::node::{Expr, Kind, SortItem};

pub(super) fn sort_keys(items: &[SortItem], sorted: &BTreeMap<u32, Known>) -> Result<Vec<SortKey>> {
    items
        .iter()
        .map(|item| {
            let known = sorted.get(&item.reference).ok_or_else(|| {
                NotIncremental::new(
                    "ORDER BY refers to no column of the select list",
                    "Please report the query.",
                )
            })?;
            Ok(SortKey {
                value: known.scalar(),
                using: item.using.clone(),
                nulls_first: item.nulls_first,
            })
        })
        .collect()
}

impl Analyzer {
    /// DISTINCT ON: the first row of each combination of values.
    pub(super) fn first<'q>(
        &mut self,
        rel: Rel,
        sorted: &BTreeMap<u32, Known>,
        produced: &[Produced],
        level: &Level<'q, '_>,
    ) -> Result<Rel> {
        let distinct = level.query.distinct_items();
        let mut items = level.query.sort_items();
        let missing: Vec<SortItem> = distinct
            .iter()
            .filter(|item| !items.iter().any(|known| known.reference == item.reference))
            .cloned()
            .collect();
        items.extend(missing);
        let mut keys: Vec<Scalar> = level.context_keys();
        let mut order = Vec::new();
        for key in &keys {
            order.push(SortKey {
                value: key.clone(),
                using: "pg_catalog.<".into(),
                nulls_first: false,
            });
        }
        for item in &distinct {
            let Some(known) = sorted.get(&item.reference) else {
                return Err(NotIncremental::new(
                    "DISTINCT ON refers to no column of the select list",
                    "Please report the query.",
                ));
            };
            keys.push(known.scalar());
        }
        order.extend(sort_keys(&items, sorted)?);
        let decided: Vec<Scalar> = keys
            .iter()
            .cloned()
            .chain(order.iter().map(|key| key.value.clone()))
            .collect();
        let open = ties(&rel, &decided, &ids_of(produced), "DISTINCT ON").is_some_and(|reason| {
            let is_ordered = level.query.sort_items().len() > distinct.len();
            self.leave_open(reason, is_ordered)
        });
        Ok(self.partitioned(rel, keys, Body::First { order, open }))
    }

    /// LIMIT and OFFSET. For each row of a context apart, or by a sub-select, they are a condition on the row's number.
    pub(super) fn limit<'q>(
        &mut self,
        rel: Rel,
        sorted: &BTreeMap<u32, Known>,
        produced: &[Produced],
        level: &mut Level<'q, '_>,
    ) -> Result<Rel> {
        let Some(limit) = level.query.limit() else {
            return Ok(rel);
        };
        let order = sort_keys(&level.query.sort_items(), sorted)?;
        let numbers = [limit.count, limit.offset].map(|number| {
            // LIMIT NULL is LIMIT ALL.
            number.filter(|number| !matches!(number.kind(), Kind::Const { is_null: true }))
        });
        let given: Vec<Expr<'q>> = numbers.into_iter().flatten().collect();
        if given.is_empty() {
            return Ok(rel);
        }
        let context: Vec<Scalar> = level.context_keys();
        let decided: Vec<Scalar> = context
            .iter()
            .cloned()
            .chain(order.iter().map(|key| key.value.clone()))
            .collect();
        let [count, offset] = numbers;
        let open = if limit.ties && offset.is_none() {
            None
        } else {
            ties(&rel, &decided, &ids_of(produced), "LIMIT")
        };
        let rel = self.lift(rel, &given, level)?;
        let mut number = |value: Option<Expr<'q>>| -> Result<Option<Scalar>> {
            value
                .map(|value| Ok(self.scalar(value, level)?.0))
                .transpose()
        };
        let (count, offset) = (number(count)?, number(offset)?);
        let constant = given.iter().all(|number| number.sublinks(true).is_empty());
        let apart = !context.is_empty() || !constant;
        // Rows of equal rank are not told apart by their number.
        let unwatched = order.is_empty() || apart && limit.ties;
        let open = open.is_some_and(|reason| self.leave_open(reason, !unwatched));
        if !apart {
            return Ok(Rel::Partitioned {
                inputs: vec![PartitionInput { rel, keys: vec![] }],
                keys: order
                    .iter()
                    .map(|key| (self.column(), key.value.clone()))
                    .collect(),
                body: Body::Limit {
                    order,
                    count: count.map(Box::new),
                    offset: offset.map(Box::new),
                    ties: limit.ties,
                    open,
                },
            });
        }
        let mut over = Writer::default();
        for (position, key) in context.iter().enumerate() {
            over = over
                .text(if position > 0 { ", " } else { "PARTITION BY " })
                .scalar(key);
        }
        for (position, key) in order.iter().enumerate() {
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            over = over
                .text(if position > 0 { ", " } else { " ORDER BY " })
                .scalar(&key.value)
                .text(&format!(" USING OPERATOR({}) NULLS {nulls}", key.using));
        }
        let over = over.value(boolean(), true);
        let text = Writer::default()
            .text(if limit.ties {
                "pg_catalog.rank() OVER ("
            } else {
                "pg_catalog.row_number() OVER ("
            })
            .bare(&over);
        let number = self.column();
        let call = OpenCall {
            column: number,
            over,
            is_number: true,
        };
        let window = Rel::Partitioned {
            keys: context
                .iter()
                .map(|key| (self.column(), key.clone()))
                .collect(),
            inputs: vec![PartitionInput { rel, keys: context }],
            body: Body::Window {
                columns: vec![(number, text.text(")").value(bigint(), false))],
                open: Vec::from_iter(open.then_some(call)),
            },
        };
        let skipped = |text: Writer| match &offset {
            Some(offset) => text.text("COALESCE(").scalar(offset).text(", 0)"),
            None => text.text("0"),
        };
        let mut conditions =
            vec![skipped(Writer::default().column(number).text(" > ")).value(boolean(), false)];
        if let Some(count) = &count {
            let most = skipped(Writer::default().column(number).text(" <= "))
                .text(" + COALESCE(")
                .scalar(count)
                .text(", 9223372036854775807 - ");
            conditions.push(skipped(most).text(")").value(boolean(), false));
        }
        Ok(Rel::Filter {
            input: Box::new(window),
            conditions,
        })
    }

    /// Notes that rows that are equal under an ORDER BY can decide. Returns whether it can be watched where they do.
    pub(super) fn leave_open(&mut self, reason: String, can_be_watched: bool) -> bool {
        let known = if can_be_watched {
            &mut self.open
        } else {
            &mut self.ties
        };
        known.get_or_insert(reason);
        can_be_watched
    }
}

/// Why rows that agree in `decided` leave something open, if they can differ in the columns `wanted`.
pub(super) fn ties(
    rel: &Rel,
    decided: &[Scalar],
    wanted: &BTreeSet<ColId>,
    what: &str,
) -> Option<String> {
    let known: BTreeSet<ColId> = decided.iter().filter_map(Scalar::as_column).collect();
    let exact: BTreeSet<ColId> = decided
        .iter()
        .filter(|value| value.ty.bitwise)
        .filter_map(Scalar::as_column)
        .collect();
    let unique = facts::apart(rel).iter().any(|set| set.is_subset(&known));
    let decides = unique || facts::determines(rel, &exact, wanted);
    (!decides).then(|| format!("{what} picks among rows that can be equal under its ORDER BY"))
}

fn ids_of(produced: &[Produced]) -> BTreeSet<ColId> {
    produced.iter().map(|column| column.known.id).collect()
}
