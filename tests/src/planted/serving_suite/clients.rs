//! Clients of the node: writers with guards and sessions, readers of every consistency, pages.
//!
//! * What they are told goes to the judge as it was told. What was acknowledged before a read began bounds what the read may show.

use super::super::chance::Chance;
use super::caller::{Answer, call};
use super::judge::{Item, Seen, Told};
use bytes::Bytes;
use duramen_common::placement::partition_of;
use duramen_common::{Blob, HistoryId, Offset, PartitionId, RequestId, SessionToken, Timestamp};
use duramen_serving_node::ServingNode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// Keys that are written; those in braces share a partition.
const KEYS: [&str; 7] = ["apple", "grape", "kiwi", "plum", "{t}1", "{t}2", "{t}3"];

/// What clients share.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) node: Arc<ServingNode>,
    pub(super) chance: Chance,
    pub(super) history: HistoryId,
    pub(super) partitions: u16,
    pub(super) known: Arc<Mutex<Known>>,
}

/// What is known to somebody, over all lives of the node.
#[derive(Default)]
pub(super) struct Known {
    pub(super) seen: Vec<Seen>,
    /// By partition: everything below was acknowledged, or shown by a linearizable read.
    certain: Vec<Offset>,
    /// Entity tags that keys had.
    tags: BTreeMap<&'static str, String>,
    writes: u64,
}

impl Known {
    pub(super) fn new(partitions: u16) -> Known {
        Known { certain: vec![Offset::ZERO; partitions.into()], ..Known::default() }
    }
}

impl Clients {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, seen: Seen) {
        self.known().seen.push(seen);
    }

    fn certain(&self) -> Vec<Offset> {
        self.known().certain.clone()
    }

    fn note_certain(&self, partition: PartitionId, end: Offset) {
        let certain = &mut self.known().certain[usize::from(partition.get())];
        *certain = (*certain).max(end);
    }

    fn any_key(&self) -> &'static str {
        KEYS[self.chance.below(KEYS.len())]
    }

    async fn pause(&self, bound_ms: usize) {
        sleep(self.chance.ms(bound_ms)).await;
    }

    /// Writes, now and then reads what it wrote; never ends by itself.
    pub(super) async fn write(self) {
        let mut session: Vec<SessionToken> = Vec::new();
        loop {
            let written = if self.chance.below(5) == 0 { self.write_txn().await } else { self.write_key().await };
            session.extend(written.map(|timestamp| SessionToken::of(self.history, timestamp)));
            if self.chance.below(2) == 0 {
                self.read_session(&session).await;
            }
            session.drain(..session.len().saturating_sub(4));
            self.pause(40).await;
        }
    }

    /// A fresh idempotency key, and the id that it stands for.
    fn fresh_id(&self) -> (String, RequestId) {
        let number = {
            let mut known = self.known();
            known.writes += 1;
            known.writes
        };
        let text = format!("write-{number}");
        let id = RequestId::of_idempotency_key(text.as_bytes(), 0);
        (text, id)
    }

    async fn write_key(&self) -> Option<Timestamp> {
        let key = self.any_key();
        let (idempotency_key, id) = self.fresh_id();
        let mut headers = vec![("prefer", "wait=1".to_owned()), ("idempotency-key", idempotency_key.clone())];
        let tag = self.known().tags.get(key).cloned();
        let deletes = self.chance.below(8) == 0;
        match (self.chance.below(4), tag) {
            (0 | 1, Some(tag)) => headers.push(("if-match", tag)),
            (2, _) if !deletes => headers.push(("if-none-match", "*".to_owned())),
            _ => {}
        }
        let (method, value) = if deletes { ("DELETE", String::new()) } else { ("PUT", idempotency_key) };
        let answer = call(&self.node, method, &format!("/v1/kv/{key}"), &headers, value).await;
        if let Some(tag) = answer.etag() {
            self.known().tags.insert(key, tag);
        }
        let partition = partition_of(key.as_bytes(), self.partitions);
        let told = match answer.status.as_u16() {
            204 => Told::Effective(partition, self.offset(&answer, partition)),
            412 => Told::NoEffect,
            _ => refused_or_unknown(&answer),
        };
        self.note_write(id, told)
    }

    /// Two keys of one partition at once, guarded by what is known of one of them.
    async fn write_txn(&self) -> Option<Timestamp> {
        let (idempotency_key, id) = self.fresh_id();
        let tag = self.known().tags.get("{t}1").map(|tag| tag.trim_matches('"').to_owned());
        let ops = ["{t}1", "{t}2"].map(|key| json!({"put": {"key": key, "value": idempotency_key}}));
        let body = json!({"if": [{"key": "{t}1", "version": tag}], "ops": ops});
        let headers = [
            ("prefer", "wait=1".to_owned()),
            ("idempotency-key", idempotency_key),
            ("content-type", "application/json".to_owned()),
        ];
        let answer = call(&self.node, "POST", "/v1/txn", &headers, body.to_string()).await;
        let partition = partition_of(b"{t}1", self.partitions);
        let told = match (answer.status.as_u16(), &answer.json()["committed"]) {
            (200, Value::Bool(true)) => Told::Effective(partition, self.offset(&answer, partition)),
            (200, _) => Told::NoEffect,
            _ => refused_or_unknown(&answer),
        };
        if let (Told::Effective(..), Some(position)) = (&told, answer.position()) {
            self.known().tags.insert("{t}1", format!("\"{position}\""));
        }
        self.note_write(id, told)
    }

    fn note_write(&self, id: RequestId, told: Told) -> Option<Timestamp> {
        let timestamp = match &told {
            Told::Effective(partition, offset) => {
                self.note_certain(*partition, offset.next());
                Some(Timestamp { partition: *partition, offset: *offset })
            }
            _ => None,
        };
        self.see(Seen::Write { id, told });
        timestamp
    }

    fn offset(&self, answer: &Answer, partition: PartitionId) -> Offset {
        let position = answer.position().and_then(|token| token.position(partition));
        position.expect("an acknowledged write names its partition and offset")
    }

    /// A key that the session wrote, with its tokens as they came: in headers and in the query.
    async fn read_session(&self, session: &[SessionToken]) {
        let Some(first) = session.first() else { return };
        let key = self.any_key();
        let partition = partition_of(key.as_bytes(), self.partitions);
        let mut whole = first.clone();
        session.iter().for_each(|token| whole.merge(token).expect("all tokens are of one history"));
        let headers = session.iter().map(|token| ("read-after", token.to_string()));
        let mut headers: Vec<_> = headers.collect();
        headers.rotate_left(self.chance.below(session.len()));
        let in_query = headers.pop().map_or(String::new(), |(_, token)| format!("?after={token}"));
        let at_least = whole.position(partition).map_or(Offset::ZERO, Offset::next);
        self.read(key, &in_query, &headers, at_least, "a session's read").await;
    }

    async fn read(
        &self,
        key: &'static str,
        query: &str,
        headers: &[(&str, String)],
        at_least: Offset,
        how: &'static str,
    ) -> Option<Offset> {
        let answer = call(&self.node, "GET", &format!("/v1/kv/{key}{query}"), headers, Bytes::new()).await;
        let partition = partition_of(key.as_bytes(), self.partitions);
        let item: Option<Item> = match answer.status.as_u16() {
            200 => answer.version(partition).map(|version| (version, answer.body.clone())),
            404 => None,
            _ => return None,
        };
        let end = answer.end(partition);
        self.see(Seen::Read { partition, key: key.to_owned(), item, end, at_least, how });
        Some(end)
    }

    /// Reads without a token; never ends by itself.
    pub(super) async fn read_on(self) {
        loop {
            let key = self.any_key();
            let partition = partition_of(key.as_bytes(), self.partitions);
            if self.chance.below(3) == 0 {
                self.read(key, "?consistency=stale", &[], Offset::ZERO, "a stale read").await;
            } else {
                let at_least = self.certain()[usize::from(partition.get())];
                let end = self.read(key, "", &[], at_least, "a linearizable read").await;
                end.into_iter().for_each(|end| self.note_certain(partition, end));
            }
            self.pause(30).await;
        }
    }

    /// Reads pages; never ends by itself.
    pub(super) async fn scan_on(self) {
        loop {
            let is_stale = self.chance.below(2) == 0;
            self.scan(is_stale).await;
            self.pause(60).await;
        }
    }

    /// One page of everything; whether there was one.
    pub(super) async fn scan(&self, is_stale: bool) -> bool {
        let at_least = if is_stale { vec![Offset::ZERO; self.partitions.into()] } else { self.certain() };
        let consistency = if is_stale { "stale" } else { "linearizable" };
        let target = format!("/v1/kv?limit=1000&consistency={consistency}");
        let answer = call(&self.node, "GET", &target, &[], Bytes::new()).await;
        if answer.status != 200 {
            return false;
        }
        let page = answer.json();
        let items = page["items"].as_array().map(|items| items.iter().map(item).collect()).unwrap_or_default();
        let ends = (0..self.partitions).map(|number| answer.end(PartitionId::new(number))).collect();
        self.see(Seen::Page { items, ends, at_least });
        true
    }
}

/// A page's item.
fn item(item: &Value) -> (Bytes, Item) {
    let blob = |name: &str| serde_json::from_value::<Blob>(item[name].clone()).expect("items are as documented").0;
    let version: Option<SessionToken> = item["version"].as_str().and_then(|text| text.parse().ok());
    let version = version.and_then(|token| token.single()).expect("an item names its version");
    (blob("key"), (version.offset, blob("value")))
}

fn refused_or_unknown(answer: &Answer) -> Told {
    match answer.problem().as_str() {
        "outcome-unknown" => Told::Unknown,
        problem => Told::Refused(problem.to_owned()),
    }
}

/// How long a client may be kept waiting by a log that does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
