//! Random cases until the time is up: `PGT_RANDOM_SECONDS` (each of the two tests takes that long), seeds from 1 on, or
//! from `PGT_RANDOM_SEED=17..`, or the one case of `PGT_RANDOM_SEED=17`.

use pgt_tests::Server;
use pgt_tests::random::{Case, Failure, Grammar, minimize, replay, replay_concurrently};
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
    let default = if env::var_os("CI").is_some() { 180 } else { 30 };
    Duration::from_secs(env::var(NAME).map_or(default, |text| number(NAME, &text)))
}

fn run(
    test: &str,
    first: u64,
    carry_out: &dyn Fn(&Case) -> Result<(), Failure>,
    reproducible: bool,
) {
    let (mut seed, only) = seeds(first);
    let end = Instant::now() + time();
    let mut cases = 0;
    while cases == 0 || !only && Instant::now() < end {
        // Every third case is about being right at all, the others about being right incrementally.
        let grammar = if seed % 3 == 0 {
            Grammar::everything()
        } else {
            Grammar::incremental()
        };
        let case = Case::random(seed, &grammar);
        if let Err(failure) = carry_out(&case) {
            let small = Duration::from_secs(if reproducible { 90 } else { 0 });
            let (case, failure) = minimize(&case, failure, small, carry_out);
            panic!(
                "seed {seed} fails: {failure}\n\nreproduce with\n  PGT_RANDOM_SEED={seed} cargo nextest run -p pgt_tests --test random {test}\n\n{}",
                case.script()
            );
        }
        seed += 1;
        cases += 1;
    }
    println!("{cases} cases, seeds {} to {}", seed - cases, seed - 1);
}

/// One thread drives all sessions, so that a seed always gives the same order of events.
#[test]
fn interleaved_writers() {
    run(
        "interleaved_writers",
        1,
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
        &|case| replay_concurrently(Server::shared(), case),
        false,
    );
}
