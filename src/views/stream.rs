//! A Redis stream: an entry per change. Consumer groups, audit trails.
//!
//! With the record key in the template each row has a stream of its own, which goes when the row goes. A stream for many rows is
//! a log: a row that leaves adds an entry `key`, `deleted: true` (none with `on_delete: keep`), and a rebuild adds nothing.
//! After a gap each row that changed is added once, as it is now; so entries are at least once, never out of a row's order.

use crate::codec::json;
use crate::views::commands::Commands;
use crate::views::placement::Location;
use crate::views::render::{Rendering, Unshowable, write_text, write_xadd_head};
use crate::views::{ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::Stream,
    name: "stream",
    summary: "An entry of a stream per change; null fields are left out. `fields` default: all of the row.",
    fields: &["key", "fields", "keep_last", "ttl", "on_delete"],
    example: "as: stream, key: product-changes, fields: { id: key, price: row.price }, keep_last: 10000",
    show,
    remove: None,
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    view.place(Location::Key, out);
    write_xadd_head(view.spec, view.key, out);
    if !view.has_fixed_fields() {
        out.arg(b"row").arg_with(|into| json::write_value(view.row(), into));
        return Ok(true);
    }
    let mut has_fields = false;
    view.each_field(|name, value| {
        if let Some(value) = value {
            has_fields = true;
            out.arg(name.as_bytes()).arg_with(|into| _ = write_text(value, into));
        }
    })?;
    Ok(has_fields)
}
