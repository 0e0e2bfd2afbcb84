//! The port to durable storage of one task: `rocks` and `memory`.
//!
//! A backend is a set of named columns of sorted keys. It knows no row, no offset and no overlay: what is written has been
//! committed, and what must become durable together comes in one `write`. Used by one thread at a time.

use std::ops::Bound;
use std::ops::ControlFlow;

use crate::state::StateError;

/// A column of a backend: a store, a segment of a windowed store, or `meta`. Valid until it is dropped or the backend is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ColumnId(pub u32);

/// A row to write; `None` deletes.
#[derive(Clone, Copy, Debug)]
pub struct RowWrite<'a> {
    pub column: ColumnId,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Called with key and value of each row of a scan.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Storage of one task.
///
/// What was written is seen by `get` and `scan` at once, and is durable after [`Backend::flush`]. A crash in between loses the newest
/// batches, always whole and always the newest: what is left is what an earlier moment looked like. Dropping a column is
/// durable at once.
pub trait Backend: Send {
    fn kind(&self) -> BackendKind;

    /// The names of all columns, sorted.
    fn columns(&self) -> Vec<String>;

    /// Opens a column, which is made empty where it does not exist.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    fn open_column(&mut self, name: &str) -> Result<ColumnId, StateError>;

    /// Drops a column with all its rows, in constant time. Its id is dead afterwards.
    fn drop_column(&mut self, column: ColumnId) -> Result<(), StateError>;

    /// The value of a key.
    fn get(&self, column: ColumnId, key: &[u8]) -> Result<Option<Box<[u8]>>, StateError>;

    /// Visits the rows between the bounds, merged over the columns in the order of keys. The columns have no key in common.
    fn scan(&self, columns: &[ColumnId], from: Bound<&[u8]>, to: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), StateError>;

    /// Writes rows as one atomic batch: after a crash all of them are there or none. Fastest if sorted by key.
    fn write<'a>(&mut self, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<(), StateError>;

    /// Writes many rows of one column, strictly ascending by key, past the memtables. Durable at once, and not atomic with anything.
    fn ingest<'a>(&mut self, column: ColumnId, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<(), StateError>;

    /// Makes everything written durable before it returns.
    fn flush(&mut self) -> Result<(), StateError>;

    /// Begins to make everything written durable and does not wait. A failure shows in a later `write` or `flush`.
    fn start_flush(&mut self) -> Result<(), StateError>;
}

/// Which backend it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    Rocks,
    Memory,
}

/// Whether no key can lie between the bounds. `BTreeMap::range` panics on such bounds.
pub(super) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
    }
}
