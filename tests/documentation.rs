//! What the documentation says is what the code has: lists are compared, examples are checked.
//!
//! A list is written by hand once, in the code. A complete example, a `yaml` block that begins with `version:`, is a file
//! that passes `check` without a warning.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;

use millstream::config::render::Look;
use millstream::config::render::render;
use millstream::metrics::METRICS;
use millstream::topology;

const OPERATIONS: &str = include_str!("../docs/operations.md");

#[test]
fn the_table_of_metrics_is_the_one_in_the_code() {
    let (_, after) = OPERATIONS.split_once("<!-- metrics -->\n").expect("the table begins");
    let (found, _) = after.split_once("<!-- end of metrics -->").expect("the table ends");
    let mut expected = String::from("| metric | labels | counts | when it rises |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        expected += &format!("| `{}` | {} | {} | {} |\n", metric.name, labels.join(", "), metric.meaning, metric.action);
    }
    assert!(found == expected, "the table in docs/operations.md should read:\n{expected}");
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
