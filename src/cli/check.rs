//! `millstream check`: all problems of topology files.

use clap::ArgMatches;

use crate::cli::{Command, Exit, Io, load, topologies};

pub const COMMAND: Command = Command {
    name: "check",
    summary: "Tells all problems of topology files",
    about: "Reads each file and tells every problem at once, with its place and what to do. Nothing is started and nothing is asked of a cluster.",
    examples: ["millstream check topologies/product.yaml", "millstream check topologies/*.yaml"],
    arguments: |clap| clap.arg(topologies(true)),
    run,
};

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let mut exit = Exit::Good;
    for path in matches.get_many::<String>("topology").into_iter().flatten() {
        match load(path, io) {
            Ok(_) => io.say(format_args!("{path}: good")),
            Err(Exit::Unusable) => exit = Exit::Unusable,
            Err(found) if exit == Exit::Good => exit = found,
            Err(_) => {}
        }
    }
    exit
}
