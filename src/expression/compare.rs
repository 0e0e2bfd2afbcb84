//! Equality and order of values as CEL has them: numbers compare by value across their types, what is of other types is unequal.
//!
//! Ours in addition: a decimal compares with int and uint by value. Decimal and double do not compare at all: an error says so,
//! rather than a false that nobody notices.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use rust_decimal::Decimal;

use crate::expression::problem::{Failure, type_name};
use crate::model::{MapKey, Object, Value};

/// Elements that one evaluation may visit: in macros, and in lists and maps that are compared. About 20 ms; an expression that
/// needs more would hold up every other record of its task.
pub const STEPS_MAX: u32 = 1_000_000;

/// What is left of [`STEPS_MAX`].
pub(super) struct Budget(Cell<u32>);

impl Budget {
    pub fn new() -> Budget {
        Budget(Cell::new(STEPS_MAX))
    }

    pub fn take(&self, steps: usize) -> Result<(), Failure> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.0.get().checked_sub(steps));
        let left = left.ok_or_else(|| Failure::new(format!("the expression visits more than {STEPS_MAX} elements")))?;
        self.0.set(left);
        Ok(())
    }
}

/// CEL's `==`.
pub(super) fn equal(a: &Value, b: &Value, budget: &Budget) -> Result<bool, Failure> {
    Ok(match (a, b) {
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            budget.take(a.len())?;
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), Value::Map(b)) => maps_equal(a, b, budget)?,
        (Value::Object(a), Value::Object(b)) => objects_equal(a, b, budget)?,
        (Value::Object(object), Value::Map(map)) | (Value::Map(map), Value::Object(object)) => object_equals_map(object, map, budget)?,
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => equal(a, b, budget)?,
        (a, b) if is_number(a) && is_number(b) => order(a, b)? == Some(Ordering::Equal),
        _ => false,
    })
}

fn maps_equal(a: &BTreeMap<MapKey, Value>, b: &BTreeMap<MapKey, Value>, budget: &Budget) -> Result<bool, Failure> {
    if a.len() != b.len() {
        return Ok(false);
    }
    budget.take(a.len())?;
    for (key, value) in a {
        match find_key(b, key) {
            Some(other) if equal(value, other, budget)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn objects_equal(a: &Object, b: &Object, budget: &Budget) -> Result<bool, Failure> {
    if a.slots.len() != b.slots.len() {
        return Ok(false);
    }
    budget.take(a.slots.len())?;
    for (field, value) in a.shape.fields.iter().zip(a.slots.iter()) {
        match b.get(&field.name) {
            Some(other) if equal(value, other, budget)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn object_equals_map(object: &Object, map: &BTreeMap<MapKey, Value>, budget: &Budget) -> Result<bool, Failure> {
    if object.slots.len() != map.len() {
        return Ok(false);
    }
    budget.take(map.len())?;
    for (field, value) in object.shape.fields.iter().zip(object.slots.iter()) {
        match map.get(&MapKey::String(field.name.clone())) {
            Some(other) if equal(value, other, budget)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The value at a key; `1`, `1u` and `1.0` are the same key.
pub(super) fn find<'m>(map: &'m BTreeMap<MapKey, Value>, key: &Value) -> Option<&'m Value> {
    match key {
        Value::String(text) => map.get(&MapKey::String(text.clone())),
        Value::Bool(value) => map.get(&MapKey::Bool(*value)),
        Value::Int(value) => find_key(map, &MapKey::Int(*value)),
        Value::Uint(value) => find_key(map, &MapKey::Uint(*value)),
        Value::Double(value) => find_key(map, &whole(*value)?),
        _ => None,
    }
}

/// The value at a key, which may be stored as the other kind of integer.
pub(super) fn find_key<'m>(map: &'m BTreeMap<MapKey, Value>, key: &MapKey) -> Option<&'m Value> {
    let other = match key {
        MapKey::Int(value) => u64::try_from(*value).ok().map(MapKey::Uint),
        MapKey::Uint(value) => i64::try_from(*value).ok().map(MapKey::Int),
        MapKey::Bool(_) | MapKey::String(_) => None,
    };
    map.get(key).or_else(|| map.get(&other?))
}

/// A double without a fraction as an integer key.
fn whole(value: f64) -> Option<MapKey> {
    if value.fract() != 0.0 {
        return None;
    }
    // The bounds are powers of two, hence exact doubles; the greatest integers themselves are not.
    if (-(2f64.powi(63))..2f64.powi(63)).contains(&value) {
        Some(MapKey::Int(value as i64))
    } else {
        (0.0..2f64.powi(64)).contains(&value).then_some(MapKey::Uint(value as u64))
    }
}

pub(super) fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Decimal(_))
}

/// The order of two values; `None` where one is NaN.
///
/// # Errors
/// Where the types have no order with each other.
pub(super) fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, Failure> {
    Ok(match (a, b) {
        (Value::Decimal(a), Value::Decimal(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        // As doubles, which the specification's data asks for: beyond 2^53 an integer equals the double next to it.
        (Value::Int(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
        (Value::Uint(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
        (Value::Double(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Double(a), Value::Uint(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Decimal(a), Value::Int(b)) => Some(a.cmp(&Decimal::from(*b))),
        (Value::Decimal(a), Value::Uint(b)) => Some(a.cmp(&Decimal::from(*b))),
        (Value::Int(a), Value::Decimal(b)) => Some(Decimal::from(*a).cmp(b)),
        (Value::Uint(a), Value::Decimal(b)) => Some(Decimal::from(*a).cmp(b)),
        (Value::Decimal(_), Value::Double(_)) | (Value::Double(_), Value::Decimal(_)) => {
            return Err(Failure::new("a decimal and a double do not compare: convert one with `decimal(…)` or `double(…)`"));
        }
        _ => return Err(Failure::new(format!("no such overload: {} and {} have no order", type_name(a), type_name(b)))),
    })
}
