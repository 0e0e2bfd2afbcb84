//! What is said about a cluster that cannot be had. Everything that needs a broker is in `tests/contracts.rs`.

use std::net::TcpListener;
use std::time::Duration;

use crate::log::kafka::{KafkaLog, KafkaSettings, Protocol};
use crate::log::{Event, GroupSettings, Log, LogErrorKind, ProducerSettings};
use crate::model::Name;

const CALL: Duration = Duration::from_millis(1500);

/// An address of this machine where nobody listens.
fn silent_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn log_at(brokers: &str) -> KafkaLog {
    KafkaLog::new(KafkaSettings::new(brokers, "app")).unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn producer_settings(transactional_id: Option<&str>) -> ProducerSettings {
    ProducerSettings { transactional_id: transactional_id.map(name), transaction_timeout: CALL, linger: Duration::ZERO }
}

#[test]
fn a_broker_that_is_away_is_named_with_the_reason() {
    let address = silent_address();
    let log = log_at(&address);
    let error = log.admin().unwrap().describe(&[name("orders")], CALL).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Unreachable);
    let told = error.to_string();
    for part in ["describe topics", &address, "Connection refused", "check `kafka.brokers`"] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
    let error = log.producer(&producer_settings(None)).unwrap().topic(&name("orders")).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Unreachable);
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let error = log.producer(&producer_settings(Some("t"))).unwrap().init_transactions(CALL).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Retry, "{error}");
}

#[test]
fn a_member_without_a_broker_tells_the_trouble_once_and_closes_in_time() {
    let address = silent_address();
    let settings =
        GroupSettings { group: name("app"), task_topic: name("app-tasks"), instance_id: None, session_timeout: Duration::from_secs(6) };
    let mut member = log_at(&address).group_consumer(&settings).unwrap();
    let mut told = Vec::new();
    for _ in 0..100 {
        told.extend(member.poll(10, Duration::from_millis(20), &mut Vec::new()).unwrap());
    }
    let [Event::Problem(error)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(error.kind, LogErrorKind::Unreachable);
    assert!(error.to_string().contains(&address) && error.to_string().contains("Connection refused"), "{error}");
    assert!(member.group().is_none());
    member.close(CALL).unwrap();
}

#[test]
fn settings_that_the_client_refuses_are_named_without_secrets() {
    let mut settings = KafkaSettings::new("127.0.0.1:1", "app");
    settings.client.push(("no.such.setting".into(), "1".into()));
    let error = KafkaLog::new(settings.clone()).unwrap().admin().err().unwrap();
    assert_eq!((error.kind, error.what.as_str()), (LogErrorKind::Config, "set `no.such.setting` of the Kafka client"));
    settings.client.clear();
    settings.security.protocol = Protocol::Ssl;
    settings.security.ca = Some("no/such/file.pem".into());
    settings.security.key_password = Some("hunter2".into());
    let error = KafkaLog::new(settings.clone()).err().unwrap();
    assert_eq!(error.kind, LogErrorKind::Config);
    assert!(error.to_string().starts_with("read `kafka.security.ca` from `no/such/file.pem`: No such file"), "{error}");
    assert!(!format!("{settings:?}").contains("hunter2"));
}
