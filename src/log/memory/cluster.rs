//! The handle on a cluster: what tests, `dev`, `demo` and the simulation do to it from outside, and the port that clients use.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::log::memory::admin::{self, MemoryAdmin};
use crate::log::memory::consumer::MemoryConsumer;
use crate::log::memory::coordinator::Coordinator;
use crate::log::memory::faults::Faults;
use crate::log::memory::partition::{StoredRecord, Tombstones};
use crate::log::memory::producer::MemoryProducer;
use crate::log::{Admin, Consumer, GroupSettings, Log, LogError, NewTopic, Producer, ProducerSettings};
use crate::model::{Clock, Headers, Name, Offset, Time};

pub(super) struct Shared {
    state: Mutex<Coordinator>,
    pub(super) changed: Condvar,
    pub(super) clock: Arc<dyn Clock>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Coordinator> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait in `poll`, if there are any: waking is a system call.
    pub(super) fn notify(&self, state: &Coordinator) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }
}

/// A cluster in this process. Cloning it gives another handle on the same cluster.
#[derive(Clone)]
pub struct MemoryCluster(pub(super) Arc<Shared>);

/// A member of a group, seen from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberView {
    /// Its instance id, or `member-<n>`.
    pub client: String,
    /// Partitions of the task topic that it has been told to own and has not given back.
    pub partitions: Vec<i32>,
}

impl MemoryCluster {
    /// An empty cluster of one broker. The clock decides on retention and on the time-outs of crashed clients.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryCluster {
        MemoryCluster(Arc::new(Shared { state: Mutex::new(Coordinator::new()), changed: Condvar::new(), clock }))
    }

    /// The port to this cluster.
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.clone())
    }

    /// From now on `poll` returns at once whatever its `wait`: for a driver that steps several workers in turn.
    pub fn never_wait(&self) {
        self.0.lock().may_wait = false;
    }

    /// Makes topics; one that exists already is left as it is.
    ///
    /// # Errors
    /// When a number of partitions is not positive, or the replication is more than there are brokers.
    pub fn create_topics(&self, topics: &[NewTopic]) -> Result<(), LogError> {
        admin::create(&self.0, topics)
    }

    /// Makes a topic with default settings.
    ///
    /// # Errors
    /// As [`MemoryCluster::create_topics`].
    pub fn create_topic(&self, name: &Name, partitions: i32) -> Result<(), LogError> {
        self.create_topics(&[NewTopic { name: name.clone(), partitions, replication: -1, config: Vec::new() }])
    }

    /// Deletes a topic with all its records. A later topic of that name has another id and starts at offset 0.
    pub fn delete_topic(&self, name: &Name) {
        let mut state = self.0.lock();
        if let Some(topic) = state.topic_of.remove(name) {
            state.topics[topic].partitions.iter_mut().for_each(|partition| partition.delete_before(i64::MAX));
            self.0.notify(&state);
        }
    }

    /// Writes a record outside of transactions and returns its offset.
    ///
    /// # Errors
    /// When there is no such topic or partition.
    pub fn append(
        &self,
        topic: &Name,
        partition: i32,
        key: Option<Bytes>,
        value: Option<Bytes>,
        time: Time,
        headers: Headers,
    ) -> Result<i64, LogError> {
        let record = Arc::new(StoredRecord { offset: -1, time, key, value, headers });
        let mut state = self.0.lock();
        state.partition(topic, partition, "append")?;
        let at = state.topic(topic, "append")?;
        let offset = state.topics[at].append(partition, record, None);
        self.0.notify(&state);
        Ok(offset)
    }

    /// All committed records of a partition that are still there.
    ///
    /// # Errors
    /// When there is no such topic or partition.
    pub fn committed_records(&self, topic: &Name, partition: i32) -> Result<Vec<Arc<StoredRecord>>, LogError> {
        let mut state = self.0.lock();
        let partition = state.partition(topic, partition, "read")?;
        let mut records = Vec::new();
        partition.read(partition.start(), usize::MAX, |record| records.push(record.clone()));
        Ok(records)
    }

    /// The offset that a group has committed for a partition, not counting open transactions.
    pub fn committed_offset(&self, group: &Name, topic: &Name, partition: i32) -> Option<Offset> {
        self.0.lock().groups.get(group)?.offsets.get(&(topic.clone(), partition)).copied()
    }

    /// What Kafka does to old offsets: forgets what a group has committed for a partition.
    pub fn expire_offset(&self, group: &Name, topic: &Name, partition: i32) {
        if let Some(group) = self.0.lock().groups.get_mut(group) {
            group.offsets.remove(&(topic.clone(), partition));
        }
    }

    /// The members of a group in the order of their joining.
    pub fn members(&self, group: &Name) -> Vec<MemberView> {
        let state = self.0.lock();
        let members = state.groups.get(group).map(|group| &group.members).into_iter().flatten();
        let view = |(number, member): (&u64, &super::group::Member)| MemberView {
            client: client_name(member.instance.as_ref(), *number),
            partitions: member.owned.iter().copied().collect(),
        };
        members.map(view).collect()
    }

    /// Ends the session of a member (instance id, or `member-<n>`), whether its process lives or not: its tasks go to others
    /// at once, and it learns by a `Lost` event when it polls. Says whether there was such a member.
    pub fn expire_member(&self, group: &Name, client: &str) -> bool {
        let mut state = self.0.lock();
        let members = state.groups.get(group).map(|group| &group.members).into_iter().flatten();
        let number =
            members.filter(|(number, member)| client_name(member.instance.as_ref(), **number) == client).map(|(number, _)| *number).next();
        let found =
            number.is_some_and(|number| state.with_group(group, |group, partitions| group.remove(number, partitions)) == Some(true));
        self.0.notify(&state);
        found
    }

    /// Does to a transactional id what its coordinator does after `transaction.timeout.ms`: aborts and fences.
    pub fn expire_transaction(&self, transactional_id: &Name) {
        let mut state = self.0.lock();
        if let Some(id) = state.producer_id(transactional_id) {
            state.fence(id);
            self.0.notify(&state);
        }
    }

    /// Applies `retention.ms` to topics with `cleanup.policy` `delete` and compacts those with `compact`.
    pub fn clean(&self, tombstones: Tombstones) {
        let now = self.0.clock.now();
        for topic in &mut self.0.lock().topics {
            let retention = topic.config.get("retention.ms").and_then(|text| text.parse::<i64>().ok()).filter(|ms| *ms >= 0);
            let is_deleted = topic.config.get("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
            for partition in &mut topic.partitions {
                if topic.is_compacted {
                    partition.compact(tombstones);
                }
                if let Some(ms) = retention.filter(|_| is_deleted) {
                    partition.expire(now.plus_ms(-ms));
                }
            }
        }
    }

    /// Sets what decides on faults, or takes it away.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.0.lock().faults = faults;
    }

    /// Lets requests and markers arrive that `Fault::Delayed`, `LateMarkers` and `LateOffsets` have held back. Requests of fenced
    /// producers do nothing.
    pub fn deliver_delayed(&self) {
        let mut state = self.0.lock();
        state.deliver_delayed();
        self.0.notify(&state);
    }

    /// Sets the number of brokers, which bounds `replication`.
    pub fn set_brokers(&self, count: usize) {
        self.0.lock().brokers = count;
    }
}

impl Log for MemoryCluster {
    fn group_consumer(&self, group: &GroupSettings) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(MemoryConsumer::new(self.0.clone(), Some(group.clone()))))
    }

    fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(MemoryConsumer::new(self.0.clone(), None)))
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(MemoryProducer::new(self.0.clone(), settings)))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, LogError> {
        Ok(Box::new(MemoryAdmin(self.0.clone())))
    }
}

/// How a member is called in faults and views.
pub(super) fn client_name(instance: Option<&Name>, number: u64) -> String {
    instance.map_or_else(|| format!("member-{number}"), Name::to_string)
}
