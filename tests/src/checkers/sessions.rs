//! Sessions: every read's position is at or past its token, its value is the log's prefix fold there, and nothing goes back.
//!
//! * In: what each session was told, step by step, and the log. Out: which step is a lie.
//! * A read names the position that served it (the offset of the last record applied; none while a partition is empty) and
//!   what it found. A write names its record's offset and whether it took effect.
//! * Positions of one session never go back within a partition, whichever node answers: with the fold that gives monotonic
//!   reads and read-your-writes.
//! * Deliberately absent: reads without a promise (`stale`); leave them out.
//! * Source: DESIGN §6, invariants 1, 5, 6 and 8.

use super::Verdict;
use super::log::Log;
use bytes::Bytes;
use duramen_common::batch::{RecordBody, Update};
use duramen_common::{Offset, PartitionId, SessionToken, Timestamp};
use duramen_serving_node::testing::Model;
use duramen_serving_node::view::Outcome;
use std::collections::BTreeMap;
use std::fmt;

/// A key's value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The record that wrote it.
    pub version: Offset,
    /// Its value.
    pub value: Bytes,
}

/// One thing that a session was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionStep {
    /// A record was acknowledged.
    Wrote {
        /// Where it stands.
        timestamp: Timestamp,
        /// What it changes, if its guards hold.
        updates: Vec<Update>,
        /// Whether they did.
        took_effect: bool,
    },
    /// A key was read.
    Read {
        /// The key.
        key: Bytes,
        /// Where it belongs.
        partition: PartitionId,
        /// The token that the read carried.
        asked: Option<SessionToken>,
        /// The position that served it: the offset of the last record applied; `None`: no record.
        served: Option<Offset>,
        /// What was there.
        found: Option<Live>,
    },
}

/// One session: one client, which merges every timestamp that it sees into its token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// For reports.
    pub name: String,
    /// What it was told, in order.
    pub steps: Vec<SessionStep>,
}

/// What can be wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionAnomalyKind {
    /// An acknowledged record is not in the log at its offset.
    LostWrite,
    /// A record's guards are told to hold and do not, or the other way round.
    WrongOutcome,
    /// A read was served before the position that its token names.
    TokenIgnored,
    /// A read was served before one of the session's own writes.
    OwnWriteUnseen,
    /// A read was served before one of the session's earlier reads.
    WentBack,
    /// A read was served at a position that the log does not have.
    BeyondTheLog,
    /// A read found something else than the log's prefix folds to.
    WrongValue,
}

/// A lie that a session was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionAnomaly {
    /// What it is called.
    pub kind: SessionAnomalyKind,
    /// The session's name.
    pub session: String,
    /// The step's number.
    pub step: usize,
    /// The step, and what should have been.
    pub detail: String,
}

impl fmt::Display for SessionAnomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: session {}, step {}: {}", self.kind, self.session, self.step, self.detail)
    }
}

/// How far a session has seen a partition: by its reads, by its writes.
#[derive(Clone, Copy, Default)]
struct Seen {
    read: Option<Offset>,
    wrote: Option<Offset>,
}

/// A read, by where it was served.
struct Served<'a> {
    session: &'a str,
    step: usize,
    key: &'a Bytes,
    found: Option<&'a Live>,
}

/// Whether every session was told the truth.
pub fn check(log: &Log, sessions: &[Session]) -> Verdict<SessionAnomaly> {
    let mut anomalies = Vec::new();
    let mut served: BTreeMap<PartitionId, BTreeMap<Option<Offset>, Vec<Served<'_>>>> = BTreeMap::new();
    let outcomes: BTreeMap<PartitionId, BTreeMap<Offset, Outcome>> =
        log.partitions().map(|partition| (partition, log.outcomes(partition))).collect();
    for session in sessions {
        let mut seen: BTreeMap<PartitionId, Seen> = BTreeMap::new();
        for (step, told) in session.steps.iter().enumerate() {
            let found = match told {
                SessionStep::Wrote { timestamp, updates, took_effect } => {
                    let seen = seen.entry(timestamp.partition).or_default();
                    seen.wrote = seen.wrote.max(Some(timestamp.offset));
                    check_write(log, &outcomes, *timestamp, updates, *took_effect)
                }
                SessionStep::Read { key, partition, asked, served: at, found } => {
                    let reads = served.entry(*partition).or_default().entry(*at).or_default();
                    reads.push(Served { session: &session.name, step, key, found: found.as_ref() });
                    let seen = seen.entry(*partition).or_default();
                    let lie = check_position(asked.as_ref().and_then(|token| token.position(*partition)), *at, seen);
                    seen.read = seen.read.max(*at);
                    lie
                }
            };
            if let Some((kind, why)) = found {
                let detail = format!("{why}: {told:?}");
                anomalies.push(SessionAnomaly { kind, session: session.name.clone(), step, detail });
            }
        }
    }
    for (partition, reads) in served {
        check_values(log, partition, &reads, &mut anomalies);
    }
    anomalies.sort_by(|one, other| (one.kind, &one.session, one.step).cmp(&(other.kind, &other.session, other.step)));
    Verdict::of(anomalies)
}

type Lie = Option<(SessionAnomalyKind, String)>;

fn check_write(
    log: &Log,
    outcomes: &BTreeMap<PartitionId, BTreeMap<Offset, Outcome>>,
    at: Timestamp,
    updates: &[Update],
    took_effect: bool,
) -> Lie {
    let there = log.record(at.partition, at.offset).map(|logged| &logged.record.body);
    if !matches!(there, Some(RecordBody::Updates { updates: there, .. }) if there == updates) {
        return Some((SessionAnomalyKind::LostWrite, format!("the log has {there:?} at {at}")));
    }
    let outcome = outcomes.get(&at.partition).and_then(|outcomes| outcomes.get(&at.offset));
    let held = outcome == Some(&Outcome::Effective);
    (held != took_effect).then(|| (SessionAnomalyKind::WrongOutcome, format!("by the log's order it is {outcome:?}")))
}

fn check_position(asked: Option<Offset>, served: Option<Offset>, seen: &Seen) -> Lie {
    let (kind, wanted) = if asked > served {
        (SessionAnomalyKind::TokenIgnored, asked)
    } else if seen.wrote > served {
        (SessionAnomalyKind::OwnWriteUnseen, seen.wrote)
    } else if seen.read > served {
        (SessionAnomalyKind::WentBack, seen.read)
    } else {
        return None;
    };
    Some((kind, format!("it should be at {wanted:?} or later")))
}

/// Holds the reads of one partition against the fold at the position of each.
fn check_values(
    log: &Log,
    partition: PartitionId,
    reads: &BTreeMap<Option<Offset>, Vec<Served<'_>>>,
    anomalies: &mut Vec<SessionAnomaly>,
) {
    let records = log.records(partition);
    let mut model = Model::default();
    let mut next = 0;
    for (&position, reads) in reads {
        while let Some(logged) = records.get(next).filter(|logged| Some(logged.offset) <= position) {
            model.fold(logged.offset, &logged.record, logged.is_settled);
            next += 1;
        }
        let is_beyond = position > records.last().map(|last| last.offset);
        for read in reads {
            let folded = model.live.get(&read.key[..]);
            let folded =
                folded.map(|(version, value)| Live { version: *version, value: Bytes::copy_from_slice(value) });
            let (kind, what) = match is_beyond {
                true => (SessionAnomalyKind::BeyondTheLog, "the log ends before"),
                false if folded.as_ref() != read.found => (SessionAnomalyKind::WrongValue, "not the fold"),
                false => continue,
            };
            let (key, found) = (String::from_utf8_lossy(read.key), read.found);
            let detail = format!("{what}: {key} at {partition}:{position:?} is {folded:?}, and was read as {found:?}");
            anomalies.push(SessionAnomaly { kind, session: read.session.to_owned(), step: read.step, detail });
        }
    }
}

#[cfg(test)]
mod tests;
