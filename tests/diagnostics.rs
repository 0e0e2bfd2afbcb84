//! Every kind of mistake has a file, the exact text of its diagnostics beside it, and the same file after taking the hint.
//!
//! `tests/diagnostics/<code>.yaml` or `<code>.<variant>.yaml`, with `.txt` and `.fixed.yaml`. `UPDATE=1 cargo test --test
//! diagnostics` writes the texts anew; read the difference before you commit it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use millstream::config::codes::Severity;
use millstream::config::codes::TOPOLOGY_CODES;
use millstream::config::render::Look;
use millstream::config::render::render;
use millstream::topology;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics")
}

/// The names of the files of mistakes, without `.yaml`.
fn mistakes() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .filter(|name| !name.ends_with(".fixed"))
        .collect();
    names.sort();
    names
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_default()
}

#[test]
fn every_mistake_has_its_exact_text() {
    let mut wrong = Vec::new();
    for name in mistakes() {
        let file = format!("{name}.yaml");
        let (_, diagnostics) = topology::load(&read(&file), &file);
        let text = render(&diagnostics, Look::Plain);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(folder().join(format!("{name}.txt")), &text).unwrap();
        } else if text != read(&format!("{name}.txt")) {
            wrong.push(format!("--- {name}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "these differ from their .txt (UPDATE=1 writes them):\n{}", wrong.join("\n"));
}

#[test]
fn every_mistake_is_found_and_its_hint_repairs_it() {
    let mut wrong = Vec::new();
    for name in mistakes() {
        let file = format!("{name}.yaml");
        let code = name.split('.').next().unwrap();
        let (_, diagnostics) = topology::load(&read(&file), &file);
        let found: Vec<&str> = diagnostics.sorted().iter().map(|diagnostic| diagnostic.code.id).collect();
        if code != "several" && !found.contains(&code) {
            wrong.push(format!("{file}: found {found:?}"));
        }
        let fixed = format!("{name}.fixed.yaml");
        let (loaded, diagnostics) = topology::load(&read(&fixed), &fixed);
        if loaded.is_none() || !diagnostics.is_empty() {
            wrong.push(format!("{fixed}:\n{}", render(&diagnostics, Look::Plain)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One mistake is one diagnostic: nothing that follows from it is reported beside it.
#[test]
fn one_mistake_is_one_diagnostic() {
    let mut wrong = Vec::new();
    for name in mistakes().iter().filter(|name| !name.starts_with("several.")) {
        let file = format!("{name}.yaml");
        let (_, diagnostics) = topology::load(&read(&file), &file);
        let code = name.split('.').next().unwrap();
        let others: Vec<&str> = diagnostics.sorted().iter().map(|diagnostic| diagnostic.code.id).filter(|found| *found != code).collect();
        if !others.is_empty() {
            wrong.push(format!("{file}: {others:?} beside {code}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_has_a_file() {
    let there: BTreeSet<String> = mistakes().iter().map(|name| name.split('.').next().unwrap().to_owned()).collect();
    let missing: Vec<&str> = TOPOLOGY_CODES.iter().map(|code| code.id).filter(|code| !there.contains(*code)).collect();
    assert!(missing.is_empty(), "no file for {missing:?}");
    let known: BTreeSet<&str> = TOPOLOGY_CODES.iter().map(|code| code.id).chain(["several"]).collect();
    let strangers: Vec<&String> = there.iter().filter(|code| !known.contains(code.as_str())).collect();
    assert!(strangers.is_empty(), "files of unknown codes: {strangers:?}");
    assert!(TOPOLOGY_CODES.iter().filter(|code| code.severity == Severity::Error).count() >= 40);
}

/// No text on the way to a topology makes the reader panic: every prefix of a good file, and each line left out.
#[test]
fn broken_files_are_reported_and_never_panic() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/product.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for end in 0..lines.len() {
        let (_, diagnostics) = topology::load(&lines[..end].join("\n"), "prefix.yaml");
        render(&diagnostics, Look::Plain);
        let mut without = lines.clone();
        without.remove(end);
        let (_, diagnostics) = topology::load(&without.join("\n"), "without.yaml");
        render(&diagnostics, Look::Plain);
    }
    for end in (0..text.len()).step_by(7).filter(|end| text.is_char_boundary(*end)) {
        let (_, diagnostics) = topology::load(&text[..end], "prefix.yaml");
        render(&diagnostics, Look::Plain);
    }
}

/// A fixed sequence of numbers: the same mistakes in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Whatever is done to a file, there is a topology or an error, never neither and never both; and it can be shown.
#[test]
fn a_file_loads_or_says_why_not() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/product.yaml")).unwrap();
    let pieces = [
        "{", "}", "[", "]", "\"", "'", ":", ": ", "!", "#", " #", "*", "&", "\n", "  ", "\t", ",", "|", "ü", "~", "null", "- ", "? ",
        "row.", "event", "0",
    ];
    let mut numbers = Numbers(42);
    let mut broken = 0;
    for _ in 0..4_000 {
        let mut mutant: Vec<char> = text.chars().collect();
        for _ in 0..=numbers.below(2) {
            let at = numbers.below(mutant.len());
            match numbers.below(3) {
                0 => drop(mutant.drain(at..(at + 1 + numbers.below(12)).min(mutant.len()))),
                _ => drop(mutant.splice(at..at, pieces[numbers.below(pieces.len())].chars())),
            }
        }
        let mutant: String = mutant.into_iter().collect();
        let (loaded, diagnostics) = topology::load(&mutant, "mutant.yaml");
        assert_eq!(loaded.is_none(), diagnostics.has_errors(), "{}\n{mutant}", render(&diagnostics, Look::Plain));
        broken += usize::from(loaded.is_none());
        render(&diagnostics, Look::Plain);
    }
    assert!(broken > 1_000, "only {broken} of the mutants are broken: this test tests nothing");
}
