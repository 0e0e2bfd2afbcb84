//! What only this log has: faults, crashed clients on a clock that stands still, cleaning. The rest is in `tests/contracts.rs`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::log::memory::{Call, Fault, MemberView, MemoryCluster, Tombstones};
use crate::log::{
    Consumer, Event, GroupSettings, Input, LogError, LogErrorKind, Message, NewTopic, Outgoing, Producer, ProducerSettings, TopicHandle,
};
use crate::model::{Headers, ManualClock, Name, Offset, Time};

const CALL: Duration = Duration::from_secs(1);

struct World {
    cluster: MemoryCluster,
    clock: ManualClock,
    topic: Name,
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

impl World {
    fn new() -> World {
        let clock = ManualClock::at(Time(0));
        let cluster = MemoryCluster::new(Arc::new(clock.clone()));
        cluster.never_wait();
        cluster.create_topic(&name("topic"), 1).unwrap();
        cluster.create_topic(&name("tasks"), 2).unwrap();
        World { cluster, clock, topic: name("topic") }
    }

    /// A producer with a transaction open.
    fn transaction(&self) -> (Box<dyn Producer>, TopicHandle) {
        let settings =
            ProducerSettings { transactional_id: Some(name("t")), transaction_timeout: Duration::from_secs(10), linger: Duration::ZERO };
        let mut producer = self.cluster.log().producer(&settings).unwrap();
        producer.init_transactions(CALL).unwrap();
        producer.begin().unwrap();
        let (handle, _) = producer.topic(&self.topic).unwrap();
        (producer, handle)
    }

    fn member(&self, instance: Option<&str>) -> Box<dyn Consumer> {
        let settings = GroupSettings {
            group: name("group"),
            task_topic: name("tasks"),
            instance_id: instance.map(name),
            session_timeout: Duration::from_secs(6),
        };
        self.cluster.log().group_consumer(&settings).unwrap()
    }

    fn values(&self) -> Vec<String> {
        let records = self.cluster.committed_records(&self.topic, 0).unwrap();
        records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or(b"-")).into_owned()).collect()
    }

    /// The next call of a kind meets a fault; all others are well.
    fn fault(&self, at: Call, fault: Fault) {
        let mut armed = Some(fault);
        self.cluster.set_faults(Some(Box::new(move |call, _| if call == at { armed.take() } else { None })));
    }

    fn append(&self, key: &'static str, value: Option<&'static str>, time: i64) {
        let value = value.map(|text| Bytes::from_static(text.as_bytes()));
        self.cluster.append(&self.topic, 0, Some(Bytes::from_static(key.as_bytes())), value, Time(time), Headers::default()).unwrap();
    }
}

fn send(producer: &mut dyn Producer, topic: TopicHandle, value: &str) -> Result<(), LogError> {
    producer.send(Outgoing {
        topic,
        partition: 0,
        key: Some(b"k"),
        value: Some(value.as_bytes()),
        time: Time(1),
        keep_time: true,
        headers: &Headers::default(),
    })
}

fn poll(consumer: &mut dyn Consumer) -> (Vec<Event>, Vec<Message>) {
    let mut messages = Vec::new();
    // A wait that would fail the test by its length, were it waited.
    let events = consumer.poll(100, Duration::from_secs(3600), &mut messages).unwrap();
    for event in events.iter().filter(|event| matches!(event, Event::Assigned(_) | Event::Revoked(_) | Event::Lost(_))) {
        consumer.acknowledge(event).unwrap();
    }
    (events, messages)
}

#[test]
fn a_fault_before_a_commit_leaves_it_undone_and_one_after_it_done() {
    for (fault, expected) in [(Fault::Before(LogErrorKind::Unknown), vec![]), (Fault::After(LogErrorKind::Unknown), vec!["a"])] {
        let world = World::new();
        let (mut producer, handle) = world.transaction();
        send(&mut *producer, handle, "a").unwrap();
        world.fault(Call::Commit, fault);
        assert_eq!(producer.commit(CALL).unwrap_err().kind, LogErrorKind::Unknown);
        assert_eq!(producer.commit(CALL).unwrap_err().kind, LogErrorKind::Fatal, "the same producer is of no use any more");
        world.transaction();
        assert_eq!(world.values(), expected, "{fault:?}");
    }
}

#[test]
fn a_delayed_commit_of_a_fenced_producer_does_nothing() {
    for is_fenced in [true, false] {
        let world = World::new();
        let (mut producer, handle) = world.transaction();
        send(&mut *producer, handle, "a").unwrap();
        world.fault(Call::Commit, Fault::Delayed);
        assert_eq!(producer.commit(CALL).unwrap_err().kind, LogErrorKind::Unknown);
        let next = is_fenced.then(|| world.transaction());
        world.cluster.deliver_delayed();
        if let Some((mut producer, handle)) = next {
            send(&mut *producer, handle, "b").unwrap();
            world.cluster.deliver_delayed();
            producer.abort(CALL).unwrap();
        }
        assert_eq!(world.values(), if is_fenced { vec![] } else { vec!["a"] });
    }
}

#[test]
fn markers_may_come_after_the_answer_and_come_before_the_next_transaction() {
    let world = World::new();
    let mut member = world.member(None);
    poll(&mut *member);
    for (fault, visible, committed) in [(Fault::LateMarkers, 0, Some(Offset(1))), (Fault::LateOffsets, 1, None)] {
        let topic = name(if committed.is_some() { "in-1" } else { "in-2" });
        let before = world.values().len();
        let (mut producer, handle) = world.transaction();
        send(&mut *producer, handle, "a").unwrap();
        producer.send_offsets(&[(topic.clone(), 0, Offset(1))], &member.group().unwrap(), CALL).unwrap();
        world.fault(Call::Commit, fault);
        producer.commit(CALL).unwrap();
        assert_eq!(world.values().len() - before, visible);
        assert_eq!(member.committed(&[(topic.clone(), 0)], CALL).ok().and_then(|list| list[0]), committed);
        let (_, end) = member.bounds(&world.topic, 0, CALL).unwrap();
        assert!(end.0 > 0, "the end counts what is not visible yet");
        if visible == 0 {
            world.cluster.deliver_delayed();
        } else {
            producer.begin().unwrap();
            send(&mut *producer, handle, "open").unwrap();
            producer.flush(CALL).unwrap();
        }
        assert_eq!(world.values().len() - before, 1);
        assert_eq!(member.committed(&[(topic, 0)], CALL).unwrap(), [Some(Offset(1))]);
    }
}

#[test]
fn faults_reach_every_kind_of_call() {
    let world = World::new();
    let mut member = world.member(None);
    poll(&mut *member);
    let kind = |result: Result<(), LogError>| result.unwrap_err().kind;
    let (mut producer, handle) = world.transaction();
    send(&mut *producer, handle, "a").unwrap();
    world.fault(Call::Flush, Fault::Before(LogErrorKind::Retry));
    assert_eq!(kind(producer.flush(CALL).map(drop)), LogErrorKind::Retry);
    assert_eq!(producer.flush(CALL).unwrap(), [(handle, 0, 0)], "nothing was lost by the fault");
    let group = member.group().unwrap();
    world.fault(Call::SendOffsets, Fault::After(LogErrorKind::Abort));
    assert_eq!(kind(producer.send_offsets(&[], &group, CALL)), LogErrorKind::Abort);
    assert_eq!(kind(producer.commit(CALL)), LogErrorKind::Abort, "it must be aborted now");
    world.fault(Call::Abort, Fault::Before(LogErrorKind::Retry));
    assert_eq!(kind(producer.abort(CALL)), LogErrorKind::Retry);
    producer.abort(CALL).unwrap();
    world.fault(Call::Committed, Fault::Before(LogErrorKind::Unreachable));
    assert_eq!(kind(member.committed(&[], CALL).map(drop)), LogErrorKind::Unreachable);
    world.fault(Call::Bounds, Fault::Before(LogErrorKind::Unreachable));
    assert_eq!(kind(member.bounds(&world.topic, 0, CALL).map(drop)), LogErrorKind::Unreachable);
    world.fault(Call::CommitOffsets, Fault::After(LogErrorKind::Retry));
    assert_eq!(kind(member.commit(&[(name("in"), 0, Offset(3))])), LogErrorKind::Retry);
    assert_eq!(world.cluster.committed_offset(&name("group"), &name("in"), 0), Some(Offset(3)));
    world.fault(Call::Poll, Fault::Before(LogErrorKind::Unreachable));
    let (events, _) = poll(&mut *member);
    assert!(matches!(&events[..], [Event::Problem(error)] if error.kind == LogErrorKind::Unreachable), "{events:?}");
    world.fault(Call::Poll, Fault::Before(LogErrorKind::Fatal));
    assert_eq!(member.poll(1, Duration::ZERO, &mut Vec::new()).unwrap_err().kind, LogErrorKind::Fatal);
}

#[test]
fn tasks_of_a_crashed_member_move_when_its_session_is_over() {
    let world = World::new();
    let mut crashed = world.member(None);
    poll(&mut *crashed);
    let mut other = world.member(None);
    poll(&mut *other);
    drop(crashed);
    world.clock.advance_ms(5999);
    assert_eq!(poll(&mut *other).0, []);
    world.clock.advance_ms(1);
    assert_eq!(poll(&mut *other).0, [Event::Assigned(vec![0, 1])]);
    world.clock.advance_ms(1_000_000);
    assert_eq!(poll(&mut *other).0, [], "who lives never times out by itself");
}

#[test]
fn a_static_member_that_closes_keeps_its_tasks_until_its_session_is_over() {
    let world = World::new();
    let (mut first, mut second) = (world.member(Some("i1")), world.member(Some("i2")));
    poll(&mut *first);
    poll(&mut *second);
    poll(&mut *first);
    poll(&mut *second);
    let view = |client: &str, partitions: &[i32]| MemberView { client: client.into(), partitions: partitions.to_vec() };
    assert_eq!(world.cluster.members(&name("group")), [view("i1", &[0]), view("i2", &[1])]);
    first.close(CALL).unwrap();
    assert_eq!(poll(&mut *second).0, []);
    world.clock.advance_ms(6000);
    assert_eq!(poll(&mut *second).0, [Event::Assigned(vec![0])]);
}

#[test]
fn the_transaction_of_a_crashed_producer_ends_with_its_time_out() {
    let world = World::new();
    let (mut producer, handle) = world.transaction();
    send(&mut *producer, handle, "a").unwrap();
    producer.flush(CALL).unwrap();
    world.append("k", Some("b"), 1);
    let mut reader = world.cluster.log().reader().unwrap();
    reader.add_inputs(&[(Input { slot: 0, topic: world.topic.clone(), partition: 0 }, Offset(0))]).unwrap();
    world.clock.advance_ms(20_000);
    assert_eq!(poll(&mut *reader).1.len(), 0, "its process lives");
    drop(producer);
    world.clock.advance_ms(10_000);
    assert_eq!(poll(&mut *reader).1.len(), 1);
    assert_eq!(world.values(), ["b"]);
}

#[test]
fn an_expired_transaction_fences_its_producer() {
    let world = World::new();
    let (mut producer, handle) = world.transaction();
    send(&mut *producer, handle, "a").unwrap();
    world.cluster.expire_transaction(&name("t"));
    assert_eq!(producer.commit(CALL).unwrap_err().kind, LogErrorKind::Fenced);
    assert_eq!(send(&mut *producer, handle, "b").unwrap_err().kind, LogErrorKind::Fenced);
    assert_eq!(world.values(), [""; 0]);
}

#[test]
fn a_task_topic_that_grows_brings_new_tasks() {
    let world = World::new();
    let mut member = world.member(None);
    assert_eq!(poll(&mut *member).0, [Event::Assigned(vec![0, 1])]);
    world.cluster.log().admin().unwrap().add_partitions(&name("tasks"), 3, CALL).unwrap();
    assert_eq!(poll(&mut *member).0, [Event::Assigned(vec![2])]);
}

#[test]
fn cleaning_compacts_and_expires_as_the_topic_is_set() {
    let mut world = World::new();
    for (topic, config) in [
        ("compacted", vec![("cleanup.policy", "compact".to_owned())]),
        ("kept", vec![("retention.ms", "100".to_owned())]),
        ("bounded", vec![("retention.bytes", "60".to_owned())]),
    ] {
        world.cluster.create_topics(&[NewTopic { name: name(topic), partitions: 1, replication: -1, config }]).unwrap();
        world.topic = name(topic);
        for (key, value, time) in [("a", Some("1"), 10), ("b", Some("2"), 20), ("a", Some("3"), 950), ("b", None, 960)] {
            world.append(key, value, time);
        }
        world.clock.advance_ms(1000 - crate::model::Clock::now(&world.clock).0);
        world.cluster.clean(Tombstones::Keep);
        match topic {
            "compacted" => {
                assert_eq!(world.values(), ["3", "-"]);
                world.cluster.clean(Tombstones::Remove);
                assert_eq!(world.values(), ["3"]);
            }
            "kept" => assert_eq!(world.values(), ["3", "-"]),
            _ => assert_eq!(world.values(), ["2", "3", "-"]),
        }
    }
}

#[test]
fn a_topic_that_is_made_anew_has_another_id_and_starts_at_zero() {
    let world = World::new();
    let admin = world.cluster.log().admin().unwrap();
    let id = || admin.describe(std::slice::from_ref(&world.topic), CALL).unwrap()[0].clone().map(|topic| topic.id);
    world.append("a", Some("1"), 1);
    let mut reader = world.cluster.log().reader().unwrap();
    reader.add_inputs(&[(Input { slot: 0, topic: world.topic.clone(), partition: 0 }, Offset(1))]).unwrap();
    let first = id();
    world.cluster.delete_topic(&world.topic);
    assert_eq!(id(), None);
    let (events, _) = poll(&mut *reader);
    assert!(matches!(&events[..], [Event::Problem(error)] if error.kind == LogErrorKind::MissingTopic), "{events:?}");
    world.cluster.create_topic(&world.topic, 1).unwrap();
    assert_ne!(id(), first);
    world.append("a", Some("2"), 1);
    assert_eq!(world.values(), ["2"]);
    assert_eq!(reader.bounds(&world.topic, 0, CALL).unwrap(), (Offset(0), Offset(1)));
}
