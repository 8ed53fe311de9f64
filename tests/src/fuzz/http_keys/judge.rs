//! Judge: what acknowledged requests add up to, and what the node must therefore show.
//!
//! * In: requests and their answers, one after the other. Out: a panic where a read, a condition, a page, or the feed contradicts them.
//! * A timestamp stands for one write: an answer that names a known one is a repeat, and must be the same write.
//! * After an outcome that is unknown, only the log itself can say what there is.

use super::answer::{Answer, end_of, timestamp_of};
use super::requests::Ask;
use duramen_common::placement::partition_of;
use duramen_common::{Blob, Timestamp};
use hyper::Method;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A key's value and version.
pub(super) type Item = (Vec<u8>, Timestamp);
/// A key and its new value, or none.
type Update = (Vec<u8>, Option<Vec<u8>>);

/// What is known.
pub(super) struct Judge {
    partitions: u16,
    pub(super) live: BTreeMap<Vec<u8>, Item>,
    writes: BTreeMap<Timestamp, Vec<Update>>,
    /// Keys that any request named.
    pub(super) named: BTreeSet<Vec<u8>>,
    /// Something may have happened that was not acknowledged.
    pub(super) is_uncertain: bool,
}

impl Judge {
    pub(super) fn new(partitions: u16) -> Judge {
        Judge {
            partitions,
            live: BTreeMap::new(),
            writes: BTreeMap::new(),
            named: BTreeSet::new(),
            is_uncertain: false,
        }
    }

    /// Takes in one exchange.
    pub(super) fn see(&mut self, ask: &Ask, answer: &Answer) {
        let key = ask.key();
        self.named.extend(key.clone());
        self.is_uncertain |= answer.status == 503 && answer.problem() == "outcome-unknown";
        let path = ask.uri.path();
        match (path.strip_prefix("/v1/kv/"), &ask.method) {
            (Some(_), &Method::PUT | &Method::DELETE) => self.key_written(ask, key, answer),
            (Some(_), &Method::GET | &Method::HEAD) => self.key_read(ask, key, answer),
            (None, &Method::POST) if path == "/v1/batch" && answer.status == 200 => self.batch(ask, answer),
            (None, &Method::POST) if path == "/v1/txn" && answer.status == 200 => self.txn(ask, answer),
            _ => {}
        }
    }

    fn key_written(&mut self, ask: &Ask, key: Option<Vec<u8>>, answer: &Answer) {
        let Some(key) = key else {
            assert!(!matches!(answer.status, 200..=299 | 412), "{} for what names no key: {ask:?}", answer.status);
            return;
        };
        assert!(answer.status != 400 || answer.problem() != "bad-key", "a good key is refused: {ask:?}");
        let holds = self.condition(ask, &key);
        if answer.status == 412 {
            assert_ne!(holds, Some(true), "412 and its condition holds: {ask:?}");
            let has_condition = ask.headers.contains_key("if-match") || ask.headers.contains_key("if-none-match");
            assert!(has_condition, "412 without a condition: {ask:?}");
        }
        if answer.status != 204 {
            return;
        }
        if let Some(reason) = ask.must_be_refused() {
            panic!("204, though {reason}: {ask:?}");
        }
        let is_put = ask.method == Method::PUT;
        let at = answer.written_at(partition_of(&key, self.partitions));
        if is_put {
            let token = answer.position().map(|token| format!("\"{token}\""));
            assert_eq!(answer.etag(), token.as_deref(), "the version is the write's timestamp");
        }
        let is_new = self.wrote(at, vec![(key, is_put.then(|| ask.body.to_vec()))]);
        assert!(!is_new || holds != Some(false), "204 and its condition does not hold: {ask:?}");
    }

    /// Whether a write's condition holds now; `None` where that is not for this judge to say.
    fn condition(&self, ask: &Ask, key: &[u8]) -> Option<bool> {
        if self.is_uncertain || ask.headers.contains_key("idempotency-key") {
            return None;
        }
        let current = self.live.get(key).map(|(_, version)| format!("\"c7f3a1.{version}\""));
        let has = |name: &str| ask.headers.contains_key(name);
        match (has("if-match"), has("if-none-match")) {
            (false, false) => Some(true),
            (true, false) => match ask.only("if-match")? {
                b"*" => Some(current.is_some()),
                tag => {
                    let inside = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
                    let is_one = !inside.contains(&b'"');
                    is_one.then(|| current.is_some_and(|current| current.as_bytes() == tag))
                }
            },
            (false, true) => (ask.only("if-none-match")? == b"*").then_some(current.is_none()),
            (true, true) => None,
        }
    }

    fn key_read(&self, ask: &Ask, key: Option<Vec<u8>>, answer: &Answer) {
        let Some(key) = key else {
            assert!(!matches!(answer.status, 200 | 304), "{} for what names no key: {ask:?}", answer.status);
            return;
        };
        assert!(answer.status != 400 || answer.problem() != "bad-key", "a good key is refused: {ask:?}");
        let is_here = ask.uri.host().is_none() && ask.only("host") == Some(b"localhost");
        let is_plain = is_here && ask.uri.query().is_none() && ask.headers.len() == 1 && ask.body.is_empty();
        if is_plain && !self.is_uncertain {
            self.check_read(&key, ask, answer);
        }
    }

    /// A linearizable read of a key shows what was acknowledged last.
    pub(super) fn check_read(&self, key: &[u8], ask: &Ask, answer: &Answer) {
        let Some((value, version)) = self.live.get(key) else {
            return assert_eq!(answer.status, 404, "a key that was never put, or deleted: {ask:?}: {answer:?}");
        };
        assert_eq!(answer.status, 200, "{ask:?} of {}: {answer:?}", value.escape_ascii());
        assert_eq!(answer.etag(), Some(&*format!("\"c7f3a1.{version}\"")), "{ask:?}");
        let end = answer.position().map(|token| end_of(&token, version.partition));
        assert!(end > Some(version.offset), "read before its version: {ask:?}");
        if ask.method == Method::GET {
            assert_eq!(answer.body, value[..], "{ask:?}");
        }
    }

    fn batch(&mut self, ask: &Ask, answer: &Answer) {
        let ops = updates_of(&ask.body);
        let results = answer.json()["results"].take();
        let results = results.as_array().expect("a batch is answered op by op");
        assert_eq!(results.len(), ops.len());
        for (update, result) in ops.into_iter().zip(results) {
            self.named.insert(update.0.clone());
            if result["status"] == 204 {
                let at = timestamp_of(&result["timestamp"]);
                assert_eq!(at.partition, partition_of(&update.0, self.partitions));
                self.wrote(at, vec![update]);
            } else {
                assert_eq!(result["status"], result["problem"]["status"]);
                self.is_uncertain |= result["problem"]["type"] == "outcome-unknown";
            }
        }
    }

    fn txn(&mut self, ask: &Ask, answer: &Answer) {
        let body = answer.json();
        let at = timestamp_of(&body["timestamp"]);
        let updates = updates_of(&ask.body);
        self.named.extend(updates.iter().map(|(key, _)| key.clone()));
        assert!(updates.iter().all(|(key, _)| partition_of(key, self.partitions) == at.partition));
        if body["committed"].as_bool().expect("a transaction is committed or not") {
            self.wrote(at, updates);
        }
    }

    /// Notes a write; whether it was not known before.
    fn wrote(&mut self, at: Timestamp, updates: Vec<Update>) -> bool {
        if let Some(known) = self.writes.get(&at) {
            assert_eq!(*known, updates, "one timestamp for two writes: {at}");
            return false;
        }
        for (key, value) in &updates {
            match value {
                Some(value) => self.live.insert(key.clone(), (value.clone(), at)),
                None => self.live.remove(key),
            };
        }
        self.writes.insert(at, updates);
        true
    }

    /// Events of the whole log, one by one, lead to what is live.
    pub(super) fn check_feed(&self, events: &[(String, Value)]) {
        let mut live = BTreeMap::new();
        for (kind, data) in events.iter().filter(|(kind, _)| kind != "progress") {
            let (key, version) = (blob(&data["key"]), timestamp_of(&data["version"]));
            match &**kind {
                "put" => live.insert(key, (blob(&data["value"]), version)),
                "delete" => live.remove(&key),
                other => panic!("an event of kind {other}"),
            };
        }
        assert_eq!(live, self.live, "the feed leads to another state");
    }
}

/// The updates of a batch or a transaction, in order; it was taken, so that it has the form.
fn updates_of(body: &[u8]) -> Vec<Update> {
    let body: Value = serde_json::from_slice(body).expect("what was taken is JSON");
    let ops = body["ops"].as_array().cloned().unwrap_or_default();
    let update = |op: &Value| match (op.get("put"), op.get("delete")) {
        (Some(put), None) => (blob(&put["key"]), Some(blob(&put["value"]))),
        (None, Some(delete)) => (blob(&delete["key"]), None),
        _ => panic!("an op that is not of the contract was taken: {op}"),
    };
    ops.iter().map(update).collect()
}

/// Bytes as JSON has them.
pub(super) fn blob(value: &Value) -> Vec<u8> {
    let blob: Blob = serde_json::from_value(value.clone()).expect("a string, or base64");
    blob.0.to_vec()
}
