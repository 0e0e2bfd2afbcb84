//! Timestamps and durations: reading, writing, and their parts, in UTC or a time zone.
//!
//! Time zones come from the tz database that is compiled in, so that a replay elsewhere gives the same value.

use jiff::tz::TimeZone;
use smol_str::{SmolStr, format_smolstr};

use crate::expression::problem::{Failure, Outcome};
use crate::model::{Span, Timestamp, Value, civil_from_days, days_from_civil};

const NANOS: i128 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

pub(super) fn to_timestamp(value: &Value) -> Outcome {
    let time = match value {
        Value::Timestamp(_) => return Ok(value.clone()),
        Value::String(text) => return Timestamp::parse(text).map(Value::Timestamp).ok_or_else(|| unreadable_timestamp(text)),
        Value::Int(seconds) => Timestamp::new(*seconds, 0),
        other => return Err(Failure::overload("timestamp", &[other])),
    };
    time.map(Value::Timestamp).ok_or_else(|| Failure::new("timestamp out of range: years 1 to 9999"))
}

fn unreadable_timestamp(text: &str) -> Failure {
    let shown: String = text.chars().take(60).collect();
    Failure::new(format!("`{shown}` is not a timestamp of the years 1 to 9999, such as 2026-01-01T00:00:00Z"))
}

pub(super) fn to_duration(value: &Value) -> Outcome {
    match value {
        Value::Duration(_) => Ok(value.clone()),
        Value::String(text) => match read_duration(text) {
            Some(span) => Ok(Value::Duration(span)),
            None => {
                let shown: String = text.chars().take(60).collect();
                Err(Failure::new(format!("`{shown}` is not a duration of at most 292 years, such as 1h30m, 15s or 250ms")))
            }
        },
        other => Err(Failure::overload("duration", &[other])),
    }
}

/// Reads `1h30m`, `-1.5s`, `250ms`, `0`: numbers with units, largest first or not.
fn read_duration(text: &str) -> Option<Span> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Some(Span { nanos: 0 });
    }
    let mut total: i128 = 0;
    let mut rest = unsigned;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3_600 * NANOS,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // 20 digits are more than 292 years in any unit; bounded before they are read.
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 20 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * unit_nanos;
        let mut place = unit_nanos;
        for digit in fraction.bytes().take(20) {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        if total > i128::from(u64::MAX) {
            return None;
        }
        rest = after;
    }
    let signed = if text.starts_with('-') { -total } else { total };
    Some(Span { nanos: i64::try_from(signed).ok()? })
}

/// Seconds with as many digits after the point as are needed: `5400s`, `0.25s`.
pub(super) fn show_duration(span: Span) -> SmolStr {
    let (seconds, nanos) = (span.nanos.unsigned_abs() / NANOS as u64, span.nanos.unsigned_abs() % NANOS as u64);
    let sign = if span.nanos < 0 { "-" } else { "" };
    if nanos == 0 {
        return format_smolstr!("{sign}{seconds}s");
    }
    let fraction = format!("{nanos:09}");
    format_smolstr!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// Milliseconds since 1970-01-01T00:00:00Z, rounded down.
pub(super) fn unix_ms(value: &Value) -> Outcome {
    match value {
        Value::Timestamp(time) => Ok(Value::Int(time.to_ms().0)),
        other => Err(Failure::overload("unix_ms", &[other])),
    }
}

/// A part of a timestamp, and whether a duration has it: then it is the whole duration in that unit.
#[derive(Clone, Copy)]
enum Unit {
    FullYear,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// Defines the two forms of a part: in UTC and in a zone.
macro_rules! part {
    ($name:ident, $in_zone:ident, $unit:ident, $text:literal) => {
        pub(super) fn $name(value: &Value) -> Outcome {
            match value {
                Value::Timestamp(time) => Ok(Value::Int(part_of(Unit::$unit, *time, 0))),
                Value::Duration(span) => part_of_span(Unit::$unit, *span).map(Value::Int).ok_or_else(|| Failure::overload($text, &[value])),
                other => Err(Failure::overload($text, &[other])),
            }
        }

        pub(super) fn $in_zone(value: &Value, zone: &Value) -> Outcome {
            match (value, zone) {
                (Value::Timestamp(time), Value::String(zone)) => Ok(Value::Int(part_of(Unit::$unit, *time, offset_seconds(*time, zone)?))),
                _ => Err(Failure::overload($text, &[value, zone])),
            }
        }
    };
}

part!(full_year, full_year_in, FullYear, "getFullYear");
part!(month, month_in, Month, "getMonth");
part!(day_of_year, day_of_year_in, DayOfYear, "getDayOfYear");
part!(day_of_month, day_of_month_in, DayOfMonth, "getDayOfMonth");
part!(date, date_in, Date, "getDate");
part!(day_of_week, day_of_week_in, DayOfWeek, "getDayOfWeek");
part!(hours, hours_in, Hours, "getHours");
part!(minutes, minutes_in, Minutes, "getMinutes");
part!(seconds, seconds_in, Seconds, "getSeconds");
part!(milliseconds, milliseconds_in, Milliseconds, "getMilliseconds");

fn part_of(unit: Unit, time: Timestamp, ahead: i64) -> i64 {
    let local = time.seconds + ahead;
    let (days, second) = (local.div_euclid(DAY_SECONDS), local.rem_euclid(DAY_SECONDS));
    // Not the civil type of `jiff`: a zone may carry the last hours of the year 9999 into a year that it does not have.
    let (year, month, day) = civil_from_days(days);
    match unit {
        Unit::FullYear => year,
        Unit::Month => month - 1,
        Unit::DayOfYear => days - days_from_civil(year, 1, 1),
        Unit::DayOfMonth => day - 1,
        Unit::Date => day,
        // 1970-01-01 was a Thursday, day 4 of a week that begins on Sunday with 0.
        Unit::DayOfWeek => (days + 4).rem_euclid(7),
        Unit::Hours => second / 3600,
        Unit::Minutes => second / 60 % 60,
        Unit::Seconds => second % 60,
        Unit::Milliseconds => i64::from(time.nanos / 1_000_000),
    }
}

fn part_of_span(unit: Unit, span: Span) -> Option<i64> {
    let seconds = span.nanos / NANOS as i64;
    Some(match unit {
        Unit::Hours => seconds / 3600,
        Unit::Minutes => seconds / 60,
        Unit::Seconds => seconds,
        Unit::Milliseconds => span.nanos / 1_000_000 % 1000,
        _ => return None,
    })
}

/// How far a zone is ahead of UTC then: `Europe/Berlin`, `+02:00`, `-09:30`, `UTC`.
fn offset_seconds(time: Timestamp, zone: &str) -> Result<i64, Failure> {
    if let Some(seconds) = fixed_offset(zone) {
        return Ok(seconds);
    }
    let unknown = || {
        let shown: String = zone.chars().take(60).collect();
        Failure::new(format!("`{shown}` is not a time zone, such as Europe/Berlin or +02:00"))
    };
    let zone = TimeZone::get(zone).map_err(|_| unknown())?;
    // jiff ends a day before the year does; offsets do not change there.
    let seconds = time.seconds.clamp(jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
    let time = jiff::Timestamp::from_second(seconds).map_err(|_| unknown())?;
    Ok(i64::from(zone.to_offset(time).seconds()))
}

/// Reads `+02:00`, `-09:30`, `02:00`.
fn fixed_offset(zone: &str) -> Option<i64> {
    let unsigned = zone.strip_prefix(['-', '+']).unwrap_or(zone);
    let (hours, minutes) = unsigned.split_once(':')?;
    let two_digits = |text: &str| (text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit())).then(|| text.parse::<i64>().ok()).flatten();
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3600 + minutes * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_may_lead_beyond_the_last_year() {
        let last = Timestamp::parse("9999-12-31T23:59:59Z").unwrap();
        assert_eq!(part_of(Unit::FullYear, last, offset_seconds(last, "+01:00").unwrap()), 10_000);
        let first = Timestamp::parse("0001-01-01T00:00:00Z").unwrap();
        assert_eq!(part_of(Unit::FullYear, first, offset_seconds(first, "-01:00").unwrap()), 0);
        assert!(offset_seconds(last, "Pacific/Kiritimati").is_ok());
    }

    #[test]
    fn durations_read_back_as_written() {
        for (text, expected) in [
            ("1h30m", "5400s"),
            ("-1.5s", "-1.5s"),
            ("250ms", "0.25s"),
            ("0", "0s"),
            ("1ns", "0.000000001s"),
            (".5m", "30s"),
            ("1µs", "0.000001s"),
        ] {
            assert_eq!(read_duration(text).map(show_duration).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "-", "5", "1d", "s", "1.2.3s", "320000000000s", "1h-5m", "99999999999999999999999999h"] {
            assert_eq!(read_duration(text), None, "{text}");
        }
    }
}
