//! AUTO beside always differential and always full, on the same changes: how well it chooses.

use std::thread::sleep;
use std::time::{Duration, Instant};

use pgt_tests::{Server, Session};

use crate::options::Options;
use crate::report::{Goal, Section, number};
use crate::sample::timed;
use crate::server;

/// A query, kept once for each [`Strategy`].
struct Shape {
    name: &'static str,
    title: &'static str,
    query: &'static str,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "folded",
        title: "join, GROUP BY, sums",
        query: "select c.region, count(*) as n, sum(f.amount) as s from facts f join customer c on c.id = f.customer
            group by c.region",
    },
    Shape {
        name: "evaluated",
        title: "join, GROUP BY, float sums",
        query: "select c.region, f.kind, sum(f.weight) as s, max(f.amount) as m from facts f
            join customer c on c.id = f.customer group by c.region, f.kind",
    },
    Shape {
        name: "rows",
        title: "join, every row",
        query: "select f.id, c.region, f.amount from facts f join customer c on c.id = f.customer",
    },
];

/// Values of `pg_trickle.refresh_strategy`.
const STRATEGIES: [&str; 3] = ["auto", "differential", "full"];

/// The way not taken has to have been faster by this factor, and by [`NOTICED_MS`], for a choice to have been wrong.
const NOTICED: f64 = 1.1;
const NOTICED_MS: f64 = 1.0;

/// Refreshes of the first minute teach the cost model nothing.
const WARM_UP: Duration = Duration::from_secs(65);

/// Sizes of change, as shares of the table.
struct Workload {
    title: &'static str,
    shares: Vec<f64>,
}

fn workloads(options: &Options) -> [Workload; 2] {
    let teeth = options.amount(8, 1);
    let level = options.amount(12, 2);
    let levels = [0.01, 0.5, 0.01, 0.1];
    [
        Workload {
            title: "sawtooth",
            shares: [0.0001, 0.01, 0.05, 0.12, 0.8].repeat(teeth),
        },
        Workload {
            title: "steps",
            shares: levels
                .iter()
                .flat_map(|share| vec![*share; level])
                .collect(),
        },
    ]
}

/// What one refresh took in each way, in milliseconds, and which one AUTO took.
struct Step {
    auto: f64,
    differential: f64,
    full: f64,
    took_full: bool,
}

impl Step {
    fn best(&self) -> f64 {
        self.differential.min(self.full)
    }

    /// What the way that AUTO took has taken where it was always taken.
    fn same_way(&self) -> f64 {
        if self.took_full {
            self.full
        } else {
            self.differential
        }
    }

    fn wrong(&self) -> bool {
        self.same_way() > self.best() * NOTICED && self.same_way() > self.best() + NOTICED_MS
    }
}

pub fn run(options: &Options) -> Section {
    let mut section = Section::new("Full or differential");
    let rows = options.amount(200_000, 20_000) as i64;
    let server = server::start_with(&[("pg_trickle.enabled", "off")]);
    let mut bench = Bench::create(&server, rows);
    let started = Instant::now();
    let workloads = workloads(options);
    // As it will be used, so that there is something to learn from when the minute is over.
    while started.elapsed() < WARM_UP {
        for share in &workloads[0].shares {
            bench.step(*share);
            if options.quick {
                sleep(WARM_UP.saturating_sub(started.elapsed()) / 4);
            }
        }
    }
    let mut results = Vec::new();
    for workload in &workloads {
        eprintln!("choice: {} ..", workload.title);
        let steps: Vec<Vec<Step>> = workload
            .shares
            .iter()
            .map(|share| bench.step(*share))
            .collect();
        results.push(steps);
    }
    bench.compare();
    report(&mut section, rows, &workloads, &results);
    section
}

struct Bench {
    rows: i64,
    round: i64,
    writer: Session,
    /// One for each strategy.
    refreshers: Vec<Session>,
}

impl Bench {
    fn create(server: &Server, rows: i64) -> Self {
        let mut writer = server.connect("postgres");
        writer.exec("create database choice");
        let mut writer = server.connect("choice");
        server::without_waiting_for_disk(&mut writer);
        writer.exec(&format!(
            "create extension pg_trickle; set statement_timeout = 0;
             create table customer (id int primary key, region int not null);
             insert into customer select i, i % 25 from generate_series(0, 9999) i;
             create table facts (id bigint primary key, customer int not null, kind int not null,
                 amount numeric(15,2) not null, weight float8 not null);
             insert into facts select i, i % 10000, i % 7, i % 1000, i % 100 from generate_series(1, {rows}::bigint) i;
             create index on facts (customer); create index on customer (region)"
        ));
        writer.exec("vacuum analyze");
        let refreshers = STRATEGIES
            .iter()
            .map(|strategy| {
                let mut session = server.connect("choice");
                server::without_waiting_for_disk(&mut session);
                session.exec(&format!(
                    "set statement_timeout = 0; set pg_trickle.refresh_strategy = '{strategy}'"
                ));
                for Shape { name, query, .. } in &SHAPES {
                    session.exec(&format!(
                        "select pgtrickle.create_stream_table('{name}_{strategy}', $q${query}$q$, schedule => '1d',
                             refresh_mode => 'AUTO')"
                    ));
                }
                session
            })
            .collect();
        writer.exec("vacuum analyze");
        Self {
            rows,
            round: 0,
            writer,
            refreshers,
        }
    }

    /// Changes a share of the rows, spread over the table, and refreshes everything: one result for each shape.
    fn step(&mut self, share: f64) -> Vec<Step> {
        self.round += 1;
        let changed = (self.rows as f64 * share) as i64;
        self.writer.exec(&format!(
            "update facts set amount = amount + 1, weight = weight + 0.5
             where (id * 7919 + {} * 104729) % {} < {changed}",
            self.round, self.rows
        ));
        let mut steps = Vec::new();
        for Shape { name, .. } in &SHAPES {
            let mut times = [0.0; STRATEGIES.len()];
            for turn in 0..STRATEGIES.len() {
                let way = (turn + self.round as usize) % STRATEGIES.len();
                let call = format!(
                    "select pgtrickle.refresh_stream_table('{name}_{}')",
                    STRATEGIES[way]
                );
                let (time, ()) = timed(|| self.refreshers[way].exec(&call));
                times[way] = time.as_secs_f64() * 1000.0;
            }
            let took = self.writer.value(&format!(
                "select action || coalesce(', ' || reason, '') from pgtrickle.get_refresh_history('{name}_auto', 1)"
            ));
            let [auto, differential, full] = times;
            steps.push(Step {
                auto,
                differential,
                full,
                took_full: took.starts_with("FULL"),
            });
            if std::env::var_os("PGT_STEPS").is_some() {
                eprintln!("choice: {changed} {name}: {auto:.1} {differential:.1} {full:.1} {took}");
            }
        }
        // What autovacuum would have done by now.
        self.writer.exec("vacuum analyze");
        steps
    }

    /// All results are those of their queries, or the times mean nothing.
    fn compare(&mut self) {
        for Shape { name, .. } in &SHAPES {
            for strategy in STRATEGIES {
                let ok = self.writer.value(&format!(
                    "select ok from pgtrickle.verify_stream_table('{name}_{strategy}')"
                ));
                assert!(ok == "t", "{name}_{strategy} differs from its query");
            }
        }
    }
}

fn report(section: &mut Section, rows: i64, workloads: &[Workload], results: &[Vec<Vec<Step>>]) {
    section.text(format!(
        "A table of {rows} rows is updated, a share of its rows at a time, and three stream tables of the same query are refreshed
one after the other, in alternating order: with `pg_trickle.refresh_strategy` `auto`, `differential` and `full`. The *sawtooth*
changes 0.01, 1, 5, 12 and 80 percent in turn; the *steps* 1, 50, 1 and 10 percent, each for a while. Total milliseconds of
all refreshes, as a client sees them, after a first minute from which the cost model takes nothing; *best* is the sum of the faster
of the two fixed ways at each refresh. The *slower way* was taken where the other one was faster by more than {:.0} % and {NOTICED_MS} ms at
that refresh; *lost by these* is how much slower it was. All results were compared with their queries afterwards.",
        (NOTICED - 1.0) * 100.0
    ));
    let mut table = Vec::new();
    let mut goals = Vec::new();
    for (workload, steps) in workloads.iter().zip(results) {
        for (number_of_shape, shape) in SHAPES.iter().enumerate() {
            let steps: Vec<&Step> = steps.iter().map(|step| &step[number_of_shape]).collect();
            let sum =
                |value: &dyn Fn(&Step) -> f64| steps.iter().map(|step| value(step)).sum::<f64>();
            let (auto, best) = (sum(&|step| step.auto), sum(&Step::best));
            let (differential, full) = (sum(&|step| step.differential), sum(&|step| step.full));
            let wrong = steps.iter().filter(|step| step.wrong()).count();
            let lost = steps
                .iter()
                .filter(|step| step.wrong())
                .map(|step| step.same_way() - step.best())
                .fold(0.0, |sum, lost| sum + lost);
            let title = format!("{}; {}", shape.title, workload.title);
            table.push(vec![
                title.clone(),
                steps.len().to_string(),
                steps
                    .iter()
                    .filter(|step| step.took_full)
                    .count()
                    .to_string(),
                number(auto),
                number(differential),
                number(full),
                number(best),
                wrong.to_string(),
                number(lost),
            ]);
            goals.push(Goal::at_most(
                format!("{title}: auto beside the better fixed way"),
                1.1,
                auto / differential.min(full),
                "x",
            ));
            goals.push(Goal::at_most(
                format!("{title}: lost, of the best"),
                0.1,
                lost / best,
                "x",
            ));
        }
    }
    section.table(
        &[
            "query; changes",
            "refreshes",
            "auto: full",
            "auto",
            "always differential",
            "always full",
            "best",
            "slower way taken",
            "lost by these",
        ],
        &table,
    );
    for goal in goals {
        section.goal(goal);
    }
}
