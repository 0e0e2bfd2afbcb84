//! What a run has left behind: rows in the stores, their changelogs, the output topics, dead letters, and Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use millstream::codec::json::to_json;
use millstream::log::memory::MemoryCluster;
use millstream::model::{Headers, Key, Name, StoreId, TableId, Time, Value};
use millstream::runtime::task::Task;
use millstream::state::layout::ROW_TAG;
use millstream::testkit::Driver;
use millstream::topology::names;
use millstream::topology::plan::StoreKind;
use serde_json::Value as Tree;

use crate::jobs::{Job, Shown};

pub const PARTITIONS: i32 = 2;

/// A store, in bytes.
type Raw = BTreeMap<Vec<u8>, Vec<u8>>;

/// Of a table, by key; in a windowed table by `key:start`.
pub type Labelled<T> = BTreeMap<String, T>;

#[derive(Default)]
pub struct Found {
    /// Rows that are shown.
    pub rows: BTreeMap<String, Labelled<Tree>>,
    /// Keys about which something is stored, shown or not.
    pub stored: BTreeMap<String, BTreeSet<String>>,
    /// Identities that are remembered.
    pub identities: usize,
    /// All records of the outputs, in order; `None`: a tombstone.
    pub outputs: BTreeMap<String, Labelled<Vec<Option<Tree>>>>,
    /// Hashes in Redis.
    pub views: BTreeMap<String, Labelled<BTreeMap<String, String>>>,
    pub letters: Vec<Letter>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Letter {
    pub table: String,
    pub reason: String,
    pub partition: i32,
    pub offset: i64,
}

impl Found {
    pub fn read(driver: &mut Driver, job: &Job) -> Found {
        let mut found = Found::read_edges(driver, job);
        found.read_stores(driver);
        found.letters = read_letters(driver);
        found
    }

    /// What others see at this moment: outputs and views.
    pub fn read_edges(driver: &Driver, job: &Job) -> Found {
        let mut found = Found::default();
        for shown in job.shown {
            found.outputs.insert(shown.table.to_owned(), read_output(driver, shown));
        }
        found.read_views(driver, job);
        found
    }

    /// What the tasks have committed; each key must be in one task.
    fn read_stores(&mut self, driver: &mut Driver) {
        let plan = driver.plan().clone();
        let cluster = driver.cluster.clone();
        let mut tasks = 0;
        for task in driver.threads().flat_map(|thread| thread.tasks_mut()) {
            tasks += 1;
            for (at, store) in plan.subtopologies[task.id.subtopology as usize].stores.iter().enumerate() {
                let stored = store.changelog.as_ref().map(|changelog| {
                    let is_windowed = plan.topology.tables[store.table.0].window.is_some() && store.kind == StoreKind::Rows;
                    compared(task, StoreId(at), changelog, is_windowed, &cluster)
                });
                match (stored, store.kind) {
                    (Some(stored), StoreKind::Rows) => self.note_rows(task, store.table, &stored),
                    (Some(stored), StoreKind::Dedupe) => self.identities += stored.len(),
                    _ => {}
                }
            }
        }
        assert_eq!(tasks, PARTITIONS as usize * plan.subtopologies.len(), "every task has one owner");
    }

    fn note_rows(&mut self, task: &Task, table: TableId, stored: &Raw) {
        let table = task.tables.iter().find(|known| known.id() == table).unwrap();
        let name = table.spec().name.to_string();
        let (keys, rows) = (self.stored.entry(name.clone()).or_default(), self.rows.entry(name).or_default());
        for (key, value) in stored.iter().filter(|(key, _)| key.first() == Some(&ROW_TAG)) {
            let (key, window) = table.name_of(&Key::from_slice(key));
            let label = label(&to_json(&key), window.map(|(start, _)| start.0));
            assert!(keys.insert(label.clone()), "{label} is in two tasks");
            if let Some(row) = table.show_stored(value).unwrap() {
                rows.insert(label, to_json(&Value::Object(row)));
            }
        }
    }

    /// What Redis shows now.
    pub fn read_views(&mut self, driver: &Driver, job: &Job) {
        let keys: Vec<String> =
            driver.redis.with(|place| place.keys(Time(i64::MAX / 2)).map(|key| String::from_utf8_lossy(key).into_owned()).collect());
        self.views = job.shown.iter().map(|shown| (shown.table.to_owned(), BTreeMap::new())).collect();
        for key in keys.iter().filter(|key| !key.starts_with('{')) {
            let (table, label) = key.split_once(':').unwrap();
            let fields = driver.redis.hash(key, Time(i64::MAX / 2)).unwrap().into_iter().collect();
            self.views.get_mut(table).unwrap().insert(label.to_owned(), fields);
        }
    }

    /// The rows of a table.
    pub fn rows(&self, table: &str) -> Labelled<Tree> {
        self.rows.get(table).cloned().unwrap_or_default()
    }

    /// Positions of a table's dead letters.
    pub fn letters_of<'f>(&'f self, table: &'f str) -> impl Iterator<Item = (i32, i64)> + 'f {
        self.letters.iter().filter(move |letter| letter.table == table).map(|letter| (letter.partition, letter.offset))
    }
}

/// A store as it was last committed, which must be what its changelog says.
fn compared(task: &mut Task, store: StoreId, changelog: &Name, is_windowed: bool, cluster: &MemoryCluster) -> Raw {
    let mut stored = Raw::new();
    let all = task.state.scan_committed(store, Bound::Unbounded, Bound::Unbounded, |key, value| {
        stored.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    all.unwrap();
    let mut logged = Raw::new();
    for record in cluster.committed_records(changelog, task.id.partition).unwrap() {
        let key = record.key.as_ref().unwrap().to_vec();
        match &record.value {
            Some(value) => _ = logged.insert(key, value.to_vec()),
            None => _ = logged.remove(&key),
        }
    }
    if is_windowed {
        // The store drops windows by their age; in the changelog they go by its retention.
        logged.retain(|key, _| stored.contains_key(key));
    }
    assert_eq!(stored, logged, "the store of `{changelog}` in partition {}, and the changelog", task.id.partition);
    stored
}

fn label(key: &Tree, start: Option<i64>) -> String {
    let key = key.as_str().unwrap();
    start.map_or(key.to_owned(), |start| format!("{key}:{start}"))
}

fn read_output(driver: &Driver, shown: &Shown) -> Labelled<Vec<Option<Tree>>> {
    let mut all: Labelled<Vec<Option<Tree>>> = BTreeMap::new();
    let topic = Name::parse(&format!("out.{}", shown.table)).unwrap();
    for partition in 0..PARTITIONS {
        for record in driver.cluster.committed_records(&topic, partition).unwrap() {
            let key = record.key.as_ref().unwrap();
            let label = if shown.is_windowed {
                let key: Tree = serde_json::from_slice(key).unwrap();
                label(&key["key"], key["start"].as_i64())
            } else {
                String::from_utf8(key.to_vec()).unwrap()
            };
            let value = record.value.as_ref().map(|bytes| serde_json::from_slice(bytes).unwrap());
            all.entry(label).or_default().push(value);
        }
    }
    all
}

fn read_letters(driver: &Driver) -> Vec<Letter> {
    let topic = names::dead_letters(&driver.plan().topology.app);
    let mut letters = Vec::new();
    for partition in 0..PARTITIONS {
        for record in driver.cluster.committed_records(&topic, partition).unwrap() {
            let header = |name: &str| text(&record.headers, name);
            let detail = header("millstream-detail");
            let table = detail.split_once("of `").and_then(|(_, rest)| rest.split_once('`')).map(|(table, _)| table.to_owned());
            letters.push(Letter {
                table: table.unwrap_or(detail),
                reason: header("millstream-reason"),
                partition: header("millstream-partition").parse().unwrap(),
                offset: header("millstream-offset").parse().unwrap(),
            });
        }
    }
    letters
}

fn text(headers: &Headers, name: &str) -> String {
    let found = headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref());
    String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
}
