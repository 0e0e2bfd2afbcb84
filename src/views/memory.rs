//! The views of `millstream test`, `replay` and the simulation: the same lanes as on Redis, driven in the caller's thread.
//!
//! Nothing happens by itself: [`MemoryViews::publish`] writes what it can at once, and [`MemoryViews::turn`] goes on where rows
//! had to be read again or time has passed. So a run with a manual clock gives the same bytes each time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::model::{Clock, Name, Offset, TableId, Time};
use crate::views::fence::{Piece, Reply};
use crate::views::lane::{Answer, Lane, Step, Subject};
use crate::views::opening::{Opening, Views};
use crate::views::place::{Effect, Held, MemoryPlace};
use crate::views::queue::{LaneId, OnLag, ViewQueue};
use crate::views::rows::RowSource;

use crate::views::{CommittedBatch, Pressure, ViewPublisher, ViewSpec, ViewStatus};

/// A Redis in process, shared by the workers of a test.
#[derive(Clone, Default)]
pub struct MemoryRedis(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    place: MemoryPlace,
    effects: Vec<ViewEffect>,
    is_down: bool,
    faults: Option<ViewFaults>,
    /// Scripts on the wire, in the order of sending.
    delayed: Vec<Piece>,
}

/// What goes wrong with a script. The view hears nothing and sends it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewFault {
    /// It never arrives.
    Lost,
    /// It was run and the reply got lost.
    ReplyLost,
    /// It arrives when [`MemoryRedis::deliver_delayed`] is called, whoever writes the view by then.
    Delayed,
}

/// Decides on a fault for a script. As in the log, nothing goes wrong by itself.
pub type ViewFaults = Box<dyn FnMut() -> Option<ViewFault> + Send>;

/// What a row did to a view, in the order of writing. For `replay`.
#[derive(Clone, PartialEq, Debug)]
pub struct ViewEffect {
    pub view: Name,
    /// Key and window of the row.
    pub row: Subject,
    pub effect: Effect,
}

impl Inside {
    /// Runs a script as far as its fault lets it; `None`: no reply.
    fn run(&mut self, piece: &Piece, now: Time, effects: &mut Vec<Vec<Effect>>) -> Option<Reply> {
        match self.faults.as_mut().and_then(|decide| decide()) {
            None => Some(self.place.run(piece, now, Some(effects))),
            Some(ViewFault::Lost) => None,
            Some(ViewFault::ReplyLost) => {
                self.place.run(piece, now, None);
                None
            }
            Some(ViewFault::Delayed) => {
                self.delayed.push(piece.clone());
                None
            }
        }
    }
}

impl MemoryRedis {
    /// What a key holds; `None`: absent.
    pub fn get(&self, key: &str, now: Time) -> Option<Held> {
        self.lock().place.get(key.as_bytes(), now).cloned()
    }

    /// The fields of a hash as texts; `None` if the key is absent or holds something else.
    pub fn hash(&self, key: &str, now: Time) -> Option<Vec<(String, String)>> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let inside = self.lock();
        inside.place.hash(key.as_bytes(), now).map(|fields| fields.iter().map(|(name, value)| (text(name), text(value))).collect())
    }

    /// Effects since the last call.
    pub fn take_effects(&self) -> Vec<ViewEffect> {
        std::mem::take(&mut self.lock().effects)
    }

    /// Works on the place itself: what a test does to Redis.
    pub fn with<T>(&self, act: impl FnOnce(&mut MemoryPlace) -> T) -> T {
        act(&mut self.lock().place)
    }

    /// A Redis that is down answers nothing; what it holds stays.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// Sets what decides on faults, or takes it away.
    pub fn set_faults(&self, faults: Option<ViewFaults>) {
        self.lock().faults = faults;
    }

    /// Lets the scripts arrive that [`ViewFault::Delayed`] has held back. Returns how many these were.
    pub fn deliver_delayed(&self, now: Time) -> usize {
        let mut inside = self.lock();
        let delayed = std::mem::take(&mut inside.delayed);
        for piece in &delayed {
            inside.place.run(piece, now, None);
        }
        delayed.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The views of one worker on a [`MemoryRedis`].
pub struct MemoryViews {
    views: Views,
    redis: MemoryRedis,
    clock: Arc<dyn Clock>,
    queue: ViewQueue,
    lanes: Mutex<Vec<Driven>>,
}

struct Driven {
    id: LaneId,
    lane: Lane,
    asked: Option<BoxFuture<'static, Answer>>,
}

impl MemoryViews {
    /// `worker` names the writer; two of one name must not live at once.
    pub fn new(
        app: Name,
        worker: &str,
        specs: Vec<ViewSpec>,
        redis: MemoryRedis,
        source: Arc<dyn RowSource>,
        clock: Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> MemoryViews {
        let queue = ViewQueue::new(usize::MAX / 2, OnLag::Continue, metrics.gauge(&crate::metrics::VIEW_QUEUE_BYTES, &[]));
        let mut views = Views::new(app, worker, specs, source, metrics.clone());
        views.is_traced = true;
        MemoryViews { views, redis, clock, queue, lanes: Mutex::default() }
    }

    /// Goes on with everything that can go on now. True if something was done.
    pub fn turn(&self) -> bool {
        let now = self.clock.now();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut has_moved = false;
        lanes.retain_mut(|driven| {
            has_moved |= self.drive(driven, now);
            let is_over = self.queue.is_closing(driven.id);
            if is_over {
                self.queue.remove(driven.id);
            }
            !is_over
        });
        has_moved
    }

    /// Whether every view shows its table.
    pub fn is_settled(&self) -> bool {
        self.queue.wait_settled(Duration::ZERO)
    }

    /// Takes steps until the lane waits for something.
    fn drive(&self, driven: &mut Driven, now: Time) -> bool {
        let mut has_moved = false;
        let Driven { id, lane, asked } = driven;
        loop {
            lane.set_sealed(self.queue.look(*id).0);
            if lane.wants_batches() {
                lane.take(self.queue.take(*id));
            }
            if let Some(question) = asked {
                let Poll::Ready(answer) = question.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { return has_moved };
                *asked = None;
                lane.answer(answer, now);
                has_moved = true;
                continue;
            }
            let mut inside = self.redis.lock();
            let (view, table, partition, watermark) =
                (lane.view().clone(), lane.table(), lane.partition(), lane.watermark_key().to_owned());
            let mut effects = Vec::new();
            let answer = match lane.step(now) {
                Step::Idle { .. } => break,
                Step::Ask(question) => {
                    *asked = Some(question.ask(&*self.views.source, table, partition));
                    continue;
                }
                _ if inside.is_down => {
                    drop(inside);
                    let is_lost = self.queue.look(*id).1;
                    lane.failed("Redis is down".to_owned(), is_lost);
                    break;
                }
                Step::Read => {
                    let (stored, keys) = inside.place.watermark(&watermark, now);
                    Answer::Watermark { stored, keys }
                }
                Step::Run(piece) => match inside.run(piece, now, &mut effects) {
                    Some(reply) => {
                        if !matches!(reply, Reply::Applied { .. }) {
                            effects.clear();
                        }
                        Answer::Reply(reply)
                    }
                    None => {
                        drop(inside);
                        let is_lost = self.queue.look(*id).1;
                        lane.failed("no reply".to_owned(), is_lost);
                        break;
                    }
                },
                Step::FindKeys { pattern, of, .. } => Answer::Keys { cursor: 0, keys: inside.place.find(&pattern, of, now) },
                Step::FindEntries { ledger, .. } => {
                    let entries = inside.place.hash(ledger.as_bytes(), now).cloned().unwrap_or_default();
                    Answer::Entries { cursor: 0, entries: entries.into_iter().collect() }
                }
            };
            // The step made the piece: only now is it known whose rows it holds.
            let rows = lane.subjects().iter().zip(effects);
            inside.effects.extend(
                rows.flat_map(|(row, effects)| {
                    effects.into_iter().map(|effect| ViewEffect { view: view.clone(), row: row.clone(), effect })
                }),
            );
            drop(inside);
            lane.answer(answer, now);
            self.queue.done(*id, lane.take_released());
            has_moved = true;
        }
        self.queue.done(*id, lane.take_released());
        lane.take_unshowable();
        if let Some(offset) = lane.settled_at() {
            self.queue.settle(*id, offset);
        }
        has_moved
    }
}

impl ViewPublisher for MemoryViews {
    fn open(&self, table: TableId, partition: i32, topic_id: &str, offset: Offset) {
        self.close(table, partition);
        let now = self.clock.now();
        for Opening { lane, dropped } in self.views.open(table, partition, topic_id, offset, now) {
            let id = self.queue.add(table, partition, offset, Arc::new(Notify::new()), dropped);
            self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(Driven { id, lane, asked: None });
        }
        self.turn();
    }

    fn close(&self, table: TableId, partition: i32) {
        self.queue.close(table, partition);
        self.turn();
    }

    fn publish(&self, batch: CommittedBatch) -> Pressure {
        let pressure = self.queue.push(batch);
        self.turn();
        pressure
    }

    fn pressure(&self) -> Pressure {
        self.queue.pressure()
    }

    fn status(&self) -> Vec<ViewStatus> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<ViewStatus> = lanes.iter().map(|driven| driven.lane.view_status()).collect();
        all.sort_by(|a, b| (&a.view, a.partition).cmp(&(&b.view, b.partition)));
        all
    }

    fn shutdown(&self, _within: Duration) -> bool {
        self.turn();
        let is_settled = self.is_settled();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.drain(..).for_each(|driven| self.queue.remove(driven.id));
        is_settled
    }
}
