//! What Maelstrom's clients ask for, by the type of their messages. All workloads are served by every node.
//!
//! * In: a request. Out: the answer that its type asks for, exactly: Maelstrom takes no other members.
//! * Source: Maelstrom's workloads; maelstrom/README.md, the table.

mod folds;
mod kafka;
mod lin_kv;
mod txn;

use crate::failure::Failure;
use crate::message::{Body, Message, answer, unknown_type};
use crate::node::Node;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

#[derive(Deserialize)]
struct Echo {
    echo: Value,
}

/// Answers one request.
pub async fn serve(node: &Node, message: Message, deadline: Instant) -> Result<Body, Failure> {
    let kind = message.kind().to_owned();
    if kind == "echo" {
        let Echo { echo } = message.read()?;
        return Ok(answer("echo_ok", json!({ "echo": echo })));
    }
    if kind == "topology" {
        return folds::topology(node, message.read()?);
    }
    if !is_known(&kind) {
        return Err(unknown_type(&kind));
    }
    let parts = node.parts(deadline).await?;
    parts.begun(deadline).await?;
    match kind.as_str() {
        "generate" => parts.ids.next(deadline).await.map(|id| answer("generate_ok", json!({ "id": id }))),
        "read" if message.body.contains_key("key") => lin_kv::read(&parts, message.read()?, deadline).await,
        "write" => lin_kv::write(&parts, message.read()?, deadline).await,
        "cas" => lin_kv::cas(&parts, message.read()?, deadline).await,
        "txn" => txn::run(&parts, message.read()?, deadline).await,
        "send" => kafka::send(&parts, message.read()?, deadline).await,
        "poll" => kafka::poll(&parts, message.read()?, deadline).await,
        "commit_offsets" => kafka::commit_offsets(&parts, message.read()?, deadline).await,
        "list_committed_offsets" => kafka::list_committed_offsets(&parts, message.read()?, deadline).await,
        "broadcast" => folds::broadcast(node, &parts, message.read()?, deadline).await,
        "add" => folds::add(node, &parts, message.read()?, deadline).await,
        "read" => folds::read(node, &parts, deadline).await,
        _ => Err(unknown_type(&kind)),
    }
}

fn is_known(kind: &str) -> bool {
    const KINDS: [&str; 11] = [
        "generate",
        "read",
        "write",
        "cas",
        "txn",
        "send",
        "poll",
        "commit_offsets",
        "list_committed_offsets",
        "broadcast",
        "add",
    ];
    KINDS.contains(&kind)
}
