//! Retry: 1 s, doubling to 60 s, with jitter.

/// Milliseconds to wait after `failures` (from 1) in a row. `jitter` in [0, 1) spreads stream tables that failed together
/// over the last quarter of the delay.
pub fn retry_delay_ms(failures: u32, jitter: f64) -> u64 {
    let exponent = failures.saturating_sub(1).min(6);
    let delay = (1_000u64 << exponent).min(60_000) as f64;
    (delay * (0.75 + 0.25 * jitter.clamp(0.0, 1.0))) as u64
}

#[cfg(test)]
mod tests {
    use super::retry_delay_ms;

    #[test]
    fn doubles_to_a_minute() {
        assert_eq!(retry_delay_ms(1, 1.0), 1_000);
        assert_eq!(retry_delay_ms(2, 1.0), 2_000);
        assert_eq!(retry_delay_ms(6, 1.0), 32_000);
        assert_eq!(retry_delay_ms(7, 1.0), 60_000);
        assert_eq!(retry_delay_ms(1_000, 1.0), 60_000);
        assert_eq!(retry_delay_ms(1, 0.0), 750);
    }
}
