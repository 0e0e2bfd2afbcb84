//! Workers as processes: the real binary with topics, an app name and a state folder of the test's own, and what it says and answers.
//!
//! The topology is `topologies/product.yaml` with other names. Everything that a test looks at comes from outside: lines on stderr, the
//! exit code, HTTP.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::log::kafka::{KafkaLog, KafkaSettings};
use millstream::log::partitioner::partition_of;
use millstream::log::{Log, NewTopic, Outgoing, Producer, ProducerSettings, TopicHandle};
use millstream::model::{Clock, Headers, Name, SystemClock, Time};
use serde_json::{Value, json};

use crate::servers::wait_for;

/// The longest that a state is waited for: a session of a worker that was killed may have to end first.
pub const SOON: Duration = Duration::from_secs(40);
const PARTITIONS: i32 = 2;
const CALL: Duration = Duration::from_secs(10);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A folder that is cleared away with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("millstream-worker-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// An app: topics of its own, a topology file, a folder.
pub struct World {
    pub app: String,
    pub folder: Folder,
    brokers: String,
    topology: PathBuf,
    producer: Option<(Box<dyn Producer>, TopicHandle, TopicHandle)>,
    sent: u64,
    /// The number of the last record of each key.
    latest: BTreeMap<String, u64>,
    /// Of all products that are sent; makes rows as large as a test needs them.
    pub category: String,
}

impl World {
    /// An app of which nothing runs yet, on the brokers of this address.
    pub fn new(case: &str, brokers: &str) -> World {
        let app = format!("{case}-{}-{}", std::process::id(), SystemClock.now().0);
        let folder = Folder::new();
        let topology = folder.0.join("topology.yaml");
        let text = include_str!("../../topologies/product.yaml");
        let text = text.split("\ntests:").next().expect("a text");
        let text = text.replace("app: product-views", &format!("app: {app}"));
        let text = ["product.created", "product.price-updated", "product.card"]
            .iter()
            .fold(text, |text, topic| text.replace(&format!("topic: {topic}"), &format!("topic: {app}.{topic}")))
            .replace("\"product:{key}\"", &format!("\"{app}:{{key}}\""))
            .replace("\"chart:{key}:1m\"", &format!("\"{app}-chart:{{key}}\""));
        fs::write(&topology, text).expect("the topology is written");
        World {
            app,
            folder,
            brokers: brokers.to_owned(),
            topology,
            producer: None,
            sent: 0,
            latest: BTreeMap::new(),
            category: "drinks".to_owned(),
        }
    }

    /// Makes the topics, and what writes to them.
    pub fn with_topics(mut self) -> World {
        let log = KafkaLog::new(KafkaSettings::new(self.brokers.clone(), &self.app)).expect("good settings");
        let name = |topic: &str| Name::parse(&format!("{}.{topic}", self.app)).expect("a name");
        let names = [name("product.created"), name("product.price-updated"), name("product.card")];
        let config = vec![("retention.ms", "-1".to_owned())];
        let topic = |name: &Name| NewTopic { name: name.clone(), partitions: PARTITIONS, replication: 1, config: config.clone() };
        log.admin().expect("an admin").create(&names.each_ref().map(topic), CALL).expect("topics are made");
        let settings = ProducerSettings { transactional_id: None, transaction_timeout: CALL, linger: Duration::ZERO };
        let mut producer = log.producer(&settings).expect("a producer");
        // A broker that answers may not have heard yet what its controller made.
        let mut handle = |name: &Name| wait_for(&format!("topic {name}"), SOON, || producer.topic(name).ok()).0;
        let (products, prices) = (handle(&names[0]), handle(&names[1]));
        self.producer = Some((producer, products, prices));
        self
    }

    /// Writes a product and a price for each key, and returns when Kafka has them.
    pub fn send(&mut self, keys: impl IntoIterator<Item = u32>) {
        let (producer, products, prices) = self.producer.as_mut().expect("topics");
        let headers = Headers::default();
        for key in keys {
            self.sent += 1;
            let (key, number) = (format!("p{key}"), self.sent);
            self.latest.insert(key.clone(), number);
            let at = 1_767_225_600_000_u64 + number;
            let product = json!({
                "eventId": format!("c{number}"), "productId": key, "name": format!("name {number}"), "category": self.category, "occurredAt": at
            });
            let price = json!({ "eventId": format!("u{number}"), "productId": key, "price": number.to_string(), "currency": "EUR", "occurredAt": at });
            for (topic, value) in [(*products, product.to_string()), (*prices, price.to_string())] {
                let partition = partition_of(key.as_bytes(), PARTITIONS);
                let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
                let record = Outgoing { topic, partition, key, value, time: Time(at as i64), keep_time: true, headers: &headers };
                producer.send(record).expect("a record is sent");
            }
        }
        producer.flush(CALL).expect("Kafka has the records");
    }

    /// A transaction that has written one record and stays open: whoever reads the partition waits there for its end.
    pub fn open_transaction(&self, topic: &str, partition: i32) -> Box<dyn Producer> {
        let log = KafkaLog::new(KafkaSettings::new(self.brokers.clone(), &self.app)).expect("good settings");
        let name = |text: &str| Name::parse(text).expect("a name");
        let transactional_id = Some(name(&format!("{}.slow", self.app)));
        let settings = ProducerSettings { transactional_id, transaction_timeout: SOON * 2, linger: Duration::ZERO };
        let mut producer = log.producer(&settings).expect("a producer");
        producer.init_transactions(CALL).expect("an id of its own");
        producer.begin().expect("a transaction");
        let (topic, _) = producer.topic(&name(topic)).expect("the topic is there");
        let (time, headers) = (SystemClock.now(), Headers::default());
        let record = Outgoing { topic, partition, key: Some(b"nothing"), value: None, time, keep_time: false, headers: &headers };
        producer.send(record).expect("a record is sent");
        producer.flush(CALL).expect("Kafka has the record");
        producer
    }

    pub fn state(&self) -> PathBuf {
        self.folder.0.join("state")
    }

    /// The folder of the task of a partition.
    pub fn task_folder(&self, partition: i32) -> PathBuf {
        self.state().join(&self.app).join(format!("0_{partition}"))
    }

    /// Starts a worker; `settings` as `--set` takes them, over those that every worker here has.
    pub fn start(&self, worker: &str, settings: &[&str]) -> Process {
        let own = [
            format!("kafka.brokers={}", self.brokers),
            "kafka.replication=1".to_owned(),
            "kafka.session_timeout=6s".to_owned(),
            "redis.url=redis://127.0.0.1:1".to_owned(),
            "http.listen=127.0.0.1:0".to_owned(),
            "worker.threads=1".to_owned(),
            format!("worker.id={worker}"),
            format!("worker.state_dir={}", self.state().display()),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(&self.topology);
        for setting in own.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.args(["--set", setting]);
        }
        Process::of(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts"))
    }
}

/// A running worker; killed when dropped.
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn of(mut child: Child) -> Process {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stderr, heard) = (child.stderr.take().expect("a pipe"), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                heard.lock().expect("no panic").push(line);
            }
        });
        Process { child, lines }
    }

    /// What it has said.
    pub fn said(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }

    /// Lines that hold a text.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.said().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// The first line that holds all of these texts.
    #[track_caller]
    pub fn wait_for_line(&self, texts: &[&str]) -> String {
        let find = || self.said().into_iter().find(|line| texts.iter().all(|text| line.contains(text)));
        self.watched(&format!("a line with {texts:?}"), find)
    }

    #[track_caller]
    pub fn wait_until_ready(&self) {
        self.watched("the worker to be ready", || (self.get("/health/ready").0 == 200).then_some(()));
    }

    /// Waits, and shows what the worker has said if that was in vain.
    #[track_caller]
    pub fn watched<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(what, SOON, look)));
        waited.unwrap_or_else(|_| panic!("waited in vain for {what}; the worker said:\n{}", self.said().join("\n")))
    }

    /// Status, content type and body of an answer; status 0 where nobody answers.
    pub fn get(&self, path: &str) -> (u16, String, String) {
        self.try_get(path).unwrap_or_default()
    }

    fn try_get(&self, path: &str) -> Option<(u16, String, String)> {
        let line = self.lines_with("answering over HTTP").pop()?;
        let address: String = line.split("address=").nth(1)?.chars().take_while(|letter| !letter.is_whitespace()).collect();
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(CALL)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        Some((status, kind.to_owned(), body.to_owned()))
    }

    /// All rows of the products, as JSON, if all tasks answer.
    pub fn products(&self) -> Option<BTreeMap<String, Value>> {
        let (status, _, body) = self.get("/tables/product?limit=1000");
        let page: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
        // Before it has been given its tasks a worker has no rows, and rightly says so.
        let has_all = page["partitions"].as_array().is_some_and(|partitions| partitions.len() == PARTITIONS as usize);
        let rows = page["rows"].as_array().filter(|_| has_all)?.iter();
        Some(rows.map(|row| (row["key"].as_str().unwrap_or_default().to_owned(), row["row"].clone())).collect())
    }

    /// All rows, once all tasks are there and answer.
    #[track_caller]
    pub fn first_products(&self) -> BTreeMap<String, Value> {
        self.watched("all tasks to answer", || self.products())
    }

    /// The rows, once they are those of the last records of all keys: the two topics and the partitions are each read at their own pace.
    #[track_caller]
    pub fn wait_for_products(&self, world: &World) -> BTreeMap<String, Value> {
        let is_latest = |(key, row): (&String, &Value)| {
            world
                .latest
                .get(key)
                .is_some_and(|last| row["price"] == json!(last.to_string()) && row["name"] == json!(format!("name {last}")))
        };
        self.watched(&format!("{} products as they were sent last", world.latest.len()), || {
            self.products().filter(|rows| rows.len() == world.latest.len() && rows.iter().all(is_latest))
        })
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> i64 {
        let (_, _, text) = self.get("/metrics");
        let of = |line: &str| line.starts_with(name).then(|| line.rsplit(' ').next()?.parse::<i64>().ok()).flatten();
        text.lines().filter_map(of).sum()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success(), "no signal {name}");
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Asks it to end; the exit code, and how long it took.
    #[track_caller]
    pub fn terminate(mut self) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        self.signal("TERM");
        (self.wait_for_exit(), asked.elapsed())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    #[track_caller]
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let lines = self.lines.clone();
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the worker to end", SOON, || child.try_wait().expect("its state"))
        }));
        let status = waited.unwrap_or_else(|_| panic!("the worker does not end; it said:\n{}", lines.lock().expect("no panic").join("\n")));
        status.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Files under a folder, deepest last.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() { folders.push(entry) } else { found.push(entry) }
        }
    }
    found.sort();
    found
}
