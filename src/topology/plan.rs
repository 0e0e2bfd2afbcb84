//! The graph cut into sub-topologies, with their stores and internal topics.
//!
//! A sub-topology is a connected part of the graph: tables that share a source topic, and the outputs fed by them. Task = sub-topology ×
//! partition; tasks are numbered through, and the number is the partition of the task topic.

use crate::model::{Name, OutputId, SourceId, TableId, TaskId};
use crate::topology::Topology;

/// What to run: made from a topology without looking at a cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    pub topology: Topology,
    pub subtopologies: Vec<Subtopology>,
}

/// A connected part of the graph. Its topics must have equal partition counts.
#[derive(Clone, Debug)]
pub struct Subtopology {
    /// In the order of the file.
    pub sources: Vec<SourceId>,
    /// Distinct topics of the sources, in the order of the file. A slot of a task's inputs is an index into this list.
    pub topics: Vec<Name>,
    pub tables: Vec<TableId>,
    pub outputs: Vec<OutputId>,
    pub stores: Vec<StorePlan>,
}

/// A store of each task of a sub-topology. Its index here is its `StoreId`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorePlan {
    /// `<table>`, `<table>-buffer`, `<table>-dedupe`, `<table>-timers`; also the name of the column family.
    pub name: Name,
    pub table: TableId,
    pub kind: StoreKind,
    /// `<app>-<store>-changelog`; `None` for timers, which are derived from rows.
    pub changelog: Option<Name>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    /// Rows of a table, or windows of a windowed one.
    Rows,
    /// Records that wait for an owner.
    Buffer,
    /// Identities seen.
    Dedupe,
    /// Index of timers; local, rebuilt from rows.
    Timers,
}

/// Partition counts known, the task list is fixed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskList {
    /// Index is the partition of the task topic.
    pub tasks: Vec<TaskId>,
}
