//! Filling stores from their changelogs: records go past the open transaction, straight into the committed state.
//!
//! A store that replays its tail takes the records as if they had just been sealed. A store that starts from the beginning of its log
//! collects them, sorted and once per key, into files that RocksDB takes in whole (0.33 us per row, 5 through memtables). Files and
//! offset cannot become true together, so the store carries a mark while it is filled; whoever finds the mark at open has a
//! store with only a part of its rows, and throws it away.

use std::collections::BTreeMap;

use crate::model::{Offset, StoreId};
use crate::state::backend::{ColumnId, RowWrite};
use crate::state::core::{Sealed, StateError, TaskState};
use crate::state::meta;

/// Below this many bytes a file of its own is not worth its overhead in the file system: an ordinary batch is written.
const BULK_BYTES_MIN: usize = 4 << 20;

/// How a store takes what is restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Filling {
    /// Over what is there. Also the state of every store that is in use.
    #[default]
    Tail,
    /// From the start of its log, past the memtables.
    Bulk,
    /// So too, and the mark is on disk.
    Marked,
}

impl TaskState {
    /// Begins to replay the changelog of a store from an offset. If that is the offset of [`TaskState::offsets`], the records are the tail of
    /// what is there. If it is any other (the log's start, because there is no offset, or compaction passed it), the store is
    /// emptied first: a row whose tombstone was compacted away would stay for ever.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    pub fn begin_restore(&mut self, store: StoreId, from: Offset) -> Result<(), StateError> {
        debug_assert_eq!(self.overlay_bytes(), 0, "a restore begins outside of a transaction");
        if self.sealed.changelog(store) == Some(from) {
            self.stores[store.0].filling = Filling::Tail;
            return Ok(());
        }
        self.stores[store.0].filling = Filling::Bulk;
        if !self.stores[store.0].columns.is_empty() || self.sealed.changelog(store).is_some() {
            self.mark(store)?;
            let TaskState { stores, backend, .. } = self;
            let cleared = &mut stores[store.0];
            cleared.columns.clear(&mut **backend, &cleared.spec)?;
        }
        self.stores[store.0].cache.forget(|_| true);
        Ok(())
    }

    /// Gives the rows of a store up, durably: its changelog may lack tombstones that would have taken some of them away. The restore that
    /// follows begins at the start of the log, with nothing.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn distrust(&mut self, store: StoreId) -> Result<(), StateError> {
        self.mark(store)
    }

    /// Applies one record of a store's changelog, in the order of the log; `None` is a tombstone.
    ///
    /// # Errors
    /// [`StateError::Io`].
    #[inline]
    pub fn restore_put(&mut self, store: StoreId, key: &[u8], value: Option<&[u8]>) -> Result<(), StateError> {
        let restored = &mut self.stores[store.0];
        restored.cache.restore(key, value);
        restored.columns.touch(key);
        if restored.cache.bytes().1 > self.budget.restore_bytes {
            self.spill(store)?;
        }
        Ok(())
    }

    /// What was restored up to now is the committed state at these offsets. After it a store may go on with `restore_put` (a standby)
    /// or be used. The offsets are those reached, never those aimed at.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    pub fn finish_restore(&mut self, sealed: &Sealed) -> Result<(), StateError> {
        self.sealed.merge(sealed);
        let bulk: Vec<StoreId> =
            sealed.changelogs.iter().map(|(store, _)| *store).filter(|store| self.stores[store.0].filling != Filling::Tail).collect();
        if bulk.is_empty() {
            return self.settle();
        }
        for &store in &bulk {
            if self.stores[store.0].cache.bytes().1 > BULK_BYTES_MIN {
                self.spill(store)?;
            }
        }
        let mut rows = meta::offset_rows(&self.sealed, |store| &self.stores[store.0].spec.name);
        for &store in &bulk {
            rows.insert(meta::restoring_key(&self.stores[store.0].spec.name), None);
            self.stores[store.0].filling = Filling::Tail;
        }
        self.write_dirty(0..self.stores.len(), &rows)?;
        self.backend.flush()?;
        self.flushed = self.sealed.clone();
        self.settle()
    }

    /// Writes the restored rows of a store without an offset: the old one stays true.
    fn spill(&mut self, store: StoreId) -> Result<(), StateError> {
        if self.stores[store.0].filling == Filling::Tail {
            self.write_dirty(store.0..store.0 + 1, &BTreeMap::new())?;
            return self.settle();
        }
        self.mark(store)?;
        self.ingest(store)?;
        self.settle()
    }

    /// Durably says that the store holds only a part of its rows, and that its offset is gone.
    fn mark(&mut self, store: StoreId) -> Result<(), StateError> {
        if self.stores[store.0].filling == Filling::Marked {
            return Ok(());
        }
        let name = &self.stores[store.0].spec.name;
        let (mark, offset) = (meta::restoring_key(name), meta::changelog_key(name));
        let rows =
            [RowWrite { column: self.meta, key: &mark, value: Some(&[]) }, RowWrite { column: self.meta, key: &offset, value: None }];
        self.backend.write(&mut rows.into_iter())?;
        self.backend.flush()?;
        self.stores[store.0].filling = Filling::Marked;
        for offsets in [&mut self.sealed, &mut self.flushed] {
            offsets.changelogs.retain(|(id, _)| *id != store);
        }
        Ok(())
    }

    /// Hands the dirty rows of a store to the backend as sorted files, one per column.
    fn ingest(&mut self, store: StoreId) -> Result<(), StateError> {
        let TaskState { stores, backend, .. } = self;
        let store = &mut stores[store.0];
        let slots = store.cache.dirty_sorted();
        let mut by_column: BTreeMap<ColumnId, Vec<u32>> = BTreeMap::new();
        for slot in slots {
            let key = store.cache.key(slot);
            store.columns.make(&mut **backend, &store.spec, key)?;
            by_column.entry(store.columns.column(key)).or_default().push(slot);
        }
        for (column, slots) in by_column {
            let rows = slots.iter().map(|&slot| {
                let row = store.cache.dirty_row(slot);
                RowWrite { column, key: row.key, value: row.value }
            });
            backend.ingest(column, &mut { rows })?;
        }
        store.cache.written();
        Ok(())
    }
}
