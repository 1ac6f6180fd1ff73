//! The changes of a source, read from its log.

use super::ast::{Cte, CteBody, Expr, From, Query, Select};
use super::lower::{SourceTable, delta_name, fill, image, log_column, param, union_all};
use crate::delta::Early;
use crate::rel::SourceId;

/// Condition that a log row (table alias `l`) is new to the reader. `open`: transactions were in progress at its frontier.
fn unseen(source: &SourceTable, open: bool) -> Expr {
    match source.version {
        None => {
            let xid = Expr::column("l", "xid");
            let later = Expr::And(vec![
                xid.clone().infix(">=", Expr::Param(param::XMAX)),
                xid.clone().infix("<", Expr::Param(param::BOUND)),
            ]);
            if !open {
                return later;
            }
            Expr::Or(vec![
                later,
                Expr::EqualAny(Box::new(xid), Box::new(Expr::Param(param::IN_PROGRESS))),
            ])
        }
        Some(position) => Expr::column("l", "version").infix(
            ">",
            Expr::Element(
                Box::new(Expr::Param(param::CONSUMED).cast("pg_catalog.int8[]")),
                position,
            ),
        ),
    }
}

/// The new log rows that pass the early conditions.
fn log_branches(
    source: &SourceTable,
    open: bool,
    items: &[(Expr, String)],
    early: Option<&Early>,
) -> Query {
    let mut conditions = vec![unseen(source, open)];
    if let Some(early) = early {
        conditions.extend(early.conditions.iter().map(|condition| {
            fill(condition, &|id| match early.columns.get(&id) {
                Some(attnum) => Expr::column("l", log_column(*attnum)),
                None => Expr::Null,
            })
        }));
    }
    let branches = source
        .log
        .iter()
        .map(|segment| Select {
            items: items.to_vec(),
            from: vec![From::Table {
                name: segment.clone(),
                alias: "l".into(),
                only: true,
            }],
            conditions: conditions.clone(),
            ..Select::default()
        })
        .collect();
    union_all(branches)
}

/// In which form the change of a source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whoever reads it has to sum up weights.
    Logged,
    /// One row per distinct image, so that no expression computed from it ever sees a value that was in neither state.
    Netted,
    /// The same, with the rows before and after an update next to each other, as in the log: what both meet is in the
    /// processor's caches when it is looked up for the second time.
    NettedInOrder,
}

/// The change of a source since the frontier, as CTEs of which the last is named by [`delta_name`]: its columns and the
/// weight `w` (integer).
pub fn delta_table(
    id: SourceId,
    source: &SourceTable,
    open: bool,
    form: Form,
    early: Option<&Early>,
) -> Vec<Cte> {
    let columns: Vec<String> = source
        .columns
        .keys()
        .map(|attnum| log_column(*attnum))
        .collect();
    let plain = |alias: &str| -> Vec<(Expr, String)> {
        columns
            .iter()
            .map(|name| (Expr::column(alias, name.clone()), name.clone()))
            .collect()
    };
    let weight = |value: Expr| (value.cast("pg_catalog.int4"), "w".to_owned());

    let mut items = plain("l");
    items.push(weight(Expr::column("l", "w")));
    let name = match form {
        Form::Logged => delta_name(id),
        Form::Netted | Form::NettedInOrder => format!("{}_raw", delta_name(id)),
    };
    // Read once it is no step of its own.
    let mut ctes = vec![Cte {
        name: name.clone(),
        materialized: false,
        body: CteBody::Query(log_branches(source, open, &items, early)),
    }];
    if form != Form::Logged {
        let sum = Expr::aggregate("sum", Expr::column("l", "w"));
        let mut items: Vec<(Expr, String)> = columns
            .iter()
            .map(|column| {
                (
                    Expr::aggregate("any_value", Expr::column("l", column.clone())),
                    column.clone(),
                )
            })
            .collect();
        items.push(weight(sum.clone()));
        let image_of: Vec<Expr> = columns
            .iter()
            .map(|column| Expr::column("l", column.clone()))
            .collect();
        let select = Select {
            items,
            from: vec![From::Cte {
                name: name.clone(),
                alias: "l".into(),
            }],
            group_by: if image_of.is_empty() {
                vec![]
            } else {
                vec![image(image_of)]
            },
            having: Some(sum.infix("<>", Expr::Integer(0))),
            order_by: (form == Form::NettedInOrder)
                .then(|| first_of_fixed_size(source))
                .flatten()
                .map(|column| Expr::aggregate("any_value", Expr::column("l", column)))
                .into_iter()
                .collect(),
            ..Select::default()
        };
        ctes.push(Cte {
            name: delta_name(id),
            materialized: true,
            body: CteBody::Query(select.into()),
        });
    }
    ctes
}

/// The first column whose values are compared quickly.
fn first_of_fixed_size(source: &SourceTable) -> Option<String> {
    source
        .columns
        .iter()
        .find(|(_, ty)| ty.equals_by_bytes())
        .map(|(attnum, _)| log_column(*attnum))
}
