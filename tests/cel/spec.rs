//! The specification's conformance data (`google/cel-spec`, `tests/simple/testdata/*.textproto`), read where it is at hand.
//!
//! What needs protobuf is left out by what the case contains; a few cases are left out by name, each for a reason. A case that
//! is left out by name and passes is a failure, so that the list stays true.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use millstream::expression::CompileOptions;
use millstream::model::{MapKey, Span, Timestamp, Type, Value};

use crate::case::{Case, Expected};
use crate::textproto::{Field, Message, read};

/// Cases that are left out, by `file/section/name` or a beginning of it.
const LEFT_OUT: &[(&str, &str)] = &[("network_ext/", "need the network extension (IP addresses), which the language does not have")];

/// What is in a case that cannot be had without protobuf.
const PROTOBUF: &[&str] = &[
    "TestAllTypes",
    "TestRequired",
    "GlobalEnum",
    "Value{",
    "Struct{",
    "Any{",
    "Empty{",
    "Timestamp{",
    "Duration{",
    "FieldMask{",
    "proto.hasExt",
    "proto.getExt",
];

#[derive(Default)]
pub struct Outcome {
    pub passed: usize,
    pub failed: Vec<String>,
    /// How many were left out for which reason.
    pub left_out: BTreeMap<&'static str, usize>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left_out: usize = self.left_out.values().sum();
        writeln!(f, "{} passed, {} failed, {left_out} left out:", self.passed, self.failed.len())?;
        for (reason, count) in &self.left_out {
            writeln!(f, "  {count} {reason}")?;
        }
        Ok(())
    }
}

pub fn run(folder: &Path) -> Outcome {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder of the data").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "textproto"));
    files.sort();
    assert!(!files.is_empty(), "no data in {}", folder.display());
    let mut outcome = Outcome::default();
    for path in files {
        let source = std::fs::read_to_string(&path).expect("a file of the data");
        let file = read(&source);
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        for section in file.messages("section") {
            for test in section.messages("test") {
                let name = format!("{stem}/{}/{}", section.text("name").unwrap_or_default(), test.text("name").unwrap_or_default());
                one(name, test, &mut outcome);
            }
        }
    }
    outcome
}

fn one(name: String, test: &Message, outcome: &mut Outcome) {
    let by_name = LEFT_OUT.iter().find(|(start, _)| name.starts_with(start));
    let case = match case(name, test) {
        Ok(case) => case,
        Err(reason) => {
            *outcome.left_out.entry(reason).or_default() += 1;
            return;
        }
    };
    match (case.run(), by_name) {
        (Ok(()), None) => outcome.passed += 1,
        // An expected error also comes of not knowing the function at all.
        (Ok(()), Some(_)) if !matches!(case.expected, Expected::Error(_)) => {
            outcome.failed.push(format!("{}: is left out, but passes", case.name))
        }
        (Ok(()), Some((_, reason))) => *outcome.left_out.entry(reason).or_default() += 1,
        (Err(_), Some((_, reason))) => *outcome.left_out.entry(reason).or_default() += 1,
        (Err(message), None) => outcome.failed.push(message),
    }
}

const MESSAGES: &str = "need protobuf messages";
const FUNCTIONS: &str = "declare functions of their own";

fn case(name: String, test: &Message) -> Result<Case, &'static str> {
    let expression = test.text("expr").unwrap_or_default();
    if PROTOBUF.iter().any(|part| expression.contains(part)) {
        return Err(MESSAGES);
    }
    let mut types = BTreeMap::new();
    for declaration in test.messages("type_env") {
        let Some(ident) = declaration.message("ident") else {
            return Err(FUNCTIONS);
        };
        let ty = ident.message("type").map_or(Ok(Type::Any), type_of)?;
        types.insert(declaration.text("name").unwrap_or_default(), ty);
    }
    let mut values = BTreeMap::new();
    for binding in test.messages("bindings") {
        let bound = binding.message("value").and_then(|value| value.message("value")).ok_or(MESSAGES)?;
        values.insert(binding.text("key").unwrap_or_default(), value_of(bound)?);
    }
    let names: Vec<String> = types.keys().chain(values.keys().filter(|name| !types.contains_key(*name))).cloned().collect();
    let variables = names.into_iter().map(|name| {
        let ty = types.get(&name).cloned().unwrap_or(Type::Any);
        let value = values.get(&name).cloned().unwrap_or(Value::Null);
        (name, ty, value)
    });
    let options =
        CompileOptions { unchecked: test.word("disable_check") == Some("true"), container: test.text("container").unwrap_or_default() };
    Ok(Case { name, expression, variables: variables.collect(), options, expected: expected(test)? })
}

fn expected(test: &Message) -> Result<Expected, &'static str> {
    if let Some(typed) = test.message("typed_result") {
        let ty = typed.message("deduced_type").map(type_of).transpose()?.map(|ty| ty.to_string());
        return Ok(match (typed.message("result"), ty) {
            (Some(result), ty) => Expected::Value(value_of(result)?, ty),
            (None, Some(ty)) => Expected::Type(ty),
            (None, None) => return Err("say nothing"),
        });
    }
    if let Some(value) = test.message("value") {
        return Ok(Expected::Value(value_of(value)?, None));
    }
    if test.has("eval_error") || test.has("any_eval_errors") {
        return Ok(Expected::Error(None));
    }
    if test.has("unknown") || test.has("any_unknowns") {
        return Err("are about unknown values");
    }
    Ok(Expected::Value(Value::Bool(true), None))
}

fn type_of(ty: &Message) -> Result<Type, &'static str> {
    let primitive = |word: &str| match word {
        "BOOL" => Type::Bool,
        "INT64" => Type::Int,
        "UINT64" => Type::Uint,
        "DOUBLE" => Type::Double,
        "STRING" => Type::String,
        "BYTES" => Type::Bytes,
        other => panic!("no primitive type {other}"),
    };
    if let Some(word) = ty.word("primitive") {
        return Ok(primitive(word));
    }
    if let Some(word) = ty.word("wrapper") {
        return Ok(Type::nullable(primitive(word)));
    }
    if let Some(word) = ty.word("well_known") {
        return Ok(match word {
            "TIMESTAMP" => Type::Timestamp,
            "DURATION" => Type::Duration,
            _ => Type::Any,
        });
    }
    if ty.has("dyn") {
        return Ok(Type::Any);
    }
    if ty.has("null") {
        return Ok(Type::Null);
    }
    let inner = |message: &Message, field: &str| message.message(field).map_or(Ok(Type::Any), type_of);
    if let Some(list) = ty.message("list_type") {
        return Ok(Type::list(inner(list, "elem_type")?));
    }
    if let Some(map) = ty.message("map_type") {
        return Ok(Type::map(inner(map, "key_type")?, inner(map, "value_type")?));
    }
    if let Some(of) = ty.message("abstract_type").filter(|of| of.text("name").as_deref() == Some("optional_type")) {
        return Ok(Type::Optional(Arc::new(inner(of, "parameter_types")?)));
    }
    match ty.text("message_type").as_deref() {
        Some("google.protobuf.Timestamp") => Ok(Type::Timestamp),
        Some("google.protobuf.Duration") => Ok(Type::Duration),
        _ => Err(MESSAGES),
    }
}

fn value_of(value: &Message) -> Result<Value, &'static str> {
    let Some((kind, fields)) = value.0.first_key_value() else {
        return Err("say nothing");
    };
    Ok(match (kind.as_str(), &fields[0]) {
        ("bool_value", Field::Word(word)) => Value::Bool(word == "true"),
        ("int64_value", Field::Word(word)) => Value::Int(word.parse().expect("an int")),
        ("uint64_value", Field::Word(word)) => Value::Uint(word.parse().expect("a uint")),
        ("double_value", Field::Word(word)) => Value::Double(word.parse().expect("a double")),
        ("null_value", _) => Value::Null,
        ("string_value", Field::Bytes(bytes)) => Value::string(String::from_utf8(bytes.clone()).expect("UTF-8")),
        ("bytes_value", Field::Bytes(bytes)) => Value::Bytes(bytes.clone().into()),
        ("type_value", Field::Bytes(bytes)) => Value::Type(type_named(std::str::from_utf8(bytes).expect("UTF-8")).ok_or(MESSAGES)?),
        ("list_value", Field::Message(list)) => Value::List(list.messages("values").map(value_of).collect::<Result<Vec<_>, _>>()?.into()),
        ("map_value", Field::Message(map)) => {
            let mut entries = BTreeMap::new();
            for entry in map.messages("entries") {
                let key = match value_of(entry.message("key").expect("a key"))? {
                    Value::Bool(key) => MapKey::Bool(key),
                    Value::Int(key) => MapKey::Int(key),
                    Value::Uint(key) => MapKey::Uint(key),
                    Value::String(key) => MapKey::String(key),
                    other => panic!("no key {other:?}"),
                };
                entries.insert(key, value_of(entry.message("value").expect("a value"))?);
            }
            Value::Map(Arc::new(entries))
        }
        ("object_value", Field::Message(object)) => object_of(object)?,
        _ => return Err(MESSAGES),
    })
}

fn object_of(object: &Message) -> Result<Value, &'static str> {
    let number = |message: &Message, field: &str| message.word(field).map_or(0, |word| word.parse::<i64>().expect("a number"));
    if let Some(time) = object.message("[type.googleapis.com/google.protobuf.Timestamp]") {
        return Ok(Value::Timestamp(Timestamp::new(number(time, "seconds"), number(time, "nanos") as u32).expect("a timestamp")));
    }
    if let Some(span) = object.message("[type.googleapis.com/google.protobuf.Duration]") {
        return Ok(Value::Duration(Span { nanos: number(span, "seconds") * 1_000_000_000 + number(span, "nanos") }));
    }
    Err(MESSAGES)
}

fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "type" => Type::Type,
        "list" => Type::list(Type::Any),
        "map" => Type::map(Type::Any, Type::Any),
        "optional_type" => Type::Optional(Arc::new(Type::Any)),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        _ => return None,
    })
}
