//! Something that went wrong while running. A fault *is* its reaction; one `match` in `thread.rs` acts on it.

use std::fmt;

use crate::log::{LogError, LogErrorKind};
use crate::model::TaskId;
use crate::state::StateError;

/// How a fault is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reaction {
    /// Try again in a later turn; nothing was lost.
    Retry,
    /// Abort the open transaction, forget the overlays, read the inputs again from the committed offsets.
    Abort,
    /// Nobody knows how the transaction ended, or the client is broken: new producer, tasks opened again from what was committed.
    Reopen,
    /// Another member has our tasks or our name: close the tasks without committing and join again.
    Rejoin,
    /// Stop one task where it is, keep what it processed: a record met `on_error: fail`.
    StopTask(TaskId),
    /// Stop one task and forget what it has not committed: its partition stays where it is until the cause is gone.
    CloseTask(TaskId),
    /// The task's state is not to be trusted: throw it away and read the changelog again.
    RebuildTask(TaskId),
    /// The worker ends.
    Stop,
}

/// What happened, and the reaction to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub reaction: Reaction,
    /// Who, what, where, what next; lowercase, no full stop.
    pub what: String,
}

impl Fault {
    pub fn new(reaction: Reaction, what: impl Into<String>) -> Fault {
        Fault { reaction, what: what.into() }
    }

    /// The reaction to an error of the log outside the end of a transaction.
    pub fn of_log(error: &LogError) -> Fault {
        let reaction = match error.kind {
            LogErrorKind::Fenced => Reaction::Rejoin,
            LogErrorKind::Fatal | LogErrorKind::Unknown => Reaction::Reopen,
            LogErrorKind::Abort => Reaction::Abort,
            LogErrorKind::Retry | LogErrorKind::Unreachable | LogErrorKind::Authentication | LogErrorKind::MissingTopic => Reaction::Retry,
            LogErrorKind::Authorization | LogErrorKind::Config | LogErrorKind::TooLarge => Reaction::Stop,
        };
        Fault::new(reaction, error.to_string())
    }

    /// The reaction to an error of the log between the first write and the end of a transaction: when in doubt, abort;
    /// when the outcome is unknown, find out.
    pub fn of_transaction(error: &LogError) -> Fault {
        let reaction = match error.kind {
            LogErrorKind::Fenced => Reaction::Rejoin,
            LogErrorKind::Abort | LogErrorKind::TooLarge => Reaction::Abort,
            LogErrorKind::Authorization | LogErrorKind::Config => Reaction::Stop,
            _ => Reaction::Reopen,
        };
        Fault::new(reaction, error.to_string())
    }

    /// The reaction to an error of a task's store.
    pub fn of_state(task: TaskId, error: &StateError) -> Fault {
        match error {
            StateError::Io { .. } => Fault::new(Reaction::CloseTask(task), format!("task {task}: {error}")),
            StateError::Corrupt { .. } => Fault::new(Reaction::RebuildTask(task), format!("task {task}: {error}")),
            StateError::Busy { .. } => Fault::new(Reaction::Retry, format!("task {task}: {error}")),
            StateError::Refused { .. } => Fault::new(Reaction::Stop, format!("task {task}: {error}")),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}
