//! `pgt_refresh_state`: what every refresh reads and writes.

use std::cell::OnceCell;

use crate::pg::direct::{self, Field};
use crate::pg::session::Scope;
use crate::pg::snapshot::{Snapshot, cluster_id, current_xid, database_id};
use crate::pg::spi::{self, Plan, Under, Value};

/// The state of a stream table as of some snapshot.
#[derive(Clone, Debug, Default)]
pub struct RefreshState {
    pub populated: bool,
    /// The frontier's xmax, and the transactions in progress at it; none without a frontier of this database.
    pub frontier: Option<(u64, Vec<u64>)>,
    pub data_version: i64,
    pub upstream: Vec<i64>,
    pub consumed: Vec<i64>,
    pub needs_reinit: bool,
    pub reinit_reason: Option<String>,
    pub reinit_requests: i64,
    /// Milliseconds the last full refresh took.
    pub last_full_ms: Option<f64>,
    /// The time at which conditions on it were evaluated, in microseconds since 2000-01-01 UTC.
    pub clock: Option<i64>,
    /// The stored rows are those of the view, and nothing beside them can be relied on.
    pub from_view: bool,
    /// The xmax of the snapshot this was read under.
    pub snapshot_xmax: u64,
    /// That snapshot, as text.
    pub snapshot: String,
}

const TABLE: &str = "pgt_refresh_state";

/// The table's columns, as sql/10_catalog.sql lists them.
mod column {
    pub const IS_POPULATED: usize = 2;
    pub const FRONTIER_BASE: usize = 3;
    pub const FRONTIER_CLUSTER: usize = 4;
    pub const FRONTIER_DB: usize = 5;
    pub const DATA_VERSION: usize = 7;
    pub const UPSTREAM: usize = 8;
    pub const CONSUMED: usize = 9;
    pub const DATA_TIMESTAMP: usize = 10;
    pub const LAST_REFRESH_AT: usize = 11;
    pub const LAST_FULL_MS: usize = 12;
    pub const LAST_DIFF_MS: usize = 13;
    pub const REINIT_REQUESTS: usize = 14;
    pub const NEEDS_REINIT: usize = 16;
    pub const REINIT_REASON: usize = 17;
    pub const CONSECUTIVE_ERRORS: usize = 18;
    pub const RETRY_AT: usize = 22;
    pub const CLOCK: usize = 23;
    pub const FROM_VIEW: usize = 24;
}

thread_local! {
    static SAVE: OnceCell<Plan> = const { OnceCell::new() };
}

const SUCCESS: &str = "UPDATE pgtrickle.pgt_refresh_state SET is_populated = true, \
    frontier_base = $11::pg_catalog.pg_snapshot, frontier_cluster = $2, frontier_db = $3, \
    data_version = $4, upstream = $5, consumed = $6, data_timestamp = pg_catalog.to_timestamp($7), \
    last_refresh_at = pg_catalog.clock_timestamp(), \
    last_full_ms = CASE WHEN $8 THEN $9 ELSE last_full_ms END, \
    last_diff_ms = CASE WHEN $8 THEN last_diff_ms ELSE $9 END, \
    reinit_done = CASE WHEN $8 THEN GREATEST(reinit_done, $10) ELSE reinit_done END, \
    consecutive_errors = 0, retry_at = NULL, clock = $12, \
    from_view = CASE WHEN $8 THEN $13 ELSE from_view END WHERE pgt_id = $1";

/// Reads the state of `id`. A frontier of another cluster or database, or one ahead of this cluster's transactions, is
/// none: such a stream table has to be rebuilt.
pub fn load_state(id: i64, under: Under<'_>) -> RefreshState {
    let latest;
    let snapshot = match under {
        Under::Snapshot(snapshot) => snapshot,
        Under::Current => {
            latest = Snapshot::take();
            &latest
        }
    };
    direct::read(TABLE, id, snapshot, |row| read(row, snapshot)).unwrap_or_else(|| {
        let snapshot = snapshot.text();
        RefreshState {
            snapshot_xmax: parse_snapshot(&snapshot).map_or(0, |(xmax, _)| xmax),
            snapshot,
            ..RefreshState::default()
        }
    })
}

fn read(row: &direct::Read, snapshot: &Snapshot) -> RefreshState {
    let text = snapshot.text();
    let snapshot_xmax = parse_snapshot(&text).map_or(0, |(xmax, _)| xmax);
    let ours = row.int(column::FRONTIER_CLUSTER) == Some(cluster_id())
        && row.oid(column::FRONTIER_DB) == Some(database_id());
    let frontier = row
        .snapshot(column::FRONTIER_BASE)
        .filter(|_| ours)
        .and_then(|text| parse_snapshot(&text))
        .filter(|(xmax, _)| *xmax <= snapshot_xmax);
    RefreshState {
        populated: row.bool(column::IS_POPULATED),
        frontier,
        data_version: row.int(column::DATA_VERSION).unwrap_or_default(),
        upstream: row.int_array(column::UPSTREAM),
        consumed: row.int_array(column::CONSUMED),
        needs_reinit: row.bool(column::NEEDS_REINIT),
        reinit_reason: row.text(column::REINIT_REASON),
        reinit_requests: row.int(column::REINIT_REQUESTS).unwrap_or_default(),
        last_full_ms: row.float(column::LAST_FULL_MS),
        clock: row.int(column::CLOCK),
        from_view: row.bool(column::FROM_VIEW),
        snapshot_xmax,
        snapshot: text,
    }
}

/// The frontier that a snapshot, as text, becomes.
///
/// A snapshot does not count the transaction it belongs to among those in progress. As a frontier it has to: what this
/// transaction logs after the refresh is not in the refreshed rows.
pub fn frontier_of(snapshot: &str) -> String {
    let taken = snapshot.to_owned();
    let (Some((xmax, mut in_progress)), Some(own)) = (parse_snapshot(&taken), current_xid()) else {
        return taken;
    };
    if own >= xmax || in_progress.contains(&own) {
        return taken;
    }
    in_progress.push(own);
    in_progress.sort_unstable();
    let list: Vec<String> = in_progress.iter().map(u64::to_string).collect();
    format!("{}:{xmax}:{}", in_progress[0], list.join(","))
}

/// `xmin:xmax:xip,xip` -> (xmax, xips)
fn parse_snapshot(text: &str) -> Option<(u64, Vec<u64>)> {
    let mut parts = text.split(':');
    let _xmin = parts.next()?;
    let xmax = parts.next()?.parse().ok()?;
    let in_progress: Result<Vec<u64>, _> = parts
        .next()?
        .split(',')
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect();
    Some((xmax, in_progress.ok()?))
}

/// Makes sure the state row exists.
pub fn ensure_state(id: i64) {
    spi::run(
        "INSERT INTO pgtrickle.pgt_refresh_state (pgt_id) VALUES ($1) ON CONFLICT DO NOTHING",
        &[Value::Int(id)],
    );
}

/// What a successful refresh leaves behind.
pub struct Success {
    pub data_version: i64,
    pub upstream: Vec<i64>,
    pub consumed: Vec<i64>,
    /// Seconds since the epoch at which the snapshot was taken.
    pub taken_at: f64,
    pub full: bool,
    pub duration_ms: f64,
    /// The rebuilds asked for as of the snapshot; a full refresh has done them.
    pub reinit_requests: i64,
    /// The snapshot, as the frontier it becomes.
    pub frontier: String,
    /// As in [`RefreshState`].
    pub clock: Option<i64>,
    /// As in [`RefreshState`]; only a full refresh changes it.
    pub from_view: bool,
}

/// Returns whether a rebuild has been asked for since the snapshot: what the refresh has read may have changed its meaning
/// between two of its statements, which no snapshot prevents.
pub fn save_success(id: i64, success: &Success, under: Under<'_>) -> bool {
    if let (Under::Snapshot(snapshot), false) = (under, success.full) {
        let changes = [
            (
                column::FRONTIER_BASE,
                Field::Snapshot(success.frontier.as_str()),
            ),
            (column::FRONTIER_CLUSTER, Field::Int(cluster_id())),
            (column::FRONTIER_DB, Field::Oid(database_id())),
            (column::DATA_VERSION, Field::Int(success.data_version)),
            (column::UPSTREAM, Field::IntArray(&success.upstream)),
            (column::CONSUMED, Field::IntArray(&success.consumed)),
            (
                column::DATA_TIMESTAMP,
                Field::Timestamp(direct::timestamp(success.taken_at)),
            ),
            (column::LAST_REFRESH_AT, Field::Timestamp(direct::now())),
            (column::LAST_DIFF_MS, Field::Float(success.duration_ms)),
            (column::CONSECUTIVE_ERRORS, Field::Int4(0)),
            (column::RETRY_AT, Field::Null),
            (
                column::CLOCK,
                success.clock.map_or(Field::Null, Field::Timestamp),
            ),
        ];
        if direct::update(TABLE, id, snapshot, &changes) {
            // Nobody else has changed the row.
            return false;
        }
    }
    let _scope = Scope::internal();
    let values = [
        Value::Int(id),
        Value::Int(cluster_id()),
        Value::Oid(database_id()),
        Value::Int(success.data_version),
        Value::IntArray(success.upstream.clone()),
        Value::IntArray(success.consumed.clone()),
        Value::Float(success.taken_at),
        Value::Bool(success.full),
        Value::Float(success.duration_ms),
        Value::Int(success.reinit_requests),
        Value::Text(success.frontier.clone()),
        Value::OptionalTimestamp(success.clock),
        Value::Bool(success.from_view),
    ];
    SAVE.with(|cell| {
        cell.get_or_init(|| Plan::prepare(SUCCESS, &values))
            .run(&values, under);
    });
    direct::read(TABLE, id, &Snapshot::latest(), |row| {
        row.int(column::REINIT_REQUESTS)
    })
    .flatten()
    .is_some_and(|requests| requests > success.reinit_requests)
}

/// Counts a failed refresh and says when to try again; returns the number of failures in a row.
pub fn save_failure(id: i64, sqlstate: &str, message: &str, retry_in_ms: u64) -> u32 {
    spi::first(
        "UPDATE pgtrickle.pgt_refresh_state SET consecutive_errors = consecutive_errors + 1, \
         last_error_at = pg_catalog.clock_timestamp(), last_error_sqlstate = $2, last_error_message = $3, \
         retry_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $4) WHERE pgt_id = $1 \
         RETURNING consecutive_errors",
        &[
            Value::Int(id),
            Value::Text(sqlstate.to_owned()),
            Value::Text(message.to_owned()),
            Value::Float(retry_in_ms as f64 / 1000.0),
        ],
    )
    .map_or(0, |row| row.int(0) as u32)
}
