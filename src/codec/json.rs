//! `value: json`. Reads only declared fields, straight from the bytes; writes values in one canonical form (`encode`).
//!
//! | declared | JSON that is read |
//! | --- | --- |
//! | `string` | a string |
//! | `int`, `uint` | a whole number (`5`, `5.0`, `5e0`), or a string of its digits |
//! | `double` | a number |
//! | `decimal` | a number or a string, exactly as written: `9.90` keeps its scale |
//! | `timestamp` | an RFC 3339 string, or whole milliseconds since 1970 |
//! | `duration` | a string such as `1.5s` or `1h30m` |
//! | `bytes` | a string of base64, padded or not |
//! | `list<T>`, `map<K, V>`, `{ … }` | a list, an object, an object of which only declared fields are read |
//! | `any` | anything: whole numbers are `int` (`uint` beyond its range), other numbers `double` |
//! | `optional T` | as `T`, or null, or missing; both read as null |
//!
//! A name that comes twice counts as its last value. JSON has no NaN, no infinity and no comments, and neither have we. A
//! value that is `null` as a whole is null whatever is declared: a source takes it for a tombstone, as Kafka Streams does.

use crate::codec::{BadValue, CodecKind, Decode, Limits};
use crate::model::{Type, Value};

mod decode;
mod encode;
mod scan;
mod text;

pub use decode::JsonDecoder;
pub use encode::{INTEGER_NUMBER_MAX, scalar_text, to_json, write_value};
pub use scan::DEPTH_MAX;
pub use text::{NotANumber, duration_text, parse_decimal, parse_duration, parse_int};

pub const KIND: CodecKind = CodecKind {
    name: "json",
    summary: "JSON text; only declared fields are read",
    example: "sources: { prices: { topic: prices, value: json, fields: { sku: string, price: decimal } } }",
    decoder: |ty, limits| Box::new(JsonDecoder::new(ty, limits)),
    encode: write_value,
};

/// A value of a type from a tree that was read before: steps of tests, bodies of requests.
///
/// A tree holds numbers as doubles: where the scale of a decimal matters, it must be a string there.
///
/// # Errors
/// As [`JsonDecoder`], with the byte counted in the text of the tree.
pub fn from_json(tree: &serde_json::Value, ty: &Type) -> Result<Value, BadValue> {
    // Through the text, so that there is one reader and one meaning.
    let limits = Limits { value_bytes: usize::MAX, ..Limits::default() };
    JsonDecoder::new(ty, limits).decode(tree.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
