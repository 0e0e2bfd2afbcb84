//! The app of one run: its topology under names of its own, its topics, its part of Redis, and the flow of events into it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millstream::model::{Clock, SystemClock};
use serde_json::Value as Json;

use crate::events::{Event, Events, Topic};
use crate::fold::{Expected, Input, Row};
use crate::kafka::{Kafka, See, Sender};
use crate::servers::wait_for;
use crate::verdict::{Kind, Verdict, card_of, chart_of};
use crate::workers::{Setting, Worker};

/// Partitions of every topic; so many tasks.
pub const PARTITIONS: i32 = 6;
/// Events in a burst, and the time between two.
const BURST: usize = 6;
const BURST_EVERY: Duration = Duration::from_millis(20);
/// Until so many more events are sent.
const SOON: Duration = Duration::from_secs(60);

pub struct Shop {
    pub app: String,
    pub created: String,
    pub priced: String,
    pub card: String,
    pub topology: String,
    pub kafka: Kafka,
    pub setting: Setting,
    redis: String,
}

impl Shop {
    pub fn new(what: &str, brokers: &str, redis: &str) -> Shop {
        let app = format!("e2e-{what}-{}-{}", std::process::id(), SystemClock.now().0 % 1_000_000);
        let (created, priced, card) = (format!("{app}.created"), format!("{app}.priced"), format!("{app}.card"));
        let topology = topology(&app, &created, &priced, &card);
        let folder = std::env::temp_dir().join(&app);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("product.yaml");
        fs::write(&file, &topology).unwrap();
        let kafka = Kafka::new(brokers);
        kafka.create(&[&created, &priced, &card], PARTITIONS);
        let setting = Setting { folder, topology: file, brokers: brokers.to_owned(), redis: redis.to_owned() };
        Shop { app, created, priced, card, topology, kafka, setting, redis: redis.to_owned() }
    }

    /// Takes everything away again; after a failure it stays, to be looked at.
    pub fn remove(&self) {
        self.kafka.remove(&self.app);
        let mut redis = self.redis();
        for key in keys(&mut redis, &format!("*{}*", self.app)) {
            () = redis::cmd("DEL").arg(key).query(&mut redis).unwrap();
        }
        fs::remove_dir_all(&self.setting.folder).unwrap();
    }

    fn redis(&self) -> redis::Connection {
        redis::Client::open(self.redis.as_str()).unwrap().get_connection().unwrap()
    }

    pub fn topics(&self) -> BTreeMap<String, Topic> {
        BTreeMap::from([(self.created.clone(), Topic::Created), (self.priced.clone(), Topic::Priced)])
    }

    pub fn send(&self, sender: &Sender, event: &Event) {
        sender.send(if event.topic == Topic::Created { &self.created } else { &self.priced }, event);
    }

    /// The input topics as they lie in Kafka.
    pub fn inputs(&self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for (name, topic) in self.topics() {
            for found in self.kafka.read(&name, See::Committed) {
                let (partition, offset, time) = (found.partition, found.offset, found.time);
                inputs.push(Input { topic, partition, offset, key: found.key, value: found.value, time });
            }
        }
        inputs
    }

    /// Until the app has committed everything that is in its inputs.
    pub fn wait_until_committed(&self, within: Duration) {
        wait_for("all events to be committed", within, || {
            let committed = self.kafka.committed_offsets(&self.app, &[&self.created, &self.priced], PARTITIONS);
            let is_through =
                |((topic, partition), offset): (&(String, i32), &i64)| self.kafka.end(topic, *partition, See::Committed) == *offset;
            committed.iter().all(is_through).then_some(())
        });
    }

    /// Cards and charts, once Redis has caught up.
    pub fn compare_redis(&self, verdict: &mut Verdict, expected: &Expected, within: Duration) {
        let mut redis = self.redis();
        let cards: BTreeMap<String, Row> =
            expected.complete().into_iter().map(|(key, row)| (key, as_row(card_of(&row).unwrap()))).collect();
        let charts: BTreeMap<(String, i64), Row> =
            expected.candles.iter().map(|((key, start), candle)| ((key.clone(), *start), chart_of(*start, candle))).collect();
        let end = std::time::Instant::now() + within;
        loop {
            let (shown_cards, shown_charts) = (self.shown_cards(&mut redis), self.shown_charts(&mut redis));
            let is_level = shown_cards.len() == cards.len() && shown_cards.iter().all(|(key, card)| cards.get(key) == Some(card));
            let is_level = is_level && shown_charts.len() == charts.len();
            let is_level = is_level && shown_charts.iter().all(|(name, candle)| charts.get(name) == Some(candle));
            if is_level || std::time::Instant::now() > end {
                verdict.rows("cards in Redis", shown_cards, &cards);
                verdict.rows("candles in Redis", shown_charts, &charts);
                return;
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn shown_cards(&self, redis: &mut redis::Connection) -> Vec<(String, Row)> {
        let prefix = format!("{}:product:", self.app);
        let mut shown = Vec::new();
        for key in keys(redis, &format!("{prefix}*")) {
            let card: BTreeMap<String, String> = redis::cmd("HGETALL").arg(&key).query(redis).unwrap();
            shown.push((key[prefix.len()..].to_owned(), as_row(card)));
        }
        shown
    }

    fn shown_charts(&self, redis: &mut redis::Connection) -> Vec<((String, i64), Row)> {
        let prefix = format!("{}:chart:", self.app);
        let mut shown = Vec::new();
        for key in keys(redis, &format!("{prefix}*")) {
            let members: Vec<(Vec<u8>, f64)> = redis::cmd("ZRANGE").arg(&key).arg("0").arg("-1").arg("WITHSCORES").query(redis).unwrap();
            let product = key[prefix.len()..].strip_suffix(":1m").unwrap().to_owned();
            shown.extend(members.iter().map(|(member, score)| ((product.clone(), *score as i64), serde_json::from_slice(member).unwrap())));
        }
        shown
    }

    /// What lies on disk of each task, in the folder of the worker that had it last; read by `millstream inspect`.
    pub fn compare_state(&self, verdict: &mut Verdict, expected: &Expected, workers: &[Worker]) {
        let (mut products, mut candles) = (Vec::new(), Vec::new());
        for partition in 0..PARTITIONS {
            let task = format!("0_{partition}");
            let summaries = workers.iter().filter_map(|worker| {
                let output = worker.inspect(&self.app, &task, &[]);
                let summary: Json = serde_json::from_slice(&output.stdout).ok()?;
                Some((summary["changelogs"]["product"].as_i64()?, summary, worker))
            });
            let Some((_, summary, worker)) = summaries.max_by_key(|(offset, ..)| *offset) else {
                verdict.find(Kind::Lost, format!("RocksDB: no worker has state of task {task}"));
                continue;
            };
            for topic in [&self.created, &self.priced] {
                let end = self.kafka.end(topic, partition, See::Committed);
                let known = summary["inputs"][topic].as_i64().unwrap_or(0);
                if known != end {
                    verdict.find(Kind::Wrong, format!("RocksDB: task {task} stands at {known} of `{topic}`, which ends at {end}"));
                }
            }
            for line in lines(worker, &self.app, &task, "product") {
                products.push((line["key"].as_str().unwrap().to_owned(), row_of(&line)));
            }
            for line in lines(worker, &self.app, &task, "price_ohlc_1m") {
                candles.push(((line["key"].as_str().unwrap().to_owned(), line["start"].as_i64().unwrap()), row_of(&line)));
            }
        }
        verdict.rows("rows in RocksDB", products, &expected.products());
        verdict.rows("windows in RocksDB", candles, &expected.candles);
    }
}

fn lines(worker: &Worker, app: &str, task: &str, table: &str) -> Vec<Json> {
    let output = worker.inspect(app, task, &["--table", table, "--limit", "1000000"]);
    assert!(output.status.success(), "inspect: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn row_of(line: &Json) -> Row {
    serde_json::from_value(line["row"].clone()).unwrap()
}

fn as_row(card: BTreeMap<String, String>) -> Row {
    card.into_iter().map(|(field, value)| (field, Json::String(value))).collect()
}

fn keys(redis: &mut redis::Connection, pattern: &str) -> Vec<String> {
    redis::cmd("KEYS").arg(pattern).query(redis).unwrap()
}

/// `topologies/product.yaml` under the names of this run, without its tests, and with windows that only event time closes: what the
/// wall clock closes depends on when a worker was dead.
fn topology(app: &str, created: &str, priced: &str, card: &str) -> String {
    let mut text = include_str!("../../topologies/product.yaml").split("\ntests:").next().unwrap().to_owned();
    for (from, to) in [
        ("app: product-views ", format!("app: {app} ")),
        ("topic: product.created", format!("topic: {created}")),
        ("topic: product.price-updated", format!("topic: {priced}")),
        ("topic: product.card", format!("topic: {card}")),
        ("key: \"product:{key}\"", format!("key: \"{app}:product:{{key}}\"")),
        ("key: \"chart:{key}:1m\"", format!("key: \"{app}:chart:{{key}}:1m\"")),
        (", idle_close: 30s", String::new()),
    ] {
        assert_eq!(text.matches(from).count(), 1, "`{from}` is not in topologies/product.yaml any more");
        text = text.replace(from, &to);
    }
    text
}

/// Events on their way into the topics, at a steady pace, until stopped.
pub struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flow {
    pub fn start(shop: &Shop, mut events: Events) -> Flow {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, counted) = (stop.clone(), sent.clone());
        let (sender, created, priced) = (shop.kafka.sender(), shop.created.clone(), shop.priced.clone());
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for event in events.by_ref().take(BURST) {
                    sender.send(if event.topic == Topic::Created { &created } else { &priced }, &event);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                thread::park_timeout(BURST_EVERY);
            }
            sender.flush();
        });
        Flow { stop, sent, thread }
    }

    /// Until so many more events are sent: where in the flow a blow falls is counted in events.
    pub fn wait_for_more(&self, events: u64) {
        let until = self.sent.load(Ordering::Relaxed) + events;
        wait_for("events to be sent", SOON, || (self.sent.load(Ordering::Relaxed) >= until).then_some(()));
    }

    /// Returns how many were sent.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}
