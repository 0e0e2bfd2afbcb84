//! A Redis set: one member per row, many rows under one key. Indexes: which products are in a category.

use crate::views::commands::{Commands, Verb};
use crate::views::placement::Location;
use crate::views::render::{Rendering, Unshowable};
use crate::views::{OnViewDelete, ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::Set,
    name: "set",
    summary: "A member of a set per row; a member that is not a text is written as JSON.",
    fields: &["key", "member", "ttl", "on_delete"],
    example: "as: set, key: \"category:{row.category}\", member: key",
    show,
    remove: Some(remove),
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    let mut member = Vec::new();
    if !view.write_member(&mut member)? {
        return Ok(false);
    }
    view.place(Location::SetMember(&member), out);
    out.start(Verb::Sadd).arg(view.key).arg(&member);
    Ok(true)
}

fn remove(view: &Rendering<'_>, out: &mut Commands) -> Result<(), Unshowable> {
    let mut member = Vec::new();
    if view.spec.on_delete != OnViewDelete::Keep && view.write_member(&mut member)? {
        out.start(Verb::Srem).arg(view.key).arg(&member);
    }
    Ok(())
}
