//! Committed rows for the edges: asked of the thread that owns them, answered between two turns.
//!
//! Nothing here waits on the stream thread, and nothing lets it wait: a question is a closure in its bounded queue, the answer a
//! oneshot. What needs the cluster (reading a changelog) runs on a thread of its own.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;

use crate::log::partitioner::partition_of;
use crate::log::{Input, Log};
use crate::model::{Clock, Key, Name, Object, Offset, StoreId, TableId, TaskId, Time, Value};
use crate::operators::fold::table::Table;
use crate::runtime::fault::Fault;
use crate::runtime::restore::TOMBSTONES_SAFE_MS;
use crate::runtime::start::App;
use crate::runtime::task::Task;
use crate::runtime::thread::StreamThread;
use crate::runtime::worker::{Question, Refused};
use crate::state::layout::ROW_TAG;
use crate::state::{StateError, TaskState};
use crate::topology::Plan;
use crate::topology::plan::StoreKind;
use crate::views::rows::{Asked, CurrentRow, NoRows, Page, RowSource, Rows};

/// A way to the threads that own tasks.
pub trait Ask: Send + Sync {
    /// # Errors
    /// When the task is not here, or its thread has too many questions.
    fn ask(&self, task: TaskId, question: Question) -> Result<(), Refused>;
}

/// Something that has tasks.
pub trait HasTasks: Send + Sync {
    /// The tasks that are here.
    fn tasks(&self) -> Vec<TaskId>;
}

/// Rows with their store keys.
pub struct KeyedPage {
    pub rows: Vec<(Key, CurrentRow)>,
    pub has_more: bool,
}

/// Where rows of each table are.
pub struct TaskRows {
    plan: Arc<Plan>,
    partitions: Vec<i32>,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    ask: Arc<dyn Ask>,
    /// Reads the cluster on the calling thread: for drivers whose cluster is in process.
    is_inline: bool,
}

/// How long reading a changelog may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

impl TaskRows {
    pub fn new(app: &App, ask: Arc<dyn Ask>, is_inline: bool) -> TaskRows {
        TaskRows {
            plan: Arc::new(app.plan.clone()),
            partitions: app.partitions.clone(),
            log: app.log.clone(),
            clock: app.clock.clone(),
            ask,
            is_inline,
        }
    }

    /// The task of a table's partition.
    pub fn task(&self, table: TableId, partition: i32) -> TaskId {
        let subtopology = self.plan.subtopologies.iter().position(|subtopology| subtopology.tables.contains(&table)).unwrap_or(0);
        TaskId { subtopology: subtopology as u32, partition }
    }

    fn changelog(&self, table: TableId) -> Option<Name> {
        let subtopology = &self.plan.subtopologies[self.task(table, 0).subtopology as usize];
        subtopology.stores.iter().find(|store| store.table == table && store.kind == StoreKind::Rows)?.changelog.clone()
    }

    /// Asks the owner of a table's partition. The closure runs on its thread.
    pub fn of_owner<T: Send + 'static>(
        &self,
        table: TableId,
        partition: i32,
        read: impl FnOnce(&mut OwnedTable<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Asked<T> {
        let id = self.task(table, partition);
        let (sender, receiver) = oneshot::channel();
        let question: Question = Box::new(move |thread: &mut StreamThread| {
            let task = thread.tasks_mut().find(|task| task.id == id && task.is_running());
            let answer = match task.and_then(|task| OwnedTable::of(task, table)).map(|mut owned| read(&mut owned)) {
                None => Err(NoRows::NotOwner),
                Some(Ok(rows)) => Ok(rows),
                Some(Err(error)) => {
                    let failed = NoRows::Failed(error.to_string());
                    // Whoever reads finds it: a damaged file is rebuilt also if no record ever comes to it.
                    thread.found.get_or_insert(Fault::of_state(id, &error));
                    Err(failed)
                }
            };
            // The asker may have gone; then nobody wants the answer.
            let _ = sender.send(answer);
        });
        match self.ask.ask(id, question) {
            Ok(()) => receiver.map(|answer| answer.unwrap_or(Err(NoRows::NotOwner))).boxed(),
            Err(Refused::NotHere) => futures::future::ready(Err(NoRows::NotOwner)).boxed(),
            Err(Refused::Busy) => futures::future::ready(Err(NoRows::Later("the stream thread has too many questions".into()))).boxed(),
        }
    }

    /// Runs something that talks to the cluster, away from the caller.
    fn of_cluster<T: Send + 'static>(&self, read: impl FnOnce(&dyn Log) -> Result<T, NoRows> + Send + 'static) -> Asked<T> {
        if self.is_inline {
            return futures::future::ready(read(self.log.as_ref())).boxed();
        }
        let log = self.log.clone();
        let (sender, receiver) = oneshot::channel();
        let spawned = std::thread::Builder::new().name("changelog-reader".into()).spawn(move || {
            let _ = sender.send(read(log.as_ref()));
        });
        if let Err(error) = spawned {
            return futures::future::ready(Err(NoRows::Later(format!("no thread to read the changelog: {error}")))).boxed();
        }
        receiver.map(|answer| answer.unwrap_or_else(|_| Err(NoRows::Later("reading the changelog ended early".into())))).boxed()
    }
}

/// A table of a task on its own thread, between two turns.
pub struct OwnedTable<'a> {
    pub table: &'a Table,
    pub state: &'a mut TaskState,
    pub rows: StoreId,
    /// The changelog offset that the last commit ended with.
    pub sealed: Offset,
    /// Next offsets of the inputs, as committed: `(topic, offset)`.
    pub inputs: Vec<(Name, Offset)>,
    /// What is shown of a stored row: [`Table::show_stored`], for views [`Table::show_left`].
    show: fn(&Table, &[u8]) -> Result<Option<Object>, StateError>,
}

impl<'a> OwnedTable<'a> {
    fn of(task: &'a mut Task, table: TableId) -> Option<OwnedTable<'a>> {
        let table = task.tables.iter().find(|known| known.id() == table)?;
        let rows = table.rows();
        let inputs = task.inputs.iter().map(|input| (input.topic.clone(), input.committed)).collect();
        Some(OwnedTable { table, rows, sealed: task.changelogs[rows.0], state: &mut task.state, inputs, show: Table::show_stored })
    }

    /// The committed row of a store key.
    pub fn row(&mut self, key: &Key) -> Result<CurrentRow, StateError> {
        let row = match self.state.get_committed(self.rows, key)? {
            Some(bytes) => (self.show)(self.table, bytes)?,
            None => None,
        };
        Ok(self.current(key, row))
    }

    fn current(&self, key: &Key, row: Option<Object>) -> CurrentRow {
        let (value, window) = self.table.name_of(key);
        let key_bytes = self.table.record_key(key);
        CurrentRow { key: value, key_bytes, window, row: row.map(Value::Object), time: self.table.stream_time() }
    }

    /// Committed rows between two store keys, at most `limit` that are shown.
    pub fn scan_keys(&mut self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<KeyedPage, StateError> {
        let mut found: Vec<(Key, Object)> = Vec::new();
        let (mut has_more, mut failed) = (false, None);
        let (table, show) = (self.table, self.show);
        self.state.scan_committed(self.rows, from, to, |key, bytes| {
            if key.first() != Some(&ROW_TAG) {
                return ControlFlow::Continue(());
            }
            match show(table, bytes) {
                Ok(Some(_)) if found.len() == limit => {
                    has_more = true;
                    return ControlFlow::Break(());
                }
                Ok(Some(row)) => found.push((Key::from_slice(key), row)),
                Ok(None) => {}
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let rows = found.into_iter().map(|(key, row)| {
            let current = self.current(&key, Some(row));
            (key, current)
        });
        Ok(KeyedPage { rows: rows.collect(), has_more })
    }
}

impl RowSource for TaskRows {
    fn scan(&self, table: TableId, partition: i32, after: Option<Key>, limit: usize) -> Asked<Page> {
        self.of_owner(table, partition, move |owned| {
            let from = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_slice()));
            owned.show = Table::show_left;
            let page = owned.scan_keys(from, Bound::Unbounded, limit)?;
            let next = page.rows.last().filter(|_| page.has_more).map(|(key, _)| key.clone());
            Ok(Page { rows: page.rows.into_iter().map(|(_, row)| row).collect(), next, sealed: owned.sealed })
        })
    }

    fn changed_keys(&self, table: TableId, partition: i32, from: Offset, to: Offset, limit: usize) -> Asked<Option<Vec<Key>>> {
        let Some(changelog) = self.changelog(table) else { return futures::future::ready(Ok(None)).boxed() };
        let now = self.clock.now();
        self.of_cluster(move |log| {
            read_keys(log, &changelog, partition, (from, to), limit, now).map_err(|error| NoRows::Later(error.to_string()))
        })
    }

    fn rows(&self, table: TableId, partition: i32, keys: Vec<Key>) -> Asked<Rows> {
        self.of_owner(table, partition, move |owned| {
            owned.show = Table::show_left;
            let rows = keys.iter().map(|key| owned.row(key)).collect::<Result<Vec<_>, _>>()?;
            Ok(Rows { rows, sealed: owned.sealed })
        })
    }

    fn log_end(&self, table: TableId, partition: i32) -> Asked<Offset> {
        let Some(changelog) = self.changelog(table) else { return futures::future::ready(Err(NoRows::NotOwner)).boxed() };
        self.of_cluster(move |log| {
            let bounds = log.reader().and_then(|mut reader| reader.bounds(&changelog, partition, READ_TIMEOUT));
            bounds.map(|(_, end)| end).map_err(|error| NoRows::Later(error.to_string()))
        })
    }

    fn partition_count(&self, table: TableId) -> i32 {
        self.partitions[self.task(table, 0).subtopology as usize]
    }

    fn partition_of(&self, table: TableId, key_text: &str) -> Option<i32> {
        let codec = self.plan.topology.tables[table.0].key;
        let (_, value) = codec.from_text(key_text).ok()?;
        let spelling = codec.spellings(&value).ok()?.into_iter().next()?;
        Some(partition_of(&spelling, self.partition_count(table)))
    }
}

/// Row keys that the changelog names between two offsets.
fn read_keys(
    log: &dyn Log,
    changelog: &Name,
    partition: i32,
    (from, to): (Offset, Offset),
    limit: usize,
    now: Time,
) -> Result<Option<Vec<Key>>, crate::log::LogError> {
    let mut reader = log.reader()?;
    let (start, _) = reader.bounds(changelog, partition, READ_TIMEOUT)?;
    if start > from {
        return Ok(None);
    }
    reader.add_inputs(&[(Input { slot: 0, topic: changelog.clone(), partition }, from)])?;
    let mut keys = BTreeSet::new();
    let mut batch = Vec::new();
    let mut is_first = true;
    loop {
        reader.poll(10_000, Duration::from_millis(100), &mut batch)?;
        for message in batch.drain(..) {
            if message.offset() >= to.0 {
                return Ok(Some(keys.into_iter().collect()));
            }
            if std::mem::take(&mut is_first) && message.time().plus_ms(TOMBSTONES_SAFE_MS) < now {
                return Ok(None);
            }
            if let Some(key) = message.key().filter(|key| key.first() == Some(&ROW_TAG)) {
                keys.insert(Key::from_slice(key));
            }
            if keys.len() > limit {
                return Ok(None);
            }
        }
        if reader.position(0)?.is_some_and(|position| position >= to) {
            return Ok(Some(keys.into_iter().collect()));
        }
    }
}
