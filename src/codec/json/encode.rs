//! Writes values as JSON: the bytes of outputs and Redis members, and the tree of answers.
//!
//! One form for everything: a decimal is a string that keeps its scale, a timestamp RFC 3339 in UTC, a duration seconds
//! (`1.5s`), bytes base64, an integer beyond 2^53 a string (JavaScript, and every parser that has only doubles, would change it), a
//! double the shortest text that reads back, NaN and the infinities null (JSON has no word for them). Maps are written in
//! the order of their keys and objects in the order of their shape, so the same value gives the same bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value as Tree};

use crate::codec::json::scan::plain_end;
use crate::codec::json::text::duration_text;
use crate::model::{MapKey, Object, Timestamp, Value};

/// The largest integer that is written as a number: 2^53, up to which doubles have no gaps.
pub const INTEGER_NUMBER_MAX: u64 = 1 << 53;

/// Appends a value as JSON text. Objects keep the order of their shape.
pub fn write_value(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Null | Value::Optional(None) => into.extend_from_slice(b"null"),
        Value::Bool(true) => into.extend_from_slice(b"true"),
        Value::Bool(false) => into.extend_from_slice(b"false"),
        Value::Int(int) if int.unsigned_abs() <= INTEGER_NUMBER_MAX => write_plain(int, into),
        Value::Uint(uint) if *uint <= INTEGER_NUMBER_MAX => write_plain(uint, into),
        Value::Double(double) => write_plain(double, into),
        Value::String(text) => write_text(text, into),
        Value::Decimal(decimal) => quoted(into, |into| write_decimal(decimal, into)),
        Value::Timestamp(timestamp) => quoted(into, |into| write_timestamp(*timestamp, into)),
        Value::List(items) => write_list(items, into),
        Value::Map(entries) => {
            into.push(b'{');
            for (position, (key, value)) in entries.iter().enumerate() {
                write_name(position, &key_text(key), into);
                write_value(value, into);
            }
            into.push(b'}');
        }
        Value::Object(object) => write_object(object, into),
        Value::Optional(Some(value)) => write_value(value, into),
        Value::Int(_) | Value::Uint(_) | Value::Bytes(_) | Value::Duration(_) | Value::Type(_) => write_text(&scalar_text(value), into),
    }
}

fn quoted(into: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    into.push(b'"');
    write(into);
    into.push(b'"');
}

/// Nearly every text needs no escape and is copied.
fn write_text(text: &str, into: &mut Vec<u8>) {
    if plain_end(text.as_bytes(), 0) == text.len() {
        quoted(into, |into| into.extend_from_slice(text.as_bytes()));
    } else {
        write_plain(text, into);
    }
}

/// As `Display` does, without its machinery: a row is written for the changelog and once more for each output.
fn write_decimal(decimal: &Decimal, into: &mut Vec<u8>) {
    let scale = decimal.scale() as usize;
    let mut rest = decimal.mantissa().unsigned_abs();
    let mut digits = [0; 40];
    let mut start = digits.len();
    // The point has a digit before it and all decimals behind it.
    while rest > 0 || digits.len() - start <= scale {
        start -= 1;
        // In halves of 64 bits as soon as they suffice: a division of 128 bits is a call.
        let digit = if let Ok(small) = u64::try_from(rest) {
            rest = u128::from(small / 10);
            (small % 10) as u8
        } else {
            let digit = (rest % 10) as u8;
            rest /= 10;
            digit
        };
        digits[start] = b'0' + digit;
    }
    if decimal.is_sign_negative() {
        into.push(b'-');
    }
    let (whole, decimals) = digits[start..].split_at(digits.len() - start - scale);
    into.extend_from_slice(whole);
    if scale > 0 {
        into.push(b'.');
        into.extend_from_slice(decimals);
    }
}

/// As `Display` does, without its machinery.
fn write_timestamp(timestamp: Timestamp, into: &mut Vec<u8>) {
    let civil = timestamp.civil();
    let mut number = |prefix: Option<u8>, number: u32, digits: u32| {
        into.extend(prefix);
        for place in (0..digits).rev() {
            into.push(b'0' + (number / 10u32.pow(place) % 10) as u8);
        }
    };
    number(None, civil.year().unsigned_abs().into(), 4);
    number(Some(b'-'), civil.month().unsigned_abs().into(), 2);
    number(Some(b'-'), civil.day().unsigned_abs().into(), 2);
    number(Some(b'T'), civil.hour().unsigned_abs().into(), 2);
    number(Some(b':'), civil.minute().unsigned_abs().into(), 2);
    number(Some(b':'), civil.second().unsigned_abs().into(), 2);
    match timestamp.nanos {
        0 => {}
        nanos if nanos % 1_000_000 == 0 => number(Some(b'.'), nanos / 1_000_000, 3),
        nanos if nanos % 1000 == 0 => number(Some(b'.'), nanos / 1000, 6),
        nanos => number(Some(b'.'), nanos, 9),
    }
    into.push(b'Z');
}

fn write_list(items: &[Value], into: &mut Vec<u8>) {
    into.push(b'[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            into.push(b',');
        }
        write_value(item, into);
    }
    into.push(b']');
}

fn write_object(object: &Object, into: &mut Vec<u8>) {
    into.push(b'{');
    for (position, (field, value)) in object.shape.fields.iter().zip(object.slots.iter()).enumerate() {
        write_name(position, &field.name, into);
        write_value(value, into);
    }
    into.push(b'}');
}

fn write_name(position: usize, name: &str, into: &mut Vec<u8>) {
    if position > 0 {
        into.push(b',');
    }
    write_text(name, into);
    into.push(b':');
}

/// What `serde_json` writes as we want it: texts with escapes, integers, finite doubles (others become null).
fn write_plain<T: serde::Serialize + ?Sized>(plain: &T, into: &mut Vec<u8>) {
    // Writing a scalar to memory does not fail.
    let _ = serde_json::to_writer(into, plain);
}

/// The text of a scalar, without quotes: in JSON strings, `string` values, and wherever people read one value.
///
/// Null is empty; lists, maps and objects are their JSON.
pub fn scalar_text(value: &Value) -> String {
    match value {
        Value::Null | Value::Optional(None) => String::new(),
        Value::Optional(Some(value)) => scalar_text(value),
        Value::String(text) => text.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Uint(uint) => uint.to_string(),
        Value::Bytes(bytes) => STANDARD.encode(bytes),
        Value::Decimal(decimal) => decimal.to_string(),
        Value::Timestamp(timestamp) => timestamp.to_string(),
        Value::Duration(span) => duration_text(*span),
        Value::Type(ty) => ty.to_string(),
        Value::Bool(_) | Value::Double(_) | Value::List(_) | Value::Map(_) | Value::Object(_) => {
            let mut text = Vec::new();
            write_value(value, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::Int(key) => key.to_string(),
        MapKey::Uint(key) => key.to_string(),
        MapKey::String(key) => key.to_string(),
    }
}

/// The value as a tree, for tests, replay and diagnostics. A tree sorts the names of an object; where their order matters use
/// [`write_value`].
pub fn to_json(value: &Value) -> Tree {
    match value {
        Value::Null | Value::Optional(None) => Tree::Null,
        Value::Bool(bool) => Tree::Bool(*bool),
        Value::Int(int) if int.unsigned_abs() <= INTEGER_NUMBER_MAX => Tree::Number((*int).into()),
        Value::Uint(uint) if *uint <= INTEGER_NUMBER_MAX => Tree::Number((*uint).into()),
        Value::Double(double) => Number::from_f64(*double).map_or(Tree::Null, Tree::Number),
        Value::List(items) => Tree::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => Tree::Object(entries.iter().map(|(key, value)| (key_text(key), to_json(value))).collect()),
        Value::Object(object) => {
            let members = object.shape.fields.iter().zip(object.slots.iter());
            Tree::Object(members.map(|(field, value)| (field.name.to_string(), to_json(value))).collect::<Map<_, _>>())
        }
        Value::Optional(Some(value)) => to_json(value),
        scalar => Tree::String(scalar_text(scalar)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut into = Vec::new();
        write(&mut into);
        String::from_utf8(into).unwrap()
    }

    proptest! {
        #[test]
        fn decimals_are_written_as_they_display(mantissa in -(1i128 << 96) + 1..1i128 << 96, shift in 0u32..96, scale in 0u32..=28) {
            let decimal = Decimal::from_i128_with_scale(mantissa >> shift, scale);
            prop_assert_eq!(text(|into| write_decimal(&decimal, into)), decimal.to_string());
        }

        #[test]
        fn timestamps_are_written_as_they_display(seconds in Timestamp::SECONDS_MIN..=Timestamp::SECONDS_MAX, nanos in 0u32..1_000_000_000, step in 0u32..4) {
            let unit = 1000u32.pow(step);
            let timestamp = Timestamp::new(seconds, if unit == 1_000_000_000 { 0 } else { nanos / unit * unit }).unwrap();
            prop_assert_eq!(text(|into| write_timestamp(timestamp, into)), timestamp.to_string());
        }

        #[test]
        fn texts_are_written_as_serde_json_does(value: String) {
            prop_assert_eq!(text(|into| write_text(&value, into)), serde_json::to_string(&value).unwrap());
        }
    }
}
