//! How to reach a cluster, and which settings of the client a user may touch.
//!
//! What the promises of Millstream stand on (isolation, idempotence, offsets, assignment) is set in this folder and refused
//! from outside by name, as is everything that loads code or reads files behind the user's back.

use std::fmt;
use std::fs::File;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::log::{GroupSettings, LogError, LogErrorKind, ProducerSettings};

/// The cluster and the client, for all threads of a worker.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, separated by commas. Kafka: `bootstrap.servers`.
    pub brokers: String,
    /// Names us in the brokers' logs and quotas. Also the group of readers, which never join it: the name of the application,
    /// so that one access rule covers both.
    pub client_id: String,
    pub security: Security,
    pub group_protocol: GroupProtocol,
    /// A member that has not polled for so long loses its tasks. Default 5 minutes, at least the session timeout. Kafka:
    /// `max.poll.interval.ms`.
    pub poll_interval_max: Duration,
    /// Other settings of librdkafka, as written. See [`refusal`].
    pub client: Vec<(String, String)>,
    /// Bytes for prefetched and unsent records of all clients together. Default 64 MiB, at least 2 MiB per thread.
    pub client_buffers: u64,
    /// Stream threads that share `client_buffers`. At least 1.
    pub threads: usize,
}

/// How members of a group get their tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GroupProtocol {
    /// The members assign, by `cooperative-sticky`.
    #[default]
    Classic,
    /// The broker assigns (KIP-848). Needs Kafka 4; `session_timeout` is then the broker's.
    Consumer,
}

/// Encryption and authentication.
#[derive(Clone, Default)]
pub struct Security {
    pub protocol: Protocol,
    pub mechanism: Option<Mechanism>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Path of a PEM file with the certificates to trust; the system's where it is not given.
    pub ca: Option<String>,
    /// Paths of our own certificate and its key (mutual TLS).
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub key_password: Option<String>,
    /// Allows a password to travel without encryption.
    pub allow_insecure: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    #[default]
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

/// What `client_buffers` is where nothing else is said.
pub const CLIENT_BUFFERS_DEFAULT: u64 = 64 << 20;
/// The least that one client gets of `client_buffers`.
const BUFFER_BYTES_MIN: u64 = 1 << 20;
/// Fetch of one partition at a time: librdkafka's default, and what a queue may exceed its bound by.
const PARTITION_FETCH_BYTES: u64 = 1 << 20;
/// What `poll_interval_max` is where nothing else is said: Kafka's default.
pub const POLL_INTERVAL_MAX_DEFAULT: Duration = Duration::from_secs(300);
/// The largest record the client itself lets through; the topic's own limit is checked before (see `producer.rs`).
const RECORD_BYTES_MAX: u64 = 100 << 20;

impl KafkaSettings {
    /// Settings for a cluster without security.
    pub fn new(brokers: impl Into<String>, client_id: impl Into<String>) -> KafkaSettings {
        KafkaSettings {
            brokers: brokers.into(),
            client_id: client_id.into(),
            security: Security::default(),
            group_protocol: GroupProtocol::default(),
            poll_interval_max: POLL_INTERVAL_MAX_DEFAULT,
            client: Vec::new(),
            client_buffers: CLIENT_BUFFERS_DEFAULT,
            threads: 1,
        }
    }

    /// Says what is wrong with the settings, and whether the files they name are there, before anything is connected.
    ///
    /// # Errors
    /// `Config`, naming the setting and the reason.
    pub fn check(&self) -> Result<(), LogError> {
        let refuse = |what: String, cause: &str| Err(LogError::new(LogErrorKind::Config, what, cause));
        for (key, value) in &self.client {
            if let Some(reason) = refusal(key, value) {
                return refuse(format!("set `kafka.client.{key}`"), reason);
            }
        }
        let security = &self.security;
        let is_sasl = matches!(security.protocol, Protocol::SaslPlaintext | Protocol::SaslSsl);
        let is_insecure = security.protocol == Protocol::SaslPlaintext && !security.allow_insecure;
        if is_insecure {
            return refuse(
                "use `sasl_plaintext`".into(),
                "the password would travel without encryption: use `sasl_ssl`, or set `allow_insecure: true`",
            );
        }
        if is_sasl && (security.mechanism.is_none() || security.username.is_none() || security.password.is_none()) {
            return refuse("use SASL".into(), "`mechanism`, `username` and `password` are all needed");
        }
        for (key, path) in [("ca", &security.ca), ("certificate", &security.certificate), ("key", &security.key)] {
            // The client says of a file that is not there that it is no certificate.
            if let Some(path) = path
                && let Err(error) = File::open(path)
            {
                return refuse(format!("read `kafka.security.{key}` from `{path}`"), &error.to_string());
            }
        }
        if self.brokers.trim().is_empty() {
            return refuse("connect to Kafka".into(), "`kafka.brokers` is empty: give `host:port`, separated by commas");
        }
        Ok(())
    }

    /// What every client has in common.
    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // Before the first question to a cluster is given up, so that it is known why: half the client's defaults, or less.
        config.set("socket.connection.setup.timeout.ms", "6000").set("api.version.request.timeout.ms", "5000");
        for (key, value) in &self.client {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.brokers).set("client.id", &self.client_id);
        config.set("allow.auto.create.topics", "false").set("socket.keepalive.enable", "true");
        self.security.apply(&mut config);
        config
    }

    /// A share of the buffers for one of the two clients of a thread.
    fn buffer_bytes(&self) -> u64 {
        (self.client_buffers / 2 / self.threads.max(1) as u64).max(BUFFER_BYTES_MIN)
    }

    fn consumer(&self) -> ClientConfig {
        let mut config = self.base();
        let bytes = self.buffer_bytes();
        // The queues of all partitions are forwarded to one, so its bound is one for the whole consumer.
        config.set("queued.max.messages.kbytes", (bytes / 1024).to_string());
        config.set("fetch.max.bytes", bytes.max(PARTITION_FETCH_BYTES).to_string());
        // A full queue is looked at again after 5 ms, not after a second.
        config.set("fetch.queue.backoff.ms", "5");
        // A partition that is added waits for the fetch under way; records end it at once, an idle topic does not.
        config.set("fetch.wait.max.ms", "100");
        config.set("check.crcs", "true").set("isolation.level", "read_committed");
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "false");
        config
    }

    pub(super) fn group_consumer(&self, group: &GroupSettings) -> ClientConfig {
        let mut config = self.consumer();
        config.set("group.id", &*group.group);
        config.set("max.poll.interval.ms", self.poll_interval_max.max(group.session_timeout).as_millis().to_string());
        if let Some(instance) = &group.instance_id {
            config.set("group.instance.id", &**instance);
        }
        match self.group_protocol {
            GroupProtocol::Classic => {
                let session_ms = group.session_timeout.as_millis();
                config.set("group.protocol", "classic").set("partition.assignment.strategy", "cooperative-sticky");
                config.set("session.timeout.ms", session_ms.to_string());
                // A third of the session, as Kafka advises, so that one lost heartbeat is no lost member.
                config.set("heartbeat.interval.ms", (session_ms / 3).clamp(1, 3000).to_string());
            }
            GroupProtocol::Consumer => {
                config.set("group.protocol", "consumer").set("group.remote.assignor", "uniform");
            }
        }
        config
    }

    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.consumer();
        // Several restore at a time, and what is fetched takes three times its size in the client: small records cost most of it.
        // Twice as much was 40 MB more for four tasks, and no faster.
        let bytes = (self.buffer_bytes() / 8).max(BUFFER_BYTES_MIN);
        config.set("queued.max.messages.kbytes", (bytes / 1024).to_string());
        config.set("fetch.max.bytes", bytes.max(PARTITION_FETCH_BYTES).to_string());
        config.set("group.id", &self.client_id);
        config
    }

    pub(super) fn producer(&self, settings: &ProducerSettings) -> ClientConfig {
        let mut config = self.base();
        config.set("enable.idempotence", "true").set("linger.ms", settings.linger.as_millis().to_string());
        config.set("queue.buffering.max.messages", "1000000");
        config.set("queue.buffering.max.kbytes", (self.buffer_bytes() / 1024).to_string());
        config.set("message.max.bytes", RECORD_BYTES_MAX.to_string());
        if !self.client.iter().any(|(key, _)| matches!(key.as_str(), "compression.type" | "compression.codec")) {
            config.set("compression.type", "lz4");
        }
        if let Some(id) = &settings.transactional_id {
            let timeout_ms = settings.transaction_timeout.as_millis().to_string();
            config.set("transactional.id", &**id).set("transaction.timeout.ms", &timeout_ms).set("message.timeout.ms", &timeout_ms);
        }
        config
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.base()
    }
}

impl Security {
    fn apply(&self, config: &mut ClientConfig) {
        let protocol = match self.protocol {
            Protocol::Plaintext => "plaintext",
            Protocol::Ssl => "ssl",
            Protocol::SaslPlaintext => "sasl_plaintext",
            Protocol::SaslSsl => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        let mechanism = self.mechanism.map(|mechanism| match mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        });
        let is_encrypted = matches!(self.protocol, Protocol::Ssl | Protocol::SaslSsl);
        let settings = [
            ("sasl.mechanism", mechanism),
            ("sasl.username", self.username.as_deref()),
            ("sasl.password", self.password.as_deref()),
            ("ssl.ca.location", self.ca.as_deref().filter(|_| is_encrypted)),
            ("ssl.certificate.location", self.certificate.as_deref().filter(|_| is_encrypted)),
            ("ssl.key.location", self.key.as_deref().filter(|_| is_encrypted)),
            ("ssl.key.password", self.key_password.as_deref().filter(|_| is_encrypted)),
        ];
        for (key, value) in settings {
            if let Some(value) = value {
                config.set(key, value);
            }
        }
    }
}

impl fmt::Debug for KafkaSettings {
    /// Without what may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings").field("brokers", &self.brokers).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// Settings of librdkafka that `kafka.client` refuses, with the reason. A name that ends in `.` stands for all below it.
pub const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is `kafka.brokers`"),
    ("metadata.broker.list", "it is `kafka.brokers`"),
    ("client.id", "it is the name of the application"),
    ("security.protocol", "it is `kafka.security.protocol`"),
    ("sasl.", "authentication is set in `kafka.security`"),
    ("ssl.ca.", "trust is set in `kafka.security.ca`"),
    ("ssl.certificate.", "our certificate is `kafka.security.certificate`"),
    ("ssl.key.", "our key is `kafka.security.key`"),
    ("ssl.keystore.", "our certificate and key are set in `kafka.security`"),
    ("ssl.engine.", "it loads code into the worker"),
    ("ssl.providers", "it loads code into the worker"),
    ("ssl_engine_callback_data", "it loads code into the worker"),
    ("plugin.library.paths", "it loads code into the worker"),
    ("group.id", "it is the name of the application"),
    ("group.instance.id", "it is made from `worker.id`"),
    ("group.protocol", "it is `kafka.group_protocol`"),
    ("group.remote.assignor", "the assignment of tasks stands on it"),
    ("partition.assignment.strategy", "the assignment of tasks stands on it"),
    ("session.timeout.ms", "it is `kafka.session_timeout`"),
    ("heartbeat.interval.ms", "it is derived from `kafka.session_timeout`"),
    ("max.poll.interval.ms", "the watchdog of the stream threads stands on it"),
    ("transactional.id", "it is made from `worker.id`"),
    ("transaction.timeout.ms", "it is `kafka.transaction_timeout`"),
    ("message.timeout.ms", "it is derived from `kafka.transaction_timeout`"),
    ("delivery.timeout.ms", "it is derived from `kafka.transaction_timeout`"),
    ("isolation.level", "exactly once stands on `read_committed`"),
    ("enable.idempotence", "exactly once stands on it"),
    ("enable.gapless.guarantee", "exactly once stands on the settings of the producer"),
    ("acks", "exactly once stands on `all`"),
    ("request.required.acks", "exactly once stands on `all`"),
    ("max.in.flight", "the order of records stands on it"),
    ("max.in.flight.requests.per.connection", "the order of records stands on it"),
    ("message.send.max.retries", "the order of records stands on it"),
    ("retries", "the order of records stands on it"),
    ("enable.auto.commit", "offsets are committed with the results they belong to"),
    ("auto.commit.", "offsets are committed with the results they belong to"),
    ("enable.auto.offset.store", "offsets are committed with the results they belong to"),
    ("offset.store.", "offsets are committed with the results they belong to"),
    ("auto.offset.reset", "an offset that is gone must be noticed, not skipped"),
    ("enable.partition.eof", "it would skip records after a pause"),
    ("allow.auto.create.topics", "a topic that is missing must be noticed"),
    ("partitioner", "keys are routed as Kafka Streams routes them"),
    ("sticky.partitioning.linger.ms", "keys are routed as Kafka Streams routes them"),
    ("delivery.report.only.error", "the offsets of the changelog are learned from the reports"),
    ("queue.buffering.max.kbytes", "it is a share of `memory.client_buffers`"),
    ("queued.max.messages.kbytes", "it is a share of `memory.client_buffers`"),
    ("fetch.max.bytes", "it is a share of `memory.client_buffers`"),
    ("linger.ms", "it is set by the commit interval"),
    ("queue.buffering.max.ms", "it is set by the commit interval"),
    ("debug", "it writes secrets and records to the log"),
    ("log.queue", "logging is set in `log`"),
    ("log.thread.name", "logging is set in `log`"),
    ("test.mock.", "it replaces the cluster by a mock"),
    ("statistics.interval.ms", "nobody reads them: see the metrics"),
];

/// Why a setting of librdkafka may not be given in `kafka.client`; `None` where it may.
pub fn refusal(key: &str, value: &str) -> Option<&'static str> {
    match (key, value) {
        ("enable.ssl.certificate.verification", value) if value != "true" => return Some("the brokers' certificates must be verified"),
        ("ssl.endpoint.identification.algorithm", value) if value != "https" => return Some("the brokers' names must be verified"),
        _ => {}
    }
    let is_meant = |name: &str| if name.ends_with('.') { key.starts_with(name) } else { key == name };
    REFUSED.iter().find(|(name, _)| is_meant(name)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut KafkaSettings)) -> String {
        let mut settings = KafkaSettings::new("a:1", "app");
        change(&mut settings);
        settings.check().err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn refuses_settings_that_break_a_promise_or_load_code() {
        let client = |key: &str, value: &str| check(|settings| settings.client.push((key.into(), value.into())));
        assert_eq!(client("plugin.library.paths", "x"), "set `kafka.client.plugin.library.paths`: it loads code into the worker");
        assert_eq!(client("ssl.engine.location", "x"), "set `kafka.client.ssl.engine.location`: it loads code into the worker");
        assert_eq!(
            client("isolation.level", "read_uncommitted"),
            "set `kafka.client.isolation.level`: exactly once stands on `read_committed`"
        );
        assert_eq!(
            client("enable.ssl.certificate.verification", "false"),
            "set `kafka.client.enable.ssl.certificate.verification`: the brokers' certificates must be verified"
        );
        assert_eq!(client("fetch.min.bytes", "1"), "");
        assert_eq!(client("enable.ssl.certificate.verification", "true"), "");
    }

    #[test]
    fn a_password_never_travels_in_the_open_unless_told_to() {
        let sasl = |allow| {
            check(|settings| {
                settings.security = Security {
                    protocol: Protocol::SaslPlaintext,
                    mechanism: Some(Mechanism::Plain),
                    username: Some("u".into()),
                    password: Some("p".into()),
                    allow_insecure: allow,
                    ..Security::default()
                }
            })
        };
        assert!(sasl(false).contains("without encryption"), "{}", sasl(false));
        assert_eq!(sasl(true), "");
        let half = check(|settings| settings.security.protocol = Protocol::SaslSsl);
        assert_eq!(half, "use SASL: `mechanism`, `username` and `password` are all needed");
    }

    #[test]
    fn buffers_are_shared_by_the_threads() {
        let mut settings = KafkaSettings::new("a:1", "app");
        settings.client_buffers = 64 << 20;
        settings.threads = 4;
        assert_eq!(settings.consumer().get("queued.max.messages.kbytes"), Some("8192"));
        assert_eq!(settings.reader().get("queued.max.messages.kbytes"), Some("1024"));
        settings.client_buffers = 0;
        assert_eq!(settings.reader().get("queued.max.messages.kbytes"), Some("1024"));
    }
}
