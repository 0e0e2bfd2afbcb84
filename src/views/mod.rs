//! Redis materializations of tables. A view sees committed rows only, and never reads Redis to decide what a row is.
//!
//! A shape is a file here and a line in [`VIEWS`]. `fence` is the script that applies a batch only where Redis stands exactly
//! where the batch starts; `redis` and `memory` are the two places where a view can live.

use smol_str::SmolStr;

use crate::expression::Program;
use crate::model::{Name, TableId};

/// A checked view. Expressions see [`crate::operators::fold::ROW_SCOPE`].
#[derive(Clone, Debug)]
pub struct ViewSpec {
    pub name: Name,
    pub table: TableId,
    pub when: Option<Program>,
    pub shape: ViewShape,
    /// The Redis key.
    pub key: Template,
    /// `hash`: the fields (none: all of the row). `json`, `stream`: likewise.
    pub fields: Option<Vec<(SmolStr, Program)>>,
    /// `string`, `pubsub`: the value. Default: the row as JSON.
    pub value: Option<Program>,
    /// `zset`: a number.
    pub score: Option<Program>,
    /// `zset`, `set`: the member, written as JSON unless it is a string.
    pub member: Option<Member>,
    /// Milliseconds; `None`: no TTL.
    pub ttl_ms: Option<i64>,
    pub on_delete: OnViewDelete,
    pub notify: Option<Notify>,
    /// `zset`, `stream`: only the newest so many.
    pub keep_last: Option<u64>,
    /// `zset`: one member per score; an update replaces it.
    pub replace_by_score: bool,
}

#[derive(Clone, Debug)]
pub enum Member {
    Fields(Vec<(SmolStr, Program)>),
    Whole(Program),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewShape {
    Hash,
    Json,
    String,
    Zset,
    Set,
    Stream,
    Pubsub,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnViewDelete {
    #[default]
    Del,
    /// Milliseconds.
    Expire(i64),
    Keep,
}

/// A message after the write, in the same script.
#[derive(Clone, Debug)]
pub struct Notify {
    pub channel: Template,
    pub payload: Program,
}

/// Text with expressions in braces: `product:{key}`.
#[derive(Clone, Debug)]
pub struct Template {
    pub parts: Vec<TemplatePart>,
}

#[derive(Clone, Debug)]
pub enum TemplatePart {
    Text(String),
    Value(Program),
}
