//! What a topology is made of, compiled: sources, tables, outputs. One file per verb; no I/O, no thread, no clock.

use std::fmt;

use bytes::Bytes;

use crate::expression::EvaluationError;
use crate::model::{Headers, Key, Record, SourceId, TableId, Time, Value};
use crate::state::{StateError, TaskState};

pub mod fold;
pub mod output;
pub mod scope;
pub mod source;

/// Why an operator did not finish a record.
#[derive(Debug)]
pub enum Failure {
    /// The record is bad: it goes the way of its source's `on_error`. Nothing of it was applied.
    Record { reason: &'static str, detail: String },
    /// The store failed: the task is closed.
    State(StateError),
}

impl Failure {
    /// One of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::Record { reason, .. } => reason,
            Failure::State(_) => "expression",
        }
    }
}

impl From<EvaluationError> for Failure {
    fn from(error: EvaluationError) -> Failure {
        Failure::Record { reason: "expression", detail: error.message }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        Failure::State(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Record { reason, detail } => write!(f, "{reason}: {detail}"),
            Failure::State(error) => write!(f, "{error:?}"),
        }
    }
}

/// Where something came from: a record of a source, or (`None` as an option) a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    pub source: SourceId,
    pub offset: i64,
}

/// The row of a key before and after; what leaves a table.
#[derive(Clone, Debug)]
pub struct TableChange {
    pub table: TableId,
    pub key: Value,
    /// The record's key as the store has it, without the window.
    pub record_key: Key,
    /// Start and end.
    pub window: Option<(Time, Time)>,
    pub old: Option<Value>,
    pub new: Option<Value>,
    /// Event time of the change.
    pub time: Time,
    /// Headers of the causing record.
    pub headers: Headers,
    pub origin: Option<Origin>,
}

/// A record that could not be used, or waited in vain.
#[derive(Clone, PartialEq, Debug)]
pub struct DeadLetter {
    pub source: SourceId,
    /// One of [`REASONS`].
    pub reason: &'static str,
    pub detail: String,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
    pub offset: i64,
    pub time: Time,
    pub origin: Option<Origin>,
}

/// Reasons of dead letters and of the counters of dropped records.
pub const REASONS: &[(&str, &str)] = &[
    ("not_json", "The value is not JSON."),
    ("not_utf8", "The bytes are not UTF-8 text."),
    ("wrong_type", "A field has another type than was declared."),
    ("missing_field", "A field that is not optional is missing or null."),
    ("too_large", "The value is larger than the limit, or a row is larger than the topic of its output takes."),
    ("too_deep", "The value is nested deeper than the limit."),
    ("number_out_of_range", "A number does not fit its type."),
    ("missing_key", "The record has no key."),
    ("bad_key", "The key is not what `key` says."),
    ("key_mismatch", "The key differs from `keyed_by`."),
    ("bad_time", "`time` yields no time from 1970 to 9999, or the record has none."),
    ("future", "The event time is further ahead of the clock than `future`."),
    ("expression", "An expression failed on this record."),
    ("stale", "Older than its own source's version in the row (`on_stale: dead_letter`)."),
    ("late", "Its window was closed (`on_late: dead_letter`)."),
    ("owner_missing", "No owner spoke within `max_wait`, or at all (`do: dead_letter`)."),
    ("buffer_full", "More than `max_per_key` records waited for an owner; this was the oldest."),
];

/// What operators work with: the task's state, what they cause beside it, and the wall clock as of this turn.
pub struct Context<'a> {
    pub state: &'a mut TaskState,
    pub effects: &'a mut Effects,
    /// Wall clock; used for `max_wait` and `idle_close` only.
    pub now: Time,
}

/// What operators cause beside changes of state, written in the same transaction.
#[derive(Debug, Default)]
pub struct Effects {
    pub dead_letters: Vec<DeadLetter>,
    pub stale: Vec<StaleRecord>,
}

/// A stale record of a table with `on_stale: emit`.
#[derive(Clone, Debug)]
pub struct StaleRecord {
    pub table: TableId,
    pub record: Record,
    /// The value as it came.
    pub raw: Option<Bytes>,
}
