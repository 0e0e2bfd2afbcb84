//! A Redis hash per row: one field per field, so that a reader takes only what it needs.
//!
//! After the write the hash holds exactly the fields that are not null.

use crate::views::commands::{Commands, Verb};
use crate::views::placement::Location;
use crate::views::render::{Chunks, Rendering, Unshowable, write_text};
use crate::views::{ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::Hash,
    name: "hash",
    summary: "A hash per row; null fields are absent. `fields` default: all of the row.",
    fields: &["key", "fields", "ttl", "on_delete"],
    example: "as: hash, key: \"product:{key}\", fields: { name: row.name, price: string(row.price) }",
    show,
    remove: None,
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    view.place(Location::Key, out);
    if !view.has_fixed_fields() {
        // The old row may have had names that this one has not.
        out.start(Verb::Unlink).arg(view.key);
    }
    let mut absent = Vec::new();
    let mut set = Chunks::new(Verb::Hset, view.key);
    view.each_field(|name, value| match value {
        Some(value) => {
            set.room(2, out).arg(name.as_bytes()).arg_with(|into| _ = write_text(value, into));
        }
        None => absent.push(smol_str::SmolStr::new(name)),
    })?;
    if !view.is_fresh {
        let mut clear = Chunks::new(Verb::Hdel, view.key);
        for name in absent {
            clear.room(1, out).arg(name.as_bytes());
        }
    }
    Ok(!set.is_empty())
}
