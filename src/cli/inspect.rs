//! stub
use crate::cli::{Command, Exit};
pub const COMMAND: Command =
    Command { name: "inspect", summary: "", about: "", examples: ["", ""], arguments: |clap| clap, run: |_, _| Exit::Unusable };
