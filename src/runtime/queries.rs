//! What may be asked of a worker, and what it answers: the port between the runtime and HTTP.
//!
//! Reads see committed rows only, and nothing here makes a stream thread wait: an answer is a future that the owner of the
//! task fills when it comes to it. Whoever asks bounds the time.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::codec::KeyCodec;
use crate::model::{Key, Name, Offset, TableId, TaskId, Time, Value};
use crate::runtime::changes::Feed;

/// An answer to come. It is dropped where nobody waits any longer.
pub type Answered<T> = BoxFuture<'static, Result<T, Unanswered>>;

/// Answers questions about one worker. Called on threads of the edge, from many requests at once; must not block.
pub trait Queries: Send + Sync {
    /// The tables of the app, with those that may not be read over HTTP.
    fn tables(&self) -> &[TableInfo];

    /// Where the row of a key may be, this worker first; at least one place. Several where a key can be spelled in several ways, and
    /// each chooses another partition: only who has asked them all knows that a row is absent.
    fn locate(&self, table: TableId, key: &Value) -> Vec<Location>;

    /// The row of a key; `None` if it is absent. Keys are those of [`KeyCodec::store_key`].
    fn get(&self, table: TableId, key: Key) -> Answered<Answer<Option<Row>>>;

    /// Rows of this worker in the order of their keys, at most as many as the range allows.
    fn page(&self, table: TableId, range: KeyRange) -> Answered<Page>;

    /// Addresses of the other workers that have partitions of a table.
    fn others(&self, table: TableId) -> Vec<String>;

    /// How many partitions a table has, wherever they are.
    fn partition_count(&self, table: TableId) -> i32;

    /// Windows of a key whose start is in `from..to`, oldest first, at most `limit`.
    fn windows(&self, table: TableId, key: Key, from: Time, to: Time, limit: usize) -> Answered<Answer<Vec<WindowRow>>>;

    /// Committed changes of the partitions of a table that are here.
    fn feed(&self, table: TableId) -> Arc<Feed>;

    /// The tasks of this worker, in the order of their ids.
    fn tasks(&self) -> Vec<TaskStatus>;

    fn health(&self) -> Health;

    /// The topology as JSON text.
    fn topology(&self) -> Bytes;
}

/// A table as a question names it.
#[derive(Clone, Debug)]
pub struct TableInfo {
    pub id: TableId,
    pub name: Name,
    pub key: KeyCodec,
    /// Milliseconds; `None`: the table has no windows.
    pub window_ms: Option<i64>,
    /// `query: false` in the topology: it answers nobody.
    pub is_readable: bool,
}

/// Where the row of a key is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    Local,
    /// `host:port` of the worker that owns the task, as it said in `<app>-workers`.
    Remote(String),
    /// Nobody has said that the task is theirs; it is being assigned.
    Unknown,
    /// The owner is this worker, and the task is being restored.
    Restoring,
    /// The owner is this worker, and the task has stopped.
    Stopped,
}

/// What a partition answered, and as of when.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer<T> {
    pub value: T,
    pub partition: i32,
    /// The offset of the table's changelog up to which everything is in the answer.
    pub position: Offset,
}

/// A committed row.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// All visible fields, with `complete` where the table has contributors.
    pub value: Value,
    /// The changelog offset as of which it is shown: at least that of its last change, and it grows with every change of it.
    pub offset: Offset,
    /// False for a placeholder, whose owner has not spoken.
    pub is_complete: bool,
}

/// A row with its key.
#[derive(Clone, PartialEq, Debug)]
pub struct KeyedRow {
    /// As the store has it; the next page begins after it.
    pub store_key: Key,
    pub key: Value,
    pub window: Option<(Time, Time)>,
    pub row: Row,
    pub partition: i32,
}

/// Rows in the order of their store keys.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Page {
    pub rows: Vec<KeyedRow>,
    /// Whether there are rows after the last one of this page.
    pub has_more: bool,
    /// The partitions that it was made from: those of this worker.
    pub partitions: Vec<i32>,
}

/// A window of a key.
#[derive(Clone, PartialEq, Debug)]
pub struct WindowRow {
    pub start: Time,
    pub end: Time,
    pub row: Row,
}

/// Which rows a page holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    pub start: Bound<Key>,
    pub end: Bound<Key>,
    /// Rows, at least 1.
    pub limit: usize,
    /// Bytes of the rows as they are stored; a page has at least one row whatever its size.
    pub bytes_max: usize,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unanswered {
    /// The task is being restored: ask again after this time.
    Restoring { retry_after: Duration },
    /// The task has stopped: its disk failed, or it met a record that it must not pass.
    Stopped,
    /// The task has left this worker since it was looked up.
    Moved,
    /// More questions wait than are allowed to.
    Busy,
    /// The worker shuts down.
    Closing,
    /// The store failed; the task is closed and rebuilt. Without details of the machine: it is shown to whoever asked.
    Failed(String),
}

/// A task as the page of tasks shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct TaskStatus {
    pub id: TaskId,
    pub phase: TaskPhase,
    pub tables: Vec<Name>,
    pub inputs: Vec<InputStatus>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskPhase {
    /// Offsets of the changelogs read, and how many there are; records may be fewer.
    Restoring {
        done: u64,
        total: u64,
    },
    Running,
    /// It waits for something to heal: a full disk, a bad record under `on_error: fail`.
    Stopped {
        why: String,
    },
}

/// How far a task has read one of its inputs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputStatus {
    pub topic: Name,
    pub partition: i32,
    /// The offset to read next, as committed.
    pub position: Offset,
    /// The end of the partition as the last fetch saw it, if there was one.
    pub end: Option<Offset>,
}

/// Whether a worker works.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// The stream threads make progress. If not, the process should be killed.
    pub is_live: bool,
    /// All tasks run and the log is in reach. If not, others should be asked.
    pub is_ready: bool,
    /// What is wrong, for people: lowercase, no full stop.
    pub problems: Vec<String>,
}
