//! State in memory, with the durability of RocksDB without a WAL: what was not flushed is lost with the backend.
//!
//! The default of `dev`, `test`, `replay` and the simulation. A [`MemoryStorage`] is the disk: it outlives the backends opened
//! on it, one at a time. A backend that is dropped without a flush has crashed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::state::StateError;
use crate::state::backend::Backend;
use crate::state::backend::BackendKind;
use crate::state::backend::ColumnId;
use crate::state::backend::RowWrite;
use crate::state::backend::Visit;
use crate::state::backend::is_empty_range;

type Rows = BTreeMap<Box<[u8]>, Box<[u8]>>;
/// Rows written and not flushed; `None` is a delete.
type Unflushed = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

type RowIterator<'a> = dyn Iterator<Item = (&'a Box<[u8]>, Option<&'a Box<[u8]>>)> + 'a;

/// What lies on the disk of one task: survives the backends opened on it. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    columns: BTreeMap<String, Rows>,
    is_open: bool,
    is_full: bool,
    /// 0: only when asked.
    flush_every: u32,
}

impl MemoryStorage {
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// Opens the storage as it was flushed last.
    ///
    /// # Errors
    /// [`StateError::Busy`] while another backend has it open, as a locked folder is.
    pub fn open(&self) -> Result<MemoryBackend, StateError> {
        let mut disk = self.lock();
        if disk.is_open {
            return Err(StateError::Busy { what: "open state in memory".into(), cause: "it is still in use".into() });
        }
        disk.is_open = true;
        drop(disk);
        Ok(MemoryBackend { storage: self.clone(), columns: Vec::new(), writes: 0 })
    }

    /// Lets writes and flushes fail as a full disk does, until it is called with `false`.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// Lets every `writes`th write flush before it comes in, as RocksDB does when a memtable is full; 0, the default: never.
    pub fn set_flush_every(&self, writes: u32) {
        self.lock().flush_every = writes;
    }

    /// Throws away everything, as wiping the folder does.
    pub fn wipe(&self) {
        self.lock().columns.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Backend`] in memory.
#[derive(Debug)]
pub struct MemoryBackend {
    storage: MemoryStorage,
    /// By [`ColumnId`]; `None` was dropped.
    columns: Vec<Option<Column>>,
    writes: u32,
}

#[derive(Debug)]
struct Column {
    name: String,
    unflushed: Unflushed,
}

impl MemoryBackend {
    fn column(&self, column: ColumnId) -> Result<&Column, StateError> {
        self.columns.get(column.0 as usize).and_then(Option::as_ref).ok_or_else(|| dropped(column))
    }

    fn fail_if_full(&self, what: &str) -> Result<(), StateError> {
        if self.storage.lock().is_full {
            return Err(StateError::Io { what: what.into(), cause: "no space left on device".into() });
        }
        Ok(())
    }
}

impl Drop for MemoryBackend {
    fn drop(&mut self) {
        self.storage.lock().is_open = false;
    }
}

impl Backend for MemoryBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Memory
    }

    fn columns(&self) -> Vec<String> {
        self.storage.lock().columns.keys().cloned().collect()
    }

    fn open_column(&mut self, name: &str) -> Result<ColumnId, StateError> {
        let known = self.columns.iter().position(|column| column.as_ref().is_some_and(|column| column.name == name));
        if let Some(index) = known {
            return Ok(ColumnId(index as u32));
        }
        self.storage.lock().columns.entry(name.to_owned()).or_default();
        self.columns.push(Some(Column { name: name.to_owned(), unflushed: Unflushed::new() }));
        Ok(ColumnId(self.columns.len() as u32 - 1))
    }

    fn drop_column(&mut self, column: ColumnId) -> Result<(), StateError> {
        let slot = self.columns.get_mut(column.0 as usize).ok_or_else(|| dropped(column))?;
        let gone = slot.take().ok_or_else(|| dropped(column))?;
        self.storage.lock().columns.remove(&gone.name);
        Ok(())
    }

    fn get(&self, column: ColumnId, key: &[u8]) -> Result<Option<Box<[u8]>>, StateError> {
        let column = self.column(column)?;
        if let Some(value) = column.unflushed.get(key) {
            return Ok(value.clone());
        }
        Ok(self.storage.lock().columns.get(&column.name).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, columns: &[ColumnId], from: Bound<&[u8]>, to: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), StateError> {
        if is_empty_range(from, to) {
            return Ok(());
        }
        let disk = self.storage.lock();
        // Per column what is not flushed stands before what is, and so wins where both have a key.
        let mut sources = Vec::with_capacity(columns.len() * 2);
        for column in columns {
            let column = self.column(*column)?;
            let unflushed = column.unflushed.range::<[u8], _>((from, to)).map(|(key, value)| (key, value.as_ref()));
            sources.push((Box::new(unflushed) as Box<RowIterator<'_>>).peekable());
            if let Some(rows) = disk.columns.get(&column.name) {
                let durable = rows.range::<[u8], _>((from, to)).map(|(key, value)| (key, Some(value)));
                sources.push((Box::new(durable) as Box<RowIterator<'_>>).peekable());
            }
        }
        while let Some(least) = sources.iter_mut().filter_map(|source| source.peek().map(|(key, _)| *key)).min() {
            let mut newest = None;
            for source in &mut sources {
                if let Some((_, value)) = source.next_if(|(key, _)| *key == least) {
                    newest = newest.or(Some(value));
                }
            }
            if let Some(Some(value)) = newest
                && visit(least, value) == ControlFlow::Break(())
            {
                break;
            }
        }
        Ok(())
    }

    fn write<'a>(&mut self, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<(), StateError> {
        self.fail_if_full("write rows")?;
        self.writes = self.writes.wrapping_add(1);
        let flush_every = self.storage.lock().flush_every;
        if flush_every > 0 && self.writes.is_multiple_of(flush_every) {
            self.flush()?;
        }
        for row in rows {
            let column = self.columns.get_mut(row.column.0 as usize).and_then(Option::as_mut).ok_or_else(|| dropped(row.column))?;
            column.unflushed.insert(row.key.into(), row.value.map(Into::into));
        }
        Ok(())
    }

    fn ingest<'a>(&mut self, column: ColumnId, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<(), StateError> {
        self.fail_if_full("ingest rows")?;
        let column = self.columns.get_mut(column.0 as usize).and_then(Option::as_mut).ok_or_else(|| dropped(column))?;
        let mut disk = self.storage.lock();
        let durable = disk.columns.entry(column.name.clone()).or_default();
        for row in rows {
            column.unflushed.remove(row.key);
            match row.value {
                Some(value) => durable.insert(row.key.into(), value.into()),
                None => durable.remove(row.key),
            };
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StateError> {
        self.fail_if_full("flush")?;
        let mut disk = self.storage.lock();
        for column in self.columns.iter_mut().flatten() {
            let durable = disk.columns.entry(column.name.clone()).or_default();
            for (key, value) in std::mem::take(&mut column.unflushed) {
                match value {
                    Some(value) => durable.insert(key, value),
                    None => durable.remove(&key),
                };
            }
        }
        Ok(())
    }

    fn start_flush(&mut self) -> Result<(), StateError> {
        self.flush()
    }
}

fn dropped(column: ColumnId) -> StateError {
    StateError::Corrupt { what: format!("use column {}", column.0), cause: "it was dropped".into() }
}
