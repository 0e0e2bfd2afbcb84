//! Committed changes as server-sent events.
//!
//! An event's id is a place in this worker's feed; a client that comes back with it (`Last-Event-ID`) goes on there while the
//! feed still has it. Where it has not (too long away, another worker, partitions that came or went) the first event is
//! `reload`: read the table again, then go on listening.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;
use futures::stream::{Stream, unfold};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::http::State as Shared;
use crate::http::problem::{Problem, RETRY_AFTER_DEFAULT};
use crate::http::rows::table_of;
use crate::http::server::stopped;
use crate::runtime::changes::{Feed, FeedPosition, Since};

/// Changes in one piece of the answer.
const CHANGES_AT_ONCE: usize = 100;

/// A comment is sent when nothing has happened for so long, so that proxies do not end the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /tables/{table}/changes`.
pub async fn changes(
    State(state): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let table = table_of(&state, path)?;
    let place = Arc::clone(&state.listeners).try_acquire_owned();
    let place = place.map_err(|_| Problem::later("busy", "too many listeners at once", RETRY_AFTER_DEFAULT))?;
    let feed = state.queries.feed(table.id);
    let last = headers.get("last-event-id").map(|id| position(id.to_str().unwrap_or_default()));
    let after = match last {
        None => feed.newest(),
        // An id that is none of ours is one that is gone.
        Some(id) => id.unwrap_or(FeedPosition { epoch: 0, number: u64::MAX }),
    };
    let listening = Listening { newest: feed.watch(), feed, after, stopping: state.stopping.clone(), _place: place };
    let mut response = Response::new(Body::from_stream(events(listening)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One listener.
struct Listening {
    feed: Arc<Feed>,
    newest: watch::Receiver<FeedPosition>,
    after: FeedPosition,
    stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

fn events(listening: Listening) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    // The head of the answer travels with its first piece: begin with one, so that a client knows at once that it is heard.
    unfold((listening, true), |(mut listening, is_first)| async move {
        let text = if is_first { Some(listening.begin()) } else { listening.next().await };
        text.map(|text| (Ok(Bytes::from(text)), (listening, false)))
    })
}

impl Listening {
    /// `retry:` tells browsers when to come back; then where the listener stands.
    fn begin(&mut self) -> String {
        let mut text = String::from("retry: 1000\n\n");
        if let Since::Gone(newest) = self.feed.since(self.after, 0) {
            self.after = newest;
            text.push_str(&reload(newest));
        }
        text
    }

    /// The next piece; `None` when the server stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            // Marked as seen before the feed is read: what is published in between wakes us again.
            self.newest.borrow_and_update();
            match self.feed.since(self.after, CHANGES_AT_ONCE) {
                Since::Gone(newest) => {
                    self.after = newest;
                    return Some(reload(newest));
                }
                Since::Events(events) if !events.is_empty() => {
                    let mut text = String::new();
                    for event in events {
                        self.after = event.position;
                        text.push_str(&format!("id: {}\nevent: change\ndata: ", id(event.position)));
                        text.push_str(&String::from_utf8_lossy(&event.json));
                        text.push_str("\n\n");
                    }
                    return Some(text);
                }
                Since::Events(_) => {}
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                () = stopped(&mut self.stopping) => return None,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(": \n\n".to_owned()),
            }
        }
    }
}

fn reload(newest: FeedPosition) -> String {
    format!("id: {}\nevent: reload\ndata: {{}}\n\n", id(newest))
}

fn id(position: FeedPosition) -> String {
    format!("{}-{}", position.epoch, position.number)
}

fn position(id: &str) -> Option<FeedPosition> {
    let (epoch, number) = id.split_once('-')?;
    Some(FeedPosition { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
}
