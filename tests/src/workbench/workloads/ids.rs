//! `echo` and `unique-ids`: what must be answered whatever happens to the network.
//!
//! * An echo is what was said. An id was given to nobody else.
//! * Source: Maelstrom's `echo` and `unique-ids`, there with `--availability total`.

use super::{Asker, Load, body};
use crate::checkers::Verdict;
use crate::harness::rng::Rng;
use crate::workbench::record::{Body, Ending, Record};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `echo`.
pub struct Echo;

impl Load for Echo {
    fn next(&mut self, _: Asker, rng: &mut Rng) -> Body {
        body("echo", json!({ "echo": format!("Please echo {}", rng.below(128)) }))
    }

    fn is_read(&self, _: &Body) -> bool {
        true
    }

    fn is_totally_available(&self) -> bool {
        true
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let answered = records.iter().filter(|record| record.ending() == Ending::Ok);
        let other = answered.filter(|record| record.answered("echo") != record.call.get("echo"));
        Verdict::of(other.map(|record| format!("not what was said: {record:?}")).collect())
    }
}

/// `unique-ids`.
pub struct UniqueIds;

impl Load for UniqueIds {
    fn next(&mut self, _: Asker, _: &mut Rng) -> Body {
        body("generate", Value::Null)
    }

    fn is_read(&self, _: &Body) -> bool {
        false
    }

    fn is_totally_available(&self) -> bool {
        true
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let mut given: BTreeMap<String, &Record> = BTreeMap::new();
        let mut violations = Vec::new();
        for record in records.iter().filter(|record| record.ending() == Ending::Ok) {
            let Some(id) = record.answered("id").filter(|id| !id.is_null()) else {
                violations.push(format!("an answer without an id: {record:?}"));
                continue;
            };
            if let Some(first) = given.insert(id.to_string(), record) {
                violations.push(format!("the id {id} was given twice: {first:?} and {record:?}"));
            }
        }
        Verdict::of(violations)
    }
}
