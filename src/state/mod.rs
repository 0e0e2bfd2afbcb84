//! Keyed state of one task: an overlay of the open transaction over a cache of sealed rows over RocksDB.
//!
//! Starts no commit and sends no record. Layers inside: `core` (what operators read and write), `backend` (the port:
//! `rocks`, `memory`), `directory` (folder, lock, header), `layout` (order-preserving keys), `format` (envelope of stored values),
//! `row` (what a stored row holds).

pub mod backend;
pub mod core;
pub mod directory;
pub mod format;
pub mod layout;
pub mod memory;
pub mod rocks;
pub mod row;

pub use backend::{Backend, BackendKind};
pub use core::{Change, Sealed, StateError, StoreSpec, TaskState};
