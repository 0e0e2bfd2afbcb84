//! What operators read and write: an overlay of the open transaction over sealed rows.

use crate::model::{Key, Name, Offset, StoreId};

/// A store to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSpec {
    pub name: Name,
    /// Windowed stores: milliseconds of window starts per segment (a column family each; expiry drops it).
    pub segment_ms: Option<i64>,
}

/// A key that the open transaction changed, once per key, in the order of first change.
pub struct Change<'a> {
    /// Dense from 0 within a store and transaction; what `put` and `delete` returned.
    pub ordinal: u32,
    pub key: &'a Key,
    /// As of the last commit.
    pub old: Option<&'a [u8]>,
    pub new: Option<&'a [u8]>,
}

/// What becomes true on disk together with the rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sealed {
    /// Per store with a changelog: the offset to replay from.
    pub changelogs: Vec<(StoreId, Offset)>,
    /// Per input topic (the partition is the task's): the offset to read next.
    pub inputs: Vec<(Name, Offset)>,
}

/// An error of the store. The task that owns it is closed; the log has everything.
#[derive(Debug)]
pub enum StateError {
    /// Disk full, permission, I/O: goes on after the cause is gone.
    Io { what: String, cause: String },
    /// Checksum, header or format: rebuilt from the log.
    Corrupt { what: String, cause: String },
    /// Locked by another process, of another app, of a newer format: refused, with the folder's name.
    Refused { what: String, cause: String },
}

/// The state of one task.
pub struct TaskState {}
