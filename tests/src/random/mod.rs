//! Random schemas, queries and changes, against the query itself as the oracle.
//!
//! A [`Case`] is a value made from a seed alone: tables, stream tables and a list of [`Event`]s, each a statement of one
//! of several sessions, a refresh, or a check. [`replay`] carries it out; [`minimize`](minimize::minimize) makes a
//! failing one small. Errors are avoided by construction in queries (no division by zero, no overflow), so that an error
//! of a refresh is a failure like a wrong row.

mod case;
mod changes;
mod expression;
mod groups;
mod inputs;
mod minimize;
mod queries;
mod query;
mod replay;
mod schema;
mod subselects;

pub use case::{Case, Event};
pub use minimize::minimize;
pub use replay::{Failure, Kind, Tally, replay, replay_concurrently};
