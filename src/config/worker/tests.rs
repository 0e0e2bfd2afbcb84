//! The worker file as its users see it.

use super::*;
use crate::config::env::Environment;
use crate::config::render::{Look, render};
use crate::config::worker::settings::find;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let mut environment = Environment::empty();
    environment.host_name = Some("host one".to_owned());
    environment.cores = 4;
    environment.read_file = |path| if path.ends_with("token") { Ok("0123456789abcdef".to_owned()) } else { Err("no such file".to_owned()) };
    environment.variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    environment
}

fn loaded(file: &str, set: &[&str], environment: &Environment) -> Loaded {
    let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
    load(Sources { file: Some(("worker.yaml", file)), set: &set, environment })
}

#[track_caller]
fn good(file: &str, set: &[&str], variables: &[(&str, &str)]) -> WorkerConfig {
    let loaded = loaded(file, set, &environment(variables));
    let problems: String = loaded.problems.iter().map(|problems| render(problems, Look::Plain)).collect();
    loaded.config.unwrap_or_else(|| panic!("{problems}"))
}

/// What is reported: place, code and message of each problem.
fn problems(file: &str, set: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let loaded = loaded(file, set, &environment(variables));
    let mut lines = Vec::new();
    for diagnostics in &loaded.problems {
        for problem in diagnostics.sorted() {
            lines.push(format!("{}:{}:{} {}: {}", problem.file.name, problem.line(), problem.column(), problem.code.id, problem.message));
        }
    }
    let has_errors = loaded.problems.iter().any(|problems| problems.has_errors());
    assert_eq!(loaded.config.is_none(), has_errors);
    lines
}

#[track_caller]
fn refused(file: &str, expected: &[&str]) {
    assert_eq!(problems(file, &[], &[]), expected, "{file}");
}

#[test]
fn no_file_is_the_defaults_of_one_machine() {
    let config = good("", &[], &[]);
    assert_eq!(config.worker.id.as_str(), "host-one");
    assert_eq!(config.worker.threads, 4);
    assert_eq!(config.worker.state_dir, PathBuf::from("state"));
    assert_eq!((config.worker.guarantee, config.worker.on_lag), (Guarantee::ExactlyOnce, OnLag::Continue));
    assert_eq!((config.worker.commit_interval, config.worker.shutdown_timeout), (Duration::from_millis(100), Duration::from_secs(10)));
    assert_eq!(config.kafka.brokers, "127.0.0.1:9092");
    assert_eq!((config.kafka.session_timeout, config.kafka.transaction_timeout), (Duration::from_secs(10), Duration::from_secs(10)));
    assert_eq!((config.kafka.replication, config.kafka.group_protocol), (3, GroupProtocol::Classic));
    assert_eq!((config.kafka.security.protocol, config.kafka.security.sasl.is_none(), config.kafka.client.len()), ("plaintext", true, 0));
    assert_eq!((config.redis.url.expose(), config.redis.batch, config.redis.queue_bytes), ("redis://127.0.0.1:6379", 500, 64 << 20));
    assert_eq!((config.http.listen.to_string().as_str(), config.http.advertise, config.http.tokens.len()), ("127.0.0.1:8080", None, 0));
    let memory = MemorySettings { row_cache: 128 << 20, block_cache: 128 << 20, write_buffers: 64 << 20, client_buffers: 64 << 20 };
    assert_eq!(config.memory, memory);
    assert_eq!((config.standby, config.log), (0, LogSettings { format: LogFormat::Text, level: "info" }));
}

#[test]
fn the_file_in_the_repository_shows_every_setting_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/worker.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, document(), "`millstream describe settings > config/worker.yaml` writes it anew");
    assert_eq!(format!("{:?}", good(&text, &[], &[])), format!("{:?}", good("", &[], &[])));
    for setting in SETTINGS {
        assert!(text.contains(&format!("{}: ", setting.path.rsplit('.').next().unwrap())), "{}", setting.path);
    }
}

#[test]
fn the_local_file_in_the_repository_is_good() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/local.yaml");
    good(&std::fs::read_to_string(path).unwrap(), &[], &[]);
}

#[test]
fn later_layers_win() {
    let file = "kafka: { brokers: \"file:1\", session_timeout: 20s }\nworker: { threads: 2 }\n";
    let variables = [("MILLSTREAM_KAFKA_BROKERS", "variable:1"), ("MILLSTREAM_WORKER_THREADS", "3"), ("MILLSTREAM_WORKER_ID", "")];
    let config = good(file, &["kafka.brokers=set:1,[::1]:2"], &variables);
    assert_eq!(config.kafka.brokers, "set:1,[::1]:2");
    assert_eq!(config.worker.threads, 3);
    assert_eq!(config.kafka.session_timeout, Duration::from_secs(20));
}

#[test]
fn every_setting_can_be_read_from_every_layer() {
    let file = "\
worker: { id: w1, threads: 2, state_dir: /var/lib/m, guarantee: at_least_once, commit_interval: 1s, shutdown_timeout: 30s, on_lag: pause }
kafka:
  brokers: \"${env:BROKERS}\"
  transaction_timeout: 1m
  replication: 1
  security: { protocol: sasl_ssl, mechanism: scram-sha-512, username: u, password: \"${file:/run/token}\", ca: /ca.pem, certificate: c, key: k, key_password: \"${env:P}\" }
  client: { socket.keepalive.enable: true, fetch.wait.max.ms: 50 }
redis: { url: \"redis://:${env:P}@r:6379\", batch: 100, queue: 1GiB }
http: { listen: \"0.0.0.0:0\", advertise: \"w1:8080\", tokens: [\"${file:/run/token}\"] }
memory: { row_cache: 0B, block_cache: 1MiB, write_buffers: 2MiB, client_buffers: 3MiB }
standby: 0
log: { format: json, level: debug }
";
    let config = good(file, &["kafka.client.fetch.wait.max.ms=60"], &[("BROKERS", "a:1,b:2"), ("P", "pass")]);
    assert_eq!(config.worker.id.as_str(), "w1");
    assert_eq!((config.worker.guarantee, config.worker.on_lag), (Guarantee::AtLeastOnce, OnLag::Pause));
    assert_eq!(config.kafka.brokers, "a:1,b:2");
    let sasl = config.kafka.security.sasl.unwrap();
    assert_eq!((sasl.mechanism, sasl.username.as_str(), sasl.password.expose()), ("scram-sha-512", "u", "0123456789abcdef"));
    assert_eq!(config.kafka.security.key_password.unwrap().expose(), "pass");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(config.kafka.client, [pair("fetch.wait.max.ms", "60"), pair("socket.keepalive.enable", "true")]);
    assert_eq!((config.redis.url.expose(), config.redis.queue_bytes), ("redis://:pass@r:6379", 1 << 30));
    assert_eq!((config.http.listen.to_string().as_str(), config.http.advertise.as_deref()), ("0.0.0.0:0", Some("w1:8080")));
    assert!(config.http.tokens[0].is(b"0123456789abcdef"));
    assert_eq!((config.memory.row_cache, config.memory.client_buffers), (0, 3 << 20));
    assert_eq!(config.log, LogSettings { format: LogFormat::Json, level: "debug" });
}

#[test]
fn every_setting_has_a_variable_of_its_own() {
    let mut names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
    assert_eq!(find("worker.state_dir").unwrap().variable(), "MILLSTREAM_WORKER_STATE_DIR");
}

#[test]
fn unknown_settings_have_a_suggestion() {
    let loaded = loaded("kafka: { brokerz: x }\nbrokers: y\nspeed: 9\n", &[], &environment(&[]));
    let help: Vec<_> = loaded.problems[0].sorted().iter().map(|problem| problem.help.clone().unwrap()).collect();
    let all = "settings: `worker`, `kafka`, `redis`, `http`, `memory`, `standby`, `log`";
    assert_eq!(help, ["did you mean `kafka.brokers`?", "did you mean `kafka.brokers`?", all]);
    refused("kafka: { brokerz: x }\n", &["worker.yaml:1:10 unknown_setting: there is no setting `kafka.brokerz`"]);
    assert_eq!(problems("", &["worker.thread=2"], &[]), ["command line:1:7 unknown_setting: there is no setting `worker.thread`"]);
    assert_eq!(problems("", &["worker.threads"], &[]), ["command line:1:7 bad_override: `--set worker.threads` has no value"]);
}

#[test]
fn unknown_variables_are_a_warning_and_those_of_kubernetes_nothing() {
    let variables =
        [("MILLSTREAM_KAFKA_BROKER", "a:1"), ("MILLSTREAM_SERVICE_HOST", "10.0.0.1"), ("MILLSTREAM_PORT", "tcp://10.0.0.1:8080")];
    assert_eq!(problems("", &[], &variables), ["environment:1:1 unknown_variable: `MILLSTREAM_KAFKA_BROKER` is not a setting"]);
    // One that a reference names is somebody's.
    assert_eq!(problems("", &["kafka.brokers=${env:MILLSTREAM_KAFKA_BROKER}"], &variables[..1]), [""; 0]);
}

#[test]
fn values_are_checked_where_they_are_written() {
    refused("worker: { threads: 0 }", &["worker.yaml:1:20 out_of_bounds: `worker.threads` is out of bounds: `0`"]);
    refused("worker: { threads: many }", &["worker.yaml:1:20 bad_setting: `worker.threads` is not a whole number: `many`"]);
    refused(
        "worker: { commit_interval: 100 }",
        &["worker.yaml:1:28 bad_setting: `worker.commit_interval` is not a duration, `100` has no unit: `100`"],
    );
    refused("redis: { queue: 64MB }", &["worker.yaml:1:17 bad_setting: `redis.queue` is not a size, `MB` is no unit: `64MB`"]);
    refused("redis: { batch: 501 }", &["worker.yaml:1:17 out_of_bounds: `redis.batch` is out of bounds: `501`"]);
    refused("worker: { guarantee: exactly-once }", &["worker.yaml:1:22 bad_setting: `worker.guarantee` cannot be `exactly-once`"]);
    refused("worker: { id: a/b }", &["worker.yaml:1:15 bad_setting: `worker.id` is not a name: `a/b`"]);
    refused("kafka: { brokers: kafka }", &["worker.yaml:1:19 bad_setting: `kafka.brokers` has a broker that is not `host:port`: `kafka`"]);
    refused(
        "kafka: { brokers: \"http://kafka:9092\" }",
        &["worker.yaml:1:19 bad_setting: `kafka.brokers` has a broker that is not `host:port`: `http://kafka:9092`"],
    );
    refused("redis: { url: \"http://r\" }", &["worker.yaml:1:15 bad_setting: `redis.url` is not the URL of a Redis"]);
    refused("redis: { url: \"rediss://r:6379\" }", &["worker.yaml:1:15 comes_later: `redis.url`: TLS to Redis comes later"]);
    refused("http: { listen: localhost }", &["worker.yaml:1:17 bad_setting: `http.listen` is not an address: `localhost`"]);
    refused(
        "kafka: { security: { allow_insecure: yes } }",
        &["worker.yaml:1:38 bad_setting: `kafka.security.allow_insecure` is neither true nor false: `yes`"],
    );
    refused("kafka: 7", &["worker.yaml:1:8 wrong_shape: `kafka` is a map of settings, this is `7`"]);
    refused("worker: { threads: [1] }", &["worker.yaml:1:20 wrong_shape: `worker.threads` does not take a list"]);
    refused("worker:\n  threads:\n", &["worker.yaml:2:3 empty_value: `worker.threads` has no value"]);
    refused("[]", &["worker.yaml:1:1 wrong_shape: a worker file is a map of settings, this is a list"]);
    refused("standby: 1", &["worker.yaml:1:10 comes_later: standby copies come later"]);
    refused("kafka: { group_protocol: consumer }", &["worker.yaml:1:26 comes_later: the protocol `consumer` comes later"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let file = "worker: { threads: 0, speed: 1 }\nkafka: { brokers: \"${env:NO}\" }\n";
    let found = problems(file, &["log.level=loud"], &[("MILLSTREAM_REDIS_BATCH", "x")]);
    assert_eq!(
        found,
        [
            "worker.yaml:1:20 out_of_bounds: `worker.threads` is out of bounds: `0`",
            "worker.yaml:1:23 unknown_setting: there is no setting `worker.speed`",
            "worker.yaml:2:19 unresolved_reference: the variable `NO` is not set, for `kafka.brokers`",
            "environment:1:1 bad_setting: `redis.batch` is not a whole number: `x`",
            "command line:1:7 bad_setting: `log.level` cannot be `loud`",
        ]
    );
}

#[test]
fn settings_have_to_fit_each_other() {
    let interval = "`worker.commit_interval` is 4s, more than a third of `kafka.transaction_timeout`, which is 10s";
    refused("worker: { commit_interval: 4s }", &[&format!("worker.yaml:1:28 commit_interval: {interval}")]);
    assert!(problems("worker: { commit_interval: 4s }", &["kafka.transaction_timeout=12s"], &[]).is_empty());
    refused("kafka: { transaction_timeout: 1s }\nworker: { commit_interval: 333ms }", &[]);
    refused(
        "kafka: { security: { protocol: sasl_ssl, username: u } }",
        &[
            "worker.yaml:1:32 incomplete_security: `sasl_ssl` needs a mechanism: `kafka.security.mechanism` is missing",
            "worker.yaml:1:32 incomplete_security: `sasl_ssl` needs a password: `kafka.security.password` is missing",
        ],
    );
    refused(
        "kafka: { security: { username: u } }",
        &["worker.yaml:1:32 incomplete_security: `kafka.security.username` is there, but `plaintext` has no user"],
    );
    refused(
        "kafka: { security: { protocol: ssl, key: k } }",
        &["worker.yaml:1:42 incomplete_security: `kafka.security.key` needs `kafka.security.certificate`"],
    );
    let sasl = "mechanism: plain, username: u, password: \"${file:token}\"";
    refused(
        &format!("kafka: {{ security: {{ protocol: sasl_plaintext, {sasl} }} }}"),
        &["worker.yaml:1:32 insecure_kafka: `sasl_plaintext` sends the password in the clear"],
    );
    refused(&format!("kafka: {{ security: {{ protocol: sasl_plaintext, allow_insecure: true, {sasl} }} }}"), &[]);
}

#[test]
fn http_that_others_can_reach_needs_tokens() {
    let message = "`http.listen` is 0.0.0.0:8080, which others can reach, and `http.tokens` is empty";
    refused("http: { listen: \"0.0.0.0:8080\" }", &[&format!("worker.yaml:1:17 public_without_tokens: {message}")]);
    refused("http: { listen: \"[::1]:8080\" }", &[]);
    refused("http: { listen: \"0.0.0.0:8080\", tokens: [\"${file:token}\"] }", &[]);
    let weak = problems("http: { tokens: [\"${env:T}\"] }", &[], &[("T", "short")]);
    assert_eq!(weak, ["worker.yaml:1:18 weak_token: a token of `http.tokens` has fewer than 16 characters"]);
}

#[test]
fn settings_of_the_client_that_break_a_promise_are_refused_by_name() {
    for name in [
        "plugin.library.paths",
        "ssl.engine.location",
        "enable.idempotence",
        "group.id",
        "sasl.password",
        "debug",
        "isolation.level",
        "partitioner",
    ] {
        let found = problems(&format!("kafka: {{ client: {{ {name}: x }} }}"), &[], &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("worker.yaml:1:20 refused_client_setting: `kafka.client` must not set `{name}`: ")),
            "{found:?}"
        );
    }
    assert!(problems("kafka: { client: { debugging.of.mine: x } }", &[], &[]).is_empty());
    let unchecked = "kafka: { client: { enable.ssl.certificate.verification: false } }";
    let message = "`kafka.client` sets `enable.ssl.certificate.verification` to false: certificates would not be checked";
    refused(unchecked, &[&format!("worker.yaml:1:20 insecure_kafka: {message}")]);
    assert_eq!(problems(unchecked, &["kafka.security.allow_insecure=true"], &[]), [""; 0]);
    assert_eq!(problems("", &["kafka.client.group.id=x"], &[]).len(), 1);
}

/// Secrets in every place where one can be, right and wrong: nothing that is shown holds them.
#[test]
fn no_secret_is_ever_shown() {
    let files = [
        "kafka: { security: { protocol: sasl_ssl, password: canary-1 } }",
        "kafka: { security: { protocol: sasl_ssl, password: \"canary 1\\\" x\" } }",
        "redis: { url: \"redis://u:canary-1@h:6379\" }",
        "redis: { url: \"canary-1\", batch: 0 }",
        "http: { tokens: [canary-1-0123456789, \"${env:T}\"] }",
        "http: { tokens: \"${env:T}\" }\nkafka: { client: { sasl.password: canary-1, ssl.key.password: \"canary-1\" } }",
        "kafka: { brokers: \"${env:T}\", security: { password: \"${env:T}\" } }",
    ];
    let sets: [&[&str]; 4] =
        [&[], &["kafka.security.password=canary-1"], &["redis.url=redis://:canary-1@h"], &["http.tokens=canary-1,canary-2-0123456789"]];
    let variables =
        [("T", "canary-1"), ("MILLSTREAM_REDIS_URL", "redis://:canary-1@h:1"), ("MILLSTREAM_HTTP_TOKENS", "canary-1-0123456789,canary-1")];
    for file in files {
        for set in sets {
            for variables in [&variables[..1], &variables[..]] {
                let environment = environment(variables);
                let loaded = loaded(file, set, &environment);
                let mut text = show(&loaded);
                text.push_str(&format!("{:?} {environment:?}", loaded.config));
                for problems in &loaded.problems {
                    text.push_str(&render(problems, Look::Plain));
                }
                assert!(!text.contains("canary"), "{file} {set:?} {text}");
            }
        }
    }
}

#[test]
fn a_plain_secret_is_refused_where_others_can_read_it() {
    let found = problems("redis: { url: \"redis://u:hunter2@h:6379\" }", &["kafka.security.password=x"], &[]);
    assert_eq!(
        found,
        [
            "worker.yaml:1:15 plain_secret: `redis.url` holds a secret in plain text",
            "command line:1:7 plain_secret: `kafka.security.password` holds a secret in plain text",
        ]
    );
    // A variable is no such place.
    assert_eq!(good("", &[], &[("MILLSTREAM_REDIS_URL", "redis://u:hunter2@h:6379")]).redis.url.expose(), "redis://u:hunter2@h:6379");
}

#[test]
fn what_holds_is_shown_with_where_it_comes_from() {
    let file = "redis: { url: \"redis://u:${env:P}@h:6379\" }\nworker: { threads: 2 }\nkafka: { client: { fetch.wait.max.ms: 50 } }";
    let variables = [("P", "hunter2"), ("MILLSTREAM_HTTP_TOKENS", "0123456789abcdef")];
    let shown = show(&loaded(file, &["kafka.brokers=a:1"], &environment(&variables)));
    let expect = |line: &str| assert!(shown.lines().any(|shown| shown.split_whitespace().eq(line.split_whitespace())), "{line}\n{shown}");
    expect("threads: 2 # file");
    expect("id: null # default: the host name");
    expect("commit_interval: 100ms # default");
    expect("brokers: \"a:1\" # --set");
    expect("client: { fetch.wait.max.ms: 50 } # file");
    expect("url: \"redis://u:${env:P}@h:6379\" # file");
    expect("tokens: [\"********\"] # MILLSTREAM_HTTP_TOKENS");
}
