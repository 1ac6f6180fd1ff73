//! Durations: `<n>{ms|s|m|h|d|w}`, compounds allowed.

use super::Invalid;

/// Milliseconds; at least one.
pub(super) fn parse(text: &str) -> Result<u64, Invalid> {
    let wrong = |what: &str| Invalid::Duration(format!("{what} in \"{text}\""));
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(wrong("a number is missing"));
        }
        let number: u64 = rest[..digits]
            .parse()
            .map_err(|_| wrong("a number is too large"))?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "" => return Err(wrong("a unit (ms, s, m, h, d, w) is missing")),
            _ => return Err(wrong("an unknown unit")),
        };
        rest = &rest[letters..];
        total = number
            .checked_mul(unit)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= i64::MAX as u64 / 4)
            .ok_or_else(|| wrong("a number is too large"))?;
    }
    if total == 0 {
        Err(wrong("a duration of zero"))
    } else {
        Ok(total)
    }
}
