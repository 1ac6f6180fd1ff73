//! TPC-H: what keeping each of the 22 queries costs beside evaluating it, and how that grows with the data.

mod bench;
mod slope;

pub use slope::slope;

use pgt_tests::tpch::QUERIES;

use self::bench::{Amount, Bench, Outcome, Plan, Times};
use crate::options::Options;
use crate::report::{Goal, Section, number};
use crate::server;

const SHARES: [f64; 2] = [0.001, 0.01];

pub fn run(options: &Options) -> Section {
    let section = Section::new("TPC-H");
    let scale = options.scale.unwrap_or(0.1);
    let scale = if options.quick { 0.01 } else { scale };
    let plans = SHARES.map(|share| Plan {
        amount: Amount::Share(share),
        rounds: options.amount(7, 2),
        comparisons: options.amount(3, 1),
        automatic: if share == SHARES[1] {
            options.amount(8, 1)
        } else {
            0
        },
    });
    let server = server::start();
    eprintln!("tpch: loading at scale factor {scale} ..");
    let mut bench = Bench::load(&server, scale);
    let outcomes: Vec<Outcome> = QUERIES
        .iter()
        .map(|query| {
            eprintln!("tpch: query {} ..", query.number);
            bench.measure(query, &plans)
        })
        .collect();
    report(section, scale, &outcomes)
}

/// How many times faster the differential refresh is than the query.
fn speed_up(times: &Times) -> f64 {
    times.query.median() / times.differential.median()
}

fn report(mut section: Section, scale: f64, outcomes: &[Outcome]) -> Section {
    section.text(format!(
        "The 22 queries at scale factor {scale}, with ORDER BY and LIMIT where the standard has them, one after the other: in each
round a share of the rows of `orders` and `lineitem` changes (a quarter is new orders, a quarter is deleted orders, half are
updates of amounts, dates, keys and statuses; three transactions), then the stream table is refreshed and the query itself planned and
run, in alternating order. Queries 2, 11 and 16 read neither table; there the share is of `partsupp`. Median times in
milliseconds, as a client on the same machine sees them. *Full* is a refresh of the same query in mode `FULL`. *AUTO*
is a refresh in that mode, after some from which it learns, and beside it the ratio to full refreshes in the same rounds. Before
each share everything was vacuumed and analyzed, as autovacuum would have done; after it the contents were compared with the
query. Nobody waits for the disk at commit."
    ));
    let head: Vec<String> = std::iter::once("query".to_owned())
        .chain(SHARES.iter().flat_map(|share| {
            let share = format!("{} %", share * 100.0);
            [
                format!("{share}: rows"),
                "differential".into(),
                "query".into(),
                "query / differential".into(),
                "full".into(),
            ]
        }))
        .chain(["AUTO".into(), "AUTO / full".into()])
        .collect();
    let mut table = Vec::new();
    for (query, outcome) in QUERIES.iter().zip(outcomes) {
        let mut row = vec![format!("Q{}", query.number)];
        match outcome.times() {
            Some(times) => {
                row.extend(times.iter().flat_map(columns));
                row.extend([
                    number(times[1].automatic.median()),
                    number(chosen(&times[1])),
                ]);
            }
            None => row.extend(vec!["-".to_owned(); head.len() - 1]),
        }
        table.push(row);
    }
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    section.table(&head, &table);
    list_others(&mut section, outcomes);
    goals(&mut section, outcomes);
    section
}

/// What the server chose, as a multiple of a full refresh.
fn chosen(times: &Times) -> f64 {
    times.automatic.median() / times.beside.median()
}

fn columns(times: &Times) -> [String; 5] {
    [
        format!("{:.0}", times.changed.median()),
        number(times.differential.median()),
        number(times.query.median()),
        number(speed_up(times)),
        number(times.full.median()),
    ]
}

/// Queries without numbers, and why.
fn list_others(section: &mut Section, outcomes: &[Outcome]) {
    let mut lines = Vec::new();
    for (query, outcome) in QUERIES.iter().zip(outcomes) {
        let (what, message) = match outcome {
            Outcome::Measured(_) => continue,
            Outcome::Refused(message) => ("is not kept differentially", message),
            Outcome::Failed(message) => ("**failed**", message),
        };
        let message = message.replace('\n', " ");
        lines.push(format!("- Q{} {what}: {message}", query.number));
    }
    if !lines.is_empty() {
        section.text(lines.join("\n"));
    }
}

fn goals(section: &mut Section, outcomes: &[Outcome]) {
    let measured: Vec<&[Times]> = outcomes.iter().filter_map(Outcome::times).collect();
    let faster = |share: usize| {
        let faster = measured
            .iter()
            .filter(|times| speed_up(&times[share]) > 1.0);
        faster.count() as f64
    };
    let slowest = measured
        .iter()
        .flat_map(|times| times.iter())
        .map(|times| times.differential.median() / times.full.median())
        .fold(0.0, f64::max);
    let slowest_choice = measured
        .iter()
        .map(|times| chosen(&times[1]))
        .fold(0.0, f64::max);
    // What is not kept differentially is evaluated, so it counts as 1.
    let logarithms: f64 = measured.iter().map(|times| speed_up(&times[0]).ln()).sum();
    let mean = (logarithms / outcomes.len() as f64).exp();
    let queries = "queries";
    section.goal(Goal::at_least(
        "kept differentially, and equal to the query",
        22.0,
        measured.len() as f64,
        queries,
    ));
    section.goal(Goal::at_least(
        "0.1 %: faster than the query",
        20.0,
        faster(0),
        queries,
    ));
    section.goal(Goal::at_least(
        "1 %: faster than the query",
        18.0,
        faster(1),
        queries,
    ));
    section.goal(Goal::at_most(
        "slowest one in mode AUTO, as a multiple of its full refresh",
        1.2,
        slowest_choice,
        "x",
    ));
    section.goal(Goal::at_most(
        "slowest one in mode DIFFERENTIAL, as a multiple of its full refresh",
        1.2,
        slowest,
        "x",
    ));
    section.goal(Goal::at_least(
        "0.1 %: geometric mean of query / differential, 1 where not differential",
        20.0,
        mean,
        "x",
    ));
}
