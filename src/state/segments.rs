//! The columns of one store: one, or for a windowed store one per segment of time beside it.
//!
//! A segment holds the windows that start in its stretch of time; expiry drops its column and no row of it is looked at. What
//! has no window (the operator's progress) lies in the store's own column. A column of a segment is made when its first row is
//! written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use crate::model::Time;
use crate::state::backend::{Backend, ColumnId, Visit};
use crate::state::core::{StateError, StoreSpec};
use crate::state::layout;

/// Columns of one store.
pub(super) struct Segments {
    base: ColumnId,
    /// The store's own column has no row: nothing has to be looked up in it.
    is_base_empty: bool,
    segment_ms: Option<i64>,
    by_index: BTreeMap<i64, ColumnId>,
    /// No segment before this one has a column or a row in memory.
    oldest: i64,
}

impl Segments {
    /// Opens the columns of a store; `existing` names all columns of the backend.
    pub fn open(backend: &mut dyn Backend, spec: &StoreSpec, existing: &[String]) -> Result<Segments, StateError> {
        let base = backend.open_column(&spec.name)?;
        let mut by_index = BTreeMap::new();
        for name in existing {
            if let Some(index) = index_of(&spec.name, name) {
                by_index.insert(index, backend.open_column(name)?);
            }
        }
        let mut is_base_empty = true;
        backend.scan(&[base], Bound::Unbounded, Bound::Unbounded, &mut |_, _| {
            is_base_empty = false;
            std::ops::ControlFlow::Break(())
        })?;
        let oldest = by_index.keys().next().copied().unwrap_or(i64::MAX);
        Ok(Segments { base, is_base_empty, segment_ms: spec.segment_ms, by_index, oldest })
    }

    /// Whether there is no column that could hold a row.
    pub fn is_empty(&self) -> bool {
        self.is_base_empty && self.by_index.is_empty()
    }

    pub fn get(&self, backend: &dyn Backend, key: &[u8]) -> Result<Option<Box<[u8]>>, StateError> {
        match self.segment(key) {
            None if self.is_base_empty => Ok(None),
            None => backend.get(self.base, key),
            Some(index) => self.by_index.get(&index).map_or(Ok(None), |column| backend.get(*column, key)),
        }
    }

    /// Visits the rows between the bounds over all columns in the order of keys.
    pub fn scan(&self, backend: &dyn Backend, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), StateError> {
        let (first, last) = self.segments_between(from, to);
        let base = (!self.is_base_empty).then_some(self.base);
        let segments = if first <= last { Some(self.by_index.range(first..=last).map(|(_, column)| *column)) } else { None };
        let columns: Vec<ColumnId> = base.into_iter().chain(segments.into_iter().flatten()).collect();
        if columns.is_empty() { Ok(()) } else { backend.scan(&columns, from, to, visit) }
    }

    /// Remembers that a row of this key is in memory.
    pub fn touch(&mut self, key: &[u8]) {
        if let Some(index) = self.segment(key) {
            self.oldest = self.oldest.min(index);
        }
    }

    /// Makes the column of a key, before [`Segments::column`].
    pub fn make(&mut self, backend: &mut dyn Backend, spec: &StoreSpec, key: &[u8]) -> Result<(), StateError> {
        match self.segment(key) {
            None => self.is_base_empty = false,
            Some(index) => {
                if let Entry::Vacant(vacant) = self.by_index.entry(index) {
                    vacant.insert(backend.open_column(&format!("{}@{index}", spec.name))?);
                    self.oldest = self.oldest.min(index);
                }
            }
        }
        Ok(())
    }

    /// The column in which a key is written.
    pub fn column(&self, key: &[u8]) -> ColumnId {
        self.segment(key).and_then(|index| self.by_index.get(&index)).copied().unwrap_or(self.base)
    }

    /// Drops the segments of which every window starts before `time`. Returns how to tell the keys that went with them, unless
    /// there can be none.
    pub fn drop_before(&mut self, backend: &mut dyn Backend, time: Time) -> Result<Option<impl FnMut(&[u8]) -> bool + use<>>, StateError> {
        let Some(segment_ms) = self.segment_ms else { return Ok(None) };
        let limit = time.0.div_euclid(segment_ms);
        if limit <= self.oldest {
            return Ok(None);
        }
        while let Some(entry) = self.by_index.first_entry()
            && *entry.key() < limit
        {
            backend.drop_column(*entry.get())?;
            entry.remove();
        }
        self.oldest = limit;
        Ok(Some(move |key: &[u8]| layout::window_start(key).is_some_and(|start| start.0.div_euclid(segment_ms) < limit)))
    }

    /// Empties the store: all its columns go, and its own is made again.
    pub fn clear(&mut self, backend: &mut dyn Backend, spec: &StoreSpec) -> Result<(), StateError> {
        while let Some((_, column)) = self.by_index.pop_first() {
            backend.drop_column(column)?;
        }
        backend.drop_column(self.base)?;
        self.base = backend.open_column(&spec.name)?;
        self.is_base_empty = true;
        self.oldest = i64::MAX;
        Ok(())
    }

    /// The segment of a key; `None` for the store's own column.
    #[inline]
    fn segment(&self, key: &[u8]) -> Option<i64> {
        let segment_ms = self.segment_ms?;
        Some(layout::window_start(key)?.0.div_euclid(segment_ms))
    }

    /// The segments that can have keys between the bounds: few, if the bounds are windows of one and the same key.
    fn segments_between(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> (i64, i64) {
        let everything = (i64::MIN, i64::MAX);
        let (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) = (from, to) else {
            return everything;
        };
        match (self.segment(from), self.segment(to)) {
            (Some(first), Some(last)) if layout::without_window(from) == layout::without_window(to) => (first, last),
            _ => everything,
        }
    }
}

/// The segment that a column holds, if it is one of this store.
fn index_of(store: &str, column: &str) -> Option<i64> {
    column.strip_prefix(store)?.strip_prefix('@')?.parse().ok()
}
