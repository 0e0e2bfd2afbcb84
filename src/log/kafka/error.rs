//! What an error of librdkafka or of a broker means for the caller.
//!
//! For transactions the client itself says which of fatal, abortable and retriable an error is, and that is tested in this
//! order; for everything else the code decides.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::log::kafka::ffi::TransactionError;
use crate::log::{LogError, LogErrorKind};

/// The kind of an error that is known by its code alone.
pub(super) fn kind_of(code: RDKafkaErrorCode) -> LogErrorKind {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId | Code::UnreleasedInstanceId => {
            LogErrorKind::Fenced
        }
        Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedMemberEpoch | Code::StaleMemberEpoch | Code::AssignmentLost => {
            LogErrorKind::Abort
        }
        Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut | Code::RequestTimedOut => {
            LogErrorKind::Unreachable
        }
        Code::MessageTimedOut | Code::TimedOutQueue | Code::NetworkException | Code::BrokerNotAvailable => LogErrorKind::Unreachable,
        Code::Authentication | Code::SSL | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => LogErrorKind::Authentication,
        Code::IllegalSASLState | Code::SecurityDisabled => LogErrorKind::Authentication,
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => LogErrorKind::Authorization,
        Code::TransactionalIdAuthorizationFailed | Code::DelegationTokenAuthorizationFailed => LogErrorKind::Authorization,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => LogErrorKind::MissingTopic,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => LogErrorKind::TooLarge,
        Code::UnstableOffsetCommit | Code::CoordinatorLoadInProgress | Code::CoordinatorNotAvailable | Code::NotCoordinator => {
            LogErrorKind::Retry
        }
        Code::LeaderNotAvailable | Code::NotLeaderForPartition | Code::ReplicaNotAvailable | Code::OffsetNotAvailable => {
            LogErrorKind::Retry
        }
        Code::RebalanceInProgress | Code::WaitingForCoordinator | Code::ConcurrentTransactions | Code::QueueFull => LogErrorKind::Retry,
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::KafkaStorageError | Code::NotController => LogErrorKind::Retry,
        Code::FencedLeaderEpoch | Code::UnknownLeaderEpoch | Code::ThrottlingQuotaExceeded | Code::PollExceeded => LogErrorKind::Retry,
        Code::InProgress | Code::PreviousInProgress | Code::Retry | Code::ISRInsufficient => LogErrorKind::Retry,
        Code::InvalidArgument | Code::InvalidConfig | Code::PolicyViolation | Code::InvalidPartitions => LogErrorKind::Config,
        Code::InvalidReplicationFactor | Code::InvalidReplicaAssignment | Code::InvalidTopic | Code::InvalidRequest => LogErrorKind::Config,
        Code::InvalidSessionTimeout | Code::InconsistentGroupProtocol | Code::InvalidGroupId | Code::UnsupportedAssignor => {
            LogErrorKind::Config
        }
        Code::UnsupportedFeature | Code::UnsupportedVersion | Code::InvalidTransactionTimeout | Code::GroupMaxSizeReached => {
            LogErrorKind::Config
        }
        Code::OffsetOutOfRange | Code::NotConfigured | Code::UnsupportedCompressionType | Code::InvalidTimestamp => LogErrorKind::Config,
        // What nobody has thought of is handled by a new client, as librdkafka advises.
        _ => LogErrorKind::Fatal,
    }
}

/// An error by code, with what the user can do about it.
pub(super) fn by_code(what: impl Into<String>, code: RDKafkaErrorCode) -> LogError {
    by_reason(what, code, &text_of(code))
}

/// The same where the client gave a reason of its own.
pub(super) fn by_reason(what: impl Into<String>, code: RDKafkaErrorCode, reason: &str) -> LogError {
    let kind = match kind_of(code) {
        // What waits for a connection that is refused again and again sees a time-out only.
        LogErrorKind::Unreachable if is_refused(reason) => LogErrorKind::Authentication,
        kind => kind,
    };
    LogError::new(kind, what, advise(kind, reason))
}

/// Whether a connection failed because of who we are or what we trust; time does not heal that.
fn is_refused(reason: &str) -> bool {
    const REFUSALS: [&str; 5] =
        ["SASL authentication error", "mechanism handshake failed", "certificate verify failed", "unknown ca", "wrong version number"];
    REFUSALS.iter().any(|refusal| reason.contains(refusal))
}

/// An error of the wrapper around the client.
pub(super) fn of(what: impl Into<String>, error: &KafkaError) -> LogError {
    match error {
        KafkaError::AdminOp(code) => by_code(what, *code),
        KafkaError::ClientConfig(_, reason, key, value) => {
            // A value can be a secret; librdkafka puts it into its reason where it is malformed, so that is left out too.
            let cause =
                if key.contains("password") { "the client refuses it".to_owned() } else { format!("`{value}` is refused: {reason}") };
            LogError::new(LogErrorKind::Config, format!("set `{key}` of the Kafka client"), cause)
        }
        KafkaError::ClientCreation(reason) => LogError::new(LogErrorKind::Config, what, reason.clone()),
        error => match error.rdkafka_error_code() {
            Some(code) => by_code(what, code),
            None => LogError::new(LogErrorKind::Fatal, what, error.to_string()),
        },
    }
}

/// An error of a transactional call, in the order that librdkafka asks for.
pub(super) fn of_transaction(what: impl Into<String>, error: &TransactionError) -> LogError {
    let known = kind_of(error.code);
    let kind = if matches!(known, LogErrorKind::Authentication | LogErrorKind::Authorization) {
        // A new client would be refused as well.
        known
    } else if error.is_fatal {
        if known == LogErrorKind::Fenced { LogErrorKind::Fenced } else { LogErrorKind::Fatal }
    } else if error.requires_abort {
        if known == LogErrorKind::Fenced { LogErrorKind::Fenced } else { LogErrorKind::Abort }
    } else if error.is_retriable {
        LogErrorKind::Retry
    } else if known == LogErrorKind::Config {
        known
    } else {
        LogErrorKind::Fatal
    };
    // The client lists every partition; the group is what refuses, and it does so for all of them.
    let is_list = error.reason.starts_with("Failed to commit offsets to transaction");
    let reason = if is_list { text_of(error.code) } else { error.reason.clone() };
    LogError::new(kind, what, advise(kind, &reason))
}

/// Adds what the user can do, where there is something.
fn advise(kind: LogErrorKind, reason: &str) -> String {
    let advice = match kind {
        // A listener that wants TLS or SASL hangs up without a word, and so does one that knows of neither.
        LogErrorKind::Unreachable if reason.contains("closed by peer") => {
            "check `kafka.brokers`, `kafka.security.protocol` and the network"
        }
        LogErrorKind::Unreachable => "check `kafka.brokers` and the network",
        LogErrorKind::Authentication => "check `kafka.security`",
        LogErrorKind::Authorization => "grant the right to the user of `kafka.security`; docs/operations.md lists what a worker needs",
        LogErrorKind::MissingTopic => "create it, or correct its name",
        LogErrorKind::TooLarge => "raise `max.message.bytes` of the topic, or write less",
        LogErrorKind::Fenced => "another process runs with the same worker id, or took over",
        _ => return reason.to_owned(),
    };
    format!("{reason}; {advice}")
}

/// What librdkafka calls an error, without its prefixes.
fn text_of(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    let inner = text.split_once('(').map_or(&*text, |(_, rest)| rest.trim_end_matches(')'));
    let plain = inner.trim_start_matches("Local: ").trim_start_matches("Broker: ");
    let mut letters = plain.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
