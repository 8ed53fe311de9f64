//! Lists: every read shows the whole order of appends so far, so version orders are read off, not guessed.
//!
//! * A key's order is its longest read; every other read must be a prefix of it, and one transaction's appends must stand
//!   in it as they were made.
//! * An append that took effect and that no read shows comes after all that the longest read shows, in an unknown order with others
//!   of its kind. When a read began after it had ended, it is lost.
//! * Source: Elle, section 4.2.

use super::graph::{Edge, Reason};
use super::prepare::{Ending, KeyId, Prepared, Step, Txn, TxnId, VersionId};
use super::{Anomaly, AnomalyKind, Found};
use std::collections::{BTreeMap, BTreeSet};

/// A read of what other transactions had written: the list without the reader's own appends.
struct Read {
    reader: TxnId,
    /// How many elements others had appended.
    external: usize,
    seen: Vec<VersionId>,
}

/// Anomalies and dependencies of transactions over lists.
pub fn analyse(prepared: &Prepared) -> Found {
    let mut found = Found { anomalies: Vec::new(), edges: Vec::new() };
    let mut reads: Vec<Vec<Read>> = (0..prepared.key_count()).map(|_| Vec::new()).collect();
    for (number, txn) in prepared.transactions.iter().enumerate() {
        if txn.ending == Ending::Committed {
            walk(prepared, number, &txn.steps, &mut reads, &mut found);
        }
    }
    let mut unseen: Vec<Vec<VersionId>> = vec![Vec::new(); prepared.key_count()];
    let seen: BTreeSet<VersionId> = reads.iter().flatten().flat_map(|read| read.seen.iter().copied()).collect();
    for (number, version) in prepared.versions.iter().enumerate() {
        let writer = version.writer.map(|writer| &prepared.transactions[writer]);
        if writer.is_some_and(Txn::took_effect) && !seen.contains(&number) {
            unseen[version.key].push(number);
        }
    }
    for (key, reads) in reads.iter().enumerate() {
        of_key(prepared, key, reads, &unseen[key], &mut found);
    }
    found
}

/// One transaction's steps in their order: does it see its own appends, and nothing change?
fn walk(prepared: &Prepared, txn: TxnId, steps: &[Step], reads: &mut [Vec<Read>], found: &mut Found) {
    let mut known: BTreeMap<KeyId, Vec<VersionId>> = BTreeMap::new();
    let mut own: BTreeMap<KeyId, Vec<VersionId>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Write { key, version } => match known.get_mut(key) {
                Some(list) => list.push(*version),
                None => own.entry(*key).or_default().push(*version),
            },
            Step::Read { key, seen } => {
                let own = own.remove(key).unwrap_or_default();
                let expected = known.insert(*key, seen.clone());
                let fits = match &expected {
                    Some(expected) => seen == expected,
                    None => seen.ends_with(&own),
                };
                if !fits {
                    let expected = expected.unwrap_or(own);
                    let (expected, seen) = (prepared.list_text(&expected), prepared.list_text(seen));
                    let (key, txn) = (prepared.key_text(*key), prepared.txn_text(txn));
                    let detail = format!("key {key} should be or end with {expected}, and was {seen}, in {txn}");
                    found.anomalies.push(Anomaly { kind: AnomalyKind::Internal, detail });
                } else if expected.is_none() {
                    let external = seen.len() - own.len();
                    judge(prepared, txn, *key, seen, external, found);
                    reads[*key].push(Read { reader: txn, external, seen: seen.clone() });
                }
            }
        }
    }
}

/// What is wrong with one read alone.
fn judge(prepared: &Prepared, reader: TxnId, key: KeyId, seen: &[VersionId], external: usize, found: &mut Found) {
    let mut distinct = BTreeSet::new();
    for &version in seen {
        if !distinct.insert(version) {
            let (value, list) = (prepared.version_text(version), prepared.list_text(seen));
            let (key, txn) = (prepared.key_text(key), prepared.txn_text(reader));
            let detail = format!("{value} twice in {list} of key {key}, by {txn}");
            found.anomalies.push(Anomaly { kind: AnomalyKind::Duplicate, detail });
        }
    }
    seen[..external].iter().for_each(|&version| prepared.judge_seen(reader, version, found));
    if let Some(&last) = seen[..external].last() {
        prepared.judge_intermediate(reader, last, found);
    }
}

/// One key's order, and what follows from it.
fn of_key(prepared: &Prepared, key: KeyId, reads: &[Read], unseen: &[VersionId], found: &mut Found) {
    let Some(longest) = reads.iter().max_by_key(|read| read.seen.len()) else { return };
    let order = &longest.seen;
    let mut by_version: BTreeMap<Option<VersionId>, Vec<TxnId>> = BTreeMap::new();
    for read in reads {
        if !order.starts_with(&read.seen) {
            let (one, other) = (prepared.txn_text(longest.reader), prepared.txn_text(read.reader));
            let (key, lists) = (prepared.key_text(key), [prepared.list_text(order), prepared.list_text(&read.seen)]);
            let detail = format!("key {key} was {} in {one} and {} in {other}", lists[0], lists[1]);
            found.anomalies.push(Anomaly { kind: AnomalyKind::IncompatibleOrder, detail });
            continue;
        }
        read_edges(prepared, key, read, order, unseen, found);
        let writes_too = prepared.transactions[read.reader].steps.iter();
        let mut writes_too = writes_too.filter(|step| matches!(step, Step::Write { key: other, .. } if *other == key));
        if writes_too.next().is_some() {
            by_version.entry(read.seen[..read.external].last().copied()).or_default().push(read.reader);
        }
    }
    prepared.judge_updates(key, &by_version, found);
    own_order(prepared, key, order, found);
    write_edges(prepared, order, unseen, found);
    lost(prepared, key, reads, unseen, found);
}

/// One transaction's appends stand in the order in which it made them, and none is left out.
fn own_order(prepared: &Prepared, key: KeyId, order: &[VersionId], found: &mut Found) {
    let mut counts: BTreeMap<TxnId, usize> = BTreeMap::new();
    for &version in order {
        let Some(writer) = prepared.versions[version].writer else { continue };
        let count = counts.entry(writer).or_default();
        if prepared.versions[version].ordinal != *count {
            let (value, list) = (prepared.version_text(version), prepared.list_text(order));
            let (key, writer) = (prepared.key_text(key), prepared.txn_text(writer));
            let detail = format!("{value} of key {key} stands at the wrong place in {list} for what {writer} appended");
            found.anomalies.push(Anomaly { kind: AnomalyKind::IncompatibleOrder, detail });
            return;
        }
        *count += 1;
    }
}

fn write_edges(prepared: &Prepared, order: &[VersionId], unseen: &[VersionId], found: &mut Found) {
    let last = order.last().copied();
    let after_last = unseen.iter().filter_map(|&version| last.map(|last| (last, version)));
    let pairs = order.windows(2).map(|pair| (pair[0], pair[1])).chain(after_last);
    for (before, after) in pairs {
        if let (Some(from), Some(to)) = (prepared.versions[before].writer, prepared.versions[after].writer) {
            found.edges.push(Edge { from, to, reason: Reason::WriteWrite { before, after } });
        }
    }
}

fn read_edges(
    prepared: &Prepared,
    key: KeyId,
    read: &Read,
    order: &[VersionId],
    unseen: &[VersionId],
    found: &mut Found,
) {
    let seen = read.seen[..read.external].last().copied();
    if let Some((version, from)) =
        seen.and_then(|version| prepared.versions[version].writer.map(|writer| (version, writer)))
    {
        found.edges.push(Edge { from, to: read.reader, reason: Reason::WriteRead { version } });
    }
    // What comes next: one append that was read, or all that were not.
    let next = order.get(read.external).map_or(unseen, std::slice::from_ref);
    for &next in next {
        if let Some(to) = prepared.versions[next].writer {
            found.edges.push(Edge { from: read.reader, to, reason: Reason::ReadWrite { key, seen, next } });
        }
    }
}

fn lost(prepared: &Prepared, key: KeyId, reads: &[Read], unseen: &[VersionId], found: &mut Found) {
    let Some(last) = reads.iter().max_by_key(|read| prepared.transactions[read.reader].invoked) else { return };
    for &version in unseen {
        let Some(writer) = prepared.versions[version].writer else { continue };
        let ended = prepared.transactions[writer].ended;
        if ended.is_some_and(|ended| ended < prepared.transactions[last.reader].invoked) {
            let (value, key) = (prepared.version_text(version), prepared.key_text(key));
            let (reader, writer) = (prepared.txn_text(last.reader), prepared.txn_text(writer));
            let detail =
                format!("{value} of key {key}, acknowledged in {writer}, is not seen by {reader}, nor by any other");
            found.anomalies.push(Anomaly { kind: AnomalyKind::LostAppend, detail });
        }
    }
}
