//! Windows that close while more is going on: a crowd of them at once, with commits between the portions in which timers fire; a
//! late record in the batch that closes its window. Each window leaves once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use millstream::model::{Headers, Time};
use millstream::operators::fold::table::TIMERS_PER_TICK_MAX;
use millstream::testkit::driver::{Driver, DriverSettings};
use millstream::topology;

const TOPOLOGY: &str = "
version: 1
app: crowd
sources:
  tick: { topic: ticks, fields: { id: string, at: timestamp }, keyed_by: event.id, time: event.at }
tables:
  minute:
    window: { tumbling: 1m, grace: 0s, keep: 1m }
    emit: closed
    from: { tick: { set: { n: { count: {} } } } }
outputs:
  out: { from: minute, topic: minutes }
";

fn driver(topology: &str) -> Driver {
    let (loaded, diagnostics) = topology::load(topology, "windows.yaml");
    let loaded = loaded.unwrap_or_else(|| panic!("{diagnostics:?}"));
    let settings = DriverSettings { partitions: 1, ..DriverSettings::default() };
    Driver::new(topology::plan(loaded.topology), settings, Vec::new()).unwrap()
}

fn send(driver: &mut Driver, key: &str, at: &str) {
    let topic = driver.plan().topology.sources[0].topic.clone();
    let value = format!(r#"{{"id":"{key}","at":"{at}"}}"#);
    driver.send(&topic, Some(0), Some(Bytes::from(key.to_owned())), Some(value.into()), Time(0), Headers::default()).unwrap();
}

/// Counts the windows that left since the last call; returns how many these are.
fn take(driver: &Driver, left: &mut BTreeMap<String, usize>) -> usize {
    let outputs: Vec<_> = driver.tap.take().into_iter().flat_map(|committed| committed.outputs).collect();
    for output in &outputs {
        *left.entry(format!("{:?}", output.key)).or_default() += 1;
    }
    outputs.len()
}

#[test]
fn each_leaves_once_though_commits_come_between() {
    let mut driver = driver(TOPOLOGY);
    let crowd = TIMERS_PER_TICK_MAX * 2 + 10;
    for key in 0..crowd {
        send(&mut driver, &format!("k{key}"), "2026-01-01T00:00:10Z");
    }
    driver.settle().unwrap();
    let mut left = BTreeMap::new();
    assert_eq!(take(&driver, &mut left), 0, "none is due");
    // A day later: all of them are due, and long past what is kept.
    send(&mut driver, "last", "2026-01-02T00:00:00Z");
    for turn in 0..10 {
        for thread in driver.threads() {
            thread.turn(Duration::ZERO).unwrap();
            thread.commit_turn().unwrap();
        }
        let portion = take(&driver, &mut left);
        assert!(portion <= TIMERS_PER_TICK_MAX, "{portion} left at once in turn {turn}");
        if turn == 1 {
            driver.crash().unwrap();
        }
    }
    driver.settle().unwrap();
    take(&driver, &mut left);
    assert_eq!(left.len(), crowd, "windows that left");
    assert!(left.values().all(|times| *times == 1), "some left more than once");
    driver.crash().unwrap();
    driver.settle().unwrap();
    assert_eq!(take(&driver, &mut left), 0, "some left again after a crash");
}

/// The record that closes a window, and one that amends it, are processed before any timer fires.
#[test]
fn one_that_is_amended_before_it_has_left_leaves_once() {
    let mut driver = driver(&TOPOLOGY.replace("emit: closed", "emit: closed\n    on_late: amend").replace("keep: 1m", "keep: 1h"));
    for at in ["2026-01-01T00:00:10Z", "2026-01-01T00:01:00Z", "2026-01-01T00:00:20Z"] {
        send(&mut driver, "k", at);
    }
    driver.settle().unwrap();
    let outputs: Vec<_> = driver.tap.take().into_iter().flat_map(|committed| committed.outputs).collect();
    let texts: Vec<_> = outputs.iter().map(|output| String::from_utf8(output.bytes.clone().unwrap().to_vec()).unwrap()).collect();
    assert_eq!(texts, [r#"{"n":2}"#]);
}

/// A view has what left its table, however it came by it: with the change, or by reading the table again.
#[test]
fn a_view_that_is_written_anew_shows_no_window_that_is_open() {
    let view = "views:\n  shown: { from: minute, redis: { as: hash, key: \"{key}:{unix_ms(window.start)}\" } }\n";
    let mut driver = driver(&format!("{TOPOLOGY}{view}"));
    let shown = |driver: &Driver| {
        let keys: Vec<Vec<u8>> = driver.redis.with(|place| place.keys(Time(0)).map(<[u8]>::to_vec).collect());
        let keys = keys.into_iter().map(|key| String::from_utf8(key).unwrap());
        keys.filter(|key| !key.starts_with('{')).collect::<Vec<_>>()
    };
    send(&mut driver, "k", "2026-01-01T00:00:10Z");
    driver.settle().unwrap();
    assert_eq!(shown(&driver), Vec::<String>::new());
    driver.redis.with(millstream::views::place::MemoryPlace::flush);
    driver.advance(5_000).unwrap();
    assert_eq!(shown(&driver), Vec::<String>::new(), "the window is open");
    send(&mut driver, "k", "2026-01-01T00:01:00Z");
    driver.settle().unwrap();
    assert_eq!(shown(&driver), ["k:1767225600000"], "the first has closed");
    driver.redis.with(millstream::views::place::MemoryPlace::flush);
    driver.advance(5_000).unwrap();
    assert_eq!(shown(&driver), ["k:1767225600000"], "the second is open");
}
