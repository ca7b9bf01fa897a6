//! Times as an operator types them.

use std::time::Duration;

/// `500ms`, `20s`, `5m`, `12h`, `30d`: a whole number with its unit, more than nothing.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let milliseconds: Option<u64> = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let time = milliseconds.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    time.filter(|time| *time > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "a whole number with its unit is wanted, such as 500ms, 20s, 5m, 12h or 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_is_not_nothing() {
        for (text, seconds) in [("20s", 20), ("5m", 300), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "20", "0s", "-1s", "1.5s", "s", "1w", "99999999999999999999d", "999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
