//! Decisions with the clock as an argument.
