//! The oracle: stored contents compared with the defining query, both directions, as multisets.

use pgt_ivm::apply::{self, Grouped, Identity, Layout, Role, StateKind, StoredColumn};
use pgt_ivm::sql;

use super::compile::Compiled;
use crate::catalog;
use crate::error::{Error, Kind, Result};
use crate::pg::session::Scope;
use crate::pg::spi::{self, Under};

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Rows of the query that are not stored.
    pub missing: i64,
    /// Stored rows that are not in the query.
    pub surplus: i64,
    pub checked: i64,
}

impl Comparison {
    pub fn ok(&self) -> bool {
        self.missing == 0 && self.surplus == 0
    }
}

/// Compares a stream table's visible columns with its defining view.
///
/// Values are compared as bytes. A group column whose equality is looser than its bytes (1.0 and 1.00 are one group) is
/// compared by that equality: PostgreSQL itself may print either.
pub fn compare(compiled: &Compiled, under: Under<'_>) -> Result<Comparison> {
    let unit = compiled
        .units
        .last()
        .ok_or_else(|| Error::new(Kind::Internal, "a stream table without a result"))?;
    let _scope = Scope::restricted(compiled.table.owner, &compiled.table.settings);
    let names = |visible_only: bool| -> Vec<&StoredColumn> {
        unit.layout
            .columns
            .iter()
            .filter(|column| column.visible || !visible_only)
            .collect()
    };
    let visible = names(true);
    let found = count_differences(
        &format!("ONLY {}", unit.target.table),
        &unit.view.to_string(),
        &visible,
        &visible
            .iter()
            .map(|column| column.name.clone())
            .collect::<Vec<_>>(),
        &unit.layout,
        compiled.units.len() > 1,
        under,
    )?;
    let has_state =
        unit.layout.columns.len() > visible.len() && !catalog::load_state(unit.id, under).from_view;
    let (Some(query), true) = (&unit.query, found.ok() && has_state) else {
        return Ok(found);
    };
    // What is shown is right; the state kept beside it decides what will be shown next.
    let all = names(false);
    let state = count_differences(
        &format!("ONLY {}", unit.target.table),
        &format!("({})", apply::evaluate(query, &unit.layout, &unit.sources)),
        &all,
        &(0..all.len())
            .map(|position| format!("v{position}"))
            .collect::<Vec<_>>(),
        &unit.layout,
        compiled.units.len() > 1,
        under,
    )?;
    Ok(Comparison {
        checked: found.checked,
        ..state
    })
}

/// Rows of `stored` and `wanted` without partner. `names` are the columns of `wanted` in the order of `columns`.
fn count_differences(
    stored: &str,
    wanted: &str,
    columns: &[&StoredColumn],
    names: &[String],
    layout: &Layout,
    staged: bool,
    under: Under<'_>,
) -> Result<Comparison> {
    let own: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    let (left, right) = (
        digest("s", columns, &own, layout, staged),
        digest("v", columns, names, layout, staged),
    );
    let statement = format!(
        "WITH a AS (SELECT {left} AS k, pg_catalog.count(*) AS n FROM {stored} AS s GROUP BY 1), \
         b AS (SELECT {right} AS k, pg_catalog.count(*) AS n FROM {wanted} AS v GROUP BY 1) \
         SELECT COALESCE(pg_catalog.sum(GREATEST(COALESCE(b.n, 0) - COALESCE(a.n, 0), 0)), 0)::pg_catalog.int8, \
         COALESCE(pg_catalog.sum(GREATEST(COALESCE(a.n, 0) - COALESCE(b.n, 0), 0)), 0)::pg_catalog.int8, \
         COALESCE(pg_catalog.sum(COALESCE(b.n, 0)), 0)::pg_catalog.int8 FROM a FULL JOIN b ON a.k = b.k"
    );
    let row = spi::run_under(&statement, &[], under)
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(Kind::Internal, "a comparison returned no row"))?;
    Ok(Comparison {
        missing: row.int(0),
        surplus: row.int(1),
        checked: row.int(2),
    })
}

/// `image(columns)` of a row under `alias`, the columns being called `names` there.
fn digest(
    alias: &str,
    columns: &[&StoredColumn],
    names: &[String],
    layout: &Layout,
    staged: bool,
) -> String {
    let values = columns
        .iter()
        .zip(names)
        // What is spelled freely and cannot be hashed by value cannot be compared.
        .filter(|(column, _)| !loose(layout, column, staged) || column.ty.hashable)
        .map(|(column, name)| {
            let value = sql::ast::Expr::column(alias, name.clone());
            if loose(layout, column, staged) {
                sql::row_hash(vec![value])
            } else {
                value
            }
        })
        .collect();
    sql::image(values).to_string()
}

/// A column whose spelling is not determined by the query: a group column, or an extremum, of a type whose equal values
/// can look different, or an expression over one.
///
/// Through a stage such a column reaches the result like any other, and INTERSECT picks one of several equal values, so
/// that behind stages and in partitions every column of such a type is compared by value.
fn loose(layout: &Layout, column: &StoredColumn, staged: bool) -> bool {
    if column.ty.bitwise {
        return false;
    }
    if staged || matches!(layout.identity, Identity::Partition(_)) {
        return true;
    }
    let Some(grouped) = &layout.grouped else {
        return false;
    };
    match &column.role {
        Role::Key(position) => !grouped.keys[*position].1.ty.bitwise,
        Role::State(position) => spelled_freely(grouped, *position),
        Role::Computed(_) => {
            grouped.keys.iter().any(|(_, key)| !key.ty.bitwise)
                || (0..grouped.states.len()).any(|state| spelled_freely(grouped, state))
        }
        Role::Column(_) => false,
    }
}

/// An extremum: which of several equal values it is depends on the order of the rows.
fn spelled_freely(grouped: &Grouped, position: usize) -> bool {
    let state = &grouped.states[position];
    let extremum = matches!(
        state.kind,
        StateKind::Minimum { .. } | StateKind::Maximum { .. }
    );
    extremum && !state.ty.bitwise
}

/// Fails if a stream table differs from its query.
pub(super) fn insist_on_equality(compiled: &Compiled, under: Under<'_>) -> Result<()> {
    let found = compare(compiled, under)?;
    if found.ok() {
        return Ok(());
    }
    let identity = match compiled.units.last().map(|unit| &unit.layout.identity) {
        Some(Identity::Bag) => "no key",
        _ => "a key",
    };
    Err(Error::new(
        Kind::Internal,
        format!(
            "stream table {} differs from its query after a refresh",
            compiled.table.display_name()
        ),
    )
    .detail(format!(
        "{} rows are missing, {} are surplus; it has {identity}.",
        found.missing, found.surplus
    )))
}

/// What would have to be done to the stored rows: (`insert`, `update` or `delete`, the row as JSON text).
pub fn differences(compiled: &Compiled, under: Under<'_>) -> Result<Vec<(String, String)>> {
    let unit = compiled
        .units
        .last()
        .ok_or_else(|| Error::new(Kind::Internal, "a stream table without a result"))?;
    let _scope = Scope::restricted(compiled.table.owner, &compiled.table.settings);
    let visible: Vec<String> = unit
        .layout
        .visible()
        .map(|column| sql::quote_identifier(&column.name))
        .collect();
    let key: Option<Vec<String>> = match &unit.layout.identity {
        Identity::Key(names) | Identity::Group(names) => names
            .iter()
            .map(|name| {
                unit.layout
                    .column_named(name)
                    .filter(|column| column.visible)
                    .map(|column| sql::quote_identifier(&column.name))
            })
            .collect(),
        Identity::Single => Some(vec![]),
        Identity::Bag | Identity::Partition(_) => None,
    };
    let columns = visible.join(", ");
    let side = |alias: &str, from: String| {
        let columns_of: Vec<&StoredColumn> = unit.layout.visible().collect();
        let names: Vec<String> = columns_of
            .iter()
            .map(|column| column.name.clone())
            .collect();
        let digest = digest(
            "r",
            &columns_of,
            &names,
            &unit.layout,
            compiled.units.len() > 1,
        );
        format!(
            "{alias} AS (SELECT {columns}, {digest} AS pgt_image, pg_catalog.row_number() OVER (PARTITION BY {digest}) \
             AS pgt_nth, pg_catalog.to_jsonb(r) AS pgt_row FROM (SELECT {columns} FROM {from}) AS r)"
        )
    };
    let stored = side("a", format!("ONLY {}", unit.target.table));
    let wanted = side("b", unit.view.to_string());
    // Rows that stand on one side only; with a key, two of them with the same key are one update.
    let statement = format!(
        "WITH {stored}, {wanted}, only_a AS (SELECT a.* FROM a WHERE NOT EXISTS (SELECT FROM b \
         WHERE b.pgt_image = a.pgt_image AND b.pgt_nth = a.pgt_nth)), only_b AS (SELECT b.* FROM b WHERE NOT EXISTS \
         (SELECT FROM a WHERE b.pgt_image = a.pgt_image AND b.pgt_nth = a.pgt_nth)) \
         SELECT CASE WHEN a.pgt_row IS NULL THEN 'insert' WHEN b.pgt_row IS NULL THEN 'delete' ELSE 'update' END, \
         COALESCE(b.pgt_row, a.pgt_row)::pg_catalog.text FROM only_a a FULL JOIN only_b b ON {} ORDER BY 1, 2",
        match &key {
            None => "false".to_owned(),
            Some(key) if key.is_empty() => "true".to_owned(),
            Some(key) => {
                let pair = |side: &str| {
                    key.iter()
                        .map(|name| format!("{side}.{name}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                format!(
                    "pgtrickle.image({}) = pgtrickle.image({})",
                    pair("a"),
                    pair("b")
                )
            }
        }
    );
    Ok(spi::run_under(&statement, &[], under)
        .iter()
        .map(|row| (row.text(0), row.text(1)))
        .collect())
}
