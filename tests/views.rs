//! Views in both places: what is promised of Redis is promised of the place in memory, and one suite says so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

mod view_world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;

use millstream::metrics::{Metric, Metrics, VIEW_ORPHANS, VIEW_REBUILDS, VIEW_REFILLS, VIEW_REPLACED_KEYS, VIEW_UNSHOWABLE_ROWS};
use millstream::model::{Clock, ManualClock, Time};
use millstream::views::memory::{MemoryRedis, MemoryViews};
use millstream::views::place::Held;
use millstream::views::queue::OnLag;
use millstream::views::redis::{RedisSettings, RedisViews};
use millstream::views::{OnViewDelete, ViewPublisher, ViewShape, ViewSpec};

use view_world::server::Server;
use view_world::{
    CANDLE, Chance, Change, PRODUCT, Product, TOPIC, Tables, difference, expected, fields, log_views, name, partition_of, program,
    random_changes, state_views, view, wait_for, with_notify,
};

/// Within which a view must equal its table, whatever happened.
const SOON: Duration = Duration::from_secs(10);

/// Where the views of a case live.
enum Home {
    Memory { redis: MemoryRedis, clock: ManualClock, turning: Mutex<Vec<Arc<MemoryViews>>> },
    Redis { server: Server, runtime: Runtime },
}

/// A case: tables, their views, and where these live.
struct World {
    home: Home,
    tables: Arc<Tables>,
    metrics: Arc<Metrics>,
    chance: Chance,
    version: i64,
}

fn settings(url: String, worker: &str) -> RedisSettings {
    RedisSettings {
        url,
        batch: 500,
        queue_bytes: 64 << 20,
        on_lag: OnLag::Continue,
        reply_timeout: Duration::from_secs(2),
        worker: name(worker),
    }
}

impl World {
    fn new(home: Home, partitions: usize) -> World {
        World { home, tables: Tables::new(partitions), metrics: Metrics::new(), chance: Chance::new(7), version: 0 }
    }

    /// A worker with these views.
    fn worker(&self, worker: &str, specs: Vec<ViewSpec>) -> Arc<dyn ViewPublisher> {
        let source = self.tables.clone();
        match &self.home {
            Home::Memory { redis, clock, turning } => {
                let clock: Arc<dyn Clock> = Arc::new(clock.clone());
                let views = Arc::new(MemoryViews::new(name("shop"), worker, specs, redis.clone(), source, clock, &self.metrics));
                turning.lock().expect("no panic").push(views.clone());
                views
            }
            Home::Redis { server, runtime } => {
                let settings = settings(server.url(), worker);
                let views = RedisViews::start(runtime.handle().clone(), name("shop"), &settings, specs, source, &self.metrics);
                Arc::new(views.expect("good settings"))
            }
        }
    }

    fn open(&self, views: &dyn ViewPublisher, partition: i32) {
        for table in [PRODUCT, CANDLE] {
            views.open(table, partition, TOPIC, self.tables.sealed(partition));
        }
    }

    fn commit(&mut self, views: &dyn ViewPublisher, partition: i32, changes: &[Change]) {
        self.tables.commit(partition, changes).into_iter().for_each(|batch| _ = views.publish(batch));
    }

    fn random_commit(&mut self, views: &dyn ViewPublisher, partition: i32) {
        let changes = random_changes(&mut self.chance, &self.tables, partition, 6, &mut self.version);
        self.commit(views, partition, &changes);
    }

    /// Lets time pass in memory; on Redis it passes by itself.
    fn turn(&self) {
        if let Home::Memory { clock, turning, .. } = &self.home {
            clock.advance_ms(1001);
            turning.lock().expect("no panic").iter().for_each(|views| _ = views.turn());
        }
    }

    fn shown(&self) -> BTreeMap<String, Held> {
        match &self.home {
            Home::Redis { server, .. } => server.shown(),
            Home::Memory { redis, clock, .. } => redis.with(|place| {
                let now = clock.now();
                let keys = place.keys(now).filter(|key| !key.starts_with(b"{"));
                keys.map(|key| (String::from_utf8_lossy(key).into_owned(), place.get(key, now).expect("is there").clone())).collect()
            }),
        }
    }

    fn get(&self, key: &str) -> Option<Held> {
        self.shown().remove(key)
    }

    /// Waits until the views hold exactly this.
    #[track_caller]
    fn wait_for_exactly(&self, what: &str, wanted: &BTreeMap<String, Held>) {
        let mut last = None;
        for _ in 0..30 {
            self.turn();
        }
        let look = || {
            last = difference(&self.shown(), wanted);
            last.is_none().then_some(())
        };
        let is_memory = matches!(self.home, Home::Memory { .. });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, if is_memory { Duration::from_millis(1) } else { SOON }, look);
        }));
        if outcome.is_err() {
            panic!("{what}: {}", last.unwrap_or_default());
        }
    }

    /// Waits until the state views equal the tables.
    #[track_caller]
    fn wait_for_tables(&self, what: &str) {
        let wanted = expected(&self.tables.lock());
        self.wait_for_exactly(what, &wanted);
    }

    /// Waits until a key holds what is wanted.
    #[track_caller]
    fn wait_for_key(&self, key: &str, is_wanted: impl Fn(Option<&Held>) -> bool) {
        for _ in 0..5 {
            self.turn();
        }
        wait_for(key, SOON, || is_wanted(self.get(key).as_ref()).then_some(()));
    }

    /// Waits until the views show what there is.
    fn wait_until_live(&self, views: &dyn ViewPublisher) {
        self.turn();
        let is_live = || views.status().iter().all(|view| view.state == "live" && view.at == Some(view.sealed));
        wait_for("all views to be live", SOON, || is_live().then_some(()));
    }

    fn flush(&self) {
        match &self.home {
            Home::Memory { redis, .. } => redis.with(|place| place.flush()),
            Home::Redis { server, .. } => _ = server.command("FLUSHALL"),
        }
    }

    /// Somebody else sets a key.
    fn put_text(&self, key: &str, text: &str) {
        match &self.home {
            Home::Memory { redis, .. } => redis.with(|place| place.put(key.as_bytes(), Held::String(text.as_bytes().to_vec()))),
            Home::Redis { server, .. } => _ = server.command(&format!("SET {key} {text}")),
        }
    }

    /// Somebody else sets a field of a hash.
    fn put_field(&self, key: &str, field: &str, text: &str) {
        match &self.home {
            Home::Memory { redis, clock, .. } => redis.with(|place| {
                let mut fields = place.hash(key.as_bytes(), clock.now()).expect("a hash").clone();
                fields.insert(field.as_bytes().to_vec(), text.as_bytes().to_vec());
                place.put(key.as_bytes(), Held::Hash(fields));
            }),
            Home::Redis { server, .. } => _ = server.command(&format!("HSET {key} {field} {text}")),
        }
    }

    fn ttl_ms(&self, key: &str) -> Option<i64> {
        match &self.home {
            Home::Memory { redis, clock, .. } => redis.with(|place| place.ttl_ms(key.as_bytes(), clock.now())),
            Home::Redis { server, .. } => match server.command(&format!("PTTL {key}")) {
                redis::Value::Int(ms) if ms >= 0 => Some(ms),
                _ => None,
            },
        }
    }

    fn count(&self, metric: &Metric, labels: &[&str]) -> u64 {
        self.metrics.counter(metric, labels).get()
    }
}

/// Each case runs in both places.
macro_rules! in_both_places {
    ($($case:ident($partitions:literal);)*) => {
        mod in_memory {
            use super::*;
            $(
                #[test]
                fn $case() {
                    let clock = ManualClock::at(Time(1_767_225_600_000));
                    let home = Home::Memory { redis: MemoryRedis::default(), clock, turning: Mutex::default() };
                    super::$case(World::new(home, $partitions));
                }
            )*
        }
        mod on_redis {
            use super::*;
            $(
                #[test]
                fn $case() {
                    let Some(server) = Server::start(stringify!($case), &[]) else { return };
                    let runtime = Runtime::new().expect("a runtime");
                    super::$case(World::new(Home::Redis { server, runtime }, $partitions));
                }
            )*
        }
    };
}

in_both_places! {
    every_shape_shows_its_table(2);
    a_large_commit_is_cut_and_whole(1);
    an_emptied_redis_is_filled_again_while_idle(2);
    an_emptied_redis_is_filled_again_while_writing(2);
    a_reopened_partition_catches_up(2);
    rows_that_the_log_forgot_are_cleared_away(2);
    rows_of_a_rebuild_that_was_cut_short_are_cleared_away(2);
    the_keys_of_another_partition_are_left_alone(2);
    a_key_of_another_type_gives_way(1);
    a_replaced_worker_changes_nothing(1);
    a_changed_file_rewrites_the_view(1);
    what_leaves_may_expire_or_stay(1);
    logs_tell_each_change_once(1);
    a_message_comes_after_its_write(1);
    a_unique_value_may_move_between_rows(1);
    a_row_that_cannot_be_shown_is_absent(1);
    a_watermark_of_another_kind_is_written_over(1);
    a_watermark_of_a_newer_version_is_left_alone(1);
    an_owner_that_does_not_answer_is_asked_again(1);
    partitions_may_move_between_workers(2);
}

fn every_shape_shows_its_table(mut world: World) {
    let views = world.worker("w", state_views());
    (0..2).for_each(|partition| world.open(&*views, partition));
    for round in 0..60 {
        world.random_commit(&*views, round % 2);
        if round % 20 == 0 {
            world.wait_for_tables("views after some commits");
        }
    }
    world.wait_for_tables("views after all commits");
    assert!(world.shown().len() > 50, "something was shown");
    assert!(views.shutdown(SOON), "everything is written");
    assert_eq!(world.count(&VIEW_REFILLS, &["card"]), 0, "nothing was missed");
}

fn a_large_commit_is_cut_and_whole(mut world: World) {
    let views = world.worker("w", state_views());
    world.open(&*views, 0);
    let changes: Vec<Change> =
        (0..1700).map(|number| format!("big{number}")).map(|key| Change::Product(key.clone(), Some(Product::new(&key, 1)))).collect();
    world.commit(&*views, 0, &changes);
    let gone: Vec<Change> = (0..1700).step_by(3).map(|number| Change::Product(format!("big{number}"), None)).collect();
    world.commit(&*views, 0, &gone);
    world.wait_for_tables("a large commit");
}

fn an_emptied_redis_is_filled_again_while_idle(mut world: World) {
    let views = world.worker("w", state_views());
    (0..2).for_each(|partition| world.open(&*views, partition));
    (0..10).for_each(|round| world.random_commit(&*views, round % 2));
    world.wait_for_tables("views before");
    world.flush();
    world.wait_for_tables("views after FLUSHALL, without a change");
    assert!(world.count(&VIEW_REBUILDS, &["card"]) >= 4, "two partitions at the start, two after FLUSHALL");
}

fn an_emptied_redis_is_filled_again_while_writing(mut world: World) {
    let views = world.worker("w", state_views());
    (0..2).for_each(|partition| world.open(&*views, partition));
    for round in 0..60 {
        world.random_commit(&*views, round % 2);
        if round % 15 == 7 {
            world.flush();
        }
    }
    world.wait_for_tables("views after FLUSHALL in the middle");
}

fn a_reopened_partition_catches_up(mut world: World) {
    let views = world.worker("w", state_views());
    (0..2).for_each(|partition| world.open(&*views, partition));
    (0..10).for_each(|round| world.random_commit(&*views, round % 2));
    world.wait_for_tables("views before");
    [PRODUCT, CANDLE].into_iter().for_each(|table| views.close(table, 0));
    (0..10).for_each(|_| world.random_commit(&*views, 0)); // nobody listens
    world.open(&*views, 0);
    world.wait_for_tables("what was missed");
    let (refills, rebuilds) = (world.count(&VIEW_REFILLS, &["card"]), world.count(&VIEW_REBUILDS, &["card"]));
    assert_eq!((refills, rebuilds), (1, 2), "rows that changed are read, not all");
}

fn rows_that_the_log_forgot_are_cleared_away(mut world: World) {
    let views = world.worker("w", state_views());
    let keys: Vec<String> = (0..60).map(|number| format!("k{number}")).filter(|key| partition_of(key, 2) == 0).collect();
    let all: Vec<Change> = keys.iter().map(|key| Change::Product(key.clone(), Some(Product::new(key, 1)))).collect();
    world.commit(&*views, 0, &all);
    let candles = keys.iter().take(12).flat_map(|key| (0..3).map(|at| Change::Candle(key.clone(), at * 60_000, Some((1, 2)))));
    world.commit(&*views, 0, &candles.collect::<Vec<_>>());
    world.open(&*views, 0);
    world.wait_for_tables("views before");
    [PRODUCT, CANDLE].into_iter().for_each(|table| views.close(table, 0));
    let mut gone: Vec<Change> = keys.iter().skip(12).map(|key| Change::Product(key.clone(), None)).collect();
    gone.push(Change::Candle(keys[0].clone(), 60_000, None));
    world.commit(&*views, 0, &gone);
    let sealed = world.tables.sealed(0).0;
    world.tables.lock()[0].log_start = sealed; // compacted, and the tombstones with it
    world.open(&*views, 0);
    world.wait_for_tables("rows that went unseen");
    assert!(world.count(&VIEW_ORPHANS, &["card"]) > 0);
}

fn rows_of_a_rebuild_that_was_cut_short_are_cleared_away(mut world: World) {
    let views = world.worker("w", state_views());
    // Too few for the partitioner to be believed.
    let keys: Vec<String> = (0..8).map(|number| format!("k{number}")).filter(|key| partition_of(key, 2) == 0).collect();
    assert!((2..8).contains(&keys.len()), "{keys:?}");
    let all: Vec<Change> = keys.iter().map(|key| Change::Product(key.clone(), Some(Product::new(key, 1)))).collect();
    world.commit(&*views, 0, &all);
    world.open(&*views, 0);
    world.wait_for_tables("views before");
    [PRODUCT, CANDLE].into_iter().for_each(|table| views.close(table, 0));
    // Redis comes back as it was in the middle of a rebuild, which had written these rows.
    for view in state_views() {
        world.put_field(&format!("{{shop:{}:0}}:wm", view.name), "phase", "rebuild");
    }
    world.commit(&*views, 0, &[Change::Product(keys[0].clone(), None), Change::Product(keys[1].clone(), Some(Product::new("new", 2)))]);
    world.open(&*views, 0);
    world.wait_for_tables("rows that left the table meanwhile");
    assert_eq!(world.count(&VIEW_REFILLS, &["card"]), 1, "the changes since that rebuild began are read");
}

fn the_keys_of_another_partition_are_left_alone(mut world: World) {
    // The topic of this table was not written with our partitioner: every key is in partition 0.
    let views = world.worker("w", vec![view("all", ViewShape::Hash, "all:{key}:end")]);
    let all: Vec<Change> = (0..20).map(|n| format!("k{n}")).map(|key| Change::Product(key.clone(), Some(Product::new(&key, 1)))).collect();
    (0..2).for_each(|partition| world.open(&*views, partition));
    world.commit(&*views, 0, &all);
    let wanted = |world: &World| {
        let mut wanted = expected(&world.tables.lock());
        wanted.retain(|key, _| key.starts_with("all:"));
        wanted
    };
    world.wait_for_exactly("views before", &wanted(&world));
    // Partition 1 must be written anew, and believes that half of these keys are its own and gone.
    for partition in 0..2 {
        views.close(PRODUCT, partition);
        world.commit(&*views, partition, &[Change::Product("k1".to_owned(), None)]);
        let sealed = world.tables.sealed(partition).0;
        world.tables.lock()[partition as usize].log_start = sealed;
        world.open(&*views, partition);
    }
    world.wait_for_exactly("rows where the partitioner would not look for them", &{
        let mut wanted = wanted(&world);
        wanted.extend(world.get("all:k1:end").map(|held| ("all:k1:end".to_owned(), held)));
        wanted
    });
}

fn a_key_of_another_type_gives_way(mut world: World) {
    let views = world.worker("w", state_views());
    world.open(&*views, 0);
    let product = |version| Change::Product("p1".to_owned(), Some(Product::new("p1", version)));
    world.commit(
        &*views,
        0,
        &[product(1), Change::Candle("p1".to_owned(), 0, Some((1, 2))), Change::Candle("p1".to_owned(), 60_000, Some((1, 2)))],
    );
    world.wait_for_tables("views before");
    world.put_text("product:p1", "mine");
    world.put_text("category:tea", "mine");
    world.put_text("ranking", "mine");
    world.put_text("chart:p1:1m", "mine");
    world.commit(&*views, 0, &[product(2), Change::Candle("p1".to_owned(), 60_000, Some((1, 3)))]);
    world.wait_for_tables("views after somebody wrote over them");
    assert!(world.count(&VIEW_REPLACED_KEYS, &["chart"]) > 0);
}

fn a_replaced_worker_changes_nothing(mut world: World) {
    let old = world.worker("old", state_views());
    world.open(&*old, 0);
    (0..5).for_each(|_| world.random_commit(&*old, 0));
    world.wait_for_tables("views of the old worker");
    // The old worker commits once more and is paused before it publishes; the new one takes over.
    let changes = random_changes(&mut world.chance, &world.tables, 0, 6, &mut world.version);
    let late = world.tables.commit(0, &changes);
    let new = world.worker("new", state_views());
    world.open(&*new, 0);
    (0..5).for_each(|_| world.random_commit(&*new, 0));
    world.wait_for_tables("views of the new worker");
    late.into_iter().for_each(|batch| _ = old.publish(batch));
    (0..5).for_each(|_| world.turn());
    (0..5).for_each(|_| world.random_commit(&*new, 0));
    world.wait_for_tables("views after the old worker woke up");
    let status = old.status();
    assert!(status.iter().all(|view| view.state != "live"), "{status:?}");
}

fn a_changed_file_rewrites_the_view(mut world: World) {
    let views = world.worker("w", state_views());
    world.open(&*views, 0);
    (0..12).for_each(|_| world.random_commit(&*views, 0));
    world.wait_for_tables("views before");
    assert!(views.shutdown(SOON));
    let changed = vec![
        ViewSpec { fields: fields(&[("title", "row.name")]), ..view("card", ViewShape::Hash, "article:{key}") },
        // From a ledger to none, and from none to a ledger.
        ViewSpec { value: Some(program("row.slug")), ..view("slug", ViewShape::String, "slug-of:{key}") },
        ViewSpec { value: Some(program("key")), ..view("price", ViewShape::String, "version:{row.version}") },
    ];
    let views = world.worker("w2", changed);
    world.open(&*views, 0);
    let mut wanted = expected(&world.tables.lock());
    wanted.retain(|key, _| !["product:", "slug:", "price:"].iter().any(|gone| key.starts_with(gone)));
    for (key, product) in &world.tables.lock()[0].products {
        let title = product.name.as_ref().map(|name| BTreeMap::from([(b"title".to_vec(), name.clone().into_bytes())]));
        wanted.extend(title.map(|fields| (format!("article:{key}"), Held::Hash(fields))));
        wanted.insert(format!("slug-of:{key}"), Held::String(product.slug.clone().into_bytes()));
        wanted.insert(format!("version:{}", product.version), Held::String(key.clone().into_bytes()));
    }
    world.wait_for_exactly("views of the changed file", &wanted);
}

fn what_leaves_may_expire_or_stay(mut world: World) {
    let hour = 3_600_000;
    let complete = || Some(program("row.complete"));
    let specs = vec![
        ViewSpec { when: complete(), on_delete: OnViewDelete::Expire(hour), ..view("expiring", ViewShape::Hash, "e:{key}") },
        ViewSpec { when: complete(), on_delete: OnViewDelete::Keep, ..view("staying", ViewShape::Json, "k:{key}") },
        ViewSpec { ttl_ms: Some(2 * hour), on_delete: OnViewDelete::Expire(3 * hour), ..view("short", ViewShape::Hash, "t:{key}") },
        ViewSpec { ttl_ms: Some(2 * hour), ..view("text", ViewShape::String, "s:{key}") },
        ViewSpec {
            on_delete: OnViewDelete::Expire(hour),
            value: Some(program("key")),
            ..view("moving", ViewShape::String, "m:{row.slug}")
        },
    ];
    let views = world.worker("w", specs);
    world.open(&*views, 0);
    let product = |complete, slug: &str| Some(Product { complete, slug: slug.to_owned(), ..Product::new("p1", 1) });
    world.commit(&*views, 0, &[Change::Product("p1".to_owned(), product(true, "a"))]);
    world.wait_for_key("m:a", |held| held.is_some());
    assert_eq!(world.ttl_ms("e:p1"), None);
    assert!(world.ttl_ms("t:p1").is_some_and(|ms| (hour..=2 * hour).contains(&ms)));
    assert!(world.ttl_ms("s:p1").is_some_and(|ms| (hour..=2 * hour).contains(&ms)));

    world.commit(&*views, 0, &[Change::Product("p1".to_owned(), product(false, "b"))]);
    world.wait_for_key("m:b", |held| held.is_some());
    assert!(world.ttl_ms("e:p1").is_some_and(|ms| (1..=hour).contains(&ms)), "hidden: expires");
    assert!(world.get("k:p1").is_some() && world.ttl_ms("k:p1").is_none(), "hidden: stays");
    assert!(world.ttl_ms("m:a").is_some_and(|ms| (1..=hour).contains(&ms)), "moved: the old key expires");

    world.commit(&*views, 0, &[Change::Product("p1".to_owned(), product(true, "a"))]);
    world.wait_for_key("m:a", |held| held.is_some());
    wait_for("the expiry to end", SOON, || world.ttl_ms("e:p1").is_none().then_some(()));
    wait_for("the expiry to end", SOON, || world.ttl_ms("m:a").is_none().then_some(()));

    world.commit(&*views, 0, &[Change::Product("p1".to_owned(), None)]);
    world.wait_for_key("s:p1", |held| held.is_none());
    assert!(world.ttl_ms("t:p1").is_some_and(|ms| ms <= 2 * hour), "deleted: never later than it would have gone anyway");
    assert!(world.get("k:p1").is_some());
}

fn logs_tell_each_change_once(mut world: World) {
    let views = world.worker("w", log_views());
    world.open(&*views, 0);
    world.wait_until_live(&*views);
    for version in 1..=5 {
        world.commit(&*views, 0, &[Change::Product("p1".to_owned(), Some(Product::new("p1", version)))]);
    }
    world.commit(&*views, 0, &[Change::Product("p2".to_owned(), Some(Product::new("p2", 6)))]);
    let entries = |world: &World, key: &str, field: &[u8]| -> Vec<String> {
        let Some(Held::Stream(entries)) = world.get(key) else { return Vec::new() };
        let text = |fields: &Vec<(Vec<u8>, Vec<u8>)>| {
            let found = fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.clone());
            found.map_or("-".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
        };
        entries.iter().map(|(_, fields)| text(fields)).collect()
    };
    world.wait_for_key("history:p2", |held| held.is_some());
    wait_for("all entries", SOON, || (entries(&world, "changes", b"v").len() == 6).then_some(()));
    assert_eq!(entries(&world, "history:p1", b"v"), ["3", "4", "5"], "the last three");
    assert_eq!(entries(&world, "changes", b"v"), ["1", "2", "3", "4", "5", "6"]);

    world.commit(&*views, 0, &[Change::Product("p1".to_owned(), None)]);
    world.wait_for_key("history:p1", |held| held.is_none());
    wait_for("the last entry", SOON, || (entries(&world, "changes", b"v").len() == 7).then_some(()));
    assert_eq!(entries(&world, "changes", b"deleted").last().map(String::as_str), Some("true"));
    assert_eq!(entries(&world, "changes", b"key").last().map(String::as_str), Some("p1"));

    // After FLUSHALL a row's own stream shows the row; the common one goes on with what happens next.
    world.flush();
    world.wait_for_key("history:p2", |held| held.is_some());
    world.commit(&*views, 0, &[Change::Product("p2".to_owned(), Some(Product::new("p2", 7)))]);
    world.wait_for_key("changes", |held| held.is_some());
    wait_for("two entries", SOON, || (entries(&world, "history:p2", b"v").len() == 2).then_some(()));
    assert_eq!(entries(&world, "history:p2", b"v"), ["6", "7"]);
    assert_eq!(entries(&world, "changes", b"v"), ["7"]);
}

fn a_message_comes_after_its_write(mut world: World) {
    let card = ViewSpec { when: Some(program("row.complete")), ..view("card", ViewShape::Hash, "product:{key}") };
    let views = world.worker("w", vec![with_notify(card, "changed:{key}"), log_views().remove(2)]);
    world.open(&*views, 0);
    let listener = match &world.home {
        Home::Memory { .. } => None,
        Home::Redis { server, .. } => Some(server.connect()),
    };
    let mut listener = listener;
    let mut listener = listener.as_mut().map(|connection| {
        connection.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut listener = connection.as_pubsub();
        listener.psubscribe("*").expect("a subscription");
        listener
    });
    let product = |complete| Some(Product { complete, ..Product::new("p1", 4) });
    let p1 = |new| [Change::Product("p1".to_owned(), new)];
    // Hidden, shown, shown, hidden, deleted: a message where something changed in the view, and one for each version.
    let steps = [product(false), product(true), product(true), product(false), None];
    let wanted = [
        vec!["news:p1 4"],
        vec!["changed:p1 p1", "news:p1 4"],
        vec!["changed:p1 p1", "news:p1 4"],
        vec!["changed:p1 p1", "news:p1 4"],
        vec!["news:p1 null"],
    ];
    world.wait_until_live(&*views);
    for (step, wanted) in steps.into_iter().zip(wanted) {
        let is_shown = step.as_ref().is_some_and(|product| product.complete);
        world.commit(&*views, 0, &p1(step));
        let mut found = Vec::new();
        match (&world.home, &mut listener) {
            (Home::Memory { redis, .. }, _) => {
                let text = |(channel, payload): (Vec<u8>, Vec<u8>)| format!("{} {}", channel.escape_ascii(), payload.escape_ascii());
                found.extend(redis.with(|place| place.take_published()).into_iter().map(text));
            }
            (_, Some(listener)) => {
                while found.len() < wanted.len() {
                    let message = listener.get_message().expect("a message");
                    let payload: String = message.get_payload().expect("text");
                    found.push(format!("{} {payload}", message.get_channel_name()));
                    if message.get_channel_name() == "changed:p1" {
                        assert_eq!(world.get("product:p1").is_some(), is_shown, "the write comes first");
                    }
                }
            }
            _ => {}
        }
        found.sort();
        assert_eq!(found, wanted);
    }
}

fn a_unique_value_may_move_between_rows(mut world: World) {
    let views = world.worker("w", vec![ViewSpec { value: Some(program("key")), ..view("slug", ViewShape::String, "slug:{row.slug}") }]);
    world.open(&*views, 0);
    let with = |key: &str, slug: &str| Change::Product(key.to_owned(), Some(Product { slug: slug.to_owned(), ..Product::new(key, 1) }));
    let slugs = |list: &[(&str, &str)]| -> BTreeMap<String, Held> {
        list.iter().map(|(slug, key)| (format!("slug:{slug}"), Held::String(key.as_bytes().to_vec()))).collect()
    };
    world.commit(&*views, 0, &[with("a", "1"), with("b", "2")]);
    world.wait_for_exactly("two slugs", &slugs(&[("1", "a"), ("2", "b")]));
    world.commit(&*views, 0, &[with("a", "2"), with("b", "1")]);
    world.wait_for_exactly("swapped in one commit", &slugs(&[("1", "b"), ("2", "a")]));
    world.commit(&*views, 0, &[with("c", "1")]);
    world.commit(&*views, 0, &[with("b", "3")]);
    world.wait_for_exactly("taken before it was given", &slugs(&[("1", "c"), ("2", "a"), ("3", "b")]));
    world.commit(&*views, 0, &[Change::Product("a".to_owned(), None)]);
    world.wait_for_exactly("given up", &slugs(&[("1", "c"), ("3", "b")]));
    assert!(matches!(world.get("slug:1"), Some(Held::String(_))));
}

fn a_row_that_cannot_be_shown_is_absent(mut world: World) {
    let specs = vec![
        ViewSpec { fields: fields(&[("half", "row.version / (row.version - 2)")]), ..view("half", ViewShape::Hash, "half:{key}") },
        ViewSpec { member: None, ..view("by_category", ViewShape::String, "by:{row.category}") },
    ];
    let views = world.worker("w", specs);
    world.open(&*views, 0);
    let version = |version| Change::Product("p1".to_owned(), Some(Product { category: None, ..Product::new("p1", version) }));
    world.commit(&*views, 0, &[version(1)]);
    world.wait_for_key("half:p1", |held| held.is_some());
    // What a view reads while it is being opened counts as well; from then on each commit counts once.
    let unnamed = |world: &World| world.count(&VIEW_UNSHOWABLE_ROWS, &["by_category", "null_key"]);
    let before = wait_for("the first count", SOON, || Some(unnamed(&world)).filter(|count| *count > 0));
    world.commit(&*views, 0, &[version(2)]); // divides by zero
    world.wait_for_key("half:p1", |held| held.is_none());
    world.commit(&*views, 0, &[version(3)]);
    world.wait_for_key("half:p1", |held| held.is_some());
    assert_eq!(world.count(&VIEW_UNSHOWABLE_ROWS, &["half", "expression"]), 1);
    wait_for("the count", SOON, || (unnamed(&world) == before + 2).then_some(()));
    assert_eq!(world.shown().len(), 1);
}

fn a_watermark_of_another_kind_is_written_over(mut world: World) {
    let views = world.worker("w", state_views());
    world.open(&*views, 0);
    (0..5).for_each(|_| world.random_commit(&*views, 0));
    world.wait_for_tables("views before");
    world.put_text("{shop:card:0}:wm", "mine");
    world.put_text("{shop:ranking:0}:wm", "mine");
    (0..5).for_each(|_| world.random_commit(&*views, 0));
    world.wait_for_tables("views after somebody wrote over the watermark");
}

fn a_watermark_of_a_newer_version_is_left_alone(mut world: World) {
    let views = world.worker("w", vec![view("all", ViewShape::Hash, "all:{key}:end")]);
    match &world.home {
        Home::Memory { redis, .. } => {
            let fields = BTreeMap::from([(b"v".to_vec(), b"2".to_vec()), (b"gen".to_vec(), b"new".to_vec())]);
            redis.with(|place| place.put(b"{shop:all:0}:wm", Held::Hash(fields)));
        }
        Home::Redis { server, .. } => _ = server.command("HSET {shop:all:0}:wm v 2 gen new"),
    }
    world.open(&*views, 0);
    world.random_commit(&*views, 0);
    world.turn();
    let status = wait_for("the refusal", SOON, || views.status().into_iter().find_map(|view| view.error));
    assert!(status.contains("format 2, this version knows 1"), "{status}");
    assert!(world.shown().is_empty());
}

fn an_owner_that_does_not_answer_is_asked_again(mut world: World) {
    let views = world.worker("w", state_views());
    (0..5).for_each(|_| world.random_commit(&*views, 0));
    *world.tables.refusals.lock().expect("no panic") = 9;
    world.open(&*views, 0);
    world.wait_for_tables("views in the end");
}

fn partitions_may_move_between_workers(mut world: World) {
    let workers = [world.worker("w1", state_views()), world.worker("w2", state_views())];
    let mut owners = [0, 0];
    (0..2).for_each(|partition| world.open(&*workers[0], partition));
    for round in 0..80 {
        let partition = round % 2;
        world.random_commit(&*workers[owners[partition as usize]], partition);
        if round % 10 == 5 {
            let moved = world.chance.below(2);
            [PRODUCT, CANDLE].into_iter().for_each(|table| workers[owners[moved]].close(table, moved as i32));
            owners[moved] = 1 - owners[moved];
            world.open(&*workers[owners[moved]], moved as i32);
        }
    }
    world.wait_for_tables("views after many moves");
}
