//! A sorted set: one member per row, many rows under one key. Charts, rankings, indexes by time.
//!
//! With `replace_by: score` a row stands at its score, and what stood there before gives way: a changed candle is not a second one.

use crate::views::commands::{Commands, Verb};
use crate::views::placement::Location;
use crate::views::render::{Rendering, Unshowable, write_int, write_score};
use crate::views::{OnViewDelete, ViewKind, ViewShape};

pub const KIND: ViewKind = ViewKind {
    shape: ViewShape::Zset,
    name: "zset",
    summary: "A member of a sorted set per row, at a score; a member that is not a text is written as JSON.",
    fields: &["key", "score", "member", "replace_by", "keep_last", "ttl", "on_delete"],
    example: "as: zset, key: ranking, score: row.points, member: key",
    show,
    remove: Some(remove),
};

fn show(view: &Rendering<'_>, out: &mut Commands) -> Result<bool, Unshowable> {
    let mut score = Vec::new();
    let mut member = Vec::new();
    if !write_own_score(view, &mut score)? || !view.write_member(&mut member)? {
        return Ok(false);
    }
    if view.spec.replace_by_score {
        view.place(Location::Score(&score), out);
        out.start(Verb::ZremrangeByScore).arg(view.key).arg(&score).arg(&score);
    } else {
        view.place(Location::SortedMember(&member), out);
    }
    out.start(Verb::Zadd).arg(view.key).arg(&score).arg(&member);
    if let Some(keep) = view.spec.keep_last {
        let last = -1 - i64::try_from(keep).unwrap_or(i64::MAX - 1);
        out.start(Verb::ZremrangeByRank).arg(view.key).arg(b"0").arg_with(|into| write_int(last, into));
    }
    Ok(true)
}

fn remove(view: &Rendering<'_>, out: &mut Commands) -> Result<(), Unshowable> {
    if view.spec.on_delete == OnViewDelete::Keep {
        return Ok(());
    }
    let mut what = Vec::new();
    if view.spec.replace_by_score {
        if write_own_score(view, &mut what)? {
            out.start(Verb::ZremrangeByScore).arg(view.key).arg(&what).arg(&what);
        }
    } else if view.write_member(&mut what)? {
        out.start(Verb::Zrem).arg(view.key).arg(&what);
    }
    Ok(())
}

fn write_own_score(view: &Rendering<'_>, out: &mut Vec<u8>) -> Result<bool, Unshowable> {
    match &view.spec.score {
        Some(program) => write_score(&view.evaluate(program, "score")?, out),
        None => Err(Unshowable { reason: "not_a_number", detail: "the view has no `score`".to_owned() }),
    }
}
