//! The worker file: where an app runs, in one file for all of its workers.
//!
//! Four layers, each over the one before: defaults, the file, variables (`MILLSTREAM_KAFKA_BROKERS`), `--set kafka.brokers=…`.
//! [`SETTINGS`] is the table of all settings; reading (`load`), showing (`show`), the commented `config/worker.yaml` and the
//! reference are made from it. After [`load`] nobody checks a setting again. Holds no secret in a form that can be printed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::secret::Secret;
use crate::model::Name;

mod check;
mod codes;
mod load;
mod settings;
mod show;

pub use codes::WORKER_CODES;
pub use load::{Loaded, Sources, load};
pub use settings::{Kind, SETTINGS, Setting};
pub use show::{document, show};

/// All settings of a worker, checked.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub worker: WorkerSettings,
    pub kafka: KafkaSettings,
    pub redis: RedisSettings,
    pub http: HttpSettings,
    pub memory: MemorySettings,
    /// Standby copies of each task. 0: none.
    pub standby: u32,
    pub log: LogSettings,
}

#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Name in `<app>-workers` and, with the number of a thread, `group.instance.id`. Two workers of one id: the later one is refused.
    pub id: Name,
    /// Stream threads, 1 to 256.
    pub threads: usize,
    /// `<state_dir>/<app>/<task>`, made with mode 0700 and locked.
    pub state_dir: PathBuf,
    pub guarantee: Guarantee,
    /// How often a stream thread commits: 1 ms to a third of the transaction timeout.
    pub commit_interval: Duration,
    /// From SIGTERM to the end of the process, commit included.
    pub shutdown_timeout: Duration,
    pub on_lag: OnLag,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarantee {
    ExactlyOnce,
    AtLeastOnce,
}

/// What happens to the partitions of a view that is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnLag {
    Continue,
    Pause,
}

#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// `host:port`, with commas.
    pub brokers: String,
    pub session_timeout: Duration,
    pub transaction_timeout: Duration,
    /// Of internal topics; fewer where the cluster has fewer brokers.
    pub replication: i16,
    pub group_protocol: GroupProtocol,
    pub security: SecuritySettings,
    /// Other settings of librdkafka, in the order of their names.
    pub client: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupProtocol {
    Classic,
    /// KIP-848.
    Consumer,
}

#[derive(Clone, Debug)]
pub struct SecuritySettings {
    /// As librdkafka's `security.protocol`: `plaintext`, `ssl`, `sasl_plaintext`, `sasl_ssl`.
    pub protocol: &'static str,
    /// There if and only if the protocol is one of SASL.
    pub sasl: Option<Sasl>,
    /// Authorities that the broker's certificate is checked against; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Certificate and key of this client, for mutual TLS.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub key_password: Option<Secret>,
    /// Passwords in the clear and unchecked certificates are allowed.
    pub allow_insecure: bool,
}

#[derive(Clone, Debug)]
pub struct Sasl {
    /// `plain`, `scram-sha-256` or `scram-sha-512`.
    pub mechanism: &'static str,
    pub username: String,
    pub password: Secret,
}

#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// May hold a password.
    pub url: Secret,
    /// Rows in one script, 1 to 500.
    pub batch: usize,
    /// Bytes of committed changes that wait for Redis, over all views.
    pub queue_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Port 0: a free one, which is logged.
    pub listen: SocketAddr,
    /// How other workers reach this one, `host:port`; `None`: where it listens.
    pub advertise: Option<String>,
    /// Who may ask. Empty: everybody, on a loopback address only.
    pub tokens: Vec<Secret>,
}

/// Bytes, for the whole process whatever the number of partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySettings {
    pub row_cache: u64,
    pub block_cache: u64,
    pub write_buffers: u64,
    pub client_buffers: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSettings {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests;
