//! Writes of one record: put and delete of a key, transactions; retried under their Idempotency-Key, repeated later.
//!
//! * In: what to write. Out: to the witness, what became of it.
//! * Invariant: an operation is over with the first answer that is certain. Without one it is unknown as soon as any attempt
//!   was; only an operation all of whose attempts were refused by name has failed.

use super::super::packet::HttpLoss;
use super::super::seen::{Effect, Ends, Seen, Written};
use super::caller::{Answer, Call};
use super::client::Client;
use super::record::{Attempt, Form, Guarded, Record};
use crate::checkers::Outcome;
use crate::harness::http::kv;
use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, Update};
use duramen_common::{Offset, PartitionId, SessionToken, Timestamp};
use std::time::Duration;

/// On what a write depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// That the key has the version and the value that were seen.
    Version(SessionToken, String),
    /// That the key is absent.
    Absent,
    /// That the key is there.
    Exists,
}

/// A write of one key.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where the key lives.
    pub partition: PartitionId,
    /// The key.
    pub key: Bytes,
    /// What to put; none deletes.
    pub value: Option<String>,
    /// On what it depends.
    pub condition: Condition,
    /// The name under which it can be repeated.
    pub idempotency_key: Option<String>,
}

impl Write {
    fn call(&self) -> Call {
        let mut call = match &self.value {
            Some(value) => Call::new("PUT", kv(&self.key)).body(Bytes::from(value.clone())),
            None => Call::new("DELETE", kv(&self.key)),
        };
        call = match &self.condition {
            Condition::None => call,
            Condition::Version(version, _) => call.header("if-match", format!("\"{version}\"")),
            Condition::Absent => call.header("if-none-match", "*"),
            Condition::Exists => call.header("if-match", "*"),
        };
        match &self.idempotency_key {
            Some(key) => call.header("idempotency-key", key.clone()),
            None => call,
        }
    }

    fn guards(&self) -> Vec<Guarded> {
        let (condition, value) = match &self.condition {
            Condition::None => return Vec::new(),
            Condition::Version(version, seen) => {
                let version = version.position(self.partition).unwrap_or_default();
                (GuardCondition::Version(version), Some(Some(seen.clone())))
            }
            Condition::Absent => (GuardCondition::Absent, Some(None)),
            Condition::Exists => (GuardCondition::Exists, None),
        };
        vec![Guarded { guard: Guard { key: self.key.clone(), condition }, value }]
    }
}

impl From<Write> for Record {
    fn from(write: Write) -> Record {
        let (guards, call) = (write.guards(), write.call());
        let updates = vec![Update { key: write.key, value: write.value.map(Bytes::from) }];
        let Write { partition, idempotency_key, .. } = write;
        Record { form: Form::Key, partition, guards, updates, idempotency_key, call }
    }
}

impl Client {
    /// Writes one key, and tells the witness.
    pub async fn write(&mut self, write: Write) {
        self.write_record(write.into()).await;
    }

    /// Writes a record, and tells the witness.
    pub(super) async fn write_record(&mut self, record: Record) {
        let now_ms = self.stage.network().now_ms();
        let (known, operations) = {
            let mut witness = self.stage.witness.lock();
            let calls = record.registers().into_iter();
            let operations = calls.map(|(key, call)| (witness.invoke(self.number, now_ms, &key, call.clone()), call));
            let operations: Vec<_> = operations.collect();
            (witness.known(), operations)
        };
        let certain = self.insist(&record).await;
        let now_ms = self.stage.network().now_ms();
        {
            let mut witness = self.stage.witness.lock();
            for (operation, call) in operations {
                let outcome = match &certain {
                    Ok((effect, _)) => record.register_outcome(&call, *effect),
                    Err(true) => Outcome::Unknown,
                    Err(false) => Outcome::Failed,
                };
                witness.complete(operation, now_ms, outcome);
            }
            witness.count(&match &certain {
                Ok(_) => Outcome::Ok(()),
                Err(true) => Outcome::Unknown,
                Err(false) => Outcome::Failed,
            });
            match (certain, record.id()) {
                (Ok((effect, place)), _) => {
                    witness.see(Seen::Write(self.written(&record, effect, place, known)));
                }
                (Err(false), Some(id)) => witness.see(Seen::Refused { ids: vec![id] }),
                (Err(_), _) => {}
            }
        }
        let Ok((effect, place)) = certain else { return };
        if let (Some(place), Effect::Effective) = (place, effect) {
            for Update { key, value } in &record.updates {
                self.remember(key, Some((place.offset, value.as_deref().map(super::super::witness::text))));
            }
        }
        if record.idempotency_key.is_some() {
            self.done.push(record);
        }
    }

    fn written(&self, record: &Record, effect: Effect, place: Option<Timestamp>, known: Ends) -> Written {
        let guards = record.guards.iter().map(|guarded| guarded.guard.clone()).collect();
        let partition = record.partition;
        let seen = self.session.as_ref().and_then(|session| session.position(partition));
        Written {
            client: self.number,
            place,
            seen: seen.map(|offset| Timestamp { partition, offset }),
            id: record.id(),
            guards,
            updates: record.updates.clone(),
            effect,
            known,
        }
    }

    /// Asks until an answer is certain, or patience ends: then whether anything may have happened.
    async fn insist(&mut self, record: &Record) -> Result<(Effect, Option<Timestamp>), bool> {
        let mut is_open = false;
        for attempt in 0..self.patience(record.idempotency_key.is_some()) {
            if attempt > 0 {
                self.pause_before_retry().await;
            }
            match self.attempt(record).await {
                Attempt::Certain(effect, place) => return Ok((effect, place)),
                Attempt::Refused => {}
                Attempt::Open => is_open = true,
            }
        }
        Err(is_open)
    }

    /// How often something is tried.
    pub(super) fn patience(&mut self, can_repeat: bool) -> usize {
        if can_repeat { 1 + self.rng.below(4) } else { 1 }
    }

    pub(super) async fn pause_before_retry(&mut self) {
        let pause = Duration::from_millis(self.rng.within(1, 400));
        tokio::time::sleep(pause).await;
    }

    async fn attempt(&mut self, record: &Record) -> Attempt {
        match self.send(&record.call).await {
            Ok(answer) => record.conclude(self, &answer),
            Err(HttpLoss::Refused) => Attempt::Refused,
            Err(HttpLoss::Broken) => Attempt::Open,
        }
    }

    /// Sends to any node, with any patience; the session has seen what the answer names.
    pub(super) async fn send(&mut self, call: &Call) -> Result<Answer, HttpLoss> {
        let (node, wait) = (self.any_node(), self.rng.within(1, 4));
        let call = call.clone().header("prefer", format!("wait={wait}"));
        let answer = call.within(Duration::from_millis(wait * 1_000 + 500)).send(&self.stage.wire, node).await?;
        if let Some(position) = answer.position() {
            self.session_merges(&position);
        }
        Ok(answer)
    }

    /// Sends something again that was answered before: what it is told now must be as true.
    pub async fn repeat(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let record = self.done[self.rng.below(self.done.len())].clone();
        let Attempt::Certain(effect, place) = self.attempt(&record).await else { return };
        let written = self.written(&record, effect, place, Ends::default());
        self.stage.witness.lock().see(Seen::Write(written));
    }

    /// Tells the witness what must not be.
    pub fn wrong(&self, invariant: u8, what: String) {
        self.stage.witness.lock().see(Seen::Wrong { invariant, what });
    }

    /// What was seen of a key last.
    pub fn remember(&mut self, key: &Bytes, seen: Option<(Offset, Option<String>)>) {
        match seen {
            Some((offset, Some(value))) => self.memory.insert(key.clone(), (offset, value)),
            _ => self.memory.remove(key),
        };
    }
}
