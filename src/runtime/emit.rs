//! Writes what leaves a task: changed rows to outputs, bad records to the dead letters, stale ones where they are asked for.
//!
//! Called in the commit only, between the begin of the transaction and its flush.

use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use crate::codec::{BadValue, json};
use crate::expression::Program;
use crate::log::partitioner::partition_of;
use crate::log::{LogError, LogErrorKind, Outgoing, Producer, TopicHandle};
use crate::metrics::{self, Metrics};
use crate::model::{Field, Headers, MapKey, Name, OutputId, Shape, Time, Value};
use crate::operators::fold::ROW_SCOPE;
use crate::operators::output::{OnOutputDelete, OutputFrom, OutputSpec, OutputValue};
use crate::operators::scope::{ROW_HEADERS, ROW_WINDOW, headers_value, time_value, window_shape, window_value};
use crate::operators::{DeadLetter, Failure, StaleRecord, TableChange};
use crate::runtime::observe::CommittedOutput;

/// An output as one thread writes it.
pub struct OutputWriter {
    id: OutputId,
    spec: OutputSpec,
    topic: TopicHandle,
    partitions: i32,
    needs_headers: bool,
    /// Shape of `window`, where some expression looks at it.
    window: Option<Arc<Shape>>,
    /// Names of the fields of `set`.
    shape: Arc<Shape>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl OutputWriter {
    pub fn new(id: OutputId, spec: OutputSpec, topic: TopicHandle, partitions: i32) -> OutputWriter {
        debug_assert_eq!((ROW_SCOPE[ROW_HEADERS], ROW_SCOPE[ROW_WINDOW]), ("headers", "window"));
        let mut programs: Vec<&Program> = spec.when.iter().chain(&spec.key).collect();
        programs.extend(spec.headers.iter().map(|(_, program)| program));
        match &spec.set {
            Some(OutputValue::Fields(fields)) => programs.extend(fields.iter().map(|(_, program)| program)),
            Some(OutputValue::Whole(program)) => programs.push(program),
            None => {}
        }
        let needs_headers = programs.iter().any(|program| program.uses(ROW_HEADERS));
        let window = programs.iter().any(|program| program.uses(ROW_WINDOW)).then(window_shape);
        let fields: &[(SmolStr, Program)] = if let Some(OutputValue::Fields(fields)) = &spec.set { fields } else { &[] };
        let fields = fields.iter().map(|(name, program)| Field { name: name.clone(), ty: program.ty().clone() }).collect();
        let shape = Arc::new(Shape { fields });
        OutputWriter { id, spec, topic, partitions, needs_headers, window, shape, key: Vec::new(), value: Vec::new() }
    }

    pub fn name(&self) -> &Name {
        &self.spec.name
    }

    pub fn from(&self) -> OutputFrom {
        self.spec.from
    }

    #[cold]
    pub fn count_unwritable(&self, metrics: &Metrics) {
        metrics.counter(&metrics::UNWRITABLE_ROWS, &[&self.spec.name]).inc();
    }

    /// Writes a change, if the output wants it. `tell` is given what was written, for observers that ask for it.
    ///
    /// # Errors
    /// `Failure` of an expression: nothing was written, and the caller makes a dead letter of it.
    pub fn write(
        &mut self,
        change: &TableChange,
        producer: &mut dyn Producer,
        tell: Option<&mut Vec<CommittedOutput>>,
    ) -> Result<(), WriteError> {
        let null = Value::Null;
        let time = time_value(change.time);
        let headers = if self.needs_headers { headers_value(&change.headers) } else { Value::Null };
        let window = self.window.as_ref().map_or(Value::Null, |shape| window_value(shape, change.window));
        let (old, new) = (change.old.as_ref().unwrap_or(&null), change.new.as_ref().unwrap_or(&null));
        let now = [new, old, &change.key, &time, &headers, &window];
        let before = [old, &null, &change.key, &time, &headers, &window];
        let wants = |row: Option<&Value>, slots: &[&Value]| -> Result<bool, Failure> {
            match (row, &self.spec.when) {
                (None, _) => Ok(false),
                (Some(_), None) => Ok(true),
                (Some(_), Some(when)) => Ok(matches!(when.evaluate(slots)?, Value::Bool(true))),
            }
        };
        let is_shown = wants(change.new.as_ref(), &now).map_err(WriteError::Row)?;
        let value = if is_shown {
            // A value of null is a tombstone, as everywhere in Kafka.
            Some(self.value_of(new, &now).map_err(WriteError::Row)?).filter(|value| !value.is_null())
        } else if self.spec.on_delete == OnOutputDelete::Tombstone && wants(change.old.as_ref(), &before).map_err(WriteError::Row)? {
            None
        } else {
            return Ok(());
        };
        // The key of what is deleted is computed from the row that was there.
        let slots = if is_shown { &now } else { &before };
        let (key, route) = self.key_of(change, slots).map_err(WriteError::Row)?;
        let extra = self.headers_of(&change.headers, slots).map_err(WriteError::Row)?;
        self.value.clear();
        if let Some(value) = &value {
            (self.spec.value.encode)(value, &mut self.value);
        }
        let bytes = value.as_ref().map(|_| self.value.as_slice());
        let partition = partition_of(route.as_deref().unwrap_or(&self.key), self.partitions);
        let outgoing = Outgoing {
            topic: self.topic,
            partition,
            key: Some(&self.key),
            value: bytes,
            time: change.time,
            keep_time: true,
            headers: &extra,
        };
        producer.send(outgoing).map_err(WriteError::of)?;
        if let Some(tell) = tell {
            tell.push(CommittedOutput {
                output: self.id,
                key,
                window: change.window,
                bytes: bytes.map(Bytes::copy_from_slice),
                value,
                time: change.time,
                headers: extra,
                origin: change.origin,
            });
        }
        Ok(())
    }

    /// Writes a stale record as it came, with its own key.
    pub fn write_stale(
        &mut self,
        stale: &StaleRecord,
        producer: &mut dyn Producer,
        tell: Option<&mut Vec<CommittedOutput>>,
    ) -> Result<(), WriteError> {
        self.key.clear();
        let encoded = self.spec.key_codec.encode(&stale.record.key_value, &mut self.key);
        encoded.map_err(|bad| WriteError::Row(bad_key(bad)))?;
        let partition = partition_of(&self.key, self.partitions);
        let sent = producer.send(Outgoing {
            topic: self.topic,
            partition,
            key: Some(&self.key),
            value: stale.raw.as_deref(),
            time: stale.record.time,
            keep_time: true,
            headers: &stale.record.headers,
        });
        sent.map_err(WriteError::of)?;
        if let Some(tell) = tell {
            tell.push(CommittedOutput {
                output: self.id,
                key: stale.record.key_value.clone(),
                window: None,
                value: stale.record.value.clone(),
                bytes: stale.raw.clone(),
                time: stale.record.time,
                headers: stale.record.headers.clone(),
                origin: Some(crate::operators::Origin { source: stale.record.source, offset: stale.record.offset }),
            });
        }
        Ok(())
    }

    fn value_of(&self, row: &Value, slots: &[&Value]) -> Result<Value, Failure> {
        match &self.spec.set {
            None => Ok(row.clone()),
            Some(OutputValue::Whole(program)) => Ok(program.evaluate(slots)?),
            Some(OutputValue::Fields(fields)) => {
                let mut values = Vec::with_capacity(fields.len());
                for (_, program) in fields {
                    values.push(program.evaluate(slots)?);
                }
                let shape = self.shape.clone();
                Ok(Value::Object(crate::model::Object { shape, slots: values.into() }))
            }
        }
    }

    /// Fills `self.key`. Returns the key as a value, and what to choose the partition by where that is not the key itself.
    fn key_of(&mut self, change: &TableChange, slots: &[&Value]) -> Result<(Value, Option<Vec<u8>>), Failure> {
        self.key.clear();
        if let Some(program) = &self.spec.key {
            let key = program.evaluate(slots)?;
            self.spec.key_codec.encode(&key, &mut self.key).map_err(bad_key)?;
            return Ok((key, None));
        }
        self.spec.key_codec.encode(&change.key, &mut self.key).map_err(bad_key)?;
        let Some((start, end)) = change.window else { return Ok((change.key.clone(), None)) };
        // All windows of a key stay in the key's partition.
        let plain = std::mem::take(&mut self.key);
        json::write_value(&windowed_key(&change.key, start, end), &mut self.key);
        Ok((change.key.clone(), Some(plain)))
    }

    fn headers_of(&self, carried: &Headers, slots: &[&Value]) -> Result<Headers, Failure> {
        if self.spec.headers.is_empty() {
            return Ok(carried.clone());
        }
        let mut all: Vec<(SmolStr, Option<Bytes>)> = carried.iter().cloned().collect();
        for (name, program) in &self.spec.headers {
            let value = match program.evaluate(slots)? {
                Value::Null => None,
                Value::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
                Value::Bytes(bytes) => Some(bytes),
                other => {
                    let mut text = Vec::new();
                    json::write_value(&other, &mut text);
                    Some(text.into())
                }
            };
            all.push((name.clone(), value));
        }
        Ok(Headers::new(all))
    }
}

fn bad_key(bad: BadValue) -> Failure {
    Failure::Record { reason: "expression", detail: format!("the key cannot be written: {}", bad.detail) }
}

/// Why an output was not written.
pub enum WriteError {
    /// An expression failed on the row, or the topic takes no record of its size.
    Row(Failure),
    Log(LogError),
}

impl WriteError {
    fn of(error: LogError) -> WriteError {
        match error.kind {
            // The next attempt would meet the same row: it must not hold up its partition.
            LogErrorKind::TooLarge => WriteError::Row(Failure::Record { reason: "too_large", detail: error.to_string() }),
            _ => WriteError::Log(error),
        }
    }
}

/// `{"key": …, "start": ms, "end": ms}`.
pub fn windowed_key(key: &Value, start: Time, end: Time) -> Value {
    let entry = |name: &'static str, value| (MapKey::String(SmolStr::new_static(name)), value);
    let entries = [entry("key", key.clone()), entry("start", Value::Int(start.0)), entry("end", Value::Int(end.0))];
    Value::Map(Arc::new(entries.into_iter().collect()))
}

/// Where dead letters go.
pub struct DeadLetterBox<'a> {
    pub topic: TopicHandle,
    pub partitions: i32,
    pub producer: &'a mut dyn Producer,
}

/// The longest text of `millstream-detail`; a detail quotes what came, which may be of any length.
const DETAIL_BYTES_MAX: usize = 4096;

impl DeadLetterBox<'_> {
    /// Writes a dead letter: what came from where, and why it is here. Returns whether all of it is in it.
    ///
    /// One that is larger than the topic takes is cut: the start of its value, and headers `millstream-cut-*` that say how much there was.
    /// The whole record is still at its position in the input.
    pub fn write(&mut self, letter: &DeadLetter, source: &Name, from: &Name, partition: i32) -> Result<bool, LogError> {
        let mut own: Vec<(SmolStr, Option<Bytes>)> = Vec::new();
        let mut add = |name: &'static str, text: &str| own.push((SmolStr::new_static(name), Some(Bytes::copy_from_slice(text.as_bytes()))));
        add("millstream-reason", letter.reason);
        add("millstream-source", source);
        add("millstream-topic", from);
        add("millstream-partition", &partition.to_string());
        add("millstream-offset", &letter.offset.to_string());
        add("millstream-time", &letter.time.0.to_string());
        add("millstream-detail", shortened(&letter.detail));
        let parts = Parts { key: letter.key.as_deref(), value: letter.value.as_deref(), carried: &letter.headers };
        let (parts, cuts) = parts.cut(self.producer.record_bytes_max(self.topic).saturating_sub(Headers::new(own.clone()).bytes()));
        let is_whole = cuts.is_empty();
        own.extend(cuts.into_iter().map(|(name, was)| (SmolStr::new_static(name), Some(was.to_string().into()))));
        let mut headers: Vec<(SmolStr, Option<Bytes>)> = parts.carried.iter().cloned().collect();
        headers.append(&mut own);
        self.producer.send(Outgoing {
            topic: self.topic,
            partition: partition % self.partitions.max(1),
            key: parts.key,
            value: parts.value,
            time: letter.time,
            keep_time: true,
            headers: &Headers::new(headers),
        })?;
        Ok(is_whole)
    }
}

/// What a dead letter takes over from the record.
struct Parts<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    carried: &'a Headers,
}

impl<'a> Parts<'a> {
    /// The same within `room`, and what was cut with the size that it had: the value first, then headers, then the key.
    fn cut(self, room: usize) -> (Parts<'a>, Vec<(&'static str, usize)>) {
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let (key, value) = (length(self.key), length(self.value));
        if key + value + self.carried.bytes() <= room {
            return (self, Vec::new());
        }
        let mut left = room.saturating_sub(CUT_HEADERS_BYTES);
        let mut cuts = Vec::new();
        let mut start = |part: Option<&'a [u8]>, name: &'static str, left: &mut usize| {
            let part = part?;
            let kept = part.len().min(*left);
            *left -= kept;
            if kept < part.len() {
                cuts.push((name, part.len()));
            }
            Some(&part[..kept])
        };
        let key = start(self.key, "millstream-cut-key", &mut left);
        let has_room = self.carried.bytes() <= left;
        left -= if has_room { self.carried.bytes() } else { 0 };
        let value = start(self.value, "millstream-cut-value", &mut left);
        if !has_room {
            cuts.push(("millstream-cut-headers", self.carried.bytes()));
        }
        (Parts { key, value, carried: if has_room { self.carried } else { &NO_HEADERS } }, cuts)
    }
}

const NO_HEADERS: Headers = Headers(None);
/// What the three headers about cuts take at most.
const CUT_HEADERS_BYTES: usize = 3 * (22 + 20 + 10);

fn shortened(detail: &str) -> &str {
    let end = (0..=DETAIL_BYTES_MAX.min(detail.len())).rev().find(|end| detail.is_char_boundary(*end));
    &detail[..end.unwrap_or(0)]
}
