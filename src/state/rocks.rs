//! State in RocksDB: one database per task, one column family per column. The only file that names rocksdb.
//!
//! What stays true:
//! - No write goes to a WAL: the changelog is the log. All column families are flushed together (atomic flush), so what a crash
//!   leaves is the state after some batch, with the offsets of that batch.
//! - Block cache and memtables of all tasks of the process share one budget ([`RocksShared`]).
//! - An error is never read as absence: an iterator's status is checked after every scan.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Bound;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DBCompressionType, DBRawIteratorWithThreadMode, DBWithThreadMode,
    DEFAULT_COLUMN_FAMILY_NAME, DataBlockIndexType, Error, ErrorKind, FlushOptions, InfoLogger, IngestExternalFileOptions, LogLevel,
    Options, ReadOptions, SingleThreaded, SstFileWriter, WriteBatch, WriteBufferManager, WriteOptions, properties,
    statistics::{StatsLevel, Ticker},
};
use tracing::{debug, warn};

use crate::state::StateError;
use crate::state::backend::{Backend, BackendKind, ColumnId, RowWrite, Visit, is_empty_range};
use crate::state::directory::Directory;
use crate::state::meta;

/// One database is used by one thread, so its table of column families needs no lock.
type Database = DBWithThreadMode<SingleThreaded>;

/// Open files per database. More are opened and closed as needed.
const OPEN_FILES_MAX: i32 = 256;
/// Largest memtable of a column family.
const MEMTABLE_BYTES_MAX: usize = 16 << 20;
/// Memtable of `meta`: a few dozen small values.
const META_MEMTABLE_BYTES: usize = 256 << 10;
/// A file made by `ingest`; large enough that few are made, small enough that a compaction of one is short.
const SST_BYTES_MAX: u64 = 64 << 20;
/// Memtables of a column family: one that is written to, the others wait for their flush. More, and RocksDB stops writes.
const MEMTABLES_MAX: i32 = 4;
/// How long a write may wait for flushes and compactions before the disk counts as broken.
const STALL_MAX: Duration = Duration::from_secs(20);
/// How long a write that was not let in waits at first; doubled each time.
const STALL_LOOK: Duration = Duration::from_millis(1);
/// A volume with less is called full: a memtable does not fit.
const FREE_BYTES_MIN: u64 = MEMTABLE_BYTES_MAX as u64;
/// The column family that RocksDB always has and never drops. We keep nothing in it.
const UNUSED: &str = DEFAULT_COLUMN_FAMILY_NAME;

/// What RocksDB may use in the whole process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RocksMemory {
    /// Cached blocks, filters and indexes, in bytes; default 128 MiB.
    pub block_cache: usize,
    /// Memtables, in bytes; default 64 MiB.
    pub write_buffers: usize,
    /// Threads that flush and compact; default 2.
    pub background_jobs: i32,
}

impl Default for RocksMemory {
    fn default() -> RocksMemory {
        RocksMemory { block_cache: 128 << 20, write_buffers: 64 << 20, background_jobs: 2 }
    }
}

/// What the databases of a process share. Cheap to clone.
#[derive(Clone)]
pub struct RocksShared {
    cache: Cache,
    write_buffers: WriteBufferManager,
    /// Options of every database begin as a copy of these, and so count into the same statistics.
    statistics: Arc<Options>,
    memory: RocksMemory,
}

/// What RocksDB counts, since the start of the process, and what it holds now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RocksFigures {
    /// Keys asked for, found or not.
    pub reads: u64,
    /// Blocks found in the cache.
    pub cache_hits: u64,
    /// Blocks read from files.
    pub cache_misses: u64,
    /// How long writes waited for flushes and compactions.
    pub stall_micros: u64,
    /// Block cache, memtables included.
    pub cache_bytes: usize,
    pub memtable_bytes: usize,
}

impl RocksShared {
    pub fn new(memory: RocksMemory) -> RocksShared {
        // Memtables are charged to the cache, so that one number bounds both: when they are small, blocks get their room.
        let cache = Cache::new_lru_cache(memory.block_cache + memory.write_buffers);
        // Stalls are off: with many tasks it would let a busy one wait for the flush of a quiet one.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(memory.write_buffers, false, cache.clone());
        let mut statistics = Options::default();
        statistics.enable_statistics();
        // Counters only: they are added to per core. Timers and histograms would cost on every read.
        statistics.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        RocksShared { cache, write_buffers, statistics: Arc::new(statistics), memory }
    }

    /// What all databases of the process did and hold.
    pub fn figures(&self) -> RocksFigures {
        RocksFigures {
            reads: self.statistics.get_ticker_count(Ticker::NumberKeysRead),
            cache_hits: self.statistics.get_ticker_count(Ticker::BlockCacheHit),
            cache_misses: self.statistics.get_ticker_count(Ticker::BlockCacheMiss),
            stall_micros: self.statistics.get_ticker_count(Ticker::StallMicros),
            cache_bytes: self.cache.get_usage(),
            memtable_bytes: self.write_buffers.get_usage(),
        }
    }

    fn database_options(&self, folder: &Path) -> Options {
        let mut options = (*self.statistics).clone();
        options.create_if_missing(true);
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_max_background_jobs(self.memory.background_jobs);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_file_opening_threads(1);
        options.set_max_manifest_file_size(16 << 20);
        options.set_bytes_per_sync(1 << 20);
        // A database per task: no periodic work in each of them.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_skip_stats_update_on_db_open(true);
        let folder = folder.display().to_string();
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, move |level, text| match level {
            // An error that matters comes back from a call, and is told by whoever made it; these are the details.
            LogLevel::Error | LogLevel::Fatal => warn!(folder, text, "RocksDB"),
            // Most of its warnings are notes ("tail prefetch size is calculated based on heuristics").
            LogLevel::Warn => debug!(folder, text, "RocksDB"),
            LogLevel::Info | LogLevel::Header => debug!(folder, text, "RocksDB"),
            LogLevel::Debug => debug!(folder, text, "RocksDB"),
        }));
        options
    }

    fn column_options(&self, name: &str) -> Options {
        let mut options = Options::default();
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        if name == meta::COLUMN || name == UNUSED {
            options.set_write_buffer_size(META_MEMTABLE_BYTES);
            // All are flushed together: with the default of two this one would stop the writes of all.
            options.set_max_write_buffer_number(MEMTABLES_MAX);
            options.set_compression_type(DBCompressionType::None);
            options.set_block_based_table_factory(&blocks);
            return options;
        }
        blocks.set_block_size(8 << 10);
        blocks.set_bloom_filter(10.0, false);
        blocks.set_optimize_filters_for_memory(true);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        options.set_block_based_table_factory(&blocks);
        let memtable = (self.memory.write_buffers / 4).clamp(1 << 20, MEMTABLE_BYTES_MAX);
        options.set_write_buffer_size(memtable);
        options.set_max_write_buffer_number(MEMTABLES_MAX);
        // Quiet tasks must not hold a megabyte per store.
        options.set_arena_block_size(128 << 10);
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.01);
        options.set_compression_type(DBCompressionType::Lz4);
        options
    }
}

/// [`Backend`] over one RocksDB.
pub struct RocksBackend {
    // Declared before the folder: the database closes first, then the lock is let go.
    database: Database,
    shared: RocksShared,
    path: PathBuf,
    /// All column families but the unused one.
    families: BTreeSet<String>,
    /// Names of those that were opened, by [`ColumnId`]; `None` was dropped.
    columns: Vec<Option<String>>,
    access: Access,
    /// Background errors that were reported.
    background_errors: u64,
    /// Number of the next file of `ingest`.
    next_file: u64,
}

enum Access {
    /// Holds the lock of the folder.
    Write {
        _folder: Directory,
    },
    Read,
}

impl RocksBackend {
    /// Opens the database of a task's folder, made empty if there is none, and keeps the folder locked.
    ///
    /// # Errors
    /// [`StateError::Corrupt`]: wipe the folder and restore. [`StateError::Io`].
    pub fn open(folder: Directory, shared: &RocksShared) -> Result<RocksBackend, StateError> {
        let path = folder.database_path();
        let ingest = ingest_path(&path);
        if ingest.exists() {
            fs::remove_dir_all(&ingest).map_err(|error| io_error(&format!("empty {}", ingest.display()), &error))?;
        }
        let names = existing_columns(&path)?;
        let descriptors = names.iter().map(|name| ColumnFamilyDescriptor::new(name, shared.column_options(name)));
        let database =
            Database::open_cf_descriptors(&shared.database_options(&path), &path, descriptors).map_err(|error| open_error(&path, error))?;
        Ok(RocksBackend::over(database, names, path, Access::Write { _folder: folder }, shared))
    }

    /// Opens the database in a folder for reading, also while a worker has it open: then without what is not flushed yet.
    ///
    /// # Errors
    /// [`StateError::Refused`] if there is no database, [`StateError::Corrupt`], [`StateError::Io`].
    pub fn open_read_only(path: &Path, shared: &RocksShared) -> Result<RocksBackend, StateError> {
        if !path.join("CURRENT").exists() {
            return Err(StateError::Refused { what: format!("open {}", path.display()), cause: "there is no database".into() });
        }
        let names = existing_columns(path)?;
        let descriptors = names.iter().map(|name| ColumnFamilyDescriptor::new(name, shared.column_options(name)));
        let database = Database::open_cf_descriptors_read_only(&shared.database_options(path), path, descriptors, false)
            .map_err(|error| open_error(path, error))?;
        Ok(RocksBackend::over(database, names, path.to_owned(), Access::Read, shared))
    }

    fn over(database: Database, names: Vec<String>, path: PathBuf, access: Access, shared: &RocksShared) -> RocksBackend {
        let families = names.into_iter().filter(|name| name != UNUSED).collect();
        RocksBackend { database, shared: shared.clone(), path, families, columns: Vec::new(), access, background_errors: 0, next_file: 0 }
    }

    fn family(&self, column: ColumnId) -> Result<&ColumnFamily, StateError> {
        let name = self.columns.get(column.0 as usize).and_then(Option::as_ref);
        name.and_then(|name| self.database.cf_handle(name)).ok_or_else(|| dropped(column))
    }

    fn error(&self, what: &str, error: Error) -> StateError {
        let what = format!("{what} in {}", self.path.display());
        match error.kind() {
            ErrorKind::Corruption => StateError::Corrupt { what, cause: error.into_string() },
            _ => StateError::Io { what, cause: error.into_string() },
        }
    }

    fn refuse_if_read_only(&self, what: &str) -> Result<(), StateError> {
        match self.access {
            Access::Write { .. } => Ok(()),
            Access::Read => {
                Err(StateError::Refused { what: format!("{what} in {}", self.path.display()), cause: "it is open for reading only".into() })
            }
        }
    }

    /// Reports what went wrong in the background (a flush on a full disk) since it was asked last.
    fn check_background(&mut self) -> Result<(), StateError> {
        let errors = self.database.property_int_value(properties::BACKGROUND_ERRORS);
        let errors = errors.map_err(|error| self.error("read a property", error))?.unwrap_or(0);
        if errors > self.background_errors {
            self.background_errors = errors;
            let cause = match free_bytes(&self.path) {
                Some(free) if free < FREE_BYTES_MIN => {
                    format!("No space left on device: {free} bytes are free, and RocksDB failed to flush or compact")
                }
                _ => "RocksDB failed to flush or compact: the log above has the details".to_owned(),
            };
            return Err(StateError::Io { what: format!("flush {}", self.path.display()), cause });
        }
        Ok(())
    }

    /// Writes a batch, without waiting for ever: a write that RocksDB stalls waits inside until flushes get through, and on a full disk
    /// they do not before somebody makes room. The stream thread would wait with it, with all its tasks.
    fn write_batch(&mut self, batch: WriteBatch) -> Result<(), StateError> {
        // A flush that has failed since is found here, before memtables pile up.
        self.check_background()?;
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        if !self.may_stall()? {
            return self.database.write_opt(batch, &options).map_err(|error| self.error("write rows", error));
        }
        options.set_no_slowdown(true);
        let (begun, mut pause) = (Instant::now(), STALL_LOOK);
        loop {
            // The wrapper takes the batch away, and one that was not let in is needed again.
            match self.database.write_opt(WriteBatch::from_data(batch.data()), &options) {
                Err(error) if error.kind() == ErrorKind::Incomplete => self.check_background()?,
                result => return result.map_err(|error| self.error("write rows", error)),
            }
            if begun.elapsed() > STALL_MAX {
                let cause = format!("RocksDB has taken no write for {STALL_MAX:?}, because its flushes or compactions do not get through");
                return Err(StateError::Io { what: format!("write rows in {}", self.path.display()), cause });
            }
            std::thread::park_timeout(pause);
            // Who asks too early is put off for longer.
            pause *= 2;
        }
    }

    /// Whether the next write may have to wait: it can turn a memtable into one more that waits for its flush, in two ways at once.
    fn may_stall(&self) -> Result<bool, StateError> {
        let read = |value: Result<Option<u64>, Error>| value.map_err(|error| self.error("read a property", error));
        for family in self.columns.iter().flatten().filter_map(|name| self.database.cf_handle(name)) {
            let waiting = read(self.database.property_int_value_cf(family, properties::NUM_IMMUTABLE_MEM_TABLE))?;
            if waiting.unwrap_or(0) + 2 >= MEMTABLES_MAX as u64 {
                return Ok(true);
            }
        }
        Ok(read(self.database.property_int_value(properties::IS_WRITE_STOPPED))? == Some(1))
    }

    fn flush_all(&self, options: &FlushOptions) -> Result<(), StateError> {
        let families: Vec<&ColumnFamily> = self.columns.iter().flatten().filter_map(|name| self.database.cf_handle(name)).collect();
        let families: Vec<&&ColumnFamily> = families.iter().collect();
        self.database.flush_cfs_opt(&families, options).map_err(|error| self.error("flush", error))
    }

    /// Writes sorted rows to files until they end, and returns the files.
    fn write_files<'a>(&mut self, options: &Options, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<Vec<PathBuf>, StateError> {
        let folder = ingest_path(&self.path);
        fs::create_dir_all(&folder).map_err(|error| io_error(&format!("create {}", folder.display()), &error))?;
        let mut files = Vec::new();
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let file = folder.join(format!("{}.sst", self.next_file));
            self.next_file += 1;
            let mut writer = SstFileWriter::create(options);
            let mut write = |writer: &mut SstFileWriter<'_>| -> Result<(), Error> {
                writer.open(&file)?;
                while writer.file_size() < SST_BYTES_MAX
                    && let Some(row) = rows.next()
                {
                    match row.value {
                        Some(value) => writer.put(row.key, value)?,
                        None => writer.delete(row.key)?,
                    }
                }
                writer.finish()
            };
            write(&mut writer).map_err(|error| self.error("write a file of restored rows", error))?;
            files.push(file);
        }
        Ok(files)
    }
}

impl Backend for RocksBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Rocks
    }

    fn columns(&self) -> Vec<String> {
        let mut names: Vec<String> = self.families.iter().map(|family| column_name(family)).collect();
        names.sort();
        names
    }

    fn open_column(&mut self, name: &str) -> Result<ColumnId, StateError> {
        let family = family_name(name);
        if let Some(known) = self.columns.iter().position(|column| column.as_deref() == Some(&family)) {
            return Ok(ColumnId(known as u32));
        }
        if self.database.cf_handle(&family).is_none() {
            self.refuse_if_read_only("create a column family")?;
            let options = self.shared.column_options(name);
            self.database.create_cf(&family, &options).map_err(|error| self.error("create a column family", error))?;
            self.families.insert(family.clone());
        }
        self.columns.push(Some(family));
        Ok(ColumnId(self.columns.len() as u32 - 1))
    }

    fn drop_column(&mut self, column: ColumnId) -> Result<(), StateError> {
        self.refuse_if_read_only("drop a column family")?;
        let name = self.columns.get_mut(column.0 as usize).and_then(Option::take).ok_or_else(|| dropped(column))?;
        self.families.remove(&name);
        self.database.drop_cf(&name).map_err(|error| self.error("drop a column family", error))
    }

    fn get(&self, column: ColumnId, key: &[u8]) -> Result<Option<Box<[u8]>>, StateError> {
        let family = self.family(column)?;
        let value = self.database.get_pinned_cf(family, key).map_err(|error| self.error("read a row", error))?;
        Ok(value.map(|value| (&*value).into()))
    }

    fn scan(&self, columns: &[ColumnId], from: Bound<&[u8]>, to: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), StateError> {
        if is_empty_range(from, to) {
            return Ok(());
        }
        let mut rows: Vec<DBRawIteratorWithThreadMode<'_, Database>> = Vec::with_capacity(columns.len());
        for column in columns {
            let mut iterator = self.database.raw_iterator_cf_opt(self.family(*column)?, bounded(from, to));
            iterator.seek_to_first();
            rows.push(iterator);
        }
        loop {
            // Few columns (segments of a window store that a scan touches): the least key is found by looking at all.
            let least = rows.iter_mut().filter(|iterator| iterator.valid()).min_by(|a, b| a.key().cmp(&b.key()));
            let Some(iterator) = least else { break };
            if let Some((key, value)) = iterator.item()
                && visit(key, value) == ControlFlow::Break(())
            {
                return Ok(());
            }
            iterator.next();
            if !iterator.valid() {
                iterator.status().map_err(|error| self.error("scan rows", error))?;
            }
        }
        rows.iter().try_for_each(|iterator| iterator.status()).map_err(|error| self.error("scan rows", error))
    }

    fn write<'a>(&mut self, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<(), StateError> {
        self.refuse_if_read_only("write")?;
        let mut batch = WriteBatch::default();
        let mut current: Option<(ColumnId, &ColumnFamily)> = None;
        for row in rows {
            let family = match current {
                Some((column, family)) if column == row.column => family,
                _ => self.family(row.column)?,
            };
            current = Some((row.column, family));
            match row.value {
                Some(value) => batch.put_cf(family, row.key, value),
                None => batch.delete_cf(family, row.key),
            }
        }
        self.write_batch(batch)
    }

    fn ingest<'a>(&mut self, column: ColumnId, rows: &mut dyn Iterator<Item = RowWrite<'a>>) -> Result<(), StateError> {
        self.refuse_if_read_only("ingest rows")?;
        let name = self.columns.get(column.0 as usize).and_then(Option::clone).ok_or_else(|| dropped(column))?;
        let files = self.write_files(&self.shared.column_options(&name), rows)?;
        if files.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.database.ingest_external_file_cf_opts(self.family(column)?, &options, files).map_err(|error| self.error("ingest rows", error))
    }

    fn flush(&mut self) -> Result<(), StateError> {
        self.refuse_if_read_only("flush")?;
        // Before it too: a flush waits until it would not stall writes, which it does for ever where flushes fail.
        self.check_background()?;
        self.flush_all(&FlushOptions::default())?;
        self.check_background()
    }

    fn start_flush(&mut self) -> Result<(), StateError> {
        self.check_background()?;
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.flush_all(&options)
    }
}

/// Names of the column families in a folder; only the one that always is, if there is no database yet.
fn existing_columns(path: &Path) -> Result<Vec<String>, StateError> {
    if !path.join("CURRENT").exists() {
        return Ok(vec![UNUSED.to_owned()]);
    }
    Database::list_cf(&Options::default(), path).map_err(|error| open_error(path, error))
}

/// A store may be named like the column family that cannot be dropped.
fn family_name(column: &str) -> String {
    if column == UNUSED { format!("@{UNUSED}") } else { column.to_owned() }
}

fn column_name(family: &str) -> String {
    if family.strip_prefix('@') == Some(UNUSED) { UNUSED.to_owned() } else { family.to_owned() }
}

fn ingest_path(database: &Path) -> PathBuf {
    // On the same file system, so that files are moved in and not copied.
    database.with_extension("ingest")
}

/// Read options for a range; RocksDB has only an included lower and an excluded upper bound.
fn bounded(from: Bound<&[u8]>, to: Bound<&[u8]>) -> ReadOptions {
    // The least key that is greater than another is the same with a zero byte behind it.
    let after = |key: &[u8]| [key, &[0]].concat();
    let mut options = ReadOptions::default();
    match from {
        Bound::Included(key) => options.set_iterate_lower_bound(key),
        Bound::Excluded(key) => options.set_iterate_lower_bound(after(key)),
        Bound::Unbounded => {}
    }
    match to {
        Bound::Included(key) => options.set_iterate_upper_bound(after(key)),
        Bound::Excluded(key) => options.set_iterate_upper_bound(key),
        Bound::Unbounded => {}
    }
    options
}

fn open_error(path: &Path, error: Error) -> StateError {
    let what = format!("open {}", path.display());
    let cause = error.into_string();
    // A file that the manifest names and that is gone comes as an I/O error or as a corruption, depending on who misses it.
    let is_damaged = cause.starts_with("Corruption") || cause.contains("No such file");
    if is_damaged {
        StateError::Corrupt { what, cause }
    } else if cause.contains("LOCK") || cause.contains("Permission denied") || cause.contains("Read-only file system") {
        StateError::Refused { what, cause }
    } else {
        StateError::Io { what, cause }
    }
}

/// Bytes that are free on the volume of a folder.
fn free_bytes(path: &Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(path).ok()?;
    Some(volume.f_bavail.saturating_mul(volume.f_frsize))
}

fn io_error(what: &str, error: &io::Error) -> StateError {
    StateError::Io { what: what.to_owned(), cause: error.to_string() }
}

fn dropped(column: ColumnId) -> StateError {
    StateError::Corrupt { what: format!("use column {}", column.0), cause: "it was dropped".into() }
}
