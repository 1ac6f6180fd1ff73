//! Which functions that are not immutable an incremental query may call.
//!
//! A stable function of PostgreSQL whose value depends only on its arguments and on settings is fine, because a refresh
//! pins those settings. One that looks at the clock, the session or the catalog is not: its old values cannot be
//! reproduced. Functions of others that are only STABLE may read tables.

use std::collections::BTreeSet;

use super::NotIncremental;
use crate::pg::node::MutableFunction;
use crate::pg::session::Kept;

/// Built-in stable functions that depend on nothing but their arguments and pinned settings.
const SETTINGS_ONLY: &[&str] = &[
    "array_in",
    "array_out",
    "array_recv",
    "array_send",
    "array_to_json",
    "array_to_string",
    "bit_in",
    "cash_in",
    "cash_out",
    "concat",
    "concat_ws",
    "convert",
    "convert_from",
    "convert_to",
    "date_in",
    "date_out",
    "date_trunc",
    "domain_in",
    "enum_in",
    "enum_out",
    "enum_range",
    "enum_first",
    "enum_last",
    "extract",
    "date_part",
    "format",
    "generate_series",
    "in_range",
    "interval_in",
    "interval_out",
    "interval_pl_timestamptz",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "json_populate_record",
    "jsonb_populate_record",
    "jsonb_populate_record_valid",
    "json_populate_recordset",
    "jsonb_populate_recordset",
    "length",
    "json_to_record",
    "jsonb_to_record",
    "json_to_recordset",
    "jsonb_to_recordset",
    "make_timestamptz",
    "money",
    "multirange_in",
    "multirange_out",
    "numeric",
    "overlaps",
    "quote_literal",
    "quote_nullable",
    "range_in",
    "range_out",
    "record_in",
    "record_out",
    "row_to_json",
    "string_to_array",
    "time_in",
    "timestamp",
    "timestamp_cmp_timestamptz",
    "timestamp_eq_timestamptz",
    "timestamp_ge_timestamptz",
    "timestamp_gt_timestamptz",
    "timestamp_le_timestamptz",
    "timestamp_lt_timestamptz",
    "timestamp_ne_timestamptz",
    "date_cmp_timestamptz",
    "date_eq_timestamptz",
    "date_ge_timestamptz",
    "date_gt_timestamptz",
    "date_le_timestamptz",
    "date_lt_timestamptz",
    "date_ne_timestamptz",
    "timestamptz_cmp_date",
    "timestamptz_eq_date",
    "timestamptz_ge_date",
    "timestamptz_gt_date",
    "timestamptz_le_date",
    "timestamptz_lt_date",
    "timestamptz_ne_date",
    "timestamptz_cmp_timestamp",
    "timestamptz_eq_timestamp",
    "timestamptz_ge_timestamp",
    "timestamptz_gt_timestamp",
    "timestamptz_le_timestamp",
    "timestamptz_lt_timestamp",
    "timestamptz_ne_timestamp",
    "timestamp_in",
    "timestamp_out",
    "timestamptz",
    "timestamptz_in",
    "timestamptz_mi_interval",
    "timestamptz_out",
    "timestamptz_pl_interval",
    "date",
    "time",
    "timetz",
    "timetz_in",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "xml",
    "xml_in",
    "xml_is_well_formed",
    "xmlconcat2",
    "date_add",
    "date_subtract",
    "float4in",
    "jsonb_path_exists_tz",
    "jsonb_path_match_tz",
    "jsonb_path_query_array_tz",
    "jsonb_path_query_first_tz",
    "jsonb_path_query_tz",
    "textanycat",
    "anytextcat",
    "int4_cash",
    "numeric_cash",
    "cash_numeric",
    "int8_cash",
];

/// Built-in functions that look at the default text search configuration, and at nothing else besides their arguments.
const TEXT_SEARCH: &[&str] = &[
    "get_current_ts_config",
    "json_to_tsvector",
    "jsonb_to_tsvector",
    "phraseto_tsquery",
    "plainto_tsquery",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "ts_match_tq",
    "ts_match_tt",
    "websearch_to_tsquery",
];

/// Whether the functions' results are those they had for an earlier state of the sources, the clock aside: where it may
/// stand is decided when the expression is read.
pub(super) fn check(
    functions: &BTreeSet<MutableFunction>,
    settings: &Kept,
) -> Result<(), NotIncremental> {
    for function in functions.iter().filter(|function| !function.clock) {
        if function.volatile {
            return Err(NotIncremental::new(
                format!("function {} is volatile", function.name),
                "A volatile function gives another result each time; only a full refresh evaluates it again.",
            ));
        }
        if !function.builtin {
            return Err(NotIncremental::new(
                format!("function {} is only declared STABLE", function.name),
                "A stable function may read tables whose changes are not followed. Declare it IMMUTABLE if it does not.",
            ));
        }
        let name = function.name.as_str();
        if TEXT_SEARCH.contains(&name) {
            if !settings.has_text_search() {
                return Err(NotIncremental::new(
                    format!(
                        "function {name} uses a default text search configuration that can be altered"
                    ),
                    "Name the configuration in the call.",
                ));
            }
            continue;
        }
        if !SETTINGS_ONLY.contains(&name) {
            return Err(NotIncremental::new(
                format!(
                    "function {} depends on the session or on the current time",
                    function.name
                ),
                "Its value for an earlier state of the sources cannot be reproduced.",
            ));
        }
    }
    Ok(())
}
