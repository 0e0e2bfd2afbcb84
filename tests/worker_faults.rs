//! A worker whose surroundings fail: its Redis, its state folder, its disk, its name, its time to end.
//!
//! The real binary is run as somebody runs it, with a real Kafka (and a Redis of the test's own). Each test asks: what does it say, how
//! does it end, and are the rows still right? Where there is no Kafka the tests that need one say "not run".

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

mod random;
#[path = "view_world/server.rs"]
#[allow(dead_code, reason = "made for the tests of views")]
mod server;
mod servers;
mod worker_world;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use random::Random;
use server::Server;
use servers::wait_for;
use worker_world::{Process, World, files};

/// How long a worker may take to end, by its settings.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// The promise: a view equals its table so soon after the return of Redis.
const VIEW_SOON: Duration = Duration::from_secs(10);
/// No broker listens here.
const NOWHERE: &str = "127.0.0.1:1";

fn world(case: &str) -> Option<World> {
    let brokers = servers::kafka(&format!("worker_faults: {case}"))?;
    Some(World::new(case, &brokers).with_topics())
}

/// A worker with so many products, and the rows.
fn with_products(world: &mut World, count: u32, settings: &[&str]) -> (Process, BTreeMap<String, Value>) {
    let worker = world.start("w", settings);
    world.send(0..count);
    worker.wait_until_ready();
    let rows = worker.wait_for_products(world);
    (worker, rows)
}

/// The worker refuses to run, with a last line that holds these texts.
#[track_caller]
fn assert_refused(worker: &mut Process, texts: &[&str]) {
    let code = worker.wait_for_exit();
    let line = worker.wait_for_line(texts);
    assert_eq!(code, Some(2), "{line}");
}

// ---- the state folder

#[test]
fn a_state_folder_that_cannot_be_used_is_refused_before_the_group_is_joined() {
    let world = World::new("unusable", NOWHERE);
    let place = |name: &str| world.folder.0.join(name);
    fs::write(place("a-file"), "").unwrap();
    fs::create_dir(place("real")).unwrap();
    symlink(place("real"), place("a-link")).unwrap();
    fs::create_dir(place("open")).unwrap();
    fs::set_permissions(place("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let cases = [
        ("a-file", "move away what is no folder there"),
        ("a-link", "it is a symbolic link or no folder, name the folder itself"),
        ("open", "everybody may write to it, set its mode to 0700: mode 0777"),
    ];
    for (name, reason) in cases {
        let folder = place(name).display().to_string();
        let mut worker = world.start("w", &[&format!("worker.state_dir={folder}")]);
        assert_refused(&mut worker, &[&folder, reason]);
    }
}

#[test]
fn a_damaged_state_is_named_thrown_away_and_rebuilt() {
    let Some(mut world) = world("damaged") else { return };
    let (worker, rows) = with_products(&mut world, 60, &[]);
    assert_eq!(worker.terminate().0, Some(0));
    let damages: [(&str, fn(&Path)); 6] = [
        ("its checksum is wrong", |folder| flip_last(&folder.join("header"))),
        ("it has a database and no header", |folder| fs::remove_file(folder.join("header")).unwrap()),
        ("CURRENT", |folder| fs::write(folder.join("db/CURRENT"), "MANIFEST-nonsense\n").unwrap()),
        ("MANIFEST", |folder| flip_middle(&one(folder, "MANIFEST"))),
        ("sst", |folder| of_rows(folder).iter().for_each(|file| fs::remove_file(file).unwrap())),
        ("", |folder| of_rows(folder).iter().for_each(|file| flip_middle(file))),
    ];
    for (reason, damage) in damages {
        let folder = world.task_folder(0);
        damage(&folder);
        let worker = world.start("w", &[]);
        let line = worker.wait_for_line(&["rebuilding it from the changelog", &folder.display().to_string(), reason]);
        assert!(line.contains("WARN"), "{line}");
        assert_eq!(worker.first_products(), rows, "after {reason}");
        assert_eq!(worker.terminate().0, Some(0));
    }
}

#[test]
fn a_folder_of_another_app_or_a_newer_version_is_refused_and_left_alone() {
    let Some(mut world) = world("foreign") else { return };
    let (worker, rows) = with_products(&mut world, 20, &[]);
    assert_eq!(worker.terminate().0, Some(0));
    let header = world.task_folder(1).join("header");
    let good = fs::read_to_string(&header).unwrap();
    let foreign = with_checksum(&good.replace(&format!("app {}", world.app), "app shop"));
    let newer = good.replace("format 1", "format 7");
    for (text, reason) in [(foreign, "it belongs to another app"), (newer, "format found 7, known 1")] {
        fs::write(&header, &text).unwrap();
        let before = files(&world.task_folder(1));
        let mut worker = world.start("w", &[]);
        assert_refused(&mut worker, &[&world.task_folder(1).display().to_string(), reason]);
        assert_eq!(fs::read_to_string(&header).unwrap(), text);
        let tables = |files: Vec<PathBuf>| files.into_iter().filter(|file| is_table(file)).collect::<Vec<_>>();
        assert_eq!(tables(files(&world.task_folder(1))), tables(before), "nothing was thrown away");
    }
    fs::write(&header, good).unwrap();
    let worker = world.start("w", &[]);
    assert_eq!(worker.first_products(), rows);
    assert!(worker.lines_with("rebuilding").is_empty(), "what was refused was whole");
}

#[test]
fn a_restore_that_was_killed_half_way_is_done_again() {
    let Some(mut world) = world("half") else { return };
    // Half of the rows are more than a restore collects before it writes, and do not compress well.
    world.category = noise(8192);
    let settings = ["memory.write_buffers=1MiB", "memory.row_cache=0B"];
    let (worker, rows) = with_products(&mut world, 400, &settings);
    worker.kill();
    let folder = world.task_folder(0);
    fs::remove_dir_all(&folder).unwrap();
    let mut transaction = world.open_transaction(&format!("{}-product-changelog", world.app), 0);
    let worker = world.start("w", &settings);
    let is_large = |file: &PathBuf| is_table(file) && fs::metadata(file).is_ok_and(|data| data.len() > 50_000);
    worker.watched("rows on disk", || {
        let database = folder.join("db");
        (database.is_dir() && files(&database).iter().any(is_large)).then_some(())
    });
    assert!(worker.get("/health/ready").2.contains("task 0_0 is being restored"));
    worker.kill();
    transaction.abort(worker_world::SOON).unwrap();
    let worker = world.start("w", &settings);
    worker.wait_for_line(&["rebuilding it from the changelog", &folder.display().to_string(), "its restore was interrupted"]);
    assert_eq!(worker.first_products(), rows);
}

#[test]
fn a_full_disk_stops_its_tasks_and_gives_no_wrong_answer() {
    let case = "a full disk (needs the right to mount a tmpfs)";
    let Some(mut world) = world("full") else { return };
    let Some(disk) = SmallDisk::mount(&world.folder.0.join("disk"), case) else { return };
    // Little memory, so that rows go to disk at once.
    let settings = [&format!("worker.state_dir={}", disk.0.display()), "memory.row_cache=0B", "memory.write_buffers=1MiB"];
    let (worker, _) = with_products(&mut world, 50, &settings);
    disk.fill();
    let mut sent = 50;
    let stopped = worker.watched("both tasks to stop", || {
        world.send(sent..sent + 200);
        sent += 200;
        let (_, _, health) = worker.get("/health/ready");
        (health.matches("has stopped").count() == 2).then_some(health)
    });
    assert!(stopped.contains(&disk.0.display().to_string()) && stopped.contains("No space left on device"), "{stopped}");
    let (status, kind, body) = worker.get("/tables/product/p0");
    assert_eq!((status, kind.as_str()), (503, "application/problem+json"), "{body}");
    assert!(body.contains("\"code\":\"stopped\""), "{body}");
    assert_eq!(worker.get("/tables/product?limit=10").0, 503, "a page with holes is no page");
    assert!(worker.get("/tasks").2.contains("No space left on device"));
    let lines = worker.lines_with("the task stands still until the cause is gone");
    assert_eq!(lines.len(), 2, "one line a task: {lines:?}");
    assert_eq!(worker.terminate().0, Some(0));
    disk.make_room();
    let worker = world.start("w", &settings);
    worker.wait_until_ready();
    // Products and prices are two topics: either may be there before the other.
    let is_whole = |row: &Value| row["price"].is_string() && row["name"] != "";
    let rows = worker.watched("all products with their prices", || {
        worker.products().filter(|rows| rows.len() == sent.min(1000) as usize && rows.values().all(is_whole))
    });
    for (key, row) in rows {
        let (name, price) = (row["name"].as_str().unwrap_or_default(), row["price"].as_str().unwrap_or_default());
        let number: u32 = key[1..].parse().unwrap();
        assert_eq!((name, price), (&*format!("name {}", number + 1), &*format!("{}", number + 1)), "{key}");
    }
}

// ---- the name

#[test]
fn a_second_worker_of_the_same_id_is_refused_and_the_first_goes_on() {
    let Some(mut world) = world("twins") else { return };
    let (mut first, _) = with_products(&mut world, 10, &[]);
    let other_folder = format!("worker.state_dir={}", world.folder.0.join("other").display());
    for settings in [vec![], vec![other_folder.as_str()]] {
        let mut second = world.start("w", &settings);
        assert_refused(&mut second, &["another worker with the id `w` is running", "give each worker its own `worker.id`"]);
    }
    world.send(0..10);
    first.wait_for_products(&world);
    assert!(first.is_running());
    let disturbed = first.lines_with("joining again");
    assert!(disturbed.is_empty(), "it was disturbed: {disturbed:?}");
}

#[test]
fn of_two_workers_of_one_id_that_start_at_once_one_remains() {
    let Some(mut world) = world("at-once") else { return };
    let other_folder = format!("worker.state_dir={}", world.folder.0.join("other").display());
    let mut both = [world.start("w", &[]), world.start("w", &[&other_folder])];
    let ended = wait_for("one of them to end", worker_world::SOON, || both.iter_mut().position(|worker| !worker.is_running()));
    assert_refused(&mut both[ended], &["another worker with the id `w` is running"]);
    let rest = &mut both[1 - ended];
    world.send(0..10);
    rest.wait_until_ready();
    rest.wait_for_products(&world);
    assert!(rest.is_running());
}

#[test]
fn a_folder_that_another_process_holds_is_named_with_its_holder() {
    let Some(mut world) = world("held") else { return };
    let (worker, rows) = with_products(&mut world, 10, &[]);
    assert_eq!(worker.terminate().0, Some(0));
    let folder = world.task_folder(0);
    let file = fs::OpenOptions::new().write(true).open(folder.join("lock")).unwrap();
    file.lock().unwrap();
    fs::write(folder.join("lock"), "12345\n").unwrap();
    let worker = world.start("w", &[]);
    worker.wait_for_line(&["process 12345 has it open", &folder.display().to_string(), "trying again"]);
    drop(file);
    assert_eq!(worker.first_products(), rows);
}

// ---- the end

#[test]
fn sigterm_ends_a_worker_that_never_found_a_broker() {
    let world = World::new("nowhere", NOWHERE);
    let worker = world.start("w", &["worker.shutdown_timeout=2s"]);
    worker.wait_for_line(&["127.0.0.1:1"]);
    let (code, took) = worker.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// The session of a worker may end while a rebalance is on its way to it: the client then once waited for ever.
#[test]
fn sigterm_ends_a_worker_that_has_just_joined_or_restores() {
    let Some(mut world) = world("restoring") else { return };
    let (worker, rows) = with_products(&mut world, 400, &["worker.threads=2"]);
    assert_eq!(worker.terminate().0, Some(0));
    for _ in 0..5 {
        fs::remove_dir_all(world.state()).unwrap();
        let worker = world.start("w", &["worker.threads=2"]);
        worker.wait_for_line(&["restoring from the changelog"]);
        let (code, took) = worker.terminate();
        assert_eq!(code, Some(0));
        assert!(took < SHUTDOWN / 2, "{took:?}");
    }
    let worker = world.start("w", &["worker.threads=2"]);
    assert_eq!(worker.first_products(), rows);
}

#[test]
fn sigterm_ends_a_worker_whose_redis_hangs() {
    let Some(mut world) = world("hanging") else { return };
    let Some(redis) = Server::start("worker_faults: hanging", &[]) else { return };
    let (worker, rows) = with_products(&mut world, 10, &[&format!("redis.url={}", redis.url())]);
    wait_for_view(&world, &redis, &rows);
    redis.command("CLIENT PAUSE 60000 ALL");
    world.send(0..10);
    worker.wait_for_products(&world);
    let (code, took) = worker.terminate();
    assert_eq!(code, Some(0));
    assert!(took < SHUTDOWN, "{took:?}");
}

// ---- Redis

#[test]
fn redis_may_be_absent_come_and_come_back_empty() {
    let Some(mut world) = world("redis") else { return };
    let Some(mut redis) = Server::start("worker_faults: redis", &[]) else { return };
    redis.kill();
    let (worker, rows) = with_products(&mut world, 20, &[&format!("redis.url={}", redis.url())]);
    worker.wait_for_line(&["Redis does not take writes", "kind=\"unreachable\"", &redis.port.to_string()]);
    assert!(worker.metric("millstream_view_lag_offsets") > 0);
    assert!(worker.get("/health/ready").2.contains("view `product_card` partition 0"), "health tells of it");
    redis.run();
    wait_for_view(&world, &redis, &rows);
    redis.kill();
    world.send(0..30);
    let rows = worker.wait_for_products(&world);
    // A lag alone may be a piece that is on its way: Redis stays away until the worker has noticed.
    worker.watched("the second line", || (worker.lines_with("Redis does not take writes").len() >= 2).then_some(()));
    assert!(worker.metric("millstream_view_lag_offsets") > 0);
    redis.run();
    wait_for_view(&world, &redis, &rows);
    redis.command("FLUSHALL");
    wait_for_view(&world, &redis, &rows);
    worker.watched("no lag", || (worker.metric("millstream_view_lag_offsets") == 0).then_some(()));
    // The second time some found their connection broken before anybody found the server gone.
    let told = worker.lines_with("Redis does not take writes");
    assert!((2..=3).contains(&told.len()), "one line for each change, not for each view, partition and try: {told:?}");
    worker.wait_for_line(&["Redis takes writes again", "after=\"unreachable\""]);
}

#[test]
fn a_worker_may_wait_for_a_view_that_lags() {
    let Some(mut world) = world("pause") else { return };
    let Some(redis) = Server::start("worker_faults: pause", &[]) else { return };
    let settings = [&format!("redis.url={}", redis.url()), "worker.on_lag=pause", "redis.queue=1MiB"];
    let (worker, rows) = with_products(&mut world, 10, &settings);
    wait_for_view(&world, &redis, &rows);
    redis.command("CLIENT PAUSE 600000 WRITE");
    // How many commits the records of a call end in is the machine's affair, so records go on coming for as long as it takes.
    worker.watched("a full queue", || {
        world.send(0..500);
        (worker.metric("millstream_view_queue_bytes") >= 1 << 20).then_some(())
    });
    let records = || worker.metric("millstream_records_total");
    let mut before = (records(), Instant::now());
    worker.watched("the records to stand still while more are sent", || {
        world.send(0..500);
        let now = records();
        if now != before.0 {
            before = (now, Instant::now());
        }
        (before.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
    // It reads while it is paused, but only what is written ends the trouble: one line when it begins, one when it is over.
    let lanes = 4;
    worker.watched("each view to be refused twice", || (worker.metric("millstream_redis_errors_total") >= 2 * lanes).then_some(()));
    assert_eq!(worker.lines_with("Redis takes writes again").len(), 0, "{:#?}", worker.said());
    assert_eq!(worker.lines_with("Redis does not take writes").len(), 1, "{:#?}", worker.said());
    redis.command("CLIENT UNPAUSE");
    worker.wait_for_line(&["Redis takes writes again"]);
    let rows = worker.wait_for_products(&world);
    wait_for_view(&world, &redis, &rows);
    assert_eq!(worker.metric("millstream_view_dropped_batches_total"), 0, "who pauses loses nothing");
}

/// Waits until the cards in Redis are those of the table.
#[track_caller]
fn wait_for_view(world: &World, redis: &Server, rows: &BTreeMap<String, Value>) {
    let card = |row: &Value| (row["name"].as_str().unwrap_or_default().to_owned(), row["price"].as_str().unwrap_or_default().to_owned());
    let wanted: BTreeMap<String, (String, String)> = rows.iter().map(|(key, row)| (format!("{}:{key}", world.app), card(row))).collect();
    wait_for("the view to equal the table", VIEW_SOON, || {
        let mut connection = redis.connect();
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{}:*", world.app)).query(&mut connection).ok()?;
        let mut shown = BTreeMap::new();
        for key in keys {
            let fields: (String, String) = redis::cmd("HMGET").arg(&key).arg("name").arg("price").query(&mut connection).ok()?;
            shown.insert(key, fields);
        }
        (shown == wanted).then_some(())
    });
}

/// Letters without a pattern.
fn noise(length: usize) -> String {
    let mut random = Random(1);
    (0..length).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

// ---- damage

fn is_table(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "sst")
}

/// The files of the database that hold rows and offsets.
fn of_rows(folder: &Path) -> Vec<PathBuf> {
    let tables: Vec<PathBuf> = files(&folder.join("db")).into_iter().filter(|file| is_table(file)).collect();
    assert!(!tables.is_empty(), "nothing was flushed into {}", folder.display());
    tables
}

fn one(folder: &Path, prefix: &str) -> PathBuf {
    let found =
        files(&folder.join("db")).into_iter().find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.expect("such a file")
}

fn flip_middle(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].iter_mut().take(64).for_each(|byte| *byte ^= 0x5a);
    fs::write(file, bytes).unwrap();
}

fn flip_last(file: &Path) {
    let mut text = fs::read_to_string(file).unwrap();
    let last = text.trim_end().chars().last().unwrap();
    text.truncate(text.trim_end().len() - 1);
    text.push(if last == '0' { '1' } else { '0' });
    text.push('\n');
    fs::write(file, text).unwrap();
}

/// A header with its checksum made right.
fn with_checksum(text: &str) -> String {
    let (body, _) = text.trim_end().rsplit_once("\nchecksum ").unwrap();
    format!("{body}\nchecksum {:08x}\n", crc32fast::hash(body.as_bytes()))
}

/// A file system of a few megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said aloud, where nothing may be mounted.
    fn mount(path: &Path, case: &str) -> Option<SmallDisk> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"]).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(path.to_owned()));
        }
        // Straight to stderr: what `eprintln!` writes is swallowed when a test passes, and this must be seen.
        let line = format!("not run: worker_faults: {case}\n");
        assert!(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).is_ok());
        None
    }

    fn fill(&self) {
        _ = fs::write(self.0.join("filler"), vec![0; 16 << 20]);
    }

    /// More than there was: what was sent since may not fit into the old size.
    fn make_room(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=256m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
