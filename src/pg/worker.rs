//! Background workers.

use pgrx::pg_sys;

/// The library is being loaded by shared_preload_libraries.
pub fn preloading() -> bool {
    // SAFETY: a process global.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}
