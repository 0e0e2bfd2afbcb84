//! A Redis string per row: one value, as text. Null: no key.

use crate::views::commands::Commands;
use crate::views::json::set;
use crate::views::render::{Rendering, Unshowable};
use crate::views::{ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::String,
    name: "string",
    summary: "A string per row: the text of `value`, by default the row as JSON.",
    fields: &["key", "value", "ttl", "on_delete"],
    example: "as: string, key: \"price:{key}\", value: row.price",
    show,
    remove: None,
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    let mut text = Vec::new();
    if !view.write_value(&mut text)? {
        return Ok(false);
    }
    set(view, &text, out);
    Ok(true)
}
