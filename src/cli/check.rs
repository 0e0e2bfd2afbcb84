//! `millstream check`: all problems of topology files, and with `--broker` those of the cluster that they would run on.

use clap::{Arg, ArgAction, ArgMatches};

use crate::cli::run::{configure, kafka_settings, settings, settings_arguments};
use crate::cli::{Command, Exit, Io, load, topologies};
use crate::config::worker::WorkerConfig;
use crate::log::kafka::KafkaLog;
use crate::runtime::start::compare;
use crate::topology::{Plan, plan};

pub const COMMAND: Command = Command {
    name: "check",
    summary: "Tells all problems of topology files",
    about: "Reads each file and tells every problem at once, with its place and what to do. Nothing is started. With --broker it also asks the \
            cluster of the worker's settings whether the topics are there and their partitions fit, and changes nothing there.",
    examples: [
        "millstream check topologies/product.yaml",
        "millstream check topologies/*.yaml --broker --set kafka.brokers=127.0.0.1:9092",
    ],
    arguments: |clap| {
        let clap = clap
            .arg(topologies(true))
            .arg(Arg::new("broker").long("broker").help("Also compare topics and partitions of the cluster").action(ArgAction::SetTrue));
        settings_arguments(clap).mut_arg("config", |arg| arg.requires("broker")).mut_arg("set", |arg| arg.requires("broker"))
    },
    run,
};

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let config = match matches.get_flag("broker").then(|| configure(matches, io)).transpose() {
        Ok(config) => config.map(|(config, _)| config),
        Err(exit) => return exit,
    };
    let mut exit = Exit::Good;
    for path in matches.get_many::<String>("topology").into_iter().flatten() {
        let outcome = match load(path, io) {
            Ok(loaded) => config.as_ref().map_or(Exit::Good, |config| ask_cluster(path, &plan(loaded.topology), config, io)),
            Err(exit) => exit,
        };
        match outcome {
            Exit::Good => io.say(format_args!("{path}: good")),
            Exit::Unusable => exit = Exit::Unusable,
            Exit::Problems if exit == Exit::Good => exit = Exit::Problems,
            Exit::Problems => {}
        }
    }
    exit
}

/// Whether the topology could start on the cluster as it is.
fn ask_cluster(path: &str, plan: &Plan, config: &WorkerConfig, io: &mut Io<'_>) -> Exit {
    let log = match KafkaLog::new(kafka_settings(config)) {
        Ok(log) => log,
        Err(error) => {
            io.say(format_args!("{path}: {error}"));
            return Exit::Unusable;
        }
    };
    match compare(plan, &settings(config), &log) {
        Ok(missing) => {
            for topic in missing {
                io.say(format_args!("{path}: a start would make the internal topic `{topic}`"));
            }
            Exit::Good
        }
        Err(error) => {
            for problem in &error.problems {
                io.say(format_args!("{path}: {problem}"));
            }
            if error.can_heal { Exit::Unusable } else { Exit::Problems }
        }
    }
}
