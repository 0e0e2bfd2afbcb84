//! `"%s costs %.2f".format([name, price])`: the string extension's formatting.

use std::fmt::Write;

use crate::expression::arithmetic::{check_text, text};
use crate::expression::collect::value_of;
use crate::expression::functions::convert::show_double;
use crate::expression::functions::time::show_duration;
use crate::expression::problem::{Failure, Outcome, type_name};
use crate::expression::types::name_of;
use crate::model::Value;

/// Digits after the point that `%f` and `%e` write unless told otherwise, as in C.
const PRECISION_DEFAULT: usize = 6;

/// The most digits after the point: a double has no more than 1,074 that are not zero.
const PRECISION_MAX: usize = 1_074;

pub(super) fn format(template: &Value, arguments: &Value) -> Outcome {
    let (Value::String(template), Value::List(arguments)) = (template, arguments) else {
        return Err(Failure::overload("format", &[template, arguments]));
    };
    let mut out = String::with_capacity(template.len() + 16 * arguments.len());
    let mut next = arguments.iter().enumerate();
    let mut rest = template.as_str();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, clause, after) = read_clause(rest)?;
        rest = after;
        let Some((_, value)) = next.next() else {
            return Err(Failure::new(format!("format: index {} out of range, {} values were given", arguments.len(), arguments.len())));
        };
        write_value(&mut out, clause, precision, value)?;
        check_text(out.len())?;
    }
    out.push_str(rest);
    text(out)
}

/// Reads `.3f` and what follows it.
fn read_clause(rest: &str) -> Result<(usize, char, &str), Failure> {
    let (precision, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let precision = rest[..end].parse().ok().filter(|precision| *precision <= PRECISION_MAX);
            let precision =
                precision.ok_or_else(|| Failure::new(format!("format: the precision must be a number up to {PRECISION_MAX}")))?;
            (precision, &rest[end..])
        }
        None => (PRECISION_DEFAULT, rest),
    };
    let Some(clause) = rest.chars().next() else {
        return Err(Failure::new("format: the text ends within a `%` clause"));
    };
    Ok((precision, clause, &rest[clause.len_utf8()..]))
}

fn write_value(out: &mut String, clause: char, precision: usize, value: &Value) -> Result<(), Failure> {
    let refused = |what: &str| Err(Failure::new(format!("format: `%{clause}` takes {what}, not {}", type_name(value))));
    match (clause, value) {
        ('s', value) => return show(out, value),
        ('d' | 'f' | 'e', Value::Double(number)) if !number.is_finite() => out.push_str(&show_double(*number)),
        ('d', Value::Int(number)) => push(out, number),
        ('d', Value::Uint(number)) => push(out, number),
        ('d', Value::Double(number)) => out.push_str(&show_double(*number)),
        ('d', Value::Decimal(number)) => push(out, number),
        ('d', _) => return refused("a number"),
        ('f', Value::Decimal(number)) => {
            // Half to even, as for doubles.
            let rounded = number.round_dp(u32::try_from(precision).unwrap_or(u32::MAX));
            push(out, format_args!("{rounded:.precision$}"));
        }
        ('f' | 'e', Value::Int(number)) => fixed_or_scientific(out, clause, precision, *number as f64),
        ('f' | 'e', Value::Uint(number)) => fixed_or_scientific(out, clause, precision, *number as f64),
        ('f' | 'e', Value::Double(number)) => fixed_or_scientific(out, clause, precision, *number),
        ('f' | 'e', _) => return refused("a number"),
        ('b', Value::Bool(value)) => out.push(if *value { '1' } else { '0' }),
        ('b', Value::Int(number)) => push(out, format_args!("{}{:b}", sign(*number), number.unsigned_abs())),
        ('b', Value::Uint(number)) => push(out, format_args!("{number:b}")),
        ('b', _) => return refused("an int, uint or bool"),
        ('o', Value::Int(number)) => push(out, format_args!("{}{:o}", sign(*number), number.unsigned_abs())),
        ('o', Value::Uint(number)) => push(out, format_args!("{number:o}")),
        ('o', _) => return refused("an int or uint"),
        ('x', Value::Int(number)) => push(out, format_args!("{}{:x}", sign(*number), number.unsigned_abs())),
        ('X', Value::Int(number)) => push(out, format_args!("{}{:X}", sign(*number), number.unsigned_abs())),
        ('x', Value::Uint(number)) => push(out, format_args!("{number:x}")),
        ('X', Value::Uint(number)) => push(out, format_args!("{number:X}")),
        ('x' | 'X', Value::String(text)) => hexadecimal(out, clause, text.as_bytes())?,
        ('x' | 'X', Value::Bytes(bytes)) => hexadecimal(out, clause, bytes)?,
        ('x' | 'X', _) => return refused("an int, uint, string or bytes"),
        _ => return Err(Failure::new(format!("format: `%{clause}` is not known: use %s %d %f %e %b %o %x %X or %%"))),
    }
    Ok(())
}

fn push(out: &mut String, what: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{what}");
}

fn sign(number: i64) -> &'static str {
    if number < 0 { "-" } else { "" }
}

fn fixed_or_scientific(out: &mut String, clause: char, precision: usize, number: f64) {
    if clause == 'f' {
        // Rust rounds the exact value half to even, as the specification asks.
        return push(out, format_args!("{number:.precision$}"));
    }
    let text = format!("{number:.precision$e}");
    if let Some((digits, exponent)) = text.split_once('e') {
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        push(out, format_args!("{digits}e{sign}{exponent:0>2}"));
    }
}

fn hexadecimal(out: &mut String, clause: char, bytes: &[u8]) -> Result<(), Failure> {
    check_text(out.len() + 2 * bytes.len())?;
    for byte in bytes {
        if clause == 'x' { push(out, format_args!("{byte:02x}")) } else { push(out, format_args!("{byte:02X}")) }
    }
    Ok(())
}

/// `%s`
fn show(out: &mut String, value: &Value) -> Result<(), Failure> {
    check_text(out.len())?;
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => push(out, value),
        Value::Int(number) => push(out, number),
        Value::Uint(number) => push(out, number),
        Value::Double(number) => out.push_str(&show_double(*number)),
        Value::Decimal(number) => push(out, number),
        Value::String(text) => out.push_str(text),
        Value::Bytes(bytes) => show_bytes(out, bytes),
        Value::Timestamp(time) => push(out, time),
        Value::Duration(span) => out.push_str(&show_duration(*span)),
        Value::Type(ty) => out.push_str(name_of(ty)),
        Value::List(list) => {
            out.push('[');
            for (i, element) in list.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                show(out, element)?;
            }
            out.push(']');
        }
        Value::Map(map) => show_entries(out, map.iter().map(|(key, value)| (value_of(key), value)))?,
        Value::Object(object) => {
            let names = object.shape.fields.iter().map(|field| Value::String(field.name.clone()));
            show_entries(out, names.zip(object.slots.iter()))?;
        }
        Value::Optional(_) => return Err(Failure::new("format: `%s` takes no optional: unwrap it with `orValue`")),
    }
    Ok(())
}

/// Entries in the order of their keys as text.
fn show_entries<'v>(out: &mut String, entries: impl Iterator<Item = (Value, &'v Value)>) -> Result<(), Failure> {
    let mut shown = Vec::new();
    for (key, value) in entries {
        let mut text = String::new();
        show(&mut text, &key)?;
        shown.push((text, value));
    }
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    out.push('{');
    for (i, (key, value)) in shown.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&key);
        out.push_str(": ");
        show(out, value)?;
    }
    out.push('}');
    Ok(())
}

/// Bytes as text; each run of invalid ones becomes one replacement character.
fn show_bytes(out: &mut String, bytes: &[u8]) {
    let mut was_invalid = false;
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            out.push_str(chunk.valid());
            was_invalid = false;
        }
        if !chunk.invalid().is_empty() {
            if !was_invalid {
                out.push('\u{fffd}');
            }
            was_invalid = true;
        }
    }
}
