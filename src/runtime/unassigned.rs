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
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::log::{Event, GroupSettings, Log, LogError, LogErrorKind};
use crate::metrics::{Counter, ENFORCED_REBALANCES};
use crate::model::{Name, TaskId, Time};
use crate::runtime::background::Background;
use crate::runtime::peers::Peers;
use crate::runtime::rows::HasTasks;
use crate::runtime::start::App;
use crate::topology::names;

/// How often it is looked who has what.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So long nobody must have said that a task is with him before the group is asked: a few heartbeats. Doubled for the second worker by
/// name, and so on, so that one of them acts.
const PATIENCE_MS: i64 = 5_000;
/// A group that knew an owner each time is asked again later and later: doubled so often at most.
const DOUBLINGS_MAX: u32 = 3;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A round waits for every member; one that is dead is waited for until its session ends.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// One wait for the group.
const POLL: Duration = Duration::from_millis(50);

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
pub struct UnassignedThread(Background);

impl UnassignedThread {
    /// `here` says which tasks this worker has, `peers` which ones the others have.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(app: &App, here: Arc<dyn HasTasks>, peers: Arc<Peers>) -> std::io::Result<UnassignedThread> {
        let mut look = Look {
            log: app.log.clone(),
            app: app.plan.topology.app.clone(),
            worker: app.settings.worker.clone(),
            tasks: app.tasks.clone(),
            session_timeout: app.settings.session_timeout,
            here,
            peers,
            missing_since: BTreeMap::new(),
            in_vain: 0,
            enforced: app.metrics.counter(&ENFORCED_REBALANCES, &[]),
        };
        let clock = app.clock.clone();
        let thread = Background::start("unassigned", move |stop| {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = look.once(clock.now(), stop) {
                    // The stream threads tell it, too, and louder.
                    debug!(%error, "cannot look after tasks that nobody has");
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
        })?;
        Ok(UnassignedThread(thread))
    }

    /// Ends it, unless the cluster keeps it from ending: then it is left behind.
    pub fn stop(self, within: Duration) {
        self.0.stop(within);
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
    /// Times in a row that the group was asked and had forgotten nothing.
    in_vain: u32,
    enforced: Counter,
}

impl Look {
    /// Says whether it made the group rebalance.
    fn once(&mut self, now: Time, stop: &AtomicBool) -> Result<bool, LogError> {
        let before = self.peers.before(&self.worker, now) as i64;
        let patience_ms = (PATIENCE_MS << self.in_vain.min(DOUBLINGS_MAX)).saturating_mul(1 + before);
        let missing = self.overdue(now, patience_ms);
        if missing.is_empty() {
            return Ok(false);
        }
        // Whatever comes of it, they have their time again: to find an owner, or until the group is asked anew.
        self.missing_since.clear();
        let (task_topic, count) = (names::tasks(&self.app), self.tasks.len() as i32);
        let unassigned = self.log.admin()?.unassigned(&self.app, &task_topic, count, ASK_TIMEOUT)?;
        let unassigned = unassigned.into_iter().filter_map(|partition| self.tasks.get(partition as usize));
        let forgotten: Vec<String> = unassigned.filter(|task| missing.contains(task)).map(ToString::to_string).collect();
        if forgotten.is_empty() {
            self.in_vain += 1;
            return Ok(false);
        }
        self.in_vain = 0;
        warn!(
            tasks = %forgotten.join(" "),
            "the group is at rest and nobody has these tasks (a worker died in the middle of a rebalance); making it rebalance"
        );
        self.enforced.inc();
        enforce_rebalance(self.log.as_ref(), &self.app, self.session_timeout, stop)?;
        Ok(true)
    }

    /// Tasks that nobody has had for so long.
    fn overdue(&mut self, now: Time, patience_ms: i64) -> Vec<TaskId> {
        let (here, elsewhere) = (self.here.tasks(), self.peers.tasks(now));
        let missing = self.tasks.iter().filter(|task| !here.contains(task) && !elsewhere.contains(&task.to_string()));
        self.missing_since = missing.map(|task| (*task, self.missing_since.get(task).copied().unwrap_or(now))).collect();
        if self.missing_since.is_empty() {
            self.in_vain = 0;
        }
        self.missing_since.iter().filter(|(_, since)| now >= since.plus_ms(patience_ms)).map(|(task, _)| *task).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::log::memory::MemoryCluster;
    use crate::log::{Admin, Consumer, NewTopic, Producer, ProducerSettings};
    use crate::metrics::Metrics;
    use crate::model::ManualClock;
    use crate::runtime::peers::Presence;

    const SESSION: Duration = Duration::from_secs(10);
    const TASKS: i32 = 4;
    const START: Time = Time(1_767_225_600_000);

    #[derive(Default)]
    struct Here(Mutex<Vec<TaskId>>);

    impl HasTasks for Here {
        fn tasks(&self) -> Vec<TaskId> {
            self.0.lock().unwrap().clone()
        }
    }

    struct World {
        cluster: MemoryCluster,
        here: Arc<Here>,
        look: Look,
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn task(partition: i32) -> TaskId {
        TaskId { subtopology: 0, partition }
    }

    impl World {
        fn new() -> World {
            let cluster = MemoryCluster::new(Arc::new(ManualClock::at(START)));
            let topic = |name, partitions| NewTopic { name, partitions, replication: 1, config: Vec::new() };
            cluster.create_topics(&[topic(names::tasks(&name("shop")), TASKS), topic(names::workers(&name("shop")), 1)]).unwrap();
            let here = Arc::new(Here::default());
            let look = Look {
                log: cluster.log(),
                app: name("shop"),
                worker: name("w2"),
                tasks: (0..TASKS).map(task).collect(),
                session_timeout: SESSION,
                here: here.clone(),
                peers: Arc::new(Peers::default()),
                missing_since: BTreeMap::new(),
                in_vain: 0,
                enforced: Metrics::new().counter(&ENFORCED_REBALANCES, &[]),
            };
            World { cluster, here, look }
        }

        fn member(&self, instance: &str) -> Box<dyn Consumer> {
            let (group, task_topic, instance_id) = (name("shop"), names::tasks(&name("shop")), Some(name(instance)));
            self.cluster.log().group_consumer(&GroupSettings { group, task_topic, instance_id, session_timeout: SESSION }).unwrap()
        }

        /// What a worker says at a moment.
        fn says(&self, worker: &str, tasks: &[&str], at: Time) {
            let tasks = tasks.iter().map(|task| (*task).to_owned()).collect();
            let (life, host, endpoint) = ("1-1".to_owned(), "h".to_owned(), String::new());
            self.look.peers.hear(worker, Some(Presence { version: 1, life, host, process: 1, endpoint, tasks, at: at.0 }));
        }

        fn once(&mut self, ms: i64) -> bool {
            self.look.once(START.plus_ms(ms), &AtomicBool::new(false)).unwrap()
        }

        /// Tasks of each member, as the group has them.
        fn given(&self) -> Vec<usize> {
            self.cluster.members(&name("shop")).iter().map(|member| member.partitions.len()).collect()
        }
    }

    /// A cluster that does not answer.
    struct Away;

    fn away<T>() -> Result<T, LogError> {
        Err(LogError::new(LogErrorKind::Unreachable, "ask", "nobody answers"))
    }

    impl Log for Away {
        fn group_consumer(&self, _group: &GroupSettings) -> Result<Box<dyn Consumer>, LogError> {
            away()
        }
        fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
            away()
        }
        fn producer(&self, _settings: &ProducerSettings) -> Result<Box<dyn Producer>, LogError> {
            away()
        }
        fn admin(&self) -> Result<Box<dyn Admin>, LogError> {
            away()
        }
    }

    /// All that a member is told in one poll, agreed to.
    fn agree(member: &mut dyn Consumer) -> Vec<Event> {
        let events = member.poll(0, Duration::ZERO, &mut Vec::new()).unwrap();
        events.iter().for_each(|event| member.acknowledge(event).unwrap());
        events
    }

    /// Two members, of which the first died before it gave up what the second was to have, and came back.
    fn forgotten(world: &World) -> [Box<dyn Consumer>; 2] {
        let mut first = world.member("w1-0");
        agree(&mut *first);
        let mut second = world.member("w2-0");
        assert_eq!(agree(&mut *second), []);
        drop(first);
        let mut again = world.member("w1-0");
        assert_eq!(agree(&mut *again), [Event::Assigned(vec![0, 1])]);
        assert_eq!(agree(&mut *second), []);
        [again, second]
    }

    #[test]
    fn a_task_that_nobody_has_for_five_seconds_finds_an_owner() {
        let mut world = World::new();
        let [mut first, mut second] = forgotten(&world);
        world.says("w3", &["0_0", "0_1"], START.plus_ms(4_000));
        assert!(!world.once(0));
        assert!(!world.once(PATIENCE_MS - 1));
        assert_eq!(world.given(), [0, 2]);
        assert!(world.once(PATIENCE_MS));
        assert_eq!(world.look.enforced.get(), 1);
        assert_eq!(agree(&mut *second), [Event::Assigned(vec![2, 3])]);
        assert_eq!(agree(&mut *first), []);
        assert_eq!(world.given(), [2, 2], "the guest is gone");
        *world.here.0.lock().unwrap() = vec![task(2), task(3)];
        assert!(!world.once(3 * PATIENCE_MS));
        assert!(!world.once(4 * PATIENCE_MS));
        assert_eq!(world.look.enforced.get(), 1);
    }

    #[test]
    fn the_first_worker_by_name_acts_and_the_others_give_it_time() {
        let mut world = World::new();
        let _members = forgotten(&world);
        world.says("w1", &["0_0", "0_1"], START);
        assert!(!world.once(0));
        assert!(!world.once(PATIENCE_MS));
        world.says("w1", &["0_0", "0_1"], START.plus_ms(PATIENCE_MS));
        assert!(!world.once(2 * PATIENCE_MS - 1));
        assert!(world.once(2 * PATIENCE_MS), "it has had its time");
    }

    #[test]
    fn what_the_group_keeps_for_a_worker_that_is_dead_for_the_moment_is_left_to_it() {
        let mut world = World::new();
        let mut first = world.member("w1-0");
        agree(&mut *first);
        drop(first);
        let mut asked = Vec::new();
        for second in 0..160 {
            let before = world.look.in_vain;
            assert!(!world.once(second * 1_000));
            if world.look.in_vain > before {
                asked.push(second);
            }
        }
        assert_eq!((world.look.enforced.get(), world.given()), (0, vec![4]));
        assert_eq!(asked, [5, 16, 37, 78, 119], "the group is asked less and less often");
        *world.here.0.lock().unwrap() = (0..TASKS).map(task).collect();
        world.once(160_000);
        assert_eq!(world.look.in_vain, 0, "all is well again");
    }

    #[test]
    fn a_cluster_that_does_not_answer_is_asked_again_later() {
        let mut world = World::new();
        let _members = forgotten(&world);
        world.look.log = Arc::new(Away);
        assert!(!world.once(0));
        let error = world.look.once(START.plus_ms(PATIENCE_MS), &AtomicBool::new(false)).unwrap_err();
        assert_eq!(error.kind, LogErrorKind::Unreachable, "{error}");
        world.look.log = world.cluster.log();
        assert!(!world.once(PATIENCE_MS + 1), "the tasks have their time again");
        assert!(world.once(2 * PATIENCE_MS + 1));
    }
}
