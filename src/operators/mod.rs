//! What a topology is made of, compiled: sources, tables, outputs. One file per verb; no I/O, no thread, no clock.

pub mod fold;
pub mod output;
pub mod source;
