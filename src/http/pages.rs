//! A page of rows, sorted by key.

use std::ops::Bound;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, Response, Uri};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::codec::KeyCodec;
use crate::codec::json::write_value;
use crate::http::State as Shared;
use crate::http::forward::HOP;
use crate::http::gather::{Part, gathered};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::http::rows::{json_response, table_of, waited};
use crate::model::Key;
use crate::runtime::queries::{KeyRange, KeyedRow, TableInfo};

/// Rows of a page where nobody says how many.
const ROWS_DEFAULT: usize = 100;

/// `GET /tables/{table}`: of this worker, or of all.
pub async fn page(
    State(state): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    Extension(parameters): Extension<Parameters>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let table = table_of(&state, path)?;
    // Another worker that gathers a page wants our part of it.
    let is_asked_by_worker = headers.contains_key(HOP);
    let is_of_all = parameters.word("scope", &["local", "all"])? == "all" && !is_asked_by_worker;
    let (start, end) = bounds(table, &parameters)?;
    let limit = parameters.limit(ROWS_DEFAULT, state.limits.page_rows)?;
    let range = KeyRange { start, end, limit, bytes_max: state.limits.page_bytes };
    let here = waited(&state, state.queries.page(table.id, range)).await?;
    let mut part = Part {
        rows: here.rows.iter().map(|row| (row.store_key.to_vec(), row.partition, written(row))).collect(),
        has_more: here.has_more,
        partitions: here.partitions,
    };
    if is_of_all {
        part = gathered(&state, table, part, &uri, &headers, limit).await?;
    }
    Ok(json_response(part.written(is_asked_by_worker)))
}

fn written(row: &KeyedRow) -> Vec<u8> {
    let mut into = Vec::new();
    write_row(row, &mut into);
    into
}

fn write_row(row: &KeyedRow, into: &mut Vec<u8>) {
    into.extend_from_slice(b"{\"key\":");
    write_value(&row.key, into);
    if let Some((start, end)) = row.window {
        into.extend_from_slice(format!(",\"start\":{},\"end\":{}", start.0, end.0).as_bytes());
    }
    into.extend_from_slice(format!(",\"partition\":{},\"offset\":{},\"row\":", row.partition, row.row.offset).as_bytes());
    write_value(&row.row.value, into);
    into.push(b'}');
}

fn bounds(table: &TableInfo, query: &Parameters) -> Result<(Bound<Key>, Bound<Key>), Problem> {
    let key = |name: &str| match query.text(name) {
        None => Ok(None),
        Some(text) => match table.key.from_text(text) {
            Ok((key, _)) => Ok(Some(key)),
            Err(bad) => Err(Problem::bad_request("bad_key", format!("`{name}`: {bad}"))),
        },
    };
    let mut start = key("from")?.map_or(Bound::Unbounded, Bound::Included);
    let mut end = key("to")?.map_or(Bound::Unbounded, Bound::Excluded);
    if query.text("prefix").is_some() {
        if !matches!(table.key, KeyCodec::String | KeyCodec::Bytes) {
            return Err(Problem::bad_request(
                "bad_query",
                format!("keys of `{}` are {}, which has no prefix: use `from` and `to`", table.name, table.key),
            ));
        }
        let prefix = key("prefix")?.unwrap_or_default();
        start = later(start, Bound::Included(prefix.clone()));
        end = earlier(end, successor(prefix).map_or(Bound::Unbounded, Bound::Excluded));
    }
    if let Some(cursor) = query.text("cursor") {
        let after = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| Problem::bad_request("bad_cursor", "the cursor is not one of ours"))?;
        start = later(start, Bound::Excluded(Key::from_vec(after)));
    }
    Ok((start, end))
}

/// The start that leaves less.
fn later(a: Bound<Key>, b: Bound<Key>) -> Bound<Key> {
    match (&a, &b) {
        (Bound::Unbounded, _) => b,
        (_, Bound::Unbounded) => a,
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => {
            if (x, matches!(a, Bound::Excluded(_))) >= (y, matches!(b, Bound::Excluded(_))) { a } else { b }
        }
    }
}

/// The end that leaves less; both are excluded or open.
fn earlier(a: Bound<Key>, b: Bound<Key>) -> Bound<Key> {
    match (&a, &b) {
        (Bound::Excluded(x), Bound::Excluded(y)) => {
            if x <= y {
                a
            } else {
                b
            }
        }
        (Bound::Unbounded, _) => b,
        _ => a,
    }
}

/// The first key after all that begin so; `None` if there is none.
fn successor(mut prefix: Key) -> Option<Key> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        let check = |prefix: &[u8], expected: Option<&[u8]>| assert_eq!(successor(Key::from_slice(prefix)).as_deref(), expected);
        check(b"\x01ab", Some(b"\x01ac"));
        check(b"\x01\xff", Some(b"\x02"));
        check(b"\xff\xff", None);
    }

    #[test]
    fn of_two_bounds_the_narrower_one_holds() {
        let key = |text: &[u8]| Key::from_slice(text);
        assert_eq!(later(Bound::Included(key(b"a")), Bound::Excluded(key(b"a"))), Bound::Excluded(key(b"a")));
        assert_eq!(later(Bound::Included(key(b"b")), Bound::Excluded(key(b"a"))), Bound::Included(key(b"b")));
        assert_eq!(later(Bound::Unbounded, Bound::Included(key(b"a"))), Bound::Included(key(b"a")));
        assert_eq!(earlier(Bound::Excluded(key(b"b")), Bound::Excluded(key(b"a"))), Bound::Excluded(key(b"a")));
        assert_eq!(earlier(Bound::Unbounded, Bound::Excluded(key(b"a"))), Bound::Excluded(key(b"a")));
        assert_eq!(earlier(Bound::Excluded(key(b"a")), Bound::Unbounded), Bound::Excluded(key(b"a")));
    }
}
