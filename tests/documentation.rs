//! `docs/reference.md` is what the program says of itself: its lists are written once, in the code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::process::Command;

const REFERENCE: &str = include_str!("../docs/reference.md");

#[test]
fn the_reference_is_what_the_program_describes() {
    let output = Command::new(env!("CARGO_BIN_EXE_millstream")).arg("describe").output().expect("it starts");
    let described = String::from_utf8(output.stdout).expect("it prints text");
    assert!(described.contains("## Metrics"), "it describes itself: {described}");
    let first = described.lines().find(|line| !REFERENCE.contains(line));
    assert!(REFERENCE.ends_with(&described), "run scripts/reference: docs/reference.md is old; the first new line: {first:?}");
}
