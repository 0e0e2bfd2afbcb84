//! YAML text to a tree of nodes that remembers every place. The only file that names the YAML crate.
//!
//! Nothing is typed here: every scalar is its text and how it was quoted, so `2026-01-01T00:00:02Z`, `no` and `1.10` arrive as
//! they were written. YAML's own syntax inside unquoted expressions (`a ? b : c`, a leading `!`, a comma in `{ }`) is reported
//! here, at its column; the broken value becomes [`Yaml::Broken`], about which nobody complains again.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::granit_parser::Event;
use serde_saphyr::granit_parser::Options;
use serde_saphyr::granit_parser::Parser;
use serde_saphyr::granit_parser::ScalarStyle;
use serde_saphyr::granit_parser::ScanError;
use serde_saphyr::granit_parser::Span;
use serde_saphyr::granit_parser::StructureStyle;

use crate::config::broken::guess;
use crate::config::codes;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::SourceText;
use crate::config::traps::quoted;
use crate::config::traps::trapped;

/// The largest file, in bytes. A topology is written by people; the largest we know of has 2,000 lines.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// The deepest nesting. The language itself needs 9.
pub const DEPTH_MAX: usize = 64;
/// Nodes after aliases are followed: an alias of aliases of aliases must not fill the memory.
pub const NODES_MAX: usize = 100_000;
/// So many broken values of one file are stepped over to find the other problems.
const REPAIRS_MAX: usize = 50;

/// A value in the file.
#[derive(Clone, Debug)]
pub struct Node {
    pub at: Place,
    pub value: Yaml,
}

#[derive(Clone, Debug)]
pub enum Yaml {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// In the order of the file, each key once.
    Mapping(Vec<Entry>),
    /// Reported already; whoever meets it says nothing.
    Broken,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scalar {
    /// The text after YAML's escapes and folding.
    pub text: String,
    pub style: Style,
}

/// How a scalar is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Plain,
    SingleQuoted,
    DoubleQuoted,
    /// `|` or `>`.
    Block,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_at: Place,
    pub value: Node,
}

impl Node {
    fn broken(at: Place) -> Node {
        Node { at, value: Yaml::Broken }
    }

    pub fn is_broken(&self) -> bool {
        matches!(self.value, Yaml::Broken)
    }

    /// Whether nothing is written: `key:` and the end of the line.
    pub fn is_empty(&self) -> bool {
        matches!(&self.value, Yaml::Scalar(scalar) if scalar.style == Style::Plain && scalar.text.is_empty())
    }

    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Yaml::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// What it is, for a message: `a map`, `a list`, `` `text` ``.
    pub fn describe(&self) -> String {
        match &self.value {
            Yaml::Scalar(scalar) if scalar.text.is_empty() => "nothing".to_owned(),
            Yaml::Scalar(scalar) => format!("`{}`", shorten(&scalar.text)),
            Yaml::Sequence(_) => "a list".to_owned(),
            Yaml::Mapping(_) => "a map".to_owned(),
            Yaml::Broken => "a broken value".to_owned(),
        }
    }
}

/// The longest text that a message quotes, in characters.
const QUOTED_MAX: usize = 40;

fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= QUOTED_MAX && line.len() == text.len() {
        return text.to_owned();
    }
    line.chars().take(QUOTED_MAX).collect::<String>() + "…"
}

/// Reads the file of `diagnostics`. `None` if nothing can be read; the reason has been reported.
pub fn parse(diagnostics: &mut Diagnostics) -> Option<Node> {
    let file = diagnostics.file.clone();
    if file.text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, more than {FILE_BYTES_MAX}", file.text.len());
        diagnostics.push(codes::YAML_LIMIT, Place::default(), message).help("split the app into several files");
        return None;
    }
    let mut text = file.text.clone();
    let mut broken: Vec<Place> = Vec::new();
    loop {
        match Builder::build(&text, &broken) {
            Ok(built) => {
                built.report(diagnostics);
                // What a second document says about the first cannot be guessed.
                return if built.is_one_document { built.root } else { None };
            }
            Err(error) => {
                let repair = explain(&error, &file, diagnostics, &broken)?;
                if broken.len() >= REPAIRS_MAX {
                    return None;
                }
                blank(&mut text, repair);
                broken.push(repair);
            }
        }
    }
}

/// Puts `~` and spaces in the place of a value, so that all other places stay where they are.
fn blank(text: &mut String, at: Place) {
    let filler = format!("~{}", " ".repeat(at.end - at.start - 1));
    text.replace_range(at.start..at.end, &filler);
}

/// Reports why the text is not YAML. Returns the value to step over, or `None` if the rest cannot be read.
fn explain(error: &ScanError, file: &SourceText, diagnostics: &mut Diagnostics, broken: &[Place]) -> Option<Place> {
    let offset = error.marker().byte_offset().unwrap_or(file.text.len()).min(file.text.len());
    let here = Place { start: offset, end: next_char(&file.text, offset) };
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        diagnostics.push(codes::YAML_LIMIT, here, format!("nested deeper than {DEPTH_MAX} levels"));
        return None;
    }
    let (line, _) = file.line_column(offset);
    if let Some((at, trap)) = trapped(file, line, offset)
        && !broken.contains(&at)
    {
        let raw = file.slice(at);
        diagnostics.push(trap.code, at, trap.message).help(format!("quote the expression: `{}`", quoted(raw)));
        return Some(at);
    }
    // A second error beside a value that was stepped over is most likely its echo.
    if broken.iter().any(|place| file.line_column(place.start).0.abs_diff(line) <= 1) {
        return None;
    }
    let indent = |line: usize| file.line(line).1.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    let tab = (line.saturating_sub(1)..=line + 1).find(|line| indent(*line));
    if let Some(line) = tab {
        let (start, text) = file.line(line);
        let start = start + text.find('\t').unwrap_or_default();
        diagnostics
            .push(codes::YAML_SYNTAX, Place { start, end: start + 1 }, "YAML takes no tabs for indentation")
            .help("indent with spaces");
    } else if let Some(guess) = guess(file, line, &error.info()) {
        diagnostics.push(codes::YAML_SYNTAX, guess.at, guess.message).help(guess.help);
    } else {
        let help = match error.info().contains("unexpected character") {
            true => "remove it, or write it as an escape in double quotes",
            false => "check the indentation, quotes and brackets around this place",
        };
        diagnostics.push(codes::YAML_SYNTAX, here, format!("this is not YAML: {}", plain_words(&error.info()))).help(help);
    }
    None
}

/// The parser's reason without what it was doing at that time.
fn plain_words(info: &str) -> &str {
    info.rsplit(", ").next().unwrap_or(info)
}

fn next_char(text: &str, offset: usize) -> usize {
    text[offset..].chars().next().filter(|c| *c != '\n').map_or(offset, |c| offset + c.len_utf8())
}

/// A problem of the tree itself, kept until it is known that the text can be read.
struct Found {
    code: &'static codes::Code,
    at: Place,
    message: String,
    help: Option<String>,
    also: Option<Place>,
}

/// Builds the tree from the parser's events, without recursion.
struct Builder<'a> {
    text: &'a str,
    broken: &'a [Place],
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
    found: Vec<Found>,
}

/// A collection whose end has not come yet.
struct Open {
    at: Place,
    anchor: usize,
    flow: bool,
    tag: Option<Place>,
    /// The key that waits for its value.
    key: Option<Node>,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

struct Built {
    root: Option<Node>,
    is_one_document: bool,
    found: Vec<Found>,
}

impl Built {
    fn report(&self, diagnostics: &mut Diagnostics) {
        for found in &self.found {
            let diagnostic = diagnostics.push(found.code, found.at, found.message.clone());
            diagnostic.help_if(found.help.clone());
            if let Some(also) = found.also {
                diagnostic.also(also, "first here");
            }
        }
    }
}

impl<'a> Builder<'a> {
    fn build(text: &'a str, broken: &'a [Place]) -> Result<Built, ScanError> {
        let mut options = Options::default();
        options.emit_unresolved_aliases = true;
        options.emit_comments = false;
        options.flow_nesting_limit = DEPTH_MAX;
        options.block_nesting_limit = DEPTH_MAX;
        let mut builder =
            Builder { text, broken, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, documents: 0, root: None, found: Vec::new() };
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event?;
            builder.event(event, &span);
            if builder.nodes > NODES_MAX {
                let at = place(&span, text);
                builder.find(codes::YAML_LIMIT, at, format!("more than {NODES_MAX} values"), Some("write fewer aliases".to_owned()));
                return Ok(Built { root: None, is_one_document: true, found: builder.found });
            }
        }
        Ok(Built { root: builder.root, is_one_document: builder.documents <= 1, found: builder.found })
    }

    fn find(&mut self, code: &'static codes::Code, at: Place, message: String, help: Option<String>) {
        self.found.push(Found { code, at, message, help, also: None });
    }

    fn event(&mut self, event: Event<'_>, span: &Span) {
        let at = place(span, self.text);
        let tag = span.tag_span().map(|tag| place(&tag, self.text));
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.find(
                        codes::SEVERAL_DOCUMENTS,
                        at,
                        "a second YAML document starts here".to_owned(),
                        Some("put it into a file of its own".to_owned()),
                    );
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::SingleQuoted,
                    ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                // The parser writes `~` for a value that is not there.
                let text = if at.start == at.end && style == Style::Plain { String::new() } else { text.into_owned() };
                let value = match self.broken.iter().any(|broken| broken.start == at.start) {
                    true => Yaml::Broken,
                    false => Yaml::Scalar(Scalar { text, style }),
                };
                self.add(Node { at, value }, anchor, tag);
            }
            Event::SequenceStart(style, anchor, _) => self.open(at, anchor, style, tag, Content::Sequence(Vec::new())),
            Event::MappingStart(style, anchor, _) => self.open(at, anchor, style, tag, Content::Mapping(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).cloned().unwrap_or_else(|| Node::broken(at));
                self.nodes += count(&target);
                self.add(target, 0, None);
            }
            Event::UnresolvedAlias(name) => {
                let message = format!("`*{name}` refers to a YAML anchor that is not there");
                self.find(codes::UNKNOWN_ALIAS, at, message, Some("if this is an expression, quote it".to_owned()));
                self.add(Node::broken(at), 0, None);
            }
            _ => {}
        }
    }

    fn open(&mut self, at: Place, anchor: usize, style: StructureStyle, tag: Option<Place>, content: Content) {
        self.open.push(Open { at, anchor, flow: style == StructureStyle::Flow, tag, key: None, content });
    }

    fn close(&mut self, end: Place) {
        let Some(open) = self.open.pop() else { return };
        let last = match &open.content {
            Content::Sequence(items) => items.last().map(|node| node.at),
            Content::Mapping(entries) => entries.last().map(|(key, value)| if value.is_empty() { key.at } else { value.at }),
        };
        // The end of a block is only known when the next line begins: take the end of its last value.
        let at = if open.flow { open.at.to(end) } else { open.at.to(last.unwrap_or(open.at)) };
        let value = match open.content {
            Content::Sequence(items) => Yaml::Sequence(if open.flow { self.mend_items(items) } else { items }),
            Content::Mapping(entries) => {
                let entries = if open.flow { self.mend_entries(entries) } else { entries };
                Yaml::Mapping(self.entries(entries))
            }
        };
        self.add(Node { at, value }, open.anchor, open.tag);
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node, anchor: usize, tag: Option<Place>) {
        self.nodes += 1;
        let node = self.untag(node, tag);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None if self.documents <= 1 => self.root = Some(node),
            None => {}
            Some(open) => match &mut open.content {
                Content::Sequence(items) => items.push(node),
                Content::Mapping(entries) => match open.key.take() {
                    None => open.key = Some(node),
                    Some(key) => entries.push((key, node)),
                },
            },
        }
    }

    /// The language has no tags: what looks like one is an expression that begins with `!`.
    fn untag(&mut self, node: Node, tag: Option<Place>) -> Node {
        let Some(tag) = tag else { return node };
        let whole = Place { start: tag.start, end: if node.is_empty() { tag.end } else { node.at.end.max(tag.end) } };
        let raw = &self.text[whole.start..whole.end];
        let text = &self.text[tag.start..tag.end];
        let message = format!("YAML reads `{text}` as a tag");
        let help = match text.starts_with("!!") {
            true => format!(
                "leave `{text}` out: the language knows what each value is; or, if it is an expression, quote it: `{}`",
                quoted(raw)
            ),
            false => format!("quote the expression: `{}`", quoted(raw)),
        };
        self.find(codes::LEADING_EXCLAMATION, whole, message, Some(help));
        Node::broken(whole)
    }

    /// Keys as texts, each once.
    fn entries(&mut self, pairs: Vec<(Node, Node)>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let Yaml::Scalar(Scalar { text, .. }) = key.value else {
                if !key.is_broken() {
                    let help = "if this is an expression or a template, quote it".to_owned();
                    self.find(codes::EXPRESSION_IS_MAP, key.at, format!("{} where a key belongs", key.describe()), Some(help));
                }
                continue;
            };
            if text == "<<" {
                let help = Some("write the keys out, or give the whole map by an alias".to_owned());
                self.find(codes::UNKNOWN_KEY, key.at, "YAML's merge key `<<` is not read".to_owned(), help);
                continue;
            }
            if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                let also = Some(first.key_at);
                let help = Some("remove one of the two".to_owned());
                self.found.push(Found { code: codes::DUPLICATE_KEY, at: key.at, message: format!("`{text}` is there twice"), help, also });
                continue;
            }
            entries.push(Entry { key: text, key_at: key.at, value });
        }
        entries
    }

    /// `{ name: cond(a, b, c) }` is three keys to YAML: puts the pieces together again and says so.
    fn mend_entries(&mut self, pairs: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
        let mut mended: Vec<(Node, Node)> = Vec::with_capacity(pairs.len());
        let mut index = 0;
        while index < pairs.len() {
            let (key, value) = &pairs[index];
            let pieces = pairs[index + 1..].iter().take_while(|(_, value)| value.is_empty()).map(|(key, _)| key);
            match unclosed(value, pieces) {
                None => mended.push((key.clone(), value.clone())),
                Some((taken, end)) => {
                    mended.push((key.clone(), self.cut(value.at.to(end))));
                    index += taken;
                }
            }
            index += 1;
        }
        mended
    }

    fn mend_items(&mut self, items: Vec<Node>) -> Vec<Node> {
        let mut mended: Vec<Node> = Vec::with_capacity(items.len());
        let mut index = 0;
        while index < items.len() {
            match unclosed(&items[index], items[index + 1..].iter()) {
                None => mended.push(items[index].clone()),
                Some((taken, end)) => {
                    mended.push(self.cut(items[index].at.to(end)));
                    index += taken;
                }
            }
            index += 1;
        }
        mended
    }

    fn cut(&mut self, at: Place) -> Node {
        let raw = &self.text[at.start..at.end];
        self.find(
            codes::COMMA_CUTS_EXPRESSION,
            at,
            "YAML ends this value at its first comma".to_owned(),
            Some(format!("quote the expression: `{}`", quoted(raw))),
        );
        Node::broken(at)
    }
}

/// If a plain value leaves a bracket open: how many of the following pieces it takes to close it, and where that ends.
fn unclosed<'n>(value: &Node, pieces: impl Iterator<Item = &'n Node>) -> Option<(usize, Place)> {
    let plain = |node: &'n Node| node.scalar().filter(|scalar| scalar.style == Style::Plain).map(|scalar| scalar.text.as_str());
    let first = value.scalar().filter(|scalar| scalar.style == Style::Plain)?;
    let mut depth = opened(&first.text);
    if depth <= 0 {
        return None;
    }
    for (index, piece) in pieces.enumerate() {
        depth += opened(plain(piece)?);
        if depth <= 0 {
            return Some((index + 1, piece.at));
        }
    }
    None
}

/// Brackets opened and not closed: those of calls, and those of `map<K, V>`. A lone `<` is a comparison.
fn opened(text: &str) -> i32 {
    let calls = text.chars().map(|c| i32::from(c == '(') - i32::from(c == ')')).sum::<i32>();
    let types = i32::from(text.contains("map<") && !text.contains('>')) - i32::from(text.ends_with('>') && !text.contains('<'));
    calls + types
}

fn count(node: &Node) -> usize {
    let mut all = 0;
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        all += 1;
        match &node.value {
            Yaml::Sequence(items) => open.extend(items),
            Yaml::Mapping(entries) => open.extend(entries.iter().map(|entry| &entry.value)),
            Yaml::Scalar(_) | Yaml::Broken => {}
        }
    }
    all
}

fn place(span: &Span, text: &str) -> Place {
    let start = span.start.byte_offset().unwrap_or(text.len()).min(text.len());
    let end = span.end.byte_offset().unwrap_or(start).clamp(start, text.len());
    Place { start, end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::data::Data;

    /// The tree as JSON, or the codes and what they point at.
    fn check(text: &str, expected: &str) {
        let file = SourceText::new("x", text);
        let mut diagnostics = Diagnostics::new(file.clone());
        let node = parse(&mut diagnostics);
        let found: Vec<String> = diagnostics.sorted().iter().map(|found| format!("{} `{}`", found.code.id, file.slice(found.at))).collect();
        let shown = if found.is_empty() { node.map_or("nothing".to_owned(), |node| Data::of(&node).text) } else { found.join(", ") };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn scalars_are_what_is_written() {
        check("a: 1.10", r#"{"a":1.10}"#);
        check("a: 007", r#"{"a":"007"}"#);
        check("a: no", r#"{"a":"no"}"#);
        check("a: 2026-01-01T00:00:02Z", r#"{"a":"2026-01-01T00:00:02Z"}"#);
        check("{ at: 2026-01-01T00:00:02Z, b: [x, 'y', \"z\", ~, true] }", r#"{"at":"2026-01-01T00:00:02Z","b":["x","y","z",null,true]}"#);
        check("a: |\n  x\n  y\nb: >\n  x\n  y\n", r#"{"a":"x\ny\n","b":"x y\n"}"#);
        check("", "nothing");
        check("# only a comment\n", "nothing");
    }

    #[test]
    fn expressions_that_yaml_takes_apart_are_found_at_their_place() {
        check("when: a ? b : c", "unquoted_expression `a ? b : c`");
        check("when: a ? b : c # why", "unquoted_expression `a ? b : c`");
        check("when: !a", "leading_exclamation `!a`");
        check("when: !a.b && !c", "leading_exclamation `!a.b && !c`");
        check("x: { when: !a, y: 1 }", "leading_exclamation `!a`");
        check("x: { a: f(b, c), d: 1 }", "comma_cuts_expression `f(b, c)`");
        check("x: [f(b, c), d]", "comma_cuts_expression `f(b, c)`");
        check("x: { a: f(b, \"c\"), d: 1 }", "comma_cuts_expression `f(b, \"c\")`");
        check("x: { a: b[0], d: 1 }", "unquoted_expression `b[0]`");
        check("x: { y: { a: b ? c : d } }", "unquoted_expression `b ? c : d`");
        check("x: \"a\" + b", "unquoted_expression `\"a\" + b`");
        check("x: [a].size()", "unquoted_expression `[a].size()`");
        check("x: @a", "unquoted_expression `@a`");
        check("x: *a", "unknown_alias `*a`");
    }

    #[test]
    fn comparisons_and_calls_that_yaml_leaves_alone_pass() {
        check("x: a < b", r#"{"x":"a < b"}"#);
        check("x: { a: b < c, d: e > f }", r#"{"x":{"a":"b < c","d":"e > f"}}"#);
        check("x: { a: f(b), c: g() }", r#"{"x":{"a":"f(b)","c":"g()"}}"#);
        check("x: a ? b :c", r#"{"x":"a ? b :c"}"#);
    }

    #[test]
    fn several_broken_values_are_all_found() {
        check(
            "a: x ? y : z\nb: 1\nc: !d\ne: \"f\" + g\n",
            "unquoted_expression `x ? y : z`, leading_exclamation `!d`, unquoted_expression `\"f\" + g`",
        );
    }

    #[test]
    fn keys_are_there_once_and_are_text() {
        check("a: 1\na: 2", "duplicate_key `a`");
        check("{ {a: 1}: 2 }", "expression_is_map `{a: 1}`");
        check("a: &x { b: 1 }\nc: { <<: *x }", "unknown_key `<<`");
        check("a: &x { b: 1 }\nc: *x", r#"{"a":{"b":1},"c":{"b":1}}"#);
    }

    #[test]
    fn limits_hold() {
        check(&format!("a: {}{}", "[".repeat(70), "]".repeat(70)), "yaml_limit `[`");
        let bomb = (1..20).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
            let alias = vec![format!("*a{}", n - 1); 8].join(", ");
            text + &format!("a{n}: &a{n} [{alias}]\n")
        });
        let mut diagnostics = Diagnostics::new(SourceText::new("x", bomb));
        assert!(parse(&mut diagnostics).is_none());
        assert_eq!(diagnostics.sorted()[0].code.id, "yaml_limit");
    }
}
