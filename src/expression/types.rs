//! How static types relate: which fit together, what they are together, how they are named.
//!
//! Two types are not written by users: `any` is not known before the record is there; *free* is not known because nothing says
//! it, as the element of `[]`, and becomes what it meets. [`settle`] turns what stays free into `any`.

use std::sync::{Arc, LazyLock};

use crate::model::{Shape, Type};

/// The type of nothing in particular: the element of `[]`, the content of `optional.none()`.
pub(super) fn free() -> Type {
    Type::Object(FREE.clone())
}

/// Known by its address: an object that nobody declares. `model::Type` has no type variables, because no value has such a type.
static FREE: LazyLock<Arc<Shape>> = LazyLock::new(|| Arc::new(Shape::default()));

pub(super) fn is_free(ty: &Type) -> bool {
    matches!(ty, Type::Object(shape) if Arc::ptr_eq(shape, &FREE))
}

/// Whether nothing can be said about values of this type.
pub(super) fn is_open(ty: &Type) -> bool {
    matches!(ty, Type::Any) || is_free(ty)
}

/// The type as it leaves the checker, without free parts.
pub(super) fn settle(ty: &Type) -> Type {
    match ty {
        _ if is_free(ty) => Type::Any,
        Type::List(of) => Type::list(settle(of)),
        Type::Map(key, value) => Type::map(settle(key), settle(value)),
        Type::Optional(of) => Type::Optional(Arc::new(settle(of))),
        Type::Nullable(of) => Type::nullable(settle(of)),
        other => other.clone(),
    }
}

/// The name of a type in messages.
pub(super) fn describe(ty: &Type) -> String {
    match ty {
        _ if is_free(ty) => "any".to_owned(),
        Type::Object(_) => "object".to_owned(),
        Type::Nullable(of) => format!("optional {}", describe(of)),
        Type::List(of) => format!("list<{}>", describe(of)),
        Type::Map(key, value) => format!("map<{}, {}>", describe(key), describe(value)),
        Type::Optional(of) => format!("optional_type<{}>", describe(of)),
        other => other.to_string(),
    }
}

/// The type of a value that is of the one or the other type, if there is one closer than `any`.
pub(super) fn join(a: &Type, b: &Type) -> Option<Type> {
    if is_free(a) || a == b {
        return Some(b.clone());
    }
    if is_free(b) {
        return Some(a.clone());
    }
    Some(match (a, b) {
        (Type::Any, _) | (_, Type::Any) => Type::Any,
        // An optional value may be assigned null, as in CEL's checker.
        (Type::Optional(_), Type::Null) => a.clone(),
        (Type::Null, Type::Optional(_)) => b.clone(),
        (Type::Null, other) | (other, Type::Null) => Type::nullable(other.clone()),
        (Type::Nullable(a), Type::Nullable(b)) => Type::nullable(join(a, b)?),
        (Type::Nullable(a), b) | (b, Type::Nullable(a)) => Type::nullable(join(a, b)?),
        (Type::List(a), Type::List(b)) => Type::list(join_or_any(a, b)),
        (Type::Map(ak, av), Type::Map(bk, bv)) => Type::map(join_or_any(ak, bk), join_or_any(av, bv)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Arc::new(join_or_any(a, b))),
        // Objects of other fields have only this in common.
        (Type::Object(_), Type::Object(_)) => Type::map(Type::String, Type::Any),
        (Type::Object(_), Type::Map(..)) | (Type::Map(..), Type::Object(_)) => Type::map(Type::String, Type::Any),
        _ => return None,
    })
}

pub(super) fn join_or_any(a: &Type, b: &Type) -> Type {
    join(a, b).unwrap_or(Type::Any)
}

pub(super) fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::Int | Type::Uint | Type::Double | Type::Decimal)
}

/// Whether `==` between these can be true. Numbers compare by value, but a decimal never with a double: one of them is not exact.
pub(super) fn comparable(a: &Type, b: &Type) -> bool {
    if is_open(a) || is_open(b) || a == b {
        return true;
    }
    match (a, b) {
        (Type::Decimal, Type::Double) | (Type::Double, Type::Decimal) => false,
        (a, b) if is_number(a) && is_number(b) => true,
        (Type::Nullable(_) | Type::Null, Type::Null) | (Type::Null, Type::Nullable(_)) => true,
        (Type::Optional(_), Type::Null) | (Type::Null, Type::Optional(_)) => true,
        (Type::Nullable(a), b) | (b, Type::Nullable(a)) => comparable(a, b),
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => comparable(a, b),
        (Type::Map(ak, av), Type::Map(bk, bv)) => comparable(ak, bk) && comparable(av, bv),
        (Type::Object(_), Type::Object(_)) => true,
        (Type::Object(_), Type::Map(key, _)) | (Type::Map(key, _), Type::Object(_)) => comparable(key, &Type::String),
        _ => false,
    }
}

/// What comes out of a list or map that is iterated over: the element, or the key and the value.
pub(super) enum Items {
    Each { key: Type, value: Type, is_map: bool },
    NotIterable,
}

pub(super) fn items(ty: &Type) -> Items {
    match ty {
        _ if is_open(ty) => Items::Each { key: Type::Any, value: Type::Any, is_map: false },
        Type::List(of) => Items::Each { key: Type::Int, value: (**of).clone(), is_map: false },
        Type::Map(key, value) => Items::Each { key: (**key).clone(), value: (**value).clone(), is_map: true },
        Type::Object(shape) => {
            let value = shape.fields.iter().map(|field| &field.ty).fold(free(), |all, ty| join_or_any(&all, ty));
            Items::Each { key: Type::String, value, is_map: true }
        }
        _ => Items::NotIterable,
    }
}

/// The types that have a name in expressions, as in `type(x) == int`.
pub(super) fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "decimal" => Type::Decimal,
        "list" => Type::list(Type::Any),
        "map" => Type::map(Type::Any, Type::Any),
        "null_type" => Type::Null,
        "type" => Type::Type,
        "optional_type" => Type::Optional(Arc::new(Type::Any)),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        _ => return None,
    })
}

/// The name of a type value, the inverse of [`type_named`].
pub(super) fn name_of(ty: &Type) -> &'static str {
    match ty {
        Type::Any => "dyn",
        Type::Null => "null_type",
        Type::Bool => "bool",
        Type::Int => "int",
        Type::Uint => "uint",
        Type::Double => "double",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Decimal => "decimal",
        Type::Timestamp => "google.protobuf.Timestamp",
        Type::Duration => "google.protobuf.Duration",
        Type::Type => "type",
        Type::List(_) => "list",
        Type::Map(..) | Type::Object(_) => "map",
        Type::Nullable(of) => name_of(of),
        Type::Optional(_) => "optional_type",
    }
}
