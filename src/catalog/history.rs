//! `pgt_refresh_history`.

use crate::pg::direct::{self, Field};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    NoData,
    Differential,
    Full,
    Reinitialize,
    /// Nothing was done: a fuse blew.
    Skip,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::NoData => "NO_DATA",
            Action::Differential => "DIFFERENTIAL",
            Action::Full => "FULL",
            Action::Reinitialize => "REINITIALIZE",
            Action::Skip => "SKIP",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitiatedBy {
    Create,
    Manual,
    Scheduler,
    Repair,
}

impl InitiatedBy {
    fn name(self) -> &'static str {
        match self {
            InitiatedBy::Create => "CREATE",
            InitiatedBy::Manual => "MANUAL",
            InitiatedBy::Scheduler => "SCHEDULER",
            InitiatedBy::Repair => "REPAIR",
        }
    }
}

/// One refresh, done or failed.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    pub id: i64,
    /// Seconds since the epoch; none for a failure.
    pub taken_at: Option<f64>,
    pub started_at: f64,
    pub action: Action,
    pub initiated_by: InitiatedBy,
    pub reason: Option<String>,
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    pub delta_rows: i64,
    pub duration_ms: f64,
    /// SQLSTATE and message.
    pub error: Option<(String, String)>,
}

/// Writes a row.
pub fn record(row: &HistoryRow) {
    let Some(refresh_id) = direct::next_value("pgt_refresh_history_refresh_id_seq") else {
        return;
    };
    let (sqlstate, message) = match &row.error {
        Some((sqlstate, message)) => (Some(sqlstate.as_str()), Some(message.as_str())),
        None => (None, None),
    };
    let status = match (&row.error, row.action) {
        (Some(_), _) => "FAILED",
        (None, Action::Skip) => "SKIPPED",
        (None, _) => "COMPLETED",
    };
    // The table's columns, as sql/10_catalog.sql lists them.
    let fields = [
        Field::Int(refresh_id),
        Field::Int(row.id),
        row.taken_at
            .map_or(Field::Null, |at| Field::Timestamp(direct::timestamp(at))),
        Field::Timestamp(direct::timestamp(row.started_at)),
        Field::Timestamp(direct::now()),
        Field::Text(row.action.name()),
        Field::Text(status),
        Field::Text(row.initiated_by.name()),
        optional(row.reason.as_deref()),
        Field::Int(row.inserted),
        Field::Int(row.updated),
        Field::Int(row.deleted),
        Field::Int(row.delta_rows),
        Field::Float(row.duration_ms),
        optional(sqlstate),
        optional(message),
    ];
    direct::insert("pgt_refresh_history", &fields);
}

fn optional(text: Option<&str>) -> Field<'_> {
    text.map_or(Field::Null, Field::Text)
}
