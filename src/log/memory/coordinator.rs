//! What the mutex of the cluster guards: topics, transactional ids and groups, and the steps that change several of them at once.
//!
//! Every step is whole: nobody sees a transaction half committed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::log::memory::faults::{Call, Fault, Faults};
use crate::log::memory::group::{Group, Refusal};
use crate::log::memory::partition::{Outcome, Partition, StoredRecord, Writer};
use crate::log::{LogError, LogErrorKind};
use crate::model::{Name, Offset, Time};

pub(super) struct Topic {
    /// As Kafka writes it: 22 characters of base64.
    pub(super) id: String,
    pub(super) partitions: Vec<Partition>,
    pub(super) config: BTreeMap<String, String>,
    pub(super) is_compacted: bool,
    pub(super) retention_bytes: Option<u64>,
    /// `max.message.bytes`.
    pub(super) record_bytes_max: usize,
}

impl Topic {
    /// Adds a record to a partition that exists, and keeps it within its bounds.
    pub(super) fn append(&mut self, partition: i32, record: Arc<StoredRecord>, writer: Writer) -> i64 {
        let log = &mut self.partitions[partition as usize];
        let offset = log.append(record, writer);
        if let Some(limit) = self.retention_bytes {
            log.shrink(limit);
        }
        if self.is_compacted {
            log.compact_if_doubled();
        }
        offset
    }
}

/// State of one transactional id. Its place in the list is the producer id.
pub(super) struct Transactional {
    pub(super) epoch: i32,
    timeout: Duration,
    open: Option<OpenTransaction>,
    /// When its process went away.
    crashed_at: Option<Time>,
}

#[derive(Default)]
struct OpenTransaction {
    partitions: Vec<(usize, i32)>,
    groups: Vec<Name>,
    /// It has ended, but not everything has been told so yet.
    decided: Option<Outcome>,
}

/// What of the end of a transaction is told at once; the rest waits for [`Coordinator::finish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    All,
    Offsets,
    Markers,
}

/// A producer in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProducerEpoch {
    pub(super) id: u32,
    pub(super) epoch: i32,
}

pub(super) struct Coordinator {
    /// A deleted topic keeps its place, without a name.
    pub(super) topics: Vec<Topic>,
    pub(super) topic_of: HashMap<Name, usize>,
    pub(super) groups: BTreeMap<Name, Group>,
    pub(super) transactional: Vec<Transactional>,
    transactional_of: HashMap<Name, u32>,
    pub(super) faults: Option<Faults>,
    pub(super) delayed: Vec<(ProducerEpoch, Outcome)>,
    pub(super) brokers: usize,
    /// Threads that wait for something to change.
    pub(super) waiting: usize,
    pub(super) may_wait: bool,
}

impl Coordinator {
    pub(super) fn new() -> Coordinator {
        Coordinator {
            topics: Vec::new(),
            topic_of: HashMap::new(),
            groups: BTreeMap::new(),
            transactional: Vec::new(),
            transactional_of: HashMap::new(),
            faults: None,
            delayed: Vec::new(),
            brokers: 1,
            waiting: 0,
            may_wait: true,
        }
    }

    pub(super) fn topic(&self, name: &Name, what: &str) -> Result<usize, LogError> {
        self.topic_of.get(name).copied().ok_or_else(|| missing_topic(name, what))
    }

    pub(super) fn partition(&mut self, name: &Name, partition: i32, what: &str) -> Result<&mut Partition, LogError> {
        let topic = self.topic(name, what)?;
        let count = self.topics[topic].partitions.len();
        let place = usize::try_from(partition).ok().and_then(|at| self.topics[topic].partitions.get_mut(at));
        place.ok_or_else(|| {
            LogError::new(
                LogErrorKind::MissingTopic,
                format!("{what} of partition {partition} of `{name}`"),
                format!("the topic has {count} partitions"),
            )
        })
    }

    /// Asks for a fault. The second part says whether the call takes place nevertheless.
    pub(super) fn fault(&mut self, call: Call, client: &str) -> Option<Fault> {
        self.faults.as_mut().and_then(|faults| faults(call, client))
    }

    /// Lets time pass for clients whose process is gone.
    pub(super) fn expire_crashed(&mut self, now: Time) -> bool {
        let mut changed = false;
        for id in 0..self.transactional.len() {
            let producer = &self.transactional[id];
            let is_over = producer.open.is_some()
                && producer
                    .crashed_at
                    .is_some_and(|at| now.0.saturating_sub(at.0) >= i64::try_from(producer.timeout.as_millis()).unwrap_or(i64::MAX));
            if is_over {
                self.fence(id as u32);
                changed = true;
            }
        }
        let counts: Vec<(Name, i32)> = self.groups.iter().map(|(name, group)| (name.clone(), self.task_partitions(group))).collect();
        for (name, partitions) in counts {
            changed |= self.groups.get_mut(&name).is_some_and(|group| group.expire(now, partitions));
        }
        changed
    }

    /// Partitions of the task topic of a group; 0 where it does not exist.
    pub(super) fn task_partitions(&self, group: &Group) -> i32 {
        let topic = group.task_topic.as_ref().and_then(|name| self.topic_of.get(name));
        topic.map_or(0, |topic| self.topics[*topic].partitions.len() as i32)
    }

    /// A change of membership of a group that exists already.
    pub(super) fn with_group<T>(&mut self, name: &Name, change: impl FnOnce(&mut Group, i32) -> T) -> Option<T> {
        let partitions = self.task_partitions(self.groups.get(name)?);
        self.groups.get_mut(name).map(|group| change(group, partitions))
    }

    /// Gives a transactional id a new life: ends what the old one left open and fences it.
    pub(super) fn init_transactions(&mut self, name: &Name, timeout: Duration) -> ProducerEpoch {
        let id = match self.transactional_of.get(name) {
            Some(id) => *id,
            None => {
                let id = self.transactional.len() as u32;
                self.transactional.push(Transactional { epoch: -1, timeout, open: None, crashed_at: None });
                self.transactional_of.insert(name.clone(), id);
                id
            }
        };
        self.fence(id);
        let producer = &mut self.transactional[id as usize];
        producer.timeout = timeout;
        producer.crashed_at = None;
        ProducerEpoch { id, epoch: producer.epoch }
    }

    pub(super) fn producer_id(&self, name: &Name) -> Option<u32> {
        self.transactional_of.get(name).copied()
    }

    /// Aborts the open transaction of a producer and refuses it from now on.
    pub(super) fn fence(&mut self, id: u32) {
        self.end(id, Outcome::Aborted, Told::All);
        self.transactional[id as usize].epoch += 1;
    }

    pub(super) fn producer_crashed(&mut self, producer: ProducerEpoch, now: Time) {
        let state = &mut self.transactional[producer.id as usize];
        if state.epoch == producer.epoch {
            state.crashed_at.get_or_insert(now);
        }
    }

    pub(super) fn check_epoch(&self, producer: ProducerEpoch, what: &str) -> Result<(), LogError> {
        if self.transactional[producer.id as usize].epoch == producer.epoch {
            return Ok(());
        }
        Err(LogError::new(LogErrorKind::Fenced, what, "a newer producer has this transactional id, or the transaction timed out"))
    }

    /// Counts a partition to the open transaction of a producer.
    pub(super) fn enlist(&mut self, id: u32, topic: usize, partition: i32) {
        self.finish(id);
        let open = self.transactional[id as usize].open.get_or_insert_default();
        if !open.partitions.contains(&(topic, partition)) {
            open.partitions.push((topic, partition));
        }
    }

    pub(super) fn hold_offsets(&mut self, id: u32, group: &Name, offsets: &[(Name, i32, Offset)]) {
        self.finish(id);
        let open = self.transactional[id as usize].open.get_or_insert_default();
        if !open.groups.contains(group) {
            open.groups.push(group.clone());
        }
        self.groups.entry(group.clone()).or_default().hold(id, offsets);
    }

    /// Ends the open transaction of a producer: markers in all its partitions, and its offsets.
    pub(super) fn end(&mut self, id: u32, outcome: Outcome, told: Told) {
        self.finish(id);
        if let Some(open) = &mut self.transactional[id as usize].open {
            open.decided = Some(outcome);
        }
        match told {
            Told::All => self.finish(id),
            Told::Offsets => self.tell_groups(id, outcome),
            Told::Markers => self.write_markers(id, outcome),
        }
    }

    /// Tells what is left to tell of a transaction that has ended.
    pub(super) fn finish(&mut self, id: u32) {
        if let Some(outcome) = self.transactional[id as usize].open.as_ref().and_then(|open| open.decided) {
            self.tell_groups(id, outcome);
            self.write_markers(id, outcome);
            self.transactional[id as usize].open = None;
        }
    }

    fn write_markers(&mut self, id: u32, outcome: Outcome) {
        let Some(open) = &mut self.transactional[id as usize].open else { return };
        for (topic, partition) in std::mem::take(&mut open.partitions) {
            self.topics[topic].partitions[partition as usize].end_transaction(id, outcome);
        }
    }

    fn tell_groups(&mut self, id: u32, outcome: Outcome) {
        let Some(open) = &mut self.transactional[id as usize].open else { return };
        for group in std::mem::take(&mut open.groups) {
            if let Some(group) = self.groups.get_mut(&group) {
                group.release(id, outcome == Outcome::Committed);
            }
        }
    }

    /// Lets everything arrive that faults have held back. What comes from a producer that was fenced meanwhile does nothing.
    pub(super) fn deliver_delayed(&mut self) {
        for (producer, outcome) in std::mem::take(&mut self.delayed) {
            if self.check_epoch(producer, "").is_ok() {
                self.end(producer.id, outcome, Told::All);
            }
        }
        (0..self.transactional.len()).for_each(|id| self.finish(id as u32));
    }
}

pub(super) fn missing_topic(name: &Name, what: &str) -> LogError {
    LogError::new(LogErrorKind::MissingTopic, format!("{what} of topic `{name}`"), "there is no such topic: create it, or correct its name")
}

/// What a refusal means to the caller: another process has our instance id, or the tasks have moved.
pub(super) fn refused(refusal: Refusal, what: &str) -> LogError {
    match refusal {
        Refusal::FencedInstance => LogError::new(LogErrorKind::Fenced, what, "another member has taken over this instance id"),
        Refusal::UnknownMember => LogError::new(LogErrorKind::Abort, what, "the group does not know this member any more"),
        Refusal::IllegalGeneration => LogError::new(LogErrorKind::Abort, what, "the group is in another generation"),
    }
}
