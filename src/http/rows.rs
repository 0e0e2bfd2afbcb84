//! A row, and the windows of a key: questions about one key, answered by the worker that owns it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};
use tokio::time::timeout;

use crate::codec::json::write_value;
use crate::http::State as Shared;
use crate::http::forward::HOP;
use crate::http::headers::{COMPLETE, PARTITION, POSITION, WINDOWS};
use crate::http::parameters::Parameters;
use crate::http::problem::{Problem, RETRY_AFTER_DEFAULT, restoring, stopped};
use crate::model::{Key, Time, Value};
use crate::runtime::queries::{Answer, Answered, Location, Row, TableInfo, WindowRow};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `GET /tables/{table}/{key}`.
pub async fn row(
    State(state): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (table, key, key_value) = named(&state, path)?;
    if table.window_ms.is_some() {
        let detail = format!("`{}` has windows: ask for `/tables/{}/{{key}}/windows`", table.name, table.name);
        return Err(Problem::bad_request("windowed", detail));
    }
    let here = async {
        let answer = waited(&state, state.queries.get(table.id, key)).await?;
        let Some(row) = &answer.value else {
            let detail = format!("`{}` has no row of this key", table.name);
            return Ok(with_position(problem_response(Problem::new(StatusCode::NOT_FOUND, "no_such_row", detail)), &answer));
        };
        let is_known = headers.get(IF_NONE_MATCH).is_some_and(|known| is_same(known, row));
        Ok(with_position(row_response(row, is_known), &answer))
    };
    found(&state, table, &key_value, &uri, &headers, here).await
}

/// `GET /tables/{table}/{key}/windows`.
pub async fn windows(
    State(state): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    Extension(parameters): Extension<Parameters>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (table, key, key_value) = named(&state, path)?;
    if table.window_ms.is_none() {
        return Err(Problem::bad_request("not_windowed", format!("`{}` has no windows", table.name)));
    }
    let from = parameters.time("from")?.unwrap_or(Time(0));
    let to = parameters.time("to")?.unwrap_or(Time::MAX);
    let limit = parameters.limit(state.limits.page_rows, state.limits.page_rows)?;
    let here = async {
        let mut answer = waited(&state, state.queries.windows(table.id, key, from, to, limit + 1)).await?;
        let next = answer.value.get(limit).map(|window| window.start.0);
        answer.value.truncate(limit);
        Ok(windows_response(&key_value, &answer, next))
    };
    found(&state, table, &key_value, &uri, &headers, here).await
}

fn windows_response(key: &Value, answer: &Answer<Vec<WindowRow>>, next: Option<i64>) -> Response<Body> {
    let mut body = b"{\"key\":".to_vec();
    write_value(key, &mut body);
    body.extend_from_slice(b",\"windows\":[");
    for (position, window) in answer.value.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        let offset = window.row.offset;
        body.extend_from_slice(
            format!("{comma}{{\"start\":{},\"end\":{},\"offset\":{offset},\"row\":", window.start.0, window.end.0).as_bytes(),
        );
        write_value(&window.row.value, &mut body);
        body.push(b'}');
    }
    // Where to go on (`from`), if there are more.
    body.extend_from_slice(format!("],\"next\":{}}}", serde_json::json!(next)).as_bytes());
    let mut response = with_position(json_response(body), answer);
    insert(response.headers_mut(), WINDOWS, answer.value.len().to_string());
    response
}

/// The table that a path names.
pub fn table_of(state: &Shared, path: Result<Path<String>, PathRejection>) -> Result<&TableInfo, Problem> {
    let Path(name) = path.map_err(|rejection| Problem::bad_request("bad_path", rejection.body_text()))?;
    table(state, &name)
}

/// A table that may be read, by its name.
fn table<'s>(state: &'s Shared, name: &str) -> Result<&'s TableInfo, Problem> {
    let table = state.queries.tables().iter().find(|table| &*table.name == name);
    // One that is not to be read is not there: its name is nobody's business.
    table
        .filter(|table| table.is_readable)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no_such_table", format!("there is no table `{name}` that may be read")))
}

fn named(state: &Shared, path: Result<Path<(String, String)>, PathRejection>) -> Result<(&TableInfo, Key, Value), Problem> {
    let Path((name, text)) = path.map_err(|rejection| Problem::bad_request("bad_path", rejection.body_text()))?;
    let table = table(state, &name)?;
    let (key, value) = table.key.from_text(&text).map_err(|bad| Problem::bad_request("bad_key", format!("key of `{name}`: {bad}")))?;
    Ok((table, key, value))
}

/// Asks wherever the key may be until one has it; `here` is our own answer.
async fn found(
    state: &Shared,
    table: &TableInfo,
    key: &Value,
    uri: &Uri,
    headers: &HeaderMap,
    here: impl Future<Output = Result<Response<Body>, Problem>>,
) -> Result<Response<Body>, Problem> {
    let is_from_worker = headers.contains_key(HOP);
    let (mut here, mut absent) = (Some(here), None);
    for place in state.queries.locate(table.id, key) {
        let answer = match place {
            Location::Local => match here.take() {
                Some(here) => here.await?,
                None => continue,
            },
            Location::Restoring => return Err(restoring(RETRY_AFTER_DEFAULT)),
            Location::Stopped => return Err(stopped()),
            // Whoever sent it here asks the others itself. It must not travel on: two workers with old news would play ping-pong.
            Location::Remote(_) | Location::Unknown if is_from_worker => continue,
            Location::Unknown => {
                return Err(Problem::later("unassigned", "no worker has the task of this key at the moment", RETRY_AFTER_DEFAULT));
            }
            Location::Remote(endpoint) => state.forwarder.forward(&endpoint, uri, headers).await?,
        };
        if !is_absent(&answer) {
            return Ok(answer);
        }
        absent.get_or_insert(answer);
    }
    absent.ok_or_else(|| Problem::later("moved", "the task of this key has moved to another worker", RETRY_AFTER_DEFAULT))
}

/// Whether an answer says that there is nothing; then another place may have it.
fn is_absent(answer: &Response<Body>) -> bool {
    answer.status() == StatusCode::NOT_FOUND || answer.headers().get(WINDOWS).is_some_and(|count| count == "0")
}

/// Bounds the time of an answer.
pub async fn waited<T>(state: &Shared, answer: Answered<T>) -> Result<T, Problem> {
    match timeout(state.limits.answer_timeout, answer).await {
        Ok(answer) => answer.map_err(Problem::from),
        Err(_) => Err(Problem::later("timeout", "the task did not answer in time", RETRY_AFTER_DEFAULT)),
    }
}

pub fn json_response(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn problem_response(problem: Problem) -> Response<Body> {
    axum::response::IntoResponse::into_response(problem)
}

fn row_response(row: &Row, is_known: bool) -> Response<Body> {
    let mut body = Vec::new();
    if !is_known {
        write_value(&row.value, &mut body);
    }
    let mut response = json_response(body);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    insert(headers, ETAG, format!("\"{}\"", row.offset));
    if !row.is_complete {
        headers.insert(COMPLETE, HeaderValue::from_static("false"));
    }
    response
}

fn with_position<T>(mut response: Response<Body>, answer: &Answer<T>) -> Response<Body> {
    insert(response.headers_mut(), PARTITION, answer.partition.to_string());
    insert(response.headers_mut(), POSITION, answer.position.to_string());
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

/// Whether `If-None-Match` names this row: a list of tags, weak or not, or `*` (RFC 9110 section 13.1.2).
fn is_same(known: &HeaderValue, row: &Row) -> bool {
    let tag = format!("\"{}\"", row.offset);
    let mut tags = known.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}
