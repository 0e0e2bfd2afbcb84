//! A total order of values, for `order_by`, `min`, `max`, `top` and `distinct`.
//!
//! Values that count as equal in CEL but are written differently (`9.9` and `9.90`) have an order here too: otherwise the
//! one that arrives first would stay, and the result would depend on arrival.

use std::cmp::Ordering;

use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive, ToPrimitive};

use crate::model::Value;
use crate::state::row::Version;

/// Compares two values: null first, then by kind, numbers among themselves by size.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Uint(a), Value::Uint(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b).then(a.scale().cmp(&b.scale())),
        (Value::String(a), Value::String(b)) => a.as_str().cmp(b.as_str()),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => compare_all(a, b),
        (Value::Map(a), Value::Map(b)) => {
            for ((key_a, value_a), (key_b, value_b)) in a.iter().zip(b.iter()) {
                let order = key_a.cmp(key_b).then_with(|| compare(value_a, value_b));
                if order != Ordering::Equal {
                    return order;
                }
            }
            a.len().cmp(&b.len())
        }
        (Value::Object(a), Value::Object(b)) => compare_all(&a.slots, &b.slots),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => compare(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        },
        _ => compare_kinds(a, b),
    }
}

/// Compares two versions of one source: by `order_by`, which is event time where nothing else was said, then by offset.
pub fn compare_versions(a: &Version, b: &Version) -> Ordering {
    let by_order = if a.order.is_empty() && b.order.is_empty() { a.time.cmp(&b.time) } else { compare_all(&a.order, &b.order) };
    by_order.then(a.offset.cmp(&b.offset))
}

fn compare_all(a: &[Value], b: &[Value]) -> Ordering {
    for (a, b) in a.iter().zip(b.iter()) {
        let order = compare(a, b);
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn compare_kinds(a: &Value, b: &Value) -> Ordering {
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return x.cmp(&y).then(rank(a).cmp(&rank(b)));
    }
    rank(a).cmp(&rank(b))
}

/// A number as a decimal, as far as it is one; beyond its range the nearest bound.
fn number(value: &Value) -> Option<Decimal> {
    match value {
        Value::Int(n) => Some(Decimal::from(*n)),
        Value::Uint(n) => Some(Decimal::from(*n)),
        Value::Decimal(n) => Some(*n),
        Value::Double(n) if n.is_nan() => None,
        Value::Double(n) => Decimal::from_f64(*n).or(Some(if *n < 0.0 { Decimal::MIN } else { Decimal::MAX })),
        _ => None,
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) => 2,
        Value::Uint(_) => 3,
        Value::Decimal(_) => 4,
        Value::Double(_) => 5,
        Value::String(_) => 6,
        Value::Bytes(_) => 7,
        Value::Timestamp(_) => 8,
        Value::Duration(_) => 9,
        Value::List(_) => 10,
        Value::Map(_) => 11,
        Value::Object(_) => 12,
        Value::Optional(_) => 13,
        Value::Type(_) => 14,
    }
}

/// A number as a double, for averages of doubles.
pub fn to_double(value: &Decimal) -> f64 {
    value.to_f64().unwrap_or(f64::NAN)
}
