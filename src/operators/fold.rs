//! A table: a keyed fold of one or several sources.

use std::sync::Arc;

use crate::codec::KeyCodec;
use crate::expression::Program;
use crate::model::{Name, Shape, SourceId};

/// Names in the scope of expressions over a row (views, outputs), in the order of their slots.
/// `row` and `old` are null where there is none; `time` is the event time of the change; `window` only in windowed tables.
pub const ROW_SCOPE: [&str; 6] = ["row", "old", "key", "time", "headers", "window"];

/// A checked table.
#[derive(Clone, Debug)]
pub struct TableSpec {
    pub name: Name,
    pub key: KeyCodec,
    /// Visible fields in the order of the file; followed by `complete: bool` if `has_complete`.
    pub shape: Arc<Shape>,
    /// The table has contributors.
    pub has_complete: bool,
    /// Sorted by the source's name; the order of [`crate::state::row::RowState::sources`].
    pub inputs: Vec<TableInput>,
    pub dedupe: Option<Dedupe>,
    pub on_stale: OnStale,
    pub emit: Emit,
    /// Milliseconds; row TTL by event time of the last change; `None`: for ever. In windowed tables see `window`.
    pub keep_ms: Option<i64>,
    /// Milliseconds a grave is kept, by stream time. Default 7 days.
    pub grave_ms: i64,
    pub query: bool,
    pub window: Option<WindowSpec>,
}

/// How one source feeds a table. Expressions see [`crate::operators::source::EVENT_SCOPE`].
#[derive(Clone, Debug)]
pub struct TableInput {
    pub source: SourceId,
    pub source_name: Name,
    pub role: Role,
    /// Empty: `[time]`, the default. Ties are broken by offset.
    pub order_by: Vec<Program>,
    pub when: Option<Program>,
    /// Sorted by field name (then by position); the order of `SourceState::fields`.
    pub rules: Vec<FieldRule>,
    pub on_tombstone: OnTombstone,
    /// For contributors.
    pub owner_missing: Option<OwnerMissing>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Owner,
    Contributor,
}

/// What a source does to one field.
#[derive(Clone, Debug)]
pub struct FieldRule {
    /// Slot in the table's shape.
    pub field: usize,
    pub rule: Rule,
}

/// A field rule with its compiled expressions.
#[derive(Clone, Debug)]
pub enum Rule {
    Last(Program),
    First(Program),
    Min(Program),
    Max(Program),
    Sum(Program),
    Count,
    Avg(Program),
    Collect {
        value: Program,
        limit: usize,
    },
    Distinct {
        value: Program,
        limit: usize,
    },
    /// The `limit` greatest by `by`; `value` default `event`.
    Top {
        value: Program,
        by: Program,
        limit: usize,
    },
    Put {
        at: Program,
        value: Program,
    },
    Remove {
        at: Program,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTombstone {
    DeleteRow,
    ClearFields,
    Ignore,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerMissing {
    pub what: WhenOwnerMissing,
    /// Milliseconds of wall clock; `None`: for ever.
    pub max_wait_ms: Option<i64>,
    pub on_timeout: OnTimeout,
    /// Records buffered per key, default 100.
    pub max_per_key: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenOwnerMissing {
    Placeholder,
    Buffer,
    Drop,
    DeadLetter,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTimeout {
    Keep,
    Delete,
    DeadLetter,
}

#[derive(Clone, Debug)]
pub struct Dedupe {
    /// `None`: the source's `id`.
    pub by: Option<Program>,
    pub for_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnStale {
    #[default]
    Count,
    DeadLetter,
    Emit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Emit {
    #[default]
    Changes,
    Every,
    Closed,
}

/// A tumbling window. All in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowSpec {
    pub size_ms: i64,
    pub grace_ms: i64,
    pub keep_ms: i64,
    pub idle_close_ms: Option<i64>,
    pub on_late: OnLate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnLate {
    #[default]
    DeadLetter,
    Count,
    Amend,
}
