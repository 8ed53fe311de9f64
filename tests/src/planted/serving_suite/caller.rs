//! One HTTP exchange with the node, without sockets.

use bytes::Bytes;
use duramen_common::{Offset, PartitionId, SessionToken};
use duramen_serving_node::ServingNode;
use duramen_serving_node::http::ResponseBody;
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    /// What comes of a body that has no end.
    pub(super) pieces: Option<mpsc::Receiver<Bytes>>,
}

impl Answer {
    fn token(&self, header: &str) -> Option<SessionToken> {
        self.headers.get(header)?.to_str().ok()?.trim_matches('"').parse().ok()
    }

    /// Its `Log-Timestamp`.
    pub(super) fn position(&self) -> Option<SessionToken> {
        self.token("log-timestamp")
    }

    /// The end that it was read at.
    pub(super) fn end(&self, partition: PartitionId) -> Offset {
        self.position().and_then(|token| token.position(partition)).map_or(Offset::ZERO, Offset::next)
    }

    /// Its entity tag, as text in quotes.
    pub(super) fn etag(&self) -> Option<String> {
        Some(self.headers.get("etag")?.to_str().ok()?.to_owned())
    }

    /// The version that the entity tag names.
    pub(super) fn version(&self, partition: PartitionId) -> Option<Offset> {
        self.token("etag")?.position(partition)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A problem's type, without what stands before it.
    pub(super) fn problem(&self) -> String {
        let body = self.json();
        let kind = body["type"].as_str().unwrap_or_default();
        kind.rsplit(['/', ':']).next().unwrap_or_default().to_owned()
    }
}

/// Sends a request with these headers, waits for the answer (for its head, when the body has no end).
pub(super) async fn call(
    node: &ServingNode,
    method: &str,
    target: &str,
    headers: &[(&str, String)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(target).header(HOST, "127.0.0.1:7001");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(body.into()).expect("the suite makes well-formed requests");
    let (head, body) = node.answer(request).await.into_parts();
    let (body, pieces) = match body {
        ResponseBody::Full(bytes) => (bytes.unwrap_or_default(), None),
        ResponseBody::Stream(pieces) => (Bytes::new(), Some(pieces)),
    };
    Answer { status: head.status, headers: head.headers, body, pieces }
}
