//! Views on a Redis that misbehaves: killed, emptied, full, read-only, loading, slow, silent, behind a wire that breaks.
//!
//! Each test ends with the same claim: within ten seconds of Redis's return every view equals its table, and meanwhile nobody
//! waited.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

mod view_world;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::runtime::Runtime;

use millstream::metrics::{Metrics, REDIS_ERRORS, VIEW_DROPPED_BATCHES, VIEW_REBUILDS, VIEW_REFILLS};
use millstream::views::place::Held;
use millstream::views::queue::OnLag;
use millstream::views::redis::{RedisSettings, RedisViews};
use millstream::views::{Pressure, ViewPublisher, ViewShape, ViewSpec};

use view_world::server::Server;
use view_world::{
    CANDLE, Chance, Change, PRODUCT, Product, TOPIC, Tables, difference, expected, log_views, name, random_changes, state_views, view,
    wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// Tables of one partition and their views.
struct Shop {
    runtime: Runtime,
    tables: Arc<Tables>,
    metrics: Arc<Metrics>,
    views: Arc<RedisViews>,
    chance: Chance,
    version: i64,
}

fn settings(port: u16) -> RedisSettings {
    RedisSettings {
        url: format!("redis://127.0.0.1:{port}"),
        batch: 500,
        queue_bytes: 64 << 20,
        on_lag: OnLag::Continue,
        reply_timeout: Duration::from_secs(2),
        worker: name("w"),
    }
}

impl Shop {
    fn open(settings: &RedisSettings, specs: Vec<ViewSpec>) -> Shop {
        let (runtime, tables, metrics) = (Runtime::new().expect("a runtime"), Tables::new(1), Metrics::new());
        let views = RedisViews::start(runtime.handle().clone(), name("shop"), settings, specs, tables.clone(), &metrics);
        let views = Arc::new(views.expect("good settings"));
        for table in [PRODUCT, CANDLE] {
            views.open(table, 0, TOPIC, tables.sealed(0));
        }
        Shop { runtime, tables, metrics, views, chance: Chance::new(3), version: 0 }
    }

    fn commit(&mut self, changes: &[Change]) {
        self.tables.commit(0, changes).into_iter().for_each(|batch| _ = self.views.publish(batch));
    }

    fn random_commits(&mut self, count: usize) {
        for _ in 0..count {
            let changes = random_changes(&mut self.chance, &self.tables, 0, 6, &mut self.version);
            self.commit(&changes);
        }
    }

    /// Versions 1, 2, 3 … of one product, a commit each.
    fn next_version(&mut self) {
        self.version += 1;
        let product = Product::new("p1", self.version);
        self.commit(&[Change::Product("p1".to_owned(), Some(product))]);
    }

    #[track_caller]
    fn wait_for_tables(&self, server: &Server, what: &str) {
        let wanted = expected(&self.tables.lock());
        let is_equal = || difference(&server.shown(), &wanted).is_none().then_some(());
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(what, SOON, is_equal)));
        if looked.is_err() {
            panic!("{what}: {:?}\n{:?}", difference(&server.shown(), &wanted), self.views.status());
        }
    }

    #[track_caller]
    fn wait_for_trouble(&self, kind: &str) {
        wait_for(kind, SOON, || (self.errors(kind) > 0).then_some(()));
    }

    fn wait_until_live(&self) {
        let is_live = || self.views.status().iter().all(|view| view.state == "live" && view.at == Some(view.sealed));
        wait_for("all views to be live", SOON, || is_live().then_some(()));
    }

    fn errors(&self, kind: &str) -> u64 {
        self.metrics.counter(&REDIS_ERRORS, &[kind]).get()
    }

    /// What the common stream has told.
    fn told(&self, server: &Server) -> Vec<i64> {
        let Some(Held::Stream(entries)) = server.shown().remove("changes") else { return Vec::new() };
        let version = |fields: &Vec<(Vec<u8>, Vec<u8>)>| String::from_utf8_lossy(&fields[1].1).parse().expect("a number");
        entries.iter().map(|(_, fields)| version(fields)).collect()
    }
}

/// A wire to a server that a test can break.
struct Wire {
    port: u16,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    swallows_replies: Arc<AtomicBool>,
}

impl Wire {
    fn to(server: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let wire = Wire { port, ends: Arc::default(), swallows_replies: Arc::default() };
        let (ends, swallows) = (wire.ends.clone(), wire.swallows_replies.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a handle");
                ends.lock().expect("no panic").extend([copy(&client), copy(&server)]);
                let (from_client, to_server) = (copy(&client), copy(&server));
                thread::spawn(move || pass(from_client, to_server, &AtomicBool::new(false)));
                let swallows = swallows.clone();
                thread::spawn(move || pass(server, client, &swallows));
            }
        });
        wire
    }

    /// Breaks all connections.
    fn cut(&self) {
        self.ends.lock().expect("no panic").drain(..).for_each(|end| _ = end.shutdown(Shutdown::Both));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !swallows.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    _ = to.shutdown(Shutdown::Both);
}

#[test]
fn replies_may_be_lost_at_any_time_and_each_change_is_told_once() {
    let Some(server) = Server::start("lost replies", &[]) else { return };
    let wire = Wire::to(server.port);
    let mut specs = state_views();
    specs.extend(log_views());
    let mut shop = Shop::open(&RedisSettings { reply_timeout: Duration::from_millis(150), ..settings(wire.port) }, specs);
    shop.wait_until_live();
    for round in 0..40 {
        (0..5).for_each(|_| shop.next_version());
        match round % 4 {
            0 => wire.cut(),
            1 => wire.swallows_replies.store(true, Ordering::SeqCst),
            2 => {
                // A connection never loses bytes in its middle: one whose replies were lost is over.
                wire.swallows_replies.store(false, Ordering::SeqCst);
                wire.cut();
            }
            _ => {}
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    wire.swallows_replies.store(false, Ordering::SeqCst);
    wire.cut();
    wait_for("all changes to be told", SOON, || (shop.told(&server).len() >= 200).then_some(()));
    assert_eq!(shop.told(&server), (1..=200).collect::<Vec<i64>>());
    assert!(shop.errors("timeout") + shop.errors("reset") > 5, "the wire did break");
    assert!(shop.views.shutdown(SOON));
    let wanted = expected(&shop.tables.lock());
    let mut found = server.shown();
    found.retain(|key, _| key != "changes" && !key.starts_with("history:"));
    assert_eq!(difference(&found, &wanted), None);
}

#[test]
fn a_redis_that_comes_back_empty_is_filled() {
    let Some(mut server) = Server::start("back and empty", &[]) else { return };
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(30);
    shop.wait_for_tables(&server, "before");
    server.kill();
    shop.random_commits(30);
    shop.wait_for_trouble("unreachable");
    server.run();
    shop.random_commits(5);
    shop.wait_for_tables(&server, "after it came back empty");
}

#[test]
fn a_redis_that_went_back_in_time_catches_up_from_the_log() {
    let Some(mut server) = Server::start("an older copy", &[]) else { return };
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(30);
    shop.wait_for_tables(&server, "before");
    server.command("SAVE");
    let rebuilds = shop.metrics.counter(&VIEW_REBUILDS, &["card"]).get();
    shop.random_commits(30);
    shop.wait_for_tables(&server, "after the copy");
    server.kill();
    server.run(); // with the copy
    shop.wait_for_tables(&server, "after the older copy took over");
    assert_eq!(shop.metrics.counter(&VIEW_REBUILDS, &["card"]).get(), rebuilds, "only what changed is written");
    assert!(shop.metrics.counter(&VIEW_REFILLS, &["card"]).get() > 0);
}

#[test]
fn a_full_redis_delays_views_only() {
    let Some(server) = Server::start("out of memory", &["--maxmemory-policy", "noeviction"]) else { return };
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(10);
    shop.wait_for_tables(&server, "before");
    server.command("CONFIG SET maxmemory 1mb");
    let started = Instant::now();
    shop.random_commits(50);
    assert!(started.elapsed() < Duration::from_secs(2), "commits go on");
    shop.wait_for_trouble("oom");
    let status = shop.views.status();
    assert!(status.iter().any(|view| view.error.as_ref().is_some_and(|error| error.contains("OOM"))), "{status:?}");
    server.command("CONFIG SET maxmemory 0");
    shop.wait_for_tables(&server, "after there was room again");
}

#[test]
fn a_replica_is_not_written_to() {
    let Some(server) = Server::start("read-only", &[]) else { return };
    let Some(primary) = Server::start("read-only", &[]) else { return };
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(10);
    shop.wait_for_tables(&server, "before");
    server.command(&format!("REPLICAOF 127.0.0.1 {}", primary.port));
    shop.random_commits(10);
    shop.wait_for_trouble("readonly");
    server.command("REPLICAOF NO ONE");
    shop.wait_for_tables(&server, "after it became a primary again, empty or not");
}

#[test]
fn a_forgotten_script_is_loaded_again() {
    let Some(server) = Server::start("script flush", &[]) else { return };
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(5);
    shop.wait_for_tables(&server, "before");
    let before = shop.errors("noscript");
    server.command("SCRIPT FLUSH");
    shop.random_commits(5);
    shop.wait_for_tables(&server, "after SCRIPT FLUSH");
    assert!(shop.errors("noscript") > before);
}

#[test]
fn a_loading_redis_is_waited_for() {
    let Some(mut server) = Server::start("loading", &["--key-load-delay", "4000", "--loading-process-events-interval-bytes", "1024"])
    else {
        return;
    };
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(60);
    shop.wait_for_tables(&server, "before");
    for number in 0..300 {
        server.command(&format!("SET filler:{number} {}", "x".repeat(200)));
    }
    server.command("SAVE");
    server.kill();
    shop.random_commits(5);
    server.run();
    let mut connection = server.connect();
    let script = "for _, key in ipairs(redis.call('KEYS', 'filler:*')) do redis.call('DEL', key) end";
    redis::cmd("EVAL").arg(script).arg(0).query::<Value>(&mut connection).expect("cleared");
    shop.wait_for_tables(&server, "after loading");
    assert!(shop.errors("loading") > 0, "it was asked while it loaded");
}

#[test]
fn a_slow_redis_blocks_nobody_and_a_full_queue_is_made_up_for() {
    let Some(server) = Server::start("slow", &[]) else { return };
    let mut shop = Shop::open(&RedisSettings { queue_bytes: 50_000, ..settings(server.port) }, state_views());
    shop.random_commits(5);
    shop.wait_for_tables(&server, "before");
    server.command("CLIENT PAUSE 3000 ALL");
    let started = Instant::now();
    shop.random_commits(300);
    assert!(started.elapsed() < Duration::from_secs(2), "a stream thread does not wait");
    assert!(shop.metrics.counter(&VIEW_DROPPED_BATCHES, &["card"]).get() > 0, "the queue was too small");
    assert!(shop.views.pressure() == Pressure::None, "`continue` asks for no pause");
    shop.wait_for_tables(&server, "after the pause");
    assert!(shop.metrics.counter(&VIEW_REFILLS, &["card"]).get() > 0);
}

#[test]
fn a_full_queue_may_ask_for_a_pause() {
    let Some(server) = Server::start("pause", &[]) else { return };
    let mut shop = Shop::open(&RedisSettings { queue_bytes: 200_000, on_lag: OnLag::Pause, ..settings(server.port) }, state_views());
    shop.random_commits(5);
    shop.wait_for_tables(&server, "before");
    server.command("CLIENT PAUSE 2000 ALL");
    let mut commits = 0;
    while shop.views.pressure() == Pressure::None {
        shop.random_commits(1);
        commits += 1;
        assert!(commits < 10_000, "no end of the queue");
    }
    assert_eq!(shop.metrics.counter(&VIEW_DROPPED_BATCHES, &["card"]).get(), 0, "who pauses loses nothing");
    wait_for("the queue to drain", SOON, || (shop.views.pressure() == Pressure::None).then_some(()));
    shop.wait_for_tables(&server, "after the pause");
    assert_eq!(shop.metrics.counter(&VIEW_REFILLS, &["card"]).get(), 0);
}

#[test]
fn a_redis_that_was_never_there_may_still_come() {
    let Some(mut server) = Server::start("late", &[]) else { return };
    server.kill();
    let mut shop = Shop::open(&settings(server.port), state_views());
    shop.random_commits(20);
    shop.wait_for_trouble("unreachable");
    wait_for("a status", SOON, || shop.views.status().iter().all(|view| view.error.is_some()).then_some(()));
    server.run();
    shop.wait_for_tables(&server, "after it came");
    assert!(shop.views.shutdown(SOON), "everything is written");
}

#[test]
fn a_node_of_a_cluster_is_refused_in_words() {
    let Some(server) = Server::start("cluster", &["--cluster-enabled", "yes"]) else { return };
    let shop = Shop::open(&settings(server.port), vec![view("all", ViewShape::Hash, "all:{key}:end")]);
    shop.wait_for_trouble("moved");
    let started = Instant::now();
    assert!(!shop.views.shutdown(Duration::from_millis(50)), "nothing was written");
    assert!(started.elapsed() < Duration::from_secs(2), "and nobody waited for it");
}

#[test]
fn a_password_is_never_shown() {
    let Some(server) = Server::start("password", &[]) else { return };
    server.command("CONFIG SET requirepass right-horse");
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.subscriber());
    let secret = RedisSettings { url: format!("redis://:wrong-battery@127.0.0.1:{}", server.port), ..settings(server.port) };
    let shown = format!("{secret:?}");
    let shop = Shop::open(&secret, vec![view("all", ViewShape::Hash, "all:{key}:end")]);
    shop.wait_for_trouble("auth");
    wait_for("a status", SOON, || shop.views.status().iter().all(|view| view.error.is_some()).then_some(()));
    let status = format!("{:?}", shop.views.status());
    let bad = RedisViews::start(
        shop.runtime.handle().clone(),
        name("shop"),
        &RedisSettings { url: "redis://:wrong-battery@[oops".to_owned(), ..settings(1) },
        Vec::new(),
        shop.tables.clone(),
        &shop.metrics,
    );
    let refused = bad.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("`redis.url` is not usable"), "{refused}");
    for text in [shown, status, refused, lines.text()] {
        assert!(!text.contains("battery"), "{text}");
    }

    let right = RedisSettings { url: format!("redis://:right-horse@127.0.0.1:{}", server.port), ..settings(server.port) };
    let mut shop = Shop::open(&right, state_views());
    shop.random_commits(3);
    assert!(shop.views.shutdown(SOON), "the right password serves");
    assert!(!lines.text().contains("horse"));
}

#[test]
fn a_redis_that_may_evict_is_warned_of() {
    let Some(server) = Server::start("eviction", &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) else { return };
    let lines = Lines::default();
    // The lanes log from the runtime's threads: this subscriber must be everybody's.
    if tracing::subscriber::set_global_default(lines.subscriber()).is_err() {
        return;
    }
    let shop = Shop::open(&settings(server.port), state_views());
    shop.wait_until_live();
    let text = lines.text();
    assert!(text.contains("Redis may evict rows of views") && text.contains("allkeys-lru") && text.contains("noeviction"), "{text}");
}

#[test]
fn what_is_queued_at_a_revocation_is_still_written() {
    let Some(server) = Server::start("revocation", &[]) else { return };
    let mut shop = Shop::open(&settings(server.port), log_views());
    shop.wait_until_live();
    (0..50).for_each(|_| shop.next_version());
    shop.views.close(PRODUCT, 0);
    wait_for("the last changes", SOON, || (shop.told(&server) == (1..=50).collect::<Vec<i64>>()).then_some(()));
    assert!(shop.views.status().iter().all(|view| view.partition == 0 && view.view.as_str() != "changes"));
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let lines = self.clone();
        tracing_subscriber::fmt().with_writer(move || lines.clone()).with_ansi(false).finish()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn large_commits_are_written_whole() {
    let Some(server) = Server::start("many rows", &[]) else { return };
    let mut shop = Shop::open(&settings(server.port), vec![view("all", ViewShape::Hash, "all:{key}:end")]);
    for commit in 0..20 {
        let keys = (0..1000).map(|row| format!("k{}", commit * 1000 + row));
        let changes: Vec<Change> = keys.map(|key| Change::Product(key.clone(), Some(Product::new(&key, 1)))).collect();
        shop.commit(&changes);
    }
    assert!(shop.views.shutdown(Duration::from_secs(30)), "everything is written");
    assert_eq!(server.command("DBSIZE"), Value::Int(20_001), "rows and one watermark");
}
