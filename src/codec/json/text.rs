//! Numbers and durations as texts: exact, strict, and written so that they read back as they were.

use rust_decimal::Decimal;

use crate::model::Span;

/// Significant digits of a decimal: what `rust_decimal` holds in 96 bits without exception.
const DECIMAL_DIGITS_MAX: usize = 28;

/// Why a text is not a number of the type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotANumber {
    Malformed,
    OutOfRange,
}

/// Reads `-?digits[.digits][e[±]digits]` exactly, keeping the scale: `9.90` has two decimals.
///
/// # Errors
/// `OutOfRange` if more than 28 digits or 28 decimals would be needed: a decimal is exact or it is refused.
pub fn parse_decimal(text: &str) -> Result<Decimal, NotANumber> {
    short_decimal(text.as_bytes()).map_or_else(|| long_decimal(text), Ok)
}

/// A decimal of up to 18 digits without an exponent, which is nearly all of them: one pass, one machine word.
fn short_decimal(text: &[u8]) -> Option<Decimal> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let mut mantissa: u64 = 0;
    let mut point = None;
    for (position, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' if position <= 18 => mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')),
            b'.' if point.is_none() && position > 0 => point = Some(position),
            _ => return None,
        }
    }
    let decimals = point.map_or(0, |point| digits.len() - point - 1);
    if digits.is_empty() || point.is_some() && decimals == 0 {
        return None;
    }
    Some(Decimal::from_parts(mantissa as u32, (mantissa >> 32) as u32, 0, negative && mantissa > 0, decimals as u32))
}

fn long_decimal(text: &str) -> Result<Decimal, NotANumber> {
    let (negative, unsigned) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (number, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(NotANumber::Malformed);
    }
    let decimals = if number.len() == whole.len() { 0 } else { fraction.len() };
    let mut mantissa: i128 = 0;
    for digit in number.bytes().filter(u8::is_ascii_digit) {
        mantissa = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0'))).ok_or(NotANumber::OutOfRange)?;
    }
    let decimals = i64::try_from(decimals).map_err(|_| NotANumber::OutOfRange)?;
    scaled(if negative { -mantissa } else { mantissa }, decimals.saturating_sub(exponent))
}

fn parse_exponent(text: &str) -> Result<i64, NotANumber> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotANumber::Malformed);
    }
    // An exponent too long for an integer is out of range for every mantissa but zero; half the range leaves room to subtract from.
    let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
    Ok(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// `mantissa / 10^scale`.
fn scaled(mut mantissa: i128, mut scale: i64) -> Result<Decimal, NotANumber> {
    if mantissa == 0 {
        scale = scale.clamp(0, 28);
    }
    while scale > 28 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale -= 1;
    }
    while scale < 0 {
        mantissa = mantissa.checked_mul(10).ok_or(NotANumber::OutOfRange)?;
        scale += 1;
    }
    if mantissa.unsigned_abs() >= 10u128.pow(DECIMAL_DIGITS_MAX as u32) {
        return Err(NotANumber::OutOfRange);
    }
    let scale = u32::try_from(scale).map_err(|_| NotANumber::OutOfRange)?;
    Decimal::try_from_i128_with_scale(mantissa, scale).map_err(|_| NotANumber::OutOfRange)
}

/// Reads an integer of digits with an optional minus: what a string may hold where an `int` is declared.
pub fn parse_int(text: &str) -> Result<i64, NotANumber> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotANumber::Malformed);
    }
    text.parse().map_err(|_| NotANumber::OutOfRange)
}

/// As [`parse_int`], for a `uint`. A negative number is out of range.
pub fn parse_uint(text: &str) -> Result<u64, NotANumber> {
    match parse_int(text) {
        Err(NotANumber::Malformed) => Err(NotANumber::Malformed),
        _ => text.parse().map_err(|_| NotANumber::OutOfRange),
    }
}

/// Nanoseconds of each unit of a CEL duration.
const UNITS: [(&str, i128); 7] =
    [("ns", 1), ("us", 1_000), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];

/// Reads a duration as CEL writes it: `1.5s`, `-1h30m`, `250ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Span> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest == "0" {
        return Some(Span { nanos: 0 });
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let unit_end = rest[number..].find(|c: char| c == '.' || c.is_ascii_digit()).map_or(rest.len(), |at| number + at);
        let unit = UNITS.iter().find(|(name, _)| *name == &rest[number..unit_end])?.1;
        let (whole, fraction) = rest[..number].split_once('.').unwrap_or((&rest[..number], ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        let mut share = unit;
        for digit in fraction.bytes() {
            share /= 10;
            nanos = nanos.checked_add(i128::from(digit - b'0') * share)?;
        }
        rest = &rest[unit_end..];
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok().map(|nanos| Span { nanos })
}

/// Writes a duration in seconds, with no more decimals than it has: `5400s`, `-1.5s`, `0.000000001s`.
pub fn duration_text(span: Span) -> String {
    let sign = if span.nanos < 0 { "-" } else { "" };
    let nanos = span.nanos.unsigned_abs();
    let mut text = format!("{sign}{}", nanos / 1_000_000_000);
    let fraction = nanos % 1_000_000_000;
    if fraction > 0 {
        text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_keep_what_was_written() {
        let check = |text: &str, expected: &str| assert_eq!(parse_decimal(text).map(|d| d.to_string()).as_deref(), Ok(expected), "{text}");
        check("9.90", "9.90");
        check("-0.00", "0.00");
        check("0.50000000000000000000000000000000", "0.5000000000000000000000000000");
        check("1e3", "1000");
        check("1.50e1", "15.0");
        check("1.5E-3", "0.0015");
        check("007", "7");
        check("0e999999999999999999999", "0");
        check("1.000000000000000000000000000", "1.000000000000000000000000000");
        check("9999999999999999999999999999", "9999999999999999999999999999");
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for text in ["1e400", "1e-400", "99999999999999999999999999999", "0.00000000000000000000000000001", "1e99999999999999999999"] {
            assert_eq!(parse_decimal(text), Err(NotANumber::OutOfRange), "{text}");
        }
        for text in ["", "-", ".", "1.", ".5", "+1", "1_000", "1,5", "NaN", "Infinity", "0x1", "1e", "1e+", "--1", " 1", "1.2.3", "١"] {
            assert_eq!(parse_decimal(text), Err(NotANumber::Malformed), "{text}");
        }
    }

    #[test]
    fn durations_read_as_cel_writes_them() {
        let check = |text: &str, nanos: Option<i64>| assert_eq!(parse_duration(text).map(|span| span.nanos), nanos, "{text}");
        check("1.5s", Some(1_500_000_000));
        check("-1h30m", Some(-5_400_000_000_000));
        check("250ms", Some(250_000_000));
        check("1us2ns", Some(1_002));
        check(".5m", Some(30_000_000_000));
        check("0", Some(0));
        for text in ["", "-", "s", "1", "1d", "1.5", "1..5s", "1s-", "1 s", ".s", "300000000h", "+1s"] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn durations_read_back_as_written(nanos: i64) {
            let span = Span { nanos };
            // The smallest number has no positive counterpart and still is read: the sum is made in 128 bits.
            prop_assert_eq!(parse_duration(&duration_text(span)), Some(span));
        }

        #[test]
        fn texts_never_panic(text in "\\PC{0,40}") {
            let _ = (parse_decimal(&text).is_ok(), parse_int(&text).is_ok(), parse_uint(&text).is_ok(), parse_duration(&text));
        }

        #[test]
        fn decimals_agree_with_rust_decimal(text in "-?[0-9]{1,14}(\\.[0-9]{1,12})?") {
            prop_assert_eq!(parse_decimal(&text).map(|d| d.to_string()).ok(), Decimal::from_str_exact(&text).map(|d| d.to_string()).ok());
        }
    }
}
