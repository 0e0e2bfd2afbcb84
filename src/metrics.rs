//! The one table of metrics. Nothing is counted under a name that is not in [`METRICS`].
//!
//! Handles are made at start and held; counting is one atomic addition. Histograms take a lock, so they are observed per batch
//! and per commit, never per record. Each worker (each test, each simulation) has its own [`Metrics`]: there is no global registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter as PrometheusCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as PrometheusGauge;
use prometheus_client::metrics::histogram::Histogram as PrometheusHistogram;
use prometheus_client::registry::Registry;

/// A counter, shared by all that count under the same labels.
pub type Counter = PrometheusCounter<u64, AtomicU64>;
/// A gauge, whole numbers.
pub type Gauge = PrometheusGauge;
/// A distribution over [`BUCKETS`].
pub type Histogram = PrometheusHistogram;

/// Upper bounds of every histogram, in the unit of its name: one scale reads as milliseconds up to nine minutes and as records of a batch.
pub const BUCKETS: [f64; 18] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5];

type Labels = Vec<(String, String)>;

/// A row of the table.
#[derive(Debug)]
pub struct Metric {
    /// Counters end in `_total`.
    pub name: &'static str,
    pub kind: MetricKind,
    /// Label names; never a record key.
    pub labels: &'static [&'static str],
    /// What it counts, with its unit.
    pub meaning: &'static str,
    /// What to do when it rises.
    pub action: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

const fn counter(name: &'static str, labels: &'static [&'static str], meaning: &'static str, action: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, meaning, action }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], meaning: &'static str, action: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, meaning, action }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], meaning: &'static str, action: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Histogram, labels, meaning, action }
}

pub const RECORDS: Metric = counter("millstream_records_total", &["source"], "Records read and decoded.", "Nothing: this is the work.");
pub const STALE_RECORDS: Metric = counter(
    "millstream_stale_records_total",
    &["table", "source"],
    "Records older than their own source's version in the row.",
    "Look for a producer that sends late or replays.",
);

pub const SOURCE_FILTERED_RECORDS: Metric = counter(
    "millstream_source_filtered_records_total",
    &["source"],
    "Records of the topic that are not of this source (`when`).",
    "Nothing, unless it surprises.",
);
pub const BAD_RECORDS: Metric = counter(
    "millstream_bad_records_total",
    &["source", "action"],
    "Bad records, by what was done with them: `dead_letter` or `skip`.",
    "Read the dead letters: their headers say what is wrong.",
);
pub const CUT_DEAD_LETTERS: Metric = counter(
    "millstream_cut_dead_letters_total",
    &["source"],
    "Dead letters that hold only a part of their record, as it is larger than `max.message.bytes` of their topic.",
    "Raise that limit, if the rest is wanted; the whole record is at the position that the letter names.",
);
pub const UNWRITABLE_ROWS: Metric = counter(
    "millstream_unwritable_rows_total",
    &["output"],
    "Changes that an output did not write: an expression failed, or its topic takes no record so large. Each is a dead letter.",
    "Read the dead letters; raise `max.message.bytes` of the output's topic, or write less.",
);
pub const FILTERED_RECORDS: Metric = counter(
    "millstream_filtered_records_total",
    &["table", "source"],
    "Records for which `when` of the table's input was not true.",
    "Nothing, unless it surprises.",
);
pub const DUPLICATE_RECORDS: Metric = counter(
    "millstream_duplicate_records_total",
    &["table", "source"],
    "Records whose identity `dedupe` had seen.",
    "Look for a producer that sends twice.",
);
pub const LATE_RECORDS: Metric = counter(
    "millstream_late_records_total",
    &["table", "source"],
    "Records of windows that were closed.",
    "Raise `grace`, or look for a producer that sends late.",
);
pub const IGNORED_TOMBSTONES: Metric = counter(
    "millstream_ignored_tombstones_total",
    &["table", "source"],
    "Tombstones of an input with `on_tombstone: ignore`.",
    "Say what a tombstone should do, or stop sending them.",
);
pub const OWNER_MISSING_RECORDS: Metric = counter(
    "millstream_owner_missing_records_total",
    &["table", "source"],
    "Contributors' records that found no owner and were buffered, dropped or sent to the dead letters.",
    "Look at the lag of the owner's topic.",
);
pub const OWNER_TIMEOUTS: Metric = counter(
    "millstream_owner_timeouts_total",
    &["table", "source"],
    "Contributions for which no owner spoke within `max_wait`.",
    "Look at the dead letters: keys that no owner knows.",
);
pub const PLACEHOLDERS: Metric = counter(
    "millstream_placeholders_total",
    &["table"],
    "Rows made by a contributor before an owner spoke.",
    "Look at the lag of the owner's topic.",
);
pub const COMPLETED_ROWS: Metric =
    counter("millstream_completed_rows_total", &["table"], "Placeholders that an owner completed.", "Nothing: this is the work.");
pub const LATE_DELETES: Metric = counter(
    "millstream_late_deletes_total",
    &["table"],
    "Tombstones that came after newer records had gone into sums and the like: those keep what came before the delete.",
    "Expect such fields to depend on arrival for these keys.",
);
pub const EXPIRED_ROWS: Metric = counter(
    "millstream_expired_rows_total",
    &["table"],
    "Rows and graves that had served their time (`keep`, `grave`).",
    "Nothing: this is the work.",
);
pub const RESTORED_RECORDS: Metric = counter(
    "millstream_restored_records_total",
    &[],
    "Changelog records read to bring the state of tasks up to date.",
    "A start reads the tail that its state folder lacks; all of it again and again means that folders do not survive.",
);
pub const UNCHANGED_ROWS: Metric = counter(
    "millstream_unchanged_rows_total",
    &["table"],
    "Rows that a commit touched without changing what is shown; nothing left the table.",
    "Nothing.",
);
pub const VIEW_ROWS: Metric =
    counter("millstream_view_rows_total", &["view"], "Rows written to or removed from Redis.", "Nothing: this is the work.");
pub const VIEW_UNSHOWABLE_ROWS: Metric = counter(
    "millstream_view_unshowable_rows_total",
    &["view", "reason"],
    "Rows that a view cannot show: an expression failed, or its key or score is null.",
    "Make the expression hold for every row, or exclude such rows with `when`.",
);
pub const VIEW_LAG: Metric = gauge(
    "millstream_view_lag_offsets",
    &["view", "partition"],
    "Offsets of the changelog between the table and what Redis shows.",
    "See `millstream_redis_errors_total` for what Redis says; if nothing, Redis is too slow.",
);
pub const VIEW_AGE: Metric = gauge(
    "millstream_view_age_ms",
    &["view", "partition"],
    "Milliseconds since Redis showed all of the table.",
    "See `millstream_view_lag_offsets`.",
);
pub const VIEW_QUEUE_BYTES: Metric = gauge(
    "millstream_view_queue_bytes",
    &[],
    "Bytes of committed rows that wait for Redis.",
    "At `redis.queue` views catch up from the store.",
);
pub const VIEW_DROPPED_BATCHES: Metric = counter(
    "millstream_view_dropped_batches_total",
    &["view"],
    "Commits that the full queue did not keep; their rows are read from the store later.",
    "Make Redis faster or `redis.queue` larger.",
);
pub const VIEW_REFILLS: Metric = counter(
    "millstream_view_refills_total",
    &["view"],
    "Times a view read changed rows from the store: after a restart, a full queue, an older copy of Redis.",
    "If it rises without restarts, see `millstream_view_dropped_batches_total`.",
);
pub const VIEW_REBUILDS: Metric = counter(
    "millstream_view_rebuilds_total",
    &["view"],
    "Times a partition of a view was written anew: Redis was empty, the file changed, or the log starts too late.",
    "Look for FLUSHALL, restarts without persistence, evictions.",
);
pub const VIEW_REPLACED_KEYS: Metric = counter(
    "millstream_view_replaced_keys_total",
    &["view"],
    "Keys of another type that stood in the place of a row.",
    "Somebody else writes keys of this name: give the view another `key`.",
);
pub const VIEW_ORPHANS: Metric =
    counter("millstream_view_orphans_total", &["view"], "Keys and members without a row that a rebuild removed.", "Nothing.");
pub const VIEW_ORPHANS_KEPT: Metric = counter(
    "millstream_view_orphans_kept_total",
    &["view"],
    "Keys without a row that stayed, because the topic is not partitioned as Kafka's clients do.",
    "Delete them by hand, or write the topic with the default partitioner (murmur2).",
);
pub const REDIS_ERRORS: Metric = counter(
    "millstream_redis_errors_total",
    &["kind"],
    "Refusals and failures of Redis: oom, loading, readonly, noscript, moved, timeout, reset, unreachable, auth, noperm, wrongtype, busy, database, other.",
    "The log has the text. Views catch up by themselves once the cause is gone.",
);

pub const POLL_RECORDS: Metric = histogram(
    "millstream_poll_records",
    &["thread"],
    "Records that one turn of a stream thread took from its inputs; turns without any are not counted.",
    "Nothing: full batches mean that there is much to do.",
);
pub const PROCESS_TIME: Metric = histogram(
    "millstream_process_ms",
    &["thread"],
    "Milliseconds in which a stream thread processed one such batch.",
    "If batches are small and slow, the state does not fit in memory: see `millstream_rocksdb_reads_total`.",
);
pub const COMMIT_TIME: Metric = histogram(
    "millstream_commit_ms",
    &["thread"],
    "Milliseconds that one commit took, from closing the inputs to telling the edges.",
    "Look at the brokers: most of a commit is waiting for them.",
);
pub const END_TO_END_TIME: Metric = histogram(
    "millstream_end_to_end_ms",
    &["thread"],
    "Milliseconds between the timestamp of the oldest record that opened a batch of a commit and the end of that commit; once per commit.",
    "See the lag; records with timestamps of the past, as in a replay, count as what they are.",
);
pub const POSITION: Metric = gauge(
    "millstream_position_offsets",
    &["topic", "partition"],
    "The committed offset of an input partition. Only the worker that owns the partition shows it.",
    "If it stands still while the lag grows, see `/tasks` for why.",
);
pub const LAG: Metric = gauge(
    "millstream_lag_offsets",
    &["topic", "partition"],
    "Offsets between the committed position of an input partition and its end as the last fetch saw it.",
    "Add threads or workers, up to the number of partitions; if it does not move at all, look for a hanging transaction of its producer.",
);
pub const TASKS: Metric = gauge(
    "millstream_tasks",
    &["thread", "phase"],
    "Tasks of a stream thread, by what they do: `opening`, `restoring`, `running`, `stopped`.",
    "A `stopped` one says why on `/health/ready` and in the log.",
);
pub const ENFORCED_REBALANCES: Metric = counter(
    "millstream_enforced_rebalances_total",
    &[],
    "Times this worker made its group rebalance, because a task was with nobody while the group was at rest.",
    "Nothing: a worker had died in the middle of a rebalance. If it goes on rising, look at what the group says of its members.",
);
pub const RESTORE_LEFT: Metric = gauge(
    "millstream_restore_left_offsets",
    &["task"],
    "Offsets of its changelogs that a task still has to read before it runs; only while it restores.",
    "Keep the state folder over restarts.",
);
pub const ROW_CACHE_BYTES: Metric = gauge(
    "millstream_row_cache_bytes",
    &["thread"],
    "Bytes of committed rows in memory: those that are not on disk yet, and those kept for the next look.",
    "See `memory.row_cache`.",
);
pub const ROCKSDB_READS: Metric = counter(
    "millstream_rocksdb_reads_total",
    &[],
    "Rows asked of RocksDB because they were not in memory.",
    "If nearly every record needs one, raise `memory.row_cache`.",
);
pub const ROCKSDB_CACHE_HITS: Metric =
    counter("millstream_rocksdb_cache_hits_total", &[], "Blocks of RocksDB found in its cache.", "Nothing: this is what it is for.");
pub const ROCKSDB_CACHE_MISSES: Metric = counter(
    "millstream_rocksdb_cache_misses_total",
    &[],
    "Blocks of RocksDB read from files.",
    "If there are many beside the hits, raise `memory.block_cache`.",
);
pub const ROCKSDB_STALL_TIME: Metric = counter(
    "millstream_rocksdb_stall_ms_total",
    &[],
    "Milliseconds that writes waited for flushes and compactions of RocksDB.",
    "The disk is too slow, or `memory.write_buffers` too small.",
);
pub const ROCKSDB_CACHE_BYTES: Metric = gauge(
    "millstream_rocksdb_cache_bytes",
    &[],
    "Bytes in RocksDB's block cache, memtables included.",
    "Bounded by `memory.block_cache` and `memory.write_buffers`.",
);
pub const ROCKSDB_MEMTABLE_BYTES: Metric =
    gauge("millstream_rocksdb_memtable_bytes", &[], "Bytes of RocksDB's memtables.", "Bounded by `memory.write_buffers`.");
pub const RESIDENT_BYTES: Metric =
    gauge("millstream_resident_bytes", &[], "Memory of the process that is in RAM (RSS).", "The settings under `memory` bound most of it.");

/// All metrics, in the order of the manual.
pub const METRICS: &[&Metric] = &[
    &RECORDS,
    &STALE_RECORDS,
    &SOURCE_FILTERED_RECORDS,
    &BAD_RECORDS,
    &CUT_DEAD_LETTERS,
    &UNWRITABLE_ROWS,
    &FILTERED_RECORDS,
    &DUPLICATE_RECORDS,
    &LATE_RECORDS,
    &IGNORED_TOMBSTONES,
    &OWNER_MISSING_RECORDS,
    &OWNER_TIMEOUTS,
    &PLACEHOLDERS,
    &COMPLETED_ROWS,
    &LATE_DELETES,
    &EXPIRED_ROWS,
    &RESTORED_RECORDS,
    &UNCHANGED_ROWS,
    &VIEW_ROWS,
    &VIEW_UNSHOWABLE_ROWS,
    &VIEW_LAG,
    &VIEW_AGE,
    &VIEW_QUEUE_BYTES,
    &VIEW_DROPPED_BATCHES,
    &VIEW_REFILLS,
    &VIEW_REBUILDS,
    &VIEW_REPLACED_KEYS,
    &VIEW_ORPHANS,
    &VIEW_ORPHANS_KEPT,
    &REDIS_ERRORS,
    &POLL_RECORDS,
    &PROCESS_TIME,
    &COMMIT_TIME,
    &END_TO_END_TIME,
    &POSITION,
    &LAG,
    &TASKS,
    &ENFORCED_REBALANCES,
    &RESTORE_LEFT,
    &ROW_CACHE_BYTES,
    &ROCKSDB_READS,
    &ROCKSDB_CACHE_HITS,
    &ROCKSDB_CACHE_MISSES,
    &ROCKSDB_STALL_TIME,
    &ROCKSDB_CACHE_BYTES,
    &ROCKSDB_MEMTABLE_BYTES,
    &RESIDENT_BYTES,
];

/// Asks others for numbers, just before they are shown.
type Scrape = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The metrics of one worker.
pub struct Metrics {
    registry: Mutex<Registry>,
    counters: BTreeMap<&'static str, Family<Labels, Counter>>,
    gauges: BTreeMap<&'static str, Family<Labels, Gauge>>,
    histograms: BTreeMap<&'static str, Family<Labels, Histogram, fn() -> Histogram>>,
    scrapes: Mutex<Vec<Scrape>>,
}

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        let mut registry = Registry::default();
        let mut counters = BTreeMap::new();
        let mut gauges = BTreeMap::new();
        let mut histograms = BTreeMap::new();
        for metric in METRICS {
            // The library ends the sentence itself.
            let meaning = metric.meaning.trim_end_matches('.');
            match metric.kind {
                MetricKind::Counter => {
                    let family = Family::<Labels, Counter>::default();
                    // The library adds `_total` itself.
                    registry.register(metric.name.trim_end_matches("_total"), meaning, family.clone());
                    counters.insert(metric.name, family);
                }
                MetricKind::Gauge => {
                    let family = Family::<Labels, Gauge>::default();
                    registry.register(metric.name, meaning, family.clone());
                    gauges.insert(metric.name, family);
                }
                MetricKind::Histogram => {
                    let family = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(new_histogram);
                    registry.register(metric.name, meaning, family.clone());
                    histograms.insert(metric.name, family);
                }
            }
        }
        Arc::new(Metrics { registry: Mutex::new(registry), counters, gauges, histograms, scrapes: Mutex::default() })
    }

    /// A handle on a counter; `values` stand in the order of the metric's label names.
    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.counters.get(metric.name).map(|family| family.get_or_create(&labels(metric, values)).clone()).unwrap_or_default()
    }

    /// A handle on a gauge; `values` stand in the order of the metric's label names.
    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        self.gauges.get(metric.name).map(|family| family.get_or_create(&labels(metric, values)).clone()).unwrap_or_default()
    }

    /// A handle on a histogram; `values` stand in the order of the metric's label names.
    pub fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        let family = self.histograms.get(metric.name);
        family.map_or_else(new_histogram, |family| family.get_or_create(&labels(metric, values)).clone())
    }

    /// Takes a gauge away, because what it measured is not here any more. Handles on it count for nobody.
    pub fn remove_gauge(&self, metric: &Metric, values: &[&str]) {
        if let Some(family) = self.gauges.get(metric.name) {
            family.remove(&labels(metric, values));
        }
    }

    /// Has `scrape` called each time before the metrics are read, to set those that others keep count of.
    pub fn before_text(&self, scrape: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.scrapes.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(scrape));
    }

    /// Sets a counter to what somebody else has counted since the start of the process.
    pub fn set_counter(&self, metric: &Metric, values: &[&str], count: u64) {
        self.counter(metric, values).inner().store(count, Ordering::Relaxed);
    }

    /// The sum of a metric over all label sets that have these labels; 0 for one that was never touched. For a
    /// histogram, how often it was observed.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let is_histogram = METRICS.iter().any(|metric| metric.name == name && metric.kind == MetricKind::Histogram);
        let name = &if is_histogram { format!("{name}_count") } else { name.to_owned() };
        let mut sum = 0;
        for line in self.text().lines() {
            let Some(rest) = line.strip_prefix(name.as_str()) else { continue };
            let (found, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ").unwrap_or((rest, "0")),
                None => ("", rest.trim()),
            };
            let has_all = labels.iter().all(|(label, value)| found.contains(&format!("{label}=\"{value}\"")));
            if has_all && (rest.starts_with('{') || rest.starts_with(' ')) {
                sum += value.trim().parse::<i64>().unwrap_or(0);
            }
        }
        sum
    }

    /// All metrics as `/metrics` shows them (OpenMetrics text).
    pub fn text(&self) -> String {
        for scrape in self.scrapes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            scrape(self);
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn new_histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

fn labels(metric: &Metric, values: &[&str]) -> Labels {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    metric.labels.iter().zip(values).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
