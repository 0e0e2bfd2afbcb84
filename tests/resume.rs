//! Where a task goes on after a stop, when the group or a changelog does not remember what it should: on the in-process log, with
//! the clock in hand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream::log::memory::{Call, Fault, Tombstones};
use millstream::log::{LogErrorKind, Outgoing, Producer, ProducerSettings};
use millstream::model::{Headers, Name, Offset, TableId, Time};
use millstream::runtime::restore::TOMBSTONES_SAFE_MS;
use millstream::runtime::settings::Guarantee;
use millstream::runtime::task::RECOMMIT_EVERY_MS;
use millstream::runtime::watch;
use millstream::testkit::{Driver, DriverSettings};
use millstream::topology;

const TOPOLOGY: &str = r#"
version: 1
app: shop
sources:
  made: { topic: made, fields: { name: string }, key: string }
  sold: { topic: sold, fields: { n: int }, key: string }
tables:
  item:
    from:
      made: { role: owner, set: { name: event.name } }
      sold: { role: contributor, set: { n: { sum: event.n } }, on_tombstone: ignore, when_owner_missing: { do: placeholder } }
outputs:
  items: { from: item, topic: items }
"#;

const START: i64 = 1_767_225_600_000;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn shop() -> Driver {
    shop_of(1)
}

fn shop_of(partitions: i32) -> Driver {
    shop_with(DriverSettings { partitions, ..DriverSettings::default() })
}

fn shop_with(settings: DriverSettings) -> Driver {
    let (loaded, diagnostics) = topology::load(TOPOLOGY, "shop.yaml");
    let plain = millstream::config::render::Look::Plain;
    let loaded = loaded.unwrap_or_else(|| panic!("{}", millstream::config::render::render(&diagnostics, plain)));
    Driver::new(topology::plan(loaded.topology), settings, Vec::new()).unwrap()
}

fn sell(driver: &mut Driver, key: &str, n: i64) {
    let value = Bytes::from(format!(r#"{{"n":{n}}}"#));
    driver.send(&name("sold"), None, Some(Bytes::from(key.to_owned())), Some(value), Time(START), Headers::default()).unwrap();
}

fn make(driver: &mut Driver, key: &str) {
    let value = Bytes::from(r#"{"name":"tea"}"#);
    driver.send(&name("made"), None, Some(Bytes::from(key.to_owned())), Some(value), Time(START), Headers::default()).unwrap();
}

/// The sum in the committed row of a key.
fn sum(driver: &mut Driver, key: &str) -> Option<i64> {
    let mut store_key = millstream::model::Key::from_slice(&[1]);
    store_key.extend_from_slice(key.as_bytes());
    for thread in driver.threads() {
        for task in thread.tasks_mut() {
            let at = task.tables.iter().position(|known| known.id() == TableId(0)).unwrap();
            let store = task.tables[at].rows();
            let Some(bytes) = task.state.get_committed(store, &store_key).unwrap() else { continue };
            let row = task.tables[at].show_stored(bytes).unwrap().unwrap();
            return millstream::codec::json::to_json(&millstream::model::Value::Object(row))["n"].as_i64();
        }
    }
    None
}

/// Somebody else's transaction.
fn transaction(driver: &Driver, id: &str) -> Box<dyn Producer> {
    let settings =
        ProducerSettings { transactional_id: Some(name(id)), transaction_timeout: Duration::from_secs(60), linger: Duration::ZERO };
    let mut producer = driver.cluster.log().producer(&settings).unwrap();
    producer.init_transactions(Duration::ZERO).unwrap();
    producer.begin().unwrap();
    producer
}

/// Counts the transactions that carry offsets.
fn count_offsets(driver: &Driver) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    driver.cluster.set_faults(Some(Box::new(move |call, _| {
        if call == Call::SendOffsets {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    })));
    count
}

fn committed(driver: &Driver, topic: &str) -> Option<Offset> {
    driver.cluster.committed_offset(&name("shop"), &name(topic), 0)
}

#[test]
fn the_first_commit_tells_the_group_of_every_input() {
    let mut driver = shop();
    assert_eq!((committed(&driver, "made"), committed(&driver, "sold")), (None, None));
    sell(&mut driver, "a", 1);
    driver.settle().unwrap();
    assert_eq!((committed(&driver, "made"), committed(&driver, "sold")), (Some(Offset(0)), Some(Offset(1))));
}

#[test]
fn offsets_of_idle_inputs_are_committed_again_daily() {
    let mut driver = shop();
    sell(&mut driver, "a", 1);
    driver.settle().unwrap();
    let count = count_offsets(&driver);
    driver.advance(RECOMMIT_EVERY_MS - 1).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 0, "nothing new, and the day is not over");
    // What a broker does to offsets whose last commit is a week ago.
    driver.cluster.expire_offset(&name("shop"), &name("made"), 0);
    driver.advance(1).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!((committed(&driver, "made"), committed(&driver, "sold")), (Some(Offset(0)), Some(Offset(1))));
    driver.advance(RECOMMIT_EVERY_MS / 2).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1, "once a day");
    // An input that is busy does not keep the offset of the idle one alive, nor the other way round.
    sell(&mut driver, "a", 1);
    driver.advance(RECOMMIT_EVERY_MS / 2).unwrap();
    driver.cluster.expire_offset(&name("shop"), &name("made"), 0);
    driver.advance(RECOMMIT_EVERY_MS).unwrap();
    assert_eq!((committed(&driver, "made"), committed(&driver, "sold")), (Some(Offset(0)), Some(Offset(2))));
}

#[test]
fn offsets_are_committed_again_soon_after_a_task_was_opened() {
    let mut driver = shop();
    sell(&mut driver, "a", 1);
    driver.settle().unwrap();
    driver.crash().unwrap();
    let count = count_offsets(&driver);
    driver.settle().unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 0, "tasks move in peace");
    driver.advance(60_000).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1, "nobody knows when the last owner did it");
}

/// KAFKA-20416: a coordinator that resigns answered "no committed offset", which was read as 0; a table was built again from the
/// start on top of what it had, and an empty one was served elsewhere.
#[test]
fn kafka_20416_no_committed_offset_is_never_read_as_zero() {
    let mut driver = shop();
    for _ in 0..5 {
        sell(&mut driver, "a", 2);
    }
    make(&mut driver, "a");
    driver.settle().unwrap();
    assert_eq!(sum(&mut driver, "a"), Some(10));
    // For a moment only: the group remembers before it is believed that it does not.
    let known = (committed(&driver, "made").unwrap(), committed(&driver, "sold").unwrap());
    assert_eq!(known, (Offset(1), Offset(5)));
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    driver.cluster.set_faults(Some(Box::new(move |call, _| {
        (call == Call::Committed && counted.fetch_add(1, Ordering::Relaxed) < 3).then_some(Fault::NoOffsets)
    })));
    driver.crash().unwrap();
    driver.settle().unwrap();
    driver.cluster.set_faults(None);
    assert!(asked.load(Ordering::Relaxed) > 3);
    assert_eq!(sum(&mut driver, "a"), Some(10), "nothing was counted twice");
    sell(&mut driver, "a", 1);
    driver.settle().unwrap();
    assert_eq!(sum(&mut driver, "a"), Some(11));
}

#[test]
fn lost_offsets_are_taken_from_the_folder_where_it_has_every_row() {
    let mut driver = shop();
    sell(&mut driver, "a", 2);
    driver.settle().unwrap();
    // A clean stop: what is on disk is what is in the changelog.
    driver.rebalance(0).unwrap();
    for topic in ["made", "sold"] {
        driver.cluster.expire_offset(&name("shop"), &name(topic), 0);
    }
    sell(&mut driver, "a", 3);
    driver.rebalance(1).unwrap();
    driver.settle().unwrap();
    assert_eq!(sum(&mut driver, "a"), Some(5));
}

#[test]
fn lost_offsets_end_the_worker_where_the_folder_is_older_than_the_changelog() {
    let mut driver = shop();
    sell(&mut driver, "a", 2);
    driver.settle().unwrap();
    driver.rebalance(0).unwrap();
    driver.rebalance(1).unwrap();
    sell(&mut driver, "a", 2);
    driver.settle().unwrap();
    for topic in ["made", "sold"] {
        driver.cluster.expire_offset(&name("shop"), &name(topic), 0);
    }
    // Not flushed: the folder's offset is 1, the changelog has the row with both.
    let refused = driver.crash().unwrap_err().to_string();
    assert!(refused.contains("group `shop` has no committed offset for `sold` partition 0, although the table has rows"), "{refused}");
    assert!(refused.contains("--reset-offsets"), "{refused}");
}

#[test]
fn a_source_that_is_new_to_a_table_with_rows_is_read_from_its_start() {
    let mut driver = shop();
    sell(&mut driver, "a", 2);
    driver.settle().unwrap();
    driver.rebalance(0).unwrap();
    // As if `made` were new in the file: neither the group nor, on another machine, a folder knows it.
    driver.cluster.expire_offset(&name("shop"), &name("made"), 0);
    driver.forget_disks();
    make(&mut driver, "a");
    driver.rebalance(1).unwrap();
    driver.settle().unwrap();
    assert_eq!((sum(&mut driver, "a"), committed(&driver, "made")), (Some(2), Some(Offset(1))));
}

#[test]
fn a_store_below_the_start_of_its_changelog_is_filled_anew() {
    let mut driver = shop();
    sell(&mut driver, "gone", 1);
    sell(&mut driver, "kept", 1);
    driver.settle().unwrap();
    // On disk, at the changelog's offset of now.
    driver.rebalance(0).unwrap();
    driver.rebalance(1).unwrap();
    let changelog = name("shop-item-changelog");
    let (_, end) = driver.cluster.log().reader().unwrap().bounds(&changelog, 0, Duration::ZERO).unwrap();
    sell(&mut driver, "kept", 1);
    driver.settle().unwrap();
    // Compaction, or retention, has passed the offset on disk: `gone` is in the changelog no more.
    driver.cluster.log().admin().unwrap().delete_records(&changelog, 0, Offset(end.0 + 1), Duration::ZERO).unwrap();
    driver.crash().unwrap();
    driver.settle().unwrap();
    assert_eq!(sum(&mut driver, "gone"), None, "a row that the log does not have is not served from an old disk");
}

/// A worker comes back to a folder that it left a while ago. Meanwhile another owner has deleted a row, and compaction has removed first
/// the row and then the tombstone (`delete.retention.ms`): nothing in the log takes the row off the old disk.
#[test]
fn a_folder_that_may_have_missed_tombstones_is_filled_anew() {
    for (age_ms, gone) in [(TOMBSTONES_SAFE_MS - 1, Some(1)), (TOMBSTONES_SAFE_MS, None)] {
        let mut driver = shop();
        sell(&mut driver, "gone", 1);
        sell(&mut driver, "kept", 1);
        driver.settle().unwrap();
        driver.rebalance(0).unwrap();
        let mut elsewhere = transaction(&driver, "elsewhere");
        let (topic, _) = elsewhere.topic(&name("shop-item-changelog")).unwrap();
        let (time, headers) = (Time(START), Headers::default());
        let record = Outgoing { topic, partition: 0, key: Some(b"\x01gone"), value: None, time, keep_time: false, headers: &headers };
        elsewhere.send(record).unwrap();
        elsewhere.flush(Duration::ZERO).unwrap();
        elsewhere.commit(Duration::ZERO).unwrap();
        driver.cluster.clean(Tombstones::Remove);
        driver.advance(age_ms).unwrap();
        driver.rebalance(1).unwrap();
        driver.settle().unwrap();
        // Within the time Kafka does not do what was done here; that the row is there shows that only the tail was read.
        assert_eq!((sum(&mut driver, "gone"), sum(&mut driver, "kept")), (gone, Some(1)), "after {age_ms} ms");
    }
}

#[test]
fn a_cluster_that_changes_under_a_worker_is_seen_and_named() {
    let mut driver = shop();
    let app = driver.threads().next().unwrap().app().clone();
    let admin = driver.cluster.log().admin().unwrap();
    let look = || watch::look(&app, admin.as_ref()).unwrap();
    assert_eq!(look(), []);
    admin.add_partitions(&name("sold"), 2, Duration::ZERO).unwrap();
    let told = |expected: &[(bool, &str)]| {
        let seen: Vec<(bool, String)> = look().iter().map(|change| (change.is_fatal(), change.to_string())).collect();
        let start = "topics have changed while the worker ran: ";
        let expected: Vec<(bool, String)> = expected.iter().map(|(is_fatal, text)| (*is_fatal, format!("{start}{text}"))).collect();
        assert_eq!(seen, expected);
    };
    let grown = "input `sold` had 1 partitions and has 2: keys have moved between partitions, so rows would be split; use a new app name, or delete \
                 the app's internal topics, group and state folders to start anew";
    told(&[(true, grown)]);
    admin.add_partitions(&name("items"), 3, Duration::ZERO).unwrap();
    let output = "output `items` had 1 partitions and has 3: restart the workers, so that they write to all of them";
    told(&[(false, output), (true, grown)]);
    driver.cluster.delete_topic(&name("sold"));
    let missing =
        "input `sold` does not exist any more: make it again with as many partitions, or correct the topology file, then start the worker";
    told(&[(false, output), (true, missing)]);
    driver.cluster.create_topic(&name("sold"), 1).unwrap();
    let remade = "input `sold` was deleted and made again, its offsets count from 0: start the worker again; it says for each partition where it \
                  cannot go on by itself";
    told(&[(false, output), (true, remade)]);
    // Another worker has found more tasks: that is no change of ours.
    admin.add_partitions(&name("shop-tasks"), 2, Duration::ZERO).unwrap();
    driver.cluster.delete_topic(&name("shop-item-changelog"));
    let changelog = "changelog `shop-item-changelog` does not exist any more: the rows in it are gone; use a new app name, or delete the app's internal \
                     topics, group and state folders to start anew";
    told(&[(false, output), (true, remade), (true, changelog)]);
}

/// A task that is being restored takes no part in the commits of its neighbours on the same thread: they would tell its folder that it
/// stands at the start of its changelog.
#[test]
fn a_neighbours_commit_does_not_touch_a_restore() {
    let mut driver = shop_of(2);
    let put = |driver: &mut Driver, partition: i32| {
        let (key, value) = (Bytes::from(format!("k{partition}")), Bytes::from(r#"{"n":1}"#));
        driver.send(&name("sold"), Some(partition), Some(key), Some(value), Time(START), Headers::default()).unwrap();
    };
    (0..2).for_each(|partition| put(&mut driver, partition));
    driver.settle().unwrap();
    driver.rebalance(0).unwrap();
    // Somebody's transaction in the changelog of partition 1 is open: its restore waits for the end.
    let mut slow = transaction(&driver, "slow");
    let (topic, _) = slow.topic(&name("shop-item-changelog")).unwrap();
    let (time, headers) = (Time(START), Headers::default());
    slow.send(Outgoing { topic, partition: 1, key: Some(b"x"), value: None, time, keep_time: false, headers: &headers }).unwrap();
    slow.flush(Duration::ZERO).unwrap();
    put(&mut driver, 0);
    let waits = driver.rebalance(1).unwrap_err();
    assert!(waits.to_string().contains("did not come to rest"), "{waits}");
    driver.commit().unwrap();
    let offsets = |driver: &mut Driver| -> Vec<(bool, Option<Offset>)> {
        let tasks = driver.threads().flat_map(|thread| thread.tasks().collect::<Vec<_>>());
        tasks.map(|task| (task.is_restored(), task.state.offsets().changelog(task.tables[0].rows()))).collect()
    };
    assert_eq!(offsets(&mut driver), [(true, Some(Offset(4))), (false, Some(Offset(2)))]);
    slow.abort(Duration::ZERO).unwrap();
    driver.settle().unwrap();
    assert!(offsets(&mut driver).iter().all(|(is_restored, _)| *is_restored));
}

/// What was written stays, though its offsets were not committed: it is read and counted again, and nothing is lost.
#[test]
fn at_least_once_counts_again_what_it_has_no_offset_of() {
    for (guarantee, expected) in [(Guarantee::AtLeastOnce, 5), (Guarantee::ExactlyOnce, 3)] {
        let mut driver = shop_with(DriverSettings { partitions: 1, guarantee, ..DriverSettings::default() });
        make(&mut driver, "a");
        sell(&mut driver, "a", 1);
        driver.settle().unwrap();
        assert_eq!((sum(&mut driver, "a"), committed(&driver, "sold")), (Some(1), Some(Offset(1))), "{guarantee:?}");
        driver.cluster.set_faults(Some(Box::new(|call, _| {
            matches!(call, Call::CommitOffsets | Call::SendOffsets).then_some(Fault::Before(LogErrorKind::Unknown))
        })));
        sell(&mut driver, "a", 2);
        driver.process().unwrap();
        let _ = driver.commit();
        driver.crash().unwrap();
        driver.cluster.set_faults(None);
        driver.settle().unwrap();
        assert_eq!((sum(&mut driver, "a"), committed(&driver, "sold")), (Some(expected), Some(Offset(2))), "{guarantee:?}");
    }
}
