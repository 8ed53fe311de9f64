//! `lin-kv`: reads, writes and compare-and-set on single keys, at any node, linearizable.
//!
//! * A read asks the leader; a write is a PUT; a compare-and-set is a read, then a PUT over the version that was read. It
//!   first tries the version that is here: where that is the newest, nobody has to be asked; and where it is not, the log
//!   says so. That a value is another is decided only by what was read no earlier than this request came: from the leader,
//!   or at the position of a write that was refused.
//! * Invariant: a compare-and-set that meets another version did nothing and begins again, as a new write; one whose
//!   outcome is unknown is repeated as the same write only.
//! * Source: DESIGN D6.

use crate::failure::{Code, Failure};
use crate::kv::{Condition, Held, Key, Recency, Written};
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
    let here = parts.kv.get(&key, Recency::Stale, deadline).await?;
    let expected = here.held.filter(|held| held.value == asked.from).map(|held| Condition::Version(held.version));
    let mut condition = match expected {
        Some(condition) => condition,
        None => asked.condition(parts.kv.get(&key, Recency::Linearizable, deadline).await?.held)?,
    };
    while Instant::now() < deadline {
        match parts.kv.put(&key, &asked.to, condition, deadline).await? {
            Written::Effective => return Ok(answer("cas_ok", Value::Null)),
            // What decided came after this request did, and is applied here: nobody has to be asked.
            Written::Refused { position } => {
                condition = asked.condition(parts.kv.get(&key, Recency::After(&position), deadline).await?.held)?;
            }
        }
    }
    Err(Failure::unavailable("others were faster each time: nothing was written"))
}

impl Cas {
    /// What a write must find, after what was seen; or the answer, if that is not what was expected.
    fn condition(&self, held: Option<Held>) -> Result<Condition, Failure> {
        match held {
            None if self.create_if_not_exists => Ok(Condition::Absent),
            None => Err(no_such_key(&self.key)),
            Some(held) if held.value == self.from => Ok(Condition::Version(held.version)),
            Some(held) => {
                let text = format!("expected {}, and the value is {}", self.from, held.value);
                Err(Failure::new(Code::PreconditionFailed, text))
            }
        }
    }
}

fn no_such_key(key: &Value) -> Failure {
    Failure::new(Code::KeyDoesNotExist, format!("there is no key {key}"))
}
