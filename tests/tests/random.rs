//! Random cases until the time is up: `PGT_RANDOM_SECONDS` (each of the tests takes that long), seeds from 1 on, or
//! from `PGT_RANDOM_SEED=17..`, or the one case of `PGT_RANDOM_SEED=17`.

use pgt_tests::Server;
use pgt_tests::random::{Case, Failure, Kind, Tally, minimize, replay, replay_concurrently};
use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

fn number(name: &str, text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
}

/// The first seed, and whether it is the only one.
fn seeds(first: u64) -> (u64, bool) {
    const NAME: &str = "PGT_RANDOM_SEED";
    match env::var(NAME) {
        Err(_) => (first, false),
        Ok(text) => match text.strip_suffix("..") {
            Some(from) => (number(NAME, from), false),
            None => (number(NAME, &text), true),
        },
    }
}

fn time() -> Duration {
    const NAME: &str = "PGT_RANDOM_SECONDS";
    let default = if env::var_os("CI").is_some() { 150 } else { 30 };
    Duration::from_secs(env::var(NAME).map_or(default, |text| number(NAME, &text)))
}

/// How many failures end a run.
fn failures() -> usize {
    const NAME: &str = "PGT_RANDOM_FAILURES";
    env::var(NAME).map_or(1, |text| number(NAME, &text) as usize)
}

fn run(
    test: &str,
    first: u64,
    make: fn(u64) -> Case,
    carry_out: &dyn Fn(&Case) -> Result<Tally, Failure>,
    reproducible: bool,
) {
    let (mut seed, only) = seeds(first);
    let end = Instant::now() + time();
    let mut cases = 0;
    let mut sum = Sum::default();
    let (mut failed, allowed) = (Vec::new(), failures());
    while cases == 0 || !only && Instant::now() < end {
        let case = make(seed);
        match carry_out(&case) {
            Ok(tally) => {
                let known = sum.refused.len();
                let refused = tally.refused.clone();
                sum.add(tally);
                if allowed > 1 && sum.refused.len() > known {
                    for (reason, _) in refused {
                        sum.simplify(&case, &reason, carry_out);
                    }
                }
            }
            Err(failure) => {
                let small = Duration::from_secs(if reproducible { 90 } else { 0 });
                let (case, failure) = minimize(&case, failure, small, carry_out);
                println!(
                    "seed {seed} fails: {failure}\n\nreproduce with\n  PGT_RANDOM_SEED={seed} cargo nextest run -p pgt_tests --test random {test}\n"
                );
                if failure.kind != Kind::Invalid {
                    println!("{}\n", case.script());
                }
                failed.push(seed);
                if failed.len() >= allowed {
                    break;
                }
            }
        }
        seed += 1;
        cases += 1;
    }
    sum.print(cases, seed);
    assert!(
        failed.is_empty(),
        "failing seeds, as told above: {failed:?}"
    );
}

/// What became of all stream tables.
#[derive(Default)]
struct Sum {
    created: usize,
    skipped: usize,
    slow: usize,
    idle: usize,
    tied: usize,
    /// How often, by reason, and the shortest query.
    refused: BTreeMap<String, (usize, String)>,
}

impl Sum {
    fn add(&mut self, tally: Tally) {
        self.created += tally.created;
        self.skipped += tally.skipped;
        self.slow += tally.slow;
        self.idle += tally.idle;
        self.tied += tally.tied;
        for (reason, query) in tally.refused {
            let (count, shortest) = self.refused.entry(reason).or_default();
            *count += 1;
            if shortest.is_empty() || query.len() < shortest.len() {
                *shortest = query;
            }
        }
    }

    /// Looks for a simpler query that is refused for the same reason as one of the case.
    fn simplify(
        &mut self,
        case: &Case,
        reason: &str,
        carry_out: &dyn Fn(&Case) -> Result<Tally, Failure>,
    ) {
        let refuse = |case: &Case| {
            let tally = carry_out(case)?;
            match tally.refused.iter().find(|(r, _)| r == reason) {
                None => Ok(tally),
                Some((reason, query)) => Err(Failure {
                    kind: Kind::Refused(reason.clone()),
                    text: query.clone(),
                }),
            }
        };
        let mut case = case.clone();
        case.events.clear();
        if let Err(failure) = refuse(&case)
            && let Some((_, shortest)) = self.refused.get_mut(reason)
        {
            *shortest = minimize(&case, failure, Duration::from_secs(20), &refuse)
                .1
                .text;
        }
    }

    fn print(&self, cases: u64, next: u64) {
        let refused: usize = self.refused.values().map(|(count, _)| count).sum();
        println!(
            "{cases} cases, seeds {} to {}: {} stream tables, {} more left out, {} left alone as too slow, {refused} not incremental, {} never changed by a delta, {} with ties",
            next - cases,
            next - 1,
            self.created,
            self.skipped,
            self.slow,
            self.idle,
            self.tied
        );
        for (reason, (count, query)) in &self.refused {
            println!("{count} times {reason}\n    as in {query}");
        }
    }
}

/// One thread drives all sessions, so that a seed always gives the same order of events.
#[test]
fn interleaved_writers() {
    run(
        "interleaved_writers",
        1,
        Case::random,
        &|case| replay(Server::shared(), case, ""),
        true,
    );
}

/// Rows are ordered by less than what tells them apart, under AUTO: where equal rows do not decide, the contents are those of
/// the query.
#[test]
fn equal_rows() {
    run(
        "equal_rows",
        2_000_001,
        Case::open,
        &|case| replay(Server::shared(), case, ""),
        true,
    );
}

/// Writers run freely and the scheduler refreshes by itself.
#[test]
fn free_writers_with_the_scheduler() {
    run(
        "free_writers_with_the_scheduler",
        1_000_001,
        Case::random,
        &|case| replay_concurrently(Server::shared(), case),
        false,
    );
}
