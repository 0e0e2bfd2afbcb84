//! Rows to bytes: the layout that bincode gives the types of [`row`](crate::state::row), field by field, variant by number.
//!
//! Written by hand, because the types share bytes and shapes that bincode does not know, and because stored numbers of variants must not
//! follow the order of the code.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::enc::write::Writer;
use bincode::enc::{Encode, EncoderImpl};
use bincode::error::EncodeError;
use rust_decimal::Decimal;

use crate::model::{MapKey, Shape, Time, Type, Value};
use crate::state::format::{CONFIG, Config};
use crate::state::row::{Accumulator, BufferedRecord, Progress, RawRecord, RowState, SourceState, Version};

/// Appends to a vector.
struct Appender<'v>(&'v mut Vec<u8>);

impl Writer for Appender<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The payload of one stored value, being written.
pub(super) struct Payload<'v> {
    encoder: EncoderImpl<Appender<'v>, Config>,
    /// Shapes of objects written so far: the next object of the same shape names it by its number.
    shapes: Vec<Arc<Shape>>,
}

impl<'v> Payload<'v> {
    pub fn new(into: &'v mut Vec<u8>) -> Payload<'v> {
        Payload { encoder: EncoderImpl::new(Appender(into), CONFIG), shapes: Vec::new() }
    }

    pub fn row(&mut self, row: &RowState) {
        self.length(row.sources.len());
        for source in &row.sources {
            self.source(source);
        }
        self.time(row.changed_at);
        self.option(row.expiry_at.as_ref(), |payload, time| payload.time(*time));
    }

    pub fn buffered(&mut self, record: &BufferedRecord) {
        self.raw(&record.raw);
        self.version(&record.version);
        self.length(record.operands.len());
        for (first, second) in &record.operands {
            self.value(first);
            self.value(second);
        }
        self.option(record.wait_until.as_ref(), |payload, time| payload.time(*time));
    }

    pub fn progress(&mut self, progress: &Progress) {
        self.time(progress.stream_time);
        self.time(progress.closed_through);
    }

    #[inline]
    pub fn number(&mut self, number: u64) {
        self.put(number);
    }

    fn source(&mut self, source: &SourceState) {
        self.option(source.version.as_ref(), Payload::version);
        self.option(source.deleted.as_ref(), |payload, deleted| {
            payload.time(deleted.time);
            payload.put(deleted.offset);
        });
        self.length(source.fields.len());
        for accumulator in &source.fields {
            self.accumulator(accumulator);
        }
        self.option(source.raw.as_ref(), Payload::raw);
        self.option(source.wait_until.as_ref(), |payload, time| payload.time(*time));
    }

    fn version(&mut self, version: &Version) {
        self.values(&version.order);
        self.time(version.time);
        self.put(version.offset);
    }

    fn raw(&mut self, raw: &RawRecord) {
        self.option(raw.key.as_ref(), |payload, bytes| payload.bytes(bytes));
        self.option(raw.value.as_ref(), |payload, bytes| payload.bytes(bytes));
        self.length(raw.headers.len());
        for (name, value) in &raw.headers {
            self.text(name);
            self.option(value.as_ref(), |payload, bytes| payload.bytes(bytes));
        }
        self.put(raw.offset);
        self.time(raw.time);
    }

    fn accumulator(&mut self, accumulator: &Accumulator) {
        match accumulator {
            Accumulator::Empty => self.variant(0),
            Accumulator::Last(value) => {
                self.variant(1);
                self.value(value);
            }
            Accumulator::First(version, value) => {
                self.variant(2);
                self.version(version);
                self.value(value);
            }
            Accumulator::Extreme(value) => {
                self.variant(3);
                self.value(value);
            }
            Accumulator::Sum(value) => {
                self.variant(4);
                self.value(value);
            }
            Accumulator::Count(count) => {
                self.variant(5);
                self.put(*count);
            }
            Accumulator::Avg { sum, count } => {
                self.variant(6);
                self.decimal(*sum);
                self.put(*count);
            }
            Accumulator::List(values) => {
                self.variant(7);
                self.values(values);
            }
            Accumulator::Top(pairs) => {
                self.variant(8);
                self.length(pairs.len());
                for (value, by) in pairs {
                    self.value(value);
                    self.value(by);
                }
            }
            Accumulator::Entries(entries) => {
                self.variant(9);
                self.length(entries.len());
                for (key, (version, value)) in entries {
                    self.map_key(key);
                    self.version(version);
                    self.option(value.as_ref(), Payload::value);
                }
            }
        }
    }

    // Recursion over a value is bounded: sources and expressions bound the nesting of what they make.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.variant(0),
            Value::Bool(value) => {
                self.variant(1);
                self.put(*value);
            }
            Value::Int(value) => {
                self.variant(2);
                self.put(*value);
            }
            Value::Uint(value) => {
                self.variant(3);
                self.put(*value);
            }
            Value::Double(value) => {
                self.variant(4);
                self.put(*value);
            }
            Value::String(value) => {
                self.variant(5);
                self.text(value);
            }
            Value::Bytes(value) => {
                self.variant(6);
                self.bytes(value);
            }
            Value::Decimal(value) => {
                self.variant(7);
                self.decimal(*value);
            }
            Value::Timestamp(value) => {
                self.variant(8);
                self.put(value.seconds);
                self.put(value.nanos);
            }
            Value::Duration(value) => {
                self.variant(9);
                self.put(value.nanos);
            }
            Value::List(values) => {
                self.variant(10);
                self.values(values);
            }
            Value::Map(entries) => {
                self.variant(11);
                self.map(entries);
            }
            Value::Object(object) => {
                self.variant(12);
                self.shape(&object.shape);
                for value in object.slots.iter() {
                    self.value(value);
                }
            }
            Value::Optional(value) => {
                self.variant(13);
                self.option(value.as_deref(), Payload::value);
            }
            Value::Type(of) => {
                self.variant(14);
                self.ty(of);
            }
        }
    }

    fn values(&mut self, values: &[Value]) {
        self.length(values.len());
        for value in values {
            self.value(value);
        }
    }

    fn map(&mut self, entries: &BTreeMap<MapKey, Value>) {
        self.length(entries.len());
        for (key, value) in entries {
            self.map_key(key);
            self.value(value);
        }
    }

    fn map_key(&mut self, key: &MapKey) {
        match key {
            MapKey::Bool(key) => {
                self.variant(0);
                self.put(*key);
            }
            MapKey::Int(key) => {
                self.variant(1);
                self.put(*key);
            }
            MapKey::Uint(key) => {
                self.variant(2);
                self.put(*key);
            }
            MapKey::String(key) => {
                self.variant(3);
                self.text(key);
            }
        }
    }

    /// A shape: 0 and its fields where it comes for the first time, else its number from 1.
    fn shape(&mut self, shape: &Arc<Shape>) {
        let known = self.shapes.iter().position(|known| Arc::ptr_eq(known, shape) || known == shape);
        if let Some(index) = known {
            return self.length(index + 1);
        }
        self.length(0);
        self.length(shape.fields.len());
        for field in &shape.fields {
            self.text(&field.name);
            self.ty(&field.ty);
        }
        // Behind its fields, as the reader does: shapes in their types come first.
        self.shapes.push(shape.clone());
    }

    fn ty(&mut self, of: &Type) {
        match of {
            Type::Any => self.variant(0),
            Type::Null => self.variant(1),
            Type::Bool => self.variant(2),
            Type::Int => self.variant(3),
            Type::Uint => self.variant(4),
            Type::Double => self.variant(5),
            Type::String => self.variant(6),
            Type::Bytes => self.variant(7),
            Type::Decimal => self.variant(8),
            Type::Timestamp => self.variant(9),
            Type::Duration => self.variant(10),
            Type::Type => self.variant(11),
            Type::List(of) => {
                self.variant(12);
                self.ty(of);
            }
            Type::Map(key, value) => {
                self.variant(13);
                self.ty(key);
                self.ty(value);
            }
            Type::Object(shape) => {
                self.variant(14);
                self.shape(shape);
            }
            Type::Nullable(of) => {
                self.variant(15);
                self.ty(of);
            }
            Type::Optional(of) => {
                self.variant(16);
                self.ty(of);
            }
        }
    }

    /// The digits as a whole number, and the scale, with the sign in its highest bit: `9.90` is not `9.9`, nor is `-0` `0`.
    #[inline]
    fn decimal(&mut self, decimal: Decimal) {
        self.put(decimal.mantissa().unsigned_abs());
        self.put(decimal.scale() as u8 | if decimal.is_sign_negative() { 0x80 } else { 0 });
    }

    #[inline]
    fn time(&mut self, time: Time) {
        self.put(time.0);
    }

    #[inline]
    fn text(&mut self, text: &str) {
        self.put(text);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    #[inline]
    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            None => self.put(0u8),
            Some(value) => {
                self.put(1u8);
                write(self, value);
            }
        }
    }

    #[inline]
    fn length(&mut self, length: usize) {
        self.put(length as u64);
    }

    #[inline]
    fn variant(&mut self, number: u8) {
        self.put(number);
    }

    #[inline]
    #[expect(clippy::expect_used, reason = "writing to memory fails by abort only, and none of these types refuses")]
    fn put<T: Encode>(&mut self, value: T) {
        value.encode(&mut self.encoder).expect("a vector takes everything");
    }
}
