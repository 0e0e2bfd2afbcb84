//! `millstream describe`: the reference of the language, from the lists in the code.

use std::fmt::Write;

use clap::{Arg, ArgMatches};

use crate::cli::{COMMANDS, Command, Exit, Io};
use crate::codec::CODECS;
use crate::config::worker::SETTINGS;
use crate::expression::FUNCTIONS;
use crate::http::ENDPOINTS;
use crate::metrics::METRICS;
use crate::operators::REASONS;
use crate::operators::fold::rules::RULES;
use crate::views::VIEWS;

pub const COMMAND: Command = Command {
    name: "describe",
    summary: "Prints the reference of the language, settings and metrics",
    about: "Made from the code itself, so that it is true: field rules, codecs, views, reasons of dead letters, metrics, paths of HTTP, settings, commands.",
    examples: ["millstream describe", "millstream describe metrics"],
    arguments: |clap| {
        let parts: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        clap.arg(Arg::new("part").value_name("PART").help("One part only").value_parser(clap::builder::PossibleValuesParser::new(parts)))
    },
    run,
};

type Part = (&'static str, fn(&mut String) -> std::fmt::Result);

/// The parts, in the order of the manual.
pub const PARTS: &[Part] = &[
    ("functions", functions),
    ("rules", rules),
    ("codecs", codecs),
    ("views", views),
    ("reasons", reasons),
    ("metrics", metrics),
    ("http", http),
    ("settings", settings),
    ("commands", commands),
];

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let wanted = matches.get_one::<String>("part");
    let mut text = String::new();
    for (name, write) in PARTS {
        if wanted.is_none_or(|wanted| wanted == name) {
            // Writing to a string does not fail.
            let _ = write(&mut text);
        }
    }
    io.data(text.trim_end().to_owned() + "\n");
    Exit::Good
}

fn functions(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Functions and operators\n")?;
    for function in FUNCTIONS {
        let (expression, value) = function.example;
        writeln!(text, "- `{}`: {}", function.name, function.summary)?;
        writeln!(
            text,
            "  {}; `{expression}` is `{value}`",
            function.signatures.iter().map(|form| format!("`{form}`")).collect::<Vec<_>>().join(", ")
        )?;
    }
    writeln!(text)
}

fn rules(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Field rules\n")?;
    for rule in RULES {
        writeln!(text, "- `{}`: {}\n  `{}`", rule.name, rule.summary, rule.example)?;
    }
    writeln!(text)
}

fn codecs(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Codecs\n")?;
    for codec in CODECS {
        writeln!(text, "- `{}`: {}", codec.name, codec.summary)?;
    }
    writeln!(text)
}

fn views(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Views\n")?;
    for view in VIEWS {
        writeln!(text, "- `{}`: {}\n  `{}`", view.name, view.summary, view.example)?;
    }
    writeln!(text)
}

fn reasons(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Reasons of dead letters\n")?;
    for (name, meaning) in REASONS {
        writeln!(text, "- `{name}`: {meaning}")?;
    }
    writeln!(text)
}

fn metrics(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Metrics\n")?;
    for metric in METRICS {
        writeln!(text, "- `{}`{{{}}}: {} When it rises: {}", metric.name, metric.labels.join(","), metric.meaning, metric.action)?;
    }
    writeln!(text)
}

fn http(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## HTTP\n")?;
    for (path, words) in ENDPOINTS {
        writeln!(text, "- `GET {path}`: {words}")?;
    }
    writeln!(text)
}

fn settings(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Settings of the worker file\n")?;
    for setting in SETTINGS {
        writeln!(text, "- `{}`: {} Default: {}.", setting.path, setting.summary, setting.default.unwrap_or(setting.otherwise))?;
    }
    writeln!(text)
}

fn commands(text: &mut String) -> std::fmt::Result {
    writeln!(text, "## Commands\n")?;
    for command in COMMANDS {
        writeln!(text, "- `{}`: {}", command.name, command.summary)?;
        for example in command.examples {
            writeln!(text, "  `{example}`")?;
        }
    }
    writeln!(text)
}
