//! Values as expressions see them and rows hold them.
//!
//! Cloning a value never copies its bytes: what is large is shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rust_decimal::Decimal;
use smol_str::SmolStr;

use crate::model::{Shape, Span, Timestamp, Type};

/// A value. Equality here is exact sameness (`1` is not `1u`, NaN is itself); CEL's equality lives in `expression`.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(SmolStr),
    Bytes(Bytes),
    Decimal(Decimal),
    Timestamp(Timestamp),
    Duration(Span),
    List(Arc<[Value]>),
    /// Keys in order, so that everything written from it is the same each time.
    Map(Arc<BTreeMap<MapKey, Value>>),
    /// Named fields in the slots of a shape: a declared event, a row.
    Object(Object),
    /// CEL's optional: `None` is `optional.none()`.
    Optional(Option<Arc<Value>>),
    /// CEL's type value.
    Type(Type),
}

/// The key of a CEL map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MapKey {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(SmolStr),
}

/// Fields in slots, named by a shape that many objects share.
#[derive(Clone, Debug)]
pub struct Object {
    pub shape: Arc<Shape>,
    /// As many as the shape has fields, in its order.
    pub slots: Arc<[Value]>,
}

impl Object {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.shape.slot(name).map(|slot| &self.slots[slot])
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Uint(a), Value::Uint(b)) => a == b,
            (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            // "9.9" and "9.90" are the same number but not the same value: a decimal keeps its scale.
            (Value::Decimal(a), Value::Decimal(b)) => a == b && a.scale() == b.scale(),
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => a == b,
            (Value::Object(a), Value::Object(b)) => {
                (Arc::ptr_eq(&a.shape, &b.shape) || a.shape == b.shape) && (Arc::ptr_eq(&a.slots, &b.slots) || a.slots == b.slots)
            }
            (Value::Optional(a), Value::Optional(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            _ => false,
        }
    }
}

impl Value {
    pub fn string(text: impl Into<SmolStr>) -> Value {
        Value::String(text.into())
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The type of this value as far as it can be seen from the value alone.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Decimal(_) => Type::Decimal,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Any),
            Value::Map(_) => Type::map(Type::Any, Type::Any),
            Value::Object(object) => Type::Object(object.shape.clone()),
            Value::Optional(_) => Type::Optional(Arc::new(Type::Any)),
            Value::Type(_) => Type::Type,
        }
    }
}
