//! The rows of one store that are in memory: sealed rows, what the open transaction changes in them, and what of them is not in
//! the backend yet, all found by one look-up.
//!
//! Pure memory: reads and writes no backend. What stays true:
//! - An entry always knows the committed value (or that there is none), so a change always knows what it replaced.
//! - A pending value lives in the arena of the open transaction, found by the entry's ordinal; abort and seal clear the arena.
//! - An entry that is dirty (committed, not in the backend) or pending is never evicted.
//! - Nothing that comes out depends on hashes: entries are numbered in the order of arrival.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::ops::Bound;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::model::Key;
use crate::state::core::Change;

/// Entries per slab: 64 KiB. Slabs are never moved, so growth copies nothing.
const SLAB_ENTRIES: usize = 1 << SLAB_BITS;
const SLAB_BITS: u32 = 10;

/// Bytes that an entry costs beside its key and value: itself, its share of the hash table (8 bytes and a tag at three quarters
/// full) and the header of one allocation.
const ENTRY_BYTES: usize = size_of::<Entry>() + 12 + 16;

/// Bytes that a change costs beside its value.
const CHANGE_BYTES: usize = size_of::<Pending>();

const NO_ORDINAL: u32 = u32::MAX;

/// Changes whose memory is asked for together: as many misses as a CPU has under way at once, a few times over.
const WARM_CHANGES: usize = 32;

/// There is a committed value.
const PRESENT: u8 = 1;
/// The committed value is not in the backend yet.
const DIRTY: u8 = 2;
/// Used since the clock's hand came by.
const REFERENCED: u8 = 4;
/// The slot is free.
const FREE: u8 = 8;

/// One cache line, so that a look-up waits for memory once less.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    key: Key,
    /// The committed value; empty where there is none.
    committed: Box<[u8]>,
    hash: u32,
    /// Index of the pending change, or [`NO_ORDINAL`].
    ordinal: u32,
    flags: u8,
}

/// What the hash table holds. The hash stands beside the slot, so that growing the table does not touch the entries.
#[derive(Clone, Copy, Debug)]
struct Pointer {
    hash: u32,
    slot: u32,
}

/// A change of the open transaction. Its value lies in the arena.
#[derive(Clone, Copy, Debug)]
struct Pending {
    slot: u32,
    /// `false` deletes.
    is_put: bool,
    start: usize,
    length: usize,
    /// Room at `start`, so that a later value of the same key that is no longer replaces this one in place.
    capacity: usize,
}

/// Result of a look-up.
pub(super) enum Found {
    /// The slot.
    At(u32),
    /// Not in memory; the hash is for [`Cache::insert`].
    Missing(u32),
}

/// A dirty row on its way to the backend.
pub(super) struct DirtyRow<'a> {
    pub key: &'a Key,
    pub value: Option<&'a [u8]>,
}

/// Rows of one store in memory.
#[derive(Debug, Default)]
pub(super) struct Cache {
    hasher: RandomState,
    table: HashTable<Pointer>,
    slabs: Vec<Vec<Entry>>,
    free: Vec<u32>,
    /// The slot found last: `get` and then `put` of one key is one look-up.
    last: Option<u32>,
    hand: u32,
    bytes: usize,
    changes: Vec<Pending>,
    arena: Vec<u8>,
    /// Slots of dirty entries, in the order in which they became dirty.
    dirty: Vec<u32>,
    dirty_bytes: usize,
    /// Dirty and pending entries by key. Made by the first scan and kept up until the next write-back, so that stores that
    /// nobody scans pay nothing.
    order: Option<BTreeMap<Key, u32>>,
}

impl Cache {
    /// Looks a key up.
    #[inline]
    pub fn find(&mut self, key: &[u8]) -> Found {
        if let Some(slot) = self.last
            && self.entry(slot).key.as_slice() == key
        {
            return Found::At(slot);
        }
        let hash = self.hash(key);
        let Cache { table, slabs, .. } = self;
        let found = table.find(spread(hash), |pointer| pointer.hash == hash && entry_in(slabs, pointer.slot).key.as_slice() == key);
        match found.map(|pointer| pointer.slot) {
            Some(slot) => {
                self.entry_mut(slot).flags |= REFERENCED;
                self.last = Some(slot);
                Found::At(slot)
            }
            None => Found::Missing(hash),
        }
    }

    /// Looks a key up and forgets it: what a later look-up waits for is on its way into the CPU's caches then. The number means
    /// nothing; it depends on all that was looked at, so that the compiler leaves none of it out.
    #[inline]
    pub fn warm(&self, key: &[u8]) -> u8 {
        let hash = self.hash(key);
        let slabs = &self.slabs;
        let found = self.table.find(spread(hash), |pointer| pointer.hash == hash && entry_in(slabs, pointer.slot).key.as_slice() == key);
        found.map_or(0, |pointer| self.touch(pointer.slot))
    }

    #[inline]
    fn touch(&self, slot: u32) -> u8 {
        let committed = &self.entry(slot).committed;
        committed.first().copied().unwrap_or(0) ^ committed.last().copied().unwrap_or(0)
    }

    /// Adds a key that is not there, with its value in the backend.
    pub fn insert(&mut self, hash: u32, key: &[u8], committed: Option<Box<[u8]>>) -> u32 {
        let flags = if committed.is_some() { PRESENT } else { 0 };
        let entry = Entry { key: Key::from_slice(key), committed: committed.unwrap_or_default(), hash, ordinal: NO_ORDINAL, flags };
        self.bytes += cost(&entry);
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.entry_mut(slot) = entry;
                slot
            }
            None => self.push(entry),
        };
        self.table.insert_unique(spread(hash), Pointer { hash, slot }, |pointer| spread(pointer.hash));
        self.last = Some(slot);
        slot
    }

    /// What the open transaction sees.
    #[inline]
    pub fn value(&self, slot: u32) -> Option<&[u8]> {
        let entry = self.entry(slot);
        match self.changes.get(entry.ordinal as usize) {
            Some(pending) => self.pending_value(pending),
            None => committed(entry),
        }
    }

    /// What the last commit left.
    pub fn committed(&self, slot: u32) -> Option<&[u8]> {
        committed(self.entry(slot))
    }

    /// Changes an entry in the open transaction; `None` deletes. Returns its ordinal.
    #[inline]
    pub fn set(&mut self, slot: u32, value: Option<&[u8]>) -> u32 {
        let ordinal = self.entry(slot).ordinal;
        let Some(pending) = self.changes.get_mut(ordinal as usize) else {
            return self.first_change(slot, value);
        };
        pending.is_put = value.is_some();
        let value = value.unwrap_or_default();
        if value.len() > pending.capacity {
            // It grew, so it may grow again (a list that collects): half as much room more, so that the arena stays linear.
            pending.start = self.arena.len();
            pending.capacity = value.len() + value.len() / 2;
            self.arena.extend_from_slice(value);
            self.arena.resize(pending.start + pending.capacity, 0);
        } else {
            self.arena[pending.start..pending.start + value.len()].copy_from_slice(value);
        }
        pending.length = value.len();
        ordinal
    }

    fn first_change(&mut self, slot: u32, value: Option<&[u8]>) -> u32 {
        let ordinal = self.changes.len() as u32;
        let is_put = value.is_some();
        let value = value.unwrap_or_default();
        self.changes.push(Pending { slot, is_put, start: self.arena.len(), length: value.len(), capacity: value.len() });
        self.arena.extend_from_slice(value);
        let Cache { slabs, order, .. } = self;
        let entry = entry_in_mut(slabs, slot);
        entry.ordinal = ordinal;
        if let Some(order) = order {
            order.insert(entry.key.clone(), slot);
        }
        ordinal
    }

    pub fn change_count(&self) -> usize {
        self.changes.len()
    }

    /// Changes of the open transaction, by ordinal.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.changes.iter().enumerate().map(|(ordinal, pending)| {
            if ordinal % WARM_CHANGES == 0 {
                self.warm_changes(ordinal);
            }
            let entry = self.entry(pending.slot);
            Change { ordinal: ordinal as u32, key: &entry.key, old: committed(entry), new: self.pending_value(pending) }
        })
    }

    /// Entries lie where their keys came first, values where the allocator found room: each change waits for memory two times.
    /// Asked for together, several wait at once (measured: half of the time of reading a row was waiting for its first byte).
    fn warm_changes(&self, from: usize) {
        let changes = self.changes.iter().skip(from).take(WARM_CHANGES);
        std::hint::black_box(changes.fold(0, |sum, pending| sum ^ self.touch(pending.slot)));
    }

    /// Bytes that the open transaction holds.
    pub fn overlay_bytes(&self) -> usize {
        self.arena.len() + self.changes.len() * CHANGE_BYTES
    }

    /// Forgets the open transaction.
    pub fn abort(&mut self) {
        let Cache { slabs, changes, order, .. } = self;
        for pending in changes.drain(..) {
            let entry = entry_in_mut(slabs, pending.slot);
            entry.ordinal = NO_ORDINAL;
            if let Some(order) = order
                && entry.flags & DIRTY == 0
            {
                order.remove(&entry.key);
            }
        }
        self.arena.clear();
    }

    /// Makes the open transaction the committed state: what it changed becomes dirty.
    pub fn seal(&mut self) {
        for ordinal in (0..self.changes.len()).step_by(WARM_CHANGES) {
            self.warm_changes(ordinal);
            self.seal_changes(ordinal..(ordinal + WARM_CHANGES).min(self.changes.len()));
        }
        self.changes.clear();
        self.arena.clear();
    }

    fn seal_changes(&mut self, which: std::ops::Range<usize>) {
        let Cache { slabs, changes, arena, order, dirty, dirty_bytes, bytes, .. } = self;
        for pending in &changes[which] {
            let entry = entry_in_mut(slabs, pending.slot);
            entry.ordinal = NO_ORDINAL;
            let new = pending.is_put.then(|| &arena[pending.start..pending.start + pending.length]);
            if committed(entry) == new {
                if let Some(order) = order
                    && entry.flags & DIRTY == 0
                {
                    order.remove(&entry.key);
                }
                continue;
            }
            let before = cost(entry);
            commit(entry, new);
            let after = cost(entry);
            *bytes = *bytes + after - before;
            if entry.flags & DIRTY == 0 {
                entry.flags |= DIRTY;
                dirty.push(pending.slot);
                *dirty_bytes += after;
            } else {
                *dirty_bytes = *dirty_bytes + after - before;
            }
        }
    }

    /// Sets the committed value of a key directly, as the changelog has it, without knowing the old one.
    pub fn restore(&mut self, key: &[u8], value: Option<&[u8]>) {
        let slot = match self.find(key) {
            Found::At(slot) => slot,
            Found::Missing(hash) => self.insert(hash, key, None),
        };
        let Cache { slabs, order, dirty, dirty_bytes, bytes, .. } = self;
        let entry = entry_in_mut(slabs, slot);
        let before = cost(entry);
        commit(entry, value);
        let after = cost(entry);
        *bytes = *bytes + after - before;
        if entry.flags & DIRTY == 0 {
            entry.flags |= DIRTY;
            dirty.push(slot);
            *dirty_bytes += after;
            if let Some(order) = order {
                order.insert(entry.key.clone(), slot);
            }
        } else {
            *dirty_bytes = *dirty_bytes + after - before;
        }
    }

    /// Bytes of all entries, and bytes of those that are dirty.
    pub fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.dirty_bytes)
    }

    pub fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Slots of the dirty entries, sorted by key.
    pub fn dirty_sorted(&self) -> Vec<u32> {
        // Sixteen bytes of the key decide nearly every comparison without a look at the entry, which is rarely in the CPU's cache.
        let mut keyed: Vec<(u128, u32)> = self.dirty.iter().map(|&slot| (prefix(&self.entry(slot).key), slot)).collect();
        keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.entry(a.1).key.cmp(&self.entry(b.1).key)));
        keyed.into_iter().map(|(_, slot)| slot).collect()
    }

    pub fn dirty_row(&self, slot: u32) -> DirtyRow<'_> {
        let entry = self.entry(slot);
        DirtyRow { key: &entry.key, value: committed(entry) }
    }

    /// All dirty entries are in the backend now.
    pub fn written(&mut self) {
        let Cache { slabs, dirty, .. } = self;
        for slot in dirty.drain(..) {
            entry_in_mut(slabs, slot).flags &= !DIRTY;
        }
        self.dirty_bytes = 0;
        self.order = None;
    }

    /// Sorts the dirty and pending entries, unless they are sorted already; before [`Cache::ordered`].
    pub fn sort(&mut self) {
        if self.order.is_none() {
            let slots = self.dirty.iter().copied().chain(self.changes.iter().map(|pending| pending.slot));
            self.order = Some(slots.map(|slot| (self.entry(slot).key.clone(), slot)).collect());
        }
    }

    /// Slots of dirty and pending entries between the bounds, by key. The range must not be empty by its bounds.
    pub fn ordered(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> impl Iterator<Item = u32> {
        self.order.iter().flat_map(move |order| order.range::<[u8], _>((from, to))).map(|(_, &slot)| slot)
    }

    pub fn key(&self, slot: u32) -> &Key {
        &self.entry(slot).key
    }

    /// Evicts clean entries that were not used lately until `bytes` are free or the hand has made `steps`; the clock algorithm.
    /// Returns the bytes that became free.
    pub fn evict(&mut self, bytes: usize, steps: usize) -> usize {
        let slots = self.slot_count();
        let mut freed = 0;
        for _ in 0..steps {
            if freed >= bytes || slots == 0 {
                break;
            }
            let slot = if self.hand < slots { self.hand } else { 0 };
            self.hand = slot + 1;
            let entry = self.entry_mut(slot);
            if entry.flags & (FREE | DIRTY) != 0 || entry.ordinal != NO_ORDINAL {
                continue;
            }
            if entry.flags & REFERENCED != 0 {
                entry.flags &= !REFERENCED;
                continue;
            }
            freed += self.remove(slot);
        }
        freed
    }

    /// Forgets committed rows by key, dirty ones too: their column was dropped. The overlay must be empty.
    pub fn forget(&mut self, mut gone: impl FnMut(&[u8]) -> bool) {
        debug_assert!(self.changes.is_empty(), "rows are forgotten between transactions");
        for slot in 0..self.slot_count() {
            let entry = self.entry(slot);
            if entry.flags & FREE != 0 || !gone(&entry.key) {
                continue;
            }
            if entry.flags & DIRTY != 0 {
                self.dirty_bytes -= cost(self.entry(slot));
            }
            self.remove(slot);
        }
        let Cache { slabs, dirty, .. } = self;
        dirty.retain(|&slot| entry_in(slabs, slot).flags & DIRTY != 0);
        self.order = None;
    }

    /// How many steps of the hand pass every entry twice: once to take its second chance, once to evict it.
    pub fn full_turn(&self) -> usize {
        self.slot_count() as usize * 2
    }

    fn remove(&mut self, slot: u32) -> usize {
        let entry = self.entry_mut(slot);
        let cost = cost(entry);
        let hash = entry.hash;
        *entry = Entry { key: Key::new(), committed: Box::default(), hash: 0, ordinal: NO_ORDINAL, flags: FREE };
        if let Ok(occupied) = self.table.find_entry(spread(hash), |pointer| pointer.slot == slot) {
            occupied.remove();
        }
        if self.last == Some(slot) {
            self.last = None;
        }
        self.free.push(slot);
        self.bytes -= cost;
        cost
    }

    fn push(&mut self, entry: Entry) -> u32 {
        if self.slabs.last().is_none_or(|slab| slab.len() == SLAB_ENTRIES) {
            self.slabs.push(Vec::with_capacity(SLAB_ENTRIES));
        }
        let slot = self.slot_count();
        debug_assert!(slot < u32::MAX, "more rows in memory than a u32 counts");
        if let Some(slab) = self.slabs.last_mut() {
            slab.push(entry);
        }
        slot
    }

    fn slot_count(&self) -> u32 {
        match self.slabs.split_last() {
            Some((last, full)) => (full.len() * SLAB_ENTRIES + last.len()) as u32,
            None => 0,
        }
    }

    fn pending_value(&self, pending: &Pending) -> Option<&[u8]> {
        pending.is_put.then(|| &self.arena[pending.start..pending.start + pending.length])
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        (hash ^ (hash >> 32)) as u32
    }

    #[inline]
    fn entry(&self, slot: u32) -> &Entry {
        entry_in(&self.slabs, slot)
    }

    #[inline]
    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        entry_in_mut(&mut self.slabs, slot)
    }
}

#[inline]
fn entry_in(slabs: &[Vec<Entry>], slot: u32) -> &Entry {
    &slabs[(slot >> SLAB_BITS) as usize][slot as usize % SLAB_ENTRIES]
}

#[inline]
fn entry_in_mut(slabs: &mut [Vec<Entry>], slot: u32) -> &mut Entry {
    &mut slabs[(slot >> SLAB_BITS) as usize][slot as usize % SLAB_ENTRIES]
}

/// The table takes its position from the low bits of the hash and its tag from the highest seven: both come from our 32 bits.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[inline]
fn committed(entry: &Entry) -> Option<&[u8]> {
    (entry.flags & PRESENT != 0).then_some(&*entry.committed)
}

/// Sets the committed value, in place where the length is the same, which it is for most updates of a row.
fn commit(entry: &mut Entry, value: Option<&[u8]>) {
    match value {
        Some(value) if value.len() == entry.committed.len() => entry.committed.copy_from_slice(value),
        Some(value) => entry.committed = value.into(),
        None => entry.committed = Box::default(),
    }
    entry.flags = if value.is_some() { entry.flags | PRESENT } else { entry.flags & !PRESENT };
}

#[inline]
fn cost(entry: &Entry) -> usize {
    let key = if entry.key.spilled() { entry.key.len() } else { 0 };
    ENTRY_BYTES + key + entry.committed.len()
}

/// The first sixteen bytes of a key as a number that sorts like them.
fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}
