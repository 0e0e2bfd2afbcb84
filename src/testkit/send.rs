//! Turns a record as a person writes it (a test step, a line of `replay`, a line for `demo`) into bytes of a topic.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use smol_str::SmolStr;

use crate::codec::json::from_json;
use crate::codec::{KeyCodec, Limits};
use crate::model::{Headers, Name, SourceId, Time, Value};
use crate::operators::source::SourceSpec;
use crate::testkit::driver::DriverError;
use crate::topology::Topology;

/// A record to send.
#[derive(Clone, Debug)]
pub struct ToSend<'a> {
    /// Name of a source.
    pub to: &'a str,
    /// JSON text (or plain text for the codec `string`); `None`: a tombstone.
    pub value: Option<&'a str>,
    /// `None`: what `keyed_by` yields.
    pub key: Option<&'a serde_json::Value>,
    pub headers: Vec<(SmolStr, Option<Bytes>)>,
    /// `None`: the wall clock.
    pub time: Option<Time>,
    pub partition: Option<i32>,
}

/// The same as bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Encoded {
    pub source: SourceId,
    pub topic: Name,
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub time: Option<Time>,
    pub headers: Headers,
}

/// Encodes a record for its source's topic.
///
/// # Errors
/// An unknown source, a key that is not of the source's codec, or none and nothing to compute it from.
pub fn encode(topology: &Topology, record: ToSend<'_>) -> Result<Encoded, DriverError> {
    let index = topology.sources.iter().position(|source| &*source.name == record.to).ok_or_else(|| {
        let known: Vec<&str> = topology.sources.iter().map(|source| source.name.as_str()).collect();
        DriverError(format!("there is no source `{}`; there are {}", record.to, known.join(", ")))
    })?;
    let source = &topology.sources[index];
    let value = record.value.map(|text| value_bytes(source, text)).transpose()?;
    let key = match record.key {
        Some(serde_json::Value::Null) => None,
        Some(key) => Some(encode_key(source.key, &key_value(source.key, key)?)?),
        None => keyed_by(source, value.as_deref())?,
    };
    Ok(Encoded {
        source: SourceId(index),
        topic: source.topic.clone(),
        partition: record.partition,
        key,
        value,
        time: record.time,
        headers: Headers::new(record.headers),
    })
}

/// With the codec `string` a JSON string is its text, with `bytes` the base64 of its bytes.
fn value_bytes(source: &SourceSpec, text: &str) -> Result<Bytes, DriverError> {
    let is_bytes = source.value.name == "bytes";
    let plain = match serde_json::from_str(text) {
        Ok(serde_json::Value::String(plain)) if is_bytes || source.value.name == "string" => plain,
        _ => return Ok(Bytes::copy_from_slice(text.as_bytes())),
    };
    if !is_bytes {
        return Ok(Bytes::from(plain));
    }
    let not_base64 = |_| format!("values of `{}` are bytes, written as base64: `{}` is not", source.name, plain.escape_debug());
    STANDARD.decode(&plain).map(Bytes::from).map_err(|error| DriverError(not_base64(error)))
}

/// A key in JSON as a value of the codec's type.
///
/// # Errors
/// When it is not of that type.
pub fn key_value(codec: KeyCodec, key: &serde_json::Value) -> Result<Value, DriverError> {
    let of_text = |text: &str| codec.from_text(text).map(|(_, value)| value).map_err(|bad| DriverError(format!("key: {}", bad.detail)));
    match key {
        serde_json::Value::String(text) => of_text(text),
        serde_json::Value::Number(number) if codec != KeyCodec::Json => of_text(&number.to_string()),
        other => from_json(other, &codec.ty()).map_err(|bad| DriverError(format!("key: {}", bad.detail))),
    }
}

fn encode_key(codec: KeyCodec, value: &Value) -> Result<Bytes, DriverError> {
    let mut bytes = Vec::new();
    codec.encode(value, &mut bytes).map_err(|bad| DriverError(format!("key: {}", bad.detail)))?;
    Ok(bytes.into())
}

/// What `keyed_by` yields for the value; no key where it cannot be computed, as a producer that sends none.
fn keyed_by(source: &SourceSpec, value: Option<&[u8]>) -> Result<Option<Bytes>, DriverError> {
    let (Some(program), Some(value)) = (&source.keyed_by, value) else {
        return Err(DriverError(format!(
            "a record to `{}` needs a `key`: there is no value from which `keyed_by` could compute it",
            source.name
        )));
    };
    let mut decoder = (source.value.decoder)(&source.event, Limits::default());
    let Ok(event) = decoder.decode(value) else { return Ok(None) };
    let null = Value::Null;
    match program.evaluate(&[&event, &null, &null, &null, &null, &null, &null]) {
        Ok(key) => encode_key(source.key, &key).map(Some).or(Ok(None)),
        Err(_) => Ok(None),
    }
}
