//! `txn-list-append` and `txn-rw-register`: transactions of a few steps over a few keys.
//!
//! * A few keys are in use at a time; after so many writes a key makes place for a new one. Every value is written to
//!   its key once.
//! * A transaction that only reads changes nothing.
//! * Source: Maelstrom's workloads of these names, which are Elle's; their key count, length and writes a key.

use super::{Asker, Load, body, in_words};
use crate::checkers::transactions::{ListHistory, MicroOp, RegisterTxnHistory, check_lists, check_registers};
use crate::checkers::{Outcome, Verdict};
use crate::harness::rng::Rng;
use crate::workbench::record::{Body, Ending, Record, history};
use serde_json::{Value, json};

/// Keys in use at a time.
const KEYS: usize = 10;
/// Values written to one key.
const KEY_WRITES_MAX: i64 = 16;
/// Steps of one transaction.
const STEPS_MAX: usize = 4;

/// Transactions of either kind.
pub struct Txns {
    write: &'static str,
    /// Each key's number and the last value written to it.
    keys: Vec<(i64, i64)>,
    next_key: i64,
}

impl Txns {
    /// Over lists.
    #[must_use]
    pub fn lists() -> Txns {
        Txns::of("append")
    }

    /// Over registers.
    #[must_use]
    pub fn registers() -> Txns {
        Txns::of("w")
    }

    fn of(write: &'static str) -> Txns {
        Txns { write, keys: (0..KEYS as i64).map(|key| (key, 0)).collect(), next_key: KEYS as i64 }
    }

    /// A step on a key, of which the first are more in use.
    fn step(&mut self, rng: &mut Rng) -> Value {
        let place = (rng.bits() | 1 << (KEYS - 1)).trailing_zeros() as usize;
        let (key, last) = &mut self.keys[place];
        if rng.below(2) == 0 {
            return json!(["r", key, null]);
        }
        *last += 1;
        let step = json!([self.write, key, last]);
        if *last >= KEY_WRITES_MAX {
            (*key, *last) = (self.next_key, 0);
            self.next_key += 1;
        }
        step
    }
}

type Steps = Vec<MicroOp<i64, i64>>;

/// What was asked: reads and writes of keys.
fn steps(record: &Record) -> Option<Steps> {
    let step = |step: &Value| {
        let key = step.get(1)?.as_i64()?;
        match step.get(0)?.as_str()? {
            "r" => Some(MicroOp::Read(key)),
            _ => Some(MicroOp::Write(key, step.get(2)?.as_i64()?)),
        }
    };
    record.call.get("txn")?.as_array()?.iter().map(step).collect()
}

/// What the reads of an answered transaction showed; `None` when the answer is not to what was asked.
fn shown(record: &Record) -> Option<Vec<&Value>> {
    let asked = record.call.get("txn")?.as_array()?;
    let answered = record.answered("txn")?.as_array()?;
    let is_fit = |asked: &Value, answered: &Value| {
        let is_same = |place| asked.get(place) == answered.get(place);
        is_same(0) && is_same(1) && (asked[0] == "r" || is_same(2))
    };
    let are_fit = asked.len() == answered.len() && asked.iter().zip(answered).all(|(a, b)| is_fit(a, b));
    let reads = answered.iter().filter(|step| step[0] == "r");
    are_fit.then(|| reads.map(|step| &step[2]).collect())
}

fn list(value: &Value) -> Option<Vec<i64>> {
    match value {
        // A list that is not there yet.
        Value::Null => Some(Vec::new()),
        Value::Array(elements) => elements.iter().map(Value::as_i64).collect(),
        _ => None,
    }
}

fn register(value: &Value) -> Option<Option<i64>> {
    if value.is_null() { Some(None) } else { value.as_i64().map(Some) }
}

/// The result of a transaction that was answered, each read's value as `parse` takes it.
fn results<S>(record: &Record, parse: impl Fn(&Value) -> Option<S>) -> Option<Vec<S>> {
    shown(record)?.into_iter().map(parse).collect()
}

fn translate<S>(record: &Record, parse: impl Fn(&Value) -> Option<S>) -> Option<(Steps, Outcome<Vec<S>>)> {
    let outcome = record.outcome(|_| results(record, parse).unwrap_or_default());
    Some((steps(record)?, outcome))
}

impl Load for Txns {
    fn next(&mut self, _: Asker, rng: &mut Rng) -> Body {
        let steps: Vec<Value> = (0..=rng.below(STEPS_MAX)).map(|_| self.step(rng)).collect();
        body("txn", json!({ "txn": steps }))
    }

    fn is_read(&self, call: &Body) -> bool {
        let steps = call.get("txn").and_then(Value::as_array);
        steps.is_some_and(|steps| steps.iter().all(|step| step[0] == "r"))
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let is_fit = |record: &Record| match self.write {
            "append" => results(record, list).is_some(),
            _ => results(record, register).is_some(),
        };
        let answered = records.iter().filter(|record| record.ending() == Ending::Ok);
        let unfit: Vec<String> = answered
            .filter(|record| !is_fit(record))
            .map(|record| format!("an answer to another transaction than was asked for: {record:?}"))
            .collect();
        if !unfit.is_empty() {
            return Verdict::Violated(unfit);
        }
        if self.write == "append" {
            let history: ListHistory<i64, i64> = history(records, |record| translate(record, list));
            in_words(check_lists(&history))
        } else {
            let history: RegisterTxnHistory<i64, i64> = history(records, |record| translate(record, register));
            in_words(check_registers(&history))
        }
    }
}
