//! A real worker: the program itself, started by a test, with what it says on stderr and how it ends.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::servers::wait_for;

/// A folder that is gone when the test has ended well; a failed test leaves it to be looked at.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A `millstream run` that is ended with the test.
pub struct Worker {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reading: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts one thread on a free HTTP port; `settings` are `name=value`. The environment of the test is not passed on.
    pub fn start(topology: &str, folder: &Folder, settings: &[&str]) -> Worker {
        let path = folder.write("topology.yaml", topology);
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(path).env_clear().env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let state_dir = format!("worker.state_dir={}", folder.0.join("state").display());
        let always = ["worker.threads=1", "http.listen=127.0.0.1:0", "kafka.replication=1", "kafka.session_timeout=6s", &state_dir];
        for setting in always.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let mut child = command.spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (told, stderr) = (lines.clone(), child.stderr.take().unwrap());
        let reading = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Worker { child, lines, reading: Some(reading) }
    }

    /// What it has said.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line that has all the parts.
    #[track_caller]
    pub fn wait_for_line(&self, parts: &[&str], deadline: Duration) -> String {
        let found = || self.lines().into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for("a line", deadline, found)));
        looked.unwrap_or_else(|_| panic!("no line with {parts:?} in {deadline:?}; it said:\n{}", self.lines().join("\n")))
    }

    /// Lines of warnings and errors, and of what is said at the end.
    pub fn troubles(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| !line.contains(" INFO ")).collect()
    }

    /// Waits for its end. Returns the exit code and the troubles.
    #[track_caller]
    pub fn wait_for_end(mut self, deadline: Duration) -> (Option<i32>, Vec<String>) {
        let status: ExitStatus = wait_for("the end of the worker", deadline, || self.child.try_wait().unwrap());
        self.reading.take().unwrap().join().unwrap();
        (status.code(), self.troubles())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM.
    #[track_caller]
    pub fn stop(self, deadline: Duration) -> (Option<i32>, Vec<String>) {
        self.signal(rustix::process::Signal::TERM);
        self.wait_for_end(deadline)
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
