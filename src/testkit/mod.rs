//! Drives the real loop, store and commit in process, step by step: behind `test`, `replay`, `demo` and our own tests.
//!
//! Replaces nothing of the engine: a [`Driver`] gives it the in-process log, memory state, a manual clock and in-process
//! views, and calls the turns of its stream threads one after the other, so that the same input gives the same bytes.

pub mod driver;
pub mod replay;
pub mod scenario;
pub mod send;
pub mod storage;

pub use driver::{Driver, DriverError, DriverSettings};
pub use storage::MemoryStateStorage;
