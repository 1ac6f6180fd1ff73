//! Whose rights and which settings code runs with.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

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
    pub fn restricted(owner: pg_sys::Oid, timezone: &str) -> Scope {
        let scope = Scope::enter(owner, pg_sys::SECURITY_RESTRICTED_OPERATION);
        pin(timezone);
        scope
    }

    /// The current user, with the settings of a refresh pinned.
    pub fn pinned(timezone: &str) -> Scope {
        let scope = Scope::enter(current_user(), 0);
        pin(timezone);
        scope
    }

    /// The current user's rights and settings; whatever is set inside is undone.
    pub fn settings() -> Scope {
        Scope::enter(current_user(), 0)
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
fn pin(timezone: &str) {
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
            (
                "timezone",
                timezone,
                CStr::from_ptr(pg_sys::pg_get_timezone_name(pg_sys::session_timezone)).to_bytes()
                    == timezone.as_bytes(),
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
