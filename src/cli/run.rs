//! `millstream run`: a worker. Starts the stream threads and the edges, and ends them in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::cli::{Command, Exit, Io, load, one_topology};
use crate::config::env::Environment;
use crate::config::render::render;
use crate::config::worker::{Guarantee, LogFormat, OnLag, Sources, WorkerConfig, load as load_config, show};
use crate::http::{HttpLimits, HttpOptions, Server};
use crate::log::Log;
use crate::log::kafka::KafkaLog;
use crate::metrics::{self, Metrics};
use crate::model::{Name, SystemClock};
use crate::runtime::answers::{ChangeFeed, WorkerAnswers};
use crate::runtime::feed::ViewFeed;
use crate::runtime::peers::{Me, PeerThread, Peers, refuse_rival};
use crate::runtime::rows::TaskRows;
use crate::runtime::settings::{Guarantee as RunGuarantee, Settings};
use crate::runtime::start::{App, Parts, StartError, prepare};
use crate::runtime::storage::DiskStorage;
use crate::runtime::task::StateStorage;
use crate::runtime::worker::{Crew, ThreadState, Worker, WorkerHandle};
use crate::state::CacheBudget;
use crate::state::rocks::{RocksMemory, RocksShared};
use crate::topology::{Plan, plan};
use crate::views::ViewPublisher;
use crate::views::redis::{RedisSettings, RedisViews};

pub const COMMAND: Command = Command {
    name: "run",
    summary: "Runs a worker",
    about: "Joins the consumer group of the app, folds its share of the partitions, publishes views and answers queries until SIGTERM or SIGINT: then it \
            commits, leaves the group and exits 0. Settings: defaults, then --config, then variables MILLSTREAM_*, then --set.",
    examples: [
        "millstream run topologies/product.yaml --set kafka.brokers=127.0.0.1:9092 --set redis.url=redis://127.0.0.1:6379",
        "millstream run topologies/product.yaml --config config/local.yaml --print-config",
    ],
    arguments: |clap| {
        clap.arg(one_topology())
            .arg(Arg::new("config").long("config").value_name("FILE").help("The worker file"))
            .arg(
                Arg::new("set")
                    .long("set")
                    .value_name("NAME=VALUE")
                    .help("One setting, such as kafka.brokers=127.0.0.1:9092")
                    .action(ArgAction::Append),
            )
            .arg(
                Arg::new("print-config")
                    .long("print-config")
                    .help("Print the settings as they hold, secrets masked, and exit")
                    .action(ArgAction::SetTrue),
            )
            .arg(
                Arg::new("until-drained")
                    .long("until-drained")
                    .help("Exit 0 when no input has anything left, with a line of counts on stdout")
                    .action(ArgAction::SetTrue),
            )
    },
    run,
};

/// Back-off between attempts to start while the cluster is away, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// Past it the outcome of a script counts as unknown, and the same piece is sent again.
const REDIS_REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests that are being answered may still take at the end.
const HTTP_GRACE: Duration = Duration::from_secs(1);
/// How often `--until-drained` asks for the lag.
const DRAINED_CHECK: Duration = Duration::from_millis(200);

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let path = matches.get_one::<String>("topology").map_or("", String::as_str);
    let loaded = match load(path, io) {
        Ok(loaded) => loaded,
        Err(exit) => return if exit == Exit::Problems { Exit::Unusable } else { exit },
    };
    let (config, shown) = match configure(matches, io) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if matches.get_flag("print-config") {
        io.data(shown);
        return Exit::Good;
    }
    start_logging(&config, io.is_colored);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("edge").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            io.say(format_args!("cannot start the runtime of the edges: {error}"));
            return Exit::Unusable;
        }
    };
    let stop = runtime.block_on(async { stop_signal() });
    let started = Instant::now();
    match serve(plan(loaded.topology), &config, &runtime, stop, matches.get_flag("until-drained")) {
        Ok(metrics) => {
            if matches.get_flag("until-drained") {
                io.data(counts(&metrics, started.elapsed()));
            }
            Exit::Good
        }
        Err(problem) => {
            io.say(format_args!("{problem}"));
            Exit::Unusable
        }
    }
}

fn configure(matches: &ArgMatches, io: &mut Io<'_>) -> Result<(WorkerConfig, String), Exit> {
    let file = match matches.get_one::<String>("config") {
        None => None,
        Some(path) => Some((path.as_str(), super::read(path, io)?)),
    };
    let set: Vec<String> = matches.get_many::<String>("set").into_iter().flatten().cloned().collect();
    let loaded =
        load_config(Sources { file: file.as_ref().map(|(name, text)| (*name, text.as_str())), set: &set, environment: &io.environment });
    for problems in &loaded.problems {
        let text = render(problems, io.look());
        let _ = io.err.write_all(text.as_bytes());
    }
    let shown = show(&loaded);
    loaded.config.map(|config| (config, shown)).ok_or(Exit::Unusable)
}

fn start_logging(config: &WorkerConfig, is_colored: bool) {
    let filter = tracing_subscriber::EnvFilter::new(config.log.level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_colored).with_target(false);
    // A logger that is set already (tests) stays.
    let _ = match config.log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}

/// Turns true at SIGTERM or SIGINT.
fn stop_signal() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(mut signals) => {
                let sender = sender.clone();
                tokio::spawn(async move {
                    signals.recv().await;
                    let _ = sender.send(true);
                });
            }
            Err(error) => warn!(%error, "cannot listen for signals"),
        }
    }
    receiver
}

/// Runs until told to stop. The error is for the person who started it.
fn serve(
    plan: Plan,
    config: &WorkerConfig,
    runtime: &tokio::runtime::Runtime,
    stop: watch::Receiver<bool>,
    until_drained: bool,
) -> Result<Arc<Metrics>, String> {
    let log: Arc<dyn Log> = Arc::new(KafkaLog::new(kafka_settings(config)).map_err(|error| error.to_string())?);
    let metrics = Metrics::new();
    let Some(mut app) = prepare_app(plan, config, &log, &metrics, &stop)? else { return Ok(metrics) };
    let crew = Crew::new(config.worker.threads);
    let rows = Arc::new(TaskRows::new(&app, Arc::new(crew.handle()), false));
    let views = start_views(&app, config, runtime, rows.clone(), &metrics)?;
    if let Some(views) = &views {
        app.observers.push(Arc::new(ViewFeed::new(views.clone(), app.topic_ids.clone())));
    }
    let me = Me {
        app: app.plan.topology.app.clone(),
        worker: config.worker.id.clone(),
        host: Environment::of_process().host_name.unwrap_or_default(),
        process: std::process::id(),
        life: format!("{:x}-{}", app.clock.now().0, std::process::id()),
    };
    refuse_rival(log.as_ref(), &me, &SystemClock)?;
    let peers = Arc::new(Peers::default());
    let answers = Arc::new(WorkerAnswers::new(&app, rows, crew.handle(), peers.clone(), views.clone()));
    app.observers.push(Arc::new(ChangeFeed::of(&answers)));
    let server = start_http(config, runtime, answers, &metrics)?;
    let endpoint = config.http.advertise.clone().unwrap_or_else(|| server.address().to_string());
    info!(address = %server.address(), "answering over HTTP");
    let app = Arc::new(app);
    let tasks = Arc::new(crew.handle());
    let worker = crew.start(app.clone()).map_err(|fault| fault.to_string())?;
    let peer_thread = PeerThread::start(log, me, endpoint, tasks, peers, app.clock.clone()).map_err(|error| error.to_string())?;
    let failed = wait(&worker, runtime, stop, until_drained);
    info!("stopping");
    runtime.block_on(server.stop(HTTP_GRACE));
    let stopped = worker.stop();
    peer_thread.stop();
    if let Some(views) = views
        && !views.shutdown(config.worker.shutdown_timeout / 3)
    {
        warn!("views are behind; they catch up when a worker has their tasks again");
    }
    match (failed, stopped) {
        (_, Err(fault)) => Err(fault.to_string()),
        (Some(why), Ok(())) => Err(why),
        (None, Ok(())) => Ok(metrics),
    }
}

fn start_http(
    config: &WorkerConfig,
    runtime: &tokio::runtime::Runtime,
    answers: Arc<WorkerAnswers>,
    metrics: &Arc<Metrics>,
) -> Result<Server, String> {
    let options = HttpOptions { listen: config.http.listen, tokens: config.http.tokens.clone(), limits: HttpLimits::default() };
    let started = runtime.block_on(Server::start(options, answers, metrics.clone()));
    started.map_err(|error| {
        format!("cannot listen on {} (`http.listen`): {error}; choose another port, or 0 for a free one", config.http.listen)
    })
}

fn prepare_app(
    plan: Plan,
    config: &WorkerConfig,
    log: &Arc<dyn Log>,
    metrics: &Arc<Metrics>,
    stop: &watch::Receiver<bool>,
) -> Result<Option<App>, String> {
    let shared = RocksShared::new(RocksMemory {
        block_cache: config.memory.block_cache as usize,
        write_buffers: config.memory.write_buffers as usize,
        ..RocksMemory::default()
    });
    let mut pause = RETRY_FIRST;
    while !*stop.borrow() {
        let parts = Parts {
            plan: plan.clone(),
            settings: settings(config),
            log: log.clone(),
            storage: &|app, topic_ids, tasks| disk(config, app, topic_ids, tasks, &shared),
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
            observers: Vec::new(),
        };
        match prepare(parts) {
            Ok(app) => return Ok(Some(app)),
            Err(StartError { can_heal: false, problems }) => return Err(problems.join("\n")),
            Err(problem) => {
                warn!("{problem}; trying again in {pause:?}");
                std::thread::park_timeout(pause);
                pause = (pause * 2).min(RETRY_LAST);
            }
        }
    }
    Ok(None)
}

fn disk(
    config: &WorkerConfig,
    app: &Name,
    topic_ids: &BTreeMap<Name, String>,
    tasks: usize,
    shared: &RocksShared,
) -> Arc<dyn StateStorage> {
    let row_cache = config.memory.row_cache as usize / tasks.max(1);
    let budget = CacheBudget { cache_bytes: row_cache, dirty_bytes: row_cache / 2, ..CacheBudget::default() };
    let state_dir: PathBuf = config.worker.state_dir.clone();
    Arc::new(DiskStorage::new(state_dir, app.clone(), topic_ids.clone(), shared.clone(), budget))
}

fn settings(config: &WorkerConfig) -> Settings {
    Settings {
        worker: config.worker.id.clone(),
        guarantee: match config.worker.guarantee {
            Guarantee::ExactlyOnce => RunGuarantee::ExactlyOnce,
            Guarantee::AtLeastOnce => RunGuarantee::AtLeastOnce,
        },
        commit_interval: config.worker.commit_interval,
        session_timeout: config.kafka.session_timeout,
        transaction_timeout: config.kafka.transaction_timeout,
        replication: config.kafka.replication,
        ..Settings::in_process(config.worker.id.clone())
    }
}

fn kafka_settings(config: &WorkerConfig) -> crate::log::kafka::KafkaSettings {
    use crate::config::worker::GroupProtocol as Written;
    use crate::log::kafka::{GroupProtocol, KafkaSettings, Mechanism, Protocol, Security};
    let security = &config.kafka.security;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    KafkaSettings {
        security: Security {
            protocol: match security.protocol {
                "ssl" => Protocol::Ssl,
                "sasl_plaintext" => Protocol::SaslPlaintext,
                "sasl_ssl" => Protocol::SaslSsl,
                _ => Protocol::Plaintext,
            },
            mechanism: security.sasl.as_ref().map(|sasl| match sasl.mechanism {
                "scram-sha-256" => Mechanism::ScramSha256,
                "scram-sha-512" => Mechanism::ScramSha512,
                _ => Mechanism::Plain,
            }),
            username: security.sasl.as_ref().map(|sasl| sasl.username.clone()),
            password: security.sasl.as_ref().map(|sasl| sasl.password.expose().to_owned()),
            ca: path(&security.ca),
            certificate: path(&security.certificate),
            key: path(&security.key),
            key_password: security.key_password.as_ref().map(|password| password.expose().to_owned()),
            allow_insecure: security.allow_insecure,
        },
        group_protocol: match config.kafka.group_protocol {
            Written::Classic => GroupProtocol::Classic,
            Written::Consumer => GroupProtocol::Consumer,
        },
        client: config.kafka.client.clone(),
        client_buffers: config.memory.client_buffers,
        threads: config.worker.threads,
        ..KafkaSettings::new(config.kafka.brokers.clone(), config.worker.id.to_string())
    }
}

fn start_views(
    app: &App,
    config: &WorkerConfig,
    runtime: &tokio::runtime::Runtime,
    rows: Arc<TaskRows>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<dyn ViewPublisher>>, String> {
    let topology = &app.plan.topology;
    if topology.views.is_empty() {
        return Ok(None);
    }
    let settings = RedisSettings {
        url: config.redis.url.expose().to_owned(),
        batch: config.redis.batch,
        queue_bytes: config.redis.queue_bytes as usize,
        on_lag: match config.worker.on_lag {
            OnLag::Continue => crate::views::queue::OnLag::Continue,
            OnLag::Pause => crate::views::queue::OnLag::Pause,
        },
        reply_timeout: REDIS_REPLY_TIMEOUT,
        worker: config.worker.id.clone(),
    };
    let views = RedisViews::start(runtime.handle().clone(), topology.app.clone(), &settings, topology.views.clone(), rows, metrics);
    views.map(|views| Some(Arc::new(views) as Arc<dyn ViewPublisher>)).map_err(|bad| bad.to_string())
}

/// Waits for a signal, for a thread that ended by itself, or until all is drained. Returns why it must not go on.
fn wait(worker: &Worker, runtime: &tokio::runtime::Runtime, mut stop: watch::Receiver<bool>, until_drained: bool) -> Option<String> {
    let handle = worker.handle();
    let is_over =
        || handle.states().iter().find_map(|state| if let ThreadState::Failed { why } = state { Some(why.clone()) } else { None });
    let mut drained_before = false;
    loop {
        let told = runtime.block_on(async { tokio::time::timeout(DRAINED_CHECK, stop.wait_for(|told| *told)).await.is_ok() });
        if told {
            return None;
        }
        if worker.has_ended() {
            return is_over();
        }
        if until_drained {
            // Twice in a row: the last records must be committed too.
            let drained = runtime.block_on(is_drained(&handle));
            if drained && drained_before {
                return None;
            }
            drained_before = drained;
        }
    }
}

async fn is_drained(handle: &WorkerHandle) -> bool {
    let mut all = true;
    for number in 0..handle.threads() {
        let (sender, receiver) = futures::channel::oneshot::channel();
        let asked = handle.ask_thread(
            number,
            Box::new(move |thread| {
                let has_tasks = thread.tasks().count() > 0;
                let drained = has_tasks && thread.is_settled() && thread.lag().is_ok_and(|lag| lag == 0);
                let _ = sender.send(drained);
            }),
        );
        all &= asked.is_ok() && receiver.await.unwrap_or(false);
    }
    all
}

/// What was done, as one line of JSON.
fn counts(metrics: &Metrics, took: Duration) -> String {
    let sum = |metric: &metrics::Metric| metrics.sum(metric.name, &[]);
    let counts = serde_json::json!({
        "records": sum(&metrics::RECORDS),
        "bad_records": sum(&metrics::BAD_RECORDS),
        "stale_records": sum(&metrics::STALE_RECORDS),
        "placeholders": sum(&metrics::PLACEHOLDERS),
        "completed_rows": sum(&metrics::COMPLETED_ROWS),
        "seconds": took.as_secs_f64(),
    });
    if sum(&metrics::RECORDS) == 0 {
        error!("no record was read");
    }
    format!("{counts}\n")
}
