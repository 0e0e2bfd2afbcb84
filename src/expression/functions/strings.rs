//! Functions of strings and bytes. Positions count characters (code points), not bytes.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::expression::arithmetic::{check_text, text};
use crate::expression::collect::{ELEMENTS_MAX, checked_list};
use crate::expression::problem::{Failure, Outcome};
use crate::model::Value;

/// Memory that a compiled pattern may take: enough for any pattern that a person writes, and refused quickly beyond it.
pub const PATTERN_BYTES_MAX: usize = 256 * 1024;

pub(super) fn size(value: &Value) -> Outcome {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        Value::Object(object) => object.slots.len(),
        other => return Err(Failure::overload("size", &[other])),
    };
    Ok(Value::Int(size as i64))
}

pub(super) fn contains(value: &Value, part: &Value) -> Outcome {
    match (value, part) {
        (Value::String(value), Value::String(part)) => Ok(Value::Bool(value.contains(part.as_str()))),
        _ => Err(Failure::overload("contains", &[value, part])),
    }
}

pub(super) fn starts_with(value: &Value, part: &Value) -> Outcome {
    match (value, part) {
        (Value::String(value), Value::String(part)) => Ok(Value::Bool(value.starts_with(part.as_str()))),
        _ => Err(Failure::overload("startsWith", &[value, part])),
    }
}

pub(super) fn ends_with(value: &Value, part: &Value) -> Outcome {
    match (value, part) {
        (Value::String(value), Value::String(part)) => Ok(Value::Bool(value.ends_with(part.as_str()))),
        _ => Err(Failure::overload("endsWith", &[value, part])),
    }
}

/// A pattern that is not a constant is compiled for each record.
pub(super) fn matches(value: &Value, expression: &Value) -> Outcome {
    match (value, expression) {
        (Value::String(value), Value::String(expression)) => Ok(Value::Bool(pattern(expression)?.is_match(value))),
        _ => Err(Failure::overload("matches", &[value, expression])),
    }
}

/// Compiles a regular expression (RE2 syntax), within [`PATTERN_BYTES_MAX`]. Matching takes time linear in the text.
pub(in crate::expression) fn pattern(expression: &str) -> Result<Arc<Regex>, Failure> {
    let built = RegexBuilder::new(expression).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build();
    built.map(Arc::new).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Failure::new(format!("the pattern needs more than {PATTERN_BYTES_MAX} bytes")),
        // The last line says what is wrong; those before it draw a picture.
        other => Failure::new(format!(
            "the pattern cannot be read: {}",
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")
        )),
    })
}

pub(super) fn char_at(value: &Value, position: &Value) -> Outcome {
    let (Value::String(value), Value::Int(position)) = (value, position) else {
        return Err(Failure::overload("charAt", &[value, position]));
    };
    let start = byte_at(value, *position)?;
    let end = value[start..].chars().next().map_or(start, |c| start + c.len_utf8());
    text(&value[start..end])
}

/// The byte where the character of this number begins; the length is a position, too.
fn byte_at(value: &str, position: i64) -> Result<usize, Failure> {
    let out_of_range = || Failure::new(format!("index out of range: {position}"));
    let position = usize::try_from(position).map_err(|_| out_of_range())?;
    let mut starts = value.char_indices().map(|(start, _)| start).chain(std::iter::once(value.len()));
    starts.nth(position).ok_or_else(out_of_range)
}

fn count_before(value: &str, byte: usize) -> i64 {
    value[..byte].chars().count() as i64
}

pub(super) fn index_of(value: &Value, part: &Value) -> Outcome {
    index_of_from(value, part, &Value::Int(0))
}

pub(super) fn index_of_from(value: &Value, part: &Value, from: &Value) -> Outcome {
    let (Value::String(text), Value::String(part), Value::Int(from)) = (value, part, from) else {
        return Err(Failure::overload("indexOf", &[value, part, from]));
    };
    let start = byte_at(text, *from)?;
    Ok(Value::Int(text[start..].find(part.as_str()).map_or(-1, |found| count_before(text, start + found))))
}

pub(super) fn last_index_of(value: &Value, part: &Value) -> Outcome {
    match (value, part) {
        (Value::String(text), Value::String(part)) => {
            Ok(Value::Int(text.rfind(part.as_str()).map_or(-1, |found| count_before(text, found))))
        }
        _ => Err(Failure::overload("lastIndexOf", &[value, part])),
    }
}

/// The last place that begins at or before `until`.
pub(super) fn last_index_of_until(value: &Value, part: &Value, until: &Value) -> Outcome {
    let (Value::String(text), Value::String(part), Value::Int(until)) = (value, part, until) else {
        return Err(Failure::overload("lastIndexOf", &[value, part, until]));
    };
    let start = byte_at(text, *until)?;
    let end = (start + part.len()).min(text.len());
    // The end may fall into a character; then no match ends there.
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    let found = text[..end].rfind(part.as_str()).filter(|found| *found <= start);
    let found = found.or_else(|| text[..end].match_indices(part.as_str()).map(|(at, _)| at).filter(|at| *at <= start).last());
    Ok(Value::Int(found.map_or(-1, |found| count_before(text, found))))
}

pub(super) fn lower_ascii(value: &Value) -> Outcome {
    match value {
        Value::String(value) => text(value.to_ascii_lowercase()),
        other => Err(Failure::overload("lowerAscii", &[other])),
    }
}

pub(super) fn upper_ascii(value: &Value) -> Outcome {
    match value {
        Value::String(value) => text(value.to_ascii_uppercase()),
        other => Err(Failure::overload("upperAscii", &[other])),
    }
}

pub(super) fn replace(value: &Value, from: &Value, to: &Value) -> Outcome {
    replace_some(value, from, to, &Value::Int(-1))
}

pub(super) fn replace_some(value: &Value, from: &Value, to: &Value, limit: &Value) -> Outcome {
    let (Value::String(value), Value::String(from), Value::String(to), Value::Int(limit)) = (value, from, to, limit) else {
        return Err(Failure::overload("replace", &[value, from, to, limit]));
    };
    let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
    // Counted before it is made: `'aaaa'.replace('a', <long>)` must not fill the memory first.
    let places = value.matches(from.as_str()).take(limit).count();
    check_text((value.len() - places * from.len()).saturating_add(places.saturating_mul(to.len())))?;
    text(value.replacen(from.as_str(), to, limit))
}

pub(super) fn split(value: &Value, separator: &Value) -> Outcome {
    split_some(value, separator, &Value::Int(-1))
}

pub(super) fn split_some(value: &Value, separator: &Value, limit: &Value) -> Outcome {
    let (Value::String(value), Value::String(separator), Value::Int(limit)) = (value, separator, limit) else {
        return Err(Failure::overload("split", &[value, separator, limit]));
    };
    let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(Value::List([].into()));
    }
    if !separator.is_empty() {
        // One more than may be, so that too many are refused before they fill the memory.
        let parts = value.splitn(limit, separator.as_str()).take(ELEMENTS_MAX + 1);
        return checked_list(parts.map(Value::string).collect());
    }
    // Without a separator it splits into characters; the last part takes the rest.
    let mut parts = Vec::new();
    let mut rest = value.as_str();
    while let Some(c) = rest.chars().next().filter(|_| parts.len() <= ELEMENTS_MAX) {
        let end = if parts.len() + 1 == limit { rest.len() } else { c.len_utf8() };
        parts.push(Value::string(&rest[..end]));
        rest = &rest[end..];
    }
    checked_list(parts)
}

pub(super) fn substring(value: &Value, start: &Value) -> Outcome {
    let (Value::String(string), Value::Int(start)) = (value, start) else {
        return Err(Failure::overload("substring", &[value, start]));
    };
    text(&string[byte_at(string, *start)?..])
}

pub(super) fn substring_until(value: &Value, start: &Value, end: &Value) -> Outcome {
    let (Value::String(string), Value::Int(start), Value::Int(end)) = (value, start, end) else {
        return Err(Failure::overload("substring", &[value, start, end]));
    };
    if start > end {
        return Err(Failure::new(format!("invalid substring range: {start} to {end}")));
    }
    text(&string[byte_at(string, *start)?..byte_at(string, *end)?])
}

pub(super) fn trim(value: &Value) -> Outcome {
    match value {
        Value::String(value) => text(value.trim()),
        other => Err(Failure::overload("trim", &[other])),
    }
}

pub(super) fn reverse(value: &Value) -> Outcome {
    match value {
        Value::String(value) => text(value.chars().rev().collect::<String>()),
        other => Err(Failure::overload("reverse", &[other])),
    }
}

pub(super) fn join(list: &Value) -> Outcome {
    join_with(list, &Value::string(""))
}

pub(super) fn join_with(list: &Value, separator: &Value) -> Outcome {
    let (Value::List(parts), Value::String(separator)) = (list, separator) else {
        return Err(Failure::overload("join", &[list, separator]));
    };
    let mut joined = String::new();
    for (i, part) in parts.iter().enumerate() {
        let Value::String(part) = part else {
            return Err(Failure::overload("join", &[part]));
        };
        check_text(joined.len() + separator.len() + part.len())?;
        if i > 0 {
            joined.push_str(separator);
        }
        joined.push_str(part);
    }
    text(joined)
}

/// The text as a string literal of the language.
pub(super) fn quote(value: &Value) -> Outcome {
    let Value::String(value) = value else {
        return Err(Failure::overload("strings.quote", &[value]));
    };
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        let letter = match c {
            '\u{07}' => 'a',
            '\u{08}' => 'b',
            '\u{0c}' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\u{0b}' => 'v',
            '\\' | '"' => c,
            _ => {
                quoted.push(c);
                continue;
            }
        };
        quoted.push('\\');
        quoted.push(letter);
    }
    quoted.push('"');
    text(quoted)
}
