//! SQL functions: parse arguments, call, map errors. One file per verb.

mod create;
mod drop;
mod refresh;
mod verify;
