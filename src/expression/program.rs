//! A compiled expression.

use std::fmt;

use crate::expression::{EvaluationError, ExpressionProblem, Scope, Values};
use crate::model::{Type, Value};

/// A checked and compiled expression. Cheap to clone; shared by all tasks.
#[derive(Clone)]
pub struct Program {}

pub(super) fn compile(_source: &str, _scope: &Scope) -> Result<Program, Vec<ExpressionProblem>> {
    unimplemented!("the compiler")
}

impl Program {
    /// The static type of the result.
    pub fn ty(&self) -> &Type {
        unimplemented!("the compiler")
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        unimplemented!("the compiler")
    }

    /// Whether the variable in this slot of the scope is used, so that costly values are made only where needed.
    pub fn uses(&self, _slot: usize) -> bool {
        unimplemented!("the compiler")
    }

    /// Computes the value. `values` has one value for each variable of the scope, in its order; those that are not used may be null.
    pub fn evaluate(&self, _values: Values<'_>) -> Result<Value, EvaluationError> {
        unimplemented!("the compiler")
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program")
    }
}
