//! Defining, altering and dropping stream tables.

mod alter;
mod altered;
mod create;
mod dropped;
mod groups;
mod indexes;
mod names;
mod probe;
mod rebuild;
mod schedule;
mod storage;

pub use alter::{Changes, alter};
pub use altered::{refuse_rewrite, source_reshaped, stream_table_added_to, stream_table_altered};
pub use create::{Definition, create, creation_name};
pub use dropped::{drop_stream_table, forget_dropped};
pub use groups::{
    advance_watermark, create_refresh_group, create_watermark_group, drop_refresh_group,
    drop_watermark_group, gate, ungate,
};
pub use names::require_owner;
pub use probe::{QueryComparison, analyze_text, compare_query};
pub use rebuild::{ensure_ready, is_being_restored};
pub use schedule::check_schedule;
