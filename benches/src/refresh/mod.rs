//! Refresh after 1, 100 and 10,000 changed rows of a table with a million rows: pg_trickle, by hand, REFRESH.

mod by_hand;
mod data;
mod shapes;

use pgt_tests::{Server, Session};
use postgres::Statement;

use self::by_hand::{ByHand, Scope};
use self::data::Facts;
use self::shapes::{SHAPES, Shape};
use crate::options::Options;
use crate::report::{Goal, Section, number};
use crate::sample::{Sample, timed};
use crate::server::{self, without_waiting_for_disk};

/// What one query cost after one number of changed rows, in milliseconds.
#[derive(Default)]
struct Times {
    /// The call, as its client sees it.
    call: Sample,
    /// Of that, the work on this stream table, as the history has it.
    unit: Sample,
    bare: Sample,
    durable: Sample,
    full: Sample,
}

/// One size of change: changed rows, rounds measured.
struct Size {
    rows: i64,
    rounds: usize,
}

pub fn run(options: &Options) -> Section {
    let section = Section::new("Refresh");
    let rows = options.amount(1_000_000, 50_000) as i64;
    let sizes = [
        (1, options.amount(400, 20)),
        (100, options.amount(100, 10)),
        (10_000, options.amount(20, 3)),
    ]
    .map(|(rows, rounds)| Size { rows, rounds });
    let server = server::start();
    let mut bench = Bench::create(&server, rows);
    let mut results = Vec::new();
    for size in &sizes {
        eprintln!("refresh: {} changed rows ..", size.rows);
        results.push((size.rows, bench.measure(size)));
    }
    report(section, rows, &results, bench.floor())
}

struct Bench {
    facts: Facts,
    writer: Session,
    /// Refreshes stream tables and materialized views.
    refresher: Session,
    hands: Vec<Session>,
}

impl Bench {
    fn create(server: &Server, rows: i64) -> Self {
        let mut writer = server.connect("postgres");
        writer.exec("create database bench");
        let mut writer = server.connect("bench");
        writer.exec("create extension pg_trickle");
        without_waiting_for_disk(&mut writer);
        let facts = Facts::create(&mut writer, rows);
        vacuum(&mut writer);
        for Shape {
            name, query, key, ..
        } in SHAPES
        {
            writer.stream_table(&format!("s_{name}"), query);
            writer.exec(&format!("create materialized view m_{name} as {query}"));
            writer.exec(&format!("create unique index on m_{name} ({key})"));
        }
        by_hand::create(&mut writer, SHAPES);
        let mut refresher = server.connect("bench");
        without_waiting_for_disk(&mut refresher);
        Self {
            facts,
            writer,
            refresher,
            hands: by_hand::sessions(server, "bench"),
        }
    }

    /// Rounds of: change rows, then refresh every result in every way, in alternating order.
    fn measure(&mut self, size: &Size) -> Vec<Times> {
        vacuum(&mut self.writer);
        let position = data::last_position(&mut self.writer);
        let mut hands: Vec<ByHand> = SHAPES
            .iter()
            .map(|shape| ByHand::prepare(shape, size.rows, position, &mut self.hands))
            .collect();
        let calls: Vec<Statement> = SHAPES
            .iter()
            .map(|shape| self.prepare_call(shape.name))
            .collect();
        let race_length = hands.iter().map(|hand| hand.race_length(4)).max();
        for turn in 0..race_length.unwrap_or_default() {
            self.facts.change(&mut self.writer, size.rows);
            let last = data::last_position(&mut self.writer);
            for (hand, call) in hands.iter_mut().zip(&calls) {
                self.call(call);
                hand.race(turn, last, &mut self.hands);
            }
        }
        vacuum(&mut self.writer);
        let mut times: Vec<Times> = SHAPES.iter().map(|_| Times::default()).collect();
        for round in 0..size.rounds {
            self.facts.change(&mut self.writer, size.rows);
            let last = data::last_position(&mut self.writer);
            let scope = if round % 4 < 2 {
                Scope::Bare
            } else {
                Scope::Durable
            };
            for place in 0..SHAPES.len() {
                // Whoever comes right after the change finds other caches and a busier machine than who comes last.
                let number = (place + round / 4) % SHAPES.len();
                let shape = &SHAPES[number];
                let times = &mut times[number];
                for by_hand in [round % 2 == 0, round % 2 == 1] {
                    if by_hand {
                        let time = hands[number].refresh(scope, last, &mut self.hands);
                        match scope {
                            Scope::Bare => times.bare.push_ms(time),
                            Scope::Durable => times.durable.push_ms(time),
                        }
                    } else {
                        times.call.push_ms(timed(|| self.call(&calls[number])).0);
                        times.unit.push(self.last_unit_ms(shape.name));
                    }
                }
                if round % size.rounds.div_ceil(3) == 0 {
                    let sql = format!("refresh materialized view m_{}", shape.name);
                    let (time, ()) = timed(|| self.refresher.exec(&sql));
                    times.full.push_ms(time);
                }
            }
        }
        self.compare();
        times
    }

    fn prepare_call(&mut self, name: &str) -> Statement {
        let sql = format!("select pgtrickle.refresh_stream_table('s_{name}')");
        self.refresher
            .client()
            .prepare(&sql)
            .expect("refresh_stream_table")
    }

    fn call(&mut self, call: &Statement) {
        let result = self.refresher.client().execute(call, &[]);
        result.expect("refresh_stream_table");
    }

    /// Time of the refresh's own part in the last refresh, which must have been differential.
    fn last_unit_ms(&mut self, name: &str) -> f64 {
        let row = self.writer.rows(&format!(
            "select action, duration_ms from pgtrickle.pgt_refresh_history h join pgtrickle.pgt_stream_tables using (pgt_id)
             where pgt_relid = 's_{name}'::regclass order by refresh_id desc limit 1"
        ));
        assert_eq!(
            row[0][0].as_deref(),
            Some("DIFFERENTIAL"),
            "refresh of s_{name}"
        );
        let value = row[0][1].as_deref().and_then(|value| value.parse().ok());
        value.unwrap_or(f64::NAN)
    }

    /// All three results are the same, or the times mean nothing.
    fn compare(&mut self) {
        for Shape { name, .. } in SHAPES {
            self.refresher
                .exec(&format!("refresh materialized view m_{name}"));
            let columns = self.writer.value(&format!(
                "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
                 where attrelid = 'm_{name}'::regclass and attnum > 0"
            ));
            let stored = |table: &str| format!("select {columns} from {table}_{name}");
            for kept in ["s", "h"] {
                let differing = self.writer.number(&format!(
                    "select count(*) from (({a} except all {b}) union all ({b} except all {a})) d",
                    a = stored(kept),
                    b = stored("m")
                ));
                assert_eq!(differing, 0, "{kept}_{name} differs from its query");
            }
        }
    }

    /// The time of a statement that does nothing, which every time above includes.
    fn floor(&mut self) -> f64 {
        let nothing = self
            .refresher
            .client()
            .prepare("select 1")
            .expect("select 1");
        let mut times = Sample::default();
        for _ in 0..500 {
            let (time, result) = timed(|| self.refresher.client().execute(&nothing, &[]));
            result.expect("select 1");
            times.push_ms(time);
        }
        times.median()
    }
}

/// What autovacuum would have done by now; it leaves the logs alone.
fn vacuum(session: &mut Session) {
    let tables = session.value(
        "select string_agg(oid::regclass::text, ', ') from pg_class
         where relkind in ('r', 'm') and relnamespace::regnamespace::text in ('public', 'pgtrickle')",
    );
    session.exec(&format!("vacuum analyze {tables}"));
}

fn report(mut section: Section, rows: i64, results: &[(i64, Vec<Times>)], floor: f64) -> Section {
    section.text(format!(
        "`facts` has {rows} rows. In each round a transaction changes some of them (one update; or 80 % updates, 10 % inserts,
10 % deletes), then every result is brought up to date in every way, in alternating order. Median times in
milliseconds, as a client on the same machine sees them; a statement that does nothing takes {} ms. Afterwards all
results were compared and equal.

- *pg_trickle*: `select pgtrickle.refresh_stream_table(..)`; *of that, delta*: finding what changed and applying it, as the
  refresh history has it.
- *by hand*: the fastest of several prepared statements for the same job over a change table with signed images, read
  from a position on, without and with storing that position. (It is less than the same job: a position from a
  sequence loses changes when several transactions write at once.)
- *REFRESH*: `REFRESH MATERIALIZED VIEW` of the same query, with the same unique index.
- Nobody waits for the disk at commit. Before each number of changed rows everything was vacuumed and analyzed, as autovacuum
  would have done.",
        number(floor)
    ));
    let mut table = Vec::new();
    for (changed, times) in results {
        for (shape, times) in SHAPES.iter().zip(times) {
            let call = times.call.median();
            table.push(vec![
                format!("{}; {changed} changed", shape.title),
                number(call),
                number(times.unit.median()),
                number(times.bare.median()),
                number(times.durable.median()),
                number(call / times.bare.median()),
                number(call / times.durable.median()),
                number(times.full.median()),
                number(times.full.median() / call),
            ]);
        }
    }
    section.table(
        &[
            "query; rows",
            "pg_trickle",
            "of that, delta",
            "by hand",
            "by hand, position stored",
            "pg_trickle / by hand",
            "pg_trickle / by hand, position stored",
            "REFRESH",
            "REFRESH / pg_trickle",
        ],
        &table,
    );
    for (changed, times) in results {
        for (shape, times) in SHAPES.iter().zip(times) {
            let call = times.call.median();
            let what = format!("{}; {changed} changed", shape.title);
            section.goal(if *changed <= 100 {
                let ratio = call / times.durable.median();
                Goal::at_most(format!("{what}: times by hand"), 1.5, ratio, "x")
            } else {
                let ratio = times.full.median() / call;
                Goal::at_least(format!("{what}: faster than REFRESH"), 10.0, ratio, "x")
            });
        }
    }
    section
}
