//! Keys of stores, as bytes that sort in the order that scans need. Never bincode.
//!
//! | store | key |
//! |---|---|
//! | rows | the record's key: tag `0x01`, then the key's bytes |
//! | rows of a windowed table | `0x01`, escaped key, `0x00 0x00`, window start |
//! | buffer | `0x01`, escaped key, `0x00 0x00`, source, `0x00 0x00`, sequence |
//! | dedupe | `0x01`, source, `0x00 0x00`, identity: `0x01`, escaped key, `0x00 0x00`, the id as JSON |
//! | timers | clock, time, the row's key |
//! | progress of the operator, beside the rows | `0x00`, name |
//!
//! Escaped: `0x00` becomes `0x00 0xFF`, so that `0x00 0x00` ends a part and a shorter key sorts before a longer one. Times are eight bytes
//! big endian with the sign flipped; sequences eight bytes big endian.

use crate::model::{Key, Time};

/// First byte of a key that is a record's. `Record::key` begins with it.
pub const ROW_TAG: u8 = 0x01;
/// First byte of a key that is the operator's own.
pub const PROGRESS_TAG: u8 = 0x00;

const END: [u8; 2] = [0, 0];
const TIME_BYTES: usize = 8;

/// The clock by which a timer fires.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TimerClock {
    /// Stream time of the task's table.
    Stream = 0,
    /// Wall clock.
    Wall = 1,
    /// Stream time, of identities that are forgotten; the key is one of the dedupe store.
    Identity = 2,
}

/// The key of an operator's progress; sorts before every row.
pub fn progress_key(name: &str) -> Key {
    let mut key = Key::with_capacity(1 + name.len());
    key.push(PROGRESS_TAG);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The key of a window of a record's key.
pub fn windowed_key(record_key: &[u8], start: Time) -> Key {
    let mut key = windowed_prefix(record_key);
    key.extend_from_slice(&time_bytes(start));
    key
}

/// What the keys of all windows of a record's key begin with. The windows of one key lie between [`windowed_key`] of the first
/// and of the last start.
pub fn windowed_prefix(record_key: &[u8]) -> Key {
    let mut key = Key::new();
    push_record_key(&mut key, record_key);
    key
}

/// The record's key and the window's start.
pub fn split_windowed_key(key: &[u8]) -> Option<(Key, Time)> {
    let (record_key, rest) = take_record_key(key)?;
    Some((record_key, time_from(rest)?))
}

/// The window's start, by length alone: for keys that are known to be [`windowed_key`]s or the operator's own.
#[inline]
pub(super) fn window_start(key: &[u8]) -> Option<Time> {
    if key.first() != Some(&ROW_TAG) {
        return None;
    }
    key.last_chunk().map(|bytes| time_of(*bytes))
}

/// A windowed key without the window's start.
pub(super) fn without_window(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(TIME_BYTES)]
}

/// The key of a record that waits for its owner.
pub fn buffer_key(record_key: &[u8], source: &str, sequence: u64) -> Key {
    let mut key = buffer_prefix(record_key);
    key.extend_from_slice(source.as_bytes());
    key.extend_from_slice(&END);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// What the keys of all buffered records of a record's key begin with.
pub fn buffer_prefix(record_key: &[u8]) -> Key {
    windowed_prefix(record_key)
}

/// The record's key, the source and the sequence of a buffered record.
pub fn split_buffer_key(key: &[u8]) -> Option<(Key, &str, u64)> {
    let (record_key, rest) = take_record_key(key)?;
    let (source, sequence) = take_name(rest)?;
    Some((record_key, source, u64::from_be_bytes(sequence.try_into().ok()?)))
}

/// An identity: the id as JSON among the records of one key. Which keys share a task must not matter.
pub fn identity(record_key: &[u8], id: &[u8]) -> Key {
    let mut identity = Key::new();
    push_record_key(&mut identity, record_key);
    identity.extend_from_slice(id);
    identity
}

/// The key of an identity that a source has sent.
pub fn dedupe_key(source: &str, identity: &[u8]) -> Key {
    let mut key = Key::with_capacity(1 + source.len() + END.len() + identity.len());
    key.push(ROW_TAG);
    key.extend_from_slice(source.as_bytes());
    key.extend_from_slice(&END);
    key.extend_from_slice(identity);
    key
}

/// The source and the identity.
pub fn split_dedupe_key(key: &[u8]) -> Option<(&str, &[u8])> {
    take_name(key.strip_prefix(&[ROW_TAG])?)
}

/// The key of a timer. All timers of a clock that are due at `now` lie from [`timer_start`] of the clock up to, without it,
/// `timer_key(clock, now + 1 ms, &[])`.
pub fn timer_key(clock: TimerClock, time: Time, row_key: &[u8]) -> Key {
    let mut key = Key::with_capacity(1 + TIME_BYTES + row_key.len());
    key.push(clock as u8);
    key.extend_from_slice(&time_bytes(time));
    key.extend_from_slice(row_key);
    key
}

/// Where the timers of a clock begin.
pub fn timer_start(clock: TimerClock) -> Key {
    Key::from_slice(&[clock as u8])
}

/// The clock, the time and the row's key of a timer.
pub fn split_timer_key(key: &[u8]) -> Option<(TimerClock, Time, &[u8])> {
    let (clock, rest) = key.split_first()?;
    let clock = match clock {
        0 => TimerClock::Stream,
        1 => TimerClock::Wall,
        2 => TimerClock::Identity,
        _ => return None,
    };
    let (time, row_key) = rest.split_first_chunk()?;
    Some((clock, time_of(*time), row_key))
}

/// The least key that is greater than every key with this prefix, to end a scan before it; `None` if there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Key> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut end = Key::from_slice(&prefix[..=last]);
    end[last] += 1;
    Some(end)
}

/// Writes the tag, the escaped key and its end.
fn push_record_key(key: &mut Key, record_key: &[u8]) {
    let plain = record_key.strip_prefix(&[ROW_TAG]).unwrap_or(record_key);
    key.reserve(1 + plain.len() + END.len() + TIME_BYTES);
    key.push(ROW_TAG);
    for &byte in plain {
        key.push(byte);
        if byte == 0 {
            key.push(0xFF);
        }
    }
    key.extend_from_slice(&END);
}

/// Reads what [`push_record_key`] wrote, and what follows it.
fn take_record_key(key: &[u8]) -> Option<(Key, &[u8])> {
    let escaped = key.strip_prefix(&[ROW_TAG])?;
    let mut record_key = Key::from_slice(&[ROW_TAG]);
    let mut at = 0;
    loop {
        match (escaped.get(at)?, escaped.get(at + 1)) {
            (0, Some(0)) => return Some((record_key, &escaped[at + 2..])),
            (0, Some(0xFF)) => {
                record_key.push(0);
                at += 2;
            }
            (0, _) => return None,
            (&byte, _) => {
                record_key.push(byte);
                at += 1;
            }
        }
    }
}

/// Reads a name up to its end, and what follows it.
fn take_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(END.len()).position(|pair| pair == END)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + END.len()..]))
}

fn time_bytes(time: Time) -> [u8; TIME_BYTES] {
    (time.0 ^ i64::MIN).to_be_bytes()
}

fn time_of(bytes: [u8; TIME_BYTES]) -> Time {
    Time(i64::from_be_bytes(bytes) ^ i64::MIN)
}

fn time_from(bytes: &[u8]) -> Option<Time> {
    bytes.try_into().ok().map(time_of)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record_key() -> impl Strategy<Value = Vec<u8>> {
        // Few distinct bytes, so that keys are prefixes of each other and zeros stand next to each other.
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFF), any::<u8>()], 0..6).prop_map(|mut key| {
            key.insert(0, ROW_TAG);
            key
        })
    }

    proptest! {
        #[test]
        fn windows_sort_by_key_then_start_and_read_back(a in record_key(), b in record_key(), s: i64, t: i64) {
            let (x, y) = (windowed_key(&a, Time(s)), windowed_key(&b, Time(t)));
            prop_assert_eq!(x.cmp(&y), (&a, s).cmp(&(&b, t)));
            prop_assert_eq!(split_windowed_key(&x), Some((Key::from_slice(&a), Time(s))));
            prop_assert_eq!(window_start(&x), Some(Time(s)));
            prop_assert_eq!(without_window(&x), &*windowed_prefix(&a));
        }

        #[test]
        fn buffered_records_sort_by_key_source_sequence_and_read_back(
            a in record_key(), b in record_key(), s in "[a-c.]{1,3}", t in "[a-c.]{1,3}", m: u64, n: u64,
        ) {
            let (x, y) = (buffer_key(&a, &s, m), buffer_key(&b, &t, n));
            prop_assert_eq!(x.cmp(&y), (&a, &s, m).cmp(&(&b, &t, n)));
            prop_assert_eq!(split_buffer_key(&x), Some((Key::from_slice(&a), s.as_str(), m)));
            prop_assert!(x.starts_with(&buffer_prefix(&a)));
            prop_assert_eq!(y.starts_with(&buffer_prefix(&a)), a == b);
        }

        #[test]
        fn identities_read_back(source in "[a-z_]{1,5}", identity in proptest::collection::vec(any::<u8>(), 0..8)) {
            let key = dedupe_key(&source, &identity);
            prop_assert_eq!(split_dedupe_key(&key), Some((source.as_str(), &identity[..])));
        }

        #[test]
        fn timers_sort_by_clock_then_time_and_read_back(a in record_key(), b in record_key(), s: i64, t: i64, is_wall: bool) {
            let clock = if is_wall { TimerClock::Wall } else { TimerClock::Stream };
            let x = timer_key(clock, Time(s), &a);
            prop_assert_eq!(x.cmp(&timer_key(clock, Time(t), &b)), (s, &a).cmp(&(t, &b)));
            prop_assert_eq!(split_timer_key(&x), Some((clock, Time(s), &a[..])));
            prop_assert!(timer_start(clock) < x);
            prop_assert_eq!(x < timer_key(clock, Time(t), &[]), s < t);
            prop_assert!(timer_key(TimerClock::Stream, Time(s), &a) < timer_key(TimerClock::Wall, Time(t), &b));
        }

        #[test]
        fn the_end_of_a_prefix_parts_it_from_what_follows(prefix in record_key(), key in record_key()) {
            let Some(end) = prefix_end(&prefix) else { return Ok(()) };
            prop_assert_eq!(key.starts_with(&prefix), key >= prefix && key[..] < end[..]);
        }

        #[test]
        fn any_bytes_are_split_or_refused(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFF), any::<u8>()], 0..24)) {
            if let Some((key, start)) = split_windowed_key(&bytes) {
                prop_assert_eq!(&windowed_key(&key, start)[..], &bytes[..]);
            }
            if let Some((key, source, sequence)) = split_buffer_key(&bytes) {
                prop_assert_eq!(&buffer_key(&key, source, sequence)[..], &bytes[..]);
            }
            if let Some((clock, time, key)) = split_timer_key(&bytes) {
                prop_assert_eq!(&timer_key(clock, time, key)[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn progress_stands_before_every_row() {
        assert!(progress_key("zzz") < Key::from_slice(&[ROW_TAG]));
        assert_eq!(window_start(&progress_key("a-long-name-of-a-table")), None);
    }
}
