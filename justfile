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

# the benchmarks of docs/BENCHMARKS.md
bench *args:
    scripts/bench {{args}}

# random queries and changes until stopped
soak *args:
    scripts/soak {{args}}

# accept the present output of the golden tests
bless:
    scripts/bless

# format the code
fmt:
    cargo fmt --all

# formatting and clippy, as CI runs them
lint:
    scripts/test lint

# links and names in the documentation
docs:
    scripts/test docs
