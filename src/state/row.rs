//! What a stored row holds: per source the newest version, what it contributed, and its deletes.
//!
//! The state of a key is a function of the *set* of records that spoke about it, not of their order: per source the
//! record with the greatest version (dead or alive) and the greatest delete. What is shown is computed from that. This is
//! what makes every interleaving of topics end in the same row.

use std::collections::BTreeMap;

use bytes::Bytes;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::model::{MapKey, Time, Value};

/// The state of one key of a table. `sources` stand in the order of the sources' *names*, so that moving lines in the
/// file does not touch what is stored.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RowState {
    pub sources: Vec<SourceState>,
    /// Greatest event time of an accepted change.
    pub changed_at: Time,
    /// Stream time at which the index of timers has an entry for this key (`keep` or grave), if any.
    pub expiry_at: Option<Time>,
}

/// What one source has said about a key.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SourceState {
    /// The newest record's version, dead or alive; `None` before the first.
    pub version: Option<Version>,
    /// The newest tombstone of this source.
    pub deleted: Option<Deleted>,
    /// One accumulator per field rule of this source, in the order of the field names; empty before the first record and after a delete.
    pub fields: Vec<Accumulator>,
    /// The newest record as it came, kept while the owner is missing and a time-out would send it to the dead letters.
    pub raw: Option<RawRecord>,
    /// Wall-clock time until which this source's contribution waits for an owner; `None` if it does not, or the wait is over.
    pub wait_until: Option<Time>,
}

/// `order_by` values, then the offset. Compared within one source only.
#[derive(Clone, PartialEq, Debug)]
pub struct Version {
    /// Empty where the order is `[time]`, which is the default.
    pub order: Vec<Value>,
    pub time: Time,
    pub offset: i64,
}

/// A tombstone: everything up to `time` is gone (of the same source: up to this offset at the same time).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Deleted {
    pub time: Time,
    pub offset: i64,
}

/// A record as it came.
#[derive(Clone, PartialEq, Debug)]
pub struct RawRecord {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(SmolStr, Option<Bytes>)>,
    pub offset: i64,
    pub time: Time,
}

/// The state of one field rule.
#[derive(Clone, PartialEq, Debug)]
pub enum Accumulator {
    /// Nothing yet (`min` of nothing).
    Empty,
    /// `last`: its version is the source's.
    Last(Value),
    /// `first`, with the version that set it.
    First(Version, Value),
    /// `min`, `max`.
    Extreme(Value),
    /// `sum`.
    Sum(Value),
    Count(i64),
    Avg {
        sum: Decimal,
        count: i64,
    },
    /// `collect`: in the order of arrival. `distinct`: in the order of values.
    List(Vec<Value>),
    /// `top`: the best first, each with what it was judged by.
    Top(Vec<(Value, Value)>),
    /// `put`, `remove`: entries with their versions; `None` is the grave of an entry.
    Entries(BTreeMap<MapKey, (Version, Option<Value>)>),
}

/// A record that waits for its owner, in the buffer store under its key, source and offset.
#[derive(Clone, PartialEq, Debug)]
pub struct BufferedRecord {
    pub raw: RawRecord,
    pub version: Version,
    /// What its rules computed, in the order of the input's rules; the second is null where a rule has one operand.
    pub operands: Vec<(Value, Value)>,
    /// Wall-clock time at which it goes to the dead letters.
    pub wait_until: Option<Time>,
}

/// How far a table's operator has come on its partition; stored under the reserved key of the row store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The largest event time seen.
    pub stream_time: Time,
    /// Windows that end here or earlier were closed because input stopped (`idle_close`).
    pub closed_through: Time,
}
