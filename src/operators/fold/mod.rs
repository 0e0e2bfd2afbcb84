//! A table: a keyed fold of one or several sources.
//!
//! Here is what a checked table is; `merge` is the algebra of one row (no store, no record), `rules` the field rules,
//! `order` the total order of values, `table` the operator that joins them with the stores of a task.

use std::fmt::Write;
use std::sync::Arc;

use crate::codec::KeyCodec;
use crate::expression::Program;
use crate::model::{Name, Shape, SourceId};

pub mod merge;
pub mod order;
pub mod rules;
pub mod table;

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

impl WindowSpec {
    /// How long a window is kept, from its start.
    pub fn kept_ms(&self) -> i64 {
        self.keep_ms.max(self.size_ms.saturating_add(self.grace_ms))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnLate {
    #[default]
    DeadLetter,
    Count,
    Amend,
}

impl TableSpec {
    /// A number for the shape of what is stored: tables with equal numbers read each other's rows.
    ///
    /// It covers names, types and rules, in an order that does not depend on the order of lines in the file.
    pub fn schema_id(&self) -> u32 {
        let mut text = String::new();
        for input in &self.inputs {
            let _ = write!(text, "{}:{:?}(", input.source_name, input.role);
            for rule in &input.rules {
                let field = &self.shape.fields[rule.field];
                let _ = write!(text, "{}:{}:{},", field.name, field.ty, rule.rule.name());
            }
            text.push_str(");");
        }
        crc32fast::hash(text.as_bytes())
    }

    /// All expressions of its inputs.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        let of_inputs = self.inputs.iter().flat_map(|input| {
            let rules = input.rules.iter().flat_map(|rule| rule.rule.programs());
            input.when.iter().chain(&input.order_by).chain(rules)
        });
        of_inputs.chain(self.dedupe.iter().filter_map(|dedupe| dedupe.by.as_ref()))
    }
}

impl Rule {
    /// As it is written in a file.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Last(_) => "last",
            Rule::First(_) => "first",
            Rule::Min(_) => "min",
            Rule::Max(_) => "max",
            Rule::Sum(_) => "sum",
            Rule::Count => "count",
            Rule::Avg(_) => "avg",
            Rule::Collect { .. } => "collect",
            Rule::Distinct { .. } => "distinct",
            Rule::Top { .. } => "top",
            Rule::Put { .. } => "put",
            Rule::Remove { .. } => "remove",
        }
    }

    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        let (first, second) = match self {
            Rule::Last(p) | Rule::First(p) | Rule::Min(p) | Rule::Max(p) | Rule::Sum(p) | Rule::Avg(p) => (Some(p), None),
            Rule::Collect { value, .. } | Rule::Distinct { value, .. } => (Some(value), None),
            Rule::Count => (None, None),
            Rule::Top { value, by, .. } => (Some(value), Some(by)),
            Rule::Put { at, value } => (Some(at), Some(value)),
            Rule::Remove { at } => (Some(at), None),
        };
        first.into_iter().chain(second)
    }
}
