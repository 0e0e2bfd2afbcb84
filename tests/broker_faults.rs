//! What a worker says and does when its cluster is not as it should be: the real program against `KAFKA_BROKERS`, or against an
//! address where no broker is.
//!
//! Each trouble is one clear line at the log level that users have, without secrets; what can heal is tried again, what cannot ends
//! with exit code 2. What a record that cannot be used becomes is here, too: with its headers, and exactly once over a crash.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

mod servers;
mod workers;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use millstream::log::kafka::{KafkaLog, KafkaSettings};
use millstream::log::{Admin, Input, Log, NewTopic, Outgoing, ProducerSettings};
use millstream::model::{Clock, Headers, Name, Offset, SystemClock, Time};

use servers::{kafka, wait_for};
use workers::{Folder, Worker};

/// The longest that a state is waited for.
const SOON: Duration = Duration::from_secs(40);
const CALL: Duration = Duration::from_secs(10);

/// One table fed by two topics, with an output.
fn topology(app: &str) -> String {
    format!(
        r#"
version: 1
app: {app}
sources:
  made: {{ topic: {app}.made, fields: {{ id: string, name: string, at: timestamp }}, keyed_by: event.id, time: event.at, future: 1h }}
  priced: {{ topic: {app}.priced, fields: {{ id: string, price: decimal, n: optional int, at: timestamp }}, keyed_by: event.id, time: event.at, future: 1h }}
tables:
  item:
    from:
      made: {{ role: owner, set: {{ name: event.name }} }}
      priced: {{ role: contributor, set: {{ price: event.price }}, when_owner_missing: {{ do: placeholder }} }}
  sums:
    from:
      priced: {{ set: {{ total: {{ sum: event.price }}, n: {{ count: {{}} }} }}, on_tombstone: ignore }}
outputs:
  items: {{ from: item, topic: {app}.items, when: row.complete }}
"#
    )
}

/// A cluster and the names of one test in it.
struct Cluster {
    app: String,
    brokers: String,
    log: KafkaLog,
}

/// A record as a test reads it.
#[derive(Clone, PartialEq, Debug)]
struct Read1 {
    partition: i32,
    offset: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

impl Cluster {
    fn of(test: &str) -> Option<Cluster> {
        let brokers = kafka(&format!("broker_faults::{test}"))?;
        let app = format!("{}{}", test.chars().filter(|c| *c != '_').take(20).collect::<String>(), SystemClock.now().0 % 10_000_000);
        let log = KafkaLog::new(KafkaSettings::new(&brokers, &app)).unwrap();
        Some(Cluster { app, brokers, log })
    }

    fn topic(&self, suffix: &str) -> Name {
        name(&format!("{}.{suffix}", self.app))
    }

    fn internal(&self, suffix: &str) -> Name {
        name(&format!("{}-{suffix}", self.app))
    }

    fn admin(&self) -> Box<dyn Admin> {
        self.log.admin().unwrap()
    }

    fn make(&self, topic: &Name, partitions: i32, config: &[(&'static str, &str)]) {
        let config = config.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.admin().create(&[NewTopic { name: topic.clone(), partitions, replication: 1, config }], CALL).unwrap();
        wait_for("a topic", SOON, || self.admin().describe(std::slice::from_ref(topic), CALL).unwrap()[0].clone());
    }

    fn make_all(&self, partitions: i32) {
        for suffix in ["made", "priced", "items"] {
            self.make(&self.topic(suffix), partitions, &[]);
        }
    }

    fn worker(&self, folder: &Folder, settings: &[&str]) -> Worker {
        self.worker_of(&topology(&self.app), folder, settings)
    }

    fn worker_of(&self, topology: &str, folder: &Folder, settings: &[&str]) -> Worker {
        let brokers = format!("kafka.brokers={}", self.brokers);
        let mut all = vec![brokers.as_str()];
        all.extend(settings);
        Worker::start(topology, folder, &all)
    }

    fn send(&self, topic: &Name, partition: i32, records: &[(Option<&str>, Option<&[u8]>)]) -> i64 {
        let settings = ProducerSettings { transactional_id: None, transaction_timeout: CALL, linger: Duration::ZERO };
        let mut producer = self.log.producer(&settings).unwrap();
        let (handle, _) = producer.topic(topic).unwrap();
        for (key, value) in records {
            let headers = Headers::new(vec![("trace".into(), Some("t-1".into()))]);
            let (key, time) = (key.map(str::as_bytes), Time(1_767_225_600_000));
            producer.send(Outgoing { topic: handle, partition, key, value: *value, time, keep_time: true, headers: &headers }).unwrap();
        }
        let acknowledged = producer.flush(CALL).unwrap();
        acknowledged[0].2
    }

    /// What is committed in a topic.
    fn read(&self, topic: &Name) -> Vec<Read1> {
        let mut read = Vec::new();
        let Some(described) = self.admin().describe(std::slice::from_ref(topic), CALL).unwrap().remove(0) else { return read };
        for partition in 0..described.partitions {
            let mut reader = self.log.reader().unwrap();
            let (start, end) = reader.bounds(topic, partition, CALL).unwrap();
            reader.add_inputs(&[(Input { slot: 0, topic: topic.clone(), partition }, start)]).unwrap();
            wait_for("the end of a topic", SOON, || {
                let mut batch = Vec::new();
                reader.poll(1000, Duration::from_millis(20), &mut batch).unwrap();
                for message in batch {
                    let text = |bytes: &Option<bytes::Bytes>| {
                        bytes.as_ref().map_or(String::new(), |bytes| String::from_utf8_lossy(bytes).into_owned())
                    };
                    read.push(Read1 {
                        partition,
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.value().map(<[u8]>::to_vec),
                        headers: message.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
                    });
                }
                (reader.position(0).unwrap() >= Some(end) || end == Offset(0) || start == end).then_some(())
            });
        }
        read
    }

    fn dead_letters(&self) -> Vec<Read1> {
        self.read(&self.internal("dead-letters"))
    }
}

fn event(id: &str, rest: &str) -> String {
    format!(r#"{{"id":"{id}",{rest},"at":"2026-01-01T00:00:00Z"}}"#)
}

/// An address of this machine where nobody listens.
fn silent_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The one trouble that a worker tells about an address, at which it keeps trying; it ends in order all the same.
#[track_caller]
fn keeps_trying(brokers: &str, settings: &[&str], parts: &[&str]) {
    let folder = Folder::new(&format!("away-{}", brokers.replace(':', "-")));
    let mut all = vec![format!("kafka.brokers={brokers}")];
    all.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let worker = Worker::start(&topology("away"), &folder, &all);
    let line = worker.wait_for_line(&[brokers, "trying again in"], SOON);
    for part in parts {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    // The pauses grow.
    worker.wait_for_line(&[brokers, "trying again in 1s"], SOON);
    let started = Instant::now();
    let (code, troubles) = worker.stop(SOON);
    assert_eq!(code, Some(0), "{troubles:#?}");
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?} to end", started.elapsed());
    let of_attempts = troubles.iter().filter(|line| line.contains("trying again in")).count();
    assert_eq!(troubles.len(), of_attempts, "one line an attempt: {troubles:#?}");
}

/// A server that reads what comes and answers with `answer`.
fn server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(answer);
        }
    });
    address
}

#[test]
fn a_broker_that_is_away_is_one_line_an_attempt() {
    keeps_trying(&silent_address(), &[], &["Connection refused", "check `kafka.brokers`"]);
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    keeps_trying("no-such-broker.invalid:9092", &[], &["no-such-broker.invalid", "resolve", "check `kafka.brokers`"]);
}

#[test]
fn another_server_at_the_address_is_no_broker() {
    keeps_trying(&server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), &[], &["check `kafka.brokers`"]);
    keeps_trying(&server(b"-ERR unknown command\r\n"), &[], &["check `kafka.brokers`"]);
}

#[test]
fn a_password_for_a_broker_without_any_is_refused_and_not_told() {
    let Some(cluster) = Cluster::of("a_password_for_nobody") else { return };
    let folder = Folder::new("password");
    let secret = folder.write("secret", "hunter2-hunter2");
    let worker = cluster.worker(
        &folder,
        &[
            "kafka.security.protocol=sasl_plaintext",
            "kafka.security.mechanism=plain",
            "kafka.security.username=shop",
            &format!("kafka.security.password=${{file:{}}}", secret.display()),
            "kafka.security.allow_insecure=true",
        ],
    );
    let (code, troubles) = worker.wait_for_end(SOON);
    assert_eq!(code, Some(2), "{troubles:#?}");
    assert_eq!(troubles.len(), 1, "{troubles:#?}");
    assert!(troubles[0].contains(&cluster.brokers) && troubles[0].contains("check `kafka.security`"), "{troubles:#?}");
    assert!(!troubles[0].contains("hunter2"), "{troubles:#?}");
}

#[track_caller]
fn cannot_start(cluster: &Cluster, parts: &[&[&str]]) {
    let folder = Folder::new(&cluster.app);
    let (code, troubles) = cluster.worker(&folder, &[]).wait_for_end(SOON);
    assert_eq!(code, Some(2), "{troubles:#?}");
    assert_eq!(troubles.len(), parts.len(), "one line a problem: {troubles:#?}");
    for (line, parts) in troubles.iter().zip(parts) {
        for part in *parts {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
    }
}

#[test]
fn a_missing_topic_is_named_with_the_command_that_makes_it() {
    let Some(cluster) = Cluster::of("a_missing_topic") else { return };
    let (made, priced, items) = (cluster.topic("made"), cluster.topic("priced"), cluster.topic("items"));
    cluster.make(&made, 3, &[]);
    cannot_start(
        &cluster,
        &[
            &[&format!("topic `{items}` does not exist (output `items` writes it)"), "kafka-topics.sh", "--partitions N"],
            &[
                &format!("topic `{priced}` does not exist (source `priced` reads it)"),
                &format!("--create --topic {priced} --partitions 3`"),
                "correct `topic:` in the topology file",
            ],
        ],
    );
    assert!(
        cluster.admin().describe(&[cluster.internal("tasks")], CALL).unwrap()[0].is_none(),
        "nothing was made for an app that cannot run"
    );
}

#[test]
fn different_partition_counts_are_named_with_both_topics() {
    let Some(cluster) = Cluster::of("different_counts") else { return };
    let (made, priced) = (cluster.topic("made"), cluster.topic("priced"));
    cluster.make(&made, 2, &[]);
    cluster.make(&priced, 3, &[]);
    cluster.make(&cluster.topic("items"), 1, &[]);
    cannot_start(
        &cluster,
        &[&[&format!("topics `{made}` and `{priced}` feed the same table but have 2 and 3 partitions"), "create one of them anew"]],
    );
}

#[test]
fn partitions_that_were_added_since_are_refused_at_the_next_start() {
    let Some(cluster) = Cluster::of("partitions_added") else { return };
    cluster.make_all(2);
    let folder = Folder::new(&cluster.app);
    let worker = cluster.worker(&folder, &[]);
    worker.wait_for_line(&["running"], SOON);
    let (code, troubles) = worker.stop(SOON);
    assert_eq!((code, troubles), (Some(0), Vec::new()));
    for suffix in ["made", "priced"] {
        cluster.admin().add_partitions(&cluster.topic(suffix), 4, CALL).unwrap();
    }
    let (changelog, sums) = (cluster.internal("item-changelog"), cluster.internal("sums-changelog"));
    let said = |changelog: &Name| format!("internal topic `{changelog}` has 2 partitions, its inputs have 4");
    cannot_start(&cluster, &[&[&said(&changelog), "use a new app name"], &[&said(&sums), "use a new app name"]]);
}

#[test]
fn a_changelog_that_deletes_rows_is_refused() {
    let Some(cluster) = Cluster::of("a_deleting_changelog") else { return };
    cluster.make_all(1);
    let changelog = cluster.internal("item-changelog");
    cluster.make(&changelog, 1, &[("cleanup.policy", "delete")]);
    let sums = cluster.internal("sums-changelog");
    cluster.make(&sums, 1, &[("cleanup.policy", "compact"), ("delete.retention.ms", "60000")]);
    let deletes = [&*format!("internal topic `{changelog}` has cleanup.policy=delete"), "set it to compact"];
    let forgets = [&*format!("internal topic `{sums}` has delete.retention.ms=60000"), "set it to 86400000 or more"];
    cannot_start(&cluster, &[&deletes, &forgets]);
}

/// Records that no source can use, each with the reason that its letter gives.
fn bad_values(id: &str) -> Vec<(Option<String>, Vec<u8>, &'static str)> {
    let key = || Some(id.to_owned());
    let deep = format!("{{\"id\":\"{id}\",\"price\":1,\"at\":\"2026-01-01T00:00:00Z\",\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let text = |text: String| text.into_bytes();
    vec![
        (key(), vec![0xff, 0xfe, 0x00, 0x80], "not_utf8"),
        (key(), text("{\"id\":\"a\"".into()), "not_json"),
        (key(), text(event(id, r#""price":true"#)), "wrong_type"),
        (key(), text(event(id, r#""price":null"#)), "wrong_type"),
        (key(), text(format!(r#"{{"id":"{id}","at":"2026-01-01T00:00:00Z"}}"#)), "missing_field"),
        (None, text(event(id, r#""price":1"#)), "missing_key"),
        (Some("other".into()), text(event(id, r#""price":1"#)), "key_mismatch"),
        (key(), text(format!(r#"{{"id":"{id}","price":1,"at":"2999-01-01T00:00:00Z"}}"#)), "future"),
        (key(), text(deep), "too_deep"),
        (key(), text(event(id, r#""price":NaN"#)), "not_json"),
        (key(), text(event(id, &format!(r#""price":1{}"#, "0".repeat(400)))), "number_out_of_range"),
        (key(), text(event(id, r#""price":1,"n":1e30"#)), "number_out_of_range"),
        (key(), text(event(id, r#""price":1,"n":99999999999999999999"#)), "number_out_of_range"),
    ]
}

#[test]
fn bad_records_are_dead_letters_exactly_once_over_a_crash() {
    let Some(cluster) = Cluster::of("bad_records") else { return };
    let (made, priced) = (cluster.topic("made"), cluster.topic("priced"));
    for topic in [&made, &priced] {
        cluster.make(topic, 2, &[("max.message.bytes", "16000000")]);
    }
    cluster.make(&cluster.topic("items"), 1, &[]);
    let bad = bad_values("a");
    let huge = format!("{{\"id\":\"a\",\"price\":1,\"at\":\"2026-01-01T00:00:00Z\",\"x\":\"{}\"}}", "x".repeat(10_000_000)).into_bytes();
    let mut records: Vec<(Option<&str>, Option<&[u8]>)> =
        bad.iter().map(|(key, value, _)| (key.as_deref(), Some(value.as_slice()))).collect();
    records.push((Some("a"), Some(&huge)));
    let folder = Folder::new(&cluster.app);
    let worker = cluster.worker(&folder, &["worker.commit_interval=50ms"]);
    worker.wait_for_line(&["running"], SOON);
    let owner = event("a", r#""name":"tea""#).into_bytes();
    cluster.send(&made, 1, &[(Some("a"), Some(&owner))]);
    // Killed in the middle of this work; the second life finishes it.
    let last = cluster.send(&priced, 1, &records);
    wait_for("the first letters", SOON, || (!cluster.dead_letters().is_empty()).then_some(()));
    worker.kill();
    let good = event("a", r#""price":7"#).into_bytes();
    cluster.send(&priced, 1, &[(Some("a"), Some(&good))]);
    let worker = cluster.worker(&folder, &["worker.commit_interval=50ms"]);
    let item = |cluster: &Cluster| cluster.read(&cluster.topic("items")).pop();
    // The owner alone may have been committed before the kill; then the row leaves twice.
    let is_whole = |record: &Read1| record.value.as_deref().is_some_and(|value| !String::from_utf8_lossy(value).contains("null"));
    let shown = wait_for("the row with its price", SOON, || item(&cluster).filter(is_whole));
    assert_eq!(String::from_utf8_lossy(&shown.value.unwrap()), r#"{"name":"tea","price":"7","complete":true}"#);
    // What came before the row's record is committed with it, or was before.
    let letters = cluster.dead_letters();
    assert_eq!(
        letters.len(),
        records.len(),
        "{:?}",
        letters.iter().map(|letter| letter.headers.get("millstream-offset")).collect::<Vec<_>>()
    );
    let first = last - (records.len() as i64 - 1);
    for (at, (letter, (key, value))) in letters.iter().zip(&records).enumerate() {
        let reason = bad.get(at).map_or("too_large", |(_, _, reason)| *reason);
        let header = |name: &str| letter.headers.get(name).map_or("", String::as_str).to_owned();
        assert_eq!(header("millstream-reason"), reason, "record {at}: {}", header("millstream-detail"));
        assert!(!header("millstream-detail").is_empty() && header("millstream-detail").len() <= 4096);
        assert_eq!(header("millstream-source"), "priced");
        assert_eq!(header("millstream-topic"), priced.as_str());
        assert_eq!(header("millstream-partition"), "1");
        assert_eq!(header("millstream-offset"), (first + at as i64).to_string());
        assert_eq!(header("millstream-time"), "1767225600000");
        assert_eq!(header("trace"), "t-1", "the record's own headers go with it");
        assert_eq!(letter.key.as_deref(), key.map(str::as_bytes));
        assert!(letter.value.as_deref() == *value, "record {at}: the value goes with it, whole");
        assert_eq!(header("millstream-cut-value"), "");
        assert_eq!(letter.partition, 1);
    }
    let (code, troubles) = worker.stop(SOON);
    assert_eq!(code, Some(0), "{troubles:#?}");
    assert_eq!(troubles, Vec::<String>::new(), "bad records are counted, not told one by one");
}

#[test]
fn a_letter_that_its_topic_does_not_take_is_cut_and_says_so() {
    let Some(cluster) = Cluster::of("a_cut_letter") else { return };
    let priced = cluster.topic("priced");
    cluster.make(&cluster.topic("made"), 1, &[]);
    cluster.make(&priced, 1, &[("max.message.bytes", "16000000")]);
    cluster.make(&cluster.topic("items"), 1, &[]);
    // Somebody has made it before, with the default of 1 MiB.
    cluster.make(&cluster.internal("dead-letters"), 1, &[]);
    let huge = vec![b'x'; 10_000_000];
    let good = event("a", r#""price":7"#).into_bytes();
    cluster.send(&priced, 0, &[(Some("a"), Some(&huge)), (Some("a"), Some(&good))]);
    let folder = Folder::new(&cluster.app);
    let worker = cluster.worker(&folder, &[]);
    let letters = wait_for("the letter", SOON, || Some(cluster.dead_letters()).filter(|letters| !letters.is_empty()));
    let [letter] = &letters[..] else { panic!("{} letters", letters.len()) };
    assert_eq!(letter.headers["millstream-cut-value"], "10000000");
    assert_eq!(letter.headers["millstream-reason"], "too_large");
    assert_eq!((letter.headers["millstream-offset"].as_str(), letter.headers["trace"].as_str()), ("0", "t-1"));
    let kept = letter.value.as_ref().unwrap();
    assert!(kept.len() > 1_000_000 && kept.iter().all(|byte| *byte == b'x'), "{} bytes", kept.len());
    wait_for("the record after it", SOON, || cluster.read(&cluster.internal("item-changelog")).pop());
    let (code, troubles) = worker.stop(SOON);
    assert_eq!((code, troubles), (Some(0), Vec::new()));
}

#[test]
fn fail_stops_its_task_with_the_position_and_commits_nothing_past_it() {
    let Some(cluster) = Cluster::of("fail_stops") else { return };
    cluster.make_all(2);
    let priced = cluster.topic("priced");
    let topology = topology(&cluster.app).replace(
        "id: string, price: decimal, n: optional int, at: timestamp }",
        "id: string, price: decimal, at: timestamp }, on_error: fail",
    );
    let good = |price: i32| event("a", &format!(r#""price":{price}"#)).into_bytes();
    let (one, two) = (good(1), good(2));
    let bad = cluster.send(&priced, 0, &[(Some("a"), Some(&one)), (Some("a"), Some(b"no json"))]);
    cluster.send(&priced, 0, &[(Some("a"), Some(&two))]);
    let folder = Folder::new(&cluster.app);
    for life in 0..2 {
        let worker = cluster.worker_of(&topology, &folder, &[]);
        let line = worker.wait_for_line(&["on_error: fail"], SOON);
        for part in ["source `priced`", &format!("`{priced}` partition 0 offset {bad}"), "not_json", "correct or remove the record"] {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        // The other partition goes on.
        cluster.send(&priced, 1, &[(Some("b"), Some(&event("b", r#""price":5"#).into_bytes()))]);
        let sums = || cluster.read(&cluster.internal("sums-changelog"));
        wait_for("the other partition", SOON, || (sums().iter().filter(|record| record.partition == 1).count() > life * 2).then_some(()));
        let (code, troubles) = worker.stop(SOON);
        assert_eq!((code, troubles.len()), (Some(0), 1), "{troubles:#?}");
        assert_eq!(
            sums().iter().filter(|record| record.partition == 0 && record.key.as_deref().is_some_and(|key| key.ends_with(b"a"))).count(),
            1,
            "the record before it, once"
        );
        assert_eq!(cluster.dead_letters(), []);
    }
}
