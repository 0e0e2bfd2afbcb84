//! Diagnostics as text: code, file:line:column, the line with a caret, help. The only file that names `miette`.
//!
//! Plain text is the same on every machine: ASCII, no colour, a fixed width. It is what the tests compare.

use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

use miette::GraphicalReportHandler;
use miette::GraphicalTheme;
use miette::LabeledSpan;
use miette::MietteError;
use miette::MietteSpanContents;
use miette::SourceCode;
use miette::SourceSpan;
use miette::SpanContents;
use miette::ThemeCharacters;
use miette::ThemeStyles;

use crate::config::codes::Severity;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::SourceText;

/// How diagnostics look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// ASCII without colour: for pipes, `NO_COLOR` and tests.
    Plain,
    /// Unicode and colour: for a terminal.
    Terminal,
}

/// Text is wrapped here, whatever the terminal: a caret must stay under what it means.
const WIDTH: usize = 120;
/// Of a longer line only the part around the place is shown, in bytes: a file may be one line of a megabyte.
const LINE_BYTES_MAX: usize = 300;
/// What is then shown before and behind the place.
const AROUND_BYTES: usize = 80;

/// All problems of a file by place, an empty line between two, and the count.
pub fn render(diagnostics: &Diagnostics, look: Look) -> String {
    let sorted = diagnostics.sorted();
    let mut text = String::new();
    for diagnostic in &sorted {
        text.push_str(&render_one(diagnostic, look));
        text.push('\n');
    }
    let warnings = sorted.iter().filter(|problem| problem.code.severity == Severity::Warning).count();
    let errors = sorted.len() - warnings;
    let plural = |n: usize, noun: &str| if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") };
    // Writing to a string does not fail.
    let _ = match (errors, warnings) {
        (0, 0) => Ok(()),
        (_, 0) => writeln!(text, "{}: {}", diagnostics.file.name, plural(errors, "problem")),
        (0, _) => writeln!(text, "{}: {}", diagnostics.file.name, plural(warnings, "warning")),
        _ => writeln!(text, "{}: {}, {}", diagnostics.file.name, plural(errors, "problem"), plural(warnings, "warning")),
    };
    text
}

/// One problem.
pub fn render_one(diagnostic: &Diagnostic, look: Look) -> String {
    let theme = match look {
        Look::Plain => GraphicalTheme { characters: ThemeCharacters::ascii(), styles: ThemeStyles::none() },
        Look::Terminal => GraphicalTheme { characters: ThemeCharacters::unicode(), styles: ThemeStyles::ansi() },
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(WIDTH)
        .with_links(false)
        .without_cause_chain()
        .without_syntax_highlighting()
        .with_context_lines(1);
    let mut text = String::new();
    // Writing to a string does not fail, and the places were clamped to the file when they were pushed.
    let _ = handler.render_report(&mut text, &Report { diagnostic, source: Named(diagnostic.file.clone()) });
    text.lines().map(str::trim_end).fold(String::new(), |all, line| all + line + "\n")
}

/// A diagnostic as miette wants it.
#[derive(Debug)]
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: Named,
}

#[derive(Debug)]
struct Named(Arc<SourceText>);

impl SourceCode for Named {
    /// The whole lines of a span. Without lines of context the handler only asks where the span begins.
    fn read_span<'a>(&'a self, span: &SourceSpan, before: usize, after: usize) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = &self.0.text;
        let (start, end) = (span.offset(), span.offset() + span.len());
        if end > text.len() {
            return Err(MietteError::OutOfBounds);
        }
        let (line, column) = self.0.line_column(start);
        let (start, end, column) = if before + after == 0 {
            (start, end, column - 1)
        } else {
            let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
            let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at);
            // The line break of Windows is two characters; the handler would count a lone `\r` as a line of its own.
            let line_end = if line_end > end && text[..line_end].ends_with('\r') { line_end - 1 } else { line_end };
            if line_end - line_start > LINE_BYTES_MAX && !text[line_start..line_end].contains('\n') {
                let whole = |at: usize| (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
                (whole(line_start.max(start.saturating_sub(AROUND_BYTES))), whole(line_end.min(end + AROUND_BYTES)), 0)
            } else {
                (line_start, line_end, 0)
            }
        };
        let data = &text.as_bytes()[start..end];
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        Ok(Box::new(MietteSpanContents::new_named(self.0.name.clone(), data, (start, end - start).into(), line - 1, column, lines)))
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.diagnostic.code.id))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.code.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let at = shown(self.diagnostic.at, &self.source.0.text);
        let main = LabeledSpan::new_primary_with_span(Some("here".to_owned()), (at.start, at.end - at.start));
        let others = self
            .diagnostic
            .related
            .iter()
            .map(|(at, words)| LabeledSpan::new_with_span(Some(words.clone()), (at.start, at.end.saturating_sub(at.start))));
        Some(Box::new(std::iter::once(main).chain(others)))
    }
}

/// The part of a place that is underlined: of a long one its beginning, and at the end of a line the last character, because
/// nothing can be drawn under nothing.
fn shown(at: Place, text: &str) -> Place {
    let line_end = text[at.start..].find('\n').map_or(text.len(), |end| at.start + end);
    if at.end > at.start + LINE_BYTES_MAX && at.end <= line_end {
        let end = (at.start + AROUND_BYTES..at.end).find(|end| text.is_char_boundary(*end)).unwrap_or(at.end);
        return Place { end, ..at };
    }
    let line_start = text[..at.start].rfind('\n').map_or(0, |before| before + 1);
    let is_at_end = at.start == at.end && text[at.start..line_end].trim_end().is_empty();
    match text[line_start..at.start].char_indices().next_back() {
        Some((before, _)) if is_at_end => Place { start: line_start + before, end: at.start },
        _ => at,
    }
}
