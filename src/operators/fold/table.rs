//! The operator of a table: lets records, tombstones and timers change rows, and tells what changed.
//!
//! Reads and writes the stores of its task only. Every effect of a record is computed before the first write, so that a bad
//! record leaves nothing behind. What leaves the table is asked for once, at the commit ([`Table::emit`]).

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use smol_str::SmolStr;

use crate::codec::json;
use crate::log::{Message, to_bytes};
use crate::metrics::{self, Counter, Metrics};
use crate::model::{Headers, Key, Object, Record, StoreId, TableId, Time, Value};
use crate::operators::fold::merge::{Arrived, Merge};
use crate::operators::fold::rules::{self, Operands};
use crate::operators::fold::{Emit, OnLate, OnStale, OnTimeout, OnTombstone, Role, TableSpec, WhenOwnerMissing};
use crate::operators::scope::{EVENT_HEADERS, EventValues};
use crate::operators::{Context, DeadLetter, Effects, Failure, Origin, StaleRecord, TableChange};
use crate::state::format::RowCodec;
use crate::state::layout::{self, TimerClock};
use crate::state::row::{BufferedRecord, Deleted, Progress, RawRecord, RowState, Version};
use crate::state::{StateError, TaskState};

/// Timers handled in one tick, so that a crowd of them does not hold up records; the rest follows in the next turn.
pub const TIMERS_PER_TICK_MAX: usize = 1000;

/// The stores of a table in its task.
#[derive(Clone, Copy, Debug)]
pub struct TableStores {
    pub rows: StoreId,
    pub timers: StoreId,
    pub buffer: Option<StoreId>,
    pub dedupe: Option<StoreId>,
}

/// A table on one partition.
pub struct Table {
    id: TableId,
    merge: Merge,
    stores: TableStores,
    codec: RowCodec,
    topics: Vec<Value>,
    needs_headers: bool,
    progress: Progress,
    saved: Progress,
    /// Wall-clock time of the last record, for `idle_close`.
    active_at: Time,
    next_wall: Time,
    next_stream: Time,
    next_identity: Time,
    /// Per ordinal of a changed row in the open transaction: what changed it last.
    causes: Vec<Cause>,
    /// Changes that leave one by one: `emit: every`, and windows that closed.
    singly: Vec<TableChange>,
    counters: Counters,
    scratch: Vec<u8>,
    /// The row that was worked on last: its allocations serve the next one.
    row: RowState,
    /// Before and after, while changes leave.
    old: Side,
    new: Side,
}

/// A row on its way out, in allocations that are used again.
#[derive(Default)]
struct Side {
    row: RowState,
    shown: Option<Object>,
}

impl Side {
    fn slots(&self) -> Option<&[Value]> {
        self.shown.as_ref().map(|shown| &*shown.slots)
    }

    /// Reads a stored row. Returns whether it shows anything.
    fn read(&mut self, bytes: Option<&[u8]>, merge: &Merge, codec: &RowCodec) -> Result<bool, StateError> {
        let Some(bytes) = bytes else { return Ok(false) };
        codec.decode_row_into(bytes, &mut self.row)?;
        Ok(merge.show_into(&self.row, &mut self.shown))
    }
}

#[derive(Clone)]
struct Cause {
    headers: Headers,
    origin: Option<Origin>,
}

struct Counters {
    /// Per input.
    stale: Vec<Counter>,
    ignored_tombstones: Vec<Counter>,
    filtered: Vec<Counter>,
    duplicates: Vec<Counter>,
    late: Vec<Counter>,
    owner_missing: Vec<Counter>,
    timeouts: Vec<Counter>,
    placeholders: Counter,
    completed: Counter,
    late_deletes: Counter,
    expired: Counter,
    unchanged: Counter,
}

impl Counters {
    fn new(spec: &TableSpec, metrics: &Metrics) -> Counters {
        let per_input = |metric| spec.inputs.iter().map(|input| metrics.counter(metric, &[&spec.name, &input.source_name])).collect();
        let of_table = |metric| metrics.counter(metric, &[&spec.name]);
        Counters {
            stale: per_input(&metrics::STALE_RECORDS),
            ignored_tombstones: per_input(&metrics::IGNORED_TOMBSTONES),
            filtered: per_input(&metrics::FILTERED_RECORDS),
            duplicates: per_input(&metrics::DUPLICATE_RECORDS),
            late: per_input(&metrics::LATE_RECORDS),
            owner_missing: per_input(&metrics::OWNER_MISSING_RECORDS),
            timeouts: per_input(&metrics::OWNER_TIMEOUTS),
            placeholders: of_table(&metrics::PLACEHOLDERS),
            completed: of_table(&metrics::COMPLETED_ROWS),
            late_deletes: of_table(&metrics::LATE_DELETES),
            expired: of_table(&metrics::EXPIRED_ROWS),
            unchanged: of_table(&metrics::UNCHANGED_ROWS),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Absent,
    Placeholder,
    Complete,
}

impl Table {
    /// `topics[i]` is the topic of input i.
    pub fn new(id: TableId, spec: TableSpec, topics: &[&str], stores: TableStores, metrics: &Metrics) -> Table {
        let counters = Counters::new(&spec, metrics);
        let codec = RowCodec::new(spec.schema_id());
        let needs_headers = spec.programs().any(|program| program.uses(EVENT_HEADERS));
        let merge = Merge::new(spec, topics);
        Table {
            id,
            stores,
            codec,
            topics: topics.iter().map(|topic| Value::string(*topic)).collect(),
            needs_headers,
            progress: START,
            saved: START,
            active_at: Time::MAX,
            next_wall: Time::MIN,
            next_stream: Time::MIN,
            next_identity: Time::MIN,
            causes: Vec::new(),
            singly: Vec::new(),
            counters,
            scratch: Vec::new(),
            row: RowState::default(),
            old: Side::default(),
            new: Side::default(),
            merge,
        }
    }

    pub fn spec(&self) -> &TableSpec {
        self.merge.spec()
    }

    pub fn id(&self) -> TableId {
        self.id
    }

    pub fn rows(&self) -> StoreId {
        self.stores.rows
    }

    pub fn stream_time(&self) -> Time {
        self.progress.stream_time
    }

    /// Reads how far the operator had come; called when the task's state is restored and after an abort.
    pub fn open(&mut self, state: &mut TaskState) -> Result<(), StateError> {
        self.progress = match state.get(self.stores.rows, &layout::progress_key(&self.merge.spec().name))? {
            Some(bytes) => self.codec.decode_progress(bytes)?,
            None => START,
        };
        self.saved = self.progress;
        self.causes.clear();
        self.singly.clear();
        // The first tick looks into the index of timers.
        (self.next_wall, self.next_stream, self.next_identity) = (Time::MIN, Time::MIN, Time::MIN);
        Ok(())
    }

    /// Lets a record change its row.
    pub fn process(&mut self, input: usize, record: &Record, message: &Message, context: &mut Context<'_>) -> Result<(), Failure> {
        self.active_at = context.now;
        match record.value {
            None => self.delete(input, record, context),
            Some(_) => self.upsert(input, record, message, context),
        }
    }

    fn upsert(&mut self, input: usize, record: &Record, message: &Message, context: &mut Context<'_>) -> Result<(), Failure> {
        let feed = &self.merge.spec().inputs[input];
        let values = EventValues::new(record, &self.topics[input], self.needs_headers);
        let slots = values.slots();
        if let Some(when) = &feed.when
            && !matches!(when.evaluate(&slots)?, Value::Bool(true))
        {
            self.counters.filtered[input].inc();
            return Ok(());
        }
        let mut operands: smallvec::SmallVec<[Operands; 8]> = smallvec::SmallVec::new();
        for rule in &feed.rules {
            operands.push(rules::operands(&rule.rule, &slots)?);
        }
        let mut order = Vec::new();
        for program in &feed.order_by {
            order.push(program.evaluate(&slots)?);
        }
        let identity = self.identity(input, record, &slots)?;
        if let Some((store, key)) = &identity
            && self.is_duplicate(*store, key, record.time, context)?
        {
            self.counters.duplicates[input].inc();
            return Ok(());
        }
        let stream_time = self.progress.stream_time;
        self.progress.stream_time = stream_time.max(record.time);
        let version = Version { order, time: record.time, offset: record.offset };
        let folded = if self.merge.spec().window.is_some() {
            self.fold_window(input, record, message, &version, &operands, context)
        } else {
            self.fold_row(input, record, message, &version, &operands, context)
        };
        // A bad record leaves nothing behind, no time either.
        let kept = folded.inspect_err(|_| self.progress.stream_time = stream_time)?;
        if kept
            && let Some((store, key)) = identity
            && let Some(dedupe) = &self.merge.spec().dedupe
        {
            let forget_at = record.time.plus_ms(dedupe.for_ms);
            context.state.put(store, &key, &encode_time(record.time))?;
            self.set_timer(TimerClock::Identity, forget_at, &key, context.state)?;
        }
        Ok(())
    }

    /// The key under which a record's identity is remembered, in a table with `dedupe`; none for a record without identity.
    fn identity(&self, input: usize, record: &Record, slots: &[&Value]) -> Result<Option<(StoreId, Key)>, Failure> {
        let (Some(dedupe), Some(store)) = (&self.merge.spec().dedupe, self.stores.dedupe) else { return Ok(None) };
        let id = match &dedupe.by {
            Some(program) => program.evaluate(slots)?,
            None => record.id.clone().unwrap_or(Value::Null),
        };
        if id.is_null() {
            return Ok(None);
        }
        let mut text = Vec::new();
        json::write_value(&id, &mut text);
        let identity = layout::identity(&record.key, &text);
        Ok(Some((store, layout::dedupe_key(&self.merge.spec().inputs[input].source_name, &identity))))
    }

    fn is_duplicate(&self, store: StoreId, key: &[u8], time: Time, context: &mut Context<'_>) -> Result<bool, Failure> {
        let Some(dedupe) = &self.merge.spec().dedupe else { return Ok(false) };
        let Some(bytes) = context.state.get(store, key)? else { return Ok(false) };
        let first = decode_time(bytes);
        Ok(time.0.saturating_sub(first.0) < dedupe.for_ms)
    }

    /// Returns whether the record was kept (applied or buffered).
    fn fold_row(
        &mut self,
        input: usize,
        record: &Record,
        message: &Message,
        version: &Version,
        operands: &[Operands],
        context: &mut Context<'_>,
    ) -> Result<bool, Failure> {
        let mut row = self.load(&record.key, context.state)?;
        let feed = &self.merge.spec().inputs[input];
        let is_orphan = feed.role == Role::Contributor && !self.merge.owner_alive(&row);
        let is_dead = self.merge.is_dead(&row, input, record.time, record.offset);
        let missing = feed.owner_missing.filter(|_| is_orphan && !is_dead);
        if let Some(missing) = missing {
            match missing.what {
                WhenOwnerMissing::Placeholder => {}
                WhenOwnerMissing::Buffer => {
                    self.counters.owner_missing[input].inc();
                    self.buffer(input, record, message, version, operands, context)?;
                    return Ok(true);
                }
                WhenOwnerMissing::Drop => {
                    self.counters.owner_missing[input].inc();
                    return Ok(false);
                }
                WhenOwnerMissing::DeadLetter => {
                    self.counters.owner_missing[input].inc();
                    let detail = format!("no owner of `{}` has spoken for this key", self.merge.spec().name);
                    context.effects.dead_letters.push(dead_letter(record, message, "owner_missing", detail));
                    return Ok(false);
                }
            }
        }
        let before = self.status(&row);
        let graves_before = Time(self.progress.stream_time.0.saturating_sub(self.merge.spec().grave_ms));
        let arrived = self.merge.apply(&mut row, input, version, operands, graves_before)?;
        if arrived == Arrived::Stale {
            self.stale(input, record, message, context);
        } else if missing.is_some_and(|missing| missing.max_wait_ms.is_some() && missing.on_timeout == OnTimeout::DeadLetter) {
            // Kept only while the owner is missing: this is what the dead letter of the time-out will hold.
            row.sources[input].raw = Some(raw_record(message));
        }
        if is_orphan && missing.is_none() && !is_dead {
            debug_assert!(false, "a contributor has a policy for a missing owner");
        }
        if before != Status::Complete && self.status(&row) == Status::Complete && self.stores.buffer.is_some() {
            self.release(&record.key, &mut row, context)?;
        }
        let cause = Cause { headers: record.headers.clone(), origin: Some(Origin { source: record.source, offset: record.offset }) };
        self.store(&record.key, row, before, cause, context)?;
        Ok(true)
    }

    fn delete(&mut self, input: usize, record: &Record, context: &mut Context<'_>) -> Result<(), Failure> {
        let feed = &self.merge.spec().inputs[input];
        if feed.on_tombstone == OnTombstone::Ignore || self.merge.spec().window.is_some() {
            self.counters.ignored_tombstones[input].inc();
            return Ok(());
        }
        self.progress.stream_time = self.progress.stream_time.max(record.time);
        let mut row = self.load(&record.key, context.state)?;
        let before = self.status(&row);
        let deletion = self.merge.delete(&mut row, input, Deleted { time: record.time, offset: record.offset });
        if !deletion.is_newest {
            self.counters.stale[input].inc();
        }
        if deletion.is_late {
            self.counters.late_deletes.inc();
        }
        if !self.merge.owner_alive(&row) {
            self.forget_unwaited(&record.key, &mut row, context.effects);
        }
        if self.stores.buffer.is_some() {
            self.bury_buffered(&record.key, &row, context)?;
        }
        let cause = Cause { headers: record.headers.clone(), origin: Some(Origin { source: record.source, offset: record.offset }) };
        self.store(&record.key, row, before, cause, context)
    }

    /// Contributions that wait for nobody go with the owner, as those that come after it.
    fn forget_unwaited(&self, key: &Key, row: &mut RowState, effects: &mut Effects) {
        for input in self.merge.inputs_of(Role::Contributor) {
            let what = self.merge.spec().inputs[input].owner_missing.map_or(WhenOwnerMissing::Placeholder, |missing| missing.what);
            if matches!(what, WhenOwnerMissing::Placeholder | WhenOwnerMissing::Buffer) || !self.merge.is_alive(row, input) {
                continue;
            }
            self.counters.owner_missing[input].inc();
            if what == WhenOwnerMissing::DeadLetter {
                let detail = format!("the owner of this key of `{}` was deleted before the time of this record", self.merge.spec().name);
                effects.dead_letters.push(self.contributed(input, key, row, detail));
            }
            self.merge.forget(row, input);
        }
    }

    fn stale(&self, input: usize, record: &Record, message: &Message, context: &mut Context<'_>) {
        self.counters.stale[input].inc();
        match self.merge.spec().on_stale {
            OnStale::Count => {}
            OnStale::DeadLetter => {
                let detail = format!("older than what `{}` has of its source", self.merge.spec().name);
                context.effects.dead_letters.push(dead_letter(record, message, "stale", detail));
            }
            OnStale::Emit => {
                context.effects.stale.push(StaleRecord { table: self.id, record: record.clone(), raw: to_bytes(message.value()) })
            }
        }
    }

    // Rows ---------------------------------------------------------------------------------------------------------

    /// The row of a key, in the allocations of the one before: give it back as `self.row`.
    fn load(&mut self, key: &[u8], state: &mut TaskState) -> Result<RowState, StateError> {
        let mut row = std::mem::take(&mut self.row);
        match state.get(self.stores.rows, key)? {
            Some(bytes) => self.codec.decode_row_into(bytes, &mut row)?,
            None => self.merge.clear(&mut row),
        }
        Ok(row)
    }

    fn status(&self, row: &RowState) -> Status {
        if self.merge.owner_alive(row) {
            return Status::Complete;
        }
        let placeholder = self.merge.inputs_of(Role::Contributor).any(|input| {
            let missing = self.merge.spec().inputs[input].owner_missing;
            missing.is_some_and(|missing| missing.what == WhenOwnerMissing::Placeholder) && self.merge.is_alive(row, input)
        });
        if placeholder { Status::Placeholder } else { Status::Absent }
    }

    /// Writes a changed row, or removes one about which nothing is left to know, and sets its timers.
    fn store(&mut self, key: &Key, mut row: RowState, before: Status, cause: Cause, context: &mut Context<'_>) -> Result<(), Failure> {
        let after = self.status(&row);
        match (before, after) {
            (Status::Absent, Status::Placeholder) => {
                self.counters.placeholders.inc();
            }
            (Status::Placeholder, Status::Complete) => {
                self.counters.completed.inc();
            }
            _ => {}
        }
        if let Some(at) = self.merge.settle(&mut row, context.now) {
            self.set_timer(TimerClock::Wall, at, key, context.state)?;
        }
        if let Some(at) = self.expiry(&row, after)
            && row.expiry_at.is_none_or(|known| known > at)
        {
            row.expiry_at = Some(at);
            self.set_timer(TimerClock::Stream, at, key, context.state)?;
        }
        self.write(key, &row, cause, context.state)?;
        self.row = row;
        Ok(())
    }

    fn write(&mut self, key: &Key, row: &RowState, cause: Cause, state: &mut TaskState) -> Result<(), Failure> {
        let old = if self.merge.spec().emit == Emit::Every { Some(self.shown(key, state)?) } else { None };
        let ordinal = if self.merge.is_blank(row) {
            state.delete(self.stores.rows, key)?
        } else {
            self.scratch.clear();
            self.codec.encode_row(row, &mut self.scratch);
            state.put(self.stores.rows, key, &self.scratch)?
        };
        if let Some(old) = old {
            let new = self.merge.show(row).map(Value::Object);
            let change = self.change(key, old.map(Value::Object), new, row.changed_at, &cause);
            self.singly.extend(change);
        }
        self.remember(ordinal, cause);
        Ok(())
    }

    fn shown(&mut self, key: &[u8], state: &mut TaskState) -> Result<Option<Object>, StateError> {
        let row = self.load(key, state)?;
        Ok(self.merge.show(&row))
    }

    fn remember(&mut self, ordinal: u32, cause: Cause) {
        let at = ordinal as usize;
        match self.causes.get_mut(at) {
            Some(known) => *known = cause,
            None => self.causes.push(cause),
        }
        debug_assert!(at < self.causes.len(), "ordinals are dense");
    }

    /// When, in stream time, the row or its grave has served its time.
    fn expiry(&self, row: &RowState, status: Status) -> Option<Time> {
        let spec = self.merge.spec();
        if status != Status::Absent {
            return spec.keep_ms.map(|keep| row.changed_at.plus_ms(keep));
        }
        let has_hidden = (0..row.sources.len()).any(|input| self.merge.is_alive(row, input));
        let newest = row.sources.iter().filter_map(|source| source.deleted).map(|deleted| deleted.time).max()?;
        (!has_hidden).then(|| newest.plus_ms(spec.grave_ms))
    }

    // Windows ------------------------------------------------------------------------------------------------------

    fn fold_window(
        &mut self,
        input: usize,
        record: &Record,
        message: &Message,
        version: &Version,
        operands: &[Operands],
        context: &mut Context<'_>,
    ) -> Result<bool, Failure> {
        let Some(window) = self.merge.spec().window else { return Ok(false) };
        let start = Time(record.time.0.div_euclid(window.size_ms).saturating_mul(window.size_ms));
        let end = start.plus_ms(window.size_ms);
        // As in Kafka Streams (`KStreamWindowAggregate`): closed when stream time, this record included, has reached end + grace.
        let has_passed = end.plus_ms(window.grace_ms) <= self.progress.stream_time;
        let is_closed = has_passed || end <= self.progress.closed_through;
        let is_gone = start.plus_ms(window.kept_ms()) <= self.progress.stream_time;
        if is_gone || (is_closed && window.on_late != OnLate::Amend) {
            self.counters.late[input].inc();
            if window.on_late != OnLate::Count {
                let why = if is_gone || has_passed {
                    format!("stream time is {}", self.progress.stream_time.0)
                } else {
                    "no record had come for `idle_close`".to_owned()
                };
                let detail = format!("window {}..{} of `{}` is closed: {why}", start.0, end.0, self.spec().name);
                context.effects.dead_letters.push(dead_letter(record, message, "late", detail));
            }
            return Ok(false);
        }
        let key: Key = layout::windowed_key(&record.key, start);
        let mut row = self.load(&key, context.state)?;
        let is_new = self.merge.is_blank(&row);
        let arrived = self.merge.apply(&mut row, input, version, operands, Time::MIN)?;
        if arrived == Arrived::Stale {
            self.stale(input, record, message, context);
        }
        if is_new && self.merge.spec().emit == Emit::Closed && !is_closed {
            let at = end.plus_ms(window.grace_ms);
            row.expiry_at = Some(at);
            self.set_timer(TimerClock::Stream, at, &key, context.state)?;
        }
        let cause = Cause { headers: record.headers.clone(), origin: Some(Origin { source: record.source, offset: record.offset }) };
        if is_closed && self.merge.spec().emit == Emit::Closed && row.expiry_at.is_none() {
            // Amended after it left: it leaves again, as a change of what left before.
            let old = self.shown(&key, context.state)?.map(Value::Object);
            let new = self.merge.show(&row).map(Value::Object);
            let change = self.change(&key, old, new, row.changed_at, &cause);
            self.singly.extend(change);
        }
        self.write(&key, &row, cause, context.state)?;
        self.row = row;
        Ok(true)
    }

    /// Closes what is open when input has stopped for `idle_close`. A restart begins the wait anew.
    fn close_idle(&mut self, now: Time, state: &mut TaskState) -> Result<(), StateError> {
        let Some(window) = self.merge.spec().window else { return Ok(()) };
        let Some(idle) = window.idle_close_ms else { return Ok(()) };
        if self.progress.stream_time == Time::MIN {
            return Ok(());
        }
        let newest_end =
            Time(self.progress.stream_time.0.div_euclid(window.size_ms).saturating_mul(window.size_ms)).plus_ms(window.size_ms);
        if self.progress.closed_through >= newest_end {
            return Ok(());
        }
        if self.active_at == Time::MAX {
            self.active_at = now;
        }
        if now.0.saturating_sub(self.active_at.0) >= idle {
            self.progress.closed_through = newest_end;
            // Nothing else may be there to commit, and a record that comes after a crash is as late as one before it.
            self.save_progress(state)?;
        }
        Ok(())
    }

    // Buffer -------------------------------------------------------------------------------------------------------

    fn buffer(
        &mut self,
        input: usize,
        record: &Record,
        message: &Message,
        version: &Version,
        operands: &[Operands],
        context: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let (Some(store), Some(missing)) = (self.stores.buffer, self.merge.spec().inputs[input].owner_missing) else { return Ok(()) };
        let source = self.merge.spec().inputs[input].source_name.clone();
        let waiting = self.buffered(&record.key, Some(&source), context.state)?;
        if waiting.len() >= missing.max_per_key {
            let (key, _, oldest) = &waiting[0];
            let detail = format!("more than {} records of this key wait for an owner of `{}`", missing.max_per_key, self.merge.spec().name);
            context.effects.dead_letters.push(raw_dead_letter(record, &oldest.raw, "buffer_full", detail));
            context.state.delete(store, key)?;
        }
        let wait_until = missing.max_wait_ms.map(|wait| context.now.plus_ms(wait));
        let buffered = BufferedRecord { raw: raw_record(message), version: version.clone(), operands: operands.to_vec(), wait_until };
        let mut bytes = Vec::new();
        self.codec.encode_buffered(&buffered, &mut bytes);
        context.state.put(store, &layout::buffer_key(&record.key, &source, record.offset.max(0) as u64), &bytes)?;
        if let Some(at) = wait_until {
            self.set_timer(TimerClock::Wall, at, &record.key, context.state)?;
        }
        Ok(())
    }

    /// Buffered records of a key (of one source), with their store keys and inputs, in the order of source names and offsets.
    fn buffered(
        &self,
        key: &[u8],
        source: Option<&str>,
        state: &mut TaskState,
    ) -> Result<Vec<(Vec<u8>, usize, BufferedRecord)>, StateError> {
        let Some(store) = self.stores.buffer else { return Ok(Vec::new()) };
        let from = layout::buffer_prefix(key);
        let to = layout::prefix_end(&from).unwrap_or_default();
        let mut found = Vec::new();
        let mut failed = None;
        state.scan(store, Bound::Included(&from), Bound::Excluded(&to), |key, value| {
            let name = layout::split_buffer_key(key).map(|(_, name, _)| name);
            if source.is_some_and(|wanted| name != Some(wanted)) {
                return ControlFlow::Continue(());
            }
            let input = name.and_then(|name| self.merge.spec().inputs.iter().position(|input| &*input.source_name == name));
            match (input, self.codec.decode_buffered(value)) {
                (Some(input), Ok(record)) => found.push((key.to_vec(), input, record)),
                // A source that the table no longer has: its records stay where they are.
                (None, _) => {}
                (_, Err(error)) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(found), Err)
    }

    /// The owner has spoken: applies what waited, in the order of its versions.
    fn release(&mut self, key: &Key, row: &mut RowState, context: &mut Context<'_>) -> Result<(), Failure> {
        let Some(store) = self.stores.buffer else { return Ok(()) };
        let mut waiting = self.buffered(key, None, context.state)?;
        waiting.sort_by(|(_, a_input, a), (_, b_input, b)| {
            a_input.cmp(b_input).then_with(|| super::order::compare_versions(&a.version, &b.version))
        });
        let graves_before = Time(self.progress.stream_time.0.saturating_sub(self.merge.spec().grave_ms));
        for (store_key, input, record) in waiting {
            let mut tried = row.clone();
            match self.merge.apply(&mut tried, input, &record.version, &record.operands, graves_before) {
                Ok(Arrived::Newest) => *row = tried,
                Ok(Arrived::Stale) => {
                    self.counters.stale[input].inc();
                    *row = tried;
                }
                Err(Failure::Record { reason, detail }) => {
                    let source = self.merge.spec().inputs[input].source;
                    context.effects.dead_letters.push(waited_dead_letter(source, &record.raw, reason, detail));
                }
                Err(failure) => return Err(failure),
            }
            context.state.delete(store, &store_key)?;
        }
        Ok(())
    }

    /// A tombstone removes what waited and is up to it.
    fn bury_buffered(&mut self, key: &Key, row: &RowState, context: &mut Context<'_>) -> Result<(), Failure> {
        let Some(store) = self.stores.buffer else { return Ok(()) };
        for (store_key, input, record) in self.buffered(key, None, context.state)? {
            if self.merge.is_dead(row, input, record.version.time, record.version.offset) {
                self.counters.stale[input].inc();
                context.state.delete(store, &store_key)?;
            }
        }
        Ok(())
    }

    // Timers -------------------------------------------------------------------------------------------------------

    fn set_timer(&mut self, clock: TimerClock, at: Time, key: &[u8], state: &mut TaskState) -> Result<(), StateError> {
        state.put(self.stores.timers, &layout::timer_key(clock, at, key), &[])?;
        let next = match clock {
            TimerClock::Wall => &mut self.next_wall,
            TimerClock::Stream => &mut self.next_stream,
            TimerClock::Identity => &mut self.next_identity,
        };
        *next = (*next).min(at);
        Ok(())
    }

    /// Restores the timers of a row that came from the changelog.
    pub fn index(&mut self, key: &[u8], value: &[u8], state: &mut TaskState) -> Result<(), StateError> {
        // Windows have timers only where each leaves when it closes, and none once it has.
        if !is_row_key(key) || self.merge.spec().window.is_some_and(|_| self.merge.spec().emit != Emit::Closed) {
            return Ok(());
        }
        let mut row = std::mem::take(&mut self.row);
        self.codec.decode_row_into(value, &mut row)?;
        if let Some(at) = row.expiry_at {
            state.restore_put(self.stores.timers, &layout::timer_key(TimerClock::Stream, at, key), Some(&[]))?;
        }
        for at in row.sources.iter().filter_map(|source| source.wait_until).filter(|at| *at != Time::MAX) {
            state.restore_put(self.stores.timers, &layout::timer_key(TimerClock::Wall, at, key), Some(&[]))?;
        }
        self.row = row;
        Ok(())
    }

    /// Restores the timer of a buffered record that came from the changelog.
    pub fn index_buffered(&mut self, key: &[u8], value: &[u8], state: &mut TaskState) -> Result<(), StateError> {
        let record = self.codec.decode_buffered(value)?;
        if let (Some(at), Some(row_key)) = (record.wait_until, layout::split_buffer_key(key).map(|(row_key, _, _)| row_key)) {
            state.restore_put(self.stores.timers, &layout::timer_key(TimerClock::Wall, at, &row_key), Some(&[]))?;
        }
        Ok(())
    }

    /// Restores the timer of an identity that came from the changelog.
    pub fn index_dedupe(&mut self, key: &[u8], value: &[u8], state: &mut TaskState) -> Result<(), StateError> {
        let Some(dedupe) = &self.merge.spec().dedupe else { return Ok(()) };
        let at = decode_time(value).plus_ms(dedupe.for_ms);
        state.restore_put(self.stores.timers, &layout::timer_key(TimerClock::Identity, at, key), Some(&[]))
    }

    /// Lets timers fire that are due. Returns whether more are due.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        self.close_idle(context.now, context.state)?;
        let closed = self.progress.closed_through;
        // Windows closed for want of input fire before stream time reaches their grace.
        let stream_due = match self.merge.spec().window {
            Some(window) if closed != Time::MIN => self.progress.stream_time.max(closed.plus_ms(window.grace_ms)),
            _ => self.progress.stream_time,
        };
        let mut more = false;
        if self.next_wall <= context.now {
            more |= self.fire(TimerClock::Wall, context.now, context)?;
        }
        if self.next_stream <= stream_due {
            more |= self.fire(TimerClock::Stream, stream_due, context)?;
        }
        if self.next_identity <= self.progress.stream_time {
            more |= self.fire(TimerClock::Identity, self.progress.stream_time, context)?;
        }
        Ok(more)
    }

    fn fire(&mut self, clock: TimerClock, due: Time, context: &mut Context<'_>) -> Result<bool, Failure> {
        let from = layout::timer_start(clock);
        let to = layout::prefix_end(&from).unwrap_or_default();
        let mut fired = Vec::new();
        let mut next = Time::MAX;
        context.state.scan(self.stores.timers, Bound::Included(&from), Bound::Excluded(&to), |key, _| {
            let Some((_, at, row_key)) = layout::split_timer_key(key) else { return ControlFlow::Continue(()) };
            if at > due || fired.len() >= TIMERS_PER_TICK_MAX {
                next = at;
                return ControlFlow::Break(());
            }
            fired.push((key.to_vec(), at, Key::from_slice(row_key)));
            ControlFlow::Continue(())
        })?;
        match clock {
            TimerClock::Wall => self.next_wall = next,
            TimerClock::Stream => self.next_stream = next,
            TimerClock::Identity => self.next_identity = next,
        }
        for (timer, at, key) in fired {
            context.state.delete(self.stores.timers, &timer)?;
            match (clock, self.merge.spec().window) {
                (TimerClock::Stream, Some(_)) => self.close_window(&key, context)?,
                (TimerClock::Stream, None) => self.expire(&key, at, context)?,
                (TimerClock::Wall, _) => self.time_out(&key, context)?,
                (TimerClock::Identity, _) => self.forget_identity(&key, context)?,
            }
        }
        Ok(next <= due)
    }

    fn close_window(&mut self, key: &Key, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut row = self.load(key, context.state)?;
        // The entry of the index is gone with its task's disk, or came back from the changelog: the row says whether it has left.
        if row.expiry_at.take().is_none() {
            return Ok(());
        }
        let cause = Cause { headers: Headers::default(), origin: None };
        let new = self.merge.show(&row).map(Value::Object);
        let change = self.change(key, None, new, row.changed_at, &cause);
        self.singly.extend(change);
        self.write(key, &row, cause, context.state)
    }

    /// An identity is older than `for`: a record with it is no duplicate any more.
    fn forget_identity(&mut self, key: &Key, context: &mut Context<'_>) -> Result<(), Failure> {
        let (Some(store), Some(dedupe)) = (self.stores.dedupe, &self.merge.spec().dedupe) else { return Ok(()) };
        // It may have come again since.
        let is_old =
            context.state.get(store, key)?.is_some_and(|bytes| decode_time(bytes).plus_ms(dedupe.for_ms) <= self.progress.stream_time);
        if is_old {
            context.state.delete(store, key)?;
        }
        Ok(())
    }

    fn expire(&mut self, key: &Key, at: Time, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut row = self.load(key, context.state)?;
        if row.expiry_at != Some(at) {
            return Ok(()); // The row has another entry in the index by now.
        }
        let cause = Cause { headers: Headers::default(), origin: None };
        match self.expiry(&row, self.status(&row)) {
            Some(expiry) if expiry <= self.progress.stream_time => {
                self.counters.expired.inc();
                let blank = self.merge.empty_row();
                self.write(key, &blank, cause, context.state)
            }
            Some(expiry) => {
                row.expiry_at = Some(expiry);
                self.set_timer(TimerClock::Stream, expiry, key, context.state)?;
                self.write(key, &row, cause, context.state)
            }
            None => {
                row.expiry_at = None;
                self.write(key, &row, cause, context.state)
            }
        }
    }

    /// The wait for an owner is over.
    fn time_out(&mut self, key: &Key, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut row = self.load(key, context.state)?;
        let before = self.status(&row);
        let mut touched = false;
        for input in 0..row.sources.len() {
            if row.sources[input].wait_until.is_none_or(|until| until > context.now) {
                continue;
            }
            touched = true;
            self.counters.timeouts[input].inc();
            match self.merge.on_timeout(input) {
                OnTimeout::Keep => {
                    row.sources[input].wait_until = Some(Time::MAX);
                    row.sources[input].raw = None;
                    continue;
                }
                OnTimeout::Delete => {}
                OnTimeout::DeadLetter => {
                    let detail = format!("no owner of `{}` spoke within `max_wait`", self.merge.spec().name);
                    let letter = self.contributed(input, key, &row, detail);
                    context.effects.dead_letters.push(letter);
                }
            }
            self.merge.forget(&mut row, input);
        }
        self.time_out_buffered(key, context)?;
        if touched {
            self.store(key, row, before, Cause { headers: Headers::default(), origin: None }, context)?;
        }
        Ok(())
    }

    fn time_out_buffered(&mut self, key: &Key, context: &mut Context<'_>) -> Result<(), Failure> {
        let Some(store) = self.stores.buffer else { return Ok(()) };
        for (store_key, input, record) in self.buffered(key, None, context.state)? {
            if record.wait_until.is_none_or(|until| until > context.now) {
                continue;
            }
            self.counters.timeouts[input].inc();
            let source = self.merge.spec().inputs[input].source;
            if self.merge.on_timeout(input) == OnTimeout::DeadLetter {
                let detail = format!("no owner of `{}` spoke within `max_wait`", self.merge.spec().name);
                context.effects.dead_letters.push(waited_dead_letter(source, &record.raw, "owner_missing", detail));
            }
            context.state.delete(store, &store_key)?;
        }
        Ok(())
    }

    /// The dead letter of a contribution without owner: the record as it came, or, where the row had been complete meanwhile, its
    /// fields.
    fn contributed(&self, input: usize, key: &Key, row: &RowState, detail: String) -> DeadLetter {
        let feed = &self.merge.spec().inputs[input];
        let source = &row.sources[input];
        if let Some(raw) = &source.raw {
            return waited_dead_letter(feed.source, raw, "owner_missing", detail);
        }
        let mut value = Vec::from(*b"{");
        for (rule, accumulator) in feed.rules.iter().zip(&source.fields) {
            let name = &self.merge.spec().shape.fields[rule.field].name;
            if value.len() > 1 {
                value.push(b',');
            }
            json::write_value(&Value::String(name.clone()), &mut value);
            value.push(b':');
            json::write_value(&rules::show(&[(&rule.rule, accumulator)]), &mut value);
        }
        value.push(b'}');
        let (time, offset) = source.version.as_ref().map_or((row.changed_at, -1), |version| (version.time, version.offset));
        let mut key_bytes = Vec::new();
        let key_value = self.merge.spec().key.from_store_key(key);
        // What came out of a store key goes into Kafka bytes.
        let _ = self.merge.spec().key.encode(&key_value, &mut key_bytes);
        DeadLetter {
            source: feed.source,
            reason: "owner_missing",
            detail: format!("{detail}; the value is the last state of its fields, the record itself is at its offset"),
            key: Some(Bytes::from(key_bytes)),
            value: Some(Bytes::from(value)),
            headers: Headers::default(),
            offset,
            time,
            origin: None,
        }
    }

    // What leaves --------------------------------------------------------------------------------------------------

    /// Writes the operator's progress, if it has moved. Step 2 of the commit, before the changelog is produced.
    pub fn save_progress(&mut self, state: &mut TaskState) -> Result<(), StateError> {
        if self.progress != self.saved {
            self.scratch.clear();
            self.codec.encode_progress(&self.progress, &mut self.scratch);
            let ordinal = state.put(self.stores.rows, &layout::progress_key(&self.merge.spec().name), &self.scratch)?;
            self.remember(ordinal, Cause { headers: Headers::default(), origin: None });
        }
        Ok(())
    }

    /// Hands over what leaves the table in this commit, once per key, in the order in which keys were first changed.
    pub fn emit(&mut self, state: &TaskState, take: &mut dyn FnMut(&TableChange)) -> Result<(), StateError> {
        for change in self.singly.drain(..) {
            take(&change);
        }
        if self.merge.spec().emit != Emit::Changes {
            return Ok(());
        }
        for change in state.changes(self.stores.rows) {
            if !is_row_key(change.key) {
                continue;
            }
            let was = self.old.read(change.old, &self.merge, &self.codec)?;
            let is = self.new.read(change.new, &self.merge, &self.codec)?;
            let is_same = was == is && (!is || self.old.slots() == self.new.slots());
            if is_same {
                self.counters.unchanged.inc();
                continue;
            }
            let time = if change.new.is_some() { self.new.row.changed_at } else { self.old.row.changed_at };
            // Lent out and taken back: the next row is shown in the same allocation.
            let old = if was { self.old.shown.take().map(Value::Object) } else { None };
            let new = if is { self.new.shown.take().map(Value::Object) } else { None };
            let leaving = self.changed(change.key, old, new, time, &self.causes[change.ordinal as usize]);
            take(&leaving);
            if let Some(Value::Object(shown)) = leaving.old {
                self.old.shown = Some(shown);
            }
            if let Some(Value::Object(shown)) = leaving.new {
                self.new.shown = Some(shown);
            }
        }
        Ok(())
    }

    /// After the commit (or the abort, once [`Table::open`] has read the progress again).
    pub fn committed(&mut self, state: &mut TaskState) {
        self.saved = self.progress;
        self.causes.clear();
        if let Some(window) = self.merge.spec().window
            && self.progress.stream_time != Time::MIN
        {
            // Timers fire in portions: a window that has yet to leave is kept until it has.
            let leaving = self.next_stream.0.saturating_sub(window.size_ms).saturating_sub(window.grace_ms);
            let gone = self.progress.stream_time.0.saturating_sub(window.kept_ms()).min(leaving);
            state.drop_segments_before(self.stores.rows, Time(gone));
        }
    }

    fn change(&self, key: &Key, old: Option<Value>, new: Option<Value>, time: Time, cause: &Cause) -> Option<TableChange> {
        (old.is_some() || new.is_some()).then(|| self.changed(key, old, new, time, cause))
    }

    fn changed(&self, key: &Key, old: Option<Value>, new: Option<Value>, time: Time, cause: &Cause) -> TableChange {
        let (key_value, window) = self.name_of(key);
        TableChange {
            table: self.id,
            key: key_value,
            record_key: self.record_key(key),
            window,
            old,
            new,
            time,
            headers: cause.headers.clone(),
            origin: cause.origin,
        }
    }

    /// A store key as the user knows it: the key, and in a windowed table the window.
    pub fn name_of(&self, key: &Key) -> (Value, Option<(Time, Time)>) {
        let spec = self.merge.spec();
        match (spec.window, layout::split_windowed_key(key)) {
            (Some(window), Some((row_key, start))) => (spec.key.from_store_key(&row_key), Some((start, start.plus_ms(window.size_ms)))),
            _ => (spec.key.from_store_key(key), None),
        }
    }

    /// The record's key of a store key: without the window.
    pub fn record_key(&self, key: &Key) -> Key {
        match (self.merge.spec().window, layout::split_windowed_key(key)) {
            (Some(_), Some((record_key, _))) => record_key,
            _ => key.clone(),
        }
    }

    /// A committed row as everybody sees it.
    pub fn show_stored(&self, bytes: &[u8]) -> Result<Option<Object>, StateError> {
        Ok(self.merge.show(&self.codec.decode_row(bytes)?))
    }

    /// A committed row as far as it has left the table: with `emit: closed` a window is not there until it has.
    pub fn show_left(&self, bytes: &[u8]) -> Result<Option<Object>, StateError> {
        let row = self.codec.decode_row(bytes)?;
        let has_left = self.merge.spec().emit != Emit::Closed || row.expiry_at.is_none();
        Ok(if has_left { self.merge.show(&row) } else { None })
    }
}

const START: Progress = Progress { stream_time: Time::MIN, closed_through: Time::MIN };

fn is_row_key(key: &[u8]) -> bool {
    key.first() == Some(&layout::ROW_TAG)
}

fn encode_time(time: Time) -> [u8; 8] {
    time.0.to_be_bytes()
}

/// The time of an identity; of bytes that are none, one that is long over.
fn decode_time(bytes: &[u8]) -> Time {
    bytes.try_into().map_or(Time::MIN, |bytes| Time(i64::from_be_bytes(bytes)))
}

/// A record as it came, to be kept.
pub fn raw_record(message: &Message) -> RawRecord {
    RawRecord {
        key: to_bytes(message.key()),
        value: to_bytes(message.value()),
        headers: message.headers().iter().cloned().collect::<Vec<(SmolStr, Option<Bytes>)>>(),
        offset: message.offset(),
        time: message.time(),
    }
}

/// The dead letter of a record that is being worked on.
pub fn dead_letter(record: &Record, message: &Message, reason: &'static str, detail: String) -> DeadLetter {
    DeadLetter {
        source: record.source,
        reason,
        detail,
        key: to_bytes(message.key()),
        value: to_bytes(message.value()),
        headers: message.headers(),
        offset: message.offset(),
        time: message.time(),
        origin: Some(Origin { source: record.source, offset: record.offset }),
    }
}

fn raw_dead_letter(record: &Record, raw: &RawRecord, reason: &'static str, detail: String) -> DeadLetter {
    let origin = Some(Origin { source: record.source, offset: record.offset });
    DeadLetter { origin, ..waited_dead_letter(record.source, raw, reason, detail) }
}

fn waited_dead_letter(source: crate::model::SourceId, raw: &RawRecord, reason: &'static str, detail: String) -> DeadLetter {
    DeadLetter {
        source,
        reason,
        detail,
        key: raw.key.clone(),
        value: raw.value.clone(),
        headers: Headers::new(raw.headers.clone()),
        offset: raw.offset,
        time: raw.time,
        origin: None,
    }
}
