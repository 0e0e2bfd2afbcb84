//! A node as a JSON value: what a test sends and expects.
//!
//! Unquoted scalars are null, booleans and numbers as YAML 1.2's core schema has them; all others are text. So a timestamp and
//! `no` stay text. Numbers keep the digits as written: `9.90` is sent as `9.90`.

use serde_json::Map;
use serde_json::Value;

use crate::config::diagnostic::Place;
use crate::config::yaml::Node;
use crate::config::yaml::Scalar;
use crate::config::yaml::Style;
use crate::config::yaml::Yaml;

/// A value of a test.
#[derive(Clone, PartialEq, Debug)]
pub struct Data {
    pub at: Place,
    pub value: Value,
    /// The same as JSON text, with numbers as they are written: this is what `send` sends.
    pub text: String,
    /// Where the keys of a map stand; empty for other values.
    pub keys: Vec<(String, Place)>,
}

impl Data {
    pub fn of(node: &Node) -> Data {
        let mut text = String::new();
        write(node, &mut text);
        let keys = match &node.value {
            Yaml::Mapping(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.key_at)).collect(),
            _ => Vec::new(),
        };
        Data { at: node.at, value: value(node), text, keys }
    }
}

/// Bounded by the depth of the file (`yaml::DEPTH_MAX`), so it may call itself.
fn value(node: &Node) -> Value {
    match &node.value {
        Yaml::Broken => Value::Null,
        Yaml::Sequence(items) => Value::Array(items.iter().map(value).collect()),
        Yaml::Mapping(entries) => {
            Value::Object(entries.iter().map(|entry| (entry.key.clone(), value(&entry.value))).collect::<Map<_, _>>())
        }
        Yaml::Scalar(scalar) => scalar_value(scalar),
    }
}

fn scalar_value(scalar: &Scalar) -> Value {
    let text = scalar.text.as_str();
    match (scalar.style, text) {
        (Style::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        (Style::Plain, "true" | "True" | "TRUE") => Value::Bool(true),
        (Style::Plain, "false" | "False" | "FALSE") => Value::Bool(false),
        (Style::Plain, _) if is_number(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    }
}

/// Whether the text is a number as JSON writes it. `007`, `0x1f`, `.5` and `1e999` are text.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

fn write(node: &Node, out: &mut String) {
    match &node.value {
        Yaml::Broken => out.push_str("null"),
        Yaml::Sequence(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Yaml::Mapping(entries) => {
            out.push('{');
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(entry.key.clone()).to_string());
                out.push(':');
                write(&entry.value, out);
            }
            out.push('}');
        }
        Yaml::Scalar(scalar) if scalar.style == Style::Plain && is_number(&scalar.text) => out.push_str(&scalar.text),
        Yaml::Scalar(scalar) => out.push_str(&scalar_value(scalar).to_string()),
    }
}
