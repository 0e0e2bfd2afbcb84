//! Where views read a table again: the owner of the rows answers, as it alone knows what is sealed.
//!
//! Asked after a gap (a queue overflowed, Redis went back in time, a task moved) and for a rebuild. Every answer is a state
//! between two commits, and says of which sealed offset.

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::model::{Headers, Key, Offset, TableId, Time, Value};
use crate::views::lane::Answer;
use crate::views::render::{Before, Changed};

/// An answer that comes later.
pub type Asked<T> = BoxFuture<'static, Result<T, NoRows>>;

/// Answers for all tables of a worker. Called from the edges; must not block. The batches up to the sealed offset of an answer
/// are handed to the views before the answer is.
pub trait RowSource: Send + Sync {
    /// Up to `limit` rows in the order of the store, after the row whose store key is `after`.
    fn scan(&self, table: TableId, partition: i32, after: Option<Key>, limit: usize) -> Asked<Page>;

    /// Store keys of the rows that the changelog changed from `from` to before `to`, each once, in any fixed order.
    /// `None`: the log does not tell any more (it starts later, tombstones may be compacted away), or they are more than `limit`.
    fn changed_keys(&self, table: TableId, partition: i32, from: Offset, to: Offset, limit: usize) -> Asked<Option<Vec<Key>>>;

    /// The rows of these store keys, in their order, absent ones too.
    fn rows(&self, table: TableId, partition: i32, keys: Vec<Key>) -> Asked<Rows>;

    /// The end of the changelog partition now, asked of the cluster.
    fn log_end(&self, table: TableId, partition: i32) -> Asked<Offset>;

    /// Number of partitions of a table.
    fn partition_count(&self, table: TableId) -> i32;

    /// The partition that a key belongs to, given as it stands in a Redis key; `None` if the text is no key of this table.
    fn partition_of(&self, table: TableId, key_text: &str) -> Option<i32>;
}

/// What a lane asks the owner of the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    Scan { after: Option<Key>, limit: usize },
    ChangedKeys { from: Offset, to: Offset, limit: usize },
    Rows { keys: Vec<Key> },
    LogEnd,
}

impl Question {
    /// Asks it.
    pub fn ask(self, source: &dyn RowSource, table: TableId, partition: i32) -> BoxFuture<'static, Answer> {
        fn answer<T: 'static>(asked: Asked<T>, wrap: fn(T) -> Answer) -> BoxFuture<'static, Answer> {
            asked.map(move |found| found.map_or_else(Answer::NoRows, wrap)).boxed()
        }
        match self {
            Question::Scan { after, limit } => answer(source.scan(table, partition, after, limit), Answer::Page),
            Question::ChangedKeys { from, to, limit } => {
                answer(source.changed_keys(table, partition, from, to, limit), Answer::ChangedKeys)
            }
            Question::Rows { keys } => answer(source.rows(table, partition, keys), Answer::Rows),
            Question::LogEnd => answer(source.log_end(table, partition), Answer::LogEnd),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoRows {
    /// The task is not ours any more, or not open yet.
    NotOwner,
    /// Lowercase, no full stop: what to write in the log before trying again.
    Later(String),
    /// The rows cannot be read: their task is closed, or rebuilt.
    Failed(String),
}

/// A row as it is, or its absence.
#[derive(Clone, Debug)]
pub struct CurrentRow {
    pub key: Value,
    /// Without the window.
    pub key_bytes: Key,
    pub window: Option<(Time, Time)>,
    pub row: Option<Value>,
    /// Event time of the last change.
    pub time: Time,
}

/// A piece of a scan.
#[derive(Clone, Debug)]
pub struct Page {
    pub rows: Vec<CurrentRow>,
    /// Store key to go on after; `None`: that was all.
    pub next: Option<Key>,
    /// Sealed offset that this page shows.
    pub sealed: Offset,
}

/// Rows that were asked for by key.
#[derive(Clone, Debug)]
pub struct Rows {
    pub rows: Vec<CurrentRow>,
    pub sealed: Offset,
}

impl CurrentRow {
    /// As a change of which nobody knows what was before.
    pub fn changed<'a>(&'a self, no_headers: &'a Headers) -> Changed<'a> {
        Changed {
            key: &self.key,
            key_bytes: &self.key_bytes,
            window: self.window,
            before: Before::Unknown,
            new: self.row.as_ref(),
            time: self.time,
            headers: no_headers,
        }
    }
}
