//! Whether the cost of a refresh depends on how much data there is, the number of changed rows being the same.

use pgt_tests::tpch::QUERIES;

use super::bench::{Amount, Bench, Outcome, Plan};
use super::list_others;
use crate::huge_pages::HugePages;
use crate::options::Options;
use crate::report::{Goal, Section, number};
use crate::server;

const SCALES: [f64; 3] = [0.02, 0.1, 0.5];
const ROWS: i64 = 1000;

/// Megabytes of shared memory that a server has.
const MEMORY: u64 = 1_300;

/// A slope that counts as not growing.
const FLAT: f64 = 0.15;

pub fn slope(options: &Options) -> Section {
    let mut section = Section::new("TPC-H, by amount of data");
    let scales = if options.quick {
        [0.01, 0.02, 0.04]
    } else {
        SCALES
    };
    let plan = Plan {
        amount: Amount::Rows(ROWS),
        rounds: options.amount(9, 3),
        comparisons: 0,
        automatic: 0,
    };
    let _pages = HugePages::reserve(MEMORY);
    let huge_pages = server::start()
        .connect("postgres")
        .value("show huge_pages_status");
    // Of each scale, what became of each query.
    let columns: Vec<Vec<Outcome>> = scales.iter().map(|scale| at(*scale, &plan)).collect();
    section.text(format!(
        "In each round {ROWS} rows of `orders` and `lineitem` change (of `partsupp` for queries 2, 11 and 16), whatever the scale factor;
median times of the differential refresh in milliseconds. Huge pages for the servers' shared memory, which the machine was asked
for: {huge_pages}. The slope is that of the line through the logarithms of both: 0 if
the time does not depend on the amount of data, 1 if it is in proportion to it."
    ));
    let mut table = Vec::new();
    let mut flat = 0;
    for (i, query) in QUERIES.iter().enumerate() {
        let medians: Vec<f64> = columns
            .iter()
            .map(|outcomes| {
                outcomes[i]
                    .times()
                    .map_or(f64::NAN, |times| times[0].differential.median())
            })
            .collect();
        let slope = slope_of(&scales, &medians);
        flat += usize::from(slope < FLAT);
        let mut row = vec![format!("Q{}", query.number)];
        row.extend(medians.iter().chain([&slope]).map(|value| number(*value)));
        table.push(row);
    }
    let head: Vec<String> = scales.iter().map(|s| format!("scale factor {s}")).collect();
    let mut head: Vec<&str> = head.iter().map(String::as_str).collect();
    head.insert(0, "query");
    head.push("slope");
    section.table(&head, &table);
    if let Some(outcomes) = columns.last() {
        list_others(&mut section, outcomes);
    }
    section.goal(Goal::at_least(
        format!("slope below {FLAT}"),
        18.0,
        flat as f64,
        "queries",
    ));
    section
}

fn at(scale: f64, plan: &Plan) -> Vec<Outcome> {
    let server = server::start();
    eprintln!("tpch: loading at scale factor {scale} ..");
    let mut bench = Bench::load(&server, scale);
    QUERIES
        .iter()
        .map(|query| {
            eprintln!("tpch: query {} ..", query.number);
            bench.measure(query, std::slice::from_ref(plan))
        })
        .collect()
}

/// Of the least-squares line through the logarithms; NaN if a value is.
fn slope_of(x: &[f64], y: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (x, y): (Vec<f64>, Vec<f64>) = (
        x.iter().map(|v| v.ln()).collect(),
        y.iter().map(|v| v.ln()).collect(),
    );
    let (mx, my) = (mean(&x), mean(&y));
    let covariance: f64 = x.iter().zip(&y).map(|(x, y)| (x - mx) * (y - my)).sum();
    let variance: f64 = x.iter().map(|x| (x - mx).powi(2)).sum();
    covariance / variance
}

#[cfg(test)]
mod tests {
    use super::slope_of;

    #[test]
    fn slopes_of_powers() {
        let scales = [0.02, 0.1, 0.5];
        let powers = |exponent: f64| scales.map(|s: f64| 3.0 * s.powf(exponent));
        for exponent in [0.0, 0.15, 1.0] {
            assert!((slope_of(&scales, &powers(exponent)) - exponent).abs() < 1e-9);
        }
        assert!(slope_of(&scales, &[1.0, f64::NAN, 1.0]).is_nan());
    }
}
