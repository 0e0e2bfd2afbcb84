//! Bytes to values and back, only the fields that are asked for. Knows no topic and no store.
//!
//! A codec is a file here and a line in [`CODECS`].

use std::fmt;

use crate::model::{Type, Value};

pub mod json;
pub mod key;
pub mod utf8;

pub use key::KeyCodec;

#[cfg(test)]
mod tests;

/// A codec of values, as written in `value:` of a source or output.
#[derive(Debug)]
pub struct CodecKind {
    pub name: &'static str,
    pub summary: &'static str,
    /// A source that uses it, as in a topology file.
    pub example: &'static str,
    /// Makes a decoder for the declared type (`any` where nothing is declared).
    pub decoder: fn(&Type, Limits) -> Box<dyn Decode>,
    /// Writes a value; the opposite of decode.
    pub encode: fn(&Value, &mut Vec<u8>),
}

/// All codecs, in the order of the manual.
pub const CODECS: &[&CodecKind] = &[&json::KIND, &utf8::STRING, &utf8::BYTES];

/// Reads values of one declared type. Used by one thread; holds buffers.
pub trait Decode: Send {
    /// # Errors
    /// [`BadValue`]: the record goes the way of its source's `on_error`.
    fn decode(&mut self, bytes: &[u8]) -> Result<Value, BadValue>;
}

/// Bounds on what comes from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest value in bytes, default 1 MiB.
    pub value_bytes: usize,
    /// Deepest nesting, default and at most [`json::DEPTH_MAX`].
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { value_bytes: 1 << 20, depth: json::DEPTH_MAX }
    }
}

/// Why bytes are not a value of the declared type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadValue {
    /// A reason for metrics and dead letters: `not_json`, `wrong_type`, `missing_field`, `too_large`, `too_deep`, `number_out_of_range`, `not_utf8`.
    pub reason: &'static str,
    /// What was found where: `field \`price\`: expected decimal, found true, at byte 17`.
    pub detail: String,
}

impl BadValue {
    pub fn new(reason: &'static str, detail: impl Into<String>) -> BadValue {
        BadValue { reason, detail: detail.into() }
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for BadValue {}

/// The codec that is written so in a topology file.
pub fn codec(name: &str) -> Option<&'static CodecKind> {
    CODECS.iter().copied().find(|kind| kind.name == name)
}
