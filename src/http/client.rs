//! Asks a worker: the client side of the paths in this folder, for `millstream query` and for tests.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value as Json;

use crate::config::secret::Secret;

/// The worker waits 2 s for its tasks and as long for another worker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one answer: a page has at most 4 MiB of rows as they are stored, which grow as JSON.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Asks for a path (with its query) of the worker at `server`, which is `http://host:port`.
///
/// # Errors
/// For the person who asked: the worker cannot be reached, or did not answer.
pub async fn ask(server: &str, path: &str, token: Option<&Secret>) -> Result<Answer, String> {
    let uri: Option<Uri> = format!("{server}{path}").parse().ok();
    let uri = uri
        .filter(|uri| uri.scheme_str() == Some("http"))
        .ok_or_else(|| format!("{server} is not the address of a worker: write host:port"))?;
    let mut request = Request::get(uri);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(Body::empty()).map_err(|_| "the token has characters that a header cannot have".to_owned())?;
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer = client.request(request).await;
        let answer = answer.map_err(|error| format!("cannot reach {server}: {}; is a worker running there?", innermost(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| format!("{server} broke off: {error}"))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes().to_vec() })
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(format!("{server} did not answer within {ANSWER_TIMEOUT:?}")))
}

impl Answer {
    /// The code of a problem.
    pub fn code(&self) -> Option<String> {
        self.problem()?["code"].as_str().map(str::to_owned)
    }

    /// The body of a good answer.
    ///
    /// # Errors
    /// What was wrong, for the person who asked.
    pub fn good(self) -> Result<Vec<u8>, String> {
        if self.status == StatusCode::OK {
            return Ok(self.body);
        }
        let detail = self.problem().and_then(|problem| problem["detail"].as_str().map(str::to_owned));
        let detail = detail.unwrap_or_else(|| "not an answer that a worker gives".to_owned());
        let again = self.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()).map(|after| format!("; try again in {after} s"));
        Err(format!("{}: {detail}{}", self.status, again.unwrap_or_default()))
    }

    fn problem(&self) -> Option<Json> {
        serde_json::from_slice(&self.body).ok().filter(|problem: &Json| problem.get("detail").is_some())
    }
}

/// The last cause says what happened: `connection refused`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Percent-encoded, but for what RFC 3986 leaves unreserved.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    // A key `changes` is not the changes of the table; and `.`, `..` are not steps in a path.
    if matches!(text, "changes" | "." | "..") {
        encoded = format!("%{:02X}{}", text.as_bytes()[0], &text[1..]);
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_for_a_path() {
        for (text, expected) in
            [("p1", "p1"), ("a/b c", "a%2Fb%20c"), ("é", "%C3%A9"), ("changes", "%63hanges"), ("..", "%2E."), ("a?b=1&c", "a%3Fb%3D1%26c")]
        {
            assert_eq!(encoded(text), expected);
        }
    }
}
