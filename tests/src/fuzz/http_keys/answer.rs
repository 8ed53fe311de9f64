//! Answer: one exchange with the node, and the form that every answer has.
//!
//! * Invariant, checked of each: a status of the contract, never 500; what is no success is a problem with the type of its status, and
//!   with the headers that belong to it.
//! * Source: DESIGN §4, the table of errors, written here once more.

use super::requests::Ask;
use bytes::Bytes;
use duramen_common::{Offset, PartitionId, SessionToken, Timestamp};
use duramen_serving_node::ServingNode;
use duramen_serving_node::http::ResponseBody;
use hyper::{HeaderMap, Method};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than any request may wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Statuses that are no success, and the types that they may have.
const PROBLEMS: &[(u16, &[&str])] = &[
    (400, &["bad-request", "bad-token", "bad-key"]),
    (403, &["forbidden"]),
    (404, &["not-found"]),
    (405, &["method-not-allowed"]),
    (409, &["other-history"]),
    (410, &["compacted"]),
    (412, &["version-mismatch"]),
    (413, &["too-large"]),
    (415, &["media-type"]),
    (417, &["expectation-failed"]),
    (422, &["many-partitions", "key-reused"]),
    (429, &["overloaded"]),
    (503, &["behind", "no-leader", "outcome-unknown"]),
    (507, &["log-full"]),
];

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What comes of a body that has no end.
    pub(super) pieces: Option<mpsc::Receiver<Bytes>>,
}

impl Answer {
    /// Asks the node, and checks the answer's form.
    pub(super) async fn to(node: &ServingNode, ask: &Ask) -> Answer {
        let answered = timeout(PATIENCE, node.answer(ask.to_request())).await;
        let (head, body) = answered.unwrap_or_else(|_| panic!("no answer to {ask:?}")).into_parts();
        let (body, pieces) = match body {
            ResponseBody::Full(bytes) => (bytes.unwrap_or_default(), None),
            ResponseBody::Stream(pieces) => (Bytes::new(), Some(pieces)),
        };
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, body, pieces };
        if let Err(wrong) = answer.check(ask) {
            panic!("{wrong}\nasked: {ask:?}\nanswered: {answer:?}");
        }
        answer
    }

    fn check(&self, ask: &Ask) -> Result<(), String> {
        for name in ["log-timestamp", "etag", "content-type", "retry-after"] {
            if self.headers.get_all(name).iter().count() > 1 {
                return Err(format!("{name} stands more than once"));
            }
        }
        if self.headers.contains_key("log-timestamp") && self.position().is_none() {
            return Err("Log-Timestamp is no token".to_owned());
        }
        let is_passing = matches!(self.status, 429 | 503 | 507);
        if self.header("retry-after").is_some() != is_passing {
            return Err("Retry-After belongs on what passes, and only there".to_owned());
        }
        if (self.status == 405) != self.headers.contains_key("allow") {
            return Err("Allow belongs on 405, and only there".to_owned());
        }
        match self.status {
            200 => Ok(()),
            204 | 304 if self.body.is_empty() => Ok(()),
            status => {
                let types = PROBLEMS.iter().find(|(known, _)| *known == status);
                let (_, types) = types.ok_or_else(|| format!("{status} is not of the contract"))?;
                self.check_problem(types, ask.method == Method::HEAD)
            }
        }
    }

    fn check_problem(&self, types: &[&str], is_head: bool) -> Result<(), String> {
        if self.header("content-type") != Some("application/problem+json") {
            return Err("a problem without its content type".to_owned());
        }
        if is_head {
            return if self.body.is_empty() { Ok(()) } else { Err("HEAD with a body".to_owned()) };
        }
        let problem: Value = serde_json::from_slice(&self.body).map_err(|error| format!("no JSON: {error}"))?;
        if !types.contains(&self.kind_of(&problem)) {
            return Err(format!("a problem of type {}", problem["type"]));
        }
        if problem["status"] != self.status {
            return Err("a problem of another status than its answer's".to_owned());
        }
        if problem["detail"].as_str().is_none_or(|detail| detail.len() < 10) {
            return Err("a problem that does not say what to do".to_owned());
        }
        if self.status == 413 && !problem["limit"].is_u64() {
            return Err("too large, and no limit named".to_owned());
        }
        Ok(())
    }

    fn kind_of<'v>(&self, problem: &'v Value) -> &'v str {
        problem["type"].as_str().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A problem's type.
    pub(super) fn problem(&self) -> String {
        self.kind_of(&self.json()).to_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Its `Log-Timestamp`.
    pub(super) fn position(&self) -> Option<SessionToken> {
        self.header("log-timestamp")?.parse().ok()
    }

    /// Its entity tag, quotes included.
    pub(super) fn etag(&self) -> Option<&str> {
        self.header("etag")
    }

    /// The timestamp of a write of one partition.
    pub(super) fn written_at(&self, partition: PartitionId) -> Timestamp {
        let timestamp = self.position().and_then(|token| token.single());
        let timestamp = timestamp.expect("an acknowledged write names its timestamp");
        assert_eq!(timestamp.partition, partition, "a write is in its key's partition");
        timestamp
    }

    /// Events of a stream, until it says that it has nothing more.
    pub(super) async fn events(&mut self) -> Vec<(String, Value)> {
        let Some(pieces) = &mut self.pieces else { return Vec::new() };
        let mut text = String::new();
        while !text.contains("event: progress\n") {
            let piece = timeout(PATIENCE, pieces.recv()).await.expect("an idle feed says so each second");
            let Some(piece) = piece else { break };
            text.push_str(std::str::from_utf8(&piece).expect("events are text"));
        }
        text.split("\n\n").filter(|event| !event.is_empty()).map(event).collect()
    }
}

fn event(text: &str) -> (String, Value) {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let kind = field("event: ").expect("an event has a kind");
    if let Some(id) = field("id: ") {
        assert!(id.parse::<SessionToken>().is_ok(), "an id that is no token: {id}");
    }
    let data = field("data: ").expect("an event has data");
    (kind.to_owned(), serde_json::from_str(data).expect("data is JSON"))
}

/// A timestamp as JSON has it: a token of one partition.
pub(super) fn timestamp_of(token: &Value) -> Timestamp {
    let token: Option<SessionToken> = token.as_str().and_then(|text| text.parse().ok());
    token.and_then(|token| token.single()).expect("an acknowledged write names its timestamp")
}

/// The end that a read of this partition was answered at.
pub(super) fn end_of(token: &SessionToken, partition: PartitionId) -> Offset {
    token.position(partition).map_or(Offset::ZERO, Offset::next)
}
