//! A problem in a file that the user wrote: what, where, and what to do. And the list that collects them.
//!
//! Nothing here prints; `render` turns a [`Diagnostic`] into text. Reading and checking push and go on, so that one run shows
//! every problem of a file.

use std::sync::Arc;

use crate::config::codes::Code;
use crate::config::codes::Severity;

/// A range of bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one; at least `start`.
    pub end: usize,
}

impl Place {
    /// From the start of this place to the end of the other.
    pub fn to(self, other: Place) -> Place {
        Place { start: self.start, end: other.end.max(self.start) }
    }
}

/// A value and where it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed<T> {
    pub value: T,
    pub at: Place,
}

impl<T> Placed<T> {
    pub fn new(value: T, at: Place) -> Placed<T> {
        Placed { value, at }
    }
}

/// A file as it was read, with its lines found.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// As the user named it.
    pub name: String,
    pub text: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl SourceText {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<SourceText> {
        let text = text.into();
        let mut lines = vec![0];
        lines.extend(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
        Arc::new(SourceText { name: name.into(), text, lines })
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines[line - 1];
        let column = self.text.get(start..offset).map_or(offset - start, |before| before.chars().count()) + 1;
        (line, column)
    }

    /// The text of a line (from 1) without its line break, and where it starts. Empty past the end.
    pub fn line(&self, line: usize) -> (usize, &str) {
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied().unwrap_or(self.text.len());
        let rest = &self.text[start..];
        (start, rest.split('\n').next().unwrap_or_default().trim_end_matches('\r'))
    }

    /// The place as far as it is in this file, on whole characters.
    fn clamp(&self, at: Place) -> Place {
        let whole = |mut offset: usize| {
            while !self.text.is_char_boundary(offset) {
                offset -= 1;
            }
            offset
        };
        let start = whole(at.start.min(self.text.len()));
        Place { start, end: whole(at.end.clamp(start, self.text.len())) }
    }

    /// The text at a place; empty if the place is not in this file.
    pub fn slice(&self, at: Place) -> &str {
        self.text.get(at.start..at.end).unwrap_or_default()
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub code: &'static Code,
    pub file: Arc<SourceText>,
    pub at: Place,
    /// What is wrong: lowercase, no full stop, names in backticks.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Other places that have to do with it, each with a few words.
    pub related: Vec<(Place, String)>,
}

impl Diagnostic {
    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.file.line_column(self.at.start).0
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.file.line_column(self.at.start).1
    }

    /// Adds what to do.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Adds what to do, if there is something to say.
    pub fn help_if(&mut self, help: Option<impl Into<String>>) -> &mut Diagnostic {
        if let Some(help) = help {
            self.help = Some(help.into());
        }
        self
    }

    /// Adds another place that has to do with it.
    pub fn also(&mut self, at: Place, words: impl Into<String>) -> &mut Diagnostic {
        self.related.push((self.file.clamp(at), words.into()));
        self
    }
}

/// The problems of one file, in the order in which they were found until [`Diagnostics::sorted`] is asked.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    pub file: Arc<SourceText>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn new(file: Arc<SourceText>) -> Diagnostics {
        Diagnostics { file, list: Vec::new() }
    }

    /// Adds a problem; the result takes help and related places.
    pub fn push(&mut self, code: &'static Code, at: Place, message: impl Into<String>) -> &mut Diagnostic {
        let at = self.file.clamp(at);
        let index = self.list.len();
        self.list.push(Diagnostic { code, file: self.file.clone(), at, message: message.into(), help: None, related: Vec::new() });
        &mut self.list[index]
    }

    /// Whether something is wrong; warnings are not wrong.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.code.severity == Severity::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many were pushed so far; with it a caller sees whether a call reported something.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// By place, each once: what is read twice (through an alias) is reported once.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut list: Vec<&Diagnostic> = self.list.iter().collect();
        list.sort_by(|a, b| (a.at, a.code.id, &a.message).cmp(&(b.at, b.code.id, &b.message)));
        list.dedup_by(|a, b| a.at == b.at && a.code == b.code && a.message == b.message);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_start_at_one() {
        let file = SourceText::new("x", "a: ü\nb: é x\n");
        assert_eq!(file.line_column(0), (1, 1));
        assert_eq!(file.line_column(6), (2, 1));
        assert_eq!(file.line_column(12), (2, 6));
        assert_eq!(file.line(2).1, "b: é x");
        assert_eq!(file.line(9).1, "");
    }

    #[test]
    fn places_are_cut_to_whole_characters_of_the_file() {
        let mut diagnostics = Diagnostics::new(SourceText::new("x", "a: ü"));
        let code = crate::config::codes::YAML_SYNTAX;
        assert_eq!(diagnostics.push(code, Place { start: 4, end: 99 }, "x").at, Place { start: 3, end: 5 });
        assert_eq!(diagnostics.push(code, Place { start: 99, end: 0 }, "x").at, Place { start: 5, end: 5 });
    }
}
