//! Faults that the simulation asks for: at every call that a real cluster can fail, before or after its effect.
//!
//! The log never invents a fault: a closure that is set from outside decides, so a run is as deterministic as the closure.

use crate::log::LogErrorKind;

/// A call at which a fault can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Call {
    InitTransactions,
    Flush,
    SendOffsets,
    Commit,
    Abort,
    Poll,
    Committed,
    Bounds,
    /// [`crate::log::Consumer::commit`], without a transaction.
    CommitOffsets,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The request never arrived: nothing happened.
    Before(LogErrorKind),
    /// It was done and the answer got lost. [`LogErrorKind::Unknown`] is what a client sees after a time-out.
    After(LogErrorKind),
    /// For commit and abort: the answer is a time-out, and the request arrives when `MemoryCluster::deliver_delayed` is
    /// called. It does nothing then if the producer has been fenced meanwhile.
    Delayed,
    /// For commit and abort, which succeed: the markers in the topics are written when `MemoryCluster::deliver_delayed` is called,
    /// or when the transactional id is used next. Offsets are true at once. A real cluster answers before it has written them.
    LateMarkers,
    /// The same, but the markers are there and the offsets are late.
    LateOffsets,
    /// For committed offsets: the answer is that the group has none, as a coordinator that resigns may say (KAFKA-20416).
    NoOffsets,
}

/// Decides on a fault for a call by a client: its transactional id, instance id or `member-<n>`; `reader` without a group.
pub type Faults = Box<dyn FnMut(Call, &str) -> Option<Fault> + Send>;
