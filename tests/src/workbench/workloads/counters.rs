//! `g-counter` and `pn-counter`: sums.
//!
//! * In the end every node has the sum of what was acknowledged and of some of what is unknown, and all have the same.
//! * A read before says nothing for sure, but for bounds: with all that may count for it, and without what counts against.
//! * Source: Maelstrom's `g-counter` and `pn-counter`; there, too, only the reads in the end are judged exactly.

use super::{Asker, Load, body, last_round, unanswered};
use crate::checkers::Verdict;
use crate::harness::rng::Rng;
use crate::workbench::record::{Body, Ending, Record};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A counter of either kind.
pub struct Counters {
    /// Whether nothing is ever taken away.
    pub is_growing: bool,
}

fn delta(record: &Record) -> Option<i64> {
    record.call.get("delta").and_then(Value::as_i64)
}

/// All values that a counter may have in the end.
fn possible(records: &[Record]) -> BTreeSet<i64> {
    let acknowledged: i64 = records.iter().filter(|record| record.ending() == Ending::Ok).filter_map(delta).sum();
    let mut possible = BTreeSet::from([acknowledged]);
    for delta in records.iter().filter(|record| record.ending() == Ending::Info).filter_map(delta) {
        let with: Vec<i64> = possible.iter().map(|sum| sum + delta).collect();
        possible.extend(with);
    }
    possible
}

/// What a read may show at most, or at least: all that was asked for by its end, of one sign.
fn bound(records: &[Record], read: &Record, is_counted: impl Fn(i64) -> bool) -> i64 {
    let end = read.completed.map_or(u64::MAX, |moment| moment.index);
    let asked = records.iter().filter(|record| record.invoked.index < end && record.ending() != Ending::Fail);
    asked.filter_map(delta).filter(|&delta| is_counted(delta)).sum()
}

impl Load for Counters {
    fn next(&mut self, _: Asker, rng: &mut Rng) -> Body {
        if rng.below(2) == 0 {
            return body("read", Value::Null);
        }
        let delta = if self.is_growing { rng.below(5) as i64 } else { rng.below(11) as i64 - 5 };
        body("add", json!({ "delta": delta }))
    }

    fn is_read(&self, call: &Body) -> bool {
        call.get("type").is_some_and(|kind| kind == "read")
    }

    fn final_call(&self) -> Option<Body> {
        Some(body("read", Value::Null))
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let mut violations = Vec::new();
        let value = |record: &Record| record.answered("value").and_then(Value::as_i64);
        for read in records.iter().filter(|record| record.kind() == "read" && record.ending() == Ending::Ok) {
            let (least, most) = (bound(records, read, |delta| delta < 0), bound(records, read, |delta| delta > 0));
            if !value(read).is_some_and(|value| (least..=most).contains(&value)) {
                violations.push(format!(
                    "n{} shows {:?}, not a value in {least}..={most}, event {}",
                    read.node + 1,
                    read.answered("value"),
                    read.invoked.index
                ));
            }
        }
        let possible = possible(records);
        let mut finals = BTreeSet::new();
        for record in last_round(records) {
            violations.extend(unanswered(record));
            if let Some(value) = value(record) {
                finals.insert(value);
                if !possible.contains(&value) {
                    let node = record.node + 1;
                    violations.push(format!("n{node} has {value} in the end, which is none of {possible:?}"));
                }
            }
        }
        if finals.len() != 1 {
            violations.push(format!("in the end there are the values {finals:?}, not one"));
        }
        Verdict::of(violations)
    }
}
