//! `broadcast` and `g-set`: sets that grow.
//!
//! * In the end every node has every acknowledged element, and all have the same. No read, at any time, has one that
//!   nobody asked to add before it ended, or one twice.
//! * Source: Maelstrom's `broadcast` and `g-set`, which are Jepsen's `set-full`.

use super::{Asker, Load, body, last_round, unanswered};
use crate::checkers::Verdict;
use crate::harness::rng::Rng;
use crate::workbench::record::{Body, Ending, Record};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Elements are numbers, each added once.
pub struct Sets {
    add: &'static str,
    element: &'static str,
    elements: &'static str,
    next_element: u64,
}

impl Sets {
    /// `broadcast`.
    #[must_use]
    pub fn broadcast() -> Sets {
        Sets { add: "broadcast", element: "message", elements: "messages", next_element: 0 }
    }

    /// `g-set`.
    #[must_use]
    pub fn g_set() -> Sets {
        Sets { add: "add", element: "element", elements: "value", next_element: 0 }
    }

    fn element(&self, record: &Record) -> Option<u64> {
        record.call.get(self.element).and_then(Value::as_u64)
    }

    /// What a read showed, with what is wrong with it by itself.
    fn shown(&self, record: &Record, violations: &mut Vec<String>) -> BTreeSet<u64> {
        let elements = record.answered(self.elements).and_then(Value::as_array).map(Vec::as_slice);
        let numbers: Option<Vec<u64>> = elements.and_then(|elements| elements.iter().map(Value::as_u64).collect());
        let node = record.node + 1;
        let Some(numbers) = numbers else {
            violations.push(format!("n{node} answered without numbers under {:?}: {:?}", self.elements, record.reply));
            return BTreeSet::new();
        };
        let set: BTreeSet<u64> = numbers.iter().copied().collect();
        if set.len() != numbers.len() {
            violations.push(format!("n{node} shows an element twice, event {}", record.invoked.index));
        }
        set
    }
}

impl Load for Sets {
    fn next(&mut self, _: Asker, rng: &mut Rng) -> Body {
        if rng.below(2) == 0 {
            return body("read", Value::Null);
        }
        self.next_element += 1;
        body(self.add, json!({ self.element: self.next_element }))
    }

    fn is_read(&self, call: &Body) -> bool {
        call.get("type").is_some_and(|kind| kind == "read")
    }

    fn final_call(&self) -> Option<Body> {
        Some(body("read", Value::Null))
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let mut violations = Vec::new();
        let adds = records.iter().filter_map(|record| Some((self.element(record)?, record)));
        let adds: BTreeMap<u64, &Record> = adds.collect();
        for record in records.iter().filter(|record| record.kind() == "read" && record.ending() == Ending::Ok) {
            let end = record.completed.map_or(u64::MAX, |moment| moment.index);
            for element in self.shown(record, &mut violations) {
                // A definite failure may never show; what is unknown may, once it was asked for.
                let is_wrong =
                    adds.get(&element).is_none_or(|added| added.invoked.index > end || added.ending() == Ending::Fail);
                if is_wrong {
                    violations.push(format!("n{} shows {element}, which was not added by then", record.node + 1));
                }
            }
        }
        let mut finals = Vec::new();
        for record in last_round(records) {
            match unanswered(record) {
                Some(unanswered) => violations.push(unanswered),
                None => finals.push((record.node, self.shown(record, &mut Vec::new()))),
            }
        }
        let acknowledged = adds.iter().filter(|(_, record)| record.ending() == Ending::Ok).map(|(&element, _)| element);
        let acknowledged: BTreeSet<u64> = acknowledged.collect();
        for (node, set) in &finals {
            let lost: Vec<&u64> = acknowledged.difference(set).collect();
            if !lost.is_empty() {
                violations.push(format!("n{} has lost what was acknowledged: {lost:?}", node + 1));
            }
        }
        if let Some((first, others)) = finals.split_first() {
            let others = others.iter().filter(|(_, set)| *set != first.1);
            violations.extend(others.map(|(node, _)| format!("n{} and n{} differ in the end", first.0 + 1, node + 1)));
        } else {
            violations.push("nobody was asked in the end".to_owned());
        }
        Verdict::of(violations)
    }
}
