//! `broadcast`, `g-set`, `g-counter`, `pn-counter`: each a fold over the log's events.
//!
//! * What is added is an event, acknowledged when it is in the log. A read is of this node's fold: it needs nobody, has what
//!   was acknowledged through this node, and may miss what others added lately. All nodes come to the same.
//! * A read does not say whose it is. It is answered for the workload that this node was last asked for, else for the last
//!   such event in the log; before any, it waits for the first, and is refused if none comes.

use crate::events::Event;
use crate::failure::{Code, Failure};
use crate::fold::Kind;
use crate::message::{Body, answer};
use crate::node::{Node, Parts};
use serde::Deserialize;
use serde_json::{Number, Value, json};
use std::collections::BTreeMap;
use tokio::time::{Instant, timeout_at};

#[derive(Deserialize)]
pub(super) struct Topology {
    /// Every node hears everything from the log.
    #[serde(rename = "topology")]
    _topology: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct Broadcast {
    message: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Add {
    Element { element: Value },
    Delta { delta: i64 },
}

pub(super) fn topology(node: &Node, _: Topology) -> Result<Body, Failure> {
    node.asked_for(Kind::Broadcast);
    Ok(answer("topology_ok", Value::Null))
}

pub(super) async fn broadcast(
    node: &Node,
    parts: &Parts,
    asked: Broadcast,
    deadline: Instant,
) -> Result<Body, Failure> {
    node.asked_for(Kind::Broadcast);
    parts.append(&Event::Broadcast(asked.message), deadline).await?;
    Ok(answer("broadcast_ok", Value::Null))
}

pub(super) async fn add(node: &Node, parts: &Parts, asked: Add, deadline: Instant) -> Result<Body, Failure> {
    let event = match asked {
        Add::Element { element } => {
            node.asked_for(Kind::Set);
            Event::Element(element)
        }
        Add::Delta { delta } => {
            node.asked_for(Kind::Counter);
            Event::Delta(delta)
        }
    };
    parts.append(&event, deadline).await?;
    Ok(answer("add_ok", Value::Null))
}

pub(super) async fn read(node: &Node, parts: &Parts, deadline: Instant) -> Result<Body, Failure> {
    let kind = kind_of_read(node, parts, deadline).await?;
    parts.see_own(deadline).await;
    let members = parts.fold().with(|fold| match kind {
        Kind::Broadcast => Ok(json!({ "messages": fold.broadcast() })),
        Kind::Set => Ok(json!({ "value": fold.set() })),
        Kind::Counter => match Number::from_i128(fold.sum()) {
            Some(sum) => Ok(json!({ "value": sum })),
            None => Err(Failure::new(Code::NotSupported, "the sum is over 64 bits")),
        },
    });
    Ok(answer("read_ok", members?))
}

async fn kind_of_read(node: &Node, parts: &Parts, deadline: Instant) -> Result<Kind, Failure> {
    if let Some(kind) = node.last_asked_for() {
        return Ok(kind);
    }
    let first = async {
        tokio::select! {
            biased;
            kind = node.first_asked_for() => kind,
            kind = parts.fold().first_kind() => kind,
        }
    };
    timeout_at(deadline, first)
        .await
        .map_err(|_| Failure::unavailable("nothing was added yet, and a read does not say of which workload it is"))
}
