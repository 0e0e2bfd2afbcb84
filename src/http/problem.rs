//! Errors as `application/problem+json` (RFC 9457): what happened, as a code for programs and a sentence for people.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use serde_json::json;

use crate::runtime::queries::Unanswered;

/// An answer that says what went wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable, for programs: `no_such_table`.
    pub code: &'static str,
    /// Lowercase, no full stop.
    pub detail: String,
    pub retry_after: Option<Duration>,
}

/// What a client should wait for a task that a person has to mend.
const STOPPED_RETRY: Duration = Duration::from_secs(30);

/// What a client should wait where nothing better is known.
pub const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), retry_after: None }
    }

    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// `503`: the same request may be answered later.
    pub fn later(code: &'static str, detail: impl Into<String>, after: Duration) -> Problem {
        Problem { retry_after: Some(after), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Problem {
        let later = |code, detail: &str| Problem::later(code, detail, RETRY_AFTER_DEFAULT);
        match unanswered {
            Unanswered::Restoring { retry_after } => restoring(retry_after),
            Unanswered::Stopped => stopped(),
            Unanswered::Moved => later("moved", "the task of this key has moved to another worker"),
            Unanswered::Busy => later("busy", "more questions wait than this worker can answer"),
            Unanswered::Closing => later("closing", "this worker shuts down"),
            Unanswered::Failed(detail) => later("failed", &detail),
        }
    }
}

/// The task is not yet what its changelog says it is.
pub fn restoring(retry_after: Duration) -> Problem {
    Problem::later("restoring", "a task that the answer needs is being restored from its changelog", retry_after)
}

/// The task stands still until somebody has mended what stopped it.
pub fn stopped() -> Problem {
    Problem::later("stopped", "the task of this key has stopped: `/tasks` says why", STOPPED_RETRY)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            // Whole seconds, at least one: `0` would be asked again at once.
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", format!("there is no path `{}`: `/` lists what there is", uri.path()))
}

pub async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("`{method}` is not allowed here: everything is read with GET"),
    )
}
