//! The macros that visit a list or a map: `all`, `exists`, `exists_one`, `filter`, `map` and their forms with two variables.
//!
//! A map is visited in the order of its keys, so that the result is the same each time.

use std::collections::BTreeMap;

use crate::expression::collect::{ELEMENTS_MAX, checked_list, checked_map, insert, key_of, too_large, value_of};
use crate::expression::node::{Frame, Local, Node};
use crate::expression::problem::{Failure, Outcome, type_name};
use crate::model::Value;

/// One visit of a list or map.
pub(super) struct Fold {
    pub kind: FoldKind,
    pub range: Node,
    /// Two variables: index and element, or key and value. With one it is the element, or the key.
    pub pairs: bool,
    /// The condition of `all`, `exists`, `filter`; of the others an optional one.
    pub condition: Option<Node>,
    /// What `map` and `transform…` make of each.
    pub transform: Option<Node>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    /// `map`, `transformList`
    List,
    /// `transformMap`: the same keys, other values.
    Map,
    /// `transformMapEntry`: each step yields a map of its own.
    MapEntry,
}

impl Fold {
    pub fn run(&self, frame: &Frame<'_>) -> Outcome {
        let range = self.range.evaluate(frame)?;
        match self.kind {
            FoldKind::All => self.decide(&range, frame, false),
            FoldKind::Exists => self.decide(&range, frame, true),
            FoldKind::ExistsOne => {
                let mut count = 0u64;
                self.visit(&range, frame, |inner, _| {
                    count += u64::from(self.holds(inner)?);
                    Ok(true)
                })?;
                Ok(Value::Bool(count == 1))
            }
            FoldKind::Filter => {
                let mut list = Vec::new();
                self.visit(&range, frame, |inner, item| {
                    if self.holds(inner)? {
                        push(&mut list, item.clone())?;
                    }
                    Ok(true)
                })?;
                checked_list(list)
            }
            FoldKind::List => {
                let mut list = Vec::new();
                self.visit(&range, frame, |inner, _| {
                    if self.holds(inner)? {
                        push(&mut list, self.transformed(inner)?)?;
                    }
                    Ok(true)
                })?;
                checked_list(list)
            }
            FoldKind::Map => {
                let mut map = BTreeMap::new();
                self.visit(&range, frame, |inner, key| {
                    if self.holds(inner)? {
                        map.insert(key_of(key)?, self.transformed(inner)?);
                    }
                    Ok(true)
                })?;
                checked_map(map)
            }
            FoldKind::MapEntry => {
                let mut map = BTreeMap::new();
                self.visit(&range, frame, |inner, _| {
                    if self.holds(inner)? {
                        match self.transformed(inner)? {
                            Value::Map(entries) => {
                                for (key, value) in entries.iter() {
                                    insert(&mut map, key.clone(), value.clone())?;
                                }
                            }
                            other => return Err(Failure::overload("transformMapEntry", &[&other])),
                        }
                    }
                    Ok(true)
                })?;
                checked_map(map)
            }
        }
    }

    /// `all` (decided by the first false) and `exists` (decided by the first true); what is decided absorbs errors.
    fn decide(&self, range: &Value, frame: &Frame<'_>, by: bool) -> Outcome {
        let mut failure = None;
        let mut decided = false;
        self.visit(range, frame, |inner, _| {
            match self.holds(inner) {
                Ok(holds) if holds == by => decided = true,
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
            Ok(!decided)
        })?;
        match failure {
            Some(failure) if !decided => Err(failure),
            _ => Ok(Value::Bool(decided == by)),
        }
    }

    fn holds(&self, frame: &Frame<'_>) -> Result<bool, Failure> {
        self.condition.as_ref().map_or(Ok(true), |condition| condition.truth(frame))
    }

    fn transformed(&self, frame: &Frame<'_>) -> Outcome {
        match &self.transform {
            Some(transform) => {
                let value = transform.evaluate(frame)?.into_owned();
                frame.budget.take(text_steps(&value))?;
                Ok(value)
            }
            None => Ok(Value::Null),
        }
    }

    /// Calls `step` for each item, with the variables set and the first of them, until it says false.
    fn visit(
        &self,
        range: &Value,
        frame: &Frame<'_>,
        mut step: impl FnMut(&Frame<'_>, &Value) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut one = |first: &Value, second: &Value| {
            frame.budget.take(1)?;
            let first_local = Local { value: Ok(first), next: frame.local };
            if self.pairs {
                let second_local = Local { value: Ok(second), next: Some(&first_local) };
                step(&frame.with(&second_local), first)
            } else {
                step(&frame.with(&first_local), first)
            }
        };
        match range {
            Value::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    let goes_on = if self.pairs { one(&Value::Int(index as i64), element)? } else { one(element, element)? };
                    if !goes_on {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    if !one(&value_of(key), value)? {
                        break;
                    }
                }
            }
            Value::Object(object) => {
                for (field, value) in object.shape.fields.iter().zip(object.slots.iter()) {
                    if !one(&Value::String(field.name.clone()), value)? {
                        break;
                    }
                }
            }
            other => return Err(Failure::new(format!("no such overload: {} is not a list or map", type_name(other)))),
        }
        Ok(())
    }
}

/// What an element costs beyond its visit: texts of the greatest length, as many as there may be visits, would fill the memory.
fn text_steps(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() / TEXT_BYTES_PER_STEP,
        Value::Bytes(bytes) => bytes.len() / TEXT_BYTES_PER_STEP,
        _ => 0,
    }
}

/// Bytes of text that count as a visited element: one evaluation keeps at most 64 MB.
const TEXT_BYTES_PER_STEP: usize = 64;

/// Adds an element, unless the list is full: more visits are allowed than a result may have elements.
fn push(list: &mut Vec<Value>, value: Value) -> Result<(), Failure> {
    if list.len() >= ELEMENTS_MAX {
        return Err(too_large());
    }
    list.push(value);
    Ok(())
}
