//! What operators read and write: the open transaction over sealed rows over the backend.
//!
//! The runtime calls, per transaction: `get`, `put`, `delete`, `scan`; then `changes` for the changelog; then, once Kafka has
//! committed, `seal`, or else `drop_overlay`. What stays true:
//! - The backend holds only what Kafka has committed.
//! - Offsets go to the backend in the same atomic batch as the rows below them, or in a later one: they are never ahead of the
//!   rows. Rows may be ahead of the offsets: a changelog record holds a whole row, so that replaying it once more changes nothing.
//! - With the WAL off a write makes nothing durable, so sealed rows wait here, over many commits, and go to the backend sorted
//!   and once per key (measured: 0.8 instead of 5 us per row).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::ops::ControlFlow;
use std::path::Path;

use crate::model::{Key, Name, Offset, StoreId, Time};
use crate::state::backend::{Backend, ColumnId, RowWrite, is_empty_range};
use crate::state::cache::{Cache, Found};
use crate::state::meta;
use crate::state::restore::Filling;
use crate::state::segments::Segments;

/// A store to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSpec {
    pub name: Name,
    /// Windowed stores: milliseconds of window starts per segment (a column family each; expiry drops it).
    pub segment_ms: Option<i64>,
}

/// A key that the open transaction changed, once per key, in the order of first change.
pub struct Change<'a> {
    /// Dense from 0 within a store and transaction; what `put` and `delete` returned.
    pub ordinal: u32,
    pub key: &'a Key,
    /// As of the last commit.
    pub old: Option<&'a [u8]>,
    pub new: Option<&'a [u8]>,
}

/// What becomes true on disk together with the rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sealed {
    /// Per store with a changelog: the offset to replay from.
    pub changelogs: Vec<(StoreId, Offset)>,
    /// Per input topic (the partition is the task's): the offset to read next.
    pub inputs: Vec<(Name, Offset)>,
    /// A wall clock before which no record was written that lies beyond the offsets. `None`: nobody knows.
    pub as_of: Option<Time>,
}

impl Sealed {
    /// The offset from which a store's changelog is to be replayed; `None` if the store has never been sealed.
    pub fn changelog(&self, store: StoreId) -> Option<Offset> {
        self.changelogs.iter().find(|(id, _)| *id == store).map(|(_, offset)| *offset)
    }

    /// The offset of an input topic to read next.
    pub fn input(&self, topic: &str) -> Option<Offset> {
        self.inputs.iter().find(|(name, _)| &**name == topic).map(|(_, offset)| *offset)
    }

    /// Takes over every offset of `newer`; offsets that it does not name stay.
    pub(super) fn merge(&mut self, newer: &Sealed) {
        for (store, offset) in &newer.changelogs {
            match self.changelogs.iter_mut().find(|(id, _)| id == store) {
                Some(known) => known.1 = *offset,
                None => self.changelogs.push((*store, *offset)),
            }
        }
        for (topic, offset) in &newer.inputs {
            match self.inputs.iter_mut().find(|(name, _)| name == topic) {
                Some(known) => known.1 = *offset,
                None => self.inputs.push((topic.clone(), *offset)),
            }
        }
        self.as_of = newer.as_of.or(self.as_of);
    }
}

/// What a task's state may hold in memory, and how much a restart may have to replay. The worker divides its budget by its tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheBudget {
    /// Rows in memory, in bytes; default 32 MiB. Clean rows are evicted beyond it. Rows of the open transaction come on top
    /// ([`TaskState::overlay_bytes`]).
    pub cache_bytes: usize,
    /// Sealed rows that are not in the backend yet, in bytes; default 8 MiB. Part of `cache_bytes`. More are written back.
    pub dirty_bytes: usize,
    /// Rows that a restore collects before it sorts and writes them, in bytes; default 32 MiB.
    pub restore_bytes: usize,
    /// Changelog records that a restart would replay; default 500,000, about half a second. More are made durable.
    pub restore_tail_max: u64,
    /// How old the oldest row that is not durable may get, in milliseconds of the clock given to `flush_if_due`; default 60,000.
    pub flush_interval_ms: i64,
}

impl Default for CacheBudget {
    fn default() -> CacheBudget {
        CacheBudget {
            cache_bytes: 32 << 20,
            dirty_bytes: 8 << 20,
            restore_bytes: 32 << 20,
            restore_tail_max: 500_000,
            flush_interval_ms: 60_000,
        }
    }
}

/// An error of the store. The task that owns it is closed; the log has everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateError {
    /// Disk full, permission, I/O: goes on after the cause is gone.
    Io { what: String, cause: String },
    /// Checksum, header or format: rebuilt from the log.
    Corrupt { what: String, cause: String },
    /// Locked: another thread of this worker is closing it, or another process uses it. May be free in a moment.
    Busy { what: String, cause: String },
    /// Of another app, of a newer format, unsafe: refused, with the folder's name.
    Refused { what: String, cause: String },
}

impl StateError {
    /// Says in which folder it happened, where the error does not.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> StateError {
        let (StateError::Io { what, .. }
        | StateError::Corrupt { what, .. }
        | StateError::Busy { what, .. }
        | StateError::Refused { what, .. }) = &mut self;
        let folder = folder.display().to_string();
        if !what.contains(&folder) {
            *what = format!("{what} in {folder}");
        }
        self
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (StateError::Io { what, cause }
        | StateError::Corrupt { what, cause }
        | StateError::Busy { what, cause }
        | StateError::Refused { what, cause }) = self;
        write!(f, "cannot {what}: {cause}")
    }
}

impl std::error::Error for StateError {}

/// Rows in one batch of the backend, so that a batch is a few megabytes at most where rows are of usual size.
const WRITE_ROWS_MAX: usize = 8192;

/// Steps of the clock's hand for each row that is read in, so that no single read pays for many evictions.
const EVICT_STEPS: usize = 32;

/// One store.
pub(super) struct Store {
    pub spec: StoreSpec,
    pub cache: Cache,
    pub columns: Segments,
    /// Segments before this window start are dropped with the next seal.
    pub drop_before: Option<Time>,
    pub filling: Filling,
}

/// The state of one task: its stores, and the offsets at which they stand.
///
/// Owned and used by one thread. An error of any method but `open` leaves what is in memory as it was, and the caller closes
/// the task; dropping the state without [`TaskState::close`] loses nothing that the changelog does not have.
pub struct TaskState {
    pub(super) backend: Box<dyn Backend>,
    pub(super) stores: Vec<Store>,
    pub(super) meta: ColumnId,
    pub(super) budget: CacheBudget,
    /// The newest.
    pub(super) sealed: Sealed,
    /// As of the last flush that was begun.
    pub(super) flushed: Sealed,
    pub(super) flushed_at: Option<Time>,
    /// A value read for a query, which does not go through the cache.
    pub(super) scratch: Option<Box<[u8]>>,
}

impl TaskState {
    /// Opens the stores of a task over a backend. A store's index in `stores` is its [`StoreId`].
    ///
    /// # Errors
    /// [`StateError::Refused`] for a format newer than ours, [`StateError::Corrupt`] if a restore was interrupted half-way or offsets cannot be
    /// read: wipe the storage and restore, [`StateError::Io`].
    pub fn open(mut backend: Box<dyn Backend>, stores: Vec<StoreSpec>, budget: CacheBudget) -> Result<TaskState, StateError> {
        let names = backend.columns();
        let meta = backend.open_column(meta::COLUMN)?;
        meta::check_format(&mut *backend, meta)?;
        let mut opened = Vec::with_capacity(stores.len());
        for spec in stores {
            let columns = Segments::open(&mut *backend, &spec, &names)?;
            opened.push(Store { spec, cache: Cache::default(), columns, drop_before: None, filling: Filling::Tail });
        }
        let sealed = meta::read_offsets(&*backend, meta, opened.iter().map(|store| &store.spec.name))?;
        Ok(TaskState { backend, stores: opened, meta, budget, flushed: sealed.clone(), sealed, flushed_at: None, scratch: None })
    }

    /// Sets a new budget, as tasks come and go. It takes effect with the next seal.
    pub fn set_budget(&mut self, budget: CacheBudget) {
        self.budget = budget;
    }

    /// The value of a key as the open transaction sees it.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    #[inline]
    pub fn get(&mut self, store: StoreId, key: &[u8]) -> Result<Option<&[u8]>, StateError> {
        let slot = self.load(store, key)?;
        Ok(self.stores[store.0].cache.value(slot))
    }

    /// Looks at what memory has of a key, so that look-ups of several keys wait for memory together and not one after the
    /// other. Give the number to `black_box`, once for many.
    #[inline]
    pub fn warm(&self, store: StoreId, key: &[u8]) -> u8 {
        self.stores[store.0].cache.warm(key)
    }

    /// Sets the value of a key in the open transaction. Returns the key's ordinal in [`TaskState::changes`].
    #[inline]
    pub fn put(&mut self, store: StoreId, key: &[u8], value: &[u8]) -> Result<u32, StateError> {
        let slot = self.load(store, key)?;
        Ok(self.stores[store.0].cache.set(slot, Some(value)))
    }

    /// Deletes a key in the open transaction, also one that is not there. Returns the key's ordinal in [`TaskState::changes`].
    #[inline]
    pub fn delete(&mut self, store: StoreId, key: &[u8]) -> Result<u32, StateError> {
        let slot = self.load(store, key)?;
        Ok(self.stores[store.0].cache.set(slot, None))
    }

    /// The value of a key as the last commit left it, for queries: the open transaction is not seen, and the cache is left alone.
    pub fn get_committed(&mut self, store: StoreId, key: &[u8]) -> Result<Option<&[u8]>, StateError> {
        let TaskState { stores, backend, scratch, .. } = self;
        let store = &mut stores[store.0];
        if let Found::At(slot) = store.cache.find(key) {
            return Ok(store.cache.committed(slot));
        }
        *scratch = store.columns.get(&**backend, key)?;
        Ok(scratch.as_deref())
    }

    /// How many keys of a store the open transaction has changed.
    pub fn change_count(&self, store: StoreId) -> usize {
        self.stores[store.0].cache.change_count()
    }

    /// The keys of a store that the open transaction has changed, in the order of first change, also those whose value has
    /// come back to what it was.
    pub fn changes(&self, store: StoreId) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.stores[store.0].cache.changes()
    }

    /// Bytes of the sealed rows in memory: those that are not in the backend yet, and those kept for the next look.
    pub fn cache_bytes(&self) -> usize {
        self.stores.iter().map(|store| store.cache.bytes().0).sum()
    }

    /// Bytes that the open transaction holds: the runtime commits early when they are too many.
    pub fn overlay_bytes(&self) -> usize {
        self.stores.iter().map(|store| store.cache.overlay_bytes()).sum()
    }

    /// Forgets the open transaction: it was aborted.
    pub fn drop_overlay(&mut self) {
        for store in &mut self.stores {
            store.cache.abort();
            store.drop_before = None;
        }
    }

    /// Drops the segments of a windowed store that hold only windows that start before `time`, with the next seal (not after an abort).
    /// Until then their windows are seen. Nothing is written to the changelog.
    pub fn drop_segments_before(&mut self, store: StoreId, time: Time) {
        let store = &mut self.stores[store.0];
        store.drop_before = store.drop_before.max(Some(time));
    }

    /// Makes the open transaction the committed state: Kafka has committed it. Offsets that `sealed` does not name stay.
    ///
    /// Writes back if the budget asks for it.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`]: the commit stands all the same, in the log; close the task and restore.
    pub fn seal(&mut self, sealed: &Sealed) -> Result<(), StateError> {
        for store in &mut self.stores {
            store.cache.seal();
        }
        self.sealed.merge(sealed);
        self.drop_segments()?;
        self.settle()
    }

    /// The offsets at which the stores stand: after `open` as on disk, then as last sealed.
    pub fn offsets(&self) -> &Sealed {
        &self.sealed
    }

    /// Begins a flush when the last one is `flush_interval_ms` ago, so that a quiet task's offsets do not grow old. To be called
    /// every second or so, between transactions. Returns whether it did.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn flush_if_due(&mut self, now: Time) -> Result<bool, StateError> {
        let last = *self.flushed_at.get_or_insert(now);
        if now < last.plus_ms(self.budget.flush_interval_ms) {
            return Ok(false);
        }
        self.flushed_at = Some(now);
        if self.flushed == self.sealed && self.dirty_count() == 0 {
            return Ok(false);
        }
        self.start_flush()?;
        Ok(true)
    }

    /// Makes all that was sealed durable before it returns. The open transaction stays as it is.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn flush(&mut self) -> Result<(), StateError> {
        self.write_back()?;
        self.backend.flush()?;
        self.flushed = self.sealed.clone();
        Ok(())
    }

    /// Flushes and closes. The open transaction is lost.
    ///
    /// # Errors
    /// [`StateError::Io`]: what could not be flushed is replayed from the changelog.
    pub fn close(mut self) -> Result<(), StateError> {
        self.drop_overlay();
        self.flush()
    }

    /// A value of the task's own metadata, such as a topic's id or a descriptor of a store.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    pub fn meta_get(&self, name: &str) -> Result<Option<Box<[u8]>>, StateError> {
        self.backend.get(self.meta, &meta::user_key(name))
    }

    /// Sets a value of the metadata; durable with the next flush, not part of a transaction.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn meta_put(&mut self, name: &str, value: &[u8]) -> Result<(), StateError> {
        let row = RowWrite { column: self.meta, key: &meta::user_key(name), value: Some(value) };
        self.backend.write(&mut std::iter::once(row))
    }

    /// Visits the rows between the bounds in the order of keys, as the open transaction sees them, until the visitor breaks off.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`]: the visit is then incomplete and must not be used.
    pub fn scan(
        &mut self,
        store: StoreId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        self.scan_by(store, from, to, Cache::value, visit)
    }

    /// Like [`TaskState::scan`], but of what the last commit left, for queries.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`]: the visit is then incomplete and must not be used.
    pub fn scan_committed(
        &mut self,
        store: StoreId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        self.scan_by(store, from, to, Cache::committed, visit)
    }

    /// Merges what is in memory over the backend; `value_of` says which of an entry's values counts.
    fn scan_by(
        &mut self,
        store: StoreId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        value_of: fn(&Cache, u32) -> Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        if is_empty_range(from, to) {
            return Ok(());
        }
        let TaskState { stores, backend, .. } = self;
        let store = &mut stores[store.0];
        store.cache.sort();
        let cache = &store.cache;
        let mut newer = cache.ordered(from, to).peekable();
        let mut flow = ControlFlow::Continue(());
        store.columns.scan(&**backend, from, to, &mut |key, value| {
            while flow.is_continue()
                && let Some(slot) = newer.next_if(|&slot| cache.key(slot).as_slice() < key)
            {
                flow = value_of(cache, slot).map_or(ControlFlow::Continue(()), |value| visit(cache.key(slot), value));
            }
            if flow.is_continue() {
                let value = match newer.next_if(|&slot| cache.key(slot).as_slice() == key) {
                    Some(slot) => value_of(cache, slot),
                    None => Some(value),
                };
                flow = value.map_or(ControlFlow::Continue(()), |value| visit(key, value));
            }
            flow
        })?;
        while flow.is_continue()
            && let Some(slot) = newer.next()
        {
            flow = value_of(cache, slot).map_or(ControlFlow::Continue(()), |value| visit(cache.key(slot), value));
        }
        Ok(())
    }

    /// The slot of a key, read from the backend if it is not in memory.
    #[inline]
    fn load(&mut self, store: StoreId, key: &[u8]) -> Result<u32, StateError> {
        match self.stores[store.0].cache.find(key) {
            Found::At(slot) => Ok(slot),
            Found::Missing(hash) => self.read_in(store, hash, key),
        }
    }

    fn read_in(&mut self, store: StoreId, hash: u32, key: &[u8]) -> Result<u32, StateError> {
        self.make_room();
        let TaskState { stores, backend, .. } = self;
        let store = &mut stores[store.0];
        let value = store.columns.get(&**backend, key)?;
        store.columns.touch(key);
        Ok(store.cache.insert(hash, key, value))
    }

    /// Evicts a little from the store that holds the most, if the budget is used up.
    fn make_room(&mut self) {
        let held: usize = self.stores.iter().map(|store| store.cache.bytes().0).sum();
        if held > self.budget.cache_bytes
            && let Some(largest) = self.stores.iter_mut().max_by_key(|store| store.cache.bytes().0)
        {
            largest.cache.evict(held - self.budget.cache_bytes, EVICT_STEPS);
        }
    }

    /// After a commit: writes back, flushes and evicts what the budget does not allow to wait.
    pub(super) fn settle(&mut self) -> Result<(), StateError> {
        if self.tail() > self.budget.restore_tail_max {
            self.start_flush()?;
        } else if self.dirty_bytes() > self.budget.dirty_bytes {
            self.write_back()?;
        }
        let held: usize = self.stores.iter().map(|store| store.cache.bytes().0).sum();
        let mut excess = held.saturating_sub(self.budget.cache_bytes);
        for store in &mut self.stores {
            let steps = store.cache.full_turn();
            excess = excess.saturating_sub(store.cache.evict(excess, steps));
        }
        Ok(())
    }

    /// Changelog records that a restart would replay.
    fn tail(&self) -> u64 {
        let tails = self.sealed.changelogs.iter().map(|(store, sealed)| {
            let flushed = self.flushed.changelog(*store).unwrap_or_default();
            sealed.0.saturating_sub(flushed.0).max(0) as u64
        });
        tails.sum()
    }

    fn dirty_bytes(&self) -> usize {
        self.stores.iter().map(|store| store.cache.bytes().1).sum()
    }

    fn dirty_count(&self) -> usize {
        self.stores.iter().map(|store| store.cache.dirty_count()).sum()
    }

    fn start_flush(&mut self) -> Result<(), StateError> {
        self.write_back()?;
        self.backend.start_flush()?;
        self.flushed = self.sealed.clone();
        Ok(())
    }

    /// Writes all dirty rows, sorted by key, and the offsets in one atomic batch.
    fn write_back(&mut self) -> Result<(), StateError> {
        let everything = 0..self.stores.len();
        let offsets = meta::offset_rows(&self.sealed, |store| &self.stores[store.0].spec.name);
        self.write_dirty(everything, &offsets)
    }

    /// Writes the dirty rows of some stores, in pieces, and rows of `meta` with the last one: rows may be ahead of offsets, and one
    /// batch of them all would take as much memory again as they do.
    pub(super) fn write_dirty(
        &mut self,
        which: std::ops::Range<usize>,
        meta_rows: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), StateError> {
        let TaskState { stores, backend, meta, .. } = self;
        let stores = &mut stores[which];
        let mut sorted = Vec::with_capacity(stores.len());
        for store in stores.iter_mut() {
            let slots = store.cache.dirty_sorted();
            for &slot in &slots {
                store.columns.make(&mut **backend, &store.spec, store.cache.key(slot))?;
            }
            sorted.push(slots);
        }
        let mut rows = stores.iter().zip(&sorted).flat_map(|(store, slots)| {
            slots.iter().map(|&slot| {
                let row = store.cache.dirty_row(slot);
                RowWrite { column: store.columns.column(row.key), key: row.key, value: row.value }
            })
        });
        let offsets = meta_rows.iter().map(|(key, value)| RowWrite { column: *meta, key, value: value.as_deref() });
        let mut left: usize = sorted.iter().map(Vec::len).sum();
        while left > WRITE_ROWS_MAX {
            backend.write(&mut rows.by_ref().take(WRITE_ROWS_MAX))?;
            left -= WRITE_ROWS_MAX;
        }
        backend.write(&mut rows.chain(offsets))?;
        for store in stores {
            store.cache.written();
        }
        Ok(())
    }

    fn drop_segments(&mut self) -> Result<(), StateError> {
        let TaskState { stores, backend, .. } = self;
        for store in stores {
            if let Some(time) = store.drop_before.take()
                && let Some(gone) = store.columns.drop_before(&mut **backend, time)?
            {
                store.cache.forget(gone);
            }
        }
        Ok(())
    }
}
