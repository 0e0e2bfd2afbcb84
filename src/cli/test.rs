//! `millstream test`: the tests of topology files, on the engine that runs in production.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches};

use crate::cli::{Command, Exit, Io, read};
use crate::config::render::{Look, render};
use crate::testkit::scenario;
use crate::topology;

pub const COMMAND: Command = Command {
    name: "test",
    summary: "Runs the tests of topology files",
    about: "Each test gets a cluster, state and a Redis in process and a clock that stands still until `advance`. A folder means all its .yaml files.",
    examples: ["millstream test topologies", "millstream test topologies/product.yaml --filter price --junit report.xml"],
    arguments: |clap| {
        clap.arg(Arg::new("path").value_name("PATH").help("Topology files or folders").num_args(1..).required(true))
            .arg(Arg::new("filter").long("filter").value_name("TEXT").help("Only tests whose name contains this"))
            .arg(Arg::new("junit").long("junit").value_name("FILE").help("Also write a JUnit report"))
    },
    run,
};

struct Ran {
    file: String,
    name: String,
    failure: Option<String>,
}

/// Folders within folders; a link may lead in a circle.
const FOLDER_DEPTH_MAX: usize = 32;

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let filter = matches.get_one::<String>("filter").map_or("", String::as_str);
    let mut files = Vec::new();
    for path in matches.get_many::<String>("path").into_iter().flatten() {
        let before = files.len();
        if let Err(error) = collect(Path::new(path), 0, &mut files) {
            io.say(format_args!("cannot read {path}: {error}"));
            return Exit::Unusable;
        }
        if files.len() == before {
            io.say(format_args!("{path} has no .yaml file"));
            return Exit::Unusable;
        }
    }
    let (mut ran, mut unread, mut has_problems) = (Vec::new(), Vec::new(), false);
    for path in &files {
        let name = path.display().to_string();
        let text = match read(&name, io) {
            Ok(text) => text,
            Err(exit) => return exit,
        };
        let (loaded, diagnostics) = topology::load(&text, &name);
        let Some(loaded) = loaded else {
            let text = render(&diagnostics, io.look());
            let _ = io.err.write_all(text.as_bytes());
            has_problems = true;
            // A report that leaves out what could not run looks green.
            let failure = Some(render(&diagnostics, Look::Plain));
            unread.push(Ran { file: name, name: "the file can be read".to_owned(), failure });
            continue;
        };
        let plan = topology::plan(loaded.topology);
        for test in loaded.spec.tests.iter().filter(|test| test.name.value.contains(filter)) {
            if io.has_no_reader() {
                return if ran.iter().any(|test: &Ran| test.failure.is_some()) { Exit::Problems } else { Exit::Good };
            }
            let failure = scenario::run(&plan, &diagnostics.file, test).err();
            match &failure {
                None => io.data(format!("ok   {name}: {}\n", test.name.value)),
                Some(failure) => {
                    io.data(format!("FAIL {name}:{}:{}: {}\n  {}\n", failure.line, failure.column, test.name.value, failure.text))
                }
            }
            ran.push(Ran { file: name.clone(), name: test.name.value.clone(), failure: failure.map(|failure| failure.text) });
        }
    }
    let failed = ran.iter().filter(|test| test.failure.is_some()).count();
    let passed = ran.len() - failed;
    ran.extend(unread);
    if let Some(path) = matches.get_one::<String>("junit")
        && let Err(error) = std::fs::write(path, junit(&ran))
    {
        io.say(format_args!("cannot write {path}: {error}"));
        return Exit::Unusable;
    }
    if ran.is_empty() {
        match filter {
            "" => io.say("there are no tests: add some under `tests:`"),
            _ => io.say(format_args!("no test has a name that contains `{filter}`")),
        }
        return Exit::Unusable;
    }
    match ran.len() - failed - passed {
        0 => io.say(format_args!("{passed} passed, {failed} failed")),
        unread => io.say(format_args!("{passed} passed, {failed} failed, files with problems: {unread}")),
    }
    if failed > 0 || has_problems { Exit::Problems } else { Exit::Good }
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    if depth == FOLDER_DEPTH_MAX {
        return Err(std::io::Error::other(format!("folders are nested deeper than {FOLDER_DEPTH_MAX} at {}", path.display())));
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

fn junit(ran: &[Ran]) -> String {
    let failed = ran.iter().filter(|test| test.failure.is_some()).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"millstream\" tests=\"{}\" failures=\"{failed}\">\n",
        ran.len()
    );
    for test in ran {
        // Writing to a string does not fail.
        let _ = match &test.failure {
            None => writeln!(text, "  <testcase classname=\"{}\" name=\"{}\"/>", escape(&test.file), escape(&test.name)),
            Some(failure) => writeln!(
                text,
                "  <testcase classname=\"{}\" name=\"{}\"><failure>{}</failure></testcase>",
                escape(&test.file),
                escape(&test.name),
                escape(failure)
            ),
        };
    }
    text + "</testsuite>\n"
}

fn escape(text: &str) -> String {
    // XML 1.0 has no way to write the other control characters.
    let text: String =
        text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
