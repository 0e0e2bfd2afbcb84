//! Committed batches on their way to the views, bounded in bytes for the whole process.
//!
//! A stream thread pushes and never waits. When the queue is full, the view and partition with most bytes loses what it has
//! queued and remembers only how far the table is: it will read the rows from the store again. Nothing is lost for good, since
//! every batch is in the changelog.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::{Counter, Gauge};
use crate::model::{Object, Offset, TableId, Value};
use crate::views::{CommittedBatch, Pressure};

/// What a full queue does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnLag {
    /// The commit goes on; views that lose batches catch up from the store.
    #[default]
    Continue,
    /// Stream threads are asked to pause; batches are lost only at twice the limit.
    Pause,
}

/// Number of a view on a partition, from its opening to its closing.
pub type LaneId = u64;

/// All queued batches of a worker.
pub struct ViewQueue {
    lanes: Mutex<Lanes>,
    /// Told when a lane has nothing left.
    settled: Condvar,
    limit: usize,
    on_lag: OnLag,
    bytes: Gauge,
}

#[derive(Default)]
struct Lanes {
    lanes: BTreeMap<LaneId, Waiting>,
    by_partition: BTreeMap<(TableId, i32), Vec<LaneId>>,
    next: LaneId,
    bytes: usize,
}

struct Waiting {
    batches: VecDeque<(Arc<CommittedBatch>, usize)>,
    /// Of `batches`.
    bytes_queued: usize,
    /// Of batches that were taken and are not written yet.
    bytes_taken: usize,
    sealed: Offset,
    is_lost: bool,
    is_settled: bool,
    is_closing: bool,
    wake: Arc<Notify>,
    dropped: Counter,
}

/// What a lane finds in the queue.
#[derive(Debug, Default)]
pub struct Taken {
    pub batches: Vec<Arc<CommittedBatch>>,
    /// Of all batches; to be given back with [`ViewQueue::done`].
    pub bytes: usize,
    /// How far the table is.
    pub sealed: Offset,
}

impl ViewQueue {
    /// `limit` in bytes, as [`CommittedBatch::weight`] counts them.
    pub fn new(limit: usize, on_lag: OnLag, bytes: Gauge) -> ViewQueue {
        ViewQueue { lanes: Mutex::default(), settled: Condvar::new(), limit, on_lag, bytes }
    }

    /// Adds a view on a partition, whose table is sealed up to `sealed`.
    pub fn add(&self, table: TableId, partition: i32, sealed: Offset, wake: Arc<Notify>, dropped: Counter) -> LaneId {
        let mut lanes = self.lock();
        let id = lanes.next;
        lanes.next += 1;
        let waiting = Waiting {
            batches: VecDeque::new(),
            bytes_queued: 0,
            bytes_taken: 0,
            sealed,
            is_lost: false,
            is_settled: false,
            is_closing: false,
            wake,
            dropped,
        };
        lanes.lanes.insert(id, waiting);
        lanes.by_partition.entry((table, partition)).or_default().push(id);
        id
    }

    /// No batches come any more; what is queued may still be taken.
    pub fn close(&self, table: TableId, partition: i32) -> Vec<LaneId> {
        let mut lanes = self.lock();
        let ids = lanes.by_partition.remove(&(table, partition)).unwrap_or_default();
        for id in &ids {
            if let Some(waiting) = lanes.lanes.get_mut(id) {
                waiting.is_closing = true;
                waiting.wake.notify_one();
            }
        }
        ids
    }

    /// Forgets a lane and what it has queued.
    pub fn remove(&self, id: LaneId) {
        let mut lanes = self.lock();
        if let Some(waiting) = lanes.lanes.remove(&id) {
            lanes.bytes -= waiting.bytes_queued + waiting.bytes_taken;
        }
        for ids in lanes.by_partition.values_mut() {
            ids.retain(|known| *known != id);
        }
        self.bytes.set(lanes.bytes as i64);
        drop(lanes);
        self.settled.notify_all();
    }

    /// Gives a batch to all views of its table and partition.
    pub fn push(&self, batch: CommittedBatch) -> Pressure {
        let mut guard = self.lock();
        let lanes = &mut *guard;
        let Some(ids) = lanes.by_partition.get(&(batch.table, batch.partition)) else { return Pressure::None };
        if ids.is_empty() {
            return Pressure::None;
        }
        let weight = batch.weight();
        let batch = Arc::new(batch);
        for id in ids {
            let Some(waiting) = lanes.lanes.get_mut(id) else { continue };
            waiting.sealed = waiting.sealed.max(batch.next);
            waiting.is_settled = false;
            waiting.wake.notify_one();
            // The chain is broken already: nothing after the break is of use before the rows were read again.
            if waiting.is_lost {
                waiting.dropped.inc();
                continue;
            }
            waiting.batches.push_back((batch.clone(), weight));
            waiting.bytes_queued += weight;
            lanes.bytes += weight;
        }
        let hard_limit = match self.on_lag {
            OnLag::Continue => self.limit,
            OnLag::Pause => self.limit.saturating_mul(2),
        };
        while lanes.bytes > hard_limit && lanes.lose_largest() {}
        self.bytes.set(lanes.bytes as i64);
        self.pressure_of(lanes.bytes)
    }

    /// Whether stream threads should hold back.
    pub fn pressure(&self) -> Pressure {
        let bytes = self.lock().bytes;
        self.pressure_of(bytes)
    }

    fn pressure_of(&self, bytes: usize) -> Pressure {
        if self.on_lag == OnLag::Pause && bytes >= self.limit { Pressure::Pause } else { Pressure::None }
    }

    /// Takes all batches of a lane.
    pub fn take(&self, id: LaneId) -> Taken {
        let mut lanes = self.lock();
        let Some(waiting) = lanes.lanes.get_mut(&id) else { return Taken::default() };
        let bytes = std::mem::take(&mut waiting.bytes_queued);
        waiting.bytes_taken += bytes;
        waiting.is_lost = false;
        Taken { batches: waiting.batches.drain(..).map(|(batch, _)| batch).collect(), bytes, sealed: waiting.sealed }
    }

    /// How far the table is, and whether batches of the lane were lost since the last [`ViewQueue::take`].
    pub fn look(&self, id: LaneId) -> (Offset, bool) {
        let lanes = self.lock();
        lanes.lanes.get(&id).map_or((Offset::default(), true), |waiting| (waiting.sealed, waiting.is_lost))
    }

    /// Gives back the bytes of batches that are written or given up.
    pub fn done(&self, id: LaneId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut lanes = self.lock();
        if let Some(waiting) = lanes.lanes.get_mut(&id) {
            waiting.bytes_taken -= bytes.min(waiting.bytes_taken);
            lanes.bytes -= bytes.min(lanes.bytes);
        }
        self.bytes.set(lanes.bytes as i64);
    }

    /// The lane has written everything up to `offset`; it is settled if that is all there is. True if it is closing and settled.
    pub fn settle(&self, id: LaneId, offset: Offset) -> bool {
        let mut lanes = self.lock();
        let Some(waiting) = lanes.lanes.get_mut(&id) else { return true };
        waiting.is_settled = waiting.batches.is_empty() && offset >= waiting.sealed;
        let is_done = waiting.is_settled && waiting.is_closing;
        let is_settled = waiting.is_settled;
        drop(lanes);
        if is_settled {
            self.settled.notify_all();
        }
        is_done
    }

    pub fn is_closing(&self, id: LaneId) -> bool {
        self.lock().lanes.get(&id).is_none_or(|waiting| waiting.is_closing)
    }

    /// Waits until every lane is settled. False if that took too long.
    pub fn wait_settled(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut lanes = self.lock();
        while lanes.lanes.values().any(|waiting| !waiting.is_settled) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            lanes = self.settled.wait_timeout(lanes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Bytes of all batches that are queued or being written.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// The lane with most bytes loses what it has queued, and gives up what it has taken if it cannot write it. False if all
    /// have lost already.
    fn lose_largest(&mut self) -> bool {
        let holding = self.lanes.values_mut().filter(|waiting| !waiting.is_lost && waiting.bytes_queued + waiting.bytes_taken > 0);
        let Some(largest) = holding.max_by_key(|waiting| waiting.bytes_queued + waiting.bytes_taken) else { return false };
        largest.dropped.inc_by(largest.batches.len() as u64);
        largest.batches.clear();
        largest.is_lost = true;
        self.bytes -= std::mem::take(&mut largest.bytes_queued);
        largest.wake.notify_one();
        true
    }
}

impl CommittedBatch {
    /// About how many bytes it holds in memory.
    pub fn weight(&self) -> usize {
        let change = size_of::<crate::views::RowChange>();
        let rows = self.changes.iter().map(|row| {
            change + value_weight(&row.key) + row.old.as_ref().map_or(0, value_weight) + row.new.as_ref().map_or(0, value_weight)
        });
        size_of::<CommittedBatch>() + rows.sum::<usize>()
    }
}

/// Bytes behind a value. What is shared counts each time; what lies deeper than a list in a row is guessed.
fn value_weight(value: &Value) -> usize {
    let inline = size_of::<Value>();
    match value {
        Value::String(text) => inline + text.len(),
        Value::Bytes(bytes) => inline + bytes.len(),
        Value::Object(Object { slots, .. }) => inline + slots.iter().map(shallow_weight).sum::<usize>(),
        other => shallow_weight(other),
    }
}

fn shallow_weight(value: &Value) -> usize {
    let inline = size_of::<Value>();
    match value {
        Value::String(text) => inline + text.len(),
        Value::Bytes(bytes) => inline + bytes.len(),
        Value::List(items) => inline + items.len() * 2 * inline,
        Value::Map(map) => inline + map.len() * 4 * inline,
        Value::Object(object) => inline + object.slots.len() * 2 * inline,
        _ => inline,
    }
}
