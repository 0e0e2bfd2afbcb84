//! The main job, end to end: worker processes on a real Kafka and a real Redis, killed while events flow.
//!
//! Three workers run `topologies/product.yaml` under names of this run. While events come (out of order, late, doubled, deleted,
//! bad), ten of their processes are killed with signal 9, at any moment and some provably inside an open transaction; one stands
//! still until others have its tasks, and wakes up; one is stopped as an operator does it. Then output topic, dead letters,
//! changelogs, RocksDB, HTTP and Redis must hold what a naive fold of the input topics says (`end_to_end/fold.rs`), and what
//! readers saw meanwhile must have been committed. A run without a kill inside an open transaction is void, and fails.
//!
//! Needs `KAFKA_BROKERS` and `REDIS_URL`. `END_TO_END_SEED=7` gives the events and blows of that seed; when each blow falls into the
//! work of a worker is not in our hand, so a seed that failed once may have to be run some times.

#![allow(clippy::print_stdout, reason = "what the run did is for whoever reads its output")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

mod random;
mod servers;

#[path = "end_to_end/changelog.rs"]
mod changelog;
#[path = "end_to_end/events.rs"]
mod events;
#[path = "end_to_end/fold.rs"]
mod fold;
#[path = "end_to_end/kafka.rs"]
mod kafka;
#[path = "end_to_end/member.rs"]
mod member;
#[path = "end_to_end/readers.rs"]
mod readers;
#[path = "end_to_end/shop.rs"]
mod shop;
#[path = "end_to_end/verdict.rs"]
mod verdict;
#[path = "end_to_end/workers.rs"]
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use millstream::log::Event;
use millstream::metrics;
use millstream::model::{Clock, SystemClock};

use changelog::Changelogs;
use events::Events;
use fold::{Expected, Row};
use kafka::See;
use member::Member;
use random::Random;
use readers::Readers;
use servers::wait_for;
use shop::{Flow, PARTITIONS, Shop};
use verdict::Verdict;
use workers::Worker;

/// Kills with signal 9.
const KILLS: usize = 10;
/// Of them inside an open transaction.
const KILLS_INSIDE: usize = 4;
/// Of them such that the others must take over before the worker comes back.
const KILLS_FOR_GOOD: usize = 2;
/// Kills inside a transaction that Kafka must confirm: it may have ended in the moment before the signal.
const PROVEN_MIN: usize = 4;
/// Until a state that the engine is free to take its time for: a session and a transaction time out (6 s each), a few restores.
const LONG: Duration = Duration::from_secs(60);
/// A request that was on its way is answered by then, or nearly always: what came of it is seen in the end, see [`proven`].
const IN_FLIGHT: Duration = Duration::from_millis(150);
/// Within which Redis shows everything.
const VIEWS: Duration = Duration::from_secs(20);
/// Looks of a reader without which a run says nothing about what readers see.
const LOOKS_MIN: usize = 100;

/// What happens to a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    /// Killed at any moment, back at once.
    Anywhere,
    /// Killed inside an open transaction, back at once.
    Inside,
    /// Killed inside an open transaction, back after the others have taken over.
    ForGood,
    /// Stands still inside an open transaction until the others have taken over, and goes on.
    Zombie,
    /// SIGTERM, back at once.
    Restart,
}

/// Offsets of a transaction that was open in a partition when its worker was stopped.
struct Open {
    partition: i32,
    from: i64,
    to: i64,
}

struct World {
    shop: Shop,
    workers: Vec<Worker>,
    readers: Readers,
    random: Random,
    open: Vec<Open>,
}

#[test]
fn ten_kills_lose_nothing_and_double_nothing() {
    let name = "end_to_end::ten_kills_lose_nothing_and_double_nothing";
    let (Some(brokers), Some(redis)) = (servers::kafka(name), servers::redis(name)) else { return };
    let seed = seed();
    println!("END_TO_END_SEED={seed}");
    let shop = Shop::new("chaos", &brokers, &redis);
    let workers = (1..=3).map(|number| Worker::new(&format!("w{number}"), if number == 1 { 2 } else { 1 }, &shop.setting)).collect();
    let readers = Readers::start(seed, &redis, &shop.app);
    let mut world = World { shop, workers, readers, random: Random(seed), open: Vec::new() };
    let started = Instant::now();
    world.workers.iter_mut().for_each(Worker::start);
    world.tell_readers();
    let flow = Flow::start(&world.shop, Events::new(seed));
    world.wait_for_all_tasks("at the start");
    let mut blows = vec![Blow::Anywhere; KILLS - KILLS_INSIDE - KILLS_FOR_GOOD];
    blows.extend([Blow::Inside; KILLS_INSIDE]);
    blows.extend([Blow::ForGood; KILLS_FOR_GOOD]);
    blows.extend([Blow::Zombie, Blow::Restart]);
    while !blows.is_empty() {
        let blow = blows.swap_remove(world.random.below(blows.len() as u64) as usize);
        flow.wait_for_more(world.random.below(300));
        let at = started.elapsed().as_secs_f64();
        let what = world.strike(blow);
        println!("{at:5.1} s  {blow:?}: {what}");
    }
    let sent = flow.stop();
    println!("{:5.1} s  {sent} events sent", started.elapsed().as_secs_f64());
    world.settle();
    let (verdict, shop) = world.judge();
    println!("{:5.1} s  {verdict}", started.elapsed().as_secs_f64());
    assert!(verdict.is_good(), "END_TO_END_SEED={seed}\n{verdict}");
    shop.remove();
}

#[expect(clippy::disallowed_methods, reason = "the test asks its own environment, not the worker's settings")]
fn seed() -> u64 {
    std::env::var("END_TO_END_SEED").map_or_else(|_| SystemClock.now().0 as u64 % 1_000_000, |seed| seed.parse().unwrap())
}

impl World {
    /// Returns what happened, in words.
    fn strike(&mut self, blow: Blow) -> String {
        let said = match blow {
            Blow::Anywhere => {
                let at = self.random.below(self.workers.len() as u64) as usize;
                self.workers[at].kill();
                self.workers[at].start();
                self.workers[at].id.clone()
            }
            Blow::Inside => {
                let (at, said) = self.freeze_inside();
                self.workers[at].kill();
                self.workers[at].start();
                said
            }
            Blow::ForGood => {
                let (at, said) = self.freeze_inside();
                let killed = Instant::now();
                self.workers[at].kill();
                self.wait_for_others(at);
                let took = killed.elapsed();
                self.workers[at].start();
                format!("{said}; the others had its tasks after {:.1} s", took.as_secs_f64())
            }
            Blow::Zombie => {
                let (at, said) = self.freeze_inside();
                self.wait_for_others(at);
                self.workers[at].thaw();
                self.wait_for_all_tasks("after a zombie woke up");
                said
            }
            Blow::Restart => {
                let at = self.random.below(self.workers.len() as u64) as usize;
                // One that is not up yet cannot be told to stop in order.
                self.workers[at].wait_until_it_answers();
                self.workers[at].stop();
                self.workers[at].start();
                self.workers[at].id.clone()
            }
        };
        self.workers.iter_mut().for_each(Worker::check_alive);
        self.tell_readers();
        said
    }

    /// Stops a worker in the middle of a transaction: as soon as a reader that does not wait for commits sees a record of its changelog.
    /// What the worker had sent by then may still end the transaction; it is inside if Kafka goes on to have one open.
    fn freeze_inside(&mut self) -> (usize, String) {
        let topic = format!("{}-product-changelog", self.shop.app);
        let mut tries = 0;
        wait_for("a worker to be caught inside a transaction", LONG, || {
            tries += 1;
            let mut owners = BTreeMap::new();
            for at in 0..self.workers.len() {
                owners.extend(self.workers[at].running().into_iter().map(|partition| (partition, at)));
            }
            let follower = self.shop.kafka.follow(&topic, PARTITIONS, See::Everything);
            let partition = follower.next()?.partition;
            let at = *owners.get(&partition)?;
            self.workers[at].freeze();
            let Some((from, to)) = self.stays_open(&topic, partition) else {
                self.workers[at].thaw();
                return None;
            };
            self.open.push(Open { partition, from, to });
            let id = &self.workers[at].id;
            Some((at, format!("{id}, in the transaction from offset {from} of partition {partition}, at try {tries}")))
        })
    }

    /// The offsets of a transaction that is open in a partition for as long as what a stopped worker had sent can take to arrive.
    fn stays_open(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let end = Instant::now() + IN_FLIGHT;
        let first = self.shop.kafka.open_transaction(topic, partition)?;
        while Instant::now() < end {
            let (from, _) = self.shop.kafka.open_transaction(topic, partition)?;
            if from != first.0 {
                return None;
            }
        }
        Some(first)
    }

    /// Until all partitions are worked on by others than one that is gone.
    fn wait_for_others(&mut self, gone: usize) {
        let others: Vec<usize> = (0..self.workers.len()).filter(|at| *at != gone).collect();
        self.wait_for_tasks("the others to take over", &others);
    }

    fn wait_for_all_tasks(&mut self, when: &str) {
        self.wait_for_tasks(&format!("all tasks to run {when}"), &(0..self.workers.len()).collect::<Vec<_>>());
    }

    fn wait_for_tasks(&mut self, what: &str, workers: &[usize]) {
        let chosen = self.workers.iter_mut().enumerate().filter(|(at, _)| workers.contains(at));
        wait_for_tasks(what, &mut chosen.map(|(_, worker)| worker).collect::<Vec<_>>());
    }

    fn tell_readers(&self) {
        *self.readers.addresses.lock().unwrap() = self.workers.iter().filter_map(Worker::address).collect();
    }

    /// Until everything that was sent is committed, and every worker is up.
    fn settle(&mut self) {
        self.workers.iter_mut().for_each(Worker::wait_until_it_answers);
        self.wait_for_all_tasks("at the end");
        self.shop.wait_until_committed(LONG);
    }

    fn judge(self) -> (Verdict, Shop) {
        let mut verdict = Verdict::default();
        let expected = Expected::of(&self.shop.inputs());
        assert!(expected.doubles > 50, "only {} events were sent twice", expected.doubles);
        self.compare_http(&mut verdict, &expected);
        self.shop.compare_redis(&mut verdict, &expected, VIEWS);
        let World { shop, mut workers, readers, open, .. } = self;
        let seen = readers.stop();
        assert!(seen.rows.len() >= LOOKS_MIN && seen.cards.len() >= LOOKS_MIN, "readers hardly saw anything");
        workers.iter_mut().for_each(Worker::stop);
        let changelogs = Changelogs::read(&shop.kafka, &shop.app, &shop.topology);
        let proven = proven(&open, &changelogs);
        let aborted: usize = changelogs.aborted.values().map(Vec::len).sum();
        println!("{proven} of {} open transactions were cut off by the blow, {aborted} changelog records aborted", open.len());
        assert!(proven >= PROVEN_MIN, "void: only {proven} blows fell inside a transaction that stayed open");
        verdict.changelogs(&changelogs, &expected);
        verdict.seen(&seen, &changelogs);
        verdict.outputs(&shop.kafka.read(&shop.card, See::Committed), &expected);
        let letters = shop.kafka.read(&format!("{}-dead-letters", shop.app), See::Committed);
        verdict.dead_letters(&letters, &shop.topics(), &expected);
        shop.compare_state(&mut verdict, &expected, &workers);
        (verdict, shop)
    }

    /// Every row by its key from any worker; the pages of all workers together; the windows of every key.
    fn compare_http(&self, verdict: &mut Verdict, expected: &Expected) {
        let (mut rows, mut pages, mut windows) = (Vec::new(), Vec::new(), Vec::new());
        // A price that the products leave out may be the only event of its key: then there is a candle and no history of a row.
        let keys: BTreeSet<&String> = expected.histories.keys().chain(expected.candles.keys().map(|(key, _)| key)).collect();
        for (number, &key) in keys.iter().enumerate() {
            let worker = &self.workers[number % self.workers.len()];
            let row = self.ask(worker, &format!("/tables/product/{key}"));
            rows.extend(row.map(|row| (key.clone(), serde_json::from_value(row).unwrap())));
            for window in
                self.ask(worker, &format!("/tables/price_ohlc_1m/{key}/windows?limit=1000")).unwrap()["windows"].as_array().unwrap()
            {
                windows.push(((key.clone(), window["start"].as_i64().unwrap()), row_in(window)));
            }
        }
        for worker in &self.workers {
            let mut cursor = String::new();
            loop {
                let page = self.ask(worker, &format!("/tables/product?limit=20{cursor}")).unwrap();
                let found = page["rows"].as_array().unwrap().iter();
                pages.extend(found.map(|row| (row["key"].as_str().unwrap().to_owned(), row_in(row))));
                match page["cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
        }
        verdict.rows("rows over HTTP", rows, &expected.products());
        verdict.rows("rows on pages over HTTP", pages, &expected.products());
        verdict.rows("windows over HTTP", windows, &expected.candles);
    }

    /// An answer; `None`: there is no such row. Who owns what is known to all within seconds.
    fn ask(&self, worker: &Worker, path: &str) -> Option<serde_json::Value> {
        let mut last = None;
        let look = || {
            let answer = worker.get(path)?;
            last = Some(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
            match answer.status {
                200 => Some(Some(answer.json())),
                404 => Some(None),
                _ => None,
            }
        };
        wait_for(&format!("{} to answer {path}", worker.id), LONG, look)
    }
}

fn row_in(found: &serde_json::Value) -> Row {
    serde_json::from_value(found["row"].clone()).unwrap()
}

/// How many of the transactions that were open when their worker was stopped never ended well: of what lay there, readers of
/// committed records see nothing.
fn proven(open: &[Open], changelogs: &Changelogs) -> usize {
    let is_proven = |open: &&Open| {
        let aborted = changelogs.aborted.get(&open.partition);
        aborted.is_some_and(|offsets| offsets.iter().any(|offset| (open.from..open.to).contains(offset)))
    };
    open.iter().filter(is_proven).count()
}

/// Issue: at most 3 s. Here only a bound that a busy machine keeps.
const RESTART_MAX: Duration = Duration::from_secs(10);

#[test]
fn a_killed_worker_is_back_with_its_state_in_seconds() {
    let name = "end_to_end::a_killed_worker_is_back_with_its_state_in_seconds";
    let (Some(brokers), Some(redis)) = (servers::kafka(name), servers::redis(name)) else { return };
    let shop = Shop::new("restart", &brokers, &redis);
    let mut worker = Worker::new("w1", 2, &shop.setting);
    worker.start();
    worker.wait_until_it_answers();
    let mut events = Events::new(1);
    let sender = shop.kafka.sender();
    for event in events.by_ref().take(5_000) {
        shop.send(&sender, &event);
    }
    sender.flush();
    let mut took = Vec::new();
    for _ in 0..3 {
        shop.wait_until_committed(LONG);
        // Not in the middle of a rebalance, which is another test's: this one is about the time that a restart takes.
        wait_for_tasks("all tasks to run", &mut [&mut worker]);
        let follower = shop.kafka.follow(&shop.card, PARTITIONS, See::Committed);
        worker.kill();
        let event = events.newest();
        shop.send(&sender, &event);
        sender.flush();
        let started = Instant::now();
        worker.start();
        // Its name is its own: only the restarted worker can have written a row with it.
        let name = name_in(&event.value.unwrap());
        wait_for("a committed output of the restarted worker", LONG, || {
            follower.next().and_then(|found| found.value).filter(|value| name_in(value) == name).map(|_| ())
        });
        took.push(started.elapsed());
    }
    println!("from the start of the process to the first committed output: {took:?}");
    worker.stop();
    assert!(took.iter().all(|took| *took < RESTART_MAX), "a restart took too long: {took:?}");
    shop.remove();
}

/// Until every task runs in one of these workers, none of which may end meanwhile.
fn wait_for_tasks(what: &str, workers: &mut [&mut Worker]) {
    wait_for(what, LONG, || {
        workers.iter_mut().for_each(|worker| worker.check_alive());
        let running: BTreeSet<i32> = workers.iter().flat_map(|worker| worker.running()).collect();
        (running.len() == PARTITIONS as usize).then_some(())
    });
}

fn name_in(value: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(value).unwrap()["name"].to_string()
}

/// From the restart of the worker until every task runs: heartbeats tell who is there, five seconds are waited in which everything
/// may be on its way, and the members learn of the round with their next heartbeat. On a busy machine some more.
const FORGOTTEN_MAX: Duration = Duration::from_secs(40);

#[test]
fn tasks_that_a_killed_worker_owed_to_its_group_find_an_owner() {
    let name = "end_to_end::tasks_that_a_killed_worker_owed_to_its_group_find_an_owner";
    let (Some(brokers), Some(redis)) = (servers::kafka(name), servers::redis(name)) else { return };
    let shop = Shop::new("owed", &brokers, &redis);
    let (mut first, mut second) = (Worker::new("w1", 1, &shop.setting), Worker::new("w2", 1, &shop.setting));
    first.start();
    wait_for_tasks("the first to have all tasks", &mut [&mut first]);
    first.kill();
    // In its place and under its name somebody who is asked to give tasks up, and dies before he answers.
    let mut owner = Member::join(&brokers, &shop.app, "w1-0");
    owner.wait_for("all tasks to be given to it", |event| matches!(event, Event::Assigned(tasks) if tasks.len() == PARTITIONS as usize));
    second.start();
    owner.wait_for("it to be asked for tasks", |event| matches!(event, Event::Revoked(_)));
    // Closing it would be an answer. Its client goes on with its heartbeats until the worker takes its place: no session ends meanwhile.
    std::mem::forget(owner);
    let started = Instant::now();
    first.start();
    wait_for_tasks("every task to run", &mut [&mut first, &mut second]);
    let took = started.elapsed();
    println!("every task runs {took:?} after the restart of the worker that owed some");
    assert!(took < FORGOTTEN_MAX, "it took {took:?}");
    assert_eq!(first.running().len(), second.running().len(), "the share is even");
    let enforced = |worker: &Worker| {
        let text = String::from_utf8(worker.get("/metrics").unwrap().body).unwrap();
        let line = text.lines().find(|line| line.starts_with(metrics::ENFORCED_REBALANCES.name)).map(str::to_owned);
        line.unwrap().rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(enforced(&first) + enforced(&second), 1, "one of the two acted, once");
    let (sender, mut events) = (shop.kafka.sender(), Events::new(1));
    for event in events.by_ref().take(500) {
        shop.send(&sender, &event);
    }
    sender.flush();
    shop.wait_until_committed(LONG);
    first.stop();
    second.stop();
    shop.remove();
}
