//! One case: an expression, what it sees, and what must come out.

use millstream::expression::{CompileOptions, Program, Scope, compile_with};
use millstream::model::{Type, Value};

pub struct Case {
    /// `section/name`, unique.
    pub name: String,
    pub expression: String,
    pub variables: Vec<(String, Type, Value)>,
    pub options: CompileOptions,
    pub expected: Expected,
}

pub enum Expected {
    /// The value, and the static type where the case says it.
    Value(Value, Option<String>),
    /// The static type alone; the expression is not evaluated.
    Type(String),
    /// No value: the text is refused or its evaluation fails, with these words if there are any.
    Error(Option<String>),
}

impl Case {
    /// Runs the case; an error says what came out instead.
    pub fn run(&self) -> Result<(), String> {
        self.check().map_err(|reason| format!("{}: `{}`: {reason}", self.name, self.expression))
    }

    fn check(&self) -> Result<(), String> {
        let variables = self.variables.iter().map(|(name, ty, _)| (name.as_str().into(), ty.clone())).collect();
        let compiled = compile_with(&self.expression, &Scope { variables }, &self.options);
        let program = match (compiled, &self.expected) {
            (Ok(program), _) => program,
            (Err(problems), expected) => {
                let texts: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
                return match expected {
                    Expected::Error(words) => says(&texts.join("; "), words.as_deref()),
                    _ => Err(format!("refused: {}", texts.join("; "))),
                };
            }
        };
        match &self.expected {
            Expected::Type(ty) => is_type(&program, ty),
            Expected::Error(words) => match self.evaluate(&program) {
                Ok(value) => Err(format!("expected an error, got {value:?}")),
                Err(message) => says(&message, words.as_deref()),
            },
            Expected::Value(value, ty) => {
                if let Some(ty) = ty {
                    is_type(&program, ty)?;
                }
                let actual = self.evaluate(&program).map_err(|message| format!("expected {value:?}, failed: {message}"))?;
                if actual == *value { Ok(()) } else { Err(format!("expected {value:?}, got {actual:?}")) }
            }
        }
    }

    fn evaluate(&self, program: &Program) -> Result<Value, String> {
        let values: Vec<&Value> = self.variables.iter().map(|(_, _, value)| value).collect();
        program.evaluate(&values).map_err(|error| error.message)
    }
}

fn is_type(program: &Program, expected: &str) -> Result<(), String> {
    let actual = program.ty().to_string();
    if actual == expected { Ok(()) } else { Err(format!("expected the type {expected}, got {actual}")) }
}

fn says(message: &str, words: Option<&str>) -> Result<(), String> {
    match words {
        Some(words) if !message.contains(words) => Err(format!("expected an error with `{words}`, got `{message}`")),
        _ => Ok(()),
    }
}
