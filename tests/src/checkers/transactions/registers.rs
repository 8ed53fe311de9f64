//! Registers: a read shows one version, so version orders are inferred.
//!
//! What is inferred for one version to come before another one of the same key, and nothing else:
//! * the initial absence comes before every other one;
//! * a transaction that read one and wrote another: the first comes before the second;
//! * real time, which makes each key linearizable: a transaction that touched one (the last that it wrote, else what it
//!   read) had ended when a transaction that touched another (what it read, else what it wrote) began.
//!
//! Each of them holds in every strictly serializable history. So a contradiction, or a cycle of the dependencies that follow,
//! is an anomaly. The reverse does not hold: two concurrent blind writes whose order nobody saw stay unordered.
//! Source: Elle, section 5.2 ("linearizable keys").

use super::graph::{Edge, Reason};
use super::prepare::{KeyId, Prepared, Step, TxnId, VersionId};
use super::{Anomaly, AnomalyKind, Found, graph, real_time};
use std::collections::{BTreeMap, BTreeSet};

/// A version of one key; `None` is the absence at the start.
type Seen = Option<VersionId>;

/// What one transaction did to one key, seen from outside.
#[derive(Clone, Copy, Debug)]
struct Touch {
    txn: TxnId,
    /// What it read before it wrote.
    read: Option<Seen>,
    /// What it left behind.
    wrote: Option<VersionId>,
}

impl Touch {
    fn first(&self) -> Seen {
        self.read.unwrap_or(self.wrote)
    }

    fn last(&self) -> Seen {
        self.wrote.or(self.read.flatten())
    }
}

/// Anomalies and dependencies of transactions over registers.
pub fn analyse(prepared: &Prepared) -> Found {
    let mut found = Found { anomalies: Vec::new(), edges: Vec::new() };
    let mut touches: Vec<Vec<Touch>> = vec![Vec::new(); prepared.key_count()];
    for (number, txn) in prepared.transactions.iter().enumerate() {
        if txn.took_effect() {
            for (key, touch) in walk(prepared, number, &txn.steps, &mut found) {
                touches[key].push(touch);
            }
        }
    }
    for (key, touches) in touches.iter().enumerate() {
        of_key(prepared, key, touches, &mut found);
    }
    found
}

/// One transaction's steps in their order: does it see its own writes, and nothing change?
fn walk(prepared: &Prepared, txn: TxnId, steps: &[Step], found: &mut Found) -> BTreeMap<KeyId, Touch> {
    let mut known: BTreeMap<KeyId, Seen> = BTreeMap::new();
    let mut touches: BTreeMap<KeyId, Touch> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Write { key, version } => {
                known.insert(*key, Some(*version));
                touches.entry(*key).or_insert(Touch { txn, read: None, wrote: None }).wrote = Some(*version);
            }
            Step::Read { key, seen } => {
                let seen = seen.first().copied();
                match known.insert(*key, seen) {
                    Some(expected) if expected != seen => {
                        let [expected, seen] = [expected, seen].map(|seen| value_text(prepared, seen));
                        let (key, txn) = (prepared.key_text(*key), prepared.txn_text(txn));
                        let detail = format!("key {key} should be {expected}, and was {seen}, in {txn}");
                        found.anomalies.push(Anomaly { kind: AnomalyKind::Internal, detail });
                    }
                    Some(_) => {}
                    None => {
                        if let Some(version) = seen {
                            prepared.judge_seen(txn, version, found);
                            prepared.judge_intermediate(txn, version, found);
                        }
                        touches.insert(*key, Touch { txn, read: Some(seen), wrote: None });
                    }
                }
            }
        }
    }
    touches
}

fn value_text(prepared: &Prepared, seen: Seen) -> &str {
    seen.map_or("absent", |version| prepared.version_text(version))
}

/// What is known to come after each version of one key.
type Order = BTreeMap<Seen, BTreeSet<Seen>>;

fn before(order: &mut Order, one: Seen, other: Seen) {
    if one != other {
        order.entry(one).or_default().insert(other);
    }
}

/// One key's versions: which comes before which, as far as known.
fn of_key(prepared: &Prepared, key: KeyId, touches: &[Touch], found: &mut Found) {
    let mut order = Order::new();
    for touch in touches {
        before(&mut order, touch.first(), touch.last());
    }
    let span = |(number, touch): (usize, &Touch)| {
        let txn = &prepared.transactions[touch.txn];
        real_time::Span { number, invoked: txn.invoked, ended: txn.ended }
    };
    let spans: Vec<real_time::Span> = touches.iter().enumerate().map(span).collect();
    for (earlier, later) in real_time::reduction(&spans) {
        before(&mut order, touches[earlier].last(), touches[later].first());
    }
    let preceded: BTreeSet<Seen> = order.values().flatten().copied().collect();
    let all: BTreeSet<Seen> = touches.iter().flat_map(|touch| [touch.first(), touch.last()]).collect();
    all.difference(&preceded).filter(|seen| seen.is_some()).for_each(|&first| before(&mut order, None, first));
    let mut readers: BTreeMap<Seen, Vec<Touch>> = BTreeMap::new();
    for touch in touches {
        if let Some(seen) = touch.read {
            readers.entry(seen).or_default().push(*touch);
        }
    }
    let updates = readers.iter().map(|(&seen, readers)| {
        let updaters = readers.iter().filter(|touch| touch.wrote.is_some()).map(|touch| touch.txn);
        (seen, updaters.collect())
    });
    prepared.judge_updates(key, &updates.collect(), found);
    if let Some(cycle) = cyclic(&order) {
        let versions: Vec<&str> = cycle.iter().map(|&seen| value_text(prepared, seen)).collect();
        let detail = format!("key {} had {}, each before the next one", prepared.key_text(key), versions.join(", "));
        found.anomalies.push(Anomaly { kind: AnomalyKind::CyclicVersions, detail });
        return;
    }
    edges(prepared, key, &order, &readers, found);
}

/// Versions in a circle, when there is one.
fn cyclic(order: &Order) -> Option<Vec<Seen>> {
    let number = |seen: Seen| seen.map_or(0, |version| version + 1);
    let pairs = order.iter().flat_map(|(&one, others)| others.iter().map(move |&other| (number(one), number(other))));
    let cycle = graph::cycle_among(pairs)?;
    Some(cycle.into_iter().map(|number| number.checked_sub(1)).collect())
}

fn edges(prepared: &Prepared, key: KeyId, order: &Order, readers: &BTreeMap<Seen, Vec<Touch>>, found: &mut Found) {
    let writer = |seen: Seen| seen.and_then(|version| prepared.versions[version].writer);
    for (&seen, readers) in readers {
        if let (Some(version), Some(from)) = (seen, writer(seen)) {
            let reason = Reason::WriteRead { version };
            found.edges.extend(readers.iter().map(|reader| Edge { from, to: reader.txn, reason }));
        }
    }
    for (&seen, nexts) in order {
        for next in nexts.iter().copied().flatten() {
            let Some(to) = writer(Some(next)) else { continue };
            if let (Some(before), Some(from)) = (seen, writer(seen)) {
                found.edges.push(Edge { from, to, reason: Reason::WriteWrite { before, after: next } });
            }
            let reason = Reason::ReadWrite { key, seen, next };
            let readers = readers.get(&seen).into_iter().flatten();
            found.edges.extend(readers.map(|reader| Edge { from: reader.txn, to, reason }));
        }
    }
}
