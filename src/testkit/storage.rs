//! Task state in process: what was flushed survives a crash, what was not is lost, as with RocksDB without its log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::model::TaskId;
use crate::runtime::task::StateStorage;
use crate::state::memory::MemoryStorage;
use crate::state::{CacheBudget, StateError, StoreSpec, TaskState};

/// The disks of one worker, per task.
pub struct MemoryStateStorage {
    disks: Mutex<BTreeMap<TaskId, MemoryStorage>>,
    budget: CacheBudget,
}

impl MemoryStateStorage {
    pub fn new(budget: CacheBudget) -> MemoryStateStorage {
        MemoryStateStorage { disks: Mutex::default(), budget }
    }

    fn disk(&self, task: TaskId) -> MemoryStorage {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).entry(task).or_default().clone()
    }
}

impl StateStorage for MemoryStateStorage {
    fn open(&self, task: TaskId, stores: Vec<StoreSpec>) -> Result<TaskState, StateError> {
        let backend = self.disk(task).open()?;
        TaskState::open(Box::new(backend), stores, self.budget)
    }

    fn wipe(&self, task: TaskId, _reason: &str) -> Result<(), StateError> {
        self.disk(task).wipe();
        Ok(())
    }
}
