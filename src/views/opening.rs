//! The views of a topology as a worker opens them: one lane per view and partition, with its counters and a name of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{self, Counter, Metrics};
use crate::model::{Name, Offset, TableId, Time};
use crate::views::ViewSpec;
use crate::views::fence::PIECE_ROWS_MAX;
use crate::views::lane::{Lane, LaneMetrics, LaneSettings};
use crate::views::placement::Pattern;
use crate::views::rows::RowSource;

/// What lanes of one worker share.
pub struct Views {
    pub source: Arc<dyn RowSource>,
    pub rows_max: usize,
    pub is_traced: bool,
    app: Name,
    worker: String,
    specs: Vec<Arc<ViewSpec>>,
    patterns: Arc<Vec<(Name, Pattern)>>,
    metrics: Arc<Metrics>,
}

/// Lanes that this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// A lane to drive.
pub struct Opening {
    pub lane: Lane,
    pub dropped: Counter,
}

impl Views {
    pub fn new(app: Name, worker: &str, specs: Vec<ViewSpec>, source: Arc<dyn RowSource>, metrics: Arc<Metrics>) -> Views {
        let patterns = specs.iter().map(|spec| (spec.name.clone(), Pattern::loose(&spec.key))).collect();
        Views {
            source,
            rows_max: PIECE_ROWS_MAX,
            is_traced: false,
            app,
            worker: worker.to_owned(),
            specs: specs.into_iter().map(Arc::new).collect(),
            patterns: Arc::new(patterns),
            metrics,
        }
    }

    /// Lanes for all views of a table, in the order of the file.
    pub fn open(&self, table: TableId, partition: i32, topic_id: &str, sealed: Offset, now: Time) -> Vec<Opening> {
        let specs = self.specs.iter().filter(|spec| spec.table == table);
        specs.map(|spec| self.lane(spec, partition, topic_id, sealed, now)).collect()
    }

    fn lane(&self, spec: &Arc<ViewSpec>, partition: i32, topic_id: &str, sealed: Offset, now: Time) -> Opening {
        // Time and count make a name that never comes twice, also after a restart.
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let writer = format!("{}-{}-{number}", self.worker, now.0);
        let (name, text) = (spec.name.as_str(), partition.to_string());
        let counter = |metric| self.metrics.counter(metric, &[name]);
        let gauge = |metric| self.metrics.gauge(metric, &[name, &text]);
        let (metrics, view) = (self.metrics.clone(), spec.name.clone());
        let lane_metrics = LaneMetrics {
            rows: counter(&metrics::VIEW_ROWS),
            refills: counter(&metrics::VIEW_REFILLS),
            rebuilds: counter(&metrics::VIEW_REBUILDS),
            replaced: counter(&metrics::VIEW_REPLACED_KEYS),
            orphans: counter(&metrics::VIEW_ORPHANS),
            orphans_kept: counter(&metrics::VIEW_ORPHANS_KEPT),
            lag: gauge(&metrics::VIEW_LAG),
            age_ms: gauge(&metrics::VIEW_AGE),
            unshowable: Arc::new(move |reason| metrics.counter(&metrics::VIEW_UNSHOWABLE_ROWS, &[&view, reason])),
        };
        let settings = LaneSettings {
            app: self.app.clone(),
            spec: spec.clone(),
            partition,
            topic: topic_id.to_owned(),
            sealed,
            writer,
            rows_max: self.rows_max,
            others: self.patterns.clone(),
            is_traced: self.is_traced,
        };
        let dropped = counter(&metrics::VIEW_DROPPED_BATCHES);
        Opening { lane: Lane::new(settings, self.source.clone(), lane_metrics, now), dropped }
    }
}
