//! Brings the state of a task up to the end of its changelogs, a piece per turn of the loop.
//!
//! The end is taken once, after the transactions of an earlier owner have ended (the committed offsets were fetched with
//! require-stable before), read_committed. While it runs the task's inputs are not read, and the thread goes on polling.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::log::{Consumer, Event, Input, LogErrorKind, Message};
use crate::model::{Name, Offset, StoreId, TaskId, Time};
use crate::operators::fold::table::Table;
use crate::runtime::fault::{Fault, Reaction};
use crate::runtime::gauges::RestoreGauges;
use crate::runtime::start::App;
use crate::state::{Sealed, TaskState};
use crate::topology::plan::StoreKind;

/// Records put into a store in one turn, so that the group consumer is polled in between.
const RECORDS_PER_TURN_MAX: usize = 20_000;
/// Records whose rows are looked at ahead.
const WARM_RECORDS: usize = 32;
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log says how far a restore is.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// How long our changelogs keep tombstones after compaction has come upon them: Kafka's `delete.retention.ms`, set when we make them.
pub const TOMBSTONES_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// Whoever is behind for longer may have missed some that are gone by now: half of it, as clocks differ and nobody reads in no time.
pub const TOMBSTONES_SAFE_MS: i64 = TOMBSTONES_KEPT_MS / 2;

/// A restore in progress.
pub struct Restore {
    reader: Box<dyn Consumer>,
    stores: Vec<StoreRestore>,
    pub restored: u64,
    /// Offsets between start and end when it began; an upper bound of the records.
    pub total: u64,
    /// It was said that it goes on: when the first piece is read, as a task may be opened several times before.
    is_told: bool,
    batch: Vec<Message>,
    gauges: RestoreGauges,
    /// Before the ends were asked for.
    as_of: Time,
    began: Instant,
    told: Instant,
}

struct StoreRestore {
    store: StoreId,
    kind: StoreKind,
    table: crate::model::TableId,
    name: Name,
    /// After the last record put.
    next: Offset,
    end: Offset,
    done: bool,
}

impl Restore {
    /// Looks up where each changelog of the task starts and ends, and begins to read.
    ///
    /// # Errors
    /// Rebuild, if the state is older than what the changelog still has, or from another life of the topic.
    pub fn begin(app: &App, id: TaskId, state: &mut TaskState) -> Result<Restore, Fault> {
        let now = app.clock.now();
        let is_old = state.offsets().as_of.is_none_or(|as_of| now >= as_of.plus_ms(TOMBSTONES_SAFE_MS));
        let mut reader = app.log.reader().map_err(|error| Fault::of_log(&error))?;
        let subtopology = &app.plan.subtopologies[id.subtopology as usize];
        let mut stores = Vec::new();
        let mut inputs = Vec::new();
        let mut total = 0;
        for (at, plan) in subtopology.stores.iter().enumerate() {
            let Some(changelog) = &plan.changelog else { continue };
            let store = StoreId(at);
            let (start, end) = reader.bounds(changelog, id.partition, BOUNDS_TIMEOUT).map_err(|error| Fault::of_log(&error))?;
            let mut stored = state.offsets().changelog(store);
            if let Some(stored) = stored.filter(|stored| *stored > end) {
                let what = format!(
                    "task {id}: store `{}` stands at changelog offset {stored}, but `{changelog}` ends at {end}: the topic was made anew or lost records",
                    plan.name
                );
                return Err(Fault::new(Reaction::RebuildTask(id), what));
            }
            // Behind the last record of our own stands the marker of its transaction; more is somebody's word that we have not heard.
            if is_old && stored.is_some_and(|stored| end.0 > stored.0 + 1) {
                info!(task = %id, store = %plan.name, "on disk since longer than its changelog keeps tombstones: filling it anew");
                state.distrust(store).map_err(|error| Fault::of_state(id, &error))?;
                stored = None;
            }
            let from = stored.unwrap_or(start).max(start);
            total += (end.0 - from.0).max(0) as u64;
            // From another offset than its own (compaction or retention passed it), the store is emptied first.
            state.begin_restore(store, from).map_err(|error| Fault::of_state(id, &error))?;
            let done = from >= end;
            stores.push(StoreRestore { store, kind: plan.kind, table: plan.table, name: plan.name.clone(), next: from, end, done });
            if !done {
                inputs.push((Input { slot: at as u32, topic: changelog.clone(), partition: id.partition }, from));
            }
        }
        if !inputs.is_empty() {
            reader.add_inputs(&inputs).map_err(|error| Fault::of_log(&error))?;
        }
        let (gauges, began) = (RestoreGauges::new(&app.metrics, id), Instant::now());
        gauges.read(0, total);
        Ok(Restore { reader, stores, restored: 0, total, is_told: false, batch: Vec::new(), gauges, as_of: now, began, told: began })
    }

    /// Reads and puts one piece. Returns whether the end is reached.
    pub fn step(&mut self, id: TaskId, state: &mut TaskState, tables: &mut [Table], wait: Duration) -> Result<bool, Fault> {
        if self.stores.iter().all(|store| store.done) {
            return Ok(true);
        }
        if !std::mem::replace(&mut self.is_told, true) {
            info!(task = %id, records_max = self.total, "restoring from the changelog");
        }
        self.batch.clear();
        let events = self.reader.poll(RECORDS_PER_TURN_MAX, wait, &mut self.batch).map_err(|error| Fault::of_log(&error))?;
        for event in events {
            match event {
                // The thread's own consumer tells it.
                Event::Problem(problem) if problem.kind == LogErrorKind::Unreachable => debug!(task = %id, %problem, "while restoring"),
                Event::Problem(problem) => warn!(task = %id, "while restoring: {problem}"),
                // The changelog was cut while it was read: what was read before is not all that there was.
                Event::OutOfRange { .. } => {
                    let what = format!("task {id}: records of a changelog were deleted while it was read");
                    return Err(Fault::new(Reaction::RebuildTask(id), what));
                }
                Event::Assigned(_) | Event::Revoked(_) | Event::Lost(_) => {}
            }
        }
        let restored_before = self.restored;
        for (at, message) in self.batch.iter().enumerate() {
            if at % WARM_RECORDS == 0 {
                // Look-ups wait for memory together, as in `runtime/buffer.rs`.
                let upcoming = self.batch[at..].iter().take(WARM_RECORDS).filter_map(|message| Some((message.slot(), message.key()?)));
                std::hint::black_box(upcoming.fold(0, |sum, (slot, key)| sum ^ state.warm(StoreId(slot as usize), key)));
            }
            let Some(store) = self.stores.iter_mut().find(|store| store.store.0 as u32 == message.slot()) else { continue };
            if message.offset() >= store.end.0 {
                continue;
            }
            let Some(key) = message.key() else { continue };
            let put = state.restore_put(store.store, key, message.value());
            put.map_err(|error| Fault::of_state(id, &error))?;
            if let (Some(value), Some(table)) = (message.value(), tables.iter_mut().find(|table| table.id() == store.table)) {
                let indexed = match store.kind {
                    StoreKind::Rows => table.index(key, value, state),
                    StoreKind::Buffer => table.index_buffered(key, value, state),
                    StoreKind::Dedupe => table.index_dedupe(key, value, state),
                    StoreKind::Timers => Ok(()),
                };
                indexed.map_err(|error| Fault::of_state(id, &error))?;
            }
            store.next = Offset(message.offset() + 1);
            self.restored += 1;
        }
        for store in &mut self.stores {
            if !store.done {
                // Markers take offsets too: the end may lie behind the last record (FACTS: "position moves over markers").
                let position = self.reader.position(store.store.0 as u32).map_err(|error| Fault::of_log(&error))?;
                store.done = position.is_some_and(|position| position >= store.end);
            }
        }
        let done = self.done();
        self.gauges.read(self.restored - restored_before, self.total.saturating_sub(done));
        if self.told.elapsed() >= TELL_INTERVAL && done < self.total {
            self.told = Instant::now();
            let percent = done * 100 / self.total.max(1);
            let left = self.began.elapsed().mul_f64((self.total - done) as f64 / done.max(1) as f64);
            info!(task = %id, records = self.restored, percent, seconds_left = left.as_secs(), "restoring");
        }
        Ok(self.stores.iter().all(|store| store.done))
    }

    /// Offsets of `total` that are read, those of markers and of records that compaction has removed included.
    pub fn done(&self) -> u64 {
        let left: i64 = self.stores.iter().filter(|store| !store.done).map(|store| (store.end.0 - store.next.0).max(0)).sum();
        self.total.saturating_sub(left as u64)
    }

    /// Ends it: the state knows how far it is. Returns the changelog offsets per store id.
    pub fn finish(mut self, id: TaskId, state: &mut TaskState, inputs: Vec<(Name, Offset)>) -> Result<Vec<(StoreId, Offset)>, Fault> {
        let changelogs: Vec<(StoreId, Offset)> = self.stores.iter().map(|store| (store.store, store.next)).collect();
        state
            .finish_restore(&Sealed { changelogs: changelogs.clone(), inputs, as_of: Some(self.as_of) })
            .map_err(|error| Fault::of_state(id, &error))?;
        if let Err(error) = self.reader.close(Duration::from_secs(1)) {
            warn!(task = %id, %error, "could not close the restore consumer");
        }
        if self.restored > 0 {
            info!(task = %id, records = self.restored, stores = ?self.stores.iter().map(|store| store.name.as_str()).collect::<Vec<_>>(), "restored");
        }
        Ok(changelogs)
    }
}
