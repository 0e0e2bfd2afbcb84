//! Administration of a Kafka cluster. Blocking; one client for the whole worker.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic as NativeTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset as NativeOffset, TopicPartitionList};

use crate::log::kafka::context::AdminSide;
use crate::log::kafka::error::{by_code, by_reason, of};
use crate::log::kafka::{ffi, group};
use crate::log::{Admin, LogError, LogErrorKind, NewTopic, TopicDescription};
use crate::model::{Name, Offset, Time};

/// How long we wait to learn what a topic takes.
const LIMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a record takes beside key, value and headers, at most: the same that a broker adds when it compares with `max.message.bytes`.
const RECORD_OVERHEAD: usize = 128;
/// How far our clock may be from the broker's.
const CLOCK_SKEW_MS: i64 = 60_000;

/// What a topic takes.
#[derive(Clone, Copy)]
pub(super) struct TopicLimits {
    /// `max.message.bytes`.
    pub(super) record_bytes_max: usize,
    /// `message.timestamp.after.max.ms`: since Kafka 4 an hour where nobody says otherwise.
    ahead_ms_max: i64,
    /// `message.timestamp.before.max.ms`.
    behind_ms_max: i64,
}

impl Default for TopicLimits {
    fn default() -> TopicLimits {
        TopicLimits { record_bytes_max: usize::MAX, ahead_ms_max: i64::MAX, behind_ms_max: i64::MAX }
    }
}

impl TopicLimits {
    /// The largest record, where the client's queue holds so much.
    pub(super) fn bytes_max(self, queue_bytes: usize) -> usize {
        self.record_bytes_max.min(queue_bytes).saturating_sub(RECORD_OVERHEAD)
    }

    /// The time to write a record with. One that the topic would refuse gives way to `now`: a record whose event time is two hours
    /// ahead would stop its task for ever otherwise, and its value has the time all the same.
    pub(super) fn stamp(self, time: Time, now: Time) -> Time {
        let skewed = |limit: i64| limit.saturating_sub(CLOCK_SKEW_MS.min(limit / 2));
        let ahead = time.0.saturating_sub(now.0);
        let is_taken = ahead <= skewed(self.ahead_ms_max) && ahead.saturating_neg() <= skewed(self.behind_ms_max);
        if is_taken { time } else { now }
    }
}

/// A handle on the admin client; clones share it.
#[derive(Clone)]
pub(super) struct KafkaAdmin {
    client: Arc<AdminClient<AdminSide>>,
    brokers: String,
}

impl KafkaAdmin {
    pub(super) fn new(config: &ClientConfig, brokers: &str) -> Result<KafkaAdmin, LogError> {
        let client: AdminClient<AdminSide> =
            config.create_with_context(AdminSide::default()).map_err(|error| of("make an admin client", &error))?;
        Ok(KafkaAdmin { client: Arc::new(client), brokers: brokers.to_owned() })
    }

    /// What a topic takes. Whoever may not ask for it learns it from the broker's refusal.
    pub(super) fn limits(&self, topic: &Name) -> TopicLimits {
        let keys = ["max.message.bytes", "message.timestamp.type", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms"];
        let Ok(values) = self.config(topic, &keys, LIMIT_TIMEOUT) else { return TopicLimits::default() };
        let text = |at: usize| values.get(at).and_then(Option::as_deref);
        let number = |at: usize| text(at).and_then(|text| text.parse().ok());
        let is_stamped_by_us = text(1) != Some("LogAppendTime");
        TopicLimits {
            record_bytes_max: number(0).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX),
            ahead_ms_max: number(2).filter(|_| is_stamped_by_us).unwrap_or(i64::MAX),
            behind_ms_max: number(3).filter(|_| is_stamped_by_us).unwrap_or(i64::MAX),
        }
    }

    fn failed(&self, what: String, code: RDKafkaErrorCode) -> LogError {
        ffi::drain_admin_log(&self.client);
        let error = by_code(what, code);
        if error.kind != LogErrorKind::Unreachable {
            return error;
        }
        let cause = match self.client.inner().context().connection.reason() {
            Some(reason) => reason,
            None => error.cause,
        };
        by_reason(format!("{}, Kafka at `{}`", error.what, self.brokers), code, &cause)
    }

    fn done<T>(&self, what: impl Fn() -> String, result: KafkaResult<T>) -> Result<T, LogError> {
        ffi::drain_admin_log(&self.client);
        result.map_err(|error| match &error {
            rdkafka::error::KafkaError::AdminOp(code) => self.failed(what(), *code),
            error => match error.rdkafka_error_code() {
                Some(code) => self.failed(what(), code),
                None => of(what(), error),
            },
        })
    }
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

/// Waits for an answer of the admin client, which has a thread of its own to bring it.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

impl Admin for KafkaAdmin {
    fn describe(&self, topics: &[Name], timeout: Duration) -> Result<Vec<Option<TopicDescription>>, LogError> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let mut names: Vec<&str> = topics.iter().map(|name| &**name).collect();
        names.sort_unstable();
        names.dedup();
        let what = |name: &str| format!("describe topic `{name}`");
        let described = ffi::describe_topics(&self.client, &names, timeout).map_err(|code| self.failed("describe topics".into(), code))?;
        ffi::drain_admin_log(&self.client);
        let one = |name: &Name| match described.iter().find(|(found, _)| found == &**name) {
            Some((_, Ok((partitions, id)))) => Ok(Some(TopicDescription { name: name.clone(), partitions: *partitions, id: id.clone() })),
            Some((_, Err(RDKafkaErrorCode::UnknownTopicOrPartition))) | None => Ok(None),
            Some((_, Err(code))) => Err(by_code(what(name), *code)),
        };
        topics.iter().map(one).collect()
    }

    fn create(&self, topics: &[NewTopic], timeout: Duration) -> Result<(), LogError> {
        if topics.is_empty() {
            return Ok(());
        }
        let native: Vec<NativeTopic<'_>> = topics
            .iter()
            .map(|topic| {
                let replication = TopicReplication::Fixed(i32::from(topic.replication));
                let new = NativeTopic::new(&topic.name, topic.partitions, replication);
                topic.config.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        let results = self.done(|| "create topics".into(), block_on(self.client.create_topics(&native, &options(timeout))))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(self.failed(format!("create topic `{name}`"), code)),
            }
        }
        Ok(())
    }

    fn add_partitions(&self, topic: &Name, partitions: i32, timeout: Duration) -> Result<(), LogError> {
        let what = || format!("set `{topic}` to {partitions} partitions");
        let count = usize::try_from(partitions).map_err(|_| LogError::new(LogErrorKind::Config, what(), "there must be at least 1"))?;
        let new = NewPartitions::new(topic, count);
        let results = self.done(what, block_on(self.client.create_partitions([&new], &options(timeout))))?;
        for result in results {
            result.map_err(|(_, code)| self.failed(what(), code))?;
        }
        Ok(())
    }

    fn config(&self, topic: &Name, keys: &[&str], timeout: Duration) -> Result<Vec<Option<String>>, LogError> {
        let what = || format!("read the settings of topic `{topic}`");
        let specifier = ResourceSpecifier::Topic(topic);
        let results = self.done(what, block_on(self.client.describe_configs([&specifier], &options(timeout))))?;
        let Some(answer) = results.into_iter().next() else { return Err(self.failed(what(), RDKafkaErrorCode::UnknownTopicOrPartition)) };
        let resource: ConfigResource = answer.map_err(|code| self.failed(what(), code))?;
        // No settings at all: the wrapper leaves the broker's reason out. The topic is not there, or we may not ask.
        if resource.entries.is_empty() {
            let is_there = self.describe(std::slice::from_ref(topic), timeout)?.into_iter().flatten().next().is_some();
            let code = if is_there { RDKafkaErrorCode::TopicAuthorizationFailed } else { RDKafkaErrorCode::UnknownTopicOrPartition };
            return Err(self.failed(what(), code));
        }
        Ok(keys.iter().map(|key| resource.get(key).and_then(|entry| entry.value.clone())).collect())
    }

    fn brokers(&self, timeout: Duration) -> Result<usize, LogError> {
        let metadata = self.done(|| "count the brokers".into(), self.client.inner().fetch_metadata(None, timeout))?;
        Ok(metadata.brokers().len())
    }

    fn unassigned(&self, group: &Name, task_topic: &Name, tasks: i32, timeout: Duration) -> Result<Vec<i32>, LogError> {
        let what = || format!("ask what group `{group}` has given to whom");
        let groups = self.done(what, self.client.inner().fetch_group_list(Some(group), timeout))?;
        let Some(found) = groups.groups().iter().find(|found| found.name() == &**group) else { return Ok(Vec::new()) };
        let members = found.members().iter().map(|member| (member.id(), member.assignment().unwrap_or_default()));
        group::unassigned(found.state(), members, task_topic, tasks)
            .map_err(|member| LogError::new(LogErrorKind::Config, what(), format!("the assignment of member `{member}` cannot be read")))
    }

    fn delete_records(&self, topic: &Name, partition: i32, before: Offset, timeout: Duration) -> Result<(), LogError> {
        let what = || format!("delete records of `{topic}` partition {partition} before {before}");
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition, NativeOffset::Offset(before.0)).map_err(|error| of(what(), &error))?;
        let answer = self.done(what, block_on(self.client.delete_records(&list, &options(timeout))))?;
        for element in answer.elements() {
            self.done(what, element.error())?;
        }
        Ok(())
    }
}
