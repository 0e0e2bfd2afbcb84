//! CEL expressions: parsed by the `cel` crate, type-checked and compiled to closures by us.
//!
//! `compile` is called when a file is read and reports every problem with its place; a [`Program`] is run per record and
//! touches no clock, chance or I/O, so that a replay gives the same value. Meaning: the CEL specification without protobuf,
//! judged by its conformance data (`tests/cel/`).

use std::ops::Range;

use smol_str::SmolStr;

use crate::model::{Type, Value};

mod arithmetic;
mod check;
mod collect;
mod compare;
mod fold;
mod functions;
mod node;
mod parse;
mod problem;
mod program;
mod resolve;
#[cfg(test)]
mod tests;
mod types;

pub use arithmetic::TEXT_BYTES_MAX;
pub use collect::ELEMENTS_MAX;
pub use compare::STEPS_MAX;
pub use functions::{FUNCTIONS, Function};
pub use parse::{CHAIN_MAX, DEPTH_MAX, SOURCE_BYTES_MAX};
pub use program::Program;

/// The names that an expression may use, in the order in which their values are given to [`Program::evaluate`].
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub variables: Vec<(SmolStr, Type)>,
}

impl Scope {
    pub fn new(variables: impl IntoIterator<Item = (&'static str, Type)>) -> Scope {
        Scope { variables: variables.into_iter().map(|(name, ty)| (SmolStr::new_static(name), ty)).collect() }
    }

    pub fn slot(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|(known, _)| known == name)
    }
}

/// What is wrong with an expression, and where in its text.
#[derive(Clone, PartialEq, Debug)]
pub struct ExpressionProblem {
    pub kind: ExpressionProblemKind,
    /// Bytes of the expression's own text.
    pub at: Range<usize>,
    /// Lowercase, no full stop: `no field \`pice\` in \`event\``.
    pub message: String,
    /// What to do: `did you mean \`price\`?`
    pub help: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpressionProblemKind {
    Syntax,
    UnknownName,
    UnknownField,
    UnknownFunction,
    TypeError,
    Limit,
}

/// Why an expression has no value for one record. It goes the way of the node's `on_error`.
#[derive(Clone, PartialEq, Debug)]
pub struct EvaluationError {
    /// Lowercase, no full stop: `division by zero`, `no such key: \`x\``.
    pub message: String,
}

/// Reads, checks and compiles an expression.
///
/// # Errors
/// All problems found; at least one.
pub fn compile(source: &str, scope: &Scope) -> Result<Program, Vec<ExpressionProblem>> {
    program::compile(source, scope, &CompileOptions::default())
}

/// What the specification's own tests need beside [`compile`].
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// Leaves the types open: a type that does not fit is an error of the evaluation, as is a name that is not known.
    pub unchecked: bool,
    /// Where names are looked up first, as in `com.example`. Empty by default.
    pub container: String,
}

/// Reads and compiles an expression with options; topology files use [`compile`].
///
/// # Errors
/// All problems found; at least one.
pub fn compile_with(source: &str, scope: &Scope, options: &CompileOptions) -> Result<Program, Vec<ExpressionProblem>> {
    program::compile(source, scope, options)
}

/// A name for the values of one evaluation, in the order of the scope.
pub type Values<'a> = &'a [&'a Value];
