//! From the blocks of a file to the graph that runs: build, check, plan, names, explain. Pure: no I/O, no clock, no thread.

pub mod graph;
pub mod plan;

pub use graph::Topology;
pub use plan::Plan;
