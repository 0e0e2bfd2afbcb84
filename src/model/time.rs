//! Event time, timestamps and durations as values, and the clock port.
//!
//! Nothing else in the crate reads a clock: time comes from a record or from [`Clock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

/// A point in time as Kafka has it: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Time(pub i64);

impl Time {
    pub const MIN: Time = Time(i64::MIN);
    pub const MAX: Time = Time(i64::MAX);

    /// Milliseconds later, without overflow: ends at [`Time::MAX`].
    pub fn plus_ms(self, ms: i64) -> Time {
        Time(self.0.saturating_add(ms))
    }
}

/// A CEL timestamp: 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// 0 to 999,999,999, always added.
    pub nanos: u32,
}

impl Timestamp {
    pub const SECONDS_MIN: i64 = -62_135_596_800;
    pub const SECONDS_MAX: i64 = 253_402_300_799;

    /// A timestamp, if it is in the years 1 to 9999.
    pub fn new(seconds: i64, nanos: u32) -> Option<Timestamp> {
        let good = (Self::SECONDS_MIN..=Self::SECONDS_MAX).contains(&seconds) && nanos < 1_000_000_000;
        good.then_some(Timestamp { seconds, nanos })
    }

    pub fn from_ms(time: Time) -> Option<Timestamp> {
        Timestamp::new(time.0.div_euclid(1000), (time.0.rem_euclid(1000) * 1_000_000) as u32)
    }

    /// Rounded down to a millisecond.
    pub fn to_ms(self) -> Time {
        Time(self.seconds * 1000 + i64::from(self.nanos / 1_000_000))
    }

    /// Reads RFC 3339, such as `2026-01-01T00:00:02Z` or `2026-01-01T01:00:02.5+01:00`.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let bytes = text.as_bytes();
        if bytes.len() < 20 || !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = &bytes[from..to];
            digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
        };
        let separators = bytes[4] == b'-' && bytes[7] == b'-' && bytes[13] == b':' && bytes[16] == b':';
        if !separators {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let mut at = 19;
        let mut nanos = 0u32;
        if bytes[at] == b'.' {
            let start = at + 1;
            at = start;
            while at < bytes.len() && bytes[at].is_ascii_digit() {
                at += 1;
            }
            if at == start || at - start > 9 {
                return None;
            }
            nanos = number(start, at)? as u32 * 10u32.pow(9 - (at - start) as u32);
        }
        let zone = &bytes[at..];
        let ahead = match zone {
            [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let (h, m) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
                if h > 23 || m > 59 {
                    return None;
                }
                (h * 3600 + m * 60) * if *sign == b'-' { -1 } else { 1 }
            }
            _ => return None,
        };
        // A leap second is read as the last second of its minute, as Java and Go clients do.
        let second = second.min(if second == 60 { 59 } else { second });
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        jiff::civil::Date::new(year as i16, month as i8, day as i8).ok()?;
        Timestamp::new(days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - ahead, nanos)
    }

    /// The civil date and time in UTC.
    pub fn civil(self) -> DateTime {
        let days = self.seconds.div_euclid(86_400);
        let second = self.seconds.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        DateTime::constant(
            year as i16,
            month as i8,
            day as i8,
            (second / 3600) as i8,
            (second / 60 % 60) as i8,
            (second % 60) as i8,
            self.nanos as i32,
        )
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (H. Hinnant, "chrono-compatible date algorithms").
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// The date of a day since 1970-01-01, the inverse of [`days_from_civil`].
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with as many fractional digits (0, 3, 6 or 9) as are needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.civil();
        write!(f, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", c.year(), c.month(), c.day(), c.hour(), c.minute(), c.second())?;
        match self.nanos {
            0 => {}
            n if n % 1_000_000 == 0 => write!(f, ".{:03}", n / 1_000_000)?,
            n if n % 1000 == 0 => write!(f, ".{:06}", n / 1000)?,
            n => write!(f, ".{n:09}")?,
        }
        f.write_str("Z")
    }
}

/// A CEL duration: whole nanoseconds, about ±292 years.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Span {
    pub nanos: i64,
}

/// The wall clock. Event time never comes from here.
pub trait Clock: Send + Sync {
    fn now(&self) -> Time;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock of the machine")]
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is moved: tests, replay and the simulation.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    pub fn at(time: Time) -> ManualClock {
        ManualClock(Arc::new(AtomicI64::new(time.0)))
    }

    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_back_as_written() {
        for text in [
            "1970-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2026-02-28T23:59:59.500Z",
            "2000-02-29T12:00:00.000001Z",
        ] {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Timestamp::parse("2026-01-01T01:00:02+01:00"), Timestamp::parse("2026-01-01T00:00:02Z"));
    }

    #[test]
    fn refuses_what_is_no_timestamp() {
        for text in [
            "",
            "2026-01-01",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "10000-01-01T00:00:00Z",
            "2026-01-01T00:00:00+0100",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
