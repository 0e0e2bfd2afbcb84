//! A consumer of a Kafka cluster: member of a group over the task topic, or reader without a group.
//!
//! Records of all inputs come by one queue that their partitions are forwarded to; group events come by the consumer's own
//! queue, and only by it. What stays true:
//! - an assignment is answered in the callback, a revocation by `acknowledge` and nothing else. `incremental_unassign` answers
//!   whatever revocation waits at that moment, also one that has not been polled yet, and then the group gives the task away
//!   before its last commit. So a member that drops an input only pauses it, and takes it off the assignment with the next
//!   answer;
//! - each input's next offset is kept here; a record below it is never delivered again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as NativeOffset, TopicPartitionList};

use crate::log::kafka::context::{ConsumerSide, Troubles};
use crate::log::kafka::error::{by_code, by_reason, kind_of, of};
use crate::log::kafka::ffi::{ConsumerClient, DataQueue, End, GroupMetadata, InputTopic, KafkaMessage, end_seen, list_offset, position};
use crate::log::{Consumer, Event, GroupMetadata as AnyGroupMetadata, Input, LogError, LogErrorKind, Message};
use crate::model::{Name, Offset};

/// How long a wait for records may keep group events waiting.
const GROUP_INTERVAL: Duration = Duration::from_millis(10);
/// Group events, errors and log lines that one poll serves.
const GROUP_EVENTS_MAX: usize = 16;
/// How often it is looked whether the group has let us go.
const LEAVE_LOOK: Duration = Duration::from_millis(5);
/// A seek waits so long for a partition that is just being started.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// An input that is being read.
struct Reading {
    slot: u32,
    /// The offset of the next record to deliver, or later.
    next: i64,
    /// Its offset is gone; it waits for a seek.
    is_stuck: bool,
}

/// A partition as the client knows it, also after its input was dropped.
#[derive(Default)]
struct Place {
    reading: Option<Reading>,
    is_assigned: bool,
    is_paused: bool,
}

struct KnownTopic {
    name: Name,
    topic: InputTopic,
    places: Vec<Place>,
}

pub(super) struct KafkaConsumer {
    // In this order: queue and topics must be gone before the client closes.
    queue: Option<DataQueue>,
    topics: Vec<KnownTopic>,
    client: Option<ConsumerClient>,
    is_member: bool,
    brokers: String,
    /// Events that the next poll returns.
    events: Vec<Event>,
    /// A revocation that the group waits for.
    pending: Option<Event>,
    /// Topic of the last record: the next one is likely of the same.
    last_topic: usize,
    /// Topics whose leaders the client was told.
    led: Vec<Name>,
    troubles: Arc<Troubles>,
}

impl KafkaConsumer {
    /// `task_topic` makes it a member of its group.
    pub(super) fn new(
        config: &ClientConfig,
        brokers: &str,
        task_topic: Option<&Name>,
        troubles: Arc<Troubles>,
    ) -> Result<KafkaConsumer, LogError> {
        const WHAT: &str = "make a consumer";
        let client: BaseConsumer<ConsumerSide> = config.create_with_context(ConsumerSide::default()).map_err(|error| of(WHAT, &error))?;
        let client = ConsumerClient::new(client);
        let queue = DataQueue::new(&client).ok_or_else(|| LogError::new(LogErrorKind::Fatal, WHAT, "no queue"))?;
        if let Some(topic) = task_topic {
            client.subscribe(&[topic]).map_err(|error| of(format!("subscribe to `{topic}`"), &error))?;
        }
        Ok(KafkaConsumer {
            queue: Some(queue),
            topics: Vec::new(),
            client: Some(client),
            is_member: task_topic.is_some(),
            brokers: brokers.to_owned(),
            events: Vec::new(),
            pending: None,
            last_topic: 0,
            led: Vec::new(),
            troubles,
        })
    }

    fn client(&self) -> Result<&ConsumerClient, LogError> {
        self.client.as_ref().ok_or_else(|| LogError::new(LogErrorKind::Fatal, "use a consumer", "it is closed"))
    }

    /// Serves rebalances, errors and log lines.
    fn serve_group(&mut self) -> Result<(), LogError> {
        for _ in 0..GROUP_EVENTS_MAX {
            let client = self.client()?.clone();
            let polled = client.poll(Duration::ZERO);
            let is_quiet = polled.is_none();
            match polled {
                Some(Err(KafkaError::MessageConsumptionFatal(_))) => return Err(self.fatal()),
                Some(Err(error)) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                    let problem = self.problem(code);
                    self.events.extend(problem);
                }
                // All partitions are forwarded: a record here would be one that nobody counts.
                Some(Ok(_)) => return Err(LogError::new(LogErrorKind::Fatal, "poll", "a record came by the group's queue")),
                None => {}
            }
            match client.client().context().next_event() {
                Some(event) => {
                    let event = event?;
                    if matches!(event, Event::Revoked(_)) {
                        self.pending = Some(event.clone());
                    }
                    self.events.push(event);
                }
                None if is_quiet => break,
                None => {}
            }
        }
        Ok(())
    }

    fn fatal(&self) -> LogError {
        let told = self.client.as_ref().and_then(|client| client.client().fatal_error());
        let (code, reason) = told.unwrap_or((RDKafkaErrorCode::Fatal, "the client has failed".into()));
        let error = by_reason("poll", code, &reason);
        let kind = if error.kind == LogErrorKind::Fenced { LogErrorKind::Fenced } else { LogErrorKind::Fatal };
        LogError { kind, ..error }
    }

    /// A passing trouble, unless it was told a moment ago.
    fn problem(&self, code: RDKafkaErrorCode) -> Option<Event> {
        if !self.is_member && code == RDKafkaErrorCode::GroupAuthorizationFailed {
            // The client asks for the coordinator of a group that a reader never joins.
            return None;
        }
        let kind = kind_of(code);
        let reason = self.client.as_ref().and_then(|client| client.client().context().connection.reason());
        let error = match reason {
            Some(reason) => by_reason(format!("talk to Kafka at `{}`", self.brokers), code, &reason),
            None => by_code(format!("talk to Kafka at `{}`", self.brokers), code),
        };
        self.troubles.is_news(kind, Instant::now()).then_some(Event::Problem(error))
    }

    /// Takes what is there, up to `limit`, waiting up to `wait` for as many.
    fn take(&mut self, limit: usize, wait: Duration, into: &mut Vec<Message>) -> Result<usize, LogError> {
        let Some(queue) = &mut self.queue else { return Ok(0) };
        let before = into.len();
        let (topics, last_topic) = (&mut self.topics, &mut self.last_topic);
        let mut failed = Vec::new();
        queue.take(limit, wait, |mut message| {
            let Some((topic, reading)) = place_of(topics, last_topic, &message) else { return };
            if let Some((code, reason)) = message.error() {
                failed.push((topic, message.partition(), code, reason));
                return;
            }
            // What was fetched before a seek, a pause or a rebalance is dropped by the client; this is the second lock.
            if message.offset() < reading.next {
                return;
            }
            reading.next = message.offset() + 1;
            message.set_slot(reading.slot);
            into.push(Message::Kafka(message));
        });
        for (topic, partition, code, reason) in failed {
            let event = self.failed(topic, partition, code, &reason);
            self.events.extend(event);
        }
        Ok(into.len() - before)
    }

    /// An error in the place of a record.
    fn failed(&mut self, topic: usize, partition: i32, code: RDKafkaErrorCode, reason: &str) -> Option<Event> {
        let name = self.topics[topic].name.clone();
        let reading = self.topics[topic].places.get_mut(partition as usize)?.reading.as_mut()?;
        let (slot, next) = (reading.slot, reading.next);
        if matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) {
            reading.is_stuck = true;
            return Some(Event::OutOfRange { slot, partition, offset: Offset(next) });
        }
        // The client counts the error as a record when it notes where we are (librdkafka #4844), and would resume from there.
        if let Err(error) = self.client.as_ref()?.seek_partitions(list(&[(&name, partition, Some(next))]), SEEK_TIMEOUT) {
            tracing::warn!(topic = %name, partition, %error, "cannot go back after an error of a partition");
        }
        let error = by_reason(format!("fetch from `{name}` partition {partition}"), code, reason);
        self.troubles.is_news(error.kind, Instant::now()).then_some(Event::Problem(error))
    }

    fn slot(&self, slot: u32, what: &str) -> Result<(usize, i32), LogError> {
        for (at, topic) in self.topics.iter().enumerate() {
            let found = topic.places.iter().position(|place| place.reading.as_ref().is_some_and(|reading| reading.slot == slot));
            if let Some(partition) = found {
                return Ok((at, partition as i32));
            }
        }
        Err(LogError::new(LogErrorKind::Config, format!("{what} input {slot}"), "it is not being read"))
    }

    fn place(&mut self, topic: usize, partition: i32) -> &mut Place {
        &mut self.topics[topic].places[partition as usize]
    }

    /// Names of places, with the offset to start from where it matters.
    fn list_of(&self, places: &[(usize, i32)], offset: impl Fn(&Place) -> Option<i64>) -> TopicPartitionList {
        let named = |(topic, partition): &(usize, i32)| {
            let known = &self.topics[*topic];
            (&known.name, *partition, offset(&known.places[*partition as usize]))
        };
        list(&places.iter().map(named).collect::<Vec<_>>())
    }

    fn set_paused(&mut self, places: &[(usize, i32)], is_paused: bool) -> Result<(), LogError> {
        let changed: Vec<(usize, i32)> =
            places.iter().copied().filter(|(topic, partition)| self.place(*topic, *partition).is_paused != is_paused).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let partitions = self.list_of(&changed, |_| None);
        let client = self.client()?;
        let result = if is_paused { client.pause(&partitions) } else { client.resume(&partitions) };
        result.map_err(|error| of(if is_paused { "pause inputs" } else { "resume inputs" }, &error))?;
        for (topic, partition) in changed {
            self.place(topic, partition).is_paused = is_paused;
        }
        Ok(())
    }

    fn seek_place(&mut self, topic: usize, partition: i32, offset: i64) -> Result<(), LogError> {
        let name = self.topics[topic].name.clone();
        let what = || format!("seek in `{name}` partition {partition} to {offset}");
        let until = Instant::now() + SEEK_TIMEOUT;
        loop {
            let result = self.client()?.seek_partitions(list(&[(&name, partition, Some(offset))]), SEEK_TIMEOUT);
            let done = result.map_err(|error| of(what(), &error))?;
            let code = done.elements().first().and_then(|element| element.error().err()).and_then(|error| error.rdkafka_error_code());
            match code {
                None => break,
                // A partition that is added while others are still being stopped is not started yet.
                Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PreviousInProgress | RDKafkaErrorCode::Outdated)
                    if Instant::now() < until =>
                {
                    std::thread::park_timeout(Duration::from_millis(2));
                }
                Some(code) => return Err(by_code(what(), code)),
            }
        }
        if let Some(reading) = &mut self.place(topic, partition).reading {
            reading.next = offset;
        }
        Ok(())
    }

    /// Starts a partition anew whose fetching has ended because its offset was gone; a seek does not.
    ///
    /// Taking it off the assignment would answer a revocation that came in this very moment. So whatever revocation is in the
    /// queue afterwards is told as a loss: the group may have given those tasks away, and nothing may be committed for them.
    fn restart(&mut self, topic: usize, partition: i32) -> Result<(), LogError> {
        let client = self.client()?.clone();
        let one = self.list_of(&[(topic, partition)], |_| None);
        client.incremental_unassign(&one).map_err(|error| of("drop an input", &error))?;
        client.assignment().map_err(|error| of("drop an input", &error))?;
        self.place(topic, partition).is_assigned = false;
        if self.is_member {
            client.client().context().set_answered(true);
            let result = self.serve_group();
            client.client().context().set_answered(false);
            result?;
        }
        self.start(&[(topic, partition)])
    }

    fn topic_place(&mut self, name: &Name, partition: i32) -> Result<(usize, i32), LogError> {
        let what = || format!("read `{name}` partition {partition}");
        let at = match self.topics.iter().position(|topic| topic.name == *name) {
            Some(at) => at,
            None => {
                let topic = InputTopic::new(self.client()?, name)
                    .ok_or_else(|| LogError::new(LogErrorKind::Fatal, what(), "the client has no such topic"))?;
                self.topics.push(KnownTopic { name: name.clone(), topic, places: Vec::new() });
                self.topics.len() - 1
            }
        };
        let place = usize::try_from(partition).map_err(|_| LogError::new(LogErrorKind::MissingTopic, what(), "partitions count from 0"))?;
        let places = &mut self.topics[at].places;
        if places.len() <= place {
            places.resize_with(place + 1, Place::default);
        }
        Ok((at, partition))
    }

    /// Starts partitions at the next offsets of their readings.
    fn start(&mut self, places: &[(usize, i32)]) -> Result<(), LogError> {
        let (kept, new): (Vec<_>, Vec<_>) =
            places.iter().copied().partition(|(topic, partition)| self.place(*topic, *partition).is_assigned);
        for (topic, partition) in &kept {
            let next = self.place(*topic, *partition).reading.as_ref().map_or(0, |reading| reading.next);
            self.seek_place(*topic, *partition, next)?;
        }
        if !new.is_empty() {
            for (topic, partition) in &new {
                let name = self.topics[*topic].name.clone();
                if !self.queue.as_ref().is_some_and(|queue| queue.forward(&name, *partition)) {
                    return Err(LogError::new(
                        LogErrorKind::Fatal,
                        format!("read `{name}` partition {partition}"),
                        "the client has no such partition",
                    ));
                }
            }
            let start = |place: &Place| place.reading.as_ref().map(|reading| reading.next);
            let partitions = self.list_of(&new, start);
            self.client()?.incremental_assign(&partitions).map_err(|error| of("read inputs", &error))?;
            for (topic, partition) in &new {
                self.place(*topic, *partition).is_assigned = true;
            }
        }
        self.set_paused(places, false)
    }

    /// Takes partitions without an input off the assignment, which answers a revocation that waits.
    fn unassign_dropped(&mut self) -> Result<(), LogError> {
        let mut dropped = Vec::new();
        for (topic, known) in self.topics.iter().enumerate() {
            let is_dropped = |place: &Place| place.is_assigned && place.reading.is_none();
            dropped.extend(known.places.iter().enumerate().filter(|(_, place)| is_dropped(place)).map(|(at, _)| (topic, at as i32)));
        }
        let partitions = self.list_of(&dropped, |_| None);
        let client = self.client()?;
        client.incremental_unassign(&partitions).map_err(|error| of("drop inputs", &error))?;
        // Stopping a partition cuts its forwarding, on the client's own thread. Asking that thread for the assignment waits for
        // it; otherwise it could cut what a later `add_inputs` forwards.
        client.assignment().map_err(|error| of("drop inputs", &error))?;
        for (topic, partition) in dropped {
            self.place(topic, partition).is_assigned = false;
        }
        Ok(())
    }
}

/// The input that a message belongs to, if there still is one.
fn place_of<'a>(topics: &'a mut [KnownTopic], last_topic: &mut usize, message: &KafkaMessage) -> Option<(usize, &'a mut Reading)> {
    if !topics.get(*last_topic)?.topic.holds(message) {
        let found = topics.iter().position(|topic| topic.topic.holds(message));
        // An error may name its topic by another handle.
        *last_topic = found.or_else(|| topics.iter().position(|topic| Some(&*topic.name) == message.topic_name()))?;
    }
    let place = usize::try_from(message.partition()).ok()?;
    let reading = topics[*last_topic].places.get_mut(place)?.reading.as_mut()?;
    Some((*last_topic, reading))
}

/// Why a partition has no leader: it does not exist, or its leader is being elected.
fn no_leader(client: &ConsumerClient, topic: &str, partition: i32, timeout: Duration) -> RDKafkaErrorCode {
    let Ok(metadata) = client.fetch_metadata(Some(topic), timeout) else { return RDKafkaErrorCode::OperationTimedOut };
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    match found.map(|found| found.partitions().iter().any(|found| found.id() == partition)) {
        Some(true) => RDKafkaErrorCode::LeaderNotAvailable,
        Some(false) => RDKafkaErrorCode::UnknownPartition,
        None => RDKafkaErrorCode::UnknownTopicOrPartition,
    }
}

fn list(partitions: &[(&Name, i32, Option<i64>)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition, offset) in partitions {
        let mut element = list.add_partition(topic, *partition);
        if let Some(offset) = offset {
            // An offset below zero cannot be given; the client would look one up itself.
            let _ = element.set_offset(NativeOffset::Offset((*offset).max(0)));
        }
    }
    list
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, limit: usize, wait: Duration, into: &mut Vec<Message>) -> Result<Vec<Event>, LogError> {
        let mut left = wait;
        loop {
            self.serve_group()?;
            // Records wait while the caller has to open or close tasks: they could belong to one of them.
            if !self.events.is_empty() || limit == 0 {
                break;
            }
            let taken = self.take(limit, Duration::ZERO, into)?;
            if taken > 0 || !self.events.is_empty() || left.is_zero() {
                break;
            }
            let slice = left.min(GROUP_INTERVAL);
            left -= slice;
            // The call waits until its array is full, so it waits for one and takes the others without waiting.
            if self.take(1, slice, into)? > 0 {
                if limit > 1 {
                    self.take(limit - 1, Duration::ZERO, into)?;
                }
                break;
            }
        }
        Ok(std::mem::take(&mut self.events))
    }

    fn acknowledge(&mut self, event: &Event) -> Result<(), LogError> {
        match event {
            Event::Revoked(_) if self.pending.as_ref() == Some(event) => {
                self.unassign_dropped()?;
                self.pending = None;
                Ok(())
            }
            Event::Revoked(_) => {
                Err(LogError::new(LogErrorKind::Config, "acknowledge an event", "it is not the one that waits to be acknowledged"))
            }
            // These were answered when they came.
            _ => Ok(()),
        }
    }

    fn add_inputs(&mut self, inputs: &[(Input, Offset)]) -> Result<(), LogError> {
        let mut places = Vec::with_capacity(inputs.len());
        for (input, _) in inputs {
            let (topic, partition) = self.topic_place(&input.topic, input.partition)?;
            if self.place(topic, partition).reading.is_some() || self.slot(input.slot, "").is_ok() || places.contains(&(topic, partition)) {
                let what = format!("read `{}` partition {} as input {}", input.topic, input.partition, input.slot);
                return Err(LogError::new(LogErrorKind::Config, what, "the partition or the slot is being read already"));
            }
            places.push((topic, partition));
        }
        for ((input, offset), (topic, partition)) in inputs.iter().zip(&places) {
            self.place(*topic, *partition).reading = Some(Reading { slot: input.slot, next: offset.0, is_stuck: false });
        }
        let result = self.start(&places);
        if result.is_err() {
            for (topic, partition) in places {
                self.place(topic, partition).reading = None;
            }
        }
        result
    }

    fn remove_inputs(&mut self, slots: &[u32]) -> Result<(), LogError> {
        let places: Vec<(usize, i32)> = slots.iter().filter_map(|slot| self.slot(*slot, "").ok()).collect();
        for (topic, partition) in &places {
            self.place(*topic, *partition).reading = None;
        }
        if self.is_member { self.set_paused(&places, true) } else { self.unassign_dropped() }
    }

    fn pause(&mut self, slots: &[u32]) -> Result<(), LogError> {
        let places = slots.iter().map(|slot| self.slot(*slot, "pause")).collect::<Result<Vec<_>, _>>()?;
        self.set_paused(&places, true)
    }

    fn resume(&mut self, slots: &[u32]) -> Result<(), LogError> {
        let places = slots.iter().map(|slot| self.slot(*slot, "resume")).collect::<Result<Vec<_>, _>>()?;
        self.set_paused(&places, false)
    }

    fn seek(&mut self, slot: u32, offset: Offset) -> Result<(), LogError> {
        let (topic, partition) = self.slot(slot, "seek")?;
        let Some(reading) = &mut self.place(topic, partition).reading else { return Ok(()) };
        if !std::mem::take(&mut reading.is_stuck) {
            return self.seek_place(topic, partition, offset.0);
        }
        reading.next = offset.0;
        self.restart(topic, partition)
    }

    fn position(&mut self, slot: u32) -> Result<Option<Offset>, LogError> {
        let (topic, partition) = self.slot(slot, "position of")?;
        let known = &self.topics[topic];
        let Some(reading) = &known.places[partition as usize].reading else { return Ok(None) };
        // The client knows of markers, which we never see; after a seek it knows nothing until the next record.
        let seen = position(self.client()?, &known.name, partition);
        Ok(Some(Offset(seen.filter(|_| !reading.is_stuck).map_or(reading.next, |seen| seen.max(reading.next)))))
    }

    fn committed(&mut self, partitions: &[(Name, i32)], timeout: Duration) -> Result<Vec<Option<Offset>>, LogError> {
        const WHAT: &str = "fetch committed offsets";
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        if !self.is_member {
            return Err(LogError::new(LogErrorKind::Config, WHAT, "the consumer is in no group"));
        }
        let named: Vec<_> = partitions.iter().map(|(topic, partition)| (topic, *partition, None)).collect();
        let answer = self.client()?.committed_offsets(list(&named), timeout).map_err(|error| match error.rdkafka_error_code() {
            // A transaction that commits one of them is still open, or nobody answers: the client tells no difference.
            Some(RDKafkaErrorCode::OperationTimedOut) => {
                LogError::new(LogErrorKind::Retry, WHAT, format!("no stable answer in {timeout:?}"))
            }
            _ => of(WHAT, &error),
        })?;
        let offset_of = |(topic, partition): &(Name, i32)| -> Result<Option<Offset>, LogError> {
            let Some(element) = answer.find_partition(topic, *partition) else { return Ok(None) };
            let what = || format!("fetch the committed offset of `{topic}` partition {partition}");
            element.error().map_err(|error| of(what(), &error))?;
            Ok(match element.offset() {
                NativeOffset::Offset(offset) => Some(Offset(offset)),
                _ => None,
            })
        };
        partitions.iter().map(offset_of).collect()
    }

    fn bounds(&mut self, topic: &Name, partition: i32, timeout: Duration) -> Result<(Offset, Offset), LogError> {
        let what = || format!("fetch offsets of `{topic}` partition {partition}");
        if !self.led.contains(topic) {
            // The client looks for the leader itself. But while it has no connection, as one that was just made, it finds none, and
            // looks again after 3 s (librdkafka 2.12, `query_leaders_async`). A question for metadata waits for the connection.
            self.client()?.fetch_metadata(Some(topic), timeout).map_err(|error| of(what(), &error))?;
            self.led.push(topic.clone());
        }
        let client = self.client()?;
        let end_of = |end| {
            let offset = list_offset(client, topic, partition, end, timeout).map_err(|code| match code {
                RDKafkaErrorCode::NoEnt => no_leader(client, topic, partition, timeout),
                code => code,
            });
            offset.map(Offset).map_err(|code| by_code(what(), code))
        };
        Ok((end_of(End::First)?, end_of(End::Last)?))
    }

    fn end_seen(&mut self, slot: u32) -> Option<Offset> {
        let (topic, partition) = self.slot(slot, "end of").ok()?;
        end_seen(self.client.as_ref()?, &self.topics[topic].name, partition).map(Offset)
    }

    fn group(&mut self) -> Option<AnyGroupMetadata> {
        let client = self.client.as_ref().filter(|_| self.is_member)?;
        if client.assignment_lost() {
            return None;
        }
        GroupMetadata::of(client).map(AnyGroupMetadata::Kafka)
    }

    fn commit(&mut self, offsets: &[(Name, i32, Offset)]) -> Result<(), LogError> {
        const WHAT: &str = "commit offsets";
        if offsets.is_empty() {
            return Ok(());
        }
        if self.group().is_none() {
            return Err(LogError::new(LogErrorKind::Abort, WHAT, "the consumer is no member of its group at the moment"));
        }
        let named: Vec<_> = offsets.iter().map(|(topic, partition, offset)| (topic, *partition, Some(offset.0))).collect();
        self.client()?.commit(&list(&named), CommitMode::Sync).map_err(|error| of(WHAT, &error))
    }

    fn close(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.queue = None;
        self.topics.clear();
        let Some(client) = self.client.take() else { return Ok(()) };
        client.client().context().close();
        let until = Instant::now() + timeout;
        if self.is_member {
            // On a thread of its own, which may be left behind. (1) A rebalance waits in the queue, (2) we close, which puts a second
            // one behind it, (3) our answer to the first lets the membership end, (4) our answer to the second is thrown away
            // with the queue that it lies in, and the call waits for its result without end.
            let (leaving, is_asked) = (client.clone(), self.pending.take().is_some());
            let leave = std::thread::spawn(move || {
                if is_asked {
                    let _ = leaving.incremental_unassign(&TopicPartitionList::new());
                }
                // A client that has failed for good answers with an error here, and is simply dropped.
                if leaving.close_queue().is_ok() {
                    while !leaving.closed() && Instant::now() < until {
                        let _ = leaving.poll(LEAVE_LOOK);
                    }
                }
            });
            while !leave.is_finished() && !client.closed() && Instant::now() < until {
                std::thread::park_timeout(LEAVE_LOOK);
            }
        }
        if client.closed() || !self.is_member {
            return Ok(());
        }
        // Dropping it would wait without end for a group that does not answer.
        std::thread::spawn(move || drop(client));
        Err(LogError::new(LogErrorKind::Retry, "leave the group", format!("no answer in {timeout:?}")))
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        let _ = self.close(Duration::from_secs(5));
    }
}
