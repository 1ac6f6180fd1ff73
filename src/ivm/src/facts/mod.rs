//! What can be derived from a tree, bottom-up, without changing it.

mod keys;
mod picked;

pub use keys::{apart, determines, is_one_row, keys, matches_at_most_one, minimal_key};
pub use picked::picked;
