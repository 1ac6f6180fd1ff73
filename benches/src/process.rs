//! CPU time of other processes.

use std::fs;

/// CPU time that process `pid` has used, user and system, in seconds; none if it is gone.
///
/// From the scheduler's own accounting (nanoseconds), which is exact while the process sleeps.
pub fn cpu_seconds(pid: i32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

/// CPU time that `work` costs process `pid`, in seconds.
pub fn cpu_of<R>(pid: i32, work: impl FnOnce() -> R) -> (f64, R) {
    let before = cpu_seconds(pid);
    let result = work();
    let used = before
        .zip(cpu_seconds(pid))
        .map_or(f64::NAN, |(before, after)| after - before);
    (used, result)
}
