//! The graph cut into sub-topologies, with their stores and internal topics.
//!
//! A sub-topology is a connected part of the graph: tables that share a source topic, and the outputs fed by them. Task = sub-topology ×
//! partition; tasks are numbered through, and the number is the partition of the task topic.

use crate::model::{Name, OutputId, SourceId, TableId, TaskId, ViewId};
use crate::operators::fold::{TableSpec, WhenOwnerMissing};
use crate::operators::output::OutputFrom;
use crate::topology::{Topology, names};

/// What to run: made from a topology without looking at a cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    pub topology: Topology,
    pub subtopologies: Vec<Subtopology>,
}

/// Cuts a topology into sub-topologies.
///
/// They stand in the order of their first table's name, not of the file: the number of a sub-topology is a part of the
/// name of its tasks' folders, so moving a line must not change it. A source that feeds no table is in none of them.
pub fn plan(topology: Topology) -> Plan {
    let mut groups: Vec<Vec<TableId>> = Vec::new();
    for index in 0..topology.tables.len() {
        let table = TableId(index);
        let (mut joined, apart): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| group.iter().any(|other| share_topic(&topology, table, *other)));
        groups = apart;
        joined.push(vec![table]);
        let mut group = joined.concat();
        group.sort();
        groups.push(group);
    }
    groups.sort_by_key(|group| group.iter().map(|table| topology.tables[table.0].name.clone()).min());
    let subtopologies = groups.iter().map(|tables| subtopology(&topology, tables)).collect();
    Plan { topology, subtopologies }
}

fn share_topic(topology: &Topology, one: TableId, other: TableId) -> bool {
    let topics = |table: TableId| topology.tables[table.0].inputs.iter().map(|input| &topology.sources[input.source.0].topic);
    topics(one).any(|topic| topics(other).any(|other| other == topic))
}

fn subtopology(topology: &Topology, tables: &[TableId]) -> Subtopology {
    let feeds = |source: SourceId| tables.iter().any(|table| topology.tables[table.0].inputs.iter().any(|input| input.source == source));
    let sources: Vec<SourceId> = (0..topology.sources.len()).map(SourceId).filter(|source| feeds(*source)).collect();
    let mut topics: Vec<Name> = Vec::new();
    for source in &sources {
        let topic = &topology.sources[source.0].topic;
        if !topics.contains(topic) {
            topics.push(topic.clone());
        }
    }
    let takes = |output: &OutputId| match topology.outputs[output.0].from {
        OutputFrom::Table(table) | OutputFrom::Stale(table) => tables.contains(&table),
    };
    let outputs = (0..topology.outputs.len()).map(OutputId).filter(takes).collect();
    let stores = tables.iter().flat_map(|table| stores(&topology.app, *table, &topology.tables[table.0])).collect();
    Subtopology { sources, topics, tables: tables.to_vec(), outputs, stores }
}

/// The stores of a table.
fn stores(app: &Name, table: TableId, spec: &TableSpec) -> Vec<StorePlan> {
    let logged = |name: Name, kind: StoreKind| StorePlan { changelog: Some(names::changelog(app, &name)), name, table, kind };
    let mut stores = vec![logged(names::rows_store(&spec.name), StoreKind::Rows)];
    if spec.inputs.iter().any(|input| input.owner_missing.is_some_and(|missing| missing.what == WhenOwnerMissing::Buffer)) {
        stores.push(logged(names::buffer_store(&spec.name), StoreKind::Buffer));
    }
    if spec.dedupe.is_some() {
        stores.push(logged(names::dedupe_store(&spec.name), StoreKind::Dedupe));
    }
    stores.push(StorePlan { name: names::timers_store(&spec.name), table, kind: StoreKind::Timers, changelog: None });
    stores
}

impl Plan {
    /// The views of a sub-topology's tables, in the order of the file.
    pub fn views_of(&self, subtopology: &Subtopology) -> Vec<ViewId> {
        let views = self.topology.views.iter().enumerate();
        views.filter(|(_, view)| subtopology.tables.contains(&view.table)).map(|(index, _)| ViewId(index)).collect()
    }
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

impl TaskList {
    /// The tasks of sub-topologies with so many partitions each: all of the first one, then all of the second.
    pub fn new(partitions: &[i32]) -> TaskList {
        let tasks_of =
            |(subtopology, count): (usize, &i32)| (0..*count).map(move |partition| TaskId { subtopology: subtopology as u32, partition });
        TaskList { tasks: partitions.iter().enumerate().flat_map(tasks_of).collect() }
    }
}
