//! Looking into the state of a task from outside: which stores, how many rows, at which offsets. Changes nothing and locks nothing, so it may
//! be done beside a running worker; then it sees what was flushed last.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::ops::Bound;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;

use crate::model::{Name, Offset};
use crate::state::StateError;
use crate::state::backend::{Backend, ColumnId};
use crate::state::directory::{self, Header};
use crate::state::meta;
use crate::state::rocks::{RocksBackend, RocksMemory, RocksShared};

/// Rows read at once by [`Rows`].
const PAGE_ROWS: usize = 1000;

/// The state of a task, opened for reading.
pub struct Inspection {
    backend: Box<dyn Backend>,
    stores: Vec<StoreInfo>,
    columns: BTreeMap<Name, Vec<ColumnId>>,
    inputs: Vec<(Name, Offset)>,
}

/// What is to be seen of a store without reading its rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreInfo {
    pub name: Name,
    /// Numbers of the segments of a windowed store, in order of time.
    pub segments: Vec<i64>,
    /// From where a restart would replay its changelog; `None` for a store without one, or that was never flushed.
    pub changelog: Option<Offset>,
    /// Its restore was interrupted: it holds only a part of its rows, and a worker would throw it away.
    pub is_partial: bool,
}

/// The folders of tasks under a state directory, with their headers, sorted by path. A folder that cannot be read comes with the reason.
///
/// # Errors
/// [`StateError::Io`] if the directory itself cannot be read.
pub fn folders(state_dir: &Path) -> Result<Vec<(PathBuf, Result<Header, StateError>)>, StateError> {
    let mut found = Vec::new();
    for app in subfolders(state_dir)? {
        for task in subfolders(&app)? {
            let header = directory::look_into(&task).map(|(header, _)| header);
            found.push((task, header));
        }
    }
    Ok(found)
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>, StateError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        folders.sort();
        Ok(folders)
    };
    list().map_err(|error| StateError::Io { what: format!("list {}", path.display()), cause: error.to_string() })
}

impl Inspection {
    /// Looks into the folder of a task, `<state_dir>/<app>/<task>`.
    ///
    /// # Errors
    /// [`StateError::Refused`] if it is no state folder, or of a newer format; [`StateError::Corrupt`]; [`StateError::Io`].
    pub fn open(folder: &Path) -> Result<(Header, Inspection), StateError> {
        let (header, database) = directory::look_into(folder)?;
        // Nothing is kept between reads of a tool.
        let shared = RocksShared::new(RocksMemory { block_cache: 8 << 20, write_buffers: 1 << 20, background_jobs: 1 });
        Ok((header, Inspection::of(Box::new(RocksBackend::open_read_only(&database, &shared)?))?))
    }

    /// Looks into a backend.
    ///
    /// # Errors
    /// As of [`Inspection::open`].
    pub fn of(mut backend: Box<dyn Backend>) -> Result<Inspection, StateError> {
        let names = backend.columns();
        if !names.iter().any(|name| name == meta::COLUMN) {
            return Ok(Inspection { backend, stores: Vec::new(), columns: BTreeMap::new(), inputs: Vec::new() });
        }
        let meta = backend.open_column(meta::COLUMN)?;
        let mut segments: BTreeMap<Name, Vec<i64>> = BTreeMap::new();
        let mut columns: BTreeMap<Name, Vec<ColumnId>> = BTreeMap::new();
        for column in &names {
            let (store, segment) =
                column.split_once('@').map_or((column.as_str(), None), |(store, segment)| (store, segment.parse::<i64>().ok()));
            let Ok(store) = Name::parse(store) else { continue };
            columns.entry(store.clone()).or_default().push(backend.open_column(column)?);
            segments.entry(store).or_default().extend(segment);
        }
        let mut stores = Vec::with_capacity(segments.len());
        for (name, mut segments) in segments {
            segments.sort_unstable();
            let changelog = meta::read_changelog(&*backend, meta, &name)?;
            let is_partial = meta::is_restoring(&*backend, meta, &name)?;
            stores.push(StoreInfo { name, segments, changelog, is_partial });
        }
        let inputs = meta::read_inputs(&*backend, meta)?;
        Ok(Inspection { backend, stores, columns, inputs })
    }

    /// The stores, by name.
    pub fn stores(&self) -> &[StoreInfo] {
        &self.stores
    }

    /// The offsets of input topics to read next, by name.
    pub fn inputs(&self) -> &[(Name, Offset)] {
        &self.inputs
    }

    /// Counts the rows of a store, by reading them all.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], [`StateError::Io`].
    pub fn count(&self, store: &str) -> Result<u64, StateError> {
        let mut count = 0;
        self.backend.scan(self.columns_of(store), Bound::Unbounded, Bound::Unbounded, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// The rows of a store, in the order of keys; none for a store that is not there.
    pub fn rows(&self, store: &str) -> Rows<'_> {
        Rows { backend: &*self.backend, columns: self.columns_of(store), page: VecDeque::new(), after: None, is_done: false }
    }

    fn columns_of(&self, store: &str) -> &[ColumnId] {
        let columns = Name::parse(store).ok().and_then(|name| self.columns.get(&name));
        columns.map_or(&[], Vec::as_slice)
    }
}

/// A stored key and value.
pub type StoredRow = (Box<[u8]>, Box<[u8]>);

/// Rows of a store, read page by page. Ends after an error.
pub struct Rows<'i> {
    backend: &'i dyn Backend,
    columns: &'i [ColumnId],
    page: VecDeque<StoredRow>,
    after: Option<Box<[u8]>>,
    is_done: bool,
}

impl Rows<'_> {
    fn read_page(&mut self) -> Result<(), StateError> {
        let Rows { backend, columns, page, after, .. } = self;
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        backend.scan(columns, from, Bound::Unbounded, &mut |key, value| {
            page.push_back((key.into(), value.into()));
            if page.len() < PAGE_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.is_done = self.page.len() < PAGE_ROWS;
        self.after = self.page.back().map(|(key, _)| key.clone());
        Ok(())
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<StoredRow, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty()
            && !self.is_done
            && let Err(error) = self.read_page()
        {
            self.is_done = true;
            return Some(Err(error));
        }
        self.page.pop_front().map(Ok)
    }
}
