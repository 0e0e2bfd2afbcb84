//! A source: a topic in. Turns a message into a [`Record`](crate::model::Record), or says why it is bad.

use crate::codec::{CodecKind, KeyCodec};
use crate::expression::Program;
use crate::model::{Name, Type};

/// Names in the scope of a source's and a table's expressions, in the order of their slots.
pub const EVENT_SCOPE: [&str; 7] = ["event", "key", "time", "headers", "topic", "partition", "offset"];

/// A checked source. Its expressions see [`EVENT_SCOPE`] (`time` in `time:` is the record's timestamp).
#[derive(Clone, Debug)]
pub struct SourceSpec {
    pub name: Name,
    pub topic: Name,
    pub key: KeyCodec,
    pub value: &'static CodecKind,
    /// Type of `event`: an object of the declared fields, or `any`.
    pub event: Type,
    pub keyed_by: Option<Program>,
    pub time: Option<Program>,
    pub id: Option<Program>,
    pub when: Option<Program>,
    pub on_error: OnError,
    /// Milliseconds that an event time may be ahead of the clock; `None`: no bound.
    pub future_ms: Option<i64>,
}

/// What happens to a bad record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    #[default]
    DeadLetter,
    Skip,
    Fail,
}
