//! A thread beside the stream threads: told to end, and left behind if the cluster keeps it from ending.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::warn;

/// How often it is looked whether the thread has ended.
const STOP_LOOK: Duration = Duration::from_millis(10);

pub struct Background {
    name: &'static str,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Background {
    /// `run` ends soon after its argument has become true; where it parks, it is woken.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: &'static str, run: impl FnOnce(&AtomicBool) + Send + 'static) -> io::Result<Background> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = Builder::new().name(name.into()).spawn(move || run(&told))?;
        Ok(Background { name, stop, thread })
    }

    /// Ends it. One that is not through in time is left behind: it must hold nothing that is needed.
    pub fn stop(self, within: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let end = Instant::now() + within;
        while !self.thread.is_finished() && Instant::now() < end {
            self.thread.thread().unpark();
            std::thread::park_timeout(STOP_LOOK);
        }
        if self.thread.is_finished() && self.thread.join().is_err() {
            warn!(thread = self.name, "a thread beside the stream threads panicked; this is a bug");
        }
    }
}
