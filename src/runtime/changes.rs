//! Committed changes of one table, kept for a while, so that a listener that was away for a moment misses nothing.
//!
//! A ring: the newest changes up to a number and a size, each numbered. It belongs to the edge: whoever publishes is not a
//! stream thread, and a listener that is slow falls out of the ring and is told so, it holds nobody up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

/// Changes that are kept: at 1,000 a second ten seconds, about what a reconnect takes.
pub const FEED_EVENTS_MAX: usize = 10_000;

/// Bytes of changes that are kept, for each table.
pub const FEED_BYTES_MAX: usize = 16 << 20;

/// Names one change of one feed: what `Last-Event-ID` holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeedPosition {
    /// Differs between feeds and each time one begins anew.
    pub epoch: u64,
    /// Of a change, from 1 on; 0 is before the first one.
    pub number: u64,
}

/// A change, rendered once for all listeners.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedEvent {
    pub position: FeedPosition,
    /// JSON text: key, row (null for a delete), partition, offset, time.
    pub json: Bytes,
}

/// Changes after a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Since {
    /// In their order; empty if there are none yet.
    Events(Vec<Arc<FeedEvent>>),
    /// Some are gone, or the feed began anew: what the listener has built must be read again, and it goes on from here.
    Gone(FeedPosition),
}

/// The changes of one table.
pub struct Feed {
    ring: Mutex<Ring>,
    newest: watch::Sender<FeedPosition>,
}

struct Ring {
    events: VecDeque<Arc<FeedEvent>>,
    bytes: usize,
    newest: FeedPosition,
}

impl Feed {
    /// An empty feed. `epoch` should differ from all that a listener may remember: the start time in milliseconds does.
    pub fn new(epoch: u64) -> Arc<Feed> {
        let newest = FeedPosition { epoch, number: 0 };
        Arc::new(Feed { ring: Mutex::new(Ring { events: VecDeque::new(), bytes: 0, newest }), newest: watch::Sender::new(newest) })
    }

    /// Adds changes and wakes the listeners. The oldest ones go where there are too many.
    pub fn publish(&self, changes: impl IntoIterator<Item = Bytes>) {
        let mut ring = self.ring();
        for json in changes {
            ring.newest.number += 1;
            ring.bytes += json.len();
            let position = ring.newest;
            ring.events.push_back(Arc::new(FeedEvent { position, json }));
            while ring.events.len() > FEED_EVENTS_MAX || ring.bytes > FEED_BYTES_MAX && ring.events.len() > 1 {
                let oldest = ring.events.pop_front();
                ring.bytes -= oldest.map_or(0, |event| event.json.len());
            }
        }
        self.newest.send_replace(ring.newest);
    }

    /// Forgets everything and tells the listeners to read anew: partitions have come or gone, or changes were lost.
    pub fn restart(&self) {
        let mut ring = self.ring();
        ring.events.clear();
        ring.bytes = 0;
        ring.newest = FeedPosition { epoch: ring.newest.epoch + 1, number: 0 };
        self.newest.send_replace(ring.newest);
    }

    /// The position of the newest change: where a new listener begins.
    pub fn newest(&self) -> FeedPosition {
        self.ring().newest
    }

    /// At most `limit` changes after a position.
    pub fn since(&self, after: FeedPosition, limit: usize) -> Since {
        let ring = self.ring();
        let oldest = ring.newest.number - ring.events.len() as u64;
        if after.epoch != ring.newest.epoch || after.number < oldest || after.number > ring.newest.number {
            return Since::Gone(ring.newest);
        }
        let seen = (after.number - oldest) as usize;
        Since::Events(ring.events.iter().skip(seen).take(limit).cloned().collect())
    }

    /// How many wait for changes now.
    pub fn watch_count(&self) -> usize {
        self.newest.receiver_count()
    }

    /// Changes with every publication; to wait on.
    pub fn watch(&self) -> watch::Receiver<FeedPosition> {
        self.newest.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A ring is whole after every statement, so a panic elsewhere does not spoil it.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(since: Since) -> Result<Vec<u64>, FeedPosition> {
        match since {
            Since::Events(events) => Ok(events.iter().map(|event| event.position.number).collect()),
            Since::Gone(position) => Err(position),
        }
    }

    #[test]
    fn a_listener_goes_on_where_it_stopped() {
        let feed = Feed::new(7);
        let start = feed.newest();
        feed.publish(["a", "b", "c"].map(Bytes::from));
        assert_eq!(numbers(feed.since(start, 10)), Ok(vec![1, 2, 3]));
        assert_eq!(numbers(feed.since(start, 2)), Ok(vec![1, 2]));
        assert_eq!(numbers(feed.since(FeedPosition { epoch: 7, number: 2 }, 10)), Ok(vec![3]));
        assert_eq!(numbers(feed.since(feed.newest(), 10)), Ok(vec![]));
        assert!(feed.watch().borrow().number == 3);
    }

    #[test]
    fn a_listener_that_missed_something_is_told_so() {
        let feed = Feed::new(7);
        let start = feed.newest();
        feed.publish((0..FEED_EVENTS_MAX + 2).map(|_| Bytes::from("x")));
        let newest = FeedPosition { epoch: 7, number: FEED_EVENTS_MAX as u64 + 2 };
        assert_eq!(numbers(feed.since(start, 10)), Err(newest));
        assert_eq!(numbers(feed.since(FeedPosition { epoch: 7, number: 1 }, 1)), Err(newest));
        assert_eq!(numbers(feed.since(FeedPosition { epoch: 7, number: 2 }, 1)), Ok(vec![3]));
        assert_eq!(numbers(feed.since(FeedPosition { epoch: 6, number: 9 }, 1)), Err(newest));
        assert_eq!(numbers(feed.since(FeedPosition { epoch: 7, number: newest.number + 1 }, 1)), Err(newest));
        feed.restart();
        assert_eq!(numbers(feed.since(newest, 1)), Err(FeedPosition { epoch: 8, number: 0 }));
    }

    #[test]
    fn a_feed_holds_no_more_bytes_than_it_may() {
        let feed = Feed::new(1);
        feed.publish((0..5).map(|_| Bytes::from(vec![0; FEED_BYTES_MAX / 2])));
        assert_eq!(numbers(feed.since(FeedPosition { epoch: 1, number: 3 }, 9)), Ok(vec![4, 5]));
        assert!(numbers(feed.since(FeedPosition { epoch: 1, number: 2 }, 9)).is_err());
    }
}
