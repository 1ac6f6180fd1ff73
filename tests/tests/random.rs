//! Random cases until the time is up: `PGT_RANDOM_SECONDS` (each of the two tests takes that long), seeds from 1 on, or
//! the one case of `PGT_RANDOM_SEED`.

use pgt_tests::Server;
use pgt_tests::random::{Case, Failure, Grammar, minimize, replay, replay_concurrently};
use std::env;
use std::time::{Duration, Instant};

fn number(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn run(
    test: &str,
    first: u64,
    carry_out: &dyn Fn(&Case) -> Result<(), Failure>,
    reproducible: bool,
) {
    let only = number("PGT_RANDOM_SEED");
    let seconds =
        number("PGT_RANDOM_SECONDS").unwrap_or(if env::var_os("CI").is_some() { 180 } else { 30 });
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = only.unwrap_or(first);
    let mut cases = 0;
    while cases == 0 || only.is_none() && Instant::now() < end {
        let case = Case::random(seed, &Grammar::incremental());
        if let Err(failure) = carry_out(&case) {
            let (case, failure) = if reproducible {
                minimize(&case, failure, Duration::from_secs(90), carry_out)
            } else {
                (case, failure)
            };
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
