//! What the edges are told, on the stream thread, after a commit: views, change feeds, replay, tests.
//!
//! An observer must not block: it copies into a bounded queue or counts.

use bytes::Bytes;

use crate::model::{Headers, Name, Offset, OutputId, TableId, TaskId, Time, Value};
use crate::operators::{DeadLetter, Origin, TableChange};

/// What one commit made true for one task.
#[derive(Clone, Debug)]
pub struct Committed {
    pub task: TaskId,
    /// Dead letters, in the order produced.
    pub dead_letters: Vec<DeadLetter>,
    /// Per table of the task that changed: positions in its changelog, changes in order.
    pub tables: Vec<CommittedTable>,
    /// Records written to outputs, in the order produced.
    pub outputs: Vec<CommittedOutput>,
}

#[derive(Clone, Debug)]
pub struct CommittedTable {
    pub table: TableId,
    pub partition: i32,
    /// The changelog offset that the commit before ended with.
    pub prev: Offset,
    /// The changelog offset that this commit ends with.
    pub next: Offset,
    /// How many rows changed.
    pub changed: usize,
    /// The changed rows; none where no observer wants them ([`Observer::wants_changes`]).
    pub changes: Vec<TableChange>,
}

#[derive(Clone, Debug)]
pub struct CommittedOutput {
    pub output: OutputId,
    pub key: Value,
    pub window: Option<(Time, Time)>,
    /// `None`: a tombstone.
    pub value: Option<Value>,
    pub bytes: Option<Bytes>,
    pub time: Time,
    pub headers: Headers,
    pub origin: Option<Origin>,
}

/// An edge that wants to know.
pub trait Observer: Send + Sync {
    /// A task is restored and running; its tables' changelogs stand at these offsets.
    fn opened(&self, task: TaskId, tables: &[(TableId, Name, Offset)]);
    /// A task is no longer here.
    fn closed(&self, task: TaskId, tables: &[TableId]);
    /// Committed; called once per task and commit, in the order of commits.
    fn committed(&self, committed: &Committed);
    /// Whether the changed rows of a table are wanted. Asked at each commit: holding on to every row for nobody costs as
    /// much as writing it.
    fn wants_changes(&self, table: TableId) -> bool;
    /// Whether stream threads shall take no more records for now; asked in each turn. What they have taken is committed all the
    /// same, and what the client has fetched stays with it: `pause` would throw it away.
    fn holds_input(&self) -> bool {
        false
    }
    /// Whether outputs and dead letters are wanted with their values (replay, tests). Views need tables only.
    fn wants_outputs(&self) -> bool {
        false
    }
}
