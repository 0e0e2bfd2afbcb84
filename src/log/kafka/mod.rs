//! The log as Apache Kafka, through librdkafka. The only folder that names rdkafka.

use crate::model::{Headers, Time};

/// Membership as librdkafka has it.
pub struct GroupMetadata {}

/// A message in librdkafka's fetch buffer.
pub struct KafkaMessage {}

impl KafkaMessage {
    pub fn slot(&self) -> u32 {
        0
    }
    pub fn partition(&self) -> i32 {
        0
    }
    pub fn offset(&self) -> i64 {
        0
    }
    pub fn time(&self) -> Time {
        Time(0)
    }
    pub fn key(&self) -> Option<&[u8]> {
        None
    }
    pub fn value(&self) -> Option<&[u8]> {
        None
    }
    pub fn headers(&self) -> Headers {
        Headers::default()
    }
}
