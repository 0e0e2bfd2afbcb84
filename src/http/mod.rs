//! HTTP: rows, changes, tasks, health and metrics of a worker. Async; reads what was committed, changes nothing in the runtime.
//!
//! A request is answered here or, where another worker owns the key, by that one after exactly one hop. Everything from outside
//! has a bound ([`HttpLimits`]); errors are `application/problem+json` (RFC 9457). Without tokens it listens on loopback only;
//! the worker file sees to that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::secret::Secret;
use crate::http::forward::Forwarder;
use crate::metrics::Metrics;
use crate::model::Name;
use crate::runtime::queries::Queries;

mod changes;
pub mod client;
mod forward;
mod gather;
mod guard;
mod headers;
mod pages;
mod parameters;
mod problem;
mod rows;
mod server;
mod status;

/// Bounds on what comes from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpLimits {
    /// Bytes of a request's target; no key needs more.
    pub uri_bytes: usize,
    /// Bytes of a request's head, target and all.
    pub head_bytes: usize,
    /// Bytes of a request's body. Nothing reads one yet.
    pub body_bytes: u64,
    /// From the first byte of a connection to the end of the head.
    pub head_timeout: Duration,
    /// Time for one answer, its hop included; then `503`.
    pub answer_timeout: Duration,
    /// Requests at work at once; one more is answered with `503`.
    pub requests: usize,
    /// Listeners to changes at once, all tables together.
    pub listeners: usize,
    /// Connections at once; one more waits.
    pub connections: usize,
    /// Rows of a page.
    pub page_rows: usize,
    /// Bytes of the rows of a page.
    pub page_bytes: usize,
    /// Bytes of an answer that is passed on from another worker.
    pub forwarded_bytes: usize,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            uri_bytes: 8 << 10,
            head_bytes: 16 << 10,
            body_bytes: 64 << 10,
            head_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(2),
            requests: 256,
            listeners: 64,
            connections: 1024,
            page_rows: 1000,
            page_bytes: 4 << 20,
            forwarded_bytes: 16 << 20,
        }
    }
}

/// What a server needs.
pub struct HttpOptions {
    /// The app that it answers for. Workers of another one may get the address of one that has ended, and must not be taken for it.
    pub app: Name,
    /// Port 0 picks a free one; see [`Server::address`].
    pub listen: SocketAddr,
    /// Who may ask; empty: everybody. The first one is shown to other workers.
    pub tokens: Vec<Secret>,
    pub limits: HttpLimits,
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens and answers, on the runtime that it is called on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(options: HttpOptions, queries: Arc<dyn Queries>, metrics: Arc<Metrics>) -> io::Result<Server> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let (stop, stopping) = watch::channel(false);
        let limits = options.limits;
        let state = Arc::new(State {
            queries,
            metrics,
            forwarder: Forwarder::new(&options.app, options.tokens.first().cloned(), &limits),
            app: options.app,
            tokens: options.tokens,
            limits,
            requests: Arc::new(Semaphore::new(limits.requests)),
            listeners: Arc::new(Semaphore::new(limits.listeners)),
            stopping: stopping.clone(),
        });
        let accepting = tokio::spawn(server::accept(listener, router(state), limits, stopping));
        Ok(Server { address, stop, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests end for at most `grace`, and ends listeners at once.
    pub async fn stop(self, grace: Duration) {
        self.stop.send_replace(true);
        let mut accepting = self.accepting;
        if tokio::time::timeout(grace, &mut accepting).await.is_err() {
            accepting.abort();
        }
    }
}

/// What every request sees.
struct State {
    queries: Arc<dyn Queries>,
    metrics: Arc<Metrics>,
    forwarder: Forwarder,
    app: Name,
    tokens: Vec<Secret>,
    limits: HttpLimits,
    requests: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

/// All paths; `GET /` lists them from [`ENDPOINTS`].
fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(status::index))
        .route("/tables/{table}", get(pages::page))
        .route("/tables/{table}/changes", get(changes::changes))
        .route("/tables/{table}/{key}", get(rows::row))
        .route("/tables/{table}/{key}/windows", get(rows::windows))
        .route("/topology", get(status::topology))
        .route("/tasks", get(status::tasks))
        .route("/health/live", get(status::live))
        .route("/health/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&state), guard::guard))
        .with_state(state)
}

/// Paths with the parameters that they take, and what they answer, in the order of the manual. A key is percent-encoded; one that reads `changes` as `%63hanges`.
pub const ENDPOINTS: &[(&str, &str)] = &[
    ("/tables/{table}/{key}", "a row"),
    ("/tables/{table}?from=&to=&prefix=&limit=&cursor=&scope=", "a page of rows sorted by key, of this worker or scope=all"),
    ("/tables/{table}/{key}/windows?from=&to=&limit=", "windows of a key, oldest first"),
    ("/tables/{table}/changes", "committed changes of this worker as server-sent events, resumable by Last-Event-ID"),
    ("/topology", "the topology"),
    ("/tasks", "the tasks of this worker and how far they are"),
    ("/health/live", "whether the worker makes progress"),
    ("/health/ready", "whether all its tasks run, and Kafka answers"),
    ("/metrics", "metrics, as OpenMetrics text"),
];

#[cfg(test)]
mod tests;
