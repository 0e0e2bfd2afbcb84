//! The port to durable storage: `rocks` and `memory`.

/// Storage of one task.
pub trait Backend: Send {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    Rocks,
    Memory,
}
