//! Tasks that the group has given to nobody: looks for them, and makes it rebalance once more.
//!
//! A static member that dies between the two rounds of a cooperative rebalance owes its group the second one. Its next life is given
//! what the first round left it, without a round (KIP-345), and what it was to give up stands still until somebody comes or goes. What
//! the workers say of themselves shows such a task within seconds and costs nothing; then the group is asked, for it knows who is
//! only dead for the moment; and then a guest comes and goes, which is a change of membership and takes no task from anybody.
//! The Java client can ask for a rebalance itself (KIP-568); librdkafka has no call for that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::log::{Event, GroupSettings, Log, LogError, LogErrorKind};
use crate::metrics::{Counter, ENFORCED_REBALANCES};
use crate::model::{Name, TaskId, Time};
use crate::runtime::peers::Peers;
use crate::runtime::rows::HasTasks;
use crate::runtime::start::App;
use crate::topology::names;

/// How often it is looked who has what.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So long nobody must have said that a task is with him before the group is asked: a few heartbeats. Doubled for the second worker by
/// name, and so on, so that one of them acts.
const PATIENCE_MS: i64 = 5_000;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A round waits for every member; one that is dead is waited for until its session ends.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// One wait for the group.
const POLL: Duration = Duration::from_millis(50);
/// How often it is looked whether the thread has ended.
const STOP_LOOK: Duration = Duration::from_millis(10);

/// Makes the group of an app assign all its tasks anew: a guest joins, which is subscribed to another topic than the tasks, and leaves
/// when the round is over. Whoever has a fair share keeps it. Ends early when `stop` becomes true.
///
/// # Errors
/// Those of the log; `Retry` when the round is not over in a minute.
pub fn enforce_rebalance(log: &dyn Log, app: &Name, session_timeout: Duration, stop: &AtomicBool) -> Result<(), LogError> {
    let settings = GroupSettings { group: app.clone(), task_topic: names::workers(app), instance_id: None, session_timeout };
    let mut guest = log.group_consumer(&settings)?;
    let end = Instant::now() + ROUND_TIMEOUT;
    let mut has_joined = false;
    while !has_joined && Instant::now() < end && !stop.load(Ordering::Relaxed) {
        for event in guest.poll(0, POLL, &mut Vec::new())? {
            match event {
                Event::Problem(problem) => debug!(%problem, "a guest of the group"),
                event => guest.acknowledge(&event)?,
            }
        }
        has_joined = guest.group().is_some();
    }
    guest.close(LEAVE_TIMEOUT)?;
    if has_joined || stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(LogError::new(LogErrorKind::Retry, format!("make group `{app}` rebalance"), format!("no round was over in {ROUND_TIMEOUT:?}")))
}

/// The thread that looks.
pub struct UnassignedThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl UnassignedThread {
    /// `here` says which tasks this worker has, `peers` which ones the others have.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(app: &App, here: Arc<dyn HasTasks>, peers: Arc<Peers>) -> std::io::Result<UnassignedThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut look = Look {
            log: app.log.clone(),
            app: app.plan.topology.app.clone(),
            worker: app.settings.worker.clone(),
            tasks: app.tasks.clone(),
            session_timeout: app.settings.session_timeout,
            here,
            peers,
            missing_since: BTreeMap::new(),
            enforced: app.metrics.counter(&ENFORCED_REBALANCES, &[]),
            stop: stop.clone(),
        };
        let clock = app.clock.clone();
        let thread = Builder::new().name("unassigned".into()).spawn(move || {
            while !look.stop.load(Ordering::Relaxed) {
                if let Err(error) = look.once(clock.now()) {
                    // The stream threads tell it, too, and louder.
                    debug!(%error, "cannot look after tasks that nobody has");
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
        })?;
        Ok(UnassignedThread { stop, thread })
    }

    /// Ends it, unless the cluster keeps it from ending: then it is left behind, for it holds nothing that is needed.
    pub fn stop(self, within: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let end = Instant::now() + within;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::park_timeout(STOP_LOOK);
        }
        if self.thread.is_finished() && self.thread.join().is_err() {
            warn!("the thread that looks after tasks that nobody has panicked; this is a bug");
        }
    }
}

struct Look {
    log: Arc<dyn Log>,
    app: Name,
    worker: Name,
    /// By partition of the task topic.
    tasks: Vec<TaskId>,
    session_timeout: Duration,
    here: Arc<dyn HasTasks>,
    peers: Arc<Peers>,
    /// Tasks that nobody has said to have, since when.
    missing_since: BTreeMap<TaskId, Time>,
    enforced: Counter,
    stop: Arc<AtomicBool>,
}

impl Look {
    /// Says whether it made the group rebalance.
    fn once(&mut self, now: Time) -> Result<bool, LogError> {
        let patience_ms = PATIENCE_MS.saturating_mul(1 + self.peers.before(&self.worker, now) as i64);
        let missing = self.overdue(now, patience_ms);
        if missing.is_empty() {
            return Ok(false);
        }
        let (task_topic, count) = (names::tasks(&self.app), self.tasks.len() as i32);
        let unassigned = self.log.admin()?.unassigned(&self.app, &task_topic, count, ASK_TIMEOUT);
        // Whatever comes of it, they have their time again: to find an owner, or until the group is asked anew.
        self.missing_since.clear();
        let unassigned = unassigned?.into_iter().filter_map(|partition| self.tasks.get(partition as usize));
        let forgotten: Vec<String> = unassigned.filter(|task| missing.contains(task)).map(ToString::to_string).collect();
        if forgotten.is_empty() {
            return Ok(false);
        }
        warn!(
            tasks = %forgotten.join(" "),
            "the group is at rest and nobody has these tasks (a worker died in the middle of a rebalance); making it rebalance"
        );
        self.enforced.inc();
        enforce_rebalance(self.log.as_ref(), &self.app, self.session_timeout, &self.stop)?;
        Ok(true)
    }

    /// Tasks that nobody has had for so long.
    fn overdue(&mut self, now: Time, patience_ms: i64) -> Vec<TaskId> {
        let (here, elsewhere) = (self.here.tasks(), self.peers.tasks(now));
        let missing = self.tasks.iter().filter(|task| !here.contains(task) && !elsewhere.contains(&task.to_string()));
        self.missing_since = missing.map(|task| (*task, self.missing_since.get(task).copied().unwrap_or(now))).collect();
        self.missing_since.iter().filter(|(_, since)| now >= since.plus_ms(patience_ms)).map(|(task, _)| *task).collect()
    }
}
