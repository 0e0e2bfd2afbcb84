//! Looks each minute whether the cluster still has the topics that the plan was made for.
//!
//! A group does not notice when an input gets more partitions, or is deleted and made again; its members would go on with what they
//! have, and skip the rest. A thread of its own asks and compares; nothing of the data path waits for it. What the worker cannot go
//! on with ends it, in order: the last commit is made, and the next start says the same until it is mended.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::log::{Admin, LogError, TopicDescription};
use crate::model::Name;
use crate::runtime::start::App;
use crate::topology::names;

/// How often it looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A change is believed when it is seen again after so long: one broker may be behind the others for a moment.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);

/// What a topic is to the app.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Input,
    Output,
    Changelog,
    /// `<app>-tasks`, `<app>-dead-letters`, `<app>-workers`: the next start makes one that is missing.
    Helper,
}

/// How a topic differs from what the plan was made for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Difference {
    Missing,
    /// Another id: its offsets count from 0 again.
    Remade,
    Partitions {
        was: i32,
        is: i32,
    },
}

/// A topic that has changed under a running worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicChange {
    topic: Name,
    role: Role,
    difference: Difference,
}

impl TopicChange {
    /// Whether the worker would skip or misplace records if it went on.
    pub fn is_fatal(&self) -> bool {
        match (self.role, &self.difference) {
            (Role::Input | Role::Changelog, _) | (_, Difference::Missing) => true,
            (Role::Output, Difference::Partitions { was, is }) => is < was,
            (Role::Output | Role::Helper, _) => false,
        }
    }
}

impl fmt::Display for TopicChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TopicChange { topic, role, difference } = self;
        let what = match role {
            Role::Input => "input",
            Role::Output => "output",
            Role::Changelog => "changelog",
            Role::Helper => "internal topic",
        };
        write!(f, "topics have changed while the worker ran: {what} `{topic}` ")?;
        match difference {
            Difference::Missing => write!(f, "does not exist any more: ")?,
            Difference::Remade => write!(f, "was deleted and made again, its offsets count from 0: ")?,
            Difference::Partitions { was, is } => write!(f, "had {was} partitions and has {is}: ")?,
        }
        f.write_str(match (role, difference) {
            (Role::Input, Difference::Missing) => "make it again with as many partitions, or correct the topology file, then start the worker",
            (Role::Input, Difference::Remade) => "start the worker again; it says for each partition where it cannot go on by itself",
            (Role::Input, Difference::Partitions { .. }) => {
                "keys have moved between partitions, so rows would be split; use a new app name, or delete the app's internal topics, group and state folders to start anew"
            }
            (Role::Output, Difference::Missing) => "make it again, or correct the topology file, then start the worker",
            (Role::Output, Difference::Remade) => "it has only what is written from now on",
            (Role::Output, Difference::Partitions { .. }) => "restart the workers, so that they write to all of them",
            (Role::Changelog, _) => "the rows in it are gone; use a new app name, or delete the app's internal topics, group and state folders to start anew",
            (Role::Helper, _) => "start the worker again, which makes what is missing",
        })
    }
}

/// Asks once, and compares.
///
/// # Errors
/// When the cluster does not answer; then nothing is known.
pub fn look(app: &App, admin: &dyn Admin) -> Result<Vec<TopicChange>, LogError> {
    let names: Vec<Name> = app.topics.iter().map(|topic| topic.name.clone()).collect();
    let found = admin.describe(&names, LOOK_TIMEOUT)?;
    let change = |(was, is): (&TopicDescription, Option<TopicDescription>)| {
        let role = role_of(app, &was.name);
        let difference = match is {
            None => Difference::Missing,
            Some(is) if is.id != was.id => Difference::Remade,
            // Another worker adds partitions to the task topic when it finds more tasks.
            Some(is) if is.partitions != was.partitions && role != Role::Helper => {
                Difference::Partitions { was: was.partitions, is: is.partitions }
            }
            Some(_) => return None,
        };
        Some(TopicChange { topic: was.name.clone(), role, difference })
    };
    Ok(app.topics.iter().zip(found).filter_map(change).collect())
}

fn role_of(app: &App, topic: &Name) -> Role {
    let topology = &app.plan.topology;
    let helpers = [names::tasks(&topology.app), names::workers(&topology.app), names::dead_letters(&topology.app)];
    if topology.sources.iter().any(|source| source.topic == *topic) {
        Role::Input
    } else if topology.outputs.iter().any(|output| output.topic == *topic) {
        Role::Output
    } else if helpers.contains(topic) {
        Role::Helper
    } else {
        Role::Changelog
    }
}

/// The thread that looks.
pub struct Watch {
    stop: Arc<AtomicBool>,
    problem: Arc<Mutex<Option<String>>>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// # Errors
    /// When the system gives no thread.
    pub fn start(app: Arc<App>) -> std::io::Result<Watch> {
        let (stop, problem) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let looking = Looking { app, stop: stop.clone(), problem: problem.clone(), told: Vec::new() };
        let thread = Builder::new().name("watch".into()).spawn(move || looking.run())?;
        Ok(Watch { stop, problem, thread })
    }

    /// Why the worker must end.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            warn!("the thread that watches the topics panicked; this is a bug");
        }
    }
}

struct Looking {
    app: Arc<App>,
    stop: Arc<AtomicBool>,
    problem: Arc<Mutex<Option<String>>>,
    /// What was said already and does not end the worker.
    told: Vec<TopicChange>,
}

impl Looking {
    fn run(mut self) {
        while self.wait(LOOK_EVERY) {
            let seen = self.look();
            if seen.is_empty() || !self.wait(LOOK_AGAIN) {
                continue;
            }
            let mut again = self.look();
            again.retain(|change| seen.contains(change) && !self.told.contains(change));
            let (fatal, harmless): (Vec<_>, Vec<_>) = again.into_iter().partition(TopicChange::is_fatal);
            for change in harmless {
                warn!("{change}");
                self.told.push(change);
            }
            if !fatal.is_empty() {
                let lines: Vec<String> = fatal.iter().map(ToString::to_string).collect();
                *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines.join("\n"));
                return;
            }
        }
    }

    fn look(&self) -> Vec<TopicChange> {
        match self.app.log.admin().and_then(|admin| look(&self.app, admin.as_ref())) {
            Ok(changes) => changes,
            Err(error) => {
                // The stream threads say so, too, and louder.
                debug!(%error, "could not look at the topics");
                Vec::new()
            }
        }
    }

    /// Waits, unless it is to stop. False if it is.
    fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::park_timeout(left);
        }
    }
}
