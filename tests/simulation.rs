//! A seed gives records, their interleaving, crashes, rebalances and faults of the log; the result equals a naive fold.
//!
//! Runs the real loop, store and commit on the in-process log. The oracle below shares no code with the engine: it looks at
//! all records of a key at once and says what the row is. `SIMULATION_SEEDS=N` sets how many seeds run (default 1,000),
//! `SIMULATION_SEED=N` runs one of them. A run in which nothing failed inside an open transaction proves nothing of the commit:
//! over all seeds there must be many that did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use millstream::codec::json::to_json;
use millstream::log::LogErrorKind;
use millstream::log::memory::{Call, Fault};
use millstream::model::{Headers, Name, TableId, Time, Value};
use millstream::state::CacheBudget;
use millstream::testkit::{Driver, DriverSettings};
use millstream::topology;
use serde_json::{Value as Tree, json};

const TOPOLOGY: &str = r#"
version: 1
app: simulated
sources:
  created: { topic: created, fields: { id: string, name: string, at: timestamp }, keyed_by: event.id, time: event.at }
  priced: { topic: priced, fields: { id: string, price: decimal, at: timestamp }, keyed_by: event.id, time: event.at }
tables:
  product:
    from:
      created: { role: owner, set: { name: event.name } }
      priced: { role: contributor, set: { price: event.price }, when_owner_missing: { do: placeholder } }
  sums:
    from:
      priced: { set: { total: { sum: event.price }, n: { count: {} } }, on_tombstone: ignore }
views:
  card: { from: product, when: row.complete, redis: { as: hash, key: "product:{key}", fields: { name: row.name, price: string(row.price) } } }
outputs:
  cards: { from: product, topic: cards, when: row.complete }
"#;

const KEYS: u64 = 6;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// A record as it was sent.
#[derive(Clone, Debug)]
struct Sent {
    is_owner: bool,
    /// `None`: a tombstone.
    value: Option<String>,
    time: i64,
    offset: i64,
}

/// What the rows of a key must be, from all of its records at once.
fn oracle(records: &[Sent]) -> (Option<Tree>, Option<Tree>) {
    let deletes = |is_owner: bool| records.iter().filter(move |record| record.is_owner == is_owner && record.value.is_none());
    let is_dead = |record: &Sent| {
        deletes(record.is_owner).any(|delete| (record.time, record.offset) <= (delete.time, delete.offset))
            || (!record.is_owner && deletes(true).any(|delete| record.time <= delete.time))
    };
    let newest = |is_owner: bool| {
        let upserts = records.iter().filter(|record| record.is_owner == is_owner && record.value.is_some());
        upserts.max_by_key(|record| (record.time, record.offset)).filter(|record| !is_dead(record))
    };
    let (owner, price) = (newest(true), newest(false));
    let row = (owner.is_some() || price.is_some()).then(|| {
        json!({
            "name": owner.map(|record| record.value.clone()),
            "price": price.map(|record| record.value.clone()),
            "complete": owner.is_some(),
        })
    });
    let prices: Vec<i64> =
        records.iter().filter(|record| !record.is_owner).filter_map(|record| record.value.as_ref()?.parse().ok()).collect();
    let sums = (!prices.is_empty()).then(|| json!({ "total": prices.iter().sum::<i64>().to_string(), "n": prices.len() }));
    (row, sums)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// Runs one seed. Returns how many faults hit an open transaction.
fn run(seed: u64) -> u64 {
    let mut random = Random(seed);
    let (loaded, diagnostics) = topology::load(TOPOLOGY, "simulated.yaml");
    let loaded =
        loaded.unwrap_or_else(|| panic!("{}", millstream::config::render::render(&diagnostics, millstream::config::render::Look::Plain)));
    // Small caches, so that rows are written back and read again.
    let budget = CacheBudget { cache_bytes: 600, dirty_bytes: 300, restore_tail_max: 20, ..CacheBudget::default() };
    let settings = DriverSettings { partitions: 2, budget, ..DriverSettings::default() };
    let mut driver = Driver::new(topology::plan(loaded.topology), settings, Vec::new()).unwrap();
    let faults = Arc::new(AtomicU64::new(0));
    let mut sent: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
    let start = 1_767_225_600_000;
    for step in 0..40 {
        arm(&driver, &mut random, &faults);
        for _ in 0..random.below(6) {
            let key = format!("k{}", random.below(KEYS));
            let is_owner = random.below(3) == 0;
            let time = start + random.below(50) as i64 * 1000;
            let topic = name(if is_owner { "created" } else { "priced" });
            let field = if is_owner { format!("n{step}") } else { random.below(100).to_string() };
            let value = (random.below(5) != 0).then_some(field);
            let json = value.as_ref().map(|field| {
                let name = if is_owner { "name" } else { "price" };
                Bytes::from(json!({ "id": key, name: field, "at": time }).to_string())
            });
            let (_, offset) = driver.send(&topic, None, Some(Bytes::from(key.clone())), json, Time(time), Headers::default()).unwrap();
            sent.entry(key).or_default().push(Sent { is_owner, value, time, offset });
        }
        match random.below(8) {
            0 => driver.crash().unwrap(),
            1 => driver.rebalance(1 + random.below(3) as usize).unwrap(),
            2 => driver.commit().unwrap(),
            3 => driver.settle().unwrap(),
            4 => {
                // A crash with work done and not committed.
                driver.process().unwrap();
                driver.crash().unwrap();
            }
            _ => driver.process().unwrap(),
        }
        if random.below(3) == 0 {
            driver.cluster.deliver_delayed();
        }
    }
    driver.cluster.set_faults(None);
    driver.cluster.deliver_delayed();
    driver.settle().unwrap();
    driver.advance(5_000).unwrap();
    check(seed, &mut driver, &sent);
    faults.load(Ordering::Relaxed)
}

/// Faults at the steps of the commit, some of the time.
fn arm(driver: &Driver, random: &mut Random, count: &Arc<AtomicU64>) {
    let mut own = Random(random.below(u64::MAX));
    let count = count.clone();
    let often = random.below(4);
    driver.cluster.set_faults(Some(Box::new(move |call, _client| {
        let is_commit = matches!(call, Call::Flush | Call::SendOffsets | Call::Commit | Call::Abort);
        if often != 0 || !is_commit || own.below(4) != 0 {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Some(match (call, own.below(4)) {
            (Call::Commit | Call::Abort, 0) => Fault::Delayed,
            (Call::Commit, 1) => Fault::After(LogErrorKind::Unknown),
            (Call::Commit, 2) => Fault::Before(LogErrorKind::Unknown),
            (Call::SendOffsets, 0) => Fault::Before(LogErrorKind::Fenced),
            _ => Fault::Before(LogErrorKind::Abort),
        })
    })));
}

fn check(seed: u64, driver: &mut Driver, sent: &BTreeMap<String, Vec<Sent>>) {
    let none = Vec::new();
    for number in 0..KEYS {
        let key = format!("k{number}");
        let records = sent.get(&key).unwrap_or(&none);
        let (row, sums) = oracle(records);
        assert_eq!(stored(driver, 0, &key), row, "seed {seed}: the row of {key}, from {records:#?}");
        assert_eq!(stored(driver, 1, &key), sums, "seed {seed}: the sums of {key}, from {records:#?}");
        // Redis shows exactly the complete rows.
        let card = row.as_ref().filter(|row| row["complete"] == true).map(|row| {
            let fields = ["name", "price"].into_iter();
            fields.filter_map(|field| Some((field.to_owned(), row[field].as_str()?.to_owned()))).collect::<BTreeMap<_, _>>()
        });
        let now = Time(i64::MAX / 2);
        let shown = driver.redis.hash(&format!("product:{key}"), now).map(|fields| fields.into_iter().collect::<BTreeMap<_, _>>());
        assert_eq!(shown, card, "seed {seed}: the card of {key} in Redis");
        // The last record of the output is the row, or a tombstone, or nothing was ever shown.
        let mut last = None;
        for partition in 0..2 {
            for record in driver.cluster.committed_records(&name("cards"), partition).unwrap() {
                if record.key.as_deref() == Some(key.as_bytes()) {
                    last = Some(record.value.clone());
                }
            }
        }
        let output: Option<Tree> = last.flatten().map(|bytes| serde_json::from_slice(&bytes).unwrap());
        assert_eq!(output, row.filter(|row| row["complete"] == true), "seed {seed}: the last output of {key}");
    }
}

/// The committed row of a key, from whichever worker has it.
fn stored(driver: &mut Driver, table: usize, key: &str) -> Option<Tree> {
    let mut store_key = millstream::model::Key::from_slice(&[1]);
    store_key.extend_from_slice(key.as_bytes());
    for thread in driver.threads() {
        for task in thread.tasks_mut() {
            let at = task.tables.iter().position(|known| known.id() == TableId(table));
            let Some(at) = at else { continue };
            let store = task.tables[at].rows();
            let Some(bytes) = task.state.get_committed(store, &store_key).unwrap() else { continue };
            if let Some(row) = task.tables[at].show_stored(bytes).unwrap() {
                return Some(to_json(&Value::Object(row)));
            }
        }
    }
    None
}

#[test]
fn every_seed_ends_in_the_rows_of_the_naive_fold() {
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let seeds = std::env::var("SIMULATION_SEEDS").map_or(1000, |text| text.parse().unwrap());
    let mut faults = 0;
    for seed in 0..seeds {
        faults += run(seed);
    }
    println!("{seeds} seeds, {faults} faults at steps of a commit");
    assert!(faults > seeds / 2, "only {faults} faults in {seeds} seeds: the commit was hardly tested");
}
