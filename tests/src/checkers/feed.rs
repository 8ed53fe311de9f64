//! Feeds: each connection tells exactly the log's effective updates from its position on, and ids say how far it has come.
//!
//! * In: what a reader asked for and was told, connection by connection, and the log. Out: gaps, repeats, reordering, events
//!   that are not the log's, ids that would make a resumed feed skip or repeat.
//! * Order holds within a partition; partitions interleave as they like.
//! * Only a record's last event (of those with the feed's prefix) carries an id, so that a record that was cut off repeats
//!   whole: an id is given for what was told completely, and for nothing else.
//! * Invariant checked of any id: a feed resumed with it tells everything that was not told, and nothing that was.
//! * Source: DESIGN §4; the HTML standard, "Server-sent events".

use super::Verdict;
use super::log::Log;
use bytes::Bytes;
use duramen_common::{Offset, PartitionId, SessionToken, Timestamp};
use std::collections::BTreeMap;
use std::fmt;

/// One event as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// A put or a delete.
    Change {
        /// The record.
        version: Timestamp,
        /// The key.
        key: Bytes,
        /// `None`: a delete.
        value: Option<Bytes>,
        /// The event's id.
        id: Option<SessionToken>,
    },
    /// Nothing happened, and this is how far the feed has come.
    Progress {
        /// The event's id.
        id: SessionToken,
    },
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConnection {
    /// Who read, for reports.
    pub reader: String,
    /// Where it began, as the answer's head says. A partition that it does not name begins at 0.
    pub from: SessionToken,
    /// Only keys that start with this were asked for.
    pub prefix: Bytes,
    /// What came, in order, until the connection ended, wherever that was.
    pub events: Vec<FeedEvent>,
}

/// What can be wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FeedAnomalyKind {
    /// Updates were left out before it.
    Gap,
    /// It had been told before, in this connection or by its start.
    Repeat,
    /// The log has no such update, or it took no effect.
    Invented,
    /// Its id names what was not told yet: resumed there, updates are left out.
    IdAhead,
    /// Its id does not name what was told: resumed there, updates repeat. Also an id missing where a record is complete.
    IdBehind,
    /// A connection begins elsewhere than where its reader had come to.
    ResumedElsewhere,
}

/// An event that should be another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedAnomaly {
    /// What it is called.
    pub kind: FeedAnomalyKind,
    /// The connection's number.
    pub connection: usize,
    /// The event's number in its connection.
    pub event: usize,
    /// The event, and what should have been.
    pub detail: String,
}

impl fmt::Display for FeedAnomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: connection {}, event {}: {}", self.kind, self.connection, self.event, self.detail)
    }
}

/// An update that a feed has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    offset: Offset,
    key: Bytes,
    value: Option<Bytes>,
    /// Whether it is the last one of its record.
    is_last: bool,
}

/// What every feed of one prefix has to tell, by partition.
type Script = BTreeMap<PartitionId, Vec<Told>>;

/// Whether every connection told the truth. Connections of one reader that follow each other must resume where the one
/// before had come to.
pub fn check(log: &Log, connections: &[FeedConnection]) -> Verdict<FeedAnomaly> {
    let mut scripts: BTreeMap<&Bytes, Script> = BTreeMap::new();
    let mut resume_at: BTreeMap<&str, SessionToken> = BTreeMap::new();
    let mut anomalies = Vec::new();
    for (number, connection) in connections.iter().enumerate() {
        let script = scripts.entry(&connection.prefix).or_insert_with(|| script(log, &connection.prefix));
        let mut found = Vec::new();
        let mut last_id = connection.from.clone();
        if let Some(wanted) = resume_at.get(connection.reader.as_str()).filter(|&wanted| *wanted != connection.from) {
            let detail = format!("begins at {}, after {wanted}", connection.from);
            found.push((0, FeedAnomalyKind::ResumedElsewhere, detail));
        }
        let mut replay = Replay::new(log, script, &connection.from);
        for (place, event) in connection.events.iter().enumerate() {
            // After the first one, what follows in a connection would only be more of the same.
            if found.iter().all(|&(_, kind, _)| kind == FeedAnomalyKind::ResumedElsewhere)
                && let Some((kind, why)) = replay.take(event)
            {
                found.push((place, kind, format!("{why}: {event:?}")));
            }
            if let FeedEvent::Change { id: Some(id), .. } | FeedEvent::Progress { id } = event {
                last_id = id.clone();
            }
        }
        resume_at.insert(&connection.reader, last_id);
        let anomaly = |(event, kind, detail)| FeedAnomaly { kind, connection: number, event, detail };
        anomalies.extend(found.into_iter().map(anomaly));
    }
    Verdict::of(anomalies)
}

fn script(log: &Log, prefix: &Bytes) -> Script {
    let of_partition = |partition| {
        let mut told: Vec<Told> = Vec::new();
        for (offset, updates) in log.effective_updates(partition) {
            let before = told.len();
            let updates = updates.iter().filter(|update| update.key.starts_with(prefix));
            told.extend(updates.map(|update| {
                let (key, value) = (update.key.clone(), update.value.clone());
                Told { offset, key, value, is_last: false }
            }));
            if told.len() > before
                && let Some(last) = told.last_mut()
            {
                last.is_last = true;
            }
        }
        (partition, told)
    };
    log.partitions().map(of_partition).collect()
}

/// One connection, held against its script.
struct Replay<'a> {
    log: &'a Log,
    script: &'a Script,
    /// How much of each partition's script was told.
    told: BTreeMap<PartitionId, usize>,
}

type Lie = Option<(FeedAnomalyKind, String)>;

impl<'a> Replay<'a> {
    fn new(log: &'a Log, script: &'a Script, from: &SessionToken) -> Replay<'a> {
        let told = script.iter().map(|(&partition, told)| {
            let given = from.position(partition);
            (partition, told.partition_point(|told| Some(told.offset) <= given))
        });
        Replay { log, script, told: told.collect() }
    }

    fn take(&mut self, event: &FeedEvent) -> Lie {
        match event {
            FeedEvent::Progress { id } => self.check_id(id),
            FeedEvent::Change { version, key, value, id } => {
                let script = self.script.get(&version.partition).map_or(&[][..], Vec::as_slice);
                let next = self.told.get(&version.partition).copied().unwrap_or(0);
                let is_this = |told: &Told| told.offset == version.offset && told.key == *key && told.value == *value;
                let Some(expected) = script.get(next).filter(|told| is_this(told)) else {
                    return Some(misplaced(script, next, is_this));
                };
                self.told.insert(version.partition, next + 1);
                match (expected.is_last, id) {
                    (true, Some(id)) => self.check_id(id),
                    (true, None) => Some((FeedAnomalyKind::IdBehind, "a complete record without an id".to_owned())),
                    (false, Some(_)) => Some((FeedAnomalyKind::IdAhead, "an id amid a record".to_owned())),
                    (false, None) => None,
                }
            }
        }
    }

    /// An id stands for exactly what was told.
    fn check_id(&self, id: &SessionToken) -> Lie {
        for (partition, script) in self.script {
            let position = id.position(*partition);
            let told = self.told.get(partition).copied().unwrap_or(0);
            if position > self.log.records(*partition).last().map(|last| last.offset) {
                return Some((FeedAnomalyKind::IdAhead, format!("the log of {partition} ends before")));
            }
            if let Some(untold) = script.get(told).filter(|untold| Some(untold.offset) <= position) {
                let why = format!("{partition}:{} was not told before the id passed it", untold.offset);
                return Some((FeedAnomalyKind::IdAhead, why));
            }
            let last = told.checked_sub(1).and_then(|last| script.get(last));
            if let Some(last) = last.filter(|last| Some(last.offset) > position) {
                let why = format!("{partition}:{} was told, and the id does not say so", last.offset);
                return Some((FeedAnomalyKind::IdBehind, why));
            }
        }
        None
    }
}

/// Where an event that is not the next one stands in the script, if anywhere.
fn misplaced(script: &[Told], next: usize, is_this: impl Fn(&Told) -> bool) -> (FeedAnomalyKind, String) {
    let wanted = script.get(next).map_or("nothing more".to_owned(), |told| format!("{told:?}"));
    match script.iter().position(is_this) {
        None => (FeedAnomalyKind::Invented, format!("the log has no such update, the next one is {wanted}")),
        Some(place) if place < next => (FeedAnomalyKind::Repeat, format!("the next one is {wanted}")),
        Some(place) => (FeedAnomalyKind::Gap, format!("{} left out, the next one is {wanted}", place - next)),
    }
}

#[cfg(test)]
mod tests;
