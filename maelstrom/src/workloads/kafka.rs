//! `kafka`: messages under keys, on the raw log.
//!
//! * A message is an event; its offset is the partition's, so that a key's offsets grow and have gaps.
//! * A poll reads the local fold, which has at least what was acknowledged through this node: in order, nothing left
//!   out, perhaps not the newest. Committed offsets are the greatest ever committed, read linearizable.

use crate::events::Event;
use crate::failure::Failure;
use crate::message::{Body, answer};
use crate::node::Parts;
use duramen_common::Offset;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Most messages of one key in one answer.
const MESSAGES_MAX: usize = 256;
/// Most messages in one answer, whatever number of keys it is for.
const ANSWER_MESSAGES_MAX: usize = 65_536;

#[derive(Deserialize)]
pub(super) struct Send {
    key: String,
    msg: Value,
}

#[derive(Deserialize)]
pub(super) struct Offsets {
    offsets: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
pub(super) struct Keys {
    keys: Vec<String>,
}

pub(super) async fn send(parts: &Parts, asked: Send, deadline: Instant) -> Result<Body, Failure> {
    let event = Event::Sent { key: asked.key, msg: asked.msg };
    let offset = parts.append(&event, deadline).await?;
    Ok(answer("send_ok", json!({ "offset": offset.get() })))
}

pub(super) async fn poll(parts: &Parts, asked: Offsets, deadline: Instant) -> Result<Body, Failure> {
    parts.see_own(deadline).await;
    let mut room = ANSWER_MESSAGES_MAX;
    let msgs: Map<String, Value> = parts.fold().with(|fold| {
        let of_key = |(key, from): (String, i64)| {
            let from = Offset::new(u64::try_from(from).unwrap_or(0));
            let messages = fold.messages(&key, from, MESSAGES_MAX.min(room));
            room -= messages.len();
            let pairs: Vec<Value> = messages.iter().map(|(offset, msg)| json!([offset.get(), msg])).collect();
            (!pairs.is_empty()).then_some((key, Value::Array(pairs)))
        };
        asked.offsets.into_iter().filter_map(of_key).collect()
    });
    Ok(answer("poll_ok", json!({ "msgs": msgs })))
}

pub(super) async fn commit_offsets(parts: &Parts, asked: Offsets, deadline: Instant) -> Result<Body, Failure> {
    let offsets = asked.offsets.into_iter().filter_map(|(key, offset)| Some((key, u64::try_from(offset).ok()?)));
    let offsets: BTreeMap<String, u64> = offsets.collect();
    if !offsets.is_empty() {
        parts.append(&Event::Committed(offsets), deadline).await?;
    }
    Ok(answer("commit_offsets_ok", Value::Null))
}

pub(super) async fn list_committed_offsets(parts: &Parts, asked: Keys, deadline: Instant) -> Result<Body, Failure> {
    parts.log.catch_up(deadline).await?;
    let offsets: Map<String, Value> = parts.fold().with(|fold| {
        let of_key = |key: String| fold.committed(&key).map(|offset| (key, json!(offset)));
        asked.keys.into_iter().filter_map(of_key).collect()
    });
    Ok(answer("list_committed_offsets_ok", json!({ "offsets": offsets })))
}
