//! Keyed state of one task: an overlay of the open transaction over a cache of sealed rows over RocksDB.
//!
//! Starts no commit and sends no record. Layers inside: `core` (what operators read and write), `backend` (the port:
//! `rocks`, `memory`), `directory` (folder, lock, header), `layout` (order-preserving keys), `format` (envelope of stored values),
//! `row` (what a stored row holds), `inspect` (looking into a folder from outside). Below `core`: `cache` (rows in memory), `segments`
//! (columns of a store), `meta` (offsets and marks), `restore` (filling stores from their changelogs).

pub mod backend;
mod cache;
pub mod core;
pub mod directory;
pub mod format;
pub mod inspect;
pub mod layout;
pub mod memory;
mod meta;
mod restore;
pub mod rocks;
pub mod row;
mod segments;
#[cfg(test)]
mod tests;

pub use backend::{Backend, BackendKind};
pub use core::{CacheBudget, Change, Sealed, StateError, StoreSpec, TaskState};
pub use memory::MemoryStorage;
