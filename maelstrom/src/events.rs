//! Events: what the workloads without keys and versions append to the log, and how it reads there. Pure.
//!
//! * An event record's key says what it is, its payload is JSON.
//! * What is none of these is passed over: transactions of the key-value layer stand in the same log.

use crate::failure::Failure;
use bytes::Bytes;
use duramen_common::batch::Record;
use duramen_common::limits::KEY_BYTES_MAX;
use serde_json::Value;
use std::collections::BTreeMap;

const KAFKA: &str = "kafka/";
const OFFSETS: &str = "offsets";
const BROADCAST: &str = "broadcast";
const SET: &str = "set";
const COUNTER: &str = "counter";
const IDS: &str = "ids";

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `kafka`: a message under a key.
    Sent {
        /// The key.
        key: String,
        /// The message.
        msg: Value,
    },
    /// `kafka`: what consumers are done with, by key.
    Committed(BTreeMap<String, u64>),
    /// `broadcast`: a message.
    Broadcast(Value),
    /// `g-set`: an element.
    Element(Value),
    /// `g-counter`, `pn-counter`: a number.
    Delta(i64),
    /// `unique-ids`: a node took the block of ids that this event's offset names.
    Block,
}

impl Event {
    /// As a record.
    pub fn record(&self) -> Result<Record, Failure> {
        let (key, payload) = match self {
            Event::Sent { key, msg } => (format!("{KAFKA}{key}"), msg.to_string()),
            Event::Committed(offsets) => (OFFSETS.to_owned(), serde_json::json!(offsets).to_string()),
            Event::Broadcast(message) => (BROADCAST.to_owned(), message.to_string()),
            Event::Element(element) => (SET.to_owned(), element.to_string()),
            Event::Delta(delta) => (COUNTER.to_owned(), delta.to_string()),
            Event::Block => (IDS.to_owned(), String::new()),
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(Failure::malformed(format!("a key of {} bytes; at most {KEY_BYTES_MAX}", key.len())));
        }
        Ok(Record::event(Some(Bytes::from(key)), Bytes::from(payload)))
    }

    /// From a record's key and payload.
    pub fn parse(key: Option<&[u8]>, payload: &[u8]) -> Option<Event> {
        let key = std::str::from_utf8(key?).ok()?;
        if let Some(key) = key.strip_prefix(KAFKA) {
            return Some(Event::Sent { key: key.to_owned(), msg: serde_json::from_slice(payload).ok()? });
        }
        match key {
            OFFSETS => serde_json::from_slice(payload).ok().map(Event::Committed),
            BROADCAST => serde_json::from_slice(payload).ok().map(Event::Broadcast),
            SET => serde_json::from_slice(payload).ok().map(Event::Element),
            COUNTER => serde_json::from_slice(payload).ok().map(Event::Delta),
            IDS => Some(Event::Block),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::batch::RecordBody;
    use serde_json::json;

    #[test]
    fn events_are_read_as_they_were_written() {
        let offsets = BTreeMap::from([("a".to_owned(), 7), (String::new(), 0)]);
        for event in [
            Event::Sent { key: String::new(), msg: json!(null) },
            Event::Sent { key: "set".to_owned(), msg: json!({"a": [1.5, "b"]}) },
            Event::Committed(offsets),
            Event::Broadcast(json!(-1)),
            Event::Element(json!("x")),
            Event::Delta(i64::MIN),
            Event::Block,
        ] {
            let RecordBody::Event(written) = event.record().unwrap().body else { panic!("no event") };
            assert_eq!(Event::parse(written.key.as_deref(), &written.payload), Some(event));
        }
    }

    #[test]
    fn what_others_append_is_passed_over() {
        for (key, payload) in [
            (None, &b"1"[..]),
            (Some(&b"other"[..]), b"1"),
            (Some(b"counter"), b"x"),
            (Some(b"kafka/k"), b""),
            (Some(b"\xff"), b"1"),
        ] {
            assert_eq!(Event::parse(key, payload), None);
        }
    }
}
