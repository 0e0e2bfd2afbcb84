//! Lists, maps, objects and optionals: making them, and reading a part of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::expression::compare::{Budget, equal, find, find_key};
use crate::expression::node::{Frame, Node, Out};
use crate::expression::problem::{Failure, Outcome, type_name};
use crate::model::{MapKey, Value};

/// Elements of a list or map that an expression makes, with all that is in them. A row of this size would not fit into a record.
pub const ELEMENTS_MAX: usize = 65_536;

type Part<'v> = Result<Out<'v>, Failure>;

/// `value.name`
pub(super) fn select<'v>(value: &'v Value, name: &SmolStr) -> Part<'v> {
    match value {
        Value::Optional(_) => optional_select(value, name, false).map(Out::Own),
        other => match member(other, name)? {
            Some(found) => Ok(Out::Ref(found)),
            None => Err(Failure::new(format!("no such key: `{name}`"))),
        },
    }
}

/// `value.?name`: nothing where there is no such field, or where a declared one is null.
pub(super) fn optional_select(value: &Value, name: &SmolStr, of_nullable: bool) -> Outcome {
    let value = match value {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => &**inner,
        Value::Null if of_nullable => return Ok(Value::Optional(None)),
        other => other,
    };
    let found = member(value, name)?;
    let is_absent = matches!(value, Value::Object(_)) && found.is_some_and(Value::is_null);
    Ok(Value::Optional(found.filter(|_| !is_absent).map(|found| Arc::new(found.clone()))))
}

/// `has(value.name)`: a declared field that is null is not there.
pub(super) fn has(value: &Value, name: &SmolStr, of_nullable: bool) -> Result<bool, Failure> {
    match value {
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, name, of_nullable),
        Value::Null if of_nullable => Ok(false),
        Value::Object(object) => Ok(object.get(name).is_some_and(|found| !found.is_null())),
        other => Ok(member(other, name)?.is_some()),
    }
}

fn member<'v>(value: &'v Value, name: &SmolStr) -> Result<Option<&'v Value>, Failure> {
    match value {
        Value::Object(object) => Ok(object.get(name)),
        Value::Map(map) => Ok(map.get(&MapKey::String(name.clone()))),
        other => Err(Failure::new(format!("no such key: `{name}`, because {} has no fields", type_name(other)))),
    }
}

/// `value[index]` and `value[?index]`
pub(super) fn index<'v>(value: &'v Value, index: &Value, optional: bool) -> Part<'v> {
    let (container, lenient) = match value {
        Value::Optional(None) => return Ok(Out::Own(Value::Optional(None))),
        Value::Optional(Some(inner)) => (&**inner, true),
        other => (other, optional),
    };
    let found = element(container, index)?;
    if lenient {
        return Ok(Out::Own(Value::Optional(found.map(|found| Arc::new(found.clone())))));
    }
    match (found, container) {
        (Some(found), _) => Ok(Out::Ref(found)),
        (None, Value::List(list)) => Err(Failure::new(format!("index out of range: {} in a list of {}", show(index), list.len()))),
        (None, _) => Err(Failure::new(format!("no such key: {}", show(index)))),
    }
}

fn element<'v>(container: &'v Value, index: &Value) -> Result<Option<&'v Value>, Failure> {
    match container {
        Value::List(list) => {
            let position = match index {
                Value::Int(position) => usize::try_from(*position).ok(),
                Value::Uint(position) => usize::try_from(*position).ok(),
                Value::Double(position) if position.fract() == 0.0 => (0.0..9e15).contains(position).then_some(*position as usize),
                other => return Err(Failure::new(format!("no such overload: a list has no element {}", show(other)))),
            };
            Ok(position.and_then(|position| list.get(position)))
        }
        Value::Map(map) => Ok(find(map, index)),
        Value::Object(object) => match index {
            Value::String(name) => Ok(object.get(name)),
            _ => Ok(None),
        },
        other => Err(Failure::new(format!("no such overload: {}[{}]", type_name(other), type_name(index)))),
    }
}

/// A key or position in an error text.
fn show(value: &Value) -> String {
    match value {
        Value::Bool(value) => format!("`{value}`"),
        Value::Int(value) => format!("`{value}`"),
        Value::Uint(value) => format!("`{value}`"),
        Value::Double(value) => format!("`{value}`"),
        // A long key would drown the message.
        Value::String(value) => format!("`{}`", value.chars().take(60).collect::<String>()),
        other => format!("of type {}", type_name(other)),
    }
}

/// `item in container`
pub(super) fn contains(container: &Value, item: &Value, budget: &Budget) -> Result<bool, Failure> {
    match container {
        Value::List(list) => {
            budget.take(list.len())?;
            // An error of one element is absorbed by another that is equal.
            let mut failure = None;
            for element in list.iter() {
                match equal(element, item, budget) {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(error) => failure = Some(error),
                }
            }
            failure.map_or(Ok(false), Err)
        }
        Value::Map(map) => Ok(find(map, item).is_some()),
        Value::Object(object) => Ok(matches!(item, Value::String(name) if object.get(name).is_some())),
        other => Err(Failure::overload("in", &[item, other])),
    }
}

/// `[a, b, ?c]`
pub(super) fn list(elements: &[(Node, bool)], frame: &Frame<'_>) -> Outcome {
    let mut values = Vec::with_capacity(elements.len());
    for (element, optional) in elements {
        let value = element.evaluate(frame)?.into_owned();
        if *optional {
            values.extend(unwrap_optional(value)?);
        } else {
            values.push(value);
        }
    }
    checked_list(values)
}

/// `{a: b, ?c: d}`
pub(super) fn map(entries: &[(Node, Node, bool)], frame: &Frame<'_>) -> Outcome {
    let mut map = BTreeMap::new();
    for (key, value, optional) in entries {
        let key = key_of(&*key.evaluate(frame)?)?;
        let value = value.evaluate(frame)?.into_owned();
        let value = if *optional { unwrap_optional(value)? } else { Some(value) };
        if let Some(value) = value {
            insert(&mut map, key, value)?;
        }
    }
    checked_map(map)
}

fn unwrap_optional(value: Value) -> Result<Option<Value>, Failure> {
    match value {
        Value::Optional(inner) => Ok(inner.map(|inner| (*inner).clone())),
        other => Err(Failure::new(format!("no such overload: `?` needs an optional, not {}", type_name(&other)))),
    }
}

pub(super) fn key_of(value: &Value) -> Result<MapKey, Failure> {
    Ok(match value {
        Value::Bool(key) => MapKey::Bool(*key),
        Value::Int(key) => MapKey::Int(*key),
        Value::Uint(key) => MapKey::Uint(*key),
        Value::String(key) => MapKey::String(key.clone()),
        other => return Err(Failure::new(format!("unsupported key type: {}", type_name(other)))),
    })
}

pub(super) fn value_of(key: &MapKey) -> Value {
    match key {
        MapKey::Bool(key) => Value::Bool(*key),
        MapKey::Int(key) => Value::Int(*key),
        MapKey::Uint(key) => Value::Uint(*key),
        MapKey::String(key) => Value::String(key.clone()),
    }
}

pub(super) fn insert(map: &mut BTreeMap<MapKey, Value>, key: MapKey, value: Value) -> Result<(), Failure> {
    if find_key(map, &key).is_some() {
        return Err(Failure::new(format!("repeated key: {}", show(&value_of(&key)))));
    }
    map.insert(key, value);
    Ok(())
}

/// A list that was made, if it is not too large.
pub(super) fn checked_list(values: Vec<Value>) -> Outcome {
    let mut left = ELEMENTS_MAX;
    weigh_all(values.iter(), &mut left)?;
    Ok(Value::List(values.into()))
}

/// A map that was made, if it is not too large.
pub(super) fn checked_map(map: BTreeMap<MapKey, Value>) -> Outcome {
    let mut left = ELEMENTS_MAX;
    weigh_all(map.values(), &mut left)?;
    Ok(Value::Map(Arc::new(map)))
}

/// What is said of a list or map that would be too large.
pub(super) fn too_large() -> Failure {
    Failure::new(format!("the expression makes a list or map of more than {ELEMENTS_MAX} elements"))
}

/// Counts all that is in the values. Shared parts count each time: `[a, a]` of `[b, b]` of … would be written out in full.
fn weigh_all<'v>(values: impl ExactSizeIterator<Item = &'v Value>, left: &mut usize) -> Result<(), Failure> {
    *left = left.checked_sub(values.len()).ok_or_else(too_large)?;
    for value in values {
        match value {
            Value::List(list) => weigh_all(list.iter(), left)?,
            Value::Map(map) => weigh_all(map.values(), left)?,
            Value::Object(object) => weigh_all(object.slots.iter(), left)?,
            Value::Optional(Some(inner)) => weigh_all(std::iter::once(&**inner), left)?,
            _ => {}
        }
    }
    Ok(())
}
