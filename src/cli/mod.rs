//! The command line. Only here is anything printed: data on stdout, words on stderr.
//!
//! A command is a file here and a line in [`COMMANDS`]. Exit codes: 0 good, 1 problems found, 2 wrong use or cannot run.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command as Clap};

use crate::config::env::Environment;
use crate::config::render::{Look, render};
use crate::topology::{self, Loaded};

pub mod bar;
pub mod check;
pub mod demo;
pub mod describe;
pub mod explain;
pub mod inspect;
pub mod journal;
pub mod query;
pub mod replay;
pub mod run;
pub mod schema;
pub mod test;
pub mod worker;

/// Good, problems found, wrong use or cannot run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Good = 0,
    Problems = 1,
    Unusable = 2,
}

/// A command of the program.
pub struct Command {
    pub name: &'static str,
    pub summary: &'static str,
    /// What it does, in a paragraph.
    pub about: &'static str,
    /// Two command lines that work.
    pub examples: [&'static str; 2],
    pub arguments: fn(Clap) -> Clap,
    pub run: fn(&ArgMatches, &mut Io<'_>) -> Exit,
}

/// All commands, in the order of the manual.
pub const COMMANDS: &[&Command] = &[
    &run::COMMAND,
    &check::COMMAND,
    &explain::COMMAND,
    &test::COMMAND,
    &replay::COMMAND,
    &query::COMMAND,
    &inspect::COMMAND,
    &demo::COMMAND,
    &schema::COMMAND,
    &describe::COMMAND,
];

/// Where a command reads and writes.
pub struct Io<'a> {
    pub input: &'a mut dyn Read,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub environment: Environment,
    /// stderr is a terminal and `NO_COLOR` is not set.
    pub is_colored: bool,
    /// Why data could not be written, if so: no command is good that has lost some.
    pub lost: Option<io::Error>,
}

impl Io<'_> {
    /// Words for a person, one line. What cannot be written is lost: there is nowhere to say so.
    pub fn say(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Data, as it is. What cannot be written is told when the command ends.
    pub fn data(&mut self, text: impl AsRef<[u8]>) {
        if self.lost.is_none() {
            self.lost = self.out.write_all(text.as_ref()).and_then(|()| self.out.flush()).err();
        }
    }

    /// Whether whoever reads our data has gone (`| head`): then nothing more is of use.
    pub fn has_no_reader(&self) -> bool {
        self.lost.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub fn look(&self) -> Look {
        if self.is_colored { Look::Terminal } else { Look::Plain }
    }
}

/// Runs the program with the arguments and streams of the process. Returns its exit code.
pub fn main() -> u8 {
    let environment = Environment::of_process();
    let is_colored = io::stderr().is_terminal() && !environment.has_no_color();
    let (mut input, mut out, mut err) = (io::stdin(), io::stdout(), io::stderr());
    let mut io = Io { input: &mut input, out: &mut out, err: &mut err, environment, is_colored, lost: None };
    run(std::env::args_os().collect(), &mut io) as u8
}

/// Runs the program.
pub fn run(arguments: Vec<std::ffi::OsString>, io: &mut Io<'_>) -> Exit {
    let parsed =
        program().color(if io.is_colored { clap::ColorChoice::Auto } else { clap::ColorChoice::Never }).try_get_matches_from(arguments);
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => {
            let text = if io.is_colored { error.render().ansi().to_string() } else { error.render().to_string() };
            if error.use_stderr() {
                let _ = io.err.write_all(text.as_bytes());
                return Exit::Unusable;
            }
            io.data(text);
            return Exit::Good;
        }
    };
    let Some((name, matches)) = matches.subcommand() else { return Exit::Unusable };
    let exit = match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(matches, io),
        None => Exit::Unusable,
    };
    match io.lost.take() {
        // A reader that has gone has what it wanted.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            io.say(format_args!("cannot write to stdout: {error}"));
            Exit::Unusable
        }
        _ => exit,
    }
}

/// The whole command line, as clap has it.
pub fn program() -> Clap {
    let mut program = Clap::new("millstream")
        .about("Keeps Kafka topics merged into rows, shows them in Redis and answers for them over HTTP.")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help("Exit codes: 0 good, 1 problems found, 2 wrong use or cannot run.");
    for command in COMMANDS {
        let examples = command.examples.iter().map(|line| format!("\n  {line}")).collect::<String>();
        let clap = Clap::new(command.name)
            .about(command.summary)
            .long_about(format!("{}\n\n{}", command.summary, command.about))
            .after_help(format!("Examples:{examples}"));
        program = program.subcommand((command.arguments)(clap));
    }
    program
}

/// The argument that names topology files.
fn topologies(required: bool) -> Arg {
    Arg::new("topology")
        .value_name("TOPOLOGY")
        .help("Topology files; - for stdin")
        .num_args(1..)
        .required(required)
        .action(ArgAction::Append)
}

fn one_topology() -> Arg {
    Arg::new("topology").value_name("TOPOLOGY").help("A topology file; - for stdin").required(true)
}

/// Reads and checks a topology file; problems and warnings are said. `None`: there are problems, or it cannot be read.
fn load(path: &str, io: &mut Io<'_>) -> Result<Loaded, Exit> {
    let text = read(path, io)?;
    let (loaded, diagnostics) = topology::load(&text, path);
    if !diagnostics.is_empty() {
        let text = render(&diagnostics, io.look());
        let _ = io.err.write_all(text.as_bytes());
    }
    loaded.ok_or(Exit::Problems)
}

/// The largest file that is read as text: a hundred times the largest that has ever made sense.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// The text of a file, or of stdin for `-`.
fn read(path: &str, io: &mut Io<'_>) -> Result<String, Exit> {
    let text = match path {
        "-" => text_of(&mut *io.input),
        _ => text_of_file(Path::new(path)),
    };
    text.map_err(|problem| {
        io.say(format_args!("cannot read {}: {problem}", if path == "-" { "stdin" } else { path }));
        Exit::Unusable
    })
}

fn text_of_file(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err("it is a folder; name a file in it".to_owned());
    }
    text_of(file)
}

fn text_of(input: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    input.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(format!("it has more than {} MiB, which no file of ours has", TEXT_BYTES_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        format!("it is not text in UTF-8: line {line} has the byte 0x{:02x}; is it the right file?", error.as_bytes()[good])
    })
}
