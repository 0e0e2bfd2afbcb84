//! What a stream thread tells of itself in metrics: how large its batches are and how long they take, and where it stands.
//!
//! Per turn, per commit, or once a second; nothing here is called per record, and nothing asks the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::log::Consumer;
use crate::metrics::{self, Counter, Gauge, Histogram, Metrics};
use crate::model::{Name, Offset, TaskId, Time};
use crate::runtime::assignment::Opening;
use crate::runtime::task::{Phase, Task, TaskInput};

/// How often positions, lags and sizes are looked at.
const REFRESH_MS: i64 = 1000;

/// The metrics of one stream thread.
pub struct ThreadGauges {
    metrics: Arc<Metrics>,
    poll_records: Histogram,
    process_time: Histogram,
    commit_time: Histogram,
    end_to_end_time: Histogram,
    row_cache_bytes: Gauge,
    /// Opening, restoring, running, stopped.
    tasks: [Gauge; 4],
    /// Topics and partitions that are shown.
    inputs: BTreeMap<(Name, i32), InputGauges>,
    /// The smallest timestamp among the first records of the batches since the last commit.
    oldest: Option<Time>,
    refreshed_at: Option<Time>,
}

struct InputGauges {
    position: Gauge,
    lag: Gauge,
}

impl ThreadGauges {
    pub fn new(metrics: &Arc<Metrics>, thread: usize) -> ThreadGauges {
        let thread = thread.to_string();
        let histogram = |metric| metrics.histogram(metric, &[&thread]);
        let tasks = |phase| metrics.gauge(&metrics::TASKS, &[&thread, phase]);
        ThreadGauges {
            poll_records: histogram(&metrics::POLL_RECORDS),
            process_time: histogram(&metrics::PROCESS_TIME),
            commit_time: histogram(&metrics::COMMIT_TIME),
            end_to_end_time: histogram(&metrics::END_TO_END_TIME),
            row_cache_bytes: metrics.gauge(&metrics::ROW_CACHE_BYTES, &[&thread]),
            tasks: [tasks("opening"), tasks("restoring"), tasks("running"), tasks("stopped")],
            inputs: BTreeMap::new(),
            oldest: None,
            refreshed_at: None,
            metrics: metrics.clone(),
        }
    }

    /// A turn has taken `records` and begins to process them; `oldest` is the timestamp of the first.
    pub fn polled(&mut self, records: usize, oldest: Option<Time>) {
        if records > 0 {
            self.poll_records.observe(records as f64);
            self.oldest = [self.oldest, oldest].into_iter().flatten().min();
        }
    }

    /// A turn that had taken records has processed them.
    pub fn processed(&mut self, since: Instant) {
        self.process_time.observe(ms(since));
    }

    /// A commit has ended well.
    pub fn committed(&mut self, since: Instant, now: Time) {
        self.commit_time.observe(ms(since));
        if let Some(oldest) = self.oldest.take() {
            self.end_to_end_time.observe((now.0 - oldest.0).max(0) as f64);
        }
    }

    /// Looks at where everything stands, at most once a second.
    pub fn refresh(&mut self, now: Time, tasks: &BTreeMap<TaskId, Task>, opening: &BTreeMap<TaskId, Opening>, consumer: &mut dyn Consumer) {
        if self.refreshed_at.is_some_and(|at| (at.0..at.0 + REFRESH_MS).contains(&now.0)) {
            return;
        }
        self.refreshed_at = Some(now);
        let mut counts = [opening.len() as i64, 0, 0, 0];
        let mut cache_bytes = 0;
        let mut seen = Vec::new();
        for (id, task) in tasks {
            counts[match task.phase {
                Phase::Restoring(_) => 1,
                Phase::Running => 2,
                Phase::Stopped { .. } => 3,
            }] += 1;
            cache_bytes += task.state.cache_bytes();
            for input in &task.inputs {
                let end = end_of(input, consumer);
                let shown = self.shown(&input.topic, id.partition);
                shown.position.set(input.committed.0);
                if let Some(end) = end {
                    shown.lag.set((end.0 - input.committed.0).max(0));
                }
                seen.push((input.topic.clone(), id.partition));
            }
        }
        for (gauge, count) in self.tasks.iter().zip(counts) {
            gauge.set(count);
        }
        self.row_cache_bytes.set(cache_bytes as i64);
        let gone: Vec<(Name, i32)> = self.inputs.keys().filter(|input| !seen.contains(input)).cloned().collect();
        for input in gone {
            self.forget(&input);
        }
    }

    /// Shows nothing of inputs any more: their owner is another thread or worker, or nobody.
    pub fn forget_all(&mut self) {
        for input in self.inputs.keys().cloned().collect::<Vec<_>>() {
            self.forget(&input);
        }
    }

    fn shown(&mut self, topic: &Name, partition: i32) -> &InputGauges {
        let metrics = &self.metrics;
        self.inputs.entry((topic.clone(), partition)).or_insert_with(|| {
            let gauge = |metric| metrics.gauge(metric, &[topic.as_str(), &partition.to_string()]);
            InputGauges { position: gauge(&metrics::POSITION), lag: gauge(&metrics::LAG) }
        })
    }

    fn forget(&mut self, input: &(Name, i32)) {
        self.inputs.remove(input);
        let values = [input.0.as_str(), &input.1.to_string()];
        self.metrics.remove_gauge(&metrics::POSITION, &values);
        self.metrics.remove_gauge(&metrics::LAG, &values);
    }
}

/// Where an input ends, as far as that is known without asking: its committed offset where everything behind it is read already
/// (markers of transactions take offsets too, and no record of ours follows them).
pub fn end_of(input: &TaskInput, consumer: &mut dyn Consumer) -> Option<Offset> {
    let slot = input.slot?;
    let end = consumer.end_seen(slot)?;
    let is_read = consumer.position(slot).ok().flatten().is_some_and(|position| position >= end);
    Some(if is_read && input.next == input.committed { input.committed } else { end })
}

/// What a restore tells of itself.
pub struct RestoreGauges {
    metrics: Arc<Metrics>,
    task: String,
    records: Counter,
    left: Gauge,
}

impl RestoreGauges {
    pub fn new(metrics: &Arc<Metrics>, task: TaskId) -> RestoreGauges {
        let task = task.to_string();
        let left = metrics.gauge(&metrics::RESTORE_LEFT, &[&task]);
        RestoreGauges { metrics: metrics.clone(), records: metrics.counter(&metrics::RESTORED_RECORDS, &[]), left, task }
    }

    pub fn read(&self, records: u64, left: u64) {
        self.records.inc_by(records);
        self.left.set(left as i64);
    }
}

impl Drop for RestoreGauges {
    fn drop(&mut self) {
        self.metrics.remove_gauge(&metrics::RESTORE_LEFT, &[&self.task]);
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_shown_while_it_lasts() {
        let metrics = Metrics::new();
        let gauges = RestoreGauges::new(&metrics, TaskId { subtopology: 0, partition: 3 });
        gauges.read(4, 6);
        assert_eq!(metrics.sum(metrics::RESTORE_LEFT.name, &[("task", "0_3")]), 6);
        assert_eq!(metrics.sum(metrics::RESTORED_RECORDS.name, &[]), 4);
        drop(gauges);
        assert!(!metrics.text().contains("task=\"0_3\""));
        assert_eq!(metrics.sum(metrics::RESTORED_RECORDS.name, &[]), 4);
    }
}
