//! Bytes to rows: the opposite of [`encode`](super::encode).
//!
//! Stored bytes can be damaged, or made by somebody: a length is compared with the bytes that are left before anything is allocated for it,
//! and nesting is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bincode::de::read::{Reader, SliceReader};
use bincode::de::{BorrowDecode, Decoder, DecoderImpl};
use bincode::error::DecodeError;
use bytes::Bytes;
use rust_decimal::Decimal;
use smol_str::SmolStr;

use crate::model::{Field, MapKey, Object, Shape, Span, Time, Timestamp, Type, Value};
use crate::state::format::{CONFIG, Config, DEPTH_MAX};
use crate::state::row::{Accumulator, BufferedRecord, Deleted, Progress, RawRecord, RowState, SourceState, Version};

/// Why bytes are no payload.
#[derive(Debug)]
pub(super) enum Bad {
    Bincode(DecodeError),
    Other(&'static str),
}

impl From<DecodeError> for Bad {
    fn from(error: DecodeError) -> Bad {
        Bad::Bincode(error)
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Bincode(error) => write!(f, "the bytes are damaged: {error}"),
            Bad::Other(what) => write!(f, "the bytes are damaged: {what}"),
        }
    }
}

/// The payload of one stored value, being read.
pub(super) struct Payload<'b> {
    decoder: DecoderImpl<SliceReader<'b>, Config, ()>,
    shapes: Vec<Arc<Shape>>,
    depth: usize,
}

type Read<T> = Result<T, Bad>;

impl<'b> Payload<'b> {
    pub fn new(bytes: &'b [u8]) -> Payload<'b> {
        Payload { decoder: DecoderImpl::new(SliceReader::new(bytes), CONFIG, ()), shapes: Vec::new(), depth: 0 }
    }

    /// Nothing may be left: a value with a tail is not what was written.
    pub fn end(&mut self) -> Read<()> {
        match self.decoder.reader().peek_read(1) {
            None => Ok(()),
            Some(_) => Err(Bad::Other("more bytes than the value has")),
        }
    }

    pub fn row(&mut self) -> Read<RowState> {
        let sources = self.list(Payload::source)?;
        Ok(RowState { sources, changed_at: self.time()?, expiry_at: self.option(Payload::time)? })
    }

    pub fn buffered(&mut self) -> Read<BufferedRecord> {
        Ok(BufferedRecord {
            raw: self.raw()?,
            version: self.version()?,
            operands: self.list(|payload| Ok((payload.value()?, payload.value()?)))?,
            wait_until: self.option(Payload::time)?,
        })
    }

    pub fn progress(&mut self) -> Read<Progress> {
        Ok(Progress { stream_time: self.time()?, closed_through: self.time()? })
    }

    #[inline]
    pub fn number(&mut self) -> Read<u64> {
        self.take()
    }

    fn source(&mut self) -> Read<SourceState> {
        Ok(SourceState {
            version: self.option(Payload::version)?,
            deleted: self.option(|payload| Ok(Deleted { time: payload.time()?, offset: payload.take()? }))?,
            fields: self.list(Payload::accumulator)?,
            raw: self.option(Payload::raw)?,
            wait_until: self.option(Payload::time)?,
        })
    }

    fn version(&mut self) -> Read<Version> {
        Ok(Version { order: self.list(Payload::value)?, time: self.time()?, offset: self.take()? })
    }

    fn raw(&mut self) -> Read<RawRecord> {
        Ok(RawRecord {
            key: self.option(Payload::bytes)?,
            value: self.option(Payload::bytes)?,
            headers: self.list(|payload| Ok((payload.text()?, payload.option(Payload::bytes)?)))?,
            offset: self.take()?,
            time: self.time()?,
        })
    }

    fn accumulator(&mut self) -> Read<Accumulator> {
        Ok(match self.take::<u8>()? {
            0 => Accumulator::Empty,
            1 => Accumulator::Last(self.value()?),
            2 => Accumulator::First(self.version()?, self.value()?),
            3 => Accumulator::Extreme(self.value()?),
            4 => Accumulator::Sum(self.value()?),
            5 => Accumulator::Count(self.take()?),
            6 => Accumulator::Avg { sum: self.decimal()?, count: self.take()? },
            7 => Accumulator::List(self.list(Payload::value)?),
            8 => Accumulator::Top(self.list(|payload| Ok((payload.value()?, payload.value()?)))?),
            9 => {
                let entries = self.list(|payload| Ok((payload.map_key()?, (payload.version()?, payload.option(Payload::value)?))))?;
                Accumulator::Entries(in_order(entries)?)
            }
            _ => return Err(Bad::Other("an unknown kind of accumulator")),
        })
    }

    fn value(&mut self) -> Read<Value> {
        self.deeper()?;
        let value = match self.take::<u8>()? {
            0 => Value::Null,
            1 => Value::Bool(self.take()?),
            2 => Value::Int(self.take()?),
            3 => Value::Uint(self.take()?),
            4 => Value::Double(self.take()?),
            5 => Value::String(self.text()?),
            6 => Value::Bytes(self.bytes()?),
            7 => Value::Decimal(self.decimal()?),
            8 => {
                let (seconds, nanos) = (self.take()?, self.take()?);
                Value::Timestamp(Timestamp::new(seconds, nanos).ok_or(Bad::Other("a timestamp out of range"))?)
            }
            9 => Value::Duration(Span { nanos: self.take()? }),
            10 => Value::List(self.list(Payload::value)?.into()),
            11 => {
                let entries = self.list(|payload| Ok((payload.map_key()?, payload.value()?)))?;
                Value::Map(Arc::new(in_order(entries)?))
            }
            12 => {
                let shape = self.shape()?;
                let slots = self.exactly(shape.fields.len(), Payload::value)?;
                Value::Object(Object { shape, slots: slots.into() })
            }
            13 => Value::Optional(self.option(Payload::value)?.map(Arc::new)),
            14 => Value::Type(self.ty()?),
            _ => return Err(Bad::Other("an unknown kind of value")),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn map_key(&mut self) -> Read<MapKey> {
        Ok(match self.take::<u8>()? {
            0 => MapKey::Bool(self.take()?),
            1 => MapKey::Int(self.take()?),
            2 => MapKey::Uint(self.take()?),
            3 => MapKey::String(self.text()?),
            _ => return Err(Bad::Other("an unknown kind of map key")),
        })
    }

    fn shape(&mut self) -> Read<Arc<Shape>> {
        let number = self.take::<u64>()?;
        if number > 0 {
            let known = usize::try_from(number - 1).ok().and_then(|index| self.shapes.get(index));
            return known.cloned().ok_or(Bad::Other("a shape that was not there before"));
        }
        let fields = self.list(|payload| Ok(Field { name: payload.text()?, ty: payload.ty()? }))?;
        let shape = Arc::new(Shape { fields });
        self.shapes.push(shape.clone());
        Ok(shape)
    }

    fn ty(&mut self) -> Read<Type> {
        self.deeper()?;
        let of = match self.take::<u8>()? {
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
            _ => return Err(Bad::Other("an unknown kind of type")),
        };
        self.depth -= 1;
        Ok(of)
    }

    #[inline]
    fn decimal(&mut self) -> Read<Decimal> {
        let mantissa = self.take::<u128>()?;
        let scale = self.take::<u8>()?;
        let mantissa = i128::try_from(mantissa).map_err(|_| Bad::Other("a decimal out of range"))?;
        let mut decimal =
            Decimal::try_from_i128_with_scale(mantissa, u32::from(scale & 0x7F)).map_err(|_| Bad::Other("a decimal out of range"))?;
        decimal.set_sign_negative(scale & 0x80 != 0);
        Ok(decimal)
    }

    #[inline]
    fn time(&mut self) -> Read<Time> {
        Ok(Time(self.take()?))
    }

    #[inline]
    fn text(&mut self) -> Read<SmolStr> {
        Ok(SmolStr::new(self.take::<&'b str>()?))
    }

    fn bytes(&mut self) -> Read<Bytes> {
        Ok(Bytes::copy_from_slice(self.take::<&'b [u8]>()?))
    }

    #[inline]
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        match self.take::<u8>()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Bad::Other("an option that is neither there nor not")),
        }
    }

    /// A list with its length before it.
    #[inline]
    fn list<T>(&mut self, read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let length = usize::try_from(self.take::<u64>()?).map_err(|_| Bad::Other("a length beyond the end"))?;
        self.exactly(length, read)
    }

    /// So many elements. Each takes a byte at least, so a number beyond the bytes that are left is refused before a place is made.
    #[inline]
    fn exactly<T>(&mut self, length: usize, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        if self.decoder.reader().peek_read(length).is_none() {
            return Err(Bad::Other("a length beyond the end"));
        }
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(read(self)?);
        }
        Ok(list)
    }

    #[inline]
    fn deeper(&mut self) -> Read<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Bad::Other("nested too deeply")) } else { Ok(()) }
    }

    #[inline]
    fn take<T: BorrowDecode<'b, ()>>(&mut self) -> Read<T> {
        Ok(T::borrow_decode(&mut self.decoder)?)
    }
}

/// A map from entries that were stored in order, each key once.
fn in_order<V>(entries: Vec<(MapKey, V)>) -> Read<BTreeMap<MapKey, V>> {
    if entries.is_sorted_by(|(a, _), (b, _)| a < b) { Ok(entries.into_iter().collect()) } else { Err(Bad::Other("a map out of order")) }
}
