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
use crate::runtime::start::App;
use crate::runtime::task::{InputStart, Phase, Task, store_specs};
use crate::runtime::thread::StreamThread;
use crate::state::StateError;
use crate::topology::plan::StoreKind;

/// How long one question for committed offsets may take; it is asked again in the next turn.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(3);
/// How often "no committed offset" is asked again for a task that has had one: 3 s in all with the default pause (KAFKA-20416: a
/// coordinator that resigns may answer so for a moment).
const MISSING_OFFSETS_TRIES_MAX: u32 = 10;

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
    let stored = |at: usize| state.offsets().changelog(StoreId(at));
    let has_folder = (0..subtopology.stores.len()).any(|at| stored(at).is_some_and(|offset| offset > Offset(0)));
    let has_state = has_folder || restore.total > 0;
    let stored: Vec<Option<Offset>> = wanted.iter().map(|(topic, _)| state.offsets().input(topic)).collect();
    let lost = lost_offsets(&committed, &stored, has_state);
    let mut starts = Vec::new();
    let mut is_in_doubt = false;
    for (at, (topic, partition)) in wanted.iter().enumerate() {
        starts.push(match committed[at] {
            Some(committed) => InputStart::Committed(committed),
            None => {
                let (first, end) = bounds(thread, topic, *partition)?;
                // Where there are no records there is nothing to skip and nothing to count twice.
                is_in_doubt |= first < end && lost.contains(&at);
                match stored[at] {
                    _ if first == end => InputStart::Uncommitted(end),
                    _ if !lost.contains(&at) => InputStart::Uncommitted(first),
                    Some(stored) => InputStart::Stored(stored),
                    None if !are_missing_for_good(thread, id) => return Ok(None),
                    None if has_folder => return Err(lost_offset(&app, id, topic, *partition)),
                    // What makes the changelog longer than nothing may be a first transaction that was aborted. So the start is
                    // taken, and stands if no row comes out of it.
                    None => InputStart::Stored(first),
                }
            }
        });
    }
    if is_in_doubt && !are_missing_for_good(thread, id) {
        return Ok(None);
    }
    Ok(Some(Task::open(&app, id, starts, restore, state)?))
}

/// The inputs whose offsets the group has had and has no more, by their place.
///
/// The first commit of a task gives the group the offsets of all its inputs, and they are given again daily. So a task with state and no
/// offset at all has lost them, as has one whose folder knows an offset that the group does not. One that lacks some, and never
/// knew them, has got a new input.
fn lost_offsets(committed: &[Option<Offset>], stored: &[Option<Offset>], has_state: bool) -> Vec<usize> {
    let has_none = committed.iter().all(Option::is_none);
    let is_lost = |at: &usize| committed[*at].is_none() && (stored[*at].is_some() || has_none);
    if has_state { (0..committed.len()).filter(is_lost).collect() } else { Vec::new() }
}

/// Counts the answers "no committed offset" of a task that has had some: only after many they are believed. Waits before the next.
fn are_missing_for_good(thread: &mut StreamThread, id: TaskId) -> bool {
    let pause = thread.app.settings.missing_offsets_pause;
    let Some(opening) = thread.opening.get_mut(&id) else { return false };
    opening.missing += 1;
    let are_believed = opening.missing >= MISSING_OFFSETS_TRIES_MAX;
    if !are_believed {
        std::thread::park_timeout(pause);
    }
    are_believed
}

/// To read from the start would count twice what the table has already; to read from the end would skip records.
fn lost_offset(app: &App, id: TaskId, topic: &Name, partition: i32) -> Fault {
    let group = &app.plan.topology.app;
    let what = format!(
        "task {id}: group `{group}` has no committed offset for `{topic}` partition {partition}, although the table has rows, and the state folder does \
         not know it either: it has expired (`offsets.retention.minutes`), or the topic was made anew. Where to go on cannot be guessed: set it with \
         `kafka-consumer-groups.sh --group {group} --topic {topic}:{partition} --reset-offsets`, or start anew under another app name"
    );
    Fault::new(Reaction::Stop, what)
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
        // The folder's offsets belong to the folder's rows. Rows that came out of the changelog are newer than they are.
        if restore.restored > 0
            && let Some(input) = task.inputs.iter().find(|input| input.is_from_folder)
        {
            return Err(lost_offset(&app, id, &input.topic, id.partition));
        }
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
