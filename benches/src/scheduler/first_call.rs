//! The first refresh in a fresh backend, beside those that follow.

use pgt_tests::{Server, Session, quote};

use super::database;
use crate::options::Options;
use crate::report::{Section, number};
use crate::sample::{Sample, timed};
use crate::server::without_waiting_for_disk;

/// The setting that keeps compiled stream tables in shared memory, where there is one.
const CACHE: &str = "pg_trickle.template_cache";

/// A stream table, and how one row of its sources changes.
struct Shape {
    title: &'static str,
    name: &'static str,
    query: &'static str,
    change: &'static str,
}

const SHAPES: [Shape; 2] = [
    Shape {
        title: "filter",
        name: "s_small",
        query: "select r_regionkey, r_name from region where r_regionkey >= 0",
        change: "update region set r_name = md5(clock_timestamp()::text)::char(25) where r_regionkey = 1",
    },
    Shape {
        title: "3-way join, GROUP BY",
        name: "s_join",
        query: "select c_mktsegment, o_orderpriority, count(*) as c, sum(l_extendedprice * (1 - l_discount)) as s
            from customer join orders on o_custkey = c_custkey join lineitem on l_orderkey = o_orderkey
            group by c_mktsegment, o_orderpriority",
        change: "update lineitem set l_extendedprice = l_extendedprice + 1 where l_orderkey = 1 and l_linenumber = 1",
    },
];

/// Milliseconds of the first calls of a backend.
#[derive(Default)]
struct Calls {
    connect: Sample,
    first: Sample,
    second: Sample,
    third: Sample,
}

pub fn run(options: &Options, section: &mut Section) {
    let rounds = options.amount(30, 5);
    let server = database::start();
    let mut session = database::create(&server, "calls");
    pgt_tests::tpch::load(session.client(), 0.01)
        .unwrap_or_else(|e| panic!("could not load TPC-H data: {e:?}"));
    session.exec("create index on orders (o_custkey); create index on lineitem (l_orderkey)");
    for shape in &SHAPES {
        session.exec(&format!(
            "select pgtrickle.create_stream_table({}, {}, schedule => '1d', refresh_mode => 'DIFFERENTIAL')",
            quote(shape.name),
            quote(shape.query)
        ));
    }
    session.exec("vacuum analyze");
    let known = session.number(&format!(
        "select count(*) from pg_settings where name = {}",
        quote(CACHE)
    ));
    let values: &[Option<&str>] = if known > 0 {
        &[Some("off"), Some("on")]
    } else {
        &[None]
    };
    let mut rows = Vec::new();
    for shape in &SHAPES {
        eprintln!("scheduler: first calls, {} ..", shape.title);
        let results = measure(&server, &mut session, shape, values, rounds);
        for (value, calls) in values.iter().zip(results) {
            let title = match value {
                Some(value) => format!("{}; `{CACHE}` {value}", shape.title),
                None => shape.title.to_owned(),
            };
            rows.push(vec![
                title,
                number(calls.first.median()),
                number(calls.first.percentile(99.0)),
                number(calls.second.median()),
                number(calls.third.median()),
                number(calls.connect.median()),
            ]);
        }
    }
    section.text(format!(
        "`refresh_stream_table` in a session that has just connected, after one row has changed, and again after further
changes: medians of {rounds} sessions in milliseconds, as the client sees them, in alternating order. Nothing else is at work."
    ));
    section.table(
        &[
            "stream table",
            "first call",
            "first call, p99",
            "second call",
            "third call",
            "connecting",
        ],
        &rows,
    );
    drop(session);
    after_restart(&server, options.amount(15, 3), section);
}

/// The first session after a restart, with what the catalog keeps and without any cache, in turn.
fn after_restart(server: &Server, rounds: usize, section: &mut Section) {
    let mut session = server.connect("calls");
    database::configure(&mut session, "pg_trickle.enabled", "off");
    let mut times = [(); SHAPES.len()].map(|()| [Sample::default(), Sample::default()]);
    for round in 0..2 * rounds {
        server.restart();
        let mut session = server.connect("calls");
        without_waiting_for_disk(&mut session);
        for (number, shape) in SHAPES.iter().enumerate() {
            session.exec(shape.change);
            let mut first = server.connect("calls");
            without_waiting_for_disk(&mut first);
            first.exec(&format!("set {CACHE} = {}", ["on", "off"][round % 2]));
            let call = format!(
                "select pgtrickle.refresh_stream_table({})",
                quote(shape.name)
            );
            times[number][round % 2].push_ms(timed(|| first.exec(&call)).0);
        }
    }
    let rows: Vec<Vec<String>> = SHAPES
        .iter()
        .zip(&times)
        .map(|(shape, [kept, compiled])| {
            vec![
                shape.title.to_owned(),
                number(kept.median()),
                number(compiled.median()),
            ]
        })
        .collect();
    section.text(format!(
        "The first refresh after a restart of the server, when nothing is in shared memory: medians of {rounds} restarts each, in
alternating order."
    ));
    section.table(&["stream table", "kept in the catalog", "compiled"], &rows);
}

/// Sessions one after the other, with each value of the setting in turn.
fn measure(
    server: &Server,
    writer: &mut Session,
    shape: &Shape,
    values: &[Option<&str>],
    rounds: usize,
) -> Vec<Calls> {
    let refresh = format!(
        "select pgtrickle.refresh_stream_table({})",
        quote(shape.name)
    );
    let mut results: Vec<Calls> = values.iter().map(|_| Calls::default()).collect();
    for round in 0..=rounds {
        for (value, calls) in values.iter().zip(&mut results) {
            let (connecting, mut session) = timed(|| server.connect("calls"));
            without_waiting_for_disk(&mut session);
            if let Some(value) = value {
                session.exec(&format!("set {CACHE} = {value}"));
            }
            let times = [(); 3].map(|()| {
                writer.exec(shape.change);
                timed(|| session.exec(&refresh)).0
            });
            // What other sessions may use has been made after the first round.
            if round > 0 {
                calls.connect.push_ms(connecting);
                calls.first.push_ms(times[0]);
                calls.second.push_ms(times[1]);
                calls.third.push_ms(times[2]);
            }
        }
    }
    let ok = writer.value(&format!(
        "select ok from pgtrickle.verify_stream_table('{}')",
        shape.name
    ));
    assert!(ok == "t", "{} differs from its query", shape.name);
    results
}
