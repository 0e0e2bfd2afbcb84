//! Hands committed changes to the views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{Name, Offset, TableId, TaskId};
use crate::operators::TableChange;
use crate::runtime::observe::{Committed, CommittedTable, Observer};
use crate::runtime::start::App;
use crate::views::{CommittedBatch, Pressure, RowChange, ViewPublisher};

/// Between the commit and a [`ViewPublisher`].
pub struct ViewFeed {
    views: Arc<dyn ViewPublisher>,
    /// Tables that have a view.
    viewed: BTreeSet<TableId>,
    /// UUIDs of topics (KIP-516): a changelog that was made anew is another log.
    topic_ids: BTreeMap<Name, String>,
    changelogs: Mutex<BTreeMap<TableId, Name>>,
}

impl ViewFeed {
    pub fn new(views: Arc<dyn ViewPublisher>, app: &App) -> ViewFeed {
        let viewed = app.plan.topology.views.iter().map(|view| view.table).collect();
        ViewFeed { views, viewed, topic_ids: app.topic_ids.clone(), changelogs: Mutex::default() }
    }

    fn topic_id(&self, changelog: &Name) -> &str {
        self.topic_ids.get(changelog).map_or("", String::as_str)
    }
}

impl Observer for ViewFeed {
    fn opened(&self, task: TaskId, tables: &[(TableId, Name, Offset)]) {
        let mut known = self.changelogs.lock().unwrap_or_else(PoisonError::into_inner);
        for (table, changelog, offset) in tables {
            known.insert(*table, changelog.clone());
            self.views.open(*table, task.partition, self.topic_id(changelog), *offset);
        }
    }

    fn closed(&self, task: TaskId, tables: &[TableId]) {
        for table in tables {
            self.views.close(*table, task.partition);
        }
    }

    fn wants_changes(&self, table: TableId) -> bool {
        self.viewed.contains(&table)
    }

    /// `worker.on_lag: pause`.
    fn holds_input(&self) -> bool {
        self.views.pressure() == Pressure::Pause
    }

    fn committed(&self, committed: &Committed) {
        let moved = |table: &&CommittedTable| table.prev != table.next && self.viewed.contains(&table.table);
        for table in committed.tables.iter().filter(moved) {
            let known = self.changelogs.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(changelog) = known.get(&table.table) else { continue };
            self.views.publish(CommittedBatch {
                table: table.table,
                partition: table.partition,
                topic_id: self.topic_id(changelog).to_owned(),
                prev: table.prev,
                next: table.next,
                changes: table.changes.iter().map(row_change).collect(),
            });
        }
    }
}

fn row_change(change: &TableChange) -> RowChange {
    RowChange {
        key: change.key.clone(),
        key_bytes: change.record_key.clone(),
        window: change.window,
        old: change.old.clone(),
        new: change.new.clone(),
        time: change.time,
        headers: change.headers.clone(),
    }
}
