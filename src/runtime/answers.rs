//! Answers the questions of HTTP: from committed rows, asked of the threads that own them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::json;

use crate::codec::json::to_json;
use crate::log::partitioner::partition_of;
use crate::model::{Clock, Key, Name, Object, Offset, TableId, TaskId, Time, Value};
use crate::runtime::changes::Feed;
use crate::runtime::observe::{Committed, Observer};
use crate::runtime::peers::Peers;
use crate::runtime::queries::{
    Answer, Answered, Health, InputStatus, KeyRange, KeyedRow, Location, Page, Queries, Row, TableInfo, TaskPhase, TaskStatus, Unanswered,
    WindowRow,
};
use crate::runtime::rows::{OwnedTable, TaskRows};
use crate::runtime::start::App;
use crate::runtime::task::Phase;
use crate::runtime::worker::{Standing, ThreadState, WorkerHandle};
use crate::state::layout;
use crate::topology::explain;
use crate::views::ViewPublisher;
use crate::views::rows::{CurrentRow, NoRows};

/// What a client is told to wait while a task is being restored.
const RESTORE_RETRY: Duration = Duration::from_secs(1);
/// How old the picture of tasks on `/tasks` may be: a thread that does not answer within it is shown by what it said before.
const STATUS_WAIT: Duration = Duration::from_millis(500);

/// A worker's answers.
pub struct WorkerAnswers {
    tables: Vec<TableInfo>,
    topology: Bytes,
    rows: Arc<TaskRows>,
    handle: WorkerHandle,
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    feeds: BTreeMap<TableId, Arc<Feed>>,
    task_tables: BTreeMap<u32, Vec<Name>>,
    views: Option<Arc<dyn ViewPublisher>>,
    /// Kept between requests, so that a stuck thread does not empty the page.
    last_tasks: Mutex<BTreeMap<usize, Vec<TaskStatus>>>,
}

impl WorkerAnswers {
    pub fn new(
        app: &App,
        rows: Arc<TaskRows>,
        handle: WorkerHandle,
        peers: Arc<Peers>,
        views: Option<Arc<dyn ViewPublisher>>,
    ) -> WorkerAnswers {
        let topology = &app.plan.topology;
        let info = |(index, table): (usize, &crate::operators::fold::TableSpec)| TableInfo {
            id: TableId(index),
            name: table.name.clone(),
            key: table.key,
            window_ms: table.window.map(|window| window.size_ms),
            is_readable: table.query,
        };
        let epoch = app.clock.now().0.unsigned_abs();
        let names = |subtopology: &crate::topology::plan::Subtopology| {
            subtopology.tables.iter().map(|table| topology.tables[table.0].name.clone()).collect::<Vec<_>>()
        };
        WorkerAnswers {
            tables: topology.tables.iter().enumerate().map(info).collect(),
            topology: Bytes::from(explain::json(&app.plan).to_string()),
            rows,
            handle,
            peers,
            clock: app.clock.clone(),
            feeds: (0..topology.tables.len()).map(|table| (TableId(table), Feed::new(epoch))).collect(),
            task_tables: app.plan.subtopologies.iter().enumerate().map(|(at, subtopology)| (at as u32, names(subtopology))).collect(),
            views,
            last_tasks: Mutex::default(),
        }
    }

    fn asked<T: Send + 'static>(
        &self,
        table: TableId,
        partition: i32,
        read: impl FnOnce(&mut OwnedTable<'_>) -> Result<T, crate::state::StateError> + Send + 'static,
    ) -> Answered<T> {
        let (handle, task) = (self.handle.clone(), self.rows.task(table, partition));
        self.rows.of_owner(table, partition, read).map(move |answer| answer.map_err(|why| unanswered(why, handle.standing(task)))).boxed()
    }

    /// Where a key may be: the partitions that producers' spellings of it choose, the likeliest first.
    fn partitions(&self, table: TableId, key: &Value) -> Vec<i32> {
        use crate::views::rows::RowSource;
        let count = self.rows.partition_count(table);
        let spellings = self.tables[table.0].key.spellings(key).unwrap_or_default();
        let mut found: Vec<i32> = Vec::new();
        for spelling in spellings {
            let partition = partition_of(&spelling, count);
            if !found.contains(&partition) {
                found.push(partition);
            }
        }
        found
    }

    /// The partitions of a table whose tasks are here.
    fn here(&self, table: TableId) -> Vec<i32> {
        let subtopology = self.rows.task(table, 0).subtopology;
        self.handle.tasks().into_iter().filter(|task| task.subtopology == subtopology).map(|task| task.partition).collect()
    }

    fn ask_all(&self) -> Vec<TaskStatus> {
        let mut waiting = Vec::new();
        for thread in 0..self.handle.threads() {
            let (sender, receiver) = std::sync::mpsc::channel();
            let names = self.task_tables.clone();
            let asked = self.handle.ask_thread(
                thread,
                Box::new(move |thread| {
                    let ends = thread.ends();
                    let failed = thread.failed().map(|(id, why)| closed_status(id, TaskPhase::Stopped { why: why.to_owned() }, &names));
                    let opening = thread.opening().map(|id| closed_status(id, TaskPhase::Restoring { done: 0, total: 0 }, &names));
                    let _ = sender
                        .send(thread.tasks().map(|task| status(task, &names, &ends)).chain(failed).chain(opening).collect::<Vec<_>>());
                }),
            );
            if asked.is_ok() {
                waiting.push((thread, receiver));
            }
        }
        let mut last = self.last_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (thread, receiver) in waiting {
            if let Ok(tasks) = receiver.recv_timeout(STATUS_WAIT) {
                last.insert(thread, tasks);
            }
        }
        let mut all: Vec<TaskStatus> = last.values().flatten().cloned().collect();
        all.sort_by_key(|task| task.id);
        all
    }
}

fn status(task: &crate::runtime::Task, names: &BTreeMap<u32, Vec<Name>>, ends: &BTreeMap<(TaskId, usize), Offset>) -> TaskStatus {
    TaskStatus {
        id: task.id,
        phase: match &task.phase {
            Phase::Restoring(restore) => TaskPhase::Restoring { done: restore.done(), total: restore.total },
            Phase::Running => TaskPhase::Running,
            Phase::Stopped { why } => TaskPhase::Stopped { why: why.clone() },
        },
        tables: names.get(&task.id.subtopology).cloned().unwrap_or_default(),
        inputs: task
            .inputs
            .iter()
            .enumerate()
            .map(|(at, input)| InputStatus {
                topic: input.topic.clone(),
                partition: task.id.partition,
                position: input.committed,
                end: ends.get(&(task.id, at)).copied(),
            })
            .collect(),
    }
}

/// A task of which nothing is open.
fn closed_status(id: TaskId, phase: TaskPhase, names: &BTreeMap<u32, Vec<Name>>) -> TaskStatus {
    TaskStatus { id, phase, tables: names.get(&id.subtopology).cloned().unwrap_or_default(), inputs: Vec::new() }
}

fn unanswered(why: NoRows, standing: Standing) -> Unanswered {
    match (why, standing) {
        (NoRows::NotOwner, Standing::Restoring) => Unanswered::Restoring { retry_after: RESTORE_RETRY },
        (NoRows::NotOwner, Standing::Stopped) => Unanswered::Stopped,
        (NoRows::NotOwner, Standing::Running | Standing::NotHere) => Unanswered::Moved,
        (NoRows::Later(_), _) => Unanswered::Busy,
        (NoRows::Failed(_), _) => Unanswered::Failed("the state of this key's task could not be read".into()),
    }
}

fn shown(row: Value, sealed: Offset) -> Row {
    let is_complete = match &row {
        Value::Object(object) => is_complete(object),
        _ => true,
    };
    Row { value: row, offset: sealed, is_complete }
}

fn is_complete(row: &Object) -> bool {
    !matches!(row.get("complete"), Some(Value::Bool(false)))
}

fn keyed(current: CurrentRow, store_key: Key, sealed: Offset, partition: i32) -> Option<KeyedRow> {
    let row = shown(current.row?, sealed);
    Some(KeyedRow { store_key, key: current.key, window: current.window, row, partition })
}

impl Queries for WorkerAnswers {
    fn tables(&self) -> &[TableInfo] {
        &self.tables
    }

    fn locate(&self, table: TableId, key: &Value) -> Vec<Location> {
        let tasks = self.partitions(table, key).into_iter().map(|partition| self.rows.task(table, partition));
        let standings: Vec<(TaskId, Standing)> = tasks.map(|task| (task, self.handle.standing(task))).collect();
        let has = |wanted| standings.iter().any(|(_, standing)| *standing == wanted);
        let here = match (has(Standing::Restoring), has(Standing::Stopped), has(Standing::Running)) {
            (true, ..) => Some(Location::Restoring),
            (_, true, _) => Some(Location::Stopped),
            (.., true) => Some(Location::Local),
            _ => None,
        };
        let away = standings.iter().filter(|(_, standing)| *standing == Standing::NotHere);
        let owner = |task: TaskId| self.peers.owner(task, self.clock.now()).map_or(Location::Unknown, Location::Remote);
        here.into_iter().chain(away.map(|(task, _)| owner(*task))).collect()
    }

    fn get(&self, table: TableId, key: Key) -> Answered<Answer<Option<Row>>> {
        let value = self.tables[table.0].key.from_store_key(&key);
        let here = self.here(table);
        let partitions: Vec<i32> = self.partitions(table, &value).into_iter().filter(|partition| here.contains(partition)).collect();
        let asked = partitions.into_iter().map(|partition| {
            let key = key.clone();
            self.asked(table, partition, move |owned| {
                let current = owned.row(&key)?;
                Ok(Answer { value: current.row.map(|row| shown(row, owned.sealed)), partition, position: owned.sealed })
            })
        });
        join_all(asked).map(first_found).boxed()
    }

    fn page(&self, table: TableId, range: KeyRange) -> Answered<Page> {
        let partitions = self.here(table);
        let asked: Vec<_> = partitions
            .iter()
            .map(|&partition| {
                let KeyRange { start, end, limit, .. } = range.clone();
                self.asked(table, partition, move |owned| {
                    let page = owned.scan_keys(as_slice(&start), as_slice(&end), limit)?;
                    let sealed = owned.sealed;
                    let rows: Vec<KeyedRow> =
                        page.rows.into_iter().filter_map(|(key, current)| keyed(current, key, sealed, partition)).collect();
                    Ok((rows, page.has_more))
                })
            })
            .collect();
        let (limit, bytes_max) = (range.limit, range.bytes_max);
        join_all(asked)
            .map(move |answers| {
                let mut rows = Vec::new();
                let mut has_more = false;
                for answer in answers {
                    let (some, more) = answer?;
                    rows.extend(some);
                    has_more |= more;
                }
                rows.sort_by(|a: &KeyedRow, b: &KeyedRow| a.store_key.cmp(&b.store_key));
                has_more |= rows.len() > limit;
                rows.truncate(limit);
                let mut bytes = 0;
                let fit = rows.iter().take_while(|row| {
                    bytes += to_json(&row.row.value).to_string().len();
                    bytes <= bytes_max
                });
                let fit = fit.count().max(1).min(rows.len());
                has_more |= fit < rows.len();
                rows.truncate(fit);
                Ok(Page { rows, has_more, partitions })
            })
            .boxed()
    }

    fn others(&self, table: TableId) -> Vec<String> {
        self.peers.owners(self.rows.task(table, 0).subtopology, self.clock.now())
    }

    fn partition_count(&self, table: TableId) -> i32 {
        use crate::views::rows::RowSource;
        self.rows.partition_count(table)
    }

    fn windows(&self, table: TableId, key: Key, from: Time, to: Time, limit: usize) -> Answered<Answer<Vec<WindowRow>>> {
        let value = self.tables[table.0].key.from_store_key(&key);
        let here = self.here(table);
        let partitions: Vec<i32> = self.partitions(table, &value).into_iter().filter(|partition| here.contains(partition)).collect();
        let asked = partitions.into_iter().map(|partition| {
            let (first, last) = (layout::windowed_key(&key, from), layout::windowed_key(&key, to));
            self.asked(table, partition, move |owned| {
                let page = owned.scan_keys(Bound::Included(&first), Bound::Excluded(&last), limit)?;
                let sealed = owned.sealed;
                let windows = page.rows.into_iter().filter_map(|(_, current)| {
                    let (start, end) = current.window?;
                    Some(WindowRow { start, end, row: shown(current.row?, sealed) })
                });
                let windows: Vec<WindowRow> = windows.collect();
                let found = (!windows.is_empty()).then_some(windows);
                Ok(Answer { value: found, partition, position: sealed })
            })
        });
        join_all(asked)
            .map(|answers| {
                let found = first_found(answers)?;
                Ok(Answer { value: found.value.unwrap_or_default(), partition: found.partition, position: found.position })
            })
            .boxed()
    }

    fn feed(&self, table: TableId) -> Arc<Feed> {
        self.feeds.get(&table).cloned().unwrap_or_else(|| Feed::new(0))
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        self.ask_all()
    }

    fn health(&self) -> Health {
        let states = self.handle.states();
        let mut problems = Vec::new();
        let mut is_live = true;
        for (number, state) in states.iter().enumerate() {
            match state {
                ThreadState::Starting { problem } => {
                    problems.push(problem.clone().unwrap_or_else(|| format!("stream thread {number} is joining")));
                }
                ThreadState::Running => {}
                ThreadState::Ended => problems.push(format!("stream thread {number} has ended")),
                ThreadState::Failed { why } => {
                    is_live = false;
                    problems.push(why.clone());
                }
            }
        }
        for task in self.handle.restoring() {
            problems.push(format!("task {task} is being restored"));
        }
        for (task, why) in self.handle.stopped() {
            problems.push(format!("task {task} has stopped: {why}"));
        }
        problems.extend(self.peers.silence(self.clock.now()));
        problems.extend(self.peers.unheard().map(str::to_owned));
        let is_ready = problems.is_empty();
        // A view that is behind is shown, but the worker answers queries all the same.
        for view in self.views.iter().flat_map(|views| views.status()) {
            if let Some(error) = view.error {
                problems.push(format!("view `{}` partition {} is {}: {error}", view.view, view.partition, view.state));
            }
        }
        Health { is_live, is_ready, problems }
    }

    fn topology(&self) -> Bytes {
        self.topology.clone()
    }
}

/// Of several places where a key may be: the first that has it, else the first that answered.
fn first_found<T>(answers: Vec<Result<Answer<Option<T>>, Unanswered>>) -> Result<Answer<Option<T>>, Unanswered> {
    let mut fallback = None;
    for answer in answers {
        let answer = answer?;
        if answer.value.is_some() {
            return Ok(answer);
        }
        fallback.get_or_insert(answer);
    }
    fallback.ok_or(Unanswered::Restoring { retry_after: RESTORE_RETRY })
}

fn as_slice(bound: &Bound<Key>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_slice()),
        Bound::Excluded(key) => Bound::Excluded(key.as_slice()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Renders committed changes for listeners, on the stream thread but only where somebody listens or may come back.
pub struct ChangeFeed {
    feeds: BTreeMap<TableId, Arc<Feed>>,
}

impl ChangeFeed {
    pub fn of(answers: &WorkerAnswers) -> ChangeFeed {
        ChangeFeed { feeds: answers.feeds.clone() }
    }
}

impl Observer for ChangeFeed {
    fn opened(&self, _task: TaskId, tables: &[(TableId, Name, Offset)]) {
        for (table, _, _) in tables {
            if let Some(feed) = self.feeds.get(table) {
                feed.restart();
            }
        }
    }

    fn closed(&self, _task: TaskId, tables: &[TableId]) {
        for table in tables {
            if let Some(feed) = self.feeds.get(table) {
                feed.restart();
            }
        }
    }

    fn wants_changes(&self, table: TableId) -> bool {
        self.feeds.get(&table).is_some_and(|feed| feed.watch_count() > 0)
    }

    fn committed(&self, committed: &Committed) {
        for table in &committed.tables {
            let Some(feed) = self.feeds.get(&table.table) else { continue };
            // Rendering costs more than the fold: nobody pays for it who does not listen. Somebody who has begun to listen
            // in this very commit is told to read the table, too: its rows were not kept.
            if feed.watch_count() == 0 || table.changes.len() < table.changed {
                if table.changed > 0 {
                    feed.restart();
                }
                continue;
            }
            feed.publish(table.changes.iter().map(|change| {
                let mut event = json!({
                    "key": to_json(&change.key),
                    "row": change.new.as_ref().map_or(serde_json::Value::Null, to_json),
                    "partition": table.partition,
                    "offset": table.next.0,
                    "time": change.time.0,
                });
                if let (Some((start, end)), Some(fields)) = (change.window, event.as_object_mut()) {
                    fields.insert("window".into(), json!({ "start": start.0, "end": end.0 }));
                }
                Bytes::from(event.to_string())
            }));
        }
    }
}
