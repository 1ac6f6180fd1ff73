//! What can be derived from a tree, bottom-up, without changing it.

mod keys;

pub use keys::{apart, determines, keys, matches_at_most_one, minimal_key};
