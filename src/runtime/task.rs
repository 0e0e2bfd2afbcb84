//! A task: one sub-topology on one partition, used by one stream thread.
//!
//! Owns its state, its operators and its input queues. Knows no consumer and no producer: `thread.rs` feeds it, `commit.rs`
//! asks it what to write.

use smallvec::SmallVec;

use crate::codec::{KeyCodec, Limits};
use crate::log::Message;
use crate::metrics::{self, Counter, Metrics};
use crate::model::{Name, Offset, SourceId, StoreId, TaskId, Time};
use crate::operators::fold::table::{Table, TableStores};
use crate::operators::source::{OnError, SourceDecoder};
use crate::operators::{Context, DeadLetter, Effects, Failure, Origin};
use crate::runtime::buffer::{Buffer, Decoded, Head};
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
    /// Per input: the rows that its messages will ask for.
    warmed: Vec<Option<Warmed>>,
}

/// Rows that the messages of an input will ask for, so that they are looked at ahead.
struct Warmed {
    key: KeyCodec,
    store: StoreId,
}

impl Warmed {
    /// For a topic of one source that feeds a table without windows, which is where most time goes. What is not looked at
    /// ahead only costs more.
    fn of(sources: &[usize], feeds: &[Vec<(usize, usize)>], tables: &[Table], keys: &[KeyCodec]) -> Option<Warmed> {
        let [source] = sources else { return None };
        let table = feeds[*source].iter().map(|(table, _)| &tables[*table]).find(|table| table.spec().window.is_none())?;
        Some(Warmed { key: keys[*source], store: table.rows() })
    }

    #[inline]
    fn look(&self, message: &Message, state: &TaskState) -> u8 {
        let key = message.key().and_then(|bytes| self.key.decode(bytes).ok());
        key.map_or(0, |(key, _)| state.warm(self.store, &key))
    }
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
    /// When the group was told so.
    pub committed_at: Time,
    /// The group has an offset for it. If not, the next commit tells it one.
    pub is_known: bool,
    /// Its start was taken from the task's folder, see [`InputStart::Stored`].
    pub is_from_folder: bool,
}

/// How often the offset of an idle input is committed again. A group keeps offsets of topics that it is not subscribed to, and it
/// is subscribed to none of our inputs, for `offsets.retention.minutes` after their last commit: a week where nobody says otherwise.
pub const RECOMMIT_EVERY_MS: i64 = 24 * 60 * 60 * 1000;
/// The first time after a task was opened: nobody knows when its last owner did it. Not at once, so that tasks can move in peace.
const RECOMMIT_FIRST_MS: i64 = 60 * 1000;

/// Where a task begins to read an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputStart {
    /// The group has this offset.
    Committed(Offset),
    /// It has none. The first commit tells it one for every input, so that from then on "none" means that an offset was lost.
    Uncommitted(Offset),
    /// It has lost it; the task's folder knows this one.
    Stored(Offset),
}

impl TaskInput {
    fn starting(topic: Name, start: InputStart, now: Time) -> TaskInput {
        let (InputStart::Committed(offset) | InputStart::Uncommitted(offset) | InputStart::Stored(offset)) = start;
        TaskInput {
            topic,
            slot: None,
            next: offset,
            committed: offset,
            committed_at: now.plus_ms(RECOMMIT_FIRST_MS - RECOMMIT_EVERY_MS),
            is_known: matches!(start, InputStart::Committed(_)),
            is_from_folder: matches!(start, InputStart::Stored(_)),
        }
    }

    /// Whether it asks for a commit.
    pub fn is_due(&self, now: Time) -> bool {
        self.next != self.committed || now.0 - self.committed_at.0 >= RECOMMIT_EVERY_MS
    }

    /// Whether a commit, whoever asked for it, tells the group where it stands.
    pub fn is_to_commit(&self, now: Time) -> bool {
        !self.is_known || self.is_due(now)
    }
}

impl Task {
    /// Makes a task with its state as it lies on disk; it still has to be restored.
    pub fn open(app: &App, id: TaskId, starts: Vec<InputStart>, restore: Restore, mut state: TaskState) -> Result<Task, Fault> {
        let subtopology = &app.plan.subtopologies[id.subtopology as usize];
        let sources = &app.plan.topology.sources;
        let now = app.clock.now();
        let decoders: Vec<SourceDecoder> =
            subtopology.sources.iter().map(|source| SourceDecoder::new(*source, &sources[source.0], Limits::default())).collect();
        let keys: Vec<KeyCodec> = subtopology.sources.iter().map(|source| sources[source.0].key).collect();
        let of_input: Vec<SmallVec<[usize; 2]>> = subtopology
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
        let feeds: Vec<Vec<(usize, usize)>> = subtopology
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
        let inputs = subtopology.topics.iter().zip(starts).map(|(topic, start)| TaskInput::starting(topic.clone(), start, now)).collect();
        Ok(Task {
            id,
            phase: Phase::Restoring(restore),
            inputs,
            changelogs: vec![Offset(0); subtopology.stores.len()],
            effects: Effects::default(),
            on_error: subtopology.sources.iter().map(|source| sources[source.0].on_error).collect(),
            source_ids: subtopology.sources.clone(),
            source_names: subtopology.sources.iter().map(|source| sources[source.0].name.clone()).collect(),
            counters: subtopology.sources.iter().map(|source| SourceCounters::new(&sources[source.0].name, &app.metrics)).collect(),
            warmed: of_input.iter().map(|sources| Warmed::of(sources, &feeds, &tables, &keys)).collect(),
            tables,
            decoders,
            of_input,
            feeds,
            buffer: Buffer::new(subtopology.topics.len()),
            state,
        })
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Whether its state is complete. Until then it takes no part in a commit.
    pub fn is_restored(&self) -> bool {
        !matches!(self.phase, Phase::Restoring(_))
    }

    /// Queues a message.
    pub fn take(&mut self, input: usize, message: Message) {
        self.buffer.push(input, message);
    }

    /// Processes everything that is queued, in event-time order over its inputs. Returns the number of messages.
    ///
    /// # Errors
    /// A fault of the state, or of a record whose source says `fail`; what came before stays processed.
    pub fn process_all(&mut self, now: Time, overlay_bytes_max: usize) -> Result<usize, Fault> {
        let mut count = 0;
        loop {
            let Task { buffer, decoders, of_input, warmed, state, .. } = self;
            let warm = |input: usize, message: &Message| warmed[input].as_ref().map_or(0, |warmed| warmed.look(message, state));
            let decode = |input: usize, message| decode(decoders, &of_input[input], message, now);
            let Some((input, head)) = buffer.pop(warm, decode) else { break };
            self.process(input, head, now)?;
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

    fn process(&mut self, input: usize, head: Head, now: Time) -> Result<(), Fault> {
        let Head { message, decoded, .. } = head;
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
                                self.bad_record(source, &message, reason, detail)?;
                            }
                            Err(Failure::State(error)) => return Err(Fault::of_state(self.id, &error)),
                        }
                    }
                }
                Decoded::Filtered => {
                    self.counters[source].filtered.inc();
                }
                Decoded::Bad { source, reason, detail } => self.bad_record(source, &message, reason, detail)?,
            }
        }
        self.inputs[input].next = Offset(message.offset() + 1);
        Ok(())
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
                let input = self.of_input.iter().position(|decoders| decoders.contains(&source)).unwrap_or(0);
                let what = format!(
                    "task {}: source `{}` has a bad record at `{}` partition {} offset {} ({reason}: {detail}) and says `on_error: fail`; \
                     the task stops here and commits nothing past it: correct or remove the record, or say `on_error: dead_letter`",
                    self.id,
                    self.source_names[source],
                    self.inputs[input].topic,
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
    pub fn is_dirty(&self, subtopology: &Subtopology, now: Time) -> bool {
        if !self.is_restored() {
            return false;
        }
        self.inputs.iter().any(|input| input.is_due(now))
            || !self.effects.dead_letters.is_empty()
            || !self.effects.stale.is_empty()
            || (0..subtopology.stores.len()).any(|store| self.state.change_count(StoreId(store)) > 0)
    }
}

/// Lets the sources of a topic read a message.
fn decode(decoders: &mut [SourceDecoder], sources: &[usize], message: Message, now: Time) -> Head {
    let mut decoded: SmallVec<[Decoded; 1]> = SmallVec::new();
    let mut time: Option<Time> = None;
    for &source in sources {
        decoded.push(match decoders[source].decode(&message, now) {
            Ok(Some(record)) => {
                time = Some(time.map_or(record.time, |earliest| earliest.min(record.time)));
                Decoded::Record(record)
            }
            Ok(None) => Decoded::Filtered,
            Err(bad) => Decoded::Bad { source, reason: bad.reason, detail: bad.detail },
        });
    }
    let time = time.unwrap_or_else(|| message.time());
    Head { message, decoded, time }
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
