//! stub
use crate::cli::{Command, Exit};
pub const COMMAND: Command =
    Command { name: "query", summary: "", about: "", examples: ["", ""], arguments: |clap| clap, run: |_, _| Exit::Unusable };
