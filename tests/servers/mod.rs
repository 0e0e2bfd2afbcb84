//! Real servers for a test: where they are, and what a test says that cannot run without one.
//!
//! `scripts/test` starts Apache Kafka and Redis, names them in `KAFKA_BROKERS` and `REDIS_URL`, and lists at its end what was not
//! run. A test asks here and returns when the answer is `None`; with `REQUIRE_KAFKA=1` or `REQUIRE_REDIS=1` it fails instead.
//! Nothing here starts or stops a server.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Between two looks at a state that a test waits for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `HOST:PORT` of the broker; `test` is the name that is listed when there is none.
pub fn kafka(test: &str) -> Option<String> {
    server("KAFKA_BROKERS", "REQUIRE_KAFKA", test)
}

/// The URL of the Redis server.
pub fn redis(test: &str) -> Option<String> {
    server("REDIS_URL", "REQUIRE_REDIS", test)
}

fn server(variable: &str, required: &str, test: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the test asks its own environment, not the worker's settings")]
    let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let address = read(variable);
    if address.is_none() {
        assert_ne!(read(required).as_deref(), Some("1"), "{test} needs {variable}, and {required}=1");
        // Straight to stderr: what `eprintln!` writes is swallowed when a test passes, and this must be seen.
        let line = format!("not run: {test}: {variable} is not set\n");
        assert!(std::io::stderr().write_all(line.as_bytes()).is_ok());
    }
    address
}

/// Looks until there is an answer; fails after `deadline`, with what was missing.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        thread::park_timeout(LOOK_EVERY);
    }
}
