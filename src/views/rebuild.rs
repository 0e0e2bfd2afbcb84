//! A view written anew: in what order, and what may be cleared away.
//!
//! A log is not written anew: nothing has happened that it should tell. It goes on where it was, with the first change that it
//! has not told. All else: all rows of the table are written in place, then what is left over goes: keys of the view's pattern and entries of its ledger
//! that belong to no row any more. Nothing is cleared where Redis held no watermark, since then nothing of ours is there.
//!
//! A left-over key is removed only if its text gives back a record key, that key is of this partition, no row of this rebuild
//! wrote it and no other view of the app could have. Whose partition a key is, is known by the partitioner alone; a topic may have
//! been written with another one. So the rows themselves are witnesses: unless all of them, and at least [`WITNESSES_MIN`], lie
//! where the partitioner says (or there is but one partition), left-over keys stay and are counted.

use crate::model::{Key, Offset, TableId};
use crate::views::placement::{Pattern, Placement, Touched};
use crate::views::render::write_text;
use crate::views::rows::{Page, RowSource};
use crate::views::{OnViewDelete, ViewSpec};

/// Rows that must agree with the partitioner before a key is removed on its word: a topic of two partitions that was written
/// with another one passes once in 256 times, one of eight once in 16 million.
pub const WITNESSES_MIN: u64 = 8;

/// A rebuild in progress.
pub struct Rebuild {
    stage: Stage,
    /// Sealed offset of the first page, for a log what it has told: everything after it is still to come.
    base: Option<Offset>,
    /// What an earlier rebuild that was cut short had begun at.
    begun: Option<Offset>,
    /// Redis keys written so far.
    pub touched: Touched,
    witnesses: u64,
    has_stranger: bool,
    after: Vec<Stage>,
}

/// What a rebuild does now.
pub enum Stage {
    Scan {
        after: Option<Key>,
    },
    /// Keys of patterns, one pattern after the other.
    Keys {
        patterns: Vec<Pattern>,
        cursor: u64,
    },
    Entries {
        ledger: String,
        cursor: u64,
    },
    Finish,
}

impl Rebuild {
    /// `was_there`: something of this view may be in Redis. `old`: the pattern that it was written under. `told`: how far a log is.
    /// `begun`: what an earlier rebuild that was cut short had begun at.
    pub fn new(
        placement: &Placement,
        spec: &ViewSpec,
        was_there: bool,
        old: Option<Pattern>,
        ledger: String,
        told: Offset,
        begun: Option<Offset>,
    ) -> Rebuild {
        let scan = Stage::Scan { after: None };
        let entries = Stage::Entries { ledger, cursor: 0 };
        let mut patterns: Vec<Pattern> = placement.pattern().into_iter().cloned().chain(old).collect();
        patterns.dedup();
        let keys = Stage::Keys { patterns, cursor: 0 };
        let keeps = spec.on_delete == OnViewDelete::Keep;
        let is_log = *placement == Placement::Log;
        let mut stages = match (was_there, placement) {
            (false, Placement::Log) => vec![],
            (false, _) => vec![scan],
            // Entries are of an earlier version of the file: gone before keys of the same name are written.
            (true, Placement::Derived(_) | Placement::Log) if keeps => vec![entries, scan],
            (true, Placement::Derived(_) | Placement::Log) => vec![entries, scan, keys],
            (true, Placement::Ledger(_)) if keeps => vec![scan, entries],
            (true, Placement::Ledger(_)) => vec![scan, keys, entries],
        };
        stages.reverse();
        let stage = stages.pop().unwrap_or(Stage::Finish);
        let (base, begun) = if is_log { (Some(told), None) } else { (None, begun) };
        Rebuild { stage, base, begun, touched: Touched::default(), witnesses: 0, has_stranger: false, after: stages }
    }

    /// What is to be done now.
    pub fn stage(&mut self) -> &Stage {
        if matches!(&self.stage, Stage::Keys { patterns, .. } if patterns.is_empty()) {
            self.next_stage();
        }
        &self.stage
    }

    /// Notes a page of the scan.
    pub fn page(&mut self, page: &Page, source: &dyn RowSource, table: TableId, partition: i32) {
        self.base.get_or_insert(page.sealed);
        let mut text = Vec::new();
        for row in &page.rows {
            text.clear();
            write_text(&row.key, &mut text);
            let is_here = std::str::from_utf8(&text).ok().and_then(|text| source.partition_of(table, text)) == Some(partition);
            self.witnesses += 1;
            self.has_stranger |= !is_here;
        }
        match &page.next {
            Some(next) => self.stage = Stage::Scan { after: Some(next.clone()) },
            None => self.next_stage(),
        }
    }

    /// Notes the cursor that `SCAN` or `HSCAN` returned; 0 ends the stage.
    pub fn turn(&mut self, next: u64) {
        match &mut self.stage {
            Stage::Keys { patterns, cursor } => {
                *cursor = next;
                if next == 0 {
                    patterns.remove(0);
                }
            }
            Stage::Entries { cursor, .. } => {
                *cursor = next;
                if next == 0 {
                    self.next_stage();
                }
            }
            _ => {}
        }
    }

    /// How far the view is when all is written. An earlier rebuild may have written rows that have left the table since. Where their
    /// keys could not be cleared away the changes since it began tell of them, and are to be read once more.
    pub fn end(&self, partition_count: i32) -> Option<Offset> {
        match (self.base, self.begun) {
            (Some(base), Some(begun)) if !self.knows_its_keys(partition_count) => Some(base.min(begun)),
            (base, _) => base,
        }
    }

    /// Whether the partitioner can be believed.
    pub fn knows_its_keys(&self, partition_count: i32) -> bool {
        partition_count == 1 || (!self.has_stranger && self.witnesses >= WITNESSES_MIN)
    }

    fn next_stage(&mut self) {
        self.stage = self.after.pop().unwrap_or(Stage::Finish);
    }
}
