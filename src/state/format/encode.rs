//! Rows to bytes: the layout that bincode gives the types of [`row`](crate::state::row), field by field, variant by number.
//!
//! Written by hand, because it is done for every record, and because the stored numbers of variants must not follow the order of the code.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;

use crate::model::{MapKey, Shape, Time, Type, Value};
use crate::state::format::{LONG_U16, LONG_U32, LONG_U64, LONG_U128};
use crate::state::row::{Accumulator, BufferedRecord, RawRecord, RowState, SourceState, Version};

/// The payload of one stored value, being written.
pub(super) struct Payload<'v> {
    into: &'v mut Vec<u8>,
    /// Shapes of objects written so far: the next object of the same shape names it by its number.
    shapes: Vec<Arc<Shape>>,
}

impl<'v> Payload<'v> {
    pub fn new(into: &'v mut Vec<u8>) -> Payload<'v> {
        Payload { into, shapes: Vec::new() }
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

    fn source(&mut self, source: &SourceState) {
        self.option(source.version.as_ref(), Payload::version);
        self.option(source.deleted.as_ref(), |payload, deleted| {
            payload.time(deleted.time);
            payload.signed(deleted.offset);
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
        self.signed(version.offset);
    }

    fn raw(&mut self, raw: &RawRecord) {
        self.option(raw.key.as_ref(), |payload, bytes| payload.bytes(bytes));
        self.option(raw.value.as_ref(), |payload, bytes| payload.bytes(bytes));
        self.length(raw.headers.len());
        for (name, value) in &raw.headers {
            self.text(name);
            self.option(value.as_ref(), |payload, bytes| payload.bytes(bytes));
        }
        self.signed(raw.offset);
        self.time(raw.time);
    }

    fn accumulator(&mut self, accumulator: &Accumulator) {
        match accumulator {
            Accumulator::Empty => self.byte(0),
            Accumulator::Last(value) => {
                self.byte(1);
                self.value(value);
            }
            Accumulator::First(version, value) => {
                self.byte(2);
                self.version(version);
                self.value(value);
            }
            Accumulator::Extreme(value) => {
                self.byte(3);
                self.value(value);
            }
            Accumulator::Sum(value) => {
                self.byte(4);
                self.value(value);
            }
            Accumulator::Count(count) => {
                self.byte(5);
                self.signed(*count);
            }
            Accumulator::Avg { sum, count } => {
                self.byte(6);
                self.decimal(*sum);
                self.signed(*count);
            }
            Accumulator::List(values) => {
                self.byte(7);
                self.values(values);
            }
            Accumulator::Top(pairs) => {
                self.byte(8);
                self.length(pairs.len());
                for (value, by) in pairs {
                    self.value(value);
                    self.value(by);
                }
            }
            Accumulator::Entries(entries) => {
                self.byte(9);
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
            Value::Null => self.byte(0),
            Value::Bool(value) => {
                self.byte(1);
                self.byte(u8::from(*value));
            }
            Value::Int(value) => {
                self.byte(2);
                self.signed(*value);
            }
            Value::Uint(value) => {
                self.byte(3);
                self.number(*value);
            }
            Value::Double(value) => {
                self.byte(4);
                self.into.extend_from_slice(&value.to_le_bytes());
            }
            Value::String(value) => {
                self.byte(5);
                self.text(value);
            }
            Value::Bytes(value) => {
                self.byte(6);
                self.bytes(value);
            }
            Value::Decimal(value) => {
                self.byte(7);
                self.decimal(*value);
            }
            Value::Timestamp(value) => {
                self.byte(8);
                self.signed(value.seconds);
                self.number(u64::from(value.nanos));
            }
            Value::Duration(value) => {
                self.byte(9);
                self.signed(value.nanos);
            }
            Value::List(values) => {
                self.byte(10);
                self.values(values);
            }
            Value::Map(entries) => {
                self.byte(11);
                self.map(entries);
            }
            Value::Object(object) => {
                self.byte(12);
                self.shape(&object.shape);
                for value in object.slots.iter() {
                    self.value(value);
                }
            }
            Value::Optional(value) => {
                self.byte(13);
                self.option(value.as_deref(), Payload::value);
            }
            Value::Type(of) => {
                self.byte(14);
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
                self.byte(0);
                self.byte(u8::from(*key));
            }
            MapKey::Int(key) => {
                self.byte(1);
                self.signed(*key);
            }
            MapKey::Uint(key) => {
                self.byte(2);
                self.number(*key);
            }
            MapKey::String(key) => {
                self.byte(3);
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
            Type::Any => self.byte(0),
            Type::Null => self.byte(1),
            Type::Bool => self.byte(2),
            Type::Int => self.byte(3),
            Type::Uint => self.byte(4),
            Type::Double => self.byte(5),
            Type::String => self.byte(6),
            Type::Bytes => self.byte(7),
            Type::Decimal => self.byte(8),
            Type::Timestamp => self.byte(9),
            Type::Duration => self.byte(10),
            Type::Type => self.byte(11),
            Type::List(of) => {
                self.byte(12);
                self.ty(of);
            }
            Type::Map(key, value) => {
                self.byte(13);
                self.ty(key);
                self.ty(value);
            }
            Type::Object(shape) => {
                self.byte(14);
                self.shape(shape);
            }
            Type::Nullable(of) => {
                self.byte(15);
                self.ty(of);
            }
            Type::Optional(of) => {
                self.byte(16);
                self.ty(of);
            }
        }
    }

    /// The digits as a whole number, and the scale, with the sign in its highest bit: `9.90` is not `9.9`, nor is `-0` `0`.
    #[inline]
    fn decimal(&mut self, decimal: Decimal) {
        self.wide(decimal.mantissa().unsigned_abs());
        self.byte(decimal.scale() as u8 | if decimal.is_sign_negative() { 0x80 } else { 0 });
    }

    #[inline]
    fn time(&mut self, time: Time) {
        self.signed(time.0);
    }

    #[inline]
    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            None => self.byte(0),
            Some(value) => {
                self.byte(1);
                write(self, value);
            }
        }
    }

    #[inline]
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    // What follows is bincode's `config::standard()`, compared with it in the tests.

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.into.extend_from_slice(bytes);
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        self.into.push(byte);
    }

    #[inline]
    fn length(&mut self, length: usize) {
        self.number(length as u64);
    }

    #[inline]
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    #[inline]
    pub fn number(&mut self, number: u64) {
        if number < u64::from(LONG_U16) {
            self.byte(number as u8);
        } else if number > u64::from(u32::MAX) {
            let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
            self.into.extend_from_slice(&[LONG_U64, a, b, c, d, e, f, g, h]);
        } else if number > u64::from(u16::MAX) {
            let [a, b, c, d] = (number as u32).to_le_bytes();
            self.into.extend_from_slice(&[LONG_U32, a, b, c, d]);
        } else {
            let [a, b] = (number as u16).to_le_bytes();
            self.into.extend_from_slice(&[LONG_U16, a, b]);
        }
    }

    #[inline]
    fn wide(&mut self, number: u128) {
        match u64::try_from(number) {
            Ok(number) => self.number(number),
            Err(_) => {
                self.byte(LONG_U128);
                self.into.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
}
