//! What the runtime needs to know of the worker file.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::Name;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarantee {
    ExactlyOnce,
    AtLeastOnce,
}

/// Where state lies.
#[derive(Clone, Debug)]
pub enum Storage {
    /// RocksDB under `<state_dir>/<app>/<task>`.
    Disk { state_dir: PathBuf },
    /// In process: `test`, `replay` and the simulation.
    Memory,
}

/// Settings of a worker's stream threads.
#[derive(Clone, Debug)]
pub struct Settings {
    pub worker: Name,
    pub guarantee: Guarantee,
    pub commit_interval: Duration,
    pub session_timeout: Duration,
    pub transaction_timeout: Duration,
    /// Of internal topics.
    pub replication: i16,
    /// Static membership: `group.instance.id` = worker and thread.
    pub static_membership: bool,
    /// Rows held in memory per task, bytes.
    pub row_cache_bytes: usize,
    /// Sealed rows that wait for the disk per task, bytes.
    pub write_back_bytes: usize,
    pub storage: Storage,
    /// Records taken from the consumer in one turn of the loop.
    pub poll_records_max: usize,
    /// Bytes that one transaction may change before it is committed early.
    pub overlay_bytes_max: usize,
}

impl Settings {
    /// Settings for an app in process: memory, 100 ms commits, everything else as by default.
    pub fn in_process(worker: Name) -> Settings {
        Settings {
            worker,
            guarantee: Guarantee::ExactlyOnce,
            commit_interval: Duration::from_millis(100),
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(10),
            replication: 1,
            static_membership: true,
            row_cache_bytes: 128 << 20,
            write_back_bytes: 32 << 20,
            storage: Storage::Memory,
            poll_records_max: 4096,
            overlay_bytes_max: 64 << 20,
        }
    }
}
