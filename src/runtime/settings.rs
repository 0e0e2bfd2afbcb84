//! What the runtime needs to know of the worker file.

use std::time::Duration;

use crate::model::Name;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarantee {
    ExactlyOnce,
    AtLeastOnce,
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
    /// Pause before the group is asked again for offsets that it should have.
    pub missing_offsets_pause: Duration,
    /// Records taken from the consumer in one turn of the loop.
    pub poll_records_max: usize,
    /// Bytes that one transaction may change before it is committed early.
    pub overlay_bytes_max: usize,
}

impl Settings {
    /// Settings for an app in process: 100 ms commits, everything else as by default.
    pub fn in_process(worker: Name) -> Settings {
        Settings {
            worker,
            guarantee: Guarantee::ExactlyOnce,
            commit_interval: Duration::from_millis(100),
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(10),
            replication: 1,
            static_membership: true,
            missing_offsets_pause: Duration::from_millis(300),
            poll_records_max: 4096,
            overlay_bytes_max: 64 << 20,
        }
    }
}
