//! Views through every fault, by seed: lost requests, lost and delayed replies, a Redis that is emptied or goes back in time,
//! workers that are paused and wake up as zombies, batches that were dropped, a log that forgets. At the end each view must equal
//! its table, and no reader may ever have seen a row go backwards.
//!
//! `MILLSTREAM_VIEW_SEEDS=1000` runs so many seeds, `MILLSTREAM_VIEW_SEED=7` that one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

mod view_world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt;

use millstream::metrics::Metrics;
use millstream::model::{Offset, Time};
use millstream::views::fence::Piece;
use millstream::views::lane::{Answer, Lane, Step};
use millstream::views::opening::Views;
use millstream::views::place::{Held, MemoryPlace};
use millstream::views::queue::Taken;
use millstream::views::{CommittedBatch, ViewSpec};

use view_world::{CANDLE, Chance, PRODUCT, Replica, TOPIC, Tables, difference, expected, name, random_changes, state_views};

const PARTITIONS: i32 = 2;

/// One worker's views on one partition.
struct Worker {
    lanes: Vec<Lane>,
    queues: Vec<VecDeque<Arc<CommittedBatch>>>,
    sealed: Offset,
    source: Arc<Replica>,
}

struct World {
    chance: Chance,
    tables: Arc<Tables>,
    specs: Vec<ViewSpec>,
    metrics: Arc<Metrics>,
    place: MemoryPlace,
    /// Copies that Redis can go back to.
    copies: Vec<MemoryPlace>,
    /// Scripts on the wire that may still arrive.
    delayed: Vec<Piece>,
    /// Per partition: the owner, and workers that were replaced and do not know it.
    owners: Vec<Worker>,
    zombies: Vec<Worker>,
    now: Time,
    version: i64,
    /// Version of each product's card as readers saw it.
    seen: BTreeMap<Vec<u8>, i64>,
    faults: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let tables = Tables::new(PARTITIONS as usize);
        let mut world = World {
            chance: Chance::new(seed),
            tables,
            specs: state_views(),
            metrics: Metrics::new(),
            place: MemoryPlace::default(),
            copies: Vec::new(),
            delayed: Vec::new(),
            owners: Vec::new(),
            zombies: Vec::new(),
            now: Time(1_000_000),
            version: 0,
            seen: BTreeMap::new(),
            faults: 0,
        };
        for partition in 0..PARTITIONS {
            for _ in 0..8 {
                let changes = random_changes(&mut world.chance, &world.tables, partition, 8, &mut world.version);
                world.tables.commit(partition, &changes);
            }
            let worker = world.worker(partition);
            world.owners.push(worker);
        }
        world
    }

    fn worker(&mut self, partition: i32) -> Worker {
        let source = Replica::of(&self.tables);
        let mut views = Views::new(name("shop"), "w", self.specs.clone(), source.clone(), self.metrics.clone());
        views.rows_max = 3;
        let sealed = self.tables.sealed(partition);
        let lanes: Vec<Lane> = [PRODUCT, CANDLE]
            .into_iter()
            .flat_map(|table| views.open(table, partition, TOPIC, sealed, self.now))
            .map(|opening| opening.lane)
            .collect();
        let queues = lanes.iter().map(|_| VecDeque::new()).collect();
        Worker { lanes, queues, sealed, source }
    }

    fn commit(&mut self) {
        let partition = self.chance.below(PARTITIONS as usize) as i32;
        let count = 1 + self.chance.below(6);
        let changes = random_changes(&mut self.chance, &self.tables, partition, count, &mut self.version);
        let batches = self.tables.commit(partition, &changes);
        let owner = &mut self.owners[partition as usize];
        owner.sealed = self.tables.sealed(partition);
        let is_dropped = self.chance.one_in(12);
        for batch in batches {
            let batch = Arc::new(batch);
            for (lane, queue) in owner.lanes.iter().zip(&mut owner.queues) {
                if lane.table() == batch.table {
                    if is_dropped {
                        queue.clear();
                    } else {
                        queue.push_back(batch.clone());
                    }
                }
            }
        }
    }

    /// One step of one lane, with a fault now and then.
    fn drive(&mut self, worker: &mut Worker, index: usize, is_faulty: bool) {
        let World { chance, place, delayed, now, faults, .. } = self;
        let now = *now;
        let source = worker.source.clone();
        let lane = &mut worker.lanes[index];
        lane.set_sealed(worker.sealed);
        if lane.wants_batches() {
            let batches = worker.queues[index].drain(..).collect();
            lane.take(Taken { batches, bytes: 1, sealed: worker.sealed });
        }
        let (table, partition, watermark) = (lane.table(), lane.partition(), lane.watermark_key().to_owned());
        let fault = if is_faulty { chance.below(12) } else { 99 };
        *faults += u64::from(fault < 4);
        let answer = match lane.step(now) {
            Step::Idle { .. } => return,
            Step::Ask(question) => question.ask(&*source, table, partition).now_or_never().expect("the tables answer at once"),
            _ if fault == 0 => return lane.failed("request lost".to_owned(), false),
            Step::Read => {
                let (stored, keys) = place.watermark(&watermark, now);
                Answer::Watermark { stored, keys }
            }
            Step::Run(piece) => match fault {
                // On the wire still when the writer gives up and sends it again.
                1 => {
                    delayed.push(piece.clone());
                    return lane.failed("no reply".to_owned(), false);
                }
                2 | 3 => {
                    place.run(piece, now, None);
                    let is_lost = chance.one_in(3);
                    return lane.failed("reply lost".to_owned(), is_lost);
                }
                _ => Answer::Reply(place.run(piece, now, None)),
            },
            Step::FindKeys { pattern, of, .. } => Answer::Keys { cursor: 0, keys: place.find(&pattern, of, now) },
            Step::FindEntries { ledger, .. } => {
                let entries = place.hash(ledger.as_bytes(), now).cloned().unwrap_or_default();
                Answer::Entries { cursor: 0, entries: entries.into_iter().collect() }
            }
        };
        lane.answer(answer, now);
    }

    fn drive_any(&mut self) {
        let is_zombie = !self.zombies.is_empty() && self.chance.one_in(4);
        let count = if is_zombie { self.zombies.len() } else { self.owners.len() };
        let at = self.chance.below(count);
        let list = if is_zombie { &mut self.zombies } else { &mut self.owners };
        let mut worker = list.swap_remove(at);
        let index = self.chance.below(worker.lanes.len());
        for _ in 0..1 + self.chance.below(4) {
            self.drive(&mut worker, index, true);
        }
        let list = if is_zombie { &mut self.zombies } else { &mut self.owners };
        list.push(worker);
        list.sort_by_key(|worker| worker.lanes[0].partition());
        self.look();
    }

    fn disturb(&mut self) {
        self.faults += 1;
        match self.chance.below(9) {
            0 => {
                self.place.flush();
                self.seen.clear();
            }
            1 => self.copies.push(self.place.clone()),
            2 if !self.copies.is_empty() => {
                let at = self.chance.below(self.copies.len());
                self.place = self.copies[at].clone();
                self.seen.clear();
            }
            3 | 4 => {
                let partition = self.chance.below(PARTITIONS as usize);
                let worker = self.worker(partition as i32);
                let old = std::mem::replace(&mut self.owners[partition], worker);
                old.source.freeze();
                if self.zombies.len() < 3 {
                    self.zombies.push(old);
                }
            }
            5 if !self.zombies.is_empty() => {
                let at = self.chance.below(self.zombies.len());
                self.zombies.swap_remove(at);
            }
            6 if !self.delayed.is_empty() => {
                let at = self.chance.below(self.delayed.len());
                let piece = self.delayed.swap_remove(at);
                self.place.run(&piece, self.now, None);
            }
            7 if self.chance.one_in(4) => {
                let partition = self.chance.below(PARTITIONS as usize);
                let sealed = self.tables.sealed(partition as i32).0;
                self.tables.lock()[partition].log_start = sealed;
            }
            _ => self.now = self.now.plus_ms(self.chance.below(3000) as i64),
        }
        self.look();
    }

    /// What a reader sees now: a card never shows an older version than before, unless Redis itself went back.
    fn look(&mut self) {
        for key in self.place.keys(self.now).map(<[u8]>::to_vec).collect::<Vec<_>>() {
            let Some(fields) = key.starts_with(b"product:").then(|| self.place.hash(&key, self.now)).flatten() else { continue };
            let version: i64 = String::from_utf8_lossy(&fields[b"version".as_slice()]).parse().expect("a number");
            let seen = self.seen.entry(key.clone()).or_insert(version);
            assert!(*seen <= version, "{} went from version {seen} back to {version}", key.escape_ascii());
            *seen = version;
        }
    }

    /// Everything heals: the zombies are gone, the network is well. Returns how many turns it took.
    fn settle(&mut self) {
        self.zombies.clear();
        let mut owners = std::mem::take(&mut self.owners);
        for round in 0.. {
            for worker in &mut owners {
                for index in 0..worker.lanes.len() {
                    for _ in 0..40 {
                        self.drive(worker, index, false);
                    }
                }
            }
            self.look();
            // Two heartbeats without a change: nothing is left to be noticed.
            self.now = self.now.plus_ms(1001);
            let is_level = |worker: &Worker| worker.lanes.iter().all(|lane| lane.settled_at() == Some(worker.sealed));
            if round > 25 && owners.iter().all(is_level) {
                break;
            }
            assert!(
                round < 60,
                "does not settle: {:?}",
                owners.iter().flat_map(|w| w.lanes.iter().map(Lane::view_status)).collect::<Vec<_>>()
            );
        }
        self.owners = owners;
    }

    fn shown(&self) -> BTreeMap<String, Held> {
        let keys = self.place.keys(self.now).filter(|key| !key.starts_with(b"{"));
        keys.map(|key| (String::from_utf8_lossy(key).into_owned(), self.place.get(key, self.now).expect("is there").clone())).collect()
    }

    fn check(&self, when: &str) {
        let partitions = self.tables.lock();
        if let Some(difference) = difference(&self.shown(), &expected(&partitions)) {
            panic!("{when}: the views do not equal the table\n{difference}");
        }
    }
}

/// A run; returns the number of faults that it met.
fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..400 {
        match world.chance.below(10) {
            0..2 => world.commit(),
            2 if world.chance.one_in(3) => world.disturb(),
            _ => world.drive_any(),
        }
    }
    world.settle();
    world.check("after everything has healed");
    for piece in std::mem::take(&mut world.delayed) {
        world.place.run(&piece, world.now, None);
    }
    world.check("after the last delayed packets");
    world.faults
}

#[test]
fn views_equal_their_tables_after_any_faults() {
    #[expect(clippy::disallowed_methods, reason = "the test asks its own environment, not the worker's settings")]
    let read = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match read("MILLSTREAM_VIEW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..read("MILLSTREAM_VIEW_SEEDS").unwrap_or(150),
    };
    let mut faults = 0;
    for seed in seeds.clone() {
        let outcome = std::panic::catch_unwind(|| run(seed));
        match outcome {
            Ok(met) => faults += met,
            Err(cause) => {
                let text = cause.downcast_ref::<String>().map_or("", String::as_str);
                panic!("seed {seed} (MILLSTREAM_VIEW_SEED={seed} runs it alone): {text}");
            }
        }
    }
    assert!(faults > seeds.count() as u64, "a run without faults proves nothing");
}
