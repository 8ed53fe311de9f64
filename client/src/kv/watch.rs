//! [`Watch`]: the change feed, each change once, none left out, over any number of connections.
//!
//! * In: server-sent events. Out: [`Change`]s, and the position up to which they are complete.
//! * A record's changes are held back until its last event, the one with the id, is there: a record that is cut off
//!   repeats whole on the next connection, and its first part must not be given twice.
//! * Invariant: what is given is strictly beyond the position; the position grows only when a record is given whole.
//! * A silent feed is opened again elsewhere: nodes say something each second.
//! * Source: DESIGN §4, "Feed".

use super::call::{Shared, Verdict, judge_refusal, unexpected};
use super::client::Client;
use super::error::{Error, Failure, FailureCause};
use super::http::{Answer, with_causes};
use super::request::{self, Request};
use super::retry::{Rotation, retry_after};
use super::sse::{Block, SseParser};
use super::version::Version;
use bytes::Bytes;
use duramen_common::limits::RECORD_BYTES_MAX;
use duramen_common::{Blob, SessionToken};
use futures_util::Stream;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use serde::Deserialize;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Longest event, and longest record: JSON takes at most six bytes for one of a key or a value. Unit: bytes.
const HELD_BYTES_MAX: usize = 6 * RECORD_BYTES_MAX;

/// One key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None`: it was removed.
    pub value: Option<Bytes>,
    /// When, in the log's time.
    pub version: Version,
}

#[derive(Deserialize)]
struct ChangeData {
    key: Blob,
    value: Option<Blob>,
    version: Version,
}

/// Follows changes. Dropping it closes the connection.
pub struct Watch {
    client: Client,
    prefix: Bytes,
    connection: Option<Connection>,
    rotation: Rotation,
    record: RecordGate,
}

struct Connection {
    node: usize,
    body: Incoming,
    parser: SseParser,
}

impl Watch {
    pub(super) fn new(client: Client, prefix: Bytes, from: SessionToken) -> Watch {
        let rotation = client.shared.rotation(&client.preferred, Instant::now());
        Watch { client, prefix, connection: None, rotation, record: RecordGate::new(from) }
    }

    /// Everything up to here was given: a watch from this token goes on without gap or repeat.
    #[must_use]
    pub fn position(&self) -> &SessionToken {
        &self.record.position
    }

    /// The next change; waits for it for as long as it takes. An error of kind [`Error::Unavailable`] may pass: calling
    /// again goes on. After [`Error::Refused`] (`compacted`, `other-history`) start over. Safe to drop half-way.
    pub async fn next(&mut self) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.record.take() {
                return Ok(change);
            }
            if self.connection.is_none() {
                self.record.cut_off();
                self.connection = Some(self.connect().await?);
            }
            if let Err(failure) = self.receive().await {
                self.connection = None;
                tracing::debug!(%failure, "feed ended, resuming");
                if matches!(failure.cause, FailureCause::Unexpected(_)) {
                    return Err(Error::Unexpected(Box::new(failure)));
                }
            }
        }
    }

    /// The changes as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Change, Error>> + Send {
        futures_util::stream::unfold(Some(self), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(change) => Some((Ok(change), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Opens a feed beyond the position at the first node that grants one.
    async fn connect(&mut self) -> Result<Connection, Error> {
        let shared = &self.client.shared;
        let request = request::feed(&self.prefix, &self.record.position);
        let begun = Instant::now();
        let until = begun + shared.config.deadline;
        let mut attempts = 0;
        loop {
            let (node, when) = self.rotation.next();
            tokio::time::sleep_until(when).await;
            let url = &shared.urls[node];
            attempts += 1;
            let (cause, asked) = match open(shared, url, &request).await {
                Ok(Ok(response)) => return Ok(Connection::new(node, response)),
                Err(cause) => (cause, None),
                Ok(Err(answer)) => match judge_refusal::<()>(&answer) {
                    Verdict::Refused(error) => return Err(error),
                    Verdict::Again { cause, .. } => (cause, retry_after(answer.header(&RETRY_AFTER))),
                    Verdict::Strange(_) | Verdict::Done(()) => {
                        let cause = unexpected(&answer, "not a feed");
                        return Err(Error::Unexpected(Box::new(Failure { url: url.clone(), cause })));
                    }
                },
            };
            tracing::debug!(%url, %cause, "no feed here");
            let now = Instant::now();
            self.rotation.failed(node, now, asked, shared.seams.entropy.bits());
            if now >= until {
                let waited_ms = begun.elapsed().as_millis() as u64;
                return Err(Error::Unavailable {
                    attempts,
                    waited_ms,
                    last: Box::new(Failure { url: url.clone(), cause }),
                });
            }
        }
    }

    /// Takes one chunk in. An error ends the connection, not the watch.
    async fn receive(&mut self) -> Result<(), Failure> {
        let shared = &self.client.shared;
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let node = connection.node;
        let received = match connection.receive(shared.config.feed_silence_max).await {
            Ok(blocks) => blocks.iter().try_for_each(|block| self.record.offer(block)).map(|()| !blocks.is_empty()),
            Err(cause) => Err(cause),
        };
        let now = Instant::now();
        match received {
            Ok(true) => self.rotation.worked(node, now),
            Ok(false) => {}
            Err(cause) => {
                self.rotation.failed(node, now, None, shared.seams.entropy.bits());
                return Err(Failure { url: shared.urls[node].clone(), cause });
            }
        }
        Ok(())
    }
}

/// A feed's head, or the answer that refuses it.
async fn open(
    shared: &Shared,
    url: &str,
    request: &Request,
) -> Result<Result<Response<Incoming>, Answer>, FailureCause> {
    let opening = async {
        let response = shared.wire.open(url, request, None).await?;
        if response.status().is_success() {
            return Ok(Ok(response));
        }
        shared.wire.take(response).await.map(Err)
    };
    let limit = shared.config.feed_silence_max;
    match tokio::time::timeout(limit, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(FailureCause::TimedOut(limit.as_millis() as u64)),
    }
}

impl Connection {
    fn new(node: usize, response: Response<Incoming>) -> Connection {
        Connection { node, body: response.into_body(), parser: SseParser::new(HELD_BYTES_MAX) }
    }

    /// The events that the next chunk completes.
    async fn receive(&mut self, silence: Duration) -> Result<Vec<Block>, FailureCause> {
        let frame = match tokio::time::timeout(silence, self.body.frame()).await {
            Err(_) => return Err(FailureCause::TimedOut(silence.as_millis() as u64)),
            Ok(None) => return Err(FailureCause::Lost("the feed ended".to_owned())),
            Ok(Some(Err(error))) => return Err(FailureCause::Lost(with_causes(&error))),
            Ok(Some(Ok(frame))) => frame,
        };
        let mut blocks = Vec::new();
        if let Ok(chunk) = frame.into_data() {
            let parsed = self.parser.feed(&chunk, &mut |block| blocks.push(block));
            parsed.map_err(|error| FailureCause::Unexpected(error.to_string()))?;
        }
        Ok(blocks)
    }
}

/// Holds events back until their record is whole. Pure.
#[derive(Debug)]
struct RecordGate {
    position: SessionToken,
    held: Vec<Change>,
    held_bytes: usize,
    /// Changes of whole records; a record's last one carries the token that it completes.
    ready: VecDeque<(Change, Option<SessionToken>)>,
    /// What `position` will be when all that is ready is taken.
    ready_position: SessionToken,
}

impl RecordGate {
    fn new(from: SessionToken) -> RecordGate {
        RecordGate {
            ready_position: from.clone(),
            position: from,
            held: Vec::new(),
            held_bytes: 0,
            ready: VecDeque::new(),
        }
    }

    /// Forgets a record whose end did not come.
    fn cut_off(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    fn take(&mut self) -> Option<Change> {
        let (change, completed) = self.ready.pop_front()?;
        if let Some(token) = completed {
            self.position = token;
        }
        Some(change)
    }

    fn offer(&mut self, block: &Block) -> Result<(), FailureCause> {
        let strange = |what: &str| FailureCause::Unexpected(format!("{what} in the feed: {}", block.event));
        if matches!(block.event.as_str(), "put" | "delete") {
            let data: ChangeData = serde_json::from_str(&block.data).map_err(|error| strange(&error.to_string()))?;
            if data.value.is_some() != (block.event == "put") {
                return Err(strange("an event at odds with its data"));
            }
            self.held_bytes += block.data.len();
            if self.held_bytes > HELD_BYTES_MAX {
                return Err(strange("a record that does not end"));
            }
            let value = data.value.map(|value| value.0);
            self.held.push(Change { key: data.key.0, value, version: data.version });
        }
        let Some(id) = &block.id else { return Ok(()) };
        let id: SessionToken = id.parse().map_err(|_| strange("an id that is no token"))?;
        let before = self.ready_position.clone();
        self.ready_position.merge(&id).map_err(|error| strange(&error.to_string()))?;
        self.held_bytes = 0;
        // Not beyond what was given: a repeat, which no server should send.
        let fresh = |change: &Change| {
            before.position(change.version.timestamp.partition) < Some(change.version.timestamp.offset)
        };
        self.ready.extend(self.held.drain(..).filter(fresh).map(|change| (change, None)));
        match self.ready.back_mut() {
            Some((_, completed)) => *completed = Some(self.ready_position.clone()),
            None => self.position = self.ready_position.clone(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> RecordGate {
        RecordGate::new("c7f3a1.0:4".parse().unwrap())
    }

    fn put(gate: &mut RecordGate, key: &str, version: &str, id: Option<&str>) {
        let data = format!("{{\"key\":\"{key}\",\"value\":\"v\",\"version\":\"{version}\"}}");
        gate.offer(&Block { event: "put".to_owned(), data, id: id.map(str::to_owned) }).unwrap();
    }

    fn keys(gate: &mut RecordGate) -> Vec<String> {
        std::iter::from_fn(|| gate.take()).map(|change| String::from_utf8_lossy(&change.key).into_owned()).collect()
    }

    /// Goal: a record cut off in its middle is given once. Method: half a record, the cut, the whole record.
    #[test]
    fn a_record_that_was_cut_off_is_given_once_and_whole() {
        let mut gate = gate();
        put(&mut gate, "a", "c7f3a1.0:5", None);
        assert_eq!(keys(&mut gate), [""; 0], "given before its record is whole");
        gate.cut_off();
        put(&mut gate, "a", "c7f3a1.0:5", None);
        put(&mut gate, "b", "c7f3a1.0:5", Some("c7f3a1.0:5"));
        assert_eq!(keys(&mut gate), ["a", "b"]);
        assert_eq!(gate.position.to_string(), "c7f3a1.0:5");
    }

    #[test]
    fn the_position_moves_only_when_a_record_is_taken_whole() {
        let mut gate = gate();
        put(&mut gate, "a", "c7f3a1.0:5", None);
        put(&mut gate, "b", "c7f3a1.0:5", Some("c7f3a1.0:5"));
        put(&mut gate, "c", "c7f3a1.1:0", Some("c7f3a1.0:5_1:0"));
        for wanted in ["c7f3a1.0:4", "c7f3a1.0:5", "c7f3a1.0:5_1:0"] {
            assert!(gate.take().is_some());
            assert_eq!(gate.position.to_string(), wanted);
        }
    }

    #[test]
    fn a_repeat_and_progress_move_no_change() {
        let mut gate = gate();
        put(&mut gate, "old", "c7f3a1.0:4", Some("c7f3a1.0:4"));
        assert_eq!(keys(&mut gate), [""; 0]);
        let progress =
            Block { event: "progress".to_owned(), data: String::new(), id: Some("c7f3a1.0:9_2:1".to_owned()) };
        gate.offer(&progress).unwrap();
        assert_eq!(gate.position.to_string(), "c7f3a1.0:9_2:1");
    }

    #[test]
    fn what_is_not_of_the_contract_is_refused() {
        for (event, data, id) in [
            ("put", "{}", None),
            ("put", "{\"key\":\"a\",\"version\":\"c7f3a1.0:5\"}", None),
            ("delete", "{\"key\":\"a\",\"value\":\"v\",\"version\":\"c7f3a1.0:5\"}", None),
            ("progress", "", Some("5")),
            ("progress", "", Some("000001.0:5")),
        ] {
            let block = Block { event: event.to_owned(), data: data.to_owned(), id: id.map(str::to_owned) };
            assert!(gate().offer(&block).is_err(), "{block:?} was taken");
        }
    }
}
