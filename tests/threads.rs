//! What a stream thread does between polls and commits, on the in-process log.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use millstream::metrics;
use millstream::model::{Headers, Name, Offset, TableId, TaskId, Time};
use millstream::runtime::observe::{Committed, Observer};
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

#[test]
fn no_record_is_taken_while_an_edge_holds_the_input() {
    let (loaded, _) = topology::load(TOPOLOGY, "threads.yaml");
    let holder = Arc::new(Holder::default());
    let plan = topology::plan(loaded.expect("the topology is right").topology);
    let mut driver = Driver::new(plan, DriverSettings::default(), vec![holder.clone()]).unwrap();
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
