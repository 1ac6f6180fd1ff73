# Shorthands for the scripts; nothing here does work of its own.

# list the recipes
default:
    @just --list --unsorted

# compilers, PostgreSQL 18, Rust: only what is missing
setup:
    scripts/setup

# build and stage the extension (dev or release)
build profile="release":
    scripts/build {{profile}}

# everything that CI runs
test:
    scripts/test

# the tests that need no PostgreSQL
test-pure:
    scripts/test pure

# the tests against private servers
test-server:
    scripts/test build server

# TPC-H data, stream tables, a writer, a live view
demo *args:
    scripts/demo {{args}}

# one benchmark (refresh, capture, latency, idle, scheduler, tpch) or all of them
bench which="all" *args:
    scripts/build release
    . target/pgt/env && cargo run --release -p pgt_benches --bin {{which}} -- {{args}}

# random schemas, queries and changes for so many seconds, seeds never used before; goes on after failures
soak seconds="3600":
    scripts/build release
    . target/pgt/env && PGT_RANDOM_SECONDS={{seconds}} PGT_RANDOM_SEED="${PGT_RANDOM_SEED:-$(date +%s)000..}" PGT_RANDOM_FAILURES=20 \
        cargo nextest run --no-fail-fast --success-output final -p pgt_tests --test random

# definitions that change at random beside writers and refreshes, for so many seconds
storm seconds="300":
    scripts/build release
    . target/pgt/env && PGT_STORM_SECONDS={{seconds}} PGT_STORM_SEED="${PGT_STORM_SEED:-$(date +%s)000..}" \
        cargo nextest run --no-fail-fast --success-output final -p pgt_tests --test storm

# the 22 queries of TPC-H against changing data, at a larger scale than the tests
tpch scale="0.1":
    scripts/build release
    . target/pgt/env && PGT_TPCH_SF={{scale}} cargo nextest run --no-fail-fast -p pgt_tests --test tpch

# accept the present output as the golden one, then review the diff
bless:
    . target/pgt/env && PGT_BLESS=1 cargo nextest run -p pgt_ivm
    . target/pgt/env && PGT_BLESS=1 cargo nextest run -p pgt_tests --test configuration

# format the code
fmt:
    cargo fmt --all

# formatting and clippy, as CI runs them
lint:
    scripts/test lint

# links and names in the documentation
docs:
    scripts/test docs
