//! What runs: workers, stream threads, tasks. OS threads, no async; edges are reached by bounded queues only.
//!
//! `thread` is the only loop (poll, process, tick, commit); `task` a sub-topology on a partition; `commit` what one commit makes
//! true together; `restore` brings a task's state up to its changelog; `assignment` turns events of the task topic into tasks;
//! `start` checks the cluster against the plan; `fault` says how each thing that goes wrong is answered; `watch` looks whether the
//! topics are still what they were, `unassigned` whether every task has an owner, `peers` who else is there, each on a thread of its
//! own (`background`); `queries` is what HTTP may ask, `changes` what it tells to those who listen; `gauges` what a thread tells of
//! itself in metrics.

pub mod answers;
pub mod assignment;
mod background;
pub mod buffer;
pub mod changes;
pub mod commit;
pub mod emit;
pub mod fault;
pub mod feed;
pub mod gauges;
pub mod observe;
pub mod peers;
pub mod queries;
pub mod restore;
pub mod retries;
pub mod rows;
pub mod settings;
pub mod start;
pub mod storage;
pub mod task;
pub mod thread;
pub mod unassigned;
pub mod watch;
pub mod worker;

pub use fault::{Fault, Reaction};
pub use observe::{Committed, Observer};
pub use settings::{Guarantee, Settings};
pub use start::App;
pub use task::Task;
pub use thread::StreamThread;
pub use worker::{Worker, WorkerHandle};
