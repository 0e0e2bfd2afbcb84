//! When a run came how far: the line that `run --until-drained` ends with, for benchmarks and jobs that catch up and end.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::metrics::{self, Metrics};
use crate::model::{Name, Offset, TableId, TaskId};
use crate::runtime::observe::{Committed, Observer};

/// Notes times; wants nothing else of a commit.
pub struct Journal {
    started: Instant,
    times: Mutex<Times>,
}

/// Since the start.
#[derive(Clone, Copy, Default)]
struct Times {
    /// The last task was restored and began to read.
    opened: Option<Duration>,
    first_commit: Option<Duration>,
    last_commit: Option<Duration>,
}

impl Journal {
    /// Begins now.
    pub fn start() -> Journal {
        Journal { started: Instant::now(), times: Mutex::default() }
    }

    /// What was done and how long it took, as one line of JSON. Seconds count from the start; null for what did not happen.
    /// `seconds` is the last commit's, or the end's where nothing was committed.
    pub fn line(&self, metrics: &Metrics) -> String {
        let sum = |metric: &metrics::Metric| metrics.sum(metric.name, &[]);
        let times = *self.times();
        let seconds = |time: Option<Duration>| time.map(|time| (time.as_secs_f64() * 1000.0).round() / 1000.0);
        let line = json!({
            "records": sum(&metrics::RECORDS),
            "bad_records": sum(&metrics::BAD_RECORDS),
            "stale_records": sum(&metrics::STALE_RECORDS),
            "placeholders": sum(&metrics::PLACEHOLDERS),
            "completed_rows": sum(&metrics::COMPLETED_ROWS),
            "restored_records": sum(&metrics::RESTORED_RECORDS),
            "running_seconds": seconds(times.opened),
            "first_commit_seconds": seconds(times.first_commit),
            "seconds": seconds(times.last_commit.or_else(|| Some(self.started.elapsed()))),
        });
        format!("{line}\n")
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Journal {
    fn opened(&self, _task: TaskId, _tables: &[(TableId, Name, Offset)]) {
        self.times().opened = Some(self.started.elapsed());
    }

    fn closed(&self, _task: TaskId, _tables: &[TableId]) {}

    fn wants_changes(&self, _table: TableId) -> bool {
        false
    }

    fn committed(&self, _committed: &Committed) {
        let now = self.started.elapsed();
        let mut times = self.times();
        times.first_commit.get_or_insert(now);
        times.last_commit = Some(now);
    }
}
