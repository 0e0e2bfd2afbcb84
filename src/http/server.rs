//! Accepts connections and ends them: the part of a server that `axum::serve` does without bounds.

use std::sync::Arc;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::http::HttpLimits;

/// Header lines of a request; hyper's own default.
const HEADERS_MAX: usize = 100;

/// Accepts until it is told to stop, then waits for the requests at work.
pub async fn accept(listener: TcpListener, router: Router, limits: HttpLimits, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        // A place first: connections beyond the bound wait in the kernel's queue, where they cost nothing.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stopped(&mut stopping) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        // What ended is forgotten, so that the set does not grow.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let served = serve(stream, router.clone(), limits, stopping.clone());
                connections.spawn(async move {
                    let _place = place;
                    served.await;
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: it passes when connections end. Without a pause it would be a busy loop.
                warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, router: Router, limits: HttpLimits, mut stopping: watch::Receiver<bool>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(limits.head_bytes.max(HYPER_BUFFER_MIN));
    // Small answers should not wait for an acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // Clients that go away are no trouble of ours.
        debug!(%error, "HTTP connection ended early");
    }
}

/// Returns when the server is told to stop, or is gone.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// hyper refuses smaller buffers.
const HYPER_BUFFER_MIN: usize = 8192;
