//! One partition: records in offset order, and the offsets that transaction markers take.
//!
//! Markers and aborted records leave gaps in the offsets, as compaction does; a gap has no entry. What stays true:
//! `start <= last stable offset <= next`; every entry below the last stable offset is committed; offsets never go back.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;

use crate::model::{Headers, Time};

/// A record as it lies in the log.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredRecord {
    pub offset: i64,
    pub time: Time,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Headers,
}

impl StoredRecord {
    /// Bytes that it counts for in `retention.bytes`: key, value and about what Kafka adds to a record.
    fn size(&self) -> u64 {
        const OVERHEAD: usize = 16;
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        (OVERHEAD + length(&self.key) + length(&self.value)) as u64
    }
}

/// Who wrote a record: index of a producer, or none outside transactions.
pub(super) type Writer = Option<u32>;

struct Entry {
    writer: Writer,
    record: Arc<StoredRecord>,
}

/// Where a transaction that is still open began in this partition.
struct Open {
    writer: u32,
    first: i64,
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Committed,
    Aborted,
}

/// What to do with tombstones that are the last record of their key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tombstones {
    /// As Kafka before `delete.retention.ms` has passed.
    Keep,
    /// As Kafka afterwards.
    Remove,
}

#[derive(Default)]
pub(super) struct Partition {
    entries: VecDeque<Entry>,
    /// In the order of `first`.
    open: Vec<Open>,
    start: i64,
    next: i64,
    bytes: u64,
    /// Entries that the last compaction left.
    compacted: usize,
}

/// Below so many records a compacted partition is left alone when it grows.
const COMPACTION_RECORDS_MIN: usize = 100_000;

impl Partition {
    /// Adds a record and returns its offset.
    pub(super) fn append(&mut self, mut record: Arc<StoredRecord>, writer: Writer) -> i64 {
        let offset = self.next;
        Arc::make_mut(&mut record).offset = offset;
        if let Some(writer) = writer
            && !self.open.iter().any(|open| open.writer == writer)
        {
            self.open.push(Open { writer, first: offset });
        }
        self.bytes += record.size();
        self.entries.push_back(Entry { writer, record });
        self.next += 1;
        offset
    }

    /// Writes the marker of a transaction, which takes an offset; aborted records disappear.
    pub(super) fn end_transaction(&mut self, writer: u32, outcome: Outcome) {
        let Some(at) = self.open.iter().position(|open| open.writer == writer) else { return };
        let first = self.open.remove(at).first;
        if outcome == Outcome::Aborted {
            let from = self.index_of(first);
            let tail = self.entries.split_off(from);
            for entry in tail {
                if entry.writer == Some(writer) {
                    self.bytes -= entry.record.size();
                } else {
                    self.entries.push_back(entry);
                }
            }
        }
        self.next += 1;
    }

    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// The offset after the last record or marker.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// The first offset that a reader of committed records must not see yet.
    pub(super) fn stable(&self) -> i64 {
        self.open.first().map_or(self.next, |open| open.first)
    }

    /// Hands out committed records from `position` on and returns the new position: after the last one handed out, or
    /// the last stable offset when there are no more.
    pub(super) fn read(&self, position: i64, limit: usize, mut take: impl FnMut(&Arc<StoredRecord>)) -> i64 {
        let stable = self.stable();
        let from = self.index_of(position);
        let mut position = position;
        for entry in self.entries.range(from..).take_while(|entry| entry.record.offset < stable).take(limit) {
            take(&entry.record);
            position = entry.record.offset + 1;
        }
        let more = self.entries.get(self.index_of(position)).is_some_and(|entry| entry.record.offset < stable);
        if more { position } else { position.max(stable) }
    }

    /// Drops everything before an offset.
    pub(super) fn delete_before(&mut self, offset: i64) {
        self.start = self.start.max(offset.min(self.next));
        while self.entries.front().is_some_and(|entry| entry.record.offset < self.start) {
            self.drop_front();
        }
    }

    /// Drops committed records from the front while `expired` says so; the log starts after the last one dropped.
    fn retain_from_front(&mut self, expired: impl Fn(&Partition, &StoredRecord) -> bool) {
        let stable = self.stable();
        while let Some(front) = self.entries.front() {
            let offset = front.record.offset;
            if offset >= stable || !expired(self, &front.record) {
                break;
            }
            self.drop_front();
            self.start = offset + 1;
        }
    }

    /// `retention.ms`: drops what is older than `limit`.
    pub(super) fn expire(&mut self, limit: Time) {
        self.retain_from_front(|_, record| record.time < limit);
    }

    /// `retention.bytes`.
    pub(super) fn shrink(&mut self, bytes_max: u64) {
        if self.bytes > bytes_max {
            self.retain_from_front(|partition, _| partition.bytes > bytes_max);
        }
    }

    /// Keeps the last committed record of every key. Records without a key stay.
    pub(super) fn compact(&mut self, tombstones: Tombstones) {
        let stable = self.stable();
        let end = self.index_of(stable);
        let mut seen: HashSet<Bytes, foldhash::fast::FixedState> = HashSet::default();
        let mut keep = vec![true; end];
        for (at, entry) in self.entries.range(..end).enumerate().rev() {
            let Some(key) = &entry.record.key else { continue };
            let last = seen.insert(key.clone());
            keep[at] = last && (tombstones == Tombstones::Keep || entry.record.value.is_some());
        }
        let mut at = 0;
        self.entries.retain(|_| {
            at += 1;
            keep.get(at - 1).copied().unwrap_or(true)
        });
        self.bytes = self.entries.iter().map(|entry| entry.record.size()).sum();
        self.compacted = self.entries.len();
    }

    /// A compacted partition compacts itself when it has doubled, so that its memory stays bounded by its keys.
    pub(super) fn compact_if_doubled(&mut self) {
        if self.entries.len() >= COMPACTION_RECORDS_MIN.max(self.compacted * 2) {
            self.compact(Tombstones::Keep);
        }
    }

    fn drop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.record.size();
        }
    }

    /// The first entry at or after an offset.
    fn index_of(&self, offset: i64) -> usize {
        self.entries.partition_point(|entry| entry.record.offset < offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &'static str, value: Option<&'static str>) -> Arc<StoredRecord> {
        let value = value.map(|text| Bytes::from_static(text.as_bytes()));
        Arc::new(StoredRecord {
            offset: -1,
            time: Time(0),
            key: Some(Bytes::from_static(key.as_bytes())),
            value,
            headers: Headers::default(),
        })
    }

    fn contents(partition: &Partition) -> Vec<(i64, String)> {
        let mut list = Vec::new();
        partition.read(partition.start(), usize::MAX, |record| {
            let text = record.value.as_ref().map_or("-".into(), |value| String::from_utf8_lossy(value).into_owned());
            list.push((record.offset, text));
        });
        list
    }

    #[test]
    fn the_last_stable_offset_holds_back_what_follows_an_open_transaction() {
        let mut partition = Partition::default();
        partition.append(record("a", Some("0")), None);
        partition.append(record("a", Some("1")), Some(7));
        partition.append(record("a", Some("2")), None);
        assert_eq!(contents(&partition), [(0, "0".into())]);
        assert_eq!((partition.stable(), partition.next()), (1, 3));
        partition.end_transaction(7, Outcome::Committed);
        assert_eq!(contents(&partition), [(0, "0".into()), (1, "1".into()), (2, "2".into())]);
        assert_eq!((partition.stable(), partition.next()), (4, 4));
    }

    #[test]
    fn an_abort_takes_only_the_records_of_its_own_transaction() {
        let mut partition = Partition::default();
        partition.append(record("a", Some("0")), Some(1));
        partition.end_transaction(1, Outcome::Committed);
        partition.append(record("a", Some("2")), Some(1));
        partition.append(record("a", Some("3")), Some(2));
        partition.end_transaction(1, Outcome::Aborted);
        assert_eq!(contents(&partition), [(0, "0".into())]);
        partition.end_transaction(2, Outcome::Committed);
        assert_eq!(contents(&partition), [(0, "0".into()), (3, "3".into())]);
        assert_eq!(partition.read(4, 10, |_| panic!("only markers are left")), 6);
    }

    #[test]
    fn compaction_keeps_the_last_of_each_key_and_all_that_is_not_committed() {
        let mut partition = Partition::default();
        for (key, value) in [("a", Some("0")), ("b", Some("1")), ("a", Some("2")), ("b", None)] {
            partition.append(record(key, value), None);
        }
        partition.append(record("a", Some("4")), Some(1));
        partition.compact(Tombstones::Keep);
        assert_eq!(contents(&partition), [(2, "2".into()), (3, "-".into())]);
        partition.compact(Tombstones::Remove);
        partition.end_transaction(1, Outcome::Aborted);
        assert_eq!(contents(&partition), [(2, "2".into())]);
        assert_eq!((partition.start(), partition.next()), (0, 6));
    }

    #[test]
    fn retention_moves_the_start_and_never_passes_the_last_stable_offset() {
        let mut partition = Partition::default();
        for value in ["0", "1"] {
            partition.append(record("a", Some(value)), None);
        }
        partition.append(record("a", Some("2")), Some(1));
        partition.expire(Time(1));
        assert_eq!((partition.start(), partition.stable(), partition.next()), (2, 2, 3));
        partition.end_transaction(1, Outcome::Committed);
        assert_eq!(contents(&partition), [(2, "2".into())]);
        partition.shrink(0);
        assert_eq!((partition.start(), partition.next(), partition.bytes), (3, 4, 0));
    }
}
