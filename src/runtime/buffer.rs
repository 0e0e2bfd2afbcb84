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

/// The next message of an input, with what the sources of its topic made of it.
pub struct Head {
    pub message: Message,
    pub decoded: SmallVec<[Decoded; 1]>,
    /// The smallest event time among them; the message's own where there is none.
    pub time: Time,
}

/// The input queues of a task, one per topic. Only heads are decoded: what is decoded is used while the CPU still has it.
pub struct Buffer {
    queues: Vec<Queue>,
}

#[derive(Default)]
struct Queue {
    head: Option<Head>,
    waiting: VecDeque<Message>,
    /// How many of the first that wait were looked at ahead.
    warmed: usize,
}

/// Messages that are looked at ahead: enough misses to keep the CPU's memory ways busy, few enough to stay in its caches.
const WARM_MESSAGES: usize = 32;

impl Buffer {
    pub fn new(inputs: usize) -> Buffer {
        Buffer { queues: (0..inputs).map(|_| Queue::default()).collect() }
    }

    pub fn push(&mut self, input: usize, message: Message) {
        self.queues[input].waiting.push_back(message);
    }

    /// Takes the head with the smallest event time; of equal ones that of the first input. `decode` makes a message a head;
    /// `warm` is shown messages before, several at a time.
    pub fn pop(&mut self, warm: impl Fn(usize, &Message) -> u8, mut decode: impl FnMut(usize, Message) -> Head) -> Option<(usize, Head)> {
        let mut best: Option<(usize, Time)> = None;
        for (input, queue) in self.queues.iter_mut().enumerate() {
            if queue.head.is_none() {
                if queue.warmed == 0 {
                    let upcoming = queue.waiting.iter().take(WARM_MESSAGES);
                    std::hint::black_box(upcoming.fold(0, |sum, message| sum ^ warm(input, message)));
                    queue.warmed = queue.waiting.len().min(WARM_MESSAGES);
                }
                queue.warmed = queue.warmed.saturating_sub(1);
                queue.head = queue.waiting.pop_front().map(|message| decode(input, message));
            }
            if let Some(head) = &queue.head
                && best.is_none_or(|(_, time)| head.time < time)
            {
                best = Some((input, head.time));
            }
        }
        let (input, _) = best?;
        self.queues[input].head.take().map(|head| (input, head))
    }

    pub fn clear(&mut self) {
        for queue in &mut self.queues {
            queue.head = None;
            queue.waiting.clear();
            queue.warmed = 0;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.head.is_none() && queue.waiting.is_empty())
    }
}
