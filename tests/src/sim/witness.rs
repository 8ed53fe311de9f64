//! Witness: what clients ask and are told, in the order in which it happens: for the invariants as the run goes, and for the
//! checkers at its end.
//!
//! * In: invocations and completions, from clients. Out: what was seen, once each; histories of registers.
//! * What was known to anybody before an operation began (`known`) is noted with it: a linearizable one must not be older.
//! * Invariant: an answer that leaves open what happened is noted as unknown.

pub use super::seen::{Consistency, Effect, Ends, Page, Read, Seen, Written};
use crate::checkers::feed::FeedConnection;
use crate::checkers::history::OperationId;
use crate::checkers::linearizability::{RegisterCall, RegisterHistory, RegisterReturn};
use crate::checkers::sessions::{Live, Session, SessionStep};
use crate::checkers::{History, Outcome};
use bytes::Bytes;
use duramen_common::{Offset, PartitionId};
use std::collections::BTreeMap;

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// With a result.
    pub ok: u64,
    /// Definitely without effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// What was seen so far.
#[derive(Default)]
pub struct Witness {
    /// Single-key operations that promise to be linearizable.
    registers: RegisterHistory<String, String>,
    seen: Vec<Seen>,
    known: Ends,
    tally: Tally,
    sessions: BTreeMap<u64, Session>,
    connections: Vec<FeedConnection>,
}

impl Witness {
    /// What anybody knows by now.
    #[must_use]
    pub fn known(&self) -> Ends {
        self.known.clone()
    }

    /// An operation on a register begins.
    pub fn invoke(&mut self, client: u64, now_ms: u64, key: &Bytes, call: RegisterCall<String>) -> OperationId {
        self.registers.invoke(client, now_ms * 1_000, (text(key), call))
    }

    /// It has ended.
    pub fn complete(&mut self, operation: OperationId, now_ms: u64, outcome: Outcome<RegisterReturn<String>>) {
        self.registers.complete(operation, now_ms * 1_000, outcome);
    }

    /// Counts an operation.
    pub fn count<R>(&mut self, outcome: &Outcome<R>) {
        match outcome {
            Outcome::Ok(_) => self.tally.ok += 1,
            Outcome::Failed => self.tally.failed += 1,
            Outcome::Unknown => self.tally.unknown += 1,
        }
    }

    /// Notes what was seen.
    pub fn see(&mut self, seen: Seen) {
        match &seen {
            Seen::Write(write) => {
                write.place.iter().for_each(|place| self.know(place.partition, place.offset.next()));
                self.note_step(write.client, step_of_write(write));
            }
            Seen::Read(read) => {
                self.know(read.partition, read.served_end);
                self.note_step(read.client, step_of_read(read));
            }
            Seen::Page(page) => {
                page.ends.iter().for_each(|(partition, end)| self.know(*partition, *end));
                steps_of_page(page).for_each(|step| self.note_step(page.client, Some(step)));
            }
            Seen::Digest(digest) => self.know(digest.partition, digest.applied_end),
            Seen::Appended(appended) => {
                let last = appended.records.iter().map(|(_, _, offset)| offset.next()).max();
                last.into_iter().for_each(|end| self.know(appended.partition, end));
            }
            Seen::Fetched(fetched) if !fetched.batches.is_empty() => self.know(fetched.partition, fetched.next_offset),
            Seen::Fetched(_) | Seen::OneAppend { .. } | Seen::Refused { .. } | Seen::Wrong { .. } => {}
        }
        self.seen.push(seen);
    }

    fn note_step(&mut self, client: u64, step: Option<SessionStep>) {
        let session = self.sessions.entry(client).or_default();
        session.steps.extend(step);
    }

    /// A connection of a feed has ended.
    pub fn note_connection(&mut self, connection: FeedConnection) {
        self.connections.push(connection);
    }

    /// Every connection of a feed, in the order in which they ended.
    #[must_use]
    pub fn connections(&self) -> &[FeedConnection] {
        &self.connections
    }

    /// What each client was told, in order, where it is a session's promise.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        let named = |(client, session): (&u64, &Session)| Session { name: client.to_string(), ..session.clone() };
        self.sessions.iter().map(named).collect()
    }

    /// Somebody was told that the log reaches to there.
    pub fn know(&mut self, partition: PartitionId, end: Offset) {
        let known = self.known.entry(partition).or_default();
        *known = (*known).max(end);
    }

    /// What was seen since this was asked last.
    pub fn take(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// How many operations ended how.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The registers' history.
    #[must_use]
    pub fn registers(&self) -> &History<(String, RegisterCall<String>), RegisterReturn<String>> {
        &self.registers
    }
}

fn step_of_write(write: &Written) -> Option<SessionStep> {
    let took_effect = write.effect == Effect::Effective;
    let updates = write.updates.clone();
    write.place.map(|timestamp| SessionStep::Wrote { timestamp, updates, took_effect })
}

fn step_of_read(read: &Read) -> Option<SessionStep> {
    let found = read.found.clone().map(|(version, value)| Live { version, value });
    (read.consistency != Consistency::Stale).then(|| SessionStep::Read {
        key: read.key.clone(),
        partition: read.partition,
        asked: read.token.clone(),
        served: read.served_end.previous(),
        found,
    })
}

fn steps_of_page(page: &Page) -> impl Iterator<Item = SessionStep> {
    let items = page.items.iter().filter(|_| page.consistency != Consistency::Stale);
    items.map(|(key, version, value)| SessionStep::Read {
        key: key.clone(),
        partition: version.partition,
        asked: page.token.clone(),
        served: page.ends.get(&version.partition).and_then(|end| end.previous()),
        found: Some(Live { version: version.offset, value: value.clone() }),
    })
}

/// Bytes as text, for histories.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
