//! One view on one partition: decides what to do next, does nothing itself.
//!
//! A lane says a [`Step`], whoever drives it (`redis`, `memory`) takes that step and brings the answer. So the same decisions run
//! against Redis and in a test, and every lost reply can be played.
//!
//! The states: *probing* (what does Redis hold?) → *live* (it stands at our generation and offset; write batches as they come) |
//! *refilling* (changes were missed: read the rows that changed from the store) | *rebuilding* (nothing, or nothing usable is
//! there: write all rows) | *waiting* (not our turn, or nothing can be done now). Every doubt leads back to probing.
//!
//! Never backwards: rows that a refill or rebuild reads may be ahead of the offset it ends at. The batches that wait by then are
//! taken all at once and merged, each row once as it was last, so no reader sees an older row after a newer one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::metrics::{Counter, Gauge};
use crate::model::{Headers, Key, Name, Offset, TableId, Time};
use crate::views::commands::{Commands, Verb};
use crate::views::fence::{
    FIELD_KEYS, FORMAT, Generation, Outcome, PIECE_ARGS_MAX, PIECE_BYTES_MAX, Phase, Piece, Reading, Reply, Stored, Watermark, judge,
};
use crate::views::placement::{Ledger, Pattern, fingerprint};
use crate::views::queue::Taken;
use crate::views::rebuild::{Rebuild, Stage};
use crate::views::render::{Changed, Occasion, Rendered, Renderer};
use crate::views::rows::{CurrentRow, NoRows, Page, Question, RowSource, Rows};
use crate::views::{CommittedBatch, OnViewDelete, RowChange, ViewShape, ViewSpec, ViewStatus};

/// How often an idle lane looks whether Redis still stands where it left it.
pub const HEARTBEAT_MS: i64 = 1000;
/// Changed rows that a refill reads one by one; more are a rebuild.
pub const REFILL_ROWS_MAX: usize = 200_000;
/// How long a lane leaves the watermark to a rival that took it, before it takes it back; doubled each time up to the maximum.
const PATIENCE_MIN_MS: i64 = 1000;
const PATIENCE_MAX_MS: i64 = 10_000;

/// What to do next.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing before this time, unless a batch comes.
    Idle { until: Time },
    /// Read the watermark.
    Read,
    /// Run the script.
    Run(&'a Piece),
    /// Ask the owner of the rows.
    Ask(Question),
    /// Find keys of a pattern, of one shape if given; the cursor is that of `SCAN`.
    FindKeys { pattern: Pattern, of: Option<ViewShape>, cursor: u64 },
    /// Read entries of the ledger; the cursor is that of `HSCAN`.
    FindEntries { ledger: String, cursor: u64 },
}

/// What a step brought.
#[derive(Debug)]
pub enum Answer {
    Watermark {
        stored: Stored,
        keys: Option<String>,
    },
    Reply(Reply),
    Page(Page),
    ChangedKeys(Option<Vec<Key>>),
    Rows(Rows),
    LogEnd(Offset),
    Keys {
        cursor: u64,
        keys: Vec<Vec<u8>>,
    },
    Entries {
        cursor: u64,
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// The owner of the rows did not answer.
    NoRows(NoRows),
}

/// Handles on what a lane counts.
#[derive(Clone)]
pub struct LaneMetrics {
    pub rows: Counter,
    pub refills: Counter,
    pub rebuilds: Counter,
    pub replaced: Counter,
    pub orphans: Counter,
    pub orphans_kept: Counter,
    pub lag: Gauge,
    pub age_ms: Gauge,
    /// Makes the counter for a reason why rows are not shown.
    pub unshowable: Arc<dyn Fn(&'static str) -> Counter + Send + Sync>,
}

/// What a lane is told once.
pub struct LaneSettings {
    pub app: Name,
    pub spec: Arc<ViewSpec>,
    pub partition: i32,
    /// UUID of the changelog topic.
    pub topic: String,
    /// Sealed offset of the table at opening.
    pub sealed: Offset,
    /// Unique among all lanes there ever are; no space in it.
    pub writer: String,
    /// Rows per piece, at most [`crate::views::fence::PIECE_ROWS_MAX`].
    pub rows_max: usize,
    /// Patterns of the app's other views: their keys are never orphans of this one.
    pub others: Arc<Vec<(Name, Pattern)>>,
    /// Note which row each row of a piece is, for `replay`.
    pub is_traced: bool,
}

/// The state of one view on one partition.
pub struct Lane {
    settings: LaneSettings,
    source: Arc<dyn RowSource>,
    metrics: LaneMetrics,
    renderer: Renderer,
    watermark_key: String,
    fingerprint: String,
    sealed: Offset,
    /// Changes before this offset have been written, or were there when the partition was opened.
    told: Offset,
    /// What is stored, as far as we know; meaningful from the first claim on.
    mark: Watermark,
    state: State,
    /// On its way to Redis, or about to be: nothing else happens before its outcome is known.
    piece: Option<PendingPiece>,
    /// Rows read from the store that are not in a piece yet.
    pending: VecDeque<CurrentRow>,
    /// Sealed offset as of which they were read.
    pending_sealed: Offset,
    /// Bytes of batches that are done with.
    released: usize,
    rival: Option<Rival>,
    written_at: Time,
    level_at: Time,
    /// Rows written since probing.
    progress: u64,
    error: Option<String>,
    no_headers: Headers,
}

#[expect(clippy::large_enum_variant, reason = "there is one per view and partition, and it changes with each piece: no box per piece")]
enum State {
    Probing,
    Waiting {
        until: Time,
    },
    /// Redis is ahead of our table: is it us, or the log?
    Ahead {
        found: Watermark,
        seen: Stored,
        keys: Option<String>,
    },
    Live,
    Writing(Work),
    /// Changes were missed: which?
    Missing {
        to: Offset,
    },
    Refilling {
        keys: Vec<Key>,
        next: usize,
        to: Offset,
    },
    Rebuilding(Box<Rebuild>),
}

struct PendingPiece {
    piece: Piece,
    rows: u64,
    subjects: Vec<Subject>,
}

/// The row that a row of a piece is about.
pub type Subject = (Key, Option<(Time, Time)>);

/// Batches that are being written.
struct Work {
    batches: Vec<Arc<CommittedBatch>>,
    items: Vec<Item>,
    next: usize,
    to: Offset,
    bytes: usize,
}

/// A change in a batch.
struct Item {
    batch: u32,
    change: u32,
    /// The first of several changes of the row, of which this is the last.
    first: Option<(u32, u32)>,
}

impl Work {
    fn change(&self, index: usize) -> (&RowChange, Changed<'_>) {
        let item = &self.items[index];
        let at = |(batch, change): (u32, u32)| &self.batches[batch as usize].changes[change as usize];
        let last = at((item.batch, item.change));
        (last, item.first.map_or_else(|| Changed::next(last), |first| Changed::merged(at(first), last)))
    }
}

/// Another writer that took the watermark from us.
struct Rival {
    generation: Generation,
    patience_ms: i64,
    until: Time,
}

impl Lane {
    pub fn new(settings: LaneSettings, source: Arc<dyn RowSource>, metrics: LaneMetrics, now: Time) -> Lane {
        let tag = format!("{}:{}", settings.app, settings.spec.name);
        let ledger = Ledger { rows: format!("{{{tag}:{}}}:rows", settings.partition), owners: format!("{{{tag}}}:owners") };
        let fingerprint = fingerprint(&settings.spec);
        let mark = Watermark {
            topic: settings.topic.clone(),
            view: fingerprint.clone(),
            generation: Generation { number: 0, writer: settings.writer.clone() },
            phase: Phase::Live,
            offset: Offset(-1),
            sub: 0,
            reach: Offset(-1),
        };
        Lane {
            renderer: Renderer::new(settings.spec.clone(), ledger),
            watermark_key: format!("{{{tag}:{}}}:wm", settings.partition),
            fingerprint,
            sealed: settings.sealed,
            told: settings.sealed,
            mark,
            state: State::Probing,
            piece: None,
            pending: VecDeque::new(),
            pending_sealed: Offset(-1),
            released: 0,
            rival: None,
            written_at: now,
            level_at: now,
            progress: 0,
            error: None,
            no_headers: Headers::default(),
            settings,
            source,
            metrics,
        }
    }

    pub fn table(&self) -> TableId {
        self.settings.spec.table
    }

    pub fn partition(&self) -> i32 {
        self.settings.partition
    }

    pub fn view(&self) -> &Name {
        &self.settings.spec.name
    }

    /// The Redis key of the watermark.
    pub fn watermark_key(&self) -> &str {
        &self.watermark_key
    }

    /// Whether [`Lane::take`] is of use now.
    pub fn wants_batches(&self) -> bool {
        matches!(self.state, State::Live) && self.piece.is_none()
    }

    /// The offset up to which Redis shows the table, if that is certain.
    pub fn settled_at(&self) -> Option<Offset> {
        self.wants_batches().then_some(self.mark.offset)
    }

    /// Bytes of batches that are done with since the last call.
    pub fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// How far the table is.
    pub fn set_sealed(&mut self, sealed: Offset) {
        self.sealed = self.sealed.max(sealed);
    }

    /// Batches from the queue, all that there are. To be called where [`Lane::wants_batches`].
    pub fn take(&mut self, taken: Taken) {
        self.set_sealed(taken.sealed);
        let at = self.mark.offset;
        let batches: Vec<_> = taken.batches.into_iter().filter(|batch| batch.next > at && batch.topic_id == self.settings.topic).collect();
        let is_chain = batches.windows(2).all(|pair| pair[0].next == pair[1].prev);
        match batches.first() {
            Some(first) if first.prev <= at && is_chain => {
                let may_merge = !matches!(self.settings.spec.shape, ViewShape::Stream | ViewShape::Pubsub);
                self.state = State::Writing(Work::new(batches, taken.bytes, may_merge));
            }
            found => {
                self.released += taken.bytes;
                if found.is_some() || self.sealed > at {
                    self.state = State::Missing { to: self.sealed };
                }
            }
        }
    }

    /// What to do now.
    pub fn step(&mut self, now: Time) -> Step<'_> {
        self.measure(now);
        while self.piece.is_none() {
            match &mut self.state {
                State::Probing => return Step::Read,
                State::Waiting { until } if *until > now => return Step::Idle { until: *until },
                State::Waiting { .. } => self.state = State::Probing,
                State::Ahead { .. } => return Step::Ask(Question::LogEnd),
                State::Live => {
                    let due = self.written_at.plus_ms(HEARTBEAT_MS);
                    if due > now {
                        return Step::Idle { until: due };
                    }
                    self.send(self.mark.clone(), Commands::default(), 0, Vec::new(), now);
                }
                State::Writing(_) => self.write(now),
                State::Missing { to } if *to <= self.mark.offset => self.state = State::Live,
                State::Missing { to } => {
                    return Step::Ask(Question::ChangedKeys { from: self.mark.offset, to: *to, limit: REFILL_ROWS_MAX });
                }
                State::Refilling { keys, next, .. } if self.pending.is_empty() && *next < keys.len() => {
                    let end = keys.len().min(*next + self.settings.rows_max);
                    return Step::Ask(Question::Rows { keys: keys[*next..end].to_vec() });
                }
                State::Refilling { keys, next, to } => {
                    let to = (*next == keys.len()).then_some(*to);
                    self.write_rows(to, now);
                }
                State::Rebuilding(_) if !self.pending.is_empty() => self.write_rows(None, now),
                State::Rebuilding(rebuild) => match rebuild.stage() {
                    Stage::Scan { after } => {
                        return Step::Ask(Question::Scan { after: after.clone(), limit: self.settings.rows_max });
                    }
                    Stage::Keys { patterns, cursor } => {
                        // What an earlier version of the file wrote may have been of another type.
                        let of = (patterns.first() == self.renderer.placement().pattern()).then_some(self.settings.spec.shape);
                        if let Some(pattern) = patterns.first() {
                            return Step::FindKeys { pattern: pattern.clone(), of, cursor: *cursor };
                        }
                    }
                    Stage::Entries { ledger, cursor } => return Step::FindEntries { ledger: ledger.clone(), cursor: *cursor },
                    Stage::Finish => self.finish_rebuild(now),
                },
            }
        }
        match &self.piece {
            Some(pending) => Step::Run(&pending.piece),
            None => Step::Idle { until: now },
        }
    }

    /// The answer to the last step.
    pub fn answer(&mut self, answer: Answer, now: Time) {
        if !matches!(answer, Answer::NoRows(_)) {
            self.error = None;
        }
        match answer {
            Answer::Watermark { stored, keys } => self.decide(stored, keys, now),
            Answer::Reply(reply) => self.judge(&reply, now),
            Answer::LogEnd(end) => self.compare_with_log(end, now),
            Answer::ChangedKeys(None) => self.rebuild(self.mark.stored(), true, None, now),
            Answer::ChangedKeys(Some(keys)) => {
                if let State::Missing { to } = self.state {
                    self.metrics.refills.inc();
                    self.state = State::Refilling { keys, next: 0, to };
                }
            }
            Answer::Rows(rows) => {
                self.set_sealed(rows.sealed);
                self.pending_sealed = rows.sealed;
                if let State::Refilling { next, .. } = &mut self.state {
                    *next += rows.rows.len();
                    self.pending.extend(rows.rows);
                }
            }
            Answer::Page(page) => {
                self.set_sealed(page.sealed);
                self.pending_sealed = page.sealed;
                if let State::Rebuilding(rebuild) = &mut self.state {
                    rebuild.page(&page, &*self.source, self.settings.spec.table, self.settings.partition);
                    self.pending.extend(page.rows);
                }
            }
            Answer::Keys { cursor, keys } => self.sweep_keys(cursor, keys, now),
            Answer::Entries { cursor, entries } => self.sweep_entries(cursor, entries, now),
            Answer::NoRows(cause) => {
                self.error = Some(match cause {
                    NoRows::NotOwner => "the task that owns the rows is not open here".to_owned(),
                    NoRows::Later(cause) | NoRows::Failed(cause) => cause,
                });
                // Whatever is half done keeps its place in Redis; the watermark does not move by itself.
                self.give_up(now.plus_ms(HEARTBEAT_MS));
            }
        }
    }

    /// The last step could not be taken: it is said again. `is_lost`: the queue has dropped what follows, so this work is given
    /// up and read again later.
    pub fn failed(&mut self, error: String, is_lost: bool) {
        self.error = Some(error);
        if is_lost && matches!(self.state, State::Writing(_)) {
            self.doubt();
        }
    }

    /// The watermark cannot be what we think (it is no hash, say): look again.
    pub fn doubt(&mut self) {
        self.piece = None;
        self.probe();
    }

    /// For the health page.
    pub fn view_status(&self) -> ViewStatus {
        let state = match self.state {
            State::Probing => "probing",
            State::Waiting { .. } | State::Ahead { .. } => "waiting",
            State::Live | State::Writing(_) => "live",
            State::Missing { .. } | State::Refilling { .. } => "refilling",
            State::Rebuilding(_) => "rebuilding",
        };
        ViewStatus {
            view: self.settings.spec.name.clone(),
            partition: self.settings.partition,
            state,
            at: Some(self.mark.offset).filter(|offset| offset.0 >= 0),
            sealed: self.sealed,
            progress: self.progress,
            error: self.error.clone(),
        }
    }

    /// The rows of the piece that [`Lane::step`] said last, where `is_traced`.
    pub fn subjects(&self) -> &[Subject] {
        self.piece.as_ref().map_or(&[], |pending| &pending.subjects)
    }

    /// What could not be shown since the last call, for the log: how many rows, and the last reason.
    pub fn take_unshowable(&mut self) -> Option<(u64, String)> {
        let (counts, last) = self.renderer.take_failures();
        counts.iter().for_each(|(reason, count)| _ = (self.metrics.unshowable)(reason).inc_by(*count));
        last.map(|last| (counts.iter().map(|(_, count)| count).sum(), last))
    }

    fn measure(&mut self, now: Time) {
        let is_level = matches!(self.state, State::Live) && self.mark.offset >= self.sealed;
        if is_level {
            self.level_at = now;
        }
        self.metrics.lag.set(if is_level { 0 } else { (self.sealed.0 - self.mark.offset.0.max(0)).max(1) });
        self.metrics.age_ms.set(now.0 - self.level_at.0);
    }

    fn probe(&mut self) {
        self.give_up(Time::MIN);
    }

    /// Lets go of what is being done, and probes then.
    fn give_up(&mut self, until: Time) {
        if let State::Writing(work) = &self.state {
            self.released += work.bytes;
        }
        self.pending.clear();
        self.state = State::Waiting { until };
    }

    /// The watermark was read.
    fn decide(&mut self, seen: Stored, keys: Option<String>, now: Time) {
        let found = match Watermark::read(&seen) {
            Reading::Absent => return self.rebuild(seen, false, None, now),
            Reading::Garbled => return self.rebuild(seen, true, keys, now),
            Reading::Unknown(found) => {
                let key = &self.watermark_key;
                self.error =
                    Some(format!("`{key}` has format {found}, this version knows {FORMAT}: run the newer version, or delete that key"));
                return self.give_up(now.plus_ms(HEARTBEAT_MS));
            }
            Reading::Watermark(found) => found,
        };
        let is_rival = self.rival.as_ref().is_some_and(|rival| rival.generation == found.generation);
        let is_ours = self.is_of_this_view(&found) && found.phase == Phase::Live;
        let is_behind = !is_ours || found.offset < self.sealed;
        if let Some(rival) = self.rival.as_ref().filter(|rival| is_rival && (!is_behind || rival.until > now)) {
            self.error = Some(format!("`{}` writes this view: two workers own the partition, or one is being replaced", rival.generation));
            return self.give_up(now.plus_ms(HEARTBEAT_MS));
        }
        // Also where another one is in the middle of something: it has seen more of the table than we have.
        if found.topic == self.settings.topic && found.reach.max(found.offset) > self.sealed {
            self.state = State::Ahead { found, seen, keys };
            return;
        }
        if !is_ours {
            return self.rebuild(seen, true, keys, now);
        }
        let generation = self.next_generation(Some(&found), now);
        let claimed = Watermark { generation, sub: 0, ..found };
        self.state = State::Live;
        self.send_from(seen, claimed, Commands::default(), 0, Vec::new(), now);
    }

    /// Redis is ahead of our table. The log decides: either it is ahead too, then we are late (a worker that was paused, or not
    /// restored yet); or it ends before, then the log has lost records and the view shows what never was.
    fn compare_with_log(&mut self, end: Offset, now: Time) {
        let State::Ahead { found, seen, keys } = std::mem::replace(&mut self.state, State::Probing) else { return };
        if found.offset > end && found.offset > self.sealed {
            return self.rebuild(seen, true, keys, now);
        }
        self.error =
            Some(format!("Redis shows offset {}, this worker has {}: waiting for the owner of the partition", found.offset, self.sealed));
        self.give_up(now.plus_ms(HEARTBEAT_MS));
    }

    /// Whether a watermark is of what this lane writes, by whomever and however far.
    fn is_of_this_view(&self, found: &Watermark) -> bool {
        found.topic == self.settings.topic && found.view == self.fingerprint
    }

    fn next_generation(&self, found: Option<&Watermark>, now: Time) -> Generation {
        let after = found.map_or(0, |found| found.generation.number + 1);
        Generation { number: now.0.max(after).max(self.mark.generation.number + 1), writer: self.settings.writer.clone() }
    }

    /// The outcome of the piece.
    fn judge(&mut self, reply: &Reply, now: Time) {
        let Some(pending) = self.piece.take() else { return };
        let replaced = match judge(&pending.piece, reply) {
            Outcome::Applied { replaced } => replaced,
            Outcome::AppliedBefore => 0,
            outcome => {
                self.note_rival(&outcome, now);
                return self.probe();
            }
        };
        self.mark = pending.piece.to;
        if self.mark.phase == Phase::Live {
            self.told = self.told.max(self.mark.offset);
        }
        self.written_at = now;
        self.progress += pending.rows;
        self.metrics.rows.inc_by(pending.rows);
        self.metrics.replaced.inc_by(replaced);
        let is_at_end = matches!(&self.state, State::Refilling { to, .. } if self.mark.offset == *to);
        if is_at_end {
            self.state = State::Live;
        }
        if matches!(&self.state, State::Rebuilding(_)) && self.mark.phase == Phase::Live {
            self.state = State::Live;
        }
        // Somebody had put a key of another type in the place of a collection: the members that it had are gone.
        let has_lost_members = replaced > 0 && matches!(self.settings.spec.shape, ViewShape::Zset | ViewShape::Set);
        if has_lost_members && !matches!(self.state, State::Rebuilding(_)) {
            self.give_up(now);
            self.rebuild(self.mark.stored(), true, None, now);
        }
    }

    fn note_rival(&mut self, outcome: &Outcome, now: Time) {
        let Outcome::Foreign(found) = outcome else { return };
        if found.generation.number <= self.mark.generation.number {
            self.rival = None; // an older copy of Redis, from before our time
            return;
        }
        let patience_ms = self.rival.as_ref().map_or(PATIENCE_MIN_MS, |rival| (rival.patience_ms * 2).min(PATIENCE_MAX_MS));
        self.rival = Some(Rival { generation: found.generation.clone(), patience_ms, until: now.plus_ms(patience_ms) });
    }

    fn send(&mut self, to: Watermark, commands: Commands, rows: u64, subjects: Vec<Subject>, now: Time) {
        self.send_from(self.mark.stored(), to, commands, rows, subjects, now);
    }

    fn send_from(&mut self, from: Stored, to: Watermark, commands: Commands, rows: u64, subjects: Vec<Subject>, now: Time) {
        debug_assert!(commands.has_ended(), "every command is of a row");
        let piece = Piece { watermark: self.watermark_key.clone(), from, to, time: now, commands };
        self.piece = Some(PendingPiece { piece, rows, subjects });
    }

    fn is_full(&self, commands: &Commands, rows: usize) -> bool {
        rows >= self.settings.rows_max || commands.byte_count() >= PIECE_BYTES_MAX || commands.arg_count() >= PIECE_ARGS_MAX
    }

    /// The next piece of the batches.
    fn write(&mut self, now: Time) {
        let State::Writing(mut work) = std::mem::replace(&mut self.state, State::Live) else { return };
        if work.next == work.items.len() && self.mark.offset == work.to {
            self.released += work.bytes;
            return;
        }
        let (mut commands, mut subjects, mut rows) = (Commands::default(), Vec::new(), 0);
        let first = work.next;
        while work.next < work.items.len() && !self.is_full(&commands, rows) {
            let (change, changed) = work.change(work.next);
            if self.renderer.render(&changed, Occasion::Change, &mut commands) != Rendered::Nothing {
                rows += 1;
            }
            if self.settings.is_traced {
                subjects.push((change.key_bytes.clone(), change.window));
            }
            work.next += 1;
        }
        let is_last = work.next == work.items.len();
        let sub = self.mark.sub + (work.next - first) as u64;
        let reach = self.mark.reach.max(work.to);
        let (offset, sub) = if is_last { (work.to, 0) } else { (self.mark.offset, sub) };
        let to = Watermark { offset, sub, reach, ..self.mark.clone() };
        self.state = State::Writing(work);
        self.send(to, commands, rows as u64, subjects, now);
    }

    /// The next piece of rows that were read from the store; `to`: the offset to move to once they are all written.
    fn write_rows(&mut self, to: Option<Offset>, now: Time) {
        let (mut commands, mut subjects, mut rows, mut taken) = (Commands::default(), Vec::new(), 0, 0);
        while !self.is_full(&commands, rows) {
            let Some(row) = self.pending.pop_front() else { break };
            let occasion = match &mut self.state {
                State::Rebuilding(rebuild) => Occasion::Rebuild(&mut rebuild.touched),
                _ => Occasion::Change,
            };
            if self.renderer.render(&row.changed(&self.no_headers), occasion, &mut commands) != Rendered::Nothing {
                rows += 1;
            }
            if self.settings.is_traced {
                subjects.push((row.key_bytes, row.window));
            }
            taken += 1;
        }
        let (offset, sub) = match to.filter(|_| self.pending.is_empty()) {
            Some(offset) => (offset, 0),
            None => (self.mark.offset, self.mark.sub + taken),
        };
        let mark = Watermark { offset, sub, reach: self.mark.reach.max(self.pending_sealed), ..self.mark.clone() };
        if commands.is_empty() && mark.offset == self.mark.offset {
            return; // nothing to write and not at the end: no need to tell Redis
        }
        self.send(mark, commands, rows as u64, subjects, now);
    }

    /// Begins to write the view anew over what is stored now. `was_there`: rows of this view may be in Redis that the table has
    /// no more; `keys`: the pattern under which an earlier version of the file wrote them.
    fn rebuild(&mut self, seen: Stored, was_there: bool, keys: Option<String>, now: Time) {
        let found = match Watermark::read(&seen) {
            Reading::Watermark(found) => Some(found),
            _ => None,
        };
        let generation = self.next_generation(found.as_ref(), now);
        let is_cut_short = |found: &&Watermark| self.is_of_this_view(found) && found.phase == Phase::Rebuild && found.offset <= self.sealed;
        let begun = found.as_ref().filter(is_cut_short).map(|found| found.offset);
        let to = Watermark {
            topic: self.settings.topic.clone(),
            view: self.fingerprint.clone(),
            generation,
            phase: Phase::Rebuild,
            offset: begun.unwrap_or(self.sealed),
            sub: 0,
            reach: self.sealed,
        };
        self.metrics.rebuilds.inc();
        self.progress = 0;
        self.pending.clear();
        let own = self.renderer.placement();
        let old = keys.as_deref().and_then(Pattern::read);
        let rebuild = Rebuild::new(own, &self.settings.spec, was_there, old, self.ledger_key(), self.told, begun);
        self.state = State::Rebuilding(Box::new(rebuild));
        self.send_from(seen, to, Commands::default(), 0, Vec::new(), now);
    }

    /// The Redis keys of the view's own bookkeeping, all hashes.
    pub fn bookkeeping_keys(&self) -> [String; 3] {
        [self.watermark_key.clone(), self.ledger_key(), self.owners_key()]
    }

    /// The lane ends: its gauges say nothing any more.
    pub fn retire(&self) {
        self.metrics.lag.set(0);
        self.metrics.age_ms.set(0);
    }

    fn ledger_key(&self) -> String {
        format!("{{{}:{}:{}}}:rows", self.settings.app, self.settings.spec.name, self.settings.partition)
    }

    fn owners_key(&self) -> String {
        format!("{{{}:{}}}:owners", self.settings.app, self.settings.spec.name)
    }

    fn finish_rebuild(&mut self, now: Time) {
        let State::Rebuilding(rebuild) = &self.state else { return };
        let mut commands = Commands::default();
        let pattern = self.renderer.placement().pattern().map(Pattern::to_string).unwrap_or_default();
        commands.start(Verb::Hset).arg(self.watermark_key.as_bytes()).arg(FIELD_KEYS.as_bytes()).arg(pattern.as_bytes());
        commands.end_row();
        let end = rebuild.end(self.source.partition_count(self.settings.spec.table));
        let offset = end.unwrap_or(self.mark.offset);
        let to = Watermark { phase: Phase::Live, offset, sub: 0, ..self.mark.clone() };
        self.send(to, commands, 0, Vec::new(), now);
    }

    /// Removes keys that look like the view's and belong to no row.
    fn sweep_keys(&mut self, cursor: u64, keys: Vec<Vec<u8>>, now: Time) {
        let State::Rebuilding(rebuild) = &mut self.state else { return };
        let Stage::Keys { patterns, .. } = rebuild.stage() else { return };
        let Some(pattern) = patterns.first().cloned() else { return };
        let knows_its_keys = rebuild.knows_its_keys(self.source.partition_count(self.settings.spec.table));
        let mut commands = Commands::default();
        let mut kept = 0;
        for key in keys.iter().filter(|key| !rebuild.touched.contains(key)) {
            let Some(text) = pattern.invert(key) else { continue };
            if self.settings.others.iter().any(|(view, other)| *view != self.settings.spec.name && other.fits(key)) {
                continue;
            }
            if self.source.partition_of(self.settings.spec.table, text) != Some(self.settings.partition) {
                continue;
            }
            if !knows_its_keys {
                kept += 1;
                continue;
            }
            commands.start(Verb::Unlink).arg(key);
            commands.end_row();
        }
        rebuild.turn(cursor);
        self.metrics.orphans_kept.inc_by(kept);
        self.sweep(commands, now);
    }

    /// Removes rows that the ledger knows and the table has no more.
    fn sweep_entries(&mut self, cursor: u64, entries: Vec<(Vec<u8>, Vec<u8>)>, now: Time) {
        let State::Rebuilding(rebuild) = &mut self.state else { return };
        rebuild.turn(cursor);
        let current = format!("{} ", self.mark.generation);
        let (ledger, owners) = (self.ledger_key(), self.owners_key());
        let leave: &[u8] = if self.settings.spec.on_delete == OnViewDelete::Keep { b"keep" } else { b"del" };
        let mut commands = Commands::default();
        for (row, _) in entries.iter().filter(|(_, entry)| !entry.starts_with(current.as_bytes())) {
            commands.start(Verb::Forget).arg(ledger.as_bytes()).arg(owners.as_bytes()).arg(row).arg(leave);
            commands.end_row();
        }
        self.sweep(commands, now);
    }

    fn sweep(&mut self, commands: Commands, now: Time) {
        let count = commands.row_count() as u64;
        if count > 0 {
            self.metrics.orphans.inc_by(count);
            let to = Watermark { sub: self.mark.sub + count, ..self.mark.clone() };
            self.send(to, commands, 0, Vec::new(), now);
        }
    }
}

impl Work {
    fn new(batches: Vec<Arc<CommittedBatch>>, bytes: usize, may_merge: bool) -> Work {
        let to = batches.last().map_or(Offset::default(), |last| last.next);
        let count = batches.iter().map(|batch| batch.changes.len()).sum();
        let mut items: Vec<Option<Item>> = Vec::with_capacity(count);
        // Within a batch each row changes once.
        let merges = may_merge && batches.len() > 1;
        let mut last: HashMap<(&[u8], Option<(Time, Time)>), usize> = HashMap::with_capacity(if merges { count } else { 0 });
        for (batch, changes) in (0u32..).zip(batches.iter().map(|batch| &batch.changes)) {
            for (change, row) in (0u32..).zip(changes) {
                let earlier = if merges { last.insert((&row.key_bytes, row.window), items.len()) } else { None };
                let earlier = earlier.and_then(|earlier| items[earlier].take());
                let first = earlier.map(|earlier| earlier.first.unwrap_or((earlier.batch, earlier.change)));
                items.push(Some(Item { batch, change, first }));
            }
        }
        drop(last);
        Work { items: items.into_iter().flatten().collect(), batches, next: 0, to, bytes }
    }
}
