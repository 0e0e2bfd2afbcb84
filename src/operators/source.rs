//! A source: a topic in. Turns a message into a [`Record`], or says why it is bad.
//!
//! Knows nothing of tables and drops nothing silently: a message is a record, is not meant by this source (`when`), or is
//! bad with a reason. Several sources may read one topic; each is asked about every message of it.

use std::fmt;
use std::sync::Arc;

use crate::codec::json::scalar_text;
use crate::codec::{CodecKind, Decode, KeyCodec, Limits};
use crate::expression::Program;
use crate::log::Message;
use crate::model::{Field, Key, Name, Record, Shape, SourceId, Time, Timestamp, Type, Value};
use crate::operators::scope::{EVENT_HEADERS, headers_value, time_value};

/// Names in the scope of a source's and a table's expressions, in the order of their slots.
pub const EVENT_SCOPE: [&str; 7] = ["event", "key", "time", "headers", "topic", "partition", "offset"];

const EVENT: usize = 0;
const KEY: usize = 1;
const TIME: usize = 2;

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

/// Why a message is not a record of its source. It goes the way of `on_error`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRecord {
    /// One of [`REASONS`](crate::operators::REASONS); the header `millstream-reason`.
    pub reason: &'static str,
    /// What was found where; the header `millstream-detail`.
    pub detail: String,
}

/// Decodes the messages of one source. Used by one thread.
pub struct SourceDecoder {
    id: SourceId,
    spec: SourceSpec,
    decoder: Box<dyn Decode>,
    gate: Option<Gate>,
    when: When,
    topic: Value,
    /// Whether any expression looks at headers: making them a map costs more than all else together.
    uses_headers: bool,
}

/// At which point `when` is asked, from what it looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Never,
    /// Neither event nor time: whose record this is can be said before anything is parsed.
    BeforeValue,
    /// The time, but not the event.
    OfEveryRecord,
    /// The event, which a tombstone does not have.
    OfValues,
}

/// Decides whether a value is meant by the source when it is not of the declared type.
///
/// Where several sources share a topic, the events of the others lack the fields of this one. They are not bad, they are
/// somebody else's: `when` decides, on the fields that it looks at, with all others left alone.
struct Gate {
    decoder: Box<dyn Decode>,
    /// Whether the last message was somebody else's; then the next one likely is, too, and is put to the gate first.
    /// Only the order of the two questions depends on it, never the answer.
    is_likely_foreign: bool,
}

/// A message with its parts read as far as they are needed.
struct Reading<'m> {
    message: &'m Message,
    key: Result<(Key, Value), BadRecord>,
    headers: Value,
    partition: Value,
    offset: Value,
}

impl SourceDecoder {
    /// `id` is the place of the source in its topology.
    pub fn new(id: SourceId, spec: &SourceSpec, limits: Limits) -> SourceDecoder {
        let programs = [&spec.keyed_by, &spec.time, &spec.id, &spec.when];
        SourceDecoder {
            id,
            decoder: (spec.value.decoder)(&spec.event, limits),
            gate: gate_type(spec).map(|ty| Gate { decoder: (spec.value.decoder)(&ty, limits), is_likely_foreign: false }),
            when: match &spec.when {
                None => When::Never,
                Some(when) if when.uses(EVENT) => When::OfValues,
                Some(when) if when.uses(TIME) => When::OfEveryRecord,
                Some(_) => When::BeforeValue,
            },
            topic: Value::string(spec.topic.as_str()),
            uses_headers: programs.into_iter().flatten().any(|program| program.uses(EVENT_HEADERS)),
            spec: spec.clone(),
        }
    }

    /// The source whose messages it reads.
    pub fn source(&self) -> SourceId {
        self.id
    }

    /// Reads a message. `Ok(None)` if `when` says that it is not of this source.
    ///
    /// A tombstone (no value, or JSON's `null`) passes with the record's timestamp; of the expressions only those apply to
    /// it that do not look at `event`. A record whose `id` is null has none.
    ///
    /// # Errors
    /// [`BadRecord`], for the source's `on_error`.
    pub fn decode(&mut self, message: &Message, now: Time) -> Result<Option<Record>, BadRecord> {
        let headers = message.headers();
        let reading = Reading {
            message,
            key: self.key(message),
            headers: if self.uses_headers { headers_value(&headers) } else { Value::Null },
            partition: Value::Int(message.partition().into()),
            offset: Value::Int(message.offset()),
        };
        if self.when == When::BeforeValue && !self.is_meant(&reading, &Value::Null)? {
            return Ok(None);
        }
        let event = match message.value() {
            None => None,
            Some(bytes) => match self.event(bytes, &reading)? {
                None => return Ok(None),
                Some(Value::Null) => None,
                Some(event) => Some(event),
            },
        };
        let in_scope = event.as_ref().unwrap_or(&Value::Null);
        let is_asked = self.when == When::OfEveryRecord || self.when == When::OfValues && event.is_some();
        if is_asked && !self.is_meant(&reading, in_scope)? {
            return Ok(None);
        }
        let time = if event.is_some() { self.event_time(&reading, in_scope)? } else { record_time(message)? };
        self.check_future(time, now)?;
        let id = self.identity(&reading, event.as_ref(), time)?;
        if let Some(event) = &event {
            self.check_key(&reading, event, time)?;
        }
        let (key, key_value) = reading.key?;
        let record = Record {
            source: self.id,
            key,
            key_value,
            value: event,
            time,
            id,
            headers,
            partition: message.partition(),
            offset: message.offset(),
        };
        Ok(Some(record))
    }

    fn key(&self, message: &Message) -> Result<(Key, Value), BadRecord> {
        let bytes = message.key().ok_or_else(|| BadRecord::new("missing_key", "the record has no key"))?;
        self.spec.key.decode(bytes).map_err(|bad| BadRecord::new("bad_key", format!("key: {bad}")))
    }

    /// The decoded value; `None` if it is not of the declared type and not meant by this source either.
    fn event(&mut self, bytes: &[u8], reading: &Reading<'_>) -> Result<Option<Value>, BadRecord> {
        let is_likely_foreign = self.gate.as_ref().is_some_and(|gate| gate.is_likely_foreign);
        if is_likely_foreign && self.is_foreign(bytes, reading) {
            return Ok(None);
        }
        match self.decoder.decode(bytes) {
            Ok(event) => Ok(Some(event)),
            Err(_) if !is_likely_foreign && self.is_foreign(bytes, reading) => Ok(None),
            Err(bad) => Err(BadRecord::new(bad.reason, bad.detail)),
        }
    }

    /// Whether `when` is false for a value of which only the fields are read that `when` looks at.
    fn is_foreign(&mut self, bytes: &[u8], reading: &Reading<'_>) -> bool {
        let Some(gate) = &mut self.gate else { return false };
        let Ok(event) = gate.decoder.decode(bytes) else { return false };
        let is_foreign = !event.is_null() && matches!(self.is_meant(reading, &event), Ok(false));
        if let Some(gate) = &mut self.gate {
            gate.is_likely_foreign = is_foreign;
        }
        is_foreign
    }

    fn is_meant(&self, reading: &Reading<'_>, event: &Value) -> Result<bool, BadRecord> {
        let Some(when) = &self.spec.when else { return Ok(true) };
        let time = if when.uses(TIME) { self.event_time(reading, event)? } else { reading.message.time() };
        match self.evaluate("when", when, reading, event, time)? {
            Value::Bool(meant) => Ok(meant),
            other => Err(failed("when", when, &format!("expected bool, found {}", other.type_of()))),
        }
    }

    /// What `time` says, or the record's timestamp.
    fn event_time(&self, reading: &Reading<'_>, event: &Value) -> Result<Time, BadRecord> {
        let Some(program) = self.spec.time.as_ref().filter(|program| !event.is_null() || !program.uses(EVENT)) else {
            return record_time(reading.message);
        };
        let time = match self.evaluate("time", program, reading, event, reading.message.time())? {
            Value::Timestamp(timestamp) => timestamp.to_ms(),
            Value::Int(ms) => Time(ms),
            other => {
                let found = other.type_of();
                return Err(BadRecord::new("bad_time", format!("`time` is {found}: expected a timestamp, or an int of milliseconds")));
            }
        };
        valid_time(time).ok_or_else(|| BadRecord::new("bad_time", format!("`time` is {} ms: expected a time from 1970 to 9999", time.0)))
    }

    fn check_future(&self, time: Time, now: Time) -> Result<(), BadRecord> {
        let Some(future) = self.spec.future_ms else { return Ok(()) };
        if time <= now.plus_ms(future) {
            return Ok(());
        }
        let ahead = time.0.saturating_sub(now.0);
        let when = Timestamp::from_ms(time).map_or_else(|| time.0.to_string(), |timestamp| timestamp.to_string());
        Err(BadRecord::new("future", format!("event time {when} is {ahead} ms ahead of the clock, `future` allows {future} ms")))
    }

    fn identity(&self, reading: &Reading<'_>, event: Option<&Value>, time: Time) -> Result<Option<Value>, BadRecord> {
        let Some(program) = self.spec.id.as_ref().filter(|program| event.is_some() || !program.uses(EVENT)) else {
            return Ok(None);
        };
        let id = self.evaluate("id", program, reading, event.unwrap_or(&Value::Null), time)?;
        Ok(Some(id).filter(|id| !id.is_null()))
    }

    fn check_key(&self, reading: &Reading<'_>, event: &Value, time: Time) -> Result<(), BadRecord> {
        let (Some(program), Ok((key, key_value))) = (&self.spec.keyed_by, &reading.key) else { return Ok(()) };
        let expected = self.evaluate("keyed_by", program, reading, event, time)?;
        if expected == *key_value {
            return Ok(());
        }
        // Compared as stores compare keys: two spellings of one key are equal.
        match self.spec.key.store_key(&expected) {
            Ok(expected) if expected == *key => Ok(()),
            Err(bad) => Err(failed("keyed_by", program, &bad.detail)),
            Ok(_) => {
                let (found, expected) = (scalar_text(key_value), scalar_text(&expected));
                Err(BadRecord::new("key_mismatch", format!("the key is `{found}`, but `keyed_by` ({}) is `{expected}`", program.source())))
            }
        }
    }

    fn evaluate(&self, what: &str, program: &Program, reading: &Reading<'_>, event: &Value, time: Time) -> Result<Value, BadRecord> {
        let key = match &reading.key {
            Ok((_, key)) => key,
            Err(bad) if program.uses(KEY) => return Err(bad.clone()),
            Err(_) => &Value::Null,
        };
        let time = time_value(time);
        let values = [event, key, &time, &reading.headers, &self.topic, &reading.partition, &reading.offset];
        program.evaluate(&values).map_err(|error| failed(what, program, &error.message))
    }
}

impl BadRecord {
    #[cold]
    pub fn new(reason: &'static str, detail: impl Into<String>) -> BadRecord {
        BadRecord { reason, detail: detail.into() }
    }
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for BadRecord {}

#[cold]
fn failed(what: &str, program: &Program, cause: &str) -> BadRecord {
    BadRecord::new("expression", format!("`{what}` ({}): {cause}", program.source()))
}

/// Kafka says -1 where a producer gave no timestamp; like Kafka Streams (`FailOnInvalidTimestamp`) we do not guess one.
fn record_time(message: &Message) -> Result<Time, BadRecord> {
    let time = message.time();
    valid_time(time)
        .ok_or_else(|| BadRecord::new("bad_time", format!("the record's timestamp is {} ms: expected a time from 1970 to 9999", time.0)))
}

/// Negative times are Kafka's word for none; what is not a timestamp at all could not be shown.
fn valid_time(time: Time) -> Option<Time> {
    (time.0 >= 0 && Timestamp::from_ms(time).is_some()).then_some(time)
}

/// The declared type with every field that `when` does not look at taken as it comes. `None` where the value does not decide.
fn gate_type(spec: &SourceSpec) -> Option<Type> {
    let when = spec.when.as_ref().filter(|when| when.uses(EVENT))?;
    let Type::Object(shape) = &spec.event else { return None };
    let time = spec.time.as_ref().filter(|_| when.uses(TIME)).map_or("", |time| time.source());
    let leave = |field: &Field| {
        let is_used = selects(when.source(), &field.name) || selects(time, &field.name);
        Field { name: field.name.clone(), ty: if is_used { field.ty.clone() } else { Type::Any } }
    };
    Some(Type::Object(Arc::new(Shape { fields: shape.fields.iter().map(leave).collect() })))
}

/// Whether an expression may look at a field: `.name`, `.?name`, `["name"]`. A string that only looks so counts as well; then
/// the field is read more strictly, no more.
fn selects(expression: &str, field: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    expression.match_indices(field).any(|(at, _)| {
        let after = expression[at + field.len()..].chars().next();
        let before = expression[..at].trim_end();
        let is_dotted = before.ends_with('.') || before.ends_with(".?");
        let quoted = before.strip_suffix(['"', '\'']).map(|before| before.trim_end_matches('?').trim_end());
        !after.is_some_and(is_part) && (is_dotted || quoted.is_some_and(|before| before.ends_with('[')))
    })
}

#[cfg(test)]
mod tests;
