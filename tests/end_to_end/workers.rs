//! Worker processes that a test starts, kills, stops in the middle and asks over HTTP.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::servers::wait_for;

/// From the start of a process until it answers. It may have to end what an earlier life left open in Kafka.
const START: Duration = Duration::from_secs(60);
/// The promise is ten seconds; a machine that is busy with other things gets some more.
const STOP: Duration = Duration::from_secs(20);

/// What all workers of an app have in common.
#[derive(Clone)]
pub struct Setting {
    pub folder: PathBuf,
    pub topology: PathBuf,
    pub brokers: String,
    pub redis: String,
}

/// A worker by its id, through all lives of its process.
pub struct Worker {
    pub id: String,
    threads: u32,
    setting: Setting,
    child: Option<Child>,
    lives: u32,
}

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Worker {
    pub fn new(id: &str, threads: u32, setting: &Setting) -> Worker {
        Worker { id: id.to_owned(), threads, setting: setting.clone(), child: None, lives: 0 }
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.id);
        self.lives += 1;
        let log = File::create(self.log()).unwrap();
        let setting = &self.setting;
        let settings = [
            format!("worker.id={}", self.id),
            format!("worker.threads={}", self.threads),
            format!("worker.state_dir={}", self.state().display()),
            format!("kafka.brokers={}", setting.brokers),
            // The least that a broker takes, so that a dead worker is missed soon; transactions end no later.
            "kafka.session_timeout=6s".to_owned(),
            "kafka.transaction_timeout=6s".to_owned(),
            format!("redis.url={}", setting.redis),
            "http.listen=127.0.0.1:0".to_owned(),
            "memory.row_cache=1MiB".to_owned(),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(&setting.topology);
        settings.iter().for_each(|setting| _ = command.arg("--set").arg(setting));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap());
    }

    /// The log of its present life.
    fn log(&self) -> PathBuf {
        self.setting.folder.join(format!("{}.{}.log", self.id, self.lives))
    }

    pub fn state(&self) -> PathBuf {
        self.setting.folder.join(format!("state-{}", self.id))
    }

    /// Where it answers; none before it does.
    pub fn address(&self) -> Option<String> {
        let log = fs::read_to_string(self.log()).ok()?;
        let line = log.lines().find(|line| line.contains("answering over HTTP"))?;
        line.split_whitespace().find_map(|word| word.strip_prefix("address=")).map(str::to_owned)
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Fails if the process has ended by itself: no crash of the test's making may make a worker give up.
    pub fn check_alive(&mut self) {
        assert!(self.is_alive(), "{} ended by itself:\n{}", self.id, last_lines(&self.log()));
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// kill -9, whatever it does.
    pub fn kill(&mut self) {
        self.check_alive();
        self.signal(Signal::KILL);
        let ended = self.child.take().expect("it runs").wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "{} ended by itself", self.id);
    }

    /// It stands still, in the middle of whatever it does, and does not know it.
    pub fn freeze(&mut self) {
        self.check_alive();
        self.signal(Signal::STOP);
        // The signal is on its way: until it is there some thread may still send.
        let stat = format!("/proc/{}/stat", self.child.as_ref().expect("it runs").id());
        let is_stopped = || fs::read_to_string(&stat).unwrap().rsplit(')').next().unwrap().trim_start().starts_with('T').then_some(());
        wait_for("a worker to stand still", STOP, is_stopped);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM; it must end well and in time.
    pub fn stop(&mut self) {
        self.check_alive();
        self.signal(Signal::TERM);
        let log = self.log();
        let mut child = self.child.take().expect("it runs");
        let ended = wait_for(&format!("{} to end after SIGTERM", self.id), STOP, || child.try_wait().unwrap());
        assert!(ended.success(), "{} ended with {ended} after SIGTERM:\n{}", self.id, last_lines(&log));
    }

    /// Asks it; none if it does not answer.
    pub fn get(&self, path: &str) -> Option<Answer> {
        get(&self.address()?, path)
    }

    /// Partitions whose tasks run here.
    pub fn running(&self) -> Vec<i32> {
        let Some(answer) = self.get("/tasks").filter(|answer| answer.status == 200) else { return Vec::new() };
        let tasks = answer.json();
        let running = tasks["tasks"].as_array().unwrap().iter().filter(|task| task["phase"] == "running");
        running.map(|task| task["partition"].as_i64().unwrap() as i32).collect()
    }

    pub fn wait_until_it_answers(&mut self) {
        let what = format!("{} to answer", self.id);
        wait_for(&what, START, || {
            self.check_alive();
            self.get("/health/live").map(|_| ())
        });
    }

    /// `millstream inspect` of a task's folder.
    pub fn inspect(&self, app: &str, task: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("inspect").arg(&self.setting.topology).arg(self.state().join(app).join(task)).args(arguments).output().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        _ = child.kill();
        _ = child.wait();
        if std::thread::panicking() {
            println!("--- the end of the log of {}, life {}:\n{}", self.id, self.lives, last_lines(&self.log()));
        }
    }
}

/// `GET`, on a connection of its own.
pub fn get(address: &str, path: &str) -> Option<Answer> {
    let wait = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address.parse().ok()?, wait).ok()?;
    stream.set_read_timeout(Some(wait)).ok()?;
    // HTTP/1.0: the answer ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..at].to_vec()).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: bytes[at + 4..].to_vec() })
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
