//! `millstream schema`: the language as JSON Schema, for editors.

use clap::ArgMatches;

use crate::cli::{Command, Exit, Io};
use crate::config::schema::json_schema;

pub const COMMAND: Command = Command {
    name: "schema",
    summary: "Prints the JSON Schema of the topology language",
    about: "For editors that complete and check YAML by a schema (yaml-language-server: `# yaml-language-server: $schema=millstream.json`).",
    examples: ["millstream schema > millstream.json", "millstream schema | head"],
    arguments: |clap| clap,
    run,
};

fn run(_: &ArgMatches, io: &mut Io<'_>) -> Exit {
    match serde_json::to_string_pretty(&json_schema()) {
        Ok(text) => {
            io.data(text + "\n");
            Exit::Good
        }
        Err(error) => {
            io.say(format_args!("cannot write the schema: {error}"));
            Exit::Unusable
        }
    }
}
