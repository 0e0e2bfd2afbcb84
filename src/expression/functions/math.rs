//! The math extension, for decimals too.

use std::cmp::Ordering;

use rust_decimal::{Decimal, RoundingStrategy};

use crate::expression::arithmetic::double;
use crate::expression::compare::{is_number, order};
use crate::expression::problem::{Failure, Outcome};
use crate::model::Value;

pub(super) fn greatest(values: &[&Value]) -> Outcome {
    extreme("math.greatest", values, Ordering::Greater)
}

pub(super) fn least(values: &[&Value]) -> Outcome {
    extreme("math.least", values, Ordering::Less)
}

/// The first of the values that no other exceeds. One argument may be a list.
fn extreme(name: &str, values: &[&Value], wanted: Ordering) -> Outcome {
    let mut best: Option<&Value> = None;
    let mut consider = |value| -> Result<(), Failure> {
        match best {
            _ if !is_number(value) => return Err(Failure::overload(name, &[value])),
            Some(known) if order(value, known)? != Some(wanted) => {}
            _ => best = Some(value),
        }
        Ok(())
    };
    match values {
        [Value::List(list)] => list.iter().try_for_each(&mut consider)?,
        values => values.iter().copied().try_for_each(&mut consider)?,
    }
    best.cloned().ok_or_else(|| Failure::new(format!("{name} needs at least one value")))
}

/// Defines a rounding of doubles and decimals.
macro_rules! rounding {
    ($name:ident, $text:literal, $double:path, $strategy:expr) => {
        pub(super) fn $name(value: &Value) -> Outcome {
            match value {
                Value::Double(number) => Ok(double($double(*number))),
                Value::Decimal(number) => Ok(Value::Decimal(number.round_dp_with_strategy(0, $strategy))),
                other => Err(Failure::overload($text, &[other])),
            }
        }
    };
}

rounding!(ceil, "math.ceil", f64::ceil, RoundingStrategy::ToPositiveInfinity);
rounding!(floor, "math.floor", f64::floor, RoundingStrategy::ToNegativeInfinity);
rounding!(round, "math.round", f64::round, RoundingStrategy::MidpointAwayFromZero);
rounding!(trunc, "math.trunc", f64::trunc, RoundingStrategy::ToZero);

/// Rounds a decimal to a number of digits after the point, half away from zero, and gives it that scale.
pub(super) fn round_to(value: &Value, digits: &Value) -> Outcome {
    let (Value::Decimal(number), Value::Int(digits)) = (value, digits) else {
        return Err(Failure::overload("math.round", &[value, digits]));
    };
    let Some(digits) = u32::try_from(*digits).ok().filter(|digits| *digits <= Decimal::MAX_SCALE) else {
        return Err(Failure::new(format!("a decimal has 0 to {} digits after the point, not {digits}", Decimal::MAX_SCALE)));
    };
    let mut rounded = number.round_dp_with_strategy(digits, RoundingStrategy::MidpointAwayFromZero);
    // `rescale` pads as far as the number's 28 digits reach.
    rounded.rescale(digits);
    Ok(Value::Decimal(rounded))
}

pub(super) fn abs(value: &Value) -> Outcome {
    match value {
        Value::Int(number) => number.checked_abs().map(Value::Int).ok_or_else(|| Failure::new("int overflow")),
        Value::Uint(_) => Ok(value.clone()),
        Value::Double(number) => Ok(Value::Double(number.abs())),
        Value::Decimal(number) => Ok(Value::Decimal(number.abs())),
        other => Err(Failure::overload("math.abs", &[other])),
    }
}

pub(super) fn sign(value: &Value) -> Outcome {
    match value {
        Value::Int(number) => Ok(Value::Int(number.signum())),
        Value::Uint(number) => Ok(Value::Uint(u64::from(*number > 0))),
        Value::Double(number) if *number == 0.0 || number.is_nan() => Ok(value.clone()),
        Value::Double(number) => Ok(Value::Double(number.signum())),
        Value::Decimal(number) if number.is_zero() => Ok(Value::Decimal(Decimal::ZERO)),
        Value::Decimal(number) => Ok(Value::Decimal(if number.is_sign_negative() { Decimal::NEGATIVE_ONE } else { Decimal::ONE })),
        other => Err(Failure::overload("math.sign", &[other])),
    }
}

pub(super) fn sqrt(value: &Value) -> Outcome {
    match value {
        Value::Int(number) => Ok(double((*number as f64).sqrt())),
        Value::Uint(number) => Ok(double((*number as f64).sqrt())),
        Value::Double(number) => Ok(double(number.sqrt())),
        other => Err(Failure::overload("math.sqrt", &[other])),
    }
}

pub(super) fn is_nan(value: &Value) -> Outcome {
    test("math.isNaN", value, f64::is_nan)
}

pub(super) fn is_inf(value: &Value) -> Outcome {
    test("math.isInf", value, f64::is_infinite)
}

pub(super) fn is_finite(value: &Value) -> Outcome {
    test("math.isFinite", value, f64::is_finite)
}

fn test(name: &str, value: &Value, holds: fn(f64) -> bool) -> Outcome {
    match value {
        Value::Double(number) => Ok(Value::Bool(holds(*number))),
        other => Err(Failure::overload(name, &[other])),
    }
}

pub(super) fn bit_and(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Value::Int(a & b)),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a & b)),
        _ => Err(Failure::overload("math.bitAnd", &[a, b])),
    }
}

pub(super) fn bit_or(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Value::Int(a | b)),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a | b)),
        _ => Err(Failure::overload("math.bitOr", &[a, b])),
    }
}

pub(super) fn bit_xor(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Value::Int(a ^ b)),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a ^ b)),
        _ => Err(Failure::overload("math.bitXor", &[a, b])),
    }
}

pub(super) fn bit_not(value: &Value) -> Outcome {
    match value {
        Value::Int(number) => Ok(Value::Int(!number)),
        Value::Uint(number) => Ok(Value::Uint(!number)),
        other => Err(Failure::overload("math.bitNot", &[other])),
    }
}

pub(super) fn shift_left(value: &Value, by: &Value) -> Outcome {
    shift("math.bitShiftLeft", value, by, u64::checked_shl)
}

/// The bits of an int are shifted as they are: zeros come in, not the sign.
pub(super) fn shift_right(value: &Value, by: &Value) -> Outcome {
    shift("math.bitShiftRight", value, by, u64::checked_shr)
}

fn shift(name: &str, value: &Value, by: &Value, shift: fn(u64, u32) -> Option<u64>) -> Outcome {
    let Value::Int(by) = by else {
        return Err(Failure::overload(name, &[value, by]));
    };
    let Ok(by) = u64::try_from(*by) else {
        return Err(Failure::new(format!("{name}: negative offset: {by}")));
    };
    // Whatever is shifted by 64 or more is gone.
    let shifted = |bits: u64| shift(bits, u32::try_from(by).unwrap_or(u32::MAX)).unwrap_or(0);
    match value {
        Value::Int(number) => Ok(Value::Int(shifted(number.cast_unsigned()).cast_signed())),
        Value::Uint(number) => Ok(Value::Uint(shifted(*number))),
        other => Err(Failure::overload(name, &[other])),
    }
}
