//! What one commit makes true together: offsets, outputs, state; then views.
//!
//! One Kafka transaction per thread and commit (KIP-447). Each step takes what the one before returns, so that none can be
//! skipped or swapped. After step 5 everything is a projection of the changelog: if 6 or 7 fail they are redone from it,
//! never rolled back.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::codec::{KeyCodec, json};
use crate::log::{Acknowledged, LogError, LogErrorKind, Outgoing};
use crate::metrics;
use crate::model::{Headers, Name, Offset, StoreId, TaskId, Time, Value};
use crate::operators::output::OutputFrom;
use crate::operators::{DeadLetter, Failure, Origin, StaleRecord};
use crate::runtime::emit::{DeadLetterBox, WriteError};
use crate::runtime::fault::{Fault, Reaction};
use crate::runtime::observe::{Committed, CommittedTable};
use crate::runtime::settings::Guarantee;
use crate::runtime::thread::StreamThread;
use crate::state::Sealed;
use crate::topology::plan::StoreKind;

/// Until when a commit has to be through; past it the outcome counts as unknown.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(duration: Duration) -> Deadline {
        Deadline(Instant::now() + duration)
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

/// The input offsets of step 1: `(topic, partition, next to read)`.
struct Closed {
    offsets: Vec<(Name, i32, Offset)>,
    at: Time,
}

/// What step 2 wrote, for the observers.
struct Drained {
    closed: Closed,
    tasks: Vec<Committed>,
}

struct Produced {
    drained: Drained,
}

struct Flushed {
    drained: Drained,
    acknowledged: Acknowledged,
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There was nothing to commit.
    Nothing,
    Committed,
}

/// Commits everything since the last commit.
///
/// # Errors
/// A fault before step 5 ended: the caller aborts, or finds out which way it went. Never afterwards, except for the state
/// of a task, which is then opened again from the changelog.
pub fn commit(thread: &mut StreamThread, deadline: Deadline) -> Result<Outcome, Fault> {
    if !thread.has_changes() {
        return Ok(Outcome::Nothing);
    }
    begin(thread)?;
    let closed = close_input(thread); // 1 fix the input offsets: last processed + 1
    let drained = drain(thread, closed)?; // 2 emit what tables hold back: changed rows, dead letters
    let produced = produce_changelog(thread, drained)?; // 3 one changelog record per changed key
    let flushed = flush_producer(thread, produced, deadline)?; // 4 every record acknowledged, or fail
    let committed = commit_transaction(thread, flushed, deadline)?; // 5 offsets, group metadata: now it is true
    let sealed = seal_state(thread, committed)?; // 6 overlay and offsets into the store
    publish(thread, &sealed); // 7 committed changes to views, HTTP and change feeds
    Ok(Outcome::Committed)
}

fn begin(thread: &mut StreamThread) -> Result<(), Fault> {
    if thread.app.settings.guarantee == Guarantee::ExactlyOnce {
        thread.producer.begin().map_err(|error| Fault::of_transaction(&error))?;
        thread.in_transaction = true;
    }
    Ok(())
}

fn close_input(thread: &StreamThread) -> Closed {
    let at = thread.app.clock.now();
    let mut offsets = Vec::new();
    for task in thread.tasks.values().filter(|task| task.is_restored()) {
        let before = offsets.len();
        for input in task.inputs.iter().filter(|input| input.is_to_commit(at)) {
            offsets.push((input.topic.clone(), task.id.partition, input.next));
        }
        // Where only timers have fired, one is told again: the group refuses the offsets of a worker that has lost the task and does
        // not know it yet, and with them the transaction. Without any, nobody would refuse it.
        let subtopology = &thread.app.plan.subtopologies[task.id.subtopology as usize];
        if offsets.len() == before && task.is_dirty(subtopology, at) {
            offsets.extend(task.inputs.first().map(|input| (input.topic.clone(), task.id.partition, input.next)));
        }
    }
    Closed { offsets, at }
}

fn drain(thread: &mut StreamThread, closed: Closed) -> Result<Drained, Fault> {
    let StreamThread { tasks, producer, writers, app, dead_letter_topic, .. } = thread;
    let tell_outputs = app.observers.iter().any(|observer| observer.wants_outputs());
    let topology = &app.plan.topology;
    let mut told = Vec::new();
    for task in tasks.values_mut().filter(|task| task.is_restored()) {
        let partition = task.id.partition;
        let mut committed = Committed { task: task.id, dead_letters: Vec::new(), tables: Vec::new(), outputs: Vec::new() };
        let mut letters: Vec<DeadLetter> = std::mem::take(&mut task.effects.dead_letters);
        for stale in std::mem::take(&mut task.effects.stale) {
            for writer in writers.iter_mut().filter(|writer| writer.from() == OutputFrom::Stale(stale.table)) {
                let tell = tell_outputs.then_some(&mut committed.outputs);
                match writer.write_stale(&stale, producer.as_mut(), tell) {
                    Ok(()) => {}
                    Err(WriteError::Log(error)) => return Err(Fault::of_transaction(&error)),
                    Err(WriteError::Row(failure)) => {
                        writer.count_unwritable(&app.metrics);
                        letters.push(stale_letter(&stale, topology.tables[stale.table.0].key, &failure));
                    }
                }
            }
        }
        for table in &mut task.tables {
            table.save_progress(&mut task.state).map_err(|error| Fault::of_state(task.id, &error))?;
            let id = table.id();
            let first_source = table.spec().inputs[0].source;
            let tell_changes = app.observers.iter().any(|observer| observer.wants_changes(id));
            let (mut changed, mut changes) = (0, Vec::new());
            let mut failed: Option<LogError> = None;
            let emitted = table.emit(&task.state, &mut |change| {
                for writer in writers.iter_mut().filter(|writer| writer.from() == OutputFrom::Table(id)) {
                    let tell = tell_outputs.then_some(&mut committed.outputs);
                    match writer.write(change, producer.as_mut(), tell) {
                        Ok(()) => {}
                        Err(WriteError::Row(failure)) => {
                            writer.count_unwritable(&app.metrics);
                            letters.push(DeadLetter {
                                source: change.origin.map_or(first_source, |origin| origin.source),
                                reason: failure.reason(),
                                detail: format!("output `{}` of table `{}`: {failure}", writer.name(), topology.tables[id.0].name),
                                key: kafka_key(topology.tables[id.0].key, &change.key),
                                value: change.new.as_ref().map(row_text),
                                headers: change.headers.clone(),
                                offset: change.origin.map_or(-1, |origin| origin.offset),
                                time: change.time,
                                origin: change.origin,
                            })
                        }
                        Err(WriteError::Log(error)) => failed = Some(error),
                    }
                }
                changed += 1;
                if tell_changes {
                    changes.push(change.clone());
                }
            });
            emitted.map_err(|error| Fault::of_state(task.id, &error))?;
            if let Some(error) = failed {
                return Err(Fault::of_transaction(&error));
            }
            committed.tables.push(CommittedTable { table: id, partition, prev: Offset(0), next: Offset(0), changed, changes });
        }
        for letter in &letters {
            let source = &topology.sources[letter.source.0];
            let (topic, partitions) = *dead_letter_topic;
            let mut letter_box = DeadLetterBox { topic, partitions, producer: producer.as_mut() };
            let written = letter_box.write(letter, &source.name, &source.topic, partition);
            if !written.map_err(|error| Fault::of_transaction(&error))? {
                app.metrics.counter(&metrics::CUT_DEAD_LETTERS, &[&source.name]).inc();
            }
        }
        committed.dead_letters = letters;
        told.push(committed);
    }
    Ok(Drained { closed, tasks: told })
}

/// A stale record that its output cannot write.
fn stale_letter(stale: &StaleRecord, codec: KeyCodec, failure: &Failure) -> DeadLetter {
    DeadLetter {
        source: stale.record.source,
        reason: failure.reason(),
        detail: failure.to_string(),
        key: kafka_key(codec, &stale.record.key_value),
        value: stale.raw.clone(),
        headers: stale.record.headers.clone(),
        offset: stale.record.offset,
        time: stale.record.time,
        origin: Some(Origin { source: stale.record.source, offset: stale.record.offset }),
    }
}

/// A key as a producer writes it: stores have it in another form. None for one that cannot be written, which no record has.
fn kafka_key(codec: KeyCodec, key: &Value) -> Option<Bytes> {
    let mut bytes = Vec::new();
    codec.encode(key, &mut bytes).ok().map(|()| bytes.into())
}

fn row_text(row: &Value) -> Bytes {
    let mut text = Vec::new();
    json::write_value(row, &mut text);
    text.into()
}

fn produce_changelog(thread: &mut StreamThread, drained: Drained) -> Result<Produced, Fault> {
    let StreamThread { tasks, producer, changelogs, app, .. } = thread;
    // Wall clock: retention of windows and identities counts from it, and event times may be of any age.
    let now = app.clock.now();
    for task in tasks.values().filter(|task| task.is_restored()) {
        for (store, changelog) in changelogs[task.id.subtopology as usize].iter().enumerate() {
            let Some(topic) = changelog else { continue };
            for change in task.state.changes(StoreId(store)) {
                if change.old == change.new {
                    continue;
                }
                let record = Outgoing {
                    topic: *topic,
                    partition: task.id.partition,
                    key: Some(change.key),
                    value: change.new,
                    time: now,
                    keep_time: false,
                    headers: &NO_HEADERS,
                };
                producer.send(record).map_err(|error| unwritable(task.id, &error))?;
            }
        }
    }
    Ok(Produced { drained })
}

/// A row that is too large for its changelog cannot be kept: the task stops before what made it so, and the others go on.
fn unwritable(task: TaskId, error: &LogError) -> Fault {
    if error.kind != LogErrorKind::TooLarge {
        return Fault::of_transaction(error);
    }
    let what = format!("task {task}: cannot {error}; a row is larger than its changelog takes: raise the limit and restart the worker");
    Fault::new(Reaction::CloseTask(task), what)
}

const NO_HEADERS: Headers = Headers(None);

fn flush_producer(thread: &mut StreamThread, produced: Produced, deadline: Deadline) -> Result<Flushed, Fault> {
    let acknowledged = thread.producer.flush(deadline.left()).map_err(|error| Fault::of_transaction(&error))?;
    Ok(Flushed { drained: produced.drained, acknowledged })
}

fn commit_transaction(thread: &mut StreamThread, flushed: Flushed, deadline: Deadline) -> Result<Flushed, Fault> {
    let offsets = &flushed.drained.closed.offsets;
    match thread.app.settings.guarantee {
        Guarantee::ExactlyOnce => {
            if !offsets.is_empty() {
                // Taken fresh: it changes with each rebalance, and a stale one is refused (KIP-447).
                let Some(group) = thread.consumer.group() else {
                    return Err(Fault::new(Reaction::Rejoin, "cannot commit: not a member of the group any more"));
                };
                let sent = thread.producer.send_offsets(offsets, &group, deadline.left());
                sent.map_err(|error| Fault::of_transaction(&error))?;
            }
            thread.producer.commit(deadline.left()).map_err(|error| Fault::of_transaction(&error))?;
            thread.in_transaction = false;
        }
        Guarantee::AtLeastOnce => thread.consumer.commit(offsets).map_err(|error| Fault::of_transaction(&error))?,
    }
    Ok(flushed)
}

fn seal_state(thread: &mut StreamThread, flushed: Flushed) -> Result<Vec<Committed>, Fault> {
    let Flushed { drained, acknowledged } = flushed;
    let StreamThread { tasks, changelogs, app, .. } = thread;
    let closed_at = drained.closed.at;
    let mut told = drained.tasks;
    let mut failed = None;
    // A task that is being restored had no part in it, and is not yet where its offsets would say.
    for (task, committed) in tasks.values_mut().filter(|task| task.is_restored()).zip(&mut told) {
        debug_assert_eq!(task.id, committed.task);
        let before = task.changelogs.clone();
        let mut sealed = Sealed { as_of: Some(closed_at), ..Sealed::default() };
        for (store, changelog) in changelogs[task.id.subtopology as usize].iter().enumerate() {
            let Some(topic) = changelog else { continue };
            let highest = acknowledged.iter().find(|(handle, partition, _)| handle == topic && *partition == task.id.partition);
            if let Some((_, _, offset)) = highest {
                task.changelogs[store] = Offset(offset + 1);
            }
            sealed.changelogs.push((StoreId(store), task.changelogs[store]));
        }
        for input in &mut task.inputs {
            if input.is_to_commit(closed_at) {
                (input.committed_at, input.is_known) = (closed_at, true);
            }
            input.committed = input.next;
            sealed.inputs.push((input.topic.clone(), input.next));
        }
        // Before the seal: it drops the windows that are not kept any more.
        for table in &mut task.tables {
            table.committed(&mut task.state);
        }
        if let Err(error) = task.state.seal(&sealed) {
            failed = Some(Fault::of_state(task.id, &error));
        }
        let stores = &app.plan.subtopologies[task.id.subtopology as usize].stores;
        for table in &mut committed.tables {
            let rows = stores.iter().position(|store| store.table == table.table && store.kind == StoreKind::Rows);
            if let Some(rows) = rows {
                (table.prev, table.next) = (before[rows], task.changelogs[rows]);
            }
        }
    }
    if let Some(fault) = failed {
        // What was committed is told all the same: views come from the changelog, not from the disk.
        publish(thread, &told);
        return Err(fault);
    }
    Ok(told)
}

fn publish(thread: &StreamThread, told: &[Committed]) {
    for observer in &thread.app.observers {
        for committed in told {
            observer.committed(committed);
        }
    }
}
