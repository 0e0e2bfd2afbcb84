//! Wires a worker to its edges: stream threads, views, HTTP, the other workers. Behind `run` and `demo`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use tracing::{info, warn};

use crate::config::env::{Environment, resident_bytes};
use crate::config::secret::Secret;
use crate::http::{HttpLimits, HttpOptions, Server};
use crate::log::Log;
use crate::metrics::{self, Metrics};
use crate::model::Clock;
use crate::runtime::answers::{ChangeFeed, WorkerAnswers};
use crate::runtime::feed::ViewFeed;
use crate::runtime::observe::Observer;
use crate::runtime::peers::{Me, PeerThread, Peers, refuse_rival};
use crate::runtime::rows::TaskRows;
use crate::runtime::settings::Settings;
use crate::runtime::start::{App, MakeStorage, Parts, StartError, prepare};
use crate::runtime::unassigned::UnassignedThread;
use crate::runtime::watch::Watch;
use crate::runtime::worker::{Crew, ThreadState, Worker};
use crate::topology::Plan;
use crate::views::ViewPublisher;
use crate::views::queue::OnLag;
use crate::views::redis::{RedisSettings, RedisViews};

/// Past it the outcome of a script counts as unknown, and the same piece is sent again.
const REDIS_REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether the views are level.
const VIEWS_LOOK: Duration = Duration::from_millis(50);
/// How long requests that are being answered may still take at the end.
const HTTP_GRACE: Duration = Duration::from_secs(1);

/// What a worker is made of.
pub struct WorkerParts<'a> {
    pub plan: Plan,
    pub settings: Settings,
    pub log: Arc<dyn Log>,
    pub storage: MakeStorage<'a>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// Who wants to know of commits beside views and change feeds.
    pub observers: Vec<Arc<dyn Observer>>,
    pub threads: usize,
    /// `None`: no views.
    pub redis_url: Option<String>,
    pub redis_batch: usize,
    pub redis_queue_bytes: usize,
    pub on_lag: OnLag,
    pub http_listen: SocketAddr,
    pub http_tokens: Vec<Secret>,
    pub http_advertise: Option<String>,
}

/// Why a worker cannot start.
#[derive(Debug)]
pub struct CannotStart {
    /// The cause may go away by itself.
    pub can_heal: bool,
    what: String,
}

impl fmt::Display for CannotStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<StartError> for CannotStart {
    fn from(error: StartError) -> CannotStart {
        CannotStart { can_heal: error.can_heal, what: error.to_string() }
    }
}

impl From<String> for CannotStart {
    fn from(what: String) -> CannotStart {
        CannotStart { can_heal: false, what }
    }
}

impl From<CannotStart> for String {
    fn from(problem: CannotStart) -> String {
        problem.what
    }
}

/// A worker that runs, with its edges.
pub struct RunningWorker {
    worker: Worker,
    views: Option<Arc<dyn ViewPublisher>>,
    server: Server,
    peers: PeerThread,
    watch: Watch,
    unassigned: UnassignedThread,
    others: Arc<Peers>,
}

impl RunningWorker {
    /// Checks the cluster, then starts everything.
    ///
    /// # Errors
    /// [`CannotStart`].
    pub fn start(parts: WorkerParts<'_>, runtime: &tokio::runtime::Runtime) -> Result<RunningWorker, CannotStart> {
        let mut app = prepare(Parts {
            plan: parts.plan.clone(),
            settings: parts.settings.clone(),
            log: parts.log.clone(),
            storage: parts.storage,
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            observers: parts.observers.clone(),
        })?;
        let me = Me {
            app: app.plan.topology.app.clone(),
            worker: app.settings.worker.clone(),
            host: Environment::of_process().host_name.unwrap_or_default(),
            process: std::process::id(),
            life: format!("{:x}-{}", app.clock.now().0, std::process::id()),
        };
        refuse_rival(parts.log.as_ref(), &me, parts.clock.as_ref())?;
        let crew = Crew::new(parts.threads);
        let rows = Arc::new(TaskRows::new(&app, Arc::new(crew.handle()), false));
        let views = start_views(&app, &parts, runtime, rows.clone())?;
        if let Some(views) = &views {
            app.observers.push(Arc::new(ViewFeed::new(views.clone(), &app)));
        }
        let peers = Arc::new(Peers::default());
        let answers = Arc::new(WorkerAnswers::new(&app, rows, crew.handle(), peers.clone(), views.clone()));
        app.observers.push(Arc::new(ChangeFeed::of(&answers)));
        let server = start_http(&parts, runtime, answers)?;
        parts.metrics.before_text(|shown| {
            if let Some(bytes) = resident_bytes() {
                shown.gauge(&metrics::RESIDENT_BYTES, &[]).set(bytes as i64);
            }
        });
        let endpoint = parts.http_advertise.clone().unwrap_or_else(|| server.address().to_string());
        info!(address = %server.address(), "answering over HTTP");
        let tasks = Arc::new(crew.handle());
        let app = Arc::new(app);
        let worker = crew.start(app.clone()).map_err(|fault| fault.to_string())?;
        let others = peers.clone();
        let unassigned = UnassignedThread::start(&app, tasks.clone(), peers.clone()).map_err(|error| error.to_string())?;
        let watch = Watch::start(app).map_err(|error| error.to_string())?;
        let peers = PeerThread::start(parts.log, me, endpoint, tasks, peers, parts.clock).map_err(|error| error.to_string())?;
        Ok(RunningWorker { worker, views, server, peers, watch, unassigned, others })
    }

    /// Where HTTP answers.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Whether it cannot go on: some stream thread has ended, its topics have changed, or another worker has its id.
    pub fn has_ended(&self) -> bool {
        self.worker.has_ended() || self.watch.problem().is_some() || self.rival().is_some()
    }

    fn rival(&self) -> Option<String> {
        self.others.rival(&self.worker.app().settings.worker)
    }

    /// Why it cannot go on, if it cannot.
    pub fn failure(&self) -> Option<String> {
        if let Some(problem) = self.rival().or_else(|| self.watch.problem()) {
            return Some(problem);
        }
        let states = self.worker.handle().states();
        states.into_iter().find_map(|state| if let ThreadState::Failed { why } = state { Some(why) } else { None })
    }

    /// A task that has stopped, and why.
    pub fn stopped(&self) -> Option<String> {
        let stopped = self.worker.handle().stopped().into_iter().next();
        stopped.map(|(task, why)| format!("task {task} has stopped: {why}"))
    }

    /// Whether all inputs are read to their end.
    pub async fn is_drained(&self) -> bool {
        let handle = self.worker.handle();
        let mut has_tasks = false;
        for number in 0..handle.threads() {
            let (sender, receiver) = oneshot::channel();
            let asked = handle.ask_thread(
                number,
                Box::new(move |thread| {
                    let tasks = thread.tasks().count();
                    let drained = thread.is_drained().unwrap_or(false);
                    let _ = sender.send((tasks, drained));
                }),
            );
            match (asked, receiver.await) {
                (Ok(()), Ok((tasks, true))) => has_tasks |= tasks > 0,
                _ => return false,
            }
        }
        has_tasks
    }

    /// Waits until the views show what was committed. True if they do.
    pub fn wait_for_views(&self, within: Duration) -> bool {
        let Some(views) = &self.views else { return true };
        let end = Instant::now() + within;
        loop {
            let shows_all = views.status().iter().all(|view| view.state == "live" && view.at.is_some_and(|at| at >= view.sealed));
            if shows_all || Instant::now() > end {
                return shows_all;
            }
            std::thread::park_timeout(VIEWS_LOOK);
        }
    }

    /// Ends it in order: no more requests, commit and leave the group, let the views finish.
    ///
    /// # Errors
    /// The fault of a stream thread.
    pub fn stop(self, runtime: &tokio::runtime::Runtime, within: Duration) -> Result<(), String> {
        let end = Instant::now() + within;
        let left = || end.saturating_duration_since(Instant::now());
        runtime.block_on(self.server.stop(HTTP_GRACE.min(within / 10)));
        // What comes after the threads gets a quarter of the time that is left.
        let stopped = self.worker.stop(left() * 3 / 4);
        self.watch.stop();
        self.unassigned.stop(left() / 4);
        self.peers.stop(left() / 3);
        if let Some(views) = self.views
            && !views.shutdown(left() / 2)
        {
            warn!("views are behind; they catch up when a worker has their tasks again");
        }
        stopped.map_err(|fault| fault.to_string())
    }
}

fn start_views(
    app: &App,
    parts: &WorkerParts<'_>,
    runtime: &tokio::runtime::Runtime,
    rows: Arc<TaskRows>,
) -> Result<Option<Arc<dyn ViewPublisher>>, String> {
    let topology = &app.plan.topology;
    let Some(url) = parts.redis_url.as_ref().filter(|_| !topology.views.is_empty()) else { return Ok(None) };
    let settings = RedisSettings {
        url: url.clone(),
        batch: parts.redis_batch,
        queue_bytes: parts.redis_queue_bytes,
        on_lag: parts.on_lag,
        reply_timeout: REDIS_REPLY_TIMEOUT,
        worker: app.settings.worker.clone(),
    };
    let views = RedisViews::start(runtime.handle().clone(), topology.app.clone(), &settings, topology.views.clone(), rows, &parts.metrics);
    views.map(|views| Some(Arc::new(views) as Arc<dyn ViewPublisher>)).map_err(|bad| bad.to_string())
}

fn start_http(parts: &WorkerParts<'_>, runtime: &tokio::runtime::Runtime, answers: Arc<WorkerAnswers>) -> Result<Server, String> {
    let (app, listen) = (parts.plan.topology.app.clone(), parts.http_listen);
    let options = HttpOptions { app, listen, tokens: parts.http_tokens.clone(), limits: HttpLimits::default() };
    let started = runtime.block_on(Server::start(options, answers, parts.metrics.clone()));
    started.map_err(|error| format!("cannot listen on {listen} (`http.listen`): {error}; choose another port, or 0 for a free one"))
}
