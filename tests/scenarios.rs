//! Runs every scenario: the tests in `topologies/` and in `tests/scenarios/`, one behaviour a file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use millstream::config::render::{Look, render};
use millstream::testkit::scenario;
use millstream::topology;

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

#[test]
fn every_scenario_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&root.join("topologies"), &mut paths);
    files(&root.join("tests/scenarios"), &mut paths);
    let (mut tests, mut failures) = (0, Vec::new());
    for path in &paths {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let text = fs::read_to_string(path).unwrap();
        let (loaded, diagnostics) = topology::load(&text, &name);
        let Some(loaded) = loaded else {
            failures.push(format!("{name} does not pass check:\n{}", render(&diagnostics, Look::Plain)));
            continue;
        };
        let plan = topology::plan(loaded.topology);
        if loaded.spec.tests.is_empty() {
            failures.push(format!("{name} has no tests"));
        }
        for test in &loaded.spec.tests {
            tests += 1;
            if let Err(failure) = scenario::run(&plan, &diagnostics.file, test) {
                failures.push(format!("{name}:{}:{}: {}: {}", failure.line, failure.column, test.name.value, failure.text));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {tests} tests failed:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(tests >= 3, "only {tests} tests were found in {} files", paths.len());
}
