//! A small SQL syntax tree, its lowering from `Rel`, and the one writer of dynamic SQL text.
//!
//! Precision beats beauty here: every identifier is quoted, every function and operator is schema-qualified.

pub mod ast;
mod changes;
mod inner_change;
mod join_change;
mod joins;
mod lower;
mod partition;
mod write;

pub use changes::{Form, delta_table};
pub use lower::{
    Lowered, SourceTable, Sources, delta_name, fill, group_key, image, image_hash, log_column,
    lower, lower_touched, param, row_hash, scalar, union_all,
};
pub use partition::{order_by, sorted};
pub use write::{plain_identifier, quote_identifier, quote_literal};
