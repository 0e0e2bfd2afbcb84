//! The port to topics: reading, writing in transactions, group membership, administration.
//!
//! Two implementations: `kafka` (librdkafka) and `memory` (in process, deterministic). `tests/contracts.rs` puts the
//! same cases to both. Knows no task and no store. rdkafka is named only in `log/kafka/`, `unsafe` only in
//! `log/kafka/ffi.rs`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{Headers, Name, Offset, Time};

pub mod kafka;
pub mod memory;
pub mod partitioner;

mod message;

pub use message::Message;

/// A cluster: makes consumers, producers and an admin client. One per worker, shared by its threads.
pub trait Log: Send + Sync {
    /// A member of the consumer group that is subscribed to the task topic only. One that is subscribed to another topic has no
    /// part in the tasks; that it comes and goes makes the group rebalance.
    ///
    /// # Errors
    /// When the client cannot be made (bad settings). A broker that is away is not an error here: it shows in `poll`.
    fn group_consumer(&self, group: &GroupSettings) -> Result<Box<dyn Consumer>, LogError>;

    /// A consumer without a group, for restore, refill of views and tools; reads committed records only.
    fn reader(&self) -> Result<Box<dyn Consumer>, LogError>;

    /// A producer. `transactional_id: None` gives an idempotent producer for `at_least_once` and tools.
    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>, LogError>;

    fn admin(&self) -> Result<Box<dyn Admin>, LogError>;
}

/// Membership of one stream thread.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    pub group: Name,
    /// The only topic subscribed to: `<app>-tasks`.
    pub task_topic: Name,
    /// `group.instance.id`: static membership, one per thread: `<worker>-<thread>`.
    pub instance_id: Option<Name>,
    pub session_timeout: Duration,
}

/// A producer of one stream thread.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    pub transactional_id: Option<Name>,
    pub transaction_timeout: Duration,
    pub linger: Duration,
}

/// An input partition that a consumer reads. `slot` is chosen by the caller and comes back with each message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    pub slot: u32,
    pub topic: Name,
    pub partition: i32,
}

/// What `poll` brings beside messages.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The group gives these partitions of the task topic to us. Answered with [`Consumer::acknowledge`].
    Assigned(Vec<i32>),
    /// The group takes these away, with our consent: commit, close, then [`Consumer::acknowledge`].
    Revoked(Vec<i32>),
    /// They are gone already (session or poll timeout): nothing may be committed for them. Then [`Consumer::acknowledge`].
    Lost(Vec<i32>),
    /// Something that heals by itself (broker away, authentication, unknown topic); for the log and the health page.
    Problem(LogError),
    /// The start offset of a partition is not in the log any more.
    OutOfRange { slot: u32, partition: i32, offset: Offset },
}

/// One consumer, used by one thread. Called by the stream thread's loop only.
pub trait Consumer: Send {
    /// Takes up to `limit` messages into `into`, waiting up to `wait` for the first. Returns events in their order.
    ///
    /// Never blocks longer than `wait` plus a few milliseconds. Messages of one partition come in offset order and never
    /// twice. Messages that were prefetched for an input that has been removed are not delivered.
    fn poll(&mut self, limit: usize, wait: Duration, into: &mut Vec<Message>) -> Result<Vec<Event>, LogError>;

    /// Confirms an `Assigned`, `Revoked` or `Lost` event to the group, after the caller has opened or closed the tasks.
    fn acknowledge(&mut self, event: &Event) -> Result<(), LogError>;

    /// Starts reading inputs at the given offsets (next to read).
    fn add_inputs(&mut self, inputs: &[(Input, Offset)]) -> Result<(), LogError>;

    /// Stops reading inputs.
    fn remove_inputs(&mut self, slots: &[u32]) -> Result<(), LogError>;

    fn pause(&mut self, slots: &[u32]) -> Result<(), LogError>;
    fn resume(&mut self, slots: &[u32]) -> Result<(), LogError>;

    /// Goes on reading at another offset (after an aborted transaction).
    fn seek(&mut self, slot: u32, offset: Offset) -> Result<(), LogError>;

    /// The offset after the last record or marker this consumer has moved over, for restore: end reached when it is the end offset.
    fn position(&mut self, slot: u32) -> Result<Option<Offset>, LogError>;

    /// The group's committed offsets, waiting for pending transactions to end (require-stable, KIP-447).
    fn committed(&mut self, partitions: &[(Name, i32)], timeout: Duration) -> Result<Vec<Option<Offset>>, LogError>;

    /// The first offset of a partition and its end: the offset after the last record or marker, committed or not.
    ///
    /// The end is the high watermark and not the last stable offset, because a commit returns before its markers are written: for
    /// a moment the last stable offset still lies before records that are committed. Whoever reads until [`Consumer::position`]
    /// reaches the end has waited for every transaction that was open, and has all that was committed.
    fn bounds(&mut self, topic: &Name, partition: i32, timeout: Duration) -> Result<(Offset, Offset), LogError>;

    /// The end of an input as its last fetch saw it; `None` before the first. Asks nobody, so it may be called at any time.
    fn end_seen(&mut self, slot: u32) -> Option<Offset>;

    /// Membership as of now, for [`Producer::send_offsets`]. Taken fresh just before each use.
    fn group(&mut self) -> Option<GroupMetadata>;

    /// Commits offsets without a transaction (`at_least_once`).
    fn commit(&mut self, offsets: &[(Name, i32, Offset)]) -> Result<(), LogError>;

    /// Leaves the group and ends. Idempotent.
    fn close(&mut self, timeout: Duration) -> Result<(), LogError>;
}

/// Group membership as a transaction carries it (KIP-447). Opaque; made by a consumer, used by a producer of the same log.
pub enum GroupMetadata {
    Kafka(kafka::GroupMetadata),
    Memory(memory::GroupMetadata),
}

/// A topic of a producer, looked up once: index into its list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TopicHandle(pub u32);

/// A record to write. Borrowed: the producer copies.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    pub topic: TopicHandle,
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub time: Time,
    /// Whether `time` matters to those who read it. Where it does not (changelogs), the log may stamp its own, which is cheaper.
    pub keep_time: bool,
    pub headers: &'a Headers,
}

impl Outgoing<'_> {
    /// What a topic's `max.message.bytes` is compared with, but for the few bytes that the log itself adds.
    pub fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.bytes()
    }
}

/// Offsets that the log gave to what was sent since the last flush: `(topic, partition, highest offset)`.
pub type Acknowledged = Vec<(TopicHandle, i32, i64)>;

/// One producer, used by one thread. Steps 3 to 5 of the commit.
pub trait Producer: Send {
    /// Makes a topic known and checks that it exists. Returns its handle and partition count.
    fn topic(&mut self, name: &Name) -> Result<(TopicHandle, i32), LogError>;

    /// The largest record, by [`Outgoing::bytes`], that `send` takes for a topic; a larger one is refused as `TooLarge`.
    fn record_bytes_max(&self, topic: TopicHandle) -> usize;

    /// Fences every earlier producer with this transactional id and ends what it left open.
    fn init_transactions(&mut self, timeout: Duration) -> Result<(), LogError>;
    fn begin(&mut self) -> Result<(), LogError>;

    /// Queues a record. `partition` is explicit always; see [`partitioner`]. May block up to `linger` when its queue is full.
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError>;

    /// Returns when everything sent is acknowledged, with the offsets given since the last flush.
    fn flush(&mut self, timeout: Duration) -> Result<Acknowledged, LogError>;

    fn send_offsets(&mut self, offsets: &[(Name, i32, Offset)], group: &GroupMetadata, timeout: Duration) -> Result<(), LogError>;
    fn commit(&mut self, timeout: Duration) -> Result<(), LogError>;
    fn abort(&mut self, timeout: Duration) -> Result<(), LogError>;
}

/// A topic as the cluster has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDescription {
    pub name: Name,
    pub partitions: i32,
    /// UUID of KIP-516 as text; differs after a topic was deleted and made again.
    pub id: String,
}

/// A topic to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    pub name: Name,
    pub partitions: i32,
    /// -1: the broker's default.
    pub replication: i16,
    /// Topic settings such as `cleanup.policy`.
    pub config: Vec<(&'static str, String)>,
}

/// Administration. Blocking; called at start and from background threads, never from the data path.
pub trait Admin: Send + Sync {
    /// Answers in the order asked; `None` for a topic that does not exist.
    fn describe(&self, topics: &[Name], timeout: Duration) -> Result<Vec<Option<TopicDescription>>, LogError>;
    /// Makes topics; one that exists already is left as it is.
    fn create(&self, topics: &[NewTopic], timeout: Duration) -> Result<(), LogError>;
    fn add_partitions(&self, topic: &Name, partitions: i32, timeout: Duration) -> Result<(), LogError>;
    /// Settings of a topic that are asked for by name.
    fn config(&self, topic: &Name, keys: &[&str], timeout: Duration) -> Result<Vec<Option<String>>, LogError>;
    /// Number of brokers, to see whether `replication` can be had.
    fn brokers(&self, timeout: Duration) -> Result<usize, LogError>;
    /// Which of the first `tasks` partitions of its task topic a group that is at rest has given to nobody: none of them finds an owner
    /// before the next rebalance. Empty while a group rebalances, while nobody is in it, and where the broker assigns (KIP-848), for it
    /// gives each partition away by itself.
    fn unassigned(&self, group: &Name, task_topic: &Name, tasks: i32, timeout: Duration) -> Result<Vec<i32>, LogError>;
    /// Deletes records before an offset (repartition topics; tests).
    fn delete_records(&self, topic: &Name, partition: i32, before: Offset, timeout: Duration) -> Result<(), LogError>;
}

/// What the caller must do about an error of the log. The order is the order in which they are tested (FACTS of librdkafka).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogErrorKind {
    /// A newer producer has our transactional id, or our member id is taken: close the tasks, never commit.
    Fenced,
    /// The client cannot go on: make a new one.
    Fatal,
    /// The open transaction must be aborted; then go on with the same producer.
    Abort,
    /// The same call again may succeed.
    Retry,
    /// A time-out of commit or abort: nobody knows which way it went. Replace the producer, read committed offsets.
    Unknown,
    /// No broker, wrong address, refused, not authorized, no such topic: heals from outside, or never.
    Unreachable,
    Authentication,
    Authorization,
    MissingTopic,
    /// Record too large for the broker or the topic.
    TooLarge,
    /// The answer was a plain refusal: wrong settings.
    Config,
}

/// An error of the log: what to do, what was tried, what the cluster said.
#[derive(Clone, PartialEq, Eq)]
pub struct LogError {
    pub kind: LogErrorKind,
    /// What was tried and on what, lowercase, no full stop: `fetch metadata of topic \`a\``.
    pub what: String,
    /// What the client or broker said.
    pub cause: String,
}

impl LogError {
    pub fn new(kind: LogErrorKind, what: impl Into<String>, cause: impl Into<String>) -> LogError {
        LogError { kind, what: what.into(), cause: cause.into() }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)
    }
}

impl fmt::Debug for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for LogError {}

/// Copies a value out of a message where it must outlive it.
pub fn to_bytes(slice: Option<&[u8]>) -> Option<Bytes> {
    slice.map(Bytes::copy_from_slice)
}
