//! The state of a task against a plain map: any order of reads, writes, commits, aborts, crashes, full disks and restores, with
//! budgets so small that everything is evicted and written back all the time.

mod disk;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow;

use proptest::prelude::*;

use crate::model::{Name, Offset, StoreId, Time};
use crate::state::backend::Backend;
use crate::state::layout;
use crate::state::memory::MemoryStorage;
use crate::state::{CacheBudget, Sealed, StateError, StoreSpec, TaskState};

const ROWS: StoreId = StoreId(0);
const WINDOWS: StoreId = StoreId(1);
const SEGMENT_MS: i64 = 10;
/// Before every window of the test.
const BEFORE_ALL: i64 = -1000;

/// A place where state lies that survives a crash.
trait Disk {
    fn open(&mut self) -> Box<dyn Backend>;
    /// Whether a flush that was begun has ended.
    fn is_synchronous(&self) -> bool;
    /// Ends a process that had `state` open: what was not flushed is gone.
    fn crash(&mut self, state: TaskState);
    /// Returns whether this disk can be full.
    fn set_full(&mut self, is_full: bool) -> bool;
    fn wipe(&mut self);
}

impl Disk for MemoryStorage {
    fn open(&mut self) -> Box<dyn Backend> {
        Box::new(MemoryStorage::open(self).unwrap())
    }

    fn is_synchronous(&self) -> bool {
        true
    }

    fn crash(&mut self, state: TaskState) {
        drop(state);
    }

    fn set_full(&mut self, is_full: bool) -> bool {
        MemoryStorage::set_full(self, is_full);
        true
    }

    fn wipe(&mut self) {
        MemoryStorage::wipe(self);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Get(StoreId, u8),
    Put(StoreId, u8, Vec<u8>),
    Delete(StoreId, u8),
    Scan(StoreId, u8, u8, usize),
    Commit,
    Abort,
    Flush,
    Tick(i64),
    DropSegments(i64),
    Crash,
    Close,
    FillDisk,
    /// The disk is lost: everything comes from the changelog.
    Wipe,
    /// The changelog was compacted beyond the stored offset.
    Rebuild(StoreId),
    /// A restore from the start, of a lost disk or of a store, is interrupted after so many records.
    InterruptedRestore {
        is_disk_lost: bool,
        records: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let store = prop_oneof![Just(ROWS), Just(WINDOWS)];
    let value = proptest::collection::vec(any::<u8>(), 0..6);
    prop_oneof![
        8 => (store.clone(), any::<u8>()).prop_map(|(store, key)| Step::Get(store, key)),
        16 => (store.clone(), any::<u8>(), value).prop_map(|(store, key, value)| Step::Put(store, key, value)),
        6 => (store.clone(), any::<u8>()).prop_map(|(store, key)| Step::Delete(store, key)),
        4 => (store.clone(), any::<u8>(), any::<u8>(), 0..20usize).prop_map(|(store, from, to, limit)| Step::Scan(store, from, to, limit)),
        8 => Just(Step::Commit),
        2 => Just(Step::Abort),
        1 => Just(Step::Flush),
        2 => (0..40_000i64).prop_map(Step::Tick),
        1 => (0..30i64).prop_map(Step::DropSegments),
        2 => Just(Step::Crash),
        1 => Just(Step::Close),
        1 => Just(Step::FillDisk),
        1 => Just(Step::Wipe),
        1 => store.prop_map(Step::Rebuild),
        1 => (any::<bool>(), 0..30usize).prop_map(|(is_disk_lost, records)| Step::InterruptedRestore { is_disk_lost, records }),
    ]
}

fn budget() -> impl Strategy<Value = CacheBudget> {
    (0..3000usize, 0..3000usize, 0..3000usize, 0..200u64).prop_map(|(cache_bytes, dirty_bytes, restore_bytes, restore_tail_max)| {
        CacheBudget { cache_bytes, dirty_bytes, restore_bytes, restore_tail_max, flush_interval_ms: 60_000 }
    })
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the task must look like.
#[derive(Default)]
struct Model {
    committed: [Rows; 2],
    open: [Rows; 2],
    /// Per store: keys in the order of first change.
    changed: [Vec<Vec<u8>>; 2],
    /// Per store: what was committed, by offset.
    changelog: [Vec<(Vec<u8>, Option<Vec<u8>>)>; 2],
    /// Windows that start earlier are gone, and are written no more.
    dropped_before: i64,
    /// Of the transaction that is open.
    drop_before: i64,
    /// Per store: offsets that a crash must not lose.
    durable: [Offset; 2],
}

/// A task on a disk, beside its model.
struct Run<'d> {
    disk: &'d mut dyn Disk,
    state: Option<TaskState>,
    budget: CacheBudget,
    model: Model,
    now: i64,
}

fn specs() -> Vec<StoreSpec> {
    let spec = |name: &str, segment_ms| StoreSpec { name: Name::parse(name).unwrap(), segment_ms };
    vec![spec("rows", None), spec("windows", Some(SEGMENT_MS))]
}

/// Few keys, so that steps meet: for windows four keys, of which one has a zero byte, by eight starts before and after 0.
fn key(store: StoreId, number: u8) -> Vec<u8> {
    if store == ROWS {
        if number % 16 == 3 {
            return Vec::new();
        }
        // Some are longer than what a key holds in place.
        let tail = if number.is_multiple_of(4) { "a-key-that-is-longer-than-twenty-four-bytes" } else { "" };
        return format!("\u{1}{:02}{tail}", number % 16).into_bytes();
    }
    let record_key = [&[1u8, 0][..], &[1, 7], &[1, 7, 0, 1], &[1]][usize::from(number % 4)];
    layout::windowed_key(record_key, Time(i64::from(number / 4 % 16) * 3 - 12)).to_vec()
}

fn start(key: &[u8]) -> i64 {
    layout::split_windowed_key(key).unwrap().1.0
}

/// The first window start that survives a drop.
fn limit(time: i64) -> i64 {
    time.div_euclid(SEGMENT_MS) * SEGMENT_MS
}

impl Run<'_> {
    fn state(&mut self) -> &mut TaskState {
        self.state.as_mut().unwrap()
    }

    fn open(&mut self) -> Result<(), StateError> {
        let backend = self.disk.open();
        self.state = Some(TaskState::open(backend, specs(), self.budget)?);
        Ok(())
    }

    fn crash(&mut self) {
        let state = self.state.take().unwrap();
        self.disk.crash(state);
        self.roll_back();
    }

    fn lose_disk(&mut self) {
        self.disk.wipe();
        self.model.durable = [Offset(0); 2];
    }

    /// The open transaction is gone.
    fn roll_back(&mut self) {
        self.model.open = self.model.committed.clone();
        self.model.changed = Default::default();
        self.model.drop_before = BEFORE_ALL;
    }

    /// What the runtime does at start: replays what the disk does not have. `from_start`: a store that must begin anew.
    fn restore(&mut self, from_start: Option<StoreId>) {
        let mut sealed = Sealed::default();
        for store in [ROWS, WINDOWS] {
            let stored = self.state().offsets().changelog(store).unwrap_or_default();
            let is_anew = from_start == Some(store) || self.state().offsets().changelog(store).is_none();
            let from = if is_anew { Offset(0) } else { stored };
            // What was read before must not be seen after.
            for number in 0..16 {
                self.state().get(store, &key(store, number)).unwrap();
            }
            if from_start == Some(store) {
                self.state().distrust(store).unwrap();
            }
            self.state().begin_restore(store, from).unwrap();
            for (index, (key, value)) in self.log_from(store, from, is_anew).into_iter().enumerate() {
                self.state().restore_put(store, &key, value.as_deref()).unwrap();
                if index % 4 == 0 {
                    // Timers are looked at while rows come in.
                    self.state().scan(store, Bound::Unbounded, Bound::Unbounded, |_, _| ControlFlow::Break(())).unwrap();
                }
            }
            sealed.changelogs.push((store, self.end(store)));
        }
        self.state().finish_restore(&sealed).unwrap();
        // The changelog brings windows back whose segment was dropped; the runtime drops them again.
        let time = Time(self.model.dropped_before);
        self.state().drop_segments_before(WINDOWS, time);
        self.state().seal(&Sealed::default()).unwrap();
        self.compare();
    }

    /// The changelog as a reader sees it: who fills a store anew may find it compacted, without tombstones.
    fn log_from(&self, store: StoreId, from: Offset, is_compacted: bool) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let log = &self.model.changelog[store.0];
        if !is_compacted {
            return log[from.0 as usize..].to_vec();
        }
        let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (index, (key, _)) in log.iter().enumerate() {
            last.insert(key, index);
        }
        let kept = log.iter().enumerate().filter(|(index, (key, value))| last[&key[..]] == *index && value.is_some());
        kept.map(|(_, record)| record.clone()).collect()
    }

    fn end(&self, store: StoreId) -> Offset {
        Offset(self.model.changelog[store.0].len() as i64)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Get(store, number) => {
                let key = key(store, number);
                let (open, committed) = (self.model.open[store.0].get(&key).cloned(), self.model.committed[store.0].get(&key).cloned());
                assert_eq!(self.state().get_committed(store, &key).unwrap(), committed.as_deref());
                assert_eq!(self.state().get(store, &key).unwrap(), open.as_deref());
                assert_eq!(self.state().get_committed(store, &key).unwrap(), committed.as_deref());
            }
            Step::Put(store, number, value) => self.change(store, key(store, number), Some(value)),
            Step::Delete(store, number) => self.change(store, key(store, number), None),
            Step::Scan(store, from, to, limit) => self.scan(store, key(store, from), key(store, to), limit),
            Step::Commit => self.commit(),
            Step::Abort => {
                self.state().drop_overlay();
                assert_eq!(self.state().overlay_bytes(), 0);
                self.roll_back();
                self.compare();
            }
            Step::Flush => {
                self.state().flush().unwrap();
                self.is_durable();
            }
            Step::Tick(ms) => {
                self.now += ms;
                let now = Time(self.now);
                if self.state().flush_if_due(now).unwrap() && self.disk.is_synchronous() {
                    self.is_durable();
                }
            }
            Step::DropSegments(time) => {
                self.model.drop_before = self.model.drop_before.max(time);
                self.state().drop_segments_before(WINDOWS, Time(time));
            }
            Step::Crash => {
                self.crash();
                self.open().unwrap();
                let mut tail = 0;
                for store in [ROWS, WINDOWS] {
                    let stored = self.state().offsets().changelog(store).unwrap_or_default();
                    self.check_disk(store, stored);
                    assert!(stored >= self.model.durable[store.0], "what was flushed is there: {stored}");
                    tail += self.end(store).0 - stored.0;
                }
                assert!(!self.disk.is_synchronous() || tail as u64 <= self.budget.restore_tail_max, "too much to replay: {tail}");
                self.restore(None);
            }
            Step::Close => {
                self.state.take().unwrap().close().unwrap();
                self.is_durable();
                self.roll_back();
                self.open().unwrap();
                let ends = [self.end(ROWS), self.end(WINDOWS)];
                for (store, end) in [ROWS, WINDOWS].into_iter().zip(ends) {
                    assert_eq!(self.state().offsets().changelog(store).unwrap_or_default(), end, "a clean close leaves nothing to replay");
                }
                self.compare();
            }
            Step::FillDisk => {
                if !self.disk.set_full(true) {
                    return;
                }
                let error = self.state().flush().unwrap_err();
                assert!(matches!(error, StateError::Io { .. }), "{error}");
                self.compare();
                self.disk.set_full(false);
            }
            Step::Wipe => {
                self.crash();
                self.lose_disk();
                self.open().unwrap();
                self.restore(None);
            }
            Step::Rebuild(store) => {
                self.crash();
                self.open().unwrap();
                self.restore(Some(store));
            }
            Step::InterruptedRestore { is_disk_lost, records } => self.interrupted_restore(is_disk_lost, records),
        }
    }

    /// What is on disk after a crash is at least what had been committed up to its offset: a row is that of its newest record up
    /// to there, or of a newer one.
    fn check_disk(&mut self, store: StoreId, stored: Offset) {
        let log = self.model.changelog[store.0].clone();
        let (upto, after) = log.split_at(stored.0 as usize);
        for (key, value) in upto {
            if store == WINDOWS && start(key) < limit(self.model.dropped_before) {
                continue;
            }
            let newest = upto.iter().rfind(|(other, _)| other == key).map_or(value, |(_, value)| value);
            let found = self.state().get_committed(store, key).unwrap().map(<[u8]>::to_vec);
            let is_newer = after.iter().any(|(other, value)| other == key && *value == found);
            assert!(found == *newest || is_newer, "{key:?} at {stored}: {found:?}");
        }
    }

    /// All that was sealed outlives a crash from now on.
    fn is_durable(&mut self) {
        self.model.durable = [self.end(ROWS), self.end(WINDOWS)];
    }

    fn change(&mut self, store: StoreId, key: Vec<u8>, value: Option<Vec<u8>>) {
        if store == WINDOWS && start(&key) < limit(self.model.dropped_before.max(self.model.drop_before)) {
            return;
        }
        let changed = &mut self.model.changed[store.0];
        let expected = changed.iter().position(|known| *known == key).unwrap_or_else(|| {
            changed.push(key.clone());
            changed.len() - 1
        });
        let ordinal = match &value {
            Some(value) => self.state().put(store, &key, value),
            None => self.state().delete(store, &key),
        };
        assert_eq!(ordinal.unwrap() as usize, expected);
        match value {
            Some(value) => self.model.open[store.0].insert(key, value),
            None => self.model.open[store.0].remove(&key),
        };
    }

    fn commit(&mut self) {
        let inputs = vec![(Name::parse("in").unwrap(), Offset(self.now))];
        let mut sealed = Sealed { changelogs: Vec::new(), inputs, as_of: Some(Time(self.now)) };
        for store in [ROWS, WINDOWS] {
            let state = self.state.as_ref().unwrap();
            assert_eq!(state.change_count(store), self.model.changed[store.0].len());
            for (change, key) in state.changes(store).zip(&self.model.changed[store.0]) {
                assert_eq!(change.key.as_slice(), &key[..]);
                assert_eq!(change.old, self.model.committed[store.0].get(key).map(|value| &value[..]));
                assert_eq!(change.new, self.model.open[store.0].get(key).map(|value| &value[..]));
                self.model.changelog[store.0].push((key.clone(), change.new.map(<[u8]>::to_vec)));
            }
            sealed.changelogs.push((store, self.end(store)));
        }
        self.state().seal(&sealed).unwrap();
        assert_eq!(self.state().overlay_bytes(), 0);
        self.model.committed = self.model.open.clone();
        if self.model.drop_before > self.model.dropped_before {
            self.model.dropped_before = self.model.drop_before;
            let limit = limit(self.model.dropped_before);
            self.model.committed[WINDOWS.0].retain(|key, _| start(key) >= limit);
        }
        self.roll_back();
        self.compare();
    }

    fn scan(&mut self, store: StoreId, from: Vec<u8>, to: Vec<u8>, limit: usize) {
        let bounds = [
            (Bound::Included(&from[..]), Bound::Excluded(&to[..])),
            (Bound::Excluded(&from[..]), Bound::Included(&to[..])),
            (Bound::Unbounded, Bound::Included(&to[..])),
            (Bound::Excluded(&from[..]), Bound::Unbounded),
        ];
        for (low, high) in bounds {
            let within = |key: &[u8]| {
                let above = match low {
                    Bound::Included(low) => key >= low,
                    Bound::Excluded(low) => key > low,
                    Bound::Unbounded => true,
                };
                above
                    && match high {
                        Bound::Included(high) => key <= high,
                        Bound::Excluded(high) => key < high,
                        Bound::Unbounded => true,
                    }
            };
            let expected = |rows: &Rows| -> Vec<_> {
                rows.iter().filter(|(key, _)| within(key)).take(limit.max(1)).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            let mut seen = Vec::new();
            let mut visit = |key: &[u8], value: &[u8]| {
                seen.push((key.to_vec(), value.to_vec()));
                if seen.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let state = self.state.as_mut().unwrap();
            state.scan(store, low, high, &mut visit).unwrap();
            assert_eq!(seen, expected(&self.model.open[store.0]));
            seen.clear();
            let mut visit = |key: &[u8], value: &[u8]| {
                seen.push((key.to_vec(), value.to_vec()));
                if seen.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            state.scan_committed(store, low, high, &mut visit).unwrap();
            assert_eq!(seen, expected(&self.model.committed[store.0]));
        }
    }

    /// A process ends while it fills the stores from the start of their changelogs, after it wrote what it had, or not.
    fn interrupted_restore(&mut self, is_disk_lost: bool, records: usize) {
        self.crash();
        if is_disk_lost {
            self.lose_disk();
        }
        self.open().unwrap();
        self.state().distrust(ROWS).unwrap();
        self.state().begin_restore(ROWS, Offset(0)).unwrap();
        for (key, value) in self.log_from(ROWS, Offset(0), true).into_iter().take(records) {
            self.state().restore_put(ROWS, &key, value.as_deref()).unwrap();
        }
        if records.is_multiple_of(2) {
            self.state().flush().unwrap();
        }
        self.crash();
        if let Err(error) = self.open() {
            assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
            self.lose_disk();
            self.open().unwrap();
        }
        assert!(self.state().offsets().changelog(ROWS).is_none(), "a part of the rows has no offset");
        self.model.durable[ROWS.0] = Offset(0);
        self.restore(None);
    }

    /// Every row, as the transaction and as queries see it.
    fn compare(&mut self) {
        for store in [ROWS, WINDOWS] {
            let mut open = Rows::new();
            let mut committed = Rows::new();
            let state = self.state.as_mut().unwrap();
            let (from, to) = (Bound::Unbounded, Bound::Unbounded);
            let mut collect = |key: &[u8], value: &[u8]| {
                open.insert(key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            };
            state.scan(store, from, to, &mut collect).unwrap();
            let mut collect = |key: &[u8], value: &[u8]| {
                committed.insert(key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            };
            state.scan_committed(store, from, to, &mut collect).unwrap();
            assert_eq!(open, self.model.open[store.0]);
            assert_eq!(committed, self.model.committed[store.0]);
        }
    }
}

fn check(disk: &mut dyn Disk, budget: CacheBudget, steps: Vec<Step>) {
    let model = Model { dropped_before: BEFORE_ALL, drop_before: BEFORE_ALL, ..Model::default() };
    let mut run = Run { disk, state: None, budget, model, now: 0 };
    run.open().unwrap();
    for step in steps {
        run.run(step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn state_over_memory_is_a_map_that_survives_crashes(
        budget in budget(), flush_every in 0..4u32, steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut storage = MemoryStorage::new();
        storage.set_flush_every(flush_every);
        check(&mut storage, budget, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn state_over_rocksdb_is_a_map_that_survives_crashes(budget in budget(), steps in proptest::collection::vec(step(), 1..60)) {
        check(&mut disk::RocksDisk::new(), budget, steps);
    }
}
