//! What is printed at the end: cost of a differential refresh beside the cost of
//! the query, and whether the contents are right.

use std::fmt::Write as _;

use postgres::Client;

use crate::Result;
use crate::gallery::{STREAM_TABLES, StreamTable};
use crate::view::decimals;

/// What was measured and found for one stream table.
pub struct Finding {
    name: &'static str,
    shape: &'static str,
    refreshes: i64,
    delta_rows: Option<f64>,
    refresh_ms: Option<f64>,
    query_ms: f64,
    verdict: Verdict,
}

/// The verifier's answer.
struct Verdict {
    ok: bool,
    missing: i64,
    surplus: i64,
    checked_rows: i64,
}

/// How often the query is run to measure it.
const QUERY_RUNS: usize = 3;

/// Brings every stream table up to date, then measures and verifies.
pub fn gather(client: &mut Client) -> Result<Vec<Finding>> {
    for table in STREAM_TABLES {
        client.execute("SELECT pgtrickle.refresh_stream_table($1)", &[&table.name])?;
    }
    STREAM_TABLES
        .iter()
        .map(|table| examine(client, table))
        .collect()
}

fn examine(client: &mut Client, table: &StreamTable) -> Result<Finding> {
    let history = client.query_one(
        "SELECT count(*),
                percentile_cont(0.5) WITHIN GROUP (ORDER BY delta_rows::float8),
                percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms::float8)
         FROM pgtrickle.get_refresh_history($1, 1000000)
         WHERE action = 'DIFFERENTIAL' AND error_message IS NULL",
        &[&table.name],
    )?;
    let verdict = client.query_one(
        "SELECT ok, missing, surplus, checked_rows FROM pgtrickle.verify_stream_table($1)",
        &[&table.name],
    )?;
    Ok(Finding {
        name: table.name,
        shape: table.shape,
        refreshes: history.get(0),
        delta_rows: history.get(1),
        refresh_ms: history.get(2),
        query_ms: query_time(client, table)?,
        verdict: Verdict {
            ok: verdict.get(0),
            missing: verdict.get(1),
            surplus: verdict.get(2),
            checked_rows: verdict.get(3),
        },
    })
}

/// Median execution time of the defining query, as the server measures it.
fn query_time(client: &mut Client, table: &StreamTable) -> Result<f64> {
    let explain = format!("EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF) {}", table.query);
    let mut times = Vec::new();
    for _ in 0..QUERY_RUNS {
        let lines = client.query(&explain, &[])?;
        let time = lines.iter().find_map(|line| {
            let line: &str = line.get(0);
            let value = line.strip_prefix("Execution Time: ")?;
            value.strip_suffix(" ms")?.parse::<f64>().ok()
        });
        times.push(time.ok_or("EXPLAIN ANALYZE printed no execution time")?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

impl Finding {
    /// Whether the stream table equals its query.
    pub fn is_equal(&self) -> bool {
        self.verdict.ok
    }

    fn speedup(&self) -> Option<f64> {
        self.refresh_ms
            .filter(|ms| *ms > 0.0)
            .map(|ms| self.query_ms / ms)
    }
}

pub fn render(findings: &[Finding]) -> String {
    let mut text = String::from(
        "\nMedian differential refresh while the writer was writing, beside the query itself\n\n",
    );
    let mut line = |cells: [&str; 8]| {
        let [
            name,
            shape,
            refreshes,
            delta,
            refresh,
            query,
            speedup,
            verdict,
        ] = cells;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<20} {shape:<20} {refreshes:>9} {delta:>10} {refresh:>10} {query:>9} {speedup:>7}  {verdict}"
        );
    };
    line([
        "stream table",
        "shape",
        "refreshes",
        "delta rows",
        "refresh ms",
        "query ms",
        "ratio",
        "verified",
    ]);
    for finding in findings {
        let Verdict {
            ok,
            missing,
            surplus,
            checked_rows,
        } = &finding.verdict;
        let verdict = if *ok {
            format!("equal, {checked_rows} rows")
        } else {
            format!("DIFFERS: {missing} missing, {surplus} surplus")
        };
        line([
            finding.name,
            finding.shape,
            &finding.refreshes.to_string(),
            &decimals(finding.delta_rows, 0),
            &decimals(finding.refresh_ms, 2),
            &decimals(Some(finding.query_ms), 2),
            &decimals(finding.speedup(), 1),
            &verdict,
        ]);
    }
    let differing = findings
        .iter()
        .filter(|finding| !finding.is_equal())
        .count();
    if differing == 0 {
        text.push_str("\nEvery stream table equals its query.\n");
    } else {
        text.push_str(&format!(
            "\n{differing} stream tables differ from their queries.\n"
        ));
    }
    text
}
