//! The one table of metrics. Nothing is counted under a name that is not in [`METRICS`].
//!
//! Handles are made at start and held; counting is one atomic addition. Each worker (each test, each simulation) has its own
//! [`Metrics`]: there is no global registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter as PrometheusCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as PrometheusGauge;
use prometheus_client::registry::Registry;

/// A counter, shared by all that count under the same labels.
pub type Counter = PrometheusCounter<u64, AtomicU64>;
/// A gauge, whole numbers.
pub type Gauge = PrometheusGauge;

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
}

const fn counter(name: &'static str, labels: &'static [&'static str], meaning: &'static str, action: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, meaning, action }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], meaning: &'static str, action: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, meaning, action }
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
];

/// The metrics of one worker.
pub struct Metrics {
    registry: Mutex<Registry>,
    counters: BTreeMap<&'static str, Family<Labels, Counter>>,
    gauges: BTreeMap<&'static str, Family<Labels, Gauge>>,
}

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        let mut registry = Registry::default();
        let mut counters = BTreeMap::new();
        let mut gauges = BTreeMap::new();
        for metric in METRICS {
            match metric.kind {
                MetricKind::Counter => {
                    let family = Family::<Labels, Counter>::default();
                    // The library adds `_total` itself.
                    registry.register(metric.name.trim_end_matches("_total"), metric.meaning, family.clone());
                    counters.insert(metric.name, family);
                }
                MetricKind::Gauge => {
                    let family = Family::<Labels, Gauge>::default();
                    registry.register(metric.name, metric.meaning, family.clone());
                    gauges.insert(metric.name, family);
                }
            }
        }
        Arc::new(Metrics { registry: Mutex::new(registry), counters, gauges })
    }

    /// A handle on a counter; `values` stand in the order of the metric's label names.
    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.counters.get(metric.name).map(|family| family.get_or_create(&labels(metric, values)).clone()).unwrap_or_default()
    }

    /// A handle on a gauge; `values` stand in the order of the metric's label names.
    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        self.gauges.get(metric.name).map(|family| family.get_or_create(&labels(metric, values)).clone()).unwrap_or_default()
    }

    /// The sum of a metric over all label sets that have these labels; 0 for one that was never touched.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let mut sum = 0;
        for line in self.text().lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
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
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn labels(metric: &Metric, values: &[&str]) -> Labels {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    metric.labels.iter().zip(values).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
