//! `Kv`: the serving replica's HTTP API, called without a port.
//!
//! * In: keys and values as JSON, conditions. Out: what the API answered, or a failure with the code that it deserves.
//! * What has to pass (no leader, behind, overloaded, starting) is tried again until the deadline. A write keeps its
//!   Idempotency-Key through all attempts.
//! * Invariant: once an attempt's outcome is unknown, only an answer of the API to the same Idempotency-Key makes it
//!   known again; until then the write's outcome is unknown, whatever else is met.
//! * Source: docs/http-api.md; DESIGN D6, D14.

use crate::failure::{Code, Failure};
use bytes::Bytes;
use duramen_common::limits::KEY_BYTES_MAX;
use duramen_common::seams::Seams;
use duramen_common::{Problem, ProblemKind};
use duramen_serving_node::ServingNode;
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Before an attempt that failed is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(20);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LOG_TIMESTAMP: HeaderName = HeaderName::from_static("log-timestamp");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const READ_AFTER: HeaderName = HeaderName::from_static("read-after");

/// A key of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The key of a workload's key, which may be any JSON.
    pub fn of(workload: &str, key: &Value) -> Result<Key, Failure> {
        let text = format!("{workload}/{key}");
        if text.len() > KEY_BYTES_MAX {
            return Err(Failure::malformed(format!("a key of {} bytes; at most {KEY_BYTES_MAX}", text.len())));
        }
        Ok(Key(text))
    }

    fn path(&self) -> String {
        format!("/v1/kv/{}", utf8_percent_encode(&self.0, NON_ALPHANUMERIC))
    }
}

/// What a key held.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The value.
    pub value: Value,
    /// Its version: the token inside the ETag.
    pub version: String,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// `None` for no such key.
    pub held: Option<Held>,
    /// The position at which it was read.
    pub position: String,
}

/// How recent a read is.
#[derive(Clone, Copy, Debug)]
pub enum Recency<'a> {
    /// As everything acknowledged before it began.
    Linearizable,
    /// As this position at least.
    After(&'a str),
    /// As whatever is here.
    Stale,
}

/// When a write takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    None,
    /// Only over this version.
    Version(String),
    /// Only where there is nothing.
    Absent,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It took effect.
    Effective,
    /// Its condition did not hold.
    Refused {
        /// A position, not before the one that decided, which this replica has reached.
        position: String,
    },
}

/// A guard of a transaction: the version that its key must have, or none.
pub struct Guard {
    /// Which key.
    pub key: Key,
    /// `None` for no such key.
    pub version: Option<String>,
}

/// The serving replica.
pub struct Kv {
    node: ServingNode,
    seams: Seams,
}

/// An answer that is no problem, or a condition that did not hold.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// A request's content, whichever attempt carries it.
struct Content {
    method: &'static str,
    path: String,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

#[derive(Deserialize)]
struct TxnAnswer {
    committed: bool,
}

impl Kv {
    /// Around a node without a port.
    #[must_use]
    pub fn new(node: ServingNode, seams: Seams) -> Kv {
        Kv { node, seams }
    }

    /// Returns when the node has caught up with the log once.
    pub async fn ready(&self) {
        self.node.ready().await;
    }

    /// Returns when the node cannot go on.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Stops it.
    pub async fn shutdown(self) {
        self.node.shutdown().await;
    }

    /// Reads a key.
    pub async fn get(&self, key: &Key, recency: Recency<'_>, deadline: Instant) -> Result<Seen, Failure> {
        let (mut headers, mut path) = (Vec::new(), key.path());
        match recency {
            Recency::Linearizable => {}
            Recency::After(position) => headers.push((READ_AFTER, position.to_owned())),
            Recency::Stale => path += "?consistency=stale",
        }
        let content = Content { method: "GET", path, headers, body: Bytes::new() };
        let answer = self.ask(&content, deadline).await?;
        let position = header(&answer.headers, &LOG_TIMESTAMP)?.to_owned();
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Seen { held: None, position });
        }
        let version = header(&answer.headers, &ETAG)?.trim_matches('"').to_owned();
        let value = serde_json::from_slice(&answer.body).map_err(|error| garbled(&error.to_string()))?;
        Ok(Seen { held: Some(Held { value, version }), position })
    }

    /// Writes a key, if the condition holds.
    pub async fn put(
        &self,
        key: &Key,
        value: &Value,
        condition: Condition,
        deadline: Instant,
    ) -> Result<Written, Failure> {
        let mut headers = vec![self.fresh_id()];
        match condition {
            Condition::None => {}
            Condition::Version(version) => headers.push((IF_MATCH, format!("\"{version}\""))),
            Condition::Absent => headers.push((IF_NONE_MATCH, "*".to_owned())),
        }
        let content = Content { method: "PUT", path: key.path(), headers, body: value.to_string().into() };
        let answer = self.ask(&content, deadline).await?;
        if answer.status != StatusCode::PRECONDITION_FAILED {
            return Ok(Written::Effective);
        }
        Ok(Written::Refused { position: header(&answer.headers, &LOG_TIMESTAMP)?.to_owned() })
    }

    /// Writes keys if every guard holds; answers whether they did.
    pub async fn txn(&self, guards: &[Guard], puts: &[(Key, Value)], deadline: Instant) -> Result<bool, Failure> {
        let guards: Vec<Value> =
            guards.iter().map(|guard| json!({ "key": guard.key.0, "version": guard.version })).collect();
        let ops: Vec<Value> =
            puts.iter().map(|(key, value)| json!({ "put": { "key": key.0, "value": value.to_string() } })).collect();
        let headers = vec![self.fresh_id(), (CONTENT_TYPE, "application/json".to_owned())];
        let body = json!({ "if": guards, "ops": ops }).to_string().into();
        let content = Content { method: "POST", path: "/v1/txn".to_owned(), headers, body };
        let answer = self.ask(&content, deadline).await?;
        let answer: TxnAnswer = serde_json::from_slice(&answer.body).map_err(|error| garbled(&error.to_string()))?;
        Ok(answer.committed)
    }

    fn fresh_id(&self) -> (HeaderName, String) {
        (IDEMPOTENCY_KEY, format!("{:032x}", self.seams.entropy.bits()))
    }

    /// Asks until there is an answer, or no more time.
    async fn ask(&self, content: &Content, deadline: Instant) -> Result<Answer, Failure> {
        let mut unknown: Option<Failure> = None;
        loop {
            let wait_s = deadline.saturating_duration_since(Instant::now()).as_secs();
            let problem = match self.attempt(content, wait_s).await? {
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            let failure = Failure::of_problem(&problem);
            if !failure.code.is_definite() && unknown.is_none() {
                unknown = Some(failure.clone());
            }
            let is_late = Instant::now() + RETRY_AFTER + Duration::from_secs(1) > deadline;
            if !problem.kind.is_passing() || is_late {
                return Err(unknown.unwrap_or(failure));
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// One request. The outer error is for what this node would never answer.
    async fn attempt(&self, content: &Content, wait_s: u64) -> Result<Result<Answer, Problem>, Failure> {
        let mut request = Request::builder()
            .method(content.method)
            .uri(&content.path)
            .header(HOST, "localhost")
            .header(PREFER, format!("wait={wait_s}"));
        for (name, value) in &content.headers {
            request = request.header(name, value);
        }
        let request = request.body(content.body.clone()).map_err(|error| garbled(&error.to_string()))?;
        let response = self.node.answer(request).await;
        let (parts, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let (status, headers) = (parts.status, parts.headers);
        if status.is_success() || status == StatusCode::PRECONDITION_FAILED {
            return Ok(Ok(Answer { status, headers, body }));
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(|error| garbled(&error.to_string()))?;
        // A 404 names the position at which nothing was found.
        if problem.kind == ProblemKind::NotFound && headers.contains_key(&LOG_TIMESTAMP) {
            return Ok(Ok(Answer { status, headers, body }));
        }
        Ok(Err(problem))
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Failure> {
    headers.get(name).and_then(|value| value.to_str().ok()).ok_or_else(|| garbled(&format!("{name} is missing")))
}

/// The API answered what it never should; what that did is unknown.
fn garbled(reason: &str) -> Failure {
    Failure::new(Code::Crash, format!("the serving node's answer is not what it should be: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_json_is_a_key_and_different_ones_are_different_keys() {
        let keys = [json!(1), json!("1"), json!(null), json!([1, {"a": "/?#%"}]), json!({}), json!(""), json!("..")];
        let paths: std::collections::BTreeSet<String> =
            keys.iter().map(|key| Key::of("lin-kv", key).unwrap().path()).collect();
        assert_eq!(paths.len(), keys.len());
        for path in paths {
            assert!(path.parse::<hyper::Uri>().is_ok_and(|uri| uri.path() == path && uri.query().is_none()), "{path}");
        }
        let long = Key::of("lin-kv", &json!("k".repeat(KEY_BYTES_MAX))).unwrap_err();
        assert_eq!(long.code, Code::MalformedRequest);
    }
}
