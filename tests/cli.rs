//! The command line as its users see it: `tests/cli/*.md` say what is typed and what comes, to the byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::process::Command;

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

/// Without Redis, the page at the end is read over HTTP from the tables themselves.
#[test]
fn the_demo_ends_by_itself_and_leaves_nothing_behind() {
    let temporary = std::env::temp_dir().join(format!("millstream-cli-{}", std::process::id()));
    std::fs::create_dir(&temporary).unwrap();
    // One that does not end is ended, and fails.
    let within = ["60", env!("CARGO_BIN_EXE_millstream")];
    let ended = Command::new("timeout").args(within).args(["demo", "--records", "20000"]).env("TMPDIR", &temporary).output().unwrap();
    let (out, err) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert!(ended.status.success(), "{:?}\n{out}\n{err}", ended.status);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "its state is still there");
    std::fs::remove_dir(&temporary).unwrap();
    assert!(err.contains("no Redis was given"), "{err}");
    let count = |what: &str| -> u64 {
        let line = out.lines().find(|line| line.ends_with(what)).unwrap_or_else(|| panic!("no line `{what}` in {out}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(count("records sent"), count("records merged") + 4, "four are not JSON: {out}");
    for what in ["dropped", "(stale)", "candle was closed", "before its product", "completed by the product", "still waiting"] {
        assert!(count(what) > 0, "{what}: {out}");
    }
    assert!(out.contains("\n  name       Drum no. 7\n") && out.contains("\n  complete   true\n"), "{out}");
    let candles = out.lines().find_map(|line| line.strip_suffix(" candles of a minute")?.split(' ').next_back()?.parse::<u64>().ok());
    assert!(candles.is_some_and(|candles| candles > 50), "{out}");
    assert!(out.contains('#') && out.contains('|'), "no chart: {out}");
    assert!(out.contains("DEMO=stay"), "{out}");
}
