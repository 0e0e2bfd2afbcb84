//! Reads our own cases; `README.md` beside them says how they are written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream::expression::CompileOptions;
use millstream::model::{Field, MapKey, Object, Shape, Span, Timestamp, Type, Value};
use serde_json::Value as Json;

use crate::case::{Case, Expected};

pub fn read(path: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(path).expect("a file of cases");
    let file: Json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
    let mut cases = Vec::new();
    for (section, list) in file.as_object().expect("sections") {
        for (i, row) in list.as_array().expect("cases").iter().enumerate() {
            cases.push(case(format!("{stem}/{section}/{i}"), row));
        }
    }
    cases
}

/// `[expression, expected]` or `[expression, expected, {vars, unchecked, container, type}]`; expected `{"error": "words"}`.
fn case(name: String, row: &Json) -> Case {
    let row = row.as_array().unwrap_or_else(|| panic!("{name}: a case is a list"));
    let expression = row[0].as_str().expect("an expression").to_owned();
    let more = row.get(2);
    let mut variables = Vec::new();
    for (variable, pair) in more.and_then(|more| more.get("vars")).and_then(Json::as_object).into_iter().flatten() {
        let ty = type_of(pair[0].as_str().expect("a type"));
        variables.push((variable.clone(), ty.clone(), value_of(&pair[1], &ty)));
    }
    let options = CompileOptions {
        unchecked: more.is_some_and(|more| more.get("unchecked") == Some(&Json::Bool(true))),
        container: more.and_then(|more| more.get("container")).and_then(Json::as_str).unwrap_or_default().to_owned(),
    };
    let expected = match (row[1].get("error"), row[1].get("type_only")) {
        (Some(words), _) => Expected::Error(words.as_str().map(str::to_owned)),
        (None, Some(ty)) => Expected::Type(ty.as_str().expect("a type").to_owned()),
        (None, None) => {
            let ty = more.and_then(|more| more.get("type")).and_then(Json::as_str).map(str::to_owned);
            Expected::Value(value_of(&row[1], &Type::Any), ty)
        }
    };
    Case { name, expression, variables, options, expected }
}

/// A type as topology files have it; `{name: type, ...}` for an object.
fn type_of(text: &str) -> Type {
    let text = text.trim();
    if let Some(of) = text.strip_prefix("optional ") {
        return Type::nullable(type_of(of));
    }
    if let Some(of) = text.strip_prefix("list<").and_then(|text| text.strip_suffix('>')) {
        return Type::list(type_of(of));
    }
    if let Some((key, value)) = text.strip_prefix("map<").and_then(|text| text.strip_suffix('>')).and_then(|text| text.split_once(',')) {
        return Type::map(type_of(key), type_of(value));
    }
    if let Some(fields) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let fields = fields.split(';').map(|field| field.split_once(':').expect("name: type"));
        let fields = fields.map(|(name, ty)| Field { name: name.trim().into(), ty: type_of(ty) }).collect();
        return Type::Object(Arc::new(Shape { fields }));
    }
    match text {
        "any" => Type::Any,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "decimal" => Type::Decimal,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        other => panic!("no type `{other}`"),
    }
}

fn value_of(json: &Json, ty: &Type) -> Value {
    match (json, ty.strip_nullable()) {
        (Json::Object(fields), Type::Object(shape)) => {
            let slots =
                shape.fields.iter().map(|field| fields.get(field.name.as_str()).map_or(Value::Null, |value| value_of(value, &field.ty)));
            Value::Object(Object { shape: shape.clone(), slots: slots.collect() })
        }
        (Json::Null, _) => Value::Null,
        (Json::Bool(value), _) => Value::Bool(*value),
        (Json::Number(number), _) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Double(number.as_f64().expect("a number")),
        },
        (Json::String(text), _) => Value::string(text.as_str()),
        (Json::Array(list), _) => Value::List(list.iter().map(|element| value_of(element, &Type::Any)).collect()),
        (Json::Object(tagged), _) => {
            let (tag, content) = tagged.iter().next().expect("a tag");
            tagged_value(tag, content)
        }
    }
}

fn tagged_value(tag: &str, content: &Json) -> Value {
    let text = || content.as_str().unwrap_or_else(|| panic!("`{tag}` needs a text"));
    match tag {
        "int" => Value::Int(text().parse().expect("an int")),
        "uint" => Value::Uint(text().parse().expect("a uint")),
        "double" => Value::Double(text().parse().expect("a double")),
        "decimal" => Value::Decimal(text().parse().expect("a decimal")),
        "bytes" => Value::Bytes((0..text().len() / 2).map(|i| u8::from_str_radix(&text()[2 * i..2 * i + 2], 16).expect("hex")).collect()),
        "timestamp" => Value::Timestamp(Timestamp::parse(text()).expect("a timestamp")),
        "duration_ns" => Value::Duration(Span { nanos: text().parse().expect("nanoseconds") }),
        "type" => Value::Type(match text() {
            "list" => Type::list(Type::Any),
            "map" => Type::map(Type::Any, Type::Any),
            "optional" => Type::Optional(Arc::new(Type::Any)),
            "type" => Type::Type,
            other => type_of(other),
        }),
        "some" => Value::Optional(Some(Arc::new(value_of(content, &Type::Any)))),
        "none" => Value::Optional(None),
        // Keys and values in turn.
        "map" => {
            let list = content.as_array().expect("keys and values");
            let entries = list.chunks(2).map(|pair| {
                let key = match value_of(&pair[0], &Type::Any) {
                    Value::Bool(key) => MapKey::Bool(key),
                    Value::Int(key) => MapKey::Int(key),
                    Value::Uint(key) => MapKey::Uint(key),
                    Value::String(key) => MapKey::String(key),
                    other => panic!("no key {other:?}"),
                };
                (key, value_of(&pair[1], &Type::Any))
            });
            Value::Map(Arc::new(entries.collect::<BTreeMap<_, _>>()))
        }
        other => panic!("no tag `{other}`"),
    }
}
