//! The folder of a task, `<state_dir>/<app>/<task>`: who may use it, who does, and whose it is.
//!
//! | file | what |
//! |---|---|
//! | `header` | app, task, format, ids of topics, checksum: text, replaced as a whole |
//! | `lock` | locked (`flock`) as long as a process has the folder open; holds its pid |
//! | `db` | the database |
//!
//! Folders are made with mode 0700. A symbolic link, or a folder that everybody may write to, is refused: whoever can put files there can put
//! rows into the tables. Names need no encoding in a path: [`Name`] allows no separator, and neither `.` nor `..`.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::{Access, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tracing::info;

use crate::model::{Name, TaskId};
use crate::state::StateError;
use crate::state::meta::FORMAT;

const HEADER: &str = "header";
const LOCK: &str = "lock";
const DATABASE: &str = "db";
const MAGIC: &str = "millstream state";
/// A header is some lines per topic.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// What a folder says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub format: u32,
    pub app: String,
    pub task: String,
    /// Ids of topics by name, as of when their offsets were first kept here.
    pub topics: BTreeMap<String, String>,
}

/// The folder of a task, locked until this is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    header: Header,
    /// Closing it lets the lock go.
    _lock: File,
}

impl Directory {
    /// Opens the folder of a task, made if it is not there, and locks it.
    ///
    /// # Errors
    /// [`StateError::Busy`] if it is locked; [`StateError::Refused`] if it is unsafe, of another app or task, or of a newer format; [`StateError::Corrupt`] if its header is damaged: [`Directory::open_wiped`]; [`StateError::Io`].
    pub fn open(state_dir: &Path, app: &Name, task: TaskId) -> Result<Directory, StateError> {
        let (path, lock) = enter(state_dir, app, task)?;
        let own = Header { format: FORMAT, app: app.to_string(), task: task.to_string(), topics: BTreeMap::new() };
        let header = match read_header(&path)? {
            Some(header) => header,
            None if path.join(DATABASE).exists() => {
                return Err(StateError::Corrupt {
                    what: format!("open state folder {}", path.display()),
                    cause: "it has a database and no header".into(),
                });
            }
            None => {
                write_header(&path, &own)?;
                own.clone()
            }
        };
        for (what, found, expected) in [("app", &header.app, &own.app), ("task", &header.task, &own.task)] {
            if found != expected {
                let cause = format!(
                    "it belongs to another {what}, move it away or set another `state_dir`: found `{found}`, expected `{expected}`"
                );
                return Err(StateError::Refused { what: format!("open state folder {}", path.display()), cause });
            }
        }
        Ok(Directory { path, header, _lock: lock })
    }

    /// Opens the folder of a task after throwing away all that it holds, whatever that is.
    ///
    /// # Errors
    /// [`StateError::Busy`] if it is locked; [`StateError::Refused`] if it is unsafe; [`StateError::Io`].
    pub fn open_wiped(state_dir: &Path, app: &Name, task: TaskId, reason: &str) -> Result<Directory, StateError> {
        let (path, lock) = enter(state_dir, app, task)?;
        let header = Header { format: FORMAT, app: app.to_string(), task: task.to_string(), topics: BTreeMap::new() };
        let mut directory = Directory { path, header, _lock: lock };
        directory.wipe(reason)?;
        Ok(directory)
    }

    /// Throws away the database and what is remembered of topics; the changelogs have everything.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn wipe(&mut self, reason: &str) -> Result<(), StateError> {
        info!(folder = %self.path.display(), reason, "throwing the state away");
        // First out of the way in one step: a crash in between must not leave half a database under its name.
        let discarded = self.path.join("discarded");
        let failed = |error: io::Error| io_error("wipe", &self.path, &error);
        remove(&discarded).map_err(failed)?;
        match fs::rename(self.database_path(), &discarded) {
            Ok(()) => remove(&discarded).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        self.header.topics.clear();
        write_header(&self.path, &self.header)
    }

    /// Checks that topics are still those whose offsets are kept here, and remembers those that are new. A topic that was deleted and made
    /// again begins anew at offset 0: offsets kept here would skip records.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] with the topic, and both ids: wipe and restore. [`StateError::Io`].
    pub fn check_topics<'a>(&mut self, topics: impl IntoIterator<Item = (&'a Name, &'a str)>) -> Result<(), StateError> {
        let mut known = self.header.topics.clone();
        for (topic, id) in topics {
            let found = known.entry(topic.to_string()).or_insert_with(|| id.to_owned());
            if found != id {
                let cause =
                    format!("topic `{topic}` was deleted and made again, offsets mean nothing any more: id found {found}, id now {id}");
                return Err(StateError::Corrupt { what: format!("use state folder {}", self.path.display()), cause });
            }
        }
        if known != self.header.topics {
            self.header.topics = known;
            write_header(&self.path, &self.header)?;
        }
        Ok(())
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database lies.
    pub fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

/// Makes the folder of an app, if it is not there, and checks that tasks can have theirs in it: before the group gives us any.
///
/// # Errors
/// [`StateError::Refused`] if it is unsafe or cannot be written to; [`StateError::Io`].
pub fn prepare(state_dir: &Path, app: &Name) -> Result<(), StateError> {
    let path = state_dir.join(app.as_str());
    make(&path)?;
    for folder in [state_dir, &path] {
        check_folder(folder)?;
    }
    let rights = Access::WRITE_OK | Access::READ_OK | Access::EXEC_OK;
    rustix::fs::access(&path, rights).map_err(|error| io_error("write to state folder", &path, &error.into()))
}

fn make(path: &Path) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| io_error("create state folder", path, &error))
}

/// The header of a task's folder, and where its database lies, without locking it.
///
/// # Errors
/// [`StateError::Refused`] if it is no state folder or of a newer format, [`StateError::Corrupt`], [`StateError::Io`].
pub fn look_into(path: &Path) -> Result<(Header, PathBuf), StateError> {
    match read_header(path)? {
        Some(header) => Ok((header, path.join(DATABASE))),
        None => Err(StateError::Refused {
            what: format!("open state folder {}", path.display()),
            cause: "it has no header, so it is none".into(),
        }),
    }
}

/// Makes and checks the three folders, and locks the innermost.
fn enter(state_dir: &Path, app: &Name, task: TaskId) -> Result<(PathBuf, File), StateError> {
    let app_path = state_dir.join(app.as_str());
    let path = app_path.join(task.to_string());
    make(&path)?;
    for folder in [state_dir, &app_path, &path] {
        check_folder(folder)?;
    }
    let lock = lock(&path)?;
    Ok((path, lock))
}

/// Refuses what others can write to, and links.
fn check_folder(path: &Path) -> Result<(), StateError> {
    let refused = |cause: String| StateError::Refused { what: format!("open state folder {}", path.display()), cause };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        // With both flags Linux says ENOTDIR for a link, other systems ELOOP.
        Errno::LOOP | Errno::NOTDIR => refused("it is a symbolic link or no folder, name the folder itself".into()),
        other => io_error("open state folder", path, &other.into()),
    })?;
    let mode = rustix::fs::fstat(&folder).map_err(|error| io_error("open state folder", path, &error.into()))?.st_mode;
    if mode & 0o002 != 0 {
        return Err(refused(format!("everybody may write to it, set its mode to 0700: mode {:04o}", mode & 0o7777)));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, StateError> {
    let failed = |error: Errno| io_error("lock state folder", path, &error.into());
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path.join(LOCK), flags, Mode::RUSR | Mode::WUSR).map_err(failed)?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Its pid is a help for a person, no more.
            let _ = (&mut file).take(32).read_to_string(&mut holder);
            let cause = match holder.trim() {
                "" => "another process has it open, stop that one or set another `state_dir`".to_owned(),
                own if own == std::process::id().to_string() => "this process has it open, another thread is closing it".to_owned(),
                other => format!("process {other} has it open, stop that one or set another `state_dir`"),
            };
            return Err(StateError::Busy { what: format!("lock state folder {}", path.display()), cause });
        }
        Err(error) => return Err(failed(error)),
    }
    let pid = std::process::id();
    let written = file.set_len(0).and_then(|()| writeln!(file, "{pid}"));
    written.map_err(|error| io_error("lock state folder", path, &error))?;
    Ok(file)
}

fn read_header(path: &Path) -> Result<Option<Header>, StateError> {
    let mut text = String::new();
    let read = File::open(path.join(HEADER)).and_then(|file| file.take(HEADER_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => parse_header(&text).map(Some).map_err(|problem| match problem {
            BadHeader::Damaged(cause) => StateError::Corrupt { what: format!("read the header of state folder {}", path.display()), cause },
            BadHeader::Newer(found) => StateError::Refused {
                what: format!("open state folder {}", path.display()),
                cause: format!(
                    "it was written by a newer version, run that one or set another `state_dir`: format found {found}, known {FORMAT}"
                ),
            },
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(StateError::Corrupt { what: format!("read the header of state folder {}", path.display()), cause: "it is no text".into() })
        }
        Err(error) => Err(io_error("read the header of state folder", path, &error)),
    }
}

enum BadHeader {
    Damaged(String),
    Newer(u32),
}

fn parse_header(text: &str) -> Result<Header, BadHeader> {
    let damaged = |cause: &str| BadHeader::Damaged(cause.to_owned());
    let rest = text.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix('\n')).ok_or_else(|| damaged("its first line is wrong"))?;
    let format: u32 = field(rest, "format").and_then(|format| format.parse().ok()).ok_or_else(|| damaged("it names no format"))?;
    // Before the checksum: a newer format may have another one.
    if format > FORMAT {
        return Err(BadHeader::Newer(format));
    }
    let (body, checksum) =
        text.trim_end().rsplit_once("\nchecksum ").ok_or_else(|| damaged("it has no checksum, so its end is missing"))?;
    let computed = format!("{:08x}", crc32fast::hash(body.as_bytes()));
    if checksum != computed {
        return Err(BadHeader::Damaged(format!("its checksum is wrong: found {checksum}, computed {computed}")));
    }
    let named = |name: &str| field(body, name).map(str::to_owned).ok_or_else(|| BadHeader::Damaged(format!("it names no {name}")));
    let topics = body.lines().filter_map(|line| line.strip_prefix("topic ")?.split_once(' '));
    Ok(Header {
        format,
        app: named("app")?,
        task: named("task")?,
        topics: topics.map(|(name, id)| (name.to_owned(), id.to_owned())).collect(),
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

fn render_header(header: &Header) -> String {
    let mut body = format!("{MAGIC}\nformat {}\napp {}\ntask {}", header.format, header.app, header.task);
    for (topic, id) in &header.topics {
        body.push_str(&format!("\ntopic {topic} {id}"));
    }
    let checksum = crc32fast::hash(body.as_bytes());
    format!("{body}\nchecksum {checksum:08x}\n")
}

/// Replaces the header as a whole: after a crash there is the old one or the new one.
fn write_header(path: &Path, header: &Header) -> Result<(), StateError> {
    let replace = || -> io::Result<()> {
        let new = path.join("header.new");
        let mut file = File::create(&new)?;
        file.write_all(render_header(header).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path.join(HEADER))?;
        File::open(path)?.sync_all()
    };
    replace().map_err(|error| io_error("write the header of state folder", path, &error))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What a person has to mend is refused at once; what may pass (a full disk) is not.
fn io_error(what: &str, path: &Path, error: &io::Error) -> StateError {
    let what = format!("{what} {}", path.display());
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "give the user of this process the right to write there",
        io::ErrorKind::ReadOnlyFilesystem => "mount it for writing",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "move away what is no folder there",
        _ => return StateError::Io { what, cause: error.to_string() },
    };
    StateError::Refused { what, cause: format!("{error}: {remedy}, or set another `worker.state_dir`") }
}
