//! Administration of the in-process log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::log::memory::cluster::Shared;
use crate::log::memory::coordinator::{Coordinator, Topic};
use crate::log::memory::group::Group;
use crate::log::memory::partition::Partition;
use crate::log::{Admin, LogError, LogErrorKind, NewTopic, TopicDescription};
use crate::model::{Name, Offset};

pub(super) struct MemoryAdmin(pub(super) Arc<Shared>);

/// What a broker answers for settings that a topic does not have; those that Millstream asks for.
const DEFAULTS: [(&str, &str); 10] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("delete.retention.ms", "86400000"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.type", "CreateTime"),
    ("min.compaction.lag.ms", "0"),
    ("min.insync.replicas", "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
];

/// `max.message.bytes` where a topic does not set it.
const RECORD_BYTES_MAX: usize = 1_048_588;

impl Admin for MemoryAdmin {
    fn describe(&self, topics: &[Name], _timeout: Duration) -> Result<Vec<Option<TopicDescription>>, LogError> {
        let state = self.0.lock();
        let describe = |name: &Name| {
            let topic = &state.topics[*state.topic_of.get(name)?];
            Some(TopicDescription { name: name.clone(), partitions: topic.partitions.len() as i32, id: topic.id.clone() })
        };
        Ok(topics.iter().map(describe).collect())
    }

    fn create(&self, topics: &[NewTopic], _timeout: Duration) -> Result<(), LogError> {
        create(&self.0, topics)
    }

    fn add_partitions(&self, topic: &Name, partitions: i32, _timeout: Duration) -> Result<(), LogError> {
        let mut state = self.0.lock();
        let at = state.topic(topic, "add partitions")?;
        let count = state.topics[at].partitions.len() as i32;
        if partitions <= count {
            let what = format!("set `{topic}` to {partitions} partitions");
            return Err(LogError::new(LogErrorKind::Config, what, format!("it has {count}; their number can only grow")));
        }
        state.topics[at].partitions.resize_with(partitions as usize, Partition::default);
        for group in state.groups.values_mut().filter(|group| group.task_topic.as_ref() == Some(topic)) {
            group.rebalance(partitions);
        }
        self.0.notify(&state);
        Ok(())
    }

    fn config(&self, topic: &Name, keys: &[&str], _timeout: Duration) -> Result<Vec<Option<String>>, LogError> {
        let state = self.0.lock();
        let config = &state.topics[state.topic(topic, "read the settings")?].config;
        let default = |key: &str| DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        Ok(keys.iter().map(|key| config.get(*key).cloned().or_else(|| default(key))).collect())
    }

    fn brokers(&self, _timeout: Duration) -> Result<usize, LogError> {
        Ok(self.0.lock().brokers)
    }

    fn unassigned(&self, group: &Name, _task_topic: &Name, _tasks: i32, _timeout: Duration) -> Result<Vec<i32>, LogError> {
        Ok(self.0.lock().groups.get(group).map_or_else(Vec::new, Group::unassigned))
    }

    fn delete_records(&self, topic: &Name, partition: i32, before: Offset, _timeout: Duration) -> Result<(), LogError> {
        let mut state = self.0.lock();
        let log = state.partition(topic, partition, "delete records")?;
        if before.0 > log.next() {
            let what = format!("delete records of `{topic}` partition {partition} before {before}");
            return Err(LogError::new(LogErrorKind::Config, what, format!("the log ends at {}", log.next())));
        }
        log.delete_before(before.0);
        self.0.notify(&state);
        Ok(())
    }
}

pub(super) fn create(shared: &Shared, topics: &[NewTopic]) -> Result<(), LogError> {
    let mut state = shared.lock();
    for topic in topics {
        let what = || format!("create topic `{}`", topic.name);
        if state.topic_of.contains_key(&topic.name) {
            continue;
        }
        if topic.partitions < 1 {
            return Err(LogError::new(LogErrorKind::Config, what(), format!("{} partitions; there must be at least 1", topic.partitions)));
        }
        if usize::try_from(topic.replication).is_ok_and(|wanted| wanted > state.brokers) {
            let cause = format!("replication {} is more than there are brokers: {}", topic.replication, state.brokers);
            return Err(LogError::new(LogErrorKind::Config, what(), cause));
        }
        add(&mut state, topic);
    }
    shared.notify(&state);
    Ok(())
}

fn add(state: &mut Coordinator, topic: &NewTopic) {
    let number = state.topics.len();
    let config: BTreeMap<String, String> = topic.config.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let bytes = |key: &str| config.get(key).and_then(|text| text.parse().ok());
    state.topics.push(Topic {
        id: BASE64_URL_SAFE_NO_PAD.encode((number as u128 + 1).to_be_bytes()),
        partitions: (0..topic.partitions).map(|_| Partition::default()).collect(),
        is_compacted: config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
        retention_bytes: bytes("retention.bytes"),
        record_bytes_max: bytes("max.message.bytes").map_or(RECORD_BYTES_MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        config,
    });
    state.topic_of.insert(topic.name.clone(), number);
    // Groups that wait for their task topic get their tasks now.
    let members: Vec<Name> =
        state.groups.iter().filter(|(_, group)| group.task_topic.as_ref() == Some(&topic.name)).map(|(name, _)| name.clone()).collect();
    for name in members {
        state.with_group(&name, |group, partitions| group.rebalance(partitions));
    }
}
