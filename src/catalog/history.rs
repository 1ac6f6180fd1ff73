//! `pgt_refresh_history`.

use std::cell::OnceCell;

use crate::pg::spi::{Plan, Under, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    NoData,
    Differential,
    Full,
    Reinitialize,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::NoData => "NO_DATA",
            Action::Differential => "DIFFERENTIAL",
            Action::Full => "FULL",
            Action::Reinitialize => "REINITIALIZE",
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

const INSERT: &str = "INSERT INTO pgtrickle.pgt_refresh_history (pgt_id, data_timestamp, start_time, end_time, action, \
    status, initiated_by, reason, rows_inserted, rows_updated, rows_deleted, delta_rows, duration_ms, error_sqlstate, \
    error_message) VALUES ($1, pg_catalog.to_timestamp($2), pg_catalog.to_timestamp($3), pg_catalog.clock_timestamp(), \
    $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

thread_local! {
    static PLAN: OnceCell<Plan> = const { OnceCell::new() };
}

/// Writes a row.
pub fn record(row: &HistoryRow) {
    let (sqlstate, message) = match &row.error {
        Some((sqlstate, message)) => (Some(sqlstate.clone()), Some(message.clone())),
        None => (None, None),
    };
    let status = if row.error.is_some() {
        "FAILED"
    } else {
        "COMPLETED"
    };
    let values = [
        Value::Int(row.id),
        row.taken_at.map_or(Value::NullFloat, Value::Float),
        Value::Float(row.started_at),
        Value::Text(row.action.name().to_owned()),
        Value::Text(status.to_owned()),
        Value::Text(row.initiated_by.name().to_owned()),
        Value::OptionalText(row.reason.clone()),
        Value::Int(row.inserted),
        Value::Int(row.updated),
        Value::Int(row.deleted),
        Value::Int(row.delta_rows),
        Value::Float(row.duration_ms),
        Value::OptionalText(sqlstate),
        Value::OptionalText(message),
    ];
    PLAN.with(|cell| {
        cell.get_or_init(|| Plan::prepare(INSERT, &values))
            .run(&values, Under::Current);
    });
}
