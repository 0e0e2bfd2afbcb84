//! A Redis string per row that holds JSON: the row, or an object of `fields`. Nulls are written.

use crate::views::commands::{Commands, Verb};
use crate::views::placement::Location;
use crate::views::render::{Rendering, Unshowable, write_int};
use crate::views::{ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::Json,
    name: "json",
    summary: "A string per row that holds JSON: the row, or an object of `fields`.",
    fields: &["key", "fields", "ttl", "on_delete"],
    example: "as: json, key: \"product:{key}\"",
    show,
    remove: None,
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    let mut text = Vec::new();
    view.write_json(&mut text)?;
    set(view, &text, out);
    Ok(true)
}

/// `SET`, which also ends an expiry that was there before.
pub fn set(view: &Rendering<'_>, text: &[u8], out: &mut Commands) {
    view.place(Location::Key, out);
    out.start(Verb::Set).arg(view.key).arg(text);
    if let Some(ttl) = view.spec.ttl_ms {
        out.arg(b"PX").arg_with(|into| write_int(ttl, into));
    }
}
