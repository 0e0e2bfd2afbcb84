//! Text to `Spec`: what the user wrote, with the place of every field. Resolves nothing.
//!
//! `yaml` makes a tree of nodes with places, `read` makes a [`spec::Spec`] of it by the table in `keys`, pushing every problem to
//! [`diagnostic::Diagnostics`]; `render` shows them, `schema` writes the table as a JSON Schema. `worker` is the other file, with what
//! goes over it: `env`, `secret`, `size`.

pub mod broken;
pub mod codes;
pub mod data;
pub mod diagnostic;
pub mod duration;
pub mod env;
pub mod keys;
pub mod read;
pub mod render;
pub mod schema;
pub mod secret;
pub mod size;
pub mod spec;
pub mod suggest;
pub mod traps;
pub mod types;
pub mod worker;
pub mod yaml;
