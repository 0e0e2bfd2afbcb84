//! What a worker says of itself: topology, tasks, health, metrics.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::http::rows::json_response;
use crate::http::{ENDPOINTS, State as Shared};
use crate::runtime::queries::{InputStatus, TaskPhase, TaskStatus};

/// `GET /`.
pub async fn index() -> Response<Body> {
    let lines: Vec<String> = ENDPOINTS.iter().map(|(path, words)| format!("GET {path:<64} {words}\n")).collect();
    let mut response = Response::new(Body::from(lines.concat()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// `GET /topology`.
pub async fn topology(State(state): State<Arc<Shared>>) -> Response<Body> {
    json_response(state.queries.topology().to_vec())
}

/// `GET /tasks`.
pub async fn tasks(State(state): State<Arc<Shared>>) -> Response<Body> {
    let tasks: Vec<Value> = state.queries.tasks().iter().map(task).collect();
    json_response(json!({ "tasks": tasks }).to_string().into_bytes())
}

fn task(task: &TaskStatus) -> Value {
    let (phase, restore, reason) = match &task.phase {
        TaskPhase::Restoring { done, total } => ("restoring", json!({ "done": done, "total": total }), Value::Null),
        TaskPhase::Running => ("running", Value::Null, Value::Null),
        TaskPhase::Stopped { why } => ("stopped", Value::Null, json!(why)),
    };
    let input = |input: &InputStatus| {
        let lag = input.end.map(|end| (end.0 - input.position.0).max(0));
        json!({ "topic": input.topic.as_str(), "partition": input.partition, "position": input.position.0, "end": input.end.map(|end| end.0), "lag": lag })
    };
    json!({
        "task": task.id.to_string(),
        "partition": task.id.partition,
        "phase": phase,
        "restore": restore,
        "reason": reason,
        "tables": task.tables.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        "inputs": task.inputs.iter().map(input).collect::<Vec<_>>(),
    })
}

/// `GET /health/live`: `200`, or `503` where the process should be killed.
pub async fn live(State(state): State<Arc<Shared>>) -> Response<Body> {
    let health = state.queries.health();
    verdict(health.is_live, &health.problems)
}

/// `GET /health/ready`: `200`, or `503` where others should be asked.
pub async fn ready(State(state): State<Arc<Shared>>) -> Response<Body> {
    let health = state.queries.health();
    verdict(health.is_ready, &health.problems)
}

fn verdict(is_well: bool, problems: &[String]) -> Response<Body> {
    let status = if is_well { "ok" } else { "unavailable" };
    let mut response = json_response(json!({ "status": status, "problems": problems }).to_string().into_bytes());
    if !is_well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `GET /metrics`.
pub async fn metrics(State(state): State<Arc<Shared>>) -> Response<Body> {
    let mut response = Response::new(Body::from(state.metrics.text()));
    let openmetrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, openmetrics);
    response
}
