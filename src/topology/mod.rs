//! From the blocks of a file to the graph that runs: build, check, plan, names, explain. Pure: no I/O, no clock, no thread.
//!
//! [`load`] is the way in: text to a checked [`Topology`], with every problem of the text. [`plan::plan`] cuts it into
//! sub-topologies.

mod build;
mod check;
mod compile;
pub mod explain;
pub mod graph;
pub mod names;
pub mod plan;
pub mod scope;
mod template;

use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::SourceText;
use crate::config::read;
use crate::config::spec::Spec;

pub use graph::Topology;
pub use plan::Plan;
pub use plan::plan;

/// A file without errors: what was written, and the graph of it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub spec: Spec,
    pub topology: Topology,
}

/// Reads and checks a topology file. The name is only for messages.
///
/// All problems are collected. The result is there if none of them is an error; warnings leave it.
pub fn load(text: &str, file_name: &str) -> (Option<Loaded>, Diagnostics) {
    let mut diagnostics = Diagnostics::new(SourceText::new(file_name, text));
    let Some(spec) = read::read(&mut diagnostics) else {
        return (None, diagnostics);
    };
    check::check(&spec, &mut diagnostics);
    let topology = build::build(&spec, &mut diagnostics);
    if diagnostics.has_errors() {
        return (None, diagnostics);
    }
    (topology.map(|topology| Loaded { spec, topology }), diagnostics)
}
