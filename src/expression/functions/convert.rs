//! Conversions between types: `int(x)`, `string(x)`, `decimal(x)` … A value that does not fit is an error, never rounded to fit;
//! only a fraction is cut off on the way to an integer, as the specification says.

use bytes::Bytes;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use smol_str::{SmolStr, format_smolstr};

use crate::expression::arithmetic::text;
use crate::expression::functions::time::show_duration;
use crate::expression::problem::{Failure, Outcome};
use crate::expression::types::name_of;
use crate::model::{Type, Value};

pub(super) fn to_type(value: &Value) -> Outcome {
    Ok(Value::Type(match value {
        Value::Object(_) => Type::map(Type::Any, Type::Any),
        other => other.type_of(),
    }))
}

pub(super) fn to_bool(value: &Value) -> Outcome {
    match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::String(word) => match word.as_str() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
            _ => Err(unreadable(word, "bool")),
        },
        other => Err(Failure::overload("bool", &[other])),
    }
}

pub(super) fn to_int(value: &Value) -> Outcome {
    let number = match value {
        Value::Int(_) => return Ok(value.clone()),
        Value::Uint(number) => i64::try_from(*number).ok(),
        // The bounds are powers of two, so the doubles are exact. The specification leaves out the smallest int, too.
        Value::Double(number) => (-(2f64.powi(63)) < *number && *number < 2f64.powi(63)).then_some(*number as i64),
        Value::Decimal(number) => number.trunc().to_i64(),
        Value::Timestamp(time) => Some(time.seconds),
        Value::String(digits) => return digits.parse().map(Value::Int).map_err(|_| unreadable(digits, "int")),
        other => return Err(Failure::overload("int", &[other])),
    };
    number.map(Value::Int).ok_or_else(|| out_of_range("int"))
}

pub(super) fn to_uint(value: &Value) -> Outcome {
    let number = match value {
        Value::Uint(_) => return Ok(value.clone()),
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Double(number) => (-1.0 < *number && *number < 2f64.powi(64)).then_some(*number as u64),
        Value::Decimal(number) => number.trunc().to_u64(),
        Value::String(digits) => return digits.parse().map(Value::Uint).map_err(|_| unreadable(digits, "uint")),
        other => return Err(Failure::overload("uint", &[other])),
    };
    number.map(Value::Uint).ok_or_else(|| out_of_range("uint"))
}

pub(super) fn to_double(value: &Value) -> Outcome {
    Ok(Value::Double(match value {
        Value::Double(number) => *number,
        Value::Int(number) => *number as f64,
        Value::Uint(number) => *number as f64,
        Value::Decimal(number) => number.to_f64().ok_or_else(|| out_of_range("double"))?,
        Value::String(digits) => digits.parse().map_err(|_| unreadable(digits, "double"))?,
        other => return Err(Failure::overload("double", &[other])),
    }))
}

pub(super) fn to_decimal(value: &Value) -> Outcome {
    Ok(Value::Decimal(match value {
        Value::Decimal(number) => *number,
        Value::Int(number) => Decimal::from(*number),
        Value::Uint(number) => Decimal::from(*number),
        // The shortest decimal that reads back as this double: what the one who wrote 9.9 meant.
        Value::Double(number) if number.is_finite() => read_decimal(&number.to_string()).ok_or_else(|| out_of_range("decimal"))?,
        Value::Double(_) => return Err(out_of_range("decimal")),
        Value::String(digits) => read_decimal(digits).ok_or_else(|| unreadable(digits, "decimal"))?,
        other => return Err(Failure::overload("decimal", &[other])),
    }))
}

/// Reads `-9.90` or `1.5e-3` exactly: what needs more than 28 digits is refused, not rounded.
fn read_decimal(digits: &str) -> Option<Decimal> {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.parse::<i32>().ok()?)),
        None => (digits, None),
    };
    let unsigned = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let has_digit = unsigned.bytes().any(|c| c.is_ascii_digit());
    if !has_digit || !unsigned.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        return None;
    }
    let Some(exponent) = exponent.filter(|exponent| *exponent != 0) else {
        return Decimal::from_str_exact(mantissa).ok();
    };
    // More places than a decimal has, so that zeros before or after the digits may still go; bounded before anything is made.
    if exponent.unsigned_abs() > 64 || unsigned.len() > 64 {
        return None;
    }
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let all = format!("{whole}{fraction}");
    let places = i64::try_from(fraction.len()).ok()? - i64::from(exponent);
    let shifted = match usize::try_from(places) {
        Ok(places) => {
            let padded = format!("{all:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at(padded.len() - places);
            format!("{whole}.{fraction}")
        }
        Err(_) => format!("{all}{}", "0".repeat(places.unsigned_abs() as usize)),
    };
    let number = Decimal::from_str_exact(shifted.trim_end_matches('.')).ok()?;
    Some(if mantissa.starts_with('-') { -number } else { number })
}

pub(super) fn to_string(value: &Value) -> Outcome {
    Ok(Value::String(match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(value) => SmolStr::new_static(if *value { "true" } else { "false" }),
        Value::Int(number) => format_smolstr!("{number}"),
        Value::Uint(number) => format_smolstr!("{number}"),
        Value::Double(number) => show_double(*number),
        // The scale is kept: "9.90" stays "9.90".
        Value::Decimal(number) => format_smolstr!("{number}"),
        Value::Timestamp(time) => format_smolstr!("{time}"),
        Value::Duration(span) => show_duration(*span),
        Value::Type(ty) => SmolStr::new_static(name_of(ty)),
        Value::Bytes(bytes) => {
            return match std::str::from_utf8(bytes) {
                Ok(valid) => text(valid),
                Err(_) => Err(Failure::new("the bytes are not a string: invalid UTF-8")),
            };
        }
        other => return Err(Failure::overload("string", &[other])),
    }))
}

pub(super) fn to_bytes(value: &Value) -> Outcome {
    match value {
        Value::Bytes(_) => Ok(value.clone()),
        Value::String(text) => Ok(Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))),
        other => Err(Failure::overload("bytes", &[other])),
    }
}

/// The shortest text that reads back as this double; with an exponent only where it would be very long.
pub(super) fn show_double(number: f64) -> SmolStr {
    let size = number.abs();
    if number.is_nan() {
        SmolStr::new_static("NaN")
    } else if number.is_infinite() {
        SmolStr::new_static(if number > 0.0 { "Infinity" } else { "-Infinity" })
    } else if size != 0.0 && !(1e-7..1e21).contains(&size) {
        // Written as JSON and Go have it: `1e+30`.
        let text = format!("{number:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format_smolstr!("{digits}e+{exponent}"),
            _ => text.into(),
        }
    } else {
        format_smolstr!("{number}")
    }
}

fn unreadable(text: &str, ty: &str) -> Failure {
    // A long text would drown the message.
    let shown: String = text.chars().take(60).collect();
    Failure::new(format!("`{shown}` cannot be read as {ty}"))
}

fn out_of_range(ty: &str) -> Failure {
    Failure::new(format!("out of the range of {ty}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_decimals_exactly_or_not_at_all() {
        let read = |text: &str| read_decimal(text).map(|number| number.to_string());
        for (text, expected) in [
            ("9.90", "9.90"),
            ("-0.5", "-0.5"),
            ("+3", "3"),
            ("1.5e3", "1500"),
            ("-2.50e-1", "-0.250"),
            ("1e2", "100"),
            ("15e-1", "1.5"),
            ("1e-28", "0.0000000000000000000000000001"),
            (".5", "0.5"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "-", ".", "1_000", "9,90", "1e", "1e99", "0x10", "NaN", "12345678901234567890123456789012", "1e-40", " 1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn shows_doubles_as_they_read_back() {
        for (number, expected) in [
            (5.0, "5"),
            (-0.0045, "-0.0045"),
            (1e6, "1000000"),
            (1e30, "1e+30"),
            (1.5e-9, "1.5e-9"),
            (f64::INFINITY, "Infinity"),
            (0.0, "0"),
        ] {
            assert_eq!(show_double(number), expected);
        }
    }
}
