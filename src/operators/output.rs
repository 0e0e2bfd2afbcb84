//! An output: committed changes of a table, or stale records of one, written to a topic in the same transaction.

use smol_str::SmolStr;

use crate::codec::{CodecKind, KeyCodec};
use crate::expression::Program;
use crate::model::{Name, TableId};

/// A checked output. Expressions see [`crate::operators::fold::ROW_SCOPE`].
#[derive(Clone, Debug)]
pub struct OutputSpec {
    pub name: Name,
    pub from: OutputFrom,
    pub topic: Name,
    /// `None`: the row's key, as it is.
    pub key: Option<Program>,
    pub key_codec: KeyCodec,
    pub value: &'static CodecKind,
    /// `None`: the whole row.
    pub set: Option<OutputValue>,
    pub when: Option<Program>,
    pub on_delete: OnOutputDelete,
    pub headers: Vec<(SmolStr, Program)>,
}

#[derive(Clone, Debug)]
pub enum OutputValue {
    Fields(Vec<(SmolStr, Program)>),
    Whole(Program),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputFrom {
    Table(TableId),
    /// `<table>.stale`, of a table with `on_stale: emit`.
    Stale(TableId),
}

/// What is written when a row is deleted, or `when` turns false for a row that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnOutputDelete {
    #[default]
    Tombstone,
    Ignore,
}
