//! The compiled form: a tree of nodes, evaluated by one recursive function.
//!
//! Values are passed by reference for as long as they stand in the record (`Out::Ref`), so `event.field` is two loads and a
//! clone of what is returned. Nothing here trusts the types that the checker saw: a value of another type than declared is a
//! failure of this record, never a panic. Recursion is as deep as the text is nested (`parse::CHAIN_MAX`).

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use regex::Regex;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::expression::arithmetic::{arithmetic, negate};
use crate::expression::collect;
use crate::expression::compare::{Budget, equal, order};
use crate::expression::fold::Fold;
use crate::expression::parse::BinaryOperator;
use crate::expression::problem::{Failure, Outcome, type_name};
use crate::model::{Shape, Value};

/// A part of a compiled expression.
pub(super) enum Node {
    Constant(Value),
    /// A variable of the scope.
    Variable(usize),
    /// A variable of a macro, counted from the innermost.
    Local(usize),
    /// `event.field`, the commonest expression of all, in one node.
    VariableField {
        variable: usize,
        field: FieldSlot,
    },
    /// A declared field of an object.
    Field {
        operand: Box<Node>,
        field: FieldSlot,
    },
    /// A field of what is known at run time only.
    Select {
        operand: Box<Node>,
        name: SmolStr,
    },
    Has {
        operand: Box<Node>,
        name: SmolStr,
        of_nullable: bool,
    },
    OptionalSelect {
        operand: Box<Node>,
        name: SmolStr,
        of_nullable: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional {
        condition: Box<Node>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
    Equal {
        left: Box<Node>,
        right: Box<Node>,
        negated: bool,
    },
    Compare {
        operator: BinaryOperator,
        left: Box<Node>,
        right: Box<Node>,
    },
    Arithmetic {
        operator: BinaryOperator,
        left: Box<Node>,
        right: Box<Node>,
    },
    In {
        item: Box<Node>,
        container: Box<Node>,
    },
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    /// A function of the table.
    Call {
        function: &'static str,
        run: Run,
        arguments: Box<[Node]>,
    },
    /// A conversion of what may be null: null stays null.
    NullOr {
        run: fn(&Value) -> Outcome,
        argument: Box<Node>,
    },
    /// `text.matches("…")`, whose pattern was compiled when the file was read.
    Matches {
        text: Box<Node>,
        pattern: Arc<Regex>,
    },
    Coalesce(Box<[Node]>),
    /// An int where the other branch is a decimal.
    ToDecimal(Box<Node>),
    /// `cel.bind`: an error of the value is one only where it is used.
    Bind {
        value: Box<Node>,
        body: Box<Node>,
    },
    Fold(Box<Fold>),
    /// `optional.optMap`, and with `flat` `optFlatMap`.
    OptionalMap {
        operand: Box<Node>,
        body: Box<Node>,
        flat: bool,
    },
    /// `optional.or`, `orValue`: the alternative is evaluated only where it is needed.
    OptionalOr {
        operand: Box<Node>,
        alternative: Box<Node>,
        unwrap: bool,
    },
    /// What was found wrong in an expression that is not checked.
    Fail(SmolStr),
}

/// Where a declared field is found: by slot where the object has the declared shape, else by name.
pub(super) struct FieldSlot {
    pub shape: Arc<Shape>,
    pub slot: usize,
    pub name: SmolStr,
    /// The object may be null, and then the field is.
    pub of_nullable: bool,
}

/// The code of a function of the table.
#[derive(Clone, Copy)]
pub(super) enum Run {
    Zero(fn() -> Value),
    One(fn(&Value) -> Outcome),
    Two(fn(&Value, &Value) -> Outcome),
    Three(fn(&Value, &Value, &Value) -> Outcome),
    Four(fn(&Value, &Value, &Value, &Value) -> Outcome),
    /// Any number of arguments.
    Many(fn(&[&Value]) -> Outcome),
    /// Compiled by the checker into a node of its own.
    Checked,
}

/// A value that stands somewhere, or was made.
pub(super) enum Out<'a> {
    Ref(&'a Value),
    Own(Value),
}

impl Deref for Out<'_> {
    type Target = Value;
    #[inline]
    fn deref(&self) -> &Value {
        match self {
            Out::Ref(value) => value,
            Out::Own(value) => value,
        }
    }
}

impl<'a> Out<'a> {
    pub fn into_owned(self) -> Value {
        match self {
            Out::Ref(value) => value.clone(),
            Out::Own(value) => value,
        }
    }

    /// A part of the value, without a copy where the value stands somewhere.
    fn part(self, find: impl for<'x> FnOnce(&'x Value) -> Result<Out<'x>, Failure>) -> Result<Out<'a>, Failure> {
        match self {
            Out::Ref(value) => find(value),
            Out::Own(value) => Ok(Out::Own(find(&value)?.into_owned())),
        }
    }
}

/// What one evaluation sees.
pub(super) struct Frame<'a> {
    pub values: &'a [&'a Value],
    pub local: Option<&'a Local<'a>>,
    pub budget: &'a Budget,
}

/// A variable of a macro, and the ones around it.
pub(super) struct Local<'a> {
    pub value: Result<&'a Value, &'a Failure>,
    pub next: Option<&'a Local<'a>>,
}

impl<'a> Frame<'a> {
    /// This frame with one more variable.
    pub fn with<'b>(&self, local: &'b Local<'b>) -> Frame<'b>
    where
        'a: 'b,
    {
        Frame { values: self.values, local: Some(local), budget: self.budget }
    }
}

type Evaluated<'a> = Result<Out<'a>, Failure>;

/// Evaluates an operand to a reference. What stands somewhere already, as most operands do, takes no call and no drop.
macro_rules! operand {
    ($node:expr, $frame:expr, $made:ident) => {
        match $node.standing($frame) {
            Some(value) => value,
            None => {
                $made = $node.evaluate($frame)?;
                &*$made
            }
        }
    };
}

impl Node {
    /// The value, where it is a constant or stands in the record: the fast path of operands.
    #[inline(always)]
    pub fn standing<'a>(&'a self, frame: &Frame<'a>) -> Option<&'a Value> {
        match self {
            Node::Constant(value) => Some(value),
            Node::VariableField { variable, field } => field.in_slot(frame.values.get(*variable)?),
            Node::Variable(variable) => frame.values.get(*variable).copied(),
            _ => None,
        }
    }

    pub fn evaluate<'a>(&'a self, frame: &Frame<'a>) -> Evaluated<'a> {
        match self {
            Node::Constant(value) => Ok(Out::Ref(value)),
            Node::Variable(variable) => variable_value(frame, *variable).map(Out::Ref),
            Node::VariableField { variable, field } => field.of(variable_value(frame, *variable)?),
            Node::Field { operand, field } => operand.evaluate(frame)?.part(|value| field.of(value)),
            Node::And(..)
            | Node::Or(..)
            | Node::Not(_)
            | Node::Equal { .. }
            | Node::Compare { .. }
            | Node::In { .. }
            | Node::Has { .. }
            | Node::Matches { .. } => Ok(Out::Own(Value::Bool(self.truth(frame)?))),
            Node::Conditional { condition, then, otherwise } => {
                if condition.truth(frame)? {
                    then.evaluate(frame)
                } else {
                    otherwise.evaluate(frame)
                }
            }
            Node::Arithmetic { operator, left, right } => {
                let (left_made, right_made);
                let (left, right) = (operand!(left, frame, left_made), operand!(right, frame, right_made));
                arithmetic(*operator, left, right).map(Out::Own)
            }
            Node::Call { function, run, arguments } => call(function, *run, arguments, frame).map(Out::Own),
            Node::Coalesce(options) => coalesce(options, frame),
            Node::NullOr { run, argument } => match argument.evaluate(frame)? {
                value if value.is_null() => Ok(value),
                value => run(&value).map(Out::Own),
            },
            Node::ToDecimal(operand) => to_decimal(operand.evaluate(frame)?),
            Node::Local(hops) => local_value(frame, *hops).map(Out::Ref),
            Node::Select { operand, name } => operand.evaluate(frame)?.part(|value| collect::select(value, name)),
            Node::OptionalSelect { operand, name, of_nullable } => {
                let operand = operand.evaluate(frame)?;
                collect::optional_select(&operand, name, *of_nullable).map(Out::Own)
            }
            Node::Index { operand, index, optional } => {
                let operand = operand.evaluate(frame)?;
                let index = index.evaluate(frame)?;
                operand.part(|value| collect::index(value, &index, *optional))
            }
            Node::Negate(operand) => negate(&*operand.evaluate(frame)?).map(Out::Own),
            Node::List(elements) => collect::list(elements, frame).map(Out::Own),
            Node::Map(entries) => collect::map(entries, frame).map(Out::Own),
            Node::Bind { value, body } => {
                let value = value.evaluate(frame);
                let local = Local { value: value.as_deref(), next: frame.local };
                Ok(Out::Own(body.evaluate(&frame.with(&local))?.into_owned()))
            }
            Node::Fold(fold) => fold.run(frame).map(Out::Own),
            Node::OptionalMap { operand, body, flat } => optional_map(operand, body, *flat, frame).map(Out::Own),
            Node::OptionalOr { operand, alternative, unwrap } => optional_or(operand, alternative, *unwrap, frame),
            Node::Fail(message) => Err(Failure::new(message.to_string())),
        }
    }

    /// Evaluates a condition without making a value of it.
    pub fn truth(&self, frame: &Frame<'_>) -> Result<bool, Failure> {
        match self {
            // Either side decides by itself, and then the error of the other is absorbed.
            Node::And(left, right) => match left.truth(frame) {
                Ok(false) => Ok(false),
                Ok(true) => right.truth(frame),
                Err(failure) => match right.truth(frame) {
                    Ok(false) => Ok(false),
                    _ => Err(failure),
                },
            },
            Node::Or(left, right) => match left.truth(frame) {
                Ok(true) => Ok(true),
                Ok(false) => right.truth(frame),
                Err(failure) => match right.truth(frame) {
                    Ok(true) => Ok(true),
                    _ => Err(failure),
                },
            },
            Node::Not(operand) => Ok(!operand.truth(frame)?),
            Node::Equal { left, right, negated } => {
                let (left_made, right_made);
                let (left, right) = (operand!(left, frame, left_made), operand!(right, frame, right_made));
                Ok(equal(left, right, frame.budget)? != *negated)
            }
            Node::Compare { operator, left, right } => {
                let (left_made, right_made);
                let (left, right) = (operand!(left, frame, left_made), operand!(right, frame, right_made));
                let ordering = order(left, right)?;
                Ok(match operator {
                    BinaryOperator::Less => ordering == Some(Ordering::Less),
                    BinaryOperator::LessOrEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
                    BinaryOperator::Greater => ordering == Some(Ordering::Greater),
                    _ => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
                })
            }
            Node::In { item, container } => {
                let (item_made, container_made);
                let (item, container) = (operand!(item, frame, item_made), operand!(container, frame, container_made));
                collect::contains(container, item, frame.budget)
            }
            Node::Has { operand, name, of_nullable } => collect::has(&*operand.evaluate(frame)?, name, *of_nullable),
            Node::Matches { text, pattern } => {
                let made;
                match operand!(text, frame, made) {
                    Value::String(text) => Ok(pattern.is_match(text)),
                    other => Err(Failure::overload("matches", &[other])),
                }
            }
            other => match &*other.evaluate(frame)? {
                Value::Bool(truth) => Ok(*truth),
                value => Err(Failure::new(format!("no such overload: a condition must be bool, not {}", type_name(value)))),
            },
        }
    }
}

impl FieldSlot {
    /// The field, where the value is an object of the declared shape.
    #[inline(always)]
    fn in_slot<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        match value {
            Value::Object(object) if Arc::ptr_eq(&object.shape, &self.shape) => object.slots.get(self.slot),
            _ => None,
        }
    }

    fn of<'v>(&self, value: &'v Value) -> Evaluated<'v> {
        if let Some(found) = self.in_slot(value) {
            return Ok(Out::Ref(found));
        }
        match value {
            Value::Null if self.of_nullable => Ok(Out::Ref(value)),
            other => collect::select(other, &self.name),
        }
    }
}

fn variable_value<'a>(frame: &Frame<'a>, variable: usize) -> Result<&'a Value, Failure> {
    frame.values.get(variable).copied().ok_or_else(|| Failure::new("a variable of the expression has no value"))
}

fn local_value<'a>(frame: &Frame<'a>, hops: usize) -> Result<&'a Value, Failure> {
    let mut local = frame.local;
    for _ in 0..hops {
        local = local.and_then(|local| local.next);
    }
    match local {
        Some(local) => local.value.map_err(Clone::clone),
        None => Err(Failure::new("a variable of the expression has no value")),
    }
}

fn call(function: &'static str, run: Run, arguments: &[Node], frame: &Frame<'_>) -> Outcome {
    let (a_made, b_made, c_made, d_made);
    match (run, arguments) {
        (Run::One(run), [a]) => run(operand!(a, frame, a_made)),
        (Run::Two(run), [a, b]) => run(operand!(a, frame, a_made), operand!(b, frame, b_made)),
        (Run::Three(run), [a, b, c]) => run(operand!(a, frame, a_made), operand!(b, frame, b_made), operand!(c, frame, c_made)),
        (Run::Four(run), [a, b, c, d]) => {
            run(operand!(a, frame, a_made), operand!(b, frame, b_made), operand!(c, frame, c_made), operand!(d, frame, d_made))
        }
        (Run::Zero(run), []) => Ok(run()),
        (Run::Many(run), arguments) => {
            let mut values: SmallVec<[Out<'_>; 4]> = SmallVec::with_capacity(arguments.len());
            for argument in arguments {
                values.push(argument.evaluate(frame)?);
            }
            let references: SmallVec<[&Value; 4]> = values.iter().map(|value| &**value).collect();
            run(&references)
        }
        _ => Err(Failure::new(format!("no such overload: {function} with {} arguments", arguments.len()))),
    }
}

fn coalesce<'a>(options: &'a [Node], frame: &Frame<'a>) -> Evaluated<'a> {
    for option in options {
        let value = option.evaluate(frame)?;
        if !value.is_null() {
            return Ok(value);
        }
    }
    Ok(Out::Own(Value::Null))
}

fn to_decimal(value: Out<'_>) -> Evaluated<'_> {
    Ok(match &*value {
        Value::Int(number) => Out::Own(Value::Decimal((*number).into())),
        Value::Uint(number) => Out::Own(Value::Decimal((*number).into())),
        _ => value,
    })
}

fn optional_map(operand: &Node, body: &Node, flat: bool, frame: &Frame<'_>) -> Outcome {
    let operand = operand.evaluate(frame)?;
    let inner = match &*operand {
        Value::Optional(Some(inner)) => inner,
        Value::Optional(None) => return Ok(Value::Optional(None)),
        other => return Err(Failure::overload(if flat { "optFlatMap" } else { "optMap" }, &[other])),
    };
    let local = Local { value: Ok(inner), next: frame.local };
    let value = body.evaluate(&frame.with(&local))?.into_owned();
    match value {
        Value::Optional(_) if flat => Ok(value),
        other if flat => Err(Failure::new(format!("no such overload: optFlatMap needs an optional, not {}", type_name(&other)))),
        other => Ok(Value::Optional(Some(Arc::new(other)))),
    }
}

fn optional_or<'a>(operand: &'a Node, alternative: &'a Node, unwrap: bool, frame: &Frame<'a>) -> Evaluated<'a> {
    let operand = operand.evaluate(frame)?;
    match &*operand {
        Value::Optional(Some(inner)) if unwrap => Ok(Out::Own((**inner).clone())),
        Value::Optional(Some(_)) => Ok(operand),
        Value::Optional(None) => {
            let other = alternative.evaluate(frame)?;
            if unwrap || matches!(&*other, Value::Optional(_)) { Ok(other) } else { Err(Failure::overload("or", &[&operand, &other])) }
        }
        other => Err(Failure::overload(if unwrap { "orValue" } else { "or" }, &[other])),
    }
}
