//! A record on its way through a topology, and where it came from.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::model::{Offset, SourceId, Time, Value};

/// The bytes of a key as they stand in a store: order-preserving, inline up to 24 bytes.
pub type Key = SmallVec<[u8; 24]>;

/// Headers of a record, shared by all that it causes; `None` where there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(pub Option<Arc<[(SmolStr, Option<Bytes>)]>>);

impl Headers {
    pub fn new(list: Vec<(SmolStr, Option<Bytes>)>) -> Headers {
        Headers(if list.is_empty() { None } else { Some(list.into()) })
    }

    pub fn iter(&self) -> impl Iterator<Item = &(SmolStr, Option<Bytes>)> {
        self.0.iter().flat_map(|list| list.iter())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that they take in a record, at most.
    pub fn bytes(&self) -> usize {
        // Two lengths of 5 bytes each at most go with a name and a value.
        self.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()) + 10).sum()
    }
}

/// A decoded record of a source.
#[derive(Clone, Debug)]
pub struct Record {
    pub source: SourceId,
    /// Key bytes as stores keep them.
    pub key: Key,
    pub key_value: Value,
    /// `None` is a tombstone.
    pub value: Option<Value>,
    /// Event time.
    pub time: Time,
    /// Identity for `dedupe`, if the source has one.
    pub id: Option<Value>,
    pub headers: Headers,
    pub partition: i32,
    /// Its own offset (not the next one).
    pub offset: i64,
}

impl Record {
    /// The offset to commit once this record is done.
    pub fn next_offset(&self) -> Offset {
        Offset(self.offset + 1)
    }
}
