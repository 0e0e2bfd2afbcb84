//! `millstream demo`: the main job on the embedded log, with a real Redis where one is given.
//!
//! The topology, the engine, the commit and the views are those of production; only the log lies in this process. Products
//! and prices come out of order, late, doubled, and some never find each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::cli::run::stop_signal;
use crate::cli::worker::{RunningWorker, WorkerParts};
use crate::cli::{Command, Exit, Io};
use crate::log::memory::MemoryCluster;
use crate::log::partitioner::partition_of;
use crate::metrics::{self, Metric, Metrics};
use crate::model::{Clock, Headers, Name, SystemClock, Time};
use crate::runtime::settings::Settings;
use crate::state::CacheBudget;
use crate::testkit::MemoryStateStorage;
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
/// Products that are priced but never created.
const UNKNOWN: u64 = 40;
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
    match demo(plan(loaded.topology), redis, records, matches.get_flag("stay"), io) {
        Ok(()) => Exit::Good,
        Err(problem) => {
            io.say(format_args!("demo: {problem}"));
            Exit::Unusable
        }
    }
}

fn demo(plan: topology::Plan, redis: Option<&str>, records: u64, stay: bool, io: &mut Io<'_>) -> Result<(), String> {
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
    let storage = Arc::new(MemoryStateStorage::new(CacheBudget::default()));
    let worker = RunningWorker::start(
        WorkerParts {
            plan,
            settings: Settings::in_process(name("demo")?),
            log: cluster.log(),
            storage: &move |_, _, _| storage.clone(),
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
    if let Some(url) = redis {
        runtime.block_on(show_views(io, url))?;
    }
    io.data(format!("\nHTTP: http://{address}/tables/product/{HERO}  (try: curl -s http://{address}/tables/product/{HERO})\n"));
    if stay {
        io.say("demo: staying up; end it with Ctrl-C");
        let _ = runtime.block_on(stop.wait_for(|told| *told));
    }
    worker.stop(&runtime, Duration::from_secs(10))
}

/// The product whose card and chart are shown.
const HERO: &str = "p00007";

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

/// Makes products and prices as a real system does: not in order.
struct Generator<'a> {
    random: u64,
    start: Time,
    cluster: &'a MemoryCluster,
    sent: u64,
}

impl Generator<'_> {
    /// A step of xorshift64: the demo is the same each time.
    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// One of a hundred rounds.
    fn round(&mut self, round: u64, prices: u64) -> Result<(), String> {
        let now = self.start.0 + (round as i64) * SPAN_MS / 100;
        for _ in 0..prices {
            // Every tenth price is of the hero, one in 500 of a product that nobody creates.
            let product = match self.next(500) {
                0 => PRODUCTS + self.next(UNKNOWN),
                n if n < 50 => 7,
                _ => self.next(PRODUCTS),
            };
            // One in 20 comes late, by up to 90 s; one in 200 by ten minutes, after its window's grace.
            let late = match self.next(200) {
                0 => 600_000,
                n if n < 10 => self.next(90_000) as i64,
                _ => 0,
            };
            let jitter = self.next((SPAN_MS / 100) as u64) as i64;
            let at = now + jitter - late;
            let wave = ((at - self.start.0) as f64 / SPAN_MS as f64 * 9.0).sin() * 300.0;
            let cents = 2_000 + (product * 37 % 5_000) as i64 + wave as i64 + self.next(120) as i64;
            let id = self.sent;
            self.price(id, product, cents, at)?;
            if self.next(50) == 0 {
                self.price(id, product, cents, at)?; // The producer tried again.
            }
        }
        // Products come with their prices, many of them after the first.
        for product in 0..PRODUCTS {
            if product % 100 == round {
                self.product(product, now)?;
            }
        }
        if round % 25 == 24 {
            self.send("product.price-updated", "p00001", "{\"eventId\":\"broken\",\"productId\":\"p00001\",\"price\":", now)?;
        }
        Ok(())
    }

    fn price(&mut self, id: u64, product: u64, cents: i64, at: i64) -> Result<(), String> {
        let key = format!("p{product:05}");
        let json = format!(
            "{{\"eventId\":\"x{id}\",\"productId\":\"{key}\",\"price\":\"{}.{:02}\",\"currency\":\"EUR\",\"occurredAt\":{at}}}",
            cents / 100,
            cents % 100
        );
        self.send("product.price-updated", &key, &json, at)
    }

    fn product(&mut self, product: u64, at: i64) -> Result<(), String> {
        const WORDS: [&str; 8] = ["Tea", "Lamp", "Chair", "Kettle", "Clock", "Basket", "Mirror", "Drum"];
        let key = format!("p{product:05}");
        let word = WORDS[(product % 8) as usize];
        let json = format!(
            "{{\"eventId\":\"c{product}\",\"productId\":\"{key}\",\"name\":\"{word} no. {product}\",\"category\":\"home\",\"occurredAt\":{at}}}"
        );
        self.send("product.created", &key, &json, at)
    }

    fn send(&mut self, topic: &str, key: &str, json: &str, at: i64) -> Result<(), String> {
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(json.as_bytes()));
        let sent = self.cluster.append(&name(topic)?, partition, Some(key), Some(value), Time(at), Headers::default());
        self.sent += 1;
        sent.map(drop).map_err(|error| error.to_string())
    }
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

async fn show_views(io: &mut Io<'_>, url: &str) -> Result<(), String> {
    let said = |error: redis::RedisError| format!("cannot read back from Redis: {error}");
    let client = redis::Client::open(url).map_err(said)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(said)?;
    let card: Vec<(String, String)> =
        redis::cmd("HGETALL").arg(format!("product:{HERO}")).query_async(&mut connection).await.map_err(said)?;
    let mut text = format!("\nThe card in Redis, product:{HERO}\n");
    for (field, value) in &card {
        text.push_str(&format!("  {field:<10} {value}\n"));
    }
    let candles: Vec<String> =
        redis::cmd("ZRANGE").arg(format!("chart:{HERO}:1m")).arg(0).arg(-1).query_async(&mut connection).await.map_err(said)?;
    let candles: Vec<Candle> = candles.iter().filter_map(|text| Candle::read(text)).collect();
    text.push_str(&format!("\nThe chart in Redis, chart:{HERO}:1m, {} candles of a minute\n{}", candles.len(), chart(&candles)));
    io.data(text);
    Ok(())
}

struct Candle {
    open: f64,
    high: f64,
    low: f64,
    close: f64,
}

impl Candle {
    fn read(text: &str) -> Option<Candle> {
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        let number = |name: &str| json.get(name)?.as_str()?.parse::<f64>().ok();
        Some(Candle { open: number("o")?, high: number("h")?, low: number("l")?, close: number("c")? })
    }
}

const CHART_ROWS: usize = 14;

/// Candles as text: `|` from low to high, `#` where it rose, `o` where it fell.
fn chart(candles: &[Candle]) -> String {
    let low = candles.iter().map(|candle| candle.low).fold(f64::INFINITY, f64::min);
    let high = candles.iter().map(|candle| candle.high).fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || high <= low {
        return "  (no candles)\n".into();
    }
    let row_of = |price: f64| ((high - price) / (high - low) * (CHART_ROWS - 1) as f64).round() as usize;
    let mut text = String::new();
    for row in 0..CHART_ROWS {
        let price = high - (high - low) * row as f64 / (CHART_ROWS - 1) as f64;
        text.push_str(&format!("  {price:>8.2} "));
        for candle in candles {
            let (top, bottom) = (row_of(candle.open.max(candle.close)), row_of(candle.open.min(candle.close)));
            let mark = match row {
                _ if row >= top && row <= bottom && candle.close >= candle.open => '#',
                _ if row >= top && row <= bottom => 'o',
                _ if row >= row_of(candle.high) && row <= row_of(candle.low) => '|',
                _ => ' ',
            };
            text.push(mark);
        }
        text.push('\n');
    }
    text
}
