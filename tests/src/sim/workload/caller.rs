//! One HTTP exchange with a serving node, over the simulated network.
//!
//! * In: method, target, headers, body. Out: status, headers, body; or nothing, which leaves open what happened unless the
//!   connection was refused.

use super::super::network::HostId;
use super::super::packet::HttpLoss;
use super::super::wire::{Stream, Wire};
use bytes::Bytes;
use duramen_common::SessionToken;
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, Response, StatusCode};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The position that it names.
    #[must_use]
    pub fn position(&self) -> Option<SessionToken> {
        self.header("log-timestamp")?.parse().ok()
    }

    /// The version that it names.
    #[must_use]
    pub fn etag(&self) -> Option<SessionToken> {
        self.header("etag")?.trim_matches('"').parse().ok()
    }

    /// Its body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A problem's type.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        problem_type(&self.json())
    }

    /// Whether it is certain that nothing was appended by this attempt.
    #[must_use]
    pub fn is_definite_refusal(&self) -> bool {
        self.problem().is_some_and(|problem| is_definite_refusal(&problem))
    }
}

/// The type that a problem names.
#[must_use]
pub fn problem_type(problem: &serde_json::Value) -> Option<String> {
    problem["type"].as_str().map(|kind| kind.rsplit(['/', ':']).next().unwrap_or(kind).to_owned())
}

/// Whether a problem of this type says that nothing was appended.
#[must_use]
pub fn is_definite_refusal(problem: &str) -> bool {
    matches!(problem, "no-leader" | "overloaded" | "log-full" | "key-reused")
}

/// A request under construction.
#[derive(Clone, Debug)]
pub struct Call {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    timeout: Duration,
}

impl Call {
    /// A request by method and target.
    #[must_use]
    pub fn new(method: &'static str, target: impl Into<String>) -> Call {
        let timeout = Duration::from_secs(5);
        Call { method, target: target.into(), headers: Vec::new(), body: Bytes::new(), timeout }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }

    /// With a body of JSON.
    #[must_use]
    pub fn json(self, body: &serde_json::Value) -> Call {
        self.header("content-type", "application/json").body(Bytes::from(body.to_string()))
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: Bytes) -> Call {
        self.body = body;
        self
    }

    /// Given up after so long.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Call {
        self.timeout = timeout;
        self
    }

    fn request(&self) -> Request<Bytes> {
        let mut request = Request::builder().method(self.method).uri(&self.target).header(HOST, "127.0.0.1:7001");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(self.body.clone()).expect("the workload makes well-formed requests")
    }

    /// Sends it; waits for the whole answer.
    pub async fn send(&self, wire: &Wire, to: HostId) -> Result<Answer, HttpLoss> {
        self.open(wire, to).await.map(|(answer, _)| answer)
    }

    /// Sends it; waits for the answer's head, and gives the rest as it comes.
    pub async fn open(&self, wire: &Wire, to: HostId) -> Result<(Answer, Option<Stream>), HttpLoss> {
        let (response, stream): (Response<Bytes>, _) = wire.http(to, self.request(), self.timeout).await?;
        let (head, body) = response.into_parts();
        Ok((Answer { status: head.status, headers: head.headers, body }, stream))
    }
}
