//! What the documentation says is what the code has: lists are compared, examples are checked.
//!
//! A list is written by hand once, in the code. A complete example, a `yaml` block that begins with `version:`, is a file
//! that passes `check` without a warning.

use std::fs;
use std::path::Path;
use std::process::Command;

use millstream::config::render::Look;
use millstream::config::render::render;
use millstream::topology;

const REFERENCE: &str = include_str!("../docs/reference.md");

#[test]
fn the_reference_is_what_the_program_describes() {
    let described = Command::new(env!("CARGO_BIN_EXE_millstream")).arg("describe").output().expect("it starts");
    let described = String::from_utf8(described.stdout).expect("it prints text");
    assert!(described.contains("## Metrics"), "it describes itself: {described}");
    let first = described.lines().find(|line| !REFERENCE.contains(line));
    assert!(
        REFERENCE.ends_with(&described),
        "docs/reference.md is not what `millstream describe` prints, run scripts/reference; new: {first:?}"
    );
}

#[test]
fn every_complete_example_passes_check() {
    let mut checked = 0;
    for name in ["README.md", "ARCHITECTURE.md", "docs/language.md", "docs/semantics.md", "docs/operations.md", "docs/differences.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let Ok(text) = fs::read_to_string(path) else { continue };
        for (line, example) in examples(&text) {
            let (loaded, diagnostics) = topology::load(&example, &format!("{name}:{line}"));
            assert!(diagnostics.is_empty(), "{}", render(&diagnostics, Look::Plain));
            assert!(loaded.is_some(), "{name}:{line}");
            checked += 1;
        }
    }
    assert!(checked >= 3, "found only {checked} examples: the search is broken");
}

/// Complete examples with their lines.
fn examples(text: &str) -> Vec<(usize, String)> {
    let mut examples = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((line, opening)) = lines.next() {
        if opening == "```yaml" {
            let example: String =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            if example.starts_with("version:") {
                examples.push((line + 2, example));
            }
        }
    }
    examples
}
