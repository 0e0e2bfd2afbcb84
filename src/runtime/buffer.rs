//! Which record of a task is next: the one with the smallest event time among the heads of its inputs.
//!
//! As in Kafka Streams' `PartitionGroup` with `max.task.idle.ms=0`: chooses among what is there and waits for nothing. Results do
//! not depend on it; it keeps records of different topics close in time, so that fewer wait or are stale.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::log::Message;
use crate::model::{Record, Time};

/// What a source made of a message.
pub enum Decoded {
    Record(Record),
    /// `when` of the source was not true.
    Filtered,
    Bad {
        source: usize,
        reason: &'static str,
        detail: String,
    },
}

/// A message with what the sources of its topic made of it.
pub struct Queued {
    pub message: Message,
    pub decoded: SmallVec<[Decoded; 1]>,
    /// The smallest event time among them; the message's own where there is none.
    pub time: Time,
}

/// The input queues of a task, one per topic.
pub struct Buffer {
    queues: Vec<VecDeque<Queued>>,
}

impl Buffer {
    pub fn new(inputs: usize) -> Buffer {
        Buffer { queues: (0..inputs).map(|_| VecDeque::new()).collect() }
    }

    pub fn push(&mut self, input: usize, queued: Queued) {
        self.queues[input].push_back(queued);
    }

    /// Takes the head with the smallest event time; of equal ones that of the first input.
    pub fn pop(&mut self) -> Option<(usize, Queued)> {
        let mut best: Option<(usize, Time)> = None;
        for (input, queue) in self.queues.iter().enumerate() {
            if let Some(head) = queue.front()
                && best.is_none_or(|(_, time)| head.time < time)
            {
                best = Some((input, head.time));
            }
        }
        let (input, _) = best?;
        self.queues[input].pop_front().map(|queued| (input, queued))
    }

    pub fn clear(&mut self) {
        for queue in &mut self.queues {
            queue.clear();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}
