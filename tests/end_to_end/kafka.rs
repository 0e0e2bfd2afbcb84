//! Kafka as the test sees it: its own clients, beside those of the engine, and readers that do not wait for transactions to end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use crate::events::Event;
use crate::servers::wait_for;

pub const CALL: Duration = Duration::from_secs(20);

/// A record of any topic.
#[derive(Clone, Debug)]
pub struct Found {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub time: i64,
    pub headers: BTreeMap<String, String>,
}

/// Which records a reader sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum See {
    Committed,
    Everything,
}

/// A cluster.
pub struct Kafka {
    pub brokers: String,
    committed: BaseConsumer,
    everything: BaseConsumer,
}

impl Kafka {
    pub fn new(brokers: &str) -> Kafka {
        Kafka { brokers: brokers.to_owned(), committed: consumer(brokers, See::Committed), everything: consumer(brokers, See::Everything) }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }

    /// Topics whose records stay, whatever their age.
    pub fn create(&self, topics: &[&str], partitions: i32) {
        let mut new = Vec::new();
        for name in topics {
            let stays = vec![("retention.ms", "-1")];
            new.push(NewTopic { name, num_partitions: partitions, replication: TopicReplication::Fixed(-1), config: stays });
        }
        let made = wait(self.admin().create_topics(&new, &AdminOptions::new().operation_timeout(Some(CALL))));
        made.unwrap().into_iter().for_each(|made| _ = made.unwrap());
        // Created is not known yet: a worker that is started now may be told that there is no such topic.
        wait_for("new topics to be known", CALL, || {
            let known = self.everything.fetch_metadata(None, CALL).unwrap();
            let is_known = |name: &&str| {
                let found = known.topics().iter().find(|topic| topic.name() == *name);
                found.is_some_and(|topic| {
                    topic.partitions().len() == partitions as usize && topic.partitions().iter().all(|one| one.leader() >= 0)
                })
            };
            topics.iter().all(is_known).then_some(())
        });
    }

    /// Removes all topics of a run.
    pub fn remove(&self, prefix: &str) {
        let metadata = self.everything.fetch_metadata(None, CALL).unwrap();
        let topics: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).filter(|name| name.starts_with(prefix)).collect();
        _ = wait(self.admin().delete_topics(&topics, &AdminOptions::new()));
    }

    /// The end of a partition: of what is committed it is the last stable offset.
    pub fn end(&self, topic: &str, partition: i32, see: See) -> i64 {
        let consumer = if see == See::Committed { &self.committed } else { &self.everything };
        consumer.fetch_watermarks(topic, partition, CALL).unwrap().1
    }

    /// The offsets of an open transaction in a partition, if there is one: from its first record to the end.
    pub fn open_transaction(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let stable = self.end(topic, partition, See::Committed);
        let end = self.end(topic, partition, See::Everything);
        // Asked in this order a transaction that ends in between looks open. It is asked again.
        (stable < end && self.end(topic, partition, See::Committed) == stable).then_some((stable, end))
    }

    /// A group's committed offsets; those of transactions that have ended.
    pub fn committed_offsets(&self, group: &str, topics: &[&str], partitions: i32) -> BTreeMap<(String, i32), i64> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .unwrap();
        let mut asked = TopicPartitionList::new();
        for topic in topics {
            asked.add_partition_range(topic, 0, partitions - 1);
        }
        let known = client.committed_offsets(asked, CALL).unwrap();
        let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
        known.elements().iter().map(|found| ((found.topic().to_owned(), found.partition()), offset(found.offset()))).collect()
    }

    /// Everything in a topic, by partition and offset.
    pub fn read(&self, topic: &str, see: See) -> Vec<Found> {
        let reader = consumer(&self.brokers, see);
        let metadata = reader.fetch_metadata(Some(topic), CALL).unwrap();
        let partitions = metadata.topics()[0].partitions().len() as i32;
        assert!(partitions > 0, "no topic `{topic}`");
        let mut wanted = TopicPartitionList::new();
        (0..partitions).for_each(|partition| wanted.add_partition_offset(topic, partition, Offset::Beginning).unwrap());
        reader.assign(&wanted).unwrap();
        let (mut found, mut ended, until) = (Vec::new(), vec![false; partitions as usize], Instant::now() + CALL);
        while ended.contains(&false) {
            assert!(Instant::now() < until, "`{topic}` could not be read to its end in {CALL:?}");
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => found.push(found_in(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => ended[partition as usize] = true,
                Some(Err(error)) => panic!("reading `{topic}`: {error}"),
                None => {}
            }
        }
        found.sort_by_key(|found| (found.partition, found.offset));
        found
    }

    /// A reader of what comes in a topic from now on.
    pub fn follow(&self, topic: &str, partitions: i32, see: See) -> Follower {
        let reader = consumer(&self.brokers, see);
        let mut wanted = TopicPartitionList::new();
        for partition in 0..partitions {
            wanted.add_partition_offset(topic, partition, Offset::Offset(self.end(topic, partition, see))).unwrap();
        }
        reader.assign(&wanted).unwrap();
        Follower { reader }
    }

    /// A sender of events that partitions them as Java's clients do.
    pub fn sender(&self) -> Sender {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            .create()
            .unwrap();
        Sender { producer }
    }
}

pub struct Follower {
    reader: BaseConsumer,
}

impl Follower {
    /// The next record, waiting a second for it.
    pub fn next(&self) -> Option<Found> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            match self.reader.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => return Some(found_in(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => panic!("following a topic: {error}"),
                None => return None,
            }
        }
    }
}

pub struct Sender {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Sender {
    pub fn send(&self, topic: &str, event: &Event) {
        let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).timestamp(event.time);
        record.key = event.key.as_deref();
        record.payload = event.value.as_deref();
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("sending to `{topic}`: {error}"),
            }
        }
    }

    pub fn flush(&self) {
        self.producer.flush(CALL).unwrap();
    }
}

/// The admin client answers by futures that its own thread completes.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

fn consumer(brokers: &str, see: See) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // A group that is never joined: a consumer wants a name.
        .set("group.id", "end-to-end-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("isolation.level", if see == See::Committed { "read_committed" } else { "read_uncommitted" })
        .create()
        .unwrap()
}

fn found_in(message: &rdkafka::message::BorrowedMessage<'_>) -> Found {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    Found {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        time: message.timestamp().to_millis().unwrap_or(-1),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
    }
}
