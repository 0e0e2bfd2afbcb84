//! The only file that makes names of topics, stores and column families: from the user's names, never from a counter.
//!
//! So moving a line in the file never orphans state. Users' names have no `-`, hence no two of these are the same.

use crate::model::Name;

/// The empty topic whose partitions the group assigns: one for each task.
pub fn tasks(app: &Name) -> Name {
    joined(&[app, "tasks"])
}

/// Who is there, with which tasks and where; compacted.
pub fn workers(app: &Name) -> Name {
    joined(&[app, "workers"])
}

/// Records that could not be used, with the reason in their headers.
pub fn dead_letters(app: &Name) -> Name {
    joined(&[app, "dead-letters"])
}

/// The changelog of a store.
pub fn changelog(app: &Name, store: &Name) -> Name {
    joined(&[app, store, "changelog"])
}

/// The store of a table's rows, also the name of its column family.
pub fn rows_store(table: &Name) -> Name {
    table.clone()
}

/// The store of records that wait for their owner.
pub fn buffer_store(table: &Name) -> Name {
    joined(&[table, "buffer"])
}

/// The store of identities that have been there.
pub fn dedupe_store(table: &Name) -> Name {
    joined(&[table, "dedupe"])
}

/// The index of timers, local.
pub fn timers_store(table: &Name) -> Name {
    joined(&[table, "timers"])
}

/// Whether the app uses this topic for itself.
pub fn is_internal(app: &Name, topic: &str) -> bool {
    let own = topic.strip_prefix(app.as_str()).and_then(|rest| rest.strip_prefix('-'));
    own.is_some_and(|rest| {
        matches!(rest, "tasks" | "workers" | "dead-letters") || rest.ends_with("-changelog") || rest.ends_with("-repartition")
    })
}

/// A member of the group (`group.instance.id`): one stream thread of a worker. Worker ids are at most 100 bytes.
pub fn member(worker: &Name, thread: usize) -> Name {
    joined(&[worker, &thread.to_string()])
}

/// The transactional id of a stream thread's producer.
pub fn transactional_id(app: &Name, worker: &Name, thread: usize) -> Name {
    joined(&[app, worker, &thread.to_string()])
}

#[expect(clippy::expect_used, reason = "the lengths of apps and tables are bounded when the file is read")]
fn joined(parts: &[&str]) -> Name {
    Name::parse(&parts.join("-")).expect("parts of names joined by dashes are a name")
}
