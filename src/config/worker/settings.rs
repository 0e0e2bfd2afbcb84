//! The table of all settings.

use crate::config::duration::DURATION_MAX_MS;

/// A setting of the worker file.
#[derive(Debug)]
pub struct Setting {
    /// Where it stands in the file, with dots: `kafka.brokers`; as a variable `MILLSTREAM_KAFKA_BROKERS`.
    pub path: &'static str,
    pub kind: Kind,
    /// As one would write it; `None`: what `otherwise` says.
    pub default: Option<&'static str>,
    /// What holds where there is no default: `the host name`.
    pub otherwise: &'static str,
    pub summary: &'static str,
}

/// What a setting takes, with its bounds (both included).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Path,
    /// `[A-Za-z0-9._-]{1,200}`.
    Name,
    /// `host:port`, with commas.
    Brokers,
    /// An IP address and a port.
    Address,
    /// A URL; a password in it must be a reference.
    Url,
    /// Must be a reference: `${env:…}` or `${file:…}`.
    Secret,
    /// A list of secrets.
    Tokens,
    Count(u64, u64),
    /// Milliseconds.
    Duration(i64, i64),
    /// Bytes.
    Size(u64, u64),
    /// Names and what they mean.
    Choice(&'static [(&'static str, &'static str)]),
    Flag,
    /// A map of other settings of librdkafka.
    Client,
}

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

const fn setting(path: &'static str, kind: Kind, default: &'static str, summary: &'static str) -> Setting {
    Setting { path, kind, default: Some(default), otherwise: "", summary }
}

const fn without_default(path: &'static str, kind: Kind, otherwise: &'static str, summary: &'static str) -> Setting {
    Setting { path, kind, default: None, otherwise, summary }
}

/// All settings, in the order of the manual.
pub const SETTINGS: &[Setting] = &[
    without_default("worker.id", Kind::Name, "the host name", "Name of this worker in the group; two of one id: the later one is refused."),
    without_default("worker.threads", Kind::Count(1, 256), "as many as there are cores", "Stream threads."),
    setting("worker.state_dir", Kind::Path, "state", "Where RocksDB lies: <state_dir>/<app>/<task>, mode 0700, locked."),
    setting(
        "worker.guarantee",
        Kind::Choice(&[
            ("exactly_once", "one Kafka transaction per commit"),
            ("at_least_once", "no transactions; a crash may double outputs"),
        ]),
        "exactly_once",
        "What holds after a crash.",
    ),
    // Longer than an hour helps nobody, and the transaction timeout bounds it further.
    setting(
        "worker.commit_interval",
        Kind::Duration(1, 60 * MINUTE),
        "100ms",
        "How often a thread commits; at most a third of kafka.transaction_timeout.",
    ),
    setting("worker.shutdown_timeout", Kind::Duration(SECOND, 10 * MINUTE), "10s", "From SIGTERM to the end, the last commit included."),
    setting(
        "worker.on_lag",
        Kind::Choice(&[
            ("continue", "go on; the log holds what the view missed"),
            ("pause", "pause the partitions until the view has caught up"),
        ]),
        "continue",
        "What to do while a view is behind.",
    ),
    setting("kafka.brokers", Kind::Brokers, "127.0.0.1:9092", "Brokers to begin with: host:port, with commas."),
    // The broker's own bounds: group.min.session.timeout.ms and group.max.session.timeout.ms.
    setting(
        "kafka.session_timeout",
        Kind::Duration(6 * SECOND, 30 * MINUTE),
        "10s",
        "Without a sign of life for so long a worker is dead. Kafka: session.timeout.ms.",
    ),
    // The broker's transaction.max.timeout.ms is 15 min.
    setting(
        "kafka.transaction_timeout",
        Kind::Duration(SECOND, 15 * MINUTE),
        "10s",
        "A transaction open for so long is aborted by the broker. Kafka: transaction.timeout.ms.",
    ),
    setting(
        "kafka.replication",
        Kind::Count(1, 10),
        "3",
        "Copies of internal topics; fewer, with a warning, where there are fewer brokers.",
    ),
    setting(
        "kafka.group_protocol",
        Kind::Choice(&[("classic", "cooperative-sticky"), ("consumer", "KIP-848")]),
        "classic",
        "How the group assigns tasks.",
    ),
    setting(
        "kafka.security.protocol",
        Kind::Choice(&[
            ("plaintext", "neither"),
            ("ssl", "TLS"),
            ("sasl_plaintext", "a password, in the clear"),
            ("sasl_ssl", "a password, over TLS"),
        ]),
        "plaintext",
        "Kafka: security.protocol.",
    ),
    without_default(
        "kafka.security.mechanism",
        Kind::Choice(&[("plain", ""), ("scram-sha-256", ""), ("scram-sha-512", "")]),
        "none; needed by sasl_plaintext and sasl_ssl",
        "Kafka: sasl.mechanism.",
    ),
    without_default("kafka.security.username", Kind::Text, "none; needed with a mechanism", "User of SASL."),
    without_default(
        "kafka.security.password",
        Kind::Secret,
        "none; needed with a mechanism",
        "Password of SASL: ${env:NAME} or ${file:PATH}.",
    ),
    without_default(
        "kafka.security.ca",
        Kind::Path,
        "the authorities of the system",
        "Certificates that the broker's one is checked against, PEM.",
    ),
    without_default("kafka.security.certificate", Kind::Path, "none", "Certificate of this client for mutual TLS, PEM."),
    without_default("kafka.security.key", Kind::Path, "none", "Key of that certificate, PEM."),
    without_default("kafka.security.key_password", Kind::Secret, "none", "Password of that key: ${env:NAME} or ${file:PATH}."),
    setting("kafka.security.allow_insecure", Kind::Flag, "false", "Allows passwords in the clear and unchecked certificates."),
    without_default(
        "kafka.client",
        Kind::Client,
        "none",
        "Other settings of librdkafka; those that break a promise or load code are refused.",
    ),
    setting(
        "redis.url",
        Kind::Url,
        "redis://127.0.0.1:6379",
        "Redis of the views: redis://[user:password@]host:port[/database], or unix:///path.",
    ),
    // At most VIEW_BATCH_ROWS_MAX: about 1 ms of server time, so that other clients still get their turn.
    setting("redis.batch", Kind::Count(1, 500), "500", "Rows in one script."),
    setting("redis.queue", Kind::Size(MIB, TIB), "64MiB", "Committed changes that wait for Redis, all views together."),
    setting(
        "http.listen",
        Kind::Address,
        "127.0.0.1:8080",
        "Address and port; port 0 picks one and logs it; another address than a loopback one needs tokens.",
    ),
    without_default("http.advertise", Kind::Text, "http.listen", "How other workers reach this one: host:port."),
    without_default(
        "http.tokens",
        Kind::Tokens,
        "none: everybody, on a loopback address only",
        "Who may ask: a list of ${env:NAME} or ${file:PATH}, each of 16 characters or more.",
    ),
    setting("memory.row_cache", Kind::Size(0, TIB), "128MiB", "Rows read or written last."),
    setting("memory.block_cache", Kind::Size(MIB, TIB), "128MiB", "Blocks of RocksDB."),
    setting("memory.write_buffers", Kind::Size(MIB, TIB), "64MiB", "Rows on their way to disk."),
    setting("memory.client_buffers", Kind::Size(MIB, TIB), "64MiB", "Records fetched and not yet worked on, records to be sent."),
    setting("standby", Kind::Count(0, 8), "0", "Copies of each task on other workers."),
    setting("log.format", Kind::Choice(&[("text", "for people"), ("json", "one object a line")]), "text", "Form of log lines, on stderr."),
    setting(
        "log.level",
        Kind::Choice(&[("error", ""), ("warn", ""), ("info", ""), ("debug", ""), ("trace", "")]),
        "info",
        "The least important lines that are written.",
    ),
];

/// A setting by its path.
pub fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

impl Setting {
    /// The variable that sets it: `MILLSTREAM_KAFKA_BROKERS`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.path.to_uppercase().replace('.', "_"))
    }

    /// Whether its value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::Tokens)
    }
}

/// Every variable that sets something begins so.
pub const VARIABLE_PREFIX: &str = "MILLSTREAM_";

/// No duration of a setting is longer than what can be read at all.
const _: () = assert!(60 * MINUTE < DURATION_MAX_MS);
