//! What the user wrote, with the place of every field. Resolves nothing: a name is still a string with a place.
//!
//! A field is `None` where its key is left out *or* was reported as wrong; [`crate::topology`] is built only from a spec
//! without errors, so nothing takes a default in the place of a mistake.

use std::ops::Range;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::config::data::Data;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::Placed;
use crate::config::diagnostic::SourceText;
use crate::config::yaml::Style;
use crate::model::Name;
use crate::model::Type;

/// A topology file.
#[derive(Clone, Debug)]
pub struct Spec {
    pub file: Arc<SourceText>,
    pub app: Option<Placed<Name>>,
    pub sources: Vec<SourceBlock>,
    pub tables: Vec<TableBlock>,
    pub views: Vec<ViewBlock>,
    pub outputs: Vec<OutputBlock>,
    pub tests: Vec<TestSpec>,
    /// A block could not be kept: it has no name, or its place in the file has no blocks. Then a reference to nothing may be to it.
    pub incomplete: bool,
    /// Names in `streams`, which come later: whoever refers to one is not told that it does not exist.
    pub streams: Vec<String>,
}

/// One of the choices of a key, as the table of keys spells it.
pub type Chosen = Placed<&'static str>;

/// An expression as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expression {
    pub text: String,
    /// With its quotes.
    pub at: Place,
    pub style: Style,
}

/// Named expressions, in the order of the file.
pub type NamedExpressions = Vec<(Placed<String>, Option<Expression>)>;

/// Where a map of fields or one expression may stand.
#[derive(Clone, Debug)]
pub enum Mapped {
    Fields(Placed<NamedExpressions>),
    Whole(Expression),
}

/// A block under `sources`.
#[derive(Clone, Debug)]
pub struct SourceBlock {
    pub name: Placed<Name>,
    pub topic: Option<Placed<Name>>,
    pub key: Option<Chosen>,
    pub value: Option<Chosen>,
    pub fields: Option<Placed<Vec<FieldDeclaration>>>,
    pub keyed_by: Option<Expression>,
    pub time: Option<Expression>,
    pub id: Option<Expression>,
    pub when: Option<Expression>,
    pub on_error: Option<Chosen>,
    pub future: Option<Placed<i64>>,
    /// Something of its shape was reported: its type is not known, and its `id` may be there after all.
    pub broken: bool,
}

/// A declared field. The type is `any` where it was reported.
#[derive(Clone, Debug)]
pub struct FieldDeclaration {
    pub name: Placed<String>,
    pub ty: Placed<Type>,
}

/// A block under `tables`.
#[derive(Clone, Debug)]
pub struct TableBlock {
    pub name: Placed<Name>,
    pub key: Option<Chosen>,
    pub fields: Option<Placed<Vec<FieldDeclaration>>>,
    pub inputs: Vec<InputBlock>,
    pub window: Option<WindowBlock>,
    pub dedupe: Option<DedupeBlock>,
    pub on_stale: Option<Chosen>,
    pub on_late: Option<Chosen>,
    pub emit: Option<Chosen>,
    pub keep: Option<Placed<i64>>,
    pub grave: Option<Placed<i64>>,
    pub query: Option<Placed<bool>>,
    /// Something of its shape was reported: the fields of its rows are not known.
    pub broken: bool,
}

/// A block under `from` of a table.
#[derive(Clone, Debug)]
pub struct InputBlock {
    pub source: Placed<String>,
    pub role: Option<Chosen>,
    pub order_by: Vec<Expression>,
    pub when: Option<Expression>,
    pub set: Vec<FieldBlock>,
    pub on_tombstone: Option<Chosen>,
    pub owner_missing: Option<OwnerMissingBlock>,
}

/// A line under `set` of a table's source. The rule is `None` where it was reported.
#[derive(Clone, Debug)]
pub struct FieldBlock {
    pub name: Placed<String>,
    pub rule: Option<RuleBlock>,
}

/// A field rule.
#[derive(Clone, Debug)]
pub enum RuleBlock {
    Last(Expression),
    First(Expression),
    Min(Expression),
    Max(Expression),
    Sum(Expression),
    Count(Place),
    Avg(Expression),
    Collect { value: Mapped, limit: usize },
    Distinct { value: Mapped, limit: usize },
    Top { by: Expression, limit: usize, value: Option<Mapped> },
    Put { at: Expression, value: Mapped },
    Remove { at: Expression },
}

impl RuleBlock {
    /// As the file spells it.
    pub fn name(&self) -> &'static str {
        match self {
            RuleBlock::Last(_) => "last",
            RuleBlock::First(_) => "first",
            RuleBlock::Min(_) => "min",
            RuleBlock::Max(_) => "max",
            RuleBlock::Sum(_) => "sum",
            RuleBlock::Count(_) => "count",
            RuleBlock::Avg(_) => "avg",
            RuleBlock::Collect { .. } => "collect",
            RuleBlock::Distinct { .. } => "distinct",
            RuleBlock::Top { .. } => "top",
            RuleBlock::Put { .. } => "put",
            RuleBlock::Remove { .. } => "remove",
        }
    }
}

#[derive(Clone, Debug)]
pub struct OwnerMissingBlock {
    pub at: Place,
    pub what: Option<Chosen>,
    pub max_wait: Option<Placed<i64>>,
    pub on_timeout: Option<Chosen>,
    pub max_per_key: Option<Placed<u64>>,
}

#[derive(Clone, Debug)]
pub struct WindowBlock {
    pub at: Place,
    pub tumbling: Option<Placed<i64>>,
    pub grace: Option<Placed<i64>>,
    pub keep: Option<Placed<i64>>,
    pub idle_close: Option<Placed<i64>>,
    /// Something of it was reported.
    pub broken: bool,
}

#[derive(Clone, Debug)]
pub struct DedupeBlock {
    pub at: Place,
    pub by: Option<Expression>,
    pub duration: Option<Placed<i64>>,
}

/// A block under `views`.
#[derive(Clone, Debug)]
pub struct ViewBlock {
    pub name: Placed<Name>,
    pub from: Option<Placed<String>>,
    pub when: Option<Expression>,
    pub redis: Option<RedisBlock>,
    pub notify: Option<NotifyBlock>,
}

#[derive(Clone, Debug)]
pub struct RedisBlock {
    pub at: Place,
    pub shape: Option<Chosen>,
    pub key: Option<Expression>,
    pub fields: Option<Placed<NamedExpressions>>,
    pub value: Option<Expression>,
    pub score: Option<Expression>,
    pub member: Option<Mapped>,
    pub replace_by: Option<Chosen>,
    pub keep_last: Option<Placed<u64>>,
    pub ttl: Option<Placed<i64>>,
    pub on_delete: Option<Placed<OnDeleteBlock>>,
    /// The keys that are there, with their places, for checks by shape.
    pub keys: Vec<(String, Place)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDeleteBlock {
    Del,
    Keep,
    /// Milliseconds.
    Expire(i64),
}

#[derive(Clone, Debug)]
pub struct NotifyBlock {
    pub channel: Option<Expression>,
    pub payload: Option<Expression>,
}

/// A block under `outputs`.
#[derive(Clone, Debug)]
pub struct OutputBlock {
    pub name: Placed<Name>,
    pub from: Option<Placed<String>>,
    pub topic: Option<Placed<Name>>,
    pub key: Option<Expression>,
    pub value: Option<Chosen>,
    pub set: Option<Mapped>,
    pub when: Option<Expression>,
    pub on_delete: Option<Chosen>,
    pub headers: NamedExpressions,
    /// The keys that are there, with their places, for checks by `from`.
    pub keys: Vec<(String, Place)>,
}

/// A test of the file.
#[derive(Clone, Debug)]
pub struct TestSpec {
    pub name: Placed<String>,
    pub steps: Vec<Step>,
}

/// A step of a test, and its place for the message when it fails.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: Place,
    pub what: StepKind,
}

#[derive(Clone, Debug)]
pub enum StepKind {
    Send(Send),
    Expect(Expectation),
    Crash,
    Rebalance {
        workers: usize,
    },
    /// Milliseconds of wall clock.
    Advance(i64),
    Commit,
}

/// A record to send.
#[derive(Clone, Debug)]
pub struct Send {
    pub to: Placed<String>,
    /// `None` is a tombstone.
    pub value: Option<Data>,
    /// `None`: computed by the source's `keyed_by`.
    pub key: Option<Data>,
    pub headers: Vec<(SmolStr, String)>,
    /// Milliseconds since 1970; `None`: the wall clock.
    pub time: Option<i64>,
    /// `None`: by the key.
    pub partition: Option<i32>,
}

/// What must hold.
#[derive(Clone, Debug)]
pub enum Expectation {
    Table(ExpectTable),
    Redis(ExpectRedis),
    Output(ExpectOutput),
    DeadLetter(ExpectDeadLetter),
    Metric(ExpectMetric),
}

#[derive(Clone, Debug)]
pub struct ExpectTable {
    pub table: Placed<String>,
    pub key: Data,
    /// Start of the window in milliseconds, for windowed tables.
    pub window: Option<i64>,
    /// `None`: absent.
    pub row: Option<Data>,
}

#[derive(Clone, Debug)]
pub struct ExpectRedis {
    pub key: Placed<String>,
    /// Milliseconds.
    pub ttl: Option<i64>,
    pub holds: Option<RedisHolds>,
}

/// What a Redis key holds, by its kind.
#[derive(Clone, Debug)]
pub enum RedisHolds {
    Absent,
    Hash(Data),
    Json(Data),
    String(String),
    /// A list of `{ score, member }`.
    Zset(Data),
    Set(Data),
    Stream(Data),
    /// Messages on the channel since the last such expectation.
    Published(Data),
}

#[derive(Clone, Debug)]
pub struct ExpectOutput {
    pub output: Placed<String>,
    /// Exactly these since the last expectation of this output.
    pub records: Vec<ExpectedRecord>,
}

#[derive(Clone, Debug)]
pub struct ExpectedRecord {
    pub at: Place,
    pub key: Option<Data>,
    pub value: ExpectedValue,
    pub headers: Vec<(SmolStr, String)>,
}

#[derive(Clone, Debug)]
pub enum ExpectedValue {
    NotCompared,
    Tombstone,
    Value(Data),
}

#[derive(Clone, Debug)]
pub struct ExpectDeadLetter {
    pub source: Option<Placed<String>>,
    pub reason: Option<Placed<String>>,
    /// Text that the detail contains.
    pub detail: Option<String>,
    pub key: Option<Data>,
    pub value: Option<Data>,
    pub headers: Vec<(SmolStr, String)>,
    /// `None`: at least one.
    pub count: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct ExpectMetric {
    pub metric: Placed<String>,
    pub labels: Vec<(Placed<String>, String)>,
    pub is: MetricIs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricIs {
    Exactly(u64),
    AtLeast(u64),
}

impl Expression {
    /// Where bytes of the expression's text stand in the file.
    ///
    /// Walks the raw text and the text that YAML made of it side by side: escapes and folded lines are longer in the file.
    pub fn place_of(&self, file: &SourceText, range: Range<usize>) -> Place {
        let raw = file.slice(self.at);
        let (start, end) = (self.raw_offset(raw, range.start), self.raw_offset(raw, range.end));
        Place { start: self.at.start + start, end: self.at.start + end.max(start) }
    }

    fn raw_offset(&self, raw: &str, offset: usize) -> usize {
        let mut rest = raw.char_indices().peekable();
        match self.style {
            Style::Plain => {}
            Style::SingleQuoted | Style::DoubleQuoted => {
                rest.next();
            }
            // The header line of a block scalar, if the place begins with it.
            Style::Block if raw.starts_with(['|', '>']) => while rest.next().is_some_and(|(_, c)| c != '\n') {},
            Style::Block => {}
        }
        for c in self.text[..offset.min(self.text.len())].chars() {
            if c == ' ' || c == '\n' {
                // A folded line break: all white space of it stands for this one character.
                let at_break = rest.peek().is_some_and(|(_, c)| c.is_whitespace());
                if at_break {
                    let broke = rest.next().is_some_and(|(_, c)| c == '\n' || c == '\r');
                    let folds = broke || rest.clone().take_while(|(_, c)| c.is_whitespace()).any(|(_, c)| c == '\n');
                    while folds && rest.peek().is_some_and(|(_, c)| c.is_whitespace()) {
                        rest.next();
                    }
                }
                continue;
            }
            while self.style == Style::Block && rest.peek().is_some_and(|(_, raw)| raw.is_whitespace() && *raw != c) {
                rest.next();
            }
            match (self.style, rest.next().map(|(_, c)| c)) {
                (Style::SingleQuoted, Some('\'')) => {
                    rest.next();
                }
                (Style::DoubleQuoted, Some('\\')) => {
                    let digits = match rest.next().map(|(_, c)| c) {
                        Some('x') => 2,
                        Some('u') => 4,
                        Some('U') => 8,
                        _ => 0,
                    };
                    for _ in 0..digits {
                        rest.next();
                    }
                }
                _ => {}
            }
        }
        rest.peek().map_or(raw.len(), |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, style: Style, text: &str, part: &str, expected: &str) {
        let file = SourceText::new("x", raw);
        let expression = Expression { text: text.to_owned(), at: Place { start: 0, end: raw.len() }, style };
        let start = text.find(part).unwrap();
        assert_eq!(file.slice(expression.place_of(&file, start..start + part.len())), expected, "{raw}");
    }

    #[test]
    fn finds_the_place_of_a_part_in_every_style() {
        check("event.a + b", Style::Plain, "event.a + b", "b", "b");
        check("'it''s + b'", Style::SingleQuoted, "it's + b", "b", "b");
        check(r#""a \"x\" \u00e9 b""#, Style::DoubleQuoted, "a \"x\" é b", "b", "b");
        check("a +\n      b", Style::Plain, "a + b", "b", "b");
        check("|\n    a &&\n    bc\n", Style::Block, "a &&\nbc\n", "bc", "bc");
        check("a  +  b", Style::Plain, "a  +  b", "b", "b");
    }
}
