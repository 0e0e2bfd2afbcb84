//! A text to a value within its bounds, and settings that have to fit each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::codes::Code;
use crate::config::secret::Secret;
use crate::config::worker::codes::{
    BAD_SETTING, COMES_LATER, COMMIT_INTERVAL, INCOMPLETE_SECURITY, INSECURE_KAFKA, OUT_OF_BOUNDS, PUBLIC_WITHOUT_TOKENS,
    REFUSED_CLIENT_SETTING, WEAK_TOKEN,
};
use crate::config::worker::load::Loading;
use crate::config::worker::settings::{Kind, Setting};
use crate::config::worker::{
    GroupProtocol, Guarantee, HttpSettings, KafkaSettings, LogFormat, LogSettings, MemorySettings, OnLag, RedisSettings, Sasl,
    SecuritySettings, WorkerConfig, WorkerSettings,
};
use crate::config::{duration, size, suggest};
use crate::model::Name;

/// A value of a setting.
#[derive(Clone, Debug)]
pub enum Checked {
    Text(String),
    Name(Name),
    Address(SocketAddr),
    /// Counts, bytes, milliseconds.
    Number(u64),
    Choice(&'static str),
    Flag(bool),
    Secret(Secret),
    Secrets(Vec<Secret>),
    Pairs(Vec<(String, String)>),
}

/// Why a value is refused.
pub struct Refused {
    pub code: &'static Code,
    pub message: String,
    pub help: Option<String>,
}

impl Refused {
    fn new(code: &'static Code, message: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused { code, message: message.into(), help: Some(help.into()) }
    }
}

/// The shortest token, in characters: 16 of hexadecimal digits are 64 bits.
const TOKEN_LENGTH_MIN: usize = 16;

/// Reads the text of a setting that is not a secret.
pub fn check(setting: &Setting, text: &str) -> Result<Checked, Refused> {
    let path = setting.path;
    match setting.kind {
        Kind::Text | Kind::Path if text.is_empty() => {
            Err(Refused::new(BAD_SETTING, format!("`{path}` is empty"), "leave it out for its default"))
        }
        Kind::Text | Kind::Path | Kind::Client | Kind::Secret | Kind::Tokens => Ok(Checked::Text(text.to_owned())),
        Kind::Url => url(path, text),
        Kind::Brokers => brokers(path, text),
        Kind::Name => Name::parse(text).map(Checked::Name).map_err(|_| {
            Refused::new(BAD_SETTING, format!("`{path}` is not a name: `{text}`"), "1 to 200 of the characters A-Z a-z 0-9 . _ -")
        }),
        Kind::Address => text.parse().map(Checked::Address).map_err(|_| {
            Refused::new(
                BAD_SETTING,
                format!("`{path}` is not an address: `{text}`"),
                "an IP address and a port: `127.0.0.1:8080`, `[::1]:8080`",
            )
        }),
        Kind::Count(min, max) => {
            let number = text.parse::<u64>();
            let number =
                number.map_err(|_| Refused::new(BAD_SETTING, format!("`{path}` is not a whole number: `{text}`"), setting.summary))?;
            bounded(path, text, number, min, max, |bound| bound.to_string())
        }
        Kind::Duration(min, max) => {
            let ms = duration::parse(text).map_err(|why| {
                let help = "a number and a unit: `100ms`, `10s`, `5m`";
                Refused::new(BAD_SETTING, format!("`{path}` is not a duration, {why}: `{text}`"), help)
            })?;
            bounded(path, text, ms.unsigned_abs(), min.unsigned_abs(), max.unsigned_abs(), |bound| duration::show(bound.cast_signed()))
        }
        Kind::Size(min, max) => {
            let bytes = size::parse(text).map_err(|why| {
                let help = "a whole number and a unit: `512KiB`, `128MiB`, `2GiB`";
                Refused::new(BAD_SETTING, format!("`{path}` is not a size, {why}: `{text}`"), help)
            })?;
            bounded(path, text, bytes, min, max, size::show)
        }
        Kind::Choice(choices) => match choices.iter().find(|(name, _)| *name == text) {
            Some((name, _)) => Ok(Checked::Choice(name)),
            None => {
                let help = suggest::did_you_mean(text, choices.iter().map(|(name, _)| *name), "choices");
                Err(Refused { code: BAD_SETTING, message: format!("`{path}` cannot be `{text}`"), help })
            }
        },
        Kind::Flag => match text {
            "true" => Ok(Checked::Flag(true)),
            "false" => Ok(Checked::Flag(false)),
            _ => Err(Refused::new(BAD_SETTING, format!("`{path}` is neither true nor false: `{text}`"), setting.summary)),
        },
    }
}

/// Takes the content of a secret.
pub fn secret(setting: &Setting, secret: Secret) -> Result<Checked, Refused> {
    if setting.kind == Kind::Tokens && secret.expose().chars().count() < TOKEN_LENGTH_MIN {
        let message = format!("a token of `{}` has fewer than {TOKEN_LENGTH_MIN} characters", setting.path);
        return Err(Refused::new(WEAK_TOKEN, message, "make one: `openssl rand -hex 32`"));
    }
    // A header cannot carry anything else; found here, not by the first client that fails.
    if setting.kind == Kind::Tokens && !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused::new(
            WEAK_TOKEN,
            format!("a token of `{}` has blanks or other than ASCII characters", setting.path),
            "make one: `openssl rand -hex 32`",
        ));
    }
    Ok(Checked::Secret(secret))
}

fn bounded(path: &str, text: &str, value: u64, min: u64, max: u64, show: impl Fn(u64) -> String) -> Result<Checked, Refused> {
    if (min..=max).contains(&value) {
        return Ok(Checked::Number(value));
    }
    Err(Refused::new(OUT_OF_BOUNDS, format!("`{path}` is out of bounds: `{text}`"), format!("from {} to {}", show(min), show(max))))
}

fn brokers(path: &str, text: &str) -> Result<Checked, Refused> {
    for broker in text.split(',') {
        let is_good = broker
            .trim()
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !is_good {
            let message = format!("`{path}` has a broker that is not `host:port`: `{}`", broker.trim());
            return Err(Refused::new(BAD_SETTING, message, "write each broker as `host:port`, with commas: `kafka-1:9092,kafka-2:9092`"));
        }
    }
    Ok(Checked::Text(text.to_owned()))
}

fn url(path: &str, text: &str) -> Result<Checked, Refused> {
    if text.starts_with("rediss://") {
        return Err(Refused::new(
            COMES_LATER,
            format!("`{path}`: TLS to Redis comes later"),
            "use `redis://` through a tunnel or in a network of your own",
        ));
    }
    let is_good = ["redis://", "unix:///"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if is_good {
        return Ok(Checked::Text(text.to_owned()));
    }
    // Without the text: it may be a password that slipped into the wrong place.
    Err(Refused::new(
        BAD_SETTING,
        format!("`{path}` is not the URL of a Redis"),
        "`redis://host:6379`, `redis://user:password@host:6379/0`, `unix:///path/to/socket`",
    ))
}

/// The password in a URL, if it is there in plain text.
pub fn plain_password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty() && !password.contains("${")).then_some(password)
}

/// What must not be shown of a URL: its password, or all of it where it is no URL.
pub fn secret_part(url: &str) -> Option<&str> {
    if url.contains("://") || url.contains("${") { plain_password(url) } else { Some(url) }
}

/// Settings of librdkafka that are refused, by name or by how the name begins, and why.
const REFUSED: &[(&str, &str)] = &[
    ("plugin.library.paths", "it loads code"),
    ("ssl.engine", "it loads code"),
    ("ssl.provider", "it loads code"),
    ("bootstrap.servers", "it is `kafka.brokers`"),
    ("metadata.broker.list", "it is `kafka.brokers`"),
    ("security.protocol", "it is `kafka.security.protocol`"),
    ("sasl.oauthbearer", "it makes the client call a URL or a program"),
    ("sasl.kerberos", "it makes the client call a program"),
    ("sasl.", "it is in `kafka.security`"),
    ("ssl.ca.location", "it is `kafka.security.ca`"),
    ("ssl.certificate", "it is `kafka.security.certificate`"),
    ("ssl.key", "it is `kafka.security.key`"),
    ("group.", "the group is Millstream's: the app, the worker's id and `kafka.group_protocol`"),
    ("session.timeout.ms", "it is `kafka.session_timeout`"),
    ("transaction.timeout.ms", "it is `kafka.transaction_timeout`"),
    ("transactional.id", "it fences zombies"),
    ("enable.idempotence", "without it records come twice or out of order"),
    ("enable.gapless.guarantee", "without it records come out of order"),
    ("acks", "anything but `all` loses records"),
    ("request.required.acks", "anything but `all` loses records"),
    ("isolation.level", "anything but `read_committed` shows aborted records"),
    ("enable.auto.commit", "offsets are committed with the records that they caused"),
    ("auto.commit", "offsets are committed with the records that they caused"),
    ("enable.auto.offset.store", "offsets are committed with the records that they caused"),
    ("auto.offset.reset", "a lost offset is an error, never a jump"),
    ("enable.partition.eof", "the end of a partition is found otherwise"),
    ("partition.assignment.strategy", "tasks are assigned together with their partitions"),
    ("partitioner", "records go where the Java client would put them"),
    ("max.in.flight", "idempotence sets it"),
    ("delivery.report.only.error", "offsets of the changelog are learnt from reports"),
    ("allow.auto.create.topics", "a misspelt topic would be made"),
    ("debug", "it writes keys and values into logs"),
];

/// Refused unless `kafka.security.allow_insecure` is true: name, value, what it does.
const INSECURE: &[(&str, &str, &str)] = &[
    ("enable.ssl.certificate.verification", "false", "certificates would not be checked"),
    ("ssl.endpoint.identification.algorithm", "none", "the name in the certificate would not be checked"),
];

/// Checks what has to fit together and makes the configuration. `None` if a value is missing: it was reported.
pub fn build(values: &BTreeMap<&'static str, Checked>, loading: &mut Loading<'_>) -> Option<WorkerConfig> {
    let values = Values(values);
    check_commit_interval(&values, loading);
    check_security(&values, loading);
    check_client(&values, loading);
    check_http(&values, loading);
    check_later(&values, loading);
    Some(WorkerConfig {
        worker: worker(&values, loading)?,
        kafka: kafka(&values)?,
        redis: RedisSettings {
            url: Secret::new(values.text("redis.url")?),
            batch: usize::try_from(values.number("redis.batch")?).ok()?,
            queue_bytes: values.number("redis.queue")?,
        },
        http: HttpSettings {
            listen: values.address("http.listen")?,
            advertise: values.text("http.advertise"),
            tokens: values.secrets("http.tokens"),
        },
        memory: MemorySettings {
            row_cache: values.number("memory.row_cache")?,
            block_cache: values.number("memory.block_cache")?,
            write_buffers: values.number("memory.write_buffers")?,
            client_buffers: values.number("memory.client_buffers")?,
        },
        standby: u32::try_from(values.number("standby")?).ok()?,
        log: LogSettings {
            format: if values.choice("log.format")? == "json" { LogFormat::Json } else { LogFormat::Text },
            level: values.choice("log.level")?,
        },
    })
}

fn worker(values: &Values<'_>, loading: &Loading<'_>) -> Option<WorkerSettings> {
    let environment = loading.environment();
    let id = match values.0.get("worker.id") {
        Some(Checked::Name(id)) => id.clone(),
        _ => default_id(environment.host_name.as_deref())?,
    };
    let threads = values.number("worker.threads").and_then(|threads| usize::try_from(threads).ok());
    Some(WorkerSettings {
        id,
        threads: threads.unwrap_or(environment.cores.clamp(1, 256)),
        state_dir: PathBuf::from(values.text("worker.state_dir")?),
        guarantee: if values.choice("worker.guarantee")? == "exactly_once" { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce },
        commit_interval: values.duration("worker.commit_interval")?,
        shutdown_timeout: values.duration("worker.shutdown_timeout")?,
        on_lag: if values.choice("worker.on_lag")? == "pause" { OnLag::Pause } else { OnLag::Continue },
    })
}

/// The host name, with other characters than a name may have turned into dashes.
fn default_id(host_name: Option<&str>) -> Option<Name> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let id: String = host_name.unwrap_or("worker").chars().take(100).map(allowed).collect();
    Name::parse(&id).or_else(|_| Name::parse("worker")).ok()
}

fn kafka(values: &Values<'_>) -> Option<KafkaSettings> {
    let mechanism = values.choice("kafka.security.mechanism");
    let sasl = mechanism.zip(values.text("kafka.security.username")).zip(values.secret("kafka.security.password"));
    let path = |setting: &str| values.text(setting).map(PathBuf::from);
    Some(KafkaSettings {
        brokers: values.text("kafka.brokers")?,
        session_timeout: values.duration("kafka.session_timeout")?,
        transaction_timeout: values.duration("kafka.transaction_timeout")?,
        replication: i16::try_from(values.number("kafka.replication")?).ok()?,
        group_protocol: if values.choice("kafka.group_protocol")? == "consumer" { GroupProtocol::Consumer } else { GroupProtocol::Classic },
        security: SecuritySettings {
            protocol: values.choice("kafka.security.protocol")?,
            sasl: sasl.map(|((mechanism, username), password)| Sasl { mechanism, username, password }),
            ca: path("kafka.security.ca"),
            certificate: path("kafka.security.certificate"),
            key: path("kafka.security.key"),
            key_password: values.secret("kafka.security.key_password"),
            allow_insecure: values.flag("kafka.security.allow_insecure"),
        },
        client: values.pairs("kafka.client"),
    })
}

fn check_commit_interval(values: &Values<'_>, loading: &mut Loading<'_>) {
    let (Some(interval), Some(timeout)) = (values.number("worker.commit_interval"), values.number("kafka.transaction_timeout")) else {
        return;
    };
    // A transaction is open for one interval, and its commit may take as long again before the broker gives up on it.
    if interval <= timeout / 3 {
        return;
    }
    let show = |ms: u64| duration::show(ms.cast_signed());
    let message = format!(
        "`worker.commit_interval` is {}, more than a third of `kafka.transaction_timeout`, which is {}",
        show(interval),
        show(timeout)
    );
    let help = format!("at most {}, or a transaction timeout of at least {}", show(timeout / 3), show(interval * 3));
    loading.report(&["worker.commit_interval", "kafka.transaction_timeout"], Refused::new(COMMIT_INTERVAL, message, help));
}

fn check_security(values: &Values<'_>, loading: &mut Loading<'_>) {
    let Some(protocol) = values.choice("kafka.security.protocol") else { return };
    let is_sasl = protocol.starts_with("sasl");
    for (setting, words) in
        [("kafka.security.mechanism", "a mechanism"), ("kafka.security.username", "a user"), ("kafka.security.password", "a password")]
    {
        // One that is written and was refused has been reported.
        if is_sasl && !values.0.contains_key(setting) && !loading.is_written(setting) {
            let message = format!("`{protocol}` needs {words}: `{setting}` is missing");
            loading.report(&["kafka.security.protocol"], Refused::new(INCOMPLETE_SECURITY, message, format!("add `{setting}`")));
        }
        if !is_sasl && values.0.contains_key(setting) {
            let message = format!("`{setting}` is there, but `{protocol}` has no {}", words.trim_start_matches("a "));
            loading.report(&[setting], Refused::new(INCOMPLETE_SECURITY, message, "set `kafka.security.protocol` to `sasl_ssl`"));
        }
    }
    for (one, other) in [("kafka.security.certificate", "kafka.security.key"), ("kafka.security.key", "kafka.security.certificate")] {
        if values.0.contains_key(one) && !values.0.contains_key(other) {
            loading.report(&[one], Refused::new(INCOMPLETE_SECURITY, format!("`{one}` needs `{other}`"), format!("add `{other}`")));
        }
    }
    if protocol == "sasl_plaintext" && !values.flag("kafka.security.allow_insecure") {
        let help = "use `sasl_ssl`, or set `kafka.security.allow_insecure` to true where nobody else can listen";
        loading
            .report(&["kafka.security.protocol"], Refused::new(INSECURE_KAFKA, "`sasl_plaintext` sends the password in the clear", help));
    }
}

fn check_client(values: &Values<'_>, loading: &mut Loading<'_>) {
    for (name, value) in values.pairs("kafka.client") {
        let is_meant = |pattern: &str| {
            if pattern.ends_with('.') { name.starts_with(pattern) } else { name == pattern || name.starts_with(&format!("{pattern}.")) }
        };
        if let Some((_, why)) = REFUSED.iter().find(|(pattern, _)| is_meant(pattern)) {
            let message = format!("`kafka.client` must not set `{name}`: {why}");
            loading.report_client(&name, Refused::new(REFUSED_CLIENT_SETTING, message, "leave it out"));
        }
        if let Some((_, _, what)) = INSECURE.iter().find(|(known, insecure, _)| *known == name && *insecure == value)
            && !values.flag("kafka.security.allow_insecure")
        {
            let help = "leave it out, or set `kafka.security.allow_insecure` to true where nobody else is on the way";
            loading.report_client(&name, Refused::new(INSECURE_KAFKA, format!("`kafka.client` sets `{name}` to {value}: {what}"), help));
        }
    }
}

fn check_http(values: &Values<'_>, loading: &mut Loading<'_>) {
    let Some(listen) = values.address("http.listen") else { return };
    if listen.ip().is_loopback() || !values.secrets("http.tokens").is_empty() || loading.is_written("http.tokens") {
        return;
    }
    let message = format!("`http.listen` is {listen}, which others can reach, and `http.tokens` is empty");
    let help = "add `http.tokens: [\"${env:HTTP_TOKEN}\"]`, or listen on 127.0.0.1";
    loading.report(&["http.listen"], Refused::new(PUBLIC_WITHOUT_TOKENS, message, help));
}

/// Settings that have a place already and nothing behind it.
fn check_later(values: &Values<'_>, loading: &mut Loading<'_>) {
    if values.number("standby").is_some_and(|standby| standby > 0) {
        loading.report(
            &["standby"],
            Refused::new(COMES_LATER, "standby copies come later", "leave it out: a task that moves is restored from its changelog"),
        );
    }
    if values.choice("kafka.group_protocol") == Some("consumer") {
        let help = "leave it out: librdkafka supports it for our kind of assignment from 2.15 on";
        loading.report(&["kafka.group_protocol"], Refused::new(COMES_LATER, "the protocol `consumer` comes later", help));
    }
}

/// Checked values by their paths. A value that was refused is not there.
struct Values<'a>(&'a BTreeMap<&'static str, Checked>);

impl Values<'_> {
    fn text(&self, path: &str) -> Option<String> {
        match self.0.get(path) {
            Some(Checked::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn number(&self, path: &str) -> Option<u64> {
        match self.0.get(path) {
            Some(Checked::Number(number)) => Some(*number),
            _ => None,
        }
    }

    fn duration(&self, path: &str) -> Option<Duration> {
        self.number(path).map(Duration::from_millis)
    }

    fn choice(&self, path: &str) -> Option<&'static str> {
        match self.0.get(path) {
            Some(Checked::Choice(choice)) => Some(choice),
            _ => None,
        }
    }

    fn flag(&self, path: &str) -> bool {
        matches!(self.0.get(path), Some(Checked::Flag(true)))
    }

    fn address(&self, path: &str) -> Option<SocketAddr> {
        match self.0.get(path) {
            Some(Checked::Address(address)) => Some(*address),
            _ => None,
        }
    }

    fn secret(&self, path: &str) -> Option<Secret> {
        match self.0.get(path) {
            Some(Checked::Secret(secret)) => Some(secret.clone()),
            _ => None,
        }
    }

    fn secrets(&self, path: &str) -> Vec<Secret> {
        match self.0.get(path) {
            Some(Checked::Secrets(secrets)) => secrets.clone(),
            _ => Vec::new(),
        }
    }

    fn pairs(&self, path: &str) -> Vec<(String, String)> {
        match self.0.get(path) {
            Some(Checked::Pairs(pairs)) => pairs.clone(),
            _ => Vec::new(),
        }
    }
}
