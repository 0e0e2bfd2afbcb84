//! A producer of a Kafka cluster.
//!
//! Its delivery reports are served by a thread of their own, so `flush` takes as long as the broker, not 100 ms. Records
//! that need neither time nor headers are collected by topic and handed over a thousand at a time, at a third of the cost of
//! one by one. The order within a topic is the order of `send`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer as _;
use rdkafka::{Offset as NativeOffset, TopicPartitionList};

use crate::log::kafka::admin::{KafkaAdmin, TopicLimits};
use crate::log::kafka::context::ProducerSide;
use crate::log::kafka::error::{by_code, of, of_transaction};
use crate::log::kafka::ffi::{self, OutputTopic, PlainRecord, ProducerClient, TransactionCall};
use crate::log::{Acknowledged, GroupMetadata, LogError, LogErrorKind, Outgoing, Producer, ProducerSettings, TopicHandle};
use crate::model::{Clock, Name, Offset, SystemClock, Time};

/// Records of one topic that are handed over at once.
const BATCH_RECORDS_MAX: usize = 1000;
/// Bytes of them, so that large records do not lie here twice.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// `batch.size` of librdkafka where nobody sets it.
const BATCH_SIZE_DEFAULT: usize = 1_000_000;
/// How long `topic` waits for metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `send` waits for room when the client's queue is full, in slices of so much.
const FULL_WAIT: Duration = Duration::from_millis(10);

struct KnownTopic {
    name: Name,
    topic: OutputTopic,
    partitions: i32,
    limits: TopicLimits,
    batch: Batch,
}

/// Records that wait to be handed over: keys and values one after the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<Waiting>,
}

#[derive(Clone, Copy)]
struct Waiting {
    partition: i32,
    start: usize,
    key: Option<usize>,
    value: Option<usize>,
}

impl Batch {
    fn push(&mut self, record: &Outgoing<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        self.records.push(Waiting {
            partition: record.partition,
            start,
            key: record.key.map(<[u8]>::len),
            value: record.value.map(<[u8]>::len),
        });
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }
}

impl Waiting {
    fn record<'a>(&self, bytes: &'a [u8]) -> PlainRecord<'a> {
        let middle = self.start + self.key.unwrap_or(0);
        PlainRecord {
            partition: self.partition,
            key: self.key.map(|length| &bytes[self.start..self.start + length]),
            value: self.value.map(|length| &bytes[middle..middle + length]),
        }
    }
}

pub(super) struct KafkaProducer {
    topics: Vec<KnownTopic>,
    handles: HashMap<Name, TopicHandle>,
    client: ProducerClient,
    admin: KafkaAdmin,
    /// `batch.size` of the client.
    batch_bytes: usize,
    /// What its queue holds: a larger record would never get in.
    queue_bytes: usize,
    /// When the transaction began, or the last flush was: against it topics compare the times of records.
    began_at: Time,
    is_transactional: bool,
    /// How long a full queue may keep `send` waiting: as long as a transaction may take.
    full_timeout: Duration,
    /// The last commit or abort was not answered. The outcome must be learned with a new producer (KIP-890 is not in this client:
    /// a late request could end the next transaction).
    is_unknown: bool,
}

impl KafkaProducer {
    pub(super) fn new(config: &ClientConfig, settings: &ProducerSettings, admin: KafkaAdmin) -> Result<KafkaProducer, LogError> {
        let client: ProducerClient = config.create_with_context(ProducerSide::default()).map_err(|error| of("make a producer", &error))?;
        Ok(KafkaProducer {
            topics: Vec::new(),
            handles: HashMap::new(),
            client,
            admin,
            batch_bytes: config.get("batch.size").and_then(|text| text.parse().ok()).unwrap_or(BATCH_SIZE_DEFAULT),
            queue_bytes: config
                .get("queue.buffering.max.kbytes")
                .and_then(|text| text.parse().ok())
                .map_or(usize::MAX, |kib: usize| kib << 10),
            began_at: SystemClock.now(),
            is_transactional: settings.transactional_id.is_some(),
            full_timeout: settings.transaction_timeout,
            is_unknown: false,
        })
    }

    /// Hands a topic's collected records over, waiting for room if need be. What was not taken stays, in its order.
    fn hand_over(&mut self, at: usize) -> Result<(), LogError> {
        let until = Instant::now() + self.full_timeout;
        loop {
            let known = &mut self.topics[at];
            if known.batch.records.is_empty() {
                return Ok(());
            }
            let bytes = &known.batch.bytes;
            let refused = known.topic.send_batch(known.batch.records.iter().map(|waiting| waiting.record(bytes)));
            let Some((first, code)) = refused.first().copied() else {
                known.batch.clear();
                return Ok(());
            };
            if let Some((_, code)) = refused.iter().find(|(_, code)| *code != RDKafkaErrorCode::QueueFull) {
                let what = format!("write to `{}`", known.name);
                known.batch.clear();
                return Err(self.refused(what, *code));
            }
            known.batch.records.drain(..first);
            self.wait_for_room(at, code, until)?;
        }
    }

    fn wait_for_room(&self, at: usize, code: RDKafkaErrorCode, until: Instant) -> Result<(), LogError> {
        if Instant::now() >= until {
            let what = format!("write to `{}`", self.topics[at].name);
            return Err(self.explain(by_code(what, code)));
        }
        // A flush sends what lingers; some of it will be acknowledged in this time.
        ffi::flush(&self.client, FULL_WAIT);
        Ok(())
    }

    /// A record that was refused leaves a hole: a transaction must be aborted then.
    fn refused(&self, what: String, code: RDKafkaErrorCode) -> LogError {
        let error = by_code(what, code);
        if error.kind == LogErrorKind::TooLarge {
            return error;
        }
        let kind = if self.is_transactional { LogErrorKind::Abort } else { error.kind };
        self.fatal().unwrap_or(LogError { kind, ..error })
    }

    fn fatal(&self) -> Option<LogError> {
        let (code, reason) = self.client.client().fatal_error()?;
        let error =
            of_transaction("write", &ffi::TransactionError { code, reason, is_fatal: true, is_retriable: false, requires_abort: false });
        Some(error)
    }

    /// Adds the reason of the connection to a time-out.
    fn explain(&self, error: LogError) -> LogError {
        match self.client.context().connection.reason() {
            Some(reason) if matches!(error.kind, LogErrorKind::Retry | LogErrorKind::Unknown | LogErrorKind::Unreachable) => {
                LogError { cause: format!("{}; {reason}", error.cause), ..error }
            }
            _ => error,
        }
    }

    fn call(&mut self, call: TransactionCall, timeout: Duration) -> Result<(), LogError> {
        let what = match call {
            TransactionCall::Init => "initialize transactions",
            TransactionCall::Begin => "begin a transaction",
            TransactionCall::Commit => "commit the transaction",
            TransactionCall::Abort => "abort the transaction",
        };
        if self.is_unknown {
            return Err(LogError::new(LogErrorKind::Fatal, what, "the outcome of its transaction is unknown: make a new producer"));
        }
        let Err(error) = ffi::call_transaction(&self.client, call, timeout) else { return Ok(()) };
        let is_end = matches!(call, TransactionCall::Commit | TransactionCall::Abort);
        if is_end && !error.is_fatal && matches!(error.code, RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut) {
            self.is_unknown = true;
            let cause = format!("{} ({timeout:?})", error.reason);
            return Err(self.explain(LogError::new(LogErrorKind::Unknown, what, cause)));
        }
        Err(self.explain(of_transaction(what, &error)))
    }

    fn clear_batches(&mut self) {
        self.topics.iter_mut().for_each(|topic| topic.batch.clear());
    }

    fn reset_deliveries(&self) {
        let mut deliveries = self.client.context().deliveries();
        deliveries.highest.iter_mut().for_each(|topic| topic.fill(-1));
        deliveries.failures = 0;
        deliveries.first_failure = None;
    }

    fn collect(&self) -> Result<Acknowledged, LogError> {
        let mut deliveries = self.client.context().deliveries();
        let failures = std::mem::take(&mut deliveries.failures);
        if let Some(code) = deliveries.first_failure.take() {
            drop(deliveries);
            return Err(self.refused(format!("write {failures} records"), code));
        }
        let mut acknowledged = Acknowledged::new();
        for (handle, topic) in deliveries.highest.iter_mut().enumerate() {
            for (partition, highest) in topic.iter_mut().enumerate().filter(|(_, highest)| **highest >= 0) {
                acknowledged.push((TopicHandle(handle as u32), partition as i32, *highest));
                *highest = -1;
            }
        }
        Ok(acknowledged)
    }
}

impl Producer for KafkaProducer {
    /// Fetches metadata before anything is sent: inside a transaction a batch for a topic that the client does not know yet
    /// would never leave.
    fn topic(&mut self, name: &Name) -> Result<(TopicHandle, i32), LogError> {
        let what = || format!("look up metadata of topic `{name}`");
        let handle = match self.handles.get(name) {
            Some(handle) => *handle,
            None => {
                let handle = TopicHandle(self.topics.len() as u32);
                let topic = OutputTopic::new(&self.client, name, handle.0 as usize);
                let topic = topic.ok_or_else(|| LogError::new(LogErrorKind::Fatal, what(), "the client refuses the topic"))?;
                let batch = Batch::default();
                self.topics.push(KnownTopic { name: name.clone(), topic, partitions: 0, limits: TopicLimits::default(), batch });
                self.handles.insert(name.clone(), handle);
                handle
            }
        };
        let metadata =
            self.client.client().fetch_metadata(Some(name), METADATA_TIMEOUT).map_err(|error| self.explain(of(what(), &error)))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == &**name);
        let partitions = match found {
            Some(topic) => match topic.error() {
                Some(error) => return Err(by_code(what(), error.into())),
                None => topic.partitions().len() as i32,
            },
            None => 0,
        };
        if partitions == 0 {
            return Err(by_code(what(), RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        let limits = self.admin.limits(name);
        let record_bytes_max = limits.record_bytes_max;
        if record_bytes_max < self.batch_bytes {
            // A broker measures a batch, and this client does not split one that was refused.
            let cause = format!(
                "`max.message.bytes` of the topic is {record_bytes_max}, less than a batch of the client: raise it, or set `kafka.client.batch.size` (now {}) to less",
                self.batch_bytes
            );
            return Err(LogError::new(LogErrorKind::Config, format!("write to `{name}`"), cause));
        }
        let known = &mut self.topics[handle.0 as usize];
        known.partitions = partitions;
        known.limits = limits;
        let mut deliveries = self.client.context().deliveries();
        deliveries.highest.resize_with(self.topics.len(), Vec::new);
        deliveries.highest[handle.0 as usize].resize(partitions as usize, -1);
        Ok((handle, partitions))
    }

    fn record_bytes_max(&self, topic: TopicHandle) -> usize {
        self.topics.get(topic.0 as usize).map_or(usize::MAX, |known| known.limits.bytes_max(self.queue_bytes))
    }

    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.call(TransactionCall::Init, timeout)
    }

    fn begin(&mut self) -> Result<(), LogError> {
        self.began_at = SystemClock.now();
        self.call(TransactionCall::Begin, Duration::ZERO)
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        let at = record.topic.0 as usize;
        let known = &mut self.topics[at];
        if record.partition < 0 || record.partition >= known.partitions {
            let what = format!("write to `{}` partition {}", known.name, record.partition);
            return Err(LogError::new(LogErrorKind::MissingTopic, what, format!("the topic has {} partitions", known.partitions)));
        }
        let size = record.bytes();
        if size > known.limits.bytes_max(self.queue_bytes) {
            let what = format!("write a record of {size} bytes to `{}`", known.name);
            let cause = match known.limits.record_bytes_max {
                limit if limit < self.queue_bytes => format!("`max.message.bytes` of the topic is {limit}"),
                _ => format!("this client's share of `memory.client_buffers` is {} bytes", self.queue_bytes),
            };
            return Err(LogError::new(LogErrorKind::TooLarge, what, cause));
        }
        let time = known.limits.stamp(record.time, self.began_at);
        if !record.keep_time && record.headers.is_empty() {
            if known.batch.is_full() {
                self.hand_over(at)?;
            }
            self.topics[at].batch.push(&record);
            return Ok(());
        }
        // What was collected for this topic goes first.
        self.hand_over(at)?;
        let until = Instant::now() + self.full_timeout;
        loop {
            let known = &self.topics[at];
            let plain = PlainRecord { partition: record.partition, key: record.key, value: record.value };
            match known.topic.send(plain, time, record.headers) {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => self.wait_for_room(at, RDKafkaErrorCode::QueueFull, until)?,
                Err(code) => return Err(self.refused(format!("write to `{}`", known.name), code)),
            }
        }
    }

    fn flush(&mut self, timeout: Duration) -> Result<Acknowledged, LogError> {
        for at in 0..self.topics.len() {
            self.hand_over(at)?;
        }
        self.began_at = SystemClock.now();
        if !ffi::flush(&self.client, timeout) {
            if let Some(error) = self.fatal() {
                return Err(error);
            }
            return Err(self.explain(LogError::new(
                LogErrorKind::Retry,
                "flush what was written",
                format!("not all acknowledged in {timeout:?}"),
            )));
        }
        self.collect()
    }

    fn send_offsets(&mut self, offsets: &[(Name, i32, Offset)], group: &GroupMetadata, timeout: Duration) -> Result<(), LogError> {
        const WHAT: &str = "send offsets to the transaction";
        let GroupMetadata::Kafka(group) = group else {
            return Err(LogError::new(LogErrorKind::Fatal, WHAT, "the group metadata is of another log"));
        };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (topic, partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, NativeOffset::Offset(offset.0)).map_err(|error| of(WHAT, &error))?;
        }
        ffi::send_offsets(&self.client, &list, group, timeout).map_err(|error| self.explain(of_transaction(WHAT, &error)))
    }

    fn commit(&mut self, timeout: Duration) -> Result<(), LogError> {
        for at in 0..self.topics.len() {
            self.hand_over(at)?;
        }
        self.call(TransactionCall::Commit, timeout)
    }

    /// Never purges before: the next transaction would fail then.
    fn abort(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.clear_batches();
        let result = self.call(TransactionCall::Abort, timeout);
        if result.is_ok() {
            self.reset_deliveries();
        }
        result
    }
}
