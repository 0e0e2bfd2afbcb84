//! One hop to the worker that owns a key.
//!
//! The request carries `x-hop: <app>`. The receiver never sends it on, and refuses it if it is a worker of another app: an address
//! outlives the process that told it, and may be somebody else's by now. No redirect is followed, nothing but the target, the
//! conditions and our own token is passed, and the answer is bounded in time and size.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::config::secret::Secret;
use crate::http::HttpLimits;
use crate::http::headers::{COMPLETE, PARTITION, POSITION, WINDOWS};
use crate::http::problem::{Problem, RETRY_AFTER_DEFAULT};
use crate::model::Name;

/// On a request that comes from another worker: the name of its app.
pub const HOP: HeaderName = HeaderName::from_static("x-hop");

/// Headers that go with the request.
const ASKED: [HeaderName; 2] = [ACCEPT, IF_NONE_MATCH];

/// Headers of the answer that are passed on.
const ANSWERED: [HeaderName; 7] = [CONTENT_TYPE, ETAG, RETRY_AFTER, COMPLETE, PARTITION, POSITION, WINDOWS];

/// Asks other workers.
pub struct Forwarder {
    client: Client<HttpConnector, Body>,
    hop: HeaderValue,
    authorization: Option<HeaderValue>,
    answer_timeout: Duration,
    bytes_max: usize,
}

impl Forwarder {
    pub fn new(app: &Name, token: Option<Secret>, limits: &HttpLimits) -> Forwarder {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(limits.answer_timeout));
        connector.set_nodelay(true);
        let authorization = token.and_then(|token| HeaderValue::try_from(format!("Bearer {}", token.expose())).ok());
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Forwarder {
            client: Client::builder(TokioExecutor::new()).build(connector),
            // Names are letters, digits, `.`, `_` and `-`.
            hop: HeaderValue::try_from(app.as_str()).unwrap_or(HeaderValue::from_static("?")),
            authorization,
            answer_timeout: limits.answer_timeout,
            bytes_max: limits.forwarded_bytes,
        }
    }

    /// The answer of the worker at `endpoint`.
    pub async fn forward(&self, endpoint: &str, uri: &Uri, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
        let unreachable =
            |cause: &str| Problem::later("owner_unreachable", format!("the worker that owns this key {cause}"), RETRY_AFTER_DEFAULT);
        let outgoing = self.outgoing(endpoint, uri, headers).ok_or_else(|| unreachable("has no usable address"))?;
        let asked = async {
            let answer = self.client.request(outgoing).await.map_err(|_| unreachable("cannot be reached"))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, self.bytes_max).collect().await;
            let body = body.map_err(|_| unreachable("sent too much, or broke off"))?.to_bytes();
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = head.status;
            copy(&head.headers, response.headers_mut(), &ANSWERED);
            Ok(response)
        };
        timeout(self.answer_timeout, asked).await.unwrap_or_else(|_| Err(unreachable("did not answer in time")))
    }

    fn outgoing(&self, endpoint: &str, uri: &Uri, headers: &HeaderMap) -> Option<Request<Body>> {
        let authority: Authority = endpoint.parse().ok()?;
        let host = authority.host().trim_matches(['[', ']']);
        if authority.port_u16().is_none() || host.parse().is_ok_and(|address| is_off_limits(&address)) {
            return None;
        }
        let target = uri.path_and_query()?.as_str();
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query(target).build().ok()?;
        let mut outgoing = Request::new(Body::empty());
        *outgoing.uri_mut() = uri;
        copy(headers, outgoing.headers_mut(), &ASKED);
        outgoing.headers_mut().insert(HOP, self.hop.clone());
        if let Some(authorization) = &self.authorization {
            outgoing.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Some(outgoing)
    }
}

/// Addresses where no worker is: link-local ones hold the metadata services of clouds, with credentials for whoever asks.
fn is_off_limits(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_unspecified() || address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => {
            let is_mapped = address.to_ipv4_mapped().is_some_and(|address| is_off_limits(&IpAddr::V4(address)));
            is_mapped || address.is_unicast_link_local() || address.is_unspecified() || address.is_multicast()
        }
    }
}

fn copy(from: &HeaderMap, to: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        if let Some(value) = from.get(name) {
            to.insert(name.clone(), value.clone());
        }
    }
}
