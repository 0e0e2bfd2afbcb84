//! The only loop: poll, process, tick, commit. One per stream thread, each with its own consumer, producer and tasks.
//!
//! No lock and no async on this path. A turn never blocks longer than its `wait` and one commit; what cannot be finished in
//! a turn (opening, restoring) goes on in the next, so that the group is polled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::log::{Consumer, Event, GroupSettings, LogErrorKind, Message, Producer, ProducerSettings, TopicHandle};
use crate::model::{Name, Offset, TaskId, Time};
use crate::runtime::assignment::{self, Opening};
use crate::runtime::commit::{Deadline, Outcome, commit};
use crate::runtime::emit::OutputWriter;
use crate::runtime::fault::{Fault, Reaction};
use crate::runtime::gauges::{self, ThreadGauges};
use crate::runtime::retries::Retries;
use crate::runtime::settings::Guarantee;
use crate::runtime::start::App;
use crate::runtime::task::{Phase, Task};
use crate::state::StateError;
use crate::topology::names;

/// How long a transaction client may take to begin its life: it ends what an earlier one left open. Tried again then; longer would
/// keep a worker from ending when it is told to while there is no broker.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the producer collects a batch. Everything is written in the commit, whose flush ends the wait; with 1 ms batches
/// are smaller, which cost 5 % of CPU and won no time.
const LINGER: Duration = Duration::from_millis(10);
/// How long a turn waits that may take no records; short, so that the group is served.
const HELD_PAUSE: Duration = Duration::from_millis(10);
/// Rebuilds of a task after each of which it was found damaged again; the next one does not begin.
const REBUILDS_MAX: u32 = 3;
/// A task that has run for so long since its last rebuild starts to count anew.
const REBUILDS_FORGOTTEN_MS: i64 = 10 * 60 * 1000;

/// A stream thread. `turn` is called by its OS thread, or by a driver that runs several in steps.
pub struct StreamThread {
    pub(super) app: Arc<App>,
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) producer: Box<dyn Producer>,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) opening: BTreeMap<TaskId, Opening>,
    /// Assigned tasks that stand still because their state failed, and why. Nothing of them is open.
    pub(super) failed: BTreeMap<TaskId, String>,
    /// What a question from an edge came upon; answered in the next turn.
    pub(super) found: Option<Fault>,
    pub(super) rebuilds: BTreeMap<TaskId, Rebuilds>,
    /// Whose input a slot is. Slots are never used again.
    pub(super) slots: Vec<Option<(TaskId, usize)>>,
    pub(super) writers: Vec<OutputWriter>,
    /// Per sub-topology and store.
    pub(super) changelogs: Vec<Vec<Option<TopicHandle>>>,
    pub(super) dead_letter_topic: (TopicHandle, i32),
    pub(super) in_transaction: bool,
    /// Counts the consumers this thread has had: an event of an earlier one is not answered to a later one.
    membership: u64,
    pub(super) gauges: ThreadGauges,
    number: usize,
    /// The last turn found nothing to do.
    is_idle: bool,
    batch: Vec<Message>,
    committed_at: Time,
    retries: Retries,
}

/// How often a task was rebuilt in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rebuilds {
    count: u32,
    /// Since when it has run after the last one.
    pub ran_at: Option<Time>,
}

/// What a turn did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    pub messages: usize,
    pub committed: bool,
    /// A task is being opened or restored, or timers are waiting their turn.
    pub is_busy: bool,
}

impl StreamThread {
    /// Joins the group.
    ///
    /// # Errors
    /// When the clients cannot be made, or an earlier life of this thread cannot be fenced.
    pub fn start(app: Arc<App>, number: usize) -> Result<StreamThread, Fault> {
        let consumer = make_consumer(&app, number)?;
        let producer = make_producer(&app, number)?;
        let committed_at = app.clock.now();
        let gauges = ThreadGauges::new(&app.metrics, number);
        let mut thread = StreamThread {
            app,
            consumer,
            producer,
            tasks: BTreeMap::new(),
            opening: BTreeMap::new(),
            failed: BTreeMap::new(),
            found: None,
            rebuilds: BTreeMap::new(),
            slots: Vec::new(),
            writers: Vec::new(),
            changelogs: Vec::new(),
            dead_letter_topic: (TopicHandle(0), 1),
            in_transaction: false,
            membership: 0,
            gauges,
            number,
            is_idle: false,
            batch: Vec::new(),
            committed_at,
            retries: Retries::default(),
        };
        thread.look_up_topics()?;
        Ok(thread)
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// Only a fault that stops the worker; every other one is answered here.
    pub fn turn(&mut self, wait: Duration) -> Result<Turn, Fault> {
        match self.try_turn(wait) {
            Ok(turn) => {
                self.retries.end();
                Ok(turn)
            }
            Err(fault) => {
                self.react(fault)?;
                Ok(Turn { is_busy: true, ..Turn::default() })
            }
        }
    }

    fn try_turn(&mut self, wait: Duration) -> Result<Turn, Fault> {
        if let Some(fault) = self.found.take() {
            return Err(fault);
        }
        let mut turn = Turn { is_busy: !self.opening.is_empty(), ..Turn::default() };
        let restoring = assignment::open_tasks(self)? | assignment::restore_tasks(self)?;
        turn.is_busy |= restoring;
        let has_queued = self.tasks.values().any(Task::has_queued);
        let is_held = self.app.observers.iter().any(|observer| observer.holds_input());
        let wait = if turn.is_busy || has_queued { Duration::ZERO } else { self.until_commit(wait) };
        let mut batch = std::mem::take(&mut self.batch);
        let limit = if has_queued || is_held { 0 } else { self.app.settings.poll_records_max };
        if is_held && !has_queued {
            // A poll for nothing does not wait.
            std::thread::park_timeout(wait.min(HELD_PAUSE));
        }
        let polled = self.consumer.poll(limit, wait, &mut batch);
        turn.messages = batch.len();
        self.gauges.polled(batch.len(), batch.first().map(Message::time));
        let began = (turn.messages > 0).then(Instant::now);
        let now = self.app.clock.now();
        for message in batch.drain(..) {
            let owner = self.slots.get(message.slot() as usize).copied().flatten();
            if let Some((id, input)) = owner
                && let Some(task) = self.tasks.get_mut(&id)
            {
                task.take(input, message);
            }
        }
        self.batch = batch;
        self.is_idle = turn.messages == 0 && !turn.is_busy && !has_queued && !is_held;
        let membership = self.membership;
        for event in polled.map_err(|error| Fault::of_log(&error))? {
            if self.membership == membership {
                self.handle(&event)?;
            }
        }
        let overlay_bytes_max = self.app.settings.overlay_bytes_max;
        for task in self.tasks.values_mut().filter(|task| task.is_running()) {
            task.process_all(now, overlay_bytes_max)?;
            turn.is_busy |= task.tick(now)?;
        }
        if let Some(began) = began {
            self.gauges.processed(began);
        }
        let overlay_is_full = self.tasks.values().any(|task| task.has_queued());
        if overlay_is_full || now.0 - self.committed_at.0 >= self.app.settings.commit_interval.as_millis() as i64 {
            turn.committed = self.commit_now()? == Outcome::Committed;
        }
        Ok(turn)
    }

    /// Commits now, whatever the interval says.
    pub fn commit_now(&mut self) -> Result<Outcome, Fault> {
        self.committed_at = self.app.clock.now();
        let began = Instant::now();
        let outcome = commit(self, Deadline::after(self.app.settings.transaction_timeout))?;
        let now = self.app.clock.now();
        if outcome == Outcome::Committed {
            self.gauges.committed(began, now);
        }
        self.gauges.refresh(now, &self.tasks, &self.opening, self.consumer.as_mut());
        for task in self.tasks.values_mut() {
            task.state.flush_if_due(now).map_err(|error| Fault::of_state(task.id, &error))?;
        }
        Ok(outcome)
    }

    /// Commits, with faults answered as in a turn. For drivers that say when.
    pub fn commit_turn(&mut self) -> Result<Outcome, Fault> {
        match self.commit_now() {
            Ok(outcome) => Ok(outcome),
            Err(fault) => {
                self.react(fault)?;
                Ok(Outcome::Nothing)
            }
        }
    }

    fn until_commit(&self, wait: Duration) -> Duration {
        let interval = self.app.settings.commit_interval.as_millis() as i64;
        let left = (self.committed_at.0 + interval - self.app.clock.now().0).clamp(0, interval);
        wait.min(Duration::from_millis(left as u64))
    }

    fn handle(&mut self, event: &Event) -> Result<(), Fault> {
        match event {
            Event::Assigned(numbers) => {
                let tasks = self.tasks_of(numbers);
                info!(thread = self.number, tasks = %list(&tasks), "assigned");
                for id in tasks {
                    self.opening.insert(id, Opening::default());
                }
                self.consumer.acknowledge(event).map_err(|error| Fault::of_log(&error))
            }
            Event::Revoked(numbers) => {
                let tasks = self.tasks_of(numbers);
                info!(thread = self.number, tasks = %list(&tasks), "revoked");
                // What was processed is committed before the tasks go; if that fails, the next owner processes it again.
                let committed = self.commit_now();
                let membership = self.membership;
                if let Err(fault) = committed {
                    self.react(fault)?;
                }
                if self.membership != membership {
                    // The commit found that we had been put out: the tasks are closed, and this event is of a life that is over.
                    return Ok(());
                }
                assignment::close_tasks(self, &tasks);
                self.consumer.acknowledge(event).map_err(|error| Fault::of_log(&error))
            }
            Event::Lost(numbers) => {
                let tasks = self.tasks_of(numbers);
                warn!(thread = self.number, tasks = %list(&tasks), "lost: the session with the group has ended, and another member may have these tasks; nothing is committed for them");
                for id in &tasks {
                    if let Some(task) = self.tasks.get_mut(id) {
                        task.state.drop_overlay();
                    }
                }
                assignment::close_tasks(self, &tasks);
                self.consumer.acknowledge(event).map_err(|error| Fault::of_log(&error))
            }
            // A right that is missing does not heal: the group, or an input, is closed to us.
            Event::Problem(problem) if problem.kind == LogErrorKind::Authorization => Err(Fault::of_log(problem)),
            Event::Problem(problem) => {
                warn!(thread = self.number, "{problem}");
                Ok(())
            }
            Event::OutOfRange { slot, partition, offset } => {
                let Some((id, input)) = self.slots.get(*slot as usize).copied().flatten() else { return Ok(()) };
                let topic = self.tasks.get(&id).map_or_else(|| "?".to_owned(), |task| task.inputs[input].topic.to_string());
                let what = format!(
                    "task {id}: offset {offset} of `{topic}` partition {partition} is not in the topic any more: records were deleted before they were read. \
                     The task stops so that nothing is skipped silently; set the group's offset to where it shall go on"
                );
                Err(Fault::new(Reaction::CloseTask(id), what))
            }
        }
    }

    fn tasks_of(&self, numbers: &[i32]) -> Vec<TaskId> {
        numbers.iter().filter_map(|number| self.app.tasks.get(*number as usize).copied()).collect()
    }

    /// The one place that acts on a fault.
    fn react(&mut self, fault: Fault) -> Result<(), Fault> {
        match fault.reaction.clone() {
            Reaction::Retry => {
                self.retries.wait(self.number, &fault.what);
                Ok(())
            }
            Reaction::Abort => {
                warn!(thread = self.number, "{fault}; aborting the transaction");
                match self.abort() {
                    Ok(()) => Ok(()),
                    Err(fault) => self.reopen(&fault),
                }
            }
            Reaction::Reopen => self.reopen(&fault),
            Reaction::Rejoin => self.rejoin(&fault),
            Reaction::StopTask(id) => {
                error!(thread = self.number, "{fault}");
                assignment::stop_task(self, id, fault.what);
                Ok(())
            }
            Reaction::CloseTask(id) => {
                error!(thread = self.number, "{fault}; the task stands still until the cause is gone and the worker is restarted");
                // First the task: ending the transaction reads the state of those that go on.
                assignment::discard_task(self, id);
                // It stays assigned here, and unanswered: elsewhere it would only be restored to meet the same record or the same volume.
                self.failed.insert(id, fault.what);
                self.abort_open()
            }
            Reaction::RebuildTask(id) => self.rebuild(id, &fault),
            Reaction::Stop => Err(fault),
        }
    }

    /// Throws the state of a task away and reads its changelog again, but not for ever: a disk that damages all that is written to it would
    /// keep the task restoring.
    fn rebuild(&mut self, id: TaskId, fault: &Fault) -> Result<(), Fault> {
        let now = self.app.clock.now();
        let rebuilds = self.rebuilds.entry(id).or_default();
        if rebuilds.ran_at.is_some_and(|ran_at| now >= ran_at.plus_ms(REBUILDS_FORGOTTEN_MS)) {
            rebuilds.count = 0;
        }
        rebuilds.count += 1;
        rebuilds.ran_at = None;
        if rebuilds.count > REBUILDS_MAX {
            let what = format!("{fault}; it was rebuilt {REBUILDS_MAX} times already and does not stay whole: look at the disk");
            return self.react(Fault::new(Reaction::CloseTask(id), what));
        }
        warn!(thread = self.number, "{fault}; rebuilding it from the changelog");
        // Closed without a flush: what is to be thrown away need not be written.
        assignment::discard_task(self, id);
        self.abort_open()?;
        match self.app.storage.wipe(id, &fault.what) {
            // Held by somebody: opening it waits for that, finds the damage again and comes back here.
            Ok(()) | Err(StateError::Busy { .. }) => {
                self.opening.insert(id, Opening::default());
                Ok(())
            }
            Err(error) => self.react(Fault::of_state(id, &error)),
        }
    }

    /// Ends the open transaction, if there is one: the part of a task that failed goes with it.
    fn abort_open(&mut self) -> Result<(), Fault> {
        if self.in_transaction { self.abort().or_else(|fault| self.reopen(&fault)) } else { Ok(()) }
    }

    /// Ends the open transaction without effect: overlays are forgotten, inputs are read again from the committed offsets.
    fn abort(&mut self) -> Result<(), Fault> {
        if self.in_transaction {
            self.in_transaction = false;
            self.producer.abort(self.app.settings.transaction_timeout).map_err(|error| Fault::of_transaction(&error))?;
        }
        for task in self.tasks.values_mut().filter(|task| task.is_restored()) {
            task.forget()?;
            for input in &task.inputs {
                if let Some(slot) = input.slot {
                    self.consumer.seek(slot, input.committed).map_err(|error| Fault::of_log(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Nobody knows how the transaction ended: a new producer with the same id ends it one way or the other, and the tasks
    /// are opened again from what is committed.
    fn reopen(&mut self, fault: &Fault) -> Result<(), Fault> {
        warn!(thread = self.number, "{fault}; replacing the producer and reading what was committed");
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in self.tasks.values_mut() {
            task.state.drop_overlay();
        }
        assignment::close_tasks(self, &ids);
        for id in ids {
            self.opening.insert(id, Opening::default());
        }
        self.replace_producer()
    }

    fn replace_producer(&mut self) -> Result<(), Fault> {
        self.in_transaction = false;
        match make_producer(&self.app, self.number) {
            Ok(producer) => {
                self.producer = producer;
                self.look_up_topics()
            }
            // The cluster is away: the tasks stay closed, and the next turn tries again.
            Err(fault) if fault.reaction == Reaction::Stop => Err(fault),
            Err(fault) => {
                for opening in self.opening.values_mut() {
                    opening.needs_producer = true;
                }
                warn!(thread = self.number, "{fault}; trying again");
                Ok(())
            }
        }
    }

    /// Makes a producer again after an attempt that failed.
    pub(super) fn retry_producer(&mut self) -> Result<(), Fault> {
        self.producer = make_producer(&self.app, self.number)?;
        self.look_up_topics()?;
        for opening in self.opening.values_mut() {
            opening.needs_producer = false;
        }
        Ok(())
    }

    /// We are not who we thought we were: closes everything without committing and joins as a new member.
    fn rejoin(&mut self, fault: &Fault) -> Result<(), Fault> {
        warn!(thread = self.number, "{fault}; closing all tasks and joining again");
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in self.tasks.values_mut() {
            task.state.drop_overlay();
        }
        assignment::close_tasks(self, &ids);
        self.opening.clear();
        self.failed.clear();
        if let Err(error) = self.consumer.close(CLOSE_TIMEOUT) {
            debug!(%error, "while leaving the group");
        }
        self.consumer = make_consumer(&self.app, self.number)?;
        self.membership += 1;
        self.replace_producer()
    }

    fn look_up_topics(&mut self) -> Result<(), Fault> {
        let app = self.app.clone();
        let mut look_up = |name: &Name| self.producer.topic(name).map_err(|error| Fault::of_log(&error));
        self.dead_letter_topic = look_up(&names::dead_letters(&app.plan.topology.app))?;
        self.changelogs.clear();
        for subtopology in &app.plan.subtopologies {
            let mut handles = Vec::new();
            for store in &subtopology.stores {
                handles.push(match &store.changelog {
                    Some(changelog) => Some(look_up(changelog)?.0),
                    None => None,
                });
            }
            self.changelogs.push(handles);
        }
        self.writers.clear();
        for (at, output) in app.plan.topology.outputs.iter().enumerate() {
            let (topic, partitions) = look_up(&output.topic)?;
            self.writers.push(OutputWriter::new(crate::model::OutputId(at), output.clone(), topic, partitions));
        }
        Ok(())
    }

    /// Whether a commit would make anything true.
    pub(super) fn has_changes(&self) -> bool {
        let now = self.app.clock.now();
        self.tasks.values().any(|task| task.is_dirty(&self.app.plan.subtopologies[task.id.subtopology as usize], now))
    }

    /// Commits, closes all tasks, leaves the group. A cluster that does not answer gets a part of the time for each: what was not committed
    /// is processed again by the next owner.
    pub fn shutdown(mut self, deadline: Deadline) -> Result<(), Fault> {
        let committed = commit(&mut self, Deadline::after(deadline.left() / 2)).map(|_| ());
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        if committed.is_err() {
            for task in self.tasks.values_mut() {
                task.state.drop_overlay();
            }
            if self.in_transaction
                && let Err(error) = self.producer.abort(CLOSE_TIMEOUT.min(deadline.left() / 2))
            {
                warn!(%error, "could not abort the open transaction; the broker does so when its time is over");
            }
        }
        assignment::close_tasks(&mut self, &ids);
        self.gauges.forget_all();
        if let Err(error) = self.consumer.close(CLOSE_TIMEOUT.min(deadline.left())) {
            warn!(%error, "could not leave the group; its other members take over after the session timeout");
        }
        committed
    }

    /// Where the inputs of this thread's tasks end, by task and input, as far as that is known without asking the cluster.
    pub fn ends(&mut self) -> BTreeMap<(TaskId, usize), Offset> {
        let StreamThread { tasks, consumer, .. } = self;
        let inputs = tasks.values().flat_map(|task| task.inputs.iter().enumerate().map(|(at, input)| (task.id, at, input)));
        inputs.filter_map(|(id, at, input)| Some(((id, at), gauges::end_of(input, consumer.as_mut())?))).collect()
    }

    /// What this thread runs.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The tasks of this thread, for queries and status.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    pub fn tasks_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.tasks.values_mut()
    }

    /// Tasks that stand still because their state failed, and why.
    pub fn failed(&self) -> impl Iterator<Item = (TaskId, &str)> {
        self.failed.iter().map(|(id, why)| (*id, why.as_str()))
    }

    /// Tasks that are assigned but not open yet.
    pub fn opening(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.opening.keys().copied()
    }

    /// Whether everything that is assigned is running.
    pub fn is_settled(&self) -> bool {
        self.opening.is_empty() && self.tasks.values().all(|task| !matches!(task.phase, Phase::Restoring(_)))
    }

    /// Whether all inputs are read to the ends that they have now. Asks the broker, but only a thread that found nothing in its
    /// last turn: it costs a few milliseconds.
    pub fn is_drained(&mut self) -> Result<bool, Fault> {
        if !self.is_idle || !self.is_settled() || self.has_changes() {
            return Ok(false);
        }
        for task in self.tasks.values().filter(|task| task.is_running()) {
            for input in &task.inputs {
                let Some(slot) = input.slot else { continue };
                let log = |error| Fault::of_log(&error);
                let (_, end) = self.consumer.bounds(&input.topic, task.id.partition, CLOSE_TIMEOUT).map_err(log)?;
                // The end may lie behind markers, which only the position has passed.
                let position = self.consumer.position(slot).map_err(log)?;
                if position.unwrap_or(input.next).max(input.next) < end {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn make_consumer(app: &App, number: usize) -> Result<Box<dyn Consumer>, Fault> {
    let settings = &app.settings;
    let group = GroupSettings {
        group: app.plan.topology.app.clone(),
        task_topic: names::tasks(&app.plan.topology.app),
        instance_id: settings.static_membership.then(|| names::member(&settings.worker, number)),
        session_timeout: settings.session_timeout,
    };
    app.log.group_consumer(&group).map_err(|error| Fault::of_log(&error))
}

fn make_producer(app: &App, number: usize) -> Result<Box<dyn Producer>, Fault> {
    let settings = &app.settings;
    let exactly_once = settings.guarantee == Guarantee::ExactlyOnce;
    let producer = ProducerSettings {
        transactional_id: exactly_once.then(|| names::transactional_id(&app.plan.topology.app, &settings.worker, number)),
        transaction_timeout: settings.transaction_timeout,
        linger: LINGER,
    };
    let mut producer = app.log.producer(&producer).map_err(|error| Fault::of_log(&error))?;
    if exactly_once {
        producer.init_transactions(INIT_TIMEOUT).map_err(|error| Fault::of_log(&error))?;
    }
    Ok(producer)
}

fn list(tasks: &[TaskId]) -> String {
    tasks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
