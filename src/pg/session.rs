//! Whose rights and which settings code runs with.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use super::spi::{self, Value};

/// Where names are looked up that our own code did not qualify.
const INTERNAL_PATH: &str = "pg_catalog, pg_temp";

/// Rights and settings as they were, restored when dropped.
///
/// After an error PostgreSQL itself restores both at the end of the (sub)transaction.
pub struct Scope {
    user: pg_sys::Oid,
    context: i32,
    nest_level: i32,
}

impl Scope {
    fn enter(user: pg_sys::Oid, flags: u32) -> Scope {
        let mut saved_user = pg_sys::InvalidOid;
        let mut saved_context = 0;
        // SAFETY: plain getters and setters of session state; restored in drop.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut saved_user, &raw mut saved_context);
            pg_sys::SetUserIdAndSecContext(user, saved_context | flags as i32);
            Scope {
                user: saved_user,
                context: saved_context,
                nest_level: pg_sys::NewGUCNestLevel(),
            }
        }
    }

    /// Internal work on our own objects, with the rights of the bootstrap superuser.
    pub fn internal() -> Scope {
        let scope = Scope::enter(
            pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID),
            pg_sys::SECURITY_LOCAL_USERID_CHANGE,
        );
        set("search_path", INTERNAL_PATH);
        scope
    }

    /// As [`Scope::internal`], but names are resolved as the caller would.
    pub fn internal_with_callers_path() -> Scope {
        Scope::enter(
            pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID),
            pg_sys::SECURITY_LOCAL_USERID_CHANGE,
        )
    }

    /// The work of a refresh: the rights of `owner`, no way to change session state, pinned settings.
    pub fn restricted(owner: pg_sys::Oid, kept: &Kept) -> Scope {
        let scope = Scope::enter(owner, pg_sys::SECURITY_RESTRICTED_OPERATION);
        pin(kept);
        scope
    }

    /// The current user, with the settings of a refresh pinned.
    pub fn pinned(kept: &Kept) -> Scope {
        let scope = Scope::enter(current_user(), 0);
        pin(kept);
        scope
    }

    /// The current user's rights and settings; whatever is set inside is undone.
    pub fn settings() -> Scope {
        Scope::enter(current_user(), 0)
    }
}

/// Settings whose value at its creation a stream table keeps: what times, money and numbers mean as text.
const KEPT: [&str; 5] = [
    "TimeZone",
    "timezone_abbreviations",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
];

/// Kept too, where it names a configuration that comes with PostgreSQL: nobody can alter or drop that.
const TEXT_SEARCH: &str = "default_text_search_config";

/// The settings that a stream table keeps from its creation: a line `name=value` for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept(String);

impl Kept {
    /// Those of the session.
    pub fn current() -> Kept {
        let mut lines: Vec<String> = KEPT
            .iter()
            .filter_map(|name| Some(format!("{name}={}", get(name)?)))
            .collect();
        lines.extend(text_search_configuration().map(|name| format!("{TEXT_SEARCH}={name}")));
        Kept(lines.join("\n"))
    }

    pub fn from_lines(lines: String) -> Kept {
        Kept(lines)
    }

    pub fn lines(&self) -> &str {
        &self.0
    }

    /// What text search means without a named configuration is among them.
    pub fn has_text_search(&self) -> bool {
        self.settings().any(|(name, _)| name == TEXT_SEARCH)
    }

    fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.split_once('='))
    }
}

/// The default text search configuration, if it comes with PostgreSQL.
fn text_search_configuration() -> Option<String> {
    // SAFETY: catalog lookup by the setting, which does not fail.
    let oid = unsafe { pg_sys::getTSCurrentConfig(false) };
    if oid == pg_sys::InvalidOid || oid.to_u32() >= pg_sys::FirstNormalObjectId {
        return None;
    }
    let row = spi::first(
        "SELECT n.nspname, c.cfgname FROM pg_catalog.pg_ts_config c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.cfgnamespace WHERE c.oid = $1",
        &[Value::Oid(oid)],
    )?;
    let plain = |column| pgt_ivm::sql::plain_identifier(&row.text(column));
    Some(format!("{}.{}", plain(0), plain(1)))
}

/// The text of a setting.
fn get(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: the text is copied before anything else can replace it.
    unsafe {
        let current = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!current.is_null()).then(|| CStr::from_ptr(current).to_string_lossy().into_owned())
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: undoes what `enter` did.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.nest_level);
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

unsafe extern "C" {
    /// utils/bytea.h
    static bytea_output: std::ffi::c_int;
    /// utils/xml.h
    static xmloption: std::ffi::c_int;
    static xmlbinary: std::ffi::c_int;
}

const BYTEA_OUTPUT_HEX: std::ffi::c_int = 1;
const XMLOPTION_CONTENT: std::ffi::c_int = 1;
const XMLBINARY_BASE64: std::ffi::c_int = 0;

/// Everything the text of expressions and values depends on, as pg_dump pins it, and what makes plans predictable. Each
/// refresh asks whether it is so already, which is quicker of the variables behind the settings than of their texts.
fn pin(kept: &Kept) {
    // SAFETY: variables of this process; strings are set to something before any statement runs.
    let settings = unsafe {
        [
            (
                "search_path",
                INTERNAL_PATH,
                CStr::from_ptr(pg_sys::namespace_search_path).to_bytes()
                    == INTERNAL_PATH.as_bytes(),
            ),
            (
                "datestyle",
                "ISO, MDY",
                pg_sys::DateStyle == pg_sys::USE_ISO_DATES as i32
                    && pg_sys::DateOrder == pg_sys::DATEORDER_MDY as i32,
            ),
            (
                "intervalstyle",
                "postgres",
                pg_sys::IntervalStyle == pg_sys::INTSTYLE_POSTGRES as i32,
            ),
            ("extra_float_digits", "1", pg_sys::extra_float_digits == 1),
            ("bytea_output", "hex", bytea_output == BYTEA_OUTPUT_HEX),
            ("xmloption", "content", xmloption == XMLOPTION_CONTENT),
            ("xmlbinary", "base64", xmlbinary == XMLBINARY_BASE64),
            (
                "quote_all_identifiers",
                "off",
                !pg_sys::quote_all_identifiers,
            ),
            (
                "standard_conforming_strings",
                "on",
                pg_sys::standard_conforming_strings,
            ),
            ("array_nulls", "on", pg_sys::Array_nulls),
            (
                "transform_null_equals",
                "off",
                !pg_sys::Transform_null_equals,
            ),
            (
                "gin_fuzzy_search_limit",
                "0",
                pg_sys::GinFuzzySearchLimit == 0,
            ),
            ("jit", "off", !pg_sys::jit_enabled),
            ("row_security", "on", pg_sys::row_security),
        ]
    };
    for (name, value, holds) in settings {
        if !holds {
            set(name, value);
        }
    }
    for (name, value) in kept.settings() {
        set(name, value);
    }
}

/// Sets a setting until the enclosing [`Scope`] ends.
pub fn set(name: &str, value: &str) {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
        return;
    };
    // SAFETY: the text is compared before anything else can replace it.
    let same = unsafe {
        let current = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        !current.is_null() && CStr::from_ptr(current) == value.as_c_str()
    };
    if same {
        return;
    }
    // SAFETY: GUC_ACTION_SAVE ties the value to the nest level opened by the scope.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

pub fn current_user() -> pg_sys::Oid {
    // SAFETY: session state.
    unsafe { pg_sys::GetUserId() }
}

/// The current user has the rights of `role`.
pub fn has_privileges_of(role: pg_sys::Oid) -> bool {
    // SAFETY: catalog lookup.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// The current user owns this database.
pub fn owns_database() -> bool {
    // SAFETY: catalog lookup.
    unsafe {
        pg_sys::object_ownercheck(
            pg_sys::DatabaseRelationId,
            pg_sys::MyDatabaseId,
            pg_sys::GetUserId(),
        )
    }
}

/// Sets a setting for the rest of the session.
pub fn set_for_session(name: &str, value: &str) {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
        return;
    };
    // SAFETY: as `SET` does it.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}
