//! Redis materializations of tables. A view sees committed rows only, and never reads Redis to decide what a row is.
//!
//! A shape is a file here and a line in [`VIEWS`]. A committed change goes a straight line: `render` turns it into `commands`,
//! `placement` says where they lie in Redis, `lane` decides what one view does next on one partition, `fence` applies a piece
//! only where Redis stands exactly where the piece starts. `redis` and `memory` are the two places where a view can live.

use std::time::Duration;

use smol_str::SmolStr;

use crate::expression::Program;
use crate::model::{Headers, Key, Name, Offset, TableId, Time, Value};
use crate::views::commands::Commands;
use crate::views::render::{Rendering, Unshowable};

pub mod commands;
pub mod fence;
pub mod lane;
pub mod memory;
pub mod opening;
pub mod place;
pub mod placement;
pub mod queue;
pub mod rebuild;
pub mod redis;
pub mod render;
pub mod rows;

mod hash;
mod json;
mod pubsub;
mod set;
mod stream;
mod string;
mod zset;

/// A shape of a view, as written in `as:`.
pub struct ViewKind {
    pub shape: ViewShape,
    pub name: &'static str,
    pub summary: &'static str,
    /// Keys that may stand beside `as:` in the block `redis:`.
    pub fields: &'static [&'static str],
    /// The block `redis:` of a view that uses it, in one line of YAML.
    pub example: &'static str,
    /// Writes a row; its commands replace whatever stood there for it. False if the row has nothing to show (a null).
    show: fn(&Rendering<'_>, &mut Commands) -> Result<bool, Unshowable>,
    /// Takes a row away by key and window alone; `None`: the Redis key goes.
    remove: Option<fn(&Rendering<'_>, &mut Commands) -> Result<(), Unshowable>>,
}

/// All shapes, in the order of the manual.
pub const VIEWS: &[&ViewKind] = &[&hash::KIND, &json::KIND, &string::KIND, &zset::KIND, &set::KIND, &stream::KIND, &pubsub::KIND];

/// The kind of a shape.
pub fn kind(shape: ViewShape) -> &'static ViewKind {
    match shape {
        ViewShape::Hash => &hash::KIND,
        ViewShape::Json => &json::KIND,
        ViewShape::String => &string::KIND,
        ViewShape::Zset => &zset::KIND,
        ViewShape::Set => &set::KIND,
        ViewShape::Stream => &stream::KIND,
        ViewShape::Pubsub => &pubsub::KIND,
    }
}

/// A checked view. Its expressions see the scope of rows: `row`, `old`, `key`, `time`, `headers`, `window`, in this order.
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
    /// Milliseconds; `None`: no TTL. Counted from the write.
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

/// What happens in Redis when a row leaves the view: it was deleted, `when` turned false, or its key changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnViewDelete {
    #[default]
    Del,
    /// Milliseconds. Members of a `zset` or `set` cannot expire: they are removed at once.
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

impl TemplatePart {
    pub fn program(&self) -> Option<&Program> {
        match self {
            TemplatePart::Text(_) => None,
            TemplatePart::Value(program) => Some(program),
        }
    }
}

/// A committed change of one row, as it leaves a table: once per key and commit.
#[derive(Clone, Debug)]
pub struct RowChange {
    pub key: Value,
    /// The key as the store has it, without the window.
    pub key_bytes: Key,
    /// Start and end, in windowed tables.
    pub window: Option<(Time, Time)>,
    /// The row as of the last commit, `complete` included where the table has it; `None`: absent.
    pub old: Option<Value>,
    pub new: Option<Value>,
    /// Event time of the change.
    pub time: Time,
    pub headers: Headers,
}

/// What one commit changed in one partition of one table.
///
/// `prev` is the `next` of the batch before, or the offset given to [`ViewPublisher::open`]; `next` is the changelog offset
/// after the last record of the commit. So the batches of a partition form a chain, and a gap in it is seen.
#[derive(Clone, Debug)]
pub struct CommittedBatch {
    pub table: TableId,
    pub partition: i32,
    /// UUID of the changelog topic (KIP-516).
    pub topic_id: String,
    pub prev: Offset,
    pub next: Offset,
    pub changes: Vec<RowChange>,
}

/// The port to the views of a worker. Two implementations: `redis::RedisViews` and `memory::MemoryViews`.
///
/// Called by the stream threads; no call waits for Redis, except [`ViewPublisher::shutdown`].
pub trait ViewPublisher: Send + Sync {
    /// A task became active and its table is restored up to `offset` of the changelog (the sealed offset, next to read).
    /// The views of this partition compare themselves with it and catch up. Opening again starts anew.
    fn open(&self, table: TableId, partition: i32, topic_id: &str, offset: Offset);

    /// The task was revoked or closed. What is queued is still written if that takes no time; the next owner does the rest.
    fn close(&self, table: TableId, partition: i32);

    /// Step 7 of the commit. Ignored for a table without views and for a partition that is not open.
    fn publish(&self, batch: CommittedBatch) -> Pressure;

    /// Whether stream threads that hold back because of [`Pressure::Pause`] may go on.
    fn pressure(&self) -> Pressure;

    /// Each view on each open partition, by view name and partition.
    fn status(&self) -> Vec<ViewStatus>;

    /// Waits until everything published is written, at most so long, and stops. True if nothing was left.
    fn shutdown(&self, within: Duration) -> bool;
}

/// What a full queue asks of the stream thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    /// Go on. Where the queue was full, the views concerned catch up from the store later.
    None,
    /// `on_lag: pause`: take no more records until [`ViewPublisher::pressure`] says `None`.
    Pause,
}

/// How one view stands on one partition, for health pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewStatus {
    pub view: Name,
    pub partition: i32,
    /// `probing`, `live`, `refilling`, `rebuilding`, `waiting`.
    pub state: &'static str,
    /// Offset of the changelog that the view stands at; `None`: not known yet.
    pub at: Option<Offset>,
    /// Sealed offset of the table.
    pub sealed: Offset,
    /// Rows written by the rebuild or refill that is going on.
    pub progress: u64,
    /// What Redis said last, if it was an error: lowercase, without addresses or secrets.
    pub error: Option<String>,
}
