//! A page of rows, sorted by key.

use std::ops::Bound;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::codec::KeyCodec;
use crate::codec::json::write_value;
use crate::http::State as Shared;
use crate::http::problem::Problem;
use crate::http::rows::{json_response, table_of, waited};
use crate::model::Key;
use crate::runtime::queries::{KeyRange, KeyedRow, TableInfo};

/// Rows of a page where nobody says how many.
const ROWS_DEFAULT: usize = 100;

/// Which rows.
#[derive(Deserialize)]
pub struct PageQuery {
    /// First key, included.
    from: Option<String>,
    /// First key that is not included.
    to: Option<String>,
    /// How all keys begin; for keys that are text or bytes.
    prefix: Option<String>,
    limit: Option<usize>,
    /// Of the page before.
    cursor: Option<String>,
    scope: Option<String>,
}

/// `GET /tables/{table}`.
pub async fn page(
    State(state): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    let table = table_of(&state, path)?;
    let Query(query) = query.map_err(|rejection| Problem::bad_request("bad_query", rejection.body_text()))?;
    if query.scope.as_deref().is_some_and(|scope| scope != "local") {
        return Err(Problem::bad_request("comes_later", "`scope` can only be `local` for now: the rows of this worker"));
    }
    let (start, end) = bounds(table, &query)?;
    let limit = query.limit.unwrap_or(ROWS_DEFAULT).clamp(1, state.limits.page_rows);
    let range = KeyRange { start, end, limit, bytes_max: state.limits.page_bytes };
    let page = waited(&state, state.queries.page(table.id, range)).await?;
    let mut body = b"{\"rows\":[".to_vec();
    for (position, row) in page.rows.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        write_row(row, &mut body);
    }
    let cursor = page.rows.last().filter(|_| page.has_more).map(|row| URL_SAFE_NO_PAD.encode(&row.store_key));
    let cursor = serde_json::json!(cursor);
    let partitions = serde_json::json!(page.partitions);
    body.extend_from_slice(format!("],\"cursor\":{cursor},\"partitions\":{partitions}}}").as_bytes());
    Ok(json_response(body))
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

fn bounds(table: &TableInfo, query: &PageQuery) -> Result<(Bound<Key>, Bound<Key>), Problem> {
    let key = |name: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match table.key.from_text(text) {
            Ok((key, _)) => Ok(Some(key)),
            Err(bad) => Err(Problem::bad_request("bad_key", format!("`{name}`: {bad}"))),
        },
    };
    let mut start = key("from", &query.from)?.map_or(Bound::Unbounded, Bound::Included);
    let mut end = key("to", &query.to)?.map_or(Bound::Unbounded, Bound::Excluded);
    if let Some(prefix) = &query.prefix {
        if !matches!(table.key, KeyCodec::String | KeyCodec::Bytes) {
            return Err(Problem::bad_request(
                "bad_query",
                format!("keys of `{}` are {}, which has no prefix: use `from` and `to`", table.name, table.key),
            ));
        }
        let prefix = key("prefix", &Some(prefix.clone()))?.unwrap_or_default();
        start = later(start, Bound::Included(prefix.clone()));
        end = earlier(end, successor(prefix).map_or(Bound::Unbounded, Bound::Excluded));
    }
    if let Some(cursor) = &query.cursor {
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
