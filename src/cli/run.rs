//! `millstream run`: a worker. Starts the stream threads and the edges, and ends them in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::bar::RestoreBar;
use crate::cli::journal::Journal;
use crate::cli::worker::{RunningWorker, WorkerParts};
use crate::cli::{Command, Exit, Io, load, one_topology};
use crate::config::render::render;
use crate::config::worker::{Guarantee, LogFormat, OnLag, Sources, WorkerConfig, load as load_config, show};
use crate::log::Log;
use crate::log::kafka::KafkaLog;
use crate::metrics::{self, Metrics};
use crate::model::{Name, SystemClock};
use crate::runtime::observe::Observer;
use crate::runtime::settings::{Guarantee as RunGuarantee, Settings};
use crate::runtime::start::MakeStorage;
use crate::runtime::storage::DiskStorage;
use crate::runtime::task::StateStorage;
use crate::state::CacheBudget;
use crate::state::directory;
use crate::state::rocks::{RocksMemory, RocksShared};
use crate::topology::{Plan, plan};

pub const COMMAND: Command = Command {
    name: "run",
    summary: "Runs a worker",
    about: "Joins the consumer group of the app, folds its share of the partitions, publishes views and answers queries until SIGTERM or SIGINT: then it \
            commits, leaves the group and exits 0. Settings: defaults, then --config, then variables MILLSTREAM_*, then --set.",
    examples: [
        "millstream run topologies/product.yaml --set kafka.brokers=127.0.0.1:9092 --set worker.id=w1",
        "millstream run topologies/product.yaml --config config/local.yaml --print-config",
    ],
    arguments: |clap| {
        settings_arguments(clap.arg(one_topology()))
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

/// The arguments that say where an app runs.
pub fn settings_arguments(clap: clap::Command) -> clap::Command {
    clap.arg(Arg::new("config").long("config").value_name("FILE").help("The worker file")).arg(
        Arg::new("set")
            .long("set")
            .value_name("NAME=VALUE")
            .help("One setting, such as kafka.brokers=127.0.0.1:9092")
            .action(ArgAction::Append),
    )
}

/// Back-off between attempts to start while the cluster is away, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// So much before its time is over the process is ended, to be gone when it is.
const END_MARGIN: Duration = Duration::from_millis(200);
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
    let bar = RestoreBar::on_stderr();
    start_logging(&config, io.is_colored, &bar);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("edge").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            io.say(format_args!("cannot start the runtime of the edges: {error}"));
            return Exit::Unusable;
        }
    };
    let stop = runtime.block_on(async { stop_signal() });
    runtime.spawn(end_in_time(stop.clone(), config.worker.shutdown_timeout));
    let journal = matches.get_flag("until-drained").then(|| Arc::new(Journal::start()));
    match serve(plan(loaded.topology), &config, &runtime, stop, journal.clone(), &bar) {
        Ok(metrics) => {
            if let Some(journal) = journal {
                io.data(journal.line(&metrics));
            }
            Exit::Good
        }
        Err(problem) => {
            io.say(format_args!("{problem}"));
            Exit::Unusable
        }
    }
}

/// The worker's settings: as they hold, and as text. Problems are said.
pub fn configure(matches: &ArgMatches, io: &mut Io<'_>) -> Result<(WorkerConfig, String), Exit> {
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

fn start_logging(config: &WorkerConfig, is_colored: bool, bar: &RestoreBar) {
    // What the client says comes through our own contexts. The wrapper's own lines are about itself: it closes a consumer that
    // is closed already when it is dropped, and calls that an error.
    let filter = tracing_subscriber::EnvFilter::new(format!("{},rdkafka=off", config.log.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(bar.clone()).with_ansi(is_colored).with_target(false);
    // A logger that is set already (tests) stays.
    let _ = match config.log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}

/// Turns true at SIGTERM or SIGINT.
pub fn stop_signal() -> watch::Receiver<bool> {
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

/// Ends the process when the time to shut down is over, whatever it still waits for (a cluster that does not answer a question of the
/// start, say). State and log are made to be left at any moment.
async fn end_in_time(mut stop: watch::Receiver<bool>, within: Duration) {
    if stop.wait_for(|told| *told).await.is_ok() {
        tokio::time::sleep(within.saturating_sub(END_MARGIN)).await;
        warn!(?within, "`worker.shutdown_timeout` is over; ending without waiting any longer");
        std::process::exit(0);
    }
}

/// Runs until told to stop. The error is for the person who started it.
fn serve(
    plan: Plan,
    config: &WorkerConfig,
    runtime: &tokio::runtime::Runtime,
    stop: watch::Receiver<bool>,
    journal: Option<Arc<Journal>>,
    bar: &RestoreBar,
) -> Result<Arc<Metrics>, String> {
    let until_drained = journal.is_some();
    let observers: Vec<Arc<dyn Observer>> = journal.into_iter().map(|journal| journal as Arc<dyn Observer>).collect();
    let log: Arc<dyn Log> = Arc::new(KafkaLog::new(kafka_settings(config)).map_err(|error| error.to_string())?);
    let metrics = Metrics::new();
    let shared = RocksShared::new(RocksMemory {
        block_cache: config.memory.block_cache as usize,
        write_buffers: config.memory.write_buffers as usize,
        ..RocksMemory::default()
    });
    show_rocks(&metrics, shared.clone());
    let storage = |app: &Name, topic_ids: &BTreeMap<Name, String>, tasks: usize| disk(config, app, topic_ids, tasks, &shared);
    directory::prepare(&config.worker.state_dir, &plan.topology.app).map_err(|error| error.to_string())?;
    let mut pause = RETRY_FIRST;
    let worker = loop {
        let parts = WorkerParts { observers: observers.clone(), ..worker_parts(&plan, config, &log, &metrics, &storage) };
        match RunningWorker::start(parts, runtime) {
            Ok(worker) => break worker,
            Err(problem) if !problem.can_heal => return Err(problem.to_string()),
            Err(problem) => warn!("{problem}; trying again in {pause:?}"),
        }
        let mut told = stop.clone();
        if runtime.block_on(async { tokio::time::timeout(pause, told.wait_for(|told| *told)).await.is_ok() }) {
            return Ok(metrics);
        }
        pause = (pause * 2).min(RETRY_LAST);
    };
    let look = || {
        if !bar.is_hidden() {
            bar.show(metrics.sum(metrics::RESTORE_LEFT.name, &[]).unsigned_abs());
        }
    };
    let failed = wait(&worker, runtime, stop, until_drained, &look);
    bar.show(0);
    info!("stopping");
    let stopped = worker.stop(runtime, config.worker.shutdown_timeout);
    match (failed, stopped) {
        (_, Err(why)) | (Some(why), Ok(())) => Err(why),
        (None, Ok(())) => Ok(metrics),
    }
}

/// Has each scrape ask RocksDB.
pub fn show_rocks(metrics: &Metrics, shared: RocksShared) {
    metrics.before_text(move |shown| {
        let figures = shared.figures();
        shown.set_counter(&metrics::ROCKSDB_READS, &[], figures.reads);
        shown.set_counter(&metrics::ROCKSDB_CACHE_HITS, &[], figures.cache_hits);
        shown.set_counter(&metrics::ROCKSDB_CACHE_MISSES, &[], figures.cache_misses);
        shown.set_counter(&metrics::ROCKSDB_STALL_TIME, &[], figures.stall_micros / 1000);
        shown.gauge(&metrics::ROCKSDB_CACHE_BYTES, &[]).set(figures.cache_bytes as i64);
        shown.gauge(&metrics::ROCKSDB_MEMTABLE_BYTES, &[]).set(figures.memtable_bytes as i64);
    });
}

fn worker_parts<'a>(
    plan: &Plan,
    config: &WorkerConfig,
    log: &Arc<dyn Log>,
    metrics: &Arc<Metrics>,
    storage: MakeStorage<'a>,
) -> WorkerParts<'a> {
    WorkerParts {
        plan: plan.clone(),
        settings: settings(config),
        log: log.clone(),
        storage,
        clock: Arc::new(SystemClock),
        metrics: metrics.clone(),
        observers: Vec::new(),
        threads: config.worker.threads,
        redis_url: Some(config.redis.url.expose().to_owned()),
        redis_batch: config.redis.batch,
        redis_queue_bytes: config.redis.queue_bytes as usize,
        on_lag: match config.worker.on_lag {
            OnLag::Continue => crate::views::queue::OnLag::Continue,
            OnLag::Pause => crate::views::queue::OnLag::Pause,
        },
        http_listen: config.http.listen,
        http_tokens: config.http.tokens.clone(),
        http_advertise: config.http.advertise.clone(),
    }
}

fn disk(
    config: &WorkerConfig,
    app: &Name,
    topic_ids: &BTreeMap<Name, String>,
    tasks: usize,
    shared: &RocksShared,
) -> Arc<dyn StateStorage> {
    let row_cache = config.memory.row_cache as usize / tasks.max(1);
    // Fewer make more and smaller files: a worker with 3.4 million rows to restore ran after 8.3 s with 16 MiB, after 6.3 s with 32.
    let restore_bytes = (config.memory.write_buffers as usize).min(CacheBudget::default().restore_bytes);
    let budget = CacheBudget { cache_bytes: row_cache, dirty_bytes: row_cache / 2, restore_bytes, ..CacheBudget::default() };
    let state_dir: PathBuf = config.worker.state_dir.clone();
    Arc::new(DiskStorage::new(state_dir, app.clone(), topic_ids.clone(), shared.clone(), budget))
}

/// What the runtime needs of the settings.
pub fn settings(config: &WorkerConfig) -> Settings {
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

/// What the client of Kafka needs of the settings.
pub fn kafka_settings(config: &WorkerConfig) -> crate::log::kafka::KafkaSettings {
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

/// Waits for a signal, for a thread that ended by itself, or until all is drained. Returns why it must not go on.
fn wait(
    worker: &RunningWorker,
    runtime: &tokio::runtime::Runtime,
    mut stop: watch::Receiver<bool>,
    until_drained: bool,
    look: &dyn Fn(),
) -> Option<String> {
    let mut drained_before = false;
    loop {
        look();
        let told = runtime.block_on(async { tokio::time::timeout(DRAINED_CHECK, stop.wait_for(|told| *told)).await.is_ok() });
        if told {
            return None;
        }
        if worker.has_ended() {
            return worker.failure();
        }
        if until_drained {
            if let Some(why) = worker.stopped() {
                return Some(why);
            }
            // Twice in a row: the last records must be committed too.
            let drained = runtime.block_on(worker.is_drained());
            if drained && drained_before {
                return None;
            }
            drained_before = drained;
        }
    }
}
