//! The command line as its users see it: `tests/cli/*.md` say what is typed and what comes, to the byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use millstream::cli::{COMMANDS, program};
use trycmd::TestCases;

#[test]
fn commands_answer_exactly_so() {
    TestCases::new().case("tests/cli/*.md");
}

#[test]
fn every_command_has_two_examples_that_are_command_lines() {
    for command in COMMANDS {
        for example in command.examples {
            // As a shell would split it; `< in > out` and `| tool` are the shell's.
            let words: Vec<&str> = example.split_whitespace().take_while(|word| !matches!(*word, "<" | ">" | "|")).collect();
            let matches = program().try_get_matches_from(&words).unwrap_or_else(|error| panic!("{example}: {error}"));
            assert_eq!(matches.subcommand_name(), Some(command.name), "{example}");
        }
        assert_ne!(command.examples[0], command.examples[1], "{}", command.name);
        assert!(!command.summary.is_empty() && !command.about.is_empty(), "{}", command.name);
    }
}
