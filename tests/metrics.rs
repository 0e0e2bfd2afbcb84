//! Every metric of the table moves somewhere: in a scenario, here, or in a test that this file names. One that moves nowhere yet
//! stands in a list with its reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use millstream::cli::run::show_rocks;
use millstream::config::env::resident_bytes;
use millstream::config::spec::{Expectation, MetricIs, StepKind};
use millstream::metrics::{self, METRICS, Metrics};
use millstream::model::{Headers, Name, TaskId, Time};
use millstream::state::directory::Directory;
use millstream::state::rocks::{RocksBackend, RocksMemory, RocksShared};
use millstream::state::{CacheBudget, StoreSpec, TaskState};
use millstream::testkit::{Driver, DriverSettings};
use millstream::topology;
use millstream::views::place::Held;

/// Metrics that move in the tests of this file, which ask for them by their constants.
const HERE: &[&metrics::Metric] = &[
    &metrics::POSITION,
    &metrics::LAG,
    &metrics::VIEW_LAG,
    &metrics::VIEW_AGE,
    &metrics::VIEW_QUEUE_BYTES,
    &metrics::VIEW_REFILLS,
    &metrics::VIEW_REPLACED_KEYS,
    &metrics::VIEW_ORPHANS,
    &metrics::ROCKSDB_READS,
    &metrics::ROCKSDB_CACHE_HITS,
    &metrics::ROCKSDB_CACHE_MISSES,
    &metrics::ROCKSDB_CACHE_BYTES,
    &metrics::ROCKSDB_MEMTABLE_BYTES,
    &metrics::RESIDENT_BYTES,
];

/// Metrics that move in a test beside the code that counts them: the file, and the text there that shows it.
const ELSEWHERE: &[(&metrics::Metric, &str, &str)] = &[
    (&metrics::RESTORE_LEFT, "src/runtime/gauges.rs", "RESTORE_LEFT.name"),
    (&metrics::ENFORCED_REBALANCES, "tests/end_to_end.rs", "ENFORCED_REBALANCES.name"),
];

/// Metrics that no test moves, each with its reason.
const NOT_YET: &[(&metrics::Metric, &str)] = &[
    (&metrics::CUT_DEAD_LETTERS, "needs a topic that refuses a record by its size; tests/broker_faults.rs has one and looks at the letter"),
    (&metrics::UNWRITABLE_ROWS, "needs a topic that refuses a record by its size, which the log in process has not"),
    (&metrics::ROCKSDB_STALL_TIME, "needs a disk that is slower than the writes, for as long as the test runs"),
    (&metrics::REDIS_ERRORS, "needs a real Redis that refuses; tests/views_redis.rs has one and looks at the views, not at the counter"),
    (&metrics::VIEW_DROPPED_BATCHES, "needs a full queue; tests/views.rs fills one and looks at what Redis shows in the end"),
    (&metrics::VIEW_ORPHANS_KEPT, "needs a topic that is partitioned otherwise than by Kafka's clients"),
];

const TOPOLOGY: &str = r#"
version: 1
app: gauged
sources:
  created: { topic: created, fields: { id: string, name: string }, keyed_by: event.id }
tables:
  product: { key: string, from: { created: { set: { name: event.name } } } }
views:
  shown: { from: product, redis: { as: hash, key: "product:{key}" } }
"#;

/// A view whose keys follow from the rows: where each stands is in its ledger.
const BY_NAME: &str = r#"  by_name: { from: product, redis: { as: string, key: "by-name:{row.name}", value: key } }
"#;

fn driver() -> Driver {
    driver_of(TOPOLOGY)
}

fn driver_of(topology: &str) -> Driver {
    let (loaded, _) = topology::load(topology, "gauged.yaml");
    let plan = topology::plan(loaded.expect("a good file").topology);
    Driver::new(plan, DriverSettings { partitions: 1, ..DriverSettings::default() }, Vec::new()).unwrap()
}

fn send(driver: &mut Driver, id: &str, name: &str) {
    let value = Bytes::from(format!("{{\"id\":\"{id}\",\"name\":\"{name}\"}}"));
    let topic = Name::parse("created").unwrap();
    let key = Some(Bytes::copy_from_slice(id.as_bytes()));
    driver.send(&topic, None, key, Some(value), DriverSettings::default().starts_at, Headers::default()).unwrap();
}

fn sum(driver: &Driver, metric: &metrics::Metric) -> i64 {
    driver.metrics.sum(metric.name, &[])
}

/// Names of the metrics that some scenario expects to be more than 0.
fn expected_in_scenarios() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("topologies"), root.join("tests/scenarios")];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|ending| ending != "yaml") {
                continue;
            }
            let (loaded, _) = topology::load(&fs::read_to_string(&path).unwrap(), "scenario.yaml");
            let tests = loaded.map(|loaded| loaded.spec.tests).unwrap_or_default();
            for step in tests.iter().flat_map(|test| &test.steps) {
                if let StepKind::Expect(Expectation::Metric(metric)) = &step.what
                    && matches!(metric.is, MetricIs::Exactly(1..) | MetricIs::AtLeast(1..))
                {
                    found.insert(metric.metric.value.clone());
                }
            }
        }
    }
    found
}

#[test]
fn every_metric_moves_somewhere() {
    let in_scenarios = expected_in_scenarios();
    assert!(in_scenarios.len() > 15, "only {in_scenarios:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for metric in METRICS {
        let is = |known: &&metrics::Metric| known.name == metric.name;
        let mut places = usize::from(in_scenarios.contains(metric.name)) + HERE.iter().filter(|known| is(known)).count();
        for (_, file, text) in ELSEWHERE.iter().filter(|(known, _, _)| is(known)) {
            places += usize::from(fs::read_to_string(root.join(file)).is_ok_and(|found| found.contains(text)));
        }
        let is_listed = NOT_YET.iter().any(|(known, _)| is(known));
        match (places, is_listed) {
            (0, false) => wrong.push(format!("{} moves in no test", metric.name)),
            (1.., true) => wrong.push(format!("{} is listed as one that does not move, and moves", metric.name)),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_thread_shows_where_its_inputs_stand() {
    let mut driver = driver();
    send(&mut driver, "p1", "Tea");
    send(&mut driver, "p2", "Cup");
    driver.settle().unwrap();
    send(&mut driver, "p3", "Pot");
    // A second later, before it is read.
    driver.clock.advance_ms(1_000);
    driver.commit().unwrap();
    let labels = [("topic", "created"), ("partition", "0")];
    assert_eq!(driver.metrics.sum(metrics::POSITION.name, &labels), 2);
    assert_eq!(driver.metrics.sum(metrics::LAG.name, &labels), 1);
    driver.settle().unwrap();
    driver.clock.advance_ms(1_000);
    driver.commit().unwrap();
    assert_eq!((sum(&driver, &metrics::POSITION), sum(&driver, &metrics::LAG)), (3, 0));
    // The task goes to another worker, which has this test's metrics too: it shows the input, and the first one does not.
    driver.rebalance(0).unwrap();
    assert!(!driver.metrics.text().contains("millstream_position_offsets{"), "{}", driver.metrics.text());
}

#[test]
fn a_view_shows_how_far_behind_it_is() {
    let mut driver = driver();
    send(&mut driver, "p1", "Tea");
    driver.settle().unwrap();
    driver.redis.set_down(true);
    send(&mut driver, "p1", "Green tea");
    driver.clock.advance_ms(500);
    driver.settle().unwrap();
    driver.clock.advance_ms(5_000);
    driver.settle().unwrap();
    assert!(sum(&driver, &metrics::VIEW_LAG) > 0 && sum(&driver, &metrics::VIEW_AGE) > 0, "{}", driver.metrics.text());
    // What a crash loses of the queue is read from the store, once Redis is back.
    driver.crash().unwrap();
    driver.redis.set_down(false);
    driver.advance(60_000).unwrap();
    assert!(sum(&driver, &metrics::VIEW_REFILLS) > 0, "{}", driver.metrics.text());
    assert_eq!(sum(&driver, &metrics::VIEW_LAG), 0);
}

/// Both are about keys that somebody else wrote, or that nobody removed when their row went: where a row moves to another key the
/// ledger moves it, in the script that writes it, and neither counts.
#[test]
fn keys_in_redis_that_are_no_rows_are_counted() {
    let mut driver = driver_of(&format!("{TOPOLOGY}{BY_NAME}"));
    let now = Time(i64::MAX / 2);
    let counts = |driver: &Driver| (sum(driver, &metrics::VIEW_REPLACED_KEYS), sum(driver, &metrics::VIEW_ORPHANS));
    send(&mut driver, "p1", "Tea");
    driver.settle().unwrap();
    send(&mut driver, "p1", "Cup");
    driver.settle().unwrap();
    assert_eq!(driver.redis.get("by-name:Tea", now), None, "the row stands elsewhere now");
    assert_eq!(counts(&driver), (0, 0), "a row that moves replaces nothing and leaves nothing behind");
    driver.redis.with(|place| {
        place.put(b"product:p1", Held::String(b"mine".to_vec()));
        place.put(b"by-name:Pot", Held::Set([b"mine".to_vec()].into()));
    });
    send(&mut driver, "p1", "Pot");
    driver.settle().unwrap();
    // SET writes over a key of any type, as in Redis: only the hash met one that it could not write to.
    assert_eq!(counts(&driver), (1, 0), "a key of another type gives way");
    assert_eq!(driver.redis.get("by-name:Pot", now), Some(Held::String(b"p1".to_vec())));
    // Somebody writes over the watermarks, and rows are there that the table has not: one of each view.
    let entry = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    driver.redis.with(|place| {
        place.put(b"{gauged:shown:0}:wm", Held::Hash([entry("gen", "mine")].into()));
        place.put(b"{gauged:by_name:0}:wm", Held::Hash([entry("gen", "mine")].into()));
        place.put(b"product:p0", Held::Hash([entry("name", "Pan")].into()));
        place.put(b"by-name:Pan", Held::String(b"p0".to_vec()));
        place.put(b"{gauged:by_name}:owners", Held::Hash([entry("by-name:Pot", "p1"), entry("by-name:Pan", "p0")].into()));
        let ledger = place.hash(b"{gauged:by_name:0}:rows", now).cloned().unwrap();
        let gone = (b"p0".to_vec(), b"1.w U11:by-name:Pan".to_vec());
        place.put(b"{gauged:by_name:0}:rows", Held::Hash(ledger.into_iter().chain([gone]).collect()));
    });
    driver.advance(5_000).unwrap();
    assert_eq!(counts(&driver), (1, 2), "a rebuild removes what belongs to no row");
    let kept = driver.redis.with(|place| place.keys(now).filter(|key| !key.starts_with(b"{")).map(<[u8]>::to_vec).collect::<Vec<_>>());
    assert_eq!(kept, [b"by-name:Pot".to_vec(), b"product:p1".to_vec()]);
}

#[test]
fn a_scrape_asks_rocksdb_and_the_system() {
    let folder = std::env::temp_dir().join(format!("millstream-metrics-{}", std::process::id()));
    let shared = RocksShared::new(RocksMemory::default());
    let metrics = Metrics::new();
    show_rocks(&metrics, shared.clone());
    let app = Name::parse("gauged").unwrap();
    let open = |folder: &PathBuf| {
        let directory = Directory::open(folder, &app, TaskId { subtopology: 0, partition: 0 }).unwrap();
        let backend = RocksBackend::open(directory, &shared).unwrap();
        let stores = vec![StoreSpec { name: app.clone(), segment_ms: None }];
        TaskState::open(Box::new(backend), stores, CacheBudget::default()).unwrap()
    };
    let store = millstream::model::StoreId(0);
    let mut state = open(&folder);
    state.put(store, b"key", b"value").unwrap();
    state.seal(&Default::default()).unwrap();
    state.close().unwrap();
    // Opened anew, nothing is in memory: each row is read, the first from a file.
    for _ in 0..2 {
        let mut state = open(&folder);
        assert_eq!(state.get(store, b"key").unwrap(), Some(&b"value"[..]));
    }
    fs::remove_dir_all(&folder).unwrap();
    let count = |metric: &metrics::Metric| metrics.sum(metric.name, &[]);
    for metric in [&metrics::ROCKSDB_READS, &metrics::ROCKSDB_CACHE_MISSES, &metrics::ROCKSDB_CACHE_BYTES, &metrics::ROCKSDB_CACHE_HITS] {
        assert!(count(metric) > 0, "{}: {}", metric.name, metrics.text());
    }
    assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
}
