//! Values that run into YAML's own syntax because they are not quoted: `a ? b : c`, a leading `!`, a comma inside `{ }`.
//!
//! Looks at the raw text around the place where the parser gave up, and says which value was meant and how to quote it. It cuts a
//! line as its author meant it, not as YAML does. Knows nothing of the language: any value may need quotes.

use std::ops::Range;

use crate::config::codes;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::SourceText;

/// The value on this line, or on the one before, that has run into YAML's own syntax.
pub fn trapped(file: &SourceText, line: usize, offset: usize) -> Option<(Place, Trap)> {
    let before = (1..line).rev().find(|line| !file.line(*line).1.trim().is_empty());
    for line in [Some(line), before].into_iter().flatten() {
        let Some(at) = value_of_line(file, line) else { continue };
        if offset < at.start {
            continue;
        }
        let raw = file.slice(at);
        let found = match flow_entry(raw, offset - at.start) {
            Some(entry) => {
                let at = Place { start: at.start + entry.start, end: at.start + entry.end };
                trap(file.slice(at), true).map(|trap| (at, trap))
            }
            None => trap(raw, false).map(|trap| (at, trap)),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The place of the value in a line `key: value` or `- value`.
fn value_of_line(file: &SourceText, line: usize) -> Option<Place> {
    let (start, text) = file.line(line);
    let mut rest = text.trim_start();
    let mut is_item = false;
    while let Some(item) = rest.strip_prefix("- ") {
        rest = item.trim_start();
        is_item = true;
    }
    let is_key = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'"' | b'\''));
    let value = match rest.find(": ") {
        Some(colon) if is_key(&rest[..colon]) => rest[colon + 2..].trim(),
        _ if is_item => rest.trim(),
        _ => return None,
    };
    let value = without_comment(value);
    if value.is_empty() {
        return None;
    }
    let at = start + (value.as_ptr() as usize - text.as_ptr() as usize);
    Some(Place { start: at, end: at + value.len() })
}

/// A value without the comment after it. A ` #` inside quotes is none.
fn without_comment(value: &str) -> &str {
    let mut quote: Option<char> = None;
    let mut before = ' ';
    for (at, c) in value.char_indices() {
        match quote {
            None if c == '#' && before.is_whitespace() => return value[..at].trim_end(),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    value
}

/// The value inside a map or list in braces, on one line, that has the byte `offset`: `{ a: here, b: [here] }`.
///
/// Cuts as the author meant it, not as YAML does: brackets, quotes and parentheses of an expression belong to it.
fn flow_entry(text: &str, offset: usize) -> Option<Range<usize>> {
    struct Frame {
        is_yaml: bool,
        is_list: bool,
        value_start: usize,
        has_key: bool,
    }
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let within = |frame: &Frame, end: usize| {
        let value = &text[frame.value_start..end];
        let start = frame.value_start + value.len() - value.trim_start().len();
        let range = start..start + value.trim().len();
        (frame.is_yaml && !range.is_empty() && (frame.value_start..=end).contains(&offset)).then_some(range)
    };
    let mut open: Vec<Frame> = Vec::new();
    let mut quote: Option<char> = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            (Some('"'), '\\') => _ = characters.next(),
            (Some(mark), _) if mark == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '[') => {
                let before = text[..at].trim_end();
                let is_yaml = before.is_empty() || before.ends_with([',', '{', '[', ':']) && open.last().is_none_or(|frame| frame.is_yaml);
                open.push(Frame { is_yaml, is_list: c == '[', value_start: at + 1, has_key: c == '[' });
            }
            (None, '(') => open.push(Frame { is_yaml: false, is_list: true, value_start: at + 1, has_key: true }),
            (None, ')' | '}' | ']') => {
                let frame = open.pop()?;
                if let Some(range) = within(&frame, at) {
                    return Some(range);
                }
            }
            (None, ',') => {
                let frame = open.last_mut()?;
                if let Some(range) = within(frame, at) {
                    return Some(range);
                }
                if frame.is_yaml {
                    (frame.value_start, frame.has_key) = (at + 1, frame.is_list);
                }
            }
            (None, ':') if text[at + 1..].starts_with(' ') => {
                let frame = open.last_mut()?;
                if !frame.has_key {
                    (frame.value_start, frame.has_key) = (at + 2, true);
                }
            }
            (None, _) => {}
        }
    }
    None
}

/// Why YAML took a value apart.
pub struct Trap {
    pub code: &'static codes::Code,
    pub message: String,
}

/// Which of YAML's characters an unquoted value has run into.
fn trap(value: &str, in_flow: bool) -> Option<Trap> {
    let unquoted = |message: String| Some(Trap { code: codes::UNQUOTED_EXPRESSION, message });
    let first = value.chars().next()?;
    match first {
        '!' => return Some(Trap { code: codes::LEADING_EXCLAMATION, message: "YAML reads the leading `!` as a tag".to_owned() }),
        '@' | '`' | '%' | '*' | '&' | '|' | '>' => return unquoted(format!("YAML keeps a leading `{first}` for itself")),
        '"' | '\'' => {
            let after = after_quote(value)?.trim();
            (!after.is_empty() && !after.starts_with('#')).then_some(())?;
            return unquoted("YAML ends this value at its closing quote".to_owned());
        }
        '[' | '{' => {
            let after = value[closing(value)?..].trim_start();
            (!after.is_empty() && !after.starts_with('#')).then_some(())?;
            return unquoted(format!("YAML ends this value at its closing `{}`", if first == '[' { ']' } else { '}' }));
        }
        _ => {}
    }
    if in_flow && value.contains('(') && value.contains(',') && !value.contains(['[', '{', '?']) {
        return Some(Trap { code: codes::COMMA_CUTS_EXPRESSION, message: "YAML ends this value at its first comma".to_owned() });
    }
    if value.contains(": ") {
        return unquoted("YAML reads `: ` inside this value as a key of its own".to_owned());
    }
    if in_flow && value.contains(['[', ']', '{', '}', '"', ',']) {
        return unquoted("YAML reads a bracket, quote or comma inside `{ }` or `[ ]` as its own".to_owned());
    }
    None
}

/// A value in quotes, so that YAML leaves it alone.
pub fn quoted(value: &str) -> String {
    if !value.contains('\'') {
        format!("'{value}'")
    } else if !value.contains(['"', '\\']) {
        format!("\"{value}\"")
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

/// What follows the closing quote of a quoted start.
fn after_quote(value: &str) -> Option<&str> {
    let quote = value.chars().next()?;
    let mut characters = value.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == '\\' && quote == '"' {
            characters.next();
        } else if c == quote {
            return Some(&value[at + 1..]);
        }
    }
    None
}

/// Where the bracket that opens the value is closed, quotes minded: the byte after it.
fn closing(value: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote: Option<char> = None;
    for (at, c) in value.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            (None, _) => {}
        }
    }
    None
}
