//! What is wrong with text that is not YAML. The parser tells where it gave up; the mistake is often a line before.
//!
//! Looks at raw lines, guesses, and says nothing where a guess would be one: then the parser's own words stand.

use crate::config::diagnostic::Place;
use crate::config::diagnostic::SourceText;

/// A mistake found by looking.
pub struct Guess {
    pub at: Place,
    pub message: String,
    pub help: String,
}

/// What the mistake most likely is; `line` and `reason` are where and why the parser gave up.
pub fn guess(file: &SourceText, line: usize, reason: &str) -> Option<Guess> {
    if reason.contains("mapping values are not allowed") {
        return missing_colon(file, line);
    }
    if reason.contains("double-quoted") || reason.contains("single-quoted") {
        return open_quote(file, line, if reason.contains("double-quoted") { '"' } else { '\'' });
    }
    if reason.contains("did not find expected ',' or") {
        return open_bracket(file, line);
    }
    if reason.contains("did not find expected key") {
        return ragged(file, line);
    }
    None
}

/// The line before `line` that is neither empty nor a comment.
fn line_before(file: &SourceText, line: usize) -> Option<usize> {
    (1..line).rev().find(|line| {
        let text = file.line(*line).1.trim();
        !text.is_empty() && !text.starts_with('#')
    })
}

/// The place of a line's text, without its indentation.
fn text_of(file: &SourceText, line: usize) -> (Place, &str) {
    let (start, text) = file.line(line);
    let text = text.trim_end();
    let indent = text.len() - text.trim_start().len();
    (Place { start: start + indent, end: start + text.len() }, &text[indent..])
}

/// `topic orders`, and the parser only notices at the next `:`.
fn missing_colon(file: &SourceText, line: usize) -> Option<Guess> {
    let (at, text) = text_of(file, line_before(file, line)?);
    if text.contains(':') || text.starts_with('-') {
        return None;
    }
    let help = match text.split_once(' ') {
        Some((key, value)) => format!("write `{key}: {}`", value.trim_start()),
        None => format!("write `{text}:`, and its value behind or below it"),
    };
    Some(Guess { at, message: format!("`{text}` has no `:` after its key"), help })
}

/// A quote that is closed lines later, by the opening quote of another text.
fn open_quote(file: &SourceText, line: usize, quote: char) -> Option<Guess> {
    for line in 1..=line {
        let (start, text) = file.line(line);
        let (mut open, mut characters) = (None, text.char_indices());
        let mut before = ' ';
        while let Some((at, c)) = characters.next() {
            match (open, c) {
                (None, '#') if before.is_whitespace() => break,
                // An apostrophe within a word opens nothing.
                (None, '"' | '\'') if !before.is_alphanumeric() => open = Some((at, c)),
                (Some((_, '"')), '\\') => _ = characters.next(),
                (Some((_, mark)), _) if mark == c => open = None,
                _ => {}
            }
            before = c;
        }
        if let Some((at, mark)) = open.filter(|(_, mark)| *mark == quote) {
            let at = Place { start: start + at, end: start + at + mark.len_utf8() };
            return Some(Guess {
                at,
                message: format!("this `{mark}` is not closed on its line"),
                help: format!("close it with another `{mark}`"),
            });
        }
    }
    None
}

/// A bracket that is not closed on its line.
fn open_bracket(file: &SourceText, line: usize) -> Option<Guess> {
    let last = (1..=line).rev().find_map(|line| {
        let (start, text) = file.line(line);
        let (mut open, mut quote) = (Vec::new(), None);
        let mut before = ' ';
        for (at, c) in text.char_indices() {
            match (quote, c) {
                (None, '#') if before.is_whitespace() => break,
                (None, '"' | '\'') => quote = Some(c),
                (Some(mark), _) if mark == c => quote = None,
                (None, '{' | '[') => open.push((start + at, c)),
                (None, '}' | ']') => _ = open.pop(),
                _ => {}
            }
            before = c;
        }
        open.pop()
    });
    let (start, bracket) = last?;
    let closing = if bracket == '{' { '}' } else { ']' };
    let message = format!("this `{bracket}` is not closed");
    Some(Guess {
        at: Place { start, end: start + 1 },
        message,
        help: format!("close it with `{closing}`, or put a comma between two entries"),
    })
}

/// A key that stands left or right of its siblings.
fn ragged(file: &SourceText, line: usize) -> Option<Guess> {
    let indent = |line: usize| file.line(line).1.len() - file.line(line).1.trim_start().len();
    let before = line_before(file, line)?;
    let (here, there) = (indent(line), indent(before));
    if here == there || file.line(line).1.trim().is_empty() {
        return None;
    }
    let (at, text) = text_of(file, line);
    let key = text.split(':').next().unwrap_or(text);
    let message = format!("`{key}` is indented by {here} spaces, the line before by {there}, and no map begins or ends between them");
    Some(Guess {
        at: Place { start: at.start, end: at.start + key.len() },
        message,
        help: "put keys of one map exactly below each other".to_owned(),
    })
}
