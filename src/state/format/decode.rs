//! Bytes to rows: the opposite of [`encode`](super::encode).
//!
//! Stored bytes can be damaged, or made by somebody: a length is compared with the bytes that are left before anything is allocated for it,
//! and nesting is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rust_decimal::Decimal;
use smol_str::SmolStr;

use crate::model::{Field, MapKey, Object, Shape, Span, Time, Timestamp, Type, Value};
use crate::state::format::{DEPTH_MAX, LONG_U16, LONG_U32, LONG_U64, LONG_U128};
use crate::state::row::{Accumulator, BufferedRecord, Deleted, RawRecord, RowState, SourceState, Version};

/// Why bytes are no payload. One word, so that results of the many small reads travel in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad(&'static &'static str);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bytes are damaged: {}", self.0)
    }
}

const ENDS_EARLY: Bad = Bad(&"they end early");
const LENGTH: Bad = Bad(&"a length beyond the end");
const NUMBER: Bad = Bad(&"a number out of range");

/// The payload of one stored value, being read.
pub(super) struct Payload<'b> {
    /// What is left.
    bytes: &'b [u8],
    shapes: Vec<Arc<Shape>>,
    depth: usize,
}

type Read<T> = Result<T, Bad>;

impl<'b> Payload<'b> {
    pub fn new(bytes: &'b [u8]) -> Payload<'b> {
        Payload { bytes, shapes: Vec::new(), depth: 0 }
    }

    /// Nothing may be left: a value with a tail is not what was written.
    pub fn end(&mut self) -> Read<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Bad(&"more bytes than the value has")) }
    }

    /// Reads a row over another one, whose allocations are used again. After an error the row is of no use.
    pub fn row(&mut self, row: &mut RowState) -> Read<()> {
        let length = self.length()?;
        row.sources.resize_with(length, SourceState::default);
        for source in &mut row.sources {
            self.source(source)?;
        }
        row.changed_at = self.time()?;
        row.expiry_at = self.option(Payload::time)?;
        Ok(())
    }

    pub fn buffered(&mut self) -> Read<BufferedRecord> {
        Ok(BufferedRecord {
            raw: self.raw()?,
            version: self.version()?,
            operands: self.list(|payload| Ok((payload.value()?, payload.value()?)))?,
            wait_until: self.option(Payload::time)?,
        })
    }

    fn source(&mut self, source: &mut SourceState) -> Read<()> {
        if self.is_some()? {
            let version = source.version.get_or_insert(Version { order: Vec::new(), time: Time(0), offset: 0 });
            let length = self.length()?;
            self.values(length, &mut version.order)?;
            version.time = self.time()?;
            version.offset = self.signed()?;
        } else {
            source.version = None;
        }
        source.deleted = self.option(|payload| Ok(Deleted { time: payload.time()?, offset: payload.signed()? }))?;
        let length = self.length()?;
        if length != source.fields.len() {
            source.fields.resize_with(length, || Accumulator::Empty);
        }
        for field in &mut source.fields {
            match self.byte()? {
                0 => *field = Accumulator::Empty,
                1 => self.value_into(field, Accumulator::Last)?,
                other => *field = self.rarer_accumulator(other)?,
            }
        }
        source.raw = if self.is_some()? { Some(self.raw()?) } else { None };
        source.wait_until = self.option(Payload::time)?;
        Ok(())
    }

    fn version(&mut self) -> Read<Version> {
        Ok(Version { order: self.list(Payload::value)?, time: self.time()?, offset: self.signed()? })
    }

    #[inline(never)]
    fn raw(&mut self) -> Read<RawRecord> {
        Ok(RawRecord {
            key: self.option(Payload::bytes)?,
            value: self.option(Payload::bytes)?,
            headers: self.list(|payload| Ok((payload.text()?, payload.option(Payload::bytes)?)))?,
            offset: self.signed()?,
            time: self.time()?,
        })
    }

    #[inline(never)]
    fn rarer_accumulator(&mut self, kind: u8) -> Read<Accumulator> {
        Ok(match kind {
            2 => Accumulator::First(self.version()?, self.value()?),
            3 => Accumulator::Extreme(self.value()?),
            4 => Accumulator::Sum(self.value()?),
            5 => Accumulator::Count(self.signed()?),
            6 => Accumulator::Avg { sum: self.decimal()?, count: self.signed()? },
            7 => Accumulator::List(self.list(Payload::value)?),
            8 => Accumulator::Top(self.list(|payload| Ok((payload.value()?, payload.value()?)))?),
            9 => {
                let entry = |payload: &mut Self| Ok((payload.map_key()?, (payload.version()?, payload.option(Payload::value)?)));
                Accumulator::Entries(in_order(self.list(entry)?)?)
            }
            _ => return Err(Bad(&"an unknown kind of accumulator")),
        })
    }

    fn value(&mut self) -> Read<Value> {
        let mut value = Value::Null;
        self.value_into(&mut value, |value| value)?;
        Ok(value)
    }

    /// Reads a value into what holds it. Values are made where they stay: to carry them there in results costs more than to read
    /// them (40 bytes, moved three times before they have settled in the CPU's store buffer).
    #[inline(always)]
    fn value_into<T>(&mut self, into: &mut T, wrap: impl Fn(Value) -> T) -> Read<()> {
        match self.byte()? {
            0 => *into = wrap(Value::Null),
            1 => {
                let value = self.bool()?;
                *into = wrap(Value::Bool(value));
            }
            2 => {
                let value = self.signed()?;
                *into = wrap(Value::Int(value));
            }
            3 => {
                let value = self.number()?;
                *into = wrap(Value::Uint(value));
            }
            4 => {
                let value = f64::from_le_bytes(self.chunk()?);
                *into = wrap(Value::Double(value));
            }
            5 => {
                let text = self.str()?;
                *into = wrap(Value::String(SmolStr::new(text)));
            }
            7 => {
                let value = self.decimal()?;
                *into = wrap(Value::Decimal(value));
            }
            8 => {
                let value = self.timestamp()?;
                *into = wrap(Value::Timestamp(value));
            }
            other => {
                let value = self.larger_value(other)?;
                *into = wrap(value);
            }
        }
        Ok(())
    }

    fn timestamp(&mut self) -> Read<Timestamp> {
        let (seconds, nanos) = (self.signed()?, self.number()?);
        let nanos = u32::try_from(nanos).map_err(|_| NUMBER)?;
        Timestamp::new(seconds, nanos).ok_or(Bad(&"a timestamp out of range"))
    }

    #[inline(never)]
    fn larger_value(&mut self, kind: u8) -> Read<Value> {
        self.deeper()?;
        let value = match kind {
            6 => Value::Bytes(self.bytes()?),
            9 => Value::Duration(Span { nanos: self.signed()? }),
            10 => Value::List(self.list(Payload::value)?.into()),
            11 => Value::Map(Arc::new(in_order(self.list(|payload| Ok((payload.map_key()?, payload.value()?)))?)?)),
            12 => {
                let shape = self.shape()?;
                let mut slots = Vec::new();
                self.values(shape.fields.len(), &mut slots)?;
                Value::Object(Object { shape, slots: slots.into() })
            }
            13 => Value::Optional(self.option(Payload::value)?.map(Arc::new)),
            14 => Value::Type(self.ty()?),
            _ => return Err(Bad(&"an unknown kind of value")),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn map_key(&mut self) -> Read<MapKey> {
        Ok(match self.byte()? {
            0 => MapKey::Bool(self.bool()?),
            1 => MapKey::Int(self.signed()?),
            2 => MapKey::Uint(self.number()?),
            3 => MapKey::String(self.text()?),
            _ => return Err(Bad(&"an unknown kind of map key")),
        })
    }

    fn shape(&mut self) -> Read<Arc<Shape>> {
        let number = self.number()?;
        if number > 0 {
            let known = usize::try_from(number - 1).ok().and_then(|index| self.shapes.get(index));
            return known.cloned().ok_or(Bad(&"a shape that was not there before"));
        }
        let fields = self.list(|payload| Ok(Field { name: payload.text()?, ty: payload.ty()? }))?;
        let shape = Arc::new(Shape { fields });
        self.shapes.push(shape.clone());
        Ok(shape)
    }

    fn ty(&mut self) -> Read<Type> {
        self.deeper()?;
        let of = match self.byte()? {
            0 => Type::Any,
            1 => Type::Null,
            2 => Type::Bool,
            3 => Type::Int,
            4 => Type::Uint,
            5 => Type::Double,
            6 => Type::String,
            7 => Type::Bytes,
            8 => Type::Decimal,
            9 => Type::Timestamp,
            10 => Type::Duration,
            11 => Type::Type,
            12 => Type::List(Arc::new(self.ty()?)),
            13 => Type::Map(Arc::new(self.ty()?), Arc::new(self.ty()?)),
            14 => Type::Object(self.shape()?),
            15 => Type::Nullable(Arc::new(self.ty()?)),
            16 => Type::Optional(Arc::new(self.ty()?)),
            _ => return Err(Bad(&"an unknown kind of type")),
        };
        self.depth -= 1;
        Ok(of)
    }

    #[inline]
    fn decimal(&mut self) -> Read<Decimal> {
        let mantissa = self.wide()?;
        let scale = self.byte()?;
        if mantissa >> 96 != 0 || scale & 0x7F > Decimal::MAX_SCALE as u8 {
            return Err(Bad(&"a decimal out of range"));
        }
        let (low, middle, high) = (mantissa as u32, (mantissa >> 32) as u32, (mantissa >> 64) as u32);
        let mut decimal = Decimal::from_parts(low, middle, high, false, u32::from(scale & 0x7F));
        decimal.set_sign_negative(scale & 0x80 != 0);
        Ok(decimal)
    }

    #[inline]
    fn time(&mut self) -> Read<Time> {
        Ok(Time(self.signed()?))
    }

    fn text(&mut self) -> Read<SmolStr> {
        self.str().map(SmolStr::new)
    }

    #[inline]
    fn str(&mut self) -> Read<&'b str> {
        std::str::from_utf8(self.sized()?).map_err(|_| Bad(&"a text that is not UTF-8"))
    }

    fn bytes(&mut self) -> Read<Bytes> {
        Ok(Bytes::copy_from_slice(self.sized()?))
    }

    #[inline]
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        if self.is_some()? { read(self).map(Some) } else { Ok(None) }
    }

    #[inline]
    fn is_some(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Bad(&"an option that is neither there nor not")),
        }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let length = self.length()?;
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(read(self)?);
        }
        Ok(list)
    }

    #[inline]
    fn values(&mut self, length: usize, into: &mut Vec<Value>) -> Read<()> {
        if length > self.bytes.len() {
            return Err(LENGTH);
        }
        if length != into.len() {
            into.resize_with(length, || Value::Null);
        }
        for value in into {
            self.value_into(value, |value| value)?;
        }
        Ok(())
    }

    #[inline]
    fn deeper(&mut self) -> Read<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Bad(&"nested too deeply")) } else { Ok(()) }
    }

    // What follows is bincode's `config::standard()`, compared with it in the tests.

    #[inline]
    fn byte(&mut self) -> Read<u8> {
        let (byte, rest) = self.bytes.split_first().ok_or(ENDS_EARLY)?;
        self.bytes = rest;
        Ok(*byte)
    }

    #[inline]
    fn bool(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Bad(&"a truth that is neither true nor false")),
        }
    }

    #[inline]
    fn signed(&mut self) -> Read<i64> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    #[inline]
    pub fn number(&mut self) -> Read<u64> {
        match self.byte()? {
            LONG_U64 => Ok(u64::from_le_bytes(self.chunk()?)),
            LONG_U32 => Ok(u64::from(u32::from_le_bytes(self.chunk()?))),
            LONG_U16 => Ok(u64::from(u16::from_le_bytes(self.chunk()?))),
            short @ 0..LONG_U16 => Ok(u64::from(short)),
            _ => Err(NUMBER),
        }
    }

    #[inline]
    fn wide(&mut self) -> Read<u128> {
        if self.bytes.first() == Some(&LONG_U128) {
            self.byte()?;
            return Ok(u128::from_le_bytes(self.chunk()?));
        }
        self.number().map(u128::from)
    }

    /// The length of a list. Each element takes a byte at least, so a length beyond the bytes that are left is refused before a
    /// place is made for it.
    #[inline]
    fn length(&mut self) -> Read<usize> {
        let length = self.number()?;
        if length > self.bytes.len() as u64 { Err(LENGTH) } else { Ok(length as usize) }
    }

    #[inline]
    fn sized(&mut self) -> Read<&'b [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(bytes)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (chunk, rest) = self.bytes.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.bytes = rest;
        Ok(*chunk)
    }
}

/// A map from entries that were stored in order, each key once.
fn in_order<V>(entries: Vec<(MapKey, V)>) -> Read<BTreeMap<MapKey, V>> {
    if entries.is_sorted_by(|(a, _), (b, _)| a < b) { Ok(entries.into_iter().collect()) } else { Err(Bad(&"a map out of order")) }
}
