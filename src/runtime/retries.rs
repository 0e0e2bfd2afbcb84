//! Turns of a stream thread that end with "try again": how long until the next one, and whether it is said once more.

use std::time::{Duration, Instant};

use tracing::warn;

/// Pause before a turn that tries something again, doubled up to the last. Short, because the thread's other tasks wait, too.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LAST: Duration = Duration::from_secs(1);
/// The same trouble is told again after this time, doubled up to the last.
const TELL_FIRST: Duration = Duration::from_secs(10);
const TELL_LAST: Duration = Duration::from_secs(300);

/// Turns in a row that were in vain.
#[derive(Default)]
pub struct Retries {
    pause: Duration,
    /// What was said last, when, and for how long it is not said again.
    told: Option<(String, Instant, Duration)>,
}

impl Retries {
    /// Says what is in the way, unless it was said a moment ago, and waits a little.
    pub fn wait(&mut self, thread: usize, what: &str) {
        if self.is_news(what, Instant::now()) {
            warn!(thread, "{what}; trying again");
        }
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_LAST);
        std::thread::park_timeout(self.pause);
    }

    /// A turn that was not in vain.
    pub fn end(&mut self) {
        self.pause = Duration::ZERO;
    }

    fn is_news(&mut self, what: &str, now: Instant) -> bool {
        let interval = match &self.told {
            Some((told, at, interval)) if told == what => {
                if now.duration_since(*at) < *interval {
                    return false;
                }
                (*interval * 2).min(TELL_LAST)
            }
            _ => TELL_FIRST,
        };
        self.told = Some((what.to_owned(), now, interval));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_told_at_growing_intervals() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let told: Vec<u64> = (0..100).filter(|seconds| retries.is_news("no broker", start + Duration::from_secs(*seconds))).collect();
        assert_eq!(told, [0, 10, 30, 70]);
        assert!(retries.is_news("no topic", start + Duration::from_secs(100)));
    }
}
