//! The functions of expressions: one table in the order of the manual, which is made from it.
//!
//! The signature texts are what the checker goes by. The code of a function trusts nothing: it is also called with values of
//! `any`, and answers with an error where a type does not fit.

mod convert;
mod encode;
mod format;
mod math;
mod optional;
mod strings;
mod table;
mod time;

use crate::expression::node::Run;

use crate::expression::problem::Outcome;
use crate::model::Value;

pub(super) use strings::pattern;
pub use table::FUNCTIONS;

pub(super) const GREATEST: Run = Run::Many(math::greatest);
pub(super) const LEAST: Run = Run::Many(math::least);

/// `type(x)`
pub(super) fn type_of(value: &Value) -> Outcome {
    convert::to_type(value)
}

/// A function, macro or operator of expressions.
pub struct Function {
    /// As it is called: `size`, `math.abs`, `+`.
    pub name: &'static str,
    /// Its forms, as in the manual: `string.charAt(int) -> string`. A single capital letter stands for any one type.
    pub signatures: &'static [&'static str],
    /// One sentence, third person.
    pub summary: &'static str,
    /// An expression and its value.
    pub example: (&'static str, &'static str),
    pub(super) run: Run,
    pub(super) flavour: Flavour,
}

/// How the checker treats a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flavour {
    Plain,
    /// `string(x)`: where `x` may be null, so may the result. And a constant that cannot be converted is a problem of the text.
    Conversion,
    /// Compiled by code of its own, as macros are; its signatures are for readers.
    Special,
}

impl Function {
    pub(super) fn is_special(&self) -> bool {
        self.flavour == Flavour::Special
    }
}
