//! A task: one sub-topology on one partition, used by one stream thread.
//!
//! Owns its state, its operators and its input queues. Knows no consumer and no producer: `thread.rs` feeds it, `commit.rs`
//! asks it what to write.

use smallvec::SmallVec;

use crate::codec::Limits;
use crate::log::Message;
use crate::metrics::{self, Counter, Metrics};
use crate::model::{Name, Offset, SourceId, StoreId, TaskId, Time};
use crate::operators::fold::table::{Table, TableStores};
use crate::operators::source::{OnError, SourceDecoder};
use crate::operators::{Context, DeadLetter, Effects, Failure, Origin};
use crate::runtime::buffer::{Buffer, Decoded, Queued};
use crate::runtime::fault::{Fault, Reaction};
use crate::runtime::restore::Restore;
use crate::runtime::start::App;
use crate::state::{StateError, StoreSpec, TaskState};
use crate::topology::Plan;
use crate::topology::plan::{StoreKind, Subtopology};

/// Opens the state of tasks: on disk, or in process.
pub trait StateStorage: Send + Sync {
    /// # Errors
    /// `Refused` while another thread or process still holds the folder; `Corrupt` if it is to be wiped and rebuilt.
    fn open(&self, task: TaskId, stores: Vec<StoreSpec>) -> Result<TaskState, StateError>;
    /// Throws the state of a task away, so that it is rebuilt from the changelog.
    fn wipe(&self, task: TaskId, reason: &str) -> Result<(), StateError>;
}

/// What a task is doing.
pub enum Phase {
    /// Reads its changelogs; its inputs are not read yet.
    Restoring(Restore),
    Running,
    /// A record met `on_error: fail`, or the state failed: the position stays, nothing is committed past it.
    Stopped {
        why: String,
    },
}

/// The counters of one source on this task.
struct SourceCounters {
    records: Counter,
    filtered: Counter,
    dead_letters: Counter,
    skipped: Counter,
}

pub struct Task {
    pub id: TaskId,
    pub phase: Phase,
    pub state: TaskState,
    pub tables: Vec<Table>,
    /// Topics read, in the order of the sub-topology.
    pub inputs: Vec<TaskInput>,
    /// Per store: the changelog offset that the last commit ended with.
    pub changelogs: Vec<Offset>,
    pub effects: Effects,
    decoders: Vec<SourceDecoder>,
    on_error: Vec<OnError>,
    source_ids: Vec<SourceId>,
    source_names: Vec<Name>,
    counters: Vec<SourceCounters>,
    /// Per input: the decoders of its topic.
    of_input: Vec<SmallVec<[usize; 2]>>,
    /// Per decoder: tables and their inputs that it feeds.
    feeds: Vec<Vec<(usize, usize)>>,
    buffer: Buffer,
    /// A record that says `on_error: fail` to one table while others had taken it: input, offset and what to say. What was
    /// processed since the last commit is forgotten and read again, up to this record and without it.
    stops_before: Option<(usize, Offset, String)>,
}

/// A topic's partition as this task reads it.
#[derive(Clone, Debug)]
pub struct TaskInput {
    pub topic: Name,
    /// Given anew each time it is added to the consumer, so that late messages of an earlier time are known.
    pub slot: Option<u32>,
    /// Last processed + 1.
    pub next: Offset,
    /// As of the last commit.
    pub committed: Offset,
}

impl Task {
    /// Makes a task with its state as it lies on disk; it still has to be restored.
    pub fn open(
        app: &App,
        id: TaskId,
        number_of_inputs_committed: Vec<Offset>,
        restore: Restore,
        mut state: TaskState,
    ) -> Result<Task, Fault> {
        let subtopology = &app.plan.subtopologies[id.subtopology as usize];
        let sources = &app.plan.topology.sources;
        let decoders: Vec<SourceDecoder> =
            subtopology.sources.iter().map(|source| SourceDecoder::new(*source, &sources[source.0], Limits::default())).collect();
        let of_input = subtopology
            .topics
            .iter()
            .map(|topic| {
                subtopology.sources.iter().enumerate().filter(|(_, source)| sources[source.0].topic == *topic).map(|(at, _)| at).collect()
            })
            .collect();
        let mut tables = make_tables(&app.plan, subtopology, &app.metrics);
        for table in &mut tables {
            table.open(&mut state).map_err(|error| Fault::of_state(id, &error))?;
        }
        let feeds = subtopology
            .sources
            .iter()
            .map(|source| {
                let fed = |(at, table): (usize, &Table)| {
                    let inputs = table.spec().inputs.iter().enumerate();
                    inputs.filter(|(_, input)| input.source == *source).map(|(input, _)| (at, input)).collect::<Vec<_>>()
                };
                tables.iter().enumerate().flat_map(fed).collect()
            })
            .collect();
        let inputs = subtopology
            .topics
            .iter()
            .zip(number_of_inputs_committed)
            .map(|(topic, offset)| TaskInput { topic: topic.clone(), slot: None, next: offset, committed: offset })
            .collect();
        Ok(Task {
            id,
            phase: Phase::Restoring(restore),
            tables,
            inputs,
            changelogs: vec![Offset(0); subtopology.stores.len()],
            effects: Effects::default(),
            on_error: subtopology.sources.iter().map(|source| sources[source.0].on_error).collect(),
            source_ids: subtopology.sources.clone(),
            source_names: subtopology.sources.iter().map(|source| sources[source.0].name.clone()).collect(),
            counters: subtopology.sources.iter().map(|source| SourceCounters::new(&sources[source.0].name, &app.metrics)).collect(),
            decoders,
            of_input,
            feeds,
            buffer: Buffer::new(subtopology.topics.len()),
            stops_before: None,
            state,
        })
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Decodes a message and queues it.
    pub fn take(&mut self, input: usize, message: Message, now: Time) {
        let mut decoded: SmallVec<[Decoded; 1]> = SmallVec::new();
        let mut time: Option<Time> = None;
        for &source in &self.of_input[input] {
            decoded.push(match self.decoders[source].decode(&message, now) {
                Ok(Some(record)) => {
                    time = Some(time.map_or(record.time, |earliest| earliest.min(record.time)));
                    Decoded::Record(record)
                }
                Ok(None) => Decoded::Filtered,
                Err(bad) => Decoded::Bad { source, reason: bad.reason, detail: bad.detail },
            });
        }
        let time = time.unwrap_or_else(|| message.time());
        self.buffer.push(input, Queued { message, decoded, time });
    }

    /// Processes everything that is queued, in event-time order over its inputs. Returns the number of messages.
    ///
    /// # Errors
    /// A fault of the state, or of a record whose source says `fail`; what came before stays processed.
    pub fn process_all(&mut self, now: Time, overlay_bytes_max: usize) -> Result<usize, Fault> {
        let mut count = 0;
        while let Some((input, queued)) = self.buffer.pop() {
            self.process(input, queued, now)?;
            count += 1;
            if self.state.overlay_bytes() > overlay_bytes_max {
                break;
            }
        }
        Ok(count)
    }

    /// Forgets what is queued; it was not processed.
    pub fn discard_queued(&mut self) {
        self.buffer.clear();
    }

    pub fn has_queued(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn process(&mut self, input: usize, queued: Queued, now: Time) -> Result<(), Fault> {
        let Queued { message, decoded, .. } = queued;
        if let Some((_, _, why)) = self.stops_before.as_ref().filter(|(at, offset, _)| *at == input && offset.0 == message.offset()) {
            return Err(Fault::new(Reaction::StopTask(self.id), why.clone()));
        }
        let mut is_touched = false;
        for (at, decoded) in decoded.into_iter().enumerate() {
            let source = self.of_input[input][at];
            match decoded {
                Decoded::Record(record) => {
                    self.counters[source].records.inc();
                    for feed in 0..self.feeds[source].len() {
                        let (table, table_input) = self.feeds[source][feed];
                        let mut context = Context { state: &mut self.state, effects: &mut self.effects, now };
                        match self.tables[table].process(table_input, &record, &message, &mut context) {
                            Ok(()) => {}
                            Err(Failure::Record { reason, detail }) => {
                                let detail = format!("table `{}`: {detail}", self.tables[table].spec().name);
                                let refused = self.bad_record(source, &message, reason, detail);
                                refused.map_err(|fault| self.undone(fault, is_touched, input, &message))?;
                            }
                            Err(Failure::State(error)) => return Err(Fault::of_state(self.id, &error)),
                        }
                        is_touched = true;
                    }
                }
                Decoded::Filtered => {
                    self.counters[source].filtered.inc();
                }
                Decoded::Bad { source, reason, detail } => {
                    let refused = self.bad_record(source, &message, reason, detail);
                    refused.map_err(|fault| self.undone(fault, is_touched, input, &message))?;
                    is_touched = true;
                }
            }
        }
        self.inputs[input].next = Offset(message.offset() + 1);
        Ok(())
    }

    /// A record is refused that a table or the dead letters may have already. The position stays before it, so they would have it
    /// twice: what is not committed is undone first.
    #[cold]
    fn undone(&mut self, fault: Fault, is_touched: bool, input: usize, message: &Message) -> Fault {
        if !is_touched {
            return fault;
        }
        let what = format!("task {}: a record is refused that was applied in part", self.id);
        self.stops_before = Some((input, Offset(message.offset()), fault.what));
        Fault::new(Reaction::Abort, what)
    }

    fn bad_record(&mut self, source: usize, message: &Message, reason: &'static str, detail: String) -> Result<(), Fault> {
        match self.on_error[source] {
            OnError::Skip => {
                self.counters[source].skipped.inc();
                Ok(())
            }
            OnError::DeadLetter => {
                self.counters[source].dead_letters.inc();
                let source = self.source_ids[source];
                self.effects.dead_letters.push(DeadLetter {
                    source,
                    reason,
                    detail,
                    key: crate::log::to_bytes(message.key()),
                    value: crate::log::to_bytes(message.value()),
                    headers: message.headers(),
                    offset: message.offset(),
                    time: message.time(),
                    origin: Some(Origin { source, offset: message.offset() }),
                });
                Ok(())
            }
            OnError::Fail => {
                let what = format!(
                    "task {}: source `{}` has a bad record at partition {} offset {} ({reason}: {detail}) and says `on_error: fail`; \
                     the task stops here and commits nothing past it: correct or remove the record, or say `on_error: dead_letter`",
                    self.id,
                    self.source_names[source],
                    message.partition(),
                    message.offset()
                );
                Err(Fault::new(Reaction::StopTask(self.id), what))
            }
        }
    }

    /// Lets due timers of all tables fire. Returns whether more are due.
    pub fn tick(&mut self, now: Time) -> Result<bool, Fault> {
        let mut more = false;
        for table in &mut self.tables {
            let mut context = Context { state: &mut self.state, effects: &mut self.effects, now };
            match table.tick(&mut context) {
                Ok(has_more) => more |= has_more,
                Err(Failure::State(error)) => return Err(Fault::of_state(self.id, &error)),
                Err(failure) => {
                    return Err(Fault::new(
                        Reaction::Stop,
                        format!("task {}: a timer of table `{}` failed: {failure}", self.id, table.spec().name),
                    ));
                }
            }
        }
        Ok(more)
    }

    /// Forgets everything since the last commit.
    pub fn forget(&mut self) -> Result<(), Fault> {
        self.state.drop_overlay();
        self.effects = Effects::default();
        self.buffer.clear();
        for input in &mut self.inputs {
            input.next = input.committed;
        }
        for table in &mut self.tables {
            table.open(&mut self.state).map_err(|error| Fault::of_state(self.id, &error))?;
        }
        Ok(())
    }

    /// Whether there is anything that a commit would make true.
    pub fn is_dirty(&self, subtopology: &Subtopology) -> bool {
        self.inputs.iter().any(|input| input.next != input.committed)
            || !self.effects.dead_letters.is_empty()
            || !self.effects.stale.is_empty()
            || (0..subtopology.stores.len()).any(|store| self.state.change_count(StoreId(store)) > 0)
    }
}

impl SourceCounters {
    fn new(source: &Name, metrics: &Metrics) -> SourceCounters {
        SourceCounters {
            records: metrics.counter(&metrics::RECORDS, &[source]),
            filtered: metrics.counter(&metrics::SOURCE_FILTERED_RECORDS, &[source]),
            dead_letters: metrics.counter(&metrics::BAD_RECORDS, &[source, "dead_letter"]),
            skipped: metrics.counter(&metrics::BAD_RECORDS, &[source, "skip"]),
        }
    }
}

/// The operators of a sub-topology's tables, in its order.
pub fn make_tables(plan: &Plan, subtopology: &Subtopology, metrics: &Metrics) -> Vec<Table> {
    let sources = &plan.topology.sources;
    let make = |table: &crate::model::TableId| {
        let spec = plan.topology.tables[table.0].clone();
        let topics: Vec<&str> = spec.inputs.iter().map(|input| sources[input.source.0].topic.as_str()).collect();
        let store = |kind| subtopology.stores.iter().position(|store| store.table == *table && store.kind == kind).map(StoreId);
        let stores = TableStores {
            rows: store(StoreKind::Rows).unwrap_or(StoreId(0)),
            timers: store(StoreKind::Timers).unwrap_or(StoreId(0)),
            buffer: store(StoreKind::Buffer),
            dedupe: store(StoreKind::Dedupe),
        };
        debug_assert!(store(StoreKind::Rows).is_some() && store(StoreKind::Timers).is_some(), "the plan gives each table its stores");
        Table::new(*table, spec.clone(), &topics, stores, metrics)
    };
    subtopology.tables.iter().map(make).collect()
}

/// The stores that a task of this sub-topology opens, in the order of their ids.
pub fn store_specs(plan: &Plan, subtopology: &Subtopology) -> Vec<StoreSpec> {
    let spec = |store: &crate::topology::plan::StorePlan| {
        let window = plan.topology.tables[store.table.0].window;
        // A quarter of what is kept: at most five segments are open, and at most a quarter is kept too long.
        let segment_ms = window.filter(|_| store.kind == StoreKind::Rows).map(|window| (window.keep_ms / 4).max(window.size_ms));
        StoreSpec { name: store.name.clone(), segment_ms }
    };
    subtopology.stores.iter().map(spec).collect()
}
