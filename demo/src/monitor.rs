//! Asks the server how the stream tables are doing.

use postgres::Client;

use crate::Result;
use crate::gallery::{STREAM_TABLES, StreamTable};

/// One stream table at one moment.
pub struct Sample {
    pub name: &'static str,
    pub shape: &'static str,
    pub staleness_s: Option<f64>,
    pub rows: i64,
    pub last: Option<Refresh>,
}

/// The newest entry of the refresh history.
pub struct Refresh {
    pub mode: String,
    pub duration_ms: Option<f64>,
    pub delta_rows: Option<i64>,
}

pub fn sample(client: &mut Client) -> Result<Vec<Sample>> {
    STREAM_TABLES
        .iter()
        .map(|table| sample_one(client, table))
        .collect()
}

fn sample_one(client: &mut Client, table: &StreamTable) -> Result<Sample> {
    let row = client.query_one(
        &format!(
            "SELECT pgtrickle.get_staleness($1)::float8, (SELECT count(*) FROM {}),
                    h.action::text, h.duration_ms::float8, h.delta_rows::bigint
             FROM (VALUES (1)) AS one
             LEFT JOIN pgtrickle.get_refresh_history($1, 1) AS h ON true",
            table.name
        ),
        &[&table.name],
    )?;
    let mode: Option<String> = row.get(2);
    Ok(Sample {
        name: table.name,
        shape: table.shape,
        staleness_s: row.get(0),
        rows: row.get(1),
        last: mode.map(|mode| Refresh {
            mode,
            duration_ms: row.get(3),
            delta_rows: row.get(4),
        }),
    })
}
