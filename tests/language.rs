//! The manual, the JSON Schema and the reader say the same: every complete file in `docs/language.md` passes `check`, and the
//! schema accepts what the reader accepts and refuses what is wrong in shape.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use millstream::config::data::Data;
use millstream::config::diagnostic::Diagnostics;
use millstream::config::diagnostic::SourceText;
use millstream::config::keys::Block;
use millstream::config::keys::EXPECTATIONS;
use millstream::config::keys::FILE;
use millstream::config::keys::Form;
use millstream::config::keys::Need;
use millstream::config::keys::SEND;
use millstream::config::render::Look;
use millstream::config::render::render;
use millstream::config::schema::json_schema;
use millstream::config::yaml;
use millstream::testkit::scenario;
use millstream::topology;
use regex::Regex;
use serde_json::Value;
use serde_json::json;

const MANUAL: &str = include_str!("../docs/language.md");

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The complete files in the manual.
fn manual_files() -> Vec<&'static str> {
    let files: Vec<&str> = MANUAL.split("```yaml topology\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(files.len() >= 8, "found only {}", files.len());
    files
}

/// All topology files that are right.
fn good_files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> =
        manual_files().iter().enumerate().map(|(n, text)| (format!("manual {n}"), (*text).to_owned())).collect();
    for folder in ["topologies", "tests/diagnostics"] {
        for entry in fs::read_dir(path(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".fixed.yaml") || (folder == "topologies" && name.ends_with(".yaml")) {
                files.push((name.clone(), fs::read_to_string(path(folder).join(&name)).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn every_file_in_the_manual_passes_check() {
    for (number, text) in manual_files().iter().enumerate() {
        let (loaded, diagnostics) = topology::load(text, &format!("manual, file {number}"));
        assert!(loaded.is_some() && diagnostics.is_empty(), "{}", render(&diagnostics, Look::Plain));
    }
}

#[test]
fn every_test_in_the_manual_holds() {
    let mut tests = 0;
    for (number, text) in manual_files().iter().enumerate() {
        let (loaded, diagnostics) = topology::load(text, &format!("manual, file {number}"));
        let loaded = loaded.unwrap();
        let plan = topology::plan(loaded.topology);
        for test in &loaded.spec.tests {
            tests += 1;
            if let Err(failure) = scenario::run(&plan, &diagnostics.file, test) {
                panic!("manual, file {number}, line {}: {}: {}", failure.line, test.name.value, failure.text);
            }
        }
    }
    assert!(tests >= 3, "only {tests} tests are in the manual");
}

#[test]
fn every_example_passes_check() {
    for entry in fs::read_dir(path("topologies")).unwrap() {
        let file = entry.unwrap().path();
        let (loaded, diagnostics) = topology::load(&fs::read_to_string(&file).unwrap(), &file.to_string_lossy());
        assert!(loaded.is_some() && diagnostics.is_empty(), "{}", render(&diagnostics, Look::Plain));
    }
}

/// Every key of the table is in the manual: in backticks, or in one of its files.
#[test]
fn the_manual_names_every_key() {
    let mut missing = Vec::new();
    for block in blocks() {
        for key in block.keys {
            let spelled = [format!("{}:", key.name), format!("`{}`", key.name), format!("{} ", key.name)];
            if !spelled.iter().any(|text| MANUAL.contains(text)) {
                missing.push(format!("{} of {}", key.name, block.name));
            }
        }
    }
    assert!(missing.is_empty(), "docs/language.md does not name {missing:?}");
}

/// All blocks that can be reached from a file.
fn blocks() -> Vec<&'static Block> {
    fn reach(form: &'static Form, found: &mut Vec<&'static Block>) {
        match form {
            Form::Block(block) if !found.iter().any(|known| std::ptr::eq(*known, *block)) => {
                found.push(block);
                for key in block.keys {
                    reach(&key.form, found);
                }
            }
            Form::Names(_, form) | Form::List(form) => reach(form, found),
            Form::Either(forms) => forms.iter().for_each(|form| reach(form, found)),
            _ => {}
        }
    }
    let mut found = vec![&FILE, &SEND];
    found.extend(EXPECTATIONS);
    for block in found.clone() {
        for key in block.keys {
            reach(&key.form, &mut found);
        }
    }
    found
}

#[test]
fn no_two_blocks_have_one_name() {
    let mut names: Vec<&str> = blocks().iter().map(|block| block.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "their schemas would overwrite each other");
}

#[test]
fn the_schema_accepts_every_good_file() {
    let schema = json_schema();
    for (name, text) in good_files() {
        let problems = validate(&schema, &schema, &value_of(&text), "");
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
}

#[test]
fn the_schema_refuses_what_is_wrong_in_shape() {
    let schema = json_schema();
    for code in [
        "unknown_key",
        "unknown_key.stranger",
        "missing_key",
        "missing_key.source",
        "bad_boolean",
        "unknown_choice",
        "bad_version",
        "bad_name",
        "wrong_shape",
        "wrong_shape.list",
        "bad_topic",
        "bad_duration",
        "not_yet",
        "bad_step",
        "bad_step.expect",
    ] {
        let text = fs::read_to_string(path("tests/diagnostics").join(format!("{code}.yaml"))).unwrap();
        assert!(!validate(&schema, &schema, &value_of(&text), "").is_empty(), "{code}");
    }
}

/// What comes later is not offered by an editor.
#[test]
fn the_schema_offers_no_planned_key() {
    let schema = json_schema();
    for block in blocks() {
        for key in block.keys.iter().filter(|key| matches!(key.need, Need::Later(_))) {
            let name = block.name.trim_start_matches("a ").trim_start_matches("an ").replace('`', "").replace(' ', "_");
            let properties = if block.name == FILE.name { &schema["properties"] } else { &schema["$defs"][name]["properties"] };
            assert!(properties.is_object() && properties.get(key.name).is_none(), "{} of {}", key.name, block.name);
        }
    }
}

fn value_of(text: &str) -> Value {
    let mut diagnostics = Diagnostics::new(SourceText::new("x", text));
    yaml::parse(&mut diagnostics).map_or(Value::Null, |node| Data::of(&node).value)
}

/// As much of JSON Schema as ours uses; an unknown keyword fails the test.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut wrong = |what: String| problems.push(format!("{at}: {what}"));
    let mut inner: Vec<String> = Vec::new();
    for (keyword, argument) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$defs" | "$comment" | "title" | "description" => {}
            "$ref" => {
                let name = argument.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                let target = &root["$defs"][name];
                assert!(target.is_object(), "no definition {name}");
                inner.extend(validate(root, target, value, at));
            }
            "type" => {
                let types: Vec<&str> = argument
                    .as_array()
                    .map_or_else(|| vec![argument.as_str().unwrap()], |list| list.iter().filter_map(Value::as_str).collect());
                if !types.iter().any(|name| is_of_type(value, name)) {
                    wrong(format!("{value} is not {types:?}"));
                }
            }
            "enum" if !argument.as_array().unwrap().contains(value) => wrong(format!("{value} is not one of {argument}")),
            "enum" => {}
            "anyOf" if argument.as_array().unwrap().iter().all(|option| !validate(root, option, value, at).is_empty()) => {
                wrong(format!("{value} fits nothing"))
            }
            "anyOf" => {}
            "not" if validate(root, argument, value, at).is_empty() => wrong("fits what it must not".to_owned()),
            "not" => {}
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                if value.is_string() && !Regex::new(argument.as_str().unwrap()).unwrap().is_match(text) {
                    wrong(format!("`{text}` does not match {argument}"));
                }
            }
            "minimum" if value.as_u64().is_some_and(|number| number < argument.as_u64().unwrap()) => wrong("too small".to_owned()),
            "maximum" if value.as_u64().is_some_and(|number| number > argument.as_u64().unwrap()) => wrong("too large".to_owned()),
            "minimum" | "maximum" => {}
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    inner.extend(validate(root, argument, item, &format!("{at}[{index}]")));
                }
            }
            "properties" | "additionalProperties" | "propertyNames" | "required" | "minProperties" | "maxProperties" => {}
            other => panic!("the test does not know `{other}`"),
        }
    }
    if let Value::Object(fields) = value {
        let known = &schema["properties"];
        for (name, field) in fields {
            let at = format!("{at}.{name}");
            match (known.get(name), schema.get("additionalProperties")) {
                (Some(property), _) => inner.extend(validate(root, property, field, &at)),
                (None, Some(Value::Bool(false))) => wrong(format!("no property `{name}`")),
                (None, Some(rest)) => inner.extend(validate(root, rest, field, &at)),
                (None, None) => {}
            }
            if let Some(names) = schema.get("propertyNames") {
                inner.extend(validate(root, names, &json!(name), &at));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                wrong(format!("`{name}` is missing"));
            }
        }
        let count = fields.len() as u64;
        if schema["minProperties"].as_u64().is_some_and(|min| count < min)
            || schema["maxProperties"].as_u64().is_some_and(|max| count > max)
        {
            wrong(format!("{count} properties"));
        }
    }
    problems.extend(inner);
    problems
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("no type {other}"),
    }
}
