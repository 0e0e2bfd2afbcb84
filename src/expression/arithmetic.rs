//! `+ - * / %` and negation. Integers and decimals never wrap, round silently or divide by zero: that is an error.
//!
//! A decimal meets an int or uint by turning it into a decimal; with a double it does not mix.

use std::sync::Arc;

use bytes::Bytes;
use rust_decimal::Decimal;
use smol_str::SmolStr;

use crate::expression::collect::{ELEMENTS_MAX, too_large};
use crate::expression::parse::BinaryOperator;
use crate::expression::problem::{Failure, Outcome};
use crate::model::{Span, Timestamp, Value};

/// The longest string or bytes that an expression makes: Kafka's default limit of a record, so a longer one could not be sent.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

const NANOS: i64 = 1_000_000_000;

/// `left operator right` for the arithmetic operators.
pub(super) fn arithmetic(operator: BinaryOperator, left: &Value, right: &Value) -> Outcome {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => ints(operator, *a, *b),
        (Value::Decimal(a), Value::Decimal(b)) => decimals(operator, *a, *b),
        (Value::Decimal(a), Value::Int(b)) => decimals(operator, *a, Decimal::from(*b)),
        (Value::Decimal(a), Value::Uint(b)) => decimals(operator, *a, Decimal::from(*b)),
        (Value::Int(a), Value::Decimal(b)) => decimals(operator, Decimal::from(*a), *b),
        (Value::Uint(a), Value::Decimal(b)) => decimals(operator, Decimal::from(*a), *b),
        (Value::Double(a), Value::Double(b)) if operator != BinaryOperator::Remainder => Ok(double(match operator {
            BinaryOperator::Add => a + b,
            BinaryOperator::Subtract => a - b,
            BinaryOperator::Multiply => a * b,
            _ => a / b,
        })),
        (Value::Uint(a), Value::Uint(b)) => uints(operator, *a, *b),
        _ if operator == BinaryOperator::Add => add(left, right),
        _ if operator == BinaryOperator::Subtract => subtract(left, right),
        _ => Err(Failure::overload(operator.symbol(), &[left, right])),
    }
}

/// `-value`
pub(super) fn negate(value: &Value) -> Outcome {
    match value {
        Value::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(|| overflow("int")),
        Value::Double(value) => Ok(double(-value)),
        Value::Decimal(value) => Ok(Value::Decimal(-*value)),
        Value::Duration(span) => span.nanos.checked_neg().map(|nanos| Value::Duration(Span { nanos })).ok_or_else(|| overflow("duration")),
        other => Err(Failure::overload("-", &[other])),
    }
}

/// A double that was computed. NaN has many bit patterns, and processors differ in which one they make; a row has one.
pub(super) fn double(number: f64) -> Value {
    Value::Double(if number.is_nan() { f64::NAN } else { number })
}

fn ints(operator: BinaryOperator, a: i64, b: i64) -> Outcome {
    let result = match operator {
        BinaryOperator::Add => a.checked_add(b),
        BinaryOperator::Subtract => a.checked_sub(b),
        BinaryOperator::Multiply => a.checked_mul(b),
        BinaryOperator::Divide | BinaryOperator::Remainder if b == 0 => return Err(by_zero(operator)),
        BinaryOperator::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Int).ok_or_else(|| overflow("int"))
}

fn uints(operator: BinaryOperator, a: u64, b: u64) -> Outcome {
    let result = match operator {
        BinaryOperator::Add => a.checked_add(b),
        BinaryOperator::Subtract => a.checked_sub(b),
        BinaryOperator::Multiply => a.checked_mul(b),
        BinaryOperator::Divide | BinaryOperator::Remainder if b == 0 => return Err(by_zero(operator)),
        BinaryOperator::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Uint).ok_or_else(|| overflow("uint"))
}

fn decimals(operator: BinaryOperator, a: Decimal, b: Decimal) -> Outcome {
    let result = match operator {
        BinaryOperator::Add => a.checked_add(b),
        BinaryOperator::Subtract => a.checked_sub(b),
        BinaryOperator::Multiply => a.checked_mul(b),
        BinaryOperator::Divide | BinaryOperator::Remainder if b.is_zero() => return Err(by_zero(operator)),
        BinaryOperator::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Decimal).ok_or_else(|| overflow("decimal"))
}

fn by_zero(operator: BinaryOperator) -> Failure {
    Failure::new(if operator == BinaryOperator::Divide { "division by zero" } else { "modulus by zero" })
}

fn overflow(ty: &str) -> Failure {
    Failure::new(format!("{ty} overflow"))
}

fn add(left: &Value, right: &Value) -> Outcome {
    match (left, right) {
        (Value::String(a), Value::String(b)) => {
            check_text(a.len() + b.len())?;
            Ok(Value::String(joined(a, b)))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            check_text(a.len() + b.len())?;
            Ok(Value::Bytes(Bytes::from([a.as_ref(), b.as_ref()].concat())))
        }
        (Value::List(a), Value::List(b)) => {
            if a.is_empty() || b.is_empty() {
                return Ok(Value::List(if a.is_empty() { b.clone() } else { a.clone() }));
            }
            if a.len() + b.len() > ELEMENTS_MAX {
                return Err(too_large());
            }
            let list: Arc<[Value]> = a.iter().chain(b.iter()).cloned().collect();
            Ok(Value::List(list))
        }
        (Value::Timestamp(time), Value::Duration(span)) | (Value::Duration(span), Value::Timestamp(time)) => {
            moved(*time, i128::from(span.nanos)).map(Value::Timestamp)
        }
        (Value::Duration(a), Value::Duration(b)) => {
            a.nanos.checked_add(b.nanos).map(|nanos| Value::Duration(Span { nanos })).ok_or_else(|| overflow("duration"))
        }
        _ => Err(Failure::overload("+", &[left, right])),
    }
}

/// The two texts as one; short ones, such as keys, without touching the heap.
fn joined(a: &str, b: &str) -> SmolStr {
    /// What a `SmolStr` holds in itself.
    const INLINE_BYTES: usize = 23;
    let length = a.len() + b.len();
    if length <= INLINE_BYTES {
        let mut buffer = [0u8; INLINE_BYTES];
        buffer[..a.len()].copy_from_slice(a.as_bytes());
        buffer[a.len()..length].copy_from_slice(b.as_bytes());
        if let Ok(text) = std::str::from_utf8(&buffer[..length]) {
            return SmolStr::new_inline(text);
        }
    }
    SmolStr::from([a, b].concat())
}

fn subtract(left: &Value, right: &Value) -> Outcome {
    match (left, right) {
        (Value::Timestamp(time), Value::Duration(span)) => moved(*time, -i128::from(span.nanos)).map(Value::Timestamp),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let seconds = i128::from(a.seconds - b.seconds) * i128::from(NANOS);
            let nanos = seconds + i128::from(a.nanos) - i128::from(b.nanos);
            i64::try_from(nanos).map(|nanos| Value::Duration(Span { nanos })).map_err(|_| overflow("duration"))
        }
        (Value::Duration(a), Value::Duration(b)) => {
            a.nanos.checked_sub(b.nanos).map(|nanos| Value::Duration(Span { nanos })).ok_or_else(|| overflow("duration"))
        }
        _ => Err(Failure::overload("-", &[left, right])),
    }
}

/// The timestamp so many nanoseconds later, in the years 1 to 9999.
fn moved(time: Timestamp, nanos: i128) -> Result<Timestamp, Failure> {
    let total = i128::from(time.seconds) * i128::from(NANOS) + i128::from(time.nanos) + nanos;
    let seconds = i64::try_from(total.div_euclid(i128::from(NANOS))).ok();
    let rest = total.rem_euclid(i128::from(NANOS)) as u32;
    seconds.and_then(|seconds| Timestamp::new(seconds, rest)).ok_or_else(|| Failure::new("timestamp out of range: years 1 to 9999"))
}

/// Refuses a text that would be too long before it is made.
pub(super) fn check_text(length: usize) -> Result<(), Failure> {
    if length > TEXT_BYTES_MAX {
        return Err(Failure::new(format!("the expression makes a text of more than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// A text that was made, if it is not too long.
pub(super) fn text(text: impl Into<SmolStr>) -> Outcome {
    let text = text.into();
    check_text(text.len())?;
    Ok(Value::String(text))
}
