//! Who else is there: `<app>-workers`, a compacted topic in which each worker says every second where it is and what it has.
//!
//! Routes queries, and refuses a second worker of the same id. A thread of its own writes and reads it; nothing of the data path
//! depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::log::{Input, Log, LogError, Outgoing, ProducerSettings};
use crate::model::{Clock, Headers, Name, Offset, TaskId, Time};
use crate::runtime::background::Background;
use crate::runtime::rows::HasTasks;
use crate::topology::names;

/// How often a worker says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What was said longer ago is not believed any more: a few heartbeats.
const BELIEVED_MS: i64 = 10_000;
/// How long a start waits to see whether a worker of the same id still speaks: two heartbeats and the way.
const RIVAL_WAIT: Duration = Duration::from_millis(2500);
/// How often it is looked meanwhile.
const RIVAL_LOOK: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a worker says of itself. JSON; fields may be added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Presence {
    pub version: u32,
    /// Drawn at each start: tells two lives of one worker apart.
    pub life: String,
    pub host: String,
    pub process: u32,
    /// `host:port` of its HTTP server.
    pub endpoint: String,
    /// Tasks as `<sub-topology>_<partition>`.
    pub tasks: Vec<String>,
    /// Wall clock of the heartbeat, milliseconds.
    pub at: i64,
}

impl Presence {
    /// Whether it was said lately.
    fn is_believed(&self, now: Time) -> bool {
        now.0 - self.at < BELIEVED_MS
    }
}

/// What is known of the other workers.
#[derive(Default)]
pub struct Peers {
    known: Mutex<BTreeMap<String, Presence>>,
    /// Another worker of our id that began before us and still speaks.
    rival: Mutex<Option<Presence>>,
    spoken: Mutex<Spoken>,
}

/// Whether our own word reaches the others.
#[derive(Default)]
struct Spoken {
    /// When Kafka had it last; before the first time, when we began to speak.
    at: Option<Time>,
    /// Kafka has had it once.
    is_heard: bool,
    /// Why the last attempt failed.
    problem: Option<String>,
}

impl Peers {
    /// The endpoint of the worker that has a task, if one has said so lately.
    pub fn owner(&self, task: TaskId, now: Time) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let task = task.to_string();
        let believed = known.values().filter(|presence| presence.is_believed(now) && !presence.endpoint.is_empty());
        believed
            .filter(|presence| presence.tasks.contains(&task))
            .max_by_key(|presence| presence.at)
            .map(|presence| presence.endpoint.clone())
    }

    /// Why this worker must end: another one has its id. [`refuse_rival`] cannot see one that starts at the same moment; then Kafka takes
    /// the membership from whoever joined first, who takes it back, and so on. Both hear each other, and of two the later one ends.
    pub fn rival(&self, me: &Name) -> Option<String> {
        let rival = self.rival.lock().unwrap_or_else(PoisonError::into_inner);
        rival.as_ref().map(|rival| refusal(me, rival))
    }

    /// Why nobody believes any more that we are there: Kafka has not taken our word for a few heartbeats. A worker of which that is true
    /// is out of its group, too, or soon will be.
    pub fn silence(&self, now: Time) -> Option<String> {
        let spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        let silent_ms = now.0 - spoken.at?.0;
        let why = spoken.problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
        (silent_ms >= BELIEVED_MS).then(|| format!("Kafka has not answered for {} s{why}", silent_ms / 1000))
    }

    /// Why this worker is not ready: nobody can know yet that it is there, neither who has a question for it nor a second one of its id.
    pub fn unheard(&self) -> Option<&'static str> {
        let spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        (spoken.at.is_some() && !spoken.is_heard).then_some("the other workers have not been told yet that this one is here")
    }

    fn begin(&self, now: Time) {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).at = Some(now);
    }

    fn spoke(&self, now: Time) {
        *self.spoken.lock().unwrap_or_else(PoisonError::into_inner) = Spoken { at: Some(now), is_heard: true, problem: None };
    }

    fn failed(&self, error: &LogError) {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).problem = Some(error.to_string());
    }

    /// The endpoints of those who have said lately that they have tasks of a sub-topology.
    pub fn owners(&self, subtopology: u32, now: Time) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = format!("{subtopology}_");
        let believed = known.values().filter(|presence| presence.is_believed(now) && !presence.endpoint.is_empty());
        believed
            .filter(|presence| presence.tasks.iter().any(|task| task.starts_with(&prefix)))
            .map(|presence| presence.endpoint.clone())
            .collect()
    }

    /// The tasks of those who have said lately that they are there, as `<sub-topology>_<partition>`.
    pub fn tasks(&self, now: Time) -> BTreeSet<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = known.values().filter(|presence| presence.is_believed(now));
        believed.flat_map(|presence| presence.tasks.iter().cloned()).collect()
    }

    /// How many of those who are there come before a worker, by name: where one of all is to act, it is the first.
    pub fn before(&self, worker: &Name, now: Time) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(name, presence)| name.as_str() < worker.as_str() && presence.is_believed(now)).count()
    }

    pub(super) fn hear(&self, worker: &str, presence: Option<Presence>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match presence {
            Some(presence) => known.insert(worker.to_owned(), presence),
            None => known.remove(worker),
        };
    }
}

/// The thread that speaks and listens.
pub struct PeerThread(Background);

/// Who we are.
#[derive(Clone)]
pub struct Me {
    pub app: Name,
    pub worker: Name,
    pub host: String,
    pub process: u32,
    pub life: String,
}

/// Refuses to start while another worker of our id speaks.
///
/// # Errors
/// What to tell the person who started it. An error of the log is none: then nobody can be asked.
pub fn refuse_rival(log: &dyn Log, me: &Me, clock: &dyn Clock) -> Result<(), String> {
    let topic = names::workers(&me.app);
    let latest = |from: Offset| -> Result<(Option<Presence>, Offset), LogError> {
        let mut found = None;
        let next = read(log, &topic, from, &mut |worker, presence| {
            if worker == me.worker.as_str() {
                found = presence;
            }
        })?;
        Ok((found, next))
    };
    let Ok((Some(rival), next)) = latest(Offset(0)) else { return Ok(()) };
    // Where no process can be seen, not even ourselves, nothing is known.
    let is_dead = rival.host == me.host && program("self").is_some() && program(&rival.process.to_string()).is_none();
    if !rival.is_believed(clock.now()) || is_dead {
        return Ok(());
    }
    // On a busy machine a heartbeat comes late. Of a process that is there it is awaited for as long as its last one is believed.
    let patience = if is_seen_here(&rival, me) { Duration::from_millis(BELIEVED_MS as u64) } else { RIVAL_WAIT };
    let (begun, mut from) = (Instant::now(), next);
    while begun.elapsed() < patience {
        std::thread::park_timeout(RIVAL_LOOK);
        match latest(from) {
            Ok((Some(again), _)) if again.life != me.life => return Err(refusal(&me.worker, &again)),
            Ok((_, next)) => from = next,
            Err(_) => {}
        }
    }
    Ok(())
}

/// Whether a worker is a process of this machine, of the same program as we are. Its number alone says little: it may be somebody else's by
/// now, and in a container ours.
fn is_seen_here(rival: &Presence, me: &Me) -> bool {
    rival.host == me.host
        && rival.process != me.process
        && program(&rival.process.to_string()).is_some_and(|rival| program("self") == Some(rival))
}

/// What a process of this machine is called; none if there is no such process, or it has ended and nobody has asked how (a zombie).
fn program(process: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let has_ended = after.trim_start().starts_with(['Z', 'X']);
    (!has_ended).then(|| before.split_once('(').map(|(_, name)| name.to_owned()))?
}

fn refusal(worker: &Name, rival: &Presence) -> String {
    let Presence { host, process, .. } = rival;
    format!("another worker with the id `{worker}` is running (host {host}, process {process}): give each worker its own `worker.id`")
}

/// Whether a life began before another; any order will do that is the same to both.
fn is_earlier(life: &str, than: &str) -> bool {
    let began = |life: &str| life.split_once('-').and_then(|(at, _)| u64::from_str_radix(at, 16).ok()).unwrap_or(u64::MAX);
    (began(life), life) < (began(than), than)
}

/// Reads what is in the topic from an offset on. Returns where it ended.
fn read(log: &dyn Log, topic: &Name, from: Offset, hear: &mut dyn FnMut(&str, Option<Presence>)) -> Result<Offset, LogError> {
    let mut reader = log.reader()?;
    let (start, end) = reader.bounds(topic, 0, TIMEOUT)?;
    let from = from.max(start);
    if from >= end {
        return Ok(end);
    }
    reader.add_inputs(&[(Input { slot: 0, topic: topic.clone(), partition: 0 }, from)])?;
    let mut batch = Vec::new();
    loop {
        reader.poll(1000, Duration::from_millis(100), &mut batch)?;
        for message in batch.drain(..) {
            let worker = message.key().map(String::from_utf8_lossy);
            let presence = message.value().and_then(|value| serde_json::from_slice(value).ok());
            if let Some(worker) = worker {
                hear(&worker, presence);
            }
        }
        if reader.position(0)?.is_some_and(|position| position >= end) {
            return Ok(end);
        }
    }
}

impl PeerThread {
    /// Starts speaking and listening. `tasks` says what is here.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        log: Arc<dyn Log>,
        me: Me,
        endpoint: String,
        tasks: Arc<dyn HasTasks>,
        peers: Arc<Peers>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<PeerThread> {
        let thread = Background::start("peers", move |stop| {
            peers.begin(clock.now());
            while !stop.load(Ordering::Relaxed) && peers.rival(&me.worker).is_none() {
                if let Err(error) = speak(log.as_ref(), &me, &endpoint, tasks.as_ref(), &peers, clock.as_ref(), stop) {
                    debug!(%error, "the workers' topic is out of reach");
                    peers.failed(&error);
                    std::thread::park_timeout(HEARTBEAT);
                }
            }
        })?;
        Ok(PeerThread(thread))
    }

    /// Takes its word back and ends. While the cluster is away it cannot: the others stop to believe it by themselves.
    pub fn stop(self, within: Duration) {
        self.0.stop(within);
    }
}

fn speak(
    log: &dyn Log,
    me: &Me,
    endpoint: &str,
    tasks: &dyn HasTasks,
    peers: &Peers,
    clock: &dyn Clock,
    stop: &AtomicBool,
) -> Result<(), LogError> {
    let topic = names::workers(&me.app);
    let settings = ProducerSettings { transactional_id: None, transaction_timeout: TIMEOUT, linger: Duration::ZERO };
    let mut producer = log.producer(&settings)?;
    let (handle, _) = producer.topic(&topic)?;
    let mut reader = log.reader()?;
    let (start, end) = reader.bounds(&topic, 0, TIMEOUT)?;
    reader.add_inputs(&[(Input { slot: 0, topic, partition: 0 }, start)])?;
    let none = Headers::default();
    let mut send = |value: Option<&[u8]>| -> Result<(), LogError> {
        let key = Some(me.worker.as_bytes());
        producer.send(Outgoing { topic: handle, partition: 0, key, value, time: clock.now(), keep_time: false, headers: &none })?;
        producer.flush(TIMEOUT).map(drop)
    };
    let mut batch = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let presence = Presence {
            version: 1,
            life: me.life.clone(),
            host: me.host.clone(),
            process: me.process,
            endpoint: endpoint.to_owned(),
            tasks: tasks.tasks().iter().map(ToString::to_string).collect(),
            at: clock.now().0,
        };
        send(serde_json::to_vec(&presence).ok().as_deref())?;
        peers.spoke(clock.now());
        reader.poll(1000, HEARTBEAT, &mut batch)?;
        for message in batch.drain(..) {
            let presence = message.value().and_then(|value| serde_json::from_slice(value).ok());
            let Some(worker) = message.key().map(String::from_utf8_lossy) else { continue };
            if worker != me.worker.as_str() {
                peers.hear(&worker, presence);
                continue;
            }
            // What was said before we came may be the last word of somebody who is dead.
            let is_new = message.offset() >= end.0;
            if let Some(rival) = presence.filter(|presence: &Presence| is_new && is_earlier(&presence.life, &me.life)) {
                *peers.rival.lock().unwrap_or_else(PoisonError::into_inner) = Some(rival);
                return Ok(());
            }
        }
        std::thread::park_timeout(HEARTBEAT);
    }
    send(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::{Call, Fault, MemoryCluster};
    use crate::log::{LogErrorKind, NewTopic};
    use crate::model::ManualClock;

    struct NoTasks;

    impl HasTasks for NoTasks {
        fn tasks(&self) -> Vec<TaskId> {
            Vec::new()
        }
    }

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_worker_whom_kafka_does_not_answer_says_so_until_it_does() {
        let name = |text: &str| Name::parse(text).unwrap();
        let clock = ManualClock::at(Time(1_767_225_600_000));
        let cluster = MemoryCluster::new(Arc::new(clock.clone()));
        let topic = NewTopic { name: name("shop-workers"), partitions: 1, replication: 1, config: Vec::new() };
        cluster.create_topics(&[topic]).unwrap();
        cluster.set_faults(Some(Box::new(|call, _| (call == Call::Flush).then_some(Fault::Before(LogErrorKind::Unreachable)))));
        let me = Me { app: name("shop"), worker: name("w"), host: "h".into(), process: 1, life: "1-1".into() };
        let peers = Arc::new(Peers::default());
        let clocks: Arc<dyn Clock> = Arc::new(clock.clone());
        let thread = PeerThread::start(cluster.log(), me, "h:1".into(), Arc::new(NoTasks), peers.clone(), clocks).unwrap();
        wait_until("the first attempt fails", || peers.spoken.lock().unwrap().problem.is_some());
        clock.advance_ms(BELIEVED_MS - 1);
        assert_eq!(peers.silence(clock.now()), None, "it may be a moment");
        assert!(peers.unheard().is_some(), "nobody knows of it yet");
        clock.advance_ms(1);
        let told = peers.silence(clock.now()).unwrap();
        assert!(told.starts_with("Kafka has not answered for 10 s: "), "{told}");
        cluster.set_faults(None);
        wait_until("an attempt succeeds", || peers.silence(clock.now()).is_none());
        assert_eq!(peers.unheard(), None);
        thread.stop(Duration::from_secs(5));
    }

    #[test]
    fn a_rival_is_seen_where_a_process_of_our_program_has_its_number() {
        let own = std::env::current_exe().unwrap();
        let folder = std::env::temp_dir().join(format!("millstream-rival-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // A process is called by the file that it was started as.
        let alias = folder.join(own.file_name().unwrap());
        std::os::unix::fs::symlink("/bin/sleep", &alias).unwrap();
        let start = |program: &std::path::Path| std::process::Command::new(program).arg("60").spawn().unwrap();
        let (mut same, mut other) = (start(&alias), start(std::path::Path::new("/bin/sleep")));
        let name = |text: &str| Name::parse(text).unwrap();
        let me = Me { app: name("shop"), worker: name("w"), host: "h".into(), process: std::process::id(), life: "1-1".into() };
        let rival = |host: &str, process: u32| {
            let (life, host, endpoint) = ("0-1".to_owned(), host.to_owned(), String::new());
            Presence { version: 1, life, host, process, endpoint, tasks: Vec::new(), at: 0 }
        };
        assert!(is_seen_here(&rival("h", same.id()), &me));
        assert!(!is_seen_here(&rival("elsewhere", same.id()), &me), "its number is of another machine");
        assert!(!is_seen_here(&rival("h", other.id()), &me), "another program has the number now");
        assert!(!is_seen_here(&rival("h", me.process), &me), "that is ourselves, as in every new container");
        same.kill().unwrap();
        other.kill().unwrap();
        wait_until("the process has ended, though nobody has asked how", || program(&same.id().to_string()).is_none());
        assert!(std::path::Path::new(&format!("/proc/{}", same.id())).exists());
        assert!(!is_seen_here(&rival("h", same.id()), &me), "it has ended");
        same.wait().unwrap();
        other.wait().unwrap();
        assert!(!is_seen_here(&rival("h", same.id()), &me), "it is gone");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
