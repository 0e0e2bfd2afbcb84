//! Field rules: what one record does to one field, and what a field shows.
//!
//! A rule is an entry in [`RULES`], an arm of [`add`] and an arm of [`show`]. No rule looks at another source's state, and
//! `order_by` decides only which value is first and last: it never drops an event from a sum.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use rust_decimal::prelude::FromPrimitive;

use crate::expression::Values;
use crate::model::{MapKey, Span, Time, Type, Value};
use crate::operators::Failure;
use crate::operators::fold::Rule;
use crate::operators::fold::order::{compare, compare_versions, to_double};
use crate::state::row::{Accumulator, Version};

/// A rule in the manual.
pub struct RuleKind {
    pub name: &'static str,
    pub summary: &'static str,
    pub example: &'static str,
}

/// All field rules, in the order of the manual.
pub const RULES: &[RuleKind] = &[
    RuleKind {
        name: "last",
        summary: "The value of the newest record by `order_by`. `name: expr` is short for it.",
        example: "price: event.price",
    },
    RuleKind { name: "first", summary: "The value of the oldest record by `order_by`.", example: "open: { first: event.price }" },
    RuleKind { name: "min", summary: "The smallest value; nulls do not count.", example: "low: { min: event.price }" },
    RuleKind { name: "max", summary: "The greatest value; nulls do not count.", example: "high: { max: event.price }" },
    RuleKind {
        name: "sum",
        summary: "The sum of all values; nulls do not count, an overflow is a bad record.",
        example: "total: { sum: event.amount }",
    },
    RuleKind { name: "count", summary: "The number of records.", example: "ticks: { count: {} }" },
    RuleKind { name: "avg", summary: "The average of all values; nulls do not count.", example: "mean: { avg: event.amount }" },
    RuleKind {
        name: "collect",
        summary: "A list of the newest `limit` values in the order of their topic.",
        example: "tags: { collect: event.tag, limit: 10 }",
    },
    RuleKind {
        name: "distinct",
        summary: "The set of values, sorted; the `limit` smallest.",
        example: "colours: { distinct: event.colour, limit: 10 }",
    },
    RuleKind {
        name: "top",
        summary: "The `limit` values that are greatest by `by`, the greatest first.",
        example: "best: { top: { by: event.score, limit: 3 } }",
    },
    RuleKind {
        name: "put",
        summary: "Sets an entry of a map inside the row; each entry has its own version.",
        example: "addresses: { put: { at: event.addressId, value: event.street } }",
    },
    RuleKind {
        name: "remove",
        summary: "Removes an entry of a map inside the row, unless a newer record has put it.",
        example: "addresses: { remove: { at: event.addressId } }",
    },
];

/// What a rule computed from a record; the second is null where a rule has one operand.
pub type Operands = (Value, Value);

/// Computes what a rule needs from a record, before anything is changed.
pub fn operands(rule: &Rule, values: Values<'_>) -> Result<Operands, Failure> {
    let one = |program: &crate::expression::Program| Ok((program.evaluate(values)?, Value::Null));
    match rule {
        Rule::Last(p) | Rule::First(p) | Rule::Min(p) | Rule::Max(p) | Rule::Sum(p) | Rule::Avg(p) => one(p),
        Rule::Collect { value, .. } | Rule::Distinct { value, .. } => one(value),
        Rule::Count => Ok((Value::Null, Value::Null)),
        Rule::Top { value, by, .. } => Ok((value.evaluate(values)?, by.evaluate(values)?)),
        Rule::Put { at, value } => Ok((at.evaluate(values)?, value.evaluate(values)?)),
        Rule::Remove { at } => one(at),
    }
}

/// When a record is added: how it stands to what is there.
#[derive(Clone, Copy)]
pub struct Arrival<'a> {
    pub version: &'a Version,
    /// Newer than everything its source has said about the key.
    pub is_newest: bool,
    /// Graves of map entries older than this are forgotten.
    pub graves_before: Time,
}

/// Lets one record change one field.
///
/// # Errors
/// A bad record (overflow of a sum, a map key of a wrong type). The accumulator is then to be thrown away.
pub fn add(rule: &Rule, accumulator: &mut Accumulator, operands: &Operands, arrival: Arrival<'_>) -> Result<(), Failure> {
    let (value, second) = operands;
    match rule {
        Rule::Last(_) => {
            if arrival.is_newest {
                *accumulator = Accumulator::Last(value.clone());
            }
        }
        Rule::First(_) => {
            let is_older = match accumulator {
                Accumulator::First(version, _) => compare_versions(arrival.version, version) == Ordering::Less,
                _ => true,
            };
            if is_older {
                *accumulator = Accumulator::First(arrival.version.clone(), value.clone());
            }
        }
        Rule::Min(_) => extreme(accumulator, value, Ordering::Less),
        Rule::Max(_) => extreme(accumulator, value, Ordering::Greater),
        Rule::Sum(_) => {
            if !value.is_null() {
                *accumulator = match accumulator {
                    Accumulator::Sum(sum) => Accumulator::Sum(plus(sum, value)?),
                    _ => Accumulator::Sum(plus(value, &zero_of(value))?),
                };
            }
        }
        Rule::Count => {
            *accumulator = match accumulator {
                Accumulator::Count(n) => Accumulator::Count(*n + 1),
                _ => Accumulator::Count(1),
            };
        }
        Rule::Avg(_) => {
            if !value.is_null() {
                let number = decimal_of(value).ok_or_else(|| bad("avg", "needs a number", value))?;
                let (sum, count) = match accumulator {
                    Accumulator::Avg { sum, count } => (*sum, *count),
                    _ => (Decimal::ZERO, 0),
                };
                let sum = sum.checked_add(number).ok_or_else(|| bad("avg", "overflows with", value))?;
                *accumulator = Accumulator::Avg { sum, count: count + 1 };
            }
        }
        Rule::Collect { limit, .. } => {
            let list = list_of(accumulator);
            list.push(value.clone());
            if list.len() > *limit {
                list.remove(0);
            }
        }
        Rule::Distinct { limit, .. } => {
            let list = list_of(accumulator);
            if let Err(at) = list.binary_search_by(|known| compare(known, value)) {
                list.insert(at, value.clone());
                list.truncate(*limit);
            }
        }
        Rule::Top { limit, .. } => top(accumulator, value, second, *limit),
        Rule::Put { .. } => entry(accumulator, value, Some(second.clone()), arrival)?,
        Rule::Remove { .. } => entry(accumulator, value, None, arrival)?,
    }
    Ok(())
}

/// What a field shows, given all rules that feed it (one, or several sources' sums, counts, maps …).
pub fn show(parts: &[(&Rule, &Accumulator)]) -> Value {
    let Some((rule, first)) = parts.first() else { return Value::Null };
    match rule {
        Rule::Last(_) | Rule::First(_) => match first {
            Accumulator::Last(value) | Accumulator::First(_, value) => value.clone(),
            _ => Value::Null,
        },
        Rule::Min(_) => show_extreme(parts, Ordering::Less),
        Rule::Max(_) => show_extreme(parts, Ordering::Greater),
        Rule::Sum(program) => {
            let mut sum: Option<Value> = None;
            for (_, part) in parts {
                if let Accumulator::Sum(value) = part {
                    // Each part fits; where their sum does not, null shows that there is no right number.
                    sum = Some(match sum {
                        None => value.clone(),
                        Some(sum) => plus(&sum, value).unwrap_or(Value::Null),
                    });
                }
            }
            sum.unwrap_or_else(|| zero(program.ty()))
        }
        Rule::Count => Value::Int(parts.iter().map(|(_, part)| if let Accumulator::Count(n) = part { *n } else { 0 }).sum()),
        Rule::Avg(program) => show_average(parts, program.ty()),
        Rule::Collect { limit, .. } => {
            let all: Vec<Value> = parts.iter().flat_map(|(_, part)| items(part)).cloned().collect();
            Value::List(all[all.len().saturating_sub(*limit)..].into())
        }
        Rule::Distinct { limit, .. } => {
            let mut all: Vec<Value> = parts.iter().flat_map(|(_, part)| items(part)).cloned().collect();
            all.sort_by(compare);
            all.dedup_by(|a, b| compare(a, b) == Ordering::Equal);
            all.truncate(*limit);
            Value::List(all.into())
        }
        Rule::Top { limit, .. } => {
            let mut all: Vec<&(Value, Value)> =
                parts.iter().flat_map(|(_, part)| if let Accumulator::Top(list) = part { list.as_slice() } else { &[] }).collect();
            all.sort_by(|a, b| compare_top(a, b));
            all.truncate(*limit);
            Value::List(all.into_iter().map(|(_, value)| value.clone()).collect())
        }
        Rule::Put { .. } | Rule::Remove { .. } => show_entries(parts),
    }
}

fn items(part: &Accumulator) -> &[Value] {
    if let Accumulator::List(list) = part { list } else { &[] }
}

fn show_extreme(parts: &[(&Rule, &Accumulator)], wanted: Ordering) -> Value {
    let mut best = Value::Null;
    for (_, part) in parts {
        if let Accumulator::Extreme(value) = part
            && (best.is_null() || compare(value, &best) == wanted)
        {
            best = value.clone();
        }
    }
    best
}

fn show_average(parts: &[(&Rule, &Accumulator)], ty: &Type) -> Value {
    let (mut total, mut number) = (Decimal::ZERO, 0i64);
    for (_, part) in parts {
        if let Accumulator::Avg { sum, count } = part {
            total = total.saturating_add(*sum);
            number += count;
        }
    }
    if number == 0 {
        return Value::Null;
    }
    match total.checked_div(Decimal::from(number)) {
        Some(average) if *ty.strip_nullable() == Type::Decimal => Value::Decimal(average),
        Some(average) => Value::Double(to_double(&average)),
        None => Value::Null,
    }
}

/// Entries of a map that several sources may put and remove: per entry the newest word counts; at the same version a removal.
fn show_entries(parts: &[(&Rule, &Accumulator)]) -> Value {
    let mut newest: BTreeMap<&MapKey, (&Version, &Option<Value>)> = BTreeMap::new();
    for (_, part) in parts {
        let Accumulator::Entries(entries) = part else { continue };
        for (key, (version, value)) in entries {
            let wins = match newest.get(key) {
                None => true,
                Some((known, _)) => {
                    let order = if known.order.is_empty() && version.order.is_empty() {
                        // Offsets of different topics say nothing about each other.
                        version.time.cmp(&known.time)
                    } else {
                        compare_versions(version, known)
                    };
                    order == Ordering::Greater || (order == Ordering::Equal && value.is_none())
                }
            };
            if wins {
                newest.insert(key, (version, value));
            }
        }
    }
    let shown = newest.into_iter().filter_map(|(key, (_, value))| value.clone().map(|value| (key.clone(), value)));
    Value::Map(Arc::new(shown.collect()))
}

fn extreme(accumulator: &mut Accumulator, value: &Value, wanted: Ordering) {
    if value.is_null() {
        return;
    }
    match accumulator {
        Accumulator::Extreme(known) if compare(value, known) != wanted => {}
        _ => *accumulator = Accumulator::Extreme(value.clone()),
    }
}

fn list_of(accumulator: &mut Accumulator) -> &mut Vec<Value> {
    if !matches!(accumulator, Accumulator::List(_)) {
        *accumulator = Accumulator::List(Vec::new());
    }
    match accumulator {
        Accumulator::List(list) => list,
        _ => unreachable!("made a list just above"),
    }
}

fn compare_top(a: &(Value, Value), b: &(Value, Value)) -> Ordering {
    compare(&b.0, &a.0).then_with(|| compare(&a.1, &b.1))
}

fn top(accumulator: &mut Accumulator, value: &Value, by: &Value, limit: usize) {
    let entry = (by.clone(), value.clone());
    match accumulator {
        Accumulator::Top(list) => {
            let at = list.partition_point(|known| compare_top(known, &entry) != Ordering::Greater);
            if at < limit {
                list.insert(at, entry);
                list.truncate(limit);
            }
        }
        _ => *accumulator = Accumulator::Top(vec![entry]),
    }
}

fn entry(accumulator: &mut Accumulator, at: &Value, value: Option<Value>, arrival: Arrival<'_>) -> Result<(), Failure> {
    let key = map_key(at).ok_or_else(|| bad("put", "cannot use as the key of an entry", at))?;
    if !matches!(accumulator, Accumulator::Entries(_)) {
        *accumulator = Accumulator::Entries(BTreeMap::new());
    }
    let Accumulator::Entries(entries) = accumulator else { return Ok(()) };
    let is_newer = entries.get(&key).is_none_or(|(known, _)| compare_versions(arrival.version, known) == Ordering::Greater);
    if is_newer {
        entries.insert(key, (arrival.version.clone(), value));
    }
    entries.retain(|_, (version, value)| value.is_some() || version.time >= arrival.graves_before);
    Ok(())
}

/// A value as the key of a map; doubles, lists and the like cannot be one.
pub fn map_key(value: &Value) -> Option<MapKey> {
    match value {
        Value::Bool(b) => Some(MapKey::Bool(*b)),
        Value::Int(n) => Some(MapKey::Int(*n)),
        Value::Uint(n) => Some(MapKey::Uint(*n)),
        Value::String(text) => Some(MapKey::String(text.clone())),
        _ => None,
    }
}

fn zero_of(value: &Value) -> Value {
    match value {
        Value::Uint(_) => Value::Uint(0),
        Value::Double(_) => Value::Double(0.0),
        Value::Decimal(_) => Value::Decimal(Decimal::ZERO),
        Value::Duration(_) => Value::Duration(Span { nanos: 0 }),
        _ => Value::Int(0),
    }
}

fn zero(ty: &Type) -> Value {
    match ty.strip_nullable() {
        Type::Uint => Value::Uint(0),
        Type::Double => Value::Double(0.0),
        Type::Decimal => Value::Decimal(Decimal::ZERO),
        Type::Duration => Value::Duration(Span { nanos: 0 }),
        _ => Value::Int(0),
    }
}

fn plus(a: &Value, b: &Value) -> Result<Value, Failure> {
    let sum = match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint),
        (Value::Double(a), Value::Double(b)) => Some(Value::Double(a + b)),
        (Value::Decimal(a), Value::Decimal(b)) => a.checked_add(*b).map(Value::Decimal),
        (Value::Duration(a), Value::Duration(b)) => a.nanos.checked_add(b.nanos).map(|nanos| Value::Duration(Span { nanos })),
        // A field that is `any` may bring an int first and a decimal or double later.
        (a, b) => match (decimal_of(a), decimal_of(b)) {
            (Some(x), Some(y)) => x.checked_add(y).map(Value::Decimal),
            _ => return Err(bad("sum", "cannot add", b)),
        },
    };
    sum.ok_or_else(|| bad("sum", "overflows with", b))
}

fn decimal_of(value: &Value) -> Option<Decimal> {
    match value {
        Value::Int(n) => Some(Decimal::from(*n)),
        Value::Uint(n) => Some(Decimal::from(*n)),
        Value::Decimal(n) => Some(*n),
        Value::Double(n) => Decimal::from_f64(*n),
        _ => None,
    }
}

fn bad(rule: &str, what: &str, value: &Value) -> Failure {
    Failure::Record { reason: "expression", detail: format!("`{rule}` {what} {value:?}") }
}
