//! A task whose state fails: what the stream thread does about it, on the in-process log and disks that a test can damage.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millstream::log::NewTopic;
use millstream::log::memory::MemoryCluster;
use millstream::metrics::Metrics;
use millstream::model::{Clock, Headers, ManualClock, Name, Offset, TaskId, Time};
use millstream::runtime::start::{Parts, prepare};
use millstream::runtime::task::StateStorage;
use millstream::runtime::{Settings, StreamThread};
use millstream::state::{CacheBudget, MemoryStorage, StateError, StoreSpec, TaskState};
use millstream::topology;

const TOPOLOGY: &str = r#"
version: 1
app: shop
sources:
  created: { topic: created, fields: { id: string, name: string }, keyed_by: event.id }
tables:
  product: { from: { created: { set: { name: event.name } } } }
"#;

const START: Time = Time(1_767_225_600_000);
const TURNS_MAX: usize = 1000;

/// Disks, one per task, that outlive their worker.
#[derive(Default)]
struct Disks {
    disks: Mutex<BTreeMap<TaskId, MemoryStorage>>,
    /// So many times more a task is found damaged when it is opened.
    damaged: AtomicU32,
    wiped: AtomicU32,
}

impl Disks {
    fn of(&self, task: TaskId) -> MemoryStorage {
        self.disks.lock().unwrap().entry(task).or_default().clone()
    }
}

impl StateStorage for Disks {
    fn open(&self, task: TaskId, stores: Vec<StoreSpec>) -> Result<TaskState, StateError> {
        let is_damaged = self.damaged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_damaged {
            return Err(StateError::Corrupt { what: "open state".to_owned(), cause: "a checksum is wrong".to_owned() });
        }
        // No row waits in memory: each commit goes to the disk.
        let budget = CacheBudget { dirty_bytes: 0, ..CacheBudget::default() };
        TaskState::open(Box::new(self.of(task).open()?), stores, budget)
    }

    fn wipe(&self, task: TaskId, _reason: &str) -> Result<(), StateError> {
        self.wiped.fetch_add(1, Ordering::SeqCst);
        self.of(task).wipe();
        Ok(())
    }
}

/// A cluster with the topic, and the disks of one worker.
struct World {
    cluster: MemoryCluster,
    clock: ManualClock,
    disks: Arc<Disks>,
}

impl World {
    fn new() -> World {
        let clock = ManualClock::at(START);
        let cluster = MemoryCluster::new(Arc::new(clock.clone()));
        cluster.never_wait();
        let topic = NewTopic { name: name("created"), partitions: 2, replication: -1, config: Vec::new() };
        cluster.create_topics(&[topic]).unwrap();
        World { cluster, clock, disks: Arc::default() }
    }

    fn send(&self, partition: i32, key: &str) {
        let value = format!(r#"{{"id":"{key}","name":"name of {key}"}}"#);
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::from(value));
        self.cluster.append(&name("created"), partition, Some(key), Some(value), self.clock.now(), Headers::default()).unwrap();
    }

    /// A stream thread as a worker starts it; the one before it is gone as if it had been killed.
    fn start(&self) -> StreamThread {
        let (loaded, problems) = topology::load(TOPOLOGY, "test");
        let topology = loaded.unwrap_or_else(|| panic!("{problems:?}")).topology;
        let mut settings = Settings::in_process(name("w"));
        settings.commit_interval = Duration::from_secs(u32::MAX.into());
        let disks: Arc<dyn StateStorage> = self.disks.clone();
        let parts = Parts {
            plan: topology::plan(topology),
            settings,
            log: self.cluster.log(),
            storage: &|_, _, _| disks.clone(),
            clock: Arc::new(self.clock.clone()),
            metrics: Metrics::new(),
            observers: Vec::new(),
        };
        StreamThread::start(Arc::new(prepare(parts).unwrap()), 0).unwrap()
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn task(partition: i32) -> TaskId {
    TaskId { subtopology: 0, partition }
}

/// Takes turns until nothing is left to do, commits, and lets what that caused happen too.
fn settle(thread: &mut StreamThread) {
    for _ in 0..3 {
        let is_done = (0..TURNS_MAX).any(|_| {
            let turn = thread.turn(Duration::ZERO).unwrap();
            turn.messages == 0 && !turn.is_busy && thread.is_settled() && thread.tasks().count() + thread.failed().count() == 2
        });
        assert!(is_done, "the thread does not come to rest");
        thread.commit_turn().unwrap();
    }
}

/// How far each task has committed its input.
fn committed(thread: &StreamThread) -> Vec<(i32, Offset)> {
    thread.tasks().map(|task| (task.id.partition, task.inputs[0].committed)).collect()
}

#[test]
fn a_full_disk_stops_its_task_and_no_other() {
    let world = World::new();
    let mut thread = world.start();
    settle(&mut thread);
    world.disks.of(task(0)).set_full(true);
    for number in 0..3 {
        world.send(0, &format!("a{number}"));
        world.send(1, &format!("b{number}"));
        settle(&mut thread);
    }
    let failed: Vec<(TaskId, String)> = thread.failed().map(|(id, why)| (id, why.to_owned())).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].0, task(0));
    assert_eq!(committed(&thread), [(1, Offset(3))], "the other one goes on, commit by commit");
    drop(thread);
    world.disks.of(task(0)).set_full(false);
    let mut thread = world.start();
    settle(&mut thread);
    assert_eq!(thread.failed().count(), 0);
    assert_eq!(committed(&thread), [(0, Offset(3)), (1, Offset(3))]);
}

#[test]
fn a_task_that_cannot_be_opened_for_a_full_disk_stops_alone() {
    let world = World::new();
    world.disks.of(task(1)).set_full(true);
    let mut thread = world.start();
    world.send(0, "a");
    world.send(1, "b");
    settle(&mut thread);
    assert_eq!(thread.failed().map(|(id, _)| id).collect::<Vec<_>>(), [task(1)]);
    assert_eq!(committed(&thread), [(0, Offset(1))]);
}

#[test]
fn a_damaged_state_is_rebuilt_but_not_for_ever() {
    let world = World::new();
    world.disks.damaged.store(1, Ordering::SeqCst);
    let mut thread = world.start();
    settle(&mut thread);
    assert_eq!((world.disks.wiped.load(Ordering::SeqCst), thread.failed().count()), (1, 0));
    drop(thread);
    world.disks.damaged.store(u32::MAX, Ordering::SeqCst);
    let mut thread = world.start();
    settle(&mut thread);
    let failed: Vec<String> = thread.failed().map(|(_, why)| why.to_owned()).collect();
    assert_eq!(failed.len(), 2);
    let why = "task 0_0: cannot open state: a checksum is wrong; it was rebuilt 3 times already and does not stay whole: look at the disk";
    assert_eq!(failed[0], why);
    assert_eq!(world.disks.wiped.load(Ordering::SeqCst), 1 + 2 * 3);
}
