//! `lin-kv`: reads, writes and compare-and-set on single keys, at any node, linearizable.
//!
//! * A read asks the leader; a write is a PUT; a compare-and-set is a read, then a PUT over the version that was read.
//! * Invariant: a compare-and-set that meets another version did nothing and begins again, as a new write; one whose
//!   outcome is unknown is repeated as the same write only.
//! * Source: DESIGN D6.

use crate::failure::{Code, Failure};
use crate::kv::{Condition, Key, Recency};
use crate::message::{Body, answer};
use crate::node::Parts;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

const WORKLOAD: &str = "lin-kv";

#[derive(Deserialize)]
pub(super) struct Read {
    key: Value,
}

#[derive(Deserialize)]
pub(super) struct Write {
    key: Value,
    value: Value,
}

#[derive(Deserialize)]
pub(super) struct Cas {
    key: Value,
    from: Value,
    to: Value,
    #[serde(default)]
    create_if_not_exists: bool,
}

pub(super) async fn read(parts: &Parts, asked: Read, deadline: Instant) -> Result<Body, Failure> {
    let key = Key::of(WORKLOAD, &asked.key)?;
    let seen = parts.kv.get(&key, Recency::Linearizable, deadline).await?;
    let held = seen.held.ok_or_else(|| no_such_key(&asked.key))?;
    Ok(answer("read_ok", json!({ "value": held.value })))
}

pub(super) async fn write(parts: &Parts, asked: Write, deadline: Instant) -> Result<Body, Failure> {
    let key = Key::of(WORKLOAD, &asked.key)?;
    parts.kv.put(&key, &asked.value, Condition::None, deadline).await?;
    Ok(answer("write_ok", Value::Null))
}

pub(super) async fn cas(parts: &Parts, asked: Cas, deadline: Instant) -> Result<Body, Failure> {
    let key = Key::of(WORKLOAD, &asked.key)?;
    while Instant::now() < deadline {
        let seen = parts.kv.get(&key, Recency::Linearizable, deadline).await?;
        let condition = match seen.held {
            None if asked.create_if_not_exists => Condition::Absent,
            None => return Err(no_such_key(&asked.key)),
            Some(held) if held.value == asked.from => Condition::Version(held.version),
            Some(held) => {
                let text = format!("expected {}, and the value is {}", asked.from, held.value);
                return Err(Failure::new(Code::PreconditionFailed, text));
            }
        };
        if parts.kv.put(&key, &asked.to, condition, deadline).await? {
            return Ok(answer("cas_ok", Value::Null));
        }
    }
    Err(Failure::unavailable("others were faster each time: nothing was written"))
}

fn no_such_key(key: &Value) -> Failure {
    Failure::new(Code::KeyDoesNotExist, format!("there is no key {key}"))
}
