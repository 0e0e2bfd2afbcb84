//! What stored values look like: an envelope of our own around a payload in bincode's encoding. The only place that names bincode.
//!
//! ```text
//! magic u8 | kind u8 | schema id, varint u32 | payload
//! ```
//! The kind says which type the payload is and in which version; the schema id, which table's fields it holds. A version is never changed:
//! another layout is another kind, and every kind that was ever released keeps its reader and its golden bytes in `tests/formats`. Bytes are
//! read to their end, lengths are checked against what is there before anything is allocated, nesting is bounded.
//!
//! Progress is written by bincode itself. Rows, of which there is one per record, are written by `encode` and `decode`, by hand and byte for byte
//! as bincode's derive would (the tests compare them): measured 1.4 times faster to write and twice as fast to read, because values are
//! made where they stay and allocations are used again.
//!
//! RocksDB and Kafka check their blocks and batches by checksum, so values carry none.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bincode::config::Configuration;

use crate::model::Time;
use crate::state::StateError;
use crate::state::row::{BufferedRecord, Progress, RowState};

/// First byte of every stored value.
pub const MAGIC: u8 = 0xC5;

/// Deepest nesting of a value. Sources allow 128 levels, expressions add a few.
pub const DEPTH_MAX: usize = 256;

/// Variable-length integers, little endian, no limit: the length of the bytes is the limit.
const CONFIG: Configuration = bincode::config::standard();

// First bytes of numbers that do not fit in one, in bincode's variable-length encoding.
const LONG_U16: u8 = 251;
const LONG_U32: u8 = 252;
const LONG_U64: u8 = 253;
const LONG_U128: u8 = 254;

/// What a payload is. Numbers are never used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Row1 = 1,
    Buffered1 = 2,
    Progress1 = 3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Row1 => "row",
            Kind::Buffered1 => "buffered record",
            Kind::Progress1 => "progress",
        }
    }
}

/// Longest schema id as a varint.
const SCHEMA_BYTES_MAX: usize = 5;

/// Writes and reads the stored values of one table.
#[derive(Clone, Copy, Debug)]
pub struct RowCodec {
    schema_id: u32,
    /// The schema id as it is stored, so that reading one compares bytes.
    schema: [u8; SCHEMA_BYTES_MAX],
    schema_length: usize,
}

impl RowCodec {
    /// `schema_id`: CRC-32 of a text that says the table's sources, fields, types and rules. Values with another one are refused.
    pub fn new(schema_id: u32) -> RowCodec {
        let mut bytes = Vec::with_capacity(SCHEMA_BYTES_MAX);
        encode::Payload::new(&mut bytes).number(u64::from(schema_id));
        let mut schema = [0; SCHEMA_BYTES_MAX];
        schema[..bytes.len()].copy_from_slice(&bytes);
        RowCodec { schema_id, schema, schema_length: bytes.len() }
    }

    pub fn schema_id(&self) -> u32 {
        self.schema_id
    }

    /// Appends a row.
    pub fn encode_row(&self, row: &RowState, into: &mut Vec<u8>) {
        self.encode(Kind::Row1, into).row(row);
    }

    /// # Errors
    /// [`StateError::Refused`] for another schema or a newer format, with both named; [`StateError::Corrupt`] for damaged bytes.
    pub fn decode_row(&self, bytes: &[u8]) -> Result<RowState, StateError> {
        let mut row = RowState::default();
        self.decode_row_into(bytes, &mut row)?;
        Ok(row)
    }

    /// Reads a row over another one, whose allocations are used again: half the cost of [`RowCodec::decode_row`].
    ///
    /// # Errors
    /// As of [`RowCodec::decode_row`]; `row` then holds rubbish.
    pub fn decode_row_into(&self, bytes: &[u8], row: &mut RowState) -> Result<(), StateError> {
        self.decode(Kind::Row1, bytes, |payload| payload.row(row))
    }

    /// Appends a record that waits for its owner.
    pub fn encode_buffered(&self, record: &BufferedRecord, into: &mut Vec<u8>) {
        self.encode(Kind::Buffered1, into).buffered(record);
    }

    /// # Errors
    /// As of [`RowCodec::decode_row`].
    pub fn decode_buffered(&self, bytes: &[u8]) -> Result<BufferedRecord, StateError> {
        self.decode(Kind::Buffered1, bytes, decode::Payload::buffered)
    }

    /// Appends the progress of an operator.
    #[expect(clippy::expect_used, reason = "two numbers and a vector refuse nothing")]
    pub fn encode_progress(&self, progress: &Progress, into: &mut Vec<u8>) {
        self.envelope(Kind::Progress1, into);
        let times = (progress.stream_time.0, progress.closed_through.0);
        bincode::encode_into_std_write(times, into, CONFIG).expect("a vector takes everything");
    }

    /// # Errors
    /// As of [`RowCodec::decode_row`].
    pub fn decode_progress(&self, bytes: &[u8]) -> Result<Progress, StateError> {
        let payload = self.payload(Kind::Progress1, bytes)?;
        match bincode::decode_from_slice::<(i64, i64), _>(payload, CONFIG) {
            Ok(((stream_time, closed_through), length)) if length == payload.len() => {
                Ok(Progress { stream_time: Time(stream_time), closed_through: Time(closed_through) })
            }
            Ok(_) => Err(damaged(Kind::Progress1, "the bytes are damaged: more bytes than the value has".into())),
            Err(error) => Err(damaged(Kind::Progress1, format!("the bytes are damaged: {error}"))),
        }
    }

    fn envelope(&self, kind: Kind, into: &mut Vec<u8>) {
        into.extend_from_slice(&[MAGIC, kind as u8]);
        into.extend_from_slice(&self.schema[..self.schema_length]);
    }

    fn payload<'b>(&self, kind: Kind, bytes: &'b [u8]) -> Result<&'b [u8], StateError> {
        let schema = &self.schema[..self.schema_length];
        bytes.strip_prefix(&[MAGIC, kind as u8]).and_then(|rest| rest.strip_prefix(schema)).ok_or_else(|| self.refuse(kind, bytes))
    }

    fn encode<'v>(&self, kind: Kind, into: &'v mut Vec<u8>) -> encode::Payload<'v> {
        self.envelope(kind, into);
        encode::Payload::new(into)
    }

    fn decode<'b, T>(
        &self,
        kind: Kind,
        bytes: &'b [u8],
        read: impl FnOnce(&mut decode::Payload<'b>) -> Result<T, decode::Bad>,
    ) -> Result<T, StateError> {
        let mut payload = decode::Payload::new(self.payload(kind, bytes)?);
        let value = read(&mut payload).and_then(|value| payload.end().map(|()| value));
        value.map_err(|bad| damaged(kind, bad.to_string()))
    }

    /// Why an envelope is not the expected one.
    #[cold]
    fn refuse(&self, kind: Kind, bytes: &[u8]) -> StateError {
        let what = format!("read a stored {}", kind.name());
        let [magic, found, rest @ ..] = bytes else {
            return StateError::Corrupt { what, cause: format!("expected an envelope, found {} bytes", bytes.len()) };
        };
        if *magic != MAGIC {
            return StateError::Corrupt { what, cause: format!("expected an envelope, found a first byte of {magic:#04x}") };
        }
        if *found != kind as u8 {
            let known = kind as u8;
            return StateError::Refused {
                what,
                cause: format!("it is of another kind or was written by a newer version: kind found {found}, known {known}"),
            };
        }
        match decode::Payload::new(rest).number() {
            Ok(schema) => StateError::Refused {
                what,
                cause: format!(
                    "the table's fields were other ones when it was written: schema found {schema:#010x}, known {:#010x}",
                    self.schema_id
                ),
            },
            Err(bad) => StateError::Corrupt { what, cause: format!("its schema id: {bad}") },
        }
    }
}

fn damaged(kind: Kind, cause: String) -> StateError {
    StateError::Corrupt { what: format!("read a stored {}", kind.name()), cause }
}
