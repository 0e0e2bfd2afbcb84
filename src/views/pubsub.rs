//! A message per change on a channel, and nothing that stays. The template `key` names the channel.
//!
//! A row that leaves publishes `null` (nothing with `on_delete: keep`). Redis gives messages to whoever listens at that moment.

use crate::views::commands::{Commands, Verb};
use crate::views::render::{Rendering, Unshowable};
use crate::views::{ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::Pubsub,
    name: "pubsub",
    summary: "A message per change: the text of `value`, by default the row as JSON. Nothing is stored.",
    fields: &["key", "value", "on_delete"],
    example: "as: pubsub, key: \"price:{key}\", value: row.price",
    show,
    remove: None,
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    let mut payload = Vec::new();
    if !view.write_value(&mut payload)? {
        return Ok(false);
    }
    out.start(Verb::Publish).arg(view.key).arg(&payload);
    Ok(true)
}
