//! Stream tables over stream tables: from a commit to the last of them.

use std::thread::sleep;
use std::time::Duration;

use pgt_tests::{Server, Session};

use super::database::{self, creation};
use crate::options::Options;
use crate::report::{Goal, Section, number};
use crate::sample::Sample;

/// Time between two looks at whether a round is over; what is measured does not depend on it.
const LOOK: Duration = Duration::from_millis(5);

/// Rounds in which every worker gets to compile.
const WARM_UP: usize = 15;

/// A graph of stream tables over table `src (k, n)`.
struct Graph {
    title: &'static str,
    /// Name and query, upstream first.
    nodes: Vec<(String, String)>,
    /// Those that nobody reads.
    last: Vec<String>,
    /// Stream tables one after the other on the longest way.
    depth: usize,
    atomic: bool,
}

/// The row's way: how long until the last had it, in the first round and once everything is compiled.
struct Lags {
    first: f64,
    warm: Sample,
}

pub fn run(options: &Options, section: &mut Section) {
    let rounds = options.amount(30, 5);
    let server = database::start();
    let results: Vec<(Graph, Lags)> = graphs()
        .into_iter()
        .map(|graph| {
            eprintln!("scheduler: {} ..", graph.title);
            let lags = measure(&server, &graph, rounds);
            (graph, lags)
        })
        .collect();
    section.text(format!(
        "Stream tables over stream tables, all `continuous`: from the commit of one inserted row to the commit that brought it to
the last of them, by the server's own commit timestamps (microseconds; nobody polls a stream table for it, only the
end of a round is looked for every {} ms). {rounds} rounds after {WARM_UP} others; with so few the 99th percentile
is the largest. *First* is the first round, in which the workers compile. Times in milliseconds.",
        LOOK.as_millis()
    ));
    let row = |(graph, lags): &(Graph, Lags)| {
        vec![
            graph.title.to_owned(),
            graph.nodes.len().to_string(),
            graph.depth.to_string(),
            number(lags.warm.median()),
            number(lags.warm.percentile(99.0)),
            number(lags.warm.median() / graph.depth as f64),
            number(lags.first),
        ]
    };
    section.table(
        &[
            "graph",
            "stream tables",
            "depth",
            "median",
            "p99",
            "median per level",
            "first",
        ],
        &results.iter().map(row).collect::<Vec<_>>(),
    );
    for (graph, lags) in &results {
        if graph.title == "chain of 10" {
            let what = "chain of 10: median";
            section.goal(Goal::at_most(what, 50.0, lags.warm.median(), "ms"));
        }
    }
}

fn graphs() -> Vec<Graph> {
    vec![
        chains("chain of 10", 1, 10),
        chains("chain of 50", 1, 50),
        chains("3 layers of 20", 20, 3),
        diamonds("5 times 3 diamonds in a row, none", false),
        diamonds("5 times 3 diamonds in a row, atomic", true),
    ]
}

/// Rows of stream tables, each over the previous one of its row.
fn chains(title: &'static str, rows: usize, depth: usize) -> Graph {
    let mut nodes = Vec::new();
    let mut last = Vec::new();
    for row in 0..rows {
        let mut upstream = "src".to_owned();
        for level in 0..depth {
            let name = format!("c_{row}_{level}");
            nodes.push((
                name.clone(),
                format!("select k, n from {upstream} where n > {level}"),
            ));
            upstream = name;
        }
        last.push(upstream);
    }
    Graph {
        title,
        nodes,
        last,
        depth,
        atomic: false,
    }
}

/// Rows of diamonds of four stream tables, each over the end of the previous one.
fn diamonds(title: &'static str, atomic: bool) -> Graph {
    const ROWS: usize = 5;
    const DIAMONDS: usize = 3;
    let mut nodes = Vec::new();
    let mut last = Vec::new();
    for row in 0..ROWS {
        let mut upstream = "src".to_owned();
        for diamond in 0..DIAMONDS {
            let name = |corner: &str| format!("d_{row}_{diamond}_{corner}");
            let (top, left, right, end) = (name("top"), name("left"), name("right"), name("end"));
            let side = |plus: usize| format!("select k, n + {plus} as n from {top}");
            let joined =
                format!("select l.k, l.n + r.n as n from {left} l join {right} r on l.k = r.k");
            nodes.push((
                top.clone(),
                format!("select k, n from {upstream} where n > {diamond}"),
            ));
            nodes.push((left.clone(), side(1)));
            nodes.push((right.clone(), side(2)));
            nodes.push((end.clone(), joined));
            upstream = end;
        }
        last.push(upstream);
    }
    Graph {
        title,
        nodes,
        last,
        depth: 3 * DIAMONDS,
        atomic,
    }
}

fn measure(server: &Server, graph: &Graph, rounds: usize) -> Lags {
    let mut session = database::create(server, "graph");
    session.exec(
        "create table src (k bigint primary key, n int not null);
         insert into src select i, 1000 + i from generate_series(1, 1000) i",
    );
    let further = if graph.atomic {
        ", diamond_consistency => 'atomic'"
    } else {
        ", diamond_consistency => 'none'"
    };
    for (name, query) in &graph.nodes {
        session.exec(&creation(name, query, further));
    }
    database::until_quiet(&mut session);
    session.exec("vacuum analyze");
    let mut reader = database::connect(server, "graph");
    let mut lags = Lags {
        first: f64::NAN,
        warm: Sample::default(),
    };
    for round in 0..WARM_UP + rounds {
        let lag = one_row(&mut session, &mut reader, graph, 1_000_000 + round as i64);
        match round {
            0 => lags.first = lag,
            _ if round >= WARM_UP => lags.warm.push(lag),
            _ => {}
        }
        // Between 20 and 60 ms, spread so that no beat with anything else arises.
        sleep(Duration::from_micros(
            20_000 + (round as u64 * 7_919) % 40_000,
        ));
    }
    verify(&mut reader, graph);
    drop((session, reader));
    database::drop(server, "graph");
    lags
}

fn one_row(writer: &mut Session, reader: &mut Session, graph: &Graph, k: i64) -> f64 {
    writer.exec(&format!("insert into src values ({k}, 1000)"));
    database::wait_lag_ms(reader, "src", &graph.last, k, LOOK)
}

fn verify(session: &mut Session, graph: &Graph) {
    database::until_quiet(session);
    for name in &graph.last {
        let ok = session.value(&format!(
            "select ok from pgtrickle.verify_stream_table('{name}')"
        ));
        assert!(ok == "t", "{name} differs from its query");
    }
}
