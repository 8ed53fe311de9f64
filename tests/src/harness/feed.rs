//! A reader of `GET /v1/feed`: server-sent events, parsed as the standard says.

use super::http::{Answer, Http, HttpError, Streaming};
use crate::checkers::feed as checked;
use duramen_common::{Blob, SessionToken};
use serde_json::Value;
use std::time::Duration;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedEvent {
    /// `put`, `delete` or `progress`.
    pub kind: String,
    /// The session token up to here; only a record's last event carries one.
    pub id: Option<String>,
    /// The data, parsed.
    pub data: Value,
}

impl FeedEvent {
    /// The key of a put or a delete.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        blob(&self.data["key"])
    }

    /// The value of a put.
    #[must_use]
    pub fn value(&self) -> Vec<u8> {
        blob(&self.data["value"])
    }

    /// The event as the checker takes it.
    #[must_use]
    pub fn told(&self) -> checked::FeedEvent {
        let id = self.id.as_ref().map(|id| id.parse().unwrap_or_else(|error| panic!("{id}: {error}")));
        if self.kind == "progress" {
            return checked::FeedEvent::Progress { id: id.expect("progress has an id") };
        }
        let version: SessionToken = self.version().parse().expect("a version is a token");
        checked::FeedEvent::Change {
            version: version.single().expect("a version is one timestamp"),
            key: self.key().into(),
            value: (self.kind == "put").then(|| self.value().into()),
            id,
        }
    }

    /// The version, as text.
    #[must_use]
    pub fn version(&self) -> String {
        self.data["version"].as_str().unwrap_or_default().to_owned()
    }
}

/// The bytes of a JSON key or value.
#[must_use]
pub fn blob(value: &Value) -> Vec<u8> {
    let blob: Blob = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
    blob.0.to_vec()
}

/// A feed that is open.
pub struct Feed {
    /// The answer's head.
    pub head: Answer,
    stream: Streaming,
    pending: Vec<u8>,
}

impl Feed {
    /// Opens `/v1/feed` with this query (`?…` or empty), resuming after `last_event_id` when there is one.
    pub async fn open(http: &Http, query: &str, last_event_id: Option<&str>) -> Result<Feed, HttpError> {
        Feed::open_within(Duration::from_secs(40), http, query, last_event_id).await
    }

    /// The same, with a limit for the answer's head.
    pub async fn open_within(
        limit: Duration,
        http: &Http,
        query: &str,
        last_event_id: Option<&str>,
    ) -> Result<Feed, HttpError> {
        let mut call = http.get(format!("/v1/feed{query}")).header("accept", "text/event-stream").limit(limit);
        if let Some(id) = last_event_id {
            call = call.header("last-event-id", id);
        }
        let stream = call.stream().await?;
        Ok(Feed { head: stream.head.clone(), stream, pending: Vec::new() })
    }

    /// The next event; `None` when the server ended the feed.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<FeedEvent>, HttpError> {
        loop {
            if let Some(event) = next_event(&mut self.pending) {
                return Ok(Some(event));
            }
            match self.stream.next(limit).await? {
                Some(chunk) => self.pending.extend(chunk.iter().filter(|&&byte| byte != b'\r')),
                None => return Ok(None),
            }
        }
    }

    /// The next put or delete.
    pub async fn next_change(&mut self, limit: Duration) -> Result<Option<FeedEvent>, HttpError> {
        loop {
            match self.next(limit).await? {
                Some(event) if event.kind == "progress" => {}
                other => return Ok(other),
            }
        }
    }
}

/// Takes the next whole event off the front of what has come; none while there is none.
pub fn next_event(pending: &mut Vec<u8>) -> Option<FeedEvent> {
    while let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
        let block: Vec<u8> = pending.drain(..end + 2).collect();
        if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
            return Some(event);
        }
    }
    None
}

fn parse(block: &str) -> Option<FeedEvent> {
    let (mut kind, mut id, mut data) = (None, None, Vec::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = Some(value.to_owned()),
            "id" => id = Some(value.to_owned()),
            "data" => data.push(value),
            _ => {}
        }
    }
    let kind = kind?;
    let text = data.join("\n");
    let data = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Some(FeedEvent { kind, id, data })
}
