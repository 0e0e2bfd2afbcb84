//! A Redis server of a test's own, which it may kill, empty and starve.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::{Connection, Value};

use millstream::views::place::{Held, Zset};

use super::wait_for;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A running `redis-server`; killed and cleared away when dropped.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    pub folder: PathBuf,
    settings: Vec<String>,
}

impl Server {
    /// `None`, said aloud, where there is no `redis-server`; with `REQUIRE_REDIS=1` that is a failure.
    pub fn start(test: &str, settings: &[&str]) -> Option<Server> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("millstream-views-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Server { child: None, port, folder, settings };
        if !server.is_installed() {
            #[expect(clippy::disallowed_methods, reason = "the test asks its own environment, not the worker's settings")]
            let is_required = std::env::var("REQUIRE_REDIS").is_ok_and(|value| value == "1");
            assert!(!is_required, "{test} needs redis-server, and REQUIRE_REDIS=1");
            // Straight to stderr: what `eprintln!` writes is swallowed when a test passes, and this must be seen.
            let line = format!("not run: {test}: no redis-server\n");
            assert!(std::io::stderr().write_all(line.as_bytes()).is_ok());
            return None;
        }
        server.run();
        Some(server)
    }

    fn is_installed(&self) -> bool {
        Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// Starts it again after [`Server::kill`], with the data that its folder holds.
    pub fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(&self.folder)
            .args(&self.settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server starts"));
        wait_for("redis-server to answer", Duration::from_secs(10), || self.try_connect().map(|_| ()));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn try_connect(&self) -> Option<Connection> {
        let mut connection = redis::Client::open(self.url()).ok()?.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        redis::cmd("PING").query::<Value>(&mut connection).ok()?;
        Some(connection)
    }

    pub fn connect(&self) -> Connection {
        self.try_connect().expect("redis-server answers")
    }

    /// Runs a command given as words.
    pub fn command(&self, line: &str) -> Value {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        words.for_each(|word| _ = command.arg(word));
        command.query(&mut self.connect()).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// All keys but the bookkeeping of views.
    pub fn shown(&self) -> BTreeMap<String, Held> {
        let mut connection = self.connect();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("keys");
        let keys = keys.into_iter().filter(|key| !key.starts_with('{'));
        keys.filter_map(|key| held(&mut connection, &key).map(|held| (key, held))).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a key holds.
pub fn held(connection: &mut Connection, key: &str) -> Option<Held> {
    let kind: String = redis::cmd("TYPE").arg(key).query(connection).ok()?;
    let found = match kind.as_str() {
        "string" => Held::String(redis::cmd("GET").arg(key).query(connection).ok()?),
        "hash" => Held::Hash(redis::cmd("HGETALL").arg(key).query(connection).ok()?),
        "set" => Held::Set(redis::cmd("SMEMBERS").arg(key).query(connection).ok()?),
        "zset" => {
            let pairs: Vec<(Vec<u8>, f64)> = redis::cmd("ZRANGE").arg(key).arg("0").arg("-1").arg("WITHSCORES").query(connection).ok()?;
            let mut members = Zset::default();
            pairs.iter().for_each(|(member, score)| members.add(*score, member));
            Held::Zset(members)
        }
        "stream" => {
            let entries: Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)> = redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(connection).ok()?;
            Held::Stream(entries)
        }
        _ => return None,
    };
    Some(found)
}
