//! A consumer of the in-process log: member of a group, or reader without one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::log::memory::cluster::{Shared, client_name};
use crate::log::memory::coordinator::{Coordinator, missing_topic, refused};
use crate::log::memory::faults::{Call, Fault};
use crate::log::memory::group::Change;
use crate::log::{Consumer, Event, GroupMetadata as AnyGroupMetadata, GroupSettings, Input, LogError, LogErrorKind, Message};
use crate::model::{Name, Offset};

/// Membership as it was when it was taken; a later generation makes it worthless.
#[derive(Clone, Debug)]
pub struct GroupMetadata {
    pub(super) group: Name,
    pub(super) number: u64,
    pub(super) instance: Option<Name>,
    pub(super) generation: i32,
}

struct ReadState {
    slot: u32,
    topic: usize,
    name: Name,
    partition: i32,
    position: i64,
    is_paused: bool,
    /// An `OutOfRange` or missing topic has been told; it waits for a seek.
    is_stuck: bool,
}

struct Membership {
    settings: GroupSettings,
    number: Option<u64>,
    generation: i32,
    /// What the caller has been given and not given back.
    owned: BTreeSet<i32>,
    /// Told and not acknowledged: there are no further group events before it is.
    pending: Option<Event>,
    has_told_missing_topic: bool,
}

pub(super) struct MemoryConsumer {
    shared: Arc<Shared>,
    group: Option<Membership>,
    inputs: Vec<ReadState>,
    /// Which input is served first in the next poll, so that none starves.
    turn: usize,
    is_closed: bool,
}

impl MemoryConsumer {
    pub(super) fn new(shared: Arc<Shared>, group: Option<GroupSettings>) -> MemoryConsumer {
        let membership = |settings| Membership {
            settings,
            number: None,
            generation: -1,
            owned: BTreeSet::new(),
            pending: None,
            has_told_missing_topic: false,
        };
        MemoryConsumer { shared, group: group.map(membership), inputs: Vec::new(), turn: 0, is_closed: false }
    }

    fn client(&self) -> String {
        match &self.group {
            Some(group) => client_name(group.settings.instance_id.as_ref(), group.number.unwrap_or(0)),
            None => "reader".into(),
        }
    }

    fn fault(&self, call: Call, what: &str) -> (Result<(), LogError>, Result<(), LogError>) {
        answers(self.shared.lock().fault(call, &self.client()), what)
    }

    /// Whether a poll would bring something.
    fn has_news(&self, state: &Coordinator) -> bool {
        let readable = |input: &ReadState| {
            let log = &state.topics[input.topic].partitions[input.partition as usize];
            !input.is_paused && !input.is_stuck && (input.position < log.stable() || is_out_of_range(input.position, log))
        };
        let changes = |group: &Membership| {
            let found = state.groups.get(&group.settings.group);
            group.pending.is_none() && group.number.is_none_or(|number| found.is_none_or(|found| found.has_change(number)))
        };
        self.inputs.iter().any(readable) || self.group.as_ref().is_some_and(changes)
    }

    fn take(&mut self, state: &mut Coordinator, limit: usize, into: &mut Vec<Message>, events: &mut Vec<Event>) -> Result<(), LogError> {
        if let Some(group) = &mut self.group {
            events.extend(next_group_event(group, state)?);
        }
        let count = self.inputs.len();
        let mut left = limit;
        for step in 0..count {
            let input = &mut self.inputs[(self.turn + step) % count];
            if input.is_paused || input.is_stuck {
                continue;
            }
            if state.topic_of.get(&input.name) != Some(&input.topic) {
                input.is_stuck = true;
                events.push(Event::Problem(missing_topic(&input.name, "fetch records")));
                continue;
            }
            let log = &state.topics[input.topic].partitions[input.partition as usize];
            if is_out_of_range(input.position, log) {
                input.is_stuck = true;
                events.push(Event::OutOfRange { slot: input.slot, partition: input.partition, offset: Offset(input.position) });
                continue;
            }
            // Each gets an even part of what is left, so that one with a backlog does not keep the others waiting.
            let part = left.div_ceil(count - step);
            let (slot, partition, before) = (input.slot, input.partition, into.len());
            input.position =
                log.read(input.position, part, |record| into.push(Message::Memory { slot, partition, record: record.clone() }));
            left -= into.len() - before;
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(())
    }

    fn input(&mut self, slot: u32, what: &str) -> Result<&mut ReadState, LogError> {
        let found = self.inputs.iter_mut().find(|input| input.slot == slot);
        found.ok_or_else(|| LogError::new(LogErrorKind::Config, format!("{what} input {slot}"), "it is not being read"))
    }

    fn leave(&mut self) {
        let Some(group) = &mut self.group else { return };
        let Some(number) = group.number.take() else { return };
        let mut state = self.shared.lock();
        // A static member says nothing when it goes, so that a restart moves no task: its session runs out.
        if group.settings.instance_id.is_some() {
            let now = self.shared.clock.now();
            state.with_group(&group.settings.group, |group, _| group.crashed(number, now));
        } else {
            state.with_group(&group.settings.group, |group, partitions| group.remove(number, partitions));
        }
        self.shared.notify(&state);
    }
}

fn is_out_of_range(position: i64, log: &super::partition::Partition) -> bool {
    position < log.start() || position > log.next()
}

/// Joins if need be, and says what the group wants of this member.
fn next_group_event(member: &mut Membership, state: &mut Coordinator) -> Result<Option<Event>, LogError> {
    if member.pending.is_some() {
        return Ok(None);
    }
    let settings = &member.settings;
    let group = state.groups.entry(settings.group.clone()).or_default();
    if let Some(number) = member.number
        && !group.members.contains_key(&number)
    {
        if settings.instance_id.as_ref().is_some_and(|instance| group.member_of_instance(instance).is_some()) {
            return Err(LogError::new(
                LogErrorKind::Fenced,
                format!("poll in group `{}`", settings.group),
                "another member has taken over this instance id",
            ));
        }
        member.number = None;
        if !member.owned.is_empty() {
            member.pending = Some(Event::Lost(std::mem::take(&mut member.owned).into_iter().collect()));
            return Ok(member.pending.clone());
        }
    }
    let number = match member.number {
        Some(number) => number,
        None => {
            if group.members.is_empty() {
                group.task_topic = Some(settings.task_topic.clone());
            }
            if !state.topic_of.contains_key(&settings.task_topic) {
                let is_first = !std::mem::replace(&mut member.has_told_missing_topic, true);
                return Ok(is_first.then(|| Event::Problem(missing_topic(&settings.task_topic, "subscribe to the tasks"))));
            }
            let tasks = group.task_topic.as_ref().and_then(|name| state.topic_of.get(name));
            let partitions = tasks.map_or(0, |topic| state.topics[*topic].partitions.len() as i32);
            let number = if group.task_topic.as_ref() == Some(&settings.task_topic) {
                group.join(settings.instance_id.clone(), settings.session_timeout, partitions)
            } else {
                group.join_as_guest(settings.session_timeout, partitions)
            };
            member.number = Some(number);
            number
        }
    };
    member.generation = group.generation;
    let event = match group.next_change(number) {
        None => return Ok(None),
        Some(Change::Revoked(list)) => Event::Revoked(list),
        Some(Change::Assigned(list)) => {
            member.owned.extend(&list);
            Event::Assigned(list)
        }
    };
    member.pending = Some(event.clone());
    Ok(Some(event))
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, limit: usize, wait: Duration, into: &mut Vec<Message>) -> Result<Vec<Event>, LogError> {
        if self.is_closed {
            return Err(LogError::new(LogErrorKind::Fatal, "poll", "the consumer is closed"));
        }
        let (before, after) = self.fault(Call::Poll, "poll");
        let mut events = Vec::new();
        if let Err(error) = before {
            return problem(error, events);
        }
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if state.expire_crashed(shared.clock.now()) {
            shared.notify(&state);
        }
        let (received, generation) = (into.len(), self.group.as_ref().map(|group| group.generation));
        self.take(&mut state, limit, into, &mut events)?;
        if into.len() == received && events.is_empty() && !wait.is_zero() && state.may_wait {
            state.waiting += 1;
            let (guard, _) = shared
                .changed
                .wait_timeout_while(state, wait, |state| !self.has_news(state))
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            state = guard;
            state.waiting -= 1;
            self.take(&mut state, limit, into, &mut events)?;
        }
        if generation != self.group.as_ref().map(|group| group.generation) {
            shared.notify(&state);
        }
        match after {
            Ok(()) => Ok(events),
            Err(error) => problem(error, events),
        }
    }

    fn acknowledge(&mut self, event: &Event) -> Result<(), LogError> {
        let refuse = |cause: &str| LogError::new(LogErrorKind::Config, "acknowledge an event", cause);
        let Some(member) = &mut self.group else { return Err(refuse("the consumer is in no group")) };
        if member.pending.as_ref() != Some(event) {
            return Err(refuse("it is not the one that waits to be acknowledged"));
        }
        member.pending = None;
        if let Event::Revoked(list) = event {
            member.owned.retain(|partition| !list.contains(partition));
            if let Some(number) = member.number {
                let mut state = self.shared.lock();
                state.with_group(&member.settings.group, |group, partitions| group.give_back(number, list, partitions));
                self.shared.notify(&state);
            }
        }
        Ok(())
    }

    fn add_inputs(&mut self, inputs: &[(Input, Offset)]) -> Result<(), LogError> {
        let mut state = self.shared.lock();
        let mut added = Vec::with_capacity(inputs.len());
        for (input, offset) in inputs {
            state.partition(&input.topic, input.partition, "read")?;
            let topic = state.topic(&input.topic, "read")?;
            let is_taken = |other: &ReadState| other.slot == input.slot || (other.topic == topic && other.partition == input.partition);
            if self.inputs.iter().chain(&added).any(is_taken) {
                let what = format!("read `{}` partition {} as input {}", input.topic, input.partition, input.slot);
                return Err(LogError::new(LogErrorKind::Config, what, "the partition or the slot is being read already"));
            }
            added.push(ReadState {
                slot: input.slot,
                topic,
                name: input.topic.clone(),
                partition: input.partition,
                position: offset.0,
                is_paused: false,
                is_stuck: false,
            });
        }
        self.inputs.extend(added);
        Ok(())
    }

    fn remove_inputs(&mut self, slots: &[u32]) -> Result<(), LogError> {
        self.inputs.retain(|input| !slots.contains(&input.slot));
        Ok(())
    }

    fn pause(&mut self, slots: &[u32]) -> Result<(), LogError> {
        slots.iter().try_for_each(|slot| self.input(*slot, "pause").map(|input| input.is_paused = true))
    }

    fn resume(&mut self, slots: &[u32]) -> Result<(), LogError> {
        slots.iter().try_for_each(|slot| self.input(*slot, "resume").map(|input| input.is_paused = false))
    }

    fn seek(&mut self, slot: u32, offset: Offset) -> Result<(), LogError> {
        let input = self.input(slot, "seek")?;
        input.position = offset.0;
        input.is_stuck = false;
        Ok(())
    }

    fn position(&mut self, slot: u32) -> Result<Option<Offset>, LogError> {
        Ok(Some(Offset(self.input(slot, "position of")?.position)))
    }

    fn committed(&mut self, partitions: &[(Name, i32)], _timeout: Duration) -> Result<Vec<Option<Offset>>, LogError> {
        const WHAT: &str = "fetch committed offsets";
        let fault = self.shared.lock().fault(Call::Committed, &self.client());
        if fault == Some(Fault::NoOffsets) {
            return Ok(vec![None; partitions.len()]);
        }
        let (before, after) = answers(fault, WHAT);
        before?;
        let Some(member) = &self.group else { return Err(LogError::new(LogErrorKind::Config, WHAT, "the consumer is in no group")) };
        let mut state = self.shared.lock();
        if state.expire_crashed(self.shared.clock.now()) {
            self.shared.notify(&state);
        }
        let Some(group) = state.groups.get(&member.settings.group) else { return after.map(|()| vec![None; partitions.len()]) };
        if let Some((topic, partition)) = partitions.iter().find(|partition| group.is_pending(partition)) {
            let what = format!("fetch the committed offset of `{topic}` partition {partition}");
            return Err(LogError::new(LogErrorKind::Retry, what, "a transaction that commits it is still open"));
        }
        let offsets = partitions.iter().map(|partition| group.offsets.get(partition).copied()).collect();
        after.map(|()| offsets)
    }

    fn bounds(&mut self, topic: &Name, partition: i32, _timeout: Duration) -> Result<(Offset, Offset), LogError> {
        let (before, after) = self.fault(Call::Bounds, "fetch offsets");
        before?;
        let mut state = self.shared.lock();
        if state.expire_crashed(self.shared.clock.now()) {
            self.shared.notify(&state);
        }
        let log = state.partition(topic, partition, "fetch offsets")?;
        after.map(|()| (Offset(log.start()), Offset(log.next())))
    }

    fn end_seen(&mut self, slot: u32) -> Option<Offset> {
        let input = self.inputs.iter().find(|input| input.slot == slot)?;
        let mut state = self.shared.lock();
        let log = state.partition(&input.name, input.partition, "see the end").ok()?;
        Some(Offset(log.next()))
    }

    fn group(&mut self) -> Option<AnyGroupMetadata> {
        let member = self.group.as_mut()?;
        let number = member.number?;
        let state = self.shared.lock();
        // The client's background thread follows the generations as long as the group knows it.
        if let Some(group) = state.groups.get(&member.settings.group).filter(|group| group.members.contains_key(&number)) {
            member.generation = group.generation;
        }
        Some(AnyGroupMetadata::Memory(GroupMetadata {
            group: member.settings.group.clone(),
            number,
            instance: member.settings.instance_id.clone(),
            generation: member.generation,
        }))
    }

    fn commit(&mut self, offsets: &[(Name, i32, Offset)]) -> Result<(), LogError> {
        const WHAT: &str = "commit offsets";
        let (before, after) = self.fault(Call::CommitOffsets, WHAT);
        before?;
        let Some(AnyGroupMetadata::Memory(member)) = self.group() else {
            return Err(LogError::new(LogErrorKind::Config, WHAT, "the consumer is no member of a group"));
        };
        let mut state = self.shared.lock();
        let group = state.groups.entry(member.group).or_default();
        group.check(member.number, member.instance.as_ref(), member.generation).map_err(|refusal| refused(refusal, WHAT))?;
        group.offsets.extend(offsets.iter().map(|(topic, partition, offset)| ((topic.clone(), *partition), *offset)));
        after
    }

    fn close(&mut self, _timeout: Duration) -> Result<(), LogError> {
        self.is_closed = true;
        self.inputs.clear();
        self.leave();
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let Some((group, number)) = self.group.as_ref().and_then(|group| Some((&group.settings.group, group.number?))) else { return };
        let now = self.shared.clock.now();
        self.shared.lock().with_group(group, |group, _| group.crashed(number, now));
    }
}

/// What goes wrong before and after the effect of a call.
fn answers(fault: Option<Fault>, what: &str) -> (Result<(), LogError>, Result<(), LogError>) {
    match fault {
        None | Some(Fault::LateMarkers | Fault::LateOffsets | Fault::NoOffsets) => (Ok(()), Ok(())),
        Some(Fault::Before(kind)) => (Err(LogError::new(kind, what, "injected fault, before the effect")), Ok(())),
        Some(Fault::After(kind)) => (Ok(()), Err(LogError::new(kind, what, "injected fault, after the effect"))),
        Some(Fault::Delayed) => (Err(LogError::new(LogErrorKind::Retry, what, "injected fault, the answer is late")), Ok(())),
    }
}

/// A passing trouble is an event of a poll, as with a real client; anything else is its error.
fn problem(error: LogError, mut events: Vec<Event>) -> Result<Vec<Event>, LogError> {
    if !matches!(error.kind, LogErrorKind::Retry | LogErrorKind::Unreachable | LogErrorKind::Authentication | LogErrorKind::Authorization) {
        return Err(error);
    }
    events.push(Event::Problem(error));
    Ok(events)
}
