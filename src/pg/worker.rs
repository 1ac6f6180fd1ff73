//! Background workers.

use pgrx::pg_sys;

/// The library is being loaded by shared_preload_libraries.
pub fn preloading() -> bool {
    // SAFETY: a process global.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Keeps stack traces out of error details, whatever environment the server was started in.
pub fn no_backtraces() {
    // SAFETY: called while the library is loaded, when the process has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") }
}
