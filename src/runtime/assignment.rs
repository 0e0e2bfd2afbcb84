//! Turns events of the task topic into tasks that open, run and close.
//!
//! An assigned task opens in steps, one attempt per turn: committed offsets (waiting for transactions of the last owner to
//! end), the state's folder (waiting for another thread to let go of it), restore, then its inputs.

use std::time::Duration;

use tracing::{info, warn};

use crate::log::{Input, LogErrorKind};
use crate::model::{Name, Offset, StoreId, TaskId};
use crate::operators::fold::table::Table;
use crate::runtime::fault::{Fault, Reaction};
use crate::runtime::restore::Restore;
use crate::runtime::task::{Phase, Task, store_specs};
use crate::runtime::thread::StreamThread;
use crate::state::StateError;
use crate::topology::plan::StoreKind;

/// How long one question for committed offsets may take; it is asked again in the next turn.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(3);
/// Turns in which "no committed offset" is asked again for a task that has state (KAFKA-20416: a resigning coordinator
/// may answer so for a moment).
const MISSING_OFFSETS_TRIES_MAX: u32 = 20;

/// Attempts to open a folder that another holds: 10 s, longer than a thread of the same worker needs to let go of it.
const BUSY_TRIES_MAX: u32 = 1000;
/// After so many somebody is told: a thread that is only closing it has let go by then.
const BUSY_TRIES_TOLD: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// An assigned task that is not open yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    tries: u32,
    missing: u32,
    /// The producer of the last life is gone and the next one could not be made yet.
    pub needs_producer: bool,
}

/// Tries to open what is assigned. Returns whether something is still closed.
pub fn open_tasks(thread: &mut StreamThread) -> Result<bool, Fault> {
    if thread.opening.values().any(|opening| opening.needs_producer) {
        thread.retry_producer()?;
    }
    let ids: Vec<TaskId> = thread.opening.keys().copied().collect();
    for id in ids {
        match open_task(thread, id) {
            Ok(Some(task)) => {
                thread.opening.remove(&id);
                thread.tasks.insert(id, task);
            }
            Ok(None) => {
                if let Some(opening) = thread.opening.get_mut(&id) {
                    opening.tries += 1;
                }
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(!thread.opening.is_empty())
}

fn open_task(thread: &mut StreamThread, id: TaskId) -> Result<Option<Task>, Fault> {
    let app = thread.app.clone();
    let subtopology = &app.plan.subtopologies[id.subtopology as usize];
    let wanted: Vec<(Name, i32)> = subtopology.topics.iter().map(|topic| (topic.clone(), id.partition)).collect();
    let committed = match thread.consumer.committed(&wanted, COMMITTED_TIMEOUT) {
        Ok(committed) => committed,
        Err(error) if matches!(error.kind, LogErrorKind::Retry | LogErrorKind::Unknown | LogErrorKind::Unreachable) => {
            if thread.opening.get(&id).is_some_and(|opening| opening.tries % 50 == 0) {
                info!(task = %id, %error, "waiting for the committed offsets");
            }
            return Ok(None);
        }
        Err(error) => return Err(Fault::of_log(&error)),
    };
    let mut state = match app.storage.open(id, store_specs(&app.plan, subtopology)) {
        Ok(state) => state,
        Err(error @ StateError::Busy { .. }) => {
            let tries = thread.opening.get(&id).map_or(0, |opening| opening.tries);
            if tries >= BUSY_TRIES_MAX {
                return Err(Fault::new(
                    Reaction::Stop,
                    format!("task {id}: {error}: another worker uses this state folder; give each worker its own `worker.state_dir`"),
                ));
            }
            if tries == BUSY_TRIES_TOLD {
                warn!(task = %id, "{error}; trying again");
            }
            std::thread::park_timeout(BUSY_PAUSE);
            return Ok(None);
        }
        Err(error) => return Err(Fault::of_state(id, &error)),
    };
    let restore = Restore::begin(&app, id, &mut state)?;
    let has_state = restore.total > 0
        || subtopology
            .stores
            .iter()
            .enumerate()
            .any(|(at, _)| state.offsets().changelog(StoreId(at)).is_some_and(|offset| offset > Offset(0)));
    let mut starts = Vec::new();
    for ((topic, partition), committed) in wanted.iter().zip(committed) {
        let stored = state.offsets().input(topic);
        let start = match (committed, stored) {
            (Some(committed), _) => committed,
            (None, Some(stored)) => stored,
            (None, None) if has_state => {
                let missing = thread.opening.get_mut(&id).map_or(MISSING_OFFSETS_TRIES_MAX, |opening| {
                    opening.missing += 1;
                    opening.missing
                });
                if missing < MISSING_OFFSETS_TRIES_MAX {
                    return Ok(None);
                }
                // A topic that never had a record has no offset, although its table has state from another topic.
                let (first, end) = bounds(thread, topic, *partition)?;
                if end > first {
                    warn!(task = %id, %topic, partition, "the group has no committed offset here although the table has state; reading the topic from its start (order_by keeps rows right, sums may count again)");
                }
                first
            }
            (None, None) => bounds(thread, topic, *partition)?.0,
        };
        starts.push(start);
    }
    Ok(Some(Task::open(&app, id, starts, restore, state)?))
}

fn bounds(thread: &mut StreamThread, topic: &Name, partition: i32) -> Result<(Offset, Offset), Fault> {
    thread.consumer.bounds(topic, partition, COMMITTED_TIMEOUT).map_err(|error| Fault::of_log(&error))
}

/// Restores a piece of each task that needs it, and starts those that are done. Returns whether some are not.
pub fn restore_tasks(thread: &mut StreamThread) -> Result<bool, Fault> {
    let mut is_busy = false;
    let ids: Vec<TaskId> = thread.tasks.iter().filter(|(_, task)| matches!(task.phase, Phase::Restoring(_))).map(|(id, _)| *id).collect();
    for id in ids {
        let Some(task) = thread.tasks.get_mut(&id) else { continue };
        let Task { phase: Phase::Restoring(restore), state, tables, .. } = task else { continue };
        if !restore.step(id, state, tables, RESTORE_WAIT)? {
            is_busy = true;
            continue;
        }
        run_task(thread, id)?;
    }
    Ok(is_busy)
}

/// How long a turn may wait for records of a changelog; short, so that the group is polled.
const RESTORE_WAIT: Duration = Duration::from_millis(5);

fn run_task(thread: &mut StreamThread, id: TaskId) -> Result<(), Fault> {
    let app = thread.app.clone();
    let subtopology = &app.plan.subtopologies[id.subtopology as usize];
    if let Some(rebuilds) = thread.rebuilds.get_mut(&id) {
        rebuilds.ran_at = Some(app.clock.now());
    }
    let Some(task) = thread.tasks.get_mut(&id) else { return Ok(()) };
    if let Phase::Restoring(restore) = std::mem::replace(&mut task.phase, Phase::Running) {
        let inputs = task.inputs.iter().map(|input| (input.topic.clone(), input.committed)).collect();
        for (store, offset) in restore.finish(id, &mut task.state, inputs)? {
            task.changelogs[store.0] = offset;
        }
    }
    for table in &mut task.tables {
        table.open(&mut task.state).map_err(|error| Fault::of_state(id, &error))?;
    }
    let mut added = Vec::new();
    for (at, input) in task.inputs.iter_mut().enumerate() {
        let slot = thread.slots.len() as u32;
        thread.slots.push(Some((id, at)));
        input.slot = Some(slot);
        added.push((Input { slot, topic: input.topic.clone(), partition: id.partition }, input.committed));
    }
    let stands: Vec<_> = subtopology
        .tables
        .iter()
        .filter_map(|table| {
            let rows = subtopology.stores.iter().position(|store| store.table == *table && store.kind == StoreKind::Rows)?;
            subtopology.stores[rows].changelog.clone().map(|changelog| (*table, changelog, task.changelogs[rows]))
        })
        .collect();
    thread.consumer.add_inputs(&added).map_err(|error| Fault::of_log(&error))?;
    info!(task = %id, inputs = ?added.iter().map(|(input, offset)| format!("{}@{offset}", input.topic)).collect::<Vec<_>>(), "running");
    for observer in &app.observers {
        observer.opened(id, &stands);
    }
    Ok(())
}

/// Closes tasks: no more input, state flushed, edges told. What is not committed is forgotten.
pub fn close_tasks(thread: &mut StreamThread, ids: &[TaskId]) {
    for id in ids {
        thread.opening.remove(id);
        thread.failed.remove(id);
        let Some(mut task) = thread.tasks.remove(id) else { continue };
        remove_inputs(thread, &mut task);
        task.state.drop_overlay();
        if let Err(error) = task.state.close() {
            warn!(task = %id, %error, "could not flush the state; the changelog has what is missing");
        }
        tell_closed(thread, *id, &task.tables);
    }
}

fn tell_closed(thread: &StreamThread, id: TaskId, tables: &[Table]) {
    let tables: Vec<_> = tables.iter().map(Table::id).collect();
    for observer in &thread.app.observers {
        observer.closed(id, &tables);
    }
}

/// Lets go of a task whose state failed: no more input, nothing of it is committed any more, and what it holds is not trusted.
pub fn discard_task(thread: &mut StreamThread, id: TaskId) {
    thread.opening.remove(&id);
    let Some(mut task) = thread.tasks.remove(&id) else { return };
    remove_inputs(thread, &mut task);
    let Task { state, tables, .. } = task;
    drop(state);
    tell_closed(thread, id, &tables);
}

fn remove_inputs(thread: &mut StreamThread, task: &mut Task) {
    let slots: Vec<u32> = task.inputs.iter_mut().filter_map(|input| input.slot.take()).collect();
    for slot in &slots {
        thread.slots[*slot as usize] = None;
    }
    if !slots.is_empty()
        && let Err(error) = thread.consumer.remove_inputs(&slots)
    {
        warn!(task = %task.id, %error, "could not stop reading the inputs");
    }
}

/// Stops a task where it is: what it processed before may still be committed, nothing more is read.
pub fn stop_task(thread: &mut StreamThread, id: TaskId, why: String) {
    let Some(mut task) = thread.tasks.remove(&id) else { return };
    remove_inputs(thread, &mut task);
    task.phase = Phase::Stopped { why };
    task.discard_queued();
    thread.tasks.insert(id, task);
}
