//! What librdkafka tells us beside records: rebalances, delivery reports, errors and log lines.
//!
//! Callbacks run on the thread that polls. They note and return; the one thing that the group cannot wait for, the answer to an
//! assignment, is given at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Statistics, TopicPartitionList};
use tracing::{debug, error, warn};

use crate::log::{Event, LogError, LogErrorKind};

/// The same trouble is told again after this time, doubled up to the last.
const TROUBLE_INTERVAL_FIRST: Duration = Duration::from_secs(10);
const TROUBLE_INTERVAL_LAST: Duration = Duration::from_secs(300);

/// The last thing a client said about its connections: the reason behind a time-out.
#[derive(Default)]
pub(super) struct Connection(Mutex<Option<String>>);

impl Connection {
    pub(super) fn note(&self, reason: &str) {
        *guard(&self.0) = Some(plain(reason));
    }

    /// `1/1 brokers are down` follows the reason why and would hide it.
    fn note_error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.note(reason);
        }
    }

    pub(super) fn reason(&self) -> Option<String> {
        guard(&self.0).clone()
    }

    /// The same for a level as librdkafka counts them: those of syslog.
    pub(super) fn log_native(&self, level: i32, facility: &str, text: &str) {
        let level = match level {
            ..=3 => RDKafkaLogLevel::Error,
            4 => RDKafkaLogLevel::Warning,
            5 | 6 => RDKafkaLogLevel::Info,
            _ => RDKafkaLogLevel::Debug,
        };
        self.log(level, facility, text);
    }

    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // `1/1 brokers are down` follows the reason why and would hide it.
        if matches!(facility, "FAIL" | "ERROR") && !text.ends_with("brokers are down") {
            self.note(text);
        }
        // One line of ours tells it, once for all clients and with what to do. The client would tell it for each connection.
        if matches!(facility, "FAIL" | "ERROR" | "FATAL" | "REQTMOUT" | "TXNERR" | "GETPID" | "SESSTMOUT" | "METADATA") {
            return debug!(facility, text, "librdkafka");
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                error!(facility, text, "librdkafka")
            }
            RDKafkaLogLevel::Warning => warn!(facility, text, "librdkafka"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug!(facility, text, "librdkafka"),
        }
    }
}

/// Which trouble the clients of a worker have told lately. Shared by all of them: a broker that is away is one line, not one per thread.
#[derive(Default)]
pub(super) struct Troubles(Mutex<Vec<(LogErrorKind, Instant, Duration)>>);

impl Troubles {
    /// Whether a trouble is to be told: when it is new, and then after growing intervals while it lasts.
    pub(super) fn is_news(&self, kind: LogErrorKind, now: Instant) -> bool {
        let mut told = guard(&self.0);
        // What was quiet for longer than it would have been is over, and news when it comes again.
        told.retain(|(_, at, interval)| now.duration_since(*at) < *interval * 2);
        match told.iter_mut().find(|(known, ..)| *known == kind) {
            None => {
                told.push((kind, now, TROUBLE_INTERVAL_FIRST));
                true
            }
            Some((_, at, interval)) if now.duration_since(*at) >= *interval => {
                (*at, *interval) = (now, (*interval * 2).min(TROUBLE_INTERVAL_LAST));
                true
            }
            Some(_) => false,
        }
    }
}

/// Context of a group consumer or reader.
#[derive(Default)]
pub(super) struct ConsumerSide {
    pub(super) connection: Connection,
    /// Group events that `poll` has not returned yet.
    events: Mutex<VecDeque<Result<Event, LogError>>>,
    /// Nobody is there any more to close tasks: rebalances are answered here.
    is_closing: AtomicBool,
    /// Whatever revocation is being served now has been answered by accident: see `KafkaConsumer::restart`.
    is_answered: AtomicBool,
}

impl ConsumerSide {
    pub(super) fn next_event(&self) -> Option<Result<Event, LogError>> {
        guard(&self.events).pop_front()
    }

    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_answered(&self, is_answered: bool) {
        self.is_answered.store(is_answered, Ordering::Relaxed);
    }

    fn answer(&self, consumer: &BaseConsumer<ConsumerSide>, change: RDKafkaRespErr) {
        // The group waits for an answer and does not compare it with what it has asked for: inputs come and go by
        // `add_inputs` and `remove_inputs`, and the task topic itself has nothing to fetch.
        let nothing = TopicPartitionList::new();
        let result = match change {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => consumer.incremental_assign(&nothing),
            _ => consumer.incremental_unassign(&nothing),
        };
        if let Err(error) = result {
            guard(&self.events).push_back(Err(LogError::new(LogErrorKind::Fatal, "answer a rebalance", error.to_string())));
        }
    }
}

impl ClientContext for ConsumerSide {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.connection.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.note_error(&error, reason);
    }

    fn stats(&self, _statistics: Statistics) {}
}

impl ConsumerContext for ConsumerSide {
    /// An assignment is answered at once, so that no input of another task waits for it. A revocation is answered by
    /// `acknowledge`, after the commit; what is lost already needs no consent.
    fn rebalance(&self, consumer: &BaseConsumer<ConsumerSide>, change: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        if self.is_closing.load(Ordering::Relaxed) || partitions.is_empty() {
            return self.answer(consumer, change);
        }
        let event = match change {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Event::Assigned(partitions),
            _ if consumer.assignment_lost() || self.is_answered.load(Ordering::Relaxed) => Event::Lost(partitions),
            _ => Event::Revoked(partitions),
        };
        if !matches!(event, Event::Revoked(_)) {
            self.answer(consumer, change);
        }
        guard(&self.events).push_back(Ok(event));
    }
}

/// Delivery reports since the last flush.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Highest offset by topic handle and partition; -1 for none.
    pub(super) highest: Vec<Vec<i64>>,
    pub(super) failures: u64,
    pub(super) first_failure: Option<RDKafkaErrorCode>,
}

/// Context of a producer. Reports come on the producer's own polling thread.
#[derive(Default)]
pub(super) struct ProducerSide {
    pub(super) connection: Connection,
    deliveries: Mutex<Deliveries>,
}

impl ProducerSide {
    pub(super) fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        guard(&self.deliveries)
    }
}

impl ClientContext for ProducerSide {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.connection.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.note_error(&error, reason);
    }

    fn stats(&self, _statistics: Statistics) {}
}

impl ProducerContext for ProducerSide {
    /// The topic handle that the record was sent with.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, handle: usize) {
        let mut deliveries = self.deliveries();
        match result {
            Ok(message) => {
                let place = usize::try_from(message.partition()).ok();
                let highest = deliveries.highest.get_mut(handle).and_then(|topic| topic.get_mut(place?));
                if let Some(highest) = highest {
                    *highest = message.offset().max(*highest);
                }
            }
            Err((error, _)) => {
                deliveries.failures += 1;
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                deliveries.first_failure.get_or_insert(code);
            }
        }
    }
}

/// Context of the admin client.
#[derive(Default)]
pub(super) struct AdminSide {
    pub(super) connection: Connection,
}

impl ClientContext for AdminSide {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.connection.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.note_error(&error, reason);
    }

    fn stats(&self, _statistics: Statistics) {}
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log line of the client without its thread names and timings: `host:port: what happened`.
fn plain(line: &str) -> String {
    let text = line.split_once("]: ").map_or(line, |(_, text)| text);
    let text = text.replace("/bootstrap:", ":");
    let end = text.find(" (after ").unwrap_or(text.len());
    let text = text[..end].trim();
    // The client guesses at brokers of ten years ago; who meets this has named another server, or the wrong security.
    let strange =
        [": ApiVersionRequest failed", ": Receive failed: Invalid response size"].into_iter().find_map(|what| text.split_once(what));
    match strange {
        Some((address, _)) => {
            format!("{address}: what listens there does not answer as Kafka does, or wants another `kafka.security.protocol`")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_that_lasts_is_told_at_growing_intervals() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        let at = |seconds| troubles.is_news(LogErrorKind::Unreachable, start + Duration::from_secs(seconds));
        let told: Vec<u64> = (0..200).filter(|seconds| at(*seconds)).collect();
        assert_eq!(told, [0, 10, 30, 70, 150]);
        assert!(troubles.is_news(LogErrorKind::Authentication, start), "another trouble is news");
        assert!(at(2000), "what was over is news when it comes again");
        assert!(!at(2001));
    }

    #[test]
    fn a_connection_failure_is_told_by_address_and_reason() {
        let line = "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)";
        assert_eq!(plain(line), "127.0.0.1:1: Connect to ipv4#127.0.0.1:1 failed: Connection refused");
        let line = "[thrd:127.0.0.1:80/bootstrap]: 127.0.0.1:80/bootstrap: ApiVersionRequest failed: Local: Timed out: probably due to broker version < 0.10 (see api.version.request configuration) (after 10188ms in state APIVERSION_QUERY)";
        assert!(plain(line).starts_with("127.0.0.1:80: what listens there does not answer as Kafka does"), "{}", plain(line));
    }
}
