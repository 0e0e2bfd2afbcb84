//! `millstream replay`: records in, everything that comes out.

use std::io::{BufReader, BufWriter};

use clap::{Arg, ArgMatches, value_parser};

use crate::cli::{Command, Exit, Io, load, one_topology};
use crate::testkit::DriverSettings;
use crate::testkit::replay::{ReplayError, replay};
use crate::topology::plan;

pub const COMMAND: Command = Command {
    name: "replay",
    summary: "Runs records from stdin through a topology and prints everything that comes out",
    about: "One JSON object a line. In: {\"source\":\"orders\",\"key\":\"a\",\"value\":{…},\"time\":1000,\"headers\":{},\"partition\":0}; `time` is milliseconds or \
            RFC 3339; \"tombstone\":true or \"value\":null; control lines {\"advance\":\"31d\"}, {\"commit\":true}, {\"crash\":true}, {\"rebalance\":{\"workers\":2}}. \
            Out: outputs, committed table changes, view writes and dead letters, each with the number of the line that caused it. Same input, same bytes.",
    examples: [
        "millstream replay topologies/product.yaml < in.jsonl > out.jsonl",
        "millstream replay topologies/product.yaml --commit-every 100 < in.jsonl | grep '\"view\"'",
    ],
    arguments: |clap| {
        clap.arg(one_topology())
            .arg(
                Arg::new("commit-every")
                    .long("commit-every")
                    .value_name("N")
                    .help("Records per commit")
                    .default_value("1")
                    .value_parser(value_parser!(u64).range(1..=1_000_000)),
            )
            .arg(
                Arg::new("partitions")
                    .long("partitions")
                    .value_name("N")
                    .help("Partitions of each topic")
                    .default_value("4")
                    .value_parser(value_parser!(i32).range(1..=256)),
            )
    },
    run,
};

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let path = matches.get_one::<String>("topology").map_or("", String::as_str);
    let loaded = match load(path, io) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let commit_every = matches.get_one::<u64>("commit-every").copied().unwrap_or(1) as usize;
    let settings = DriverSettings { partitions: matches.get_one::<i32>("partitions").copied().unwrap_or(4), ..DriverSettings::default() };
    let result = replay(plan(loaded.topology), settings, commit_every, BufReader::new(&mut *io.input), BufWriter::new(&mut *io.out));
    match result {
        Ok(()) => Exit::Good,
        // The reader has gone (`| head`): nothing is wrong.
        Err(ReplayError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Good,
        Err(error) => {
            io.say(format_args!("replay: {error}"));
            Exit::Unusable
        }
    }
}
