//! The records of a seed.

use bytes::Bytes;
use millstream::model::{Headers, Name, Time};
use millstream::testkit::Driver;
use serde_json::json;

use crate::jobs::Job;
use crate::random::Random;

pub const KEYS: u64 = 6;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000;

impl Random {
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A record as it was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Of topic `created`; else of `priced`.
    pub is_owner: bool,
    pub key: String,
    /// Its identity: one that was sent again has that of the first.
    pub event: String,
    /// Name or price; `None`: a tombstone.
    pub value: Option<String>,
    pub time: i64,
    pub partition: i32,
    pub offset: i64,
}

impl Sent {
    /// The price, where it is one.
    pub fn price(&self) -> Option<i64> {
        if self.is_owner { None } else { self.value.as_ref()?.parse().ok() }
    }

    /// What orders the records of a source.
    pub fn version(&self) -> (i64, i64) {
        (self.time, self.offset)
    }
}

/// Sends one record, and notes it.
pub fn send(driver: &mut Driver, random: &mut Random, job: &Job, step: i64, sent: &mut Vec<Sent>) {
    let again = if sent.is_empty() || !random.one_in(5) { None } else { Some(sent[random.below(sent.len() as u64) as usize].clone()) };
    let record = match again {
        // A producer sent it twice, or somebody used an identity twice: never ahead of what was sent before.
        Some(mut record) => {
            if random.one_in(3) && record.value.is_some() {
                let beside = |other: &&Sent| (other.is_owner, other.partition) == (record.is_owner, record.partition);
                let newest = sent.iter().filter(beside).filter(|other| other.value.is_some()).map(|other| other.time).max();
                let newest = newest.unwrap_or(record.time);
                record.time = (record.time + random.below(12) as i64 * 1_000).min(newest);
                record.value = Some(value(random, record.is_owner, step));
            }
            record
        }
        None => {
            let is_owner = random.one_in(job.owners_one_in);
            let value = if random.one_in(5) { None } else { Some(value(random, is_owner, step)) };
            Sent {
                is_owner,
                key: format!("k{}", random.below(KEYS)),
                event: format!("e{}", sent.len()),
                value,
                time: START + step * job.drift_ms + random.below(job.disorder_s) as i64 * 1_000,
                partition: -1,
                offset: -1,
            }
        }
    };
    let (topic, field) = if record.is_owner { ("created", "name") } else { ("priced", "price") };
    let json = record.value.as_ref().map(|value| {
        let tree = json!({ "id": record.key, "event": record.event, field: value, "at": record.time });
        Bytes::from(tree.to_string())
    });
    let key = Bytes::from(record.key.clone());
    let topic = Name::parse(topic).unwrap();
    let (partition, offset) = driver.send(&topic, None, Some(key), json, Time(record.time), Headers::default()).unwrap();
    sent.push(Sent { partition, offset, ..record });
}

fn value(random: &mut Random, is_owner: bool, step: i64) -> String {
    if is_owner { format!("n{step}") } else { random.below(100).to_string() }
}
