//! Task state on disk: `<state_dir>/<app>/<task>`, one RocksDB each, one budget for the process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{Name, TaskId};
use crate::runtime::task::StateStorage;
use crate::state::directory::Directory;
use crate::state::rocks::{RocksBackend, RocksShared};
use crate::state::{CacheBudget, StateError, StoreSpec, TaskState};

/// The state folders of one worker and app.
pub struct DiskStorage {
    state_dir: PathBuf,
    app: Name,
    /// Topics whose offsets are kept in the folders, with their ids (KIP-516).
    topic_ids: BTreeMap<Name, String>,
    shared: RocksShared,
    /// Of each task.
    budget: CacheBudget,
}

impl DiskStorage {
    pub fn new(state_dir: PathBuf, app: Name, topic_ids: BTreeMap<Name, String>, shared: RocksShared, budget: CacheBudget) -> DiskStorage {
        DiskStorage { state_dir, app, topic_ids, shared, budget }
    }
}

impl DiskStorage {
    /// A changelog that was made anew lacks what this folder has. To rebuild the folder from it would throw the last copy away, and
    /// serve a table without its rows.
    fn refuse_lost_changelog(&self, directory: &Directory) -> Result<(), StateError> {
        for (topic, id) in self.topic_ids.iter().filter(|(topic, _)| topic.ends_with("-changelog")) {
            let Some(known) = directory.header().topics.get(topic.as_str()).filter(|known| *known != id) else { continue };
            let cause = format!(
                "`{topic}` was deleted and made again (id found {known}, id now {id}), so this folder has rows that it has not. To start anew, delete the \
                 folder and the offsets of group `{}`, or use a new app name",
                self.app
            );
            return Err(StateError::Refused { what: format!("use state folder {}", directory.path().display()), cause });
        }
        Ok(())
    }
}

impl StateStorage for DiskStorage {
    fn open(&self, task: TaskId, stores: Vec<StoreSpec>) -> Result<TaskState, StateError> {
        let mut directory = Directory::open(&self.state_dir, &self.app, task)?;
        self.refuse_lost_changelog(&directory)?;
        directory.check_topics(self.topic_ids.iter().map(|(name, id)| (name, id.as_str())))?;
        let backend = RocksBackend::open(directory, &self.shared)?;
        TaskState::open(Box::new(backend), stores, self.budget)
    }

    fn wipe(&self, task: TaskId, reason: &str) -> Result<(), StateError> {
        Directory::open_wiped(&self.state_dir, &self.app, task, reason).map(drop)
    }
}
