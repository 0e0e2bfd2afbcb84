//! Runs every scenario: the tests in `topologies/` and in `tests/scenarios/`, one behaviour a file; and sees that together they
//! speak the whole language: every key, every choice, every type, every reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use millstream::config::data::Data;
use millstream::config::diagnostic::{Diagnostics, SourceText};
use millstream::config::keys::{Block, EXPECTATIONS, FILE, Form, Need, SEND, STEP, TYPES};
use millstream::config::render::{Look, render};
use millstream::config::yaml;
use millstream::operators::REASONS;
use millstream::testkit::scenario;
use millstream::topology;
use serde_json::Value;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            found.push(path);
        }
    }
}

/// Name and text of every file.
fn scenarios() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&root.join("topologies"), &mut paths);
    files(&root.join("tests/scenarios"), &mut paths);
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_scenario_holds() {
    let (mut tests, mut failures) = (0, Vec::new());
    let files = scenarios();
    for (name, text) in &files {
        let (loaded, diagnostics) = topology::load(text, name);
        if !diagnostics.is_empty() {
            failures.push(format!("{name} does not pass check:\n{}", render(&diagnostics, Look::Plain)));
        }
        let Some(loaded) = loaded else { continue };
        let plan = topology::plan(loaded.topology);
        if loaded.spec.tests.is_empty() {
            failures.push(format!("{name} has no tests"));
        }
        for test in &loaded.spec.tests {
            tests += 1;
            if let Err(failure) = scenario::run(&plan, &diagnostics.file, test) {
                let step = text.lines().nth(failure.line - 1).unwrap_or_default().trim();
                failures.push(format!("{name}:{}:{}: {}\n  {step}\n{}", failure.line, failure.column, test.name.value, failure.text));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures in {tests} tests:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(tests >= 180, "only {tests} tests were found in {} files", files.len());
}

/// STYLE: a scenario is named as a claim, and its head comment is the prose.
#[test]
fn every_scenario_says_what_it_claims() {
    for (name, text) in scenarios() {
        assert!(text.starts_with("# "), "{name} has no head comment");
        let claim = Path::new(&name).file_stem().unwrap().to_str().unwrap().to_owned();
        let is_claim = name.starts_with("topologies/") || claim.matches('_').count() >= 2;
        assert!(is_claim, "{name}: a scenario is named as a claim, such as `an_older_record_never_wins`");
    }
}

/// The lists in the code say what the language has; whatever no file uses is missing here.
#[test]
fn the_scenarios_speak_the_whole_language() {
    let mut spoken = BTreeSet::new();
    for (name, text) in scenarios() {
        let mut diagnostics = Diagnostics::new(SourceText::new(&name, &text));
        let tree = yaml::parse(&mut diagnostics).unwrap_or_else(|| panic!("{name} is not YAML"));
        hear_block(&FILE, &Data::of(&tree).value, &mut spoken);
    }
    let mut wanted = BTreeSet::new();
    let mut seen = Vec::new();
    for block in [&FILE, &SEND].into_iter().chain(EXPECTATIONS.iter().copied()) {
        want_block(block, &mut seen, &mut wanted);
    }
    wanted.extend(TYPES.iter().map(|ty| format!("type {}", ty.name)));
    wanted.extend(["type optional", "type list", "type map", "type of nested fields"].map(str::to_owned));
    wanted.extend(REASONS.iter().map(|(reason, _)| format!("reason {reason}")));
    let missing: Vec<&String> = wanted.difference(&spoken).collect();
    assert!(wanted.len() > 200, "only {} things are wanted", wanted.len());
    assert!(missing.is_empty(), "no scenario has {} of {}:\n{missing:#?}", missing.len(), wanted.len());
}

fn key_name(block: &Block, key: &str) -> String {
    format!("{key} of {}", block.name)
}

/// Everything that a block can say today.
fn want_block(block: &'static Block, seen: &mut Vec<&'static str>, wanted: &mut BTreeSet<String>) {
    if seen.contains(&block.name) {
        return;
    }
    seen.push(block.name);
    for key in block.keys.iter().filter(|key| !matches!(key.need, Need::Later(_))) {
        let name = key_name(block, key.name);
        want_form(&name, &key.form, seen, wanted);
        wanted.insert(name);
    }
}

fn want_form(name: &str, form: &'static Form, seen: &mut Vec<&'static str>, wanted: &mut BTreeSet<String>) {
    match form {
        Form::Choice(choices) => {
            let today = choices.iter().filter(|choice| choice.later.is_none());
            wanted.extend(today.map(|choice| format!("{name}: {}", choice.name)));
        }
        Form::Flag => _ = wanted.insert(format!("{name}: true")),
        Form::Block(block) => want_block(block, seen, wanted),
        Form::Names(_, form) | Form::List(form) => want_form(name, form, seen, wanted),
        Form::Either(forms) => forms.iter().for_each(|form| want_form(name, form, seen, wanted)),
        _ => {}
    }
}

/// What a block of a file says.
fn hear_block(block: &'static Block, value: &Value, spoken: &mut BTreeSet<String>) {
    let Some(entries) = value.as_object() else { return };
    for (key, value) in entries {
        let Some(known) = block.key(key) else { continue };
        let name = key_name(block, key);
        hear_form(&name, &known.form, value, spoken);
        spoken.insert(name);
        if block.name == STEP.name && key == "send" && value.get("to").is_some() {
            hear_block(&SEND, value, spoken);
        }
        if block.name == STEP.name && key == "expect" {
            let kind = EXPECTATIONS.iter().find(|kind| value.get(kind.keys[0].name).is_some());
            hear_block(kind.expect("an expectation of something"), value, spoken);
            let reason = value["dead_letter"]["reason"].as_str();
            spoken.extend(reason.map(|reason| format!("reason {reason}")));
        }
    }
}

fn hear_form(name: &str, form: &'static Form, value: &Value, spoken: &mut BTreeSet<String>) {
    match form {
        Form::Choice(choices) => {
            let chosen = choices.iter().find(|choice| value.as_str() == Some(choice.name));
            spoken.extend(chosen.map(|choice| format!("{name}: {}", choice.name)));
        }
        Form::Flag => spoken.extend(value.as_bool().map(|flag| format!("{name}: {flag}"))),
        Form::Type => hear_type(value, spoken),
        Form::Block(block) => hear_block(block, value, spoken),
        Form::Names(_, form) => value.as_object().into_iter().flatten().for_each(|(_, value)| hear_form(name, form, value, spoken)),
        Form::List(form) => value.as_array().into_iter().flatten().for_each(|value| hear_form(name, form, value, spoken)),
        Form::Either(forms) => forms.iter().for_each(|form| hear_form(name, form, value, spoken)),
        _ => {}
    }
}

fn hear_type(value: &Value, spoken: &mut BTreeSet<String>) {
    if let Some(fields) = value.as_object() {
        spoken.insert("type of nested fields".to_owned());
        fields.values().for_each(|value| hear_type(value, spoken));
    }
    for word in value.as_str().unwrap_or_default().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        spoken.insert(format!("type {word}"));
    }
}
