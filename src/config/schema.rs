//! The language as a JSON Schema (draft 2020-12), for editors: completion, descriptions, and marks under what is wrong.
//!
//! Written from the table in `keys`, so it knows every key and its description. It is a little wider than the language: what an
//! expression means and what a name refers to is said by `check` alone.

use std::collections::BTreeMap;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::config::keys::Block;
use crate::config::keys::Choice;
use crate::config::keys::EXPECTATIONS;
use crate::config::keys::FILE;
use crate::config::keys::Form;
use crate::config::keys::NameKind;
use crate::config::keys::Need;
use crate::config::keys::SEND;
use crate::config::keys::STEP;

/// The schema of a topology file.
pub fn json_schema() -> Value {
    let mut schema = Schema { blocks: BTreeMap::new() };
    let file = schema.block(&FILE);
    schema.named(&SEND);
    for block in EXPECTATIONS {
        schema.named(block);
    }
    let step = schema.block(&STEP);
    schema.blocks.insert(name_of(&STEP), step_with_data(step));
    let Value::Object(mut root) = file else { return Value::Null };
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("Millstream topology"));
    root.insert("$defs".to_owned(), Value::Object(schema.blocks.into_iter().collect()));
    Value::Object(root)
}

/// `send` and `expect` take several forms, told apart by their keys.
fn step_with_data(mut step: Value) -> Value {
    let reference = |block: &Block| json!({ "$ref": format!("#/$defs/{}", name_of(block)) });
    let mut expectations: Vec<Value> = Vec::new();
    expectations.extend(EXPECTATIONS.iter().map(|block| reference(block)));
    let short = json!({ "type": "object", "minProperties": 1, "maxProperties": 1, "not": { "required": ["to"] } });
    step["properties"]["send"]["anyOf"] = json!([reference(&SEND), short]);
    step["properties"]["expect"]["anyOf"] = Value::Array(expectations);
    step["minProperties"] = json!(1);
    step["maxProperties"] = json!(1);
    step
}

struct Schema {
    blocks: BTreeMap<String, Value>,
}

impl Schema {
    fn block(&mut self, block: &'static Block) -> Value {
        let mut properties = Map::new();
        let mut required: Vec<&str> = Vec::new();
        for key in block.keys {
            match key.need {
                Need::Later(_) => continue,
                Need::Required => required.push(key.name),
                Need::Optional | Need::Default(_) => {}
            }
            let mut property = self.form(&key.form);
            let description = match key.need {
                Need::Default(value) => format!("{} Default: {value}", key.summary),
                _ => key.summary.to_owned(),
            };
            property["description"] = Value::String(description);
            properties.insert(key.name.to_owned(), property);
        }
        let mut schema = json!({ "type": "object", "description": block.summary, "properties": properties, "additionalProperties": false });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// A reference to a block, which is written once.
    fn named(&mut self, block: &'static Block) -> Value {
        let name = name_of(block);
        if !self.blocks.contains_key(&name) {
            // Stands in while the block is written: blocks do not contain themselves today, but might.
            self.blocks.insert(name.clone(), Value::Null);
            let schema = self.block(block);
            self.blocks.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    fn form(&mut self, form: &'static Form) -> Value {
        match form {
            // `true`, `1` and `null` are expressions too, and YAML reads them as what they are.
            Form::Expression => json!({ "type": ["string", "number", "boolean", "null"] }),
            Form::Template | Form::Reference => json!({ "type": "string" }),
            Form::Text => json!({ "type": ["string", "number", "boolean"] }),
            Form::Topic => json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,200}$" }),
            Form::Duration => json!({ "type": "string", "pattern": "^([0-9]+(d|h|ms|m|s))+$" }),
            Form::Moment => json!({ "type": ["string", "integer"] }),
            Form::Count(min, max) if *max == u64::MAX => json!({ "type": "integer", "minimum": min }),
            Form::Count(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
            Form::Flag => json!({ "type": "boolean" }),
            Form::Choice(choices) => choice(choices),
            Form::Type => {
                self.blocks.entry("type".to_owned()).or_insert_with(
                    || json!({ "anyOf": [{ "type": "string" }, { "type": "object", "additionalProperties": { "$ref": "#/$defs/type" } }] }),
                );
                json!({ "$ref": "#/$defs/type" })
            }
            Form::Data => json!({}),
            Form::Block(block) => self.named(block),
            Form::Names(kind, form) => {
                let values = self.form(form);
                let mut schema = json!({ "type": "object", "additionalProperties": values });
                match kind {
                    NameKind::Thing => schema["propertyNames"] = json!({ "pattern": "^[a-z][a-z0-9_]{0,63}$" }),
                    NameKind::Field => schema["propertyNames"] = json!({ "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }),
                    NameKind::Free => {}
                }
                schema
            }
            Form::List(form) => json!({ "type": "array", "items": self.form(form) }),
            Form::Either(forms) => json!({ "anyOf": forms.iter().map(|form| self.form(form)).collect::<Vec<_>>() }),
        }
    }
}

fn choice(choices: &[Choice]) -> Value {
    let there: Vec<&Choice> = choices.iter().filter(|choice| choice.later.is_none()).collect();
    let meanings: Vec<String> = there.iter().map(|choice| format!("{}: {}", choice.name, choice.summary)).collect();
    json!({ "enum": there.iter().map(|choice| choice.name).collect::<Vec<_>>(), "$comment": meanings.join("; ") })
}

/// `a source of a table` becomes `source_of_a_table`.
fn name_of(block: &Block) -> String {
    let name = block.name.trim_start_matches("an ").trim_start_matches("a ");
    name.chars().filter(|c| *c != '`').map(|c| if c == ' ' { '_' } else { c }).collect()
}
