//! What every request passes first: its size, who asks, whether its parameters are known, and whether there is room.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::forward::HOP;
use crate::http::parameters::Parameters;
use crate::http::problem::{Problem, RETRY_AFTER_DEFAULT};
use crate::http::{ENDPOINTS, State as Shared};

/// Paths that answer everybody: whoever watches over the process has no token, and they say nothing of the data.
const OPEN_PATHS: [&str; 2] = ["/health/live", "/health/ready"];

/// Refuses a request, or lets it through while it holds one of the places.
pub async fn guard(State(state): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let checked = check(&state, &request).and_then(|()| parameters(&request));
    match checked {
        Ok(parameters) => request.extensions_mut().insert(parameters),
        Err(problem) => return problem.into_response(),
    };
    // Held until the head of the answer is made. Listeners, whose answers do not end, have places of their own.
    let Ok(_place) = state.requests.try_acquire() else {
        return Problem::later("busy", "too many requests at once", RETRY_AFTER_DEFAULT).into_response();
    };
    next.run(request).await
}

/// What the request asks for beside its path. A path that does not exist is answered by its own problem.
fn parameters(request: &Request) -> Result<Parameters, Problem> {
    let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok(Parameters::default()) };
    let template = ENDPOINTS.iter().map(|(template, _)| *template).find(|template| template.split('?').next() == Some(path.as_str()));
    Parameters::of(request.uri().query(), template.unwrap_or(path.as_str()))
}

fn check(state: &Shared, request: &Request) -> Result<(), Problem> {
    let uri = request.uri();
    let uri_bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if uri_bytes > state.limits.uri_bytes {
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long", format!("at most {} bytes", state.limits.uri_bytes)));
    }
    if !is_percent_encoded(uri.path()) {
        return Err(Problem::bad_request("bad_path", "a `%` in the path is followed by two hexadecimal digits; the sign itself is `%25`"));
    }
    if request.body().size_hint().lower() > state.limits.body_bytes {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("at most {} bytes", state.limits.body_bytes)));
    }
    if request.headers().get(HOP).is_some_and(|app| app.as_bytes() != state.app.as_bytes()) {
        return Err(Problem::later("moved", "the worker that was here has gone, and this one is of another app", RETRY_AFTER_DEFAULT));
    }
    if state.tokens.is_empty() || OPEN_PATHS.contains(&uri.path()) || is_known(state, request.headers()) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "send `Authorization: Bearer TOKEN` with a token of this worker"))
}

/// Whether each `%` begins the code of a byte. Others let it stand for itself, and then a misspelt key is one that is absent.
fn is_percent_encoded(path: &str) -> bool {
    path.split('%').skip(1).all(|after| after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

/// Compares with every token in a time that does not tell which one was nearly right.
fn is_known(state: &Shared, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    // The scheme is case-insensitive (RFC 9110 section 11.1).
    let Some((scheme, token)) = given.split_at_checked(BEARER.len()) else { return false };
    let mut is_known = false;
    for secret in &state.tokens {
        is_known |= secret.is(token.trim_ascii());
    }
    scheme.eq_ignore_ascii_case(BEARER) && is_known
}

const BEARER: &[u8] = b"Bearer ";
