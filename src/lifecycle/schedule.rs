//! Schedules as the user writes them.

use pgt_ivm::schedule::Schedule;

use crate::config;
use crate::error::{Error, Kind, Result};

/// Fails for a schedule that cannot be understood or is shorter than allowed.
pub fn check_schedule(text: &str) -> Result<()> {
    let schedule = Schedule::parse(text).map_err(|problem| {
        Error::new(Kind::InvalidArgument, format!("invalid schedule \"{text}\""))
            .detail(format!("{problem}."))
            .hint("Use a duration such as '500ms' or '1h30m', a cron expression, 'calculated' or 'continuous'.")
    })?;
    if let Schedule::Every(milliseconds) = schedule
        && milliseconds < config::min_schedule_ms()
    {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!("schedule \"{text}\" is too short"),
        )
        .detail(format!(
            "The shortest interval is {} ms.",
            config::min_schedule_ms()
        ))
        .hint("Raise it, use 'continuous', or lower pg_trickle.min_schedule_ms."));
    }
    Ok(())
}
