//! Several workers on an in-process cluster, stepped by hand.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::log::memory::MemoryCluster;
use crate::log::partitioner::partition_of;
use crate::log::{LogError, NewTopic};
use crate::metrics::{ENFORCED_REBALANCES, Metrics};
use crate::model::{Clock, Headers, ManualClock, Name, Offset, TableId, TaskId, Time};
use crate::runtime::commit::Deadline;
use crate::runtime::feed::ViewFeed;
use crate::runtime::observe::{Committed, Observer};
use crate::runtime::rows::{Ask, TaskRows};
use crate::runtime::settings::{Guarantee, Settings};
use crate::runtime::start::{App, Parts, prepare};
use crate::runtime::task::StateStorage;
use crate::runtime::thread::StreamThread;
use crate::runtime::unassigned::enforce_rebalance;
use crate::runtime::worker::{Question, Refused};
use crate::state::CacheBudget;
use crate::testkit::storage::MemoryStateStorage;
use crate::topology::{Plan, names};
use crate::views::memory::{MemoryRedis, MemoryViews};

/// Turns in which a cluster may be busy with one input before we say that it hangs.
const TURNS_MAX: usize = 100_000;
/// Session of a guest of the group.
const SESSION: Duration = Duration::from_secs(10);
/// Time to shut a worker down; the cluster in process answers at once.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How a driver is set up.
#[derive(Clone, Debug)]
pub struct DriverSettings {
    /// Partitions of every topic; default 4.
    pub partitions: i32,
    /// Where the clock starts; default 2026-01-01T00:00:00Z.
    pub starts_at: Time,
    pub budget: CacheBudget,
    /// Default: exactly once.
    pub guarantee: Guarantee,
}

impl Default for DriverSettings {
    fn default() -> DriverSettings {
        DriverSettings {
            partitions: 4,
            starts_at: Time(1_767_225_600_000),
            budget: CacheBudget::default(),
            guarantee: Guarantee::ExactlyOnce,
        }
    }
}

/// Why a step could not be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriverError(pub String);

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DriverError {}

/// Takes down what was committed, in order.
#[derive(Default)]
pub struct Tap {
    committed: Mutex<Vec<Committed>>,
}

impl Tap {
    /// What was committed since the last call.
    pub fn take(&self) -> Vec<Committed> {
        std::mem::take(&mut self.committed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Tap {
    fn opened(&self, _task: TaskId, _tables: &[(TableId, Name, Offset)]) {}
    fn closed(&self, _task: TaskId, _tables: &[TableId]) {}
    fn committed(&self, committed: &Committed) {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).push(committed.clone());
    }
    fn wants_changes(&self, _table: TableId) -> bool {
        true
    }
    fn wants_outputs(&self) -> bool {
        true
    }
}

/// Questions of the views, answered between two turns.
#[derive(Default)]
struct Questions {
    waiting: Mutex<Vec<(TaskId, Question)>>,
}

impl Ask for Questions {
    fn ask(&self, task: TaskId, question: Question) -> Result<(), Refused> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((task, question));
        Ok(())
    }
}

/// A worker with one stream thread.
struct DrivenWorker {
    storage: Arc<MemoryStateStorage>,
    alive: Option<Alive>,
}

struct Alive {
    thread: StreamThread,
    views: Arc<MemoryViews>,
    questions: Arc<Questions>,
}

impl Alive {
    /// One turn of everything. Returns whether something is still to be done.
    fn turn(&mut self) -> Result<bool, DriverError> {
        let turn = self.thread.turn(Duration::ZERO).map_err(|fault| DriverError(fault.what))?;
        let questions = std::mem::take(&mut *self.questions.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let asked = !questions.is_empty();
        for (_, question) in questions {
            question(&mut self.thread);
        }
        let moved = self.views.turn();
        Ok(turn.messages > 0 || turn.is_busy || turn.committed || asked || moved || !self.thread.is_settled())
    }
}

pub struct Driver {
    pub cluster: MemoryCluster,
    pub clock: ManualClock,
    pub metrics: Arc<Metrics>,
    pub tap: Arc<Tap>,
    /// The Redis that all workers share.
    pub redis: MemoryRedis,
    plan: Plan,
    settings: DriverSettings,
    observers: Vec<Arc<dyn Observer>>,
    /// By number; a stopped worker keeps its disk.
    workers: BTreeMap<usize, DrivenWorker>,
}

impl Driver {
    /// A cluster with the topology's topics, and one worker.
    ///
    /// # Errors
    /// When the app cannot start.
    pub fn new(plan: Plan, settings: DriverSettings, observers: Vec<Arc<dyn Observer>>) -> Result<Driver, DriverError> {
        let clock = ManualClock::at(settings.starts_at);
        let cluster = MemoryCluster::new(Arc::new(clock.clone()));
        cluster.never_wait();
        make_topics(&cluster, &plan, settings.partitions)?;
        let tap = Arc::new(Tap::default());
        let mut all: Vec<Arc<dyn Observer>> = vec![tap.clone()];
        all.extend(observers);
        let mut driver = Driver {
            cluster,
            clock,
            metrics: Metrics::new(),
            tap,
            redis: MemoryRedis::default(),
            plan,
            settings,
            observers: all,
            workers: BTreeMap::new(),
        };
        driver.start_worker(0)?;
        driver.settle()?;
        Ok(driver)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Puts a record into a topic. Without a partition, the key decides. Returns partition and offset.
    ///
    /// # Errors
    /// When there is no such topic or partition.
    pub fn send(
        &mut self,
        topic: &Name,
        partition: Option<i32>,
        key: Option<Bytes>,
        value: Option<Bytes>,
        time: Time,
        headers: Headers,
    ) -> Result<(i32, i64), DriverError> {
        let partition = partition.unwrap_or_else(|| key.as_ref().map_or(0, |key| partition_of(key, self.settings.partitions)));
        let sent = self.cluster.append(topic, partition, key, value, time, headers);
        sent.map(|offset| (partition, offset)).map_err(|error| DriverError(error.to_string()))
    }

    /// Lets all workers process what is there, without committing.
    ///
    /// # Errors
    /// When a worker stops, or does not come to rest.
    pub fn process(&mut self) -> Result<(), DriverError> {
        for _ in 0..TURNS_MAX {
            if !self.turn()? && !self.remind_group()? {
                return Ok(());
            }
        }
        Err(DriverError(format!("the workers did not come to rest in {TURNS_MAX} turns")))
    }

    /// One turn of every worker. Returns whether something is still to be done.
    fn turn(&mut self) -> Result<bool, DriverError> {
        let mut is_busy = false;
        for alive in self.workers.values_mut().filter_map(|worker| worker.alive.as_mut()) {
            is_busy |= alive.turn()?;
        }
        Ok(is_busy)
    }

    /// What a worker does about tasks that nobody has (`runtime/unassigned`), when all are at rest. Says whether there were any.
    fn remind_group(&self) -> Result<bool, DriverError> {
        let (log, app) = (self.cluster.log(), &self.plan.topology.app);
        let said = |error: LogError| DriverError(error.to_string());
        let tasks = self.settings.partitions * self.plan.subtopologies.len() as i32;
        let unassigned = log.admin().and_then(|admin| admin.unassigned(app, &names::tasks(app), tasks, Duration::ZERO)).map_err(said)?;
        if unassigned.is_empty() {
            return Ok(false);
        }
        self.metrics.counter(&ENFORCED_REBALANCES, &[]).inc();
        enforce_rebalance(log.as_ref(), app, SESSION, &AtomicBool::new(false)).map_err(said)?;
        Ok(true)
    }

    /// Lets all workers commit.
    ///
    /// # Errors
    /// When a worker stops.
    pub fn commit(&mut self) -> Result<(), DriverError> {
        for worker in self.workers.values_mut() {
            if let Some(alive) = &mut worker.alive {
                alive.thread.commit_turn().map_err(|fault| DriverError(fault.what))?;
            }
        }
        Ok(())
    }

    /// Processes and commits until nothing is left to do.
    ///
    /// # Errors
    /// As [`Driver::process`].
    pub fn settle(&mut self) -> Result<(), DriverError> {
        self.process()?;
        self.commit()?;
        self.process()
    }

    /// Moves the wall clock, fires what is due, commits.
    ///
    /// # Errors
    /// As [`Driver::process`].
    pub fn advance(&mut self, ms: i64) -> Result<(), DriverError> {
        self.clock.advance_ms(ms);
        self.settle()
    }

    /// All workers die at once: memory, open transactions and unflushed state are lost. Then they start again.
    ///
    /// # Errors
    /// As [`Driver::process`].
    pub fn crash(&mut self) -> Result<(), DriverError> {
        let numbers: Vec<usize> = self.workers.iter().filter(|(_, worker)| worker.alive.is_some()).map(|(number, _)| *number).collect();
        for worker in self.workers.values_mut() {
            worker.alive = None; // Dropped, not shut down.
        }
        for number in numbers {
            self.start_worker(number)?;
        }
        self.process()
    }

    /// Some workers join, up to this many; after so many turns of everybody, in the middle of it, all die at once and start again.
    ///
    /// # Errors
    /// As [`Driver::process`].
    pub fn crash_in_rebalance(&mut self, workers: usize, turns: usize) -> Result<(), DriverError> {
        self.start_missing(workers)?;
        for _ in 0..turns {
            self.turn()?;
        }
        self.crash()
    }

    /// Runs on this many workers: some join, or the last ones leave.
    ///
    /// # Errors
    /// As [`Driver::process`].
    pub fn rebalance(&mut self, workers: usize) -> Result<(), DriverError> {
        self.start_missing(workers)?;
        let leaving: Vec<usize> = self.workers.range(workers..).map(|(number, _)| *number).collect();
        for number in leaving {
            if let Some(alive) = self.workers.get_mut(&number).and_then(|worker| worker.alive.take()) {
                // One that cannot commit leaves all the same: the next owner processes again what it did not commit.
                let left = alive.thread.shutdown(Deadline::after(SHUTDOWN));
                let (app, worker) = (&self.plan.topology.app, worker_name(number)?);
                if left.is_err() {
                    self.cluster.expire_transaction(&names::transactional_id(app, &worker, 0));
                }
                // A static member sends no LeaveGroup: its session ends.
                self.cluster.expire_member(app, &names::member(&worker, 0));
            }
        }
        self.process()
    }

    /// Those of the first `workers` that do not run.
    fn start_missing(&mut self, workers: usize) -> Result<(), DriverError> {
        for number in 0..workers {
            if self.workers.get(&number).is_none_or(|worker| worker.alive.is_none()) {
                self.start_worker(number)?;
            }
        }
        Ok(())
    }

    fn start_worker(&mut self, number: usize) -> Result<(), DriverError> {
        let budget = self.settings.budget;
        let worker =
            self.workers.entry(number).or_insert_with(|| DrivenWorker { storage: Arc::new(MemoryStateStorage::new(budget)), alive: None });
        let mut settings = Settings::in_process(worker_name(number)?);
        settings.guarantee = self.settings.guarantee;
        // The driver says when to commit.
        settings.commit_interval = Duration::from_secs(u32::MAX.into());
        settings.overlay_bytes_max = usize::MAX;
        // Nothing changes while a driver waits.
        settings.missing_offsets_pause = Duration::ZERO;
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let storage: Arc<dyn StateStorage> = worker.storage.clone();
        let parts = Parts {
            plan: self.plan.clone(),
            settings,
            log: self.cluster.log(),
            storage: &|_, _, _| storage.clone(),
            clock,
            metrics: self.metrics.clone(),
            observers: self.observers.clone(),
        };
        let mut app: App = prepare(parts).map_err(|error| DriverError(error.to_string()))?;
        let questions = Arc::new(Questions::default());
        let rows = Arc::new(TaskRows::new(&app, questions.clone(), true));
        let topology = &self.plan.topology;
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let name = app.settings.worker.clone();
        let specs = topology.views.clone();
        let views = Arc::new(MemoryViews::new(topology.app.clone(), &name, specs, self.redis.clone(), rows, clock, &self.metrics));
        app.observers.push(Arc::new(ViewFeed::new(views.clone(), &app)));
        let thread = StreamThread::start(Arc::new(app), 0).map_err(|fault| DriverError(fault.what))?;
        worker.alive = Some(Alive { thread, views, questions });
        Ok(())
    }

    /// All disks are lost, as when workers move to other machines. To be called while no worker runs.
    pub fn forget_disks(&mut self) {
        self.workers.retain(|_, worker| worker.alive.is_some());
    }

    /// The stream threads that are alive.
    pub fn threads(&mut self) -> impl Iterator<Item = &mut StreamThread> {
        self.workers.values_mut().filter_map(|worker| worker.alive.as_mut()).map(|alive| &mut alive.thread)
    }
}

fn worker_name(number: usize) -> Result<Name, DriverError> {
    Name::parse(&format!("worker-{number}")).map_err(|error| DriverError(error.to_string()))
}

fn make_topics(cluster: &MemoryCluster, plan: &Plan, partitions: i32) -> Result<(), DriverError> {
    let topology = &plan.topology;
    let names = topology.sources.iter().map(|source| &source.topic).chain(topology.outputs.iter().map(|output| &output.topic));
    let topics: Vec<NewTopic> =
        names.map(|name| NewTopic { name: name.clone(), partitions, replication: -1, config: Vec::new() }).collect();
    cluster.create_topics(&topics).map_err(|error| DriverError(error.to_string()))
}
