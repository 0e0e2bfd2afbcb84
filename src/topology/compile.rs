//! Expressions of a file to programs, with every problem at its place in the file.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::config::codes;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::SourceText;
use crate::config::spec::Expression;
use crate::config::spec::Mapped;
use crate::config::spec::NamedExpressions;
use crate::config::traps::quoted;
use crate::config::yaml::Style;
use crate::expression;
use crate::expression::ExpressionProblem;
use crate::expression::ExpressionProblemKind;
use crate::expression::Program;
use crate::expression::Scope;
use crate::model::Field;
use crate::model::Type;
use crate::topology::template;
use crate::topology::template::Part;
use crate::views::Template;
use crate::views::TemplatePart;

/// Compiles, and collects what is wrong.
pub struct Compiler<'a> {
    pub file: Arc<SourceText>,
    pub diagnostics: &'a mut Diagnostics,
}

/// What a place in the file takes. `any` fits everywhere: it is checked when the record is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Bool,
    Timestamp,
    /// Int, uint, double or decimal.
    Number,
    /// What has one written form: no list, map or object.
    Scalar,
    /// What can be compared: numbers, text, bytes, bool, times.
    Ordered,
    /// Text, a whole number or a bool.
    MapKey,
}

/// Whether null is an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nulls {
    Allowed,
    Refused,
}

impl Want {
    fn fits(self, ty: &Type) -> bool {
        if matches!(ty, Type::Any) {
            return true;
        }
        match self {
            Want::Bool => matches!(ty, Type::Bool),
            Want::Timestamp => matches!(ty, Type::Timestamp),
            Want::Number => matches!(ty, Type::Int | Type::Uint | Type::Double | Type::Decimal),
            Want::MapKey => matches!(ty, Type::Bool | Type::Int | Type::Uint | Type::String),
            Want::Scalar => !matches!(ty, Type::List(_) | Type::Map(..) | Type::Object(_) | Type::Type | Type::Null | Type::Optional(_)),
            Want::Ordered => matches!(
                ty,
                Type::Bool
                    | Type::Int
                    | Type::Uint
                    | Type::Double
                    | Type::Decimal
                    | Type::String
                    | Type::Bytes
                    | Type::Timestamp
                    | Type::Duration
            ),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Want::Bool => "a bool",
            Want::Timestamp => "a timestamp",
            Want::Number => "a number",
            Want::Scalar => "one value, not a list or a map",
            Want::Ordered => "a value that has an order",
            Want::MapKey => "text, a whole number or a bool",
        }
    }

    /// What to write instead, where that is likely.
    fn help(self, found: &Type) -> Option<String> {
        match (self, found) {
            (_, Type::Optional(_)) => Some("say what holds where it is absent: `….orValue(…)`".to_owned()),
            (Want::Timestamp, Type::String) => Some("declare the field as `timestamp`, or convert it: `timestamp(…)`".to_owned()),
            (Want::Timestamp, Type::Int) => {
                Some("convert milliseconds since 1970: `timestamp(0) + duration(string(…) + \"ms\")`".to_owned())
            }
            (Want::Bool, Type::String) => Some("compare it: `… == \"yes\"`".to_owned()),
            (Want::Bool, Type::Int | Type::Uint | Type::Double) => Some("compare it: `… > 0`".to_owned()),
            (Want::Number, Type::Timestamp) => Some("convert it: `unix_ms(…)`".to_owned()),
            (Want::Number, Type::String) => Some("convert it: `decimal(…)` or `double(…)`".to_owned()),
            _ => None,
        }
    }

    /// A value to put in the place of null.
    fn instead_of_null(self) -> &'static str {
        match self {
            Want::Bool => "false",
            Want::Timestamp => "time",
            Want::Number => "0",
            Want::Scalar | Want::Ordered | Want::MapKey => "\"\"",
        }
    }
}

impl Compiler<'_> {
    /// Compiles an expression, whatever it yields.
    pub fn any(&mut self, expression: &Expression, scope: &Scope) -> Option<Program> {
        self.text(&expression.text, expression, 0, scope)
    }

    /// Compiles an expression that must yield what is wanted.
    pub fn wanted(&mut self, expression: &Expression, scope: &Scope, want: Want, nulls: Nulls, what: &str) -> Option<Program> {
        let program = self.any(expression, scope)?;
        self.fits(&program, expression.at, want, nulls, what).then_some(program)
    }

    pub fn when(&mut self, expression: &Expression, scope: &Scope) -> Option<Program> {
        self.wanted(expression, scope, Want::Bool, Nulls::Refused, "`when`")
    }

    fn fits(&mut self, program: &Program, at: Place, want: Want, nulls: Nulls, what: &str) -> bool {
        let ty = program.ty();
        if want.fits(ty) {
            return true;
        }
        if !want.fits(ty.strip_nullable()) || matches!(ty, Type::Null) {
            let code = if want == Want::Ordered { codes::NOT_ORDERED } else { codes::WRONG_RESULT };
            self.diagnostics.push(code, at, format!("{what} is {}, not {ty}", want.words())).help_if(want.help(ty.strip_nullable()));
            return false;
        }
        if nulls == Nulls::Allowed {
            return true;
        }
        let help = format!("say what holds then: `coalesce({}, {})`", one_line(program.source()), want.instead_of_null());
        self.diagnostics.push(codes::MAY_BE_NULL, at, format!("{what} may be null here: the expression is {ty}")).help(help);
        false
    }

    /// A value to keep or to write: an absent optional (`event.?x`) is null.
    pub fn value(&mut self, expression: &Expression, scope: &Scope) -> Option<(Program, Type)> {
        let program = self.any(expression, scope)?;
        let Type::Optional(inner) = program.ty() else {
            let ty = program.ty().clone();
            return Some((program, ty));
        };
        let ty = Type::nullable((**inner).clone());
        let source = format!("({}\n).orValue(null)", expression.text);
        let Ok(program) = expression::compile(&source, scope) else {
            let message = format!("an optional cannot be kept: the expression is {}", program.ty());
            self.diagnostics.push(codes::WRONG_RESULT, expression.at, message).help("say what holds where it is absent: `.orValue(…)`");
            return None;
        };
        Some((program, ty))
    }

    /// Named expressions; `None` if one of them is wrong.
    pub fn named(&mut self, named: &NamedExpressions, scope: &Scope) -> Option<Vec<(SmolStr, Program)>> {
        let mut programs = Vec::with_capacity(named.len());
        for (name, expression) in named {
            let program = expression.as_ref().and_then(|expression| self.value(expression, scope));
            programs.push(program.map(|(program, _)| (SmolStr::new(&name.value), program)));
        }
        programs.into_iter().collect()
    }

    /// A map of fields as one program that makes a map, or one expression.
    pub fn mapped(&mut self, mapped: &Mapped, scope: &Scope) -> Option<(Program, Type)> {
        let fields = match mapped {
            Mapped::Whole(expression) => return self.value(expression, scope),
            Mapped::Fields(fields) => fields,
        };
        let programs = self.named(&fields.value, scope)?;
        // Each field was compiled alone for its problems; the map literal of all of them has none. The line break ends a comment.
        let entries: Vec<String> =
            programs.iter().map(|(name, program)| format!("{}: ({}\n)", string_literal(name), program.source())).collect();
        match expression::compile(&format!("{{{}}}", entries.join(", ")), scope) {
            Ok(program) => {
                let ty = program.ty().clone();
                Some((program, ty))
            }
            Err(problems) => {
                for problem in problems {
                    self.diagnostics.push(code_of(problem.kind), fields.at, problem.message).help_if(problem.help);
                }
                None
            }
        }
    }

    /// Text with expressions in braces.
    pub fn template(&mut self, template: &Expression, scope: &Scope) -> Option<Template> {
        let parts = match template::parse(&template.text) {
            Ok(parts) => parts,
            Err(problem) => {
                let at = template.place_of(&self.file, problem.at);
                self.diagnostics.push(codes::BAD_TEMPLATE, at, problem.message).help(problem.help);
                return None;
            }
        };
        let mut compiled = Vec::with_capacity(parts.len());
        for part in parts {
            compiled.push(match part {
                Part::Text(text) => Some(TemplatePart::Text(text)),
                Part::Expression(range) => {
                    let at = template.place_of(&self.file, range.clone());
                    let program = self.text(&template.text[range.clone()], template, range.start, scope);
                    program
                        .filter(|program| self.fits(program, at, Want::Scalar, Nulls::Allowed, "a part of a template"))
                        .map(TemplatePart::Value)
                }
            });
        }
        Some(Template { parts: compiled.into_iter().collect::<Option<Vec<_>>>()? })
    }

    /// Compiles a part of an expression's text, which begins at byte `from` of it.
    fn text(&mut self, text: &str, expression: &Expression, from: usize, scope: &Scope) -> Option<Program> {
        match expression::compile(text, scope) {
            Ok(program) => Some(program),
            Err(problems) => {
                if self.cut_by_comment(&problems, expression) {
                    return None;
                }
                for problem in problems {
                    let at = expression.place_of(&self.file, problem.at.start + from..problem.at.end + from);
                    self.diagnostics.push(code_of(problem.kind), at, problem.message).help_if(problem.help);
                }
                None
            }
        }
    }

    /// YAML ends an unquoted value at ` #`. That is usually a comment; where the value is no expression, it is most likely not.
    fn cut_by_comment(&mut self, problems: &[ExpressionProblem], expression: &Expression) -> bool {
        let syntax = problems.iter().any(|problem| problem.kind == ExpressionProblemKind::Syntax);
        let (line, _) = self.file.line_column(expression.at.end);
        let (start, text) = self.file.line(line);
        let rest = text.get(expression.at.end - start..).unwrap_or_default();
        if expression.style != Style::Plain || !syntax || !rest.trim_start().starts_with('#') || rest.starts_with('#') {
            return false;
        }
        let at = Place { start: expression.at.start, end: start + text.trim_end().len() };
        let whole = self.file.slice(at).to_owned();
        let message = "YAML ends this value at ` #`, and what is left is not an expression";
        self.diagnostics.push(codes::COMMENT_CUTS_EXPRESSION, at, message).help(format!("quote the expression: `{}`", quoted(&whole)));
        true
    }
}

fn code_of(kind: ExpressionProblemKind) -> &'static codes::Code {
    match kind {
        ExpressionProblemKind::Syntax => codes::EXPRESSION_SYNTAX,
        ExpressionProblemKind::UnknownName => codes::UNKNOWN_NAME,
        ExpressionProblemKind::UnknownField => codes::UNKNOWN_FIELD,
        ExpressionProblemKind::UnknownFunction => codes::UNKNOWN_FUNCTION,
        ExpressionProblemKind::TypeError => codes::TYPE_ERROR,
        ExpressionProblemKind::Limit => codes::EXPRESSION_LIMIT,
    }
}

/// A CEL string literal.
fn string_literal(text: &str) -> String {
    let mut literal = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => literal.extend(['\\', c]),
            c if c.is_control() => literal.push_str(&format!("\\U{:08x}", c as u32)),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

fn one_line(source: &str) -> String {
    source.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a value of type `found` may stand where `declared` is declared. What is `any` is checked when the record is there.
pub fn assignable(found: &Type, declared: &Type) -> bool {
    match (found, declared) {
        (Type::Any, _) | (_, Type::Any) => true,
        (Type::Null, Type::Nullable(_)) => true,
        (Type::Nullable(found), Type::Nullable(declared)) => assignable(found, declared),
        (found, Type::Nullable(declared)) => assignable(found, declared),
        (Type::List(found), Type::List(declared)) => assignable(found, declared),
        (Type::Map(found_key, found), Type::Map(key, value)) => assignable(found_key, key) && assignable(found, value),
        // A map literal has no shape: its fields are checked when the record is there.
        (Type::Map(key, value), Type::Object(shape)) => {
            assignable(key, &Type::String) && shape.fields.iter().all(|field| assignable(value, &field.ty))
        }
        (Type::Object(found), Type::Object(declared)) => {
            let fits = |field: &Field| found.fields.iter().any(|other| other.name == field.name && assignable(&other.ty, &field.ty));
            declared.fields.iter().all(fits)
        }
        (found, declared) => found == declared,
    }
}
