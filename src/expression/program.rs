//! A compiled expression.

use std::fmt;
use std::sync::Arc;

use crate::expression::check::Checker;
use crate::expression::compare::Budget;
use crate::expression::node::{Frame, Node};
use crate::expression::parse::parse;
use crate::expression::{CompileOptions, EvaluationError, ExpressionProblem, Scope, Values};
use crate::model::{Type, Value};

/// A checked and compiled expression. Cheap to clone; shared by all tasks.
#[derive(Clone)]
pub struct Program {
    compiled: Arc<Compiled>,
}

struct Compiled {
    node: Node,
    ty: Type,
    source: Box<str>,
    uses: Box<[bool]>,
}

pub(super) fn compile(source: &str, scope: &Scope, options: &CompileOptions) -> Result<Program, Vec<ExpressionProblem>> {
    let tree = parse(source)?;
    let (node, ty, uses) = Checker::new(source, scope, options).run(&tree)?;
    Ok(Program { compiled: Arc::new(Compiled { node, ty, source: source.into(), uses }) })
}

impl Program {
    /// The static type of the result.
    pub fn ty(&self) -> &Type {
        &self.compiled.ty
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.compiled.source
    }

    /// Whether the variable in this slot of the scope is used, so that costly values are made only where needed.
    pub fn uses(&self, slot: usize) -> bool {
        self.compiled.uses.get(slot).copied().unwrap_or(false)
    }

    /// Computes the value. `values` has one value for each variable of the scope, in its order; those that are not used may be null.
    ///
    /// # Errors
    /// Division by zero, a key that is not there, a value of another type than declared: whatever leaves this record without a value.
    pub fn evaluate(&self, values: Values<'_>) -> Result<Value, EvaluationError> {
        let budget = Budget::new();
        let frame = Frame { values, local: None, budget: &budget };
        // Most expressions of a topology are one field.
        if let Some(value) = self.compiled.node.standing(&frame) {
            return Ok(value.clone());
        }
        match self.compiled.node.evaluate(&frame) {
            Ok(value) => Ok(value.into_owned()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Computes a condition, without making a value of it.
    ///
    /// # Errors
    /// As [`Program::evaluate`], and where the value is not a bool.
    pub fn holds(&self, values: Values<'_>) -> Result<bool, EvaluationError> {
        let budget = Budget::new();
        self.compiled.node.truth(&Frame { values, local: None, budget: &budget }).map_err(EvaluationError::from)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("source", &self.compiled.source).field("ty", &self.compiled.ty).finish_non_exhaustive()
    }
}
