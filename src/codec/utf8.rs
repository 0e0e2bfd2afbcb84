//! `value: string` and `value: bytes`: the record's value as it is.

use bytes::Bytes;
use smol_str::SmolStr;

use crate::codec::json::scalar_text;
use crate::codec::{BadValue, CodecKind, Decode, Limits};
use crate::model::Value;

pub const STRING: CodecKind = CodecKind {
    name: "string",
    summary: "UTF-8 text; `event` is a string",
    example: "sources: { lines: { topic: lines, value: string } }",
    decoder: |_, limits| Box::new(StringDecoder { limits }),
    encode: write_string,
};

pub const BYTES: CodecKind = CodecKind {
    name: "bytes",
    summary: "any bytes; `event` is bytes",
    example: "sources: { images: { topic: images, value: bytes } }",
    decoder: |_, limits| Box::new(BytesDecoder { limits }),
    encode: write_bytes,
};

struct StringDecoder {
    limits: Limits,
}

impl Decode for StringDecoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<Value, BadValue> {
        within(self.limits, bytes)?;
        utf8(bytes).map(|text| Value::String(SmolStr::new(text)))
    }
}

struct BytesDecoder {
    limits: Limits,
}

impl Decode for BytesDecoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<Value, BadValue> {
        within(self.limits, bytes)?;
        Ok(Value::Bytes(Bytes::copy_from_slice(bytes)))
    }
}

/// Refuses a value over the size limit.
pub(super) fn within(limits: Limits, bytes: &[u8]) -> Result<(), BadValue> {
    if bytes.len() <= limits.value_bytes {
        return Ok(());
    }
    Err(BadValue::new("too_large", format!("the value has {} bytes, the limit is {}", bytes.len(), limits.value_bytes)))
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, BadValue> {
    str::from_utf8(bytes).map_err(|error| BadValue::new("not_utf8", format!("not UTF-8 at byte {}", error.valid_up_to())))
}

/// A string as it is; anything else as its text in JSON, without quotes.
fn write_string(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::String(text) => into.extend_from_slice(text.as_bytes()),
        other => into.extend_from_slice(scalar_text(other).as_bytes()),
    }
}

/// Bytes as they are; anything else as [`write_string`] has it.
fn write_bytes(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Bytes(bytes) => into.extend_from_slice(bytes),
        other => write_string(other, into),
    }
}
