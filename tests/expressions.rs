//! Expressions against a naive evaluator: for any tree of arithmetic, comparison, logic and choice, the compiled expression
//! yields what walking the tree yields, errors included. And no text at all makes the compiler or the program panic.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::sync::Arc;

use millstream::expression::{CompileOptions, Scope, compile, compile_with};
use millstream::model::{Field, Object, Shape, Type, Value};
use proptest::prelude::*;

/// An int expression.
#[derive(Clone, Debug)]
enum Int {
    Literal(i64),
    /// `event.a`, `event.b`
    Field(usize),
    Negate(Box<Int>),
    Binary(char, Box<Int>, Box<Int>),
    Choice(Box<Bool>, Box<Int>, Box<Int>),
    /// `cel.bind(v, a, v + b)`
    Bind(Box<Int>, Box<Int>),
    /// `coalesce(event.c, a)`, where `event.c` may be null.
    Coalesce(Box<Int>),
}

/// A bool expression.
#[derive(Clone, Debug)]
enum Bool {
    Literal(bool),
    Compare(&'static str, Box<Int>, Box<Int>),
    Same(Box<Bool>, Box<Bool>),
    Not(Box<Bool>),
    And(Box<Bool>, Box<Bool>),
    Or(Box<Bool>, Box<Bool>),
    Choice(Box<Bool>, Box<Bool>, Box<Bool>),
    /// `[a, b].exists(x, x > c)`
    Exists(Vec<Int>, Box<Int>),
    All(Vec<Int>, Box<Int>),
    In(Box<Int>, Vec<Int>),
}

const FIELDS: [&str; 2] = ["a", "b"];

struct Event {
    fields: [i64; 2],
    optional: Option<i64>,
}

/// No value; which error it is does not matter here.
#[derive(PartialEq, Debug)]
struct NoValue;

impl Int {
    fn text(&self) -> String {
        match self {
            Int::Literal(number) if *number < 0 => format!("({number})"),
            Int::Literal(number) => number.to_string(),
            Int::Field(i) => format!("event.{}", FIELDS[*i]),
            Int::Negate(a) => format!("(-({}))", a.text()),
            Int::Binary(operator, a, b) => format!("({} {operator} {})", a.text(), b.text()),
            Int::Choice(c, a, b) => format!("({} ? {} : {})", c.text(), a.text(), b.text()),
            Int::Bind(a, b) => format!("cel.bind(v, {}, v + {})", a.text(), b.text()),
            Int::Coalesce(a) => format!("coalesce(event.c, {})", a.text()),
        }
    }

    fn value(&self, event: &Event) -> Result<i64, NoValue> {
        let fits = |number: i128| i64::try_from(number).map_err(|_| NoValue);
        match self {
            Int::Literal(number) => Ok(*number),
            Int::Field(i) => Ok(event.fields[*i]),
            Int::Negate(a) => fits(-i128::from(a.value(event)?)),
            Int::Binary(operator, a, b) => {
                let (a, b) = (i128::from(a.value(event)?), i128::from(b.value(event)?));
                match operator {
                    '+' => fits(a + b),
                    '-' => fits(a - b),
                    '*' => fits(a * b),
                    _ if b == 0 => Err(NoValue),
                    '/' => fits(a / b),
                    // The quotient would overflow, and with it the instruction.
                    _ if a == i128::from(i64::MIN) && b == -1 => Err(NoValue),
                    _ => fits(a % b),
                }
            }
            Int::Choice(c, a, b) => {
                if c.value(event)? {
                    a.value(event)
                } else {
                    b.value(event)
                }
            }
            Int::Bind(a, b) => fits(i128::from(a.value(event)?) + i128::from(b.value(event)?)),
            Int::Coalesce(a) => match event.optional {
                Some(number) => Ok(number),
                None => a.value(event),
            },
        }
    }
}

impl Bool {
    fn text(&self) -> String {
        let list = |items: &[Int]| items.iter().map(Int::text).collect::<Vec<_>>().join(", ");
        match self {
            Bool::Literal(value) => value.to_string(),
            Bool::Compare(operator, a, b) => format!("({} {operator} {})", a.text(), b.text()),
            Bool::Same(a, b) => format!("({} == {})", a.text(), b.text()),
            Bool::Not(a) => format!("!({})", a.text()),
            Bool::And(a, b) => format!("({} && {})", a.text(), b.text()),
            Bool::Or(a, b) => format!("({} || {})", a.text(), b.text()),
            Bool::Choice(c, a, b) => format!("cond({}, {}, {})", c.text(), a.text(), b.text()),
            Bool::Exists(items, than) => format!("[{}].exists(x, x > {})", list(items), than.text()),
            Bool::All(items, than) => format!("[{}].all(x, x > {})", list(items), than.text()),
            Bool::In(item, items) => format!("({} in [{}])", item.text(), list(items)),
        }
    }

    fn value(&self, event: &Event) -> Result<bool, NoValue> {
        match self {
            Bool::Literal(value) => Ok(*value),
            Bool::Compare(operator, a, b) => {
                let (a, b) = (a.value(event)?, b.value(event)?);
                Ok(match *operator {
                    "==" => a == b,
                    "!=" => a != b,
                    "<" => a < b,
                    "<=" => a <= b,
                    ">" => a > b,
                    _ => a >= b,
                })
            }
            Bool::Same(a, b) => Ok(a.value(event)? == b.value(event)?),
            Bool::Not(a) => Ok(!a.value(event)?),
            Bool::And(a, b) => decide(&[a.value(event), b.value(event)], false),
            Bool::Or(a, b) => decide(&[a.value(event), b.value(event)], true),
            Bool::Choice(c, a, b) => {
                if c.value(event)? {
                    a.value(event)
                } else {
                    b.value(event)
                }
            }
            Bool::Exists(items, than) => decide(&greater(items, than, event)?, true),
            Bool::All(items, than) => decide(&greater(items, than, event)?, false),
            Bool::In(item, items) => {
                let item = item.value(event)?;
                let items: Result<Vec<i64>, NoValue> = items.iter().map(|other| other.value(event)).collect();
                Ok(items?.contains(&item))
            }
        }
    }
}

/// One that decides is enough; else an error is an error.
fn decide(terms: &[Result<bool, NoValue>], by: bool) -> Result<bool, NoValue> {
    if terms.contains(&Ok(by)) {
        Ok(by)
    } else if terms.contains(&Err(NoValue)) {
        Err(NoValue)
    } else {
        Ok(!by)
    }
}

fn greater(items: &[Int], than: &Int, event: &Event) -> Result<Vec<Result<bool, NoValue>>, NoValue> {
    let items: Result<Vec<i64>, NoValue> = items.iter().map(|item| item.value(event)).collect();
    Ok(items?.into_iter().map(|item| than.value(event).map(|than| item > than)).collect())
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -3i64..4, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => any::<i64>()]
}

fn int() -> BoxedStrategy<Int> {
    let leaf = prop_oneof![number().prop_map(Int::Literal), (0..FIELDS.len()).prop_map(Int::Field)];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(Int::Negate),
            (prop::sample::select(vec!['+', '-', '*', '/', '%']), boxed.clone(), boxed.clone()).prop_map(|(o, a, b)| Int::Binary(o, a, b)),
            (bool_of(inner.boxed(), 1).prop_map(Box::new), boxed.clone(), boxed.clone()).prop_map(|(c, a, b)| Int::Choice(c, a, b)),
            (boxed.clone(), boxed.clone()).prop_map(|(a, b)| Int::Bind(a, b)),
            boxed.prop_map(Int::Coalesce),
        ]
    })
    .boxed()
}

fn bool_of(int: BoxedStrategy<Int>, depth: u32) -> BoxedStrategy<Bool> {
    let boxed = int.clone().prop_map(Box::new);
    let list = prop::collection::vec(int, 0..4);
    let compare = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let leaf = prop_oneof![
        1 => any::<bool>().prop_map(Bool::Literal),
        3 => (compare, boxed.clone(), boxed.clone()).prop_map(|(o, a, b)| Bool::Compare(o, a, b)),
        1 => (list.clone(), boxed.clone()).prop_map(|(l, a)| Bool::Exists(l, a)),
        1 => (list.clone(), boxed.clone()).prop_map(|(l, a)| Bool::All(l, a)),
        1 => (boxed, list).prop_map(|(a, l)| Bool::In(a, l)),
    ];
    leaf.prop_recursive(depth, 24, 3, |inner| {
        let boxed = inner.prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(Bool::Not),
            (boxed.clone(), boxed.clone()).prop_map(|(a, b)| Bool::And(a, b)),
            (boxed.clone(), boxed.clone()).prop_map(|(a, b)| Bool::Or(a, b)),
            (boxed.clone(), boxed.clone()).prop_map(|(a, b)| Bool::Same(a, b)),
            (boxed.clone(), boxed.clone(), boxed).prop_map(|(c, a, b)| Bool::Choice(c, a, b)),
        ]
    })
    .boxed()
}

fn shape() -> Arc<Shape> {
    let mut fields: Vec<Field> = FIELDS.iter().map(|name| Field { name: (*name).into(), ty: Type::Int }).collect();
    fields.push(Field { name: "c".into(), ty: Type::nullable(Type::Int) });
    Arc::new(Shape { fields })
}

/// What the compiled expression yields, checked and unchecked; both must be the same.
fn compiled(text: &str, event: &Event) -> Result<Value, NoValue> {
    let shape = shape();
    let mut slots: Vec<Value> = event.fields.iter().map(|number| Value::Int(*number)).collect();
    slots.push(event.optional.map_or(Value::Null, Value::Int));
    let value = Value::Object(Object { shape: shape.clone(), slots: slots.into() });
    let scope = Scope::new([("event", Type::Object(shape))]);
    let checked = compile(text, &scope).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    let unchecked = compile_with(text, &scope, &CompileOptions { unchecked: true, ..CompileOptions::default() }).unwrap();
    let result = checked.evaluate(&[&value]).map_err(|_| NoValue);
    assert_eq!(result, unchecked.evaluate(&[&value]).map_err(|_| NoValue), "{text}");
    if *checked.ty() == Type::Bool {
        assert_eq!(result, checked.holds(&[&value]).map(Value::Bool).map_err(|_| NoValue), "{text}");
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ints_are_what_walking_the_tree_yields(tree in int(), fields in [number(), number()], optional in prop::option::of(number())) {
        let event = Event { fields, optional };
        let text = tree.text();
        prop_assert_eq!(compiled(&text, &event), tree.value(&event).map(Value::Int), "{}", text);
    }

    #[test]
    fn bools_are_what_walking_the_tree_yields(tree in bool_of(int(), 4), fields in [number(), number()], optional in prop::option::of(number())) {
        let event = Event { fields, optional };
        let text = tree.text();
        prop_assert_eq!(compiled(&text, &event), tree.value(&event).map(Value::Bool), "{}", text);
    }

    /// Every problem has a place in the text that can be shown, whatever the text is.
    #[test]
    fn no_text_makes_it_panic(pieces in prop::collection::vec(piece(), 0..24)) {
        let text = pieces.concat();
        let shape = shape();
        let value = Value::Object(Object { shape: shape.clone(), slots: [Value::Int(1), Value::Int(0), Value::Null].into() });
        let scope = Scope::new([("event", Type::Object(shape))]);
        for unchecked in [false, true] {
            match compile_with(&text, &scope, &CompileOptions { unchecked, ..CompileOptions::default() }) {
                Ok(program) => drop(program.evaluate(&[&value])),
                Err(problems) => {
                    prop_assert!(!problems.is_empty());
                    for problem in problems {
                        prop_assert!(text.get(problem.at.clone()).is_some(), "{:?} in {:?}", problem, text);
                        prop_assert!(!problem.message.is_empty());
                    }
                }
            }
        }
    }

    /// A value of another type than declared is an error or a value, never a panic.
    #[test]
    fn values_of_other_types_than_declared_do_no_harm(tree in bool_of(int(), 3), value in any_value()) {
        let scope = Scope::new([("event", Type::Object(shape()))]);
        let text = tree.text();
        let program = compile(&text, &scope).unwrap();
        drop(program.evaluate(&[&value]));
        drop(program.evaluate(&[]));
        let slots: Arc<[Value]> = [value.clone(), value.clone(), value].into();
        drop(program.evaluate(&[&Value::Object(Object { shape: shape(), slots })]));
    }
}

/// A token, or something that is none.
fn piece() -> impl Strategy<Value = String> {
    let words = "event .a .b .c .nope .?a [0] [?1] [ ] ( ) { } , : ? + - * / % == != < <= > >= in && || ! 1 2u 3.5 -9223372036854775808 \
        \"x\" 'é' b\"\\xff\" r\"\\\" \"\\ null true has( cel.bind( x .map(x, .all(x, .exists(i, decimal( string( size( optional.of( .orValue( .format( \
        duration( timestamp( math.greatest( type( cond( coalesce( not( ` // 0x 1e9 . ü 😀 \u{0} & = # @ $ \\ if as"
        .split_whitespace()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    prop_oneof![8 => prop::sample::select(words), 2 => Just(" ".to_owned()), 1 => "\\PC{0,3}"]
}

fn any_value() -> impl Strategy<Value = Value> {
    let values = vec![
        Value::Null,
        Value::Bool(true),
        Value::Int(i64::MIN),
        Value::Uint(u64::MAX),
        Value::Double(f64::NAN),
        Value::string("text"),
        Value::Bytes(vec![255].into()),
        Value::Decimal(rust_decimal::Decimal::MAX),
        Value::List([Value::Int(1)].into()),
        Value::Map(Arc::default()),
        Value::Optional(None),
        Value::Type(Type::Int),
    ];
    prop::sample::select(values)
}
