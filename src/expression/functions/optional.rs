//! Making optionals and looking into them; `or`, `orValue`, `optMap` evaluate lazily and are nodes of their own.

use std::sync::Arc;

use crate::expression::problem::{Failure, Outcome};
use crate::model::Value;

pub(super) fn none() -> Value {
    Value::Optional(None)
}

pub(super) fn of(value: &Value) -> Outcome {
    Ok(Value::Optional(Some(Arc::new(value.clone()))))
}

/// Nothing for null, false, 0, "", empty lists and maps.
pub(super) fn of_non_zero_value(value: &Value) -> Outcome {
    let is_zero = match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
        Value::Double(number) => *number == 0.0,
        Value::Decimal(number) => number.is_zero(),
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(span) => span.nanos == 0,
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        _ => false,
    };
    if is_zero { Ok(none()) } else { of(value) }
}

pub(super) fn has_value(value: &Value) -> Outcome {
    match value {
        Value::Optional(inner) => Ok(Value::Bool(inner.is_some())),
        other => Err(Failure::overload("hasValue", &[other])),
    }
}

pub(super) fn value(value: &Value) -> Outcome {
    match value {
        Value::Optional(Some(inner)) => Ok((**inner).clone()),
        Value::Optional(None) => Err(Failure::new("optional.none() has no value")),
        other => Err(Failure::overload("value", &[other])),
    }
}
