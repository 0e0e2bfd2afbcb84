//! A seed gives a topology, records, their interleaving, crashes, rebalances, and faults of the log and of Redis; stores,
//! changelogs, outputs, dead letters and views equal a naive fold.
//!
//! Runs the real loop, store, commit and lanes of the views in process. The oracle (`simulation/oracle.rs`) shares no code with the
//! engine: it looks at all records of a key at once and says what the row is. `SIMULATION_SEEDS=N` sets how many seeds run
//! (default 1,000), `SIMULATION_SEED=N` runs one of them. A run in which nothing failed inside an open transaction proves nothing
//! of the commit, nor one in which no timer fired of timers: over all seeds there must be many that did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test that cannot go on says so by panicking")]

mod random;

#[path = "simulation/events.rs"]
mod events;
#[path = "simulation/found.rs"]
mod found;
#[path = "simulation/jobs.rs"]
mod jobs;
#[path = "simulation/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::log::LogErrorKind;
use millstream::log::memory::{Call, Fault};
use millstream::metrics;
use millstream::state::CacheBudget;
use millstream::testkit::{Driver, DriverSettings};
use millstream::topology;
use millstream::views::memory::ViewFault;
use millstream::views::place::MemoryPlace;

use events::{Sent, send};
use found::{Found, PARTITIONS};
use jobs::{JOBS, Job};
use random::Random;

const STEPS: i64 = 40;
/// Steps at the end in which the clock goes on and nothing else happens: waits end, and views look at Redis again.
const QUIET_STEPS: usize = 5;

/// What must happen in many seeds, or they prove little.
const MOVES: &[&metrics::Metric] = &[
    &metrics::STALE_RECORDS,
    &metrics::DUPLICATE_RECORDS,
    &metrics::LATE_RECORDS,
    &metrics::OWNER_MISSING_RECORDS,
    &metrics::OWNER_TIMEOUTS,
    &metrics::COMPLETED_ROWS,
    &metrics::EXPIRED_ROWS,
    &metrics::VIEW_REFILLS,
    &metrics::VIEW_REBUILDS,
    &metrics::ENFORCED_REBALANCES,
];

/// A run of one seed.
struct Run {
    job: &'static Job,
    driver: Driver,
    random: Random,
    sent: Vec<Sent>,
    /// A copy that Redis can go back to.
    copy: Option<MemoryPlace>,
    faults: Arc<AtomicU64>,
    view_faults: Arc<AtomicU64>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let job = &JOBS[(seed % JOBS.len() as u64) as usize];
        let (loaded, diagnostics) = topology::load(&job.text(), "simulated.yaml");
        let why = || millstream::config::render::render(&diagnostics, millstream::config::render::Look::Plain);
        let loaded = loaded.unwrap_or_else(|| panic!("{}", why()));
        // Small caches, so that rows are written back and read again.
        let budget = CacheBudget { cache_bytes: 600, dirty_bytes: 300, restore_tail_max: 20, ..CacheBudget::default() };
        let settings = DriverSettings { partitions: PARTITIONS, budget, ..DriverSettings::default() };
        let driver = Driver::new(topology::plan(loaded.topology), settings, Vec::new()).unwrap();
        let (faults, view_faults) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        Run { job, driver, random: Random(seed), sent: Vec::new(), copy: None, faults, view_faults }
    }

    /// Records come, time passes, and something happens to workers, log and Redis.
    fn step(&mut self, step: i64) {
        self.arm_log();
        self.arm_redis();
        for _ in 0..self.random.below(6) {
            send(&mut self.driver, &mut self.random, self.job, step, &mut self.sent);
        }
        let pause = if self.random.one_in(12) { 4_000 } else { self.random.below(900) as i64 };
        self.driver.clock.advance_ms(pause);
        self.disturb_redis();
        let driver = &mut self.driver;
        match self.random.below(10) {
            0 => driver.crash().unwrap(),
            1 => driver.rebalance(1 + self.random.below(3) as usize).unwrap(),
            2 => driver.commit().unwrap(),
            3 | 4 => driver.settle().unwrap(),
            5 => {
                // A crash with work done and not committed.
                driver.process().unwrap();
                driver.crash().unwrap();
            }
            6 if self.random.one_in(3) => {
                // All workers leave, and others come: everything is read from the changelogs.
                driver.rebalance(0).unwrap();
                driver.forget_disks();
                driver.rebalance(1 + self.random.below(2) as usize).unwrap();
            }
            7 if self.random.one_in(2) => {
                let workers = 1 + self.random.below(3) as usize;
                driver.crash_in_rebalance(workers, self.random.below(4) as usize).unwrap();
            }
            _ => driver.process().unwrap(),
        }
        if self.random.one_in(3) {
            self.driver.cluster.deliver_delayed();
        }
        if self.random.one_in(4) {
            oracle::check_seen(self.job, &Found::read_edges(&self.driver, self.job));
        }
    }

    /// Faults at the steps of the commit, some of the time.
    fn arm_log(&mut self) {
        let mut own = Random(self.random.below(u64::MAX));
        let count = self.faults.clone();
        let is_calm = self.random.below(4) != 0;
        self.driver.cluster.set_faults(Some(Box::new(move |call, _client| {
            let is_commit = matches!(call, Call::Flush | Call::SendOffsets | Call::Commit | Call::Abort);
            if is_calm || !is_commit || own.below(4) != 0 {
                return None;
            }
            count.fetch_add(1, Ordering::Relaxed);
            Some(match (call, own.below(4)) {
                (Call::Commit | Call::Abort, 0) => Fault::Delayed,
                (Call::Commit, 1) => Fault::After(LogErrorKind::Unknown),
                (Call::Commit, 2) => Fault::Before(LogErrorKind::Unknown),
                (Call::SendOffsets, 0) => Fault::Before(LogErrorKind::Fenced),
                _ => Fault::Before(LogErrorKind::Abort),
            })
        })));
    }

    /// Scripts and replies get lost, some of the time.
    fn arm_redis(&mut self) {
        let mut own = Random(self.random.below(u64::MAX));
        let count = self.view_faults.clone();
        let is_calm = self.random.below(3) != 0;
        self.driver.redis.set_faults(Some(Box::new(move || {
            if is_calm || own.below(4) != 0 {
                return None;
            }
            count.fetch_add(1, Ordering::Relaxed);
            Some([ViewFault::Lost, ViewFault::ReplyLost, ViewFault::Delayed][own.below(3) as usize])
        })));
    }

    fn disturb_redis(&mut self) {
        let redis = self.driver.redis.clone();
        match self.random.below(20) {
            0 => redis.with(MemoryPlace::flush),
            1 | 2 => self.copy = Some(redis.with(|place| place.clone())),
            3 => {
                if let Some(copy) = self.copy.take() {
                    redis.with(|place| *place = copy);
                }
            }
            4 => redis.set_down(true),
            5..8 => redis.set_down(false),
            8..11 => _ = redis.deliver_delayed(millstream::model::Clock::now(&self.driver.clock)),
            _ => {}
        }
    }

    /// Everything heals, and is compared with what was sent; once more after the last packets have come, and once more on new disks.
    fn finish(&mut self) {
        let Run { job, driver, sent, .. } = self;
        driver.cluster.set_faults(None);
        driver.cluster.deliver_delayed();
        driver.redis.set_faults(None);
        driver.redis.set_down(false);
        driver.settle().unwrap();
        (0..QUIET_STEPS).for_each(|_| driver.advance(5_000).unwrap());
        let mut found = Found::read(driver, job);
        oracle::check(job, &found, sent);
        driver.redis.deliver_delayed(millstream::model::Clock::now(&driver.clock));
        found.read_views(driver, job);
        oracle::check_views(job, &found);
        driver.rebalance(0).unwrap();
        driver.forget_disks();
        driver.rebalance(1).unwrap();
        (0..QUIET_STEPS).for_each(|_| driver.advance(5_000).unwrap());
        oracle::check(job, &Found::read(driver, job), sent);
    }
}

/// Counts over all seeds.
#[derive(Default)]
struct Tally {
    faults: u64,
    view_faults: u64,
    moved: BTreeMap<&'static str, i64>,
}

impl Tally {
    fn run(&mut self, seed: u64) {
        let mut run = Run::new(seed);
        (0..STEPS).for_each(|step| run.step(step));
        run.finish();
        self.faults += run.faults.load(Ordering::Relaxed);
        self.view_faults += run.view_faults.load(Ordering::Relaxed);
        for metric in MOVES {
            *self.moved.entry(metric.name).or_default() += run.driver.metrics.sum(metric.name, &[]);
        }
    }
}

#[test]
fn every_seed_ends_in_the_rows_of_the_naive_fold() {
    let mut tally = Tally::default();
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        return tally.run(seed.parse().unwrap());
    }
    let seeds = std::env::var("SIMULATION_SEEDS").map_or(1000, |text| text.parse().unwrap());
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tally.run(seed)));
        if let Err(cause) = outcome {
            let job = JOBS[(seed % JOBS.len() as u64) as usize].name;
            let text = cause.downcast_ref::<String>().map_or("see above", String::as_str);
            panic!("seed {seed}, topology `{job}` (SIMULATION_SEED={seed} runs it alone): {text}");
        }
    }
    println!("{seeds} seeds, {} faults at steps of a commit, {} of scripts, {:#?}", tally.faults, tally.view_faults, tally.moved);
    assert!(tally.faults > seeds / 2, "only {} faults in {seeds} seeds: the commit was hardly tested", tally.faults);
    assert!(tally.view_faults > seeds / 2, "only {} faults of scripts in {seeds} seeds", tally.view_faults);
    for (metric, moved) in tally.moved {
        assert!(moved > seeds as i64 / 10, "{metric} is only {moved} after {seeds} seeds");
    }
}
