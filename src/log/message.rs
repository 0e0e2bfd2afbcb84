//! A message as the consumer delivered it, owned by whoever holds it.
//!
//! The bytes of a Kafka message lie in librdkafka's fetch buffer until the message is dropped: hold it only while its
//! record is being worked on.

use std::sync::Arc;

use crate::log::{kafka, memory};
use crate::model::{Headers, Time};

/// An input message with the slot of the input it came from.
pub enum Message {
    Kafka(kafka::KafkaMessage),
    Memory { slot: u32, partition: i32, record: Arc<memory::StoredRecord> },
}

impl Message {
    pub fn slot(&self) -> u32 {
        match self {
            Message::Kafka(message) => message.slot(),
            Message::Memory { slot, .. } => *slot,
        }
    }

    pub fn partition(&self) -> i32 {
        match self {
            Message::Kafka(message) => message.partition(),
            Message::Memory { partition, .. } => *partition,
        }
    }

    pub fn offset(&self) -> i64 {
        match self {
            Message::Kafka(message) => message.offset(),
            Message::Memory { record, .. } => record.offset,
        }
    }

    /// The record's timestamp (create time or log append time, as the topic is set).
    pub fn time(&self) -> Time {
        match self {
            Message::Kafka(message) => message.time(),
            Message::Memory { record, .. } => record.time,
        }
    }

    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Message::Kafka(message) => message.key(),
            Message::Memory { record, .. } => record.key.as_deref(),
        }
    }

    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Message::Kafka(message) => message.value(),
            Message::Memory { record, .. } => record.value.as_deref(),
        }
    }

    /// Copies the headers; cheap where there are none.
    pub fn headers(&self) -> Headers {
        match self {
            Message::Kafka(message) => message.headers(),
            Message::Memory { record, .. } => record.headers.clone(),
        }
    }
}
