//! Builds values of a declared type while the text is read: only declared fields, in their slots.
//!
//! The type is turned into a plan once. A plan nests as deep as the type was written, never as
//! deep as the data; only `any` follows the data, within the depth limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use hashbrown::HashMap;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use smol_str::SmolStr;

use crate::codec::json::scan::{Bad, Outcome, Scanner, excerpt};
use crate::codec::json::text::{NotANumber, parse_decimal, parse_duration, parse_int, parse_uint};
use crate::codec::utf8::{utf8, within};
use crate::codec::{BadValue, Decode, Limits};
use crate::model::{Field, MapKey, Object, Shape, Time, Timestamp, Type, Value};

/// Up to so many fields a name is found faster by going through them than by hashing it.
const LINEAR_FIELDS_MAX: usize = 8;

/// Padding is written by some and left out by others.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Decodes JSON of one declared type. Used by one thread.
pub struct JsonDecoder {
    plan: Plan,
    limits: Limits,
}

impl JsonDecoder {
    pub fn new(ty: &Type, limits: Limits) -> JsonDecoder {
        JsonDecoder { plan: Plan::of(ty), limits }
    }
}

impl Decode for JsonDecoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<Value, BadValue> {
        within(self.limits, bytes)?;
        let text = utf8(bytes)?;
        let mut scanner = Scanner::new(text, self.limits.depth);
        let mut value = Value::Null;
        let outcome = if scanner.peek() == Some(b'n') { null(&mut scanner).map(drop) } else { self.plan.read(&mut scanner, &mut value) };
        outcome.and_then(|()| scanner.end()).map(|()| value).map_err(|bad| BadValue::new(bad.reason, bad.detail()))
    }
}

/// How to read a value of a type.
enum Plan {
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Decimal,
    Timestamp,
    Duration,
    List(Box<Plan>),
    Map(Type, Box<Plan>),
    Object(Box<ObjectPlan>),
    Nullable(Box<Plan>),
    Optional(Box<Plan>),
    /// Types that have no JSON form (`type`).
    None(Type),
}

struct ObjectPlan {
    shape: Arc<Shape>,
    fields: Vec<FieldPlan>,
    /// Where there are more fields than [`LINEAR_FIELDS_MAX`].
    slots_by_name: HashMap<SmolStr, usize, foldhash::fast::FixedState>,
}

struct FieldPlan {
    name: SmolStr,
    /// `"name":`, as almost every producer writes it.
    opening: Box<[u8]>,
    nullable: bool,
    plan: Plan,
}

impl Plan {
    fn of(ty: &Type) -> Plan {
        match ty {
            Type::Any => Plan::Any,
            Type::Null => Plan::Null,
            Type::Bool => Plan::Bool,
            Type::Int => Plan::Int,
            Type::Uint => Plan::Uint,
            Type::Double => Plan::Double,
            Type::String => Plan::String,
            Type::Bytes => Plan::Bytes,
            Type::Decimal => Plan::Decimal,
            Type::Timestamp => Plan::Timestamp,
            Type::Duration => Plan::Duration,
            Type::List(of) => Plan::List(Box::new(Plan::of(of))),
            Type::Map(key, value) => Plan::Map(Type::clone(key), Box::new(Plan::of(value))),
            Type::Object(shape) => Plan::Object(Box::new(ObjectPlan::of(shape))),
            Type::Nullable(of) => Plan::Nullable(Box::new(Plan::of(of))),
            Type::Optional(of) => Plan::Optional(Box::new(Plan::of(of))),
            Type::Type => Plan::None(Type::Type),
        }
    }

    /// Reads into a place that holds null. In place, because a value is five words: handing it up level by level as a result
    /// cost a third of the time of the whole decoder.
    fn read(&self, scanner: &mut Scanner<'_>, into: &mut Value) -> Outcome<()> {
        *into = match self {
            Plan::String => match scanner.peek() {
                Some(b'"') => Value::String(SmolStr::new(scanner.string()?)),
                _ => return Err(scanner.wrong_type("string")),
            },
            Plan::Decimal => decimal(scanner)?,
            Plan::Timestamp => timestamp(scanner)?,
            Plan::Int => int(scanner)?,
            Plan::Uint => uint(scanner)?,
            Plan::Double => double(scanner)?,
            Plan::Bool => boolean(scanner)?,
            Plan::Nullable(_) | Plan::Null if scanner.peek() == Some(b'n') => null(scanner)?,
            Plan::Nullable(plan) => return plan.read(scanner, into),
            Plan::Optional(plan) => optional(plan, scanner)?,
            Plan::Object(plan) => Value::Object(plan.read(scanner)?),
            Plan::List(plan) => list(plan, scanner)?,
            Plan::Map(key, plan) => map(key, plan, scanner)?,
            Plan::Bytes => bytes(scanner)?,
            Plan::Duration => duration(scanner)?,
            Plan::Null => return Err(scanner.wrong_type("null")),
            Plan::Any => any(scanner)?,
            Plan::None(ty) => return Err(scanner.wrong_type(&ty.to_string())),
        };
        Ok(())
    }
}

impl ObjectPlan {
    fn of(shape: &Arc<Shape>) -> ObjectPlan {
        let field = |field: &Field| FieldPlan {
            name: field.name.clone(),
            opening: [&serde_json::to_vec(field.name.as_str()).unwrap_or_default()[..], b":"].concat().into(),
            nullable: matches!(field.ty, Type::Nullable(_) | Type::Any | Type::Null | Type::Optional(_)),
            plan: Plan::of(&field.ty),
        };
        let fields: Vec<FieldPlan> = shape.fields.iter().map(field).collect();
        let by_name = fields.iter().enumerate().map(|(slot, field)| (field.name.clone(), slot));
        let slots_by_name = if fields.len() > LINEAR_FIELDS_MAX { by_name.collect() } else { HashMap::default() };
        ObjectPlan { shape: Arc::clone(shape), fields, slots_by_name }
    }

    fn slot(&self, name: &str) -> Option<usize> {
        if self.slots_by_name.is_empty() {
            return self.fields.iter().position(|field| field.name == name);
        }
        self.slots_by_name.get(name).copied()
    }

    fn read(&self, scanner: &mut Scanner<'_>) -> Outcome<Object> {
        if scanner.peek() != Some(b'{') {
            return Err(scanner.wrong_type("object"));
        }
        let start = scanner.at();
        scanner.open()?;
        // One allocation, filled in place.
        let mut slots: Arc<[Value]> = self.fields.iter().map(|_| Value::Null).collect();
        #[expect(clippy::expect_used, reason = "nobody else has seen the new allocation")]
        let values = Arc::get_mut(&mut slots).expect("the slots are not shared yet");
        if !scanner.is_empty(b'}') {
            self.read_members(scanner, values)?;
        }
        self.check_missing(values, start)?;
        Ok(Object { shape: Arc::clone(&self.shape), slots })
    }

    fn read_members(&self, scanner: &mut Scanner<'_>, values: &mut [Value]) -> Outcome<()> {
        // A producer writes its fields in the same order each time, and mostly in the order in which people list them.
        let mut expected = 0;
        loop {
            let slot = match self.fields.get(expected) {
                Some(field) if scanner.take(&field.opening) => Some(expected),
                _ => {
                    let name = scanner.name()?;
                    self.slot(&name)
                }
            };
            match slot {
                Some(slot) => {
                    let field = &self.fields[slot];
                    field.plan.read(scanner, &mut values[slot]).map_err(|bad| bad.in_field(&field.name))?;
                    expected = slot + 1;
                }
                None => scanner.skip_value()?,
            }
            if !scanner.has_more(b'}')? {
                return Ok(());
            }
        }
    }

    /// A field that may not be null never reads as null, so null means that it was not there.
    fn check_missing(&self, values: &[Value], start: usize) -> Outcome<()> {
        for (field, value) in self.fields.iter().zip(values) {
            if value.is_null() && !field.nullable {
                let what = "missing, and not declared `optional`";
                return Err(Bad::new("missing_field", what, start).in_field(&field.name));
            }
        }
        Ok(())
    }
}

fn null(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    scanner.literal("null").map(|()| Value::Null)
}

fn boolean(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    match scanner.peek() {
        Some(b't') => scanner.literal("true").map(|()| Value::Bool(true)),
        Some(b'f') => scanner.literal("false").map(|()| Value::Bool(false)),
        _ => Err(scanner.wrong_type("bool")),
    }
}

/// What is missing reads as null: only an expression makes `optional.none()` of it.
fn optional(plan: &Plan, scanner: &mut Scanner<'_>) -> Outcome<Value> {
    if scanner.peek() == Some(b'n') {
        return null(scanner).map(|_| Value::Optional(None));
    }
    let mut value = Value::Null;
    plan.read(scanner, &mut value)?;
    Ok(Value::Optional(Some(Arc::new(value))))
}

#[cold]
fn out_of_range(ty: &str, text: &str, at: usize) -> Box<Bad> {
    Bad::new("number_out_of_range", format!("out of the range of {ty}: {}", excerpt(text)), at)
}

/// A number, or a text that holds one.
fn number_text<'a, T>(scanner: &mut Scanner<'a>, expected: &'static str, read: impl Fn(&str) -> Result<T, NotANumber>) -> Outcome<T> {
    let first = scanner.peek();
    let at = scanner.at();
    let outcome = match first {
        Some(b'-' | b'0'..=b'9') => {
            let number = scanner.number()?;
            read(number.text).map_err(|problem| (problem, number.text.to_owned()))
        }
        Some(b'"') => {
            let text = scanner.string()?;
            read(&text).map_err(|problem| (problem, text.into_owned()))
        }
        _ => return Err(scanner.wrong_type(expected)),
    };
    outcome.map_err(|(problem, text)| match problem {
        NotANumber::OutOfRange => out_of_range(expected, &text, at),
        NotANumber::Malformed => {
            scanner.rewind(at);
            scanner.wrong_type(expected)
        }
    })
}

fn decimal(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    number_text(scanner, "decimal", parse_decimal).map(Value::Decimal)
}

fn int(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    if let Some(b'-' | b'0'..=b'9') = scanner.peek() {
        let at = scanner.at();
        if let Some(small) = scanner.number()?.small {
            return Ok(Value::Int(small));
        }
        scanner.rewind(at);
    }
    number_text(scanner, "int", |text| whole(text, parse_int, ToPrimitive::to_i64)).map(Value::Int)
}

fn uint(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    number_text(scanner, "uint", |text| whole(text, parse_uint, ToPrimitive::to_u64)).map(Value::Uint)
}

/// JSON does not tell `5` from `5.0` or `5e0`, and some writers make the one of the other.
fn whole<T>(text: &str, plain: impl Fn(&str) -> Result<T, NotANumber>, narrow: impl Fn(&Decimal) -> Option<T>) -> Result<T, NotANumber> {
    match plain(text) {
        Err(NotANumber::Malformed) => {
            let number = parse_decimal(text)?;
            if number.fract().is_zero() { narrow(&number).ok_or(NotANumber::OutOfRange) } else { Err(NotANumber::Malformed) }
        }
        other => other,
    }
}

fn double(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    match scanner.peek() {
        Some(b'-' | b'0'..=b'9') => {
            let at = scanner.at();
            let text = scanner.number()?.text;
            finite(text, at).map(Value::Double)
        }
        _ => Err(scanner.wrong_type("double")),
    }
}

/// What overflows reads as infinity in Rust; JSON has none.
fn finite(text: &str, at: usize) -> Outcome<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| out_of_range("double", text, at))
}

fn timestamp(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    const EXPECTED: &str = "timestamp (RFC 3339, or milliseconds since 1970)";
    let first = scanner.peek();
    let at = scanner.at();
    match first {
        Some(b'-' | b'0'..=b'9') => {
            let number = scanner.number()?;
            if let Some(time) = number.small {
                return Timestamp::from_ms(Time(time)).map(Value::Timestamp).ok_or_else(|| out_of_range("timestamp", number.text, at));
            }
            if number.integral {
                return Err(out_of_range("timestamp", number.text, at));
            }
        }
        Some(b'"') => {
            let text = scanner.string()?;
            if let Some(timestamp) = Timestamp::parse(&text) {
                return Ok(Value::Timestamp(timestamp));
            }
        }
        _ => {}
    }
    scanner.rewind(at);
    Err(scanner.wrong_type(EXPECTED))
}

fn duration(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    if scanner.peek() == Some(b'"') {
        let at = scanner.at();
        if let Some(span) = parse_duration(&scanner.string()?) {
            return Ok(Value::Duration(span));
        }
        scanner.rewind(at);
    }
    Err(scanner.wrong_type("duration such as \"1.5s\" or \"1h30m\""))
}

fn bytes(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    if scanner.peek() == Some(b'"') {
        let at = scanner.at();
        if let Ok(decoded) = BASE64.decode(scanner.string()?.as_bytes()) {
            return Ok(Value::Bytes(Bytes::from(decoded)));
        }
        scanner.rewind(at);
    }
    Err(scanner.wrong_type("bytes in base64"))
}

fn list(plan: &Plan, scanner: &mut Scanner<'_>) -> Outcome<Value> {
    if scanner.peek() != Some(b'[') {
        return Err(scanner.wrong_type("list"));
    }
    scanner.open()?;
    let mut items = Vec::new();
    if !scanner.is_empty(b']') {
        loop {
            let mut item = Value::Null;
            plan.read(scanner, &mut item).map_err(|bad| bad.in_item(items.len()))?;
            items.push(item);
            if !scanner.has_more(b']')? {
                break;
            }
        }
    }
    Ok(Value::List(items.into()))
}

fn map(key_type: &Type, plan: &Plan, scanner: &mut Scanner<'_>) -> Outcome<Value> {
    if scanner.peek() != Some(b'{') {
        return Err(scanner.wrong_type("map"));
    }
    scanner.open()?;
    let mut entries = BTreeMap::new();
    if !scanner.is_empty(b'}') {
        loop {
            let at = scanner.at();
            let name = scanner.name()?;
            let Some(key) = map_key(key_type, &name) else {
                let found = excerpt(&name);
                return Err(Bad::new("wrong_type", format!("expected a name that is {key_type}, found {found}"), at));
            };
            let mut value = Value::Null;
            plan.read(scanner, &mut value).map_err(|bad| bad.in_field(&name))?;
            entries.insert(key, value);
            if !scanner.has_more(b'}')? {
                break;
            }
        }
    }
    Ok(Value::Map(Arc::new(entries)))
}

/// JSON names are texts; a map of other keys has them written out.
fn map_key(ty: &Type, name: &str) -> Option<MapKey> {
    match ty {
        Type::Bool => name.parse().ok().map(MapKey::Bool),
        Type::Int => parse_int(name).ok().map(MapKey::Int),
        Type::Uint => parse_uint(name).ok().map(MapKey::Uint),
        _ => Some(MapKey::String(SmolStr::new(name))),
    }
}

/// A value of unknown type. Whole numbers are `int`, or `uint` where they are too large; other numbers are `double`.
///
/// Recursion: as deep as the data, which the scanner bounds by [`super::scan::DEPTH_MAX`].
fn any(scanner: &mut Scanner<'_>) -> Outcome<Value> {
    let first = scanner.peek();
    let at = scanner.at();
    match first {
        Some(b'"') => Ok(Value::String(SmolStr::new(scanner.string()?))),
        Some(b'-' | b'0'..=b'9') => {
            let number = scanner.number()?;
            match number.small {
                Some(small) => Ok(Value::Int(small)),
                None if number.integral => match (parse_int(number.text), parse_uint(number.text)) {
                    (Ok(int), _) => Ok(Value::Int(int)),
                    (_, Ok(uint)) => Ok(Value::Uint(uint)),
                    _ => Err(out_of_range("int and uint", number.text, at)),
                },
                None => finite(number.text, at).map(Value::Double),
            }
        }
        Some(b't' | b'f') => boolean(scanner),
        Some(b'n') => null(scanner),
        Some(b'[') => list(&Plan::Any, scanner),
        Some(b'{') => map(&Type::String, &Plan::Any, scanner),
        _ => Err(scanner.wrong_type("a value")),
    }
}
