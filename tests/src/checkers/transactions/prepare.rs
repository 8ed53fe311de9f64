//! Transactions and versions in numbers, with the words to print them again.
//!
//! A version is what one write makes of one key. Invariant: each (key, value) is written at most once in a history, else
//! nothing can be inferred and the checker is undecided.

use super::graph::{Edge, Reason};
use super::{Anomaly, real_time};
use super::{AnomalyKind, Found, MicroOp};
use crate::checkers::history::History;
use crate::checkers::{Operation, Outcome};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// A transaction's place in [`Prepared::transactions`].
pub type TxnId = usize;
/// A version's place in [`Prepared::versions`].
pub type VersionId = usize;
/// A key's number.
pub type KeyId = usize;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With these answers.
    Committed,
    /// It may take effect.
    Unknown,
    /// It did nothing.
    Failed,
}

/// One step, in numbers. What a read saw is a list of versions; of a register, none or one.
#[derive(Clone, Debug)]
pub enum Step {
    Read { key: KeyId, seen: Vec<VersionId> },
    Write { key: KeyId, version: VersionId },
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Txn {
    pub ending: Ending,
    /// Those of an unknown transaction have writes only.
    pub steps: Vec<Step>,
    pub invoked: u64,
    /// When it had certainly happened.
    pub ended: Option<u64>,
    /// Whether somebody read what it wrote.
    pub observed: bool,
    text: String,
}

impl Txn {
    /// Whether it is known to have taken effect.
    pub fn took_effect(&self) -> bool {
        self.ending == Ending::Committed || (self.ending == Ending::Unknown && self.observed)
    }
}

/// What one write makes of one key.
#[derive(Clone, Debug)]
pub struct Version {
    pub key: KeyId,
    /// `None`: read, but never written.
    pub writer: Option<TxnId>,
    /// Which of its transaction's writes of the key it is, from 0.
    pub ordinal: usize,
    /// Whether it is the last of them.
    pub is_final: bool,
    text: String,
}

/// A history, ready to be analysed.
pub struct Prepared {
    pub transactions: Vec<Txn>,
    pub versions: Vec<Version>,
    keys: Vec<String>,
}

struct Numbers<K, V> {
    keys: BTreeMap<K, KeyId>,
    versions: BTreeMap<(KeyId, V), VersionId>,
    prepared: Prepared,
}

impl<K: Ord + Clone + Debug, V: Ord + Clone + Debug> Numbers<K, V> {
    fn key(&mut self, key: &K) -> KeyId {
        if let Some(&number) = self.keys.get(key) {
            return number;
        }
        self.prepared.keys.push(format!("{key:?}"));
        self.keys.insert(key.clone(), self.prepared.keys.len() - 1);
        self.prepared.keys.len() - 1
    }

    fn version(&mut self, key: KeyId, value: &V) -> VersionId {
        if let Some(&number) = self.versions.get(&(key, value.clone())) {
            return number;
        }
        let text = format!("{value:?}");
        self.prepared.versions.push(Version { key, writer: None, ordinal: 0, is_final: false, text });
        self.versions.insert((key, value.clone()), self.prepared.versions.len() - 1);
        self.prepared.versions.len() - 1
    }
}

impl Prepared {
    /// `versions` gives the versions that one read saw.
    pub fn of<K, V, S>(
        history: &History<Vec<MicroOp<K, V>>, Vec<S>>,
        versions: impl Fn(&S, &mut dyn FnMut(&V) -> VersionId) -> Vec<VersionId>,
    ) -> Result<Prepared, String>
    where
        K: Ord + Clone + Debug,
        V: Ord + Clone + Debug,
        S: Debug,
    {
        let prepared = Prepared { transactions: Vec::new(), versions: Vec::new(), keys: Vec::new() };
        let mut numbers = Numbers { keys: BTreeMap::new(), versions: BTreeMap::new(), prepared };
        for operation in history.operations() {
            let steps = steps(operation, &mut numbers, &versions)?;
            numbers.prepared.transactions.push(Txn {
                ending: match operation.outcome {
                    Outcome::Ok(_) => Ending::Committed,
                    Outcome::Failed => Ending::Failed,
                    Outcome::Unknown => Ending::Unknown,
                },
                steps,
                invoked: operation.invoked.index,
                ended: operation.end_index(),
                observed: false,
                text: operation.to_string(),
            });
        }
        let mut prepared = numbers.prepared;
        prepared.note_observed();
        Ok(prepared)
    }

    fn note_observed(&mut self) {
        let mut observed = Vec::new();
        for (number, txn) in self.transactions.iter().enumerate() {
            let reads = txn.steps.iter().filter_map(|step| match step {
                Step::Read { seen, .. } => Some(seen),
                Step::Write { .. } => None,
            });
            let writers = reads.flatten().filter_map(|&version| self.versions[version].writer);
            observed.extend(writers.filter(|&writer| writer != number));
        }
        observed.into_iter().for_each(|writer| self.transactions[writer].observed = true);
    }

    /// A transaction, in words.
    pub fn txn_text(&self, txn: TxnId) -> String {
        format!("T{txn} ({})", self.transactions[txn].text)
    }

    /// A key, in words.
    pub fn key_text(&self, key: KeyId) -> &str {
        &self.keys[key]
    }

    /// How many keys there are; their numbers are below.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// A version's value, in words.
    pub fn version_text(&self, version: VersionId) -> &str {
        &self.versions[version].text
    }

    /// Several, as a list.
    pub fn list_text(&self, versions: &[VersionId]) -> String {
        let texts: Vec<&str> = versions.iter().map(|&version| self.version_text(version)).collect();
        format!("[{}]", texts.join(" "))
    }

    /// The real-time order of what took effect, as few edges as possible.
    pub fn real_time_edges(&self) -> Vec<Edge> {
        let took_effect = self.transactions.iter().enumerate().filter(|(_, txn)| txn.took_effect());
        let spans: Vec<real_time::Span> = took_effect
            .map(|(number, txn)| real_time::Span { number, invoked: txn.invoked, ended: txn.ended })
            .collect();
        let edge = |(from, to)| Edge { from, to, reason: Reason::RealTime };
        real_time::reduction(&spans).into_iter().map(edge).collect()
    }

    /// What is wrong with a version that `reader` saw as another transaction's: nobody wrote it, it was aborted, or it is
    /// the reader's own, from its future.
    pub fn judge_seen(&self, reader: TxnId, version: VersionId, found: &mut Found) {
        let Version { key, writer, .. } = self.versions[version];
        let what = format!("{} of key {}", self.version_text(version), self.key_text(key));
        let reader_text = self.txn_text(reader);
        let (kind, detail) = match writer {
            None => (AnomalyKind::UnwrittenRead, format!("{what}, by {reader_text}")),
            Some(writer) if writer == reader => {
                (AnomalyKind::Internal, format!("{what} was read before it was written, by {reader_text}"))
            }
            Some(writer) if self.transactions[writer].ending == Ending::Failed => {
                let writer = self.txn_text(writer);
                (AnomalyKind::AbortedRead, format!("{what}, by {reader_text}, of what failed in {writer}"))
            }
            Some(_) => return,
        };
        found.anomalies.push(Anomaly { kind, detail });
    }

    /// Whether the last version that `reader` saw of a key is not what its writer left behind.
    pub fn judge_intermediate(&self, reader: TxnId, version: VersionId, found: &mut Found) {
        let Version { key, writer, is_final, .. } = self.versions[version];
        let Some(writer) = writer.filter(|&writer| writer != reader && !is_final) else { return };
        let (value, key) = (self.version_text(version), self.key_text(key));
        let detail = format!("{value} of key {key}, by {}, from amid {}", self.txn_text(reader), self.txn_text(writer));
        found.anomalies.push(Anomaly { kind: AnomalyKind::IntermediateRead, detail });
    }

    /// Transactions that read a key's version and wrote the key, by that version: more than one is one too many.
    pub fn judge_updates(&self, key: KeyId, updaters: &BTreeMap<Option<VersionId>, Vec<TxnId>>, found: &mut Found) {
        for (seen, updaters) in updaters {
            if let [one, other, ..] = updaters[..] {
                let seen = seen.map_or("nothing", |version| self.version_text(version));
                let (key, one, other) = (self.key_text(key), self.txn_text(one), self.txn_text(other));
                let detail = format!("both read {seen} last of key {key} and wrote it: {one} and {other}");
                found.anomalies.push(Anomaly { kind: AnomalyKind::LostUpdate, detail });
            }
        }
    }
}

fn steps<K, V, S>(
    operation: &Operation<Vec<MicroOp<K, V>>, Vec<S>>,
    numbers: &mut Numbers<K, V>,
    versions: &impl Fn(&S, &mut dyn FnMut(&V) -> VersionId) -> Vec<VersionId>,
) -> Result<Vec<Step>, String>
where
    K: Ord + Clone + Debug,
    V: Ord + Clone + Debug,
{
    let this = numbers.prepared.transactions.len();
    let mut results = operation.result().map(|results| results.iter());
    let mut steps = Vec::new();
    let mut written: BTreeMap<KeyId, Vec<VersionId>> = BTreeMap::new();
    for micro_op in &operation.call {
        match micro_op {
            MicroOp::Write(key, value) => {
                let key = numbers.key(key);
                let version = numbers.version(key, value);
                let before = numbers.prepared.versions[version].writer.replace(this);
                if before.is_some() {
                    let key = numbers.prepared.key_text(key);
                    return Err(format!("{value:?} is written to key {key} twice: nothing can be inferred"));
                }
                let written = written.entry(key).or_default();
                numbers.prepared.versions[version].ordinal = written.len();
                written.push(version);
                steps.push(Step::Write { key, version });
            }
            MicroOp::Read(key) => {
                let key = numbers.key(key);
                if let Some(results) = &mut results {
                    let seen = results.next().expect("a result for each read: who recorded has a bug");
                    let seen = versions(seen, &mut |value| numbers.version(key, value));
                    steps.push(Step::Read { key, seen });
                }
            }
        }
    }
    assert!(results.is_none_or(|mut results| results.next().is_none()), "a read for each result");
    let last = written.values().filter_map(|versions| versions.last());
    last.for_each(|&version| numbers.prepared.versions[version].is_final = true);
    Ok(steps)
}
