//! What a task's storage says about itself: its format, the offsets at which its rows stand, marks, and the runtime's own values.
//!
//! | key | value |
//! |---|---|
//! | `format` | [`FORMAT`], u32 big endian |
//! | `changelog/<store>` | offset to replay from, i64 big endian |
//! | `input/<topic>` | offset to read next, i64 big endian |
//! | `as_of` | wall clock before which no record was written beyond the offsets, milliseconds, i64 big endian; may be missing |
//! | `restoring/<store>` | empty; there while the store is filled from the start of its changelog |
//! | `user/<name>` | what `TaskState::meta_put` wrote |

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow;

use crate::model::{Name, Offset, StoreId, Time};
use crate::state::backend::{Backend, ColumnId, RowWrite};
use crate::state::core::{Sealed, StateError};

/// The column. No store can have this name.
pub(super) const COLUMN: &str = "@meta";

/// The format of everything in a task's storage: columns, keys, envelopes. A newer one is refused, an older one is read.
pub const FORMAT: u32 = 1;

const FORMAT_KEY: &[u8] = b"format";
const CHANGELOG: &str = "changelog/";
const INPUT: &str = "input/";
const AS_OF: &[u8] = b"as_of";
const RESTORING: &str = "restoring/";
const USER: &str = "user/";

pub(super) fn user_key(name: &str) -> Vec<u8> {
    format!("{USER}{name}").into_bytes()
}

pub(super) fn restoring_key(store: &Name) -> Vec<u8> {
    format!("{RESTORING}{store}").into_bytes()
}

pub(super) fn changelog_key(store: &Name) -> Vec<u8> {
    format!("{CHANGELOG}{store}").into_bytes()
}

/// Refuses a newer format; marks an empty storage as ours.
pub(super) fn check_format(backend: &mut dyn Backend, meta: ColumnId) -> Result<(), StateError> {
    let Some(bytes) = backend.get(meta, FORMAT_KEY)? else {
        let row = RowWrite { column: meta, key: FORMAT_KEY, value: Some(&FORMAT.to_be_bytes()) };
        return backend.write(&mut std::iter::once(row));
    };
    let found = <[u8; 4]>::try_from(&*bytes).map(u32::from_be_bytes).map_err(|_| StateError::Corrupt {
        what: "read the format of the state".into(),
        cause: format!("expected 4 bytes, found {}", bytes.len()),
    })?;
    if found > FORMAT {
        return Err(StateError::Refused {
            what: "open the state".into(),
            cause: format!(
                "it was written by a newer version, run that one or restore into an empty folder: format found {found}, known {FORMAT}"
            ),
        });
    }
    Ok(())
}

/// The offsets on disk, of the stores that are open. Refuses to go on with a store that was filled only in part.
pub(super) fn read_offsets<'a>(
    backend: &dyn Backend,
    meta: ColumnId,
    stores: impl Iterator<Item = &'a Name>,
) -> Result<Sealed, StateError> {
    let as_of = backend.get(meta, AS_OF)?.map(|bytes| number(&bytes, || "read the age of the state".to_owned())).transpose()?;
    let mut sealed = Sealed { changelogs: Vec::new(), inputs: read_inputs(backend, meta)?, as_of: as_of.map(Time) };
    for (index, store) in stores.enumerate() {
        if is_restoring(backend, meta, store)? {
            return Err(StateError::Corrupt {
                what: format!("open store `{store}`"),
                cause: "its restore was interrupted, it holds only a part of its rows".into(),
            });
        }
        if let Some(offset) = read_changelog(backend, meta, store)? {
            sealed.changelogs.push((StoreId(index), offset));
        }
    }
    Ok(sealed)
}

/// Whether a store is marked as filled only in part.
pub(super) fn is_restoring(backend: &dyn Backend, meta: ColumnId, store: &Name) -> Result<bool, StateError> {
    Ok(backend.get(meta, &restoring_key(store))?.is_some())
}

/// The offset from which a store's changelog is to be replayed.
pub(super) fn read_changelog(backend: &dyn Backend, meta: ColumnId, store: &Name) -> Result<Option<Offset>, StateError> {
    backend.get(meta, &changelog_key(store))?.map(|bytes| offset(&bytes, store)).transpose()
}

/// The offsets of input topics to read next.
pub(super) fn read_inputs(backend: &dyn Backend, meta: ColumnId) -> Result<Vec<(Name, Offset)>, StateError> {
    let mut inputs = Ok(Vec::new());
    backend.scan(&[meta], Bound::Included(INPUT.as_bytes()), Bound::Unbounded, &mut |key, value| {
        let (Some(topic), Ok(list)) = (key.strip_prefix(INPUT.as_bytes()), &mut inputs) else { return ControlFlow::Break(()) };
        match read_input(topic, value) {
            Ok(input) => list.push(input),
            Err(error) => inputs = Err(error),
        }
        ControlFlow::Continue(())
    })?;
    inputs
}

/// The rows that make offsets true.
pub(super) fn offset_rows<'a>(sealed: &Sealed, name: impl Fn(StoreId) -> &'a Name) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let changelogs = sealed.changelogs.iter().map(|(store, offset)| (changelog_key(name(*store)), *offset));
    let inputs = sealed.inputs.iter().map(|(topic, offset)| (format!("{INPUT}{topic}").into_bytes(), *offset));
    let as_of = sealed.as_of.map(|time| (AS_OF.to_vec(), time.0));
    let numbers = changelogs.chain(inputs).map(|(key, offset)| (key, offset.0)).chain(as_of);
    numbers.map(|(key, number)| (key, Some(number.to_be_bytes().to_vec()))).collect()
}

fn read_input(topic: &[u8], value: &[u8]) -> Result<(Name, Offset), StateError> {
    let topic = String::from_utf8_lossy(topic);
    let name = Name::parse(&topic)
        .map_err(|error| StateError::Corrupt { what: "read the offsets of the state".into(), cause: error.to_string() })?;
    let offset = offset(value, &name)?;
    Ok((name, offset))
}

fn offset(bytes: &[u8], of: &str) -> Result<Offset, StateError> {
    number(bytes, || format!("read the offset of `{of}`")).map(Offset)
}

fn number(bytes: &[u8], what: impl Fn() -> String) -> Result<i64, StateError> {
    <[u8; 8]>::try_from(bytes)
        .map(i64::from_be_bytes)
        .map_err(|_| StateError::Corrupt { what: what(), cause: format!("expected 8 bytes, found {}", bytes.len()) })
}
