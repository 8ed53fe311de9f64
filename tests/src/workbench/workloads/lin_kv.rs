//! `lin-kv`: registers; reads by one half of the clients, writes and compare-and-set by the other.
//!
//! * A key is used for some operations, or until some clients have got no answer, then another one: searching an order is
//!   expensive where many outcomes are unknown.
//! * Stricter than Maelstrom's checker: "no such key" and "another value" are answers, and must be right too.
//! * Source: Maelstrom's `lin-kv`, which is Jepsen's `linearizable-register`.

use super::{Asker, Load, body, in_words};
use crate::checkers::linearizability::{Bounds, RegisterCall, RegisterReturn, check};
use crate::checkers::{Outcome, Verdict};
use crate::harness::rng::Rng;
use crate::workbench::record::{Body, Ending, Record, history};
use crate::workbench::settings::Settings;
use serde_json::{Value, json};

/// Values are below this.
const VALUES: usize = 5;
/// Operations on one key.
const KEY_OPERATIONS_MAX: u64 = 200;
/// Unknown outcomes on one key.
const KEY_UNKNOWN_MAX: u64 = 10;

const NO_SUCH_KEY: i64 = 20;
const ANOTHER_VALUE: i64 = 22;

/// Registers, one for each group of clients at a time.
pub struct LinKv {
    group_threads: usize,
    groups: Vec<Group>,
    next_key: u64,
}

#[derive(Clone, Copy)]
struct Group {
    key: u64,
    operations: u64,
    unknown: u64,
}

impl LinKv {
    /// Groups of two clients a node, as Maelstrom's.
    #[must_use]
    pub fn new(settings: &Settings) -> LinKv {
        let group_threads = (2 * settings.nodes).min(settings.concurrency).max(1);
        let groups = settings.concurrency.div_ceil(group_threads) as u64;
        let group = |key| Group { key, operations: 0, unknown: 0 };
        LinKv { group_threads, groups: (0..groups).map(group).collect(), next_key: groups }
    }
}

impl Load for LinKv {
    fn next(&mut self, asker: Asker, rng: &mut Rng) -> Body {
        let group = &mut self.groups[asker.thread / self.group_threads];
        if group.operations >= KEY_OPERATIONS_MAX || group.unknown >= KEY_UNKNOWN_MAX {
            *group = Group { key: self.next_key, operations: 0, unknown: 0 };
            self.next_key += 1;
        }
        group.operations += 1;
        let key = group.key;
        let is_reader = asker.thread % self.group_threads < self.group_threads / 2;
        match (is_reader, rng.below(3)) {
            (true, _) => body("read", json!({ "key": key })),
            (false, 0) => body("write", json!({ "key": key, "value": rng.below(VALUES) })),
            (false, _) => body("cas", json!({ "key": key, "from": rng.below(VALUES), "to": rng.below(VALUES) })),
        }
    }

    fn is_read(&self, call: &Body) -> bool {
        call.get("type").is_some_and(|kind| kind == "read")
    }

    fn heard(&mut self, asker: Asker, record: &Record) {
        let group = &mut self.groups[asker.thread / self.group_threads];
        if record.ending() == Ending::Info && record.call.get("key") == Some(&json!(group.key)) {
            group.unknown += 1;
        }
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let unfit: Vec<String> = records.iter().filter_map(unfit).collect();
        if !unfit.is_empty() {
            return Verdict::Violated(unfit);
        }
        in_words(check(&history(records, translate), &Bounds::default()))
    }
}

fn number(body: &Body, member: &str) -> Option<i64> {
    body.get(member).and_then(Value::as_i64)
}

/// An answer that does not say what its type asks for.
fn unfit(record: &Record) -> Option<String> {
    let is_unfit = record.ending() == Ending::Ok
        && record.kind() == "read"
        && record.answered("value").and_then(Value::as_i64).is_none();
    is_unfit.then(|| format!("a read was answered without a number: {record:?}"))
}

type Translated = ((i64, RegisterCall<i64>), Outcome<RegisterReturn<i64>>);

fn translate(record: &Record) -> Option<Translated> {
    let key = number(&record.call, "key")?;
    let (call, answered) = match record.kind() {
        "read" => (RegisterCall::Read, RegisterReturn::Value(record.answered("value").and_then(Value::as_i64))),
        "write" => (RegisterCall::Write(number(&record.call, "value")), RegisterReturn::Written),
        _ => {
            let (from, to) = (number(&record.call, "from"), number(&record.call, "to"));
            (RegisterCall::Cas { from, to }, RegisterReturn::Swapped)
        }
    };
    let outcome = match (record.kind(), record.code()) {
        ("read", Some(NO_SUCH_KEY)) => Outcome::Ok(RegisterReturn::Value(None)),
        ("cas", Some(NO_SUCH_KEY | ANOTHER_VALUE)) => Outcome::Ok(RegisterReturn::Mismatch),
        _ => record.outcome(|_| answered),
    };
    Some(((key, call), outcome))
}
