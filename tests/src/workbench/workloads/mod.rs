//! Workloads: what clients ask, and what is right. One file for each kind of data.
//!
//! * In: who may ask next, what was heard. Out: the next request's body; a verdict on all of it, by the pure checkers.
//! * After the recovery, every node may be asked once more, again and again until the verdict is good or the time is
//!   over: what nodes come to have is judged then.
//! * Source: Maelstrom's workloads; their keys, values and mixtures.

mod counters;
mod ids;
mod kafka;
mod lin_kv;
mod sets;
mod txn;

use super::network::NodeIndex;
use super::record::{Body, Ending, Record};
use super::settings::{Settings, Workload};
use crate::checkers::Verdict;
use crate::harness::rng::Rng;
use serde_json::Value;
use std::fmt::Display;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// One of the run's clients, from 0 on; it asks one thing after the other, always the same node.
    pub thread: usize,
    /// Another number after every unknown outcome.
    pub process: u64,
    /// The node that it asks.
    pub node: NodeIndex,
}

/// One workload's requests and their verdict.
pub trait Load: Send {
    /// What is asked next.
    fn next(&mut self, asker: Asker, rng: &mut Rng) -> Body;

    /// Whether this changes nothing, so that it can be taken as not done when nothing was heard.
    fn is_read(&self, call: &Body) -> bool;

    /// What was heard.
    fn heard(&mut self, _asker: Asker, _record: &Record) {}

    /// What every node is asked in the end.
    fn final_call(&self) -> Option<Body> {
        None
    }

    /// Whether every request must be answered well, however the network is cut.
    fn is_totally_available(&self) -> bool {
        false
    }

    /// Whether what was heard is right.
    fn judge(&self, records: &[Record]) -> Verdict<String>;
}

/// The load of a run.
#[must_use]
pub fn load(settings: &Settings) -> Box<dyn Load> {
    match settings.workload {
        Workload::LinKv => Box::new(lin_kv::LinKv::new(settings)),
        Workload::TxnListAppend => Box::new(txn::Txns::lists()),
        Workload::TxnRwRegister => Box::new(txn::Txns::registers()),
        Workload::Kafka => Box::new(kafka::Kafka::new(settings)),
        Workload::Echo => Box::new(ids::Echo),
        Workload::UniqueIds => Box::new(ids::UniqueIds),
        Workload::Broadcast => Box::new(sets::Sets::broadcast()),
        Workload::GSet => Box::new(sets::Sets::g_set()),
        Workload::GCounter => Box::new(counters::Counters { is_growing: true }),
        Workload::PnCounter => Box::new(counters::Counters { is_growing: false }),
    }
}

/// A body of this type with these members.
fn body(kind: &str, members: Value) -> Body {
    let mut body = match members {
        Value::Object(members) => members,
        _ => Body::new(),
    };
    body.insert("type".to_owned(), Value::from(kind));
    body
}

/// A checker's verdict, in words.
fn in_words<A: Display>(verdict: Verdict<A>) -> Verdict<String> {
    match verdict {
        Verdict::Valid => Verdict::Valid,
        Verdict::Violated(violations) => Verdict::Violated(violations.iter().map(ToString::to_string).collect()),
        Verdict::Undecided { reason } => Verdict::Undecided { reason },
    }
}

/// The last round of final reads: at most one a node.
fn last_round(records: &[Record]) -> impl Iterator<Item = &Record> {
    let last = records.iter().filter_map(|record| record.final_round).max();
    records.iter().filter(move |record| record.final_round.is_some() && record.final_round == last)
}

/// What is wrong with a node that does not answer in the end.
fn unanswered(record: &Record) -> Option<String> {
    (record.ending() != Ending::Ok)
        .then(|| format!("n{} does not answer in the end: {:?}", record.node + 1, record.reply))
}

#[cfg(test)]
mod tests;
