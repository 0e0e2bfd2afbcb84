//! What a stream thread does between polls and commits, on the in-process log.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream::metrics;
use millstream::model::{Clock, Headers, Name, Offset, TableId, TaskId, Time};
use millstream::runtime::StreamThread;
use millstream::runtime::commit::Outcome;
use millstream::runtime::observe::{Committed, Observer};
use millstream::runtime::task::Task;
use millstream::testkit::{Driver, DriverSettings};
use millstream::topology;

const TOPOLOGY: &str = "
version: 1
app: threads
sources:
  priced: { topic: priced, fields: { id: string, price: decimal }, keyed_by: event.id }
tables:
  price: { from: { priced: { set: { price: event.price } } } }
";

/// What waits a minute for its owner, then is a dead letter.
const WAITING: &str = "
version: 1
app: threads
sources:
  made: { topic: made, fields: { name: string }, key: string }
  priced: { topic: priced, fields: { price: decimal }, key: string }
tables:
  item:
    from:
      made: { role: owner, set: { name: event.name } }
      priced: { role: contributor, set: { price: event.price }, when_owner_missing: { do: buffer, max_wait: 1m, on_timeout: dead_letter } }
";

/// An edge that can hold the threads back.
#[derive(Default)]
struct Holder(AtomicBool);

impl Observer for Holder {
    fn opened(&self, _task: TaskId, _tables: &[(TableId, Name, Offset)]) {}
    fn closed(&self, _task: TaskId, _tables: &[TableId]) {}
    fn committed(&self, _committed: &Committed) {}
    fn wants_changes(&self, _table: TableId) -> bool {
        false
    }
    fn holds_input(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn send(driver: &mut Driver, price: &str) {
    let value = Bytes::from(format!(r#"{{"id":"a","price":"{price}"}}"#));
    let topic = Name::parse("priced").unwrap();
    driver.send(&topic, None, Some(Bytes::from_static(b"a")), Some(value), Time(1), Headers::default()).unwrap();
}

/// On one partition.
fn driver(text: &str, observers: Vec<Arc<dyn Observer>>) -> Driver {
    let (loaded, _) = topology::load(text, "threads.yaml");
    let plan = topology::plan(loaded.expect("the topology is right").topology);
    Driver::new(plan, DriverSettings { partitions: 1, ..DriverSettings::default() }, observers).unwrap()
}

#[test]
fn no_record_is_taken_while_an_edge_holds_the_input() {
    let holder = Arc::new(Holder::default());
    let mut driver = driver(TOPOLOGY, vec![holder.clone()]);
    let records = |driver: &Driver| driver.metrics.sum(metrics::RECORDS.name, &[]);

    send(&mut driver, "1");
    driver.settle().unwrap();
    assert_eq!(records(&driver), 1);

    holder.0.store(true, Ordering::Relaxed);
    send(&mut driver, "2");
    driver.process().unwrap();
    assert_eq!(records(&driver), 1);

    holder.0.store(false, Ordering::Relaxed);
    driver.settle().unwrap();
    assert_eq!(records(&driver), 2);
}

/// Its session has ended while it slept, and before it hears of that its timers fire. No record was read, so no offset has moved; the group
/// must refuse the commit all the same.
#[test]
fn timers_of_a_thread_that_has_lost_its_task_change_nothing() {
    let mut driver = driver(WAITING, Vec::new());
    let letters = |driver: &Driver| {
        let topic = Name::parse("threads-dead-letters").unwrap();
        driver.cluster.committed_records(&topic, 0).unwrap().len()
    };
    send(&mut driver, "1");
    driver.settle().unwrap();
    driver.rebalance(2).unwrap();
    driver.settle().unwrap();
    let group = Name::parse("threads").unwrap();
    let owner = driver.cluster.members(&group).into_iter().find(|member| !member.partitions.is_empty()).unwrap();
    assert!(driver.cluster.expire_member(&group, &owner.client));
    driver.clock.advance_ms(60_000);
    let now = driver.clock.now();
    let mut threads: Vec<&mut StreamThread> = driver.threads().collect();
    let at = threads.iter().position(|thread| thread.tasks().count() == 1).unwrap();
    let (sleeper, other) = (at, 1 - at);

    let has_it = (0..1000).any(|_| {
        threads[other].turn(Duration::ZERO).unwrap();
        threads[other].tasks().any(Task::is_running)
    });
    assert!(has_it);
    threads[other].turn(Duration::ZERO).unwrap();
    assert_eq!(threads[other].commit_turn(), Ok(Outcome::Committed));

    threads[sleeper].tasks_mut().for_each(|task| assert_eq!(task.tick(now), Ok(false)));
    assert_eq!(threads[sleeper].commit_turn(), Ok(Outcome::Nothing), "it was refused");
    assert_eq!(letters(&driver), 1);
    driver.settle().unwrap();
    assert_eq!(letters(&driver), 1);
}
