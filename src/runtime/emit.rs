//! Writes what leaves a task: changed rows to outputs, bad records to the dead letters, stale ones where they are asked for.
//!
//! Called in the commit only, between the begin of the transaction and its flush.

use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use crate::codec::{BadValue, json};
use crate::expression::Program;
use crate::log::partitioner::partition_of;
use crate::log::{LogError, Outgoing, Producer, TopicHandle};
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
        let was_shown = wants(change.old.as_ref(), &before).map_err(WriteError::Row)?;
        let value = if is_shown {
            // A value of null is a tombstone, as everywhere in Kafka.
            Some(self.value_of(new, &now).map_err(WriteError::Row)?).filter(|value| !value.is_null())
        } else if was_shown && self.spec.on_delete == OnOutputDelete::Tombstone {
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
        producer.send(outgoing).map_err(WriteError::Log)?;
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
        sent.map_err(WriteError::Log)?;
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
    /// An expression failed on the row.
    Row(Failure),
    Log(LogError),
}

/// `{"key": …, "start": ms, "end": ms}`.
pub fn windowed_key(key: &Value, start: Time, end: Time) -> Value {
    let entry = |name: &'static str, value| (MapKey::String(SmolStr::new_static(name)), value);
    let entries = [entry("key", key.clone()), entry("start", Value::Int(start.0)), entry("end", Value::Int(end.0))];
    Value::Map(Arc::new(entries.into_iter().collect()))
}

/// Writes a dead letter: what came, and why it is here.
pub fn write_dead_letter(
    letter: &DeadLetter,
    source: &Name,
    from: &Name,
    partition: i32,
    (topic, partitions): (TopicHandle, i32),
    producer: &mut dyn Producer,
) -> Result<(), LogError> {
    let mut headers: Vec<(SmolStr, Option<Bytes>)> = letter.headers.iter().cloned().collect();
    let mut add =
        |name: &'static str, value: &str| headers.push((SmolStr::new_static(name), Some(Bytes::copy_from_slice(value.as_bytes()))));
    add("millstream-reason", letter.reason);
    add("millstream-source", source);
    add("millstream-topic", from);
    add("millstream-partition", &partition.to_string());
    add("millstream-offset", &letter.offset.to_string());
    add("millstream-time", &letter.time.0.to_string());
    add("millstream-detail", &letter.detail);
    producer.send(Outgoing {
        topic,
        partition: partition % partitions.max(1),
        key: letter.key.as_deref(),
        value: letter.value.as_deref(),
        time: letter.time,
        keep_time: true,
        headers: &Headers::new(headers),
    })
}
