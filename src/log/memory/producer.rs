//! A producer of the in-process log.
//!
//! Records wait in a buffer of its own until a flush, a commit, or until the buffer is full; a producer that is dropped loses
//! them, as a killed process does. After an unknown outcome it refuses everything: the caller must make a new one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::log::memory::cluster::Shared;
use crate::log::memory::coordinator::{ProducerEpoch, Told, missing_topic, refused};
use crate::log::memory::faults::{Call, Fault};
use crate::log::memory::partition::{Outcome, StoredRecord};
use crate::log::{Acknowledged, GroupMetadata, LogError, LogErrorKind, Outgoing, Producer, ProducerSettings, TopicHandle};
use crate::model::{Name, Offset};

/// Records that wait in a producer before they go to the log: a mutex is taken per so many.
const BUFFER_RECORDS_MAX: usize = 10_000;

struct KnownTopic {
    name: Name,
    /// Place in the coordinator's list.
    topic: usize,
    record_bytes_max: usize,
    /// Highest offset since the last flush, by partition; -1 for none.
    highest: Vec<i64>,
}

/// Where a producer stands between its calls.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// `init_transactions` has not been called.
    New,
    /// Not transactional.
    Plain,
    Ready,
    Open,
    /// The open transaction can only be aborted.
    MustAbort,
    /// Nothing can be done with it any more.
    Dead(LogErrorKind, String),
}

pub(super) struct MemoryProducer {
    shared: Arc<Shared>,
    transactional_id: Option<Name>,
    transaction_timeout: Duration,
    producer: Option<ProducerEpoch>,
    stage: Stage,
    topics: Vec<KnownTopic>,
    buffer: Vec<(TopicHandle, i32, Arc<StoredRecord>)>,
}

impl MemoryProducer {
    pub(super) fn new(shared: Arc<Shared>, settings: &ProducerSettings) -> MemoryProducer {
        MemoryProducer {
            shared,
            stage: if settings.transactional_id.is_some() { Stage::New } else { Stage::Plain },
            transactional_id: settings.transactional_id.clone(),
            transaction_timeout: settings.transaction_timeout,
            producer: None,
            topics: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Moves the buffer into the log.
    fn drain(&mut self, what: &str) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if let Some(producer) = self.producer {
            state.check_epoch(producer, what)?;
        }
        let writer = self.producer.map(|producer| producer.id);
        for (handle, partition, record) in self.buffer.drain(..) {
            let known = &mut self.topics[handle.0 as usize];
            if state.topic_of.get(&known.name) != Some(&known.topic) {
                return Err(missing_topic(&known.name, "write a record"));
            }
            if let Some(id) = writer {
                state.enlist(id, known.topic, partition);
            }
            known.highest[partition as usize] = state.topics[known.topic].append(partition, record, writer);
        }
        shared.notify(&state);
        Ok(())
    }

    /// Runs a call under the faults: before it, after it, or not at all.
    fn faulty<T>(
        &mut self,
        call: Call,
        what: &str,
        effect: impl FnOnce(&mut MemoryProducer, Told) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Stage::Dead(kind, cause) = &self.stage {
            return Err(LogError::new(*kind, what, cause.clone()));
        }
        let client = self.transactional_id.clone();
        let fault = self.shared.lock().fault(call, client.as_deref().unwrap_or("producer"));
        let result = match fault {
            None | Some(Fault::NoOffsets) => effect(self, Told::All),
            Some(Fault::LateMarkers) => effect(self, Told::Offsets),
            Some(Fault::LateOffsets) => effect(self, Told::Markers),
            Some(Fault::Before(kind)) => Err(LogError::new(kind, what, "injected fault, before the effect")),
            Some(Fault::After(kind)) => {
                effect(self, Told::All).and_then(|_| Err(LogError::new(kind, what, "injected fault, after the effect")))
            }
            Some(Fault::Delayed) => {
                let outcome = if call == Call::Abort { Outcome::Aborted } else { Outcome::Committed };
                if matches!(call, Call::Commit | Call::Abort)
                    && let Some(producer) = self.producer
                {
                    self.drain(what)?;
                    self.shared.lock().delayed.push((producer, outcome));
                }
                Err(LogError::new(LogErrorKind::Unknown, what, "injected fault, the request arrives later"))
            }
        };
        if let Err(error) = &result {
            self.stage = match error.kind {
                LogErrorKind::Fenced => Stage::Dead(LogErrorKind::Fenced, error.cause.clone()),
                LogErrorKind::Fatal => Stage::Dead(LogErrorKind::Fatal, error.cause.clone()),
                LogErrorKind::Unknown => {
                    Stage::Dead(LogErrorKind::Fatal, "the outcome of its transaction is unknown: make a new producer".into())
                }
                LogErrorKind::Abort if self.stage == Stage::Open => Stage::MustAbort,
                _ => self.stage.clone(),
            };
        }
        result
    }

    fn end(&mut self, outcome: Outcome, told: Told, what: &str) -> Result<(), LogError> {
        if outcome == Outcome::Committed {
            self.drain(what)?;
        } else {
            self.buffer.clear();
            self.topics.iter_mut().for_each(|topic| topic.highest.fill(-1));
        }
        let Some(producer) = self.producer else { return Err(misuse(what, "the producer has no open transaction")) };
        let mut state = self.shared.lock();
        state.check_epoch(producer, what)?;
        state.end(producer.id, outcome, told);
        self.stage = Stage::Ready;
        self.shared.notify(&state);
        Ok(())
    }
}

impl Producer for MemoryProducer {
    fn topic(&mut self, name: &Name) -> Result<(TopicHandle, i32), LogError> {
        let state = self.shared.lock();
        let topic = state.topic(name, "look up metadata")?;
        let partitions = state.topics[topic].partitions.len();
        let record_bytes_max = state.topics[topic].record_bytes_max;
        let at = self.topics.iter().position(|known| known.name == *name).unwrap_or_else(|| {
            self.topics.push(KnownTopic { name: name.clone(), topic, record_bytes_max, highest: Vec::new() });
            self.topics.len() - 1
        });
        self.topics[at].topic = topic;
        self.topics[at].highest.resize(partitions, -1);
        Ok((TopicHandle(at as u32), partitions as i32))
    }

    fn record_bytes_max(&self, topic: TopicHandle) -> usize {
        self.topics.get(topic.0 as usize).map_or(usize::MAX, |known| known.record_bytes_max)
    }

    fn init_transactions(&mut self, _timeout: Duration) -> Result<(), LogError> {
        const WHAT: &str = "initialize transactions";
        self.faulty(Call::InitTransactions, WHAT, |this, _| {
            let Some(name) = this.transactional_id.clone() else { return Err(misuse(WHAT, "the producer has no transactional id")) };
            if this.stage != Stage::New {
                return Err(misuse(WHAT, "it has been called before"));
            }
            let mut state = this.shared.lock();
            this.producer = Some(state.init_transactions(&name, this.transaction_timeout));
            this.stage = Stage::Ready;
            this.shared.notify(&state);
            Ok(())
        })
    }

    fn begin(&mut self) -> Result<(), LogError> {
        match &self.stage {
            Stage::Ready => {
                self.stage = Stage::Open;
                Ok(())
            }
            Stage::Dead(kind, cause) => Err(LogError::new(*kind, "begin a transaction", cause.clone())),
            stage => Err(misuse("begin a transaction", &format!("the producer is {stage:?}"))),
        }
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        match &self.stage {
            Stage::Open | Stage::Plain => {}
            Stage::MustAbort => return Err(LogError::new(LogErrorKind::Abort, "write a record", "the transaction must be aborted")),
            Stage::Dead(kind, cause) => return Err(LogError::new(*kind, "write a record", cause.clone())),
            stage => return Err(misuse("write a record", &format!("the producer is {stage:?}"))),
        }
        let known = &self.topics[record.topic.0 as usize];
        if usize::try_from(record.partition).is_ok_and(|at| at < known.highest.len()) {
            let size = record.bytes();
            if size > known.record_bytes_max {
                let what = format!("write a record of {size} bytes to `{}`", known.name);
                return Err(LogError::new(
                    LogErrorKind::TooLarge,
                    what,
                    format!("`max.message.bytes` of the topic is {}", known.record_bytes_max),
                ));
            }
        } else {
            let what = format!("write a record to `{}` partition {}", known.name, record.partition);
            return Err(LogError::new(LogErrorKind::MissingTopic, what, format!("the topic has {} partitions", known.highest.len())));
        }
        let stored = StoredRecord {
            offset: -1,
            time: record.time,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: record.headers.clone(),
        };
        self.buffer.push((record.topic, record.partition, Arc::new(stored)));
        if self.buffer.len() >= BUFFER_RECORDS_MAX { self.drain("write records") } else { Ok(()) }
    }

    fn flush(&mut self, _timeout: Duration) -> Result<Acknowledged, LogError> {
        const WHAT: &str = "flush what was written";
        self.faulty(Call::Flush, WHAT, |this, _| {
            this.drain(WHAT)?;
            let mut acknowledged = Acknowledged::new();
            for (handle, topic) in this.topics.iter_mut().enumerate() {
                for (partition, highest) in topic.highest.iter_mut().enumerate().filter(|(_, highest)| **highest >= 0) {
                    acknowledged.push((TopicHandle(handle as u32), partition as i32, *highest));
                    *highest = -1;
                }
            }
            Ok(acknowledged)
        })
    }

    fn send_offsets(&mut self, offsets: &[(Name, i32, Offset)], group: &GroupMetadata, _timeout: Duration) -> Result<(), LogError> {
        const WHAT: &str = "send offsets to the transaction";
        self.faulty(Call::SendOffsets, WHAT, |this, _| {
            let (Stage::Open, Some(producer)) = (&this.stage, this.producer) else {
                return Err(misuse(WHAT, &format!("the producer is {:?}", this.stage)));
            };
            let GroupMetadata::Memory(member) = group else {
                return Err(misuse(WHAT, "the group metadata is of another log"));
            };
            let mut state = this.shared.lock();
            state.check_epoch(producer, WHAT)?;
            let known = state.groups.get(&member.group).ok_or_else(|| misuse(WHAT, "there is no such group"))?;
            known.check(member.number, member.instance.as_ref(), member.generation).map_err(|refusal| refused(refusal, WHAT))?;
            state.hold_offsets(producer.id, &member.group, offsets);
            Ok(())
        })
    }

    fn commit(&mut self, _timeout: Duration) -> Result<(), LogError> {
        const WHAT: &str = "commit the transaction";
        self.faulty(Call::Commit, WHAT, |this, told| match this.stage {
            Stage::Open => this.end(Outcome::Committed, told, WHAT),
            Stage::MustAbort => Err(LogError::new(LogErrorKind::Abort, WHAT, "the transaction must be aborted")),
            _ => Err(misuse(WHAT, &format!("the producer is {:?}", this.stage))),
        })
    }

    fn abort(&mut self, _timeout: Duration) -> Result<(), LogError> {
        const WHAT: &str = "abort the transaction";
        self.faulty(Call::Abort, WHAT, |this, told| match this.stage {
            Stage::Open | Stage::MustAbort => this.end(Outcome::Aborted, told, WHAT),
            _ => Err(misuse(WHAT, &format!("the producer is {:?}", this.stage))),
        })
    }
}

impl Drop for MemoryProducer {
    fn drop(&mut self) {
        if let Some(producer) = self.producer {
            let now = self.shared.clock.now();
            self.shared.lock().producer_crashed(producer, now);
        }
    }
}

/// An error of the calling code, which nothing heals.
fn misuse(what: &str, cause: &str) -> LogError {
    LogError::new(LogErrorKind::Fatal, what, cause)
}
