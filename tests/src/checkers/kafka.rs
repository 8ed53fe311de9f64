//! The log as Maelstrom's `kafka` workload sees it: sends, polls, committed offsets.
//!
//! * A key's log is immutable and has one message at an offset; offsets may have gaps. A poll from an offset shows all
//!   messages from there on up to some point, in order. It need not be up to date, and may show nothing.
//! * Offsets follow real time: what is sent after an answer that named an offset comes after that offset.
//! * Committed offsets only grow: a list shows at least what was certainly committed, or listed, before it was asked for.
//! * An unknown send counts once it was polled; an unknown commit may show or not.
//! * In: every message is sent to a key once. Deliberately absent: polls must reach the end some day; ask [`unseen`] after
//!   the last ones.
//! * Source: Maelstrom's `kafka` workload and `jepsen.tests.kafka`.

use super::{History, Operation, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KafkaCall<K, M> {
    /// Append a message.
    Send {
        /// To this key's log.
        key: K,
        /// No other send of this key has the same.
        message: M,
    },
    /// Messages from these offsets on.
    Poll {
        /// First offset wanted, by key.
        from: BTreeMap<K, u64>,
    },
    /// Note how far messages have been dealt with.
    CommitOffsets {
        /// By key.
        offsets: BTreeMap<K, u64>,
    },
    /// What was noted.
    ListCommittedOffsets {
        /// Of these keys.
        keys: Vec<K>,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KafkaReturn<K, M> {
    /// The message's offset.
    Sent {
        /// In its key's log.
        offset: u64,
    },
    /// Messages with their offsets.
    Polled {
        /// By key; a key without messages may be absent.
        messages: BTreeMap<K, Vec<(u64, M)>>,
    },
    /// Noted.
    Committed,
    /// Offsets by key; a key without any is absent.
    CommittedOffsets {
        /// By key.
        offsets: BTreeMap<K, u64>,
    },
}

/// Operations on the log.
pub type KafkaHistory<K, M> = History<KafkaCall<K, M>, KafkaReturn<K, M>>;
type Op<K, M> = Operation<KafkaCall<K, M>, KafkaReturn<K, M>>;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KafkaAnomalyKind {
    /// An acknowledged message that every poll over its offset leaves out.
    LostWrite,
    /// A message at two offsets.
    Duplicate,
    /// Two messages at one offset.
    DivergentOffset,
    /// A message that was polled and whose send failed.
    AbortedRead,
    /// A message that was polled and that nobody had sent yet.
    UnwrittenRead,
    /// A poll whose offsets do not grow, or begin before what was asked for.
    ReorderedPoll,
    /// A poll that leaves out a message that another one shows.
    Skipped,
    /// A message sent after another one's offset was known, at a smaller offset.
    ReorderedSend,
    /// A committed offset that went backwards.
    CommittedBackwards,
    /// A committed offset that nobody had committed.
    UnknownCommit,
}

/// Something wrong, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaAnomaly {
    /// What it is called.
    pub kind: KafkaAnomalyKind,
    /// The key, and the operations that show it.
    pub detail: String,
}

impl fmt::Display for KafkaAnomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// First offset asked for, what was answered, and by which operation.
type Poll<'a, K, M> = (u64, &'a [(u64, M)], &'a Op<K, M>);

/// One key, as all operations on it show it.
struct Log<'a, K, M> {
    sends: Vec<(&'a M, &'a Op<K, M>)>,
    polls: Vec<Poll<'a, K, M>>,
    commits: Vec<(u64, &'a Op<K, M>)>,
    /// `None`: nothing was noted.
    lists: Vec<(Option<u64>, &'a Op<K, M>)>,
}

impl<K, M> Default for Log<'_, K, M> {
    fn default() -> Self {
        Log { sends: Vec::new(), polls: Vec::new(), commits: Vec::new(), lists: Vec::new() }
    }
}

/// Whether the log is one.
pub fn check<K, M>(history: &KafkaHistory<K, M>) -> Verdict<KafkaAnomaly>
where
    K: Ord + Clone + Debug,
    M: Ord + Clone + Debug,
{
    let mut anomalies = Vec::new();
    for (key, log) in by_key(history) {
        let mut sent = BTreeSet::new();
        if let Some((message, _)) = log.sends.iter().find(|(message, _)| !sent.insert(*message)) {
            return Verdict::Undecided { reason: format!("{message:?} is sent to key {key:?} twice") };
        }
        let mut found = Vec::new();
        messages(&log, &mut found);
        polls(&log, &mut found);
        send_order(&log, &mut found);
        committed(&log, &mut found);
        let named = |(kind, detail)| KafkaAnomaly { kind, detail: format!("key {key:?}: {detail}") };
        anomalies.extend(found.into_iter().map(named));
    }
    anomalies.sort_by_key(|anomaly: &KafkaAnomaly| anomaly.kind);
    Verdict::of(anomalies)
}

/// Acknowledged messages that no poll has shown: after polls that should have read everything, there are none.
#[must_use]
pub fn unseen<K, M>(history: &KafkaHistory<K, M>) -> Vec<(K, u64, M)>
where
    K: Ord + Clone + Debug,
    M: Ord + Clone + Debug,
{
    let mut unseen = Vec::new();
    for (key, log) in by_key(history) {
        let seen: BTreeSet<u64> =
            log.polls.iter().flat_map(|(_, shown, _)| shown.iter().map(|(offset, _)| *offset)).collect();
        let sent = log.sends.iter().filter_map(|(message, op)| Some((offset_of(op)?, *message)));
        unseen.extend(
            sent.filter(|(offset, _)| !seen.contains(offset))
                .map(|(offset, message)| (key.clone(), offset, message.clone())),
        );
    }
    unseen
}

fn by_key<K: Ord + Clone, M>(history: &KafkaHistory<K, M>) -> BTreeMap<K, Log<'_, K, M>> {
    let mut logs: BTreeMap<K, Log<'_, K, M>> = BTreeMap::new();
    for op in history.operations() {
        match (&op.call, op.result()) {
            (KafkaCall::Send { key, message }, _) => logs.entry(key.clone()).or_default().sends.push((message, op)),
            (KafkaCall::Poll { from }, Some(KafkaReturn::Polled { messages })) => {
                for (key, messages) in messages {
                    // What was not asked for begins nowhere.
                    let from = from.get(key).copied().unwrap_or(u64::MAX);
                    logs.entry(key.clone()).or_default().polls.push((from, messages, op));
                }
            }
            (KafkaCall::CommitOffsets { offsets }, _) if !op.failed() => {
                for (key, &offset) in offsets {
                    logs.entry(key.clone()).or_default().commits.push((offset, op));
                }
            }
            (KafkaCall::ListCommittedOffsets { keys }, Some(KafkaReturn::CommittedOffsets { offsets })) => {
                for key in keys {
                    logs.entry(key.clone()).or_default().lists.push((offsets.get(key).copied(), op));
                }
            }
            _ => {}
        }
    }
    logs
}

fn offset_of<K, M>(op: &Op<K, M>) -> Option<u64> {
    match op.result() {
        Some(KafkaReturn::Sent { offset }) => Some(*offset),
        _ => None,
    }
}

type Found = Vec<(KafkaAnomalyKind, String)>;

/// One message at an offset, one offset for a message, and only what was sent.
fn messages<K: Debug, M: Ord + Debug>(log: &Log<'_, K, M>, found: &mut Found) {
    let senders: BTreeMap<&M, &Op<K, M>> = log.sends.iter().copied().collect();
    let mut at: BTreeMap<u64, (&M, &Op<K, M>)> = BTreeMap::new();
    let mut offsets: BTreeMap<&M, (u64, &Op<K, M>)> = BTreeMap::new();
    let acknowledged = log.sends.iter().filter_map(|&(message, op)| Some((offset_of(op)?, message, op)));
    let polled =
        log.polls.iter().flat_map(|&(_, shown, op)| shown.iter().map(move |(offset, message)| (*offset, message, op)));
    for (offset, message, op) in acknowledged.chain(polled) {
        let &mut (other, by) = at.entry(offset).or_insert((message, op));
        if other != message {
            let detail = format!("offset {offset} is {other:?} in {by}, and {message:?} in {op}");
            found.push((KafkaAnomalyKind::DivergentOffset, detail));
        }
        let &mut (other, by) = offsets.entry(message).or_insert((offset, op));
        if other != offset {
            let detail = format!("{message:?} is at {other} in {by}, and at {offset} in {op}");
            found.push((KafkaAnomalyKind::Duplicate, detail));
        }
        match senders.get(message) {
            Some(send) if send.failed() => {
                found.push((KafkaAnomalyKind::AbortedRead, format!("{message:?} of {send} in {op}")));
            }
            Some(send) if !op.precedes(send) => {}
            _ => found.push((KafkaAnomalyKind::UnwrittenRead, format!("{message:?} in {op}"))),
        }
    }
}

/// Each poll shows all that there is from where it began to where it ends.
fn polls<K: Debug, M: Debug>(log: &Log<'_, K, M>, found: &mut Found) {
    let seen: BTreeSet<u64> =
        log.polls.iter().flat_map(|(_, shown, _)| shown.iter().map(|(offset, _)| *offset)).collect();
    let senders: BTreeMap<u64, &Op<K, M>> =
        log.sends.iter().filter_map(|&(_, op)| Some((offset_of(op)?, op))).collect();
    let known: BTreeSet<u64> = seen.iter().chain(senders.keys()).copied().collect();
    let mut lost = BTreeMap::new();
    for &(from, shown, op) in &log.polls {
        let grows = shown.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !grows || shown.first().is_some_and(|&(first, _)| first < from) {
            found.push((KafkaAnomalyKind::ReorderedPoll, format!("from {from}: {op}")));
            continue;
        }
        let Some(&(last, _)) = shown.last() else { continue };
        let shown: BTreeSet<u64> = shown.iter().map(|&(offset, _)| offset).collect();
        for &offset in known.range(from..=last).filter(|offset| !shown.contains(offset)) {
            match senders.get(&offset).filter(|_| !seen.contains(&offset)) {
                Some(send) => drop(lost.entry(offset).or_insert((send, op))),
                None => found.push((KafkaAnomalyKind::Skipped, format!("offset {offset}, by {op}"))),
            }
        }
    }
    for (offset, (send, poll)) in lost {
        found
            .push((KafkaAnomalyKind::LostWrite, format!("offset {offset} of {send}, not in {poll}, nor in any other")));
    }
}

/// What operations claim to be so from their end on, greatest first.
struct Claims<'a, K, M>(Vec<(u64, u64, &'a Op<K, M>)>);

impl<'a, K, M> Claims<'a, K, M> {
    fn new(claims: impl Iterator<Item = (u64, &'a Op<K, M>)>) -> Claims<'a, K, M> {
        let mut claims: Vec<_> = claims.filter_map(|(value, op)| Some((op.end_index()?, value, op))).collect();
        claims.sort_by_key(|&(end, ..)| end);
        let mut greatest = None;
        for (_, value, op) in &mut claims {
            let (so_far, by) = *greatest.get_or_insert((*value, *op));
            if so_far >= *value {
                (*value, *op) = (so_far, by);
            } else {
                greatest = Some((*value, *op));
            }
        }
        Claims(claims)
    }

    /// The greatest claim that stood when this was asked, and who made it.
    fn before(&self, asked: &Op<K, M>) -> Option<(u64, &'a Op<K, M>)> {
        let count = self.0.partition_point(|&(end, ..)| end < asked.invoked.index);
        count.checked_sub(1).map(|last| (self.0[last].1, self.0[last].2))
    }
}

/// What is sent once an offset is known comes after it.
fn send_order<K: Debug, M: Debug>(log: &Log<'_, K, M>, found: &mut Found) {
    let sends = log.sends.iter().filter_map(|&(_, op)| Some((offset_of(op)?, op)));
    let polls = log.polls.iter().filter_map(|&(_, shown, op)| Some((shown.last()?.0, op)));
    let claims = Claims::new(sends.clone().chain(polls));
    for (offset, send) in sends {
        if let Some((before, by)) = claims.before(send).filter(|&(before, _)| before >= offset) {
            found.push((KafkaAnomalyKind::ReorderedSend, format!("{send}, after {before} was known by {by}")));
        }
    }
}

fn committed<K: Debug, M: Debug>(log: &Log<'_, K, M>, found: &mut Found) {
    let commits = log.commits.iter().copied();
    let lists = log.lists.iter().filter_map(|&(offset, op)| Some((offset?, op)));
    let claims = Claims::new(commits.chain(lists));
    for &(listed, list) in &log.lists {
        if let Some((before, by)) =
            claims.before(list).filter(|&(before, _)| listed.is_none_or(|listed| listed < before))
        {
            found.push((KafkaAnomalyKind::CommittedBackwards, format!("{listed:?} in {list}, after {before} in {by}")));
        }
        let claimed = |&(offset, commit): &(u64, &Op<K, M>)| Some(offset) == listed && !list.precedes(commit);
        if listed.is_some() && !log.commits.iter().any(claimed) {
            found.push((KafkaAnomalyKind::UnknownCommit, format!("{listed:?} in {list}")));
        }
    }
}

#[cfg(test)]
mod tests;
