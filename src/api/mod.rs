//! SQL functions: parse arguments, call, map errors. One file per verb.

mod alter;
mod change_log;
mod coordination;
mod create;
mod drop;
mod explain;
mod refresh;
mod repair;
mod status;
mod validate;
mod verify;
