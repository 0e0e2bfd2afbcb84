//! Problems of an expression and how they are worded, and why an expression fails on one record.
//!
//! Every text is lowercase, without a full stop, names in backticks; a problem says what, and its help what to do.

use std::borrow::Cow;
use std::ops::Range;

use crate::expression::{EvaluationError, ExpressionProblem, ExpressionProblemKind};
use crate::model::Value;

/// Why a part of an expression has no value. `||` and `&&` may still absorb it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Failure(pub Cow<'static, str>);

/// What a function yields.
pub(super) type Outcome = Result<Value, Failure>;

impl Failure {
    pub fn new(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure(text.into())
    }

    /// No function or operator takes values of these types.
    pub fn overload(name: &str, values: &[&Value]) -> Failure {
        let types: Vec<&str> = values.iter().map(|value| type_name(value)).collect();
        Failure(format!("no such overload: {name}({})", types.join(", ")).into())
    }
}

impl From<Failure> for EvaluationError {
    fn from(failure: Failure) -> EvaluationError {
        EvaluationError { message: failure.0.into_owned() }
    }
}

/// The name of a value's type as CEL and our language write it.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Uint(_) => "uint",
        Value::Double(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Decimal(_) => "decimal",
        Value::Timestamp(_) => "timestamp",
        Value::Duration(_) => "duration",
        Value::List(_) => "list",
        Value::Map(_) | Value::Object(_) => "map",
        Value::Optional(_) => "optional",
        Value::Type(_) => "type",
    }
}

/// The problems found so far. Kept short: what comes after [`PROBLEMS_MAX`] is hardly read.
#[derive(Default)]
pub(super) struct Problems {
    list: Vec<ExpressionProblem>,
}

/// Problems of one expression that are reported.
pub(super) const PROBLEMS_MAX: usize = 20;

impl Problems {
    pub fn push(&mut self, kind: ExpressionProblemKind, at: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        let problem = ExpressionProblem { kind, at: at.clone(), message: message.into(), help };
        // A macro's body may be checked twice; the same words at the same place are one problem.
        if self.list.len() < PROBLEMS_MAX && !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order of the text.
    pub fn into_sorted(mut self) -> Vec<ExpressionProblem> {
        self.list.sort_by_key(|problem| (problem.at.start, problem.at.end));
        self.list
    }
}
