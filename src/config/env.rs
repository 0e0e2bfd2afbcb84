//! The environment of the process: variables, host name, cores, files that hold secrets. The only file that reads it.
//!
//! It is read once, at the edge, and handed on as data, so everything left of the start of a worker stays pure.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::thread::available_parallelism;

/// The largest file behind `${file:…}`, in bytes: a secret or a certificate, not a disk by mistake.
pub const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;

/// How a file behind `${file:…}` is read: its text, or why not.
pub type ReadFile = fn(&Path) -> Result<String, String>;

/// What a worker finds around it.
#[derive(Clone)]
pub struct Environment {
    /// Variables whose name and value are Unicode.
    pub variables: BTreeMap<String, String>,
    pub host_name: Option<String>,
    /// At least 1.
    pub cores: usize,
    pub read_file: ReadFile,
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Environment {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Environment {
            variables: variables.collect(),
            host_name: host_name(),
            cores: available_parallelism().map_or(1, |cores| cores.get()),
            read_file: read_secret_file,
        }
    }

    /// One without variables and files, with one core: tests and replays depend on nothing outside.
    pub fn empty() -> Environment {
        Environment { variables: BTreeMap::new(), host_name: None, cores: 1, read_file: |_| Err("there are no files here".to_owned()) }
    }

    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Whether the user asked for text without colours (<https://no-color.org>).
    pub fn has_no_color(&self) -> bool {
        self.variable("NO_COLOR").is_some_and(|value| !value.is_empty())
    }
}

impl fmt::Debug for Environment {
    /// Without values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("variables", &self.variables.keys()).finish_non_exhaustive()
    }
}

/// Bytes of this process that are in RAM, as Linux counts them; `None` on other systems.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// As the kernel knows it. Linux keeps it in `/proc`, all systems in a variable of most shells.
fn host_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let text = text.or_else(|| std::env::var_os("HOSTNAME").and_then(|name| name.into_string().ok()))?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The text of a file without the line break at its end, which editors add and `docker secret` keeps.
fn read_secret_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(format!("it has more than {SECRET_FILE_BYTES_MAX} bytes"));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}
