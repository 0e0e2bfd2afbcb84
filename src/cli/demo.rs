//! `millstream demo`: the main job on the embedded log, with a real Redis where one is given.
//!
//! The topology, the engine, the state on disk, the commit and the views are those of production; only the log lies in this
//! process. Products and prices come out of order, late, doubled, and some never find each other.

mod feed;
mod show;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::cli::demo::feed::Generator;
use crate::cli::run::stop_signal;
use crate::cli::worker::{RunningWorker, WorkerParts};
use crate::cli::{Command, Exit, Io};
use crate::log::memory::MemoryCluster;
use crate::metrics::{self, Metric, Metrics};
use crate::model::{Clock, Name, SystemClock, Time};
use crate::runtime::settings::Settings;
use crate::runtime::storage::DiskStorage;
use crate::runtime::task::StateStorage;
use crate::state::rocks::{RocksMemory, RocksShared};
use crate::state::{CacheBudget, directory};
use crate::topology::{self, plan};

pub const COMMAND: Command = Command {
    name: "demo",
    summary: "Runs the product demo on the embedded log",
    about: "Generates products and prices out of order, late, doubled and some never matched; merges them; shows a card, a chart and what happened. \
            With --redis the views go to that Redis and are read back from it; without, it goes on with HTTP alone.",
    examples: ["millstream demo", "millstream demo --redis redis://127.0.0.1:6379 --records 200000 --stay"],
    arguments: |clap| {
        clap.arg(Arg::new("redis").long("redis").value_name("URL").help("A Redis for the views"))
            .arg(
                Arg::new("records")
                    .long("records")
                    .value_name("N")
                    .help("Prices to generate")
                    .default_value("120000")
                    .value_parser(value_parser!(u64).range(1000..=10_000_000)),
            )
            .arg(Arg::new("stay").long("stay").help("Stay up afterwards, until SIGTERM or SIGINT").action(ArgAction::SetTrue))
    },
    run,
};

const TOPOLOGY: &str = include_str!("../../topologies/product.yaml");
const PARTITIONS: i32 = 4;
const PRODUCTS: u64 = 2_000;
/// How long the generated day is, in event time: an hour, so that the chart has candles.
const SPAN_MS: i64 = 60 * 60 * 1000;
/// The demo ends by itself well within a minute, whatever the machine.
const TIME_MAX: Duration = Duration::from_secs(45);

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let (loaded, _) = topology::load(TOPOLOGY, "topologies/product.yaml");
    let Some(loaded) = loaded else {
        io.say("the demo's topology does not pass check; this is a bug");
        return Exit::Unusable;
    };
    let redis = matches.get_one::<String>("redis").map(String::as_str);
    let records = matches.get_one::<u64>("records").copied().unwrap_or(120_000);
    let ended = Scratch::new().and_then(|state| demo(plan(loaded.topology), &state.0, redis, records, matches.get_flag("stay"), io));
    match ended {
        Ok(()) => Exit::Good,
        Err(problem) => {
            io.say(format_args!("demo: {problem}"));
            Exit::Unusable
        }
    }
}

/// The demo's state folder, which goes when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let path = std::env::temp_dir().join(format!("millstream-demo-{}", std::process::id()));
        // Not one that is there: it would be somebody else's.
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn demo(plan: topology::Plan, state: &Path, redis: Option<&str>, records: u64, stay: bool, io: &mut Io<'_>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| error.to_string())?;
    let mut stop = runtime.block_on(async { stop_signal() });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cluster = MemoryCluster::new(clock.clone());
    for topic in ["product.created", "product.price-updated", "product.card"] {
        cluster.create_topic(&name(topic)?, PARTITIONS).map_err(|error| error.to_string())?;
    }
    match redis {
        Some(_) => io.say("demo: the embedded log, and a real Redis for the views"),
        None => io.say("demo: the embedded log; no Redis was given, so there are no views: going on with HTTP alone"),
    }
    let mut plan = plan;
    if redis.is_none() {
        plan.topology.views.clear();
    }
    let metrics = Metrics::new();
    let rocks = RocksShared::new(RocksMemory::default());
    directory::prepare(state, &plan.topology.app).map_err(|error| error.to_string())?;
    let storage = |app: &Name, topic_ids: &_, _: usize| -> Arc<dyn StateStorage> {
        Arc::new(DiskStorage::new(state.to_owned(), app.clone(), BTreeMap::clone(topic_ids), rocks.clone(), CacheBudget::default()))
    };
    let worker = RunningWorker::start(
        WorkerParts {
            plan,
            settings: Settings::in_process(name("demo")?),
            log: cluster.log(),
            storage: &storage,
            clock: clock.clone(),
            metrics: metrics.clone(),
            observers: Vec::new(),
            threads: 2,
            redis_url: redis.map(str::to_owned),
            redis_batch: 500,
            redis_queue_bytes: 64 << 20,
            on_lag: crate::views::queue::OnLag::Continue,
            http_listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            http_tokens: Vec::new(),
            http_advertise: None,
        },
        &runtime,
    )?;
    let began = Instant::now();
    let start = Time(clock.now().0 - SPAN_MS);
    let mut feed = Generator { random: 42, start, cluster: &cluster, sent: 0 };
    let total = records + PRODUCTS;
    let mut progress = Progress { began, shown: None };
    for round in 0..100 {
        feed.round(round, records / 100)?;
        progress.show(io, &metrics, total, false);
        if began.elapsed() > TIME_MAX || *stop.borrow() {
            break;
        }
    }
    let drained = loop {
        let seen = metrics.sum(metrics::RECORDS.name, &[]) + metrics.sum(metrics::BAD_RECORDS.name, &[]);
        progress.show(io, &metrics, feed.sent, false);
        if seen as u64 >= feed.sent && runtime.block_on(worker.is_drained()) {
            break true;
        }
        if began.elapsed() > TIME_MAX
            || runtime.block_on(async { tokio::time::timeout(Duration::from_millis(100), stop.wait_for(|told| *told)).await.is_ok() })
        {
            break false;
        }
    };
    progress.show(io, &metrics, feed.sent, true);
    let views_done = worker.wait_for_views(Duration::from_secs(10));
    let address = worker.address();
    report(io, &metrics, feed.sent, began.elapsed(), drained && views_done);
    let server = format!("http://{address}");
    match redis {
        Some(url) => runtime.block_on(show::views(io, url))?,
        None => runtime.block_on(show::tables(io, &server))?,
    }
    if stay {
        io.data(format!("\nHTTP: curl -s {server}/tables/product/{HERO}\n"));
        io.say("demo: staying up; end it with Ctrl-C");
        let _ = runtime.block_on(stop.wait_for(|told| *told));
    } else {
        io.data(format!("\nHTTP: {server}/tables/product/{HERO} answered until now; `make demo DEMO=stay` keeps it up to try\n"));
    }
    worker.stop(&runtime, Duration::from_secs(10))
}

/// The product whose card and chart are shown.
const HERO: &str = "p00007";

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

/// The live line.
struct Progress {
    began: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn show(&mut self, io: &mut Io<'_>, metrics: &Metrics, total: u64, is_last: bool) {
        let pause = if io.is_colored { Duration::from_millis(200) } else { Duration::from_secs(2) };
        if !is_last && self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let sum = |metric: &Metric| metrics.sum(metric.name, &[]);
        let records = sum(&metrics::RECORDS);
        let rate = records as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        // On a terminal the line is written over; elsewhere each is a line of its own.
        let end = if io.is_colored && !is_last { "\r" } else { "\n" };
        let _ = write!(
            io.err,
            "  {records} of {total} records, {rate:.0}/s, {} placeholders, {} completed, {} stale, {} late {end}",
            sum(&metrics::PLACEHOLDERS),
            sum(&metrics::COMPLETED_ROWS),
            sum(&metrics::STALE_RECORDS),
            sum(&metrics::LATE_RECORDS)
        );
        let _ = io.err.flush();
    }
}

fn report(io: &mut Io<'_>, metrics: &Metrics, sent: u64, took: Duration, is_complete: bool) {
    let sum = |metric: &Metric| metrics.sum(metric.name, &[]);
    let mut text = format!("\nWhat happened, in {:.1} s", took.as_secs_f64());
    if !is_complete {
        text.push_str(" (stopped before the end)");
    }
    text.push('\n');
    let rows: [(&str, i64); 9] = [
        ("records sent", sent as i64),
        ("records merged", sum(&metrics::RECORDS)),
        ("doubled by the producer, dropped", sum(&metrics::DUPLICATE_RECORDS)),
        ("older than what the row had (stale)", sum(&metrics::STALE_RECORDS)),
        ("late, their candle was closed", sum(&metrics::LATE_RECORDS)),
        ("placeholders: a price before its product", sum(&metrics::PLACEHOLDERS)),
        ("placeholders completed by the product", sum(&metrics::COMPLETED_ROWS)),
        ("placeholders still waiting", sum(&metrics::PLACEHOLDERS) - sum(&metrics::COMPLETED_ROWS)),
        ("dead letters (not JSON, late)", sum(&metrics::BAD_RECORDS) + sum(&metrics::LATE_RECORDS)),
    ];
    for (what, count) in rows {
        text.push_str(&format!("  {count:>9}  {what}\n"));
    }
    io.data(text);
}
