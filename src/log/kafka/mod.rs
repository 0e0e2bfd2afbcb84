//! The log as Apache Kafka, through librdkafka. The only folder that names rdkafka.
//!
//! `settings` says how to reach a cluster and refuses what breaks a promise; `consumer`, `producer` and `admin` are the port;
//! `context` is what the client tells us; `error` is what its errors mean; `group` reads what members were given; `ffi` is the C that
//! is left.

use std::sync::{Arc, Mutex, PoisonError};

use crate::log::{Admin, Consumer, GroupSettings, Log, LogError, Producer, ProducerSettings};

mod admin;
mod consumer;
mod context;
mod error;
mod ffi;
mod group;
mod producer;
mod settings;
#[cfg(test)]
mod tests;

pub use ffi::{GroupMetadata, KafkaMessage};
pub use settings::{
    CLIENT_BUFFERS_DEFAULT, GroupProtocol, KafkaSettings, Mechanism, POLL_INTERVAL_MAX_DEFAULT, Protocol, REFUSED, Security, refusal,
};

/// A Kafka cluster.
pub struct KafkaLog {
    settings: KafkaSettings,
    /// Made when first asked for, then shared.
    admin: Mutex<Option<admin::KafkaAdmin>>,
    /// Of the members. What a reader meets is told by whoever reads.
    troubles: Arc<context::Troubles>,
}

impl KafkaLog {
    /// Checks the settings; connects to nothing yet.
    ///
    /// # Errors
    /// `Config`, see [`KafkaSettings::check`].
    pub fn new(settings: KafkaSettings) -> Result<KafkaLog, LogError> {
        settings.check()?;
        Ok(KafkaLog { settings, admin: Mutex::new(None), troubles: Arc::default() })
    }

    fn shared_admin(&self) -> Result<admin::KafkaAdmin, LogError> {
        let mut shared = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(admin) = &*shared {
            return Ok(admin.clone());
        }
        let made = admin::KafkaAdmin::new(&self.settings.admin(), &self.settings.brokers)?;
        Ok(shared.insert(made).clone())
    }
}

impl Log for KafkaLog {
    fn group_consumer(&self, group: &GroupSettings) -> Result<Box<dyn Consumer>, LogError> {
        let config = self.settings.group_consumer(group);
        let task_topic = Some(&group.task_topic);
        Ok(Box::new(consumer::KafkaConsumer::new(&config, &self.settings.brokers, task_topic, self.troubles.clone())?))
    }

    fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(consumer::KafkaConsumer::new(&self.settings.reader(), &self.settings.brokers, None, Arc::default())?))
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>, LogError> {
        let producer = producer::KafkaProducer::new(&self.settings.producer(settings), settings, self.shared_admin()?)?;
        Ok(Box::new(producer))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, LogError> {
        Ok(Box::new(self.shared_admin()?))
    }
}
