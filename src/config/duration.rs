//! Durations as people write them: `500ms`, `30s`, `1m`, `2h`, `7d`, and several in a row, `1h30m`.

/// Units from the longest, with their milliseconds. `m` is minutes; there are no months.
const UNITS: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The longest duration, in milliseconds: a hundred years. Sums with times stay far from overflow.
pub const DURATION_MAX_MS: i64 = 36_500 * 86_400_000;

/// Reads a duration as milliseconds.
///
/// # Errors
/// Why it cannot be read, for a message.
pub fn parse(text: &str) -> Result<i64, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut total: i64 = 0;
    let mut shortest = i64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return Err(format!("a number is expected at `{rest}`"));
        }
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        if unit.is_empty() {
            return Err(if after.is_empty() { format!("`{number}` has no unit") } else { format!("`{}` is no unit", after.trim()) });
        }
        let Some((_, ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` is no unit"));
        };
        if *ms >= shortest {
            return Err(format!("`{unit}` comes after a unit that is not longer"));
        }
        shortest = *ms;
        let part = number.parse::<i64>().ok().and_then(|number| number.checked_mul(*ms));
        total =
            part.and_then(|part| total.checked_add(part)).filter(|total| *total <= DURATION_MAX_MS).ok_or("it is longer than 100 years")?;
        rest = after;
    }
    Ok(total)
}

/// A duration as [`parse`] reads it: `1h30m`. Zero is `0s`.
pub fn show(mut ms: i64) -> String {
    let mut text = String::new();
    for (unit, size) in UNITS {
        if ms >= size {
            text.push_str(&format!("{}{unit}", ms / size));
            ms %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_durations() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("1m", 60_000), ("2h", 7_200_000), ("7d", 604_800_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(parse(text), Ok(ms), "{text}");
            assert_eq!(show(ms), text);
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in ["", "5", "m", "5x", "5 m", "-5m", "1m1h", "1s1s", "1.5h", "40000d", "99999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("5").unwrap_err(), "`5` has no unit");
        assert_eq!(parse("5min").unwrap_err(), "`min` is no unit");
    }
}
