//! `txn-list-append`, `txn-rw-register`: transactions over keys of one partition, strictly serializable.
//!
//! ```text
//! read what it needs ─▶ compute ─▶ one transaction: guards on every version read, puts of what changed
//!        ▲                                  │ a guard failed: certainly not committed
//!        └──────────────────────────────────┘
//! ```
//!
//! * A key is read where the transaction reads it, or appends to it, before writing it. The record's place in the log is
//!   where the transaction happens: what it read is what stood there.
//! * One that only reads appends nothing: it reads all keys twice, the second time at positions at or after all of the
//!   first; versions that are the same in both were all there in between. Versions never come back, and no key is deleted.
//! * The first read is linearizable, so that nothing acknowledged before is missed.
//! * Invariant: code 30 only after a definite mismatch; after an unknown outcome nothing is tried as a new transaction.
//! * Source: DESIGN D6.

use crate::failure::{Code, Failure};
use crate::kv::{Guard, Held, Key, Kv, Recency};
use crate::message::{Body, answer};
use crate::node::Parts;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// How often a transaction is begun anew.
const ATTEMPTS_MAX: usize = 64;
const WORKLOAD: &str = "txn";

#[derive(Deserialize)]
pub(super) struct Txn {
    txn: Vec<(String, Value, Value)>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
enum Op {
    Read,
    Write(Value),
    Append(Value),
}

type Step = (Key, Op);
/// What keys held, by key.
type State = BTreeMap<Key, Option<Held>>;

pub(super) async fn run(parts: &Parts, asked: Txn, deadline: Instant) -> Result<Body, Failure> {
    let steps = steps(&asked.txn)?;
    let reads = reads(&steps);
    for _ in 0..ATTEMPTS_MAX {
        let seen = read_all(&parts.kv, &reads, deadline).await?;
        let done = compute(&steps, &seen.state)?;
        let is_committed = if !done.puts.is_empty() {
            let guards =
                seen.state.into_iter().map(|(key, held)| Guard { key, version: held.map(|held| held.version) });
            let puts: Vec<(Key, Value)> = done.puts.into_iter().collect();
            parts.kv.txn(&guards.collect::<Vec<_>>(), &puts, deadline).await?
        } else {
            seen.at_one_position || is_unchanged(&parts.kv, &seen, deadline).await?
        };
        if is_committed {
            return Ok(answer("txn_ok", json!({ "txn": completed(asked.txn, done.reads) })));
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(Failure::new(Code::TxnConflict, "others were faster each time: nothing was written"))
}

fn steps(txn: &[(String, Value, Value)]) -> Result<Vec<Step>, Failure> {
    let step = |(f, key, value): &(String, Value, Value)| {
        let op = match f.as_str() {
            "r" => Op::Read,
            "w" => Op::Write(value.clone()),
            "append" => Op::Append(value.clone()),
            _ => {
                let shown: String = f.chars().take(64).collect();
                return Err(Failure::new(Code::NotSupported, format!("there is no operation {shown:?}")));
            }
        };
        Ok((Key::of(WORKLOAD, key)?, op))
    };
    txn.iter().map(step).collect()
}

/// The keys whose state before the transaction matters.
fn reads(steps: &[Step]) -> BTreeSet<Key> {
    let (mut reads, mut written) = (BTreeSet::new(), BTreeSet::new());
    for (key, op) in steps {
        if !written.contains(key) {
            if matches!(op, Op::Read | Op::Append(_)) {
                reads.insert(key.clone());
            }
            if matches!(op, Op::Write(_)) {
                written.insert(key.clone());
            }
        }
    }
    reads
}

/// What was read of all keys.
struct Seen {
    state: State,
    /// The position of the last read; none before it.
    position: Option<String>,
    /// Whether every read was of the same position, and so of one state.
    at_one_position: bool,
}

async fn read_all(kv: &Kv, keys: &BTreeSet<Key>, deadline: Instant) -> Result<Seen, Failure> {
    let mut seen = Seen { state: State::new(), position: None, at_one_position: true };
    for key in keys {
        let recency = seen.position.as_deref().map_or(Recency::Linearizable, Recency::After);
        let read = kv.get(key, recency, deadline).await?;
        seen.at_one_position &= seen.position.as_ref().is_none_or(|position| *position == read.position);
        seen.position = Some(read.position);
        seen.state.insert(key.clone(), read.held);
    }
    Ok(seen)
}

/// Whether every key still has the version that was seen, read at or after the last position.
async fn is_unchanged(kv: &Kv, seen: &Seen, deadline: Instant) -> Result<bool, Failure> {
    let recency = seen.position.as_deref().map_or(Recency::Linearizable, Recency::After);
    for (key, before) in &seen.state {
        let now = kv.get(key, recency, deadline).await?;
        if now.held.map(|held| held.version) != before.as_ref().map(|held| held.version.clone()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a transaction comes to.
struct Done {
    /// The values that its reads see, in their order.
    reads: Vec<Value>,
    /// What its keys hold afterwards.
    puts: BTreeMap<Key, Value>,
}

fn compute(steps: &[Step], before: &State) -> Result<Done, Failure> {
    let mut done = Done { reads: Vec::new(), puts: BTreeMap::new() };
    let value_of = |puts: &BTreeMap<Key, Value>, key: &Key| {
        let held = || before.get(key).and_then(Option::as_ref).map(|held| held.value.clone());
        puts.get(key).cloned().or_else(held)
    };
    for (key, op) in steps {
        match op {
            Op::Read => done.reads.push(value_of(&done.puts, key).unwrap_or(Value::Null)),
            Op::Write(value) => {
                done.puts.insert(key.clone(), value.clone());
            }
            Op::Append(value) => {
                let mut list = match value_of(&done.puts, key) {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::Array(list)) => list,
                    Some(_) => return Err(Failure::new(Code::PreconditionFailed, "what is appended to is no list")),
                };
                list.push(value.clone());
                done.puts.insert(key.clone(), Value::Array(list));
            }
        }
    }
    Ok(done)
}

/// The transaction as it was asked for, with what its reads saw.
fn completed(txn: Vec<(String, Value, Value)>, reads: Vec<Value>) -> Vec<(String, Value, Value)> {
    let mut reads = reads.into_iter();
    let complete = |(f, key, value): (String, Value, Value)| {
        let value = if f == "r" { reads.next().unwrap_or(Value::Null) } else { value };
        (f, key, value)
    };
    txn.into_iter().map(complete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(steps: Value) -> Vec<(String, Value, Value)> {
        serde_json::from_value::<Txn>(json!({ "txn": steps })).unwrap().txn
    }

    fn key(key: u64) -> Key {
        Key::of(WORKLOAD, &json!(key)).unwrap()
    }

    fn held(value: Value) -> Option<Held> {
        Some(Held { value, version: "c7f3a1.0:1".to_owned() })
    }

    #[test]
    fn a_transaction_sees_its_own_writes_in_order() {
        let asked = txn(json!([["r", 1, null], ["append", 1, 6], ["r", 1, null], ["append", 2, 9], ["r", 3, null]]));
        let steps = steps(&asked).unwrap();
        assert_eq!(reads(&steps), BTreeSet::from([key(1), key(2), key(3)]));
        let before = State::from([(key(1), held(json!([8]))), (key(2), None), (key(3), None)]);
        let done = compute(&steps, &before).unwrap();
        assert_eq!(done.puts, BTreeMap::from([(key(1), json!([8, 6])), (key(2), json!([9]))]));
        let wanted = json!([["r", 1, [8]], ["append", 1, 6], ["r", 1, [8, 6]], ["append", 2, 9], ["r", 3, null]]);
        assert_eq!(json!(completed(asked, done.reads)), wanted);
    }

    /// Goal: a guard for each key whose old value matters, and for no other: a blind write must not conflict.
    #[test]
    fn what_is_written_first_is_not_read() {
        for (asked, wanted) in [
            (json!([["w", 1, 5], ["r", 1, null]]), vec![]),
            (json!([["r", 1, null], ["w", 1, 5]]), vec![key(1)]),
            (json!([["append", 1, 5], ["append", 1, 6]]), vec![key(1)]),
            (json!([["w", 1, [1]], ["append", 1, 6]]), vec![]),
            (json!([]), vec![]),
        ] {
            let steps = steps(&txn(asked.clone())).unwrap();
            assert_eq!(reads(&steps), wanted.into_iter().collect(), "{asked}");
        }
        let steps = steps(&txn(json!([["w", 1, 5], ["r", 1, null]]))).unwrap();
        assert_eq!(compute(&steps, &State::new()).unwrap().reads, [json!(5)]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_before_anything_is() {
        assert_eq!(steps(&txn(json!([["x", 1, 2]]))).unwrap_err().code, Code::NotSupported);
        let append = steps(&txn(json!([["append", 1, 2]]))).unwrap();
        let before = State::from([(key(1), held(json!(7)))]);
        assert!(compute(&append, &before).is_err_and(|failure| failure.code == Code::PreconditionFailed));
        for malformed in [json!({}), json!({"txn": 1}), json!({"txn": [["r", 1]]}), json!({"txn": [[1, 2, 3]]})] {
            assert!(serde_json::from_value::<Txn>(malformed).is_err());
        }
    }
}
