//! Newtypes for numbers that must not be mixed up.
//!
//! Indices point into the lists of one checked topology; they are never stored. What is stored is named.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(pub usize);
    };
}

index!(
    /// Index of a source in `Topology::sources`.
    SourceId
);
index!(
    /// Index of a table in `Topology::tables`.
    TableId
);
index!(
    /// Index of a view in `Topology::views`.
    ViewId
);
index!(
    /// Index of an output in `Topology::outputs`.
    OutputId
);
index!(
    /// Index of a store among the stores of one task.
    StoreId
);

/// The offset to read next, never the one read last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Offset(pub i64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One sub-topology on one partition. `number` is also its partition in the task topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TaskId {
    pub subtopology: u32,
    pub partition: i32,
}

impl fmt::Display for TaskId {
    /// `<sub-topology>_<partition>`, as Kafka Streams writes it; also the name of the task's folder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}
