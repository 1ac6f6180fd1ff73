//! What should be done, as values: relational trees, deltas, apply plans and the SQL that carries them out.
//!
//! The corridor through this crate, each arrow a room:
//!
//! ```text
//! Rel --rewrite--> Rel + stages --delta--> terms --apply--> Statement --sql--> text
//! ```
//!
//! Nothing here knows PostgreSQL's headers, opens a connection or looks at a clock. `rel` and `scalar` say what a
//! defining query means, `facts` what can be derived from it, `delta` how a change of the sources becomes a change of
//! the result, `apply` which stored rows go, come or change, and `sql` is the only maker of SQL text.
#![forbid(unsafe_code)]

pub mod apply;
pub mod delta;
pub mod facts;
pub mod graph;
pub mod rel;
pub mod rewrite;
pub mod scalar;
pub mod schedule;
pub mod sql;
