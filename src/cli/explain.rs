//! `millstream explain`: what a topology becomes when it runs.

use clap::{Arg, ArgAction, ArgMatches};

use crate::cli::{Command, Exit, Io, load, one_topology};
use crate::topology::{explain, plan};

pub const COMMAND: Command = Command {
    name: "explain",
    summary: "Shows sub-topologies, stores and internal topics",
    about: "Cuts the topology into sub-topologies and shows what each reads, keeps and writes, with the names of all internal topics.",
    examples: ["millstream explain topologies/product.yaml", "millstream explain topologies/product.yaml --mermaid"],
    arguments: |clap| {
        clap.arg(one_topology())
            .arg(Arg::new("mermaid").long("mermaid").help("As a Mermaid flow chart").action(ArgAction::SetTrue).conflicts_with("dot"))
            .arg(Arg::new("dot").long("dot").help("As a Graphviz graph").action(ArgAction::SetTrue))
    },
    run,
};

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let path = matches.get_one::<String>("topology").map_or("", String::as_str);
    let loaded = match load(path, io) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let plan = plan(loaded.topology);
    let text = if matches.get_flag("mermaid") {
        explain::mermaid(&plan)
    } else if matches.get_flag("dot") {
        explain::dot(&plan)
    } else {
        explain::text(&plan)
    };
    io.data(text);
    Exit::Good
}
