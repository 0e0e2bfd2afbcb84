//! Sizes as people write them: `128MiB`, `64KiB`, `1GiB`, `512B`.

/// Units from the largest, with their bytes. Only powers of two: memory is counted so.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size as bytes.
///
/// # Errors
/// Why it cannot be read, for a message.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("it does not begin with a whole number".to_owned());
    }
    if unit.is_empty() {
        return Err(format!("`{number}` has no unit"));
    }
    let Some((_, bytes)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is no unit"));
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*bytes)).ok_or_else(|| "it is too large".to_owned())
}

/// A size as [`parse`] reads it, in the largest unit that leaves it whole.
pub fn show(bytes: u64) -> String {
    let fits = |unit: &&(&str, u64)| bytes >= unit.1 && bytes.is_multiple_of(unit.1);
    UNITS.iter().find(fits).map_or_else(|| format!("{bytes}B"), |(unit, size)| format!("{}{unit}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_sizes() {
        for (text, bytes) in [("128MiB", 128 << 20), ("1GiB", 1 << 30), ("64KiB", 64 << 10), ("1025B", 1025), ("0B", 0), ("2TiB", 2 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
            assert_eq!(show(bytes), text);
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "5", "MiB", "1.5GiB", "1MB", "1 MiB", "-1B", "99999999999999TiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("5").unwrap_err(), "`5` has no unit");
        assert_eq!(parse("5MB").unwrap_err(), "`MB` is no unit");
    }
}
