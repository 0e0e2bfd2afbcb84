//! Record keys: Kafka's bytes, the value that expressions see, and the order-preserving bytes that stores keep.
//!
//! | `key:` | Kafka bytes | value | order in a store |
//! | --- | --- | --- | --- |
//! | `string` | UTF-8 (`StringSerializer`) | string | by bytes |
//! | `int` | 8 bytes big endian (`LongSerializer`), read also as 4 (`IntegerSerializer`) | int | by number |
//! | `uuid` | its 36 lower-case characters (`UUIDSerializer`) | string | by its 16 bytes |
//! | `json` | JSON text | any | by bytes of its canonical text |
//! | `bytes` | as they are | bytes | by bytes |
//!
//! The bytes of a key choose its partition, so one key should have one spelling. Two are read for `int`, because one
//! producer knows only one of them; topics that are joined must agree on it, or equal numbers lie in different partitions.
//! An upper-case UUID is refused for that reason. [`KeyCodec::spellings`] gives all the bytes that a key may have.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use smallvec::SmallVec;
use smol_str::SmolStr;
use uuid::Uuid;

use crate::codec::json::{JsonDecoder, parse_int, write_value};
use crate::codec::utf8::utf8;
use crate::codec::{BadValue, Decode, Limits};
use crate::model::{Key, Type, Value};

/// The largest key in bytes: it is copied into every store, changelog and Redis key that speaks of its row.
pub const KEY_BYTES_MAX: usize = 16 << 10;

/// First byte of every key in a store: the version of this layout.
pub const KEY_TAG: u8 = 0x01;

/// A codec of keys, as written in `key:` of a source, table or output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyCodec {
    String,
    Int,
    Uuid,
    Json,
    Bytes,
}

impl KeyCodec {
    /// All, in the order of the manual.
    pub const ALL: [KeyCodec; 5] = [KeyCodec::String, KeyCodec::Int, KeyCodec::Uuid, KeyCodec::Json, KeyCodec::Bytes];

    /// The codec that is written so in a topology file.
    pub fn parse(name: &str) -> Option<KeyCodec> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            KeyCodec::String => "string",
            KeyCodec::Int => "int",
            KeyCodec::Uuid => "uuid",
            KeyCodec::Json => "json",
            KeyCodec::Bytes => "bytes",
        }
    }

    /// The type of `key` in expressions.
    pub fn ty(self) -> Type {
        match self {
            KeyCodec::String | KeyCodec::Uuid => Type::String,
            KeyCodec::Int => Type::Int,
            KeyCodec::Json => Type::Any,
            KeyCodec::Bytes => Type::Bytes,
        }
    }

    /// Reads the key of a record.
    ///
    /// # Errors
    /// `too_large`, `not_utf8`, `wrong_type`, `not_json`.
    pub fn decode(self, bytes: &[u8]) -> Result<(Key, Value), BadValue> {
        if bytes.len() > KEY_BYTES_MAX {
            return Err(BadValue::new("too_large", format!("the key has {} bytes, the limit is {KEY_BYTES_MAX}", bytes.len())));
        }
        match self {
            KeyCodec::String => {
                let text = utf8(bytes)?;
                Ok((tagged(bytes), Value::String(SmolStr::new(text))))
            }
            KeyCodec::Int => {
                let int = if let Ok(long) = bytes.try_into() {
                    i64::from_be_bytes(long)
                } else if let Ok(int) = bytes.try_into() {
                    i64::from(i32::from_be_bytes(int))
                } else {
                    return Err(BadValue::new("wrong_type", format!("expected an int of 8 or 4 bytes, found {} bytes", bytes.len())));
                };
                Ok((int_key(int), Value::Int(int)))
            }
            KeyCodec::Uuid => {
                let text = utf8(bytes)?;
                let uuid = parse_uuid(text).filter(|uuid| is_canonical(uuid, text)).ok_or_else(|| not_a_uuid(text))?;
                Ok((tagged(uuid.as_bytes()), Value::String(SmolStr::new(text))))
            }
            KeyCodec::Json => json_key(bytes),
            KeyCodec::Bytes => Ok((tagged(bytes), Value::Bytes(Bytes::copy_from_slice(bytes)))),
        }
    }

    /// The key of a value as stores have it. Two values are the same key if and only if this is the same.
    ///
    /// # Errors
    /// `wrong_type` if the value is not of [`KeyCodec::ty`]; `too_large`.
    pub fn store_key(self, value: &Value) -> Result<Key, BadValue> {
        let key = match (self, value) {
            (KeyCodec::String, Value::String(text)) => tagged(text.as_bytes()),
            (KeyCodec::Int, Value::Int(int)) => int_key(*int),
            (KeyCodec::Uuid, Value::String(text)) => tagged(parse_uuid(text).ok_or_else(|| not_a_uuid(text))?.as_bytes()),
            (KeyCodec::Bytes, Value::Bytes(bytes)) => tagged(bytes),
            (KeyCodec::Json, value) if !value.is_null() => tagged(&canonical_json(value)),
            (codec, value) => return Err(codec.wrong_type(value)),
        };
        if key.len() > KEY_BYTES_MAX + 1 {
            return Err(BadValue::new("too_large", format!("the key has {} bytes, the limit is {KEY_BYTES_MAX}", key.len() - 1)));
        }
        Ok(key)
    }

    /// The value of a store key, the inverse of [`KeyCodec::store_key`]. Null for bytes that are none.
    pub fn from_store_key(self, key: &[u8]) -> Value {
        let bytes = key.get(1..).unwrap_or_default();
        match self {
            KeyCodec::String => Value::String(SmolStr::new(String::from_utf8_lossy(bytes))),
            KeyCodec::Int => {
                bytes.try_into().map_or(Value::Null, |bytes: [u8; 8]| Value::Int((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()))
            }
            KeyCodec::Uuid => {
                Uuid::from_slice(bytes).map_or(Value::Null, |uuid| Value::String(SmolStr::new(uuid.hyphenated().to_string())))
            }
            KeyCodec::Json => json_key(bytes).map_or(Value::Null, |(_, value)| value),
            KeyCodec::Bytes => Value::Bytes(Bytes::copy_from_slice(bytes)),
        }
    }

    /// Appends the bytes of a key as a producer writes them.
    ///
    /// # Errors
    /// As [`KeyCodec::store_key`]; nothing is appended then.
    pub fn encode(self, value: &Value, into: &mut Vec<u8>) -> Result<(), BadValue> {
        match (self, value) {
            (KeyCodec::String, Value::String(text)) => into.extend_from_slice(text.as_bytes()),
            (KeyCodec::Int, Value::Int(int)) => into.extend_from_slice(&int.to_be_bytes()),
            (KeyCodec::Uuid, Value::String(text)) => {
                let uuid = parse_uuid(text).ok_or_else(|| not_a_uuid(text))?;
                into.extend_from_slice(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
            }
            (KeyCodec::Bytes, Value::Bytes(bytes)) => into.extend_from_slice(bytes),
            (KeyCodec::Json, value) if !value.is_null() => into.extend_from_slice(&canonical_json(value)),
            (codec, value) => return Err(codec.wrong_type(value)),
        }
        Ok(())
    }

    /// The bytes that a producer may have written for this key, the likeliest first: each may choose another partition.
    ///
    /// For `json` only the canonical text is given, although others are read.
    pub fn spellings(self, value: &Value) -> Result<SmallVec<[Vec<u8>; 2]>, BadValue> {
        let mut first = Vec::new();
        self.encode(value, &mut first)?;
        let mut all = SmallVec::new();
        all.push(first);
        if let (KeyCodec::Int, Value::Int(int)) = (self, value)
            && let Ok(int) = i32::try_from(*int)
        {
            all.push(int.to_be_bytes().to_vec());
        }
        Ok(all)
    }

    /// Reads a key that a person wrote: in a path, on the command line, in a test. Bytes are base64, JSON is JSON.
    ///
    /// # Errors
    /// As [`KeyCodec::decode`], about the text.
    pub fn from_text(self, text: &str) -> Result<(Key, Value), BadValue> {
        let expected = |what: &str| BadValue::new("wrong_type", format!("expected {what}, found `{}`", text.escape_debug()));
        let value = match self {
            KeyCodec::String => Value::String(SmolStr::new(text)),
            KeyCodec::Int => Value::Int(parse_int(text).map_err(|_| expected("an int"))?),
            KeyCodec::Uuid => Value::String(SmolStr::new(parse_uuid(text).ok_or_else(|| not_a_uuid(text))?.hyphenated().to_string())),
            KeyCodec::Json => return json_key(text.as_bytes()),
            KeyCodec::Bytes => Value::Bytes(Bytes::from(STANDARD.decode(text).map_err(|_| expected("base64"))?)),
        };
        Ok((self.store_key(&value)?, value))
    }

    #[cold]
    fn wrong_type(self, value: &Value) -> BadValue {
        let expected = if self == KeyCodec::Json { Type::Any } else { self.ty() };
        BadValue::new("wrong_type", format!("expected a key of type {expected}, found {}", value.type_of()))
    }
}

impl fmt::Display for KeyCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn tagged(bytes: &[u8]) -> Key {
    let mut key = Key::with_capacity(bytes.len() + 1);
    key.push(KEY_TAG);
    key.extend_from_slice(bytes);
    key
}

/// Big endian with the sign bit turned over, so that bytes compare as numbers do.
fn int_key(int: i64) -> Key {
    tagged(&(int as u64 ^ 1 << 63).to_be_bytes())
}

fn json_key(bytes: &[u8]) -> Result<(Key, Value), BadValue> {
    let value = JsonDecoder::new(&Type::Any, Limits::default()).decode(bytes)?;
    if value.is_null() {
        return Err(BadValue::new("wrong_type", "expected a key, found null"));
    }
    Ok((tagged(&canonical_json(&value)), value))
}

/// Names sorted, no blanks, one form of every number: texts of one meaning are one key.
fn canonical_json(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    write_value(value, &mut text);
    text
}

/// Only the form with hyphens: what other forms `uuid` reads are other bytes, and so other keys.
fn parse_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn is_canonical(uuid: &Uuid, text: &str) -> bool {
    uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text
}

#[cold]
fn not_a_uuid(text: &str) -> BadValue {
    let found: String = text.chars().take(48).flat_map(char::escape_debug).collect();
    BadValue::new("wrong_type", format!("expected a uuid of 36 lower-case characters, found `{found}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uuid() -> &'static str {
        "6f2a1c3e-0b7d-4c55-9a41-00ff10ab20cd"
    }

    #[test]
    fn reads_what_kafka_serializers_write() {
        let check = |codec: KeyCodec, bytes: &[u8], key: &[u8], value: Value| {
            let (got_key, got) = codec.decode(bytes).unwrap();
            assert_eq!((got_key.as_slice(), got), (key, value), "{codec} {bytes:?}");
        };
        check(KeyCodec::String, b"p1", b"\x01p1", Value::string("p1"));
        check(KeyCodec::String, b"", b"\x01", Value::string(""));
        check(KeyCodec::Int, &42i64.to_be_bytes(), b"\x01\x80\0\0\0\0\0\0\x2a", Value::Int(42));
        check(KeyCodec::Int, &(-1i32).to_be_bytes(), b"\x01\x7f\xff\xff\xff\xff\xff\xff\xff", Value::Int(-1));
        check(
            KeyCodec::Uuid,
            uuid().as_bytes(),
            b"\x01\x6f\x2a\x1c\x3e\x0b\x7d\x4c\x55\x9a\x41\x00\xff\x10\xab\x20\xcd",
            Value::string(uuid()),
        );
        check(KeyCodec::Bytes, b"\xff\0", b"\x01\xff\0", Value::Bytes(Bytes::from_static(b"\xff\0")));
        assert_eq!(
            KeyCodec::Json.decode(br#"{"b": 1, "a": [true]}"#).unwrap().0.as_slice(),
            br#"{"a":[true],"b":1}"#.as_slice().to_tagged()
        );
    }

    trait ToTagged {
        fn to_tagged(&self) -> Vec<u8>;
    }

    impl ToTagged for &[u8] {
        fn to_tagged(&self) -> Vec<u8> {
            tagged(self).to_vec()
        }
    }

    #[test]
    fn says_why_bytes_are_no_key() {
        let check = |codec: KeyCodec, bytes: &[u8], reason: &str, detail: &str| {
            let bad = codec.decode(bytes).unwrap_err();
            assert_eq!((bad.reason, bad.detail.as_str()), (reason, detail), "{codec} {bytes:?}");
        };
        check(KeyCodec::String, b"a\xff", "not_utf8", "not UTF-8 at byte 1");
        check(KeyCodec::Int, b"42", "wrong_type", "expected an int of 8 or 4 bytes, found 2 bytes");
        check(KeyCodec::Int, b"", "wrong_type", "expected an int of 8 or 4 bytes, found 0 bytes");
        let upper = uuid().to_uppercase();
        check(KeyCodec::Uuid, upper.as_bytes(), "wrong_type", &format!("expected a uuid of 36 lower-case characters, found `{upper}`"));
        check(KeyCodec::Uuid, b"x\ny", "wrong_type", "expected a uuid of 36 lower-case characters, found `x\\ny`");
        check(KeyCodec::Json, b"null", "wrong_type", "expected a key, found null");
        check(KeyCodec::Json, b"{", "not_json", "not JSON: expected a name in double quotes, found the end, at byte 1");
        check(KeyCodec::Bytes, &[0; KEY_BYTES_MAX + 1], "too_large", "the key has 16385 bytes, the limit is 16384");
        let bad = KeyCodec::Int.store_key(&Value::string("1")).unwrap_err();
        assert_eq!(bad.detail, "expected a key of type int, found string");
    }

    #[test]
    fn a_person_writes_keys_as_text() {
        let check = |codec: KeyCodec, text: &str, value: Value| assert_eq!(codec.from_text(text).unwrap().1, value, "{codec} {text}");
        check(KeyCodec::String, "p1", Value::string("p1"));
        check(KeyCodec::Int, "-7", Value::Int(-7));
        check(KeyCodec::Uuid, &uuid().to_uppercase(), Value::string(uuid()));
        check(KeyCodec::Json, "[1]", Value::List([Value::Int(1)].into()));
        check(KeyCodec::Bytes, "/wA=", Value::Bytes(Bytes::from_static(b"\xff\0")));
        assert_eq!(KeyCodec::Int.from_text("1.5").unwrap_err().detail, "expected an int, found `1.5`");
    }

    #[test]
    fn an_int_has_two_spellings_where_four_bytes_hold_it() {
        assert_eq!(KeyCodec::Int.spellings(&Value::Int(1)).unwrap().to_vec(), [1i64.to_be_bytes().to_vec(), 1i32.to_be_bytes().to_vec()]);
        assert_eq!(KeyCodec::Int.spellings(&Value::Int(1 << 40)).unwrap().len(), 1);
        assert_eq!(KeyCodec::String.spellings(&Value::string("a")).unwrap().to_vec(), [b"a".to_vec()]);
    }

    #[test]
    fn every_name_leads_back_to_its_codec() {
        for codec in KeyCodec::ALL {
            assert_eq!(KeyCodec::parse(codec.name()), Some(codec));
        }
        assert_eq!(KeyCodec::parse("avro"), None);
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(which in 0usize..5, bytes: Vec<u8>, int: i64, id: u128) {
            let codec = KeyCodec::ALL[which];
            let value = match codec {
                KeyCodec::String => Value::string(String::from_utf8_lossy(&bytes).as_ref()),
                KeyCodec::Int => Value::Int(int),
                KeyCodec::Uuid => Value::string(Uuid::from_u128(id).to_string()),
                KeyCodec::Json => Value::List([Value::Int(int % 1000), Value::string("k")].into()),
                KeyCodec::Bytes => Value::Bytes(Bytes::from(bytes)),
            };
            let mut encoded = Vec::new();
            codec.encode(&value, &mut encoded).unwrap();
            let (key, decoded) = codec.decode(&encoded).unwrap();
            prop_assert_eq!(&decoded, &value);
            prop_assert_eq!(codec.from_store_key(&key), value.clone());
            prop_assert_eq!(codec.store_key(&value).unwrap(), key);
        }

        #[test]
        fn any_bytes_are_a_key_or_an_error(which in 0usize..5, bytes: Vec<u8>, text in "\\PC{0,40}") {
            let codec = KeyCodec::ALL[which];
            let _ = (codec.decode(&bytes).is_ok(), codec.from_text(&text).is_ok(), codec.from_store_key(&bytes));
        }

        #[test]
        fn keys_compare_as_their_values(a: i64, b: i64, x: String, y: String) {
            let int = |int| KeyCodec::Int.store_key(&Value::Int(int)).unwrap();
            let string = |text: &str| KeyCodec::String.store_key(&Value::string(text)).unwrap();
            prop_assert_eq!(int(a).cmp(&int(b)), a.cmp(&b));
            prop_assert_eq!(string(&x).cmp(&string(&y)), x.cmp(&y));
        }
    }
}
