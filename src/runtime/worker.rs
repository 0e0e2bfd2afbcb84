//! A worker: its stream threads, and the way to ask them something.
//!
//! The edges (HTTP, views) never touch a task's state: they send a question to the thread that owns it, which answers between
//! two turns from committed rows. The queue of questions is bounded; when it is full the asker is told so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::model::TaskId;
use crate::runtime::fault::{Fault, Reaction};
use crate::runtime::rows::{Ask, HasTasks};
use crate::runtime::start::App;
use crate::runtime::task::Phase;
use crate::runtime::thread::StreamThread;

/// Questions that may wait for one stream thread; more are refused, and the asker says "try later".
pub const QUESTIONS_MAX: usize = 1024;
/// Questions answered in one turn, so that records get theirs.
const QUESTIONS_PER_TURN_MAX: usize = 256;
/// Longest wait for records in a turn; bounds how long a question waits on an idle thread.
const TURN_WAIT: Duration = Duration::from_millis(5);
/// Back-off between attempts to join, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Something to do on the thread that owns a task.
pub type Question = Box<dyn FnOnce(&mut StreamThread) + Send>;

/// Which thread has which task, as of the last turn in which it changed.
type Owners = Arc<Mutex<BTreeMap<TaskId, Owner>>>;

/// Whose a task is and what it does, as far as edges need to know.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Owner {
    thread: usize,
    phase: Seen,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Restoring,
    Running,
    Stopped(String),
}

impl Seen {
    fn of(phase: &Phase) -> Seen {
        match phase {
            Phase::Restoring(_) => Seen::Restoring,
            Phase::Running => Seen::Running,
            Phase::Stopped { why } => Seen::Stopped(why.clone()),
        }
    }

    fn is(&self, phase: &Phase) -> bool {
        matches!(
            (self, phase),
            (Seen::Restoring, Phase::Restoring(_)) | (Seen::Running, Phase::Running) | (Seen::Stopped(_), Phase::Stopped { .. })
        )
    }
}

/// What a task that is here is doing, for those who would ask it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskSeen {
    Restoring,
    Running,
    Stopped,
}

/// What a thread is doing, for the health page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ThreadState {
    Starting { problem: Option<String> },
    Running,
    Ended,
    Failed { why: String },
}

/// The stream threads of this process.
pub struct Worker {
    app: Arc<App>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), Fault>>>,
    handle: WorkerHandle,
}

/// A way to a worker's threads that can be shared with the edges.
#[derive(Clone)]
pub struct WorkerHandle {
    questions: Vec<SyncSender<Question>>,
    owners: Owners,
    states: Arc<Mutex<Vec<ThreadState>>>,
}

/// Why a question was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No thread of this worker has the task.
    NotHere,
    /// The thread has too many questions already, or has ended.
    Busy,
}

/// Threads that are not started yet, so that what asks them can be made before what they run.
pub struct Crew {
    handle: WorkerHandle,
    receivers: Vec<Receiver<Question>>,
}

impl Crew {
    /// A crew of `count` stream threads.
    pub fn new(count: usize) -> Crew {
        let (questions, receivers) = (0..count).map(|_| sync_channel(QUESTIONS_MAX)).unzip();
        let states = Arc::new(Mutex::new(vec![ThreadState::Starting { problem: None }; count]));
        Crew { handle: WorkerHandle { questions, owners: Owners::default(), states }, receivers }
    }

    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Starts the threads. They join the group by themselves, with back-off while there is no broker.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(self, app: Arc<App>) -> Result<Worker, Fault> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (number, questions) in self.receivers.into_iter().enumerate() {
            let (owners, states) = (self.handle.owners.clone(), self.handle.states.clone());
            let life = Life { app: app.clone(), number, stop: stop.clone(), owners, states, questions };
            let spawned = Builder::new().name(format!("stream-{number}")).spawn(move || life.run());
            threads.push(spawned.map_err(|error| Fault::new(Reaction::Stop, format!("cannot start a stream thread: {error}")))?);
        }
        Ok(Worker { app, stop, threads, handle: self.handle })
    }
}

impl Worker {
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Whether some thread has ended.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Commits, leaves the group, ends the threads. Returns the first fault that ended one.
    ///
    /// # Errors
    /// The fault.
    pub fn stop(self) -> Result<(), Fault> {
        self.stop.store(true, Ordering::SeqCst);
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(Fault::new(Reaction::Stop, "a stream thread panicked; this is a bug")));
            if let (Ok(()), Err(fault)) = (&result, ended) {
                result = Err(fault);
            }
        }
        result
    }
}

impl Ask for WorkerHandle {
    fn ask(&self, task: TaskId, question: Question) -> Result<(), Refused> {
        let owner = self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&task).map(|owner| owner.thread);
        self.ask_thread(owner.ok_or(Refused::NotHere)?, question)
    }
}

impl HasTasks for WorkerHandle {
    fn tasks(&self) -> Vec<TaskId> {
        WorkerHandle::tasks(self)
    }
}

impl WorkerHandle {
    /// Puts a question to a thread by number.
    pub fn ask_thread(&self, thread: usize, question: Question) -> Result<(), Refused> {
        let sender = self.questions.get(thread).ok_or(Refused::NotHere)?;
        sender.try_send(question).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Refused::Busy,
        })
    }

    pub fn threads(&self) -> usize {
        self.questions.len()
    }

    /// The tasks that are here, in whatever phase.
    pub fn tasks(&self) -> Vec<TaskId> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// What a task is doing; `None` if it is not here.
    pub fn phase(&self, task: TaskId) -> Option<TaskSeen> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.get(&task).map(|owner| match owner.phase {
            Seen::Restoring => TaskSeen::Restoring,
            Seen::Running => TaskSeen::Running,
            Seen::Stopped(_) => TaskSeen::Stopped,
        })
    }

    /// Tasks that are being restored.
    pub fn restoring(&self) -> Vec<TaskId> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.iter().filter(|(_, owner)| owner.phase == Seen::Restoring).map(|(id, _)| *id).collect()
    }

    /// Tasks that have stopped, and why.
    pub fn stopped(&self) -> Vec<(TaskId, String)> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let why = |owner: &Owner| if let Seen::Stopped(why) = &owner.phase { Some(why.clone()) } else { None };
        owners.iter().filter_map(|(id, owner)| Some((*id, why(owner)?))).collect()
    }

    pub fn states(&self) -> Vec<ThreadState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One thread's life.
struct Life {
    app: Arc<App>,
    number: usize,
    stop: Arc<AtomicBool>,
    owners: Owners,
    states: Arc<Mutex<Vec<ThreadState>>>,
    questions: Receiver<Question>,
}

impl Life {
    fn run(self) -> Result<(), Fault> {
        let result = self.live();
        self.set_state(match &result {
            Ok(()) => ThreadState::Ended,
            Err(fault) => ThreadState::Failed { why: fault.what.clone() },
        });
        if let Err(fault) = &result {
            error!(thread = self.number, "{fault}");
        }
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| owner.thread != self.number);
        result
    }

    fn live(&self) -> Result<(), Fault> {
        let Some(mut thread) = self.join()? else { return Ok(()) };
        self.set_state(ThreadState::Running);
        let mut known: Vec<(TaskId, Seen)> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            self.answer(&mut thread);
            thread.turn(TURN_WAIT)?;
            let is_known = known.len() == thread.tasks().count()
                && thread.tasks().zip(&known).all(|(task, (id, seen))| task.id == *id && seen.is(&task.phase));
            if !is_known {
                known = thread.tasks().map(|task| (task.id, Seen::of(&task.phase))).collect();
                let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
                owners.retain(|_, owner| owner.thread != self.number);
                owners.extend(known.iter().map(|(id, phase)| (*id, Owner { thread: self.number, phase: phase.clone() })));
            }
        }
        info!(thread = self.number, "stopping: committing and leaving the group");
        thread.shutdown()
    }

    /// Makes the thread, again and again while the cluster is away.
    fn join(&self) -> Result<Option<StreamThread>, Fault> {
        let mut pause = RETRY_FIRST;
        while !self.stop.load(Ordering::Relaxed) {
            match StreamThread::start(self.app.clone(), self.number) {
                Ok(thread) => return Ok(Some(thread)),
                Err(fault) if fault.reaction == Reaction::Stop => return Err(fault),
                Err(fault) => {
                    warn!(thread = self.number, "{fault}; trying again in {pause:?}");
                    self.set_state(ThreadState::Starting { problem: Some(fault.what) });
                    std::thread::park_timeout(pause);
                    pause = (pause * 2).min(RETRY_LAST);
                }
            }
        }
        Ok(None)
    }

    fn answer(&self, thread: &mut StreamThread) {
        for _ in 0..QUESTIONS_PER_TURN_MAX {
            match self.questions.try_recv() {
                Ok(question) => question(thread),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn set_state(&self, state: ThreadState) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = states.get_mut(self.number) {
            *slot = state;
        }
    }
}
