//! The algebra of one row: what a record or a delete does to it, and what it shows. No store, no clock, no side effect.
//!
//! The promise that every interleaving of topics ends in the same row rests on this: the state is, per source, the record
//! with the greatest version (dead or alive) and the greatest delete; both are maxima of sets. Whether a record is dead is
//! asked again whenever a delete arrives, never remembered from its arrival. What is shown is computed from that alone.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::model::{Object, Time, Value};
use crate::operators::Failure;
use crate::operators::fold::order::compare_versions;
use crate::operators::fold::rules::{Arrival, Operands, add, show};
use crate::operators::fold::{OnTimeout, OnTombstone, Role, TableSpec, WhenOwnerMissing};
use crate::state::row::{Accumulator, Deleted, RowState, SourceState, Version};

/// A table's rules, with what is asked often made ready.
pub struct Merge {
    spec: TableSpec,
    /// `same_topic[i][j]`: inputs i and j read one topic, so that their offsets can be compared.
    same_topic: Vec<Vec<bool>>,
    /// Per field of the shape: the (input, rule) pairs that feed it.
    writers: Vec<Vec<(usize, usize)>>,
}

/// How a record met the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// The newest of its source.
    Newest,
    /// Older than its own source's version, or up to a delete. Counted; sums and the like still took a living one.
    Stale,
}

impl Merge {
    /// `topics[i]` names the topic of input i.
    pub fn new(spec: TableSpec, topics: &[&str]) -> Merge {
        let same_topic = topics.iter().map(|a| topics.iter().map(|b| a == b).collect()).collect();
        let fields = spec.shape.fields.len() - usize::from(spec.has_complete);
        let mut writers = vec![Vec::new(); fields];
        for (input, feed) in spec.inputs.iter().enumerate() {
            for (rule, field) in feed.rules.iter().enumerate() {
                writers[field.field].push((input, rule));
            }
        }
        Merge { spec, same_topic, writers }
    }

    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// A row about which nothing was said.
    pub fn empty_row(&self) -> RowState {
        RowState { sources: vec![SourceState::default(); self.spec.inputs.len()], changed_at: Time::MIN, expiry_at: None }
    }

    /// Makes a row one about which nothing was said; its allocations are kept.
    pub fn clear(&self, row: &mut RowState) {
        row.sources.resize_with(self.spec.inputs.len(), SourceState::default);
        for source in &mut row.sources {
            source.version = None;
            source.deleted = None;
            source.fields.clear();
            source.raw = None;
            source.wait_until = None;
        }
        row.changed_at = Time::MIN;
        row.expiry_at = None;
    }

    /// Whether a record of `input` at this time and offset is up to a delete of the row or of its own source.
    pub fn is_dead(&self, row: &RowState, input: usize, time: Time, offset: i64) -> bool {
        row.sources.iter().enumerate().any(|(other, source)| {
            let Some(deleted) = source.deleted else { return false };
            let concerns = other == input || self.spec.inputs[other].on_tombstone == OnTombstone::DeleteRow;
            // Offsets of different topics say nothing about each other: there, "up to t" includes t.
            concerns && if self.same_topic[other][input] { (time, offset) <= (deleted.time, deleted.offset) } else { time <= deleted.time }
        })
    }

    /// Whether this source's newest record is alive.
    pub fn is_alive(&self, row: &RowState, input: usize) -> bool {
        let version = row.sources[input].version.as_ref();
        version.is_some_and(|version| !self.is_dead(row, input, version.time, version.offset))
    }

    /// Whether an owner has spoken and was not deleted since.
    pub fn owner_alive(&self, row: &RowState) -> bool {
        self.inputs_of(Role::Owner).any(|input| self.is_alive(row, input))
    }

    pub fn inputs_of(&self, role: Role) -> impl Iterator<Item = usize> + '_ {
        self.spec.inputs.iter().enumerate().filter(move |(_, input)| input.role == role).map(|(index, _)| index)
    }

    /// Lets a record of `input` change the row.
    ///
    /// # Errors
    /// A bad record. The row is then to be thrown away: it may be half changed.
    pub fn apply(
        &self,
        row: &mut RowState,
        input: usize,
        version: &Version,
        operands: &[Operands],
        graves_before: Time,
    ) -> Result<Arrived, Failure> {
        row.changed_at = row.changed_at.max(version.time);
        let is_dead = self.is_dead(row, input, version.time, version.offset);
        let source = &mut row.sources[input];
        let is_newest = source.version.as_ref().is_none_or(|known| compare_versions(version, known) == Ordering::Greater);
        let rules = &self.spec.inputs[input].rules;
        if source.fields.is_empty() {
            source.fields = vec![Accumulator::Empty; rules.len()];
        }
        if is_dead {
            // A dead record that is the newest still silences older ones: it has come, and was deleted.
            if is_newest {
                source.version = Some(version.clone());
                source.raw = None;
                clear_last(&mut source.fields);
            }
            return Ok(Arrived::Stale);
        }
        let arrival = Arrival { version, is_newest, graves_before };
        for ((rule, accumulator), operands) in rules.iter().zip(&mut source.fields).zip(operands) {
            add(&rule.rule, accumulator, operands, arrival)?;
        }
        if is_newest {
            source.version = Some(version.clone());
        }
        Ok(if is_newest { Arrived::Newest } else { Arrived::Stale })
    }

    /// Lets a tombstone of `input` delete. Returns false if a newer one had come; `late` tells whether accumulated fields
    /// may hold records that it should have removed, which cannot be told apart any more.
    pub fn delete(&self, row: &mut RowState, input: usize, deleted: Deleted) -> Deletion {
        row.changed_at = row.changed_at.max(deleted.time);
        let known = row.sources[input].deleted;
        if known.is_some_and(|known| known >= deleted) {
            return Deletion { is_newest: false, is_late: false };
        }
        row.sources[input].deleted = Some(deleted);
        let mut is_late = false;
        for source in 0..row.sources.len() {
            is_late |= self.bury(row, source);
        }
        Deletion { is_newest: true, is_late }
    }

    /// Removes from a source what is dead now. Returns whether something could not be told apart.
    fn bury(&self, row: &mut RowState, input: usize) -> bool {
        let Some(version) = row.sources[input].version.clone() else { return false };
        let newest_is_dead = self.is_dead(row, input, version.time, version.offset);
        let mut fields = std::mem::take(&mut row.sources[input].fields);
        let mut is_late = false;
        for accumulator in &mut fields {
            match accumulator {
                Accumulator::Empty => {}
                Accumulator::Entries(entries) => entries.retain(|_, (version, _)| !self.is_dead(row, input, version.time, version.offset)),
                Accumulator::First(version, _) => {
                    if self.is_dead(row, input, version.time, version.offset) {
                        is_late |= !newest_is_dead;
                        *accumulator = Accumulator::Empty;
                    }
                }
                Accumulator::Last(_) => {
                    if newest_is_dead {
                        *accumulator = Accumulator::Empty;
                    }
                }
                _ if newest_is_dead => *accumulator = Accumulator::Empty,
                _ => {
                    is_late |= row.sources[input].deleted.is_some_and(|deleted| deleted.time < version.time)
                        || self.any_delete_before(row, version.time)
                }
            }
        }
        let source = &mut row.sources[input];
        source.fields = fields;
        if newest_is_dead {
            source.raw = None;
            source.wait_until = None;
        }
        is_late
    }

    fn any_delete_before(&self, row: &RowState, time: Time) -> bool {
        row.sources.iter().any(|source| source.deleted.is_some_and(|deleted| deleted.time < time))
    }

    /// Forgets all that a source contributed (its time-out, or a policy that keeps nothing without an owner).
    pub fn forget(&self, row: &mut RowState, input: usize) {
        let deleted = row.sources[input].deleted;
        row.sources[input] = SourceState { deleted, ..SourceState::default() };
    }

    /// Whether contributions of this input show although no owner has spoken.
    fn shows_without_owner(&self, input: usize) -> bool {
        let feed = &self.spec.inputs[input];
        feed.role == Role::Contributor && feed.owner_missing.is_some_and(|missing| missing.what == WhenOwnerMissing::Placeholder)
    }

    /// The row as everybody sees it; `None` if it is absent.
    pub fn show(&self, row: &RowState) -> Option<Object> {
        let mut shown = None;
        if self.show_into(row, &mut shown) { shown } else { None }
    }

    /// Shows a row over one that was shown before, whose allocation is used again unless somebody holds it. Returns false, and
    /// leaves what was there, if the row is absent.
    pub fn show_into(&self, row: &RowState, shown: &mut Option<Object>) -> bool {
        let complete = self.owner_alive(row);
        let shows = |input: usize| complete || self.shows_without_owner(input);
        if !complete && !(0..row.sources.len()).any(|input| shows(input) && self.is_alive(row, input)) {
            return false;
        }
        if shown.as_mut().is_none_or(|shown| Arc::get_mut(&mut shown.slots).is_none()) {
            let fields = self.spec.shape.fields.iter();
            *shown = Some(Object { shape: self.spec.shape.clone(), slots: fields.map(|_| Value::Null).collect() });
        }
        let Some(slots) = shown.as_mut().and_then(|shown| Arc::get_mut(&mut shown.slots)) else { return false };
        for (writers, slot) in self.writers.iter().zip(slots.iter_mut()) {
            let part = |(input, rule): &(usize, usize)| {
                let accumulator = if shows(*input) { row.sources[*input].fields.get(*rule) } else { None };
                (&self.spec.inputs[*input].rules[*rule].rule, accumulator.unwrap_or(&Accumulator::Empty))
            };
            *slot = match writers.as_slice() {
                [writer] => match part(writer) {
                    (
                        _,
                        Accumulator::Last(value) | Accumulator::First(_, value) | Accumulator::Sum(value) | Accumulator::Extreme(value),
                    ) => value.clone(),
                    alone => show(&[alone]),
                },
                several => show(&several.iter().map(part).collect::<Vec<_>>()),
            };
        }
        if self.spec.has_complete
            && let Some(last) = slots.last_mut()
        {
            *last = Value::Bool(complete);
        }
        true
    }

    /// Whether nothing would be lost by forgetting the row altogether (except graves that have served their time).
    pub fn is_blank(&self, row: &RowState) -> bool {
        row.sources.iter().all(|source| source.version.is_none() && source.deleted.is_none())
    }

    /// After a change: starts and ends the waits for an owner. Returns the earliest wall-clock time at which to look again.
    pub fn settle(&self, row: &mut RowState, now: Time) -> Option<Time> {
        let owner_alive = self.owner_alive(row);
        let mut next = None;
        for input in self.inputs_of(Role::Contributor) {
            if owner_alive {
                row.sources[input].wait_until = None;
                row.sources[input].raw = None;
                continue;
            }
            let Some(missing) = self.spec.inputs[input].owner_missing else { continue };
            let Some(max_wait) = missing.max_wait_ms else { continue };
            if !self.is_alive(row, input) {
                continue;
            }
            let until = *row.sources[input].wait_until.get_or_insert(now.plus_ms(max_wait));
            // A wait that is over (`keep`) stays in the row as `Time::MAX`, so that it does not start again.
            if until != Time::MAX {
                next = Some(next.map_or(until, |earliest: Time| earliest.min(until)));
            }
        }
        next
    }

    /// What a time-out does for one input, as said in the file.
    pub fn on_timeout(&self, input: usize) -> OnTimeout {
        self.spec.inputs[input].owner_missing.map_or(OnTimeout::Keep, |missing| missing.on_timeout)
    }
}

/// What a tombstone did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deletion {
    pub is_newest: bool,
    pub is_late: bool,
}

fn clear_last(fields: &mut [Accumulator]) {
    for accumulator in fields {
        if matches!(accumulator, Accumulator::Last(_)) {
            *accumulator = Accumulator::Empty;
        }
    }
}
