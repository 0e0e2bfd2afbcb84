//! What the ports of the log promise: the same cases put to the in-process log and to a real Apache Kafka.
//!
//! A case is a function over a [`World`] and knows not which log it talks to; where it has to do something to a log from
//! outside, `World` has a method for it. Kafka's side runs against the brokers in `KAFKA_BROKERS` and says `not run` without
//! them; with `REQUIRE_KAFKA=1` that is a failure. Nothing waits for a time: every wait is for a state, with a deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream::log::kafka::{GroupProtocol, KafkaLog, KafkaSettings};
use millstream::log::memory::MemoryCluster;
use millstream::log::{
    Admin, Consumer, Event, GroupSettings, Input, Log, LogError, LogErrorKind, Message, NewTopic, Outgoing, Producer, ProducerSettings,
    TopicHandle,
};
use millstream::model::{Clock, Headers, Name, Offset, SystemClock, Time};
use millstream::runtime::unassigned::enforce_rebalance;
use smol_str::SmolStr;

/// The longest that a state is waited for.
const DEADLINE: Duration = Duration::from_secs(40);
/// The time-out of single calls.
const CALL: Duration = Duration::from_secs(10);
/// One wait in `poll`.
const POLL: Duration = Duration::from_millis(20);
/// The shortest session that a broker accepts by default.
const SESSION: Duration = Duration::from_secs(6);

/// A log under test, with names that no other case uses.
struct World {
    log: Arc<dyn Log>,
    memory: Option<MemoryCluster>,
    /// The members assign, not the broker.
    is_classic: bool,
    prefix: String,
}

impl World {
    fn memory(case: &str) -> World {
        let cluster = MemoryCluster::new(Arc::new(SystemClock));
        World { log: cluster.log(), memory: Some(cluster), is_classic: true, prefix: case.into() }
    }

    #[expect(clippy::disallowed_methods, reason = "a test is told by the environment where its broker is")]
    fn kafka(case: &str, protocol: GroupProtocol) -> Option<World> {
        let Ok(brokers) = std::env::var("KAFKA_BROKERS") else {
            assert!(std::env::var("REQUIRE_KAFKA").as_deref() != Ok("1"), "REQUIRE_KAFKA=1, but there is no KAFKA_BROKERS");
            // Past the test harness, which shows what passed tests print to nobody.
            let _ = writeln!(std::io::stderr(), "not run: no KAFKA_BROKERS: kafka::{case}");
            return None;
        };
        // The same case may run for both protocols in the same millisecond.
        let prefix = format!("{case}-{protocol:?}-{}-{}", std::process::id(), SystemClock.now().0);
        let mut settings = KafkaSettings::new(brokers, &prefix);
        settings.group_protocol = protocol;
        settings.poll_interval_max = SESSION;
        let is_classic = protocol == GroupProtocol::Classic;
        Some(World { log: Arc::new(KafkaLog::new(settings).unwrap()), memory: None, is_classic, prefix })
    }

    fn name(&self, suffix: &str) -> Name {
        Name::parse(&format!("{}-{suffix}", self.prefix)).unwrap()
    }

    fn admin(&self) -> Box<dyn Admin> {
        self.log.admin().unwrap()
    }

    fn topic(&self, suffix: &str, partitions: i32) -> Name {
        self.topic_with(suffix, partitions, &[])
    }

    fn topic_with(&self, suffix: &str, partitions: i32, config: &[(&'static str, &str)]) -> Name {
        let name = self.name(suffix);
        let config = config.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let topic = NewTopic { name: name.clone(), partitions, replication: -1, config };
        self.admin().create(&[topic], CALL).unwrap();
        until("the topic is known", || self.admin().describe(std::slice::from_ref(&name), CALL).unwrap()[0].is_some());
        name
    }

    fn producer(&self, transactional_id: Option<&str>) -> Box<dyn Producer> {
        let settings = ProducerSettings {
            transactional_id: transactional_id.map(|suffix| self.name(suffix)),
            transaction_timeout: Duration::from_secs(10),
            linger: Duration::from_millis(5),
        };
        self.log.producer(&settings).unwrap()
    }

    /// A producer that has a transaction open.
    fn transaction(&self, transactional_id: &str) -> Box<dyn Producer> {
        let mut producer = self.producer(Some(transactional_id));
        producer.init_transactions(CALL).unwrap();
        producer.begin().unwrap();
        producer
    }

    fn member(&self, instance: Option<&str>) -> Member {
        let settings = GroupSettings {
            group: self.name("group"),
            task_topic: self.name("tasks"),
            instance_id: instance.map(|suffix| self.name(suffix)),
            session_timeout: SESSION,
        };
        Member::of(self.log.group_consumer(&settings).unwrap())
    }

    fn reader(&self) -> Member {
        Member::of(self.log.reader().unwrap())
    }

    /// Writes values outside of transactions.
    fn write(&self, topic: &Name, partition: i32, values: &[&str]) {
        let mut producer = self.producer(None);
        let (handle, _) = producer.topic(topic).unwrap();
        for value in values {
            send(&mut *producer, handle, partition, value);
        }
        producer.flush(CALL).unwrap();
    }

    /// All committed values of a partition with their offsets, read to its end: past every transaction that is open now.
    fn read(&self, topic: &Name, partition: i32) -> Vec<(i64, String)> {
        let mut reader = self.reader();
        let (start, end) = reader.bounds(topic, partition);
        reader.add(0, topic, partition, start.0);
        reader.until("the end is reached", |reader| reader.position(0) >= end);
        reader.values.into_iter().map(|(_, offset, value)| (offset, value)).collect()
    }
}

/// A consumer with what it has been told.
struct Member {
    consumer: Box<dyn Consumer>,
    tasks: BTreeSet<i32>,
    /// Slot, offset and value of each record.
    values: Vec<(u32, i64, String)>,
    events: Vec<Event>,
    is_agreeing: bool,
}

impl Member {
    fn of(consumer: Box<dyn Consumer>) -> Member {
        Member { consumer, tasks: BTreeSet::new(), values: Vec::new(), events: Vec::new(), is_agreeing: true }
    }

    /// Polls once; keeps the books on tasks, and acknowledges unless told not to agree to a revocation.
    fn try_step(&mut self) -> Result<Vec<Message>, LogError> {
        let mut messages = Vec::new();
        for event in self.consumer.poll(100, POLL, &mut messages)? {
            match &event {
                Event::Assigned(list) => self.tasks.extend(list),
                Event::Revoked(list) if self.is_agreeing => {
                    list.iter().for_each(|task| assert!(self.tasks.remove(task), "{task} was not ours"))
                }
                Event::Lost(list) => list.iter().for_each(|task| assert!(self.tasks.remove(task), "{task} was not ours")),
                _ => {}
            }
            let is_refused = matches!(event, Event::Revoked(_)) && !self.is_agreeing;
            if matches!(event, Event::Assigned(_) | Event::Revoked(_) | Event::Lost(_)) && !is_refused {
                self.consumer.acknowledge(&event)?;
            }
            self.events.push(event);
        }
        for message in &messages {
            let value = String::from_utf8_lossy(message.value().unwrap_or(b"-")).into_owned();
            self.values.push((message.slot(), message.offset(), value));
        }
        Ok(messages)
    }

    fn step(&mut self) -> Vec<Message> {
        self.try_step().unwrap()
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Member) -> bool) {
        until(what, || {
            self.step();
            is_so(self)
        });
    }

    fn add(&mut self, slot: u32, topic: &Name, partition: i32, offset: i64) {
        self.consumer.add_inputs(&[(Input { slot, topic: topic.clone(), partition }, Offset(offset))]).unwrap();
    }

    fn position(&mut self, slot: u32) -> Offset {
        self.consumer.position(slot).unwrap().unwrap_or_default()
    }

    fn bounds(&mut self, topic: &Name, partition: i32) -> (Offset, Offset) {
        self.consumer.bounds(topic, partition, CALL).unwrap()
    }

    /// The values of a slot so far.
    fn of_slot(&self, slot: u32) -> Vec<&str> {
        self.values.iter().filter(|(of, ..)| *of == slot).map(|(_, _, value)| value.as_str()).collect()
    }

    fn committed(&mut self, topic: &Name) -> Option<Offset> {
        self.consumer.committed(&[(topic.clone(), 0)], CALL).unwrap()[0]
    }
}

fn send(producer: &mut dyn Producer, topic: TopicHandle, partition: i32, value: &str) {
    let record = Outgoing {
        topic,
        partition,
        key: Some(b"k"),
        value: Some(value.as_bytes()),
        time: Time(1),
        keep_time: false,
        headers: &Headers::default(),
    };
    producer.send(record).unwrap();
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so within {DEADLINE:?}: {what}");
    }
}

/// Steps all members until something is so of them.
fn all_until(members: &mut [Member], what: &str, mut is_so: impl FnMut(&[Member]) -> bool) {
    until(what, || {
        members.iter_mut().for_each(|member| drop(member.step()));
        is_so(members)
    });
}

fn shares(members: &[Member]) -> Vec<usize> {
    let mut shares: Vec<usize> = members.iter().map(|member| member.tasks.len()).collect();
    shares.sort_unstable();
    shares
}

fn kind<T>(result: Result<T, LogError>) -> LogErrorKind {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.kind,
    }
}

/// Puts each case to the in-process log and to Kafka; those of the second list also to Kafka's newer group protocol.
macro_rules! contract {
    (all: [$($case:ident),* $(,)?], both_group_protocols: [$($group:ident),* $(,)?]) => {
        mod memory {
            $(#[test] fn $case() { super::$case(&super::World::memory(stringify!($case))); })*
            $(#[test] fn $group() { super::$group(&super::World::memory(stringify!($group))); })*
        }
        mod kafka {
            $(#[test] fn $case() { super::on_kafka(stringify!($case), super::GroupProtocol::Classic, super::$case); })*
            $(#[test] fn $group() { super::on_kafka(stringify!($group), super::GroupProtocol::Classic, super::$group); })*
        }
        mod kafka_protocol_consumer {
            $(#[test] fn $group() { super::on_kafka(stringify!($group), super::GroupProtocol::Consumer, super::$group); })*
        }
    };
}

fn on_kafka(case: &str, protocol: GroupProtocol, run: fn(&World)) {
    if let Some(world) = World::kafka(case, protocol) {
        run(&world);
    }
}

contract! { all: [
    markers_take_offsets,
    a_flush_reports_the_highest_offsets,
    aborted_records_are_never_seen,
    an_open_transaction_hides_what_follows_it,
    a_newer_producer_fences_the_older,
    a_seek_goes_back_and_forth,
    a_paused_input_keeps_its_records,
    a_removed_input_is_silent_and_can_come_again,
    positions_move_over_markers_to_the_end,
    an_offset_that_is_gone_is_an_event,
    records_come_back_as_they_were_sent,
    records_of_a_topic_keep_their_order,
    offsets_are_committed_without_a_transaction,
    a_record_that_is_too_large_is_refused_when_sent,
    what_does_not_exist_is_named,
    topics_are_made_once_and_grow,
    settings_of_topics_can_be_read,
    deleted_records_move_the_start,
    // With the newer protocol the broker refuses the second one instead.
    a_second_instance_of_one_name_fences_the_first,
], both_group_protocols: [
    a_commit_makes_records_and_offsets_true_together,
    an_abort_takes_the_offsets_back,
    a_member_of_an_older_generation_is_refused,
    a_member_that_has_left_is_refused,
    tasks_are_shared_by_those_who_are_there,
    inputs_follow_their_tasks,
    a_task_moves_only_with_its_owners_consent,
    a_restarted_instance_takes_its_tasks_up_again,
    what_a_member_owed_when_it_died_finds_an_owner,
    a_silent_member_loses_its_tasks_and_cannot_commit,
] }

fn markers_take_offsets(world: &World) {
    let topic = world.topic("a", 1);
    let mut producer = world.transaction("t");
    let (handle, partitions) = producer.topic(&topic).unwrap();
    assert_eq!(partitions, 1);
    ["a", "b", "c"].iter().for_each(|value| send(&mut *producer, handle, 0, value));
    producer.commit(CALL).unwrap();
    producer.begin().unwrap();
    send(&mut *producer, handle, 0, "d");
    producer.commit(CALL).unwrap();
    let expected = [(0, "a"), (1, "b"), (2, "c"), (4, "d")].map(|(offset, value)| (offset, value.to_owned()));
    assert_eq!(world.read(&topic, 0), expected);
    until("the last marker is written", || world.reader().bounds(&topic, 0) == (Offset(0), Offset(6)));
}

fn a_flush_reports_the_highest_offsets(world: &World) {
    let topics = [world.topic("a", 2), world.topic("b", 1)];
    let mut producer = world.transaction("t");
    let handles = topics.each_ref().map(|topic| producer.topic(topic).unwrap().0);
    for (handle, partition) in [(handles[0], 1), (handles[0], 1), (handles[1], 0)] {
        send(&mut *producer, handle, partition, "x");
    }
    let mut acknowledged = producer.flush(CALL).unwrap();
    acknowledged.sort_by_key(|(handle, ..)| handle.0);
    assert_eq!(acknowledged, [(handles[0], 1, 1), (handles[1], 0, 0)]);
    assert_eq!(producer.flush(CALL).unwrap(), []);
    send(&mut *producer, handles[0], 1, "x");
    assert_eq!(producer.flush(CALL).unwrap(), [(handles[0], 1, 2)]);
    producer.commit(CALL).unwrap();
}

fn aborted_records_are_never_seen(world: &World) {
    let topic = world.topic("a", 2);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&topic).unwrap();
    send(&mut *producer, handle, 0, "aborted after a flush");
    producer.flush(CALL).unwrap();
    producer.abort(CALL).unwrap();
    for keep_time in [false, true] {
        producer.begin().unwrap();
        let record = Outgoing {
            topic: handle,
            partition: 1,
            key: None,
            value: Some(b"aborted"),
            time: Time(1),
            keep_time,
            headers: &Headers::default(),
        };
        producer.send(record).unwrap();
        producer.abort(CALL).unwrap();
    }
    producer.begin().unwrap();
    send(&mut *producer, handle, 0, "committed");
    let acknowledged = producer.flush(CALL).unwrap();
    assert_eq!(acknowledged.iter().map(|(_, partition, _)| *partition).collect::<Vec<_>>(), [0], "nothing is told of what was aborted");
    producer.commit(CALL).unwrap();
    let values = |partition| -> Vec<String> { world.read(&topic, partition).into_iter().map(|(_, value)| value).collect() };
    assert_eq!((values(0), values(1)), (vec!["committed".to_owned()], vec![]));
}

fn an_open_transaction_hides_what_follows_it(world: &World) {
    let topic = world.topic("a", 1);
    world.write(&topic, 0, &["before"]);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&topic).unwrap();
    send(&mut *producer, handle, 0, "inside");
    producer.flush(CALL).unwrap();
    world.write(&topic, 0, &["after"]);
    let mut reader = world.reader();
    assert_eq!(reader.bounds(&topic, 0), (Offset(0), Offset(3)), "the end counts what is open");
    reader.add(0, &topic, 0, 0);
    reader.until("what came before is read", |reader| reader.values.len() == 1);
    for _ in 0..10 {
        reader.step();
    }
    assert_eq!(reader.of_slot(0), ["before"]);
    assert_eq!(reader.position(0), Offset(1));
    producer.commit(CALL).unwrap();
    reader.until("the rest is read", |reader| reader.values.len() == 3);
    assert_eq!(reader.of_slot(0), ["before", "inside", "after"]);
}

fn a_newer_producer_fences_the_older(world: &World) {
    let topic = world.topic("a", 1);
    let mut old = world.transaction("t");
    let (handle, _) = old.topic(&topic).unwrap();
    send(&mut *old, handle, 0, "of the old one");
    old.flush(CALL).unwrap();
    let mut new = world.transaction("t");
    assert_eq!(kind(old.commit(CALL)), LogErrorKind::Fenced);
    let (handle, _) = new.topic(&topic).unwrap();
    send(&mut *new, handle, 0, "of the new one");
    new.commit(CALL).unwrap();
    let values: Vec<String> = world.read(&topic, 0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["of the new one"]);
}

/// A member that has joined and owns all tasks.
fn only_member(world: &World) -> Member {
    world.topic("tasks", 2);
    let mut member = world.member(None);
    member.until("it has all tasks", |member| member.tasks.len() == 2);
    member
}

fn a_commit_makes_records_and_offsets_true_together(world: &World) {
    let (input, output) = (world.topic("in", 1), world.topic("out", 1));
    let mut member = only_member(world);
    assert_eq!(member.committed(&input), None);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&output).unwrap();
    send(&mut *producer, handle, 0, "result");
    producer.flush(CALL).unwrap();
    let group = member.consumer.group().unwrap();
    producer.send_offsets(&[(input.clone(), 0, Offset(7))], &group, CALL).unwrap();
    let pending = member.consumer.committed(&[(input.clone(), 0)], Duration::from_secs(1));
    assert_eq!(kind(pending), LogErrorKind::Retry, "a pending offset is not read as none");
    producer.commit(CALL).unwrap();
    assert_eq!(member.committed(&input), Some(Offset(7)));
    assert_eq!(world.read(&output, 0), [(0, "result".to_owned())]);
}

fn an_abort_takes_the_offsets_back(world: &World) {
    let input = world.topic("in", 1);
    let mut member = only_member(world);
    let mut producer = world.transaction("t");
    for (offset, is_committed) in [(3, true), (9, false)] {
        let group = member.consumer.group().unwrap();
        producer.send_offsets(&[(input.clone(), 0, Offset(offset))], &group, CALL).unwrap();
        if is_committed {
            producer.commit(CALL).unwrap()
        } else {
            producer.abort(CALL).unwrap()
        }
        producer.begin().unwrap();
    }
    assert_eq!(member.committed(&input), Some(Offset(3)));
}

fn a_member_of_an_older_generation_is_refused(world: &World) {
    let (input, output) = (world.topic("in", 1), world.topic("out", 1));
    let mut members = vec![only_member(world)];
    let stale = members[0].consumer.group().unwrap();
    members.push(world.member(None));
    all_until(&mut members, "the tasks are shared", |members| shares(members) == [1, 1]);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&output).unwrap();
    send(&mut *producer, handle, 0, "of an older generation");
    assert_eq!(kind(producer.send_offsets(&[(input.clone(), 0, Offset(1))], &stale, CALL)), LogErrorKind::Abort);
    assert_eq!(kind(producer.commit(CALL)), LogErrorKind::Abort);
    producer.abort(CALL).unwrap();
    producer.begin().unwrap();
    let fresh = members[0].consumer.group().unwrap();
    producer.send_offsets(&[(input.clone(), 0, Offset(2))], &fresh, CALL).unwrap();
    producer.commit(CALL).unwrap();
    assert_eq!(members[0].committed(&input), Some(Offset(2)));
    assert_eq!(world.read(&output, 0), []);
}

fn a_member_that_has_left_is_refused(world: &World) {
    let input = world.topic("in", 1);
    let mut gone = only_member(world);
    let group = gone.consumer.group().unwrap();
    let mut other = world.member(None);
    gone.consumer.close(CALL).unwrap();
    gone.consumer.close(CALL).unwrap();
    other.until("it has all tasks", |member| member.tasks.len() == 2);
    let mut producer = world.transaction("t");
    assert_eq!(kind(producer.send_offsets(&[(input.clone(), 0, Offset(1))], &group, CALL)), LogErrorKind::Abort);
    producer.abort(CALL).unwrap();
    assert_eq!(other.committed(&input), None);
}

fn tasks_are_shared_by_those_who_are_there(world: &World) {
    world.topic("tasks", 6);
    let mut members = vec![world.member(None)];
    all_until(&mut members, "one has all", |members| shares(members) == [6]);
    members.push(world.member(None));
    all_until(&mut members, "two have half", |members| shares(members) == [3, 3]);
    let kept: Vec<BTreeSet<i32>> = members.iter().map(|member| member.tasks.clone()).collect();
    members.push(world.member(None));
    all_until(&mut members, "three have a third", |members| shares(members) == [2, 2, 2]);
    for (member, kept) in members.iter().zip(&kept) {
        assert!(member.tasks.is_subset(kept), "{:?} were kept of {kept:?}", member.tasks);
    }
    let mut gone = members.remove(0);
    gone.consumer.close(CALL).unwrap();
    all_until(&mut members, "two have half again", |members| shares(members) == [3, 3]);
    let all: BTreeSet<i32> = members.iter().flat_map(|member| member.tasks.clone()).collect();
    assert_eq!(all, (0..6).collect());
}

/// What a worker does: each task reads its partition of two topics, and hands over the offset with the task.
fn inputs_follow_their_tasks(world: &World) {
    const TASKS: i32 = 4;
    let topics = [world.topic("a", TASKS), world.topic("b", TASKS)];
    world.topic("tasks", TASKS);
    let mut seen: BTreeMap<(usize, i32), Vec<String>> = BTreeMap::new();
    let mut slots: BTreeMap<u32, (usize, usize, i32)> = BTreeMap::new();
    let mut next: BTreeMap<(usize, i32), i64> = BTreeMap::new();
    let mut slot_next = 0;
    let mut members = vec![world.member(None)];
    for round in 0..4 {
        match round {
            1 | 2 => members.push(world.member(None)),
            3 => members.remove(0).consumer.close(CALL).unwrap(),
            _ => {}
        }
        if round == 3 {
            slots = slots
                .into_iter()
                .filter(|(_, (member, ..))| *member > 0)
                .map(|(slot, (member, topic, task))| (slot, (member - 1, topic, task)))
                .collect();
        }
        for topic in &topics {
            (0..TASKS).for_each(|partition| world.write(topic, partition, &[&format!("{round}-{partition}")]));
        }
        until(&format!("round {round} is read"), || {
            for (at, member) in members.iter_mut().enumerate() {
                let mut messages = Vec::new();
                for event in member.consumer.poll(10, POLL, &mut messages).unwrap() {
                    match &event {
                        Event::Assigned(tasks) => {
                            for (task, topic) in tasks.iter().flat_map(|task| [(*task, 0), (*task, 1)]) {
                                let offset = next.get(&(topic, task)).copied().unwrap_or(0);
                                member.add(slot_next, &topics[topic], task, offset);
                                slots.insert(slot_next, (at, topic, task));
                                slot_next += 1;
                            }
                            member.tasks.extend(tasks);
                        }
                        Event::Revoked(tasks) => {
                            let is_gone = |(member, _, task): &(usize, usize, i32)| *member == at && tasks.contains(task);
                            let gone: Vec<u32> = slots.iter().filter(|(_, place)| is_gone(place)).map(|(slot, _)| *slot).collect();
                            member.consumer.remove_inputs(&gone).unwrap();
                            slots.retain(|slot, _| !gone.contains(slot));
                            member.tasks.retain(|task| !tasks.contains(task));
                        }
                        event => panic!("{event:?}"),
                    }
                    member.consumer.acknowledge(&event).unwrap();
                }
                for message in messages {
                    let Some((_, topic, task)) = slots.get(&message.slot()) else { panic!("slot {} was removed", message.slot()) };
                    assert_eq!(message.partition(), *task);
                    let value = String::from_utf8_lossy(message.value().unwrap()).into_owned();
                    seen.entry((*topic, *task)).or_default().push(value);
                    next.insert((*topic, *task), message.offset() + 1);
                }
            }
            shares(&members).iter().all(|share| *share > 0) && seen.len() == 8 && seen.values().all(|values| values.len() == round + 1)
        });
    }
    for ((_, task), values) in seen {
        assert_eq!(values, (0..4).map(|round| format!("{round}-{task}")).collect::<Vec<_>>());
    }
}

fn a_task_moves_only_with_its_owners_consent(world: &World) {
    let data = world.topic("data", 1);
    world.write(&data, 0, &["x", "y"]);
    let mut members = vec![only_member(world)];
    // An input that the owner drops and takes up while it is asked must not be read as consent.
    members[0].add(7, &data, 0, 0);
    members[0].is_agreeing = false;
    members.push(world.member(None));
    all_until(&mut members, "the owner is asked", |members| members[0].events.iter().any(|event| matches!(event, Event::Revoked(_))));
    members[0].consumer.remove_inputs(&[7]).unwrap();
    members[0].add(8, &data, 0, 1);
    for _ in 0..50 {
        members.iter_mut().for_each(|member| drop(member.step()));
    }
    assert_eq!(members[1].tasks, BTreeSet::new(), "nothing moves before the owner agrees");
    let asked = members[0].events.iter().rfind(|event| matches!(event, Event::Revoked(_))).unwrap().clone();
    members[0].is_agreeing = true;
    let Event::Revoked(list) = &asked else { panic!("{asked:?}") };
    members[0].tasks.retain(|task| !list.contains(task));
    members[0].consumer.acknowledge(&asked).unwrap();
    assert_eq!(kind(members[0].consumer.acknowledge(&asked)), LogErrorKind::Config);
    all_until(&mut members, "the task has moved", |members| shares(members) == [1, 1]);
    all_until(&mut members, "the owner reads on", |members| members[0].of_slot(8) == ["y"]);
}

fn a_restarted_instance_takes_its_tasks_up_again(world: &World) {
    world.topic("tasks", 4);
    let mut members = vec![world.member(Some("i1")), world.member(Some("i2"))];
    all_until(&mut members, "the tasks are shared", |members| shares(members) == [2, 2]);
    let before = members[0].tasks.clone();
    members[1].events.clear();
    members[0].consumer.close(CALL).unwrap();
    members[0] = world.member(Some("i1"));
    all_until(&mut members, "it has tasks again", |members| !members[0].tasks.is_empty());
    assert_eq!(members[0].tasks, before);
    assert_eq!(members[1].events, [], "nobody else notices");
}

fn what_a_member_owed_when_it_died_finds_an_owner(world: &World) {
    let app = world.name("group");
    world.topic("group-workers", 1);
    let tasks = world.topic("tasks", 4);
    let unassigned = || world.admin().unassigned(&app, &tasks, 4, CALL).unwrap();
    assert!(unassigned().is_empty(), "there is no group yet");
    let mut members = vec![world.member(Some("i1"))];
    all_until(&mut members, "it has all tasks", |members| shares(members) == [4]);
    assert!(unassigned().is_empty());
    members[0].is_agreeing = false;
    members.push(world.member(Some("i2")));
    all_until(&mut members, "the owner is asked", |members| members[0].events.iter().any(|event| matches!(event, Event::Revoked(_))));
    members.remove(0);
    members.push(world.member(Some("i1")));
    // The newer protocol's broker goes on with the round by itself.
    if world.is_classic {
        all_until(&mut members, "its next life has what was left to it", |members| shares(members) == [0, 2]);
        let forgotten = unassigned();
        assert_eq!(forgotten.len(), 2);
        assert!(members.iter().all(|member| member.tasks.iter().all(|task| !forgotten.contains(task))));
        members.iter_mut().for_each(|member| member.events.clear());
        enforce_rebalance(&*world.log, &app, SESSION, &AtomicBool::new(false)).unwrap();
    }
    all_until(&mut members, "every task has an owner", |members| shares(members) == [2, 2]);
    let is_taken = |event: &Event| matches!(event, Event::Revoked(_) | Event::Lost(_));
    assert!(members.iter().all(|member| !member.events.iter().any(is_taken)), "nobody had to give anything up");
    until("the group is at rest", || unassigned().is_empty());
}

fn a_second_instance_of_one_name_fences_the_first(world: &World) {
    let input = world.topic("in", 1);
    world.topic("tasks", 2);
    let mut first = world.member(Some("i1"));
    first.until("it has all tasks", |member| member.tasks.len() == 2);
    let group = first.consumer.group().unwrap();
    let mut second = world.member(Some("i1"));
    second.until("the second has all tasks", |member| member.tasks.len() == 2);
    let mut producer = world.transaction("t");
    assert_eq!(kind(producer.send_offsets(&[(input.clone(), 0, Offset(1))], &group, CALL)), LogErrorKind::Fenced);
    let mut error = None;
    until("the first learns of it", || {
        error = first.try_step().err();
        error.is_some()
    });
    assert_eq!(error.unwrap().kind, LogErrorKind::Fenced);
}

fn a_silent_member_loses_its_tasks_and_cannot_commit(world: &World) {
    let input = world.topic("in", 1);
    let mut silent = only_member(world);
    let mut other = world.member(None);
    let mut members = [silent, other];
    all_until(&mut members, "the tasks are shared", |members| shares(members) == [1, 1]);
    [silent, other] = members;
    let stale = silent.consumer.group().unwrap();
    if let Some(cluster) = &world.memory {
        assert!(cluster.expire_member(&world.name("group"), "member-1"));
    }
    other.until("the other has all tasks", |member| member.tasks.len() == 2);
    let mut producer = world.transaction("t");
    assert_eq!(kind(producer.send_offsets(&[(input.clone(), 0, Offset(1))], &stale, CALL)), LogErrorKind::Abort);
    producer.abort(CALL).unwrap();
    producer.begin().unwrap();
    if let Some(fresh) = silent.consumer.group() {
        assert_eq!(kind(producer.send_offsets(&[(input.clone(), 0, Offset(1))], &fresh, CALL)), LogErrorKind::Abort);
        producer.abort(CALL).unwrap();
    }
    assert_eq!(other.committed(&input), None);
    let mut members = [silent, other];
    all_until(&mut members, "it comes back", |members| {
        let is_lost = members[0].events.iter().any(|event| matches!(event, Event::Lost(_)));
        is_lost && shares(members) == [1, 1]
    });
}

fn a_seek_goes_back_and_forth(world: &World) {
    let topic = world.topic("a", 1);
    world.write(&topic, 0, &["0", "1", "2", "3"]);
    let mut reader = world.reader();
    reader.add(3, &topic, 0, 1);
    reader.consumer.seek(3, Offset(2)).unwrap();
    reader.until("two are read", |reader| reader.values.len() == 2);
    reader.consumer.seek(3, Offset(0)).unwrap();
    reader.until("all are read", |reader| reader.values.len() == 6);
    reader.consumer.seek(3, Offset(3)).unwrap();
    reader.until("the last is read again", |reader| reader.values.len() == 7);
    assert_eq!(reader.of_slot(3), ["2", "3", "0", "1", "2", "3", "3"]);
    assert_eq!(kind(reader.consumer.seek(4, Offset(0))), LogErrorKind::Config);
}

fn a_paused_input_keeps_its_records(world: &World) {
    let topic = world.topic("a", 2);
    world.write(&topic, 0, &["0", "1"]);
    world.write(&topic, 1, &["0"]);
    let mut reader = world.reader();
    reader.add(1, &topic, 0, 0);
    reader.add(2, &topic, 1, 0);
    reader.consumer.pause(&[1]).unwrap();
    reader.until("the other is read", |reader| reader.of_slot(2).len() == 1);
    for _ in 0..10 {
        reader.step();
    }
    assert_eq!(reader.of_slot(1), [""; 0]);
    reader.consumer.resume(&[1]).unwrap();
    reader.until("all are read", |reader| reader.of_slot(1).len() == 2);
    reader.consumer.pause(&[1, 2]).unwrap();
    world.write(&topic, 0, &["2"]);
    world.write(&topic, 1, &["1"]);
    for _ in 0..10 {
        reader.step();
    }
    reader.consumer.resume(&[1, 2]).unwrap();
    reader.until("the new ones are read", |reader| reader.values.len() == 5);
    assert_eq!((reader.of_slot(1), reader.of_slot(2)), (vec!["0", "1", "2"], vec!["0", "1"]));
}

fn a_removed_input_is_silent_and_can_come_again(world: &World) {
    let topics = [world.topic("a", 1), world.topic("b", 1)];
    world.write(&topics[0], 0, &["0", "1", "2", "3"]);
    world.write(&topics[1], 0, &["0"]);
    for mut consumer in [world.reader(), only_member(world)] {
        consumer.add(1000, &topics[1], 0, 0);
        for slot in 0..20 {
            consumer.add(slot, &topics[0], 0, i64::from(slot % 4));
            assert_eq!(
                kind(consumer.consumer.add_inputs(&[(Input { slot: 500, topic: topics[0].clone(), partition: 0 }, Offset(0))])),
                LogErrorKind::Config
            );
            if slot % 3 > 0 {
                consumer.until("it is read", |consumer| consumer.of_slot(slot).last() == Some(&"3"));
            }
            consumer.consumer.remove_inputs(&[slot]).unwrap();
            let before = consumer.of_slot(slot).len();
            consumer.step();
            assert_eq!(consumer.of_slot(slot).len(), before, "removed inputs are silent");
        }
        for slot in (0..20).filter(|slot| slot % 3 > 0) {
            let expected: Vec<String> = (i64::from(slot % 4)..4).map(|value| value.to_string()).collect();
            assert_eq!(consumer.of_slot(slot), expected);
        }
        world.write(&topics[1], 0, &["more"]);
        let all = consumer.bounds(&topics[1], 0).1.0 as usize;
        consumer.until("the one that stayed goes on", |consumer| consumer.of_slot(1000).len() == all);
    }
}

fn positions_move_over_markers_to_the_end(world: &World) {
    let topic = world.topic("a", 1);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&topic).unwrap();
    send(&mut *producer, handle, 0, "committed");
    producer.commit(CALL).unwrap();
    producer.begin().unwrap();
    send(&mut *producer, handle, 0, "aborted");
    producer.flush(CALL).unwrap();
    producer.abort(CALL).unwrap();
    let mut reader = world.reader();
    until("the last marker is written", || reader.bounds(&topic, 0) == (Offset(0), Offset(4)));
    let end = Offset(4);
    reader.add(0, &topic, 0, 0);
    reader.until("it is at the end", |reader| reader.position(0) == end);
    assert_eq!(reader.of_slot(0), ["committed"]);
    // From a marker on there is no record at all.
    reader.add(1, &world.topic("empty", 1), 0, 0);
    assert_eq!(reader.position(1), Offset(0));
    let mut late = world.reader();
    late.add(0, &topic, 0, 1);
    late.until("it is at the end", |late| late.position(0) == end);
    assert_eq!(late.of_slot(0), [""; 0]);
}

fn an_offset_that_is_gone_is_an_event(world: &World) {
    let topic = world.topic("a", 1);
    world.write(&topic, 0, &["0", "1", "2"]);
    world.admin().delete_records(&topic, 0, Offset(2), CALL).unwrap();
    let mut reader = world.reader();
    reader.add(5, &topic, 0, 1);
    let gone = Event::OutOfRange { slot: 5, partition: 0, offset: Offset(1) };
    reader.until("it is told", |reader| reader.events.contains(&gone));
    assert_eq!(reader.of_slot(5), [""; 0]);
    reader.consumer.seek(5, Offset(2)).unwrap();
    reader.until("it goes on", |reader| reader.of_slot(5) == ["2"]);
    reader.consumer.seek(5, Offset(99)).unwrap();
    let beyond = Event::OutOfRange { slot: 5, partition: 0, offset: Offset(99) };
    reader.until("it is told again", |reader| reader.events.contains(&beyond));
    assert_eq!(reader.events, [gone, beyond]);
}

fn records_come_back_as_they_were_sent(world: &World) {
    let topic = world.topic("a", 1);
    let mut producer = world.producer(None);
    let (handle, _) = producer.topic(&topic).unwrap();
    let headers =
        Headers::new(vec![("a".into(), Some(Bytes::from_static(b"1"))), ("a".into(), None), (SmolStr::new("b"), Some(Bytes::new()))]);
    let none = Headers::default();
    let empty: Option<&[u8]> = Some(b"");
    let sent: [(Option<&[u8]>, Option<&[u8]>, i64, &Headers); 5] = [
        (Some(b"k"), Some(b"v"), 1_700_000_000_123, &headers),
        (Some(b"k"), None, 5, &none),
        (None, Some(b"v"), 6, &none),
        (empty, empty, 7, &none),
        (None, None, 8, &headers),
    ];
    for (key, value, time, headers) in &sent {
        producer
            .send(Outgoing { topic: handle, partition: 0, key: *key, value: *value, time: Time(*time), keep_time: true, headers })
            .unwrap();
    }
    // The same without times and headers goes another way.
    for (key, value, ..) in &sent {
        producer
            .send(Outgoing { topic: handle, partition: 0, key: *key, value: *value, time: Time(0), keep_time: false, headers: &none })
            .unwrap();
    }
    producer.flush(CALL).unwrap();
    let mut reader = world.reader();
    reader.add(0, &topic, 0, 0);
    let mut messages = Vec::new();
    until("all are read", || {
        messages.extend(reader.step());
        messages.len() == 10
    });
    drop(reader);
    for (message, (key, value, time, headers)) in messages.iter().zip(&sent) {
        assert_eq!((message.key(), message.value(), message.time(), &message.headers()), (*key, *value, Time(*time), *headers));
    }
    for (message, (key, value, ..)) in messages[5..].iter().zip(&sent) {
        assert_eq!((message.key(), message.value(), &message.headers()), (*key, *value, &none));
    }
}

fn records_of_a_topic_keep_their_order(world: &World) {
    let topic = world.topic("a", 1);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&topic).unwrap();
    let values: Vec<String> = (0..5000).map(|value| value.to_string()).collect();
    for (at, value) in values.iter().enumerate() {
        let keep_time = at % 7 == 0;
        producer
            .send(Outgoing {
                topic: handle,
                partition: 0,
                key: None,
                value: Some(value.as_bytes()),
                time: Time(1),
                keep_time,
                headers: &Headers::default(),
            })
            .unwrap();
    }
    producer.commit(CALL).unwrap();
    let read: Vec<String> = world.read(&topic, 0).into_iter().map(|(_, value)| value).collect();
    let first = read.iter().zip(&values).position(|(read, sent)| read != sent);
    assert!(read == values, "{} of {} came, the first that is wrong at {first:?}", read.len(), values.len());
}

fn offsets_are_committed_without_a_transaction(world: &World) {
    let input = world.topic("in", 1);
    let mut member = only_member(world);
    member.consumer.commit(&[(input.clone(), 0, Offset(4))]).unwrap();
    assert_eq!(member.committed(&input), Some(Offset(4)));
    member.consumer.commit(&[(input.clone(), 0, Offset(2))]).unwrap();
    assert_eq!(member.committed(&input), Some(Offset(2)));
    assert!(world.reader().consumer.commit(&[(input, 0, Offset(1))]).is_err());
}

fn a_record_that_is_too_large_is_refused_when_sent(world: &World) {
    let topic = world.topic_with("a", 1, &[("max.message.bytes", "1100000")]);
    let mut producer = world.transaction("t");
    let (handle, _) = producer.topic(&topic).unwrap();
    let large = vec![b'x'; 1_200_000];
    let record = Outgoing {
        topic: handle,
        partition: 0,
        key: None,
        value: Some(&large),
        time: Time(1),
        keep_time: false,
        headers: &Headers::default(),
    };
    assert_eq!(kind(producer.send(record)), LogErrorKind::TooLarge);
    assert_eq!(kind(producer.send(Outgoing { keep_time: true, ..record })), LogErrorKind::TooLarge);
    // The transaction is none the worse.
    send(&mut *producer, handle, 0, "small");
    producer.commit(CALL).unwrap();
    assert_eq!(world.read(&topic, 0).len(), 1);
}

fn what_does_not_exist_is_named(world: &World) {
    let missing = world.name("missing");
    let error = world.producer(None).topic(&missing).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::MissingTopic);
    assert!(error.to_string().contains(&*missing), "{error}");
    let error = world.reader().consumer.bounds(&missing, 0, CALL).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::MissingTopic, "{error}");
    assert_eq!(kind(world.admin().config(&missing, &["cleanup.policy"], CALL)), LogErrorKind::MissingTopic);
    assert_eq!(kind(world.admin().add_partitions(&missing, 2, CALL)), LogErrorKind::MissingTopic);
    let topic = world.topic("a", 2);
    let described = world.admin().describe(&[missing.clone(), topic.clone(), missing], CALL).unwrap();
    assert_eq!(described.iter().map(|topic| topic.as_ref().map(|topic| topic.partitions)).collect::<Vec<_>>(), [None, Some(2), None]);
    let mut producer = world.producer(None);
    let (handle, _) = producer.topic(&topic).unwrap();
    let record =
        Outgoing { topic: handle, partition: 2, key: None, value: None, time: Time(1), keep_time: false, headers: &Headers::default() };
    assert_eq!(kind(producer.send(record)), LogErrorKind::MissingTopic);
    // The task topic of a group: a trouble that can heal, not an end.
    let mut member = world.member(None);
    until("it is told", || {
        member.step();
        member.events.iter().any(|event| matches!(event, Event::Problem(error) if error.kind == LogErrorKind::MissingTopic))
    });
}

fn topics_are_made_once_and_grow(world: &World) {
    let topic = world.topic_with("a", 2, &[("cleanup.policy", "compact")]);
    let admin = world.admin();
    let describe = || admin.describe(std::slice::from_ref(&topic), CALL).unwrap()[0].clone().unwrap();
    let first = describe();
    assert_eq!((&first.name, first.partitions, first.id.len()), (&topic, 2, 22));
    let again = NewTopic { name: topic.clone(), partitions: 7, replication: -1, config: vec![("cleanup.policy", "delete".into())] };
    admin.create(&[again], CALL).unwrap();
    assert_eq!(describe(), first);
    admin.add_partitions(&topic, 3, CALL).unwrap();
    until("it has grown", || describe().partitions == 3);
    assert_eq!(describe().id, first.id);
    assert_eq!(kind(admin.add_partitions(&topic, 2, CALL)), LogErrorKind::Config);
    let many = NewTopic { name: world.name("many"), partitions: 1, replication: 9, config: Vec::new() };
    assert_eq!(kind(admin.create(&[many], CALL)), LogErrorKind::Config);
    assert!(admin.brokers(CALL).unwrap() >= 1);
}

fn settings_of_topics_can_be_read(world: &World) {
    let topic = world.topic_with("a", 1, &[("cleanup.policy", "compact,delete"), ("retention.ms", "1234")]);
    let keys = ["retention.ms", "cleanup.policy", "max.message.bytes", "no.such.setting"];
    let values = world.admin().config(&topic, &keys, CALL).unwrap();
    assert_eq!(values, [Some("1234".into()), Some("compact,delete".into()), Some("1048588".into()), None]);
}

fn deleted_records_move_the_start(world: &World) {
    let topic = world.topic("a", 1);
    world.write(&topic, 0, &["0", "1", "2"]);
    let admin = world.admin();
    admin.delete_records(&topic, 0, Offset(1), CALL).unwrap();
    until("the start has moved", || world.reader().bounds(&topic, 0) == (Offset(1), Offset(3)));
    assert_eq!(world.read(&topic, 0), [(1, "1".to_owned()), (2, "2".to_owned())]);
    admin.delete_records(&topic, 0, Offset(0), CALL).unwrap();
    assert_eq!(kind(admin.delete_records(&topic, 0, Offset(4), CALL)), LogErrorKind::Config);
}

/// A client that is not connected yet finds no leader, and looks for it again after 3 s: a restart waited for that, now and then.
/// Many at once, because it takes an unlucky moment.
#[test]
fn new_readers_know_the_bounds_before_their_client_looks_again() {
    const READERS: usize = 32;
    let Some(world) = World::kafka("new_readers", GroupProtocol::Classic) else { return };
    let topic = world.topic("a", 1);
    world.write(&topic, 0, &["0"]);
    let bounds = || world.log.reader().unwrap().bounds(&topic, 0, Duration::from_millis(2500));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| (0..8).for_each(|_| assert_eq!(bounds().map_err(|error| error.to_string()), Ok((Offset(0), Offset(1))))));
        }
    });
}
