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
use crate::log::kafka::ffi;
use crate::log::{Admin, LogError, LogErrorKind, NewTopic, TopicDescription};
use crate::model::{Name, Offset};

/// How long we wait to learn the largest record of a topic.
const LIMIT_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// `max.message.bytes` of a topic. Whoever may not ask for it learns it from the broker's refusal.
    pub(super) fn record_bytes_max(&self, topic: &Name) -> usize {
        let answer = self.config(topic, &["max.message.bytes"], LIMIT_TIMEOUT);
        let limit = answer.ok().and_then(|values| values.into_iter().next().flatten()).and_then(|text| text.parse().ok());
        limit.unwrap_or(usize::MAX)
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
        // A broker answers for a topic that does not exist with no settings at all.
        if resource.entries.is_empty() {
            return Err(self.failed(what(), RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        Ok(keys.iter().map(|key| resource.get(key).and_then(|entry| entry.value.clone())).collect())
    }

    fn brokers(&self, timeout: Duration) -> Result<usize, LogError> {
        let metadata = self.done(|| "count the brokers".into(), self.client.inner().fetch_metadata(None, timeout))?;
        Ok(metadata.brokers().len())
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
