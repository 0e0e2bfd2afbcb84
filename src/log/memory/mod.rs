//! The in-process log: topics, transactions and consumer groups of one process, with the semantics of a Kafka cluster.
//!
//! The default of `dev`, `demo`, `test` and `replay`, and the ground of the simulation. Deterministic: it has no threads, asks
//! no clock but the one it is given, and whoever calls decides the order of events. Several workers may use it in turn on one
//! thread (with `wait` zero, or after [`MemoryCluster::never_wait`]) or at once on many. Nothing is stored on disk.
//!
//! A client that is dropped without `close` is a process that was killed: its transaction stays open and its membership stays
//! until their time-outs have passed on the clock, or until the same transactional id or instance id comes again. A client that
//! lives never times out by itself; `expire_member` and `expire_transaction` do that to it.

mod admin;
mod cluster;
mod consumer;
mod coordinator;
mod faults;
mod group;
mod partition;
mod producer;
#[cfg(test)]
mod tests;

pub use cluster::{MemberView, MemoryCluster};
pub use consumer::GroupMetadata;
pub use faults::{Call, Fault, Faults};
pub use partition::{StoredRecord, Tombstones};
