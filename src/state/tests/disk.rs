//! What only a real folder shows: crashes, locks, damage, headers, and that nothing is written to a WAL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use super::*;
use crate::model::TaskId;
use crate::state::directory::{self, Directory};
use crate::state::inspect::{self, Inspection};
use crate::state::rocks::{RocksBackend, RocksMemory, RocksShared};

const TASK: TaskId = TaskId { subtopology: 0, partition: 3 };

static SHARED: LazyLock<RocksShared> =
    LazyLock::new(|| RocksShared::new(RocksMemory { block_cache: 4 << 20, write_buffers: 4 << 20, background_jobs: 2 }));

fn app() -> Name {
    Name::parse("shop").unwrap()
}

/// A folder of its own, gone with the test.
struct TestFolder(PathBuf);

impl TestFolder {
    fn new() -> TestFolder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("millstream-state-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        TestFolder(path)
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A task's folder with RocksDB in it.
pub(super) struct RocksDisk {
    folder: TestFolder,
}

impl RocksDisk {
    pub fn new() -> RocksDisk {
        RocksDisk { folder: TestFolder::new() }
    }

    fn try_open(&self) -> Result<RocksBackend, StateError> {
        RocksBackend::open(Directory::open(&self.folder.0, &app(), TASK)?, &SHARED)
    }

    fn task_path(&self) -> PathBuf {
        self.folder.0.join("shop").join("0_3")
    }

    fn database(&self) -> PathBuf {
        self.task_path().join("db")
    }

    fn state(&self, budget: CacheBudget) -> TaskState {
        TaskState::open(Box::new(self.try_open().unwrap()), specs(), budget).unwrap()
    }
}

impl Disk for RocksDisk {
    fn open(&mut self) -> Box<dyn Backend> {
        Box::new(self.try_open().unwrap())
    }

    fn is_synchronous(&self) -> bool {
        false
    }

    /// The files as they are at this moment are what a killed process leaves; closing RocksDB would flush.
    fn crash(&mut self, state: TaskState) {
        let (database, copy) = (self.database(), self.folder.0.join("copy"));
        loop {
            let _ = fs::remove_dir_all(&copy);
            if copy_database(&database, &copy) {
                break;
            }
        }
        drop(state);
        fs::remove_dir_all(&database).unwrap();
        fs::rename(&copy, &database).unwrap();
    }

    fn set_full(&mut self, _is_full: bool) -> bool {
        false
    }

    fn wipe(&mut self) {
        Directory::open_wiped(&self.folder.0, &app(), TASK, "the test says so").unwrap();
    }
}

/// Copies a database that is in use. Returns whether it stood still meanwhile, as told by its manifest.
fn copy_database(from: &Path, to: &Path) -> bool {
    fs::create_dir_all(to).unwrap();
    let manifest = || {
        let current = fs::read_to_string(from.join("CURRENT")).unwrap();
        (current.clone(), fs::read(from.join(current.trim())).unwrap_or_default())
    };
    let before = manifest();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if fs::copy(file.path(), to.join(file.file_name())).is_err() {
            return false;
        }
    }
    let (current, content) = manifest();
    before == (current.clone(), content.clone()) && fs::read(to.join(current.trim())).unwrap_or_default() == content
}

fn seal_rows(state: &mut TaskState, offset: i64, rows: impl IntoIterator<Item = (u32, u8)>) {
    for (number, byte) in rows {
        state.put(ROWS, format!("\u{1}{number:06}").as_bytes(), &[byte; 100]).unwrap();
    }
    state.seal(&Sealed { changelogs: vec![(ROWS, Offset(offset))], inputs: Vec::new(), as_of: None }).unwrap();
}

fn count(state: &mut TaskState) -> usize {
    let mut count = 0;
    state
        .scan(ROWS, Bound::Unbounded, Bound::Unbounded, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    count
}

fn table_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

#[test]
fn a_crash_loses_what_was_not_flushed_and_the_offset_says_so() {
    let mut disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget::default());
    seal_rows(&mut state, 10, (0..10).map(|n| (n, 1)));
    state.flush().unwrap();
    // In the memtable and not on disk.
    state.set_budget(CacheBudget { dirty_bytes: 0, ..CacheBudget::default() });
    seal_rows(&mut state, 20, (5..20).map(|n| (n, 2)));
    disk.crash(state);
    let mut state = disk.state(CacheBudget::default());
    assert_eq!(state.offsets().changelog(ROWS), Some(Offset(10)));
    assert_eq!(count(&mut state), 10);
    assert_eq!(state.get(ROWS, "\u{1}000007".as_bytes()).unwrap(), Some(&[1u8; 100][..]));
}

#[test]
fn a_flush_by_size_takes_the_offset_of_its_rows() {
    let mut disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget { dirty_bytes: 0, ..CacheBudget::default() });
    for batch in 0..40u32 {
        seal_rows(&mut state, i64::from(batch) + 1, (batch * 1000..batch * 1000 + 1000).map(|n| (n, batch as u8)));
    }
    disk.crash(state);
    let mut state = disk.state(CacheBudget::default());
    let offset = state.offsets().changelog(ROWS).expect("memtables of 1 MiB were flushed").0 as usize;
    assert!(offset < 40, "a crash leaves something to replay");
    assert_eq!(count(&mut state), offset * 1000);
}

#[test]
fn nothing_is_written_to_a_wal() {
    let disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget { dirty_bytes: 0, ..CacheBudget::default() });
    seal_rows(&mut state, 1, (0..5000).map(|n| (n, 1)));
    state.meta_put("x", b"y").unwrap();
    let mut logs = 0;
    for file in fs::read_dir(disk.database()).unwrap() {
        let file = file.unwrap();
        if file.path().extension().is_some_and(|extension| extension == "log") {
            logs += 1;
            assert_eq!(file.metadata().unwrap().len(), 0, "{:?}", file.path());
        }
    }
    assert!(logs > 0, "RocksDB names its WAL differently, this test sees nothing");
}

#[test]
fn a_restore_from_the_start_goes_into_files() {
    let disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget { restore_bytes: 1 << 20, cache_bytes: 1 << 20, ..CacheBudget::default() });
    state.begin_restore(ROWS, Offset(0)).unwrap();
    for round in 0..3u8 {
        for number in 0..20_000u32 {
            let key = format!("\u{1}{:06}", number.wrapping_mul(7919) % 20_000);
            let value = (round < 2 || number % 10 != 0).then_some([round; 100]);
            state.restore_put(ROWS, key.as_bytes(), value.as_ref().map(|value| &value[..])).unwrap();
        }
    }
    // One is of `meta`; how many of the others are left depends on how soon RocksDB merges them.
    let before = table_files(&disk.database()).len();
    assert!(before > 1, "no files came in while it was going on");
    state.finish_restore(&Sealed { changelogs: vec![(ROWS, Offset(60_000))], inputs: Vec::new(), as_of: None }).unwrap();
    assert!(!disk.task_path().join("db.ingest").exists() || table_files(&disk.task_path().join("db.ingest")).is_empty());
    drop(state);
    let mut state = disk.state(CacheBudget::default());
    assert_eq!(state.offsets().changelog(ROWS), Some(Offset(60_000)));
    assert_eq!(count(&mut state), 18_000);
}

#[test]
fn an_interrupted_restore_is_never_served() {
    let disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget { restore_bytes: 1 << 20, ..CacheBudget::default() });
    state.begin_restore(ROWS, Offset(0)).unwrap();
    for number in 0..10_000u32 {
        state.restore_put(ROWS, format!("\u{1}{number:06}").as_bytes(), Some(&[1; 100])).unwrap();
    }
    drop(state);
    let error = TaskState::open(Box::new(disk.try_open().unwrap()), specs(), CacheBudget::default()).err().unwrap();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
    assert_eq!(error.to_string(), "cannot open store `rows`: its restore was interrupted, it holds only a part of its rows");
}

#[test]
fn the_offset_of_an_emptied_store_does_not_outlive_its_rebuild() {
    let storage = MemoryStorage::new();
    let open = || TaskState::open(Box::new(storage.open().unwrap()), specs(), CacheBudget::default());
    let mut state = open().unwrap();
    seal_rows(&mut state, 1, [(1, 1)]);
    state.delete(ROWS, "\u{1}000001".as_bytes()).unwrap();
    state.seal(&Sealed { changelogs: vec![(ROWS, Offset(2))], inputs: Vec::new(), as_of: None }).unwrap();
    state.close().unwrap();
    let mut state = open().unwrap();
    state.begin_restore(ROWS, Offset(0)).unwrap();
    state.restore_put(ROWS, b"\x01a", Some(b"a part")).unwrap();
    state.flush().unwrap();
    drop(state);
    let stored = open().map(|state| state.offsets().changelog(ROWS));
    assert!(!matches!(stored, Ok(Some(_))), "a part of the rows has no offset: {stored:?}");
}

#[test]
fn a_store_may_have_the_name_of_what_rocksdb_never_drops() {
    let disk = RocksDisk::new();
    let open = || {
        let spec = StoreSpec { name: Name::parse("default").unwrap(), segment_ms: None };
        TaskState::open(Box::new(disk.try_open().unwrap()), vec![spec], CacheBudget::default()).unwrap()
    };
    let mut state = open();
    seal_rows(&mut state, 5, [(1, 1)]);
    state.close().unwrap();
    let mut state = open();
    assert_eq!(count(&mut state), 1);
    state.begin_restore(ROWS, Offset(0)).unwrap();
    assert_eq!(count(&mut state), 0);
}

#[test]
fn a_folder_can_be_looked_into_beside_its_worker() {
    let disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget::default());
    for start in [-15, 0, 5, 40] {
        state.put(WINDOWS, &layout::windowed_key(b"\x01a", Time(start)), b"w").unwrap();
    }
    let inputs = vec![(Name::parse("orders").unwrap(), Offset(77))];
    state.seal(&Sealed { changelogs: vec![(WINDOWS, Offset(4))], inputs, as_of: None }).unwrap();
    seal_rows(&mut state, 2500, (0..2500).map(|n| (n, 1)));
    state.flush().unwrap();
    // Not flushed, so not seen.
    seal_rows(&mut state, 2501, [(9999, 1)]);
    let found = inspect::folders(&disk.folder.0).unwrap();
    assert_eq!(found.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [disk.task_path()]);
    let (header, inspection) = Inspection::open(&found[0].0).unwrap();
    assert_eq!((header.app.as_str(), header.task.as_str(), header.format), ("shop", "0_3", 1));
    let info = |name: &str, segments: &[i64], offset| {
        let name = Name::parse(name).unwrap();
        inspect::StoreInfo { name, segments: segments.to_vec(), changelog: Some(Offset(offset)), is_partial: false }
    };
    assert_eq!(inspection.stores(), [info("rows", &[], 2500), info("windows", &[-2, 0, 4], 4)]);
    assert_eq!(inspection.inputs(), [(Name::parse("orders").unwrap(), Offset(77))]);
    assert_eq!(inspection.count("rows").unwrap(), 2500);
    let keys: Vec<_> = inspection.rows("rows").map(|row| row.unwrap().0).collect();
    assert_eq!(keys.len(), 2500);
    assert!(keys.is_sorted_by(|a, b| a < b));
    let starts: Vec<i64> = inspection.rows("windows").map(|row| start(&row.unwrap().0)).collect();
    assert_eq!(starts, [-15, 0, 5, 40]);
    assert_eq!(inspection.rows("nothing").count(), 0);
    seal_rows(&mut state, 2502, [(1, 2)]);
    state.close().unwrap();
}

#[test]
fn damaged_files_are_found_and_never_served() {
    let disk = RocksDisk::new();
    let mut state = disk.state(CacheBudget::default());
    seal_rows(&mut state, 1, (0..5000).map(|n| (n, 1)));
    state.close().unwrap();
    for file in table_files(&disk.database()) {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 0x40;
        fs::write(&file, bytes).unwrap();
    }
    let read_all = || -> Result<usize, StateError> {
        let mut state = TaskState::open(Box::new(disk.try_open()?), specs(), CacheBudget::default())?;
        let mut seen = 0;
        state.scan(ROWS, Bound::Unbounded, Bound::Unbounded, |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })?;
        Ok(seen)
    };
    let error = read_all().unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("shop/0_3"), "it names the folder: {error}");
    for file in table_files(&disk.database()) {
        fs::remove_file(file).unwrap();
    }
    let error = read_all().unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
    Directory::open_wiped(&disk.folder.0, &app(), TASK, "damaged").unwrap();
    assert_eq!(read_all().unwrap(), 0);
}

#[test]
fn a_newer_format_inside_is_refused() {
    let storage = MemoryStorage::new();
    let mut backend = storage.open().unwrap();
    let meta = backend.open_column("@meta").unwrap();
    let row = crate::state::backend::RowWrite { column: meta, key: b"format", value: Some(&7u32.to_be_bytes()) };
    backend.write(&mut std::iter::once(row)).unwrap();
    let error = TaskState::open(Box::new(backend), specs(), CacheBudget::default()).err().unwrap();
    let expected =
        "cannot open the state: it was written by a newer version, run that one or restore into an empty folder: format found 7, known 1";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_locked_folder_names_who_has_it() {
    let folder = TestFolder::new();
    let first = Directory::open(&folder.0, &app(), TASK).unwrap();
    let path = first.path().display().to_string();
    let refused = |cause: &str| {
        let error = Directory::open(&folder.0, &app(), TASK).unwrap_err();
        assert!(matches!(error, StateError::Busy { .. }), "{error}");
        assert_eq!(error.to_string(), format!("cannot lock state folder {path}: {cause}"));
    };
    refused("this process has it open, another thread is closing it");
    fs::write(first.path().join("lock"), "1234567\n").unwrap();
    refused("process 1234567 has it open, stop that one or set another `state_dir`");
    drop(first);
    Directory::open(&folder.0, &app(), TASK).unwrap();
}

#[test]
fn folders_that_others_can_write_to_are_refused() {
    let folder = TestFolder::new();
    let task_path = Directory::open(&folder.0, &app(), TASK).unwrap().path().to_owned();
    assert_eq!(fs::metadata(&task_path).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(folder.0.join("shop"), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Directory::open(&folder.0, &app(), TASK).unwrap_err();
    let expected =
        format!("cannot open state folder {}: everybody may write to it, set its mode to 0700: mode 0777", folder.0.join("shop").display());
    assert_eq!(error.to_string(), expected);
    fs::set_permissions(folder.0.join("shop"), fs::Permissions::from_mode(0o700)).unwrap();

    let elsewhere = folder.0.join("elsewhere");
    fs::rename(&task_path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &task_path).unwrap();
    let error = Directory::open(&folder.0, &app(), TASK).unwrap_err();
    let expected = format!("cannot open state folder {}: it is a symbolic link or no folder, name the folder itself", task_path.display());
    assert_eq!(error.to_string(), expected);
}

/// Changes the header of a folder, opens it, and returns why that failed.
fn after_edit(edit: impl FnOnce(String) -> String) -> StateError {
    let folder = TestFolder::new();
    let path = Directory::open(&folder.0, &app(), TASK).unwrap().path().join("header");
    fs::write(&path, edit(fs::read_to_string(&path).unwrap())).unwrap();
    Directory::open(&folder.0, &app(), TASK).unwrap_err()
}

#[test]
fn a_header_that_is_damaged_foreign_or_newer_is_told_apart() {
    let cause = |error: StateError| match error {
        StateError::Corrupt { cause, .. } => format!("corrupt: {cause}"),
        StateError::Refused { cause, .. } => format!("refused: {cause}"),
        other => panic!("{other}"),
    };
    assert_eq!(cause(after_edit(|text| text.replace("0_3", "0_4"))), "corrupt: its checksum is wrong: found 68ed0d5e, computed f68998fd");
    assert_eq!(cause(after_edit(|text| text[..text.len() - 12].to_owned())), "corrupt: it has no checksum, so its end is missing");
    assert_eq!(cause(after_edit(|_| String::new())), "corrupt: its first line is wrong");
    let newer = "refused: it was written by a newer version, run that one or set another `state_dir`: format found 2, known 1";
    assert_eq!(cause(after_edit(|text| text.replace("format 1", "format 2"))), newer);
    let foreign = |text: String, from: &str, to: &str| {
        let body = text.replace(from, to);
        let body = body.split_once("\nchecksum").unwrap().0;
        format!("{body}\nchecksum {:08x}\n", crc32fast::hash(body.as_bytes()))
    };
    let other_app = "refused: it belongs to another app, move it away or set another `state_dir`: found `store`, expected `shop`";
    assert_eq!(cause(after_edit(|text| foreign(text, "shop", "store"))), other_app);
    let other_task = "refused: it belongs to another task, move it away or set another `state_dir`: found `1_3`, expected `0_3`";
    assert_eq!(cause(after_edit(|text| foreign(text, "0_3", "1_3"))), other_task);
}

#[test]
fn a_topic_that_was_made_again_is_noticed() {
    let folder = TestFolder::new();
    let (orders, prices) = (Name::parse("orders").unwrap(), Name::parse("prices").unwrap());
    let mut directory = Directory::open(&folder.0, &app(), TASK).unwrap();
    directory.check_topics([(&orders, "id-1")]).unwrap();
    drop(directory);
    let mut directory = Directory::open(&folder.0, &app(), TASK).unwrap();
    directory.check_topics([(&orders, "id-1"), (&prices, "id-2")]).unwrap();
    let error = directory.check_topics([(&prices, "id-2"), (&orders, "id-9")]).unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
    assert!(
        error.to_string().ends_with("topic `orders` was deleted and made again, offsets mean nothing any more: id found id-1, id now id-9")
    );
    directory.wipe("topic made again").unwrap();
    directory.check_topics([(&orders, "id-9")]).unwrap();
    let path = directory.path().to_owned();
    drop(directory);
    let (header, _) = directory::look_into(&path).unwrap();
    assert_eq!(header.topics, BTreeMap::from([("orders".to_owned(), "id-9".to_owned())]));
}
