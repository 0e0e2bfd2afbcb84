//! Text to a tree of our own, by the parser of the `cel` crate. The only file that names that crate.
//!
//! Macros are not expanded here: the tree says what the user wrote, so that problems point at it. Every node knows its bytes.
//! Deep nesting is refused before the parser sees it, because the parser and what follows are recursive.

use std::ops::Range;

use bytes::Bytes;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators};
use cel::parser::ParseErrors;
use cel::{Env, IdedExpr};
use smol_str::SmolStr;

use crate::expression::problem::Problems;
use crate::expression::{ExpressionProblem, ExpressionProblemKind};
use crate::model::Value;

/// The longest expression, in bytes. A screen has about 4 KiB; what is longer belongs into several fields.
pub const SOURCE_BYTES_MAX: usize = 16 * 1024;

/// How deep parentheses, brackets and braces nest. The conformance data needs 32.
pub const DEPTH_MAX: usize = 64;

/// How many operators, dots and brackets may stand above one place of the tree: `a + a + a …` is a tree as deep as it is long.
/// Checking and evaluating are recursive and fit into 2 MiB of stack at this depth.
pub const CHAIN_MAX: usize = 256;

/// A node of the tree and the bytes of the text it was read from.
#[derive(Clone, Debug)]
pub(super) struct Ast {
    pub kind: Kind,
    pub at: Range<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Literal(Value),
    /// A leading dot is part of the name.
    Name(SmolStr),
    Select {
        operand: Box<Ast>,
        field: SmolStr,
        field_at: Range<usize>,
        /// `a.?b`
        optional: bool,
    },
    Index {
        operand: Box<Ast>,
        index: Box<Ast>,
        /// `a[?b]`
        optional: bool,
    },
    Not(Box<Ast>),
    Negate(Box<Ast>),
    And(Box<Ast>, Box<Ast>),
    Or(Box<Ast>, Box<Ast>),
    Binary {
        operator: BinaryOperator,
        left: Box<Ast>,
        right: Box<Ast>,
    },
    Conditional(Box<[Ast; 3]>),
    Call {
        name: SmolStr,
        name_at: Range<usize>,
        target: Option<Box<Ast>>,
        arguments: Vec<Ast>,
    },
    /// Elements; true is `[?x]`.
    List(Vec<(Ast, bool)>),
    /// Keys and values; true is `{?k: v}`.
    Map(Vec<(Ast, Ast, bool)>),
    /// `Name{field: value}`: protobuf messages, which we do not have.
    Message(SmolStr),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BinaryOperator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl BinaryOperator {
    pub fn symbol(self) -> &'static str {
        match self {
            BinaryOperator::Add => "+",
            BinaryOperator::Subtract => "-",
            BinaryOperator::Multiply => "*",
            BinaryOperator::Divide => "/",
            BinaryOperator::Remainder => "%",
            BinaryOperator::Equal => "==",
            BinaryOperator::NotEqual => "!=",
            BinaryOperator::Less => "<",
            BinaryOperator::LessOrEqual => "<=",
            BinaryOperator::Greater => ">",
            BinaryOperator::GreaterOrEqual => ">=",
            BinaryOperator::In => "in",
        }
    }

    fn of(name: &str) -> Option<BinaryOperator> {
        Some(match name {
            operators::ADD => BinaryOperator::Add,
            operators::SUBSTRACT => BinaryOperator::Subtract,
            operators::MULTIPLY => BinaryOperator::Multiply,
            operators::DIVIDE => BinaryOperator::Divide,
            operators::MODULO => BinaryOperator::Remainder,
            operators::EQUALS => BinaryOperator::Equal,
            operators::NOT_EQUALS => BinaryOperator::NotEqual,
            operators::LESS => BinaryOperator::Less,
            operators::LESS_EQUALS => BinaryOperator::LessOrEqual,
            operators::GREATER => BinaryOperator::Greater,
            operators::GREATER_EQUALS => BinaryOperator::GreaterOrEqual,
            operators::IN => BinaryOperator::In,
            _ => return None,
        })
    }
}

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Ast, Vec<ExpressionProblem>> {
    let mut problems = Problems::default();
    if let Err((at, message, help)) = scan(source) {
        problems.push(ExpressionProblemKind::Limit, &at, message, Some(help));
        return Err(problems.into_sorted());
    }
    if source.trim().is_empty() {
        problems.push(
            ExpressionProblemKind::Syntax,
            &(0..source.len()),
            "the expression is empty",
            Some("write a value, such as `event.name`".to_owned()),
        );
        return Err(problems.into_sorted());
    }
    // An environment without macros: its parser leaves `has(x.y)` and `list.map(…)` as they are written.
    let depth = DEPTH_MAX as u16;
    let parser = Env::default().parser().enable_optional_syntax(true).enable_ident_escape_syntax(true).max_recursion_depth(depth);
    match parser.parse_with_source_info(source) {
        Ok((tree, places)) => Ok(Reader { source, places }.read(tree)),
        Err(errors) => {
            report(source, errors, &mut problems);
            Err(problems.into_sorted())
        }
    }
}

/// Refuses what is too long or nested too deeply, without recursion.
fn scan(source: &str) -> Result<(), (Range<usize>, String, String)> {
    if source.len() > SOURCE_BYTES_MAX {
        let message = format!("the expression has {} bytes, at most {SOURCE_BYTES_MAX} are allowed", source.len());
        return Err((0..0, message, "split it over several fields".to_owned()));
    }
    let bytes = source.as_bytes();
    // Chain lengths of the open brackets; their sum is how deep the tree is here.
    let mut open: Vec<usize> = vec![0];
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'"' | b'\'' => at = string_end(bytes, start, false),
            b'/' if bytes.get(at) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            c if c.is_ascii_alphabetic() || c == b'_' => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
                let word = &source[start..at];
                let is_prefix = matches!(word, "r" | "R" | "b" | "B" | "br" | "bR" | "Br" | "BR");
                if is_prefix && matches!(bytes.get(at), Some(b'"' | b'\'')) {
                    at = string_end(bytes, at, word.contains(['r', 'R']));
                } else if word == "in" {
                    depth += 1;
                    *open.last_mut().unwrap_or(&mut 0) += 1;
                }
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                *open.last_mut().unwrap_or(&mut 0) += 1;
                open.push(0);
            }
            b')' | b']' | b'}' if open.len() > 1 => depth -= open.pop().unwrap_or(0),
            b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => {
                depth += 1;
                *open.last_mut().unwrap_or(&mut 0) += 1;
            }
            // These separate parts that stand beside each other: the parser balances `&&` and `||`.
            b',' | b'&' | b'|' | b':' => depth -= std::mem::take(open.last_mut().unwrap_or(&mut 0)),
            _ => {}
        }
        if open.len() > DEPTH_MAX + 1 {
            return Err((
                start..at,
                format!("brackets are nested deeper than {DEPTH_MAX}"),
                "split the expression over several fields".to_owned(),
            ));
        }
        if depth > CHAIN_MAX {
            let message = format!("more than {CHAIN_MAX} operators follow each other here");
            return Err((
                start..at,
                message,
                "split the expression, or use a list: `[a, b].exists(x, …)`, `x in [a, b]`, `[a, b].join()`".to_owned(),
            ));
        }
    }
    Ok(())
}

/// The byte after the string literal whose opening quote is at `start`.
fn string_end(bytes: &[u8], start: usize, raw: bool) -> usize {
    let quote = bytes[start];
    let triple = bytes.get(start + 1) == Some(&quote) && bytes.get(start + 2) == Some(&quote);
    let width = if triple { 3 } else { 1 };
    let mut at = start + width;
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if bytes[at] == quote && (!triple || bytes[at..].starts_with(&[quote; 3])) {
            return at + width;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// Turns the parser's tree into ours.
struct Reader<'s> {
    source: &'s str,
    places: SourceInfo,
}

impl Reader<'_> {
    fn read(&self, tree: IdedExpr) -> Ast {
        let token = self.token(tree.id);
        match tree.expr {
            Expr::Literal(literal) => Ast { kind: Kind::Literal(value(&literal)), at: token },
            Expr::Ident(name) => Ast { kind: Kind::Name(name.into()), at: token },
            Expr::Select(select) => self.select(*select.operand, &select.field, token, false),
            Expr::Call(call) => self.call(call, token),
            Expr::List(list) => {
                let mut elements: Vec<(Ast, bool)> = list.elements.into_iter().map(|element| (self.read(element), false)).collect();
                for i in list.optional_indices {
                    elements[i].1 = true;
                }
                let end = elements.last().map_or(token.end, |(last, _)| last.at.end);
                Ast { at: token.start..self.closed(end, b']'), kind: Kind::List(elements) }
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in map.entries {
                    if let EntryExpr::MapEntry(entry) = entry.expr {
                        entries.push((self.read(entry.key), self.read(entry.value), entry.optional));
                    }
                }
                let end = entries.last().map_or(token.end, |(_, value, _)| value.at.end);
                Ast { at: token.start..self.closed(end, b'}'), kind: Kind::Map(entries) }
            }
            Expr::Struct(message) => Ast { kind: Kind::Message(message.type_name.into()), at: token },
            // Macros are off, so the parser makes no comprehension; `Unspecified` comes with an error only.
            Expr::Comprehension(_) | Expr::Unspecified => Ast { kind: Kind::Literal(Value::Null), at: token },
        }
    }

    fn select(&self, operand: IdedExpr, field: &str, dot: Range<usize>, optional: bool) -> Ast {
        let operand = self.read(operand);
        let rest = self.source.get(dot.end..).unwrap_or_default();
        let start = dot.end + rest.len() - rest.trim_start_matches(|c: char| c.is_whitespace() || c == '?').len();
        let quotes = if self.source[start..].starts_with('`') { 2 } else { 0 };
        let field_at = start..(start + field.len() + quotes).min(self.source.len());
        let at = operand.at.start.min(dot.start)..field_at.end;
        Ast { kind: Kind::Select { operand: Box::new(operand), field: field.into(), field_at, optional }, at }
    }

    fn call(&self, mut call: CallExpr, token: Range<usize>) -> Ast {
        let name = call.func_name.as_str();
        if call.target.is_none() {
            let count = call.args.len();
            if count == 3 && name == operators::CONDITIONAL {
                let parts = [call.args.remove(0), call.args.remove(0), call.args.remove(0)].map(|part| self.read(part));
                let at = parts[0].at.start..parts[2].at.end;
                return Ast { kind: Kind::Conditional(Box::new(parts)), at };
            }
            if count == 2 && name == operators::OPT_SELECT {
                let field = call.args.pop();
                if let Some(Expr::Literal(LiteralValue::String(field))) = field.map(|field| field.expr) {
                    return self.select(call.args.remove(0), field.inner(), token, true);
                }
            }
            if count == 2 {
                let optional = name == operators::OPT_INDEX;
                let binary = BinaryOperator::of(name);
                if optional || binary.is_some() || [operators::INDEX, operators::LOGICAL_AND, operators::LOGICAL_OR].contains(&name) {
                    let (left, right) = (Box::new(self.read(call.args.remove(0))), Box::new(self.read(call.args.remove(0))));
                    let mut at = left.at.start.min(token.start)..right.at.end;
                    let kind = match (binary, name) {
                        (Some(operator), _) => Kind::Binary { operator, left, right },
                        (_, operators::LOGICAL_AND) => Kind::And(left, right),
                        (_, operators::LOGICAL_OR) => Kind::Or(left, right),
                        _ => {
                            at.end = self.closed(at.end, b']');
                            Kind::Index { operand: left, index: right, optional }
                        }
                    };
                    return Ast { kind, at };
                }
            }
            if count == 1 && (name == operators::LOGICAL_NOT || name == operators::NEGATE) {
                let operand = Box::new(self.read(call.args.remove(0)));
                let at = token.start..operand.at.end;
                let kind = if name == operators::NEGATE { Kind::Negate(operand) } else { Kind::Not(operand) };
                return Ast { kind, at };
            }
        }
        let before = self.source.get(..token.start).unwrap_or_default().trim_end();
        let name_at = before.len().saturating_sub(name.trim_start_matches('.').len())..before.len();
        let target = call.target.map(|target| Box::new(self.read(*target)));
        let name = SmolStr::from(name);
        let arguments: Vec<Ast> = call.args.into_iter().map(|argument| self.read(argument)).collect();
        let start = target.as_ref().map_or(name_at.start, |target| target.at.start.min(name_at.start));
        let end = self.closed(arguments.last().map_or(token.end, |last| last.at.end), b')');
        Ast { kind: Kind::Call { name, name_at, target, arguments }, at: start..end }
    }

    /// The bytes of the token that a node was made for: an operator, a dot, an opening bracket, a literal.
    fn token(&self, id: u64) -> Range<usize> {
        let (first, last) = self.places.offset_for(id).unwrap_or((0, 0));
        let first = (first as usize).min(self.source.len());
        first..(last as usize + 1).clamp(first, self.source.len())
    }

    /// The end of what is closed by this bracket, which the parser does not tell.
    fn closed(&self, end: usize, bracket: u8) -> usize {
        let rest = &self.source.as_bytes()[end..];
        let skipped = rest.iter().take_while(|c| c.is_ascii_whitespace() || **c == b',').count();
        if rest.get(skipped) == Some(&bracket) { end + skipped + 1 } else { end }
    }
}

fn value(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(Bytes::copy_from_slice(value.inner())),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::String(value.inner().into()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}

/// Rewords the parser's errors and gives them a place in bytes.
fn report(source: &str, errors: ParseErrors, problems: &mut Problems) {
    let is_follow_up = |message: &str| message.starts_with("Incomplete") || message.starts_with("No `");
    let is_unreadable = |message: &str| message.contains("token recognition error");
    let has_cause = errors.errors.iter().any(|error| !is_follow_up(&error.msg));
    // What the lexer cannot read leaves a hole that the parser complains about, too.
    let has_unreadable = errors.errors.iter().any(|error| is_unreadable(&error.msg));
    let (mut has_syntax, mut has_quote) = (false, false);
    for error in errors.errors {
        if error.msg.contains("Recursion limit") {
            let help = Some("split the expression over several fields".to_owned());
            problems.push(
                ExpressionProblemKind::Limit,
                &(0..source.len()),
                format!("the expression is nested deeper than {DEPTH_MAX}"),
                help,
            );
            return;
        }
        let is_syntax = error.msg.starts_with("Syntax error");
        // After the first one the parser guesses how to go on, and the rest follows from the guess.
        if (has_cause && is_follow_up(&error.msg))
            || (has_unreadable && !is_unreadable(&error.msg))
            || (is_syntax && has_syntax && !is_unreadable(&error.msg))
        {
            continue;
        }
        has_syntax |= is_syntax;
        let start = byte_of(source, error.pos);
        // A string that does not end takes the rest of the text with it.
        let is_quote = source[start..].starts_with(['"', '\'']);
        if is_quote && has_quote {
            continue;
        }
        has_quote |= is_quote;
        let (message, help, width) = reword(source, start, &error.msg);
        problems.push(ExpressionProblemKind::Syntax, &(start..(start + width).min(source.len())), message, help);
    }
}

/// The byte at a line and a column in characters, both from 1.
fn byte_of(source: &str, (line, column): (isize, isize)) -> usize {
    let line_start: usize = source.split_inclusive('\n').take((line - 1).max(0) as usize).map(str::len).sum();
    let rest = &source[line_start.min(source.len())..];
    let within: usize = rest.chars().take((column - 1).max(0) as usize).map(char::len_utf8).sum();
    (line_start + within).min(source.len())
}

/// Our words for an error of the parser: message, help and how many bytes it is about.
fn reword(source: &str, start: usize, message: &str) -> (String, Option<String>, usize) {
    let text = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let quoted = |after: &str| text.split_once(after).and_then(|(_, rest)| rest.split_once('\'')).map(|(_, rest)| rest);
    if let Some(name) = text.strip_prefix("reserved identifier: ") {
        let help = match name.trim_start_matches('.') {
            "if" => "write `cond(condition, a, b)` or `condition ? a : b`".to_owned(),
            other => format!("a field of this name is read as `event.{other}`"),
        };
        return (format!("`{name}` is a reserved word"), Some(help), name.len());
    }
    if text.starts_with("invalid int literal") || text.starts_with("invalid uint literal") || text.starts_with("invalid double literal") {
        let width = source[start..].bytes().take_while(|c| c.is_ascii_alphanumeric() || *c == b'.').count();
        let kind = if text.contains("uint") {
            "uint"
        } else if text.contains("int") {
            "int"
        } else {
            "double"
        };
        let help = "a greater or longer number is a decimal: `decimal(\"…\")`".to_owned();
        return (format!("`{}` is out of the range of {kind}", &source[start..start + width]), Some(help), width);
    }
    if let Some(rest) = quoted("token recognition error at:") {
        if let Some(c) = source[start..].chars().next().filter(|c| c.is_control() || (c.is_whitespace() && !c.is_ascii())) {
            let help = if c.is_whitespace() { "it looks like a space and is none: write a space" } else { "remove it" };
            return (format!("the character U+{:04X} cannot be read here", u32::from(c)), Some(help.to_owned()), c.len_utf8());
        }
        let piece = rest.strip_suffix('\'').unwrap_or(rest).trim_end();
        let help = match piece.chars().next() {
            Some('\'' | '"') => Some("close the string with the same quote; a backslash in it is written `\\\\`, or use r\"…\"".to_owned()),
            Some('=') => Some("compare with `==`".to_owned()),
            Some('&') => Some("write `&&`".to_owned()),
            Some('|') => Some("write `||`".to_owned()),
            Some(c) if !c.is_ascii() => Some("names have the letters a-z and A-Z, digits and `_`; a text stands in quotes".to_owned()),
            _ => None,
        };
        return (format!("`{piece}` cannot be read here"), help, piece.len());
    }
    if text.contains("'<EOF>'") || start >= source.trim_end().len() {
        let help = match unclosed(source) {
            Some(bracket) => format!("close the `{bracket}`"),
            None if source.contains('?') && !source.contains(':') => "a choice is written `condition ? a : b`".to_owned(),
            None => expected("", source, start),
        };
        return ("the expression ends too early".to_owned(), Some(help), 0);
    }
    if ["extraneous input", "mismatched input", "no viable alternative"].iter().any(|known| text.starts_with(known)) {
        let rest = &source[start..];
        let word = rest.bytes().take_while(|c| c.is_ascii_alphanumeric() || *c == b'_').count();
        let width = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        let piece = &rest[..width];
        return (format!("`{piece}` is not expected here"), Some(expected(piece, source, start)), width);
    }
    if let Some(rest) = quoted("missing") {
        let missing = rest.split('\'').next().unwrap_or(rest);
        return (format!("`{missing}` is missing here"), Some(format!("write `{missing}` before this")), 1);
    }
    if text.starts_with("invalid string literal") || text.starts_with("invalid bytes literal") {
        let help = "escapes are \\n \\t \\\\ \\\" \\' \\x41 \\u00e9 \\U0001F600; in r\"…\" a backslash is one";
        return ("the text has an escape that stands for no character".to_owned(), Some(help.to_owned()), 1);
    }
    (text.to_lowercase(), None, 1)
}

/// The innermost bracket that is not closed.
fn unclosed(source: &str) -> Option<char> {
    let bytes = source.as_bytes();
    let mut open = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'\'' => {
                at = string_end(bytes, at, false);
                continue;
            }
            c @ (b'(' | b'[' | b'{') => open.push(char::from(c)),
            b')' | b']' | b'}' => {
                open.pop();
            }
            _ => {}
        }
        at += 1;
    }
    open.pop()
}

/// What to do about a token that does not fit.
fn expected(token: &str, source: &str, start: usize) -> String {
    let before = source[..start].trim_end();
    match token {
        "and" => "write `&&`".to_owned(),
        "or" => "write `||`".to_owned(),
        "=" => "compare with `==`".to_owned(),
        "in" | "true" | "false" | "null" if before.ends_with('.') => {
            let object =
                before.trim_end_matches('.').rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).next().unwrap_or("x");
            format!("a field of this name is read as `{object}[\"{token}\"]`")
        }
        "then" | "else" => "write `condition ? a : b` or `cond(condition, a, b)`".to_owned(),
        _ if before.ends_with("not") => "write `!x` or `not(x)`".to_owned(),
        _ if before.ends_with('.') => "a name is expected after the dot".to_owned(),
        _ if before.ends_with(['+', '-', '*', '/', '%', '<', '>', '=', '&', '|', '!', '(', '[', ',', '?', ':']) => {
            "a value is expected: a field, a number, a string, a call".to_owned()
        }
        _ => "an operator, such as `+`, `==` or `&&`, or the end is expected".to_owned(),
    }
}
